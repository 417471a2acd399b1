//! The host sequence: what comes next, from the ledger's state and what was seen last.
//!
//! [`next`] is called again and again by the runner, and after a crash by the next life of it. It
//! needs no memory but the [`Hold`]: if the last outcome was lost, the step is looked at again.

use grayfin_types::{
    Code,
    step::{SequenceState, Step},
};

use crate::{
    entry::Event,
    mutation,
    state::{Failure, Hold, Phase, Progress},
};

/// Steps with effects that are undone, in the order of undoing.
pub const UNDOABLE: [Step; 4] = [Step::Upgrade, Step::Backup, Step::Stop, Step::Quiesce];

/// How often a step, or its undoing, is begun before it counts as failed. Each crash or kill of the
/// host agent in the middle costs one, so that a step that kills it (out of memory) ends some time.
pub const ATTEMPTS_MAX: u32 = 8;

/// What is known besides the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<'a> {
    /// The kernel's boot id, now.
    pub boot_id: &'a str,
    /// The outcome of the last action of this process; none after a write or a restart.
    pub outcome: Option<Outcome>,
}

/// How an action ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A look before a step.
    Checked(Step, Checked),
    /// A step was done and verified, or failed.
    Ran(Step, Result<Success, Failure>),
    /// A step was undone, or that failed.
    Undid(Step, Result<Success, Failure>),
}

/// What a look before a step found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// Its effect is there already.
    AlreadyDone,
    /// It can begin or go on.
    Ready,
    /// It must not begin.
    Refused(Failure),
}

/// How a step went well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Success {
    /// What was seen.
    pub seen: String,
    /// How long it took.
    pub took_ms: u64,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing, until an order comes.
    Rest,
    /// Record this, then ask again without an outcome.
    Write(Event),
    /// Settle, and look whether the step can be done.
    Check(Step),
    /// Record the intents, each durable before the next; then do the step unless it is `already`
    /// done; then verify it.
    Run {
        /// Intents.
        intents: Vec<Event>,
        /// The step.
        step: Step,
        /// Only verify.
        already: bool,
        /// Which attempt, from 1.
        attempt: u32,
    },
    /// Record the intent, settle, then undo the step.
    Undo {
        /// Intent.
        intent: Event,
        /// The step.
        step: Step,
        /// Which attempt, from 1.
        attempt: u32,
    },
}

/// Says what comes next under an open hold.
pub fn next(hold: &Hold, seen: &Seen<'_>) -> Action {
    if hold.boot_id != seen.boot_id {
        return Action::Write(Event::HostRestarted { boot_id: seen.boot_id.to_owned() });
    }
    match &hold.phase {
        Phase::Forward => forward(hold, seen.outcome.as_ref()),
        Phase::Undoing => undoing(hold, seen.outcome.as_ref()),
        Phase::Stuck => Action::Write(Event::Ended { state: failed(hold) }),
        Phase::Ended(_) => Action::Rest,
    }
}

fn forward(hold: &Hold, outcome: Option<&Outcome>) -> Action {
    let Some(step) = hold.current() else {
        return Action::Write(Event::Ended { state: SequenceState::Up });
    };
    if hold.restarted {
        let message = format!(
            "the machine was restarted at step `{step}`, before the interlock was on and the backup complete"
        );
        return fail(step, Code::HostRestarted, message);
    }
    match outcome {
        // What was done is recorded, whatever an operator wants meanwhile.
        Some(Outcome::Ran(ran, result)) if *ran == step => return ended(step, result),
        Some(Outcome::Checked(checked, _)) if *checked == step && hold.must_turn_round() => {}
        Some(Outcome::Checked(checked, found)) if *checked == step => {
            return checked_step(hold, step, found);
        }
        // An outcome that does not belong here says nothing.
        Some(Outcome::Ran(..) | Outcome::Checked(..) | Outcome::Undid(..)) | None => {}
    }
    if hold.must_turn_round() {
        return fail(step, Code::Aborted, format!("an operator asked for it before step `{step}`"));
    }
    Action::Check(step)
}

