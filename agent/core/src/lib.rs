//! The host agent's decisions, pure: no IO, no clock, no randomness, no logging.
//!
//! A host agent remembers everything that counts in its ledger, a list of [`entry::Entry`]. Folding
//! the entries gives the [`State`]; nothing else is trusted after a crash. From the state follow
//!
//! - [`fence`]: whether a promise may be given and an order be taken (S2, S3, S8);
//! - [`sequence`]: what comes next in the host sequence, its undo, its recovery (S6, S8, S12);
//! - [`staging`]: the same for the preparation that needs no hold;
//! - [`report`]: what the coordinator is told about each entry;
//! - [`guard`]: whether this host may go down, by what it has just seen itself (S4);
//! - [`limits`]: how long each step may take.
//!
//! [`State::apply`] is the only place that changes a state, and it refuses entries that would break a
//! rule, so that a fault elsewhere ends in an error and not on the disk.

mod apply;
pub mod entry;
pub mod fence;
pub mod guard;
pub mod limits;
pub mod mutation;
pub mod report;
pub mod sequence;
pub mod staging;
pub mod state;

pub use apply::{Illegal, fold};
pub use entry::{Body, Entry};
pub use state::{Hold, State};
