//! Who runs where in a lab: pure arithmetic from the options to hosts, nodes, addresses and aliases.
//!
//! Names and ports follow the document that the whole project starts from: host number 1 is
//! `host43` at `127.a.b.43`, its DolphinDB controller `HActl43` listens on 8920, its DolphinDB agent
//! `agent43` on 8921, its data nodes `node43`, `node43b`, … from 8922 on, its compute nodes
//! `cnode43`, … from 8930 on. A second cluster on the same hosts has ports 100 higher and `c2` before
//! its aliases.

use std::fmt;

use serde::{Deserialize, Serialize};
use standin::config::{Role, Site};

/// Last byte of the address of host number 1, less one.
const FIRST_OCTET: u16 = 42;
/// Ports of a host's nodes in the first cluster.
const CONTROLLER_PORT: u16 = 8920;
const DDB_AGENT_PORT: u16 = 8921;
const DATA_PORT: u16 = 8922;
const COMPUTE_PORT: u16 = 8930;
/// Distance between the ports of two clusters.
const CLUSTER_STRIDE: u16 = 100;
/// Where coordinators listen.
const COORDINATOR_PORT: u16 = 7430;
/// Between two looks of a host agent, unless asked otherwise.
const LOOK_INTERVAL_MS: u32 = 300;
/// Data nodes that fit between their first port and the compute nodes'.
const DATA_NODES_MAX: u8 = 8;

/// What a lab should look like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct Options {
    /// Hosts with data nodes.
    #[arg(long, default_value_t = 3)]
    pub hosts: u8,
    /// DolphinDB controllers of each cluster.
    #[arg(long, default_value_t = 3)]
    pub controllers: u8,
    /// Put the controllers on hosts of their own, without a DolphinDB agent.
    #[arg(long)]
    pub dedicated_controllers: bool,
    /// Data nodes on each host.
    #[arg(long, default_value_t = 1)]
    pub data_nodes_per_host: u8,
    /// Compute nodes on each host.
    #[arg(long, default_value_t = 0)]
    pub compute_nodes_per_host: u8,
    /// Installed version.
    #[arg(long, default_value = "2.00.8.10")]
    pub version: String,
    /// Grayfin coordinators.
    #[arg(long, default_value_t = 1)]
    pub coordinators: u8,
    /// So many of them form the group; the others run and wait to be added. All, if not given.
    #[arg(long, value_name = "N")]
    pub joined: Option<u8>,
    /// Clusters on the same hosts.
    #[arg(long, default_value_t = 1)]
    pub clusters: u8,
    /// Factor on the stand-in's times; 1 is the documented timing.
    #[arg(long, default_value_t = 0.1)]
    pub time_scale: f64,
    /// Replicas of each chunk.
    #[arg(long, default_value_t = 2)]
    pub replication: u8,
    /// More lines for every controller.cfg, as `key=value`; a later one wins.
    #[arg(long, value_name = "KEY=VALUE")]
    pub controller_cfg: Vec<String>,
    /// More lines for every cluster.cfg, as `[alias.]key=value`; a later one wins.
    #[arg(long, value_name = "KEY=VALUE")]
    pub cluster_cfg: Vec<String>,
    /// Between two looks of a host agent. A third of a second finds things soon and costs little; the
    /// shipped default is 5000.
    #[arg(long, default_value_t = LOOK_INTERVAL_MS)]
    pub look_interval_ms: u32,
    /// More lines for every agent.toml's `[[installation]]`, as `key=value` in TOML.
    #[arg(long, value_name = "KEY=VALUE")]
    pub installation_cfg: Vec<String>,
    /// More lines for the coordinators' `[policy]`, as `key=value` in TOML.
    #[arg(long, value_name = "KEY=VALUE")]
    pub policy_cfg: Vec<String>,
    /// Host agents and coordinators reach each coordinator through [`Lab::relay`](crate::Lab::relay),
    /// which the program that brings the lab up runs itself.
    #[arg(skip)]
    #[serde(default)]
    pub relayed: bool,
    /// Give every machine a network of its own, joined by a bridge: links can then be cut. For root.
    #[arg(long)]
    #[serde(default)]
    pub netns: bool,
    /// Bring up the database's side only.
    #[arg(long)]
    pub no_grayfin: bool,
    /// Do without namespaces even where they can be had.
    #[arg(long)]
    pub no_namespaces: bool,
}

