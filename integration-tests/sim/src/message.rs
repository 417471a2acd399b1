//! What travels, and what can happen next.

use grayfin_agent_core::entry::{Authority, Order};
use grayfin_coordinator_core::{
    cmd::{CanaryReported, OrderAnswered, PromiseAnswered},
    go::Ask,
};
use grayfin_types::{
    HostId, Token,
    facts::{ClusterFacts, HostFacts},
    step::Report,
};

/// From a coordinator to a host agent.
#[derive(Debug, Clone)]
pub enum ToHost {
    /// A promise is asked for, so that this host can be held.
    Promise(Authority, Token, HostId),
    /// An order.
    Order(Box<Order>),
    /// The answer to a request for a go.
    Go {
        /// Who answers.
        by: Authority,
        /// The hold.
        token: Token,
        /// The request.
        request: u64,
        /// Whether.
        allowed: bool,
        /// It led, confirmed, when it decided: known to the simulator alone.
        confirmed: bool,
    },
}

/// From a host agent to a coordinator.
#[derive(Debug, Clone)]
pub enum FromHost {
    /// The answer to a promise request.
    Promise(PromiseAnswered),
    /// The answer to an order.
    Answer(OrderAnswered),
    /// A report.
    Report(Report),
    /// A request for a go.
    Go(Ask),
    /// The canary's report.
    Canary(CanaryReported),
    /// Facts about the host.
    Host(Box<HostFacts>),
    /// Facts about the cluster.
    Cluster(Box<ClusterFacts>),
}

/// What can happen next.
#[derive(Debug)]
pub enum Happening {
    /// The cluster's own time passes.
    Tick,
    /// The coordinators' own time passes.
    CoordinatorTick,
    /// A coordinator looks what to decide.
    Decide {
        /// Which group.
        group: usize,
        /// Which coordinator.
        replica: usize,
    },
    /// A group elects a leader.
    Elect {
        /// Which.
        group: usize,
    },
    /// A coordinator's process starts.
    ReplicaStart {
        /// Which group.
        group: usize,
        /// Which coordinator.
        replica: usize,
    },
    /// A message reaches a host agent.
    ToHost {
        /// Which.
        host: usize,
        /// The ledger that it was meant for.
        line: u64,
        /// It belongs to this session and dies with it; 0 for one that may come late.
        session: u64,
        /// It.
        message: ToHost,
    },
    /// A message reaches a coordinator.
    FromHost {
        /// From which.
        host: usize,
        /// Over which session.
        session: u64,
        /// It.
        message: FromHost,
    },
    /// A host agent goes on.
    Wake {
        /// Which.
        host: usize,
        /// Which process of it.
        life: u64,
    },
    /// It tries to reach a coordinator.
    Connect {
        /// Which.
        host: usize,
        /// Which process of it.
        life: u64,
    },
    /// It looks.
    Look {
        /// Which.
        host: usize,
        /// Which process of it.
        life: u64,
    },
    /// Its process starts.
    AgentStart {
        /// Which.
        host: usize,
    },
    /// The machine has power again.
    PowerOn {
        /// Which.
        host: usize,
    },
    /// A stop that went through the controller takes effect, late.
    LateStop {
        /// Which node.
        node: usize,
        /// Which process of it was meant.
        ticks: u64,
    },
    /// Something goes wrong.
    Fault,
    /// A link heals.
    Heal {
        /// Which host's.
        host: usize,
    },
    /// The clone of the coordinators ends.
    CloneEnds,
    /// An operator looks and acts.
    Operator,
}
