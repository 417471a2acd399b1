//! The operator: starts rollouts, acts at bad moments while things go wrong, and afterwards does what
//! `explain` and the reasons say, nothing else.

use grayfin_coordinator_core::{
    Cmd, Response,
    cmd::{Action, Control, Start},
    explain::explain,
    plan,
    state::HoldStage,
};
use grayfin_types::{
    RolloutId, Token,
    gate::Reason,
    plan::{CanarySpec, PauseAfter, PlanRequest, Policy},
    status::RolloutState,
};

use crate::{
    cluster::{NEW, OLD, version},
    dice::Dice,
    facts::cluster_id,
    group::hasher,
    message::Happening,
    world::World,
};

/// The operator looks this often.
const LOOK_MS: u64 = 250;

/// What the operator has in mind.
#[derive(Debug)]
pub struct Operator {
    canary: bool,
    pause_after: PauseAfter,
    /// How likely an act at a bad moment is, in a hundred looks.
    rash: u64,
    rollouts: u64,
    requests: u64,
    /// Welcomes refused because of an older authority, since the last look.
    pub refused: u64,
    /// Looks that saw any, one after the other.
    pub(crate) refusals: u32,
    /// Hosts attested as powered off.
    pub(crate) gone: Vec<usize>,
    /// The same state was seen so often.
    stuck: u32,
    last: Option<(RolloutId, RolloutState, u64)>,
    /// What stood against the last plan.
    pub against: Vec<Reason>,
}

/// The limits of a rollout, scaled to some hundredths of a real cluster's.
pub fn policy() -> Policy {
    Policy {
        soak_ms: 600,
        leader_settled_ms: 300,
        constructing_look_ms: 300,
        fact_age_max_ms: 700,
        recover_timeout_ms: 4_000,
        start_attempts: 2,
        free_floor_bytes: 1 << 20,
        ..Policy::default()
    }
}

impl Operator {
    /// Draws one.
    pub fn new(dice: &mut Dice) -> Self {
        Self {
            canary: dice.percent(60),
            pause_after: match dice.roll(10) {
                0 => PauseAfter::First,
                1 => PauseAfter::Each,
                _ => PauseAfter::Never,
            },
            rash: if dice.percent(40) { dice.between(1, 12) } else { 0 },
            rollouts: 0,
            requests: 0,
            refused: 0,
            refusals: 0,
            gone: Vec::new(),
            stuck: 0,
            last: None,
            against: Vec::new(),
        }
    }

    /// Tells whether the host was attested as powered off.
    pub fn gone(&self, h: usize) -> bool {
        self.gone.contains(&h)
    }
}

impl World {
    /// The operator looks and acts.
    pub(crate) fn operate(&mut self) {
        self.after(LOOK_MS, Happening::Operator);
        self.calm();
        if self.groups[0].leader.is_none() {
            return;
        }
        let active = self.groups[0].state.active(&cluster_id()).map(|r| (r.id.clone(), r.state));
        if self.chaos.over {
            self.mend_hosts();
            self.mend_coordinators();
        }
        match active {
            None => self.start_rollout(),
            Some((id, state)) if self.chaos.over => self.lead_on(&id, state),
            Some((id, state)) => {
                if self.dice.percent(self.operator.rash) {
                    self.act_rashly(&id);
                } else if self.dice.percent(15) {
                    self.lead_on(&id, state);
                }
            }
        }
    }

