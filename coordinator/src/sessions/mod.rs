//! The host agents' long-lived streams: who is connected, what they say, what they are sent.

mod commit;
mod incoming;
mod link;
mod links;
mod outgoing;
mod packages;
mod session;

pub use link::HostAgentLinkService;
pub use links::{Links, Tempo};
