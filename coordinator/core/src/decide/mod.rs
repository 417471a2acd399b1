//! What should happen next. Pure: the same state, view and time give the same decision.

use std::collections::BTreeMap;

use grayfin_types::{ClusterId, DdbVersion, HostId, RolloutId, Token, gate::Reason};

use crate::{
    cmd::Cmd,
    state::{OrderEntry, State},
    view::View,
};

/// What the driver should ask host agents for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Looks, one per host and cluster; ask each look interval while they are wanted. Host agents
    /// look at their own host by themselves; an entry says what is wanted beyond that.
    pub looks: Vec<Look>,
    /// Promises that are missing; ask again until they are there.
    pub promises: Vec<PromiseWanted>,
    /// Orders without an answer, oldest first per host and cluster; send again until answered.
    /// Only for hosts that are connected.
    pub orders: Vec<OrderWanted>,
}

/// A look that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Who should look.
    pub host: HostId,
    /// At which cluster.
    pub cluster: ClusterId,
    /// Also at the cluster as a whole: this host is the observer.
    pub whole_cluster: bool,
    /// A scan of the chunks is wanted.
    pub chunks: bool,
    /// Also check packages of this version and weigh the backup.
    pub package: Option<DdbVersion>,
}

/// A promise that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromiseWanted {
    /// Whose.
    pub host: HostId,
    /// For which cluster.
    pub cluster: ClusterId,
    /// The token.
    pub token: Token,
}

/// An order that is wanted to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderWanted {
    /// To whom.
    pub host: HostId,
    /// For which cluster.
    pub cluster: ClusterId,
    /// The order. Its plan, if it needs one, is the rollout's.
    pub order: OrderEntry,
}

/// What should happen next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Commands to propose, in order. The next decision is made after they were applied.
    pub commands: Vec<Cmd>,
    /// What to ask for. It follows from the durable state, so it may be sent at once.
    pub wanted: Wanted,
    /// Why nothing happens, for each rollout that waits.
    pub waiting: BTreeMap<RolloutId, Vec<Reason>>,
}

/// Decides. Only the leader calls it, after [`View::tick`], whenever the state or the view changed,
/// and at least once a second.
pub fn decide(state: &State, view: &View, now_ms: u64) -> Decision {
    let _ = (state, view, now_ms);
    Decision::default()
}
