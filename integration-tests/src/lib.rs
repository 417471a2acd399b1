//! The lab: whole clusters of the stand-in database on one machine, with Grayfin on top.
//!
//! [`Lab`] brings one up, [`observer`] watches it without asking Grayfin, [`ddb`] is a small client for
//! tests. `lab` (`src/bin/lab.rs`) is the same for a person; the demo and the suites are made of it.
//!
//! The database in a lab is a stand-in, a test double: nothing that holds in a lab was seen on a real
//! server.

pub mod bench;
pub mod binaries;
pub mod chaos;
pub mod cli;
pub mod ddb;
pub mod demo;
pub mod group;
pub mod history;
pub mod hostns;
pub mod lab;
pub mod matrix;
pub mod observer;
pub mod packages;
pub mod processes;
pub mod range;
pub mod relay;
pub mod rollout;
pub mod steer;
pub mod suite;
pub mod tools;
pub mod topology;
pub mod volumes;
pub mod wait;

pub use lab::{Lab, Target};
pub use topology::Options;
