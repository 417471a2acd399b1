//! The loop that prepares a rollout: step `stage` alone, without a hold.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use grayfin_agent_core::{
    Body, State, limits,
    sequence::Success,
    staging::{self, Action},
    state::{self, Failure},
};
use grayfin_types::{OrderNumber, Token, step::Step};
use tokio::sync::{Mutex, watch};

use super::{Fatal, Parts, Passing, act, failure, folders, records::NoRecords, success, trust};
use crate::{
    config::Installation,
    ledger,
    steps::{Context, Coordination, Executor, Precheck, Seen as Words, StepError, Stop, Work},
};

/// The loop of one installation.
pub(super) struct Staging<E> {
    pub(super) parts: Arc<Parts<E>>,
    pub(super) coordination: Arc<dyn Coordination>,
    pub(super) installation: Arc<Installation>,
    pub(super) turn: Arc<Mutex<()>>,
}

/// What was done, for which order.
type Done = (OrderNumber, Result<Success, Failure>);

impl<E: Executor> Staging<E> {
    pub(super) async fn run(self) -> Result<(), Fatal> {
        let mut changed = self.parts.ledger.watch();
        let mut done: Option<Done> = None;
        if self.next(None).is_some_and(|(_, action)| action != Action::Rest) {
            trust::settled(&self.parts.trust).await;
        }
        loop {
            changed.borrow_and_update();
            trust::not_amnesic(&self.parts.trust).await;
            let Some((now, action)) = self.next(done.take()) else {
                wait(&mut changed).await;
                continue;
            };
            match action {
                Action::Rest => wait(&mut changed).await,
                Action::Write(event) => {
                    self.write(now.number, event)?;
                }
                Action::Run { intent, attempt } => {
                    let _turn = self.turn.lock().await;
                    if self.write(now.number, intent)? {
                        done = Some((now.number, self.stage(&now, attempt).await?));
                    }
                }
            }
        }
    }

    fn next(&self, done: Option<Done>) -> Option<(state::Staging, Action)> {
        let cluster = &self.installation.cluster;
        let now = self.parts.ledger.state(|s| s.cluster(cluster)?.staging.clone())?;
        // The outcome of an order that was replaced meanwhile says nothing.
        let outcome = done.filter(|(number, _)| *number == now.number).map(|(_, outcome)| outcome);
        let action = staging::next(&now, outcome.as_ref());
        Some((now, action))
    }

    fn write(
        &self,
        number: OrderNumber,
        event: grayfin_agent_core::entry::StagingEvent,
    ) -> Result<bool, Fatal> {
        let cluster = self.installation.cluster.clone();
        tracing::info!(%cluster, %number, ?event, "staging");
        match self.parts.ledger.append(Body::Staging { cluster, number, event }) {
            Ok(_) => Ok(true),
            Err(ledger::Error::Illegal(_)) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }

    async fn stage(
        &self,
        now: &state::Staging,
        attempt: u32,
    ) -> Result<Result<Success, Failure>, Fatal> {
        let begun = Instant::now();
        let whole = match self.context(now)? {
            Ok(whole) => whole,
            Err(e) => return Ok(Err(failure(Step::Stage, e))),
        };
        let nodes = whole.host_plan().nodes.len();
        let limit = limits::of(Step::Stage, false, &whole.plan().policy, nodes);
        let stop = Stop::default();
        let limit = Duration::from_millis(limit);
        let ctx = whole.for_step(Step::Stage, false, limit, stop.clone()).with_attempt(attempt);
        let cluster = self.installation.cluster.clone();
        let number = now.number;
        let replaced = move |state: &State| {
            let newest = state.cluster(&cluster).and_then(|c| c.staging.as_ref());
            newest.is_none_or(|newest| newest.number != number)
        };
        let executor = Arc::clone(&self.parts.executor);
        let mine = ctx.clone();
        let all = async move { stage_all(&*executor, &mine).await };
        let ended = act::run(&self.parts.ledger, "execute", &ctx, &stop, replaced, all).await?;
        Ok(match ended {
            Ok(words) => Ok(success(&[&words.0], begun)),
            Err(e) => {
                folders::tidy(&*self.parts.executor, &ctx).await;
                Err(failure(Step::Stage, e))
            }
        })
    }

    fn context(&self, now: &state::Staging) -> Result<Result<Context, StepError>, Fatal> {
        let settings = &self.parts.settings;
        let Some(host_plan) = now.plan.host(&settings.host).cloned() else {
            let message = format!("host `{}` has no part in the plan", settings.host);
            return Ok(Err(StepError::new(grayfin_types::Code::BadRequest, message)));
        };
        let work = Arc::new(Work {
            host: settings.host.clone(),
            installation: Arc::clone(&self.installation),
            rollout: now.rollout.clone(),
            token: Token(0),
            plan: Arc::clone(&now.plan),
            host_plan,
            state_dir: settings.state_dir.clone(),
            work_dir: folders::make(settings, &format!("stage-{}", self.installation.cluster))?,
        });
        let passing = Passing::new(settings.host.clone(), Token(0), self.parts.passing.clone());
        let coordination = Arc::clone(&self.coordination);
        Ok(Ok(Context::new(work, Arc::new(NoRecords), coordination, Arc::new(passing))))
    }
}

async fn stage_all<E: Executor>(executor: &E, ctx: &Context) -> Result<Words, StepError> {
    executor.settle(ctx).await?;
    match executor.precheck(Step::Stage, ctx).await {
        Precheck::Refused(e) => return Err(e),
        Precheck::AlreadyDone(_) => {}
        Precheck::Ready => drop(executor.execute(Step::Stage, ctx).await?),
    }
    executor.verify(Step::Stage, ctx).await
}

async fn wait(changed: &mut watch::Receiver<u64>) {
    if changed.changed().await.is_err() {
        // Cannot be: the ledger, which we share, keeps the sender.
        std::future::pending::<()>().await;
    }
}
