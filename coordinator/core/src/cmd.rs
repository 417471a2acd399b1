//! Commands: everything that may change [`crate::State`].
//!
//! A command carries its times and ids. It is proposed by the leader, becomes true when it is
//! applied, and is checked again then: what no longer fits is answered [`Response::Ignored`].

mod heard;

use grayfin_types::{
    Code, HostId, Incarnation, LedgerId, NodeAlias, RolloutId, Term, Token,
    facts::UnsettledChunk,
    gate::{Finding, Reason},
    ledger::Readmit,
    plan::{Effect, Plan},
    step::Report,
};
use serde::{Deserialize, Serialize};

pub use heard::{CanaryReported, Enrol, LedgerSaid, OrderAnswered, PromiseAnswered};

use crate::state::GroupAct;

/// A command with the wall clock of the coordinator that proposes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// Milliseconds since 1970; for display only.
    pub at_ms: u64,
    /// The command.
    pub cmd: Cmd,
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cmd {
    /// Names a new group. Ignored when it has a name, unless the incarnation is larger.
    Found {
        /// Random id.
        group: String,
        /// 1 for a new group; larger after a restore (S2).
        incarnation: Incarnation,
    },
    /// A coordinator has taken the lead.
    Lease {
        /// Which.
        coordinator: u64,
        /// Its Raft term.
        term: Term,
    },
    /// An operator changes the group of coordinators; recorded before it is done.
    Coordinators(CoordinatorsWish),
    /// A host agent said hello.
    Enrol(Enrol),
    /// An operator starts a rollout.
    Start(Box<Start>),
    /// An operator acts on a rollout or a hold.
    Control(Control),
    /// A token for this host is wanted; the number is given when this is applied.
    AllotToken {
        /// The rollout.
        rollout: RolloutId,
        /// The host that is to be held.
        host: HostId,
    },
    /// The token is not going to be used: no order ever carried it.
    AbandonToken {
        /// The rollout.
        rollout: RolloutId,
        /// The token.
        token: Token,
    },
    /// A host agent answered a promise request.
    RecordPromise(PromiseAnswered),
    /// All have promised and the gates pass: the hold takes effect.
    Grant {
        /// The rollout.
        rollout: RolloutId,
        /// The host.
        host: HostId,
        /// The token.
        token: Token,
        /// Why this host is next.
        reason: String,
        /// What the gates said.
        findings: Vec<Finding>,
    },
    /// A host agent answered an order.
    OrderAnswered(OrderAnswered),
    /// A host agent reported.
    Reported {
        /// The report, exactly as it came.
        report: Report,
    },
    /// A go was decided.
    Go(GoDecided),
    /// The gates passed after a host: its hold is to be closed.
    Close {
        /// The rollout.
        rollout: RolloutId,
        /// The host.
        host: HostId,
        /// The token.
        token: Token,
        /// How long everything had been well.
        soaked_ms: u64,
    },
    /// A broken hold's host is settled: its agent is to close the token.
    CloseBroken {
        /// The token.
        token: Token,
    },
    /// A host is proven to be on the target already.
    SkipDone {
        /// The rollout.
        rollout: RolloutId,
        /// The host.
        host: HostId,
        /// What proves it.
        reason: String,
    },
    /// Chunks that differ before the first host (S7).
    SetBaseline {
        /// The rollout.
        rollout: RolloutId,
        /// The list.
        chunks: Vec<UnsettledChunk>,
    },
    /// The canary's writer is to start on this host.
    CanaryStart {
        /// The rollout.
        rollout: RolloutId,
        /// The host.
        host: HostId,
    },
    /// The canary's writer is to stop.
    CanaryStop {
        /// The rollout.
        rollout: RolloutId,
        /// It will not be started again in this rollout.
        end: bool,
    },
    /// The writer is lost with its host: it is given up, so that another may start.
    CanaryGiveUp {
        /// The rollout.
        rollout: RolloutId,
    },
    /// Every host that wrote reads its rows back.
    CanaryCheck {
        /// The rollout.
        rollout: RolloutId,
        /// What the round is for: a host with its token and attempt, or the end.
        purpose: String,
    },
    /// A canary's report.
    CanaryReported(CanaryReported),
    /// A change to the cluster as a whole is needed: recorded before it is made (S10).
    RecordDebt {
        /// The rollout.
        rollout: RolloutId,
        /// The hold that needs it.
        token: Token,
        /// The effect, with the original value.
        effect: Effect,
    },
    /// A host agent is to bring a debt's effect about, or to undo it.
    OrderDebt {
        /// The debt.
        debt: u64,
        /// Which.
        host: HostId,
        /// Undo it.
        pay: bool,
        /// The leading DolphinDB controller now.
        leader: NodeAlias,
    },
    /// The leading DolphinDB controller is another one.
    LeaderSeen {
        /// The rollout.
        rollout: RolloutId,
        /// Now.
        leader: NodeAlias,
    },
    /// What a rollout waits for changed.
    Waiting {
        /// The rollout.
        rollout: RolloutId,
        /// Why; empty when it goes on.
        reasons: Vec<Reason>,
    },
    /// A limit was passed, or something was found that only a person can judge.
    Halt {
        /// The rollout.
        rollout: RolloutId,
        /// Why.
        reason: Reason,
    },
    /// All hosts are done: every node's version is to be checked.
    Verify {
        /// The rollout.
        rollout: RolloutId,
    },
    /// The final check was made.
    Finish {
        /// The rollout.
        rollout: RolloutId,
        /// Node, its role in words, version or what was seen instead.
        versions: Vec<(String, String, String)>,
        /// All are on the target, but for those of hosts that an operator left out.
        ok: bool,
    },
    /// An aborted rollout holds nothing any more.
    FinishAbort {
        /// The rollout.
        rollout: RolloutId,
    },
}

