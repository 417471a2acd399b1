//! What is seen right now, by this coordinator. Never stored: a new leader starts with an empty
//! view and holds until it is fresh (S9).
//!
//! All times in here are milliseconds of the coordinator's own monotonic clock, from any origin.

mod cluster;
mod soak;

use std::collections::BTreeMap;

use grayfin_types::{
    ClusterId, DdbVersion, HostId, LedgerId, OrderNumber, RolloutId, Token,
    facts::{ClusterFacts, HostFacts},
    status::{CanaryStatus, RolloutState},
    step::Report,
};

pub use cluster::{ClusterView, Demand, Observer, SeenChunks};
pub(crate) use cluster::{is_majority, votes_for};
pub use soak::Soak;

use crate::{
    cmd::Cmd,
    decide::Decision,
    state::{CanaryPhase, State},
};

/// How long an observer may be silent before another host is asked: three looks at the default
/// interval of 5 s, the default limit for the age of facts.
pub const OBSERVER_SILENT_MS: u64 = 15_000;

/// A wait is told when it has lasted so long: promises come and looks follow within milliseconds,
/// and nobody wants to read about these.
pub const WAIT_TOLD_AFTER_MS: u64 = 400;

/// Something that was seen, and when it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<T> {
    /// When.
    pub at_ms: u64,
    /// What.
    pub value: T,
}

/// What a host agent said in its hello about one cluster (S2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    /// Tokens up to this one are refused.
    pub floor: Token,
    /// The token of the hold that is open there.
    pub open_hold: Option<Token>,
    /// The last order that it ran.
    pub last_order: OrderNumber,
}

/// A host agent's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Random per host agent process.
    pub session_id: String,
    /// When it connected.
    pub since_ms: u64,
    /// The ledger's random id.
    pub ledger_id: LedgerId,
    /// What S2 needs, by cluster.
    pub fences: BTreeMap<ClusterId, Fence>,
}

/// What is known of one host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostView {
    /// Its agent's connection.
    pub connection: Option<Connection>,
    /// When the last connection ended.
    pub lost_ms: Option<u64>,
    /// Its last facts, by cluster.
    pub facts: BTreeMap<ClusterId, Seen<HostFacts>>,
}

/// A canary's passing report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveCanary {
    /// Whose.
    pub host: HostId,
    /// Which writer.
    pub epoch: u64,
    /// What it said.
    pub status: CanaryStatus,
}

/// The time of day in a zone that a maintenance window names; the driver keeps it current, for the
/// core has neither clock nor zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// 0 for Monday to 6 for Sunday.
    pub weekday: u8,
    /// Minutes since midnight.
    pub minute: u16,
}

/// Everything that is seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// By host.
    pub hosts: BTreeMap<HostId, HostView>,
    /// By cluster.
    pub clusters: BTreeMap<ClusterId, ClusterView>,
    /// Passing reports of canaries, by rollout.
    pub canaries: BTreeMap<RolloutId, Seen<LiveCanary>>,
    /// The last passing progress of each host's sequence.
    pub progress: BTreeMap<HostId, Report>,
    /// How long all has been well after a host, by rollout.
    pub soaks: BTreeMap<RolloutId, Soak>,
    /// Since when each rollout has been in its state.
    pub stages: BTreeMap<RolloutId, Seen<RolloutState>>,
    /// Since when each canary has been in its phase, with its epoch.
    pub canary_phases: BTreeMap<RolloutId, Seen<(CanaryPhase, u64)>>,
    /// Since when a canary's answer is awaited, or a complete one: rollout, host and order number.
    pub checks_since: BTreeMap<(RolloutId, HostId, OrderNumber), u64>,
    /// Since when each rollout waits for something else than what is recorded.
    pub waits_since: BTreeMap<RolloutId, u64>,
    /// Since when each debt is known for its hold (attempt 0), and since when its last order is out.
    pub debts: BTreeMap<(u64, Token, u32), u64>,
    /// The present time of day by IANA zone name.
    pub local_times: BTreeMap<String, LocalTime>,
}

