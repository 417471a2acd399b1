//! What belongs into a backup: pure, from each node's own running configuration.
//!
//! The usual tutorial copies `dfsMeta` of another host's controller and mixes the labels up. In HA mode
//! a controller's truth is `<home>/<alias>/raft`; a data node's is `<chunkMetaDir>/CHUNK_METADATA`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use grayfin_types::facts::{BackupClass, NodeRole, NodeSpec};
use serde::{Deserialize, Serialize};

use super::config::expand;
use crate::{
    files::{decode_path, encode_path},
    process::installation::OWN_PREFIX,
};

/// Folder in the installation where the executable is while nothing may be started.
pub const HELD: &str = ".grayfin-held";

/// A node and where it keeps its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSource {
    /// The node.
    pub spec: NodeSpec,
    /// What `getHomeDir()` says: `…/data` for a controller or DolphinDB agent, `…/data/<alias>` for
    /// the others.
    pub home: PathBuf,
    /// Configuration as the running node gave it, or `cluster.cfg` for one that is down.
    pub config: BTreeMap<String, String>,
}

/// The installation itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallationSource {
    /// The folder with the executable.
    pub server_dir: PathBuf,
    /// The executable's name.
    pub executable: String,
    /// `clusterDemo`.
    pub work_dir: PathBuf,
    /// Folders inside the installation that are not software: packages, backups.
    pub apart: Vec<PathBuf>,
    /// Unit files.
    pub unit_files: Vec<PathBuf>,
}

/// How much of a path belongs to a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All of it.
    Whole,
    /// The files directly in it.
    FilesOnly,
    /// All of it but these paths, relative and encoded.
    Without(Vec<String>),
}

/// One part of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name in the backup, unique: `HActl43-raft`.
    pub id: String,
    /// The node it belongs to, empty for the installation itself.
    pub node: String,
    /// How much it matters.
    pub class: BackupClass,
    /// It must exist: a node that has run cannot be without it.
    pub required: bool,
    /// What it is, for people.
    pub what: String,
    /// Where it belongs, encoded.
    path: String,
    /// What belongs to it.
    pub scope: Scope,
}

impl Part {
    fn new(
        node: &str,
        id: &str,
        class: BackupClass,
        required: bool,
        what: &str,
        path: &Path,
    ) -> Self {
        let id = if node.is_empty() { id.to_owned() } else { format!("{node}-{id}") };
        Self {
            id,
            node: node.to_owned(),
            class,
            required,
            what: what.to_owned(),
            path: encode_path(path),
            scope: Scope::Whole,
        }
    }

    /// Where it belongs.
    pub fn path(&self) -> PathBuf {
        decode_path(&self.path).unwrap_or_default()
    }

    /// Tells whether a path below it is left out.
    pub fn skips(&self, relative: &Path) -> bool {
        match &self.scope {
            Scope::Whole => false,
            // Only the caller sees the disk; names below a folder are skipped with it.
            Scope::FilesOnly => self.path().join(relative).is_dir(),
            Scope::Without(left_out) => {
                let own =
                    relative.as_os_str().as_encoded_bytes().starts_with(OWN_PREFIX.as_bytes());
                own || left_out.iter().any(|p| decode_path(p).is_some_and(|p| p == relative))
            }
        }
    }

    /// The node or the installation, in words.
    pub fn owner(&self) -> String {
        if self.node.is_empty() { "the installation".to_owned() } else { self.node.clone() }
    }

    /// Tells whether it is a node's state, which the new version may change, and not software.
    pub fn is_metadata(&self) -> bool {
        !self.node.is_empty()
    }
}

/// Says what belongs into a backup of this host. Parts that do not exist are left out when it is
/// taken, unless they are required.
pub fn select(installation: &InstallationSource, nodes: &[NodeSource]) -> Vec<Part> {
    let mut parts = Vec::new();
    for node in nodes {
        match node.spec.role {
            NodeRole::Controller => controller(node, &mut parts),
            NodeRole::DdbAgent => ddb_agent(node, &mut parts),
            NodeRole::DataNode => data_node(node, &mut parts),
            NodeRole::ComputeNode => compute_node(node, &mut parts),
        }
    }
    software(installation, nodes, &mut parts);
    // Nodes may share a folder (keys of controller and agent, several volumes on one path).
    let mut unique: Vec<Part> = Vec::new();
    for part in parts {
        match unique.iter_mut().find(|p| p.path == part.path && p.scope == part.scope) {
            Some(known) => {
                known.class = known.class.min(part.class);
                known.required |= part.required;
            }
            None => unique.push(part),
        }
    }
    unique
}

use BackupClass::{Must, Optional, Should};

