//! The event log of a rollout: ordered, gapless, hash-chained.

use serde::{Deserialize, Serialize};

use crate::{
    HostId, RolloutId, Seq, Token,
    facts::UnsettledChunk,
    gate::{Finding, Reason},
    plan::{Effect, Plan},
    status::{CanaryStatus, RolloutState},
    step::Report,
};

/// One event. `hash` covers the event with `hash` empty and the hash of the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The rollout.
    pub rollout: RolloutId,
    /// Its place; the first is 1.
    pub seq: Seq,
    /// The deciding coordinator's wall clock, milliseconds since 1970; for display only.
    pub at_ms: u64,
    /// Who caused it: `coordinator`, `host NAME`, or the operator's name.
    pub by: String,
    /// What happened.
    pub body: Body,
    /// Hash of the event before, empty for the first.
    pub previous: String,
    /// SHA-256 in hex.
    pub hash: String,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Body {
    /// A rollout was started with this plan.
    Started {
        /// The plan.
        plan: Box<Plan>,
    },
    /// The gates' findings at the start or before a grant.
    Gates {
        /// For which host; none for the whole cluster.
        host: Option<HostId>,
        /// What each gate said.
        findings: Vec<Finding>,
    },
    /// Chunks that already differ from the replication factor (S7).
    Baseline {
        /// The list.
        chunks: Vec<UnsettledChunk>,
    },
    /// A token was allotted and promises are asked for.
    TokenAllotted {
        /// The host that is to be held.
        host: HostId,
        /// The token.
        token: Token,
    },
    /// A host agent promised.
    Promised {
        /// Who promised.
        host: HostId,
        /// The token.
        token: Token,
    },
    /// The hold took effect.
    Granted {
        /// The held host.
        host: HostId,
        /// The token.
        token: Token,
        /// Why this host is next.
        reason: String,
    },
    /// A go for a down action was given or denied.
    Go {
        /// The host.
        host: HostId,
        /// The token.
        token: Token,
        /// For what: `data nodes`, `controller HActl43`, …
        action: String,
        /// Whether.
        allowed: bool,
        /// Why not.
        reasons: Vec<Reason>,
    },
    /// A host agent reported.
    Reported {
        /// The report.
        report: Report,
    },
    /// The leading DolphinDB controller changed.
    LeaderChanged {
        /// Before; none if unknown.
        from: Option<String>,
        /// Now.
        to: String,
    },
    /// What the rollout waits for changed; empty when it goes on.
    Waiting {
        /// Why.
        reasons: Vec<Reason>,
    },
    /// The gates were passed after a host.
    HostVerified {
        /// The host.
        host: HostId,
        /// How long everything had been well, milliseconds.
        soaked_ms: u64,
    },
    /// The hold was closed by its host agent and released.
    Released {
        /// The host.
        host: HostId,
        /// The token.
        token: Token,
    },
    /// A host was found on the target version and skipped, or skipped by an operator.
    Skipped {
        /// The host.
        host: HostId,
        /// Why.
        reason: String,
    },
    /// An operator did something.
    Operator {
        /// `pause`, `resume`, `abort`, `retry`, `skip`, `break`, …
        action: String,
        /// Their reason.
        reason: String,
    },
    /// The canary's state.
    Canary {
        /// Now.
        canary: CanaryStatus,
    },
    /// The rollout's state changed.
    State {
        /// The new state.
        state: RolloutState,
    },
    /// Every node's version at the end.
    FinalVerification {
        /// Node, its role in words, version or what was seen instead.
        versions: Vec<(String, String, String)>,
        /// All are on the target.
        ok: bool,
    },
    /// A change to the cluster as a whole: recorded before it is made, made, or undone (S10).
    Debt {
        /// Its number.
        debt: u64,
        /// What it is, with the original value.
        effect: Effect,
        /// `recorded`, `in force`, `failed` or `paid`.
        state: String,
        /// Which host agent did it and what it saw; until when it is to be paid.
        detail: String,
    },
    /// Another coordinator took the lead.
    Lease {
        /// Which.
        coordinator: u64,
        /// Its term.
        term: u64,
    },
}
