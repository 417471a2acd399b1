//! Carries out what the core decides: writes the intent, calls the step, writes how it ended.
//!
//! One loop for the host sequence (there is at most one hold on a machine) and one per installation
//! for staging. The loops keep nothing that counts: killed at any place, the next life reads the
//! ledger and goes on. Stopping the host agent stops neither a DolphinDB node nor releases anything.

mod act;
mod folders;
mod readmission;
mod records;
mod staging;
mod telling;
pub(crate) mod trust;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use grayfin_agent_core::{
    Body, Hold,
    entry::Event,
    limits,
    sequence::{self, Action, Checked, Outcome, Seen, Success},
    state::Failure,
};
use grayfin_types::{
    ClusterId, HostId, Token,
    step::{Report, Step},
};
use tokio::sync::{Mutex, mpsc, watch};

pub use readmission::Wish;
use records::HoldRecords;
pub use records::Passing;
pub use trust::Trust;

use crate::{
    config::{Installation, Settings},
    failpoint,
    ledger::{self, Ledger},
    steps::{Context, Coordination, Executor, Precheck, Seen as Words, StepError, Stop, Work},
};

/// Why the host agent cannot go on and must be started again.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The ledger takes no more.
    #[error("cannot write the ledger")]
    Ledger(#[from] ledger::Error),
    /// A folder of our own cannot be made.
    #[error("make the work folder `{folder}`")]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Work that blocks a thread does not end although it was told to.
    #[error(
        "step `{step}` was told to stop and its work goes on: only a new start of the host agent ends it"
    )]
    Stuck {
        /// Which step.
        step: Step,
    },
    /// The configuration does not have the installation that a hold is open for.
    #[error(
        "hold {token} is open for cluster `{cluster}`, which the configuration file does not have: put its `[[installation]]` back"
    )]
    Unconfigured {
        /// The hold.
        token: Token,
        /// The cluster.
        cluster: ClusterId,
    },
}

/// What all loops share.
#[derive(Debug)]
pub struct Parts<E> {
    /// Carries out steps.
    pub executor: Arc<E>,
    /// Remembers.
    pub ledger: Arc<Ledger>,
    /// This host's configuration.
    pub settings: Arc<Settings>,
    /// Which life of the machine it is; see [`crate::boot::life`].
    pub boot_id: String,
    /// Takes passing reports.
    pub passing: mpsc::Sender<Report>,
    /// What the coordinators say about the ledger.
    pub trust: watch::Receiver<Trust>,
    /// A readmission that is to be taken in.
    pub wish: watch::Receiver<Option<Wish>>,
}

/// The loops.
pub struct Runner<E> {
    parts: Arc<Parts<E>>,
    coordination: Arc<dyn Coordination>,
    /// Staging and the sequence of one installation take turns.
    turns: BTreeMap<ClusterId, Arc<Mutex<()>>>,
}

impl<E> std::fmt::Debug for Runner<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").finish_non_exhaustive()
    }
}

/// The hold that is being worked on.
struct Running {
    ctx: Context,
    installation: Arc<Installation>,
    token: Token,
}

/// How a turn of the loop ended.
enum Turn {
    Went(Option<Outcome>),
    Rests,
}

impl<E: Executor> Runner<E> {
    /// Makes the loops. Fails if an open hold cannot be worked on with this configuration.
    pub fn new(parts: Parts<E>, coordination: Arc<dyn Coordination>) -> Result<Self, Fatal> {
        let open = parts.ledger.state(|s| s.hold.as_ref().map(|h| (h.token, h.cluster.clone())));
        if let Some((token, cluster)) = open
            && parts.settings.installation(&cluster).is_none()
        {
            return Err(Fatal::Unconfigured { token, cluster });
        }
        let clusters = parts.settings.installations.iter().map(|i| i.cluster.clone());
        let turns = clusters.map(|cluster| (cluster, Arc::default())).collect();
        Ok(Self { parts: Arc::new(parts), coordination, turns })
    }

