//! The cluster logic of the stand-in DolphinDB, as a pure model.
//!
//! Events go in, actions come out; nothing here reads a clock, a file, a socket or a source of
//! randomness. The stand-in's process runs it on real sockets and files, a simulator may run the
//! very same code in virtual time, so that there is one model of DolphinDB and not two.
//!
//! Two machines make a cluster:
//! - [`controller::Controller`]: election and log replication among the DolphinDB controllers
//!   ([`raft`]), the replicated metadata ([`meta`]), and what only the leader knows: who is alive,
//!   which chunks are locked by a transaction, what is being recovered;
//! - [`member::Member`]: every other node (data node, compute node, DolphinDB agent): heartbeats,
//!   finding the leader, transactions it coordinates, chunks it keeps.
//!
//! They talk with the messages of [`message`].

pub mod controller;
pub mod ids;
pub mod member;

pub mod message;
pub mod meta;
pub mod raft;
pub mod rng;
pub mod timing;

pub use ids::{Alias, ChunkId, Millis, NodeRole, Tid};
pub use rng::Rng;
pub use timing::Timing;
