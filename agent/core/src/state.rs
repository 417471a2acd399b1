//! What the ledger amounts to.

use std::{collections::BTreeMap, sync::Arc};

use grayfin_types::{
    ClusterId, Code, HostId, Incarnation, LedgerId, NodeAlias, OrderNumber, RolloutId, Token,
    plan::{CanaryOrder, Plan},
    step::{SequenceState, Step},
};
use serde_json::Value;

use crate::{
    entry::{Answer, Authority, Order, Task},
    mutation,
};

/// Everything that a host agent knows durably.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Number of entries folded; the last entry's position.
    pub position: u64,
    /// The ledger's id; none before the first entry.
    pub ledger: Option<LedgerId>,
    /// Whose ledger it is.
    pub host: Option<HostId>,
    /// The highest authority ever seen.
    pub authority: Option<Authority>,
    /// The newest membership of its group within that incarnation. A coordinator that knows an older
    /// one was removed, or is a copy from before the group grew.
    pub membership: u64,
    /// Tokens up to this one are refused. One floor for the machine: tokens are unique in a group,
    /// and a machine that serves two clusters has one hold over both (S1).
    pub floor: Token,
    /// The hold that is open here.
    pub hold: Option<Hold>,
    /// The last readmission (S8).
    pub readmitted: Option<String>,
    /// The largest token that this ledger accounts for: opened or closed here, or below the floor of a
    /// readmission. A host that was held under a larger one has lost its ledger (S8).
    pub own: Token,
    /// The largest token promised away for each host that was to be held under it. Coordinators whose
    /// state was put back learn from it which host may be disturbed (S2, S8).
    pub promised_for: BTreeMap<HostId, Token>,
    /// Per cluster.
    pub clusters: BTreeMap<ClusterId, Cluster>,
}

/// What is known of one cluster's installation besides the hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cluster {
    /// The last order and its answer.
    pub last_order: Option<LastOrder>,
    /// The newest staging.
    pub staging: Option<Staging>,
    /// The canary's writer that should run here, with its order's number.
    pub canary: Option<(OrderNumber, CanaryOrder)>,
    /// Canary orders whose report is still owed.
    pub canary_owed: BTreeMap<OrderNumber, CanaryTask>,
}

/// The last order of a cluster, as far as a repeat must be told from another order with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastOrder {
    /// Its number.
    pub number: OrderNumber,
    /// What it was; none where only its number is known.
    pub taken: Option<Taken>,
    /// What was answered.
    pub answer: Answer,
}

/// What an order was. The term is left out: it may have grown when the order comes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The incarnation of the coordinators that sent it.
    pub incarnation: Incarnation,
    /// The hold's token.
    pub token: Token,
    /// The rollout.
    pub rollout: RolloutId,
    /// What to do.
    pub task: Arc<Task>,
}

impl LastOrder {
    /// Tells whether an order is this one, come again. Whoever calls has judged its authority.
    pub fn is(&self, order: &Order) -> bool {
        self.number == order.number
            && self.taken.as_ref().is_some_and(|taken| {
                taken.incarnation == order.authority.incarnation
                    && taken.token == order.token
                    && taken.rollout == order.rollout
                    && taken.task.asks_the_same(&order.task)
            })
    }
}

/// A canary order that is answered with a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CanaryTask {
    /// The writer was stopped.
    Stop(CanaryOrder),
    /// Rows are to be read back.
    Check(CanaryOrder),
}

/// A preparation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staging {
    /// The order.
    pub number: OrderNumber,
    /// The rollout.
    pub rollout: RolloutId,
    /// The plan.
    pub plan: Arc<Plan>,
    /// Where it stands.
    pub stage: StagingState,
}

/// Where a preparation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StagingState {
    /// To be done; so many attempts were begun.
    Pending(u32),
    /// Done.
    Done,
    /// Failed.
    Failed,
}

