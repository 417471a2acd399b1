//! The coordinator: the shell around its pure core.
//!
//! Only `grayfin-coordinator-core` decides. What is here observes and acts: the durable [`store`]
//! and the [`group`] of coordinators that share it, the [`sessions`] of the host agents, the
//! [`driver`]'s one loop, the [`server`] for operators, and [`serve`], which puts them together.

pub mod cli;
pub mod clock;
pub mod config;
pub mod driver;
pub mod group;
pub mod serve;
pub mod server;
pub mod sessions;
pub mod shared;
pub mod sight;
mod stoppoint;
pub mod store;
pub mod telemetry;
