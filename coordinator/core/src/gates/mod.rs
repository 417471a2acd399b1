//! Gates: named checks with reasons. Unknown, stale or contradictory facts hold (S9).
//!
//! Each gate is one function from an [`Input`] to a [`Decision`]; [`Gate`] is the one list of them.
//! [`START`], [`GRANT`], [`GO`] and [`AFTER`] say which are asked when.

mod cluster;
mod input;
mod package;
mod parties;
mod terms;
mod whole;

use grayfin_types::{
    Code, HostId,
    gate::{Decision, Finding, Reason},
    plan::Override,
};

pub use input::{Input, Moment};
pub(crate) use package::{package_of, version_of};
pub use terms::{loss_name, predicted_down_ms};
pub(crate) use whole::{is_target, short_of_replicas};

use crate::{
    mutation,
    state::{Rollout, State},
    view::View,
};

/// How many reasons one gate gives; beyond, it says how many more there are.
const REASONS_MAX: usize = 10;

/// The gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gate {
    /// No other rollout of the cluster is unfinished.
    ClusterFree,
    /// Every host agent of the cluster is connected and may work.
    AgentsConnected,
    /// No host agent has a hold open beside ours.
    HoldsClosed,
    /// The facts of every host and of the cluster are there and fresh.
    FactsFresh,
    /// Every live node is claimed by exactly one host agent.
    NodesClaimed,
    /// The configuration is the same on all hosts and in the live cluster.
    ConfigEqual,
    /// The host agents found nothing wrong.
    HostChecks,
    /// Every node is up and answers.
    NodesUp,
    /// A majority of the configured DolphinDB controllers names the same leader.
    LeaderClear,
    /// The DolphinDB controllers that stay are a majority of all configured.
    ControllerQuorum,
    /// Every streaming and MVCC Raft group keeps a majority of its members.
    RaftGroups,
    /// Every chunk keeps a current replica on a live node of another host.
    ReplicaElsewhere,
    /// Enough data nodes stay for new partitions.
    PartitionCapacity,
    /// Every DolphinDB controller follows the same leader, for long enough.
    ControllersCaughtUp,
    /// No chunk is recovering or stuck in construction.
    ChunksSettled,
    /// Every chunk has its replicas, or as many as in the baseline.
    ReplicasWhole,
    /// No recovery task waits or runs.
    RecoveryIdle,
    /// Nodes answer with the target version.
    Versions,
    /// What lives only in memory is provided for or accepted by name.
    MemoryLoss,
    /// The vendor supports rolling upgrade between the versions, or the risk is accepted.
    Compat,
    /// The target is not older than what is installed.
    Downgrade,
    /// The build variants are the same.
    Variant,
    /// The package is there, intact, and the same on all hosts.
    Package,
    /// There is room for backup and upgrade.
    Room,
    /// Installed plugins match the target.
    Plugins,
    /// The licence lets the target start.
    Licence,
    /// The predicted time down is within DolphinDB's recovery wait, or more is allowed.
    RecoveryWait,
    /// A maintenance window is open.
    Window,
    /// The canary writes, and not on the host that is to go down.
    Canary,
    /// Every change to the cluster as a whole is undone.
    DebtsPaid,
}

/// Asked before a rollout starts.
pub const START: &[Gate] = &[
    Gate::ClusterFree,
    Gate::AgentsConnected,
    Gate::HoldsClosed,
    Gate::FactsFresh,
    Gate::NodesClaimed,
    Gate::ConfigEqual,
    Gate::HostChecks,
    Gate::NodesUp,
    Gate::LeaderClear,
    Gate::ControllerQuorum,
    Gate::RaftGroups,
    Gate::ReplicaElsewhere,
    Gate::PartitionCapacity,
    Gate::ChunksSettled,
    Gate::ReplicasWhole,
    Gate::RecoveryIdle,
    Gate::Compat,
    Gate::Downgrade,
    Gate::Variant,
    Gate::Package,
    Gate::Room,
    Gate::Plugins,
    Gate::Licence,
    Gate::MemoryLoss,
    Gate::RecoveryWait,
    Gate::Canary,
];

