//! The gates of S7: the cluster is whole again before the next host.

use std::collections::BTreeMap;

use grayfin_types::{
    Code, DdbVersion, HostId, NodeAlias,
    facts::{ChunkFacts, NodeRole, Probe, ProcessState, UnsettledChunk},
    gate::Reason,
};

use super::{Input, Moment, Verdict, reason};

/// Tells whether a version is the target.
pub(crate) fn is_target(version: &DdbVersion, target: &DdbVersion) -> bool {
    version.same_numbers(target) && version.same_variant(target)
}

/// Every DolphinDB controller runs, wrote its start marker, and has named the same leader for two
/// election ticks. Evidence, not proof.
pub(super) fn controllers_caught_up(input: &Input<'_>) -> Verdict {
    let (leader, controllers) = match (input.leader(), input.controllers()) {
        (Ok(leader), Ok(controllers)) => (leader, controllers),
        (Err(why), _) | (_, Err(why)) => return Verdict::unknown(why),
    };
    let mut verdict = Verdict::default();
    let not = |alias: &NodeAlias, evidence: String| {
        reason(
            Code::NotCaughtUp,
            alias.to_string(),
            evidence,
            "it catches up by itself; if this stays, see the DolphinDB controller's log",
        )
    };
    let empty = BTreeMap::new();
    let votes = input.view.clusters.get(input.cluster).map_or(&empty, |c| &c.votes);
    let gone = input.state.nodes_gone(input.cluster);
    for alias in controllers.difference(&gone) {
        match votes.get(alias) {
            None => verdict.hold(not(alias, "it does not say who leads".to_owned())),
            Some((named, _)) if named != leader => verdict.hold(not(
                alias,
                format!("it names `{named}` as the leader, the majority names `{leader}`"),
            )),
            Some((_, since)) => {
                let settled_ms = input.now_ms.saturating_sub(*since);
                let needed_ms = input.policy.leader_settled_ms;
                if settled_ms < needed_ms {
                    verdict.hold(not(
                        alias,
                        format!(
                            "it has named `{leader}` for {settled_ms} ms; {needed_ms} ms must pass"
                        ),
                    ));
                }
            }
        }
    }
    for enrolment in input.state.hosts_of(input.cluster) {
        let Some(seen) = input.view.facts(&enrolment.host, input.cluster) else { continue };
        let own = seen.value.nodes.iter().filter(|n| n.spec.role == NodeRole::Controller);
        for node in own {
            match &node.start_marker {
                Some(Probe::Known(true)) | None => {}
                Some(Probe::Known(false)) => verdict.hold(not(
                    &node.spec.alias,
                    "its log has no start marker since its process began".to_owned(),
                )),
                Some(Probe::Unknown(why)) => verdict
                    .hold(not(&node.spec.alias, format!("its start marker cannot be read: {why}"))),
            }
        }
    }
    verdict
}

/// No chunk is RECOVERING; CONSTRUCTING counts only if the same chunk and version are seen in two
/// scans far enough apart, for it is normal under load.
pub(super) fn chunks_settled(input: &Input<'_>) -> Verdict {
    let chunks = match input.chunks() {
        Ok(chunks) => chunks,
        Err(why) => return Verdict::unknown(why),
    };
    let mut verdict = Verdict::default();
    let wait = "it is waited for; DolphinDB's getRecoveryTaskStatus() on the leading controller shows how far it is";
    let listed: Vec<&UnsettledChunk> =
        chunks.unsettled.iter().filter(|c| c.state == "RECOVERING").collect();
    for chunk in &listed {
        let evidence = format!("chunk {} is RECOVERING at version {}", chunk.id, chunk.version);
        verdict.hold(reason(Code::ChunksRecovering, chunk.path.clone(), evidence, wait));
    }
    if listed.is_empty() {
        for placement in chunks.placements.iter().filter(|p| p.state == "RECOVERING") {
            let evidence = format!("{} chunk(s) like this one are RECOVERING", placement.chunks);
            verdict.hold(reason(Code::ChunksRecovering, placement.example.clone(), evidence, wait));
        }
    }
    let stuck = input.view.clusters.get(input.cluster).map_or(&[][..], |c| &c.stuck);
    for chunk in chunks.unsettled.iter().filter(|c| stuck.contains(&c.id)) {
        verdict.hold(reason(
            Code::ChunksRecovering,
            chunk.path.clone(),
            format!(
                "chunk {} is CONSTRUCTING at version {} for {} ms at least",
                chunk.id, chunk.version, input.policy.constructing_look_ms
            ),
            "a transaction does not end: see DolphinDB's getTransactionStatus() on the data nodes",
        ));
    }
    for placement in &chunks.placements {
        if !matches!(placement.state.as_str(), "COMPLETE" | "CONSTRUCTING" | "RECOVERING") {
            let evidence = format!("its state is `{}`, which is not known", placement.state);
            verdict.hold(reason(Code::FactUnknown, placement.example.clone(), evidence, wait));
        }
    }
    if chunks.truncated {
        verdict.hold(input.unknown(
            "whether every chunk is settled",
            &format!("more are not than the {} that are listed", chunks.unsettled.len()),
        ));
    }
    verdict
}

/// Lists the chunks that have fewer replicas than the factor.
pub(crate) fn short_of_replicas(chunks: &ChunkFacts, factor: u32) -> Vec<&UnsettledChunk> {
    chunks
        .unsettled
        .iter()
        .filter(|c| c.replica_count < factor && c.state != "RECOVERING")
        .collect()
}

