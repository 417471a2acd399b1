//! Doing things to a lab: killing, starting again, making nodes misbehave.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;
use standin::config::Role;
use standin::faults::{Faults, Kind};
use tokio::net::UnixStream;

use super::Lab;
use crate::hostns;
use crate::processes::ProcessId;
use crate::range;
use crate::topology::{Host, Node};
use crate::wait;

/// For a killed process to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// What can be killed and started again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `coordinator:N`
    Coordinator(u8),
    /// `agent:N`: the host agent of host N.
    Agent(u8),
    /// `node:ALIAS`
    Node(String),
    /// `host:N`: the whole machine.
    Host(u8),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not coordinator:N, agent:N, node:ALIAS or host:N");
        let (kind, which) = text.split_once(':').ok_or_else(bad)?;
        let number = || which.parse::<u8>().map_err(|_ignored| bad());
        match kind {
            "coordinator" => number().map(Self::Coordinator),
            "agent" => number().map(Self::Agent),
            "host" => number().map(Self::Host),
            "node" if !which.is_empty() => Ok(Self::Node(which.to_owned())),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(number) => write!(out, "coordinator:{number}"),
            Self::Agent(number) => write!(out, "agent:{number}"),
            Self::Node(alias) => write!(out, "node:{alias}"),
            Self::Host(number) => write!(out, "host:{number}"),
        }
    }
}

impl Lab {
    /// Kills with SIGKILL and waits until it is gone; a host loses everything at once.
    pub async fn kill(&self, target: &Target) -> anyhow::Result<()> {
        match target {
            Target::Host(number) => self.machine(&self.host(*number)?.name).cut_power(),
            Target::Coordinator(_) | Target::Agent(_) | Target::Node(_) => {
                let processes = self.processes_of(target).await?;
                anyhow::ensure!(!processes.is_empty(), "`{target}` does not run");
                self.end(&processes, Signal::KILL).await
            }
        }
    }

    /// Starts again, killing first what still runs. A host is switched on and starts everything that
    /// it has; data and compute nodes come up if a leading controller can start them.
    pub async fn restart(&self, target: &Target) -> anyhow::Result<()> {
        match target {
            Target::Host(number) => {
                let host = self.host(*number)?;
                self.machine(&host.name).cut_power()?;
                self.switch_on(&host.name).await?;
                self.boot(host).await
            }
            Target::Coordinator(number) => {
                self.end(&self.processes_of(target).await?, Signal::KILL).await?;
                self.start_coordinator(*number).await
            }
            Target::Agent(number) => {
                self.end(&self.processes_of(target).await?, Signal::KILL).await?;
                self.start_agent(self.host(*number)?).await
            }
            Target::Node(alias) => {
                self.end(&self.processes_of(target).await?, Signal::KILL).await?;
                self.start_node(self.node(alias)?.node).await
            }
        }
    }

    /// Starts a host agent or a coordinator again with more variables in its environment, as tests
    /// of crashes need it.
    pub async fn restart_with(
        &self,
        target: &Target,
        variables: &BTreeMap<String, String>,
    ) -> anyhow::Result<()> {
        self.end(&self.processes_of(target).await?, Signal::KILL).await?;
        match target {
            Target::Agent(number) => self.start_agent_with(self.host(*number)?, variables).await,
            Target::Coordinator(number) => self.start_coordinator_with(*number, variables).await,
            Target::Node(_) | Target::Host(_) => {
                anyhow::bail!("`{target}` takes no variables")
            }
        }
    }

    /// Sends a signal to a process of the lab; a host cannot be signalled.
    pub async fn signal(&self, target: &Target, signal: Signal) -> anyhow::Result<()> {
        let processes = self.processes_of(target).await?;
        anyhow::ensure!(!processes.is_empty(), "`{target}` does not run");
        for process in processes {
            process.signal(signal);
        }
        Ok(())
    }

    /// The processes of a target, as seen from outside.
    pub async fn processes_of(&self, target: &Target) -> anyhow::Result<Vec<ProcessId>> {
        match target {
            Target::Host(number) => Ok(self.machine(&self.host(*number)?.name).remains()),
            Target::Node(alias) => Ok(self.node(alias)?.processes()),
            Target::Agent(number) => {
                let machine = self.machine(&self.host(*number)?.name);
                Ok(machine.find(super::grayfin::AGENT).await?.into_iter().collect())
            }
            Target::Coordinator(number) => {
                let name = &self.coordinator(*number)?.name;
                let found = self.machine(name).find(super::grayfin::COORDINATOR).await?;
                Ok(found.into_iter().collect())
            }
        }
    }

