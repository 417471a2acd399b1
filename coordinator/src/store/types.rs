//! The Raft engine's type parameters: what an entry carries and what applying it answers.

use std::fmt;

use grayfin_coordinator_core::{Response, Stamped};
use serde::{Deserialize, Serialize};

/// Commands that were proposed close together and share one log entry and one fsync.
///
/// The engine waits for each entry's fsync before it takes the next one, so commands that arrive
/// meanwhile are merged; otherwise 200 a second would be the end on a disk with 4 ms per fsync.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Batch {
    /// In the order in which they are applied.
    pub commands: Vec<Stamped>,
}

/// The answers to a batch, one for each command; none for the engine's own entries.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Answers {
    /// In the order of the commands.
    pub responses: Vec<Response>,
}

/// A coordinator as the group's membership names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Where the others reach it, `host:port`.
    pub address: String,
    /// The random name of its state folder: a wiped or cloned folder under an old id is noticed.
    pub instance: String,
}

impl fmt::Display for NodeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

openraft::declare_raft_types!(
    /// The engine's type parameters.
    pub TypeConfig:
        D = Batch,
        R = Answers,
        NodeId = u64,
        Node = NodeInfo,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = std::io::Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

/// The engine with our parameters.
pub type Raft = openraft::Raft<TypeConfig>;

/// A place in the log.
pub type LogId = openraft::LogId<u64>;

/// A log entry.
pub type Entry = openraft::Entry<TypeConfig>;

/// The membership with the place where it was decided.
pub type Membership = openraft::StoredMembership<u64, NodeInfo>;

/// The engine's storage error.
pub type EngineError = openraft::StorageError<u64>;
