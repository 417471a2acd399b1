//! The coordinators among themselves: the Raft engine's messages over our own port and mTLS.

mod introduce;
mod network;
mod removed;
mod service;
mod wire;

pub use introduce::{Reached, introduce, reach};
pub use network::{Network, Peer};
pub use removed::removed;
pub use service::GroupService;
