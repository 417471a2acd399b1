//! What was seen: facts about hosts and clusters, with "unknown" as a value of its own (S9).

use serde::{Deserialize, Serialize};

use crate::{ClusterId, Code, DdbVersion, Generation, HostId, LedgerId, NodeAlias, Token};

/// A fact that was looked for: known, or unknown with the reason. Unknown never means fine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe<T> {
    /// It was seen.
    Known(T),
    /// It could not be found out; the text says why, in a person's words.
    Unknown(String),
}

impl<T> Probe<T> {
    /// Returns the value if it is known.
    pub const fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }

    /// Returns the reason if it is unknown.
    pub fn why_unknown(&self) -> Option<&str> {
        match self {
            Self::Known(_) => None,
            Self::Unknown(why) => Some(why),
        }
    }
}

/// What a DolphinDB process is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// A DolphinDB controller: member of the Raft group that keeps the cluster's metadata.
    Controller,
    /// A DolphinDB agent: starts the data and compute nodes of its host.
    DdbAgent,
    /// A data node: keeps chunks.
    DataNode,
    /// A compute node: keeps none.
    ComputeNode,
}

impl std::fmt::Display for NodeRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Controller => "controller",
            Self::DdbAgent => "DolphinDB agent",
            Self::DataNode => "data node",
            Self::ComputeNode => "compute node",
        })
    }
}

/// A node as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeSpec {
    /// The alias.
    pub alias: NodeAlias,
    /// The role.
    pub role: NodeRole,
    /// The address that the cluster uses, without the port.
    pub address: String,
    /// The TCP port.
    pub port: u16,
    /// The compute group, empty where there is none.
    #[serde(default)]
    pub compute_group: String,
}

/// Which process it is: a pid alone may be another process a moment later (S6).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id in the host agent's own PID namespace.
    pub pid: u32,
    /// Start time in clock ticks after boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
    /// What `/proc/PID/exe` points to, without ` (deleted)`.
    pub executable: String,
    /// The executable was replaced or removed while the process ran.
    pub executable_deleted: bool,
    /// Working directory.
    pub working_directory: String,
}

/// Whether a node's process is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    /// It runs.
    Running(ProcessIdentity),
    /// No process of it was found, and the whole process table was readable.
    Absent,
    /// It could not be found out.
    Unknown(String),
}

/// What a host agent saw of one node of its own host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The node as configured.
    pub spec: NodeSpec,
    /// Its process.
    pub process: ProcessState,
    /// The version it answers with.
    pub version: Probe<DdbVersion>,
    /// Whether it says that it is initialised and ready.
    pub ready: Probe<bool>,
    /// For a DolphinDB controller: which controller it says is the leader.
    pub leader: Option<Probe<NodeAlias>>,
    /// For a DolphinDB controller: its start marker is in its log, after the process's start.
    pub start_marker: Option<Probe<bool>>,
    /// How it was started: the systemd unit's name, or empty for scripts and commands.
    #[serde(default)]
    pub unit: String,
}

/// Free room on the file system of one directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFacts {
    /// The directory asked about.
    pub path: String,
    /// What Grayfin would put there: `backup`, `package`, `installation`, `ledger`.
    pub purpose: String,
    /// Identifies the file system, so that needs on one volume are added up.
    pub device: u64,
    /// Bytes free for the host agent.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// A package file on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageFacts {
    /// File name.
    pub file: String,
    /// The version that the name claims.
    pub version: DdbVersion,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in hex; unknown until it has been computed.
    pub sha256: Probe<String>,
    /// The zip was read through and every entry's CRC held; unknown until checked.
    pub intact: Probe<bool>,
    /// Bytes of all entries unpacked.
    pub unpacked_bytes: Probe<u64>,
    /// Plugins that it brings, as `name version`; empty until it was read through.
    #[serde(default)]
    pub plugins: Vec<(String, String)>,
}

/// The licence as DolphinDB reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LicenceFacts {
    /// Expiry date `YYYY.MM.DD`; an expired licence lets a node run on but not start again.
    pub expires: Probe<String>,
    /// Days until expiry by the host's own calendar, negative when past.
    pub days_left: Probe<i64>,
    /// The highest server version allowed, none for any.
    pub version_cap: Probe<Option<String>>,
}

/// One part of what a backup of the host would contain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPart {
    /// The node it belongs to, or empty for the installation itself.
    pub node: String,
    /// `must`, `should` or `optional`.
    pub class: BackupClass,
    /// What it is, for people: `controller Raft log and snapshots`.
    pub what: String,
    /// The source path.
    pub path: String,
    /// Bytes it has now; unknown where it can't be read. None where it does not exist.
    pub bytes: Probe<Option<u64>>,
}

/// How much a part of the backup matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupClass {
    /// Without it there is no way back.
    Must,
    /// Leaving it out is an override.
    Should,
    /// Nice to have.
    Optional,
}

/// Something that a node holds only in memory and that a restart loses (S13).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MemoryObject {
    /// The node.
    pub node: NodeAlias,
    /// `stream_table`, `subscription`, `engine`, `shared_table`, `plugin`, `batch_job`,
    /// `scheduled_job`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The installation's startup script makes it again.
    pub provided_for: bool,
}

/// Something wrong with a host that a person has to mend, found while looking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The error code.
    pub code: Code,
    /// What it is about: a file with line, a node, a path.
    pub subject: String,
    /// What was seen and what to do.
    pub detail: String,
}