/// A rollout to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Unique per wish.
    pub request_id: String,
    /// The id of the new rollout.
    pub rollout: RolloutId,
    /// The plan; its hash was computed by the proposer.
    pub plan: Plan,
    /// What the gates said.
    pub findings: Vec<Finding>,
    /// Who.
    pub by: String,
}

/// What an operator may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Action {
    /// Grant nothing new.
    Pause,
    /// Go on.
    Resume,
    /// End it; the held host is brought up.
    Abort,
    /// Try again what failed.
    Retry,
    /// Leave a host out that was not disturbed; the one that is held or failed if none is named.
    Skip {
        /// Which.
        host: Option<HostId>,
    },
    /// Undo what was done on the held host (S12 allowing).
    RollbackHost,
    /// Break the hold; fails if the token has changed.
    BreakHold {
        /// The token that the operator saw.
        token: Token,
    },
    /// The host is powered off for good (S2): by name and reason, never by guess.
    AttestPoweredOff {
        /// Which.
        host: HostId,
        /// The token that the operator saw (`hold show`).
        token: Token,
    },
    /// The host's state is proven: its agent goes on, with this ledger (S8).
    Readmit {
        /// Which.
        host: HostId,
        /// The ledger that its agent has.
        ledger: LedgerId,
        /// Tokens up to this one are to be refused there.
        floor: Token,
        /// The hold that is open there.
        closes: Option<Token>,
    },
}

impl Action {
    /// Returns the word for the event log.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
            Self::Retry => "retry",
            Self::Skip { .. } => "skip",
            Self::RollbackHost => "rollback-host",
            Self::BreakHold { .. } => "break",
            Self::AttestPoweredOff { .. } => "attest-powered-off",
            Self::Readmit { .. } => "readmit",
        }
    }
}

/// An operator's act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// Unique per wish.
    pub request_id: String,
    /// The rollout.
    pub rollout: RolloutId,
    /// What.
    pub action: Action,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
}

/// An operator's wish about the group of coordinators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorsWish {
    /// Unique per wish.
    pub request_id: String,
    /// What.
    pub what: GroupAct,
    /// Which coordinator; the one that led when the lead is transferred.
    pub id: u64,
    /// Where it listens; empty unless it is added.
    pub address: String,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
}

/// A decision about a go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoDecided {
    /// The rollout.
    pub rollout: RolloutId,
    /// Who asked.
    pub host: HostId,
    /// The token.
    pub token: Token,
    /// The request's number.
    pub request: u64,
    /// For what, in words: `data nodes node43`, `controller HActl43`.
    pub action: String,
    /// Whether.
    pub allowed: bool,
    /// Why not.
    pub reasons: Vec<Reason>,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "response")]
pub enum Response {
    /// It is done.
    Done,
    /// It no longer fits; nothing was changed.
    Ignored {
        /// Why.
        why: String,
    },
    /// Refused for a reason that the asker can act on.
    Refused {
        /// The code.
        code: Code,
        /// In a person's words.
        why: String,
    },
    /// The host agent is enrolled.
    Enrolled {
        /// Why it may only look, if so (S8).
        amnesic: Option<String>,
        /// Reports up to here are committed.
        committed_position: u64,
        /// An operator readmitted it: to be taken in, and then to say hello again.
        #[serde(default)]
        readmit: Option<Readmit>,
    },
    /// The rollout is started (or was, by the same request).
    Started {
        /// Its id.
        rollout: RolloutId,
    },
    /// A token was allotted.
    Allotted {
        /// The token.
        token: Token,
    },
    /// Reports up to this position are committed.
    Committed {
        /// The position.
        position: u64,
    },
    /// The answer to a request for a go, as it now stands.
    Go {
        /// Whether.
        allowed: bool,
        /// Why not.
        reasons: Vec<Reason>,
    },
}

impl Response {
    /// Makes a refusal.
    pub(crate) fn refused(code: Code, why: impl Into<String>) -> Self {
        Self::Refused { code, why: why.into() }
    }

    /// Makes an "it no longer fits".
    pub(crate) fn ignored(why: impl Into<String>) -> Self {
        Self::Ignored { why: why.into() }
    }
}
