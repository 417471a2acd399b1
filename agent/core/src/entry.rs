//! What the ledger consists of.
//!
//! Stored as JSON behind a version byte ([`VERSION`]). A field is never given another meaning; new
//! fields have defaults, new variants raise the version.

use grayfin_types::{
    ClusterId, Code, HostId, Incarnation, LedgerId, NodeAlias, OrderNumber, RolloutId, Term, Token,
    ledger::Readmit,
    plan::{CanaryOrder, DebtOrder, Plan},
    step::{SequenceState, Step},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The newest form of entries that this build knows; it reads this one and older ones. Each entry is
/// written in the oldest form that has it ([`Body::version`]).
pub const VERSION: u8 = 2;

/// One entry. Its position in the ledger is its number, from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The wall clock, milliseconds since 1970; for display only.
    pub at_ms: u64,
    /// What is recorded.
    pub body: Body,
}

/// What is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Body {
    /// The ledger was made; always the first entry and only that.
    Made {
        /// Its random id (S8).
        ledger: LedgerId,
        /// Whose it is.
        host: HostId,
    },
    /// A higher authority than before was seen (S2).
    Raised {
        /// It.
        authority: Authority,
    },
    /// A coordinator that leads presented itself with a newer authority or membership.
    Welcomed {
        /// Its authority; a higher incarnation came with an operator's signed act.
        authority: Authority,
        /// Place in the log of the group's membership.
        membership: u64,
    },
    /// A token was promised: it and all lower ones are refused from here on (S2).
    Promised {
        /// For which cluster it was asked.
        cluster: ClusterId,
        /// The token.
        token: Token,
        /// Who asked.
        authority: Authority,
        /// The host that is to be held under it; none from a coordinator that does not say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        held: Option<HostId>,
    },
    /// An operator readmitted the host, its state proven (S8): the open hold is closed, the floor
    /// taken.
    Readmitted {
        /// What.
        readmit: Readmit,
        /// Who says so.
        authority: Authority,
    },
    /// An order was taken up or refused; its number is used up.
    Ordered {
        /// The order.
        order: Box<Order>,
        /// What was answered, and is answered again to repeats.
        answer: Answer,
        /// The kernel's boot id at this time.
        boot_id: String,
    },
    /// The preparation of a rollout went on.
    Staging {
        /// For which cluster.
        cluster: ClusterId,
        /// For which order.
        number: OrderNumber,
        /// What happened.
        event: StagingEvent,
    },
    /// A canary order was carried out and its report was handed over.
    CanaryAnswered {
        /// The cluster.
        cluster: ClusterId,
        /// The order.
        number: OrderNumber,
    },
    /// The sequence of the open hold went on.
    Sequence {
        /// The hold.
        token: Token,
        /// What happened.
        event: Event,
    },
}

impl Body {
    /// Returns the oldest form that has it.
    pub const fn version(&self) -> u8 {
        match self {
            Self::Readmitted { .. } => 2,
            Self::Made { .. }
            | Self::Raised { .. }
            | Self::Welcomed { .. }
            | Self::Promised { .. }
            | Self::Ordered { .. }
            | Self::Staging { .. }
            | Self::CanaryAnswered { .. }
            | Self::Sequence { .. } => 1,
        }
    }
}

/// Who commands: terms compare only within one incarnation, incarnations only within one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// Random id of the coordinator group.
    pub group: String,
    /// Raised by an operator's act.
    pub incarnation: Incarnation,
    /// Raft term.
    pub term: Term,
}

/// An order of a coordinator, with its document read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Who sent it.
    pub authority: Authority,
    /// For which installation.
    pub cluster: ClusterId,
    /// Its number for this cluster and host.
    pub number: OrderNumber,
    /// The hold's token; 0 where none is needed.
    pub token: Token,
    /// The rollout.
    pub rollout: RolloutId,
    /// What to do.
    pub task: Task,
}

