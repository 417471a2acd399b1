//! What operators do.

use grayfin_types::{
    Code, HostId, RolloutId, Token,
    event::Body,
    status::{HostPhase, RolloutState},
    step::{SequenceState, Step},
};

use super::{Applier, holds::may_only_look};
use crate::{
    cmd::{Action, Control, Response},
    state::{CloseAs, HoldStage, OrderBody, OrderKind, Staging},
    ways,
};

impl Applier<'_> {
    pub(super) fn control(&mut self, control: &Control) -> Response {
        if let Action::AttestPoweredOff { host, token } = &control.action {
            return self.attest(control, host, *token);
        }
        if let Action::Readmit { host, ledger, floor, closes } = &control.action {
            return self.readmit(control, host, ledger, *floor, *closes);
        }
        let id = &control.rollout;
        let Some(entry) = self.state.rollouts.get(id) else {
            return Response::refused(Code::NoSuchObject, format!("there is no rollout `{id}`"));
        };
        if entry.state.is_final() {
            let ended = entry.state;
            if matches!(control.action, Action::Abort | Action::Retry)
                && let Some(answer) = self.bring_up_broken(id)
            {
                return answer;
            }
            return wrong(format!("rollout `{id}` has ended: it {ended}"));
        }
        let answer = match &control.action {
            Action::Pause => self.pause(id),
            Action::Resume => self.resume(id),
            Action::Abort => self.abort(id),
            Action::Retry => self.retry(id),
            Action::Skip { host } => self.skip(id, host.as_ref(), control),
            Action::RollbackHost => self.rollback_host(id),
            Action::BreakHold { token } => return self.break_hold(id, *token, control),
            Action::AttestPoweredOff { .. } | Action::Readmit { .. } => Response::Done,
        };
        if answer == Response::Done {
            self.tell(control);
        }
        answer
    }

    fn tell(&mut self, control: &Control) {
        let action = control.action.word().to_owned();
        let body = Body::Operator { action, reason: control.reason.clone() };
        self.emit(&control.rollout, &control.by, body);
    }

    fn pause(&mut self, id: &RolloutId) -> Response {
        match self.state_of(id) {
            Some(RolloutState::Staging | RolloutState::Running | RolloutState::Paused) => {
                self.set_state(id, RolloutState::Paused);
                Response::Done
            }
            other => {
                wrong(format!("only a running rollout can be paused; this one is {}", word(other)))
            }
        }
    }

    fn resume(&mut self, id: &RolloutId) -> Response {
        match self.state_of(id) {
            Some(RolloutState::Paused) => {
                self.go_on(id);
                Response::Done
            }
            Some(RolloutState::Halted) => match self.held_sequence(id) {
                Some(Some(SequenceState::Up)) | None => self.retry(id),
                Some(_) => wrong(format!(
                    "the held host needs a decision first: `grayfin rollout retry {id}`, `… rollback-host {id}`, `… skip {id}` or `… abort {id}`"
                )),
            },
            other => wrong(format!("it is not paused but {}", word(other))),
        }
    }

    /// Goes back to work after a pause or a halt.
    fn go_on(&mut self, id: &RolloutId) {
        let Some(entry) = self.state.rollouts.get_mut(id) else { return };
        entry.canary.refused.clear();
        entry.canary.checks.clear();
        entry.canary.purpose.clear();
        for run in &mut entry.hosts {
            if run.in_turn() {
                run.attempt = run.attempt.saturating_add(1);
            }
        }
        let to = if entry.all_staged() { RolloutState::Running } else { RolloutState::Staging };
        self.set_waiting(id, Vec::new());
        self.set_state(id, to);
    }

    fn retry(&mut self, id: &RolloutId) -> Response {
        let Some(entry) = self.state.rollouts.get_mut(id) else {
            return wrong("it is gone".to_owned());
        };
        if entry.state != RolloutState::Halted {
            return wrong(format!("nothing failed: it is {}", entry.state));
        }
        if let Some(run) = entry.hosts.iter().find(|h| h.in_turn() && ways::is_busy(h)) {
            return wrong(format!("`{}` is still being worked on: wait for its end", run.host));
        }
        let cluster = entry.cluster.clone();
        let held = self.state.holds.get(&cluster).filter(|h| h.stage == HoldStage::Held);
        let held = held.map(|h| (h.host.clone(), h.token, h.put_back_since));
        if let Some((host, token, true)) = &held
            && let Some(run) = entry.host(host)
            && !ways::retries_old(run)
        {
            return wrong(format!(
                "the coordinators' state was put back after hold {token} was granted on `{host}`: no work goes on under it. `grayfin explain {id}` says what is possible"
            ));
        }
        for run in &mut entry.hosts {
            if matches!(run.staging, Staging::Failed { .. }) && !run.ended() {
                run.staging = Staging::Ordered;
                if let Some(enrolment) = self.state.hosts.get_mut(&run.host) {
                    enrolment.push(&cluster, Token(0), OrderKind::Stage, id, OrderBody::Plan);
                }
            }
        }
        if let Some((host, token, old)) = held
            && let Some(run) = entry.host_mut(&host)
            && run.phase == HostPhase::Failed
        {
            if old && ways::is_as_before(run) {
                // Its turn comes again under a token for which everybody promises anew.
                self.order_close(id, &host, None);
                self.go_on(id);
                return Response::Done;
            }
            run.phase = HostPhase::Working { step: failed_step(run.sequence.as_ref()) };
            if let Some(enrolment) = self.state.hosts.get_mut(&host) {
                enrolment.push(&cluster, token, OrderKind::Retry, id, OrderBody::Plan);
            }
        }
        self.go_on(id);
        Response::Done
    }

    fn abort(&mut self, id: &RolloutId) -> Response {
        if self.state_of(id) == Some(RolloutState::Aborting) {
            return Response::Done;
        }
        self.drop_asking(id);
        self.set_state(id, RolloutState::Aborting);
        self.set_waiting(id, Vec::new());
        let held = self.state.hold_of(id).filter(|h| h.stage == HoldStage::Held);
        let Some((host, token)) = held.map(|h| (h.host.clone(), h.token)) else {
            return Response::Done;
        };
        let amnesic = may_only_look(&self.state.hosts, &host);
        let Some(entry) = self.state.rollouts.get_mut(id) else { return Response::Done };
        let cluster = entry.cluster.clone();
        let Some(run) = entry.host_mut(&host) else { return Response::Done };
        match &run.sequence {
            Some(
                SequenceState::Up
                | SequenceState::Refused { .. }
                | SequenceState::Undone { .. }
                | SequenceState::Closed,
            ) if !amnesic => self.order_close(id, &host, CloseAs::Aborted),
            // What an amnesic one said last does not count: this waits until it may be told again, and
            // its answer says where it stands then.
            None | Some(_) => {
                run.phase = HostPhase::Working { step: failed_step(run.sequence.as_ref()) };
                if let Some(enrolment) = self.state.hosts.get_mut(&host) {
                    enrolment.push(&cluster, token, OrderKind::Abort, id, OrderBody::Nothing);
                }
            }
        }
        Response::Done
    }

    fn skip(&mut self, id: &RolloutId, named: Option<&HostId>, control: &Control) -> Response {
        let Some(entry) = self.state.rollouts.get_mut(id) else {
            return wrong("it is gone".to_owned());
        };
        if entry.state == RolloutState::Aborting || entry.state == RolloutState::Verifying {
            return wrong(format!("it is {}: no host is to come", entry.state));
        }
        let chosen = named.cloned().or_else(|| {
            let failed = |h: &&crate::state::HostRun| matches!(h.staging, Staging::Failed { .. });
            let in_turn = entry.hosts.iter().find(|h| h.in_turn());
            in_turn.or_else(|| entry.hosts.iter().find(failed)).map(|h| h.host.clone())
        });
        let Some(host) = chosen else {
            return wrong("name the host that is to be left out: none is held".to_owned());
        };
        let reason = format!("{} (`{}`)", control.reason, control.by);
        let cluster = entry.cluster.clone();
        let amnesic = may_only_look(&self.state.hosts, &host);
        let Some(run) = entry.host_mut(&host) else {
            return Response::refused(
                Code::NoSuchObject,
                format!("`{host}` is not part of rollout `{id}`"),
            );
        };
        match (&run.phase, &run.sequence) {
            (HostPhase::Waiting | HostPhase::Staged, _) => self.leave_out(id, &host, reason),
            (HostPhase::Granting, _) => {
                self.drop_asking(id);
                self.leave_out(id, &host, reason);
            }
            (HostPhase::Failed, _) if amnesic => {
                return Response::refused(
                    Code::AgentAmnesic,
                    format!(
                        "`{host}`'s host agent may only look: {}",
                        ways::readmission(&cluster, &host, true)
                    ),
                );
            }
            (
                HostPhase::Failed,
                Some(SequenceState::Refused { .. } | SequenceState::Undone { .. }),
            ) => {
                self.order_close(id, &host, CloseAs::Skipped { reason });
                self.go_on(id);
            }
            (
                HostPhase::Failed
                | HostPhase::Working { .. }
                | HostPhase::Recovering
                | HostPhase::Closing,
                _,
            ) => {
                return wrong(format!(
                    "`{host}` is disturbed and cannot be left out: `grayfin rollout rollback-host {id}` or `grayfin rollout abort {id}` bring it up first"
                ));
            }
            (HostPhase::Done | HostPhase::Skipped, _) => {
                return wrong(format!("`{host}` is done or left out already"));
            }
        }
        Response::Done
    }

    fn leave_out(&mut self, id: &RolloutId, host: &HostId, reason: String) {
        let Some(entry) = self.state.rollouts.get_mut(id) else { return };
        let cluster = entry.cluster.clone();
        if let Some(run) = entry.host_mut(host) {
            run.phase = HostPhase::Skipped;
        }
        let stage_failed =
            entry.hosts.iter().any(|h| !h.ended() && matches!(h.staging, Staging::Failed { .. }));
        let halted = entry.state == RolloutState::Halted;
        if let Some(enrolment) = self.state.hosts.get_mut(host) {
            enrolment.drop_orders(&cluster, |o| &o.rollout == id && o.kind == OrderKind::Stage);
        }
        self.emit(id, "coordinator", Body::Skipped { host: host.clone(), reason });
        if halted && !stage_failed && self.state.hold_of(id).is_none() {
            self.go_on(id);
        }
        self.staging_over(id);
    }

    fn rollback_host(&mut self, id: &RolloutId) -> Response {
        if self.state_of(id) != Some(RolloutState::Halted) {
            return wrong("only a halted rollout's host can be rolled back".to_owned());
        }
        let held = self.state.hold_of(id).filter(|h| h.stage == HoldStage::Held);
        let Some((host, token)) = held.map(|h| (h.host.clone(), h.token)) else {
            return wrong("no host is held".to_owned());
        };
        let Some(entry) = self.state.rollouts.get_mut(id) else {
            return wrong("it is gone".to_owned());
        };
        let cluster = entry.cluster.clone();
        let remains =
            entry.host(&host).map(|run| ways::forward(entry, run).join("; ")).unwrap_or_default();
        let Some(run) = entry.host_mut(&host) else { return wrong("it is gone".to_owned()) };
        if ways::is_busy(run) {
            return wrong(format!("`{host}` is still being worked on: wait for its end"));
        }
        let step = match &run.sequence {
            Some(SequenceState::Failed { step, first_start: false, .. }) => *step,
            Some(SequenceState::Failed { .. } | SequenceState::Up) => {
                return Response::refused(
                    Code::UndoImpossible,
                    format!(
                        "the new version may have been started on `{host}`, which rewrites the metadata: there is no way back by itself. What remains: `grayfin rollout retry {id}` when the cause is mended, or `grayfin rollout abort {id}`, which lets the host come up; {remains}"
                    ),
                );
            }
            Some(SequenceState::Refused { .. } | SequenceState::Undone { .. }) => {
                return wrong(format!("`{host}` runs the old version already"));
            }
            Some(SequenceState::Running { .. } | SequenceState::Closed) | None => {
                return wrong(format!("`{host}` is still being worked on"));
            }
        };
        run.phase = HostPhase::Working { step };
        if let Some(enrolment) = self.state.hosts.get_mut(&host) {
            enrolment.push(&cluster, token, OrderKind::Undo, id, OrderBody::Nothing);
        }
        Response::Done
    }

    pub(super) fn state_of(&self, id: &RolloutId) -> Option<RolloutState> {
        self.state.rollouts.get(id).map(|r| r.state)
    }

    /// The held host's sequence; none where no hold is in force.
    fn held_sequence(&self, id: &RolloutId) -> Option<Option<SequenceState>> {
        let held = self.state.hold_of(id).filter(|h| h.stage != HoldStage::Asking)?;
        let run = self.state.rollouts.get(id)?.host(&held.host)?;
        Some(run.sequence.clone())
    }
}

pub(super) fn wrong(why: String) -> Response {
    Response::refused(Code::WrongState, why)
}

fn word(state: Option<RolloutState>) -> String {
    state.map_or_else(|| "gone".to_owned(), |s| s.to_string())
}

/// Returns the step at which a sequence stands or failed.
fn failed_step(sequence: Option<&SequenceState>) -> Step {
    match sequence {
        Some(
            SequenceState::Running { step }
            | SequenceState::Refused { step, .. }
            | SequenceState::Undone { step, .. }
            | SequenceState::Failed { step, .. },
        ) => *step,
        Some(SequenceState::Up | SequenceState::Closed) | None => Step::Guard,
    }
}
