//! What a leader shows to those who ask how the cluster is.

use serde::{Deserialize, Serialize};

use super::Controller;
use super::txn::{Holder, place_of};
use crate::ids::{Alias, Millis, NodeRole};
use crate::message::NodeStats;
use crate::meta::{Chunk, ChunkPlace, NodeInfo};

/// A chunk's state in `getClusterChunksStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkState {
    /// A transaction writes to it.
    Constructing,
    /// A replica is not, or not known to be, at the newest version.
    Recovering,
    /// All replicas that are there have the newest version.
    Complete,
}

impl ChunkState {
    /// The server's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Constructing => "CONSTRUCTING",
            Self::Recovering => "RECOVERING",
            Self::Complete => "COMPLETE",
        }
    }
}

/// One line of `getClusterChunksStatus`.
#[derive(Clone, Debug)]
pub struct ChunkStatus {
    /// The chunk.
    pub place: ChunkPlace,
    /// Bytes.
    pub bytes: u64,
    /// The newest version.
    pub version: u64,
    /// Its state.
    pub state: ChunkState,
    /// Replicas on live nodes, with their versions.
    pub replicas: Vec<(Alias, u64)>,
    /// Milliseconds since 1970.
    pub updated_ms: i64,
}

/// One line of `getClusterPerf`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeInfo,
    /// Is it there?
    pub online: bool,
    /// Has it finished starting?
    pub ready: bool,
    /// Does it lead? Only of controllers, and unknown of one that is away.
    pub leader: Option<bool>,
    /// Its load, as it last said.
    pub stats: NodeStats,
    /// The alias of its host's DolphinDB agent.
    pub agent: Option<Alias>,
}

impl Controller {
    /// All chunks, those included that a running transaction is making.
    #[must_use]
    pub fn chunk_statuses(&self, now: Millis) -> Vec<ChunkStatus> {
        let mut all: Vec<ChunkStatus> =
            self.meta.chunks.values().map(|chunk| self.chunk_status(now, chunk)).collect();
        let grants = self.leading.iter().flat_map(|l| l.txns.values()).flat_map(|t| &t.grants);
        for grant in grants.filter(|grant| !self.meta.chunks.contains_key(&grant.place.id)) {
            all.push(ChunkStatus {
                place: grant.place.clone(),
                bytes: 0,
                version: 0,
                state: ChunkState::Constructing,
                replicas: grant.replicas.iter().map(|alias| (alias.clone(), 0)).collect(),
                updated_ms: 0,
            });
        }
        all
    }

    fn chunk_status(&self, now: Millis, chunk: &Chunk) -> ChunkStatus {
        let replicas: Vec<(Alias, u64)> = chunk
            .replicas
            .iter()
            .filter(|(alias, _)| self.has_reported(alias))
            .map(|(alias, version)| (alias.clone(), *version))
            .collect();
        let holder = self.leading.as_ref().and_then(|l| l.locks.get(&place_of(&chunk.place)));
        let unsure = chunk.replicas.keys().any(|a| self.is_online(a) && !self.has_reported(a));
        let behind = replicas.iter().any(|(_, version)| *version < chunk.version);
        let state = match holder {
            Some(Holder::Task(_, until)) if now < *until => ChunkState::Recovering,
            Some(Holder::Txn(_)) => ChunkState::Constructing,
            Some(Holder::Task(..)) | None if unsure || behind || replicas.is_empty() => {
                ChunkState::Recovering
            }
            Some(Holder::Task(..)) | None => ChunkState::Complete,
        };
        ChunkStatus {
            place: chunk.place.clone(),
            bytes: chunk.bytes,
            version: chunk.version,
            state,
            replicas,
            updated_ms: chunk.updated_ms,
        }
    }

    /// All nodes of the cluster, as the leader sees them.
    #[must_use]
    pub fn node_statuses(&self, now: Millis) -> Vec<NodeStatus> {
        self.meta.config.nodes.iter().map(|node| self.node_status(now, node)).collect()
    }

    fn node_status(&self, now: Millis, node: &NodeInfo) -> NodeStatus {
        let agents = self.meta.config.nodes.iter().filter(|n| n.role == NodeRole::DdbAgent);
        let agent = agents.filter(|n| n.host == node.host).map(|n| n.alias.clone()).next();
        if node.role == NodeRole::Controller {
            let me = node.alias == self.settings.me;
            let timeout = self.settings.timing.heartbeat_timeout_ms;
            let acked = self.raft.acked_at(&node.alias);
            let online = me || acked.is_some_and(|at| now.saturating_sub(at) < timeout);
            return NodeStatus {
                node: node.clone(),
                online,
                ready: online,
                leader: online.then_some(me && self.is_leader(now)),
                stats: NodeStats::default(),
                agent,
            };
        }
        let known = self.node(&node.alias);
        NodeStatus {
            node: node.clone(),
            online: known.is_some_and(|k| k.online),
            ready: known.is_some_and(|k| k.online && k.ready),
            leader: None,
            stats: known.map(|k| k.stats.clone()).unwrap_or_default(),
            agent,
        }
    }
}
