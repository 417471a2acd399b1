//! The plan of a rollout: immutable content and order.

use serde::{Deserialize, Serialize};

use crate::{
    ClusterId, DdbVersion, HostId, NodeAlias, RolloutId,
    facts::{BackupPart, MemoryObject, NodeSpec},
};

/// How the software is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeMode {
    /// Grayfin replaces it entry by entry, each rename journalled.
    Native,
    /// The site's `upgrade.sh` is driven.
    Script,
}

/// What the vendor publishes about rolling upgrade between two versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compatibility {
    /// The published level 1 to 5 (the minimum over the path), none where unknown.
    pub level: Option<u8>,
    /// Only the fourth number differs: `patch`, allowed, and not published for this pair.
    pub patch: bool,
    /// Where the level comes from, step by step.
    pub why: String,
}

/// A gate that an operator set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// The gate's name.
    pub gate: String,
    /// The operator's reason.
    pub reason: String,
    /// Who.
    pub by: String,
}

/// What the canary does in this rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum CanarySpec {
    /// None; the report says so.
    Off,
    /// A database of its own, made on first use.
    New {
        /// Rows per second.
        rows_per_second: u32,
    },
    /// A table that the site provides: `dfs://db` and table name, with the columns
    /// `epoch LONG, seq LONG, attempt INT, part INT, sent TIMESTAMP`.
    Table {
        /// Database.
        database: String,
        /// Table.
        table: String,
        /// Rows per second.
        rows_per_second: u32,
    },
}

/// A time in which holds may be granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// IANA zone name.
    pub zone: String,
    /// Days, `mon` to `sun`; empty for all.
    pub days: Vec<String>,
    /// `HH:MM`.
    pub from: String,
    /// `HH:MM`; before `from` it means the next day.
    pub to: String,
}

/// When the rollout pauses by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseAfter {
    /// Never.
    Never,
    /// After the first host.
    First,
    /// After each host.
    Each,
}

/// What to do when the host would be down longer than DolphinDB's recovery wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryPolicy {
    /// Do not begin.
    Refuse,
    /// Begin, and wait for the re-replication to end afterwards.
    Allow,
    /// Suspend recovery for the time, as a debt that is paid (S10).
    Suspend,
}

/// The limits of a rollout. All durations in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// How long everything must be well after a host before the next (S7).
    pub soak_ms: u64,
    /// How long a majority must have named the same leader: two election ticks, which are 8 s each
    /// by default (S4, "caught up").
    pub leader_settled_ms: u64,
    /// Facts older than this hold (S9).
    pub fact_age_max_ms: u64,
    /// Between two looks that must show the same CONSTRUCTING chunk and version (S7).
    pub constructing_look_ms: u64,
    /// The longest baseline of chunks that already differ (S7).
    pub baseline_max: u32,
    /// What to do about DolphinDB's recovery wait.
    pub recovery: RecoveryPolicy,
    /// SIGKILL may follow when a process outlives `stop_timeout_ms`.
    pub allow_kill: bool,
    /// For all processes of a host to go.
    pub stop_timeout_ms: u64,
    /// For the backup.
    pub backup_timeout_ms: u64,
    /// For the upgrade itself.
    pub upgrade_timeout_ms: u64,
    /// For one node to start.
    pub start_timeout_ms: u64,
    /// For all nodes of a host to become ready.
    pub join_timeout_ms: u64,
    /// How long a stop that was asked of a DolphinDB controller, and of which nobody knows whether it
    /// was heard, may take to have an effect: the host is watched that long before it counts as up.
    pub late_stop_ms: u64,
    /// For the cluster to recover after a host, before the rollout is held with a reason.
    pub recover_timeout_ms: u64,
    /// How often a node that died at start is started again after the first start.
    pub start_attempts: u32,
    /// How many backups per installation are kept.
    pub backups_kept: u32,
    /// Bytes that stay free on every volume.
    pub free_floor_bytes: u64,
}

