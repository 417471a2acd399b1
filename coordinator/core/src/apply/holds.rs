//! Tokens, promises, grants, goes and releases (S1 to S3).

use std::collections::BTreeMap;

use grayfin_types::{
    Code, HostId, RolloutId, Token,
    event::Body,
    gate::Finding,
    plan::PauseAfter,
    status::{HostPhase, RolloutState},
    step::{SequenceState, Step},
};

use super::Applier;
use crate::{
    cmd::{GoDecided, PromiseAnswered, Response},
    hold, mutation,
    state::{CloseAs, Enrolment, GoRecord, Hold, HoldStage, OrderBody, OrderKind, Staging},
};

impl Applier<'_> {
    pub(super) fn allot(&mut self, rollout: &RolloutId, host: &HostId) -> Response {
        let Some(entry) = self.state.rollouts.get(rollout) else {
            return Response::ignored("no such rollout");
        };
        let ready = entry.host(host).is_some_and(|run| {
            matches!(run.phase, HostPhase::Waiting | HostPhase::Staged)
                && (matches!(run.staging, Staging::Done) || mutation::is("s5-grant-before-stage"))
        });
        let paused =
            entry.state == RolloutState::Paused && mutation::is("commitment-grant-while-paused");
        if entry.state != RolloutState::Running && !paused || !ready {
            return Response::ignored("the rollout or the host is not ready for a hold");
        }
        let cluster = entry.cluster.clone();
        if self.state.holds.contains_key(&cluster) {
            return Response::ignored("the cluster has a hold");
        }
        let covers = hold::covers(self.state, host, &cluster);
        if let Some(other) = hold::conflict(self.state, &cluster, &covers) {
            return Response::ignored(format!("a hold on `{}` covers the machine", other.host));
        }
        let token = self.state.last_token.next();
        self.state.last_token = token;
        let required = hold::required(self.state, host, &covers);
        let mut held = Hold {
            token,
            host: host.clone(),
            rollout: rollout.clone(),
            covers,
            stage: HoldStage::Asking,
            promises: Vec::new(),
            allotted_ms: self.at_ms,
            granted_ms: None,
            put_back_since: false,
        };
        hold::refresh(&mut held, required);
        self.state.holds.insert(cluster, held);
        if let Some(enrolment) = self.state.hosts.get_mut(host) {
            enrolment.allotted = token;
        }
        if let Some(run) = self.state.rollouts.get_mut(rollout).and_then(|r| r.host_mut(host)) {
            run.phase = HostPhase::Granting;
            run.token = Some(token);
            run.sequence = None;
            run.close_as = None;
            run.last_go = None;
            run.ended_ms = None;
        }
        self.emit(rollout, "coordinator", Body::TokenAllotted { host: host.clone(), token });
        Response::Allotted { token }
    }

    pub(super) fn abandon(&mut self, rollout: &RolloutId, token: Token) -> Response {
        let fits = self
            .state
            .hold_of(rollout)
            .is_some_and(|h| h.token == token && h.stage == HoldStage::Asking);
        if !fits {
            return Response::ignored("there is no such token to abandon");
        }
        self.drop_asking(rollout);
        Response::Done
    }

    /// Gives a token up that no order ever carried; it is never used again.
    pub(super) fn drop_asking(&mut self, rollout: &RolloutId) {
        let Some(entry) = self.state.rollouts.get_mut(rollout) else { return };
        let asking = self.state.holds.get(&entry.cluster);
        let Some(held) = asking.filter(|h| h.stage == HoldStage::Asking) else { return };
        let host = held.host.clone();
        self.state.holds.remove(&entry.cluster);
        if let Some(run) = entry.host_mut(&host) {
            run.phase = HostPhase::Staged;
            run.token = None;
        }
    }

    /// The same for every token that was asked for to take a host down.
    pub(super) fn drop_all_asking(&mut self, host: &HostId) {
        let held = self.state.holds.values().filter(|held| &held.host == host);
        let rollouts: Vec<RolloutId> = held.map(|held| held.rollout.clone()).collect();
        rollouts.iter().for_each(|rollout| self.drop_asking(rollout));
    }

    pub(super) fn promise(&mut self, answer: &PromiseAnswered) -> Response {
        let Some(enrolment) = self.state.hosts.get_mut(&answer.host) else {
            return Response::ignored("the host is not enrolled");
        };
        if enrolment.amnesic.is_some() {
            return Response::ignored("the host agent may only look");
        }
        enrolment.heard(answer.ledger_position, &answer.chain);
        if answer.promised {
            enrolment.floor = enrolment.floor.max(answer.token);
        }
        let Some(held) = self.state.holds.values_mut().find(|h| h.token == answer.token) else {
            return Response::ignored("no hold has this token");
        };
        let rollout = held.rollout.clone();
        let asked =
            held.promises.iter_mut().find(|p| p.host == answer.host && p.cluster == answer.cluster);
        let Some(promise) = asked else {
            return Response::ignored("this promise was not asked for");
        };
        if promise.promised {
            return Response::Done;
        }
        promise.promised = answer.promised || mutation::is("s2-refusal-is-fine");
        promise.refusal = (!answer.promised)
            .then(|| (answer.code.unwrap_or(Code::PromiseMissing), answer.why.clone()));
        if answer.promised {
            let (host, token) = (answer.host.clone(), answer.token);
            let by = format!("host {host}");
            self.emit(&rollout, &by, Body::Promised { host, token });
        }
        Response::Done
    }

    pub(super) fn grant(
        &mut self,
        rollout: &RolloutId,
        host: &HostId,
        token: Token,
        reason: &str,
        findings: &[Finding],
    ) -> Response {
        let Some(entry) = self.state.rollouts.get(rollout) else {
            return Response::ignored("no such rollout");
        };
        let cluster = entry.cluster.clone();
        let runs = entry.state == RolloutState::Running
            || entry.state == RolloutState::Paused && mutation::is("commitment-grant-while-paused");
        if !runs {
            return Response::ignored("the rollout does not run");
        }
        let Some(held) = self.state.holds.get(&cluster) else {
            return Response::ignored("there is no hold to grant");
        };
        let fits = &held.rollout == rollout
            && &held.host == host
            && held.token == token
            && held.stage == HoldStage::Asking;
        if !fits || !hold::missing(self.state, held).is_empty() {
            return Response::ignored("the hold changed, or promises are missing");
        }
        if hold::conflict(self.state, &cluster, &held.covers).is_some() {
            return Response::ignored("another hold covers the machine");
        }
        let Some(enrolment) = self.state.hosts.get_mut(host).filter(|e| e.amnesic.is_none()) else {
            return Response::ignored("the host agent may not work");
        };
        enrolment.push(&cluster, token, OrderKind::Run, rollout, OrderBody::Plan);
        if let Some(held) = self.state.holds.get_mut(&cluster) {
            held.stage = HoldStage::Held;
            held.granted_ms = Some(self.at_ms);
        }
        if let Some(run) = self.state.rollouts.get_mut(rollout).and_then(|r| r.host_mut(host)) {
            run.phase = HostPhase::Working { step: Step::Guard };
            run.started_ms = Some(self.at_ms);
        }
        let findings = findings.to_vec();
        self.emit(rollout, "coordinator", Body::Gates { host: Some(host.clone()), findings });
        let (host, reason) = (host.clone(), reason.to_owned());
        self.emit(rollout, "coordinator", Body::Granted { host, token, reason });
        self.set_waiting(rollout, Vec::new());
        Response::Done
    }

    pub(super) fn go(&mut self, decided: &GoDecided) -> Response {
        let denied = |why: &str| Response::Go {
            allowed: false,
            reasons: vec![crate::gates::reason(
                Code::NoGo,
                decided.host.to_string(),
                why,
                "the host agent brings back what it stopped",
            )],
        };
        let held = self.state.hold_of(&decided.rollout);
        let fits = held.is_some_and(|h| {
            h.token == decided.token && h.host == decided.host && h.stage == HoldStage::Held
        });
        let Some(entry) = self.state.rollouts.get_mut(&decided.rollout) else {
            return denied("there is no such rollout");
        };
        let drives = matches!(entry.state, RolloutState::Running | RolloutState::Paused)
            || mutation::is("commitment-go-while-aborting");
        if !fits || !drives {
            return denied("the hold or the rollout's state changed meanwhile");
        }
        let record = GoRecord { request: decided.request, allowed: decided.allowed };
        let Some(run) = entry.host_mut(&decided.host) else {
            return denied("the host is not part of the rollout");
        };
        let repeat = run.last_go.as_ref() == Some(&record);
        run.last_go = Some(record);
        run.disturbed |= decided.allowed;
        if !repeat {
            let body = Body::Go {
                host: decided.host.clone(),
                token: decided.token,
                action: decided.action.clone(),
                allowed: decided.allowed,
                reasons: decided.reasons.clone(),
            };
            self.emit(&decided.rollout, "coordinator", body);
        }
        Response::Go { allowed: decided.allowed, reasons: decided.reasons.clone() }
    }

    pub(super) fn close(
        &mut self,
        rollout: &RolloutId,
        host: &HostId,
        token: Token,
        soaked_ms: u64,
    ) -> Response {
        let held = self.state.hold_of(rollout);
        let fits =
            held.is_some_and(|h| h.token == token && &h.host == host && h.stage == HoldStage::Held);
        let up = self.state.rollouts.get(rollout).is_some_and(|r| {
            matches!(r.state, RolloutState::Running | RolloutState::Paused)
                && r.host(host).is_some_and(|run| run.sequence == Some(SequenceState::Up))
        });
        if !fits || !up {
            return Response::ignored("the host is not up under this hold");
        }
        if may_only_look(&self.state.hosts, host) {
            return Response::ignored("the host agent may only look");
        }
        self.emit(rollout, "coordinator", Body::HostVerified { host: host.clone(), soaked_ms });
        self.order_close(rollout, host, CloseAs::Done);
        self.set_waiting(rollout, Vec::new());
        Response::Done
    }

    /// Orders the host's agent to close the token durably.
    /// What it was closed as is said in `close_as`; without it the host's turn comes again.
    pub(super) fn order_close(
        &mut self,
        rollout: &RolloutId,
        host: &HostId,
        close_as: impl Into<Option<CloseAs>>,
    ) {
        let Some(entry) = self.state.rollouts.get_mut(rollout) else { return };
        let cluster = entry.cluster.clone();
        let Some(held) = self.state.holds.get_mut(&cluster) else { return };
        held.stage = HoldStage::Closing;
        let token = held.token;
        if let Some(run) = entry.host_mut(host) {
            run.phase = HostPhase::Closing;
            run.close_as = close_as.into();
        }
        if let Some(enrolment) = self.state.hosts.get_mut(host) {
            enrolment.push(&cluster, token, OrderKind::Close, rollout, OrderBody::Nothing);
        }
    }

    pub(super) fn close_broken(&mut self, token: Token) -> Response {
        let Some(broken) = self.state.broken.iter_mut().find(|b| b.token == token) else {
            return Response::ignored("no broken hold has this token");
        };
        if !broken.settled || may_only_look(&self.state.hosts, &broken.host) {
            return Response::ignored("the broken hold's host is not settled");
        }
        // One order per settlement: the next report of the host settles it again.
        broken.settled = false;
        let (host, cluster, rollout) =
            (broken.host.clone(), broken.cluster.clone(), broken.rollout.clone());
        if let Some(enrolment) = self.state.hosts.get_mut(&host) {
            enrolment.push(&cluster, token, OrderKind::Close, &rollout, OrderBody::Nothing);
        }
        Response::Done
    }

    /// A broken hold's token is closed: an abort that was still to be sent under it goes as well.
    pub(super) fn forget_broken(&mut self, token: Token) {
        let hosts = &mut self.state.hosts;
        self.state.broken.retain(|broken| {
            if broken.token == token
                && let Some(enrolment) = hosts.get_mut(&broken.host)
            {
                enrolment.drop_orders(&broken.cluster, |order| order.token == token);
            }
            broken.token != token
        });
    }

    /// The host's agent has durably closed the token: the hold ends (S3).
    pub(super) fn released(&mut self, rollout: &RolloutId, host: &HostId, token: Token) {
        self.forget_broken(token);
        let Some(entry) = self.state.rollouts.get_mut(rollout) else { return };
        let cluster = entry.cluster.clone();
        let fits =
            self.state.holds.get(&cluster).is_some_and(|h| {
                h.token == token && &h.host == host && h.stage != HoldStage::Asking
            });
        if !fits {
            return;
        }
        self.state.holds.remove(&cluster);
        if let Some(enrolment) = self.state.hosts.get_mut(host) {
            // Whatever was still to be sent under this token would be refused.
            enrolment.drop_orders(&cluster, |order| order.token == token);
        }
        let mut skipped = None;
        if let Some(run) = entry.host_mut(host) {
            let up = run.sequence == Some(SequenceState::Up);
            run.disturbed = false;
            run.ended_ms = Some(self.at_ms);
            match run.close_as.take() {
                Some(CloseAs::Done) => run.phase = HostPhase::Done,
                Some(CloseAs::Aborted) if up => run.phase = HostPhase::Done,
                Some(CloseAs::Aborted) => run.phase = HostPhase::Skipped,
                Some(CloseAs::Skipped { reason }) => {
                    run.phase = HostPhase::Skipped;
                    skipped = Some(reason);
                }
                // What was refused or undone was closed, and nothing else decided: its turn comes again.
                None => {
                    run.phase = HostPhase::Staged;
                    run.token = None;
                    run.ended_ms = None;
                }
            }
            run.sequence = Some(SequenceState::Closed);
        }
        self.emit(rollout, "coordinator", Body::Released { host: host.clone(), token });
        if let Some(reason) = skipped {
            self.emit(rollout, "coordinator", Body::Skipped { host: host.clone(), reason });
        }
        self.pause_after(rollout);
    }

    /// What S3 forbids: a hold that ends because time has passed.
    pub(super) fn release_overdue(&mut self, rollout: &RolloutId) {
        let Some(held) = self.state.hold_of(rollout) else { return };
        let (host, token) = (held.host.clone(), held.token);
        if held.granted_ms.is_some_and(|at_ms| self.at_ms > at_ms.saturating_add(500)) {
            self.released(rollout, &host, token);
        }
    }

    fn pause_after(&mut self, rollout: &RolloutId) {
        let Some(entry) = self.state.rollouts.get(rollout) else { return };
        let done = entry.hosts.iter().filter(|h| h.phase == HostPhase::Done).count();
        let pause = match entry.plan.pause_after {
            PauseAfter::Never => false,
            PauseAfter::First => done == 1,
            PauseAfter::Each => done > 0,
        };
        if pause && entry.state == RolloutState::Running && !entry.all_ended() {
            self.set_state(rollout, RolloutState::Paused);
        }
    }
}

/// Tells whether a host's agent is amnesic: then it is told nothing, and nothing is decided on what it
/// said before (S8).
pub(super) fn may_only_look(hosts: &BTreeMap<HostId, Enrolment>, host: &HostId) -> bool {
    hosts.get(host).is_some_and(|e| e.amnesic.is_some()) && !mutation::is("s8-closes-amnesic")
}
