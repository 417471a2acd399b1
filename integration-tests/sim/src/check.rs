//! The rules as predicates over the truth.

use grayfin_agent_core::{
    Body, Hold,
    entry::{Event, Task},
};
use grayfin_coordinator_core::{
    Cmd, Response,
    cmd::Action,
    state::{CanaryPhase, HoldStage, Rollout},
};
use grayfin_types::{
    Code, HostId, RolloutId, Token,
    status::RolloutState,
    step::{SequenceState, Step},
};

use crate::{
    cluster::{Tree, version},
    facts::cluster_id,
    operator::policy,
    world::World,
};

/// Looks are this far apart at most, with their way to the coordinator, when nothing is wrong: a bad
/// state that lasts longer must have been seen.
pub(crate) const SEEN_MS: u64 = 900;

/// A go is used at once: the guard asks again, that is all.
const GO_FRESH_MS: u64 = 200;

/// What was before a commit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Before {
    hold: Option<(Token, HostId, HoldStage)>,
    state: Option<RolloutState>,
}

impl World {
    pub(crate) fn look_before(&self, g: usize, _: &Cmd) -> Before {
        let state = &self.groups[g].state;
        let active = state.active(&cluster_id());
        let hold = state.holds.get(&cluster_id());
        Before {
            hold: hold.map(|h| (h.token, h.host.clone(), h.stage)),
            state: active.map(|r| r.state),
        }
    }

    /// Judges what a group just agreed on.
    pub(crate) fn judge_commit(&mut self, g: usize, before: &Before, cmd: &Cmd, answer: &Response) {
        let state = &self.groups[g].state;
        let now = state.holds.get(&cluster_id()).map(|h| (h.token, h.host.clone(), h.stage));
        if let Some((token, host, stage)) = &before.hold
            && *stage != HoldStage::Asking
            && now.as_ref().is_none_or(|(t, _, _)| t != token)
        {
            self.judge_hold_ended(cmd, *token, host);
        }
        if let (Cmd::Go(decided), Response::Go { allowed: true, .. }) = (cmd, answer) {
            let state = self.groups[g].state.rollouts.get(&decided.rollout).map(|r| r.state);
            let drives = matches!(state, Some(RolloutState::Running | RolloutState::Paused));
            self.truth.expect("Commitment", drives, || format!("a go while it is {state:?}"));
        }
        self.judge_steering(g, cmd, answer);
        if *answer != Response::Done {
            return;
        }
        match cmd {
            Cmd::Grant { rollout, host, token, .. } => {
                self.judge_grant(before, host, *token);
                self.judge_granted(g, rollout, host);
            }
            Cmd::Close { host, .. } => {
                self.judge_not_amnesic(g, host);
                self.judge_recovered(host);
                self.judge_rows_read(g);
            }
            Cmd::CloseBroken { token } => {
                let broken = self.groups[g].state.broken.iter().find(|b| b.token == *token);
                if let Some(host) = broken.map(|b| b.host.clone()) {
                    self.judge_not_amnesic(g, &host);
                }
            }
            Cmd::Finish { rollout, ok: true, .. } => self.judge_success(g, rollout),
            Cmd::Finish { .. } => self.tally.note("rollout ended without the new version"),
            Cmd::Found { .. }
            | Cmd::Coordinators(_)
            | Cmd::RecordDebt { .. }
            | Cmd::OrderDebt { .. }
            | Cmd::Lease { .. }
            | Cmd::Enrol(_)
            | Cmd::Start(_)
            | Cmd::Control(_)
            | Cmd::AllotToken { .. }
            | Cmd::AbandonToken { .. }
            | Cmd::RecordPromise(_)
            | Cmd::OrderAnswered(_)
            | Cmd::Reported { .. }
            | Cmd::Go(_)
            | Cmd::SkipDone { .. }
            | Cmd::SetBaseline { .. }
            | Cmd::CanaryStart { .. }
            | Cmd::CanaryStop { .. }
            | Cmd::CanaryGiveUp { .. }
            | Cmd::CanaryCheck { .. }
            | Cmd::CanaryReported(_)
            | Cmd::LeaderSeen { .. }
            | Cmd::Waiting { .. }
            | Cmd::Halt { .. }
            | Cmd::Verify { .. }
            | Cmd::FinishAbort { .. } => {}
        }
    }