/// Asked before each host is held, when a token is allotted and again when it is granted.
pub const GRANT: &[Gate] = &[
    Gate::AgentsConnected,
    Gate::HoldsClosed,
    Gate::FactsFresh,
    Gate::NodesClaimed,
    Gate::ConfigEqual,
    Gate::NodesUp,
    Gate::LeaderClear,
    Gate::ControllersCaughtUp,
    Gate::ControllerQuorum,
    Gate::RaftGroups,
    Gate::ReplicaElsewhere,
    Gate::PartitionCapacity,
    Gate::ChunksSettled,
    Gate::ReplicasWhole,
    Gate::RecoveryIdle,
    Gate::Licence,
    Gate::MemoryLoss,
    Gate::RecoveryWait,
    Gate::Window,
    Gate::Canary,
];

/// Asked before the first node of a held host goes down.
pub const FIRST_GO: &[Gate] = &[
    Gate::HoldsClosed,
    Gate::NodesUp,
    Gate::LeaderClear,
    Gate::ControllerQuorum,
    Gate::RaftGroups,
    Gate::ReplicaElsewhere,
    Gate::PartitionCapacity,
];

/// Asked before each further one.
pub const GO: &[Gate] = &[
    Gate::LeaderClear,
    Gate::ControllerQuorum,
    Gate::RaftGroups,
    Gate::ReplicaElsewhere,
    Gate::PartitionCapacity,
];

/// Asked after a host, in every sample of the soak (S7).
pub const AFTER: &[Gate] = &[
    Gate::DebtsPaid,
    Gate::FactsFresh,
    Gate::NodesUp,
    Gate::Versions,
    Gate::LeaderClear,
    Gate::ControllersCaughtUp,
    Gate::ChunksSettled,
    Gate::ReplicasWhole,
    Gate::RecoveryIdle,
    Gate::MemoryLoss,
];

impl Gate {
    /// Every gate.
    pub const ALL: [Self; 30] = [
        Self::ClusterFree,
        Self::AgentsConnected,
        Self::HoldsClosed,
        Self::FactsFresh,
        Self::NodesClaimed,
        Self::ConfigEqual,
        Self::HostChecks,
        Self::NodesUp,
        Self::LeaderClear,
        Self::ControllerQuorum,
        Self::RaftGroups,
        Self::ReplicaElsewhere,
        Self::PartitionCapacity,
        Self::ControllersCaughtUp,
        Self::ChunksSettled,
        Self::ReplicasWhole,
        Self::RecoveryIdle,
        Self::Versions,
        Self::MemoryLoss,
        Self::Compat,
        Self::Downgrade,
        Self::Variant,
        Self::Package,
        Self::Room,
        Self::Plugins,
        Self::Licence,
        Self::RecoveryWait,
        Self::Window,
        Self::Canary,
        Self::DebtsPaid,
    ];

    /// Returns the name that people see and that `--override` takes, the rule that it serves, and
    /// whether an operator may set it aside with a reason. S1, S2, S3, S6, S8, S12 and the quorum
    /// and replica parts of S4 have no override.
    const fn facts(self) -> (&'static str, &'static str, bool) {
        match self {
            Self::ClusterFree => ("cluster-free", "S1", false),
            Self::AgentsConnected => ("agents-connected", "S2", false),
            Self::HoldsClosed => ("holds-closed", "S3", false),
            Self::FactsFresh => ("facts-fresh", "S9", false),
            Self::NodesClaimed => ("nodes-claimed", "S1", false),
            Self::ConfigEqual => ("config-equal", "S1", false),
            Self::HostChecks => ("host-checks", "S5", true),
            Self::NodesUp => ("nodes-up", "S4", true),
            Self::LeaderClear => ("leader-clear", "S4", false),
            Self::ControllerQuorum => ("controller-quorum", "S4", false),
            Self::RaftGroups => ("raft-groups", "S4", false),
            Self::ReplicaElsewhere => ("replica-elsewhere", "S4", false),
            Self::PartitionCapacity => ("partition-capacity", "S4", true),
            Self::ControllersCaughtUp => ("controllers-caught-up", "S4", false),
            Self::ChunksSettled => ("chunks-settled", "S7", true),
            Self::ReplicasWhole => ("replicas-whole", "S7", true),
            Self::RecoveryIdle => ("recovery-idle", "S7", true),
            Self::Versions => ("versions", "S7", false),
            Self::MemoryLoss => ("memory-loss", "S13", true),
            Self::Compat => ("compat", "S12", false),
            Self::Downgrade => ("downgrade", "S12", false),
            Self::Variant => ("variant", "S5", false),
            Self::Package => ("package", "S5", false),
            Self::Room => ("room", "S5", true),
            Self::Plugins => ("plugins", "S5", true),
            Self::Licence => ("licence", "S5", true),
            Self::RecoveryWait => ("recovery-wait", "S7", true),
            Self::Window => ("window", "S9", true),
            Self::Canary => ("canary", "S11", true),
            Self::DebtsPaid => ("debts-paid", "S10", false),
        }
    }

