//! A cluster as DolphinDB would show it: nodes on hosts, a leader, chunks with replicas.

use std::collections::BTreeMap;

use grayfin_types::{
    ClusterId, DdbVersion, Generation, HostId, LedgerId, NodeAlias, Token,
    facts::{
        AgentStanding, BackupClass, BackupPart, ChunkFacts, ClusterFacts, ClusterNode, HostFacts,
        LicenceFacts, NodeFacts, NodeRole, NodeSpec, PackageFacts, Placement, Probe,
        ProcessIdentity, ProcessState, UnsettledChunk, VolumeFacts,
    },
};

/// What hosts run before.
pub(crate) const OLD: &str = "2.00.8.10";
/// What hosts run afterwards.
pub(crate) const NEW: &str = "2.00.8.12";

pub(crate) fn cluster() -> ClusterId {
    ClusterId::new("trade").unwrap()
}

pub(crate) fn host(number: usize) -> HostId {
    HostId::new(format!("db{number}")).unwrap()
}

pub(crate) fn alias(text: &str) -> NodeAlias {
    NodeAlias::new(text).unwrap()
}

pub(crate) fn version(text: &str) -> DdbVersion {
    text.parse().unwrap()
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) spec: NodeSpec,
    pub(crate) host: HostId,
    pub(crate) up: bool,
    pub(crate) answers: bool,
    pub(crate) version: DdbVersion,
    pub(crate) start_ticks: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    pub(crate) id: String,
    pub(crate) path: String,
    pub(crate) state: String,
    pub(crate) version: i64,
    pub(crate) current_on: Vec<NodeAlias>,
}

#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) nodes: Vec<Node>,
    pub(crate) leader: Option<NodeAlias>,
    pub(crate) elect_at: Option<u64>,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) factor: u32,
    pub(crate) recovery_tasks: u64,
    pub(crate) restart_interval_s: Probe<u64>,
    pub(crate) settled_at: u64,
    pub(crate) elections: u32,
}

impl Model {
    /// Hosts `db1` to `dbN`, each with a controller, a DolphinDB agent and a data node; the first
    /// controller leads. Every chunk has replicas on two hosts.
    pub(crate) fn new(hosts: usize) -> Self {
        let mut nodes = Vec::new();
        for number in 1..=hosts {
            let of = |name: &str, role, port| Node {
                spec: NodeSpec {
                    alias: alias(&format!("{name}{number}")),
                    role,
                    address: format!("127.0.0.{number}"),
                    port,
                    compute_group: String::new(),
                },
                host: host(number),
                up: true,
                answers: true,
                version: version(OLD),
                start_ticks: 1,
            };
            nodes.push(of("ctl", NodeRole::Controller, 8920));
            nodes.push(of("agent", NodeRole::DdbAgent, 8921));
            nodes.push(of("node", NodeRole::DataNode, 8922));
        }
        let chunks = (0..hosts * 2)
            .map(|n| Chunk {
                id: format!("c{n}"),
                path: format!("/db/2022.12.{:02}/c{n}", n + 1),
                state: "COMPLETE".to_owned(),
                version: 1,
                current_on: vec![
                    alias(&format!("node{}", n % hosts + 1)),
                    alias(&format!("node{}", (n + 1) % hosts + 1)),
                ],
            })
            .collect();
        Self {
            nodes,
            leader: Some(alias("ctl1")),
            elect_at: None,
            chunks,
            factor: 2,
            recovery_tasks: 0,
            restart_interval_s: Probe::Known(0),
            settled_at: 0,
            elections: 0,
        }
    }

