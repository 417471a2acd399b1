//! A compact model of a DolphinDB cluster and its machines: what is true, whoever believes what.
//!
//! Nodes are processes on machines; DolphinDB controllers elect a leader among those alive when they
//! are a majority of all configured; every chunk has replicas with versions, a write reaches those
//! whose node is up, and a node that comes back recovers what it missed from a current replica.

use grayfin_types::{
    DdbVersion, HostId, NodeAlias, Token,
    facts::{NodeRole, NodeSpec},
};

use crate::dice::Dice;

/// What hosts run before.
pub const OLD: &str = "2.00.8.10";
/// What hosts run afterwards.
pub const NEW: &str = "2.00.8.12";
/// An election takes so long, in milliseconds of the simulation's scaled time.
const ELECTION_MS: u64 = 250;

/// The software on a host's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// The version before.
    Old,
    /// Some files of this, some of that: nothing may run.
    Half,
    /// The target.
    New,
}

/// A DolphinDB process, or its absence.
#[derive(Debug, Clone)]
pub struct Node {
    /// As configured.
    pub spec: NodeSpec,
    /// The index of its host.
    pub host: usize,
    /// It runs.
    pub up: bool,
    /// What it runs.
    pub version: DdbVersion,
    /// Grows with each start.
    pub ticks: u64,
    /// When it came up.
    pub since_ms: u64,
    /// It was asked to start and comes up then.
    pub starting_at: Option<u64>,
    /// It was asked to stop and is gone then.
    pub stopping_at: Option<u64>,
    /// The next so many starts come to nothing.
    pub dud_starts: u32,
    /// The next stop is not obeyed.
    pub deaf: bool,
}

/// A copy of what a host's files would be put back from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    /// Under which hold it was taken.
    pub token: Token,
    /// When it was complete.
    pub at_ms: u64,
}

/// A machine.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its id.
    pub id: HostId,
    /// It has power.
    pub on: bool,
    /// It will never come back.
    pub dead: bool,
    /// Grows with each start of the machine.
    pub boot: u64,
    /// The software on disk.
    pub tree: Tree,
    /// The new version has run here and rewritten the metadata.
    pub rewritten: bool,
    /// Nothing of the installation can be started (S6).
    pub interlock: bool,
    /// Units start the nodes with the machine.
    pub units_on: bool,
    /// What they were set to before Grayfin came.
    pub units_before: bool,
    /// The package is here, verified and unpacked.
    pub staged: bool,
    /// The last complete backup.
    pub backup: Option<Backup>,
    /// When a process of the installation ran last.
    pub ran_ms: u64,
    /// No byte is left on the volumes.
    pub full: bool,
    /// What the startup script makes in memory is there.
    pub memory_there: bool,
    /// The next start forgets to make it.
    pub forgets_memory: bool,
    /// Somebody has a table in memory that no startup script makes again.
    pub scratch: bool,
    /// A helper process of a dead host agent goes on with the copy until then.
    pub helper_until: Option<u64>,
}

/// One chunk.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Its id.
    pub id: String,
    /// Its path.
    pub path: String,
    /// Writes acknowledged so far.
    pub version: u64,
    /// Data node and the writes that its replica has.
    pub replicas: Vec<(usize, u64)>,
}

/// Everything that is true about the cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// All nodes.
    pub nodes: Vec<Node>,
    /// All machines.
    pub hosts: Vec<Host>,
    /// All chunks.
    pub chunks: Vec<Chunk>,
    /// The leading DolphinDB controller.
    pub leader: Option<usize>,
    /// A node that came up has recovered what it missed after this.
    recovery_ms: u64,
    /// An election ends then.
    elect_at: Option<u64>,
    /// Number of elections.
    pub elections: u32,
    /// Acknowledged rows that the cluster lost by its own fault.
    pub lost_rows: u64,
}

/// What a node's start did to the truth, for the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CameUp {
    /// Which node.
    pub node: usize,
    /// The software that it started from.
    pub tree: Tree,
    /// The metadata had been rewritten by the new version before.
    pub rewritten: bool,
    /// The interlock was on.
    pub interlock: bool,
}

impl Cluster {
    /// Hosts `db1` to `dbN` with a controller (the first three), a DolphinDB agent and a data node.
    pub fn new(hosts: usize, dice: &mut Dice) -> Self {
        let mut nodes = Vec::new();
        for host in 0..hosts {
            let mut add = |name: &str, role, port| {
                nodes.push(Node {
                    spec: NodeSpec {
                        alias: NodeAlias::new(format!("{name}{}", host + 1))
                            .expect("a short plain name"),
                        role,
                        address: format!("127.0.0.{}", host + 1),
                        port,
                        compute_group: String::new(),
                    },
                    host,
                    up: true,
                    version: version(OLD),
                    ticks: 1,
                    since_ms: 0,
                    starting_at: None,
                    stopping_at: None,
                    dud_starts: 0,
                    deaf: false,
                });
            };
            if host < 3 {
                add("ctl", NodeRole::Controller, 8920);
            }
            add("agent", NodeRole::DdbAgent, 8921);
            add("node", NodeRole::DataNode, 8922);
        }
        let data: Vec<usize> =
            (0..nodes.len()).filter(|n| nodes[*n].spec.role == NodeRole::DataNode).collect();
        let chunks = (0..hosts * 2)
            .map(|n| Chunk {
                id: format!("c{n}"),
                path: format!("/db/part{n}/c{n}"),
                version: 1,
                replicas: vec![(data[n % hosts], 1), (data[(n + 1) % hosts], 1)],
            })
            .collect();
        let machines = (0..hosts).map(|n| machine(n, dice.percent(50))).collect();
        let leader = Some(dice.index(3) * 3);
        let recovery_ms = if dice.percent(25) { dice.between(1_200, 2_200) } else { 150 };
        Self {
            nodes,
            hosts: machines,
            chunks,
            leader,
            recovery_ms,
            elect_at: None,
            elections: 0,
            lost_rows: 0,
        }
    }

