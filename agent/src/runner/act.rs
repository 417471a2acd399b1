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