/// What an order asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "task")]
pub enum Task {
    /// Check, fetch and unpack the package.
    Stage {
        /// The plan.
        plan: Box<Plan>,
    },
    /// Run the host sequence under the token.
    Run {
        /// The plan.
        plan: Box<Plan>,
    },
    /// Go on after a failure.
    Retry,
    /// Take back what was done, as S12 allows.
    Undo,
    /// Undo before the upgrade, else go forward to up.
    Abort,
    /// Close the token (S3).
    Close,
    /// Write the canary here.
    CanaryStart {
        /// What to write.
        canary: CanaryOrder,
    },
    /// Stop writing.
    CanaryStop {
        /// Which writer.
        canary: CanaryOrder,
    },
    /// Read acknowledged rows back.
    CanaryCheck {
        /// Of which rollout.
        canary: CanaryOrder,
    },
    /// A cluster-wide effect was brought about or undone (S10). It is done before it is recorded, for
    /// it can be done again; only its outcome is durable.
    Debt {
        /// Which.
        debt: DebtOrder,
        /// Why it was not done.
        failed: Option<String>,
    },
}

impl Task {
    /// Tells whether another task asks for the same. What came of a debt's order does not count.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Debt { debt, .. }, Self::Debt { debt: of_other, .. }) => debt == of_other,
            (one, other) => one == other,
        }
    }

    /// Tells whether it belongs to a hold, so that its token counts.
    pub const fn needs_token(&self) -> bool {
        match self {
            Self::Run { .. } | Self::Retry | Self::Undo | Self::Abort | Self::Close => true,
            Self::Stage { .. }
            | Self::CanaryStart { .. }
            | Self::CanaryStop { .. }
            | Self::CanaryCheck { .. }
            | Self::Debt { .. } => false,
        }
    }
}

/// What an order was answered with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// It was taken up.
    pub accepted: bool,
    /// Why not.
    pub code: Option<Code>,
    /// Why not, in words.
    pub why: String,
    /// The sequence's state after it, for orders with a token.
    pub state: Option<SequenceState>,
}

impl Answer {
    /// Says yes.
    pub const fn yes(state: Option<SequenceState>) -> Self {
        Self { accepted: true, code: None, why: String::new(), state }
    }

    /// Says no.
    pub fn no(code: Code, why: impl Into<String>) -> Self {
        Self { accepted: false, code: Some(code), why: why.into(), state: None }
    }
}

/// What happened while staging.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum StagingEvent {
    /// It is about to begin.
    Started {
        /// Which attempt, from 1; a crash makes another one.
        attempt: u32,
    },
    /// The package is here, verified and unpacked.
    Finished {
        /// What was seen.
        seen: String,
        /// How long it took.
        took_ms: u64,
    },
    /// It failed; nothing was disturbed.
    Failed {
        /// Why.
        code: Code,
        /// In words.
        message: String,
    },
}

/// What happened in a sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// Intent: the step is about to be done.
    Started {
        /// The step.
        step: Step,
        /// Which attempt, from 1; a crash makes another one.
        attempt: u32,
    },
    /// Intent: processes of the new version may run from here on (S12).
    FirstStart,
    /// The step is done and verified.
    Finished {
        /// The step.
        step: Step,
        /// What was seen.
        seen: String,
        /// How long it took.
        took_ms: u64,
    },
    /// The step refused or failed.
    Failed {
        /// The step.
        step: Step,
        /// Why.
        code: Code,
        /// In words.
        message: String,
    },
    /// Intent: the step is about to be undone.
    UndoStarted {
        /// The step.
        step: Step,
        /// Which attempt, from 1.
        attempt: u32,
    },
    /// The step is undone; its journal is empty again.
    Undone {
        /// The step.
        step: Step,
        /// What was seen.
        seen: String,
        /// How long it took.
        took_ms: u64,
    },
    /// The step could not be undone.
    UndoFailed {
        /// The step.
        step: Step,
        /// Why.
        code: Code,
        /// In words.
        message: String,
    },
    /// An original value, captured once for the whole hold (S10).
    Captured {
        /// Its name.
        key: String,
        /// The value.
        value: Value,
    },
    /// A line of a step's journal.
    Journal {
        /// The step.
        step: Step,
        /// What kind of line.
        key: String,
        /// The value.
        value: Value,
    },
    /// Intent: these nodes go down now, with a fresh go. The host is disturbed from here on.
    GoingDown {
        /// Which.
        nodes: Vec<NodeAlias>,
    },
    /// The machine was restarted since the last entry that knew the boot id.
    HostRestarted {
        /// The new boot id.
        boot_id: String,
    },
    /// The sequence came to an end that only an order, or a restart of the machine, leaves.
    Ended {
        /// Which: up, refused, undone or failed.
        state: SequenceState,
    },
}
