//! What a backup of this host would contain: each node's own folders, as its running configuration
//! gave them.
//!
//! The often-copied tutorial swaps the labels, backs up another host's controller and leaves out
//! `raft/`, which in a cluster with Raft is the controllers' truth. Here every node is asked for its
//! own settings; only a node that does not answer is worked out from the files, and the part says so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use grayfin_types::facts::{BackupClass, BackupPart, NodeRole, NodeSpec, Probe};

use super::files::Configured;
use super::node::Asker;
use super::pool::Pool;
use super::processes::NodeProcess;
use crate::config::Installation;
use crate::ddb::{Call, Value};
use crate::process::installation::OWN_PREFIX;

/// Said in a part whose place comes from files.
const FROM_FILES: &str = " (place from the configuration files: the node does not answer)";

/// The settings that say where a node keeps things.
const KEYS: [&str; 20] = [
    "chunkMetaDir",
    "volumes",
    "dfsMetaDir",
    "redoLogDir",
    "TSDBRedoLogDir",
    "PKEYRedoLogDir",
    "PKEYMetaLogDir",
    "recoverLogDir",
    "persistenceDir",
    "persistenceOffsetDir",
    "streamingHADir",
    "streamingHALogDir",
    "mvccTableHADir",
    "IMOLTPRedoDir",
    "IMOLTPCheckpointDir",
    "TDEKeyDir",
    "pluginDir",
    "startup",
    "postStart",
    "preloadModules",
];

/// Where one node keeps its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeSettings {
    pub(super) spec: NodeSpec,
    /// Home folder: of a controller and a DolphinDB agent the shared one, of a data node its own.
    pub(super) home: PathBuf,
    /// Keys that are set.
    pub(super) keys: BTreeMap<String, String>,
    /// The node itself said so.
    pub(super) running: bool,
}

impl NodeSettings {
    /// Asks a node.
    pub(super) async fn ask(
        pool: &Pool,
        spec: &NodeSpec,
        process: Option<&NodeProcess>,
        call: &Call,
    ) -> Result<Self, String> {
        let account = Asker::account(spec);
        let answer = pool.ask(spec, account, "getConfig", &[], call).await;
        let answer = answer.map_err(|error| error.words())?;
        let dictionary = answer.dictionary().ok_or("`getConfig` answered no dictionary")?;
        let keys = KEYS
            .iter()
            .filter_map(|key| {
                // Several paths may come as a vector.
                let many = dictionary.value(key).and_then(Value::vector).filter(|v| v.len() > 1);
                let text = match many {
                    Some(vector) => Some(vector.words().join(",")),
                    None => dictionary.word(key),
                };
                Some(((*key).to_owned(), text.filter(|text| !text.is_empty())?))
            })
            .collect();
        let home = pool.ask(spec, account, "getHomeDir", &[], call).await.ok();
        let home = home.and_then(|value| value.word()).filter(|home| home.starts_with('/'));
        let home = home.map(PathBuf::from).or_else(|| process.and_then(|p| p.home.clone()));
        let home = home.ok_or("its home folder is unknown")?;
        Ok(Self { spec: spec.clone(), home, keys, running: true })
    }

    /// Works the settings out from the files.
    pub(super) fn from_files(
        installation: &Installation,
        configured: &Configured,
        spec: &NodeSpec,
        process: Option<&NodeProcess>,
    ) -> Self {
        let alias = spec.alias.as_str();
        let data = installation.work_dir.join("data");
        let (home, file) = match spec.role {
            NodeRole::Controller => (data, &configured.controller_cfg),
            NodeRole::DdbAgent => (data, &configured.agent_cfg),
            NodeRole::DataNode | NodeRole::ComputeNode => {
                (data.join(alias), &configured.cluster_cfg)
            }
        };
        let keys = KEYS
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), file.for_node(key, alias)?)))
            .collect();
        let home = process.and_then(|p| p.home.clone()).unwrap_or(home);
        Self { spec: spec.clone(), home, keys, running: false }
    }

    pub(super) fn get(&self, key: &str) -> Option<String> {
        self.keys.get(key).map(|text| text.replace("<ALIAS>", self.spec.alias.as_str()))
    }

    /// The folder of a key, or a default below the home folder.
    fn dir(&self, key: &str, default: &str) -> PathBuf {
        self.get(key).map_or_else(|| self.home.join(default), |path| self.home.join(path))
    }

    /// Every path of `volumes`.
    fn volumes(&self) -> Vec<PathBuf> {
        let text = self.get("volumes").unwrap_or_default();
        let paths: Vec<PathBuf> = text
            .split(',')
            .map(str::trim)
            .filter(|path| !path.is_empty())
            .map(|path| self.home.join(path))
            .collect();
        if paths.is_empty() { vec![self.home.join("storage")] } else { paths }
    }
}

