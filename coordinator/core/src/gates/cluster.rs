//! The gates of S4: what must stay alive while a host is down. They have no override, save the one
//! about new partitions.

use std::collections::{BTreeMap, BTreeSet};

use grayfin_types::{Code, HostId, NodeAlias, facts::NodeRole, gate::Reason};

use super::{Input, Verdict, reason};

pub(super) fn leader_clear(input: &Input<'_>) -> Verdict {
    match input.leader() {
        Ok(_) => Verdict::default(),
        Err(why) => Verdict::unknown(why),
    }
}

/// DolphinDB's controllers alive now, minus this host's, are a majority of all configured.
pub(super) fn controller_quorum(input: &Input<'_>) -> Verdict {
    let (all, alive) = match (input.controllers(), input.alive()) {
        (Ok(all), Ok(alive)) => (all, alive),
        (Err(why), _) | (_, Err(why)) => return Verdict::unknown(why),
    };
    let dead: Vec<String> =
        all.iter().filter(|c| !alive.contains(*c)).map(|c| format!("`{c}`")).collect();
    let needed = all.len() / 2 + 1;
    let mut verdict = Verdict::default();
    for host in input.hosts {
        let own = match input.nodes_of(host) {
            Ok(own) => own,
            Err(why) => {
                verdict.hold(why);
                continue;
            }
        };
        if all.is_disjoint(&own) {
            // No DolphinDB controller goes down with this host; the leader is the other gate's.
            continue;
        }
        let stay = all.iter().filter(|c| alive.contains(*c) && !own.contains(*c)).count();
        if stay >= needed {
            continue;
        }
        let silent = if dead.is_empty() {
            "all answer now".to_owned()
        } else {
            format!("{} of {} does not answer: {}", dead.len(), all.len(), dead.join(", "))
        };
        let evidence = format!(
            "{stay} of {} configured DolphinDB controllers would stay alive while `{host}` is down, {needed} must ({silent})",
            all.len()
        );
        let structural = all.iter().filter(|c| !own.contains(*c)).count() < needed;
        let remedy = if structural {
            "a rolling upgrade needs DolphinDB controllers on three hosts at least: add controllers, or plan an outage"
        } else {
            "start the DolphinDB controllers that do not answer; this has no override"
        };
        let why = reason(Code::QuorumAtRisk, host.to_string(), evidence, remedy);
        if structural { verdict.stop(why) } else { verdict.stop_at_start(input, why) }
    }
    verdict
}

/// Every streaming and MVCC Raft group keeps a majority of its configured members.
pub(super) fn raft_groups(input: &Input<'_>) -> Verdict {
    let groups = input
        .cluster_facts()
        .and_then(|facts| input.known(&facts.raft_groups, "the list of Raft groups"));
    let (groups, alive) = match (groups, input.alive()) {
        (Ok(groups), Ok(alive)) => (groups, alive),
        (Err(why), _) | (_, Err(why)) => return Verdict::unknown(why),
    };
    let mut verdict = Verdict::default();
    for host in input.hosts {
        let own = match input.nodes_of(host) {
            Ok(own) => own,
            Err(why) => {
                verdict.hold(why);
                continue;
            }
        };
        for group in groups.iter().filter(|g| g.members.iter().any(|m| own.contains(m))) {
            let members: BTreeSet<&NodeAlias> = group.members.iter().collect();
            let stay = members.iter().filter(|m| alive.contains(**m) && !own.contains(**m)).count();
            if stay * 2 <= members.len() {
                let why = reason(
                    Code::GroupAtRisk,
                    format!("{} group {}", group.kind, group.id),
                    format!(
                        "{stay} of its {} members would stay alive while `{host}` is down; a majority must",
                        members.len()
                    ),
                    "start the members that are down, or move members to other hosts; this has no override",
                );
                verdict.stop_at_start(input, why);
            }
        }
    }
    verdict
}

/// Every chunk keeps a current, uncorrupted replica on a live node of another host.
pub(super) fn replica_elsewhere(input: &Input<'_>) -> Verdict {
    let (chunks, alive) = match (input.chunks(), input.alive()) {
        (Ok(chunks), Ok(alive)) => (chunks, alive),
        (Err(why), _) | (_, Err(why)) => return Verdict::unknown(why),
    };
    let placed: u64 = chunks.placements.iter().map(|p| p.chunks).fold(0, u64::saturating_add);
    if placed != chunks.total {
        return Verdict::unknown(input.unknown(
            "the placement of the chunks",
            &format!("{} chunks were counted, {placed} were placed", chunks.total),
        ));
    }
    let mut verdict = Verdict::default();
    for host in input.hosts {
        let own = match input.nodes_of(host) {
            Ok(own) => own,
            Err(why) => {
                verdict.hold(why);
                continue;
            }
        };
        for placement in &chunks.placements {
            let kept = placement.current_on.iter().any(|n| alive.contains(n) && !own.contains(n));
            if kept {
                continue;
            }
            let on: Vec<_> = placement.current_on.iter().map(|n| format!("`{n}`")).collect();
            let on = if on.is_empty() { "no node".to_owned() } else { on.join(", ") };
            let why = reason(
                Code::ReplicaAtRisk,
                placement.example.clone(),
                format!(
                    "{} chunk(s) like this one have current replicas on {on} only: with `{host}` down none would be on a live node of another host",
                    placement.chunks
                ),
                "copy a replica to another host (`copyReplicas`), or start the data nodes that are down; this has no override",
            );
            verdict.stop_at_start(input, why);
        }
    }
    verdict
}

/// Enough data nodes stay for new partitions: as many as the replication factor, on as many hosts
/// where replicas must lie on different ones.
pub(super) fn partition_capacity(input: &Input<'_>) -> Verdict {
    match capacity(input) {
        Ok(verdict) => verdict,
        Err(why) => Verdict::unknown(why),
    }
}

fn capacity(input: &Input<'_>) -> Result<Verdict, Reason> {
    let facts = input.cluster_facts()?;
    let factor = *input.known(&facts.replication_factor, "dfsReplicationFactor")?;
    let level = *input.known(&facts.reliability_level, "dfsReplicaReliabilityLevel")?;
    let alive = input.alive()?;
    let data: BTreeSet<&NodeAlias> = input
        .nodes()?
        .iter()
        .filter(|n| n.spec.role == NodeRole::DataNode)
        .map(|n| &n.spec.alias)
        .collect();
    let owners: BTreeMap<NodeAlias, HostId> = input.hosts_of_nodes();
    let factor = usize::try_from(factor).unwrap_or(usize::MAX);
    let mut verdict = Verdict::default();
    for host in input.hosts {
        let own = input.nodes_of(host)?;
        if !data.iter().any(|n| own.contains(*n)) {
            continue;
        }
        let stay: Vec<&NodeAlias> =
            data.iter().copied().filter(|n| alive.contains(*n) && !own.contains(*n)).collect();
        let hosts: BTreeSet<_> = stay.iter().map(|n| owners.get(*n)).collect();
        let (found, what) = if level == 1 {
            (hosts.len(), "hosts with live data nodes")
        } else {
            (stay.len(), "live data nodes")
        };
        if found >= factor {
            continue;
        }
        let why = reason(
            Code::PartitionCapacity,
            host.to_string(),
            format!(
                "{found} {what} would stay while `{host}` is down; a new partition needs {factor} (dfsReplicationFactor)"
            ),
            "existing partitions stay writable, new ones fail meanwhile: `--override partition-capacity=REASON` accepts that",
        );
        verdict.stop_at_start(input, why);
    }
    Ok(verdict)
}
