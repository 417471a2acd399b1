//! Looking: what is true on this host and, when this host is the observer, in its cluster.
//!
//! [`Prober`] gathers [`HostFacts`](grayfin_types::facts::HostFacts) and
//! [`ClusterFacts`](grayfin_types::facts::ClusterFacts), and answers the single questions that steps
//! have. It never acts by itself; the few commands that steps need from DolphinDB (start and stop
//! data nodes, flush caches) are here too, because they use the same accounts and connections.
//!
//! - [`credentials`]: the two accounts; a refused login is not tried again.
//! - [`files`]: DolphinDB's configuration files. `live`: the running configuration.
//! - [`processes`]: which process is which node. [`marker`]: the start marker in logs.
//! - `node`: version, readiness, leader of one node. `chunks`: the rationed scan.
//! - `settings`, `memory`, `surroundings`: what a host would have to back up, would lose, and has.
//! - `looks`: how the link sees all this. `port`: how the steps do.
//!
//! Whatever cannot be found out is unknown with a reason; unknown never means fine. Every call has a
//! deadline, and a look as a whole ends in bounded time.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use grayfin_types::{
    DdbVersion, HostId, NodeAlias,
    facts::{NodeRole, NodeSpec, Probe},
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

mod chunks;
mod cluster;
mod commands;
pub mod credentials;
mod effects;
pub mod files;
mod host;
mod live;
mod looks;
pub mod marker;
mod memory;
mod node;
mod pool;
mod port;
pub mod processes;
mod rights;
mod settings;
mod surroundings;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

pub use commands::CommandError;
pub use credentials::{Account, Credentials};
pub use looks::Looks;
pub use memory::Pending;
pub use node::Answer;
pub(crate) use pool::words;
pub use pool::{AskError, Lease, Pool, endpoint};
pub use port::ProbedNodes;

use crate::config::Installation;
use crate::ddb::{Call, Tls};
use files::{Configured, Nodes, Places};
use processes::{NodeProcess, Processes};

/// Nodes asked at the same time: a cluster of 300 nodes is asked in ten rounds.
const ASKED_AT_ONCE: usize = 32;
/// The live list of nodes is asked again after this time.
const LIVE_AGE_MAX: Duration = Duration::from_secs(30);

/// How long things may take.
#[derive(Debug, Clone)]
pub struct Options {
    /// For one question to one node.
    pub probe: Duration,
    /// For one part of a chunk scan: a table of 10 million rows is built.
    pub scan: Duration,
    /// For starting and stopping data nodes and flushing caches.
    pub command: Duration,
    /// TLS towards the nodes, where they have it on.
    pub tls: Option<Tls>,
}

impl Default for Options {
    /// A healthy node answers in milliseconds, urgent calls even when it is busy.
    fn default() -> Self {
        Self {
            probe: Duration::from_secs(2),
            scan: Duration::from_secs(120),
            command: Duration::from_secs(60),
            tls: None,
        }
    }
}

/// How closely to look at the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Depth {
    /// Cheap: what changes, and what was found out earlier.
    Cheap,
    /// Everything, as for a preflight: the backup is weighed, and the package of this version is
    /// read through.
    Full {
        /// The version, if there is one already.
        package: Option<DdbVersion>,
    },
}

/// Looks at one installation and its cluster. Clones share everything.
#[derive(Debug, Clone)]
pub struct Prober(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: HostId,
    installation: Arc<Installation>,
    state_dir: PathBuf,
    options: Options,
    pool: Pool,
    looks: AtomicU64,
    memo: Mutex<Memo>,
    markers: marker::Markers,
    scanner: chunks::Scanner,
    /// `getClusterPerf` is asked once at a time.
    cluster_turn: tokio::sync::Mutex<()>,
    host_cache: host::Cache,
}

/// What is remembered between looks.
#[derive(Debug)]
struct Memo {
    places: Places,
    stamp: Vec<Option<(u64, u64, i64, i64)>>,
    configured: Option<Arc<Configured>>,
    live: Option<(Instant, Nodes)>,
}

/// What is on this host now, without any question to a node.
#[derive(Debug, Clone)]
pub(crate) struct Local {
    pub(crate) processes: Processes,
    pub(crate) configured: Arc<Configured>,
}

