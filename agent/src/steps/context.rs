//! What a step is given: its work, its durable memory, its links to the outside, its limits.

use std::{
    fmt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use grayfin_types::{
    Code, HostId, NodeAlias, RolloutId, Token,
    gate::Reason,
    plan::{HostPlan, Package, Plan},
    step::{Happened, Step},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{sync::watch, time::Instant};

use super::{Seen, StepError, Stop, Why};
use crate::config::Installation;

/// A go older than this is not used: the cluster may have changed. The S4 probes between the
/// answer and the act take well under a second on a healthy cluster, and up to the probes' own
/// limit on an ailing one, where the guard refuses anyway.
pub const GO_FRESH_MAX: Duration = Duration::from_secs(5);

/// A future behind a pointer, for ports that are used as trait objects.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is to be done: the same for all steps of one sequence.
#[derive(Debug)]
pub struct Work {
    /// This host.
    pub host: HostId,
    /// The installation that is worked on.
    pub installation: Arc<Installation>,
    /// The rollout.
    pub rollout: RolloutId,
    /// The hold's token; 0 while staging.
    pub token: Token,
    /// The plan; `host_plan` is this host's part of it.
    pub plan: Arc<Plan>,
    /// This host's part of the plan.
    pub host_plan: HostPlan,
    /// The host agent's own folder.
    pub state_dir: PathBuf,
    /// A folder of this sequence alone, made by the runner and removed after the close: below
    /// `state_dir`, on the same file system as the ledger, so for small files only.
    pub work_dir: PathBuf,
}

/// Something a step makes durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An original value, kept until the hold is closed; the first one stays (S10).
    Captured {
        /// Its name, unique in the hold.
        key: String,
        /// The value.
        value: Value,
    },
    /// One line of a step's journal, emptied by the step's undo.
    Journal {
        /// The step.
        step: Step,
        /// What kind of line.
        key: String,
        /// The value.
        value: Value,
    },
    /// These nodes are about to go down: the host is disturbed from here on.
    GoingDown {
        /// Which.
        nodes: Vec<NodeAlias>,
    },
}

/// The ledger, as far as a step needs it.
pub trait Records: Send + Sync {
    /// Writes durably; after `Ok` it survives a power loss. Blocks for the time of an fsync.
    fn append(&self, record: Record) -> Result<(), StepError>;
    /// Reads a captured value.
    fn captured(&self, key: &str) -> Option<Value>;
    /// Reads the lines of a step's journal of one kind, in order.
    fn journal(&self, step: Step, key: &str) -> Vec<Value>;
    /// Tells whether the first-start intent is durable.
    fn first_start(&self) -> bool;
}

/// Why there was no go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// What the coordinator's gates said; empty when nobody answered.
    pub reasons: Vec<Reason>,
    /// In a person's words.
    pub why: String,
}

impl From<Denied> for StepError {
    fn from(denied: Denied) -> Self {
        let mut message = denied.why;
        for reason in &denied.reasons {
            message.push_str(&format!(
                "; {} {}: {} ({})",
                reason.code, reason.subject, reason.evidence, reason.remedy
            ));
        }
        Self { code: Code::NoGo, message }
    }
}

/// The coordinators, as far as a step needs them.
pub trait Coordination: Send + Sync {
    /// Asks for a fresh go until it is given, denied, or `limit` has passed.
    fn ask_go<'a>(
        &'a self,
        work: &'a Work,
        nodes: &'a [NodeAlias],
        limit: Duration,
    ) -> Boxed<'a, Result<(), Denied>>;

    /// Fetches the package into `target`, which is written, synced and of the right length and
    /// SHA-256 after `Ok`. Fails if no coordinator has it.
    fn fetch_package<'a>(
        &'a self,
        work: &'a Work,
        package: &'a Package,
        target: &'a Path,
    ) -> Boxed<'a, Result<(), StepError>>;
}

/// Takes passing reports (progress, nodes); they may be lost.
pub trait Reporting: Send + Sync {
    /// Hands one on. Never blocks.
    fn passing(&self, step: Step, undo: bool, happened: Happened);
}

/// A fresh permission to take nodes down; used up by [`Context::going_down`].
#[derive(Debug)]
pub struct Go {
    nodes: Vec<NodeAlias>,
    asked_at: Instant,
}

/// What one call of a step is given. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Context {
    work: Arc<Work>,
    step: Step,
    undo: bool,
    deadline: Instant,
    stop: Stop,
    records: Arc<dyn Records>,
    coordination: Arc<dyn Coordination>,
    reporting: Arc<dyn Reporting>,
    busy: Arc<watch::Sender<usize>>,
    attempt: u32,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("host", &self.work.host)
            .field("token", &self.work.token)
            .field("step", &self.step)
            .field("undo", &self.undo)
            .finish_non_exhaustive()
    }
}