    /// Runs all loops until one cannot go on.
    pub async fn run(self) -> Result<(), Fatal> {
        let mut loops = tokio::task::JoinSet::new();
        for installation in &self.parts.settings.installations {
            let staging = staging::Staging {
                parts: Arc::clone(&self.parts),
                coordination: Arc::clone(&self.coordination),
                installation: Arc::clone(installation),
                turn: self.turn_of(&installation.cluster),
            };
            loops.spawn(staging.run());
        }
        loops.spawn(self.sequence());
        match loops.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(e)) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Some(Err(_)) | None => Ok(()),
        }
    }

    fn turn_of(&self, cluster: &ClusterId) -> Arc<Mutex<()>> {
        self.turns.get(cluster).map(Arc::clone).unwrap_or_default()
    }

    async fn sequence(self) -> Result<(), Fatal> {
        let mut changed = self.parts.ledger.watch();
        let mut running: Option<Running> = None;
        let mut outcome = None;
        let mut swept = false;
        folders::sweep(&self.parts.settings, &self.parts.ledger);
        if self.parts.ledger.state(|state| state.hold.is_some()) {
            trust::settled(&self.parts.trust).await;
        }
        loop {
            changed.borrow_and_update();
            self.readmit().await?;
            tokio::select! {
                () = trust::not_amnesic(&self.parts.trust) => {}
                () = self.wished() => continue,
            }
            if let Some(closed) = self.close_ended(&mut running) {
                self.tidy(closed).await;
            }
            let Some(now) = self.open(&mut running)? else {
                if !std::mem::replace(&mut swept, true) {
                    // It may have been closed before this life had taken it up.
                    folders::sweep(&self.parts.settings, &self.parts.ledger);
                }
                self.wait(&mut changed).await;
                continue;
            };
            let turn = self.turn_of(&now.installation.cluster);
            let taken = turn.lock_owned().await;
            match self.turn(now, outcome.take()).await? {
                Turn::Went(next) => outcome = next,
                Turn::Rests => {
                    drop(taken);
                    self.wait(&mut changed).await;
                }
            }
        }
    }

    async fn wait(&self, changed: &mut watch::Receiver<u64>) {
        let more = tokio::select! {
            more = changed.changed() => more,
            () = self.wished() => return,
        };
        if more.is_err() {
            // Cannot be: the ledger, which is ours, keeps the sender.
            std::future::pending::<()>().await;
        }
    }

    /// Takes the running hold out if it is not the open one any more.
    fn close_ended(&self, running: &mut Option<Running>) -> Option<Running> {
        let open = self.parts.ledger.state(grayfin_agent_core::State::open_hold);
        running.take_if(|now| Some(now.token) != open)
    }

    fn open<'a>(&self, running: &'a mut Option<Running>) -> Result<Option<&'a Running>, Fatal> {
        if running.is_none() {
            let Some(hold) = self.parts.ledger.state(|state| state.hold.clone()) else {
                return Ok(None);
            };
            *running = Some(self.begin(&hold)?);
        }
        Ok(running.as_ref())
    }

    fn begin(&self, hold: &Hold) -> Result<Running, Fatal> {
        let unconfigured =
            || Fatal::Unconfigured { token: hold.token, cluster: hold.cluster.clone() };
        let parts = &self.parts;
        let installation = parts.settings.installation(&hold.cluster).ok_or_else(unconfigured)?;
        let host_plan = hold.plan.host(&parts.settings.host).ok_or_else(unconfigured)?.clone();
        let work = Arc::new(Work {
            host: parts.settings.host.clone(),
            installation: Arc::clone(installation),
            rollout: hold.rollout.clone(),
            token: hold.token,
            plan: Arc::clone(&hold.plan),
            host_plan,
            state_dir: parts.settings.state_dir.clone(),
            work_dir: folders::make(&parts.settings, &folders::of_hold(hold.token))?,
        });
        let records = HoldRecords { ledger: Arc::clone(&parts.ledger), token: hold.token };
        let passing = Passing::new(parts.settings.host.clone(), hold.token, parts.passing.clone());
        let coordination = Arc::clone(&self.coordination);
        let ctx = Context::new(work, Arc::new(records), coordination, Arc::new(passing));
        Ok(Running { ctx, installation: Arc::clone(installation), token: hold.token })
    }

    async fn turn(&self, now: &Running, outcome: Option<Outcome>) -> Result<Turn, Fatal> {
        let seen = Seen { boot_id: &self.parts.boot_id, outcome };
        let action = self.parts.ledger.state(|state| {
            let hold = state.hold.as_ref().filter(|hold| hold.token == now.token);
            hold.map_or(Action::Rest, |hold| sequence::next(hold, &seen))
        });
        let outcome = match action {
            Action::Rest => return Ok(Turn::Rests),
            Action::Write(event) => {
                self.write(now, event)?;
                None
            }
            Action::Check(step) => {
                let checked = self.check(now, step).await?;
                Some(Outcome::Checked(step, checked))
            }
            Action::Run { intents, step, already, attempt } => {
                for intent in intents {
                    if !self.write(now, intent)? {
                        return Ok(Turn::Went(None));
                    }
                }
                Some(Outcome::Ran(step, self.run_step(now, step, already, attempt).await?))
            }
            Action::Undo { intent, step, attempt } => {
                if !self.write(now, intent)? {
                    return Ok(Turn::Went(None));
                }
                Some(Outcome::Undid(step, self.undo_step(now, step, attempt).await?))
            }
        };
        Ok(Turn::Went(outcome))
    }

    /// Writes an entry. False if the state changed under us and it does not fit any more: an order
    /// came, and the core is asked again.
    fn write(&self, now: &Running, event: Event) -> Result<bool, Fatal> {
        telling::tell(now.token, &event);
        match self.parts.ledger.append(Body::Sequence { token: now.token, event }) {
            Ok(_) => Ok(true),
            Err(ledger::Error::Illegal(why)) => {
                tracing::info!(token = %now.token, %why, "an order came in between");
                Ok(false)
            }
            Err(other) => Err(other.into()),
        }
    }

    fn step_context(&self, now: &Running, step: Step, undo: bool, attempt: u32) -> (Context, Stop) {
        let policy = &now.ctx.plan().policy;
        let limit = limits::of(step, undo, policy, now.ctx.host_plan().nodes.len());
        let stop = Stop::default();
        let ctx = now.ctx.for_step(step, undo, Duration::from_millis(limit), stop.clone());
        (ctx.with_attempt(attempt), stop)
    }

    async fn check(&self, now: &Running, step: Step) -> Result<Checked, Fatal> {
        let (ctx, stop) = self.step_context(now, step, false, 1);
        let executor = Arc::clone(&self.parts.executor);
        let mine = ctx.clone();
        let settle = async move { executor.settle(&mine).await };
        if let Err(e) = self.act("settle", &ctx, &stop, settle).await? {
            return Ok(Checked::Refused(failure(step, e)));
        }
        let executor = Arc::clone(&self.parts.executor);
        let mine = ctx.clone();
        let check = async move { Ok(executor.precheck(step, &mine).await) };
        Ok(match self.act("check", &ctx, &stop, check).await? {
            Ok(Precheck::AlreadyDone(_)) => Checked::AlreadyDone,
            Ok(Precheck::Ready) => Checked::Ready,
            Ok(Precheck::Refused(e)) | Err(e) => Checked::Refused(failure(step, e)),
        })
    }

    async fn run_step(
        &self,
        now: &Running,
        step: Step,
        already: bool,
        attempt: u32,
    ) -> Result<Result<Success, Failure>, Fatal> {
        let begun = Instant::now();
        let (ctx, stop) = self.step_context(now, step, false, attempt);
        let mut words = Words::default();
        if !already {
            let executor = Arc::clone(&self.parts.executor);
            let mine = ctx.clone();
            let execute = async move { executor.execute(step, &mine).await };
            match self.act("execute", &ctx, &stop, execute).await? {
                Ok(seen) => words = seen,
                Err(e) => return Ok(Err(failure(step, e))),
            }
        }
        let executor = Arc::clone(&self.parts.executor);
        let mine = ctx.clone();
        let verify = async move { executor.verify(step, &mine).await };
        Ok(match self.act("verify", &ctx, &stop, verify).await? {
            Ok(proof) => Ok(success(&[&words.0, &proof.0], begun)),
            Err(e) => Err(failure(step, e)),
        })
    }

    async fn undo_step(
        &self,
        now: &Running,
        step: Step,
        attempt: u32,
    ) -> Result<Result<Success, Failure>, Fatal> {
        let begun = Instant::now();
        let (ctx, stop) = self.step_context(now, step, true, attempt);
        let executor = Arc::clone(&self.parts.executor);
        let mine = ctx.clone();
        let settle = async move { executor.settle(&mine).await };
        if let Err(e) = self.act("settle", &ctx, &stop, settle).await? {
            return Ok(Err(failure(step, e)));
        }
        let executor = Arc::clone(&self.parts.executor);
        let mine = ctx.clone();
        let undo = async move { executor.undo(step, &mine).await };
        Ok(match self.act("undo", &ctx, &stop, undo).await? {
            Ok(seen) => Ok(success(&[&seen.0], begun)),
            Err(e) => Err(failure(step, e)),
        })
    }

    /// Runs one call of the executor, within its limit; an operator's wish ends it early.
    async fn act<T: Send + 'static>(
        &self,
        what: &str,
        ctx: &Context,
        stop: &Stop,
        call: impl Future<Output = Result<T, StepError>> + Send + 'static,
    ) -> Result<Result<T, StepError>, Fatal> {
        let wanted = |state: &grayfin_agent_core::State| {
            state.hold.as_ref().is_some_and(Hold::must_turn_round)
        };
        act::run(&self.parts.ledger, what, ctx, stop, wanted, call).await
    }

    async fn tidy(&self, closed: Running) {
        failpoint::reach(&["act.tidy.before"]);
        folders::tidy(&*self.parts.executor, &closed.ctx).await;
        failpoint::reach(&["act.tidy.after"]);
    }
}

fn failure(step: Step, error: StepError) -> Failure {
    Failure { step, code: error.code, message: error.message }
}

fn success(words: &[&str], begun: Instant) -> Success {
    let words: Vec<&str> = words.iter().copied().filter(|word| !word.is_empty()).collect();
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Success { seen: words.join("; "), took_ms }
}

/// Says which host and token a report is about.
pub(crate) fn passing_report(
    host: &HostId,
    token: Token,
    step: Step,
    undo: bool,
    happened: grayfin_types::step::Happened,
) -> Report {
    Report {
        host: host.clone(),
        token,
        step,
        undo,
        happened,
        seen: String::new(),
        position: 0,
        chain: String::new(),
        at_ms: grayfin_proto::clock::wall_ms(),
    }
}
