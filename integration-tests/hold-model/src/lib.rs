//! The hold protocol (S1 to S3), checked in every reachable state within bounds.
//!
//! Nothing of the protocol is written a second time here. The coordinators are
//! [`grayfin_coordinator_core::apply()`] over its real state, the host agents are the real fold of the
//! ledger, the real fence and the real sequence of `grayfin-agent-core`. The model adds what lies
//! between them: which message arrives when, twice or never, who crashes, who is restored from what.
//! Each distinct real state is kept once under a number, and each answer is computed once.

pub mod agent;
mod carry;
pub mod coordinator;
pub mod deeds;
pub mod intern;
pub mod model;
pub mod properties;
pub mod rules;
pub mod words;
pub mod world;
