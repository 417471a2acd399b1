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
pub mod ledger;
pub mod mutation;
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

/// The most bytes of foreign text that an error carries along: enough to find the place, and not so
/// much that an input of megabytes fills terminal, ledger and event log with itself.
pub const FOREIGN_MAX: usize = 500;

/// Cuts foreign text to [`FOREIGN_MAX`] bytes for an error.
pub fn cut(text: &str) -> std::borrow::Cow<'_, str> {
    if text.len() <= FOREIGN_MAX {
        return text.into();
    }
    let head = text.get(..text.floor_char_boundary(FOREIGN_MAX)).unwrap_or_default();
    format!("{head}…").into()
}