    fn start_rollout(&mut self) {
        let Some(r) = self.groups[0].leader else { return };
        let now_ms = self.now_ms;
        let until_ms = now_ms + 1_000;
        let target = Some(version(NEW));
        let canary = if self.operator.canary {
            CanarySpec::New { rows_per_second: 100 }
        } else {
            CanarySpec::Off
        };
        let (accept_losses, overrides) = self.wishes();
        let request = PlanRequest {
            accept_losses,
            overrides,
            canary,
            pause_after: self.operator.pause_after,
            by: "ann".to_owned(),
            ..PlanRequest::new(cluster_id(), NEW)
        };
        let group = &mut self.groups[0];
        group.replicas[r].view.demand(&cluster_id(), target, until_ms);
        let view = &group.replicas[r].view;
        let answer = plan::build(&group.state, view, &request, &policy(), &hasher, now_ms);
        self.operator.against = if answer.ready {
            Vec::new()
        } else {
            let findings = answer.findings.iter();
            findings.flat_map(|f| f.decision.reasons().to_vec()).collect()
        };
        let Some(plan) = answer.plan.filter(|_| answer.ready) else { return };
        let nothing_to_do = plan.hosts.iter().all(|host| host.already_done);
        if self.finished() || (nothing_to_do && !self.chaos.over && self.dice.percent(95)) {
            return;
        }
        self.operator.rollouts += 1;
        let rollout = RolloutId::new(format!("r{}-{}", self.operator.rollouts, now_ms))
            .expect("a short plain name");
        let start = Start {
            request_id: format!("start-{rollout}"),
            rollout,
            plan,
            findings: answer.findings,
            by: "ann".to_owned(),
        };
        if matches!(self.propose(0, Cmd::Start(Box::new(start))), Some(Response::Started { .. })) {
            self.tally.note("rollout started");
        }
    }

    pub(crate) fn control(&mut self, id: &RolloutId, action: Action) -> Option<Response> {
        self.operator.requests += 1;
        let control = Control {
            request_id: format!("control-{}", self.operator.requests),
            rollout: id.clone(),
            action,
            reason: "because".to_owned(),
            by: "ann".to_owned(),
        };
        if self.dice.percent(5) {
            // The client asks again with the same request.
            drop(self.propose(0, Cmd::Control(control.clone())));
        }
        self.propose(0, Cmd::Control(control))
    }

    fn act_rashly(&mut self, id: &RolloutId) {
        let hold = self.groups[0].state.holds.get(&cluster_id()).map(|h| h.token);
        let (action, what) = match self.dice.roll(8) {
            0 | 1 => (Action::Pause, "operator paused"),
            2 => (Action::Resume, "operator resumed"),
            3 => (Action::Retry, "operator retried"),
            4 => (Action::Abort, "operator aborted"),
            5 => {
                let host = self.agents[self.dice.index(self.agents.len())].id.clone();
                let host = self.dice.percent(50).then_some(host);
                (Action::Skip { host }, "operator skipped")
            }
            6 => (Action::RollbackHost, "operator rolled back"),
            _ => {
                let Some(token) = hold else { return };
                let token =
                    if self.dice.percent(20) { Token(token.0.saturating_sub(1)) } else { token };
                (Action::BreakHold { token }, "operator broke a hold")
            }
        };
        let named = match &action {
            Action::BreakHold { token } => Some(*token),
            Action::Pause
            | Action::Resume
            | Action::Abort
            | Action::Retry
            | Action::Skip { .. }
            | Action::RollbackHost
            | Action::AttestPoweredOff { .. }
            | Action::Readmit { .. } => None,
        };
        if self.control(id, action) == Some(Response::Done) {
            self.tally.note(what);
            self.truth.expect("S3", named.is_none() || named == hold, || {
                format!("a break of {named:?} worked while {hold:?} was open")
            });
        }
    }

    /// A go is just being asked for.
    pub(crate) fn abort_at_a_bad_moment(&mut self) {
        let rash = !self.chaos.over && self.operator.rash > 0 && self.dice.percent(5);
        let active = self.groups[0].state.active(&cluster_id()).map(|r| r.id.clone());
        if let Some(id) = active.filter(|_| rash)
            && self.control(&id, Action::Abort) == Some(Response::Done)
        {
            self.tally.note("operator aborted while a go was asked for");
        }
    }

