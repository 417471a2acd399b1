//! The configuration files of a node, read the way the real server reads them.
//!
//! Four files matter: `controller.cfg` and `agent.cfg` ([`ControllerConfig`], [`AgentConfig`]) belong
//! to one process each; `cluster.cfg` ([`ClusterConfig`]) holds what data and compute nodes use, with
//! alias prefixes, wildcards and the `<ALIAS>` macro; `cluster.nodes` ([`ClusterNodes`]) lists who is
//! in the cluster. Parsing takes text and the name to use in errors, so that the raft-managed copies
//! (which never were files) go through the same code. [`NodeDirs`] says where a node keeps its state.

mod cluster;
mod dirs;
mod error;
mod nodes;
mod process;
mod properties;
mod site;

pub use cluster::{ClusterConfig, ClusterEntry, Effective, Scope, wildcard_matches};
pub use dirs::{ControllerDirs, NodeDirs};
pub use error::Error;
pub use nodes::{ClusterNodes, NodeEntry};
pub use process::{AgentConfig, ControllerConfig};
pub use properties::{Properties, Property};
pub use site::{Role, Site};