impl View {
    /// A host agent is connected. An older connection of the same host is replaced.
    pub fn connected(&mut self, host: &HostId, connection: Connection) {
        let entry = self.hosts.entry(host.clone()).or_default();
        // Facts of an earlier connection may be those of an earlier host agent process.
        entry.facts.clear();
        entry.connection = Some(connection);
    }

    /// A connection ended. Nothing happens if the host has another one by now.
    pub fn disconnected(&mut self, host: &HostId, session_id: &str, now_ms: u64) {
        if let Some(entry) = self.hosts.get_mut(host)
            && entry.connection.as_ref().is_some_and(|c| c.session_id == session_id)
        {
            entry.connection = None;
            entry.lost_ms = Some(now_ms);
            entry.facts.clear();
        }
    }

    /// Tells whether a host's agent is connected.
    pub fn is_connected(&self, host: &HostId) -> bool {
        self.hosts.get(host).is_some_and(|h| h.connection.is_some())
    }

    /// Takes a host agent's facts about its own host. Dropped unless it is connected.
    pub fn host_facts(&mut self, state: &State, facts: HostFacts, now_ms: u64) {
        let Some(entry) = self.hosts.get_mut(&facts.host).filter(|h| h.connection.is_some()) else {
            return;
        };
        let cluster = facts.cluster.clone();
        let older = entry.facts.get(&cluster).is_some_and(|seen| seen.value.look > facts.look);
        if older {
            return;
        }
        entry.facts.insert(cluster.clone(), Seen { at_ms: now_ms, value: facts });
        self.sample(state, &cluster, now_ms, false);
    }

    /// Takes an observer's facts about a cluster. Dropped unless it is the designated one (S9).
    pub fn cluster_facts(&mut self, state: &State, facts: ClusterFacts, now_ms: u64) {
        let cluster = facts.cluster.clone();
        let Some(entry) = self.clusters.get_mut(&cluster) else { return };
        if entry.observer.as_ref().is_none_or(|o| o.host != facts.seen_from) {
            return;
        }
        let policy_look_ms =
            state.active(&cluster).map_or(u64::MAX, |r| r.plan.policy.constructing_look_ms);
        if entry.take(facts, now_ms, policy_look_ms) {
            self.sample(state, &cluster, now_ms, true);
        }
    }

    /// Takes a canary's passing report (order number 0). An answer to an order is proposed as
    /// [`crate::Cmd::CanaryReported`] instead.
    pub fn canary_report(
        &mut self,
        rollout: &RolloutId,
        host: &HostId,
        epoch: u64,
        status: CanaryStatus,
        now_ms: u64,
    ) {
        if self.canaries.get(rollout).is_some_and(|seen| seen.value.epoch > epoch) {
            return;
        }
        let value = LiveCanary { host: host.clone(), epoch, status };
        self.canaries.insert(rollout.clone(), Seen { at_ms: now_ms, value });
    }

    /// Takes a passing progress report (position 0, [`grayfin_types::step::Happened::Progress`]);
    /// `decide` has one recorded now and then. Other reports are proposed as they come.
    pub fn progress(&mut self, report: Report) {
        self.progress.insert(report.host.clone(), report);
    }

    /// Wants a cluster to be looked at until `until_ms`: somebody asks for a plan or for hosts.
    /// With a version, packages of it are checked and backups weighed as well.
    pub fn demand(&mut self, cluster: &ClusterId, package: Option<DdbVersion>, until_ms: u64) {
        let entry = self.clusters.entry(cluster.clone()).or_default();
        let package =
            package.or_else(|| entry.demand.as_ref().and_then(|demand| demand.package.clone()));
        let until_ms = entry.demand.as_ref().map_or(until_ms, |d| d.until_ms.max(until_ms));
        entry.demand = Some(Demand { until_ms, package });
    }

