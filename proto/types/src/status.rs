//! What `status`, `hosts`, `hold show` and `explain` print.

use serde::{Deserialize, Serialize};

use crate::{
    ClusterId, DdbVersion, HostId, RolloutId, Seq, Token,
    gate::{Finding, Reason},
    step::{SequenceState, Step},
};

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// The package is checked and unpacked on every host; nothing is disturbed.
    Staging,
    /// Hosts are done one by one.
    Running,
    /// An operator, or `--pause-after`, paused it: it stops between hosts.
    Paused,
    /// A step failed or a limit was passed: the hold stays and a person decides.
    Halted,
    /// An operator aborted it; the held host is being brought up.
    Aborting,
    /// All hosts are done; every node's version is checked.
    Verifying,
    /// Final: every node is proven to run the target version.
    Succeeded,
    /// Final: every node is proven to run the target version, but for those of hosts that an operator
    /// left out.
    Incomplete,
    /// Final: aborted; no host is held.
    Aborted,
    /// Final: refused or failed with no host held.
    Failed,
}

impl RolloutState {
    /// Tells whether nothing follows.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Incomplete | Self::Aborted | Self::Failed)
    }
}

impl std::fmt::Display for RolloutState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Staging => "staging",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Halted => "halted",
            Self::Aborting => "aborting",
            Self::Verifying => "verifying",
            Self::Succeeded => "succeeded",
            Self::Incomplete => "incomplete",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
        })
    }
}

/// Where one host of a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum HostPhase {
    /// Its turn has not come.
    Waiting,
    /// Its package is checked and unpacked.
    Staged,
    /// Promises are asked for.
    Granting,
    /// Its sequence runs.
    Working {
        /// The step.
        step: Step,
    },
    /// It is up; the cluster recovers and soaks.
    Recovering,
    /// Its hold is being closed.
    Closing,
    /// Done.
    Done,
    /// Left out: on the target already, or by an operator.
    Skipped,
    /// A person is needed.
    Failed,
}

/// One host of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// The host.
    pub host: HostId,
    /// Where it stands.
    pub phase: HostPhase,
    /// What its agent said last.
    pub sequence: Option<SequenceState>,
    /// When its hold took effect, milliseconds since 1970.
    pub started_ms: Option<u64>,
    /// When its hold was released.
    pub ended_ms: Option<u64>,
    /// Name and bytes of its backup.
    pub backup: Option<(String, u64)>,
}

/// The canary's result so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CanaryStatus {
    /// `off`, `starting`, `writing`, `moving`, `failed`, `ended`.
    pub state: String,
    /// Host that writes.
    pub host: Option<HostId>,
    /// Rows sent.
    pub sent: u64,
    /// Rows acknowledged.
    pub acknowledged: u64,
    /// Rows whose outcome is unknown: sent, and the connection broke.
    pub unknown: u64,
    /// Acknowledged rows read back in the last check.
    pub verified: u64,
    /// Acknowledged rows that are missing: must be 0.
    pub lost: u64,
    /// Rows found more than once.
    pub duplicates: u64,
    /// Rows sent again after an unknown outcome.
    pub retries: u64,
    /// Longest time between two acknowledgements, milliseconds; the writer's own outages apart.
    pub longest_gap_ms: u64,
    /// Longest time that the writer itself was not running, milliseconds.
    pub writer_outage_ms: u64,
    /// Latency of acknowledged rows, milliseconds.
    pub p50_ms: u64,
    /// Latency of acknowledged rows, milliseconds.
    pub p99_ms: u64,
    /// Sequence ranges of missing rows, for people; bounded.
    pub lost_examples: Vec<String>,
    /// Why it can't write, if it can't.
    pub problem: Option<String>,
}

/// A rollout in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// Its id.
    pub id: RolloutId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The target.
    pub target: DdbVersion,
    /// The plan's hash.
    pub plan_hash: String,
    /// State.
    pub state: RolloutState,
    /// Hosts in order.
    pub hosts: Vec<HostStatus>,
    /// What it waits for; empty when it goes on.
    pub waiting: Vec<Reason>,
    /// Since when, milliseconds since 1970.
    pub waiting_since_ms: Option<u64>,
    /// The canary.
    pub canary: CanaryStatus,
    /// Changes of the leading DolphinDB controller since the start.
    pub leader_changes: u32,
    /// Last event.
    pub last_seq: Seq,
    /// Who started it.
    pub by: String,
    /// When, milliseconds since 1970.
    pub started_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// This answer comes from a coordinator that does not lead: it may be old.
    pub stale: bool,
}

/// A line of `grayfin hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLine {
    /// The host.
    pub host: HostId,
    /// Its clusters.
    pub clusters: Vec<ClusterId>,
    /// The host agent is connected.
    pub connected: bool,
    /// Version of the host agent.
    pub agent_version: String,
    /// Age of its last facts, milliseconds.
    pub facts_age_ms: Option<u64>,
    /// Each node: alias, role in words, `up`/`down`/`unknown`, version or why unknown.
    pub nodes: Vec<(String, String, String, String)>,
    /// The token of a hold open there.
    pub open_hold: Option<Token>,
    /// What is wrong.
    pub problems: Vec<crate::facts::Problem>,
}

/// The hold of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldStatus {
    /// The cluster.
    pub cluster: ClusterId,
    /// The last token allotted.
    pub token: Token,
    /// The held host, or the host that is about to be held.
    pub host: Option<HostId>,
    /// The rollout.
    pub rollout: Option<RolloutId>,
    /// `none`, `asking`, `held`, `closing`, `broken`.
    pub state: String,
    /// Who promised the token.
    pub promised: Vec<HostId>,
    /// Whose promise is awaited.
    pub awaited: Vec<HostId>,
    /// Changes to the cluster as a whole that must be undone (S10), in words.
    #[serde(default)]
    pub debts: Vec<String>,
}

/// Answer of `explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The rollout.
    pub rollout: RolloutId,
    /// Its state.
    pub state: RolloutState,
    /// Why nothing happens, if so.
    pub waiting: Vec<Reason>,
    /// Which host is next and why.
    pub next: Option<(HostId, String)>,
    /// Whether there is a way back for the held host, and why.
    pub way_back: String,
    /// Where there is none: what remains possible, node by node (S12).
    #[serde(default)]
    pub way_forward: Vec<String>,
    /// Commands that make sense now.
    pub commands: Vec<String>,
    /// All gates as they stand.
    pub gates: Vec<Finding>,
}
