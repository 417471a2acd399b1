//! The host sequence: its steps and what a host agent reports about them.

use serde::{Deserialize, Serialize};

use crate::{Code, DdbVersion, HostId, NodeAlias, Token};

/// The steps of a host's sequence, in order. This is the one list of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Package present, verified, unpacked beside the installation; room checked. No hold needed.
    Stage,
    /// S4 evaluated from this host, now.
    Guard,
    /// What must be kept from restarting is kept; caches flushed; data nodes stopped.
    Quiesce,
    /// The remaining processes of the installation are stopped and gone.
    Stop,
    /// Interlock on; metadata and software copied and verified.
    Backup,
    /// The software is replaced.
    Upgrade,
    /// First-start intent; interlock off; nodes started in order.
    Start,
    /// Processes, ports, versions, roles and readiness of every node of the host.
    Join,
}

impl Step {
    /// All steps in order.
    pub const ALL: [Self; 8] = [
        Self::Stage,
        Self::Guard,
        Self::Quiesce,
        Self::Stop,
        Self::Backup,
        Self::Upgrade,
        Self::Start,
        Self::Join,
    ];

    /// Returns the step's name as people and files see it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Guard => "guard",
            Self::Quiesce => "quiesce",
            Self::Stop => "stop",
            Self::Backup => "backup",
            Self::Upgrade => "upgrade",
            Self::Start => "start",
            Self::Join => "join",
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a host agent's sequence stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum SequenceState {
    /// It has the order and is working on this step.
    Running {
        /// The step.
        step: Step,
    },
    /// The host is up on the new version; the coordinator's gates and the close are left.
    Up,
    /// A guard refused before anything was disturbed; the host is as it was.
    Refused {
        /// Which step's guard.
        step: Step,
        /// Why.
        code: Code,
        /// In a person's words.
        message: String,
    },
    /// A step failed and everything was undone: the host is up on the old version.
    Undone {
        /// The step that failed.
        step: Step,
        /// Why.
        code: Code,
        /// In a person's words.
        message: String,
    },
    /// A step failed and the host is not as it should be: a person is needed.
    Failed {
        /// The step.
        step: Step,
        /// Why.
        code: Code,
        /// In a person's words: what failed, and where things stand.
        message: String,
        /// The first-start intent was recorded: there is no way back by itself (S12).
        first_start: bool,
    },
    /// The token is durably closed; nothing of it is accepted again (S3).
    Closed,
}

/// What happened, in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Happened {
    /// A step (or, with `undo`, its undoing) began.
    Started,
    /// It goes on.
    Progress {
        /// Done so far.
        done: u64,
        /// In all, 0 if not known.
        total: u64,
        /// `bytes`, `nodes`, `files`.
        unit: String,
    },
    /// It is done.
    Finished {
        /// Milliseconds by the host agent's monotonic clock.
        took_ms: u64,
    },
    /// It failed.
    Failed {
        /// Why.
        code: Code,
        /// In a person's words.
        message: String,
    },
    /// One node went down or came up.
    Node {
        /// Which.
        alias: NodeAlias,
        /// `stopping`, `stopped`, `starting`, `started`, `ready`.
        state: String,
    },
    /// The sequence's state changed.
    State {
        /// The new state.
        state: SequenceState,
    },
}

/// One report of a host agent about a sequence. Durable ones carry their ledger position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The host.
    pub host: HostId,
    /// The hold's token; 0 for staging, which needs none.
    pub token: Token,
    /// The step.
    pub step: Step,
    /// This is about undoing the step.
    #[serde(default)]
    pub undo: bool,
    /// What happened.
    pub happened: Happened,
    /// What was seen, for people: `4 of 4 processes gone after 1.2 s`.
    #[serde(default)]
    pub seen: String,
    /// Position in the ledger, 0 for a passing progress report that may be lost.
    pub position: u64,
    /// The ledger's running hash at this position ([`crate::ledger::LedgerMark`]); empty for a
    /// passing report.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chain: String,
    /// The host's wall clock, milliseconds since 1970; for display only.
    pub at_ms: u64,
}

/// What a sequence proved about the host at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Every node and the version that it answered with.
    pub versions: Vec<(NodeAlias, DdbVersion)>,
    /// The backup's folder name and its bytes.
    pub backup: Option<(String, u64)>,
}