    /// Returns the name.
    pub const fn name(self) -> &'static str {
        self.facts().0
    }

    /// Returns the safety rule that it serves.
    pub const fn rule(self) -> &'static str {
        self.facts().1
    }

    /// Tells whether an operator may set it aside with a reason.
    pub fn overridable(self) -> bool {
        self.facts().2 || mutation::is("s9-override-all")
    }

    /// Finds a gate by its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|gate| gate.name() == name)
    }

    /// Tells whether a rollout may start while this gate holds: it is asked again before each
    /// host, and clears by itself.
    pub const fn may_wait(self) -> bool {
        matches!(self, Self::ChunksSettled | Self::RecoveryIdle | Self::ReplicasWhole)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "mutations exist for a few gates alone")]
    fn set_aside_by_mutation(self, input: &Input<'_>) -> bool {
        let after = input.moment == Moment::After;
        match self {
            Self::NodesClaimed => mutation::is("s1-claims-unchecked"),
            Self::RaftGroups => mutation::is("s4-groups-unchecked"),
            Self::PartitionCapacity => mutation::is("s4-capacity-unchecked"),
            Self::ControllersCaughtUp => mutation::is("s7-caught-up-unchecked"),
            Self::Canary => mutation::is("s11-writer-anywhere"),
            Self::ControllerQuorum => mutation::is("s4-controllers-unchecked"),
            Self::ReplicaElsewhere => mutation::is("s4-replicas-unchecked"),
            Self::ChunksSettled | Self::ReplicasWhole | Self::RecoveryIdle => {
                after && mutation::is("s7-chunks-unchecked")
            }
            Self::HoldsClosed => {
                mutation::is("s1-promise-while-held") || mutation::is("s3-break-closes")
            }
            Self::Versions => mutation::is("s7-versions-unchecked"),
            Self::MemoryLoss => after && mutation::is("s13-memory-unchecked"),
            _ => false,
        }
    }

    /// Asks the gate.
    pub fn evaluate(self, input: &Input<'_>) -> Decision {
        if self.set_aside_by_mutation(input) {
            return Decision::Go;
        }
        let verdict = match self {
            Self::ClusterFree => parties::cluster_free(input),
            Self::AgentsConnected => parties::agents_connected(input),
            Self::HoldsClosed => parties::holds_closed(input),
            Self::FactsFresh => parties::facts_fresh(input),
            Self::NodesClaimed => parties::nodes_claimed(input),
            Self::ConfigEqual => parties::config_equal(input),
            Self::HostChecks => parties::host_checks(input),
            Self::NodesUp => parties::nodes_up(input),
            Self::LeaderClear => cluster::leader_clear(input),
            Self::ControllerQuorum => cluster::controller_quorum(input),
            Self::RaftGroups => cluster::raft_groups(input),
            Self::ReplicaElsewhere => cluster::replica_elsewhere(input),
            Self::PartitionCapacity => cluster::partition_capacity(input),
            Self::ControllersCaughtUp => whole::controllers_caught_up(input),
            Self::ChunksSettled => whole::chunks_settled(input),
            Self::ReplicasWhole => whole::replicas_whole(input),
            Self::RecoveryIdle => whole::recovery_idle(input),
            Self::Versions => whole::versions(input),
            Self::MemoryLoss => terms::memory_loss(input),
            Self::Compat => package::compat(input),
            Self::Downgrade => package::downgrade(input),
            Self::Variant => package::variant(input),
            Self::Package => package::package(input),
            Self::Room => package::room(input),
            Self::Plugins => package::plugins(input),
            Self::Licence => package::licence(input),
            Self::RecoveryWait => terms::recovery_wait(input),
            Self::Window => terms::window(input),
            Self::Canary => terms::canary(input),
            Self::DebtsPaid => terms::debts_paid(input),
        };
        let decision = verdict.into_decision();
        let unknown = decision.reasons().iter().all(|why| why.code == Code::FactUnknown);
        if unknown && mutation::is("s9-unknown-is-fine") { Decision::Go } else { decision }
    }
}