/// Collects parts; nothing twice.
struct Parts {
    all: Vec<BackupPart>,
    paths: BTreeSet<PathBuf>,
}

impl Parts {
    fn push(&mut self, node: &str, class: BackupClass, what: &str, path: PathBuf) {
        if self.paths.insert(path.clone()) {
            self.all.push(BackupPart {
                node: node.to_owned(),
                class,
                what: what.to_owned(),
                path: path.display().to_string(),
                bytes: Probe::Unknown("it has not been weighed yet".to_owned()),
            });
        }
    }

    fn push_existing(&mut self, node: &str, class: BackupClass, what: &str, path: PathBuf) {
        if path.symlink_metadata().is_ok() {
            self.push(node, class, what, path);
        }
    }
}

/// Lists the parts of a host's backup. Blocks for a few dozen look-ups of names.
pub(super) fn parts(installation: &Installation, nodes: &[NodeSettings]) -> Vec<BackupPart> {
    let mut parts = Parts { all: Vec::new(), paths: BTreeSet::new() };
    for node in nodes {
        match node.spec.role {
            NodeRole::Controller => controller(&mut parts, node),
            NodeRole::DataNode | NodeRole::ComputeNode => data_node(&mut parts, node),
            NodeRole::DdbAgent => {}
        }
        let alias = node.spec.alias.as_str();
        if let Some(path) = node.get("TDEKeyDir") {
            let path = node.home.join(path);
            parts.push(alias, BackupClass::Must, "keys of the encrypted files", path);
        }
        for key in ["startup", "postStart"] {
            if let Some(path) = node.get(key) {
                let path = installation.work_dir.join(path);
                parts.push_existing(alias, BackupClass::Must, "startup script", path);
            }
        }
    }
    installed(&mut parts, installation);
    parts.all
}

fn controller(parts: &mut Parts, node: &NodeSettings) {
    use BackupClass::{Must, Should};
    let alias = node.spec.alias.as_str();
    let own = node.home.join(alias);
    let note = if node.running { "" } else { FROM_FILES };
    let mut must = |what: &str, path: PathBuf| {
        parts.push(alias, Must, &format!("{what}{note}"), path);
    };
    must("controller Raft log and snapshots", own.join("raft"));
    let meta = node.get("dfsMetaDir").map(|path| node.home.join(path));
    let plain = node.home.join("dfsMeta");
    let meta = meta.unwrap_or_else(|| if plain.is_dir() { plain } else { own.join("dfsMeta") });
    must("metadata checkpoint of the controller", meta);
    for home in [&own, &node.home] {
        let both = [("keys", "keys of users and rights"), ("sysmgmt", "users, rights and jobs")];
        for (name, what) in both {
            parts.push_existing(alias, Must, &format!("{what}{note}"), home.join(name));
        }
        parts.push_existing(alias, Should, "cluster replication", home.join("clusterReplication"));
    }
}