impl Default for Policy {
    /// The documented timing of a production cluster.
    fn default() -> Self {
        Self {
            // Four times the longest election (16 s): a leader that is going to be lost is lost by then.
            soak_ms: 60_000,
            leader_settled_ms: 16_000,
            // Three looks at the default interval of 5 s.
            fact_age_max_ms: 15_000,
            constructing_look_ms: 60_000,
            baseline_max: 100,
            recovery: RecoveryPolicy::Allow,
            allow_kill: false,
            // A loaded node flushes and waits for transactions; unbounded in the vendor's words.
            stop_timeout_ms: 600_000,
            backup_timeout_ms: 1_800_000,
            upgrade_timeout_ms: 600_000,
            // Redo replay can take minutes.
            start_timeout_ms: 600_000,
            join_timeout_ms: 600_000,
            // Such an order goes from the controller to its agent within a heartbeat; a node under load
            // then takes minutes to end.
            late_stop_ms: 300_000,
            // "Normally within about half an hour".
            recover_timeout_ms: 3_600_000,
            start_attempts: 3,
            backups_kept: 3,
            free_floor_bytes: 1 << 30,
        }
    }
}

/// The package, the same on every host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// File name in each host's package folder.
    pub file: String,
    /// SHA-256 in hex.
    pub sha256: String,
    /// Bytes.
    pub bytes: u64,
}

/// What stays alive while one host is down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaysAlive {
    /// DolphinDB controllers that stay, of all configured.
    pub controllers: u32,
    /// All configured.
    pub controllers_of: u32,
    /// Data nodes that stay, of all configured.
    pub data_nodes: u32,
    /// All configured.
    pub data_nodes_of: u32,
    /// The fewest current replicas that any chunk keeps on live nodes of other hosts.
    pub replicas_min: Option<u32>,
    /// Raft groups of data nodes: id, members that stay, members.
    pub groups: Vec<(String, u32, u32)>,
}

/// One host's part of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPlan {
    /// The host.
    pub host: HostId,
    /// Why it stands at this place.
    pub reason: String,
    /// What it runs now.
    pub from: Option<DdbVersion>,
    /// On the target already: verified and skipped.
    pub already_done: bool,
    /// Every node of the host; all are stopped.
    pub nodes: Vec<NodeSpec>,
    /// It keeps the leading DolphinDB controller at planning time.
    pub has_leader: bool,
    /// What stays alive meanwhile.
    pub stays: StaysAlive,
    /// What is backed up.
    pub backup: Vec<BackupPart>,
    /// Where the backup goes.
    pub backup_dir: String,
    /// What would be lost from memory.
    pub memory: Vec<MemoryObject>,
}

impl HostPlan {
    /// Makes the part of a host without nodes, of which nothing is known: tests and tools fill in what
    /// they need.
    pub fn bare(host: HostId) -> Self {
        Self {
            host,
            reason: String::new(),
            from: None,
            already_done: false,
            nodes: Vec::new(),
            has_leader: false,
            stays: StaysAlive::default(),
            backup: Vec::new(),
            backup_dir: String::new(),
            memory: Vec::new(),
        }
    }
}

/// A plan. It is never changed; its hash names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// SHA-256 over the plan's JSON with this field empty.
    pub hash: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The target.
    pub target: DdbVersion,
    /// How the software is replaced.
    pub mode: UpgradeMode,
    /// The package.
    pub package: Package,
    /// What the vendor publishes about this pair.
    pub compatibility: Compatibility,
    /// Hosts in order; the place of the leader's host is read again before each choice.
    pub hosts: Vec<HostPlan>,
    /// Gates set aside.
    pub overrides: Vec<Override>,
    /// Memory-only objects accepted by name, as `node/kind/name`.
    pub accepted_losses: Vec<String>,
    /// Limits.
    pub policy: Policy,
    /// The canary.
    pub canary: CanarySpec,
    /// When holds may be granted; empty for always.
    #[serde(default)]
    pub windows: Vec<Window>,
    /// When to pause by itself.
    pub pause_after: PauseAfter,
    /// The step after which there is no way back by itself.
    pub point_of_no_return: String,
}

impl Plan {
    /// Makes a plan without canary, overrides or windows, with shipped limits and no package's digest:
    /// tests and tools fill in what they need.
    pub fn bare(cluster: ClusterId, target: DdbVersion, hosts: Vec<HostPlan>) -> Self {
        let package = Package { file: "p.zip".to_owned(), sha256: String::new(), bytes: 0 };
        Self {
            hash: String::new(),
            cluster,
            target,
            mode: UpgradeMode::Native,
            package,
            compatibility: Compatibility { level: None, patch: true, why: String::new() },
            hosts,
            overrides: Vec::new(),
            accepted_losses: Vec::new(),
            policy: Policy::default(),
            canary: CanarySpec::Off,
            windows: Vec::new(),
            pause_after: PauseAfter::Never,
            point_of_no_return: "start".to_owned(),
        }
    }

