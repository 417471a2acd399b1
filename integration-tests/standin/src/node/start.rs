//! From a command line to a running node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use standin_model::controller::{self, Controller};
use standin_model::member::{self, Member};
use standin_model::meta::{ClusterConfig as ModelConfig, Command, NodeInfo, User};
use standin_model::raft::Log as RaftLog;
use standin_model::{Alias, NodeRole, Timing};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::controller::ControllerMachine;
use super::engine::Engine;
use super::log::{Log, today};
use super::member::MemberMachine;
use super::session::Sessions;
use super::shared::{Places, Shared, model_role};
use super::{Brain, Node};
use crate::config::{
    AgentConfig, ClusterConfig, ClusterNodes, ControllerConfig, ControllerDirs, Effective,
    NodeDirs, Properties, Role, Site,
};
use crate::faults::{Faults, Kind};
use crate::functions::memory::Memory;
use crate::functions::users;
use crate::options::Options;
use crate::package::License;
use crate::package::trailer::Trailer;
use crate::store::{self, node::NodeStore, raft::RaftStore};
use crate::version::Version;

/// The administrator of a new cluster, and the documented first password.
const ADMIN: (&str, &str) = ("admin", "123456");
/// Keys of `controller.cfg` that data and compute nodes use too.
const WORKER_KEYS: [&str; 6] = [
    "dataSync",
    "enableClientAuth",
    "enhancedSecurityVerification",
    "dfsChunkNodeHeartBeatTimeout",
    "dfsReplicationFactor",
    "clusterName",
];

/// Why a node does not start: for its log and its standard error.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) String);

impl<E: std::error::Error> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// What a node's own configuration says.
struct Configured {
    site: Site,
    settings: BTreeMap<String, String>,
    ha: bool,
    controllers: Vec<Site>,
    files: Option<(ClusterNodes, ClusterConfig)>,
}

/// A node that runs, and what ends it.
pub(crate) struct Started {
    pub(crate) node: Arc<Node>,
    pub(crate) failed: mpsc::UnboundedReceiver<store::Error>,
}

/// Starts the node that the command line asks for.
pub(crate) async fn start(options: &Options, trailer: Trailer) -> Result<Started, Refused> {
    let work = std::env::current_dir()?;
    let log = Log::open(&work.join(&options.log_file))?;
    let started = start_logged(options, trailer, work.clone(), log).await;
    if let Err(refused) = &started
        && let Ok(log) = Log::open(&work.join(&options.log_file))
    {
        log.error(&refused.0);
    }
    started
}

async fn start_logged(
    options: &Options,
    trailer: Trailer,
    work: PathBuf,
    log: Log,
) -> Result<Started, Refused> {
    log.info(&format!(
        "This is a test double that stands in for DolphinDB {}; it is not DolphinDB.",
        trailer.version_line()
    ));
    let version: Version = trailer.version.parse()?;
    let configured = configure(options, &work)?;
    let places = places(options, &configured, work)?;
    refuse_by_fault(&places.own, &version)?;
    let license = check_license(&places.server, &version, configured.files.as_ref())?;
    check_init_script(options, &places, &version)?;
    let listener = bind(&configured.site).await?;
    let (scale, timing) = timing(&configured.settings, &version)?;
    let shared = Arc::new(Shared::new(
        (options.mode, configured.site.clone()),
        (version, trailer),
        license,
        places,
        log,
        (scale, timing),
        configured.settings.clone(),
        (configured.ha, configured.controllers.clone()),
    ));
    let (failures, failed) = mpsc::unbounded_channel();
    let ready = Arc::new(AtomicBool::new(false));
    let brain = match options.mode {
        Role::Controller => start_controller(&shared, configured.files, failures)?,
        Role::DdbAgent | Role::ComputeNode | Role::DataNode => {
            start_member(&shared, &ready, failures)?
        }
    };
    let (sessions, memory) = (Sessions::default(), Memory::load(&shared)?);
    let node = Arc::new(Node { shared, brain, sessions, memory, ready });
    let left = super::inserts::left_by_last_run(&node.shared.places.own);
    tokio::spawn(super::server::serve(Arc::clone(&node), listener));
    super::housekeeping::start(&node, left);
    Ok(Started { node, failed })
}

// ----- configuration

