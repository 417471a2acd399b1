//! The sequence, table by table: every step failing, every order in every state, every restart.
#![expect(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test")]

mod common;

use common::{Driver, failure, kind};
use grayfin_agent_core::{
    Body,
    entry::{Event, Task},
    sequence::{ATTEMPTS_MAX, Action, Checked, Outcome},
    state::Phase,
};
use grayfin_types::{
    Code,
    step::{SequenceState, Step},
};

/// Makes the first run (or check) of `step` fail.
fn fails(step: Step) -> impl FnMut(&Action) -> Option<Outcome> {
    let mut left = 1;
    move |action| match action {
        Action::Run { step: now, .. } if *now == step && left > 0 => {
            left -= 1;
            Some(Outcome::Ran(step, Err(failure(step))))
        }
        Action::Run { .. }
        | Action::Rest
        | Action::Write(_)
        | Action::Check(_)
        | Action::Undo { .. } => None,
    }
}

/// A driver that ended as `failed`, before or after the first start.
fn failed(first_start: bool) -> Driver {
    let mut driver = Driver::running();
    let state = if first_start {
        driver.finish(|action| match action {
            Action::Run { step: Step::Start, .. } => {
                Some(Outcome::Ran(Step::Start, Err(failure(Step::Start))))
            }
            Action::Run { .. }
            | Action::Rest
            | Action::Write(_)
            | Action::Check(_)
            | Action::Undo { .. } => None,
        })
    } else {
        let mut broken = fails(Step::Upgrade);
        driver.finish(|action| match action {
            Action::Undo { step: Step::Stop, .. } => {
                Some(Outcome::Undid(Step::Stop, Err(failure(Step::Stop))))
            }
            Action::Undo { .. }
            | Action::Rest
            | Action::Write(_)
            | Action::Check(_)
            | Action::Run { .. } => broken(action),
        })
    };
    assert_eq!(state.as_ref().map(kind), Some("failed"));
    driver
}

#[test]
fn everything_goes_well_with_an_intent_before_each_act() {
    let mut driver = Driver::running();
    let from = driver.entries.len();
    assert_eq!(driver.finish_well(), Some(SequenceState::Up));
    let expected = [
        "started stage 1",
        "finished stage",
        "started guard 1",
        "finished guard",
        "started quiesce 1",
        "going-down",
        "finished quiesce",
        "started stop 1",
        "going-down",
        "finished stop",
        "started backup 1",
        "finished backup",
        "started upgrade 1",
        "finished upgrade",
        "started start 1",
        "first-start",
        "finished start",
        "started join 1",
        "finished join",
        "ended up",
    ];
    assert_eq!(driver.trace(from), expected);
}

#[test]
fn a_failed_step_is_undone_in_reverse_before_the_first_start_and_never_after() {
    use Step::{Backup, Guard, Join, Quiesce, Stage, Start, Stop, Upgrade};
    let rows: [(Step, &str, &[Step]); 8] = [
        (Stage, "refused", &[]),
        (Guard, "refused", &[]),
        (Quiesce, "refused", &[Quiesce]),
        (Stop, "undone", &[Stop, Quiesce]),
        (Backup, "undone", &[Backup, Stop, Quiesce]),
        (Upgrade, "undone", &[Upgrade, Backup, Stop, Quiesce]),
        (Start, "up", &[]),
        (Join, "up", &[]),
    ];
    for (step, end, undone) in rows {
        let mut driver = Driver::running();
        let state = driver.finish(fails(step)).unwrap();
        assert_eq!(kind(&state), end, "{step}");
        let seen: Vec<Step> = driver
            .entries
            .iter()
            .filter_map(|entry| match &entry.body {
                Body::Sequence { event: Event::Undone { step, .. }, .. } => Some(*step),
                _ => None,
            })
            .collect();
        assert_eq!(seen, undone, "{step}");
    }
}

