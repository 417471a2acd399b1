//! The steps of a host's sequence: what the runner asks of a step, and what it gives to it.
//!
//! The runner (`crate::runner`) decides nothing itself: the pure core (`grayfin_agent_core`) says
//! which step comes next, the runner writes the intent to the ledger and calls an [`Executor`].
//! The real executor is `steps::host::HostSteps`; each step has a module of its own here. The
//! runner's tests use scripted executors.
//!
//! # How one step is run
//! ```text
//! settle ─ precheck ─┬─ Refused ───────────────────────────► failed (undo, as S12 allows)
//!                    ├─ AlreadyDone ─────────────► verify ─┬► finished
//!                    └─ Ready ─ [intent] ─ execute ─ verify ┘
//! failed ─ for each begun step, last one first: [intent] ─ undo ─ [undone]
//! ```
//! `[…]` is a durable write. `Stage` and `Guard` change nothing that must be undone: their `undo` is
//! never called.
//!
//! # Rules for whoever implements a step
//! 1. **Any call may be the first of a new process.** After a crash the runner calls `settle`, then
//!    `precheck` of the step that was running. Find out what is true; never trust memory. A step
//!    that is partly done is `Ready` and completes what is missing.
//! 2. **Write ahead.** What cannot be found out again later is recorded *before* it is changed:
//!    [`Context::capture`] for original values (once per hold, inherited by retries, S10),
//!    [`Context::journal`] for the course of one step (each rename, each process to stop). A
//!    step's journal is empty again after its undo has finished; captured values stay.
//! 3. **Down actions** (data nodes as one, each DolphinDB controller): `let go =
//!    ctx.ask_go(&nodes).await?`, then S4 by direct probes, then `ctx.going_down(go)?` (durable: from
//!    here on the host counts as disturbed), then act at once.
//! 4. **Stop when told.** Call [`Context::check`] between any two effects and wait with
//!    [`Context::until`]; both end with an error when the deadline has passed or an operator aborted.
//!    Work that blocks a thread goes through [`Context::blocking`], which the runner waits for before
//!    it judges anything. Never detach work in another way.
//! 5. **`verify` believes nothing that `execute` returned**; it looks again.
//! 6. **`undo` is called for a step that began**, also if it did nothing yet, also twice. It ends with
//!    proof that the step's effects are gone. `undo` of `Stop` starts what `Stop` and `Quiesce`
//!    stopped apart from data and compute nodes; `undo` of `Quiesce` starts those and releases what
//!    was kept from restarting; it is done when every node of the host answers with the old version.
//! 7. `Start` is called after the first-start intent is durable. From there on nothing is undone;
//!    `Start` and `Join` are repeated, at most `start_attempts` times (S12).

mod backup;
mod context;
mod down;
mod ending;
mod guard;
pub mod host;
mod interlock;
mod join;
mod late;
pub mod nodes;
mod quiesce;
mod reach;
mod stage;
mod start;
mod stop;
pub mod testing;
mod upgrade;
mod waiting;

pub use context::{
    Boxed, Context, Coordination, Denied, GO_FRESH_MAX, Go, Record, Records, Reporting, Work,
};
pub use stop::{Stop, Why};

use grayfin_types::{Code, step::Step};

use crate::config::{Installation, Settings};

/// What was seen, in words for people: `4 of 4 processes gone after 1.2 s`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen(pub String);

impl<T: Into<String>> From<T> for Seen {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

/// Why a step refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct StepError {
    /// The code with a page of its own.
    pub code: Code,
    /// In a person's words: what, on which node, file or host, and what to do. No secrets.
    pub message: String,
}

impl StepError {
    /// Makes one.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// What a look before a step found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precheck {
    /// The step's whole effect is there already and proven.
    AlreadyDone(Seen),
    /// It can begin, or go on where it stopped.
    Ready,
    /// It must not begin. Also when the look itself failed: unknown blocks (S9).
    Refused(StepError),
}

impl From<StepError> for Precheck {
    fn from(error: StepError) -> Self {
        Self::Refused(error)
    }
}

/// Carries out steps. See the module's rules.
pub trait Executor: Send + Sync + 'static {
    /// Ends what helpers (scripts, copies) of an earlier life of this host agent may still be
    /// doing for this installation, and makes journalled multi-part changes whole enough to be
    /// judged. DolphinDB's own processes are never touched. Called once after each start of the
    /// process and after each failed step, before anything is judged (S8).
    fn settle(&self, ctx: &Context) -> impl Future<Output = Result<(), StepError>> + Send;

    /// The same where no hold is worked on: before an operator's readmission is taken in (S8).
    fn clear(
        &self,
        _settings: &Settings,
        _installation: &Installation,
    ) -> impl Future<Output = Result<(), StepError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Looks whether `step` is done, can be done, or must not be done. Changes nothing.
    fn precheck(&self, step: Step, ctx: &Context) -> impl Future<Output = Precheck> + Send;

    /// Does `step`, or completes it.
    fn execute(
        &self,
        step: Step,
        ctx: &Context,
    ) -> impl Future<Output = Result<Seen, StepError>> + Send;

    /// Proves that `step` is done, from what is true on the host.
    fn verify(
        &self,
        step: Step,
        ctx: &Context,
    ) -> impl Future<Output = Result<Seen, StepError>> + Send;

    /// Takes back what `step` did. Called for `Upgrade`, `Backup`, `Stop` and `Quiesce`, in this
    /// order, only before the first-start intent.
    fn undo(
        &self,
        step: Step,
        ctx: &Context,
    ) -> impl Future<Output = Result<Seen, StepError>> + Send;

    /// Cleans up after the hold was closed, or after a rollout's staging is not needed any more:
    /// retention of backups, unpacked packages. Failures are logged and change nothing.
    fn tidy(&self, ctx: &Context) -> impl Future<Output = Result<(), StepError>> + Send;
}
