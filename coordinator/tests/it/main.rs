//! Tests of the coordinator as a library: store, services, sessions, driver, with real files,
//! sockets and certificates. Host agents are played by the test.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    unreachable_pub,
    reason = "tests fail by panicking, and this binary has no public items"
)]

mod cli;
mod common;
mod coordinator;
mod dialect;
mod fake;
mod group;
mod growth;
mod recover;
mod rollout;
mod serve;
mod services;
mod store;
mod versions;
mod ways_out;
mod world;
