//! The group of coordinators itself: what operators did to it, and who may never come back.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
};

use grayfin_types::raise::SignedRaise;
use serde::{Deserialize, Serialize};

/// Acts that are remembered; a group changes a few times in its life.
const ACTS_KEPT: usize = 200;

/// What operators did to the group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinators {
    /// Oldest first.
    pub acts: VecDeque<Act>,
    /// Ids that are never given again: whoever had one may come back with an old folder.
    pub removed: BTreeSet<u64>,
    /// The operator's act that raised the incarnation, which host agents verify (S2).
    pub raise: Option<SignedRaise>,
}

impl Coordinators {
    /// Remembers an act.
    pub fn record(&mut self, act: Act) {
        self.acts.push_back(act);
        while self.acts.len() > ACTS_KEPT {
            self.acts.pop_front();
        }
    }
}

/// One act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Who.
    pub by: String,
    /// What.
    pub what: GroupAct,
    /// Which coordinator.
    pub id: u64,
    /// Where it listens, if it was added.
    pub address: String,
    /// Why.
    pub reason: String,
}

/// What can be done to the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupAct {
    /// It learns the log, then votes.
    Add,
    /// It is taken out, for ever.
    Remove,
    /// The leader steps aside.
    TransferLead,
    /// The state was put back from a backup, as a new group of one.
    Restore,
    /// The group had lost its majority and goes on as a group of one.
    ForceRecover,
}

impl GroupAct {
    /// Returns the word for logs and lists.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
            Self::TransferLead => "transfer-lead",
            Self::Restore => "restore",
            Self::ForceRecover => "force-recover",
        }
    }
}

impl fmt::Display for GroupAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