/// The host agent's own standing: what S2 and S8 need to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStanding {
    /// Version of the host agent.
    pub version: String,
    /// Enrolment generation of its certificate.
    pub generation: Generation,
    /// Its ledger's random id.
    pub ledger_id: LedgerId,
    /// Number of entries in the ledger.
    pub ledger_position: u64,
    /// Tokens up to this one are refused.
    pub floor: Token,
    /// The token of the hold that is open here.
    pub open_hold: Option<Token>,
}

/// What one host agent sees of its own host, for one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The cluster.
    pub cluster: ClusterId,
    /// The host.
    pub host: HostId,
    /// The kernel's boot id: another one means the machine was restarted.
    pub boot_id: String,
    /// Grows with each look of one host agent process.
    pub look: u64,
    /// The host agent itself.
    pub standing: AgentStanding,
    /// The folder that holds the executable.
    pub server_dir: String,
    /// The version that the executable on disk claims (its package's name or its own answer).
    pub installed: Probe<DdbVersion>,
    /// `native` or `script`.
    pub upgrade_mode: String,
    /// Every node that is configured for this host.
    pub nodes: Vec<NodeFacts>,
    /// All nodes of the cluster, as this host's configuration files name them.
    pub configured: Vec<NodeSpec>,
    /// Digest of the normalised `cluster.nodes`: equal on all hosts.
    pub nodes_digest: Probe<String>,
    /// Room on the volumes that matter.
    pub volumes: Vec<VolumeFacts>,
    /// Packages in the package folder.
    pub packages: Vec<PackageFacts>,
    /// What would be backed up.
    pub backup: Vec<BackupPart>,
    /// The licence.
    pub licence: Probe<LicenceFacts>,
    /// Installed plugins as `name version`; one outside the installation's own `plugins` folder, which
    /// a package replaces, has its place behind the name.
    pub plugins: Probe<Vec<(String, String)>>,
    /// What lives only in memory on this host's nodes.
    pub memory: Probe<Vec<MemoryObject>>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// A node in the eyes of the DolphinDB controllers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNode {
    /// The node as the live configuration has it.
    pub spec: NodeSpec,
    /// The leading controller counts it as alive.
    pub up: bool,
    /// The observer's own direct probe got an answer.
    pub answers: Probe<bool>,
    /// The version that it answered the direct probe with.
    pub version: Probe<DdbVersion>,
}

/// Chunks that lie on the same nodes in the same state, counted on the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The nodes that keep a current, uncorrupted replica.
    pub current_on: Vec<NodeAlias>,
    /// The nodes that keep an outdated or corrupted one.
    pub stale_on: Vec<NodeAlias>,
    /// `COMPLETE`, `CONSTRUCTING` or `RECOVERING`.
    pub state: String,
    /// The controller's replica count.
    pub replica_count: u32,
    /// How many chunks are so.
    pub chunks: u64,
    /// The path of one of them, for people.
    pub example: String,
}

/// One chunk that is not settled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnsettledChunk {
    /// Chunk id.
    pub id: String,
    /// DFS path.
    pub path: String,
    /// State.
    pub state: String,
    /// Version.
    pub version: i64,
    /// Replica count.
    pub replica_count: u32,
}

/// The cluster's chunks in one scan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkFacts {
    /// All chunks.
    pub total: u64,
    /// Grouped by where they lie.
    pub placements: Vec<Placement>,
    /// Chunks that are not `COMPLETE` or whose replica count is not the factor; bounded.
    pub unsettled: Vec<UnsettledChunk>,
    /// There were more unsettled ones than listed.
    pub truncated: bool,
    /// How long the scan took, in milliseconds.
    pub scan_ms: u64,
    /// How old the scan was when it was sent, in milliseconds: scans are rationed.
    pub age_ms: u64,
}

/// A Raft group of data nodes: streaming or MVCC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftGroup {
    /// `streaming` or `mvcc`.
    pub kind: String,
    /// The group's id.
    pub id: String,
    /// Its configured members.
    pub members: Vec<NodeAlias>,
}

/// What the designated observer sees of a whole cluster. It is never on the held host (S9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFacts {
    /// The cluster.
    pub cluster: ClusterId,
    /// Who looked.
    pub seen_from: HostId,
    /// Grows with each look of one host agent process.
    pub look: u64,
    /// The leading DolphinDB controller, named alike by a majority of the configured ones.
    pub leader: Probe<NodeAlias>,
    /// What each controller that answered says about the leader.
    pub leader_votes: Vec<(NodeAlias, NodeAlias)>,
    /// Every node of the live configuration.
    pub nodes: Probe<Vec<ClusterNode>>,
    /// `dfsReplicationFactor`.
    pub replication_factor: Probe<u32>,
    /// `dfsReplicaReliabilityLevel`.
    pub reliability_level: Probe<u32>,
    /// `dfsRecoveryWaitTime` as in force (with the floor of 60 s), 0 for off; milliseconds.
    pub recovery_wait_ms: Probe<u64>,
    /// Seconds of `datanodeRestartInterval`, 0 for off.
    pub restart_interval_s: Probe<u64>,
    /// Chunks. Unknown when no scan was allowed or it failed.
    pub chunks: Probe<ChunkFacts>,
    /// Recovery tasks that wait or run.
    pub recovery_tasks: Probe<u64>,
    /// Raft groups of data nodes.
    pub raft_groups: Probe<Vec<RaftGroup>>,
}
