//! What nodes say to each other, apart from the controllers' own log replication.

use serde::{Deserialize, Serialize};

use crate::controller::NodeStatus;
use crate::ids::{Alias, ChunkId, NodeRole, Tid};
use crate::meta::{
    ChunkCommit, ChunkPlace, ClusterConfig, Command, Database, Refused, Table, Users,
};
use crate::raft::Index;

/// A question for the leading controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Ask {
    /// I live.
    Heartbeat(Heartbeat),
    /// These chunks are on my disk.
    Report(Report),
    /// I am stopping.
    Goodbye {
        /// Who.
        alias: Alias,
        /// Which run of it.
        incarnation: u64,
    },
    /// A transaction starts.
    Begin(Begin),
    /// All its replicas are on disk.
    Commit {
        /// The transaction.
        tid: Tid,
        /// What was written to each chunk.
        written: Vec<Written>,
        /// When, milliseconds since 1970.
        at_ms: i64,
    },
    /// It will not be committed.
    Abort {
        /// The transaction.
        tid: Tid,
    },
    /// How did it end?
    Outcome {
        /// The transaction.
        tid: Tid,
    },
    /// This node does not answer me.
    Unreachable {
        /// The silent one.
        alias: Alias,
    },
    /// All nodes and how they are.
    Nodes,
    /// All databases.
    Databases,
    /// One database and its tables' names.
    Database {
        /// Its path.
        path: String,
    },
    /// One table, with its chunks and where to read them.
    Table {
        /// Path of its database.
        db: String,
        /// Its name.
        name: String,
    },
    /// Change the metadata.
    Change(Command),
    /// A recovery task got this far.
    Recovered {
        /// The task.
        task: u64,
        /// Who reports.
        alias: Alias,
        /// The version reached, or what went wrong.
        version: Result<u64, String>,
    },
    /// Start these data or compute nodes.
    StartNodes {
        /// Aliases, or `host:port`.
        nodes: Vec<String>,
    },
    /// Stop them.
    StopNodes {
        /// Aliases, or `host:port`.
        nodes: Vec<String>,
        /// Answer only when they are gone?
        wait: bool,
    },
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Who.
    pub alias: Alias,
    /// A number drawn at each start of the process.
    pub incarnation: u64,
    /// What it is.
    pub role: NodeRole,
    /// Has it done everything that a start needs?
    pub ready: bool,
    /// The revision of the users it knows.
    pub users_revision: u64,
    /// The revision of the configuration it knows.
    pub config_revision: u64,
    /// What `getClusterPerf` shows of it.
    pub stats: NodeStats,
}

/// Load and resources of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeStats {
    /// Client connections.
    pub connections: u32,
    /// Bytes of memory used.
    pub memory: u64,
    /// Most connections.
    pub connections_max: u32,
    /// Gigabytes of memory allowed.
    pub memory_max_gb: f64,
    /// Worker threads.
    pub workers: u32,
    /// Scripts that run now.
    pub running_jobs: u32,
    /// Bytes on the disk of its home.
    pub disk_capacity: u64,
    /// Of those, free.
    pub disk_free: u64,
}

/// All chunks of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Who.
    pub alias: Alias,
    /// Which run of it.
    pub incarnation: u64,
    /// The ticket that asked for it: everything committed up to there must be in it.
    pub ticket: Index,
    /// The chunks.
    pub chunks: Vec<ChunkReport>,
}

/// One chunk on a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkReport {
    /// The chunk.
    pub id: ChunkId,
    /// The version that is committed here.
    pub version: u64,
    /// A transaction whose end this node has not heard of.
    pub pending: Option<Tid>,
}

/// The start of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The transaction.
    pub tid: Tid,
    /// Who coordinates it.
    pub coordinator: Alias,
    /// Path of the database.
    pub db: String,
    /// The table.
    pub table: String,
    /// The partitions it writes to.
    pub keys: Vec<String>,
    /// Client and sequence number, for servers that de-duplicate.
    pub client: Option<(String, u64)>,
}

/// One partition of a transaction that may go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The chunk.
    pub place: ChunkPlace,
    /// Its version before the transaction.
    pub base: u64,
    /// The nodes to write to.
    pub replicas: Vec<Alias>,
}

/// What a transaction wrote to one chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The chunk.
    pub chunk: ChunkId,
    /// Rows added.
    pub rows: u64,
    /// Bytes added.
    pub bytes: u64,
}

/// Rows, as the evaluator wrote them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// How many rows.
    pub rows: u64,
    /// The rows.
    pub data: String,
}

/// The rows of one transaction in one chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version it made.
    pub version: u64,
    /// The transaction.
    pub tid: Tid,
    /// The rows.
    pub payload: Payload,
}

/// A chunk and where it can be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readable {
    /// The chunk.
    pub place: ChunkPlace,
    /// The version to read.
    pub version: u64,
    /// Rows in it.
    pub rows: u64,
    /// Live nodes that have that version.
    pub replicas: Vec<Alias>,
}