/// How long a go is waited for. A coordinators' failover takes about 5 s (3 s until the dead link is
/// noticed, 1 to 2 s for the election); three of those, and their facts must be fresh again (15 s).
const GO_LIMIT: Duration = Duration::from_secs(30);

impl Context {
    /// Makes the context of one sequence; the runner derives one per call with [`Self::for_step`].
    pub fn new(
        work: Arc<Work>,
        records: Arc<dyn Records>,
        coordination: Arc<dyn Coordination>,
        reporting: Arc<dyn Reporting>,
    ) -> Self {
        Self {
            work,
            step: Step::Stage,
            undo: false,
            deadline: Instant::now(),
            stop: Stop::default(),
            records,
            coordination,
            reporting,
            busy: Arc::new(watch::Sender::new(0)),
            attempt: 1,
        }
    }

    /// Derives the context for one call about `step`, with its limit and stop.
    #[must_use]
    pub fn for_step(&self, step: Step, undo: bool, limit: Duration, stop: Stop) -> Self {
        Self { step, undo, stop, deadline: Instant::now() + limit, ..self.clone() }
    }

    /// Says which attempt at the step it is. For the runner.
    #[must_use]
    pub fn with_attempt(self, attempt: u32) -> Self {
        Self { attempt, ..self }
    }

    /// Returns what is to be done.
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// Returns the installation.
    pub fn installation(&self) -> &Arc<Installation> {
        &self.work.installation
    }

    /// Returns the plan.
    pub fn plan(&self) -> &Plan {
        &self.work.plan
    }

    /// Returns this host's part of the plan.
    pub fn host_plan(&self) -> &HostPlan {
        &self.work.host_plan
    }

    /// Returns the hold's token; 0 while staging.
    pub fn token(&self) -> Token {
        self.work.token
    }

    /// Returns the folder of this sequence alone. See [`Work::work_dir`].
    pub fn work_dir(&self) -> &Path {
        &self.work.work_dir
    }

    /// Returns the step that this context was made for.
    pub fn step(&self) -> Step {
        self.step
    }

    /// Tells whether the step is being undone.
    pub fn undoes(&self) -> bool {
        self.undo
    }

    /// Returns when this call's limit passes.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Returns the time until the limit passes, zero afterwards.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Returns the monotonic clock's time; tests can stop it.
    pub fn now(&self) -> Instant {
        Instant::now()
    }

    /// Returns the wall clock in milliseconds since 1970, for display and names only.
    pub fn wall_ms(&self) -> u64 {
        grayfin_proto::clock::wall_ms()
    }

    /// Tells whether the first-start intent is durable: from then on nothing is undone.
    pub fn first_start(&self) -> bool {
        self.records.first_start()
    }

    /// Fails when the step has to stop: aborted, or its limit has passed.
    pub fn check(&self) -> Result<(), StepError> {
        match self.stop.asked() {
            Some(why) => Err(self.stopped(why)),
            None if self.remaining().is_zero() => Err(self.stopped(Why::Deadline)),
            None => Ok(()),
        }
    }

    /// Waits for `future`, but no longer than the step's limit or an abort.
    pub async fn until<T>(&self, future: impl Future<Output = T>) -> Result<T, StepError> {
        tokio::select! {
            biased;
            why = self.stop.wait() => Err(self.stopped(why)),
            () = tokio::time::sleep_until(self.deadline) => Err(self.stopped(Why::Deadline)),
            done = future => Ok(done),
        }
    }