    /// S3: by its agent's durable close, or by an operator's break, and by nothing else.
    fn judge_hold_ended(&mut self, cmd: &Cmd, token: Token, host: &HostId) {
        let Some(h) = self.host_index(host) else { return };
        let broken = matches!(
            cmd,
            Cmd::Control(c) if matches!(c.action, Action::BreakHold { .. })
        );
        let closed = self.truth.hosts[h].closed.contains(&token);
        self.truth.expect("S3", broken || closed, || {
            format!("the hold with token {token} on `{host}` ended without its close: {cmd:?}")
        });
    }

    fn judge_grant(&mut self, before: &Before, host: &HostId, token: Token) {
        let Some(h) = self.host_index(host) else { return };
        let staged = self.cluster.hosts[h].staged;
        self.truth.expect("S5", staged, || format!("`{host}` is held and has no package"));
        let paused = before.state != Some(RolloutState::Running);
        self.truth.expect("Commitment", !paused, || {
            format!("`{host}` is granted while the rollout is {:?}", before.state)
        });
        let age = self.now_ms.saturating_sub(self.truth.clear_ms);
        let known = age <= policy().fact_age_max_ms + 50;
        self.truth.expect("S9", known, || {
            format!("`{host}` is granted on facts that nobody saw for {age} ms")
        });
        let amnesic = self.truth.hosts[h].amnesic;
        self.truth.expect("S8", !amnesic, || format!("`{host}` is granted and is amnesic"));
        self.say(|_| format!("hold {token} granted on {host}"));
        self.tally.note("hold granted");
    }

    /// S7, S11, S13: before the hold of a host that is done is closed.
    fn judge_recovered(&mut self, host: &HostId) {
        let Some(h) = self.host_index(host) else { return };
        let now_ms = self.now_ms;
        let truth = &self.truth;
        let up_for = truth.hosts[h].up_since_ms.map_or(0, |since| now_ms.saturating_sub(since));
        let whole_ago = now_ms.saturating_sub(truth.whole_last_ms);
        let bad_ago = now_ms.saturating_sub(truth.bad_seen_ms);
        let soak_ms = policy().soak_ms;
        let new = self
            .cluster
            .of_host(h)
            .all(|n| self.cluster.nodes[n].version == version(crate::cluster::NEW));
        // A look may have been just before.
        let new = new || now_ms < self.chaos.old_version_ms + SEEN_MS;
        let memory = self.cluster.hosts[h].memory_there;
        let units = self.cluster.hosts[h].units_on == self.cluster.hosts[h].units_before;
        let lost = self.lost_rows();
        self.truth.expect("S7", new, || format!("`{host}` is closed and not on the target"));
        self.truth.expect("S7", whole_ago <= SEEN_MS, || {
            format!("`{host}` is closed and the cluster was whole {whole_ago} ms ago last")
        });
        let soaked = up_for + SEEN_MS >= soak_ms && bad_ago + SEEN_MS / 2 >= soak_ms;
        self.truth.expect("S7", soaked, || {
            format!("`{host}` is closed, up for {up_for} ms, bad {bad_ago} ms ago; soak {soak_ms}")
        });
        self.truth.expect("S11", lost == 0, || format!("`{host}` is closed, {lost} rows are lost"));
        self.truth.expect("S13", memory, || {
            format!("`{host}` is closed and what lived in its memory is not there")
        });
        // An old copy that nobody can tell has captured what an earlier life had changed already.
        let old = self.truth.hosts[h].untold;
        self.truth.expect("S10", units || old, || {
            format!("`{host}` is closed and its units are not set as they were")
        });
        self.tally.note("host done");
    }

    /// Rows that are missing for so long that a canary that wrote any had to find out.
    fn lost_rows(&self) -> u64 {
        let active = self.groups[0].state.active(&cluster_id());
        let wrote = active.is_some_and(|r| {
            let phase = &r.canary.phase;
            *phase != CanaryPhase::Off
                && self
                    .agents
                    .iter()
                    .any(|a| r.canary.wrote.contains(&a.id) && a.writer.wrote(&r.id))
        });
        let long = self.now_ms >= self.chaos.rows_lost_ms + SEEN_MS;
        if wrote && long { self.cluster.lost_rows } else { 0 }
    }