/// Every chunk has its replicas on live nodes, or as many as in the baseline.
pub(super) fn replicas_whole(input: &Input<'_>) -> Verdict {
    match whole(input) {
        Ok(verdict) => verdict,
        Err(why) => Verdict::unknown(why),
    }
}

fn whole(input: &Input<'_>) -> Result<Verdict, Reason> {
    let facts = input.cluster_facts()?;
    let factor = *input.known(&facts.replication_factor, "dfsReplicationFactor")?;
    let chunks = input.chunks()?;
    let alive = input.alive()?;
    let short = short_of_replicas(chunks, factor);
    let mut verdict = Verdict::default();
    let baseline = input.rollout.and_then(|r| r.baseline.as_deref());
    let Some(baseline) = baseline else {
        let max = usize::try_from(input.policy.baseline_max).unwrap_or(usize::MAX);
        if short.len() > max || (chunks.truncated && !short.is_empty()) {
            verdict.stop(reason(
                Code::BaselineTooLarge,
                short.first().map_or_else(String::new, |c| c.path.clone()),
                format!(
                    "{} chunks or more have fewer replicas than {factor}; {max} are taken as given",
                    short.len()
                ),
                "repair them (copyReplicas), or raise `baseline_max` in the policy",
            ));
        }
        return Ok(verdict);
    };
    let allowed = |chunk: &UnsettledChunk| {
        baseline.iter().any(|b| b.id == chunk.id && b.replica_count <= chunk.replica_count)
    };
    let remedy = "recovery brings them back by itself; if this stays, see DolphinDB's getRecoveryTaskStatus(), or copyReplicas";
    for chunk in short.iter().filter(|c| !allowed(c)) {
        let before = baseline.iter().find(|b| b.id == chunk.id);
        let needed = before.map_or(factor, |b| b.replica_count);
        verdict.hold(reason(
            Code::ReplicasMissing,
            chunk.path.clone(),
            format!(
                "chunk {} has {} replica(s); {needed} are needed",
                chunk.id, chunk.replica_count
            ),
            remedy,
        ));
    }
    // The controller's count may lag behind: what lies on live nodes is counted as well.
    let wanted = usize::try_from(factor).unwrap_or(usize::MAX);
    let settled = chunks.placements.iter().filter(|p| p.state == "COMPLETE");
    let below: Vec<_> = settled
        .filter(|p| p.current_on.iter().filter(|n| alive.contains(*n)).count() < wanted)
        .collect();
    let found = below.iter().map(|p| p.chunks).fold(0, u64::saturating_add);
    let given = short.iter().filter(|c| c.state == "COMPLETE" && allowed(c)).count();
    if found > u64::try_from(given).unwrap_or(u64::MAX)
        && let Some(one) = below.first()
    {
        verdict.hold(reason(
            Code::ReplicasMissing,
            one.example.clone(),
            format!(
                "{found} chunk(s) have fewer than {factor} current replicas on live nodes; {given} had so before"
            ),
            remedy,
        ));
    }
    Ok(verdict)
}

pub(super) fn recovery_idle(input: &Input<'_>) -> Verdict {
    let tasks = input
        .cluster_facts()
        .and_then(|facts| input.known(&facts.recovery_tasks, "the number of recovery tasks"));
    match tasks {
        Err(why) => Verdict::unknown(why),
        Ok(0) => Verdict::default(),
        Ok(tasks) => Verdict::unknown(reason(
            Code::RecoveryRunning,
            input.cluster.to_string(),
            format!("{tasks} recovery task(s) wait or run"),
            "they are waited for; DolphinDB's getRecoveryTaskStatus() on the leading controller shows them",
        )),
    }
}

/// Every node of the hosts answers with the target version, by its own host agent.
pub(super) fn versions(input: &Input<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for host in input.hosts {
        if let Err(why) = host_versions(input, host, &mut verdict) {
            verdict.hold(why);
        }
    }
    verdict
}

fn host_versions(input: &Input<'_>, host: &HostId, verdict: &mut Verdict) -> Result<(), Reason> {
    let facts = input.host_facts(host)?;
    let target = input.target;
    let not = |alias: &NodeAlias, evidence: String| {
        reason(
            Code::VersionNotReached,
            alias.to_string(),
            evidence,
            "it is asked again by itself; if this stays, see the node's log",
        )
    };
    for alias in input.nodes_of(host)? {
        let Some(node) = facts.nodes.iter().find(|n| n.spec.alias == alias) else {
            verdict
                .hold(not(&alias, format!("the host agent of `{host}` does not see it any more")));
            continue;
        };
        if !matches!(node.process, ProcessState::Running(_)) {
            verdict.hold(not(&alias, "it has no process".to_owned()));
        }
        match &node.version {
            Probe::Known(version) if is_target(version, target) => {}
            Probe::Known(version) => {
                verdict.hold(not(&alias, format!("it answers with {version}, not {target}")));
            }
            Probe::Unknown(why) => {
                verdict.hold(not(&alias, format!("its version is unknown: {why}")));
            }
        }
        match &node.ready {
            Probe::Known(true) => {}
            Probe::Known(false) => verdict.hold(not(&alias, "it is not ready yet".to_owned())),
            Probe::Unknown(why) => {
                verdict.hold(not(&alias, format!("whether it is ready is unknown: {why}")));
            }
        }
    }
    if input.moment == Moment::After && facts.nodes.is_empty() {
        verdict.hold(Input::unknown_at(host, "the list of its nodes", "it is empty"));
    }
    Ok(())
}