    /// Finds a host's part.
    pub fn host(&self, host: &HostId) -> Option<&HostPlan> {
        self.hosts.iter().find(|h| &h.host == host)
    }

    /// Returns every node's alias, in the plan's order.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeAlias> {
        self.hosts.iter().flat_map(|h| h.nodes.iter().map(|n| &n.alias))
    }
}

/// What an operator asks for when planning or starting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRequest {
    /// The cluster.
    pub cluster: ClusterId,
    /// The target version as typed; parsed strictly.
    pub target: String,
    /// Native unless asked otherwise.
    pub mode: UpgradeMode,
    /// `--accept-compat-risk REASON`.
    #[serde(default)]
    pub accept_compat_risk: Option<String>,
    /// `--override GATE=REASON`.
    #[serde(default)]
    pub overrides: Vec<(String, String)>,
    /// `--accept-loss NODE/KIND/NAME`.
    #[serde(default)]
    pub accept_losses: Vec<String>,
    /// The canary.
    pub canary: CanarySpec,
    /// Limits that differ from the coordinator's own policy for the cluster.
    #[serde(default)]
    pub soak_ms: Option<u64>,
    /// `--recovery`.
    #[serde(default)]
    pub recovery: Option<RecoveryPolicy>,
    /// `--allow-kill`.
    #[serde(default)]
    pub allow_kill: bool,
    /// `--pause-after`.
    pub pause_after: PauseAfter,
    /// Who asks; set by the coordinator from the certificate.
    #[serde(default)]
    pub by: String,
}

impl PlanRequest {
    /// A request with nothing but what is needed: native, without canary, nothing set aside.
    pub fn new(cluster: ClusterId, target: impl Into<String>) -> Self {
        Self {
            cluster,
            target: target.into(),
            mode: UpgradeMode::Native,
            accept_compat_risk: None,
            overrides: Vec::new(),
            accept_losses: Vec::new(),
            canary: CanarySpec::Off,
            soak_ms: None,
            recovery: None,
            allow_kill: false,
            pause_after: PauseAfter::Never,
            by: String::new(),
        }
    }
}

/// What a host agent is told about the canary that it is to write, stop or check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryOrder {
    /// The rollout it belongs to.
    pub rollout: RolloutId,
    /// The writer's epoch; each start of a writer on another host has the next one.
    pub epoch: u64,
    /// What to write.
    pub spec: CanarySpec,
}

/// A change to the cluster as a whole that must be undone (S10). DolphinDB keeps it in the memory of
/// each controller: it is lost at a restart and not told to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "effect")]
pub enum Effect {
    /// Recovery is suspended; before, it ran.
    SuspendedRecovery,
    /// `datanodeRestartInterval` is 0, so that no controller starts what was stopped.
    RestartInterval {
        /// Seconds before.
        original_s: u64,
    },
}

impl Effect {
    /// Tells whether both change the same thing, whatever it was before.
    pub const fn is_alike(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::SuspendedRecovery, Self::SuspendedRecovery)
                | (Self::RestartInterval { .. }, Self::RestartInterval { .. })
        )
    }
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SuspendedRecovery => f.write_str("recovery is suspended (it ran before)"),
            Self::RestartInterval { original_s } => {
                write!(f, "datanodeRestartInterval is 0 (it was {original_s} s before)")
            }
        }
    }
}

/// What a host agent is told about a debt: bring the effect about, or undo it. Disturbs no host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebtOrder {
    /// The debt's number.
    pub debt: u64,
    /// The effect.
    pub effect: Effect,
    /// Undo it.
    pub pay: bool,
    /// Nodes of hosts that an operator attested as powered off: they need not be reached.
    #[serde(default)]
    pub without: Vec<NodeAlias>,
}

/// Answer to a plan or preflight request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanAnswer {
    /// The plan, where one could be made.
    pub plan: Option<Plan>,
    /// Every gate that was looked at.
    pub findings: Vec<crate::gate::Finding>,
    /// A rollout could start now.
    pub ready: bool,
}
