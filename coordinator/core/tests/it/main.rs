//! The core as its driver uses it: gates one by one, and whole rollouts in virtual time with fake
//! host agents, lost and late messages, restarts and operators.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "tests fail by panicking, and pick the events that they look for"
)]

mod agent;
mod bench;
mod debts;
mod gates;
mod gates_software;
mod holds;
mod model;
mod plans;
mod powered_off;
mod properties;
mod put_back;
mod readmit;
mod rollout;
mod steering;
mod trouble;
mod ways_out;
mod witness;
mod world;
