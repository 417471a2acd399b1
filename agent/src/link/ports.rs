//! What the link asks of others: looks and the canary.

use grayfin_types::{
    ClusterId, Generation,
    facts::{AgentStanding, ClusterFacts, HostFacts},
    plan::{CanaryOrder, DebtOrder},
    status::CanaryStatus,
};

use crate::ledger::Ledger;

/// What is looked at on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAsk {
    /// Which installation.
    pub cluster: ClusterId,
    /// Which life of the machine this is; see [`crate::boot::life`].
    pub boot_id: String,
    /// Number of this look.
    pub look: u64,
    /// The host agent's own standing.
    pub standing: AgentStanding,
    /// Also hash and read through the package of this version, and weigh the backup (preflight).
    pub package_version: Option<String>,
}

/// What is looked at in the cluster as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterAsk {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Number of this look.
    pub look: u64,
    /// A chunk scan is wanted; the looker keeps its own limits.
    pub chunks: bool,
}

/// Looks. Each look ends by itself, with unknowns where something did not answer.
pub trait Look: Send + Sync + 'static {
    /// Looks at this host.
    fn host_facts(&self, ask: HostAsk) -> impl Future<Output = HostFacts> + Send;
    /// Looks at the whole cluster, as its designated observer.
    fn cluster_facts(&self, ask: ClusterAsk) -> impl Future<Output = ClusterFacts> + Send;
    /// Brings a cluster-wide effect about, or undoes it (S10). May be called again with the same
    /// order. Says why it could not.
    fn effect(
        &self,
        cluster: &ClusterId,
        order: &DebtOrder,
    ) -> impl Future<Output = Result<(), String>> + Send;
}

/// Writes and checks the canary. Everything may be called again with the same order.
pub trait Canary: Send + Sync + 'static {
    /// Starts the writer, or goes on with it after a restart of the host agent.
    fn start(&self, cluster: &ClusterId, order: &CanaryOrder) -> impl Future<Output = ()> + Send;
    /// Stops the writer; its journal stays. Returns once nothing more is sent.
    fn stop(
        &self,
        cluster: &ClusterId,
        order: &CanaryOrder,
    ) -> impl Future<Output = CanaryStatus> + Send;
    /// Reads back all rows of the rollout that this host's journals call acknowledged.
    fn check(
        &self,
        cluster: &ClusterId,
        order: &CanaryOrder,
    ) -> impl Future<Output = CanaryStatus> + Send;
}

/// Reads the host agent's standing from its ledger.
pub fn standing(ledger: &Ledger, generation: Generation) -> AgentStanding {
    ledger.state(|state| AgentStanding {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        generation,
        ledger_id: ledger.id().clone(),
        ledger_position: state.position,
        floor: state.floor,
        open_hold: state.open_hold(),
    })
}