fn ended(step: Step, result: &Result<Success, Failure>) -> Action {
    Action::Write(match result {
        Ok(success) => {
            Event::Finished { step, seen: success.seen.clone(), took_ms: success.took_ms }
        }
        Err(failure) => {
            Event::Failed { step, code: failure.code, message: failure.message.clone() }
        }
    })
}

fn checked_step(hold: &Hold, step: Step, found: &Checked) -> Action {
    let already = match found {
        Checked::Refused(failure) => return fail(step, failure.code, failure.message.clone()),
        Checked::AlreadyDone => true,
        Checked::Ready => false,
    };
    let attempt = match hold.steps.get(&step) {
        Some(Progress::Begun(times)) => times.saturating_add(1),
        Some(
            Progress::Done
            | Progress::Failed
            | Progress::UndoBegun(_)
            | Progress::UndoFailed
            | Progress::Undone,
        )
        | None => 1,
    };
    if attempt > ATTEMPTS_MAX {
        let message = format!(
            "step `{step}` was begun {ATTEMPTS_MAX} times and never ended: something ends the host agent in the middle of it"
        );
        return fail(step, Code::Internal, message);
    }
    // Also a step that is done already gets its intent, so that undoing it is thought of.
    let mut intents = vec![Event::Started { step, attempt }];
    if step == Step::Upgrade && mutation::is("s8-acts-before-it-writes") {
        intents.clear();
    }
    if step == Step::Start && !hold.first_start && !mutation::is("s12-no-first-start") {
        intents.push(Event::FirstStart);
    }
    Action::Run { intents, step, already, attempt }
}

fn fail(step: Step, code: Code, message: String) -> Action {
    Action::Write(Event::Failed { step, code, message })
}

fn undoing(hold: &Hold, outcome: Option<&Outcome>) -> Action {
    let Some(step) = UNDOABLE.into_iter().find(|step| hold.begun(*step)) else {
        return Action::Write(Event::Ended { state: undone(hold) });
    };
    if let Some(Outcome::Undid(undid, result)) = outcome
        && *undid == step
        && matches!(hold.steps.get(&step), Some(Progress::UndoBegun(_)))
    {
        return Action::Write(match result {
            Ok(success) => {
                Event::Undone { step, seen: success.seen.clone(), took_ms: success.took_ms }
            }
            Err(failure) => {
                Event::UndoFailed { step, code: failure.code, message: failure.message.clone() }
            }
        });
    }
    let attempt = match hold.steps.get(&step) {
        Some(Progress::UndoBegun(times)) => times.saturating_add(1),
        Some(
            Progress::Begun(_)
            | Progress::Done
            | Progress::Failed
            | Progress::UndoFailed
            | Progress::Undone,
        )
        | None => 1,
    };
    if attempt > ATTEMPTS_MAX {
        let message = format!(
            "undoing step `{step}` was begun {ATTEMPTS_MAX} times and never ended: something ends the host agent in the middle of it"
        );
        return Action::Write(Event::UndoFailed { step, code: Code::Internal, message });
    }
    Action::Undo { intent: Event::UndoStarted { step, attempt }, step, attempt }
}

fn undone(hold: &Hold) -> SequenceState {
    let (step, code, message) = reason(hold);
    if hold.disturbed() {
        SequenceState::Undone { step, code, message }
    } else {
        SequenceState::Refused { step, code, message }
    }
}

fn failed(hold: &Hold) -> SequenceState {
    let (step, code, message) = reason(hold);
    SequenceState::Failed { step, code, message, first_start: hold.first_start }
}

fn reason(hold: &Hold) -> (Step, Code, String) {
    hold.failure.as_ref().map_or_else(
        || (Step::Guard, Code::Internal, "the reason was not recorded".to_owned()),
        |f| (f.step, f.code, f.message.clone()),
    )
}
