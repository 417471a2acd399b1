//! One run over one cluster.

use grayfin_types::{
    ClusterId, Code, HostId, NodeAlias, RolloutId, Seq, Token,
    facts::UnsettledChunk,
    gate::Reason,
    plan::Plan,
    status::{HostPhase, RolloutState},
    step::SequenceState,
};
use serde::{Deserialize, Serialize};

use super::CanaryRun;
use crate::mutation;

/// A rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its id.
    pub id: RolloutId,
    /// The cluster.
    pub cluster: ClusterId,
    /// What is to be done; never changed.
    pub plan: Plan,
    /// Where it stands.
    pub state: RolloutState,
    /// Who started it.
    pub by: String,
    /// When, milliseconds since 1970.
    pub started_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// Its hosts, in the plan's order.
    pub hosts: Vec<HostRun>,
    /// Chunks that differed before the first host (S7); none until it was taken.
    pub baseline: Option<Vec<UnsettledChunk>>,
    /// The canary.
    pub canary: CanaryRun,
    /// What it waits for.
    pub waiting: Vec<Reason>,
    /// Since when, milliseconds since 1970.
    pub waiting_since_ms: Option<u64>,
    /// Why it is halted.
    pub halted: Option<Reason>,
    /// The leading DolphinDB controller as last seen.
    pub leader: Option<NodeAlias>,
    /// How often that changed.
    pub leader_changes: u32,
    /// The last event's number.
    pub last_seq: Seq,
    /// The last event's hash.
    pub last_hash: String,
}

impl Rollout {
    /// Finds a host's part.
    pub fn host(&self, host: &HostId) -> Option<&HostRun> {
        self.hosts.iter().find(|h| &h.host == host)
    }

    /// Finds a host's part, to change it.
    pub(crate) fn host_mut(&mut self, host: &HostId) -> Option<&mut HostRun> {
        self.hosts.iter_mut().find(|h| &h.host == host)
    }

    /// Tells whether every host is done or was left out.
    pub fn all_ended(&self) -> bool {
        self.hosts.iter().all(HostRun::ended)
    }

    /// Returns the hosts that an operator left out; those that were on the target already do not count.
    pub fn left_out(&self) -> Vec<HostId> {
        let out = |h: &&HostRun| {
            h.phase == HostPhase::Skipped && !matches!(h.staging, Staging::NotNeeded)
        };
        self.hosts.iter().filter(out).map(|h| h.host.clone()).collect()
    }

    /// Tells whether every host has what it needs to begin.
    pub fn all_staged(&self) -> bool {
        self.hosts.iter().all(|h| {
            mutation::is("s5-grant-before-stage")
                || h.ended()
                || matches!(h.staging, Staging::Done | Staging::NotNeeded)
        })
    }
}

/// How far a host's package is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "staging")]
pub enum Staging {
    /// On the target already.
    NotNeeded,
    /// Ordered.
    Ordered,
    /// Checked and unpacked.
    Done,
    /// It failed.
    Failed {
        /// Why.
        code: Code,
        /// In a person's words.
        message: String,
    },
}

/// How a host's part ends when its hold is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "as")]
pub enum CloseAs {
    /// On the new version, gates passed.
    Done,
    /// An operator left it out.
    Skipped {
        /// Why.
        reason: String,
    },
    /// The rollout is aborted.
    Aborted,
}

/// The last answer to a request for a go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoRecord {
    /// The request's number.
    pub request: u64,
    /// Whether.
    pub allowed: bool,
}

/// One host of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRun {
    /// The host.
    pub host: HostId,
    /// Where it stands.
    pub phase: HostPhase,
    /// Its package.
    pub staging: Staging,
    /// What its agent said last.
    pub sequence: Option<SequenceState>,
    /// The token it works, or worked, under.
    pub token: Option<Token>,
    /// A go was given: it counts as disturbed until its hold is closed.
    pub disturbed: bool,
    /// Raised by each retry and resume: waits begin anew.
    pub attempt: u32,
    /// How it ends when the hold is closed.
    pub close_as: Option<CloseAs>,
    /// The last go.
    pub last_go: Option<GoRecord>,
    /// When its hold took effect, milliseconds since 1970.
    pub started_ms: Option<u64>,
    /// When its hold was released.
    pub ended_ms: Option<u64>,
    /// Name and bytes of its backup.
    pub backup: Option<(String, u64)>,
    /// When progress was recorded last, by the host's own wall clock.
    pub progress_ms: u64,
}

impl HostRun {
    /// Tells whether nothing more is to be done here.
    pub const fn ended(&self) -> bool {
        matches!(self.phase, HostPhase::Done | HostPhase::Skipped)
    }

    /// Tells whether this host's turn is now.
    pub const fn in_turn(&self) -> bool {
        match self.phase {
            HostPhase::Granting
            | HostPhase::Working { .. }
            | HostPhase::Recovering
            | HostPhase::Closing
            | HostPhase::Failed => self.token.is_some() && self.ended_ms.is_none(),
            HostPhase::Waiting | HostPhase::Staged | HostPhase::Done | HostPhase::Skipped => false,
        }
    }
}
