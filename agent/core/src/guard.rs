//! S4 from this host: may its nodes go down, judged by facts that were just seen from here?
//!
//! The coordinator's gates ask the same of the observer's facts; neither believes the other.

use std::collections::{BTreeMap, BTreeSet};

use grayfin_types::{
    Code, HostId, NodeAlias,
    facts::{ClusterFacts, ClusterNode, NodeRole, Probe},
};

use crate::mutation;

/// Scans are rationed: the next one comes 20 times as long after the last one as that took, and
/// takes as long itself.
const SCAN_RATION: u64 = 21;

/// Why the nodes must not go down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// What was seen, with the node, chunk or group.
    pub message: String,
}

fn refuse(code: Code, message: String) -> Refusal {
    Refusal { code, message }
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// What was seen from this host, just now.
    pub facts: &'a ClusterFacts,
    /// Every node of this host; all count as gone.
    pub gone: &'a BTreeSet<NodeAlias>,
    /// Which host each node is on, as the plan has it.
    pub hosts: &'a BTreeMap<NodeAlias, HostId>,
    /// Facts older than this refuse; a scan of the chunks may be as old as its ration makes it.
    pub fact_age_max_ms: u64,
    /// An operator set aside that new partitions need room: the one part of S4 that can be.
    pub capacity_overridden: bool,
}

/// Judges. Says in words what stays, or the first reason against it.
pub fn judge(question: &Question<'_>) -> Result<String, Refusal> {
    match judged(question) {
        Err(why) if why.code == Code::FactUnknown && mutation::is("s9-guard-unknown-is-fine") => {
            Ok(why.message)
        }
        judged => judged,
    }
}

fn judged(question: &Question<'_>) -> Result<String, Refusal> {
    let Question { facts, gone, .. } = question;
    known("the leading DolphinDB controller", &facts.leader)?;
    let nodes = known("the list of nodes", &facts.nodes)?;
    if let Some(stranger) = gone.iter().find(|a| !nodes.iter().any(|n| n.spec.alias == **a)) {
        let message = format!("`{stranger}` of this host is not in the live configuration");
        return Err(refuse(Code::NodesDiffer, message));
    }
    let gone: Set<'_> = gone.iter().collect();
    // The leader's view and an answer to our own probe: both.
    let alive: BTreeSet<&NodeAlias> = nodes
        .iter()
        .filter(|n| {
            let leaders_word = mutation::is("s9-contradiction-is-fine");
            n.up && (n.answers == Probe::Known(true) || leaders_word)
        })
        .map(|n| &n.spec.alias)
        .filter(|alias| !gone.contains(alias))
        .collect();
    let controllers = controllers(nodes, &gone, &alive)?;
    groups(facts, &gone, &alive)?;
    let chunks = chunks(question, &alive)?;
    let data_nodes = capacity(question, nodes, &gone, &alive)?;
    Ok(format!("{controllers}, {data_nodes} and a current replica of each of {chunks} chunks stay"))
}

fn known<'a, T>(what: &str, probe: &'a Probe<T>) -> Result<&'a T, Refusal> {
    match probe {
        Probe::Known(value) => Ok(value),
        Probe::Unknown(why) => Err(refuse(Code::FactUnknown, format!("{what} is unknown: {why}"))),
    }
}

type Set<'a> = BTreeSet<&'a NodeAlias>;

fn controllers(nodes: &[ClusterNode], gone: &Set<'_>, alive: &Set<'_>) -> Result<String, Refusal> {
    let all: Vec<&NodeAlias> = of_role(nodes, NodeRole::Controller);
    let stay = all.iter().filter(|alias| alive.contains(*alias)).count();
    // A host without one takes none down; that there is a leader was seen.
    let sound = stay * 2 > all.len() || mutation::is("s4-controllers-unchecked");
    if !sound && all.iter().any(|alias| gone.contains(alias)) {
        let silent: Vec<String> = all
            .iter()
            .filter(|alias| !alive.contains(*alias) && !gone.contains(*alias))
            .map(|alias| format!("`{alias}`"))
            .collect();
        let silent =
            if silent.is_empty() { "none is silent".to_owned() } else { silent.join(", ") };
        let why = format!(
            "{stay} of {} configured DolphinDB controllers would stay, a majority must; silent besides this host's: {silent}",
            all.len()
        );
        return Err(refuse(Code::QuorumAtRisk, why));
    }
    Ok(format!("{stay} of {} controllers", all.len()))
}