impl Default for Options {
    /// The same as the command line's.
    fn default() -> Self {
        Self {
            hosts: 3,
            controllers: 3,
            dedicated_controllers: false,
            data_nodes_per_host: 1,
            compute_nodes_per_host: 0,
            version: "2.00.8.10".to_owned(),
            coordinators: 1,
            joined: None,
            clusters: 1,
            time_scale: 0.1,
            replication: 2,
            controller_cfg: Vec::new(),
            cluster_cfg: Vec::new(),
            look_interval_ms: LOOK_INTERVAL_MS,
            installation_cfg: Vec::new(),
            policy_cfg: Vec::new(),
            relayed: false,
            netns: false,
            no_grayfin: false,
            no_namespaces: false,
        }
    }
}

/// The /24 of loopback that a lab has for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Second byte.
    pub a: u8,
    /// Third byte.
    pub b: u8,
}

impl Range {
    /// The address with this last byte.
    pub fn address(self, last: u8) -> String {
        format!("127.{}.{}.{last}", self.a, self.b)
    }

    /// The same where every machine has a network of its own.
    pub fn net_address(self, last: u8) -> String {
        format!("10.{}.{}.{last}", self.a, self.b)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "127.{}.{}.0/24", self.a, self.b)
    }
}

/// A machine that runs nodes of the database and a host agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// From 1.
    pub number: u8,
    /// `host43`.
    pub name: String,
    /// `127.a.b.43`.
    pub address: String,
}

/// A machine that runs a coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinator {
    /// From 1; also its id in the group.
    pub number: u8,
    /// `coordinator1`.
    pub name: String,
    /// `127.a.b.1:7430`.
    pub address: String,
}

impl Coordinator {
    /// Where a relay in front of it listens: the next port.
    pub fn relay_address(&self) -> String {
        let (host, port) = self.address.rsplit_once(':').unwrap_or((&self.address, "0"));
        format!("{host}:{}", port.parse::<u16>().unwrap_or(0).saturating_add(1))
    }
}

/// One process of the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Where it listens, and its alias.
    pub site: Site,
    /// What it is.
    pub role: Role,
    /// Number of its host.
    pub host: u8,
    /// Number of its cluster, from 1.
    pub cluster: u8,
}

impl Node {
    /// The alias.
    pub fn alias(&self) -> &str {
        &self.site.alias
    }
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// From 1.
    pub number: u8,
    /// The name Grayfin knows it by.
    pub name: String,
    /// Every node, controllers first.
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// The nodes of a role.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.role == role)
    }

    /// The node on a host with a role, the first one where there are several.
    pub fn on_host(&self, host: u8, role: Role) -> Option<&Node> {
        self.nodes.iter().find(|node| node.host == host && node.role == role)
    }

    /// Name of the cluster's installation folder on a host: `ddb`, `ddb2`, ….
    pub fn installation(&self) -> String {
        if self.number == 1 { "ddb".to_owned() } else { format!("ddb{}", self.number) }
    }

    /// Data and compute nodes, which only the leading controller can start.
    pub fn started_by_leader(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| matches!(node.role, Role::DataNode | Role::ComputeNode))
    }
}

/// Everything in a lab.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    /// Its addresses.
    pub range: Range,
    /// Machines with nodes, by number.
    pub hosts: Vec<Host>,
    /// Machines with coordinators, by number.
    pub coordinators: Vec<Coordinator>,
    /// Clusters, by number.
    pub clusters: Vec<Cluster>,
}

impl Topology {
    /// Lays a lab out; `Err` says which options do not go together.
    pub fn new(options: &Options, range: Range) -> Result<Self, String> {
        check(options)?;
        let dedicated = if options.dedicated_controllers { options.controllers } else { 0 };
        let total = options.hosts + dedicated;
        let at = |last: u8| {
            if options.netns { range.net_address(last) } else { range.address(last) }
        };
        let hosts: Vec<Host> = (1..=total).map(|number| host(number, at)).collect();
        let clusters =
            (1..=options.clusters).map(|number| cluster(number, options, &hosts)).collect();
        let coordinators = (1..=options.coordinators)
            .filter(|_| !options.no_grayfin)
            .map(|number| Coordinator {
                number,
                name: format!("coordinator{number}"),
                address: format!("{}:{COORDINATOR_PORT}", at(number)),
            })
            .collect();
        Ok(Self { range, hosts, coordinators, clusters })
    }

