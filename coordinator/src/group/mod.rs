//! The coordinators among themselves: the Raft engine's messages over our own port and mTLS.

mod network;
mod service;
mod wire;

pub use network::{Network, Peer};
pub use service::GroupService;
