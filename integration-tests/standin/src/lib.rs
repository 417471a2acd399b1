//! The stand-in for DolphinDB: a test double, not the real server.
//!
//! One process per node, as in the real product: [`run`] is all of the program. [`config`] and
//! [`package`] are the files around it, [`faults`] what a test can make go wrong.

pub mod config;
pub mod faults;
mod functions;
mod net;
mod node;
mod options;
pub mod package;
mod partition;
mod program;
mod store;
mod version;

pub use options::{Error as OptionsError, HELP, Options};
pub use program::run;
pub use version::{BadVersion, Version};
