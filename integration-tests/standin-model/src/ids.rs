//! Names and numbers that the whole model shares.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A node's alias: unique in its cluster, and case-sensitive.
pub type Alias = String;

/// Milliseconds of a clock that only goes forward; its origin is the driver's choice.
pub type Millis = u64;

/// A request that the driver gave to a machine and that it answers exactly once.
pub type RequestId = u64;

/// A chunk's identity: one partition of one table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ChunkId(pub u128);

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, mask) = (self.0, 0xffff_u128);
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            n >> 96,
            (n >> 80) & mask,
            (n >> 64) & mask,
            (n >> 48) & mask,
            n & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a chunk's identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a chunk id")]
pub struct BadChunkId(String);

impl FromStr for ChunkId {
    type Err = BadChunkId;

    fn from_str(text: &str) -> Result<Self, BadChunkId> {
        let hex: String = text.chars().filter(|c| *c != '-').collect();
        if hex.len() != 32 {
            return Err(BadChunkId(text.to_owned()));
        }
        u128::from_str_radix(&hex, 16).map(Self).map_err(|_| BadChunkId(text.to_owned()))
    }
}

impl From<ChunkId> for String {
    fn from(id: ChunkId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ChunkId {
    type Error = BadChunkId;

    fn try_from(text: String) -> Result<Self, BadChunkId> {
        text.parse()
    }
}

/// A transaction's identity, drawn at random where it is coordinated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tid(pub u64);

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a node of the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeRole {
    /// Keeps chunks.
    DataNode,
    /// The DolphinDB agent of a host: starts and stops its data and compute nodes.
    DdbAgent,
    /// Keeps the cluster's metadata.
    Controller,
    /// Computes, keeps nothing.
    ComputeNode,
}

impl NodeRole {
    /// The number that `getNodeType` and `getClusterPerf` use.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::DataNode => 0,
            Self::DdbAgent => 1,
            Self::Controller => 2,
            Self::ComputeNode => 4,
        }
    }

    /// Is it started and stopped through a DolphinDB agent?
    #[must_use]
    pub fn is_worker(self) -> bool {
        matches!(self, Self::DataNode | Self::ComputeNode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_ids_print_as_uuids_and_come_back() {
        let id = ChunkId(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f);
        assert_eq!(id.to_string(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(id.to_string().parse::<ChunkId>().unwrap(), id);
        assert!("0001".parse::<ChunkId>().is_err());
        assert!("zz010203-0405-0607-0809-0a0b0c0d0e0f".parse::<ChunkId>().is_err());
    }
}