#[test]
fn a_look_that_refuses_is_a_failure_and_a_step_found_done_still_gets_its_intent() {
    for step in Step::ALL {
        let mut driver = Driver::running();
        let state = driver.finish(|action| {
            (*action == Action::Check(step))
                .then(|| Outcome::Checked(step, Checked::Refused(failure(step))))
        });
        let end = match step {
            Step::Stage | Step::Guard | Step::Quiesce => "refused",
            Step::Stop | Step::Backup | Step::Upgrade | Step::Start => "undone",
            Step::Join => "failed",
        };
        assert_eq!(state.as_ref().map(kind), Some(end), "{step}");

        let mut driver = Driver::running();
        let mut already_run = false;
        let state = driver.finish(|action| {
            already_run |=
                matches!(action, Action::Run { step: now, already: true, .. } if *now == step);
            (*action == Action::Check(step)).then_some(Outcome::Checked(step, Checked::AlreadyDone))
        });
        assert_eq!(state, Some(SequenceState::Up), "{step}");
        assert!(already_run, "{step}");
        assert!(driver.trace(0).contains(&format!("started {step} 1")), "{step}");
        assert!(driver.trace(0).contains(&"first-start".to_owned()), "{step}");
    }
}

#[test]
fn after_the_first_start_starting_is_repeated_but_not_for_ever() {
    let driver = failed(true);
    // start_attempts is 2 in this plan: once, and twice again.
    let starts = driver.trace(0).iter().filter(|w| *w == "started start 1").count();
    assert_eq!(starts, 3);
    let Phase::Ended(SequenceState::Failed { first_start, .. }) = driver.hold().phase else {
        unreachable!("{:?}", driver.hold().phase)
    };
    assert!(first_start);
    assert!(!driver.trace(0).iter().any(|w| w.starts_with("undo")));
}

#[test]
fn a_crash_in_a_step_repeats_it_and_one_that_always_crashes_ends() {
    for step in Step::ALL {
        let mut driver = Driver::at(step);
        for _ in 0..3 {
            while !matches!(driver.next(), Action::Run { .. }) {
                driver.turn(&mut |_| None);
            }
            driver.turn(&mut |_| None);
            driver.crash();
        }
        assert_eq!(driver.finish_well(), Some(SequenceState::Up), "{step}");
        assert!(driver.trace(0).contains(&format!("started {step} 4")), "{step}");
    }
    let mut driver = Driver::at(Step::Backup);
    for _ in 0..ATTEMPTS_MAX {
        while !matches!(driver.next(), Action::Run { .. }) {
            driver.turn(&mut |_| None);
        }
        driver.turn(&mut |_| None);
        driver.crash();
    }
    let state = driver.finish_well().unwrap();
    assert!(matches!(
        state,
        SequenceState::Undone { step: Step::Backup, code: Code::Internal, .. }
    ));
}

#[test]
fn an_undo_that_always_crashes_ends_too() {
    let mut driver = Driver::at(Step::Upgrade);
    assert!(driver.order(5, Task::Abort));
    for _ in 0..ATTEMPTS_MAX {
        while !matches!(driver.next(), Action::Undo { .. }) {
            driver.turn(&mut |_| None);
        }
        driver.turn(&mut |_| None);
        driver.crash();
    }
    assert_eq!(driver.finish_well().as_ref().map(kind), Some("failed"));
}

#[test]
fn a_restart_of_the_machine_leads_back_or_forward_as_its_place_says() {
    use Step::{Backup, Guard, Join, Quiesce, Stage, Start, Stop, Upgrade};
    let rows = [
        (Stage, "up"),
        (Guard, "up"),
        (Quiesce, "up"),
        (Stop, "undone"),
        (Backup, "undone"),
        (Upgrade, "up"),
        (Start, "up"),
        (Join, "up"),
    ];
    for (step, end) in rows {
        let mut driver = Driver::at(step);
        driver.boot += 1;
        driver.crash();
        let from = driver.entries.len();
        let state = driver.finish_well().unwrap();
        assert_eq!(kind(&state), end, "{step}");
        let trace = driver.trace(from);
        assert_eq!(trace.first().map(String::as_str), Some("host-restarted"), "{step}");
        match step {
            Stage | Guard | Quiesce => assert!(trace.contains(&"started guard 1".to_owned())),
            Stop | Backup => assert!(trace.contains(&format!("failed {step} GF0512"))),
            Upgrade | Start => assert!(!trace.contains(&"started stop 1".to_owned())),
            Join => assert!(trace.contains(&"started start 1".to_owned()), "{trace:?}"),
        }
    }
    // Up, but the hold is still open: brought up again.
    let mut driver = Driver::running();
    driver.finish_well();
    driver.boot += 1;
    let from = driver.entries.len();
    assert_eq!(driver.finish_well(), Some(SequenceState::Up));
    assert!(driver.trace(from).contains(&"started start 1".to_owned()));
}

