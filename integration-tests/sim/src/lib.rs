//! Deterministic simulation of Grayfin's pure cores.

pub mod agent;
pub mod canary;
pub mod check;
pub mod cluster;
pub mod dice;
pub mod executor;
pub mod facts;
pub mod faults;
pub mod group;
pub mod message;
pub mod mutations;
pub mod operator;
pub mod run;
pub mod tally;
pub mod truth;
pub mod world;
