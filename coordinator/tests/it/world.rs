//! A cluster of three hosts as host agents would see it: one DolphinDB controller, DolphinDB agent
//! and data node each. Nothing is real but the facts' form.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use grayfin_types::{
    DdbVersion, HostId, LedgerId, NodeAlias, Token,
    facts::{
        AgentStanding, BackupClass, BackupPart, ChunkFacts, ClusterFacts, ClusterNode, HostFacts,
        LicenceFacts, NodeFacts, NodeRole, NodeSpec, PackageFacts, Placement, Probe,
        ProcessIdentity, ProcessState,
    },
};

use crate::common::CLUSTER;

/// What all hosts run at first.
pub const OLD: &str = "2.00.8.10";

/// What they are to run.
pub const NEW: &str = "2.00.8.12";

/// One host.
#[derive(Debug, Clone)]
pub struct Machine {
    pub version: DdbVersion,
    pub down: Vec<NodeAlias>,
    /// Entries in its agent's ledger.
    pub position: u64,
    pub floor: Token,
    pub open_hold: Option<Token>,
    pub last_order: u64,
    pub look: u64,
}

/// The cluster.
#[derive(Debug)]
pub struct World {
    machines: Mutex<BTreeMap<HostId, Machine>>,
    /// The most hosts that ever had a node down at the same time.
    pub down_at_once: Mutex<usize>,
}

pub fn host(name: &str) -> HostId {
    HostId::new(name).unwrap()
}

impl World {
    pub fn new(hosts: &[&str]) -> Self {
        let machine = Machine {
            version: OLD.parse().unwrap(),
            down: Vec::new(),
            position: 1,
            floor: Token(0),
            open_hold: None,
            last_order: 0,
            look: 0,
        };
        Self {
            machines: Mutex::new(hosts.iter().map(|h| (host(h), machine.clone())).collect()),
            down_at_once: Mutex::new(0),
        }
    }

    pub fn hosts(&self) -> Vec<HostId> {
        self.lock().keys().cloned().collect()
    }

    pub fn change<T>(&self, host: &HostId, change: impl FnOnce(&mut Machine) -> T) -> T {
        let mut machines = self.lock();
        let out = change(machines.get_mut(host).unwrap());
        let down = machines.values().filter(|m| !m.down.is_empty()).count();
        let mut most = self.down_at_once.lock().unwrap();
        *most = down.max(*most);
        out
    }

