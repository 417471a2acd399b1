//! The port through which steps see DolphinDB and ask things of it.
//!
//! Steps decide by what they see here and on the host; they speak no protocol. The real one asks the
//! nodes (`crate::probe`); the tests' one plays a small cluster.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use grayfin_types::{
    ClusterId, Code, DdbVersion, NodeAlias,
    facts::{MemoryObject, NodeSpec, Probe, ProcessIdentity},
};
use serde_json::Value;

use super::{Boxed, Context, Seen, StepError};
use crate::backup::NodeSource;

/// A node of this host and its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeHere {
    /// The node.
    pub spec: NodeSpec,
    /// Its process, none if there surely is none.
    pub process: Option<ProcessIdentity>,
    /// Where it logs, if its process says so.
    pub log: Option<PathBuf>,
}

/// What a node says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLook {
    /// Its version.
    pub version: Probe<DdbVersion>,
    /// Whether it is ready.
    pub ready: Probe<bool>,
    /// For a controller: whom it takes for the leader.
    pub leader: Option<Probe<NodeAlias>>,
    /// Its start marker is in its log, behind the place that was marked.
    pub start_marker: Probe<bool>,
}

/// What became of asking the leading controller to stop or start nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// It took the order.
    Taken,
    /// It did not, or could not be asked: nothing will come of it.
    NotTaken(String),
    /// Nobody knows whether something will come of it.
    Unknown(String),
}

/// The nodes of this host and their cluster.
pub trait Nodes: Send + Sync + 'static {
    /// Every node configured for this host with its process. Fails if that is unknown, and if a
    /// process of the installation is no configured node.
    fn here<'a>(&'a self, ctx: &'a Context) -> Boxed<'a, Result<Vec<NodeHere>, StepError>>;

    /// S4 from here, now, by direct probes: may `gone` go (they and whatever of this host is down
    /// already)?
    fn guard<'a>(
        &'a self,
        ctx: &'a Context,
        gone: &'a [NodeAlias],
    ) -> Boxed<'a, Result<Seen, StepError>>;

    /// Home folder and running configuration of each node of this host.
    fn sources<'a>(&'a self, ctx: &'a Context) -> Boxed<'a, Result<Vec<NodeSource>, StepError>>;

    /// Asks data nodes to write out their caches and waits, bounded, for transactions and redo logs.
    /// Returns what was seen; what could not be waited for is said there and is no error.
    fn flush<'a>(
        &'a self,
        ctx: &'a Context,
        nodes: &'a [NodeSpec],
    ) -> Boxed<'a, Result<Seen, StepError>>;

    /// Asks the leading controller to stop data and compute nodes.
    fn ask_stop<'a>(&'a self, ctx: &'a Context, nodes: &'a [NodeSpec]) -> Boxed<'a, Asked>;

    /// Asks the leading controller to start data and compute nodes.
    fn ask_start<'a>(&'a self, ctx: &'a Context, nodes: &'a [NodeSpec]) -> Boxed<'a, Asked>;

    /// What the nodes of this host hold only in memory.
    fn memory<'a>(&'a self, ctx: &'a Context) -> Boxed<'a, Result<Vec<MemoryObject>, StepError>>;

    /// Remembers how far each node's log has been written, so that a later start marker is told from
    /// an earlier one. What it returns is stored as it is.
    fn mark_logs<'a>(
        &'a self,
        ctx: &'a Context,
        nodes: &'a [NodeHere],
    ) -> Boxed<'a, Result<Value, StepError>>;

    /// Asks one node. `marks` is what [`Self::mark_logs`] returned, null if nothing was marked.
    fn look<'a>(
        &'a self,
        ctx: &'a Context,
        node: &'a NodeHere,
        marks: &'a Value,
    ) -> Boxed<'a, NodeLook>;
}

/// The nodes of every installation of this host, told apart by the cluster of the work.
#[derive(Clone)]
pub struct PerCluster(BTreeMap<ClusterId, Arc<dyn Nodes>>);

impl std::fmt::Debug for PerCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl PerCluster {
    /// Takes one for each cluster.
    pub fn new(nodes: BTreeMap<ClusterId, Arc<dyn Nodes>>) -> Self {
        Self(nodes)
    }

    fn of(&self, ctx: &Context) -> Result<&Arc<dyn Nodes>, StepError> {
        let cluster = &ctx.installation().cluster;
        self.0.get(cluster).ok_or_else(|| {
            StepError::new(Code::Internal, format!("nobody looks at cluster `{cluster}`"))
        })
    }
}

fn failed<'a, T: Send + 'a>(error: StepError) -> Boxed<'a, Result<T, StepError>> {
    Box::pin(std::future::ready(Err(error)))
}

impl Nodes for PerCluster {
    fn here<'a>(&'a self, ctx: &'a Context) -> Boxed<'a, Result<Vec<NodeHere>, StepError>> {
        self.of(ctx).map_or_else(failed, |nodes| nodes.here(ctx))
    }

    fn guard<'a>(
        &'a self,
        ctx: &'a Context,
        gone: &'a [NodeAlias],
    ) -> Boxed<'a, Result<Seen, StepError>> {
        self.of(ctx).map_or_else(failed, |nodes| nodes.guard(ctx, gone))
    }

    fn sources<'a>(&'a self, ctx: &'a Context) -> Boxed<'a, Result<Vec<NodeSource>, StepError>> {
        self.of(ctx).map_or_else(failed, |nodes| nodes.sources(ctx))
    }

    fn flush<'a>(
        &'a self,
        ctx: &'a Context,
        list: &'a [NodeSpec],
    ) -> Boxed<'a, Result<Seen, StepError>> {
        self.of(ctx).map_or_else(failed, |nodes| nodes.flush(ctx, list))
    }

    fn ask_stop<'a>(&'a self, ctx: &'a Context, list: &'a [NodeSpec]) -> Boxed<'a, Asked> {
        match self.of(ctx) {
            Ok(nodes) => nodes.ask_stop(ctx, list),
            Err(e) => Box::pin(std::future::ready(Asked::NotTaken(e.message))),
        }
    }

    fn ask_start<'a>(&'a self, ctx: &'a Context, list: &'a [NodeSpec]) -> Boxed<'a, Asked> {
        match self.of(ctx) {
            Ok(nodes) => nodes.ask_start(ctx, list),
            Err(e) => Box::pin(std::future::ready(Asked::NotTaken(e.message))),
        }
    }

    fn memory<'a>(&'a self, ctx: &'a Context) -> Boxed<'a, Result<Vec<MemoryObject>, StepError>> {
        self.of(ctx).map_or_else(failed, |nodes| nodes.memory(ctx))
    }

    fn mark_logs<'a>(
        &'a self,
        ctx: &'a Context,
        list: &'a [NodeHere],
    ) -> Boxed<'a, Result<Value, StepError>> {
        self.of(ctx).map_or_else(failed, |nodes| nodes.mark_logs(ctx, list))
    }

    fn look<'a>(
        &'a self,
        ctx: &'a Context,
        node: &'a NodeHere,
        marks: &'a Value,
    ) -> Boxed<'a, NodeLook> {
        match self.of(ctx) {
            Ok(nodes) => nodes.look(ctx, node, marks),
            Err(e) => Box::pin(std::future::ready(NodeLook {
                version: Probe::Unknown(e.message.clone()),
                ready: Probe::Unknown(e.message.clone()),
                leader: None,
                start_marker: Probe::Unknown(e.message),
            })),
        }
    }
}
