//! Fail points: named places where a test can end the process at once.
//!
//! Debug builds only; release builds contain none. `GRAYFIN_FAILPOINT=NAME[:N],…` ends the process
//! with code [`EXIT_CODE`] when it reaches one of the places NAME for the N-th time (1 by default). There is
//! one before and after each durable write and each action, and `.torn` places in the middle of a
//! write. [`all`] makes the list from the core's own list of steps, so that a new step cannot be
//! forgotten; `grayfin-agent fail-points` prints it. `GRAYFIN_STOPPOINTS=NAME,NAME,…` makes the
//! process stand still (SIGSTOP) when it first reaches each of these places, so that a test can do
//! something meanwhile and let it go on (SIGCONT).

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use grayfin_agent_core::{
    Body,
    entry::{Event, StagingEvent, Task},
    sequence::UNDOABLE,
};
use grayfin_types::step::{SequenceState, Step};

/// The exit code of a process that reached its fail point.
pub const EXIT_CODE: i32 = 77;

/// The environment variable that names the fail point.
pub const VARIABLE: &str = "GRAYFIN_FAILPOINT";

/// The environment variable that names the places at which the process stands still.
pub const STOPS: &str = "GRAYFIN_STOPPOINTS";

/// The target of the trace of passed places, in debug builds.
pub const TARGET: &str = "grayfin_failpoint";

/// Actions that surround each step.
const ACTS: [&str; 4] = ["settle", "check", "execute", "verify"];

/// In this time a process that was sent SIGSTOP has stopped.
const STOPS_WITHIN: Duration = Duration::from_millis(500);

struct Armed {
    name: String,
    left: AtomicU32,
}

fn armed() -> &'static [Armed] {
    static ARMED: OnceLock<Vec<Armed>> = OnceLock::new();
    ARMED.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok().filter(|_| cfg!(debug_assertions));
        let places = text.as_deref().unwrap_or_default().split(',').filter(|it| !it.is_empty());
        let arm = |place: &str| {
            let (name, times) = place.rsplit_once(':').unwrap_or((place, "1"));
            let left = AtomicU32::new(times.parse().unwrap_or(1));
            Armed { name: name.to_owned(), left }
        };
        places.map(arm).collect()
    })
}

/// Tells whether the process should end now, at the place made of these parts.
pub(crate) fn hit(parts: &[&str]) -> bool {
    if cfg!(debug_assertions) {
        // For tests that ask which places a run passes.
        tracing::trace!(target: TARGET, place = parts.join("."), "passed");
    }
    armed().iter().any(|armed| {
        armed.name.split('.').eq(parts.iter().flat_map(|part| part.split('.')))
            && armed.left.fetch_sub(1, Ordering::SeqCst) == 1
    })
}

/// Takes a place off the list of those at which the process stands still, if it is on it.
fn is_stop(parts: &[&str]) -> bool {
    static LEFT: OnceLock<Mutex<Vec<String>>> = OnceLock::new();
    let left = LEFT.get_or_init(|| {
        let text = std::env::var(STOPS).ok().filter(|_| cfg!(debug_assertions));
        let names = text.as_deref().unwrap_or_default().split(',').filter(|name| !name.is_empty());
        Mutex::new(names.map(str::to_owned).collect())
    });
    let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
    let place = left.iter().position(|name| *name == parts.join("."));
    place.map(|place| left.remove(place)).is_some()
}

#[expect(clippy::disallowed_methods, reason = "nothing may run while it is stopped")]
fn wait_for_stop() {
    std::thread::sleep(STOPS_WITHIN);
}

/// Stands still until somebody sends SIGCONT. Another thread than this one may be the one that
/// takes the signal, and this one must not run on until the whole process has stopped.
fn stand_still(place: &str) {
    tracing::warn!(place, "stop point reached");
    let own = rustix::process::getpid();
    if let Err(error) = rustix::process::kill_process(own, rustix::process::Signal::STOP) {
        tracing::error!(place, %error, "the process cannot stand still");
    }
    wait_for_stop();
}

/// Ends the process if this is the place, or lets it stand still. Steps may have places of their
/// own, named `step.NAME.WHAT`.
pub fn reach(parts: &[&str]) {
    if is_stop(parts) {
        stand_still(&parts.join("."));
    }
    if hit(parts) {
        end(&parts.join("."));
    }
}

/// Ends the process at once, without unwinding, flushing or saying goodbye.
#[expect(clippy::exit, reason = "a fail point stands in for kill -9")]
pub(crate) fn end(place: &str) -> ! {
    tracing::error!(place, "fail point reached");
    std::process::exit(EXIT_CODE)
}