    /// Does what `explain` says, first the mildest, and the next one if nothing comes of it.
    fn lead_on(&mut self, id: &RolloutId, state: RolloutState) {
        let seq = self.groups[0].state.rollouts.get(id).map_or(0, |r| r.last_seq.0);
        // Rows that went with a dead host are read again for ever, and each time is an event.
        let seq = if state == RolloutState::Verifying { 0 } else { seq };
        let now = (id.clone(), state, seq);
        if self.operator.last.as_ref() == Some(&now) {
            self.operator.stuck += 1;
        } else {
            self.operator.last = Some(now);
            if state != RolloutState::Halted {
                self.operator.stuck = 0;
            }
        }
        match state {
            RolloutState::Paused => {
                if self.control(id, Action::Resume) == Some(Response::Done) {
                    self.tally.note("remedy: resume");
                }
            }
            RolloutState::Halted => self.remedy(id),
            RolloutState::Staging
            | RolloutState::Running
            | RolloutState::Aborting
            | RolloutState::Verifying
            | RolloutState::Succeeded
            | RolloutState::Incomplete
            | RolloutState::Aborted
            | RolloutState::Failed => {
                // A host agent that will not come back, or may only look, is a person's affair.
                if self.operator.stuck > 24 {
                    self.last_resort(id);
                }
            }
        }
    }

    fn remedy(&mut self, id: &RolloutId) {
        let Some(r) = self.groups[0].leader else { return };
        let group = &self.groups[0];
        let Some(told) = explain(&group.state, &group.replicas[r].view, id, self.now_ms) else {
            return;
        };
        let verbs: Vec<String> = told
            .commands
            .iter()
            .filter_map(|command| command.split_whitespace().nth(2).map(str::to_owned))
            .collect();
        if self.chaos.over {
            // The cause is gone: rows that were lost were put back by a person.
            self.cluster.lost_rows = 0;
            self.restore_memory();
        }
        self.operator.stuck += 1;
        if self.operator.stuck > 24 {
            self.last_resort(id);
            return;
        }
        // Each of them in turn, the first one twice as often.
        let at = usize::try_from(self.operator.stuck / 3).unwrap_or(0) % verbs.len().max(1);
        let (action, what) = match verbs.get(at).map(String::as_str) {
            Some("retry") => (Action::Retry, "remedy: retry"),
            Some("resume") => (Action::Resume, "remedy: resume"),
            Some("rollback-host") => (Action::RollbackHost, "remedy: rollback-host"),
            Some("skip") => (Action::Skip { host: None }, "remedy: skip"),
            Some("abort") => (Action::Abort, "remedy: abort"),
            Some(_) | None => return,
        };
        if self.control(id, action) == Some(Response::Done) {
            self.tally.note(what);
        }
    }

    /// What remains when nothing else leads on: abort, and then break.
    fn last_resort(&mut self, id: &RolloutId) {
        let hold = self.groups[0].state.holds.get(&cluster_id());
        let held = hold.filter(|h| h.stage != HoldStage::Asking).map(|h| h.token);
        let aborting =
            self.groups[0].state.rollouts.get(id).map(|r| r.state) == Some(RolloutState::Aborting);
        if aborting && let Some(token) = held {
            if self.control(id, Action::BreakHold { token }) == Some(Response::Done) {
                self.tally.note("remedy: hold break");
                self.operator.stuck = 0;
            }
        } else if self.control(id, Action::Abort) == Some(Response::Done) {
            self.tally.note("remedy: abort at last");
            self.operator.stuck = 12;
        }
    }

    pub(crate) fn restore_memory(&mut self) {
        for host in &mut self.cluster.hosts {
            host.memory_there = true;
        }
    }

    /// Tells whether all that can be reached is reached.
    pub fn finished(&self) -> bool {
        if !self.chaos.over {
            return false;
        }
        let state = &self.groups[0].state;
        if self.groups[0].leader.is_none() || state.active(&cluster_id()).is_some() {
            return false;
        }
        if self.cluster.hosts.iter().any(|host| host.dead) {
            // No rollout can begin before the host is replaced; nothing may stay half-way.
            return (0..self.agents.len())
                .all(|h| self.cluster.hosts[h].dead || self.truth.hosts[h].disturbed.is_none());
        }
        let reached = self.cluster.nodes.iter().all(|n| n.up && n.version != version(OLD));
        let last = state.newest(None).map(|r| r.state);
        reached
            && last == Some(RolloutState::Succeeded)
            && self.agents.iter().all(|a| a.state.hold.is_none())
    }
}
