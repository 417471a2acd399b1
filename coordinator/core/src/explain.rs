//! Why things stand as they do, and what leads on.

use grayfin_types::{
    HostId, RolloutId,
    gate::{Finding, Reason},
    status::{Explanation, HostPhase, RolloutState},
    step::{SequenceState, Step},
};

use crate::{
    decide::{debts::open, decide},
    gates::{self, Gate, Input, Moment},
    order,
    state::{HostRun, Rollout, State},
    view::View,
    ways,
};

/// Says with which commands an operator leads a halted rollout on. `old` is the held host's
/// [`crate::state::Hold::put_back_since`].
pub fn way_on(rollout: &RolloutId, sequence: Option<&SequenceState>, old: bool) -> String {
    match sequence {
        Some(SequenceState::Failed { first_start: false, .. }) if old => format!(
            "the coordinators' state was put back since this hold was granted: go back with `grayfin rollout rollback-host {rollout}`, then `grayfin rollout retry {rollout}` begins anew; or end with `grayfin rollout abort {rollout}`"
        ),
        Some(SequenceState::Running { .. } | SequenceState::Closed) | None if old => {
            format!("end with `grayfin rollout abort {rollout}`")
        }
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
        Some(run) => Some((run.host.clone(), in_turn_now(run))),
        None => order::next(state, view, rollout, now_ms)
            .ok()
            .flatten()
            .map(|choice| (choice.host, choice.reason)),
    };
    let mut waiting: Vec<_> = if rollout.state.is_final() {
        rollout.halted.iter().cloned().collect()
    } else {
        decide(state, view, now_ms).waiting.remove(id).unwrap_or_default()
    };
    if let Some(run) = in_turn.filter(|_| waiting.is_empty() && !rollout.state.is_final()) {
        waiting = missed_at_work(state, view, rollout, run, now_ms);
    }
    if rollout.state == RolloutState::Halted || rollout.state.is_final() {
        // While a failed host is held, or after a break, they are still to be paid (S10).
        let own = state.debts.iter().filter(|debt| &debt.rollout == id);
        waiting.extend(own.map(|debt| open(debt, "it is still to be undone")));
    }
    Some(Explanation {
        rollout: id.clone(),
        state: rollout.state,
        waiting,
        gates: gates_now(state, view, rollout, next.as_ref().map(|(host, _)| host), now_ms),
        next,
        way_back: way_back(rollout, in_turn),
        way_forward: in_turn
            .filter(|run| ways::started_new(run))
            .map(|run| ways::forward(rollout, run))
            .unwrap_or_default(),
        commands: ways::commands(state, rollout),
    })
}

fn in_turn_now(run: &HostRun) -> String {
    match &run.phase {
        HostPhase::Working { step } => {
            format!("it is in turn now: its host agent works at step `{step}`")
        }
        HostPhase::Waiting
        | HostPhase::Staged
        | HostPhase::Granting
        | HostPhase::Recovering
        | HostPhase::Closing
        | HostPhase::Done
        | HostPhase::Skipped
        | HostPhase::Failed => "it is in turn now".to_owned(),
    }
}

/// What a host agent at work cannot do without and does not have, as seen from here; its own words
/// come with the end of the step. It stops and starts data nodes through the leading DolphinDB
/// controller, and a host has joined when its nodes answer and follow a leader.
fn missed_at_work(
    state: &State,
    view: &View,
    rollout: &Rollout,
    run: &HostRun,
    now_ms: u64,
) -> Vec<Reason> {
    let HostPhase::Working { step } = &run.phase else { return Vec::new() };
    let needed: &[Gate] = match step {
        Step::Guard | Step::Quiesce | Step::Start => &[Gate::LeaderClear],
        Step::Join => &[Gate::LeaderClear, Gate::NodesUp],
        Step::Stage | Step::Stop | Step::Backup | Step::Upgrade => &[],
    };
    let (moment, host) = (Moment::After, Some(&run.host));
    let input = Input::of_rollout(state, view, rollout, moment, host, now_ms);
    gates::against(&gates::ask(needed, &input))
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
    let done: Vec<String> = rollout
        .hosts
        .iter()
        .filter(|h| h.phase == HostPhase::Done)
        .map(|h| format!("`{}`", h.host))
        .collect();
    let target = &rollout.plan.target;
    let of_done = format!(
        "{} run {target} and cannot go back by themselves: data was written since",
        done.join(", ")
    );
    let Some(run) = in_turn else {
        return if done.is_empty() {
            "not needed: nothing was changed".to_owned()
        } else {
            format!("no: {of_done}; the other hosts are as they were")
        };
    };
    let here = way_back_of(rollout, run);
    if done.is_empty() { here } else { format!("{here}; {of_done}") }
}

fn way_back_of(rollout: &Rollout, run: &HostRun) -> String {
    let (host, target) = (&run.host, &rollout.plan.target);
    match &run.sequence {
        Some(SequenceState::Failed { first_start: true, .. } | SequenceState::Up) => format!(
            "no: `{host}` may have been started with {target}, which rewrites the metadata; the way is forward"
        ),
        Some(SequenceState::Running { step: Step::Start | Step::Join }) => format!(
            "no: `{host}` is being started with {target}, which rewrites the metadata; the way is forward"
        ),
        Some(SequenceState::Failed { .. } | SequenceState::Running { .. }) => format!(
            "yes: nothing of {target} was started on `{host}`; abort or rollback-host bring the old version up"
        ),
        Some(SequenceState::Refused { .. } | SequenceState::Undone { .. }) => {
            format!("not needed: `{host}` runs the old version")
        }
        Some(SequenceState::Closed) | None => {
            format!("not needed: nothing was done on `{host}` yet")
        }
    }
}
