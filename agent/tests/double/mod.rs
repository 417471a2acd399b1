//! Doubles around a real host agent: a coordinator on a real socket with mTLS, and a model host.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::allow_attributes,
    reason = "each test file uses its own part"
)]

pub mod coordinator;
pub mod host;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use grayfin_agent::{
    config::Settings,
    ledger::Ledger,
    link::{Canary, ClusterAsk, HostAsk, Look},
    serve::{self, Hands},
};
use grayfin_proto::{identity::Identity, pki, tls, v1};
use grayfin_types::{
    ClusterId, Generation, NodeAlias,
    facts::{ClusterFacts, HostFacts, NodeRole, NodeSpec, Probe},
    plan::{CanaryOrder, CanarySpec, DebtOrder, HostPlan, Package, Plan, Policy},
    status::CanaryStatus,
};
use tokio::sync::mpsc;

pub const HOST: &str = "host43";
pub const CLUSTER: &str = "trade";
pub const OLD: &str = "2.00.8.10";
pub const NEW: &str = "2.00.8.12";
pub const NODES: [&str; 3] = ["ctl43", "agent43", "node43"];

#[path = "../wait/mod.rs"]
mod wait;

pub(crate) use wait::PATIENCE;

/// A folder with everything that one host agent and its coordinator need.
#[derive(Debug)]
pub struct Site {
    pub dir: tempfile::TempDir,
}

impl Site {
    pub fn new() -> Self {
        tls::install_provider();
        let dir = tempfile::Builder::new().prefix("grayfin-agent-").tempdir().unwrap();
        let site = Self { dir };
        let ca = site.path().join("pki");
        pki::make_ca(&ca).unwrap();
        pki::issue(&ca, &Identity::Coordinator(1), &ca.join("coordinator")).unwrap();
        let agent = Identity::HostAgent { host: HOST.parse().unwrap(), generation: Generation(1) };
        pki::issue(&ca, &agent, &ca.join("agent")).unwrap();
        std::fs::create_dir_all(site.path().join("server")).unwrap();
        host::Host::make(&site.path().join("world"));
        site
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn files(&self, who: &str) -> tls::Files {
        let ca = self.path().join("pki");
        tls::Files {
            ca: ca.join("ca.pem"),
            cert: ca.join(format!("{who}.pem")),
            key: ca.join(format!("{who}.key")),
        }
    }

    pub fn host(&self) -> host::Host {
        host::Host::open(&self.path().join("world"))
    }

    /// What the canary was asked to do, in order.
    pub fn birds(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path().join("world/birds")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub fn ledger(&self) -> PathBuf {
        self.path().join("state/ledger")
    }

    /// Writes the host agent's configuration.
    pub fn configure(&self, coordinators: &[String]) -> PathBuf {
        let (at, files) = (self.path().display(), self.files("agent"));
        let text = format!(
            "host = \"{HOST}\"\nstate_dir = \"{at}/state\"\ncoordinators = {coordinators:?}\n\
             look_interval_ms = 100\n[tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n\
             [[installation]]\ncluster = \"{CLUSTER}\"\nserver_dir = \"{at}/server\"\n\
             package_dir = \"{at}\"\nbackup_dir = \"{at}\"\ncredentials_file = \"{at}/c\"\n",
            files.ca, files.cert, files.key
        );
        let file = self.path().join("agent.toml");
        std::fs::write(&file, text).unwrap();
        file
    }
}

/// A site with a coordinator and a host agent that is connected.
pub async fn connected() -> (Site, coordinator::Coordinator, RunningAgent) {
    let site = Site::new();
    let coordinator = coordinator::Coordinator::start(&site).await;
    let agent = RunningAgent::start(&site.configure(&[coordinator.address()]));
    coordinator.until("a session", |world| world.connected().then_some(())).await;
    (site, coordinator, agent)
}

/// Serves as a host agent until it ends, with the model host in the same folder.
pub async fn serve(config: &Path) -> Result<(), serve::Error> {
    let settings = Settings::load(config).unwrap();
    let generation = settings.check_identity().unwrap();
    let world = config.parent().unwrap().join("world");
    let hands = Hands {
        executor: Arc::new(host::Host::open(&world)),
        look: Arc::new(Looker),
        canary: |_: &Arc<Ledger>, _: mpsc::Sender<v1::CanaryReport>| Bird(host::Host::open(&world)),
    };
    serve::serve(Arc::new(settings), generation, hands).await
}

/// A host agent in this process, with a runtime of its own so that it can be dropped dead.
pub struct RunningAgent {
    runtime: Option<tokio::runtime::Runtime>,
    ended: tokio::task::JoinHandle<Result<(), serve::Error>>,
}

impl RunningAgent {
    pub fn start(config: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let config = config.to_owned();
        let ended = runtime.spawn(async move { serve(&config).await });
        Self { runtime: Some(runtime), ended }
    }

    /// Drops everything where it stands.
    pub async fn kill(mut self) {
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE)).await.unwrap();
    }

