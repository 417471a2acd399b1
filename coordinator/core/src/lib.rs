//! What the coordinator decides, and nothing else: no IO, no clock, no randomness, no logging.
//!
//! - [`state`] is what the coordinators agree on and never lose. It changes only by
//!   [`apply::apply`], which is deterministic and total, and which numbers and chains the events.
//! - [`view`] is what is seen right now. It is never stored: a coordinator that takes the lead
//!   starts with an empty one and holds until it is fresh (S9).
//! - [`decide::decide`] says what should happen next: commands to propose, and what to ask for.
//!   [`go::go`] answers a host agent that wants to take nodes down.
//! - [`readmit`] judges whether a host's state is proven, so that an operator may readmit it.
//! - [`gates`] are the named checks, [`plan`] makes plans, [`status`] and [`explain`] say where
//!   things stand, [`invariant`] says what must hold in every state.
//!
//! The driver (in `grayfin-coordinator`) does the rest: it puts observations into the view, calls
//! [`view::View::tick`] and `decide`, proposes the commands, and sends what is wanted. Nothing here
//! acts, and whatever is decided becomes true only when it is applied.

pub mod apply;
pub mod cmd;
pub mod compat;
pub mod decide;
pub mod event;
pub mod explain;
pub mod gates;
pub mod go;
pub mod hold;
pub mod invariant;
pub mod mutation;
pub mod order;
pub mod plan;
pub mod readmit;
pub mod state;
pub mod status;
pub mod topology;
pub mod view;
pub mod ways;

pub use apply::{Applied, apply, put_back};
pub use cmd::{Cmd, Response, Stamped};
pub use decide::{Decision, decide};
pub use go::go;
pub use state::State;
pub use view::View;

/// Computes SHA-256 in hex. The caller brings it, so that the core needs no cryptography.
pub type Hasher<'a> = &'a dyn Fn(&[u8]) -> String;