    pub fn look(&self, host: &HostId) -> Machine {
        self.lock()[host].clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<HostId, Machine>> {
        self.machines.lock().unwrap()
    }

    /// The DolphinDB controller that leads: the last host's, so that its host is last.
    fn leader(&self) -> Option<NodeAlias> {
        let machines = self.lock();
        let up = machines.iter().rev().filter(|(host, m)| !m.down.contains(&alias("ctl", host)));
        up.map(|(host, _)| alias("ctl", host)).next()
    }

    pub fn host_facts(&self, host: &HostId) -> HostFacts {
        let leader = self.leader();
        let machine = self.change(host, |m| {
            m.look += 1;
            m.clone()
        });
        HostFacts {
            cluster: CLUSTER.parse().unwrap(),
            host: host.clone(),
            boot_id: "boot".to_owned(),
            look: machine.look,
            standing: AgentStanding {
                version: "0.1.0".to_owned(),
                generation: grayfin_types::Generation(1),
                ledger_id: ledger(host),
                ledger_position: machine.position,
                floor: machine.floor,
                open_hold: machine.open_hold,
            },
            server_dir: "/ddb/server".to_owned(),
            installed: Probe::Known(machine.version.clone()),
            upgrade_mode: "native".to_owned(),
            nodes: specs(host).into_iter().map(|s| node(s, &machine, leader.as_ref())).collect(),
            configured: self.hosts().iter().flat_map(specs).collect(),
            nodes_digest: Probe::Known("digest".to_owned()),
            volumes: volumes(),
            packages: vec![package()],
            backup: vec![BackupPart {
                node: String::new(),
                class: BackupClass::Must,
                what: "the installation".to_owned(),
                path: "/ddb/server".to_owned(),
                bytes: Probe::Known(Some(1_000)),
            }],
            licence: Probe::Known(LicenceFacts {
                expires: Probe::Known("2099.01.01".to_owned()),
                days_left: Probe::Known(9_999),
                version_cap: Probe::Known(None),
            }),
            plugins: Probe::Known(Vec::new()),
            memory: Probe::Known(Vec::new()),
            problems: Vec::new(),
        }
    }

    pub fn cluster_facts(&self, seen_from: &HostId, chunks: bool) -> ClusterFacts {
        let look = self.change(seen_from, |m| {
            m.look += 1;
            m.look
        });
        let hosts = self.hosts();
        let leader = self.leader();
        let up = |spec: &NodeSpec, host: &HostId| !self.look(host).down.contains(&spec.alias);
        let nodes: Vec<ClusterNode> = hosts
            .iter()
            .flat_map(|host| specs(host).into_iter().map(move |spec| (host, spec)))
            .map(|(host, spec)| ClusterNode {
                up: up(&spec, host),
                answers: Probe::Known(up(&spec, host)),
                version: Probe::Known(self.look(host).version),
                spec,
            })
            .collect();
        let data: Vec<NodeAlias> = nodes
            .iter()
            .filter(|n| n.spec.role == NodeRole::DataNode && n.up)
            .map(|n| n.spec.alias.clone())
            .collect();
        let votes = nodes.iter().filter(|n| n.spec.role == NodeRole::Controller && n.up);
        ClusterFacts {
            cluster: CLUSTER.parse().unwrap(),
            seen_from: seen_from.clone(),
            look,
            leader_votes: votes
                .filter_map(|n| Some((n.spec.alias.clone(), leader.clone()?)))
                .collect(),
            leader: leader.map_or_else(|| Probe::Unknown("none".to_owned()), Probe::Known),
            nodes: Probe::Known(nodes),
            replication_factor: Probe::Known(2),
            reliability_level: Probe::Known(0),
            recovery_wait_ms: Probe::Known(0),
            restart_interval_s: Probe::Known(0),
            chunks: if chunks {
                Probe::Known(chunk_facts(data))
            } else {
                Probe::Unknown("not asked for".to_owned())
            },
            recovery_tasks: Probe::Known(0),
            raft_groups: Probe::Known(Vec::new()),
        }
    }
}

/// All chunks lie on all live data nodes.
fn chunk_facts(current_on: Vec<NodeAlias>) -> ChunkFacts {
    ChunkFacts {
        total: 10,
        placements: vec![Placement {
            current_on,
            stale_on: Vec::new(),
            state: "COMPLETE".to_owned(),
            replica_count: 2,
            chunks: 10,
            example: "/db/1".to_owned(),
        }],
        unsettled: Vec::new(),
        truncated: false,
        scan_ms: 1,
        age_ms: 0,
    }
}

pub fn ledger(host: &HostId) -> LedgerId {
    LedgerId::new(format!("ledger-{host}")).unwrap()
}

pub fn alias(kind: &str, host: &HostId) -> NodeAlias {
    NodeAlias::new(format!("{kind}-{host}")).unwrap()
}

pub fn specs(host: &HostId) -> Vec<NodeSpec> {
    [
        ("ctl", NodeRole::Controller, 8920),
        ("agent", NodeRole::DdbAgent, 8921),
        ("node", NodeRole::DataNode, 8922),
    ]
    .into_iter()
    .map(|(kind, role, port)| NodeSpec {
        alias: alias(kind, host),
        role,
        address: host.to_string(),
        port,
        compute_group: String::new(),
    })
    .collect()
}

fn node(spec: NodeSpec, machine: &Machine, leader: Option<&NodeAlias>) -> NodeFacts {
    let down = machine.down.contains(&spec.alias);
    let controller = spec.role == NodeRole::Controller;
    let unknown = || "it is down".to_owned();
    NodeFacts {
        process: if down {
            ProcessState::Absent
        } else {
            ProcessState::Running(ProcessIdentity {
                pid: 1,
                start_ticks: 1,
                executable: "/ddb/server/ddb".to_owned(),
                executable_deleted: false,
                working_directory: "/ddb/server/clusterDemo".to_owned(),
            })
        },
        version: if down {
            Probe::Unknown(unknown())
        } else {
            Probe::Known(machine.version.clone())
        },
        ready: Probe::Known(!down),
        leader: controller
            .then(|| leader.cloned().map_or_else(|| Probe::Unknown(unknown()), Probe::Known)),
        start_marker: controller.then_some(Probe::Known(!down)),
        unit: String::new(),
        spec,
    }
}

fn volumes() -> Vec<grayfin_types::facts::VolumeFacts> {
    ["backup", "package", "installation", "ledger"]
        .into_iter()
        .map(|purpose| grayfin_types::facts::VolumeFacts {
            path: format!("/{purpose}"),
            purpose: purpose.to_owned(),
            device: 1,
            free_bytes: 1 << 40,
            total_bytes: 1 << 41,
        })
        .collect()
}

fn package() -> PackageFacts {
    PackageFacts {
        file: format!("server_V{NEW}.zip"),
        version: NEW.parse().unwrap(),
        bytes: 1_000,
        sha256: Probe::Known("ab".repeat(32)),
        intact: Probe::Known(true),
        unpacked_bytes: Probe::Known(3_000),
        plugins: Vec::new(),
    }
}