    /// Every node runs the new version, except on hosts that an operator left out.
    fn judge_success(&mut self, g: usize, rollout: &RolloutId) {
        let run = self.groups[g].state.rollouts.get(rollout);
        let complete = run.is_some_and(|r| r.state == RolloutState::Succeeded);
        let out = run.map(Rollout::left_out).unwrap_or_default();
        let told = complete == out.is_empty();
        self.truth.expect("S7", told, || format!("complete: {complete}, left out: {out:?}"));
        let left_out: Vec<usize> = out.iter().filter_map(|host| self.host_index(host)).collect();
        let lost = self.lost_rows();
        self.truth.expect("S11", lost == 0, || format!("success, and {lost} rows are lost"));
        let old: Vec<_> = self
            .cluster
            .nodes
            .iter()
            .filter(|n| !left_out.contains(&n.host))
            .filter(|n| n.version != version(crate::cluster::NEW))
            .map(|n| n.spec.alias.to_string())
            .collect();
        // What began to lie since the last look is beyond anybody.
        let seen = self.now_ms >= self.chaos.old_version_ms + SEEN_MS;
        self.truth
            .expect("S7", old.is_empty() || !seen, || format!("success, and {old:?} are old"));
        let what = if complete { "rollout succeeded" } else { "rollout ended without every host" };
        self.tally.note(what);
    }

    /// Judges what a host agent just made durable.
    pub(crate) fn judge_entry(&mut self, h: usize, before: Option<&Hold>, body: &Body) {
        let position = self.agents[h].entries.len() as u64;
        self.judge_authority(h, before, body);
        let truth = &mut self.truth.hosts[h];
        truth.ledger_max = truth.ledger_max.max(position);
        match body {
            Body::Promised { token, authority, .. } => {
                let new = (authority.incarnation.0, authority.term.0);
                let old = std::cmp::max(truth.authority, new);
                let older = old != new;
                truth.authority = old;
                self.truth.expect("S2", !older, || format!("a promise to {new:?} after {old:?}"));
                let truth = &mut self.truth.hosts[h];
                truth.promised = truth.promised.max(*token);
                let open = truth.disturbed;
                self.truth.expect("S2", open.is_none(), || {
                    format!("a promise of {token} while {open:?} is open there")
                });
                self.tally.note("promise given");
            }
            Body::Ordered { order, answer, .. } if answer.accepted => {
                let new = (order.authority.incarnation.0, order.authority.term.0);
                let truth = &mut self.truth.hosts[h];
                let old = std::cmp::max(truth.authority, new);
                truth.authority = old;
                self.truth.expect("S2", old == new, || format!("{new:?} obeyed after {old:?}"));
                let number = (self.agents[h].ledger(), order.number.0);
                let truth = &mut self.truth.hosts[h];
                // What an old copy took up before, and a clone does not know of, it cannot know.
                let again = !truth.orders.insert(number) && !truth.amnesic && !truth.untold;
                self.truth.expect("S8", !again, || format!("order {} ran twice", order.number));
                self.judge_order(h, before, &order.task, order.token);
            }
            Body::Sequence { token, event } => self.judge_event(h, before, *token, event),
            Body::Raised { authority } | Body::Welcomed { authority, .. } => {
                let new = (authority.incarnation.0, authority.term.0);
                let truth = &mut self.truth.hosts[h];
                truth.authority = std::cmp::max(truth.authority, new);
            }
            Body::Readmitted { readmit, authority } => {
                let (readmit, by) = (readmit.clone(), (authority.incarnation.0, authority.term.0));
                self.judge_readmitted(h, &readmit, by);
            }
            Body::Made { .. }
            | Body::Ordered { .. }
            | Body::Staging { .. }
            | Body::CanaryAnswered { .. } => {}
        }
    }

