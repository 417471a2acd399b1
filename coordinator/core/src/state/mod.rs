//! What the coordinators agree on: enrolments, holds, outboxes, rollouts.
//!
//! Everything here is plain data with a JSON form; [`STATE_VERSION`] numbers it. Only
//! [`crate::apply()`] changes it.

mod canary;
mod coordinators;
mod debt;
mod enrolment;
mod rollout;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use grayfin_types::{ClusterId, Code, HostId, Incarnation, NodeAlias, RolloutId, Term, Token};
use serde::{Deserialize, Serialize};

pub use canary::{CanaryPhase, CanaryRun, Check, WriterStatus};
pub use coordinators::{Act, Coordinators, GroupAct};
pub use debt::Debt;
pub use enrolment::{
    Enrolment, Gone, OrderBody, OrderEntry, OrderKind, Outbox, Readmission, Witness,
};
pub use rollout::{CloseAs, GoRecord, HostRun, Rollout, Staging};

use crate::cmd::Response;

/// The form of [`State`]; a reader refuses a larger one.
pub const STATE_VERSION: u32 = 1;

/// How many answers to operators' requests are remembered: a client gives up long before so many
/// others have asked.
pub const REQUESTS_KEPT: usize = 1_000;

/// How many finished rollouts are kept with their plans.
pub const FINISHED_KEPT: usize = 100;

/// The durable state of a coordinator group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// [`STATE_VERSION`] of the writer.
    pub version: u32,
    /// Random id of the group, empty until [`crate::cmd::Cmd::Found`].
    pub group: String,
    /// Raised by an operator's act when the state was restored or forced (S2).
    pub incarnation: Incarnation,
    /// What operators did to the group itself.
    #[serde(default)]
    pub coordinators: Coordinators,
    /// Who drives.
    pub lease: Option<Lease>,
    /// The last token allotted; it only ever grows.
    pub last_token: Token,
    /// Every host whose agent has enrolled.
    pub hosts: BTreeMap<HostId, Enrolment>,
    /// For each host, what other host agents have promised away for it.
    #[serde(default)]
    pub witnessed: BTreeMap<HostId, Witness>,
    /// Holds by the cluster of their rollout; a hold may cover other clusters too.
    pub holds: BTreeMap<ClusterId, Hold>,
    /// Holds that an operator broke and whose host agent has not closed them yet (S3).
    pub broken: Vec<BrokenHold>,
    /// What must be undone in clusters as a whole (S10).
    #[serde(default)]
    pub debts: Vec<Debt>,
    /// The last debt's number.
    #[serde(default)]
    pub last_debt: u64,
    /// Rollouts by id.
    pub rollouts: BTreeMap<RolloutId, Rollout>,
    /// Answers to operators' requests by request id, so that a repeat does nothing new.
    pub requests: BTreeMap<String, Response>,
    /// Their order of arrival, oldest first.
    pub request_order: VecDeque<String>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: STATE_VERSION,
            group: String::new(),
            incarnation: Incarnation(0),
            coordinators: Coordinators::default(),
            lease: None,
            last_token: Token(0),
            hosts: BTreeMap::new(),
            witnessed: BTreeMap::new(),
            holds: BTreeMap::new(),
            broken: Vec::new(),
            debts: Vec::new(),
            last_debt: 0,
            rollouts: BTreeMap::new(),
            requests: BTreeMap::new(),
            request_order: VecDeque::new(),
        }
    }
}

impl State {
    /// Returns the unfinished rollout of a cluster. There is at most one (I10).
    pub fn active(&self, cluster: &ClusterId) -> Option<&Rollout> {
        self.rollouts.values().find(|r| &r.cluster == cluster && !r.state.is_final())
    }

    /// Returns the newest rollout of a cluster, or of all clusters.
    pub fn newest(&self, cluster: Option<&ClusterId>) -> Option<&Rollout> {
        self.rollouts
            .values()
            .filter(|r| cluster.is_none_or(|c| &r.cluster == c))
            .max_by(|a, b| (a.started_ms, &a.id).cmp(&(b.started_ms, &b.id)))
    }

    /// Returns the hosts that claim a cluster, those attested as gone left out.
    pub fn hosts_of<'a>(&'a self, cluster: &'a ClusterId) -> impl Iterator<Item = &'a Enrolment> {
        self.hosts.values().filter(move |e| e.clusters.contains(cluster) && e.gone.is_none())
    }

