//! The host agent: looks at its own host and carries out the host sequence of a rollout.
//!
//! What is decided is decided in `grayfin_agent_core`, which does no IO. Here is everything that
//! observes or acts:
//!
//! - [`canary`] writes rows and reads them back.
//! - [`cli`] is the command line.
//! - [`config`] reads `agent.toml`.
//! - [`ddb`] is our client of DolphinDB's API protocol.
//! - [`ledger`] is the durable memory.
//! - [`link`] talks to the coordinators.
//! - [`probe`] looks at the host and the cluster.
//! - [`runner`] carries out what the core decides.
//! - [`serve`] puts everything together.
//! - [`steps`] says what a step is given and must promise.

pub mod backup;
pub mod boot;
pub mod canary;
pub mod cli;
pub mod config;
pub mod ddb;
pub mod failpoint;
pub mod files;
pub mod ledger;
pub mod link;
pub mod packages;
pub mod probe;
pub mod process;
pub mod runner;
pub mod serve;
pub mod steps;
pub mod telemetry;