/// A request to a node that is not a controller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// Put these rows on disk, not yet visible.
    Prepare {
        /// The transaction.
        tid: Tid,
        /// The chunk.
        place: ChunkPlace,
        /// The version they follow.
        base: u64,
        /// The rows.
        payload: Payload,
    },
    /// A transaction ended.
    Finish {
        /// The transaction.
        tid: Tid,
        /// The chunks of it that are here.
        chunks: Vec<ChunkId>,
        /// Committed?
        commit: bool,
    },
    /// Give the rows after one version up to another.
    Read {
        /// The chunk.
        chunk: ChunkId,
        /// Leave out everything up to this version.
        after: u64,
        /// Stop after this version.
        upto: u64,
    },
    /// Bring this chunk up to `version` from another node.
    Recover {
        /// The task.
        task: u64,
        /// The chunk.
        place: ChunkPlace,
        /// Where to copy from.
        source: Alias,
        /// How far.
        version: u64,
    },
    /// Forget these chunks.
    Delete {
        /// The chunks.
        chunks: Vec<ChunkId>,
    },
    /// To a DolphinDB agent: start this node of your host.
    Start(Box<Start>),
    /// To a DolphinDB agent: stop this node of your host.
    Stop {
        /// The node.
        alias: Alias,
        /// Its address.
        site: String,
        /// Answer only when it is gone?
        wait: bool,
    },
}

/// What a DolphinDB agent needs to start a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The node.
    pub alias: Alias,
    /// `host:port`.
    pub site: String,
    /// What it is.
    pub role: NodeRole,
    /// `cluster.cfg`, line by line.
    pub cluster_lines: Vec<String>,
    /// What data and compute nodes use of the controller's own configuration.
    pub settings: Vec<(String, String)>,
}

/// The answer to an [`Ask`] or an [`Order`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// Done, nothing to say.
    Done,
    /// This controller does not lead.
    NotLeader {
        /// Who does, if known.
        leader: Option<Alias>,
    },
    /// This controller leads, but is not ready yet.
    NotReady,
    /// To a heartbeat.
    Alive(Box<Alive>),
    /// To a report.
    Reported {
        /// Transactions to commit: chunk and transaction.
        commit: Vec<(ChunkId, Tid)>,
        /// Transactions to roll back.
        abort: Vec<(ChunkId, Tid)>,
        /// Chunks to forget.
        delete: Vec<ChunkId>,
    },
    /// To [`Ask::Begin`]: go on.
    Granted(Vec<Grant>),
    /// To [`Ask::Begin`]: this client's request was already run.
    Duplicate {
        /// Rows it inserted then.
        rows: u64,
    },
    /// To [`Ask::Begin`]: another transaction has the chunk; try again soon.
    Busy {
        /// The chunk's path.
        path: String,
    },
    /// To [`Ask::Commit`]: the transaction is rolled back.
    RolledBack,
    /// To [`Ask::Nodes`].
    Nodes(Vec<NodeStatus>),
    /// To [`Ask::Outcome`]: was it committed?
    Outcome(bool),
    /// To [`Ask::Databases`].
    Databases(Vec<Database>),
    /// To [`Ask::Database`].
    Database(Option<(Database, Vec<Table>)>),
    /// To [`Ask::Table`].
    Table(Option<Box<TableView>>),
    /// To [`Ask::Change`], when it does not fit.
    Refused(String),
    /// To [`Order::Read`].
    Records {
        /// The rows.
        records: Vec<Record>,
        /// The version reached.
        version: u64,
        /// Is there more before the version that was asked for?
        more: bool,
    },
    /// To [`Ask::Recovered`]: copy further, up to this version.
    Continue {
        /// The version now.
        version: u64,
    },
    /// It went wrong; the text is for a person.
    Failed(String),
}

/// The leader's answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alive {
    /// Please report all chunks, with this ticket.
    pub report: Option<Index>,
    /// Users, if the node's are old.
    pub users: Option<(u64, Users)>,
    /// Configuration, if the node's is old.
    pub config: Option<(u64, ClusterConfig)>,
}

/// A table and how to read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableView {
    /// Its database.
    pub database: Database,
    /// The table.
    pub table: Table,
    /// Its chunks.
    pub chunks: Vec<Readable>,
}

impl From<Refused> for Answer {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused.to_string())
    }
}

/// Puts together what a commit changes from what was granted and what was written.
#[must_use]
pub fn chunk_commits(grants: &[Grant], written: &[Written]) -> Vec<ChunkCommit> {
    grants
        .iter()
        .map(|grant| {
            let wrote = written.iter().find(|w| w.chunk == grant.place.id);
            ChunkCommit {
                place: grant.place.clone(),
                version: grant.base + 1,
                replicas: grant.replicas.clone(),
                rows: wrote.map_or(0, |w| w.rows),
                bytes: wrote.map_or(0, |w| w.bytes),
            }
        })
        .collect()
}
