//! The one place where the state changes: deterministic and total.
//!
//! No command is trusted to fit: it was decided on an older state, or comes twice. What no longer
//! fits is answered [`Response::Ignored`] and changes nothing.

mod breaking;
mod canary;
mod control;
mod coordinators;
mod debts;
mod enrol;
mod holds;
mod orders;
mod put_back;
mod readmit;
mod reports;
mod rollouts;

use grayfin_types::{
    RolloutId,
    event::{Body, Event},
    gate::Reason,
    status::{HostPhase, RolloutState},
};

use crate::{
    Hasher,
    cmd::{Cmd, Response, Stamped},
    event, invariant, mutation,
    state::{CanaryPhase, OrderBody, OrderKind, REQUESTS_KEPT, State},
};

pub use put_back::put_back;

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The answer.
    pub response: Response,
    /// Events to append to the logs of their rollouts, in the same transaction as the state.
    pub events: Vec<Event>,
    /// Rollouts that were forgotten: their events may be deleted.
    pub forgotten: Vec<RolloutId>,
    /// Invariants that no longer hold: a fault of ours. The driver reports them and stops.
    pub violations: Vec<invariant::Violation>,
}

/// Applies a command.
pub fn apply(state: &mut State, command: &Stamped, hasher: Hasher<'_>) -> Applied {
    let applied = change(state, command.at_ms, hasher, |applier| applier.dispatch(&command.cmd));
    debug_assert!(applied.violations.is_empty(), "{:?} after {command:?}", applied.violations);
    applied
}

/// Changes the state, numbers and chains what is emitted, and checks what must hold afterwards.
fn change(
    state: &mut State,
    at_ms: u64,
    hasher: Hasher<'_>,
    work: impl FnOnce(&mut Applier<'_>) -> Response,
) -> Applied {
    let last_token = state.last_token;
    let mut applier = Applier { state, at_ms, hasher, events: Vec::new(), forgotten: Vec::new() };
    let response = work(&mut applier);
    let (events, forgotten) = (applier.events, applier.forgotten);
    let mut violations = invariant::check(state);
    violations.extend(invariant::check_step(last_token, state));
    Applied { response, events, forgotten, violations }
}

/// A command on its way into the state.
pub(crate) struct Applier<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) at_ms: u64,
    hasher: Hasher<'a>,
    events: Vec<Event>,
    pub(crate) forgotten: Vec<RolloutId>,
}

