//! The log of a sequence: each change of state is told here, and only here.

use grayfin_agent_core::{entry::Event, fence};
use grayfin_types::{Token, step::SequenceState};

/// Logs a change of the sequence.
pub(super) fn tell(token: Token, event: &Event) {
    match event {
        Event::Started { step, attempt } => {
            tracing::info!(%token, %step, attempt, "step started");
        }
        Event::FirstStart => tracing::info!(%token, "first start: no way back by itself from here"),
        Event::Finished { step, seen, took_ms } => {
            tracing::info!(%token, %step, took_ms, seen, "step finished");
        }
        Event::Failed { step, code, message } => {
            tracing::warn!(%token, %step, %code, message, "step failed");
        }
        Event::UndoStarted { step, attempt } => {
            tracing::info!(%token, %step, attempt, "undo started");
        }
        Event::Undone { step, seen, took_ms } => {
            tracing::info!(%token, %step, took_ms, seen, "step undone");
        }
        Event::UndoFailed { step, code, message } => {
            tracing::error!(%token, %step, %code, message, "undo failed");
        }
        Event::HostRestarted { boot_id } => {
            tracing::warn!(%token, boot_id, "the machine was restarted in the middle of a sequence");
        }
        Event::Ended { state: state @ SequenceState::Failed { .. } } => {
            tracing::error!(%token, state = fence::words(state), "the sequence needs a person");
        }
        Event::Ended { state } => {
            tracing::info!(%token, state = fence::words(state), "the sequence ended");
        }
        Event::Captured { .. } | Event::Journal { .. } | Event::GoingDown { .. } => {}
    }
}
