//! A lab: machines with a cluster of the stand-in database, host agents and coordinators.
//!
//! [`Lab::up`] makes one in a folder; [`Lab::open`] finds one that another process made. A lab made by
//! [`Lab::up`] belongs to its maker and goes when the maker does, by whatever end, until
//! [`Lab::leave_running`] says otherwise. What runs is always read from the machines themselves, so that
//! several processes can use one lab at once.

mod config;
mod control;
mod database;
pub(crate) mod grayfin;
mod health;
pub(crate) mod net;
mod paths;
mod status;
mod up;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use crate::ddb::Ddb;
use crate::hostns::{self, Isolation, Machine};
use crate::observer::{Observer, Watched};
use crate::processes::{self, ProcessId};
use crate::range;
use crate::relay::Relay;
use crate::topology::{Cluster, Host, Node, Options, Topology};

pub use control::Target;
pub use paths::Paths;
pub use status::{MachineStatus, NodeStatus, Status};

/// What `lab.json` keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) options: Options,
    pub(crate) topology: Topology,
    pub(crate) isolation: Isolation,
}

/// A lab.
#[derive(Debug)]
pub struct Lab {
    paths: Paths,
    spec: Spec,
    /// Connections that keep the machines on; empty for a lab that is not ours.
    owned: Mutex<Vec<UnixStream>>,
    /// True while dropping this takes the lab down.
    ours: bool,
    /// One in front of each coordinator, if the options say so and this program brought it up.
    relays: Vec<Relay>,
}

impl Lab {
    /// Brings a lab up in a folder that does not exist or is empty; returns when it is healthy.
    pub async fn up(folder: &Path, options: &Options) -> anyhow::Result<Self> {
        up::bring_up(folder, options).await
    }

    /// Finds a lab that was brought up before.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let paths = Paths::of_existing(folder)?;
        let text = std::fs::read(paths.spec())
            .with_context(|| format!("`{}` is not a lab: no lab.json", folder.display()))?;
        let spec = serde_json::from_slice(&text)
            .with_context(|| format!("read `{}`", paths.spec().display()))?;
        Ok(Self { paths, spec, owned: Mutex::default(), ours: false, relays: Vec::new() })
    }

    /// Lets the lab live on without its maker.
    pub async fn leave_running(mut self) -> anyhow::Result<()> {
        let owned = self.owned.get_mut().map(std::mem::take).unwrap_or_default();
        for mut stream in owned {
            hostns::disown(&mut stream).await?;
        }
        self.ours = false;
        Ok(())
    }

    /// Takes the lab down: no process, no mount, no lock and no file of it is left.
    pub fn down(mut self) -> anyhow::Result<()> {
        self.ours = false;
        self.power_off()?;
        std::fs::remove_dir_all(self.paths.root())
            .with_context(|| format!("remove `{}`", self.paths.root().display()))
    }

    /// Takes the lab down but keeps its files, for a look at what went wrong.
    pub fn down_keeping_files(mut self) -> anyhow::Result<PathBuf> {
        self.ours = false;
        self.power_off()?;
        Ok(self.paths.root().to_path_buf())
    }

    /// Switches every machine off and gives the addresses back.
    fn power_off(&self) -> anyhow::Result<()> {
        for name in self.spec.topology.machines() {
            self.machine(name).cut_power()?;
        }
        self.cut_the_switch()?;
        for process in processes::belonging_to(self.paths.root(), &self.paths.programs()) {
            process.signal(rustix::process::Signal::KILL);
        }
        range::forget(self.spec.topology.range);
        Ok(())
    }

    /// The relay in front of a coordinator, for host agents and other coordinators.
    pub fn relay(&self, coordinator: u8) -> anyhow::Result<&Relay> {
        let place = usize::from(coordinator).checked_sub(1);
        place
            .and_then(|place| self.relays.get(place))
            .context("this lab has no such relay, or another program runs it")
    }

    /// Its folders.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Who is where.
    pub fn topology(&self) -> &Topology {
        &self.spec.topology
    }

    /// What it was asked to be.
    pub fn options(&self) -> &Options {
        &self.spec.options
    }

    /// How its machines are kept apart.
    pub fn isolation(&self) -> Isolation {
        self.spec.isolation
    }

    /// The host with a number, from 1.
    pub fn host(&self, number: u8) -> anyhow::Result<&Host> {
        self.spec.topology.host(number).with_context(|| format!("there is no host {number}"))
    }

    /// The node with an alias.
    pub fn node(&self, alias: &str) -> anyhow::Result<NodeHandle<'_>> {
        let node = self.spec.topology.node(alias);
        let node = node.with_context(|| format!("there is no node `{alias}`"))?;
        Ok(NodeHandle { lab: self, node })
    }

    /// The first cluster.
    pub fn cluster(&self) -> &Cluster {
        self.spec.topology.clusters.first().expect("a topology has at least one cluster")
    }

    /// A client of the node with an alias, logged in as the administrator.
    pub fn ddb(&self, alias: &str) -> anyhow::Result<Ddb> {
        Ok(Ddb::at(self.node(alias)?.node.site.address()))
    }

    /// The machine with a name (`host43`, `coordinator1`).
    pub fn machine(&self, name: &str) -> Machine {
        Machine::new(self.paths.machine(name), self.paths.programs(), self.spec.isolation)
    }

    /// Every node, as an observer looks for it.
    pub(crate) fn watched(&self) -> Vec<Watched> {
        let mut watched = Vec::new();
        for cluster in &self.spec.topology.clusters {
            for node in &cluster.nodes {
                let Some(host) = self.spec.topology.host(node.host) else { continue };
                watched.push(Watched {
                    alias: node.alias().to_owned(),
                    role: node.role,
                    host: host.name.clone(),
                    cluster: cluster.name.clone(),
                    address: node.site.address(),
                    server: self.paths.server(&host.name, cluster),
                });
            }
        }
        watched
    }

    /// Starts an observer of all nodes; it looks until it is dropped or stopped.
    pub fn observer(&self) -> anyhow::Result<Observer> {
        Observer::start(self.watched(), self.spec.topology.clusters.clone())
    }

    /// The lock that keeps two programs from changing one lab at a time.
    pub(crate) fn lock(&self) -> anyhow::Result<File> {
        let path = self.paths.lock();
        let file = File::create(&path).with_context(|| format!("open `{}`", path.display()))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .context("wait for the lab's lock")?;
        Ok(file)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        if let Err(error) = self.power_off() {
            tracing::error!(error = format!("{error:#}"), "the lab did not go down");
        }
        if std::thread::panicking() {
            tracing::warn!(folder = %self.paths.root().display(), "the lab's files are kept");
        } else if let Err(error) = std::fs::remove_dir_all(self.paths.root()) {
            tracing::error!(%error, "the lab's files could not be removed");
        }
    }
}

/// One node of a lab.
#[derive(Debug, Clone, Copy)]
pub struct NodeHandle<'lab> {
    lab: &'lab Lab,
    /// Where it is.
    pub node: &'lab Node,
}

impl NodeHandle<'_> {
    /// Its processes as seen from outside; more than one while an old one lingers.
    pub fn processes(&self) -> Vec<ProcessId> {
        crate::observer::processes_of(&self.lab.watched(), self.node.alias())
    }

    /// The number of its process as seen from outside, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.processes().first().map(|process| process.pid)
    }

    /// A client of it, logged in as the administrator.
    pub fn ddb(&self) -> Ddb {
        Ddb::at(self.node.site.address())
    }
}