fn controller(node: &NodeSource, parts: &mut Vec<Part>) {
    let alias = node.spec.alias.as_str();
    let own = node.home.join(alias);
    let ha = node.config.get("dfsHAMode").is_some_and(|mode| mode.eq_ignore_ascii_case("raft"));
    let mut add = |id: &str, required, what: &str, path: &Path| {
        parts.push(Part::new(alias, id, Must, required, what, path));
    };
    add("raft", ha, "controller Raft log and snapshots", &own.join("raft"));
    add("sysmgmt", false, "users, rights and jobs", &own.join("sysmgmt"));
    add("keys", false, "keys of users and scheduled jobs", &own.join("keys"));
    add("home-sysmgmt", false, "users, rights and jobs", &node.home.join("sysmgmt"));
    add("home-keys", false, "keys of users and scheduled jobs", &node.home.join("keys"));
    let default = if ha { own.join("dfsMeta") } else { node.home.clone() };
    let meta = dir(node, "dfsMetaDir").unwrap_or(default);
    if ha && meta != own.join("dfsMeta") {
        add("dfsMeta-default", false, "DFS metadata", &own.join("dfsMeta"));
    }
    let mut part = Part::new(alias, "dfsMeta", Must, !ha, "DFS metadata", &meta);
    if meta == node.home {
        // Without HA they lie beside the homes of all nodes.
        part.scope = Scope::FilesOnly;
    }
    parts.push(part);
    settings(node, parts);
}

fn ddb_agent(node: &NodeSource, parts: &mut Vec<Part>) {
    let alias = node.spec.alias.as_str();
    let mut add = |id: &str, what: &str, path: PathBuf| {
        parts.push(Part::new(alias, id, Should, false, what, &path));
    };
    add("sysmgmt", "jobs", node.home.join(alias).join("sysmgmt"));
    add("keys", "keys", node.home.join(alias).join("keys"));
    settings(node, parts);
}

fn data_node(node: &NodeSource, parts: &mut Vec<Part>) {
    let alias = node.spec.alias.as_str();
    let volumes = volumes(node);
    let first = volumes.first().cloned().unwrap_or_else(|| node.home.join("storage"));
    let chunk_meta = dir(node, "chunkMetaDir").unwrap_or(first);
    let mut add = |id: &str, class, required, what: &str, path: PathBuf| {
        parts.push(Part::new(alias, id, class, required, what, &path));
    };
    add("chunkMeta", Must, true, "chunk metadata", chunk_meta.join("CHUNK_METADATA"));
    add("chunkLog", Must, false, "transaction log of chunks", chunk_meta.join("LOG"));
    add("database", Should, false, "database descriptions", chunk_meta.join("DATABASE"));
    add("tranType", Should, false, "transaction types", chunk_meta.join("IOTRAN_TYPE"));
    for (at, volume) in volumes.iter().enumerate().filter(|(_, v)| **v != chunk_meta) {
        let (meta, log) = (volume.join("CHUNK_METADATA"), volume.join("LOG"));
        add(&format!("volume{at}-chunkMeta"), Must, false, "chunk metadata", meta);
        add(&format!("volume{at}-chunkLog"), Must, false, "transaction log of chunks", log);
    }
    let redo = |key: &str, default: &str| {
        dir(node, key).unwrap_or_else(|| node.home.join("log").join(default))
    };
    let tsdb = redo("TSDBRedoLogDir", "TSDBRedo");
    let tsdb_meta = tsdb.parent().unwrap_or(&node.home).join("TSDBMeta");
    add("tsdbMeta", Must, false, "metadata of TSDB level files", tsdb_meta);
    add(
        "pkeyMeta",
        Must,
        false,
        "metadata of primary-key tables",
        redo("PKEYMetaLogDir", "PKEYMeta"),
    );
    add("redo", Should, false, "redo log", redo("redoLogDir", "redoLog"));
    add("tsdbRedo", Should, false, "redo log of the TSDB engine", tsdb);
    add(
        "pkeyRedo",
        Should,
        false,
        "redo log of primary-key tables",
        redo("PKEYRedoLogDir", "PKEYRedo"),
    );
    common_to_working_nodes(node, parts);
}

fn compute_node(node: &NodeSource, parts: &mut Vec<Part>) {
    common_to_working_nodes(node, parts);
}