    /// Notices what time alone changes: observers that fall silent, demands that end. Call it
    /// before each [`crate::decide()`].
    pub fn tick(&mut self, state: &State, now_ms: u64) {
        for cluster in state.clusters() {
            self.designate(state, &cluster, now_ms);
        }
        self.forget(state);
        self.note_stages(state, now_ms);
        self.note_checks(state, now_ms);
        self.note_debts(state, now_ms);
        for cluster in state.clusters() {
            self.sample(state, &cluster, now_ms, false);
        }
    }

    /// Holds back what a rollout waits for until that has lasted for [`WAIT_TOLD_AFTER_MS`]. Call it
    /// after each [`crate::decide()`] whose commands are proposed.
    pub fn damp(&mut self, decision: &mut Decision, now_ms: u64) {
        let mut since = BTreeMap::new();
        decision.commands.retain(|command| {
            let Cmd::Waiting { rollout, reasons } = command else { return true };
            let began = self.waits_since.get(rollout).copied().unwrap_or(now_ms);
            since.insert(rollout.clone(), began);
            reasons.is_empty() || now_ms.saturating_sub(began) >= WAIT_TOLD_AFTER_MS
        });
        self.waits_since = since;
    }

    /// Returns a host's facts about a cluster.
    pub fn facts(&self, host: &HostId, cluster: &ClusterId) -> Option<&Seen<HostFacts>> {
        self.hosts.get(host)?.facts.get(cluster)
    }

    /// Returns the token of a hold that is open at a host, as its agent said last.
    pub fn open_hold(&self, host: &HostId, cluster: &ClusterId) -> Option<Token> {
        let entry = self.hosts.get(host)?;
        if let Some(facts) = entry.facts.get(cluster) {
            return facts.value.standing.open_hold;
        }
        entry.connection.as_ref()?.fences.get(cluster)?.open_hold
    }

    fn forget(&mut self, state: &State) {
        let active = |id: &RolloutId| state.rollouts.get(id).is_some_and(|r| !r.state.is_final());
        self.canaries.retain(|id, _| active(id));
        self.soaks.retain(|id, _| active(id));
        self.stages.retain(|id, _| active(id));
        self.canary_phases.retain(|id, _| active(id));
    }

    /// Notes since when rollouts and canaries have stood where they stand.
    fn note_stages(&mut self, state: &State, now_ms: u64) {
        for rollout in state.rollouts.values().filter(|r| !r.state.is_final()) {
            if self.stages.get(&rollout.id).is_none_or(|seen| seen.value != rollout.state) {
                let seen = Seen { at_ms: now_ms, value: rollout.state };
                self.stages.insert(rollout.id.clone(), seen);
            }
            let phase = (rollout.canary.phase.clone(), rollout.canary.epoch);
            if self.canary_phases.get(&rollout.id).is_none_or(|seen| seen.value != phase) {
                let seen = Seen { at_ms: now_ms, value: phase };
                self.canary_phases.insert(rollout.id.clone(), seen);
            }
        }
    }

    fn note_debts(&mut self, state: &State, now_ms: u64) {
        let keys =
            state.debts.iter().flat_map(|d| [(d.id, d.token, 0), (d.id, d.token, d.attempts)]);
        self.debts =
            keys.map(|key| (key, self.debts.get(&key).copied().unwrap_or(now_ms))).collect();
    }

    fn note_checks(&mut self, state: &State, now_ms: u64) {
        let mut awaited = BTreeMap::new();
        for rollout in state.rollouts.values().filter(|r| !r.state.is_final()) {
            for (host, check) in rollout.canary.checks.iter().filter(|(_, c)| !c.complete()) {
                let key = (rollout.id.clone(), host.clone(), check.number);
                let since = self.checks_since.get(&key).copied().unwrap_or(now_ms);
                awaited.insert(key, since);
            }
        }
        self.checks_since = awaited;
    }
}