    /// Every node of every cluster.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.clusters.iter().flat_map(|cluster| &cluster.nodes)
    }

    /// The node with an alias.
    pub fn node(&self, alias: &str) -> Option<&Node> {
        self.nodes().find(|node| node.alias() == alias)
    }

    /// The host with a number.
    pub fn host(&self, number: u8) -> Option<&Host> {
        self.hosts.iter().find(|host| host.number == number)
    }

    /// The coordinator with a number.
    pub fn coordinator(&self, number: u8) -> Option<&Coordinator> {
        self.coordinators.iter().find(|coordinator| coordinator.number == number)
    }

    /// The cluster with a number.
    pub fn cluster(&self, number: u8) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| cluster.number == number)
    }

    /// Names of all machines.
    pub fn machines(&self) -> impl Iterator<Item = &str> {
        let hosts = self.hosts.iter().map(|host| host.name.as_str());
        hosts.chain(self.coordinators.iter().map(|coordinator| coordinator.name.as_str()))
    }
}

/// Refuses options that make no cluster.
fn check(options: &Options) -> Result<(), String> {
    let total = u16::from(options.hosts)
        + if options.dedicated_controllers { u16::from(options.controllers) } else { 0 };
    if options.hosts == 0 || total + FIRST_OCTET > 254 {
        return Err(format!("{total} hosts do not fit: 1 to {}", 254 - FIRST_OCTET));
    }
    if options.controllers == 0 {
        return Err("a cluster has at least one controller".to_owned());
    }
    if options.controllers > options.hosts && !options.dedicated_controllers {
        let (controllers, hosts) = (options.controllers, options.hosts);
        return Err(format!("{controllers} controllers need as many hosts, not {hosts}"));
    }
    if options.data_nodes_per_host > DATA_NODES_MAX {
        return Err(format!("at most {DATA_NODES_MAX} data nodes fit on a host"));
    }
    if options.clusters == 0 || options.clusters > 9 {
        return Err("1 to 9 clusters fit".to_owned());
    }
    if options.coordinators > 9 {
        return Err("at most 9 coordinators fit".to_owned());
    }
    if options.joined.is_some_and(|joined| joined == 0 || joined > options.coordinators) {
        return Err("of the coordinators at least one forms the group, and at most all".to_owned());
    }
    if !options.no_grayfin && options.coordinators == 0 {
        return Err("without coordinators there is no Grayfin: use --no-grayfin".to_owned());
    }
    if !(options.time_scale.is_finite() && options.time_scale > 0.0) {
        return Err(format!("the time scale {} is not a positive number", options.time_scale));
    }
    Ok(())
}

fn octet(number: u8) -> u8 {
    u8::try_from(FIRST_OCTET + u16::from(number)).unwrap_or(u8::MAX)
}

fn host(number: u8, at: impl Fn(u8) -> String) -> Host {
    let octet = octet(number);
    Host { number, name: format!("host{octet}"), address: at(octet) }
}