fn configure(options: &Options, work: &Path) -> Result<Configured, Refused> {
    let path = work.join(&options.config);
    match options.mode {
        Role::Controller => configure_controller(options, work, &path),
        Role::DdbAgent => {
            let config = AgentConfig::load(&path)?;
            Ok(Configured {
                site: config.site.clone(),
                settings: settings_of(&config.properties),
                // A single controller is not a Raft group.
                ha: config.controllers.len() > 1,
                controllers: config.controllers,
                files: None,
            })
        }
        Role::DataNode | Role::ComputeNode => {
            let file = path.display().to_string();
            let properties = Properties::parse(&file, &std::fs::read_to_string(&path)?)?;
            let site =
                options.site.clone().ok_or_else(|| Refused("-localSite is missing".into()))?;
            let controllers = properties
                .get("sites")
                .unwrap_or("")
                .split(',')
                .filter_map(|site| site.strip_suffix(":controller")?.parse().ok())
                .collect();
            let ha = properties.switch("standinHA")?.unwrap_or(false);
            let settings = settings_of(&properties);
            Ok(Configured { site, settings, ha, controllers, files: None })
        }
    }
}

fn configure_controller(
    options: &Options,
    work: &Path,
    path: &Path,
) -> Result<Configured, Refused> {
    let config = ControllerConfig::load(path)?;
    let nodes = ClusterNodes::load(&work.join(&options.nodes_file))
        .map_err(|error| Refused(format!("Failed to load the nodes file: {error}")))?;
    let cluster_path = work.join(&options.cluster_config);
    // A cluster may do without cluster.cfg.
    let cluster = match cluster_path.exists() {
        true => ClusterConfig::load(&cluster_path)?,
        false => ClusterConfig::default(),
    };
    let controllers: Vec<Site> = if config.ha {
        nodes.with_role(Role::Controller).map(|node| node.site.clone()).collect()
    } else {
        vec![config.site.clone()]
    };
    Ok(Configured {
        site: config.site.clone(),
        settings: settings_of(&config.properties),
        ha: config.ha,
        controllers,
        files: Some((nodes, cluster)),
    })
}

fn settings_of(properties: &Properties) -> BTreeMap<String, String> {
    properties.entries().iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect()
}

fn places(options: &Options, configured: &Configured, work: PathBuf) -> Result<Places, Refused> {
    let home = work.join(&options.home);
    let own = match options.mode {
        Role::Controller | Role::DdbAgent => home.join(&configured.site.alias),
        Role::DataNode | Role::ComputeNode => home.clone(),
    };
    std::fs::create_dir_all(&own)?;
    let program = std::fs::read_link("/proc/self/exe")?;
    // The file may have been replaced between the start of the process and now.
    let text = program.to_string_lossy();
    let program = PathBuf::from(text.strip_suffix(" (deleted)").unwrap_or(&text).to_owned());
    let server = program.parent().unwrap_or(&work).to_owned();
    Ok(Places { home, own, work, server, program })
}

/// The scale and the times of this node.
fn timing(
    settings: &BTreeMap<String, String>,
    version: &Version,
) -> Result<(f64, Timing), Refused> {
    let number = |key: &str, default: u64| match settings.get(key) {
        None => Ok(default),
        Some(text) => text
            .parse::<u64>()
            .map_err(|_| Refused(format!("`{text}` is not a valid value of `{key}`"))),
    };
    let scale = settings.get("standinTimeScale").cloned();
    let scale = scale.or_else(|| std::env::var("STANDIN_TIME_SCALE").ok());
    let scale = match scale {
        None => 1.0,
        Some(text) => text
            .parse::<f64>()
            .ok()
            .filter(|scale| (0.001..=100.0).contains(scale))
            .ok_or_else(|| Refused(format!("`{text}` is not a valid standinTimeScale")))?,
    };
    let heartbeat_timeout_ms = number("dfsChunkNodeHeartBeatTimeout", 8)?.max(1) * 1_000;
    let timing = Timing {
        election_ms: number("raftElectionTick", 800)?.max(800) * 10,
        heartbeat_timeout_ms,
        heartbeat_ms: heartbeat_timeout_ms / 5,
        recovery_wait_ms: Timing::effective_recovery_wait(number("dfsRecoveryWaitTime", 0)?),
        restart_ms: version
            .restart_seconds(number("datanodeRestartInterval", 0)?)
            .map(|seconds| seconds * 1_000),
        ..Timing::default()
    };
    Ok((scale, timing.scaled(scale)))
}

// ----- refusals

