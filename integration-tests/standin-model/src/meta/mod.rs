//! The metadata that the DolphinDB controllers replicate: what exists, and which replica of which
//! chunk is at which version.
//!
//! Schemes, schemas and rows are opaque here: the program that evaluates scripts knows them.

mod apply;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::ids::{Alias, ChunkId, NodeRole, Tid};
use crate::raft::Index;

/// Transactions remembered after their commit, for coordinators that missed the answer.
const RECENT_TIDS: usize = 4_096;
/// Clients whose last request is remembered for de-duplication.
const CLIENTS_MAX: usize = 1_024;

/// One line of `cluster.nodes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its alias.
    pub alias: Alias,
    /// `host:port`.
    pub site: String,
    /// The host alone.
    pub host: String,
    /// What it is.
    pub role: NodeRole,
    /// The compute group, if it is in one.
    pub group: Option<String>,
}

/// The cluster's configuration, which the controllers manage after their first start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// `cluster.nodes`, line by line.
    pub nodes_lines: Vec<String>,
    /// `cluster.cfg`, line by line.
    pub cluster_lines: Vec<String>,
    /// What `nodes_lines` says.
    pub nodes: Vec<NodeInfo>,
}

/// A database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// `dfs://name`.
    pub path: String,
    /// Partition scheme, engine and so on, as the evaluator wrote it.
    pub spec: String,
    /// Grows with each change of `spec`.
    pub revision: u64,
}

/// A table of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Path of its database.
    pub db: String,
    /// Its name.
    pub name: String,
    /// Columns, partition columns and so on, as the evaluator wrote it.
    pub spec: String,
    /// Last component of its chunks' paths.
    pub suffix: String,
    /// Its chunks by partition key.
    pub chunks: BTreeMap<String, ChunkId>,
}

/// A chunk: one partition of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Where and whose it is.
    pub place: ChunkPlace,
    /// Grows by one per committed transaction.
    pub version: u64,
    /// The log entry that last changed the version.
    pub changed_at: Index,
    /// Rows in it.
    pub rows: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// When it last changed, milliseconds since 1970.
    pub updated_ms: i64,
    /// Which node holds which version.
    pub replicas: BTreeMap<Alias, u64>,
}

/// Identity and place of a chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkPlace {
    /// The chunk.
    pub id: ChunkId,
    /// Path of its database.
    pub db: String,
    /// Name of its table.
    pub table: String,
    /// Its partition.
    pub key: String,
    /// `/db/partition/table`, as `getClusterChunksStatus` shows it.
    pub path: String,
}

/// The last request of a client that asked not to be run twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSeq {
    /// Its sequence number.
    pub seq: u64,
    /// Rows it inserted.
    pub rows: u64,
    /// The log entry that recorded it.
    pub at: Index,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Salted digest of the password; never the password.
    pub secret: String,
    /// May it do everything?
    pub admin: bool,
    /// Rights granted one by one.
    pub grants: BTreeSet<String>,
}

/// Users by name.
pub type Users = BTreeMap<String, User>;

/// One chunk's part of a committed transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkCommit {
    /// The chunk; unknown ones come into being.
    pub place: ChunkPlace,
    /// The version the transaction makes.
    pub version: u64,
    /// The nodes that have it on disk.
    pub replicas: Vec<Alias>,
    /// Rows added.
    pub rows: u64,
    /// Bytes added.
    pub bytes: u64,
}

/// A change to the metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Nothing; a new leader's first entry.
    Noop,
    /// The configuration, at the first start or by an administrator.
    SetConfig(ClusterConfig),
    /// A new database.
    CreateDatabase(Database),
    /// Another spec for a database, if nobody changed it meanwhile.
    ChangeDatabase(Database),
    /// A database and all its tables.
    DropDatabase {
        /// Its path.
        path: String,
    },
    /// A new table.
    CreateTable {
        /// Path of its database.
        db: String,
        /// Its name.
        name: String,
        /// Its spec.
        spec: String,
    },
    /// A table and its chunks.
    DropTable {
        /// Path of its database.
        db: String,
        /// Its name.
        name: String,
    },
    /// Partitions of one table or, without a name, of all tables of a database.
    DropPartition {
        /// Path of the database.
        db: String,
        /// The table.
        name: Option<String>,
        /// The partitions' keys.
        keys: Vec<String>,
    },
    /// Rows of a transaction are on disk.
    Commit {
        /// The transaction.
        tid: Tid,
        /// When, milliseconds since 1970.
        at_ms: i64,
        /// Client and sequence number, for servers that de-duplicate.
        client: Option<(String, u64)>,
        /// What changed.
        chunks: Vec<ChunkCommit>,
    },
    /// A node's replica is at this version, or is gone when `None`.
    Replica {
        /// The chunk.
        chunk: ChunkId,
        /// The node.
        alias: Alias,
        /// What it has.
        version: Option<u64>,
        /// A replica that this one takes the place of.
        replaces: Option<Alias>,
    },
    /// A user is new or changed.
    SetUser {
        /// Its name.
        name: String,
        /// All about it.
        user: User,
    },
    /// A user is gone.
    DropUser {
        /// Its name.
        name: String,
    },
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is one of that name.
    #[error("The database or table `{0}` already exists.")]
    Exists(String),
    /// There is none of that name.
    #[error("The database or table `{0}` does not exist.")]
    Missing(String),
    /// Somebody else was faster.
    #[error("`{0}` was changed meanwhile.")]
    Conflict(String),
}