fn data_node(parts: &mut Parts, node: &NodeSettings) {
    use BackupClass::{Must, Optional, Should};
    let alias = node.spec.alias.as_str();
    let note = if node.running { "" } else { FROM_FILES };
    let volumes = node.volumes();
    let first = volumes.first().cloned().unwrap_or_else(|| node.home.join("storage"));
    let meta = node.get("chunkMetaDir").map_or(first, |path| node.home.join(path));
    if node.spec.role == NodeRole::DataNode {
        let what = format!("chunk metadata of the data node{note}");
        parts.push(alias, Must, &what, meta.join("CHUNK_METADATA"));
    }
    let mut existing = |class, what: &str, path: PathBuf| {
        parts.push_existing(alias, class, &format!("{what}{note}"), path);
    };
    // Wherever an earlier setting may have put them.
    for folder in std::iter::once(&meta).chain(&volumes) {
        existing(Must, "chunk metadata of the data node", folder.join("CHUNK_METADATA"));
        existing(Must, "transactions not yet resolved", folder.join("LOG"));
        existing(Should, "databases known to the node", folder.join("DATABASE"));
        existing(Should, "types of the IoT engine", folder.join("IOTRAN_TYPE"));
        existing(Should, "static tables of the IoT engine", folder.join("IOTDBStaticTable"));
    }
    let tsdb = node.dir("TSDBRedoLogDir", "log/TSDBRedo");
    let beside = tsdb.parent().unwrap_or(&node.home).join("TSDBMeta");
    existing(Must, "TSDB level file metadata", beside);
    existing(Must, "PKEY level file metadata", node.dir("PKEYMetaLogDir", "log/PKEYMeta"));
    existing(Must, "scheduled jobs", node.home.join("sysmgmt"));
    existing(Should, "OLAP redo log", node.dir("redoLogDir", "log/redoLog"));
    existing(Should, "TSDB redo log", tsdb);
    existing(Should, "PKEY redo log", node.dir("PKEYRedoLogDir", "log/PKEYRedo"));
    let streaming = if node.get("streamingHALogDir").is_some() {
        "streamingHALogDir"
    } else {
        "streamingHADir"
    };
    existing(Should, "log of the streaming Raft groups", node.dir(streaming, "log/streamingHALog"));
    existing(Should, "Raft groups of MVCC tables", node.dir("mvccTableHADir", "mvccHA"));
    existing(Should, "redo log of in-memory OLTP tables", node.dir("IMOLTPRedoDir", "IMOLTP/redo"));
    let checkpoints = node.dir("IMOLTPCheckpointDir", "IMOLTP/ckp");
    existing(Should, "checkpoints of in-memory OLTP tables", checkpoints);
    for (key, what) in [
        ("persistenceDir", "persisted stream tables"),
        ("persistenceOffsetDir", "offsets of subscriptions"),
    ] {
        if let Some(path) = node.get(key) {
            existing(Should, what, node.home.join(path));
        }
    }
    existing(Optional, "recovery log", node.dir("recoverLogDir", "recoverLog"));
    let own = [("startup.dos", "startup script"), ("postStart.dos", "startup script")];
    for (name, what) in own {
        existing(Must, what, node.home.join(name));
    }
    existing(Should, "plugins of the node", node.home.join("plugins"));
    existing(Should, "modules of the node", node.home.join("modules"));
}

/// The software, configuration, scripts and units.
fn installed(parts: &mut Parts, installation: &Installation) {
    use BackupClass::{Must, Should};
    let work = &installation.work_dir;
    parts.push("", Must, "the executable", installation.executable_path());
    let mut names: Vec<PathBuf> = Vec::new();
    if let Ok(entries) = std::fs::read_dir(&installation.server_dir) {
        names.extend(entries.flatten().map(|entry| entry.path()));
    }
    names.sort();
    for path in names {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let package = Path::new(&name).extension().is_some_and(|end| end == "zip");
        // The work folder is backed up by its parts: it holds the data as well.
        if work.starts_with(&path) || name.starts_with(OWN_PREFIX) || package {
            continue;
        }
        let what = match name.as_str() {
            "dolphindb.lic" => "the licence",
            "dolphindb.cfg" => "configuration of the single mode",
            "dolphindb.dos" => "the package's init script",
            "startup.dos" | "postStart.dos" => "startup script",
            _ if path.is_dir() => "software",
            _ if name.contains(".so") => "library",
            _ => "software",
        };
        parts.push("", Must, what, path);
    }
    parts.push("", Must, "configuration", work.join("config"));
    if let Ok(entries) = std::fs::read_dir(work) {
        let mut scripts: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        scripts.sort();
        for path in scripts {
            let script = path.extension().is_some_and(|end| end == "sh" || end == "dos");
            if script && path.is_file() {
                parts.push("", Should, "script of the site", path);
            }
        }
    }
    for unit in installation.units.names.values() {
        for folder in ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"] {
            let path = Path::new(folder).join(unit);
            parts.push_existing("", Should, "systemd unit", path);
        }
    }
}

/// Weighs a file or a whole folder: none where it does not exist. Links are not followed, except the
/// path itself. Blocks for as long as it takes to look at every name.
pub(super) fn weigh(path: &Path) -> Probe<Option<u64>> {
    let root = match std::fs::canonicalize(path) {
        Ok(root) => root,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Probe::Known(None),
        Err(error) => return Probe::Unknown(format!("`{}`: {error}", path.display())),
    };
    let mut bytes = 0_u64;
    for entry in walkdir::WalkDir::new(root) {
        let found = entry.map(|entry| entry.metadata());
        match found {
            Ok(Ok(metadata)) if metadata.is_file() => bytes = bytes.saturating_add(metadata.len()),
            Ok(Ok(_)) => {}
            // Files come and go while the nodes run.
            Ok(Err(error)) | Err(error) if is_gone(&error) => {}
            Ok(Err(error)) | Err(error) => {
                return Probe::Unknown(format!("`{}`: {error}", path.display()));
            }
        }
    }
    Probe::Known(Some(bytes))
}

fn is_gone(error: &walkdir::Error) -> bool {
    error.io_error().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}