    /// Runs work that blocks a thread (copying, hashing, unzipping). The work must call
    /// [`Self::check`] often (at least every 100 ms or 4 MiB). It is never abandoned: even if the
    /// returned future is dropped, the runner waits for the work's end before it judges anything.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StepError> + Send + 'static,
    ) -> Result<T, StepError> {
        let ctx = self.clone();
        let busy = Busy::new(&self.busy);
        let joined = tokio::task::spawn_blocking(move || {
            let _busy = busy;
            work(&ctx)
        });
        joined.await.unwrap_or_else(|e| {
            Err(StepError::new(Code::Internal, format!("step `{}` broke off: {e}", self.step)))
        })
    }

    /// Counts as blocking work until it is dropped. For tests.
    #[cfg(test)]
    pub(crate) fn keep_busy(&self) -> impl Drop + use<> {
        Busy::new(&self.busy)
    }

    /// Waits until no work of [`Self::blocking`] runs any more. For the runner.
    pub async fn quiet(&self) {
        let mut busy = self.busy.subscribe();
        // An error is impossible while `self` keeps the sender.
        drop(busy.wait_for(|count| *count == 0).await);
    }

    /// Asks the coordinator for a fresh go to take `nodes` down. Waits while no leading
    /// coordinator is reached, at most 30 s and at most to the step's limit.
    pub async fn ask_go(&self, nodes: &[NodeAlias]) -> Result<Go, StepError> {
        self.check()?;
        let limit = GO_LIMIT.min(self.remaining());
        let asking = self.coordination.ask_go(&self.work, nodes, limit);
        self.until(asking).await??;
        Ok(Go { nodes: nodes.to_vec(), asked_at: Instant::now() })
    }

    /// Makes durable that the nodes of `go` go down now. Act at once after `Ok`.
    pub fn going_down(&self, go: Go) -> Result<(), StepError> {
        self.check()?;
        if go.asked_at.elapsed() > GO_FRESH_MAX {
            let message = format!(
                "the go is {} ms old, more than {} ms: looking at the cluster took too long",
                go.asked_at.elapsed().as_millis(),
                GO_FRESH_MAX.as_millis()
            );
            return Err(StepError::new(Code::NoGo, message));
        }
        self.records.append(Record::GoingDown { nodes: go.nodes })
    }

    /// Records an original value unless one is recorded under `key`; returns the one that counts.
    pub fn capture<T: Serialize + DeserializeOwned>(
        &self,
        key: &str,
        value: &T,
    ) -> Result<T, StepError> {
        if self.records.captured(key).is_none() {
            let value = json(key, value)?;
            self.records.append(Record::Captured { key: key.to_owned(), value })?;
        }
        self.captured(key)?
            .ok_or_else(|| StepError::new(Code::Internal, format!("`{key}` was not recorded")))
    }

    /// Reads what was captured under `key` in this hold.
    pub fn captured<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StepError> {
        self.records.captured(key).map(|value| from_json(key, value)).transpose()
    }

    /// Appends a line to this step's journal. Blocks for the time of an fsync.
    pub fn journal<T: Serialize>(&self, key: &str, value: &T) -> Result<(), StepError> {
        let value = json(key, value)?;
        self.records.append(Record::Journal { step: self.step, key: key.to_owned(), value })
    }

    /// Reads a step's journal lines of one kind, in order.
    pub fn journalled<T: DeserializeOwned>(
        &self,
        step: Step,
        key: &str,
    ) -> Result<Vec<T>, StepError> {
        self.records.journal(step, key).into_iter().map(|value| from_json(key, value)).collect()
    }

    /// Fetches the plan's package from the coordinator. See [`Coordination::fetch_package`].
    pub async fn fetch_package(&self, target: &Path) -> Result<(), StepError> {
        self.until(self.coordination.fetch_package(&self.work, &self.work.plan.package, target))
            .await?
    }

    /// Tells how far the step is. May be called often; the runner thins it out.
    pub fn progress(&self, done: u64, total: u64, unit: &str) {
        let happened = Happened::Progress { done, total, unit: unit.to_owned() };
        self.reporting.passing(self.step, self.undo, happened);
    }

    /// Tells what became of a node: `stopping`, `stopped`, `starting`, `started`, `ready`.
    pub fn node(&self, alias: &NodeAlias, state: &str) {
        let happened = Happened::Node { alias: alias.clone(), state: state.to_owned() };
        self.reporting.passing(self.step, self.undo, happened);
    }

    /// Returns which attempt at this step it is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    fn stopped(&self, why: Why) -> StepError {
        let undo = if self.undo { "undoing " } else { "" };
        match why {
            Why::Aborted => StepError::new(
                Code::Aborted,
                format!("{undo}step `{}` was aborted by an operator", self.step),
            ),
            Why::Deadline => StepError::new(
                Code::StepTimeout,
                format!("{undo}step `{}` took longer than its limit", self.step),
            ),
        }
    }
}

/// Counts running blocking work.
struct Busy(Arc<watch::Sender<usize>>);

impl Busy {
    fn new(count: &Arc<watch::Sender<usize>>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(Arc::clone(count))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

fn json<T: Serialize>(key: &str, value: &T) -> Result<Value, StepError> {
    serde_json::to_value(value)
        .map_err(|e| StepError::new(Code::Internal, format!("`{key}` cannot be recorded: {e}")))
}

fn from_json<T: DeserializeOwned>(key: &str, value: Value) -> Result<T, StepError> {
    serde_json::from_value(value).map_err(|e| {
        let message = format!(
            "the recorded `{key}` cannot be read ({e}): use the version of `grayfin-agent` that wrote it"
        );
        StepError::new(Code::LedgerCorrupt, message)
    })
}

impl From<&Seen> for String {
    fn from(seen: &Seen) -> Self {
        seen.0.clone()
    }
}
