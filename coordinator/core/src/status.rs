//! What `status`, `hosts` and `hold show` print.

use grayfin_types::{
    RolloutId,
    facts::ProcessState,
    status::{HoldStatus, HostLine, HostStatus, RolloutStatus},
};

use crate::{
    State, View,
    state::{HoldStage, Rollout},
};

/// A rollout's status. `view` adds what is newer than the log (a leader has one).
pub fn rollout(rollout: &Rollout, view: Option<&View>, stale: bool) -> RolloutStatus {
    let live = view
        .and_then(|v| v.canaries.get(&rollout.id))
        .filter(|seen| seen.value.epoch == rollout.canary.epoch)
        .map(|seen| &seen.value.status);
    RolloutStatus {
        id: rollout.id.clone(),
        cluster: rollout.cluster.clone(),
        target: rollout.plan.target.clone(),
        plan_hash: rollout.plan.hash.clone(),
        state: rollout.state,
        hosts: rollout
            .hosts
            .iter()
            .map(|run| HostStatus {
                host: run.host.clone(),
                phase: run.phase.clone(),
                sequence: run.sequence.clone(),
                started_ms: run.started_ms,
                ended_ms: run.ended_ms,
                backup: run.backup.clone(),
            })
            .collect(),
        waiting: rollout.halted.clone().map_or_else(|| rollout.waiting.clone(), |r| vec![r]),
        waiting_since_ms: rollout.waiting_since_ms,
        canary: rollout.canary.total(live),
        leader_changes: rollout.leader_changes,
        last_seq: rollout.last_seq,
        by: rollout.by.clone(),
        started_ms: rollout.started_ms,
        ended_ms: rollout.ended_ms,
        stale,
    }
}

/// Status of one rollout by id.
pub fn by_id(
    state: &State,
    view: Option<&View>,
    id: &RolloutId,
    stale: bool,
) -> Option<RolloutStatus> {
    state.rollouts.get(id).map(|r| rollout(r, view, stale))
}

/// All rollouts, newest first.
pub fn list(state: &State, view: Option<&View>, stale: bool) -> Vec<RolloutStatus> {
    let mut all: Vec<&Rollout> = state.rollouts.values().collect();
    all.sort_by(|a, b| (b.started_ms, &b.id).cmp(&(a.started_ms, &a.id)));
    all.into_iter().map(|r| rollout(r, view, stale)).collect()
}

/// All hosts.
pub fn hosts(state: &State, view: &View, now_ms: u64) -> Vec<HostLine> {
    state
        .hosts
        .values()
        .map(|enrolment| {
            let seen = view.hosts.get(&enrolment.host);
            let facts: Vec<_> = seen.map(|h| h.facts.values().collect()).unwrap_or_default();
            let mut problems: Vec<_> =
                facts.iter().flat_map(|f| f.value.problems.iter().cloned()).collect();
            if let Some(why) = &enrolment.amnesic {
                problems.push(grayfin_types::facts::Problem {
                    code: grayfin_types::Code::AgentAmnesic,
                    subject: enrolment.host.to_string(),
                    detail: why.clone(),
                });
            }
            if let Some(gone) = &enrolment.gone {
                problems.push(grayfin_types::facts::Problem {
                    code: grayfin_types::Code::PoweredOff,
                    subject: enrolment.host.to_string(),
                    detail: format!(
                        "`{}` attested that it is powered off: {}",
                        gone.by, gone.reason
                    ),
                });
            }
            HostLine {
                host: enrolment.host.clone(),
                clusters: enrolment.clusters.iter().cloned().collect(),
                connected: seen.is_some_and(|h| h.connection.is_some()),
                agent_version: enrolment.agent_version.clone(),
                facts_age_ms: facts.iter().map(|f| now_ms.saturating_sub(f.at_ms)).max(),
                nodes: facts.iter().flat_map(|f| f.value.nodes.iter().map(node_line)).collect(),
                open_hold: enrolment
                    .clusters
                    .iter()
                    .find_map(|cluster| view.open_hold(&enrolment.host, cluster)),
                problems,
            }
        })
        .collect()
}

fn node_line(node: &grayfin_types::facts::NodeFacts) -> (String, String, String, String) {
    let process = match &node.process {
        ProcessState::Running(_) => "up",
        ProcessState::Absent => "down",
        ProcessState::Unknown(_) => "unknown",
    };
    let version = match &node.version {
        grayfin_types::facts::Probe::Known(version) => version.to_string(),
        grayfin_types::facts::Probe::Unknown(why) => why.clone(),
    };
    (node.spec.alias.to_string(), node.spec.role.to_string(), process.to_owned(), version)
}

/// The hold of every cluster, and those that were broken and are not closed yet.
pub fn holds(state: &State) -> Vec<HoldStatus> {
    let broken = state.broken.iter().map(|broken| HoldStatus {
        cluster: broken.cluster.clone(),
        token: broken.token,
        host: Some(broken.host.clone()),
        rollout: Some(broken.rollout.clone()),
        state: "broken".to_owned(),
        promised: Vec::new(),
        awaited: Vec::new(),
        debts: Vec::new(),
    });
    state
        .clusters()
        .into_iter()
        .map(|cluster| {
            let debts = state.debts_of(&cluster).map(crate::state::Debt::words).collect();
            let Some(held) = state.holds.get(&cluster) else {
                return HoldStatus {
                    cluster,
                    token: state.last_token,
                    host: None,
                    rollout: None,
                    state: "none".to_owned(),
                    promised: Vec::new(),
                    awaited: Vec::new(),
                    debts,
                };
            };
            let of = |promised: bool| {
                let mut hosts: Vec<_> = held
                    .promises
                    .iter()
                    .filter(|p| p.promised == promised)
                    .map(|p| p.host.clone())
                    .collect();
                hosts.dedup();
                hosts
            };
            HoldStatus {
                token: held.token,
                host: Some(held.host.clone()),
                rollout: Some(held.rollout.clone()),
                state: held.stage.word().to_owned(),
                promised: of(true),
                awaited: if held.stage == HoldStage::Asking { of(false) } else { Vec::new() },
                debts,
                cluster,
            }
        })
        .chain(broken)
        .collect()
}
