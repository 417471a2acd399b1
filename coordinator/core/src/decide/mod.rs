//! What should happen next. Pure: the same state, view and time give the same decision.

mod canary;
pub(crate) mod debts;
mod follow;
mod next;
mod verify;
mod wanted;

use std::collections::BTreeMap;

use grayfin_types::{
    ClusterId, Code, DdbVersion, HostId, RolloutId, Token, gate::Reason, status::RolloutState,
};

use crate::{
    cmd::{CanaryReported, Cmd},
    gates::{Input, Moment, reason},
    mutation,
    state::{BrokenHold, HoldStage, OrderEntry, Rollout, State},
    view::View,
    ways,
};

/// A host's passing progress is recorded at most this often; by the host's own clock.
const PROGRESS_RECORD_MS: u64 = 2_000;

/// A canary's passing report is recorded when this many seconds' worth of rows have been
/// acknowledged since the last one: 720 events an hour.
const CANARY_RECORD_SECS: u64 = 5;

/// At most this many reasons are recorded for one wait.
const REASONS_MAX: usize = 20;

/// What the driver should ask host agents for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Looks, one per host and cluster; ask each look interval while they are wanted. Host agents
    /// look at their own host by themselves; an entry says what is wanted beyond that.
    pub looks: Vec<Look>,
    /// Promises that are missing; ask again until they are there.
    pub promises: Vec<PromiseWanted>,
    /// The oldest order without an answer of each host and cluster; send it again until answered.
    /// Only for hosts that are connected.
    pub orders: Vec<OrderWanted>,
}

/// A look that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Who should look.
    pub host: HostId,
    /// At which cluster.
    pub cluster: ClusterId,
    /// Also at the cluster as a whole: this host is the observer.
    pub whole_cluster: bool,
    /// A scan of the chunks is wanted.
    pub chunks: bool,
    /// Also check packages of this version and weigh the backup.
    pub package: Option<DdbVersion>,
}

/// A promise that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromiseWanted {
    /// Whose.
    pub host: HostId,
    /// For which cluster.
    pub cluster: ClusterId,
    /// The token.
    pub token: Token,
    /// The host that is to be held under it.
    pub held: HostId,
}

/// An order that is wanted to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderWanted {
    /// To whom.
    pub host: HostId,
    /// For which cluster.
    pub cluster: ClusterId,
    /// The order. Its plan, if it needs one, is the rollout's.
    pub order: OrderEntry,
}

/// What should happen next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Commands to propose, in order. The next decision is made after they were applied.
    pub commands: Vec<Cmd>,
    /// What to ask for. It follows from the durable state, so it may be sent at once.
    pub wanted: Wanted,
    /// Why nothing happens, for each rollout that waits.
    pub waiting: BTreeMap<RolloutId, Vec<Reason>>,
}

/// Decides. Only the leader calls it, after [`View::tick`], whenever the state or the view changed,
/// and at least once a second.
pub fn decide(state: &State, view: &View, now_ms: u64) -> Decision {
    let mut decision = Decision::default();
    let mut active: Vec<&Rollout> =
        state.rollouts.values().filter(|r| !r.state.is_final()).collect();
    active.sort_by_key(|r| (r.started_ms, r.id.clone()));
    for rollout in active {
        let mut work =
            Work { state, view, rollout, now_ms, commands: Vec::new(), waiting: Vec::new() };
        work.drive();
        work.finish(&mut decision);
    }
    let may_close = |broken: &&BrokenHold| {
        let amnesic = state.hosts.get(&broken.host).is_some_and(|e| e.amnesic.is_some());
        broken.settled && view.is_connected(&broken.host) && !amnesic
    };
    for broken in state.broken.iter().filter(may_close) {
        decision.commands.push(Cmd::CloseBroken { token: broken.token });
    }
    decision.commands.extend(debts::drive(state, view, now_ms));
    decision.wanted = wanted::of(state, view);
    decision
}

/// One rollout's part of a decision.
struct Work<'a> {
    state: &'a State,
    view: &'a View,
    rollout: &'a Rollout,
    now_ms: u64,
    commands: Vec<Cmd>,
    waiting: Vec<Reason>,
}

impl<'a> Work<'a> {
    fn drive(&mut self) {
        let in_turn = self.rollout.hosts.iter().find(|h| h.in_turn());
        match self.rollout.state {
            RolloutState::Staging => self.staging(),
            RolloutState::Running => match in_turn {
                Some(run) => self.follow(run),
                None => self.next_host(),
            },
            RolloutState::Paused => match in_turn {
                Some(run) => self.follow(run),
                None if mutation::is("commitment-grant-while-paused") => self.next_host(),
                None => self.wait(reason(
                    Code::WrongState,
                    self.rollout.id.to_string(),
                    "the rollout is paused",
                    format!("`grayfin rollout resume {}`", self.rollout.id),
                )),
            },
            RolloutState::Halted => self.waiting.clone_from(&self.rollout.waiting),
            RolloutState::Aborting => self.aborting(in_turn),
            RolloutState::Verifying => self.verifying(),
            RolloutState::Succeeded
            | RolloutState::Incomplete
            | RolloutState::Aborted
            | RolloutState::Failed => {}
        }
    }

    fn staging(&mut self) {
        for run in self.rollout.hosts.iter().filter(|h| !h.ended()) {
            if run.staging == crate::state::Staging::Ordered && !self.view.is_connected(&run.host) {
                self.wait_for_agent(&run.host, "its package is to be checked and unpacked");
            }
        }
    }