impl Applier<'_> {
    fn dispatch(&mut self, cmd: &Cmd) -> Response {
        match cmd {
            Cmd::Found { group, incarnation } => self.found(group, *incarnation),
            Cmd::Lease { coordinator, term } => self.lease(*coordinator, *term),
            Cmd::Coordinators(wish) => {
                self.once(&wish.request_id, |applier| applier.coordinators(wish))
            }
            Cmd::Enrol(enrol) => self.enrol(enrol),
            Cmd::Start(start) => self.once(&start.request_id, |applier| applier.start(start)),
            Cmd::Control(control) => {
                self.once(&control.request_id, |applier| applier.control(control))
            }
            Cmd::AllotToken { rollout, host } => self.allot(rollout, host),
            Cmd::AbandonToken { rollout, token } => self.abandon(rollout, *token),
            Cmd::RecordPromise(answer) => self.promise(answer),
            Cmd::Grant { rollout, host, token, reason, findings } => {
                self.grant(rollout, host, *token, reason, findings)
            }
            Cmd::OrderAnswered(answer) => self.order_answered(answer),
            Cmd::Reported { report } => self.reported(report),
            Cmd::Go(decided) => self.go(decided),
            Cmd::Close { rollout, host, token, soaked_ms } => {
                self.close(rollout, host, *token, *soaked_ms)
            }
            Cmd::CloseBroken { token } => self.close_broken(*token),
            Cmd::SkipDone { rollout, host, reason } => self.skip_done(rollout, host, reason),
            Cmd::SetBaseline { rollout, chunks } => self.set_baseline(rollout, chunks),
            Cmd::CanaryStart { rollout, host } => self.canary_start(rollout, host),
            Cmd::CanaryStop { rollout, end } => self.canary_stop(rollout, *end),
            Cmd::CanaryGiveUp { rollout } => self.canary_give_up(rollout),
            Cmd::CanaryCheck { rollout, purpose } => self.canary_check(rollout, purpose),
            Cmd::CanaryReported(report) => self.canary_reported(report),
            Cmd::RecordDebt { rollout, token, effect } => {
                self.record_debt(rollout, *token, *effect)
            }
            Cmd::OrderDebt { debt, host, pay, leader } => {
                self.order_debt(*debt, host, *pay, leader)
            }
            Cmd::LeaderSeen { rollout, leader } => self.leader_seen(rollout, leader),
            Cmd::Waiting { rollout, reasons } => {
                if mutation::is("s3-release-by-time") {
                    self.release_overdue(rollout);
                }
                self.waiting(rollout, reasons)
            }
            Cmd::Halt { rollout, reason } => self.halt_by_decision(rollout, reason),
            Cmd::Verify { rollout } => self.verify(rollout),
            Cmd::Finish { rollout, versions, ok } => self.finish(rollout, versions, *ok),
            Cmd::FinishAbort { rollout } => self.finish_abort(rollout),
        }
    }

    /// Runs an operator's request once; a repeat gets the same answer.
    fn once(&mut self, request_id: &str, run: impl FnOnce(&mut Self) -> Response) -> Response {
        if let Some(answer) = self.state.requests.get(request_id) {
            return answer.clone();
        }
        let answer = run(self);
        self.state.requests.insert(request_id.to_owned(), answer.clone());
        self.state.request_order.push_back(request_id.to_owned());
        while self.state.request_order.len() > REQUESTS_KEPT {
            if let Some(oldest) = self.state.request_order.pop_front() {
                self.state.requests.remove(&oldest);
            }
        }
        answer
    }

    /// Emits an event in the log of every rollout that is not final.
    pub(crate) fn emit_everywhere(&mut self, by: &str, body: &Body) {
        let active: Vec<RolloutId> = self
            .state
            .rollouts
            .values()
            .filter(|r| !r.state.is_final())
            .map(|r| r.id.clone())
            .collect();
        for rollout in active {
            self.emit(&rollout, by, body.clone());
        }
    }

    /// Appends an event to a rollout's log. Nothing follows the final state.
    pub(crate) fn emit(&mut self, rollout: &RolloutId, by: &str, body: Body) {
        let Some(entry) = self.state.rollouts.get_mut(rollout) else { return };
        if entry.ended_ms.is_some() {
            return;
        }
        let mut next = Event {
            rollout: rollout.clone(),
            seq: entry.last_seq.next(),
            at_ms: self.at_ms,
            by: by.to_owned(),
            body,
            previous: entry.last_hash.clone(),
            hash: String::new(),
        };
        next.hash = event::hash(&next, self.hasher);
        entry.last_seq = next.seq;
        entry.last_hash.clone_from(&next.hash);
        self.events.push(next);
    }

    /// Changes a rollout's state, tells it, and cleans up when nothing follows.
    pub(crate) fn set_state(&mut self, rollout: &RolloutId, to: RolloutState) {
        let Some(entry) = self.state.rollouts.get_mut(rollout) else { return };
        if entry.state == to || entry.state.is_final() {
            return;
        }
        entry.state = to;
        // One that failed, or left hosts out, keeps saying why.
        if !matches!(to, RolloutState::Halted | RolloutState::Failed | RolloutState::Incomplete) {
            entry.halted = None;
        }
        if to.is_final() {
            self.clean_up(rollout);
        }
        self.emit(rollout, "coordinator", Body::State { state: to });
        if to.is_final()
            && let Some(entry) = self.state.rollouts.get_mut(rollout)
        {
            entry.ended_ms = Some(self.at_ms);
        }
    }

    /// Halts: the hold stays and a person decides.
    pub(crate) fn halt(&mut self, rollout: &RolloutId, reason: Reason) {
        let Some(entry) = self.state.rollouts.get_mut(rollout) else { return };
        if entry.state.is_final() {
            return;
        }
        entry.halted = Some(reason.clone());
        self.set_waiting(rollout, vec![reason]);
        self.set_state(rollout, RolloutState::Halted);
    }

    /// Records what a rollout waits for, and tells it if it changed.
    pub(crate) fn set_waiting(&mut self, rollout: &RolloutId, reasons: Vec<Reason>) {
        let Some(entry) = self.state.rollouts.get_mut(rollout) else { return };
        if entry.waiting == reasons {
            return;
        }
        entry.waiting.clone_from(&reasons);
        entry.waiting_since_ms = (!reasons.is_empty()).then_some(self.at_ms);
        self.emit(rollout, "coordinator", Body::Waiting { reasons });
    }

    /// Drops orders that nobody needs once a rollout is final, and stops a canary that still runs.
    fn clean_up(&mut self, rollout: &RolloutId) {
        let Some(entry) = self.state.rollouts.get_mut(rollout) else { return };
        entry.waiting.clear();
        entry.waiting_since_ms = None;
        let cluster = entry.cluster.clone();
        let epoch = entry.canary.epoch;
        let writer = match &entry.canary.phase {
            CanaryPhase::Starting { host } | CanaryPhase::Writing { host } => Some(host.clone()),
            CanaryPhase::Off
            | CanaryPhase::Idle
            | CanaryPhase::Stopping { .. }
            | CanaryPhase::Ended => None,
        };
        if entry.canary.phase != CanaryPhase::Off {
            entry.canary.phase = CanaryPhase::Ended;
        }
        for run in &mut entry.hosts {
            if run.phase == HostPhase::Granting {
                run.phase = HostPhase::Staged;
            }
        }
        let spec = entry.plan.canary.clone();
        for enrolment in self.state.hosts.values_mut() {
            enrolment.drop_orders(&cluster, |order| {
                &order.rollout == rollout
                    && !matches!(
                        order.kind,
                        OrderKind::Close | OrderKind::CanaryStop | OrderKind::Debt
                    )
            });
        }
        if let Some(host) = writer.and_then(|host| self.state.hosts.get_mut(&host)) {
            let order = grayfin_types::plan::CanaryOrder { rollout: rollout.clone(), epoch, spec };
            let body = OrderBody::Canary(order);
            host.push(&cluster, grayfin_types::Token(0), OrderKind::CanaryStop, rollout, body);
        }
    }
}
