//! Readmitting a host whose ledger is old, or that has a hold open which nobody here knows (S8).

use std::collections::BTreeMap;

use grayfin_types::{Code, HostId, LedgerId, OrderNumber, Token, event::Body, ledger::Readmit};

use super::{Applier, breaking::without_reason, control::wrong};
use crate::{
    cmd::{Control, Enrol, Response},
    state::{OrderBody, OrderKind, Readmission, Staging},
};

impl Applier<'_> {
    /// Takes an operator's word that a host's state is proven. Its agent takes it in at its next
    /// hello, and goes on when it has said so.
    pub(super) fn readmit(
        &mut self,
        control: &Control,
        host: &HostId,
        ledger: &LedgerId,
        floor: Token,
        closes: Option<Token>,
    ) -> Response {
        if let Some(refusal) = without_reason(control) {
            return refusal;
        }
        let Some(enrolment) = self.state.hosts.get(host).filter(|e| e.gone.is_none()) else {
            let why = format!("no host agent `{host}` is enrolled");
            return Response::refused(Code::NoSuchObject, why);
        };
        if let Some(held) = self.in_force(host) {
            return Response::refused(
                Code::HoldOpen,
                format!(
                    "`{host}` is held with token {}: break its hold first (`grayfin hold break`)",
                    held.token
                ),
            );
        }
        let amnesic = enrolment.amnesic.is_some();
        let foreign = closes.is_some_and(|token| !self.state.knows_hold(host, token));
        if !amnesic && !foreign {
            return wrong(format!("`{host}` needs no readmission: its ledger is the newest"));
        }
        // It will refuse a token that was only asked for until now.
        self.drop_all_asking(host);
        self.state.broken.retain(|broken| &broken.host != host);
        let floor = floor.max(self.highest_floor(host));
        let Some(enrolment) = self.state.hosts.get_mut(host) else { return Response::Done };
        let mut orders = BTreeMap::new();
        for (cluster, outbox) in &mut enrolment.outboxes {
            outbox.pending.retain(|order| order.token == Token(0));
            let next =
                outbox.pending.first().map_or_else(|| outbox.last.next(), |order| order.number);
            orders.insert(cluster.clone(), OrderNumber(next.0.saturating_sub(1)));
        }
        let readmit =
            Readmit { act: control.request_id.clone(), floor, closes, orders, forget: amnesic };
        enrolment.readmission = Some(Readmission { ledger: ledger.clone(), readmit });
        self.refresh_promises();
        self.tell_readmitted(control, host, floor, closes);
        Response::Done
    }

    fn tell_readmitted(
        &mut self,
        control: &Control,
        host: &HostId,
        floor: Token,
        closes: Option<Token>,
    ) {
        let closed = closes.map(|token| format!(", hold {token} closed")).unwrap_or_default();
        let reason = format!("`{host}` with token floor {floor}{closed}: {}", control.reason);
        let action = control.action.word().to_owned();
        self.emit_everywhere(&control.by, &Body::Operator { action, reason });
    }

    /// The host agent says hello: if it has taken its readmission in, it is whole from here on.
    pub(super) fn take_up(&mut self, hello: &Enrol) {
        let Some(entry) = self.state.hosts.get_mut(&hello.host) else { return };
        let Some(said) = &hello.ledger else { return };
        let taken = entry.readmission.take_if(|pending| {
            pending.ledger == hello.ledger_id
                && said.readmitted.as_ref() == Some(&pending.readmit.act)
        });
        let Some(taken) = taken else { return };
        if taken.readmit.proven() {
            entry.own = entry.own.max(taken.readmit.floor);
        }
        if !taken.readmit.forget {
            return;
        }
        entry.ledger_id = hello.ledger_id.clone();
        entry.mark = None;
        entry.ledger_position = hello.ledger_position;
        entry.committed_position = hello.ledger_position;
        self.stage_again(&hello.host);
    }

    /// What an old ledger said of staging, or would have said, does not count.
    fn stage_again(&mut self, host: &HostId) {
        let Some(enrolment) = self.state.hosts.get_mut(host) else { return };
        for rollout in self.state.rollouts.values().filter(|r| !r.state.is_final()) {
            let (id, cluster) = (&rollout.id, &rollout.cluster);
            let waits = rollout.host(host).is_some_and(|run| run.staging == Staging::Ordered);
            if waits && !enrolment.awaits(cluster, id, OrderKind::Stage) {
                enrolment.push(cluster, Token(0), OrderKind::Stage, id, OrderBody::Plan);
            }
        }
    }

    /// Returns the largest token that was allotted, or that any other host agent is known to refuse.
    pub(super) fn highest_floor(&self, host: &HostId) -> Token {
        let others = self.state.hosts.values().filter(|e| &e.host != host).map(|e| e.floor);
        let witnessed = self.state.witnessed.get(host).map_or(Token(0), |witness| witness.token);
        others.max().unwrap_or_default().max(self.state.last_token).max(witnessed)
    }
}