/// Names the kind of a ledger entry.
pub fn name_of(body: &Body) -> String {
    match body {
        Body::Made { .. } => "made".to_owned(),
        Body::Raised { .. } => "raised".to_owned(),
        Body::Welcomed { .. } => "welcomed".to_owned(),
        Body::Promised { .. } => "promised".to_owned(),
        Body::Readmitted { .. } => "readmitted".to_owned(),
        Body::Ordered { order, .. } => format!("ordered.{}", task_name(&order.task)),
        Body::Staging { event, .. } => match event {
            StagingEvent::Started { .. } => "staging.started".to_owned(),
            StagingEvent::Finished { .. } => "staging.finished".to_owned(),
            StagingEvent::Failed { .. } => "staging.failed".to_owned(),
        },
        Body::CanaryAnswered { .. } => "canary_answered".to_owned(),
        Body::Sequence { event, .. } => event_name(event),
    }
}

const fn task_name(task: &Task) -> &'static str {
    match task {
        Task::Stage { .. } => "stage",
        Task::Run { .. } => "run",
        Task::Retry => "retry",
        Task::Undo => "undo",
        Task::Abort => "abort",
        Task::Close => "close",
        Task::CanaryStart { .. } => "canary_start",
        Task::CanaryStop { .. } => "canary_stop",
        Task::CanaryCheck { .. } => "canary_check",
        Task::Debt { .. } => "debt",
    }
}

fn event_name(event: &Event) -> String {
    match event {
        Event::Started { step, .. } => format!("started.{step}"),
        Event::FirstStart => "first_start".to_owned(),
        Event::Finished { step, .. } => format!("finished.{step}"),
        Event::Failed { step, .. } => format!("failed.{step}"),
        Event::UndoStarted { step, .. } => format!("undo_started.{step}"),
        Event::Undone { step, .. } => format!("undone.{step}"),
        Event::UndoFailed { step, .. } => format!("undo_failed.{step}"),
        Event::Captured { .. } => "captured".to_owned(),
        Event::Journal { step, .. } => format!("journal.{step}"),
        Event::GoingDown { .. } => "going_down".to_owned(),
        Event::HostRestarted { .. } => "host_restarted".to_owned(),
        Event::Ended { state } => format!("ended.{}", end_name(state)),
    }
}

const fn end_name(state: &SequenceState) -> &'static str {
    match state {
        SequenceState::Running { .. } => "running",
        SequenceState::Up => "up",
        SequenceState::Refused { .. } => "refused",
        SequenceState::Undone { .. } => "undone",
        SequenceState::Failed { .. } => "failed",
        SequenceState::Closed => "closed",
    }
}

/// Lists every fail point.
pub fn all() -> Vec<String> {
    let mut kinds: Vec<String> =
        ["made", "welcomed", "raised", "promised", "first_start", "captured"]
            .into_iter()
            .chain(["going_down", "host_restarted", "canary_answered", "readmitted"])
            .chain(["staging.started", "staging.finished", "staging.failed"])
            .chain([
                "ordered.stage",
                "ordered.run",
                "ordered.retry",
                "ordered.undo",
                "ordered.abort",
            ])
            .chain(["ordered.close", "ordered.canary_start", "ordered.canary_stop"])
            .chain(["ordered.canary_check", "ordered.debt"])
            .chain(["ended.up", "ended.refused", "ended.undone", "ended.failed"])
            .map(str::to_owned)
            .collect();
    let mut acts = vec!["fetch_package".to_owned(), "tidy".to_owned()];
    for step in Step::ALL {
        for kind in ["started", "finished", "failed", "journal"] {
            kinds.push(format!("{kind}.{step}"));
        }
        acts.extend(ACTS.iter().map(|act| format!("{act}.{step}")));
        if UNDOABLE.contains(&step) {
            for kind in ["undo_started", "undone", "undo_failed"] {
                kinds.push(format!("{kind}.{step}"));
            }
            acts.push(format!("undo.{step}"));
        }
    }
    let mut names = Vec::new();
    for kind in kinds {
        names.extend(["before", "torn", "after"].map(|place| format!("ledger.{kind}.{place}")));
    }
    for act in acts {
        names.extend(["before", "after"].map(|place| format!("act.{act}.{place}")));
    }
    names
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_know_every_step() {
        let names = all();
        let unique: BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        for step in Step::ALL {
            for name in [
                format!("ledger.started.{step}.before"),
                format!("ledger.finished.{step}.torn"),
                format!("act.execute.{step}.after"),
            ] {
                assert!(names.contains(&name), "{name}");
            }
        }
    }

    #[test]
    fn nothing_happens_unless_it_is_asked_for() {
        reach(&["ledger.made", "before"]);
    }
}