/// Jobs, streams and in-memory tables, of data and compute nodes.
fn common_to_working_nodes(node: &NodeSource, parts: &mut Vec<Part>) {
    let alias = node.spec.alias.as_str();
    let home = &node.home;
    let mut add = |id: &str, class, what: &str, path: PathBuf| {
        parts.push(Part::new(alias, id, class, false, what, &path));
    };
    add("sysmgmt", Must, "scheduled jobs", home.join("sysmgmt"));
    add("keys", Must, "keys of scheduled jobs", home.join("keys"));
    for (id, key, default, what) in [
        ("streamingHA", "streamingHADir", Some("log/streamingHALog"), "log of stream groups"),
        ("streamingHALog", "streamingHALogDir", Some("log/streamingHALog"), "log of stream groups"),
        ("mvccHA", "mvccTableHADir", Some("mvccHA"), "log of MVCC groups"),
        ("recoverLog", "recoverLogDir", Some("recoverLog"), "recovery log"),
        ("persistence", "persistenceDir", None, "persisted stream tables"),
        ("persistenceOffset", "persistenceOffsetDir", None, "offsets of subscriptions"),
        ("oltpRedo", "IMOLTPRedoFilePath", Some("IMOLTPRedo"), "redo log of OLTP tables"),
        ("oltpCheckpoint", "IMOLTPCkpFilePath", Some("IMOLTPCkp"), "checkpoint of OLTP tables"),
        ("staticTables", "", Some("IOTDBStaticTable"), "static tables of the IOTDB engine"),
        ("replication", "clusterReplicationWorkDir", None, "state of cluster replication"),
    ] {
        let path = dir(node, key).or_else(|| default.map(|d| home.join(d)));
        if let Some(path) = path {
            add(id, Should, what, path);
        }
    }
    if let Some(path) = dir(node, "batchJobDir") {
        add("batchJobs", Optional, "output of batch jobs", path);
    }
    settings(node, parts);
}

/// Keys and scripts that the configuration names outside the installation.
fn settings(node: &NodeSource, parts: &mut Vec<Part>) {
    let alias = node.spec.alias.as_str();
    if let Some(path) = dir(node, "TDEKeyDir").or_else(|| dir(node, "TDEKeyPath")) {
        parts.push(Part::new(alias, "tdeKeys", Must, false, "keys of encrypted tables", &path));
    }
    for key in ["startup", "postStart"] {
        let script = node.config.get(key).map(Path::new).filter(|path| path.is_absolute());
        if let Some(path) = script {
            parts.push(Part::new(alias, key, Should, false, "script run at start", path));
        }
    }
}

fn software(installation: &InstallationSource, nodes: &[NodeSource], parts: &mut Vec<Part>) {
    let server = &installation.server_dir;
    let config = installation.work_dir.join("config");
    parts.push(Part::new("", "config", Must, true, "configuration files", &config));
    let mut work = Part::new(
        "",
        "scripts",
        Should,
        false,
        "scripts of the work folder",
        &installation.work_dir,
    );
    work.scope = Scope::FilesOnly;
    parts.push(work);
    for (at, file) in installation.unit_files.iter().enumerate() {
        parts.push(Part::new("", &format!("unit{at}"), Should, false, "systemd unit", file));
    }
    let executable = server.join(&installation.executable);
    parts.push(Part::new("", "executable", Must, true, "the executable", &executable));
    let mut left_out = vec![installation.work_dir.clone(), executable];
    left_out.extend(installation.apart.iter().cloned());
    for node in nodes {
        left_out.push(node.home.clone());
        left_out.extend(volumes(node));
        left_out.extend(node.config.keys().filter(|k| is_dir_key(k)).filter_map(|k| dir(node, k)));
    }
    let mut left_out: Vec<String> = left_out
        .iter()
        .filter_map(|path| path.strip_prefix(server).ok())
        .filter(|relative| !relative.as_os_str().is_empty())
        .map(encode_path)
        .collect();
    left_out.sort();
    left_out.dedup();
    let mut part = Part::new("", "software", Must, true, "software, licence, plugins", server);
    part.scope = Scope::Without(left_out);
    parts.push(part);
}

/// Keys of folders that hold data and not software.
fn is_dir_key(key: &str) -> bool {
    let software = matches!(key, "pluginDir" | "moduleDir" | "webRoot" | "home" | "workDir");
    !software && (key.ends_with("Dir") || key.ends_with("FilePath"))
}

/// The folder that a key names; relative ones are relative to the node's home.
fn dir(node: &NodeSource, key: &str) -> Option<PathBuf> {
    let value = node.config.get(key).map(|v| v.trim()).filter(|v| !v.is_empty())?;
    Some(node.home.join(expand(value, node.spec.alias.as_str())))
}

/// Where a data node's chunks lie; at least one.
fn volumes(node: &NodeSource) -> Vec<PathBuf> {
    let value = node.config.get("volumes").map_or("", String::as_str);
    let all: Vec<PathBuf> = value
        .split(',')
        .map(str::trim)
        .filter(|v| !v.is_empty())
        .map(|v| node.home.join(expand(v, node.spec.alias.as_str())))
        .collect();
    if all.is_empty() { vec![node.home.join("storage")] } else { all }
}
