//! The words that every part of Grayfin shares: ids, versions, facts, plans, steps, gates, events
//! and error codes.
//!
//! Nothing here decides or acts. The types are plain data with `serde` forms; the documents among
//! them ([`facts::HostFacts`], [`facts::ClusterFacts`], [`plan::Plan`], [`step::Report`],
//! [`event::Event`], [`status::RolloutStatus`]) travel inside the gRPC envelope as JSON, are stored
//! as evidence exactly as they came, and are what `--json` prints. [`SCHEMA`] numbers their form.

pub mod code;
pub mod event;
pub mod facts;
pub mod gate;
pub mod id;
pub mod plan;
pub mod raise;
pub mod status;
pub mod step;
pub mod version;

pub use code::Code;
pub use id::{
    ClusterId, Generation, HostId, Incarnation, LedgerId, NodeAlias, OrderNumber, RolloutId, Seq,
    Term, Token,
};
pub use version::DdbVersion;

/// The form of the JSON documents; a reader refuses a larger one.
pub const SCHEMA: u32 = 1;