/// An open hold: the right, and the duty, to bring this host through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The cluster.
    pub cluster: ClusterId,
    /// The token.
    pub token: Token,
    /// The rollout.
    pub rollout: RolloutId,
    /// The plan.
    pub plan: Arc<Plan>,
    /// The boot id that the sequence last knew.
    pub boot_id: String,
    /// The machine was restarted at a point that is not gone on from.
    pub restarted: bool,
    /// Every step that was begun since the last retry.
    pub steps: BTreeMap<Step, Progress>,
    /// Where the sequence goes.
    pub phase: Phase,
    /// What made the sequence turn round or stop.
    pub failure: Option<Failure>,
    /// What an operator asked for while it ran.
    pub wanted: Wanted,
    /// The first-start intent is recorded.
    pub first_start: bool,
    /// Failures of start and join since the first start or the last order.
    pub start_failures: u32,
    /// Nodes for which a down action was begun; not empty means disturbed.
    pub down: Vec<NodeAlias>,
    /// Captured values.
    pub captured: BTreeMap<String, Value>,
    /// Journals of the steps.
    pub journal: Vec<(Step, String, Value)>,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Begun, so many times.
    Begun(u32),
    /// Done and verified.
    Done,
    /// Refused or failed, perhaps half-way.
    Failed,
    /// Its undoing was begun, so many times.
    UndoBegun(u32),
    /// Its undoing failed.
    UndoFailed,
    /// Undone.
    Undone,
}

/// Where a sequence goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Forward.
    Forward,
    /// Back: the steps are undone, the last one first.
    Undoing,
    /// Nowhere: it is about to be recorded as failed.
    Stuck,
    /// It has ended, until an order comes.
    Ended(SequenceState),
}

/// What an operator asked for while the sequence ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// Nothing.
    Nothing,
    /// Abort: back before the upgrade, else forward.
    Abort,
    /// Undo: back before the first start.
    Undo,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In which step.
    pub step: Step,
    /// Why.
    pub code: Code,
    /// In words.
    pub message: String,
}

impl State {
    /// Returns what is known of a cluster.
    pub fn cluster(&self, cluster: &ClusterId) -> Option<&Cluster> {
        self.clusters.get(cluster)
    }

    /// Returns the number of the last order of a cluster, 0 for none.
    pub fn last_order(&self, cluster: &ClusterId) -> OrderNumber {
        let last = self.cluster(cluster).and_then(|c| c.last_order.as_ref());
        last.map_or(OrderNumber(0), |last| last.number)
    }

    /// Returns the token of the open hold.
    pub fn open_hold(&self) -> Option<Token> {
        self.hold.as_ref().map(|hold| hold.token)
    }
}

impl Hold {
    /// Tells whether a down action was begun under this hold.
    pub fn disturbed(&self) -> bool {
        !self.down.is_empty()
    }

    /// Tells whether the step was begun and not undone since.
    pub fn begun(&self, step: Step) -> bool {
        self.steps.get(&step).is_some_and(|progress| *progress != Progress::Undone)
    }

    /// Tells whether the step is done.
    pub fn done(&self, step: Step) -> bool {
        self.steps.get(&step) == Some(&Progress::Done)
    }

    /// Returns the first step, in order, that is not done.
    pub fn current(&self) -> Option<Step> {
        let left_out = |step: Step| step == Step::Backup && mutation::is("s6-swap-without-backup");
        Step::ALL.into_iter().find(|step| !self.done(*step) && !left_out(*step))
    }

    /// Tells whether an operator's wish makes the sequence turn round now (Commitment).
    pub fn must_turn_round(&self) -> bool {
        self.phase == Phase::Forward
            && match self.wanted {
                Wanted::Nothing => false,
                Wanted::Abort if mutation::is("commitment-abort-goes-on") => false,
                Wanted::Abort if mutation::is("commitment-abort-turns-late") => true,
                Wanted::Abort => !self.first_start && !self.begun(Step::Upgrade),
                Wanted::Undo => !self.first_start,
            }
    }

    /// Returns the state as the coordinator is told.
    pub fn state(&self) -> SequenceState {
        match &self.phase {
            Phase::Ended(state) => state.clone(),
            Phase::Forward => SequenceState::Running { step: self.current().unwrap_or(Step::Join) },
            Phase::Undoing | Phase::Stuck => {
                let failed = self.failure.as_ref().map(|failure| failure.step);
                SequenceState::Running { step: failed.unwrap_or(Step::Guard) }
            }
        }
    }

    /// Reads a captured value.
    pub fn captured(&self, key: &str) -> Option<&Value> {
        self.captured.get(key)
    }

    /// Reads a step's journal lines of one kind.
    pub fn journal(&self, step: Step, key: &str) -> impl Iterator<Item = &Value> {
        let wanted = key.to_owned();
        self.journal
            .iter()
            .filter(move |(s, k, _)| *s == step && *k == wanted)
            .map(|(_, _, value)| value)
    }
}