/// Everything the controllers agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The newest entry in it.
    pub applied: Index,
    /// The cluster's configuration.
    pub config: ClusterConfig,
    /// Databases by path.
    pub databases: BTreeMap<String, Database>,
    /// Tables by database and name.
    pub tables: BTreeMap<String, BTreeMap<String, Table>>,
    /// Chunks.
    pub chunks: BTreeMap<ChunkId, Chunk>,
    /// Users.
    pub users: Users,
    /// Grows with each change of the users.
    pub users_revision: u64,
    /// Grows with each change of the configuration.
    pub config_revision: u64,
    /// Last requests of clients.
    pub clients: BTreeMap<String, ClientSeq>,
    recent: VecDeque<Tid>,
    tables_made: u64,
}

impl Metadata {
    /// Applies the entry at `index`; the same entries give the same metadata on every controller.
    ///
    /// # Errors
    /// If the change does not fit what is there; the metadata is then unchanged.
    pub fn apply(&mut self, index: Index, command: &Command) -> Result<(), Refused> {
        self.applied = index;
        match command {
            Command::Noop => Ok(()),
            Command::SetConfig(config) => {
                self.config = config.clone();
                self.config_revision += 1;
                Ok(())
            }
            Command::CreateDatabase(database) => self.create_database(database),
            Command::ChangeDatabase(database) => self.change_database(database),
            Command::DropDatabase { path } => self.drop_database(path),
            Command::CreateTable { db, name, spec } => self.create_table(db, name, spec),
            Command::DropTable { db, name } => self.drop_table(db, name),
            Command::DropPartition { db, name, keys } => {
                self.drop_partition(db, name.as_deref(), keys)
            }
            Command::Commit { tid, at_ms, client, chunks } => {
                self.commit(index, *tid, *at_ms, client.as_ref(), chunks)
            }
            Command::Replica { chunk, alias, version, replaces } => {
                self.set_replica(*chunk, alias, *version, replaces.as_ref())
            }
            Command::SetUser { name, user } => {
                self.users.insert(name.clone(), user.clone());
                self.users_revision += 1;
                Ok(())
            }
            Command::DropUser { name } => {
                self.users_revision += 1;
                self.users.remove(name).map(|_| ()).ok_or_else(|| Refused::Missing(name.clone()))
            }
        }
    }

    /// The table `name` of the database `db`.
    #[must_use]
    pub fn table(&self, db: &str, name: &str) -> Option<&Table> {
        self.tables.get(db)?.get(name)
    }

    /// The chunk of one partition of one table.
    #[must_use]
    pub fn chunk_of(&self, db: &str, name: &str, key: &str) -> Option<&Chunk> {
        self.chunks.get(self.table(db, name)?.chunks.get(key)?)
    }

    /// Was this transaction committed, as far as remembered?
    #[must_use]
    pub fn was_committed(&self, tid: Tid) -> bool {
        self.recent.contains(&tid)
    }

    /// The node of that alias.
    #[must_use]
    pub fn node(&self, alias: &str) -> Option<&NodeInfo> {
        self.config.nodes.iter().find(|n| n.alias == alias)
    }

    /// The chunks that a drop would remove.
    #[must_use]
    pub fn chunks_dropped_by(&self, command: &Command) -> Vec<ChunkId> {
        let all_of = |db: &str| self.tables.get(db).into_iter().flat_map(BTreeMap::values);
        match command {
            Command::DropDatabase { path } => {
                all_of(path).flat_map(|t| t.chunks.values().copied()).collect()
            }
            Command::DropTable { db, name } => self
                .table(db, name)
                .map(|t| t.chunks.values().copied().collect())
                .unwrap_or_default(),
            Command::DropPartition { db, name, keys } => all_of(db)
                .filter(|t| name.as_ref().is_none_or(|n| *n == t.name))
                .flat_map(|t| keys.iter().filter_map(|k| t.chunks.get(k).copied()))
                .collect(),
            Command::Noop
            | Command::SetConfig(_)
            | Command::CreateDatabase(_)
            | Command::ChangeDatabase(_)
            | Command::CreateTable { .. }
            | Command::Commit { .. }
            | Command::Replica { .. }
            | Command::SetUser { .. }
            | Command::DropUser { .. } => Vec::new(),
        }
    }
}
