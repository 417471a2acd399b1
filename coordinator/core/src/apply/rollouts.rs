//! A rollout's beginning, its waits, and its end.

use std::collections::BTreeSet;

use grayfin_types::{
    Code, HostId, NodeAlias, RolloutId, Seq, Token,
    event::Body,
    facts::UnsettledChunk,
    gate::Reason,
    plan::CanarySpec,
    status::{HostPhase, RolloutState},
};

use super::Applier;
use crate::{
    cmd::{Response, Start},
    gates::reason,
    state::{CanaryRun, FINISHED_KEPT, HostRun, OrderBody, OrderKind, Rollout, Staging},
};

impl Applier<'_> {
    pub(super) fn start(&mut self, start: &Start) -> Response {
        let cluster = &start.plan.cluster;
        if let Some(active) = self.state.active(cluster) {
            return Response::refused(
                Code::ClusterBusy,
                format!(
                    "rollout `{}` of `{cluster}` is {}: wait for its end, or `grayfin rollout abort {}`",
                    active.id, active.state, active.id
                ),
            );
        }
        if self.state.rollouts.contains_key(&start.rollout) {
            return Response::refused(Code::BadRequest, "there is a rollout with this id");
        }
        let named: BTreeSet<&HostId> = start.plan.hosts.iter().map(|h| &h.host).collect();
        let enrolled: BTreeSet<&HostId> = self.state.hosts_of(cluster).map(|e| &e.host).collect();
        if named.len() != start.plan.hosts.len() || named != enrolled || named.is_empty() {
            return Response::refused(
                Code::BadRequest,
                "the plan's hosts are not those that are enrolled: plan again",
            );
        }
        self.insert_rollout(start);
        self.emit(&start.rollout, &start.by, Body::Started { plan: Box::new(start.plan.clone()) });
        let findings = start.findings.clone();
        self.emit(&start.rollout, "coordinator", Body::Gates { host: None, findings });
        let state = RolloutState::Staging;
        self.emit(&start.rollout, "coordinator", Body::State { state });
        for host in self.state.gone_from(cluster) {
            self.tell_gone(&start.rollout, &host);
        }
        for host in start.plan.hosts.iter().filter(|h| !h.already_done) {
            if let Some(enrolment) = self.state.hosts.get_mut(&host.host) {
                let kind = OrderKind::Stage;
                enrolment.push(cluster, Token(0), kind, &start.rollout, OrderBody::Plan);
            }
        }
        self.staging_over(&start.rollout);
        self.forget_old();
        Response::Started { rollout: start.rollout.clone() }
    }

    fn insert_rollout(&mut self, start: &Start) {
        let hosts = start
            .plan
            .hosts
            .iter()
            .map(|planned| HostRun {
                host: planned.host.clone(),
                phase: HostPhase::Waiting,
                staging: if planned.already_done { Staging::NotNeeded } else { Staging::Ordered },
                sequence: None,
                token: None,
                disturbed: false,
                attempt: 0,
                close_as: None,
                last_go: None,
                started_ms: None,
                ended_ms: None,
                backup: None,
                progress_ms: 0,
            })
            .collect();
        let rollout = Rollout {
            id: start.rollout.clone(),
            cluster: start.plan.cluster.clone(),
            plan: start.plan.clone(),
            state: RolloutState::Staging,
            by: start.by.clone(),
            started_ms: self.at_ms,
            ended_ms: None,
            hosts,
            baseline: None,
            canary: CanaryRun::new(start.plan.canary == CanarySpec::Off),
            waiting: Vec::new(),
            waiting_since_ms: None,
            halted: None,
            leader: None,
            leader_changes: 0,
            last_seq: Seq(0),
            last_hash: String::new(),
        };
        self.state.rollouts.insert(start.rollout.clone(), rollout);
    }

    /// Forgets the oldest finished rollouts beyond the limit, so that the state stays bounded.
    fn forget_old(&mut self) {
        let pinned: BTreeSet<RolloutId> =
            self.state.broken.iter().map(|b| b.rollout.clone()).collect();
        let mut finished: Vec<(u64, RolloutId)> = self
            .state
            .rollouts
            .values()
            .filter(|r| r.state.is_final() && !pinned.contains(&r.id))
            .map(|r| (r.started_ms, r.id.clone()))
            .collect();
        finished.sort();
        let surplus = finished.len().saturating_sub(FINISHED_KEPT);
        for (_, id) in finished.into_iter().take(surplus) {
            self.state.rollouts.remove(&id);
            self.forgotten.push(id);
        }
    }

    pub(super) fn skip_done(&mut self, id: &RolloutId, host: &HostId, why: &str) -> Response {
        let Some(entry) = self.state.rollouts.get_mut(id) else {
            return Response::ignored("there is no such rollout");
        };
        let running = entry.state == RolloutState::Running;
        let fits = entry
            .host_mut(host)
            .filter(|run| running && matches!(run.phase, HostPhase::Waiting | HostPhase::Staged));
        let Some(run) = fits else {
            return Response::ignored("the host's turn is not now");
        };
        run.phase = HostPhase::Skipped;
        let body = Body::Skipped { host: host.clone(), reason: why.to_owned() };
        self.emit(id, "coordinator", body);
        Response::Done
    }

    pub(super) fn set_baseline(&mut self, id: &RolloutId, chunks: &[UnsettledChunk]) -> Response {
        let Some(entry) = self.state.rollouts.get_mut(id).filter(|r| !r.state.is_final()) else {
            return Response::ignored("there is no such unfinished rollout");
        };
        let begun = entry.hosts.iter().any(|h| h.started_ms.is_some());
        if entry.baseline.is_some() || begun {
            return Response::ignored("the baseline is taken once, before the first host");
        }
        entry.baseline = Some(chunks.to_vec());
        self.emit(id, "coordinator", Body::Baseline { chunks: chunks.to_vec() });
        Response::Done
    }

    pub(super) fn leader_seen(&mut self, id: &RolloutId, leader: &NodeAlias) -> Response {
        let Some(entry) = self.state.rollouts.get_mut(id).filter(|r| !r.state.is_final()) else {
            return Response::ignored("there is no such unfinished rollout");
        };
        if entry.leader.as_ref() == Some(leader) {
            return Response::ignored("it leads already");
        }
        let from = entry.leader.replace(leader.clone()).map(|alias| alias.to_string());
        if from.is_some() {
            entry.leader_changes = entry.leader_changes.saturating_add(1);
        }
        self.emit(id, "coordinator", Body::LeaderChanged { from, to: leader.to_string() });
        Response::Done
    }

    pub(super) fn waiting(&mut self, id: &RolloutId, reasons: &[Reason]) -> Response {
        self.set_waiting(id, reasons.to_vec());
        Response::Done
    }

    pub(super) fn halt_by_decision(&mut self, id: &RolloutId, why: &Reason) -> Response {
        let state = self.state.rollouts.get(id).map(|r| r.state);
        match state {
            Some(
                RolloutState::Staging
                | RolloutState::Running
                | RolloutState::Paused
                | RolloutState::Verifying,
            ) => {
                self.halt(id, why.clone());
                Response::Done
            }
            Some(
                RolloutState::Halted
                | RolloutState::Aborting
                | RolloutState::Succeeded
                | RolloutState::Incomplete
                | RolloutState::Aborted
                | RolloutState::Failed,
            )
            | None => Response::ignored("the rollout does not run"),
        }
    }

    pub(super) fn verify(&mut self, id: &RolloutId) -> Response {
        let ready = self
            .state
            .rollouts
            .get(id)
            .is_some_and(|r| r.state == RolloutState::Running && r.all_ended());
        if !ready || self.state.hold_of(id).is_some() {
            return Response::ignored("not every host is done");
        }
        self.set_waiting(id, Vec::new());
        self.set_state(id, RolloutState::Verifying);
        Response::Done
    }

    pub(super) fn finish(
        &mut self,
        id: &RolloutId,
        versions: &[(String, String, String)],
        ok: bool,
    ) -> Response {
        let verifying =
            self.state.rollouts.get(id).is_some_and(|r| r.state == RolloutState::Verifying);
        if !verifying {
            return Response::ignored("the rollout is not at its final check");
        }
        let left_out = self.state.rollouts.get(id).map(Rollout::left_out).unwrap_or_default();
        let complete = ok && left_out.is_empty();
        let versions = versions.to_vec();
        self.emit(id, "coordinator", Body::FinalVerification { versions, ok: complete });
        if !complete && let Some(entry) = self.state.rollouts.get_mut(id) {
            let evidence = if ok {
                let names: Vec<String> = left_out.iter().map(|h| format!("`{h}`")).collect();
                format!(
                    "an operator left out {}: every other node runs {}",
                    names.join(", "),
                    entry.plan.target
                )
            } else {
                "not every node runs the target version".to_owned()
            };
            entry.halted = Some(reason(
                Code::VersionNotReached,
                entry.cluster.to_string(),
                evidence,
                format!(
                    "start a rollout again: hosts that are done are skipped (`grayfin rollout start {} --to {}`)",
                    entry.cluster, entry.plan.target
                ),
            ));
        }
        let to = match (ok, complete) {
            (true, true) => RolloutState::Succeeded,
            (true, false) => RolloutState::Incomplete,
            (false, _) => RolloutState::Failed,
        };
        self.set_state(id, to);
        Response::Done
    }

    pub(super) fn finish_abort(&mut self, id: &RolloutId) -> Response {
        let aborting =
            self.state.rollouts.get(id).is_some_and(|r| r.state == RolloutState::Aborting);
        if !aborting || self.state.hold_of(id).is_some() {
            return Response::ignored("the rollout is not aborting, or a host is still held");
        }
        self.set_state(id, RolloutState::Aborted);
        Response::Done
    }
}
