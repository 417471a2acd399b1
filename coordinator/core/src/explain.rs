//! Why things stand as they do, and what leads on.

use grayfin_types::{
    HostId, RolloutId,
    gate::Finding,
    status::{Explanation, HostPhase, RolloutState},
    step::{SequenceState, Step},
};

use crate::{
    decide::decide,
    gates::{self, Input, Moment},
    order,
    state::{HostRun, Rollout, Staging, State},
    view::View,
};

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

/// Explains a rollout: why nothing happens, which host is next, whether there is a way back.
pub fn explain(state: &State, view: &View, id: &RolloutId, now_ms: u64) -> Option<Explanation> {
    let rollout = state.rollouts.get(id)?;
    let in_turn = rollout.hosts.iter().find(|h| h.in_turn());
    let next = match in_turn {
        _ if rollout.state.is_final() => None,
        Some(run) => Some((run.host.clone(), "it is in turn now".to_owned())),
        None => order::next(state, view, rollout, now_ms)
            .ok()
            .flatten()
            .map(|choice| (choice.host, choice.reason)),
    };
    let waiting = if rollout.state.is_final() {
        rollout.halted.iter().cloned().collect()
    } else {
        decide(state, view, now_ms).waiting.remove(id).unwrap_or_default()
    };
    Some(Explanation {
        rollout: id.clone(),
        state: rollout.state,
        waiting,
        gates: gates_now(state, view, rollout, next.as_ref().map(|(host, _)| host), now_ms),
        next,
        way_back: way_back(rollout, in_turn),
        commands: commands(state, rollout, in_turn),
    })
}

fn gates_now(
    state: &State,
    view: &View,
    rollout: &Rollout,
    host: Option<&HostId>,
    now_ms: u64,
) -> Vec<Finding> {
    let Some(host) = host else { return Vec::new() };
    let up = rollout.host(host).is_some_and(|run| run.sequence == Some(SequenceState::Up));
    if up {
        return gates::after(state, view, rollout, host, now_ms);
    }
    let working =
        rollout.host(host).is_some_and(|run| matches!(run.phase, HostPhase::Working { .. }));
    if working {
        let input = Input::of_rollout(state, view, rollout, Moment::Go, Some(host), now_ms);
        return gates::ask(gates::GO, &input);
    }
    gates::before(state, view, rollout, host, now_ms)
}

fn way_back(rollout: &Rollout, in_turn: Option<&HostRun>) -> String {
    let Some(run) = in_turn else {
        let done = rollout.hosts.iter().filter(|h| h.phase == HostPhase::Done).count();
        return if done == 0 {
            "nothing was changed yet: there is nothing to go back from".to_owned()
        } else {
            format!(
                "{done} host(s) run {} and cannot go back: data was written since; the others are untouched",
                rollout.plan.target
            )
        };
    };
    let host = &run.host;
    match &run.sequence {
        Some(SequenceState::Failed { first_start: true, .. } | SequenceState::Up) => format!(
            "no: `{host}` may have been started with {}, which rewrites the metadata; the way is forward",
            rollout.plan.target
        ),
        Some(SequenceState::Running { step: Step::Start | Step::Join }) => format!(
            "no: `{host}` is being started with {}, which rewrites the metadata; the way is forward",
            rollout.plan.target
        ),
        Some(SequenceState::Failed { .. } | SequenceState::Running { .. }) => format!(
            "yes: nothing of {} was started on `{host}`; abort or rollback-host bring the old version up",
            rollout.plan.target
        ),
        Some(SequenceState::Refused { .. } | SequenceState::Undone { .. }) => {
            format!("not needed: `{host}` runs the old version")
        }
        Some(SequenceState::Closed) | None => {
            format!("not needed: nothing was done on `{host}` yet")
        }
    }
}

fn commands(state: &State, rollout: &Rollout, in_turn: Option<&HostRun>) -> Vec<String> {
    let id = &rollout.id;
    let of = |verbs: &[&str]| {
        verbs.iter().map(|verb| format!("grayfin rollout {verb} {id}")).collect::<Vec<_>>()
    };
    match rollout.state {
        RolloutState::Staging | RolloutState::Running => of(&["watch", "pause", "abort"]),
        RolloutState::Paused => of(&["resume", "abort"]),
        RolloutState::Aborting | RolloutState::Verifying => of(&["watch"]),
        RolloutState::Succeeded => of(&["status"]),
        RolloutState::Failed
            if state.broken.iter().any(|b| b.rollout == rollout.id && !b.settled) =>
        {
            // The host whose hold was broken is told to come up; then its hold is closed.
            of(&["abort"])
        }
        RolloutState::Aborted | RolloutState::Failed => {
            vec![format!("grayfin rollout start {} --to {}", rollout.cluster, rollout.plan.target)]
        }
        RolloutState::Halted => {
            let staging = rollout.hosts.iter().any(|h| matches!(h.staging, Staging::Failed { .. }));
            match in_turn.and_then(|run| run.sequence.as_ref()) {
                Some(SequenceState::Up) => of(&["resume", "abort"]),
                Some(SequenceState::Failed { first_start: false, .. }) => {
                    of(&["retry", "rollback-host", "abort"])
                }
                Some(SequenceState::Failed { .. }) => of(&["retry", "abort"]),
                Some(SequenceState::Refused { .. } | SequenceState::Undone { .. }) => {
                    of(&["retry", "skip", "abort"])
                }
                Some(SequenceState::Running { .. } | SequenceState::Closed) | None if staging => {
                    of(&["retry", "skip", "abort"])
                }
                Some(SequenceState::Running { .. } | SequenceState::Closed) | None => {
                    of(&["resume", "abort"])
                }
            }
        }
    }
}
