//! One call of the executor: isolated, limited, and never judged before it is over.

use std::time::Duration;

use grayfin_agent_core::State;
use grayfin_types::Code;
use tokio::{task::JoinSet, time::Instant};

use super::Fatal;
use crate::{
    failpoint,
    ledger::Ledger,
    steps::{Context, StepError, Stop, Why},
};

/// How long a step that was told to stop may take to come to a place where it can. Its longest
/// pieces between two looks are a syscall on a slow disk or one probe's own limit, some seconds.
const GRACE: Duration = Duration::from_secs(20);

/// How long blocking work may go on after its step was given up.
const QUIET_MAX: Duration = Duration::from_secs(60);

/// Runs a call to its end, its limit, or until `turned` says that it is not wanted any more.
pub(super) async fn run<T: Send + 'static>(
    ledger: &Ledger,
    what: &str,
    ctx: &Context,
    stop: &Stop,
    turned: impl Fn(&State) -> bool,
    call: impl Future<Output = Result<T, StepError>> + Send + 'static,
) -> Result<Result<T, StepError>, Fatal> {
    let step = ctx.step();
    failpoint::reach(&["act", what, step.name(), "before"]);
    let mut changed = ledger.watch();
    // In a task of its own: a panic in a step is a failed step, not the end of the host agent.
    // In a set, so that it ends with us should we be dropped.
    let mut tasks = JoinSet::new();
    tasks.spawn(call);
    let mut give_up = ctx.deadline() + GRACE;
    let mut given_up = false;
    let ended = loop {
        // An undo is not turned round again.
        if !ctx.undoes() && ledger.state(&turned) && stop.asked().is_none() {
            stop.ask(Why::Aborted);
            give_up = give_up.min(Instant::now() + GRACE);
        }
        tokio::select! {
            ended = tasks.join_next() => break ended,
            () = tokio::time::sleep_until(ctx.deadline()), if stop.asked().is_none() => {
                stop.ask(Why::Deadline);
                give_up = give_up.min(Instant::now() + GRACE);
            }
            () = tokio::time::sleep_until(give_up) => {
                given_up = true;
                tasks.abort_all();
                break tasks.join_next().await;
            }
            more = changed.changed() => {
                if more.is_err() {
                    break tasks.join_next().await;
                }
            }
        }
    };
    if matches!(&ended, Some(Err(e)) if e.is_cancelled()) && !given_up {
        // Nobody gave it up: this process was told to end, and its runtime takes no more tasks. That
        // says nothing about the step; the next life finds out.
        std::future::pending::<()>().await;
    }
    if tokio::time::timeout(QUIET_MAX, ctx.quiet()).await.is_err() {
        return Err(Fatal::Stuck { step });
    }
    failpoint::reach(&["act", what, step.name(), "after"]);
    Ok(match ended {
        Some(Ok(result)) => result,
        Some(Err(e)) if e.is_panic() => {
            Err(StepError::new(Code::Internal, format!("step `{step}` broke off: {e}")))
        }
        Some(Err(_)) | None => {
            let why = format!("step `{step}` did not end when it was told to, and was given up");
            Err(StepError::new(Code::StepTimeout, why))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use grayfin_types::step::Step;

    use super::*;
    use crate::{
        ledger::testing::ForgetfulFile,
        steps::{Seen, testing::Double},
    };

    const LIMIT: Duration = Duration::from_secs(100);

    fn ledger() -> Ledger {
        let file = Box::new(ForgetfulFile::default());
        Ledger::open_on(file, Path::new("/s/ledger"), &"h".parse().unwrap()).unwrap()
    }

    fn context() -> (Context, Stop) {
        let stop = Stop::default();
        let whole = Arc::new(Double::default()).context(crate::steps::testing::work(), Step::Stop);
        (whole.for_step(Step::Stop, false, LIMIT, stop.clone()), stop)
    }

    async fn act(
        ctx: &Context,
        stop: &Stop,
        turned: bool,
        call: impl Future<Output = Result<Seen, StepError>> + Send + 'static,
    ) -> Result<Result<Seen, Code>, Fatal> {
        let done = run(&ledger(), "execute", ctx, stop, |_| turned, call).await?;
        Ok(done.map_err(|e| e.code))
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_is_told_to_stop_at_its_limit_and_given_up_after_the_grace() {
        let begun = Instant::now();
        let (ctx, stop) = context();
        let mine = ctx.clone();
        let obeys = async move { mine.until(std::future::pending::<Seen>()).await };
        assert_eq!(act(&ctx, &stop, false, obeys).await.unwrap(), Err(Code::StepTimeout));
        assert_eq!(begun.elapsed().as_secs(), LIMIT.as_secs());

        let begun = Instant::now();
        let (ctx, stop) = context();
        let deaf = std::future::pending();
        assert_eq!(act(&ctx, &stop, false, deaf).await.unwrap(), Err(Code::StepTimeout));
        assert_eq!(begun.elapsed().as_secs(), (LIMIT + GRACE).as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_is_not_wanted_any_more_ends_at_once() {
        let begun = Instant::now();
        let (ctx, stop) = context();
        let mine = ctx.clone();
        let obeys = async move { mine.until(std::future::pending::<Seen>()).await };
        assert_eq!(act(&ctx, &stop, true, obeys).await.unwrap(), Err(Code::Aborted));
        assert!(begun.elapsed() < Duration::from_secs(1));
        // But its undoing is not turned round again.
        let undo = ctx.for_step(Step::Stop, true, LIMIT, Stop::default());
        let done = async { Ok(Seen::default()) };
        assert_eq!(act(&undo, &Stop::default(), true, done).await.unwrap(), Ok(Seen::default()));
    }

    #[tokio::test]
    async fn a_panic_is_a_failed_step() {
        let (ctx, stop) = context();
        let panics = async { panic!("because the test wants it") };
        assert_eq!(act(&ctx, &stop, false, panics).await.unwrap(), Err(Code::Internal));
    }

    #[tokio::test]
    async fn nothing_is_judged_while_blocking_work_goes_on() {
        let (ctx, stop) = context();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let mine = ctx.clone();
        // The step leaves its work behind, as a dropped future does.
        let leaves = async move {
            let working = tokio::spawn(async move {
                let work = mine.blocking(move |_| {
                    begun.send(()).unwrap();
                    let Err(_) = ended.recv() else { return Ok(()) };
                    Ok(())
                });
                drop(work.await);
            });
            drop(has_begun.await);
            drop(working);
            Ok(Seen::default())
        };
        let acting = act(&ctx, &stop, false, leaves);
        tokio::pin!(acting);
        tokio::select! {
            biased;
            done = &mut acting => panic!("judged while the work goes on: {done:?}"),
            () = tokio::task::yield_now() => {}
        }
        drop(end);
        assert!(acting.await.unwrap().is_ok());
    }

    /// The host agent is told to end just as a step begins: nothing may be written about the step then.
    #[test]
    fn a_step_that_the_end_of_the_process_cuts_off_is_not_judged() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (begin, begun) = std::sync::mpsc::channel();
        let (go_on, goes_on) = std::sync::mpsc::channel();
        let (say, said) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            begin.send(()).unwrap();
            goes_on.recv().unwrap();
            let (ctx, stop) = context();
            let done = async { Ok(Seen::default()) };
            say.send(act(&ctx, &stop, false, done).await.unwrap()).unwrap();
        });
        let (alive, dropped) = std::sync::mpsc::channel::<()>();
        runtime.spawn(async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        begun.recv().unwrap();
        runtime.shutdown_background();
        // The other worker has closed the runtime when it drops what waits there.
        assert!(dropped.recv().is_err());
        go_on.send(()).unwrap();
        assert_eq!(said.recv().ok(), None, "a step that never ran was judged");
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_never_ends_ends_the_host_agent() {
        let (ctx, stop) = context();
        let keeps_busy = ctx.keep_busy();
        let done = async { Ok(Seen::default()) };
        let ended = act(&ctx, &stop, false, done).await;
        assert!(matches!(ended, Err(Fatal::Stuck { step: Step::Stop })), "{ended:?}");
        drop(keeps_busy);
    }
}
