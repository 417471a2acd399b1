//! The stand-in for DolphinDB: a test double, not the real server.

pub mod config;
pub mod package;