fn refuse_by_fault(own: &Path, version: &Version) -> Result<(), Refused> {
    match Faults::of(own).get(Kind::RefuseStartVersion) {
        Some(refused) if refused == version.to_string() => {
            Err(Refused(format!("The fault refuse_start_version keeps {version} from starting.")))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_license(
    server: &Path,
    version: &Version,
    files: Option<&(ClusterNodes, ClusterConfig)>,
) -> Result<License, Refused> {
    let license = License::load(&server.join("dolphindb.lic"))
        .map_err(|error| Refused(format!("Failed to load the license: {error}")))?;
    // Dates of four, two and two digits compare as texts.
    if license.expiration < today() {
        return Err(Refused("The license has expired.".to_owned()));
    }
    if !license.version.is_empty() {
        let cap: Version = license.version.parse()?;
        let capped: Vec<&str> = license.version.split('.').collect();
        let own: Vec<String> =
            version.to_string().split('.').take(capped.len()).map(str::to_owned).collect();
        let own: Version = own.join(".").parse()?;
        if own > cap {
            return Err(Refused(format!(
                "The license supports versions up to {cap}; this server is {version}."
            )));
        }
    }
    let nodes = files.map_or(0, |(nodes, _)| nodes.nodes().len());
    if i32::try_from(nodes).unwrap_or(i32::MAX) > license.max_nodes {
        return Err(Refused(format!(
            "The license allows {} nodes; the cluster has {nodes}.",
            license.max_nodes
        )));
    }
    Ok(license)
}

/// The init script must be there; from 3.00.0 on it must be the one of this very version.
fn check_init_script(options: &Options, places: &Places, version: &Version) -> Result<(), Refused> {
    let Some(script) = &options.script else { return Ok(()) };
    let folders = [&places.home, &places.work, &places.server];
    let Some(path) = folders.iter().map(|folder| folder.join(script)).find(|path| path.exists())
    else {
        return Err(Refused(format!("Couldn't find the init script [{}].", script.display())));
    };
    let text = std::fs::read_to_string(&path)?;
    let first = text.lines().next().unwrap_or("");
    if version.names_platform() && !first.contains(&version.to_string()) {
        return Err(Refused(format!(
            "Can't recognize a function of the init script [{}]: it is not of version {version}.",
            path.display()
        )));
    }
    Ok(())
}

async fn bind(site: &Site) -> Result<TcpListener, Refused> {
    // Binds with SO_REUSEADDR, so that only a living process is in the way.
    TcpListener::bind(site.address()).await.map_err(|error| {
        let code = error.raw_os_error().unwrap_or(0);
        Refused(format!("Failed to bind the socket on port {} with error code {code}", site.port))
    })
}

// ----- machines

/// What a controller replicates of its files.
fn model_config(nodes: &ClusterNodes, cluster: &ClusterConfig) -> ModelConfig {
    ModelConfig {
        nodes_lines: nodes.lines().to_vec(),
        cluster_lines: cluster.lines().to_vec(),
        nodes: nodes
            .nodes()
            .iter()
            .map(|node| NodeInfo {
                alias: node.site.alias.clone(),
                site: node.site.address(),
                host: node.site.host.clone(),
                role: model_role(node.role),
                group: node.compute_group.clone(),
            })
            .collect(),
    }
}

/// The controllers that form the group: as replicated, or as the files say at the first start.
fn group(stored: &RaftLog, controllers: &[Site], me: &str) -> Result<BTreeSet<Alias>, Refused> {
    let mut nodes = stored.snapshot().state.config.nodes.clone();
    for entry in stored.from(0, usize::MAX) {
        if let Command::SetConfig(config) = entry.command {
            nodes = config.nodes;
        }
    }
    let known: BTreeSet<Alias> = nodes
        .into_iter()
        .filter(|node| node.role == NodeRole::Controller)
        .map(|node| node.alias)
        .collect();
    let group = match known.is_empty() {
        true => controllers.iter().map(|site| site.alias.clone()).collect(),
        false => known,
    };
    if group.contains(me) {
        return Ok(group);
    }
    Err(Refused(format!(
        "Failed to start DFSMaster with the error message: `{me}` is not among the controllers."
    )))
}

fn start_controller(
    shared: &Arc<Shared>,
    files: Option<(ClusterNodes, ClusterConfig)>,
    failures: mpsc::UnboundedSender<store::Error>,
) -> Result<Brain, Refused> {
    let text = shared.settings.iter().map(|(key, value)| format!("{key}={value}\n"));
    let properties = Properties::parse("controller.cfg", &text.collect::<String>())?;
    let dirs = ControllerDirs::new(&shared.places.home, shared.alias(), shared.ha, &properties);
    let sync = shared.is_on("dataSync");
    let opened = RaftStore::open(&dirs, shared.ha, &shared.version, sync)?;
    if let Some(from) = opened.upgraded_from {
        shared.log.info(&format!("The metadata of version {from} was rewritten."));
    }
    let controllers = match shared.ha {
        true => group(&opened.state.1, &shared.controllers, shared.alias())?,
        false => BTreeSet::from([shared.alias().to_owned()]),
    };
    let number = |key: &str, default: usize| {
        shared.setting(key).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let files = files.map(|(nodes, cluster)| model_config(&nodes, &cluster)).unwrap_or_default();
    let workers = files.nodes.iter().filter(|node| node.role == NodeRole::DataNode).count();
    let settings = controller::Settings {
        me: shared.alias().to_owned(),
        controllers,
        timing: shared.timing.clone(),
        replication: number("dfsReplicationFactor", 2),
        reliability: u8::try_from(number("dfsReplicaReliabilityLevel", 0)).unwrap_or(0),
        restart_always: shared.setting("datanodeRestartLevel") == Some("OFFLINE"),
        recovery_max: number("dfsRecoveryConcurrency", (workers * 2).max(2)),
        files,
        files_rule: !shared.ha,
        worker_settings: WORKER_KEYS
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), shared.setting(key)?.to_owned())))
            .collect(),
        first_user: (
            ADMIN.0.to_owned(),
            User { secret: users::digest(ADMIN.1), admin: true, grants: BTreeSet::new() },
        ),
        seed: rand::random(),
    };
    let controller = Controller::new(settings, opened.state, shared.clock.now());
    let (store, shared_too) = (opened.store, Arc::clone(shared));
    let make = |engine: &Engine<ControllerMachine>| {
        ControllerMachine::new(controller, store, shared_too, engine.clone())
    };
    Ok(Brain::Controller(Engine::start(shared.clock, make, failures)?))
}

