//! What host agents see of the cluster: the truth, in the words of the facts.

use std::collections::{BTreeMap, BTreeSet};

use grayfin_types::{
    ClusterId, HostId, NodeAlias,
    facts::{
        AgentStanding, BackupClass, BackupPart, ChunkFacts, ClusterFacts, ClusterNode, HostFacts,
        LicenceFacts, MemoryObject, NodeFacts, NodeRole, PackageFacts, Placement, Probe,
        ProcessIdentity, ProcessState, RaftGroup, UnsettledChunk, VolumeFacts,
    },
};

use crate::cluster::{Cluster, NEW, Node, OLD, Tree, version};

/// Copies of each chunk.
pub const FACTOR: u32 = 2;

/// The one cluster's id.
pub fn cluster_id() -> ClusterId {
    ClusterId::new("trade").expect("a short plain name")
}

/// What is wrong with looking itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blur {
    /// Nothing.
    Clear,
    /// The leading controller cannot be asked.
    NoLeader,
    /// The chunks cannot be scanned.
    NoChunks,
    /// Nodes do not answer the direct probe in time.
    NoAnswers,
    /// One controller names another leader than the others.
    OneDissents,
    /// Every controller but the leader names another one.
    AllDissent,
    /// The leader has not noticed yet that nodes are gone.
    Ghosts,
}

const UNKNOWN: &str = "no answer in time";

/// What is seen of the cluster as a whole.
pub fn cluster_facts(cluster: &Cluster, from: &HostId, look: u64, blur: Blur) -> ClusterFacts {
    let unknown = || UNKNOWN.to_owned();
    let leader = cluster.leader.filter(|_| blur != Blur::NoLeader);
    let named = leader.map(|n| cluster.nodes[n].spec.alias.clone());
    let last = cluster.controllers().filter(|n| Some(*n) != leader).last();
    let votes = cluster.controllers().filter(|n| cluster.nodes[*n].up).filter_map(|n| {
        let dissents = blur == Blur::AllDissent && Some(n) != leader
            || blur == Blur::OneDissents && Some(n) == last;
        let own = cluster.nodes[n].spec.alias.clone();
        let vote = if dissents { own.clone() } else { named.clone()? };
        Some((own, vote))
    });
    let nodes = leader.map(|_| cluster.nodes.iter().map(|n| cluster_node(n, blur)).collect());
    let chunks = leader.filter(|_| blur != Blur::NoChunks).map(|_| chunk_facts(cluster));
    ClusterFacts {
        cluster: cluster_id(),
        seen_from: from.clone(),
        look,
        leader: named.clone().map_or_else(|| Probe::Unknown(unknown()), Probe::Known),
        leader_votes: votes.collect(),
        nodes: nodes.map_or_else(|| Probe::Unknown(unknown()), Probe::Known),
        replication_factor: Probe::Known(FACTOR),
        reliability_level: Probe::Known(1),
        recovery_wait_ms: Probe::Known(0),
        restart_interval_s: Probe::Known(0),
        recovery_tasks: Probe::Known(
            cluster.chunks.iter().filter(|c| recovering(cluster, c)).count() as u64,
        ),
        chunks: chunks.map_or_else(|| Probe::Unknown(unknown()), Probe::Known),
        raft_groups: Probe::Known(vec![RaftGroup {
            id: "1".to_owned(),
            kind: "streaming".to_owned(),
            members: cluster
                .raft_group()
                .iter()
                .map(|n| cluster.nodes[*n].spec.alias.clone())
                .collect(),
        }]),
    }
}