    fn judge_order(&mut self, h: usize, before: Option<&Hold>, task: &Task, token: Token) {
        if !task.needs_token() {
            return;
        }
        let truth = &self.truth.hosts[h];
        // A close that no one alive knows of is repeated; whether anything goes down is judged there.
        let closed = truth.closed.contains(&token) && !truth.forgotten.contains(&token);
        let promised = truth.promised;
        if !matches!(task, Task::Close) {
            self.truth.expect("S3", !closed, || format!("work under token {token}, closed here"));
        }
        match task {
            Task::Run { .. } => {
                // A number that restored coordinators gave again begins anew.
                let truth = &mut self.truth.hosts[h];
                truth.aborted = None;
                if truth.first_start == Some(token) {
                    truth.first_start = Some(Token(0));
                }
                self.truth.expect("S2", token > promised, || {
                    format!("token {token} is taken up after {promised} was promised away")
                });
                let open = before.map(|b| b.token);
                self.truth.expect("S2", open.is_none(), || {
                    format!("token {token} is taken up while {open:?} is open")
                });
            }
            Task::Close => {
                let whole = before
                    .is_none_or(|b| !b.disturbed() || self.cluster.hosts[h].tree != Tree::Half);
                self.truth.expect("S3", whole, || {
                    format!("token {token} is closed and the host is half-way")
                });
                let truth = &mut self.truth.hosts[h];
                truth.closed.insert(token);
                if truth.disturbed == Some(token) {
                    truth.disturbed = None;
                }
                self.tally.note("token closed");
            }
            Task::Abort => {
                if before.is_some_and(|b| !b.begun(Step::Upgrade) && !b.first_start) {
                    self.truth.hosts[h].aborted = Some(token);
                    self.tally.note("abort before the upgrade");
                } else {
                    self.tally.note("abort after the upgrade began");
                }
            }
            Task::Retry => {
                self.truth.hosts[h].aborted = None;
                self.tally.note("retry taken up");
            }
            Task::Undo => self.tally.note("rollback taken up"),
            Task::Stage { .. }
            | Task::CanaryStart { .. }
            | Task::CanaryStop { .. }
            | Task::CanaryCheck { .. }
            | Task::Debt { .. } => {}
        }
    }

    fn judge_event(&mut self, h: usize, before: Option<&Hold>, token: Token, event: &Event) {
        match event {
            Event::Started { step: Step::Upgrade, .. } => {
                let aborted = self.truth.hosts[h].aborted == Some(token);
                self.truth.expect("Commitment", !aborted, || {
                    "the upgrade begins after it was aborted".to_owned()
                });
            }
            Event::FirstStart => {
                self.truth.hosts[h].first_start = Some(token);
                self.tally.note("first start");
            }
            Event::UndoStarted { step, .. } => {
                let truth = &self.truth.hosts[h];
                let old = truth.amnesic || truth.untold;
                let started = truth.first_start == Some(token) && !old;
                self.truth
                    .expect("S12", !started, || format!("undo of `{step}` after first start"));
                self.tally.note("undo begun");
            }
            Event::Captured { key, .. } => {
                let first = before.and_then(|b| b.captured(key).cloned());
                let now = self.hold(h).and_then(|b| b.captured(key).cloned());
                if let Some(first) = first {
                    self.tally.note("value captured again");
                    self.truth.expect("S10", Some(&first) == now.as_ref(), || {
                        format!("the original value of `{key}` was captured twice")
                    });
                }
            }
            Event::Ended { state } => self.tally.note(match state {
                SequenceState::Up => "sequence ended up",
                SequenceState::Refused { .. } => "sequence refused",
                SequenceState::Undone { .. } => "sequence undone",
                SequenceState::Failed { first_start: true, .. } => {
                    "sequence failed after first start"
                }
                SequenceState::Failed { .. } => "sequence failed before first start",
                SequenceState::Running { .. } | SequenceState::Closed => "sequence ended oddly",
            }),
            Event::Failed { code: Code::Aborted, step, .. } => self.judge_turned(before, *step),
            Event::HostRestarted { .. } => self.tally.note("host restarted under a hold"),
            Event::Started { .. }
            | Event::Finished { .. }
            | Event::Failed { .. }
            | Event::Undone { .. }
            | Event::UndoFailed { .. }
            | Event::Journal { .. }
            | Event::GoingDown { .. } => {}
        }
    }