fn cluster(number: u8, options: &Options, hosts: &[Host]) -> Cluster {
    let prefix = if number == 1 { String::new() } else { format!("c{number}") };
    let offset = CLUSTER_STRIDE * u16::from(number - 1);
    let node = |host: &Host, role: Role, word: &str, port: u16, letter: u8| Node {
        site: Site {
            host: host.address.clone(),
            port: port + offset + u16::from(letter),
            alias: format!("{prefix}{word}{}{}", octet(host.number), suffix(letter)),
        },
        role,
        host: host.number,
        cluster: number,
    };
    let (data_hosts, more) = hosts.split_at(usize::from(options.hosts));
    let controller_hosts = if options.dedicated_controllers {
        more
    } else {
        data_hosts.get(..usize::from(options.controllers)).unwrap_or(data_hosts)
    };
    let mut nodes = Vec::new();
    for host in controller_hosts {
        nodes.push(node(host, Role::Controller, "HActl", CONTROLLER_PORT, 0));
    }
    for host in data_hosts {
        nodes.push(node(host, Role::DdbAgent, "agent", DDB_AGENT_PORT, 0));
    }
    for host in data_hosts {
        for letter in 0..options.data_nodes_per_host {
            nodes.push(node(host, Role::DataNode, "node", DATA_PORT, letter));
        }
    }
    for host in data_hosts {
        for letter in 0..options.compute_nodes_per_host {
            nodes.push(node(host, Role::ComputeNode, "cnode", COMPUTE_PORT, letter));
        }
    }
    let name = if number == 1 { "trade".to_owned() } else { format!("trade{number}") };
    Cluster { number, name, nodes }
}

/// Nothing for the first, then `b`, `c`, ….
fn suffix(letter: u8) -> String {
    if letter == 0 { String::new() } else { char::from(b'a' + letter.min(25)).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: Range = Range { a: 77, b: 8 };

    fn sites(topology: &Topology) -> Vec<String> {
        topology.nodes().map(|node| format!("{},{}", node.site, node.role)).collect()
    }

    #[test]
    fn the_default_is_the_documents_cluster() {
        let topology = Topology::new(&Options::default(), RANGE).unwrap();
        let expected = [
            "127.77.8.43:8920:HActl43,controller",
            "127.77.8.44:8920:HActl44,controller",
            "127.77.8.45:8920:HActl45,controller",
            "127.77.8.43:8921:agent43,agent",
            "127.77.8.44:8921:agent44,agent",
            "127.77.8.45:8921:agent45,agent",
            "127.77.8.43:8922:node43,datanode",
            "127.77.8.44:8922:node44,datanode",
            "127.77.8.45:8922:node45,datanode",
        ];
        assert_eq!(sites(&topology), expected);
        assert_eq!(topology.coordinators[0].address, "127.77.8.1:7430");
    }

    #[test]
    fn more_nodes_per_host_and_two_clusters_never_clash() {
        let options = Options {
            hosts: 5,
            controllers: 5,
            data_nodes_per_host: 2,
            compute_nodes_per_host: 2,
            clusters: 2,
            ..Options::default()
        };
        let topology = Topology::new(&options, RANGE).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for node in topology.nodes() {
            assert!(seen.insert(node.site.address()), "{}", node.site);
            assert!(seen.insert(node.alias().to_owned()), "{}", node.site);
        }
        assert_eq!(topology.node("node43b").unwrap().site.port, 8923);
        assert_eq!(topology.node("cnode43").unwrap().site.port, 8930);
        assert_eq!(topology.node("c2node44").unwrap().site.port, 9022);
        assert_eq!(topology.clusters[1].installation(), "ddb2");
    }

    #[test]
    fn dedicated_controllers_have_hosts_without_an_agent() {
        let options = Options { dedicated_controllers: true, ..Options::default() };
        let topology = Topology::new(&options, RANGE).unwrap();
        assert_eq!(topology.hosts.len(), 6);
        let cluster = &topology.clusters[0];
        assert!(cluster.on_host(4, Role::Controller).is_some());
        assert!(cluster.on_host(4, Role::DdbAgent).is_none());
        assert!(cluster.on_host(1, Role::Controller).is_none());
        assert_eq!(topology.node("HActl46").unwrap().host, 4);
    }

    #[test]
    fn impossible_options_are_refused() {
        let base = Options::default();
        for options in [
            Options { hosts: 0, ..base.clone() },
            Options { hosts: 213, ..base.clone() },
            Options { controllers: 0, ..base.clone() },
            Options { controllers: 4, ..base.clone() },
            Options { data_nodes_per_host: 9, ..base.clone() },
            Options { clusters: 0, ..base.clone() },
            Options { coordinators: 0, ..base.clone() },
            Options { time_scale: 0.0, ..base.clone() },
            Options { time_scale: f64::NAN, ..base },
        ] {
            assert!(Topology::new(&options, RANGE).is_err(), "{options:?}");
        }
    }
}