fn cluster_node(node: &Node, blur: Blur) -> ClusterNode {
    let known = |value| match blur {
        Blur::NoAnswers => Probe::Unknown(UNKNOWN.to_owned()),
        Blur::Clear
        | Blur::NoLeader
        | Blur::NoChunks
        | Blur::OneDissents
        | Blur::AllDissent
        | Blur::Ghosts => Probe::Known(value),
    };
    ClusterNode {
        spec: node.spec.clone(),
        up: node.up || blur == Blur::Ghosts,
        answers: known(node.up),
        version: if node.up {
            Probe::Known(node.version.clone())
        } else {
            Probe::Unknown(UNKNOWN.to_owned())
        },
    }
}

fn recovering(cluster: &Cluster, chunk: &crate::cluster::Chunk) -> bool {
    cluster.readable(chunk, None)
        && chunk.replicas.iter().any(|(n, v)| cluster.nodes[*n].up && *v < chunk.version)
}

fn chunk_facts(cluster: &Cluster) -> ChunkFacts {
    type Key = (&'static str, Vec<NodeAlias>, Vec<NodeAlias>);
    let mut groups: BTreeMap<Key, (u64, String)> = BTreeMap::new();
    let mut unsettled = Vec::new();
    for chunk in &cluster.chunks {
        let alias = |(n, _): &&(usize, u64)| cluster.nodes[*n].spec.alias.clone();
        let up = || chunk.replicas.iter().filter(|(n, _)| cluster.nodes[*n].up);
        let current: Vec<_> =
            up().filter(|(_, v)| *v == chunk.version).map(|r| alias(&r)).collect();
        let stale: Vec<_> = up().filter(|(_, v)| *v != chunk.version).map(|r| alias(&r)).collect();
        let replica_count = u32::try_from(current.len()).unwrap_or(u32::MAX);
        let state = if recovering(cluster, chunk) { "RECOVERING" } else { "COMPLETE" };
        if state != "COMPLETE" || replica_count != FACTOR {
            unsettled.push(UnsettledChunk {
                id: chunk.id.clone(),
                path: chunk.path.clone(),
                state: state.to_owned(),
                version: i64::try_from(chunk.version).unwrap_or(i64::MAX),
                replica_count,
            });
        }
        let entry =
            groups.entry((state, current, stale)).or_insert_with(|| (0, chunk.path.clone()));
        entry.0 += 1;
    }
    let placements =
        groups.into_iter().map(|((state, current_on, stale_on), (chunks, example))| {
            let replica_count = u32::try_from(current_on.len()).unwrap_or(u32::MAX);
            let state = state.to_owned();
            Placement { current_on, stale_on, state, replica_count, chunks, example }
        });
    ChunkFacts {
        total: cluster.chunks.len() as u64,
        placements: placements.collect(),
        unsettled,
        truncated: false,
        scan_ms: 1,
        age_ms: 0,
    }
}

/// What a host agent sees of its own host.
pub fn host_facts(cluster: &Cluster, host: usize, standing: AgentStanding, look: u64) -> HostFacts {
    let machine = &cluster.hosts[host];
    let installed = match machine.tree {
        Tree::Old => Probe::Known(version(OLD)),
        Tree::New => Probe::Known(version(NEW)),
        Tree::Half => Probe::Unknown("the installation is half-way".to_owned()),
    };
    let volume = |purpose: &str| VolumeFacts {
        path: format!("/{purpose}"),
        purpose: purpose.to_owned(),
        device: 1,
        free_bytes: if machine.full { 0 } else { 100 << 30 },
        total_bytes: 200 << 30,
    };
    HostFacts {
        cluster: cluster_id(),
        host: machine.id.clone(),
        boot_id: format!("boot{}", machine.boot),
        look,
        standing,
        server_dir: "/ddb/server".to_owned(),
        installed,
        upgrade_mode: "native".to_owned(),
        nodes: cluster.of_host(host).map(|n| node_facts(cluster, n)).collect(),
        configured: cluster.nodes.iter().map(|n| n.spec.clone()).collect(),
        nodes_digest: Probe::Known("digest".to_owned()),
        volumes: ["backup", "package", "installation", "ledger"].map(volume).to_vec(),
        packages: vec![PackageFacts {
            file: format!("DolphinDB_Linux64_V{NEW}.zip"),
            version: version(NEW),
            bytes: 1 << 20,
            sha256: Probe::Known("ab".repeat(32)),
            intact: Probe::Known(true),
            unpacked_bytes: Probe::Known(4 << 20),
            plugins: Vec::new(),
        }],
        backup: vec![BackupPart {
            node: String::new(),
            class: BackupClass::Must,
            what: "controller Raft log and snapshots".to_owned(),
            path: "/ddb/raft".to_owned(),
            bytes: Probe::Known(Some(1 << 20)),
        }],
        licence: Probe::Known(LicenceFacts {
            expires: Probe::Known("2099.12.31".to_owned()),
            days_left: Probe::Known(1_000),
            version_cap: Probe::Known(None),
        }),
        plugins: Probe::Known(Vec::new()),
        memory: Probe::Known(memory(cluster, host)),
        problems: Vec::new(),
    }
}

fn memory(cluster: &Cluster, host: usize) -> Vec<MemoryObject> {
    let data = cluster.of_host(host).find(|n| cluster.nodes[*n].spec.role == NodeRole::DataNode);
    let Some(node) = data.filter(|n| cluster.nodes[*n].up) else { return Vec::new() };
    let object = |name: &str, provided_for| MemoryObject {
        node: cluster.nodes[node].spec.alias.clone(),
        kind: "shared_table".to_owned(),
        name: name.to_owned(),
        provided_for,
    };
    let quotes = cluster.hosts[host].memory_there.then(|| object("quotes", true));
    let scratch = cluster.unprovided(host).map(|_| object("scratch", false));
    quotes.into_iter().chain(scratch).collect()
}

fn node_facts(cluster: &Cluster, node: usize) -> NodeFacts {
    let one = &cluster.nodes[node];
    let controller = one.spec.role == NodeRole::Controller;
    let unknown = || "it has no process".to_owned();
    let leader = cluster.leader.map(|n| cluster.nodes[n].spec.alias.clone());
    NodeFacts {
        spec: one.spec.clone(),
        process: if one.up {
            ProcessState::Running(ProcessIdentity {
                pid: u32::try_from(100 + node).unwrap_or(u32::MAX),
                start_ticks: one.ticks,
                executable: "/ddb/server/dolphindb".to_owned(),
                executable_deleted: false,
                working_directory: "/ddb/server".to_owned(),
            })
        } else {
            ProcessState::Absent
        },
        version: if one.up { Probe::Known(one.version.clone()) } else { Probe::Unknown(unknown()) },
        ready: if one.up { Probe::Known(true) } else { Probe::Unknown(unknown()) },
        leader: controller.then(|| leader.map_or_else(|| Probe::Unknown(unknown()), Probe::Known)),
        start_marker: controller.then_some(Probe::Known(one.up)),
        unit: String::new(),
    }
}

/// The host agent's own guard (S4), fed with what is seen from its host right now.
pub fn guard(
    cluster: &Cluster,
    host: usize,
    blur: Blur,
) -> Result<String, (grayfin_types::Code, String)> {
    let facts = cluster_facts(cluster, &cluster.hosts[host].id, 1, blur);
    let gone: BTreeSet<NodeAlias> =
        cluster.of_host(host).map(|n| cluster.nodes[n].spec.alias.clone()).collect();
    let hosts: BTreeMap<NodeAlias, HostId> = cluster
        .nodes
        .iter()
        .map(|n| (n.spec.alias.clone(), cluster.hosts[n.host].id.clone()))
        .collect();
    let question = grayfin_agent_core::guard::Question {
        facts: &facts,
        gone: &gone,
        hosts: &hosts,
        fact_age_max_ms: 1_000,
        capacity_overridden: false,
    };
    grayfin_agent_core::guard::judge(&question).map_err(|r| (r.code, r.message))
}