    /// Judges a down action at the moment in which it is taken: S1, S2, S4, S5, S8, Commitment.
    pub(crate) fn judge_down(&mut self, h: usize, token: Token, nodes: &[usize]) {
        self.tally.note("down action");
        let id = self.agents[h].id.clone();
        let now_ms = self.now_ms;
        let go = self.truth.hosts[h].go.clone();
        let fresh = go.as_ref().is_some_and(|go| {
            !go.used && go.confirmed && go.token == token && now_ms <= go.at_ms + GO_FRESH_MS
        });
        self.truth.expect("Commitment", fresh || self.thawed(h), || {
            format!("`{id}` takes nodes down without a fresh go: {go:?}")
        });
        if let Some(go) = &mut self.truth.hosts[h].go {
            go.used = true;
        }
        let amnesic = self.truth.hosts[h].amnesic;
        self.truth.expect("S8", !amnesic, || format!("`{id}` goes down, and its ledger is old"));
        let staged = self.cluster.hosts[h].staged;
        self.truth.expect("S5", staged, || format!("`{id}` goes down and has no package"));
        let closed = self.truth.hosts[h].closed.contains(&token);
        self.truth
            .expect("S3", !closed, || format!("`{id}` goes down under {token}, closed there"));
        self.judge_quorum(h);
        self.judge_known(h);
        self.judge_promises(h, token);
        self.truth.hosts[h].disturbed = Some(token);
        self.say(|w| format!("{id} takes down {:?} under {token}", w.aliases(nodes)));
    }

    fn thawed(&self, h: usize) -> bool {
        self.chaos.thawed_at(h).is_some_and(|at| self.now_ms.saturating_sub(at) < 100)
    }

    fn judge_promises(&mut self, h: usize, token: Token) {
        for other in 0..self.agents.len() {
            let out = other == h || self.cluster.hosts[other].dead || self.operator.gone(other);
            if out {
                continue;
            }
            let promised = self.truth.hosts[other].promised;
            let id = self.agents[other].id.clone();
            self.truth.expect("S2", promised >= token, || {
                format!("a host goes down under token {token}, `{id}` promised {promised} last")
            });
            let open = self.agents[other].state.hold.as_ref().map(|hold| hold.token);
            let old = self.truth.hosts[other].amnesic;
            self.truth.expect("S2", open.is_none() || old, || {
                format!("a host goes down under token {token} while `{id}` has {open:?} open")
            });
        }
    }

    /// Judges the moment in which software begins to be replaced (S6).
    pub(crate) fn judge_swap(&mut self, h: usize) {
        let host = &self.cluster.hosts[h];
        let ran_ms = host.ran_ms;
        let backup = host.backup;
        let token = self.hold(h).map(|hold| hold.token);
        let good = backup.is_some_and(|b| b.at_ms >= ran_ms && Some(b.token) == token);
        let locked = host.interlock;
        self.truth.expect("S6", good, || {
            format!("replaced with backup {backup:?}, a process ran at {ran_ms} ms")
        });
        self.truth.expect("S6", locked, || "replaced without the interlock".to_owned());
    }

    /// Judges the moment in which software is put back (S12).
    pub(crate) fn judge_undo(&mut self, h: usize) {
        let rewritten = self.cluster.hosts[h].rewritten;
        self.truth.expect("S12", !rewritten, || "old software on new metadata".to_owned());
    }

    /// What must be true after everything that happens.
    pub(crate) fn judge_all(&mut self) {
        for h in 0..self.agents.len() {
            let whole = self.cluster.all_up(h) && self.cluster.hosts[h].tree != Tree::Half;
            let truth = &mut self.truth.hosts[h];
            if truth.untold && whole && self.agents[h].state.hold.is_none() {
                // No one alive knows of its hold, and nothing is left of it.
                truth.disturbed = None;
            }
        }
        let disturbed: Vec<usize> =
            (0..self.agents.len()).filter(|h| self.truth.hosts[*h].disturbed.is_some()).collect();
        self.truth.expect("S1", disturbed.len() <= 1, || {
            format!("hosts {disturbed:?} are disturbed at once")
        });
        for h in 0..self.agents.len() {
            let half = self.cluster.hosts[h].tree == Tree::Half && self.cluster.runs(h);
            self.truth.expect("S6", !half, || format!("host {h} runs while it is replaced"));
            let up = self.cluster.all_up(h);
            let truth = &mut self.truth.hosts[h];
            truth.up_since_ms = up.then(|| truth.up_since_ms.unwrap_or(self.now_ms));
            truth.down_since_ms = (!up).then(|| truth.down_since_ms.unwrap_or(self.now_ms));
        }
        let now_ms = self.now_ms;
        if self.cluster.whole(&self.operator.gone) {
            self.truth.whole_last_ms = now_ms;
            self.truth.bad_since_ms = None;
        } else {
            let since = *self.truth.bad_since_ms.get_or_insert(now_ms);
            if now_ms.saturating_sub(since) > SEEN_MS {
                self.truth.bad_seen_ms = now_ms;
            }
        }
    }
}