    /// Waits for its end.
    pub async fn end(mut self) -> Result<(), serve::Error> {
        let ended = tokio::time::timeout(PATIENCE, &mut self.ended).await.unwrap().unwrap();
        self.kill().await;
        ended
    }
}

impl Drop for RunningAgent {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Looks without seeing much.
#[derive(Debug)]
pub struct Looker;

impl Look for Looker {
    async fn host_facts(&self, ask: HostAsk) -> HostFacts {
        let unknown = || "the double does not look".to_owned();
        HostFacts {
            cluster: ask.cluster,
            host: HOST.parse().unwrap(),
            boot_id: ask.boot_id,
            look: ask.look,
            standing: ask.standing,
            server_dir: ask.package_version.unwrap_or_default(),
            installed: Probe::Unknown(unknown()),
            upgrade_mode: "native".to_owned(),
            nodes: Vec::new(),
            configured: Vec::new(),
            nodes_digest: Probe::Unknown(unknown()),
            volumes: Vec::new(),
            packages: Vec::new(),
            backup: Vec::new(),
            licence: Probe::Unknown(unknown()),
            plugins: Probe::Unknown(unknown()),
            memory: Probe::Unknown(unknown()),
            problems: Vec::new(),
        }
    }

    async fn effect(&self, cluster: &ClusterId, order: &DebtOrder) -> Result<(), String> {
        if order.debt == 13 {
            return Err(format!("no controller of `{cluster}` was reached"));
        }
        Ok(())
    }

    async fn cluster_facts(&self, ask: ClusterAsk) -> ClusterFacts {
        let unknown = || format!("chunks {}", ask.chunks);
        ClusterFacts {
            cluster: ask.cluster,
            seen_from: HOST.parse().unwrap(),
            look: ask.look,
            leader: Probe::Unknown(unknown()),
            leader_votes: Vec::new(),
            nodes: Probe::Unknown(unknown()),
            replication_factor: Probe::Unknown(unknown()),
            reliability_level: Probe::Unknown(unknown()),
            recovery_wait_ms: Probe::Unknown(unknown()),
            restart_interval_s: Probe::Unknown(unknown()),
            chunks: Probe::Unknown(unknown()),
            recovery_tasks: Probe::Unknown(unknown()),
            raft_groups: Probe::Unknown(unknown()),
        }
    }
}

/// A canary that only says what it was asked for; it notes when its writer starts and stops.
#[derive(Debug)]
pub struct Bird(host::Host);

fn said(state: &str) -> CanaryStatus {
    CanaryStatus { state: state.to_owned(), ..CanaryStatus::default() }
}

impl Canary for Bird {
    async fn start(&self, _: &ClusterId, order: &CanaryOrder) {
        self.0.note("birds", &format!("start {}", order.epoch));
    }

    async fn stop(&self, _: &ClusterId, order: &CanaryOrder) -> CanaryStatus {
        self.0.note("birds", &format!("stop {}", order.epoch));
        said("ended")
    }

    async fn check(&self, _: &ClusterId, _: &CanaryOrder) -> CanaryStatus {
        said("checked")
    }
}

pub fn canary(epoch: u64) -> CanaryOrder {
    CanaryOrder {
        rollout: "r1".parse().unwrap(),
        epoch,
        spec: CanarySpec::New { rows_per_second: 50 },
    }
}

pub fn plan() -> Plan {
    let role = |alias: &str| match alias {
        "ctl43" => NodeRole::Controller,
        "agent43" => NodeRole::DdbAgent,
        _ => NodeRole::DataNode,
    };
    let nodes = NODES.map(|alias| NodeSpec {
        alias: alias.parse::<NodeAlias>().unwrap(),
        role: role(alias),
        address: "127.0.0.1".to_owned(),
        port: 1,
        compute_group: String::new(),
    });
    let host = HostPlan {
        from: Some(OLD.parse().unwrap()),
        nodes: nodes.to_vec(),
        ..HostPlan::bare(HOST.parse().unwrap())
    };
    Plan {
        hash: "h".to_owned(),
        package: Package { file: "p.zip".to_owned(), sha256: "00".to_owned(), bytes: 3 },
        policy: Policy { start_attempts: 1, ..Policy::default() },
        ..Plan::bare(CLUSTER.parse().unwrap(), NEW.parse().unwrap(), vec![host])
    }
}

/// Waits for something that nobody tells about.
pub async fn eventually(what: &str, mut seen: impl FnMut() -> bool) {
    wait::wait_for(what, || seen().then_some(())).await;
}