fn groups(facts: &ClusterFacts, gone: &Set<'_>, alive: &Set<'_>) -> Result<(), Refusal> {
    for group in known("the list of Raft groups", &facts.raft_groups)? {
        let members: Set<'_> = group.members.iter().collect();
        let stay = members.iter().filter(|member| alive.contains(*member)).count();
        let sound = stay * 2 > members.len() || mutation::is("s4-groups-unchecked");
        if !sound && members.iter().any(|member| gone.contains(member)) {
            let why = format!(
                "{stay} of {} members of {} group `{}` would stay, a majority must",
                members.len(),
                group.kind,
                group.id
            );
            return Err(refuse(Code::GroupAtRisk, why));
        }
    }
    Ok(())
}

fn chunks(question: &Question<'_>, alive: &Set<'_>) -> Result<u64, Refusal> {
    let chunks = known("the state of the chunks", &question.facts.chunks)?;
    let rationed = chunks.scan_ms.saturating_mul(SCAN_RATION);
    if chunks.age_ms > question.fact_age_max_ms.saturating_add(rationed) {
        let why = format!("the last scan of the chunks is {} ms old", chunks.age_ms);
        return Err(refuse(Code::FactStale, why));
    }
    let placed = chunks.placements.iter().map(|p| p.chunks).fold(0, u64::saturating_add);
    if placed != chunks.total {
        let why = format!("{} chunks were counted and {placed} placed", chunks.total);
        return Err(refuse(Code::FactUnknown, why));
    }
    for placement in &chunks.placements {
        let kept = placement.current_on.iter().any(|alias| alive.contains(alias));
        if !kept && !mutation::is("s4-replicas-unchecked") {
            let why = format!(
                "chunk `{}` ({} like it) would have no current replica on a live node of another host",
                placement.example, placement.chunks
            );
            return Err(refuse(Code::ReplicaAtRisk, why));
        }
    }
    Ok(chunks.total)
}

fn capacity(
    question: &Question<'_>,
    nodes: &[ClusterNode],
    gone: &Set<'_>,
    alive: &Set<'_>,
) -> Result<String, Refusal> {
    let data = of_role(nodes, NodeRole::DataNode);
    let stay: Set<'_> = data.iter().copied().filter(|alias| alive.contains(alias)).collect();
    let words = format!("{} of {} data nodes", stay.len(), data.len());
    let set_aside = question.capacity_overridden || mutation::is("s4-capacity-unchecked");
    if set_aside || !data.iter().any(|alias| gone.contains(alias)) {
        return Ok(words);
    }
    let factor = *known("dfsReplicationFactor", &question.facts.replication_factor)?;
    let level = *known("dfsReplicaReliabilityLevel", &question.facts.reliability_level)?;
    // Replicas must lie on different hosts at level 1; a node that the plan does not know counts by
    // its address.
    let place = |node: &ClusterNode| {
        let host = question.hosts.get(&node.spec.alias).map(ToString::to_string);
        host.unwrap_or_else(|| node.spec.address.clone())
    };
    let hosts: BTreeSet<String> =
        nodes.iter().filter(|node| stay.contains(&node.spec.alias)).map(place).collect();
    let (found, what) = if level == 1 {
        (hosts.len(), "hosts with data nodes")
    } else {
        (stay.len(), "data nodes")
    };
    if found < usize::try_from(factor).unwrap_or(usize::MAX) {
        let why = format!("{found} {what} would stay, a new partition needs {factor}");
        return Err(refuse(Code::PartitionCapacity, why));
    }
    Ok(words)
}

fn of_role(nodes: &[ClusterNode], role: NodeRole) -> Vec<&NodeAlias> {
    nodes.iter().filter(|node| node.spec.role == role).map(|node| &node.spec.alias).collect()
}
