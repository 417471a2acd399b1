//! Staging: the preparation of a rollout. It disturbs nothing and needs no hold.

use grayfin_types::Code;

use crate::{
    entry::StagingEvent,
    sequence::{ATTEMPTS_MAX, Success},
    state::{Failure, Staging, StagingState},
};

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing, until an order comes.
    Rest,
    /// Record this, then ask again without an outcome.
    Write(StagingEvent),
    /// Record the intent, then do step `stage` unless it is done already, and verify it.
    Run {
        /// Intent.
        intent: StagingEvent,
        /// Which attempt, from 1.
        attempt: u32,
    },
}

/// Says what comes next.
pub fn next(staging: &Staging, outcome: Option<&Result<Success, Failure>>) -> Action {
    let StagingState::Pending(begun) = staging.stage else { return Action::Rest };
    match outcome {
        Some(Ok(success)) if begun > 0 => Action::Write(StagingEvent::Finished {
            seen: success.seen.clone(),
            took_ms: success.took_ms,
        }),
        Some(Err(failure)) => Action::Write(StagingEvent::Failed {
            code: failure.code,
            message: failure.message.clone(),
        }),
        Some(Ok(_)) | None if begun >= ATTEMPTS_MAX => Action::Write(StagingEvent::Failed {
            code: Code::Internal,
            message: format!(
                "staging was begun {ATTEMPTS_MAX} times and never ended: something ends the host agent in the middle of it"
            ),
        }),
        Some(Ok(_)) | None => {
            let attempt = begun.saturating_add(1);
            Action::Run { intent: StagingEvent::Started { attempt }, attempt }
        }
    }
}
