//! Host agents' answers to orders.

use grayfin_types::{
    Code, HostId, RolloutId, Token,
    gate::Reason,
    status::HostPhase,
    step::{SequenceState, Step},
};

use super::Applier;
use crate::{
    cmd::{OrderAnswered, Response},
    gates::reason,
    state::{CanaryPhase, HoldStage, OrderEntry, OrderKind, Staging},
};

impl Applier<'_> {
    pub(super) fn order_answered(&mut self, answer: &OrderAnswered) -> Response {
        let Some(enrolment) = self.state.hosts.get_mut(&answer.host) else {
            return Response::ignored("the host is not enrolled");
        };
        if enrolment.amnesic.is_some() {
            return Response::ignored("the host agent may only look");
        }
        let Some(order) = enrolment.pending(&answer.cluster, answer.number).cloned() else {
            return Response::ignored("the order is answered already");
        };
        if order.token != answer.token {
            return Response::ignored("the answer names another token");
        }
        enrolment.heard(answer.ledger_position, &answer.chain);
        enrolment.drop_orders(&answer.cluster, |o| o.number == answer.number);
        match order.kind {
            OrderKind::Stage => self.stage_answered(&order, answer),
            OrderKind::Run | OrderKind::Retry | OrderKind::Undo | OrderKind::Abort => {
                self.work_answered(&order, answer);
            }
            OrderKind::Close => self.close_answered(&order, answer),
            OrderKind::CanaryStart | OrderKind::CanaryStop | OrderKind::CanaryCheck => {
                self.canary_answered(&order, answer);
            }
            OrderKind::Debt => self.debt_answered(answer),
        }
        Response::Done
    }

    fn stage_answered(&mut self, order: &OrderEntry, answer: &OrderAnswered) {
        if answer.accepted {
            // Its reports say how it goes on.
            return;
        }
        let code = answer.code.unwrap_or(Code::PackageMissing);
        self.staging_failed(&order.rollout, &answer.host, code, &answer.why);
    }

    /// A host could not be staged: nothing is disturbed, a person decides.
    pub(super) fn staging_failed(
        &mut self,
        rollout: &RolloutId,
        host: &HostId,
        code: Code,
        message: &str,
    ) {
        let Some(run) = self.state.rollouts.get_mut(rollout).and_then(|r| r.host_mut(host)) else {
            return;
        };
        if run.ended() || matches!(run.staging, Staging::Done | Staging::NotNeeded) {
            return;
        }
        run.staging = Staging::Failed { code, message: message.to_owned() };
        let remedy = format!(
            "mend it on `{host}`, then `grayfin rollout retry {rollout}`; or leave the host out with `grayfin rollout skip {rollout} --host {host}`"
        );
        self.halt(rollout, reason(code, host.to_string(), message, remedy));
    }

    fn work_answered(&mut self, order: &OrderEntry, answer: &OrderAnswered) {
        if !self.works_under(&order.rollout, &answer.host, order.token) {
            return;
        }
        if answer.accepted {
            match &answer.state {
                // A repeated answer may be older than what was reported since: only what ends a
                // sequence counts here, and only as long as the order was not answered.
                Some(SequenceState::Running { .. } | SequenceState::Closed) | None => {}
                Some(
                    state @ (SequenceState::Up
                    | SequenceState::Refused { .. }
                    | SequenceState::Undone { .. }
                    | SequenceState::Failed { .. }),
                ) => self.sequence(&order.rollout, &answer.host, order.token, state),
            }
            return;
        }
        let code = answer.code.unwrap_or(Code::WrongState);
        let message = format!("the host agent did not take the order up: {}", answer.why);
        if order.kind == OrderKind::Run {
            let state = SequenceState::Refused { step: Step::Guard, code, message };
            self.sequence(&order.rollout, &answer.host, order.token, &state);
            return;
        }
        if let Some(run) =
            self.state.rollouts.get_mut(&order.rollout).and_then(|r| r.host_mut(&answer.host))
            && matches!(run.phase, HostPhase::Working { .. })
        {
            run.phase = HostPhase::Failed;
        }
        let halted = self.held_reason(&order.rollout, &answer.host, code, &message);
        self.halt(&order.rollout, halted);
    }

    fn close_answered(&mut self, order: &OrderEntry, answer: &OrderAnswered) {
        let closed = answer.accepted && matches!(answer.state, None | Some(SequenceState::Closed));
        if closed {
            self.released(&order.rollout, &answer.host, order.token);
            return;
        }
        if answer.accepted {
            // It said that it would, but not that it did: its report of `closed` settles it.
            return;
        }
        if !self.works_under(&order.rollout, &answer.host, order.token) {
            return;
        }
        let Some(entry) = self.state.rollouts.get_mut(&order.rollout) else { return };
        let cluster = entry.cluster.clone();
        if let Some(run) = entry.host_mut(&answer.host) {
            run.close_as = None;
            run.phase = match run.sequence {
                Some(SequenceState::Up) => HostPhase::Recovering,
                Some(
                    SequenceState::Running { .. }
                    | SequenceState::Refused { .. }
                    | SequenceState::Undone { .. }
                    | SequenceState::Failed { .. }
                    | SequenceState::Closed,
                )
                | None => HostPhase::Failed,
            };
        }
        if let Some(held) = self.state.holds.get_mut(&cluster) {
            held.stage = HoldStage::Held;
        }
        let code = answer.code.unwrap_or(Code::HoldOpen);
        let message = format!("the host agent did not close the hold: {}", answer.why);
        let halted = self.held_reason(&order.rollout, &answer.host, code, &message);
        self.halt(&order.rollout, halted);
    }

    fn canary_answered(&mut self, order: &OrderEntry, answer: &OrderAnswered) {
        let Some(entry) = self.state.rollouts.get_mut(&order.rollout) else { return };
        let canary = &mut entry.canary;
        let here = canary.phase.host() == Some(&answer.host);
        match order.kind {
            OrderKind::CanaryStart if here => {
                canary.phase = if answer.accepted {
                    CanaryPhase::Writing { host: answer.host.clone() }
                } else {
                    canary.refused.insert(answer.host.clone(), answer.why.clone());
                    CanaryPhase::Idle
                };
            }
            OrderKind::CanaryStop
                if here && matches!(canary.phase, CanaryPhase::Stopping { .. }) =>
            {
                // Also when it is refused: then no writer runs there.
                canary.phase = CanaryPhase::Idle;
            }
            OrderKind::CanaryCheck if !answer.accepted && !entry.state.is_final() => {
                canary.checks.remove(&answer.host);
                let why = format!("rows cannot be read back: {}", answer.why);
                let code = answer.code.unwrap_or(Code::CanaryDown);
                let remedy = format!("mend it, then `grayfin rollout resume {}`", order.rollout);
                self.halt(&order.rollout, reason(code, answer.host.to_string(), why, remedy));
            }
            OrderKind::CanaryStart
            | OrderKind::CanaryStop
            | OrderKind::CanaryCheck
            | OrderKind::Stage
            | OrderKind::Run
            | OrderKind::Retry
            | OrderKind::Undo
            | OrderKind::Abort
            | OrderKind::Close
            | OrderKind::Debt => {}
        }
    }

    /// Tells whether a hold of this rollout with this token is in force on this host.
    pub(super) fn works_under(&self, rollout: &RolloutId, host: &HostId, token: Token) -> bool {
        self.state.hold_of(rollout).is_some_and(|held| {
            held.token == token && &held.host == host && held.stage != HoldStage::Asking
        })
    }

    /// Makes the reason for a halt over a held host, with the commands that lead on.
    pub(super) fn held_reason(
        &self,
        rollout: &RolloutId,
        host: &HostId,
        code: Code,
        message: &str,
    ) -> Reason {
        let sequence = self
            .state
            .rollouts
            .get(rollout)
            .and_then(|r| r.host(host))
            .and_then(|run| run.sequence.as_ref());
        let old = self.state.hold_of(rollout).is_some_and(|held| held.put_back_since);
        reason(code, host.to_string(), message, crate::explain::way_on(rollout, sequence, old))
    }
}