    /// Puts the decision together: what is proposed, and what the rollout waits for.
    fn finish(mut self, decision: &mut Decision) {
        if self.waiting.len() > REASONS_MAX {
            self.waiting.truncate(REASONS_MAX);
        }
        let moves_on = !self.commands.is_empty();
        self.record_passing();
        // A rollout that moves on tells so itself; what it waits for is told when it stands.
        if !moves_on && !same(&self.waiting, &self.rollout.waiting) {
            self.commands.push(Cmd::Waiting {
                rollout: self.rollout.id.clone(),
                reasons: self.waiting.clone(),
            });
        }
        if !self.waiting.is_empty() {
            decision.waiting.insert(self.rollout.id.clone(), self.waiting);
        }
        decision.commands.append(&mut self.commands);
    }

    /// Has passing observations recorded now and then: the leader, progress, the canary.
    fn record_passing(&mut self) {
        let id = &self.rollout.id;
        if let Ok(leader) = self.input(Moment::Grant, None).leader()
            && self.rollout.leader.as_ref() != Some(leader)
        {
            self.commands.push(Cmd::LeaderSeen { rollout: id.clone(), leader: leader.clone() });
        }
        for run in &self.rollout.hosts {
            let Some(report) = self.view.progress.get(&run.host) else { continue };
            let ours = run.token == Some(report.token) && run.in_turn()
                || report.token == Token(0) && run.staging == crate::state::Staging::Ordered;
            if ours && report.at_ms >= run.progress_ms.saturating_add(PROGRESS_RECORD_MS) {
                self.commands.push(Cmd::Reported { report: report.clone() });
            }
        }
        if let Some(report) = self.canary_to_record() {
            self.commands.push(Cmd::CanaryReported(report));
        }
    }

    fn canary_to_record(&self) -> Option<CanaryReported> {
        let live = &self.view.canaries.get(&self.rollout.id)?.value;
        let canary = &self.rollout.canary;
        if live.epoch != canary.epoch || !canary.wrote.contains(&live.host) {
            return None;
        }
        let before = canary.writers.iter().find(|w| w.epoch == live.epoch).map(|w| &w.status);
        if before.is_some_and(|before| live.status.sent < before.sent) {
            // Older than what the writer said when it was stopped.
            return None;
        }
        let rows = rate(self.rollout).saturating_mul(CANARY_RECORD_SECS);
        let worth = before.is_none_or(|before| {
            before.state != live.status.state
                || before.problem != live.status.problem
                || live.status.acknowledged >= before.acknowledged.saturating_add(rows)
                || live.status.longest_gap_ms >= before.longest_gap_ms.saturating_add(1_000)
        });
        worth.then(|| CanaryReported {
            rollout: self.rollout.id.clone(),
            host: live.host.clone(),
            epoch: live.epoch,
            order: grayfin_types::OrderNumber(0),
            status: live.status.clone(),
        })
    }

    fn input(&self, moment: Moment, host: Option<&'a HostId>) -> Input<'a> {
        Input::of_rollout(self.state, self.view, self.rollout, moment, host, self.now_ms)
    }

    fn wait(&mut self, why: Reason) {
        self.waiting.push(why);
    }

    fn wait_for_agent(&mut self, host: &HostId, what: &str) {
        self.wait(reason(
            Code::AgentMissing,
            host.to_string(),
            format!("its host agent is not connected: {what}"),
            format!("start the host agent on `{host}`; it goes on by itself"),
        ));
    }

    /// Waits for an operator where the host's agent may only look (S8): nothing that it said counts.
    /// False where it may work.
    fn wait_for_readmission(&mut self, host: &HostId) -> bool {
        let amnesic = self.state.hosts.get(host).and_then(|e| e.amnesic.as_ref());
        let Some(why) = amnesic.filter(|_| !mutation::is("s8-closes-amnesic")) else {
            return false;
        };
        self.wait(reason(
            Code::AgentAmnesic,
            host.to_string(),
            format!("its host agent may only look: {why}"),
            ways::readmission(&self.rollout.cluster, host, true),
        ));
        true
    }

    /// Tells whether our hold is in force, or only asked for.
    fn stage(&self) -> Option<HoldStage> {
        self.state.hold_of(&self.rollout.id).map(|held| held.stage)
    }
}

/// Tells whether two lists of reasons say the same; evidence with numbers that grow does not count.
fn same(a: &[Reason], b: &[Reason]) -> bool {
    kinds(a) == kinds(b)
}

/// What the reasons are about, without what changes from look to look. Chunks come and go by the
/// dozen while a host catches up: which ones is told once, with the first of them.
fn kinds(reasons: &[Reason]) -> std::collections::BTreeSet<(Code, &str)> {
    reasons
        .iter()
        .map(|r| {
            let chunks = matches!(r.code, Code::ChunksRecovering | Code::ReplicasMissing);
            (r.code, if chunks { "" } else { r.subject.as_str() })
        })
        .collect()
}

/// Returns the canary's rows a second, 0 when it is off.
fn rate(rollout: &Rollout) -> u64 {
    use grayfin_types::plan::CanarySpec;
    match rollout.plan.canary {
        CanarySpec::Off => 0,
        CanarySpec::New { rows_per_second } | CanarySpec::Table { rows_per_second, .. } => {
            u64::from(rows_per_second)
        }
    }
}
