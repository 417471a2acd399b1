//! What runs in a lab, read from the machines themselves.

use std::time::Duration;

use serde::Serialize;
use standin::config::Role;

use super::Lab;
use crate::processes;

/// One machine.
#[derive(Debug, Clone, Serialize)]
pub struct MachineStatus {
    /// `host43`, `coordinator1`.
    pub name: String,
    /// It is switched on.
    pub on: bool,
    /// Number of Grayfin's process on it, as seen from outside.
    pub grayfin_pid: Option<i32>,
}

/// One node.
#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    /// Alias.
    pub alias: String,
    /// Role.
    pub role: Role,
    /// Name of its host.
    pub host: String,
    /// Name of its cluster.
    pub cluster: String,
    /// `host:port`.
    pub address: String,
    /// Number of its process, as seen from outside.
    pub pid: Option<i32>,
    /// Its port is open.
    pub listening: bool,
    /// What it answers to `version()`.
    pub version: Option<String>,
    /// It leads its cluster's controllers.
    pub leads: bool,
}

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// How machines are kept apart.
    pub isolation: &'static str,
    /// Machines.
    pub machines: Vec<MachineStatus>,
    /// Nodes.
    pub nodes: Vec<NodeStatus>,
}

impl Lab {
    /// Looks at everything once.
    pub async fn status(&self) -> anyhow::Result<Status> {
        let mut machines = Vec::new();
        for name in self.spec.topology.machines() {
            let machine = self.machine(name);
            let mut pid = None;
            for program in [super::grayfin::AGENT, super::grayfin::COORDINATOR] {
                if let Ok(Some(process)) = machine.find(program).await {
                    pid = Some(process.pid);
                }
            }
            let (name, on) = (name.to_owned(), machine.is_on());
            machines.push(MachineStatus { name, on, grayfin_pid: pid });
        }
        let listening = processes::listening();
        let mut nodes = Vec::new();
        for cluster in &self.spec.topology.clusters {
            let leader = self.leader(cluster).await.ok().map(|node| node.alias().to_owned());
            for node in &cluster.nodes {
                let handle = self.node(node.alias())?;
                let client = handle.ddb().as_guest().within(Duration::from_secs(1));
                let open = listening.contains(&node.site.address());
                let version = if open { client.text("version()").await.ok() } else { None };
                nodes.push(NodeStatus {
                    alias: node.alias().to_owned(),
                    role: node.role,
                    host: self.host(node.host)?.name.clone(),
                    cluster: cluster.name.clone(),
                    address: node.site.address(),
                    pid: handle.pid(),
                    listening: open,
                    version,
                    leads: leader.as_deref() == Some(node.alias()),
                });
            }
        }
        Ok(Status { isolation: self.spec.isolation.describe(), machines, nodes })
    }
}