    /// Returns the indices of a host's nodes.
    pub fn of_host(&self, host: usize) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(move |n| self.nodes[*n].host == host)
    }

    /// Tells whether any process of the host's installation runs.
    pub fn runs(&self, host: usize) -> bool {
        self.of_host(host).any(|n| self.nodes[n].up)
    }

    /// Tells whether every node of the host runs.
    pub fn all_up(&self, host: usize) -> bool {
        self.of_host(host).all(|n| self.nodes[n].up)
    }

    /// Finds a node by its alias.
    pub fn find(&self, alias: &NodeAlias) -> Option<usize> {
        self.nodes.iter().position(|n| &n.spec.alias == alias)
    }

    /// Asks a node to start; it comes up, or not, after a while. False if it cannot be.
    pub fn start(&mut self, node: usize, at_ms: u64) -> bool {
        let host = &self.hosts[self.nodes[node].host];
        if !host.on || host.interlock || self.nodes[node].up {
            return false;
        }
        let one = &mut self.nodes[node];
        if one.starting_at.is_none() {
            one.starting_at = Some(at_ms);
        }
        true
    }

    /// Asks a node to stop.
    pub fn stop(&mut self, node: usize, at_ms: u64) {
        let one = &mut self.nodes[node];
        if one.deaf {
            one.deaf = false;
        } else if one.up && one.stopping_at.is_none() {
            one.stopping_at = Some(at_ms);
        }
    }

    /// A node's process is gone.
    pub fn gone(&mut self, node: usize, now_ms: u64) {
        let one = &mut self.nodes[node];
        one.stopping_at = None;
        if !one.up {
            return;
        }
        one.up = false;
        let host = one.host;
        self.hosts[host].ran_ms = now_ms;
        if self.leader == Some(node) {
            self.leader = None;
            self.elect_at = Some(now_ms + ELECTION_MS);
        }
    }

    /// The machine loses power, for a while or for good.
    pub fn power_off(&mut self, host: usize, now_ms: u64) {
        for node in self.of_host(host).collect::<Vec<_>>() {
            self.gone(node, now_ms);
            self.nodes[node].starting_at = None;
        }
        let machine = &mut self.hosts[host];
        machine.on = false;
        machine.helper_until = None;
    }

    /// The machine has power again; units start what they are set to.
    pub fn power_on(&mut self, host: usize, now_ms: u64) {
        let machine = &mut self.hosts[host];
        machine.on = true;
        machine.boot += 1;
        if machine.units_on && !machine.interlock {
            for node in self.of_host(host).collect::<Vec<_>>() {
                self.start(node, now_ms + 60);
            }
        }
    }

    /// What happens by itself. Returns which nodes came up.
    pub fn tick(&mut self, now_ms: u64) -> Vec<CameUp> {
        let mut came = Vec::new();
        for node in 0..self.nodes.len() {
            if self.nodes[node].stopping_at.is_some_and(|at| at <= now_ms) {
                self.gone(node, now_ms);
            }
            if self.nodes[node].starting_at.is_some_and(|at| at <= now_ms) {
                self.nodes[node].starting_at = None;
                came.extend(self.come_up(node, now_ms));
            }
            if self.nodes[node].up {
                self.hosts[self.nodes[node].host].ran_ms = now_ms;
            }
        }
        self.elect(now_ms);
        self.recover(now_ms);
        came
    }

    fn come_up(&mut self, node: usize, now_ms: u64) -> Option<CameUp> {
        let host = self.nodes[node].host;
        let machine = &mut self.hosts[host];
        let one = &mut self.nodes[node];
        if !machine.on || one.up || machine.interlock {
            // A unit's start that was due after the interlock was put on fails.
            return None;
        }
        if one.dud_starts > 0 {
            one.dud_starts -= 1;
            return None;
        }
        let seen = CameUp {
            node,
            tree: machine.tree,
            rewritten: machine.rewritten,
            interlock: machine.interlock,
        };
        one.up = true;
        one.ticks += 1;
        one.since_ms = now_ms;
        one.stopping_at = None;
        one.version = version(if machine.tree == Tree::New { NEW } else { OLD });
        machine.rewritten |= machine.tree == Tree::New;
        machine.ran_ms = now_ms;
        if one.spec.role == NodeRole::DataNode {
            machine.scratch = false;
            machine.memory_there = !std::mem::take(&mut machine.forgets_memory);
        }
        Some(seen)
    }

    fn elect(&mut self, now_ms: u64) {
        if self.leader.is_none() && self.elect_at.is_none() {
            self.elect_at = Some(now_ms + ELECTION_MS);
        }
        if self.elect_at.is_none_or(|at| at > now_ms) {
            return;
        }
        let alive: Vec<usize> = self.controllers().filter(|n| self.nodes[*n].up).collect();
        if alive.len() * 2 > self.controllers().count() {
            // The one that has been up the longest is the most caught up.
            self.leader = alive.into_iter().min_by_key(|n| (self.nodes[*n].since_ms, *n));
            self.elect_at = None;
            self.elections += 1;
        }
    }

    /// Returns all configured controllers.
    pub fn controllers(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|n| self.nodes[*n].spec.role == NodeRole::Controller)
    }

    /// Puts every replica onto the first two hosts: then it is not replicas that forbid most outages.
    pub fn narrow(&mut self) {
        let of_host = |h: usize| {
            let data = |n: &usize| self.nodes[*n].spec.role == NodeRole::DataNode;
            self.of_host(h).find(data)
        };
        let (Some(first), Some(second)) = (of_host(0), of_host(1)) else { return };
        for chunk in &mut self.chunks {
            chunk.replicas = vec![(first, 1), (second, 1)];
        }
    }

    /// Returns the members of the one streaming Raft group: the data nodes of the first three hosts where
    /// there are four. With three, its quorum would forbid what the room for new partitions forbids.
    pub fn raft_group(&self) -> Vec<usize> {
        let member =
            |n: &usize| self.nodes[*n].spec.role == NodeRole::DataNode && self.nodes[*n].host < 3;
        let four = self.hosts.len() > 3;
        (0..self.nodes.len()).filter(|n| four && member(n)).collect()
    }

    /// Names what lives on a host's data node and no startup script makes again, as it is accepted.
    pub fn unprovided(&self, host: usize) -> Option<String> {
        let data = |n: &usize| self.nodes[*n].spec.role == NodeRole::DataNode && self.nodes[*n].up;
        let node = self.of_host(host).find(data).filter(|_| self.hosts[host].scratch)?;
        Some(format!("{}/shared_table/scratch", self.nodes[node].spec.alias))
    }

    fn recover(&mut self, now_ms: u64) {
        if self.leader.is_none() {
            return;
        }
        for chunk in &mut self.chunks {
            let current =
                |(node, version): &(usize, u64)| *version == chunk.version && self.nodes[*node].up;
            if !chunk.replicas.iter().any(current) {
                continue;
            }
            for (node, version) in &mut chunk.replicas {
                let ready = self.nodes[*node].up
                    && now_ms.saturating_sub(self.nodes[*node].since_ms) >= self.recovery_ms;
                if ready {
                    *version = chunk.version;
                }
            }
        }
    }

    /// Writes one row to a chunk. True when it is acknowledged.
    pub fn write(&mut self, chunk: usize) -> bool {
        if self.leader.is_none() {
            return false;
        }
        let chunk = &mut self.chunks[chunk];
        let current: Vec<usize> = (0..chunk.replicas.len())
            .filter(|r| {
                let (node, version) = chunk.replicas[*r];
                version == chunk.version && self.nodes[node].up
            })
            .collect();
        if current.is_empty() {
            return false;
        }
        chunk.version += 1;
        for replica in current {
            chunk.replicas[replica].1 = chunk.version;
        }
        true
    }

    /// Tells whether a chunk has a current replica on a live node, hosts in `without` left out.
    pub fn readable(&self, chunk: &Chunk, without: Option<usize>) -> bool {
        chunk.replicas.iter().any(|(node, version)| {
            let one = &self.nodes[*node];
            one.up && *version == chunk.version && Some(one.host) != without
        })
    }

    /// Tells whether all is well: every node up, except on hosts that were attested as gone, a leader, every
    /// replica current.
    pub fn whole(&self, gone: &[usize]) -> bool {
        self.leader.is_some()
            && self.nodes.iter().all(|n| n.up || gone.contains(&n.host))
            && self.chunks.iter().all(|c| c.replicas.iter().all(|(_, v)| *v == c.version))
    }
}

fn machine(number: usize, units_on: bool) -> Host {
    Host {
        id: HostId::new(format!("db{}", number + 1)).expect("a short plain name"),
        on: true,
        dead: false,
        boot: 1,
        tree: Tree::Old,
        rewritten: false,
        interlock: false,
        units_on,
        units_before: units_on,
        staged: false,
        backup: None,
        ran_ms: 0,
        full: false,
        memory_there: true,
        forgets_memory: false,
        scratch: false,
        helper_until: None,
    }
}

/// Reads a version that is known to be well-formed.
pub fn version(text: &str) -> DdbVersion {
    text.parse().expect("a well-formed version")
}