    /// Tells whether a hold that is open at a host is one that can be ended from here: in force, or
    /// broken and not closed yet. Coordinators that were restored may know nothing of it.
    pub fn knows_hold(&self, host: &HostId, token: Token) -> bool {
        self.holds.values().any(|h| h.token == token && &h.host == host)
            || self.broken.iter().any(|b| b.token == token && &b.host == host)
    }

    /// Returns the hosts of a cluster that an operator attested as powered off.
    pub fn gone_from(&self, cluster: &ClusterId) -> BTreeSet<HostId> {
        let gone = self.hosts.values().filter(|e| e.clusters.contains(cluster) && e.gone.is_some());
        gone.map(|e| e.host.clone()).collect()
    }

    /// Returns the nodes of a cluster's hosts that an operator attested as powered off, as the newest
    /// plan that names each of them says.
    pub fn nodes_gone(&self, cluster: &ClusterId) -> BTreeSet<NodeAlias> {
        let mut rollouts: Vec<&Rollout> =
            self.rollouts.values().filter(|r| &r.cluster == cluster).collect();
        rollouts.sort_by_key(|r| (r.started_ms, r.id.clone()));
        let gone = self.gone_from(cluster);
        let planned =
            gone.iter().filter_map(|host| rollouts.iter().rev().find_map(|r| r.plan.host(host)));
        planned.flat_map(|host| host.nodes.iter().map(|n| n.alias.clone())).collect()
    }

    /// Returns every cluster that some host claims, or that has a rollout.
    pub fn clusters(&self) -> BTreeSet<ClusterId> {
        let claimed = self.hosts.values().flat_map(|e| e.clusters.iter().cloned());
        claimed.chain(self.rollouts.values().map(|r| r.cluster.clone())).collect()
    }

    /// Returns the hold that a rollout has.
    pub fn hold_of(&self, rollout: &RolloutId) -> Option<&Hold> {
        self.holds.values().find(|h| &h.rollout == rollout)
    }

    /// Returns what must be undone in a cluster.
    pub fn debts_of<'a>(&'a self, cluster: &'a ClusterId) -> impl Iterator<Item = &'a Debt> {
        self.debts.iter().filter(move |debt| &debt.cluster == cluster)
    }

    /// Returns the answer that was given to a request.
    pub fn remembered(&self, request_id: &str) -> Option<&Response> {
        self.requests.get(request_id)
    }
}

/// The right to drive: Raft leadership of the coordinators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The coordinator's id.
    pub coordinator: u64,
    /// Its Raft term.
    pub term: Term,
}

/// How far a hold has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldStage {
    /// Promises are asked for; no order carries the token yet.
    Asking,
    /// In force: the host's agent may work under it.
    Held,
    /// The host's agent was told to close it.
    Closing,
}

impl HoldStage {
    /// Returns the word that `hold show` prints.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Asking => "asking",
            Self::Held => "held",
            Self::Closing => "closing",
        }
    }
}

/// The right to disturb one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Its fencing number.
    pub token: Token,
    /// The host.
    pub host: HostId,
    /// The rollout.
    pub rollout: RolloutId,
    /// The clusters that the machine serves: the hold stands for all of them (S1).
    pub covers: BTreeSet<ClusterId>,
    /// How far it has come.
    pub stage: HoldStage,
    /// Who must promise, and who has (S2).
    pub promises: Vec<Promise>,
    /// When the token was allotted, milliseconds since 1970.
    pub allotted_ms: u64,
    /// When it took effect.
    pub granted_ms: Option<u64>,
    /// The coordinators' state was put back since: it may have been closed, and nothing more goes down
    /// under it.
    #[serde(default)]
    pub put_back_since: bool,
}

/// One host agent's promise for one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// Whose.
    pub host: HostId,
    /// For which cluster.
    pub cluster: ClusterId,
    /// Durably given.
    pub promised: bool,
    /// Why it was refused the last time.
    pub refusal: Option<(Code, String)>,
}

/// A hold that was broken by an operator: nothing of it is closed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokenHold {
    /// Its token.
    pub token: Token,
    /// The host.
    pub host: HostId,
    /// The cluster of its rollout.
    pub cluster: ClusterId,
    /// The rollout.
    pub rollout: RolloutId,
    /// The host agent reported since that nothing of the sequence runs any more.
    pub settled: bool,
}
