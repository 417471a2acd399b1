//! Why things stand as they do, and what leads on.

use grayfin_types::{RolloutId, status::Explanation, step::SequenceState};

use crate::{State, View};

/// Says with which commands an operator leads a halted rollout on.
pub fn way_on(rollout: &RolloutId, sequence: Option<&SequenceState>) -> String {
    match sequence {
        Some(SequenceState::Failed { first_start: true, .. }) => format!(
            "the new version may have been started, so there is no way back by itself: mend the cause, then `grayfin rollout retry {rollout}`; `grayfin explain {rollout}` says what remains"
        ),
        Some(SequenceState::Failed { .. }) => format!(
            "mend the cause, then `grayfin rollout retry {rollout}`; or go back with `grayfin rollout rollback-host {rollout}`"
        ),
        Some(SequenceState::Refused { .. } | SequenceState::Undone { .. }) => format!(
            "the host runs the old version: mend the cause, then `grayfin rollout retry {rollout}`; or leave the host out with `grayfin rollout skip {rollout}`; or end with `grayfin rollout abort {rollout}`"
        ),
        Some(SequenceState::Up) => format!(
            "the host is up: when the cause is gone, `grayfin rollout resume {rollout}`; or end with `grayfin rollout abort {rollout}`"
        ),
        Some(SequenceState::Running { .. } | SequenceState::Closed) | None => format!(
            "`grayfin rollout retry {rollout}`, or end with `grayfin rollout abort {rollout}`"
        ),
    }
}

/// Explains a rollout.
pub fn explain(state: &State, view: &View, id: &RolloutId, now_ms: u64) -> Option<Explanation> {
    let _ = (view, now_ms);
    let rollout = state.rollouts.get(id)?;
    Some(Explanation {
        rollout: id.clone(),
        state: rollout.state,
        waiting: rollout.waiting.clone(),
        next: None,
        way_back: String::new(),
        commands: Vec::new(),
        gates: Vec::new(),
    })
}
