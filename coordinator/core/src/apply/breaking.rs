//! What an operator does about a host that nobody can bring up any more: break its hold, or attest
//! that it is powered off (S2, S3).

use grayfin_types::{
    Code, HostId, RolloutId, Token, event::Body, status::HostPhase, status::RolloutState,
    step::SequenceState,
};

use super::{Applier, control::wrong};
use crate::{
    cmd::{Control, Response},
    gates::reason,
    hold, mutation,
    state::{BrokenHold, CanaryPhase, Gone, HoldStage, OrderBody, OrderKind},
};

impl Applier<'_> {
    /// Breaks a hold: the rollout ends, and nothing is closed by it (S3).
    pub(super) fn break_hold(
        &mut self,
        id: &RolloutId,
        token: Token,
        control: &Control,
    ) -> Response {
        if let Some(refusal) = without_reason(control) {
            return refusal;
        }
        let Some(held) = self.state.hold_of(id) else {
            return wrong(format!("rollout `{id}` has no hold"));
        };
        if held.token != token && !mutation::is("s3-break-any-token") {
            return Response::refused(
                Code::TokenStale,
                format!("the hold's token is {}, not {token}: look again", held.token),
            );
        }
        let (host, stage) = (held.host.clone(), held.stage);
        if stage == HoldStage::Asking {
            self.drop_asking(id);
        } else {
            self.move_to_broken(id, &host, token);
        }
        let body = Body::Operator {
            action: control.action.word().to_owned(),
            reason: format!("token {token} of `{host}`: {}", control.reason),
        };
        self.emit(id, &control.by, body);
        let halted = reason(
            Code::HoldBroken,
            host.to_string(),
            format!("`{}` broke the hold with token {token}: {}", control.by, control.reason),
            format!(
                "the next hold still needs `{host}`'s promise: bring the host and its agent up, then `grayfin rollout abort {id}`; or, if it is switched off for good, `grayfin hold attest {host} --token {token}`"
            ),
        );
        if let Some(entry) = self.state.rollouts.get_mut(id) {
            entry.halted = Some(halted);
        }
        self.set_state(id, RolloutState::Failed);
        Response::Done
    }

    fn move_to_broken(&mut self, id: &RolloutId, host: &HostId, token: Token) {
        let Some(entry) = self.state.rollouts.get_mut(id) else { return };
        let cluster = entry.cluster.clone();
        let settled = matches!(
            entry.host(host).and_then(|run| run.sequence.as_ref()),
            Some(SequenceState::Up | SequenceState::Refused { .. } | SequenceState::Undone { .. })
        );
        if let Some(run) = entry.host_mut(host) {
            run.phase = HostPhase::Failed;
        }
        self.state.holds.remove(&cluster);
        if let Some(enrolment) = self.state.hosts.get_mut(host) {
            enrolment.drop_orders(&cluster, |order| order.token == token);
        }
        let (rollout, host) = (id.clone(), host.clone());
        self.state.broken.push(BrokenHold { token, host, cluster, rollout, settled });
    }

    /// A broken hold's host that failed does nothing without an order: this one lets it undo, or come
    /// up where there is no way back. It takes nothing down.
    pub(super) fn bring_up_broken(&mut self, id: &RolloutId) -> Option<Response> {
        let broken = self.state.broken.iter().find(|b| &b.rollout == id && !b.settled)?.clone();
        let enrolment = self.state.hosts.get_mut(&broken.host)?;
        if !enrolment.awaits(&broken.cluster, id, OrderKind::Abort) {
            let (token, body) = (broken.token, OrderBody::Nothing);
            enrolment.push(&broken.cluster, token, OrderKind::Abort, id, body);
        }
        Some(Response::Done)
    }

    /// Takes an operator's word that a host is powered off: nobody waits for its promise any more, and
    /// its agent must enrol anew, with a certificate of a higher generation.
    pub(super) fn attest(&mut self, control: &Control, host: &HostId, token: Token) -> Response {
        if let Some(refusal) = without_reason(control) {
            return refusal;
        }
        let Some(enrolment) = self.state.hosts.get(host) else {
            return Response::refused(
                Code::NoSuchObject,
                format!("no host agent `{host}` ever enrolled"),
            );
        };
        if let Some(gone) = &enrolment.gone {
            return wrong(format!("`{}` attested already that `{host}` is powered off", gone.by));
        }
        if let Some(held) = self.in_force(host) {
            return Response::refused(
                Code::HoldOpen,
                format!(
                    "`{host}` is held with token {}: break its hold first (`grayfin hold break`)",
                    held.token
                ),
            );
        }
        let known = hold::tokens_of(self.state, host);
        if !known.contains(&token) {
            let words: Vec<String> = known.iter().map(ToString::to_string).collect();
            return Response::refused(
                Code::TokenStale,
                format!(
                    "the token of its cluster is {}, not {token}: look again (`grayfin hold show`)",
                    words.join(" or ")
                ),
            );
        }
        self.take_for_gone(host, control);
        Response::Done
    }

    pub(super) fn in_force(&self, host: &HostId) -> Option<&crate::state::Hold> {
        self.state.holds.values().find(|h| &h.host == host && h.stage != HoldStage::Asking)
    }

    fn take_for_gone(&mut self, host: &HostId, control: &Control) {
        // A token that was only asked for on this host is not going to be used.
        self.drop_all_asking(host);
        let Some(enrolment) = self.state.hosts.get_mut(host) else { return };
        let (by, reason) = (control.by.clone(), control.reason.clone());
        enrolment.gone = Some(Gone { by, reason, at_ms: self.at_ms });
        for outbox in enrolment.outboxes.values_mut() {
            outbox.pending.clear();
        }
        self.state.broken.retain(|b| &b.host != host);
        self.refresh_promises();
        let touched: Vec<RolloutId> = self
            .state
            .rollouts
            .values()
            .filter(|r| !r.state.is_final() && r.host(host).is_some())
            .map(|r| r.id.clone())
            .collect();
        for id in touched {
            self.forget_writer(&id, host);
            self.tell_gone(&id, host);
        }
    }

    /// The canary's rows that a powered-off host wrote stay counted as acknowledged, but nobody can
    /// read its journal: they are not waited for.
    fn forget_writer(&mut self, id: &RolloutId, host: &HostId) {
        let Some(entry) = self.state.rollouts.get_mut(id) else { return };
        let canary = &mut entry.canary;
        canary.wrote.remove(host);
        canary.checks.remove(host);
        if canary.phase.host() == Some(host) {
            canary.phase = CanaryPhase::Idle;
        }
    }

    /// Records in a rollout's log who attested that a host is powered off, and why.
    pub(super) fn tell_gone(&mut self, id: &RolloutId, host: &HostId) {
        let gone = self.state.hosts.get(host).and_then(|e| e.gone.clone());
        let Some(Gone { by, reason, .. }) = gone else { return };
        let reason = format!("`{host}` is powered off: {reason}");
        let action = "attest-powered-off".to_owned();
        self.emit(id, &by, Body::Operator { action, reason });
    }
}

/// These acts are never without a reason.
pub(super) fn without_reason(control: &Control) -> Option<Response> {
    control.reason.trim().is_empty().then(|| {
        let word = control.action.word();
        Response::refused(Code::BadRequest, format!("`{word}` needs a reason"))
    })
}
