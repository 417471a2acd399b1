//! The canary: one writer at a time, never on the held host; every writer reads its own rows back.

use grayfin_types::{HostId, RolloutId, Token, event::Body, plan::CanaryOrder};

use super::Applier;
use crate::{
    cmd::{CanaryReported, Response},
    state::{CanaryPhase, Check, HoldStage, OrderBody, OrderKind, WriterStatus},
};

impl Applier<'_> {
    pub(super) fn canary_start(&mut self, id: &RolloutId, host: &HostId) -> Response {
        let held =
            self.state.holds.values().any(|h| &h.host == host && h.stage != HoldStage::Asking);
        let Some(entry) = self.state.rollouts.get_mut(id).filter(|r| !r.state.is_final()) else {
            return Response::ignored("there is no such unfinished rollout");
        };
        if entry.canary.phase != CanaryPhase::Idle || held {
            return Response::ignored("the canary is not idle, or the host is held");
        }
        let Some(enrolment) = self.state.hosts.get_mut(host).filter(|e| e.amnesic.is_none()) else {
            return Response::ignored("the host agent may not work");
        };
        entry.canary.epoch = entry.canary.epoch.saturating_add(1);
        entry.canary.phase = CanaryPhase::Starting { host: host.clone() };
        entry.canary.wrote.insert(host.clone());
        let body = OrderBody::Canary(CanaryOrder {
            rollout: id.clone(),
            epoch: entry.canary.epoch,
            spec: entry.plan.canary.clone(),
        });
        enrolment.push(&entry.cluster, Token(0), OrderKind::CanaryStart, id, body);
        self.tell_canary(id);
        Response::Done
    }

    pub(super) fn canary_stop(&mut self, id: &RolloutId, end: bool) -> Response {
        let Some(entry) = self.state.rollouts.get_mut(id).filter(|r| !r.state.is_final()) else {
            return Response::ignored("there is no such unfinished rollout");
        };
        match entry.canary.phase.clone() {
            CanaryPhase::Starting { host } | CanaryPhase::Writing { host } => {
                let body = OrderBody::Canary(CanaryOrder {
                    rollout: id.clone(),
                    epoch: entry.canary.epoch,
                    spec: entry.plan.canary.clone(),
                });
                if let Some(enrolment) = self.state.hosts.get_mut(&host) {
                    enrolment.push(&entry.cluster, Token(0), OrderKind::CanaryStop, id, body);
                }
                entry.canary.phase = CanaryPhase::Stopping { host };
            }
            CanaryPhase::Idle if end => {
                entry.canary.phase = CanaryPhase::Ended;
            }
            CanaryPhase::Off
            | CanaryPhase::Idle
            | CanaryPhase::Stopping { .. }
            | CanaryPhase::Ended => return Response::ignored("no writer runs"),
        }
        self.tell_canary(id);
        Response::Done
    }

    pub(super) fn canary_give_up(&mut self, id: &RolloutId) -> Response {
        let Some(entry) = self.state.rollouts.get_mut(id).filter(|r| !r.state.is_final()) else {
            return Response::ignored("there is no such unfinished rollout");
        };
        let Some(host) = entry.canary.phase.host().cloned() else {
            return Response::ignored("no writer runs");
        };
        let stopping = matches!(entry.canary.phase, CanaryPhase::Stopping { .. });
        entry.canary.phase = CanaryPhase::Idle;
        if !stopping && let Some(enrolment) = self.state.hosts.get_mut(&host) {
            // When it comes back it must not go on beside the next writer.
            let body = OrderBody::Canary(CanaryOrder {
                rollout: id.clone(),
                epoch: entry.canary.epoch,
                spec: entry.plan.canary.clone(),
            });
            enrolment.push(&entry.cluster, Token(0), OrderKind::CanaryStop, id, body);
        }
        self.tell_canary(id);
        Response::Done
    }

    pub(super) fn canary_check(&mut self, id: &RolloutId, purpose: &str) -> Response {
        let Some(entry) = self.state.rollouts.get_mut(id).filter(|r| !r.state.is_final()) else {
            return Response::ignored("there is no such unfinished rollout");
        };
        entry.canary.rounds = entry.canary.rounds.saturating_add(1);
        let mut before = std::mem::take(&mut entry.canary.checks);
        purpose.clone_into(&mut entry.canary.purpose);
        for host in entry.canary.wrote.clone() {
            let Some(enrolment) = self.state.hosts.get_mut(&host) else { continue };
            // An older question would only be answered in vain.
            enrolment.drop_orders(&entry.cluster, |order| {
                &order.rollout == id && order.kind == OrderKind::CanaryCheck
            });
            let body = OrderBody::Canary(CanaryOrder {
                rollout: id.clone(),
                epoch: entry.canary.epoch,
                spec: entry.plan.canary.clone(),
            });
            let number = enrolment.push(&entry.cluster, Token(0), OrderKind::CanaryCheck, id, body);
            let before = before.remove(&host).and_then(|check| check.result.or(check.before));
            entry.canary.checks.insert(host, Check { number, result: None, before });
        }
        Response::Done
    }

    pub(super) fn canary_reported(&mut self, report: &CanaryReported) -> Response {
        let Some(entry) = self.state.rollouts.get_mut(&report.rollout) else {
            return Response::ignored("there is no such rollout");
        };
        if entry.state.is_final() || !entry.canary.wrote.contains(&report.host) {
            return Response::ignored("this rollout has no such canary now");
        }
        let answers =
            entry.canary.checks.get_mut(&report.host).filter(|c| c.number == report.order);
        if let Some(check) = answers {
            check.result = Some(report.status.clone());
            let cluster = entry.cluster.clone();
            let done = entry.canary.checked();
            if let Some(enrolment) = self.state.hosts.get_mut(&report.host) {
                enrolment.drop_orders(&cluster, |order| order.number == report.order);
            }
            if done {
                self.tell_canary(&report.rollout);
            }
            return Response::Done;
        }
        let stop = self
            .state
            .hosts
            .get(&report.host)
            .and_then(|e| e.pending(&entry.cluster, report.order))
            .is_some_and(|order| order.kind == OrderKind::CanaryStop);
        if stop {
            if let Some(enrolment) = self.state.hosts.get_mut(&report.host) {
                enrolment.drop_orders(&entry.cluster, |order| order.number == report.order);
            }
            if entry.canary.phase == (CanaryPhase::Stopping { host: report.host.clone() }) {
                entry.canary.phase = CanaryPhase::Idle;
            }
        }
        let writers = &mut entry.canary.writers;
        let known = writers.iter_mut().find(|w| w.epoch == report.epoch && w.host == report.host);
        match known {
            // A passing report that was overtaken, by the answer to a stop for example.
            Some(writer) if report.status.sent < writer.status.sent => {
                return Response::ignored("a newer report of this writer is known");
            }
            Some(writer) => writer.status = report.status.clone(),
            None => {
                let (host, epoch) = (report.host.clone(), report.epoch);
                writers.push(WriterStatus { host, epoch, status: report.status.clone() });
                writers.sort_by_key(|w| w.epoch);
            }
        }
        self.tell_canary(&report.rollout);
        Response::Done
    }

    fn tell_canary(&mut self, id: &RolloutId) {
        if let Some(entry) = self.state.rollouts.get(id) {
            let canary = entry.canary.total(None);
            self.emit(id, "coordinator", Body::Canary { canary });
        }
    }
}
