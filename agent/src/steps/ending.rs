//! Ending processes: by identity, with patience, and with force only where it is allowed.

use std::time::Duration;

use grayfin_types::{Code, facts::ProcessIdentity};

use super::{Context, StepError, host::process_error};
use crate::process::signal;

/// What is left of the step's limit for SIGKILL to take effect and for looking again.
const KILL_MARGIN: Duration = Duration::from_secs(30);

/// A process to be ended.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    /// For people.
    pub(super) name: String,
    /// Which.
    pub(super) identity: ProcessIdentity,
}

/// Sends SIGTERM to each and waits until all are gone, at most `stop_timeout_ms`; then SIGKILL where
/// the policy allows it, else fails with the names of those that remain. What is about to be ended is
/// not journalled: it is found again by looking.
pub(super) async fn end(ctx: &Context, processes: &[Ending]) -> Result<String, StepError> {
    let begun = ctx.now();
    let failed = |e: crate::process::Error| process_error(&e, "end a process");
    for one in processes {
        signal::send(&one.identity, signal::Ending::Terminate).map_err(failed)?;
    }
    let policy = &ctx.plan().policy;
    let patience = Duration::from_millis(policy.stop_timeout_ms)
        .min(ctx.remaining().saturating_sub(KILL_MARGIN).max(ctx.remaining() / 2));
    let left = wait_gone(ctx, processes, patience).await?;
    if left.is_empty() {
        let took = ctx.now().duration_since(begun).as_millis();
        return Ok(format!(
            "{} of {} processes gone after {took} ms",
            processes.len(),
            processes.len()
        ));
    }
    let shown: Vec<&str> = left.iter().map(|one| one.name.as_str()).collect();
    let shown = shown.join(", ");
    if !policy.allow_kill {
        let text = format!(
            "{shown} did not end within {} ms after SIGTERM; SIGKILL is not allowed by the policy \
             (`--allow-kill`): wait for it, or end it by hand, and retry",
            patience.as_millis()
        );
        return Err(StepError::new(Code::StopFailed, text));
    }
    for one in &left {
        signal::send(&one.identity, signal::Ending::Kill).map_err(failed)?;
    }
    let still = wait_gone(ctx, &left, KILL_MARGIN).await?;
    if still.is_empty() {
        return Ok(format!("{shown} ended with SIGKILL, as the policy allows"));
    }
    Err(StepError::new(Code::StopFailed, format!("{shown} do not even end with SIGKILL")))
}

/// Waits for each; returns those that remain.
pub(super) async fn wait_gone(
    ctx: &Context,
    processes: &[Ending],
    limit: Duration,
) -> Result<Vec<Ending>, StepError> {
    let deadline = ctx.now() + limit;
    let mut left = Vec::new();
    for one in processes {
        let waiting = tokio::time::timeout_at(deadline, signal::gone(&one.identity));
        match ctx.until(waiting).await? {
            Ok(gone) => gone.map_err(|e| process_error(&e, "wait for a process's end"))?,
            Err(_) => left.push(one.clone()),
        }
    }
    Ok(left)
}