/// Makes a reason.
pub fn reason(
    code: Code,
    subject: impl Into<String>,
    evidence: impl Into<String>,
    remedy: impl Into<String>,
) -> Reason {
    Reason { code, subject: subject.into(), evidence: evidence.into(), remedy: remedy.into() }
}

/// Asks several gates and lays the operator's overrides beside what they say.
pub fn ask(gates: &[Gate], input: &Input<'_>) -> Vec<Finding> {
    gates.iter().map(|gate| finding(*gate, gate.evaluate(input), input.overrides)).collect()
}

fn finding(gate: Gate, decision: Decision, overrides: &[Override]) -> Finding {
    let set_aside =
        overrides.iter().find(|o| o.gate == gate.name() && gate.overridable() && !decision.is_go());
    Finding {
        gate: gate.name().to_owned(),
        rule: gate.rule().to_owned(),
        overridden: set_aside.map(|o| format!("{} (`{}`)", o.reason, o.by)),
        decision,
    }
}

/// Tells whether a finding lets pass: the gate says go, or an operator set it aside.
pub fn passes(finding: &Finding) -> bool {
    finding.overridden.is_some() || finding.decision.is_go()
}

/// Tells whether a finding lets a rollout start: it passes, or it only waits.
pub fn lets_start(finding: &Finding) -> bool {
    let waits = matches!(finding.decision, Decision::Hold { .. })
        && Gate::named(&finding.gate).is_some_and(Gate::may_wait);
    passes(finding) || waits
}

/// Returns the reasons of all findings that do not pass.
pub fn against(findings: &[Finding]) -> Vec<Reason> {
    findings.iter().filter(|f| !passes(f)).flat_map(|f| f.decision.reasons().to_vec()).collect()
}

/// The gates after a host (S7).
pub fn after(
    state: &State,
    view: &View,
    rollout: &Rollout,
    host: &HostId,
    now_ms: u64,
) -> Vec<Finding> {
    ask(AFTER, &Input::of_rollout(state, view, rollout, Moment::After, Some(host), now_ms))
}

/// The gates before a host is held.
pub fn before(
    state: &State,
    view: &View,
    rollout: &Rollout,
    host: &HostId,
    now_ms: u64,
) -> Vec<Finding> {
    ask(GRANT, &Input::of_rollout(state, view, rollout, Moment::Grant, Some(host), now_ms))
}

/// The gates at the end: every node of every host but `left_out` is proven.
pub(crate) fn at_end(input: &Input<'_>) -> Vec<Finding> {
    ask(&[Gate::FactsFresh, Gate::NodesClaimed, Gate::Versions], input)
}

/// What stands against it, so far.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    holds: Vec<Reason>,
    stops: Vec<Reason>,
}

impl Verdict {
    /// It may clear by itself.
    pub(crate) fn hold(&mut self, reason: Reason) {
        self.holds.push(reason);
    }

    /// It will not clear without a person.
    pub(crate) fn stop(&mut self, reason: Reason) {
        self.stops.push(reason);
    }

    /// Before a rollout starts a person is there to mend it; later it may clear by itself.
    pub(crate) fn stop_at_start(&mut self, input: &Input<'_>, reason: Reason) {
        if input.moment == Moment::Start { self.stop(reason) } else { self.hold(reason) }
    }

    /// Only what cannot be known stands against it.
    pub(crate) fn unknown(reason: Reason) -> Self {
        Self { holds: vec![reason], stops: Vec::new() }
    }

    fn into_decision(self) -> Decision {
        let stop = !self.stops.is_empty();
        let mut reasons = self.stops;
        reasons.extend(self.holds);
        if reasons.is_empty() {
            return Decision::Go;
        }
        let more = reasons.len().saturating_sub(REASONS_MAX);
        if more > 0 {
            reasons.truncate(REASONS_MAX);
            if let Some(last) = reasons.last_mut() {
                last.evidence.push_str(&format!("; and {more} more like this"));
            }
        }
        if stop { Decision::Stop { reasons } } else { Decision::Hold { reasons } }
    }
}