/// The effective configuration of a data or compute node.
pub(crate) fn effective(shared: &Shared) -> Effective {
    Effective {
        alias: shared.alias().to_owned(),
        role: shared.role,
        values: shared.settings.clone(),
    }
}

fn start_member(
    shared: &Arc<Shared>,
    ready: &Arc<AtomicBool>,
    failures: mpsc::UnboundedSender<store::Error>,
) -> Result<Brain, Refused> {
    let (mut store, mut chunks) = (None, Vec::new());
    if shared.role == Role::DataNode {
        let dirs = NodeDirs::new(&shared.places.home, &effective(shared));
        let sync = shared.is_on("dataSync");
        let opened = NodeStore::open(&dirs, &shared.version, sync, shared.scale)?;
        log_recovery(&shared.log, &opened);
        chunks = opened.store.locals();
        store = Some(opened.store);
    }
    let settings = member::Settings {
        me: shared.alias().to_owned(),
        incarnation: rand::random(),
        role: shared.model_role(),
        controllers: shared.controllers.iter().map(|site| site.alias.clone()).collect(),
        timing: shared.timing.clone(),
        seed: rand::random(),
    };
    let member = Member::new(settings, chunks, shared.clock.now());
    let (shared_too, ready) = (Arc::clone(shared), Arc::clone(ready));
    let make = |engine: &Engine<MemberMachine>| {
        MemberMachine::new(member, store, shared_too, engine.clone(), ready)
    };
    Ok(Brain::Member(Engine::start(shared.clock, make, failures)?))
}

/// What a data node's log says about its disk.
fn log_recovery(log: &Log, opened: &store::node::Opened) {
    if let Some(from) = &opened.upgraded_from {
        log.info(&format!("The metadata of version {from} was rewritten."));
    }
    log.info(&format!("Will process pending transactions. There are {}.", opened.undecided));
    log.info("ChunkMgmt initialization completed.");
    log.info("Restore TSDB meta successfuly.");
    if opened.replayed == 0 {
        log.info("No available redo log files were found. Redo log replay was skipped.");
    } else {
        log.info("Start recovering from redo log. This may take a few minutes.");
    }
    for engine in ["OLAP", "TSDB"] {
        log.info(&format!(
            "Completed CacheEngine GC and RedoLog GC after applying all redo logs and engine is \
             {engine}"
        ));
    }
}

/// The last marker of a start, in the words of the version; then a fault may end it again.
pub(crate) fn log_complete(shared: &Shared) {
    shared.log.info(if shared.version.has_new_markers() {
        "Job scheduler initialization completed."
    } else {
        "Job schedule initialized successfully."
    });
    if let Some(ms) = shared.faults.millis(Kind::StartThenDie) {
        shared.runtime.spawn(async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            super::stop::die();
        });
    }
}