/// Who is in the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Topology {
    /// Every node, as the files name it or, without files, the live configuration.
    pub(crate) all: Vec<NodeSpec>,
    /// This host's.
    pub(crate) own: Vec<NodeSpec>,
    pub(crate) digest: Probe<String>,
    /// Processes of nodes that nobody configured.
    pub(crate) strangers: Vec<NodeProcess>,
}

impl Prober {
    /// Makes a prober; looks at nothing yet.
    pub fn new(
        host: HostId,
        installation: Arc<Installation>,
        state_dir: PathBuf,
        options: Options,
    ) -> Self {
        let credentials = Arc::new(Credentials::new(installation.credentials_file.clone()));
        let memo = Memo {
            places: Places::below(&installation.work_dir),
            stamp: Vec::new(),
            configured: None,
            live: None,
        };
        Self(Arc::new(Inner {
            host,
            pool: Pool::new(credentials, options.tls.clone()),
            installation,
            state_dir,
            options,
            looks: AtomicU64::new(0),
            memo: Mutex::new(memo),
            markers: marker::Markers::default(),
            scanner: chunks::Scanner::default(),
            cluster_turn: tokio::sync::Mutex::new(()),
            host_cache: host::Cache::default(),
        }))
    }

    /// Returns the installation.
    pub fn installation(&self) -> &Arc<Installation> {
        &self.0.installation
    }

    /// Returns the connections, for others who speak to the same cluster.
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// Returns every node of the cluster, as the configuration names it. Empty if that is unknown.
    pub async fn nodes(&self) -> Vec<NodeSpec> {
        let local = self.0.local().await;
        self.topology(&local).await.all
    }

    /// Returns the nodes of this host.
    pub async fn own_nodes(&self) -> Vec<NodeSpec> {
        let local = self.0.local().await;
        self.topology(&local).await.own
    }

    /// Returns the DolphinDB processes of this installation, or why that is unknown.
    pub async fn processes(&self) -> Result<Vec<NodeProcess>, String> {
        self.0.local().await.processes.all
    }

    /// Finds a node by its alias.
    pub async fn node(&self, alias: &NodeAlias) -> Result<NodeSpec, String> {
        let found = self.nodes().await.into_iter().find(|spec| &spec.alias == alias);
        found.ok_or_else(|| format!("no node `{alias}` is configured"))
    }

    /// Asks a node for its version, readiness and leader, now.
    pub async fn ask(&self, spec: &NodeSpec) -> Answer {
        self.0.pool.credentials().refresh();
        node::Asker::new(&self.0.pool, self.0.options.probe).all(spec).await
    }

    /// Asks a node for its version, now.
    pub async fn version_of(&self, alias: &NodeAlias) -> Probe<DdbVersion> {
        match self.node(alias).await {
            Ok(spec) => self.ask(&spec).await.version,
            Err(why) => Probe::Unknown(why),
        }
    }

    /// Asks a node whether it is ready, now.
    pub async fn ready(&self, alias: &NodeAlias) -> Probe<bool> {
        match self.node(alias).await {
            Ok(spec) => self.ask(&spec).await.ready,
            Err(why) => Probe::Unknown(why),
        }
    }

    /// Works out who is in the cluster and who is this host's own.
    async fn topology(&self, local: &Local) -> Topology {
        let configured = &local.configured;
        let (mut all, digest) = match &configured.nodes {
            Probe::Known(Some(nodes)) => (nodes.nodes.clone(), Probe::Known(nodes.digest.clone())),
            Probe::Known(None) => match self.live_nodes(configured).await {
                Ok(nodes) => (nodes.nodes, Probe::Known(nodes.digest)),
                Err(why) => (vec![], Probe::Unknown(why)),
            },
            Probe::Unknown(why) => (vec![], Probe::Unknown(why.clone())),
        };
        let mut add = |site: &files::Site| {
            if all.iter().all(|node| node.alias != site.alias) {
                all.push(site.spec(NodeRole::Controller));
            }
        };
        configured.controller.iter().for_each(&mut add);
        if !all.iter().any(|node| node.role == NodeRole::Controller) {
            for site in &configured.known_controllers {
                all.push(site.spec(NodeRole::Controller));
            }
        }
        let processes = &local.processes;
        let seen = |spec: &NodeSpec| processes.of(spec).is_some();
        let own: Vec<NodeSpec> =
            all.iter().filter(|s| configured.is_own(&all, s) || seen(s)).cloned().collect();
        let known = |process: &NodeProcess| {
            own.iter().any(|spec| process.alias.as_ref() == Some(&spec.alias))
        };
        let strangers = processes.found().iter().filter(|p| !known(p)).cloned().collect();
        Topology { all, own, digest, strangers }
    }