#[test]
fn a_restart_while_undoing_starts_again_what_was_started() {
    let mut driver = Driver::at(Step::Upgrade);
    assert!(driver.order(5, Task::Abort));
    while !driver.trace(0).contains(&"undone stop".to_owned()) {
        driver.turn(&mut |_| None);
    }
    driver.boot += 1;
    let from = driver.entries.len();
    assert_eq!(driver.finish_well().as_ref().map(kind), Some("undone"));
    let trace = driver.trace(from);
    assert!(trace.contains(&"undone stop".to_owned()), "{trace:?}");
    assert!(trace.contains(&"undone quiesce".to_owned()), "{trace:?}");
}

#[test]
fn abort_and_undo_turn_round_where_they_may_at_every_step() {
    for step in Step::ALL {
        for (task, name) in [(Task::Abort, "abort"), (Task::Undo, "undo")] {
            let mut driver = Driver::at(step);
            let accepted = driver.order(5, task);
            let end = driver.finish_well();
            let end = end.as_ref().map(kind);
            let expected = match (step, name) {
                (Step::Stage | Step::Guard | Step::Quiesce, _) => Some("refused"),
                (Step::Stop | Step::Backup, _) => Some("undone"),
                // At `Upgrade` it has not begun yet; at `Start` the first start has not.
                (Step::Upgrade, _) | (Step::Start, "undo") => Some("undone"),
                _ => Some("up"),
            };
            assert_eq!(end, expected, "{name} at {step}");
            // At `Join` the first start is past: undo is refused, abort goes forward.
            assert_eq!(accepted, !(step == Step::Join && name == "undo"), "{name} at {step}");
        }
    }
}

#[test]
fn an_order_that_comes_between_intent_and_act_wins() {
    let mut driver = Driver::at(Step::Start);
    driver.turn(&mut |_| None);
    let Action::Run { intents, .. } = driver.next() else { unreachable!() };
    assert!(driver.order(5, Task::Undo));
    let token = driver.state.open_hold().unwrap();
    for event in intents {
        assert!(!driver.try_write(Body::Sequence { token, event }));
    }
    assert_eq!(driver.finish_well().as_ref().map(kind), Some("undone"));
}

#[test]
fn each_order_in_each_ended_state_is_answered_as_the_table_says() {
    let ended = |end: &str| match end {
        "refused" => {
            let mut driver = Driver::running();
            driver.finish(fails(Step::Guard));
            driver
        }
        "undone" => {
            let mut driver = Driver::running();
            driver.finish(fails(Step::Upgrade));
            driver
        }
        "up" => {
            let mut driver = Driver::running();
            driver.finish_well();
            driver
        }
        "failed before" => failed(false),
        _ => failed(true),
    };
    // Order, state, taken?, and how it ends when all goes well from there.
    let rows = [
        ("retry", "refused", true, "up"),
        ("retry", "undone", true, "up"),
        ("retry", "up", false, "up"),
        ("retry", "failed before", true, "up"),
        ("retry", "failed after", true, "up"),
        ("undo", "refused", true, "refused"),
        ("undo", "undone", true, "undone"),
        ("undo", "up", false, "up"),
        ("undo", "failed before", true, "undone"),
        ("undo", "failed after", false, "failed"),
        ("abort", "refused", true, "refused"),
        ("abort", "undone", true, "undone"),
        ("abort", "up", true, "up"),
        ("abort", "failed before", true, "undone"),
        ("abort", "failed after", true, "up"),
        ("close", "refused", true, "closed"),
        ("close", "undone", true, "closed"),
        ("close", "up", true, "closed"),
        ("close", "failed before", false, "failed"),
        ("close", "failed after", false, "failed"),
    ];
    for (name, state, taken, end) in rows {
        let task = match name {
            "retry" => Task::Retry,
            "undo" => Task::Undo,
            "abort" => Task::Abort,
            _ => Task::Close,
        };
        let mut driver = ended(state);
        assert_eq!(driver.order(5, task), taken, "{name} when {state}");
        let told = driver.entries.last().map(|entry| match &entry.body {
            Body::Ordered { answer, .. } => answer.state.clone(),
            _ => None,
        });
        let now = driver.state.hold.as_ref().map_or(SequenceState::Closed, |hold| hold.state());
        assert_eq!(told, Some(taken.then_some(now)), "the answer is the state after the order");
        let now = driver.finish_well();
        assert_eq!(now.as_ref().map_or("closed", kind), end, "{name} when {state}");
        if end == "closed" {
            assert_eq!(driver.state.floor.0, 5);
            assert!(!driver.order(5, Task::Run { plan: common::plan() }), "closed for ever");
        }
    }
}

