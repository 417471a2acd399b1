//! The coordinators among themselves: the Raft engine's messages over our own port and mTLS.

mod introduce;
mod network;
mod service;
mod wire;

pub use introduce::{Reached, introduce, reach};
pub use network::{Network, Peer};
pub use service::GroupService;