    /// Asks controllers for the live list of nodes, one after the other; remembers it for a while.
    async fn live_nodes(&self, configured: &Configured) -> Result<Nodes, String> {
        if let Some((at, nodes)) = &self.0.memo().live
            && at.elapsed() < LIVE_AGE_MAX
        {
            return Ok(nodes.clone());
        }
        let mut why = "neither `cluster.nodes` nor `agent.cfg` names a controller".to_owned();
        let own = configured.controller.iter();
        for site in own.chain(&configured.known_controllers) {
            let spec = site.spec(NodeRole::Controller);
            let call = Call::urgent(self.0.options.probe);
            let lease = self.0.pool.open(&spec, Account::Probe, self.0.options.probe).await;
            let answer = match lease {
                Ok(mut lease) => live::nodes(&mut lease, &call).await,
                Err(error) => Err(error.words()),
            };
            match answer {
                Ok(nodes) => {
                    self.0.memo().live = Some((Instant::now(), nodes.clone()));
                    return Ok(nodes);
                }
                Err(error) => why = format!("the live list of nodes is unknown: {error}"),
            }
        }
        Err(why)
    }
}

impl Inner {
    fn memo(&self) -> MutexGuard<'_, Memo> {
        self.memo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers the looks of this process.
    fn next_look(&self) -> u64 {
        self.looks.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Looks at processes and files.
    async fn local(self: &Arc<Self>) -> Local {
        let inner = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || inner.local_blocking()).await;
        looked.unwrap_or_else(|error| Local {
            processes: Processes { all: Err(format!("the look broke off: {error}")) },
            configured: Arc::new(Configured::load(&self.memo().places)),
        })
    }

    fn local_blocking(&self) -> Local {
        self.pool.credentials().refresh();
        let processes = Processes::look(&self.installation);
        let mut memo = self.memo();
        // A running process says where its files are; that stays true while it is down.
        for process in processes.found() {
            let places = &mut memo.places;
            let set = |place: &mut PathBuf, found: &Option<PathBuf>| {
                if let Some(found) = found {
                    place.clone_from(found);
                }
            };
            match process.role {
                Some(NodeRole::Controller) => {
                    set(&mut places.controller, &process.config);
                    set(&mut places.nodes, &process.nodes_file);
                    set(&mut places.cluster, &process.cluster_config);
                }
                Some(NodeRole::DdbAgent) => set(&mut places.ddb_agent, &process.config),
                Some(NodeRole::DataNode | NodeRole::ComputeNode) | None => {}
            }
        }
        let stamp = memo.places.stamp();
        let configured = match &memo.configured {
            Some(configured) if memo.stamp == stamp => Arc::clone(configured),
            Some(_) | None => Arc::new(Configured::load(&memo.places)),
        };
        memo.stamp = stamp;
        memo.configured = Some(Arc::clone(&configured));
        drop(memo);
        Local { processes, configured }
    }
}

/// Does the same for many things at once, at most [`ASKED_AT_ONCE`] at a time; results come in the
/// order of the things. A thing whose work panicked has no result. Dropping the future cancels all.
async fn concurrently<I, T, F>(things: Vec<I>, work: impl Fn(I) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(ASKED_AT_ONCE));
    let mut running = JoinSet::new();
    for (at, thing) in things.into_iter().enumerate() {
        let (permits, work) = (Arc::clone(&permits), work(thing));
        running.spawn(async move {
            let _permit = permits.acquire_owned().await;
            (at, work.await)
        });
    }
    let mut results = Vec::new();
    while let Some(done) = running.join_next().await {
        results.extend(done.ok());
    }
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