/// A host whose upgrade failed, and could not be undone, and was ordered to be tried again; with the
/// number of entries then.
fn retried_in_the_middle_of_an_upgrade() -> (Driver, usize) {
    let mut driver = Driver::running();
    let mut broken = fails(Step::Upgrade);
    driver.finish(|action| match action {
        Action::Undo { step: Step::Upgrade, .. } => {
            Some(Outcome::Undid(Step::Upgrade, Err(failure(Step::Upgrade))))
        }
        _ => broken(action),
    });
    assert!(driver.order(5, Task::Retry));
    let from = driver.entries.len();
    (driver, from)
}

#[test]
fn a_half_made_upgrade_is_undone_when_the_retry_is_refused_by_the_guard() {
    // The undo of the upgrade fails, an operator retries, the guard says no: the upgrade must
    // still be known as begun.
    let (mut driver, from) = retried_in_the_middle_of_an_upgrade();
    let end = driver.finish(fails(Step::Guard));
    assert_eq!(end.as_ref().map(kind), Some("undone"));
    assert!(driver.trace(from).contains(&"undone upgrade".to_owned()));
}

#[test]
fn after_an_undo_a_retry_proves_the_package_again_but_not_in_the_middle_of_an_upgrade() {
    // Files of the new software lay in the installation for a while and were moved back.
    let mut driver = Driver::running();
    driver.finish(fails(Step::Upgrade));
    assert!(driver.order(5, Task::Retry));
    let from = driver.entries.len();
    driver.finish_well();
    assert!(driver.trace(from).contains(&"started stage 1".to_owned()), "{:?}", driver.trace(from));
    // A half-made upgrade needs what is left of the unpacked package as it is.
    let (mut driver, from) = retried_in_the_middle_of_an_upgrade();
    driver.finish_well();
    assert!(
        !driver.trace(from).contains(&"started stage 1".to_owned()),
        "{:?}",
        driver.trace(from)
    );
}

#[test]
fn journals_end_with_their_undo_and_captured_values_stay() {
    let mut driver = Driver::at(Step::Stop);
    driver.turn(&mut |_| None);
    driver.turn(&mut |_| None);
    let value = |n: u64| serde_json::json!(n);
    driver.event(Event::Captured { key: "unit".to_owned(), value: value(1) });
    driver.event(Event::Captured { key: "unit".to_owned(), value: value(2) });
    driver.event(Event::Journal { step: Step::Stop, key: "pid".to_owned(), value: value(3) });
    assert_eq!(driver.hold().captured("unit"), Some(&value(1)), "the first one counts");
    assert_eq!(driver.hold().journal(Step::Stop, "pid").count(), 1);
    assert_eq!(driver.hold().journal(Step::Stop, "other").count(), 0);
    assert!(driver.order(5, Task::Abort));
    driver.finish_well();
    assert_eq!(driver.hold().journal(Step::Stop, "pid").count(), 0);
    assert_eq!(driver.hold().captured("unit"), Some(&value(1)));
}