    pub(crate) fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|n| n.spec.alias.as_str() == name).unwrap()
    }

    pub(crate) fn of_host(&self, host: &HostId) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |n| &n.host == host)
    }

    pub(crate) fn set_up(&mut self, name: &NodeAlias, up: bool, now_ms: u64) {
        let node = self.node_mut(name.as_str());
        node.up = up;
        node.answers = up;
        if up {
            node.start_ticks += 1;
        }
        let data = node.spec.role == NodeRole::DataNode;
        if !up && self.leader.as_ref() == Some(name) {
            self.leader = None;
            self.elect_at = Some(now_ms + 800);
        }
        if up && data {
            // It catches up for a while.
            self.settled_at = now_ms + 600;
        }
    }

    /// What happens by itself.
    pub(crate) fn tick(&mut self, now_ms: u64) {
        if self.elect_at.is_some_and(|at| at <= now_ms) {
            let controllers: Vec<_> =
                self.nodes.iter().filter(|n| n.spec.role == NodeRole::Controller).collect();
            let alive: Vec<_> = controllers.iter().filter(|n| n.up).collect();
            if alive.len() * 2 > controllers.len() {
                self.leader = alive.first().map(|n| n.spec.alias.clone());
                self.elect_at = None;
                self.elections += 1;
            }
        }
    }

    fn up(&self, name: &NodeAlias) -> bool {
        self.nodes.iter().any(|n| &n.spec.alias == name && n.up)
    }

    pub(crate) fn chunk_facts(&self, now_ms: u64) -> ChunkFacts {
        let recovering = now_ms < self.settled_at;
        let mut groups: BTreeMap<(String, Vec<NodeAlias>), (u64, String, u32)> = BTreeMap::new();
        let mut unsettled = Vec::new();
        for chunk in &self.chunks {
            let on: Vec<_> = chunk.current_on.iter().filter(|n| self.up(n)).cloned().collect();
            let replica_count = u32::try_from(on.len()).unwrap();
            let state = if recovering && chunk.state == "COMPLETE" {
                "RECOVERING".to_owned()
            } else {
                chunk.state.clone()
            };
            if state != "COMPLETE" || replica_count != self.factor {
                unsettled.push(UnsettledChunk {
                    id: chunk.id.clone(),
                    path: chunk.path.clone(),
                    state: state.clone(),
                    version: chunk.version,
                    replica_count,
                });
            }
            let entry =
                groups.entry((state, on)).or_insert_with(|| (0, chunk.path.clone(), replica_count));
            entry.0 += 1;
        }
        let placements = groups
            .into_iter()
            .map(|((state, current_on), (chunks, example, replica_count))| Placement {
                current_on,
                stale_on: Vec::new(),
                state,
                replica_count,
                chunks,
                example,
            })
            .collect();
        ChunkFacts {
            total: u64::try_from(self.chunks.len()).unwrap(),
            placements,
            unsettled,
            truncated: false,
            scan_ms: 1,
            age_ms: 0,
        }
    }

    pub(crate) fn cluster_facts(&self, from: &HostId, look: u64, now_ms: u64) -> ClusterFacts {
        let leader = match &self.leader {
            Some(leader) => Probe::Known(leader.clone()),
            None => Probe::Unknown("no majority names a leader".to_owned()),
        };
        let leader_votes = self
            .nodes
            .iter()
            .filter(|n| n.spec.role == NodeRole::Controller && n.up)
            .filter_map(|n| Some((n.spec.alias.clone(), self.leader.clone()?)))
            .collect();
        let nodes = match self.leader {
            None => Probe::Unknown("no leader to ask".to_owned()),
            Some(_) => Probe::Known(
                self.nodes
                    .iter()
                    .map(|n| ClusterNode {
                        spec: n.spec.clone(),
                        up: n.up,
                        answers: Probe::Known(n.answers),
                        version: Probe::Known(n.version.clone()),
                    })
                    .collect(),
            ),
        };
        ClusterFacts {
            cluster: cluster(),
            seen_from: from.clone(),
            look,
            leader,
            leader_votes,
            nodes,
            replication_factor: Probe::Known(self.factor),
            reliability_level: Probe::Known(1),
            recovery_wait_ms: Probe::Known(0),
            restart_interval_s: self.restart_interval_s.clone(),
            chunks: Probe::Known(self.chunk_facts(now_ms)),
            recovery_tasks: Probe::Known(self.recovery_tasks),
            raft_groups: Probe::Known(Vec::new()),
        }
    }

    pub(crate) fn host_facts(
        &self,
        host: &HostId,
        standing: AgentStanding,
        look: u64,
    ) -> HostFacts {
        let nodes: Vec<NodeFacts> =
            self.of_host(host).map(|node| node_facts(node, self.leader.as_ref())).collect();
        let on_disk = self.of_host(host).next().map_or_else(|| version(OLD), |n| n.version.clone());
        HostFacts {
            cluster: cluster(),
            host: host.clone(),
            boot_id: "boot".to_owned(),
            look,
            standing,
            server_dir: "/ddb/server".to_owned(),
            installed: Probe::Known(on_disk),
            upgrade_mode: "native".to_owned(),
            nodes,
            configured: self.nodes.iter().map(|n| n.spec.clone()).collect(),
            nodes_digest: Probe::Known("digest".to_owned()),
            volumes: ["backup", "package", "installation", "ledger"]
                .into_iter()
                .map(|purpose| VolumeFacts {
                    path: format!("/{purpose}"),
                    purpose: purpose.to_owned(),
                    device: 1,
                    free_bytes: 100 << 30,
                    total_bytes: 200 << 30,
                })
                .collect(),
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
                node: format!("ctl-{host}"),
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
            memory: Probe::Known(Vec::new()),
            problems: Vec::new(),
        }
    }
}

fn node_facts(node: &Node, leader: Option<&NodeAlias>) -> NodeFacts {
    let controller = node.spec.role == NodeRole::Controller;
    let unknown = || "it has no process".to_owned();
    let process = if node.up {
        ProcessState::Running(ProcessIdentity {
            pid: 100,
            start_ticks: node.start_ticks,
            executable: "/ddb/server/dolphindb".to_owned(),
            executable_deleted: false,
            working_directory: "/ddb/server".to_owned(),
        })
    } else {
        ProcessState::Absent
    };
    NodeFacts {
        spec: node.spec.clone(),
        process,
        version: if node.up {
            Probe::Known(node.version.clone())
        } else {
            Probe::Unknown(unknown())
        },
        ready: if node.up { Probe::Known(true) } else { Probe::Unknown(unknown()) },
        leader: controller.then(|| {
            leader.map_or_else(|| Probe::Unknown(unknown()), |leader| Probe::Known(leader.clone()))
        }),
        start_marker: controller.then_some(Probe::Known(node.up)),
        unit: String::new(),
    }
}

pub(crate) fn standing(
    ledger: &str,
    position: u64,
    floor: Token,
    open: Option<Token>,
) -> AgentStanding {
    AgentStanding {
        version: "0.1.0".to_owned(),
        generation: Generation(1),
        ledger_id: LedgerId::new(ledger).unwrap(),
        ledger_position: position,
        floor,
        open_hold: open,
    }
}
