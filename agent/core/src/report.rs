//! What the coordinator is told about each entry. A pure function of the entry, so that after a
//! reconnect the same reports are sent again.

use grayfin_types::{
    HostId, Token,
    step::{Happened, Report, SequenceState, Step},
};

use crate::entry::{Body, Entry, Event, StagingEvent};

/// What a report is about: step, undo or not, what happened, what was seen.
type Told = (Token, Step, bool, Happened, String);

/// Returns the report for the entry at `position`, if it makes one. `chain` is the ledger's running
/// hash there.
pub fn of(host: &HostId, position: u64, chain: &str, entry: &Entry) -> Option<Report> {
    let (token, step, undo, happened, seen) = match &entry.body {
        Body::Ordered { order, answer, .. } if answer.accepted && order.task.needs_token() => {
            let state = answer.state.clone()?;
            (order.token, step_of(&state), false, Happened::State { state }, String::new())
        }
        Body::Sequence { token, event } => sequence(*token, event)?,
        Body::Staging { event, .. } => staging(event),
        Body::Made { .. }
        | Body::Raised { .. }
        | Body::Welcomed { .. }
        | Body::Promised { .. }
        | Body::Readmitted { .. }
        | Body::Ordered { .. }
        | Body::CanaryAnswered { .. } => return None,
    };
    let (host, at_ms) = (host.clone(), entry.at_ms);
    let chain = chain.to_owned();
    Some(Report { host, token, step, undo, happened, seen, position, chain, at_ms })
}

fn sequence(token: Token, event: &Event) -> Option<Told> {
    let nothing = String::new;
    Some(match event {
        Event::Started { step, attempt } => {
            let seen = if *attempt > 1 { format!("attempt {attempt}") } else { nothing() };
            (token, *step, false, Happened::Started, seen)
        }
        Event::Finished { step, seen, took_ms } => {
            (token, *step, false, Happened::Finished { took_ms: *took_ms }, seen.clone())
        }
        Event::Failed { step, code, message } => {
            let happened = Happened::Failed { code: *code, message: message.clone() };
            (token, *step, false, happened, nothing())
        }
        Event::UndoStarted { step, attempt } => {
            let seen = if *attempt > 1 { format!("attempt {attempt}") } else { nothing() };
            (token, *step, true, Happened::Started, seen)
        }
        Event::Undone { step, seen, took_ms } => {
            (token, *step, true, Happened::Finished { took_ms: *took_ms }, seen.clone())
        }
        Event::UndoFailed { step, code, message } => {
            let happened = Happened::Failed { code: *code, message: message.clone() };
            (token, *step, true, happened, nothing())
        }
        Event::Ended { state } => {
            (token, step_of(state), false, Happened::State { state: state.clone() }, nothing())
        }
        Event::FirstStart
        | Event::Captured { .. }
        | Event::Journal { .. }
        | Event::GoingDown { .. }
        | Event::HostRestarted { .. } => return None,
    })
}

fn staging(event: &StagingEvent) -> Told {
    let (happened, seen) = match event {
        StagingEvent::Started { .. } => (Happened::Started, String::new()),
        StagingEvent::Finished { seen, took_ms } => {
            (Happened::Finished { took_ms: *took_ms }, seen.clone())
        }
        StagingEvent::Failed { code, message } => {
            (Happened::Failed { code: *code, message: message.clone() }, String::new())
        }
    };
    (Token(0), Step::Stage, false, happened, seen)
}

/// Returns the step that a state is about.
const fn step_of(state: &SequenceState) -> Step {
    match state {
        SequenceState::Running { step }
        | SequenceState::Refused { step, .. }
        | SequenceState::Undone { step, .. }
        | SequenceState::Failed { step, .. } => *step,
        SequenceState::Up | SequenceState::Closed => Step::Join,
    }
}