    /// Starts one node the way it is meant to be started.
    pub async fn start_node(&self, node: &Node) -> anyhow::Result<()> {
        match node.role {
            Role::Controller | Role::DdbAgent => self.start_by_script(node).await,
            Role::DataNode | Role::ComputeNode => {
                self.start_by_leader(self.cluster_of(node)?, &[node.alias()]).await
            }
        }
    }

    /// Switches a machine on; nothing of the database or of Grayfin runs on it yet. It goes with the
    /// lab's maker if that is this program, and lives on otherwise.
    pub async fn switch_on(&self, machine: &str) -> anyhow::Result<()> {
        let claim = range::claim_again(self.spec.topology.range);
        let mut owner = self.machine(machine).switch_on(claim).await?;
        self.plug_in(machine)?;
        if self.ours {
            self.keep(owner);
            return Ok(());
        }
        hostns::disown(&mut owner).await
    }

    /// Keeps a machine on for as long as this program runs.
    pub(super) fn keep(&self, owner: UnixStream) {
        match self.owned.lock() {
            Ok(mut owned) => owned.push(owner),
            Err(poisoned) => poisoned.into_inner().push(owner),
        }
    }

    /// Starts everything that a host has, as its boot would.
    async fn boot(&self, host: &Host) -> anyhow::Result<()> {
        if !self.spec.options.no_grayfin {
            self.start_agent(host).await?;
        }
        for cluster in &self.spec.topology.clusters {
            for role in [Role::Controller, Role::DdbAgent] {
                if let Some(node) = cluster.on_host(host.number, role) {
                    self.start_by_script(node).await?;
                }
            }
            let aliases: Vec<&str> = cluster
                .started_by_leader()
                .filter(|node| node.host == host.number)
                .map(Node::alias)
                .collect();
            if aliases.is_empty() {
                continue;
            }
            let limit = self.limit(Duration::from_secs(60));
            let what = format!("{} to be started by the leader", aliases.join(", "));
            wait::until(&what, limit, || async {
                self.start_by_leader(cluster, &aliases).await.map_err(|error| format!("{error:#}"))
            })
            .await?;
        }
        Ok(())
    }

    /// Makes a node misbehave from now on; some kinds take an argument, some happen once.
    pub fn fault(&self, alias: &str, kind: Kind, argument: &str) -> anyhow::Result<()> {
        self.faults(alias)?
            .set(kind, argument)
            .with_context(|| format!("set the fault `{}` of `{alias}`", kind.name()))
    }

    /// Lets a node behave again.
    pub fn clear_fault(&self, alias: &str, kind: Kind) -> anyhow::Result<()> {
        self.faults(alias)?
            .clear(kind)
            .with_context(|| format!("clear the fault `{}` of `{alias}`", kind.name()))
    }

    /// The faults of a node.
    pub fn faults(&self, alias: &str) -> anyhow::Result<Faults> {
        Ok(Faults::of(self.home(self.node(alias)?.node)?))
    }

    /// A node's home folder.
    pub fn home(&self, node: &Node) -> anyhow::Result<PathBuf> {
        let work = self.paths.work(&self.host(node.host)?.name, self.cluster_of(node)?);
        Ok(work.join("data").join(node.alias()))
    }

    async fn end(&self, processes: &[ProcessId], signal: Signal) -> anyhow::Result<()> {
        for process in processes {
            process.signal(signal);
        }
        wait::until_true("the processes to be gone", GONE_LIMIT, || async {
            processes.iter().all(|process| !process.is_alive())
        })
        .await
    }

    /// The coordinator with a number.
    pub fn coordinator(&self, number: u8) -> anyhow::Result<&crate::topology::Coordinator> {
        self.spec
            .topology
            .coordinator(number)
            .with_context(|| format!("there is no coordinator {number}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_back() {
        for text in ["coordinator:1", "agent:2", "node:HActl43", "host:3"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in ["coordinator", "agent:x", "node:", "server:1", "host:300"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
