//! Random worlds, crashes, restarts, orders and repeats: what must always hold, and that it ends.
#![expect(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test")]

mod common;

use std::collections::BTreeSet;

use common::{Driver, authority, failure, kind, order, plan};
use grayfin_agent_core::{
    Body, Entry, State,
    entry::{Event, Task},
    fence::{self, Promise, Verdict},
    fold, report,
    sequence::{Action, Checked, Outcome},
};
use grayfin_types::{OrderNumber, Token, step::Step};
use proptest::prelude::*;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Happens {
    Well,
    Fails,
    AlreadyDone,
    Crash,
    Reboot,
    Order { task: u8, token: u64, skip: u64 },
    Repeat { back: usize },
    Promise { token: u64 },
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        20 => Just(Happens::Well),
        3 => Just(Happens::Fails),
        2 => Just(Happens::AlreadyDone),
        3 => Just(Happens::Crash),
        1 => Just(Happens::Reboot),
        4 => (0u8..5, 1u64..12, 1u64..3)
            .prop_map(|(task, token, skip)| Happens::Order { task, token, skip }),
        3 => (0usize..6).prop_map(|back| Happens::Repeat { back }),
        2 => (1u64..12).prop_map(|token| Happens::Promise { token }),
    ]
}

fn task(n: u8) -> Task {
    match n {
        0 => Task::Run { plan: plan() },
        1 => Task::Retry,
        2 => Task::Undo,
        3 => Task::Abort,
        _ => Task::Close,
    }
}

fn fail(action: &Action) -> Option<Outcome> {
    match action {
        Action::Check(step) => Some(Outcome::Checked(*step, Checked::Refused(failure(*step)))),
        Action::Run { step, .. } => Some(Outcome::Ran(*step, Err(failure(*step)))),
        Action::Undo { step, .. } => Some(Outcome::Undid(*step, Err(failure(*step)))),
        Action::Rest | Action::Write(_) => None,
    }
}

/// Sends an order; tells whether it was taken (not merely answered again).
fn send(driver: &mut Driver, order: &grayfin_agent_core::entry::Order) -> bool {
    let boot_id = driver.boot_id();
    match fence::order(&driver.state, order, &boot_id) {
        Verdict::Record(body, _) => {
            let Body::Ordered { answer, .. } = &*body else { unreachable!() };
            let taken = answer.accepted;
            driver.write(*body);
            taken
        }
        Verdict::Repeat(_) | Verdict::Refuse(_) => false,
    }
}

/// What must hold after every entry.
fn check(before: &State, entry: &Entry, after: &State) {
    assert!(after.floor >= before.floor, "the floor only grows");
    if let Some(hold) = &after.hold {
        assert!(hold.token > after.floor, "an open token is above the floor");
        if hold.first_start {
            for step in [Step::Stop, Step::Backup, Step::Upgrade] {
                assert!(hold.done(step), "nothing is undone after the first start: {step}");
            }
        }
        if hold.begun(Step::Upgrade) && !hold.first_start {
            assert!(hold.begun(Step::Stop), "nothing is replaced before all is stopped");
        }
    }
    match (&before.hold, &after.hold) {
        (Some(old), None) => {
            assert!(["up", "refused", "undone"].contains(&kind(&old.state())), "{old:?}");
        }
        (Some(old), Some(new)) => assert_eq!(old.token, new.token, "one hold at a time"),
        (None, _) => {}
    }
    if let Body::Sequence { event: Event::Started { step: Step::Upgrade, .. }, .. } = &entry.body {
        assert!(before.hold.as_ref().unwrap().done(Step::Backup), "backup before upgrade");
    }
}

fn live(script: &[Happens]) -> Driver {
    let mut driver = Driver::default();
    let mut sent = vec![order(1, 3, Task::Run { plan: plan() })];
    driver.number = 1;
    let mut taken = BTreeSet::<OrderNumber>::new();
    let mut opened = BTreeSet::<Token>::new();
    let first = sent[0].clone();
    assert!(send(&mut driver, &first));
    taken.insert(first.number);
    opened.insert(first.token);
    for happens in script {
        let from = driver.entries.len();
        let mut before = driver.state.clone();
        match happens {
            Happens::Well => drop(driver.turn(&mut |_| None)),
            Happens::Fails => drop(driver.turn(&mut fail)),
            Happens::AlreadyDone => drop(driver.turn(&mut |action| match action {
                Action::Check(step) => Some(Outcome::Checked(*step, Checked::AlreadyDone)),
                _ => None,
            })),
            Happens::Crash => driver.crash(),
            Happens::Reboot => {
                driver.boot += 1;
                driver.crash();
            }
            Happens::Order { task: n, token, skip } => {
                driver.number += skip;
                let next = order(driver.number, *token, task(*n));
                if send(&mut driver, &next) {
                    assert!(taken.insert(next.number), "order {} ran twice", next.number);
                    if matches!(next.task, Task::Run { .. }) {
                        assert!(opened.insert(next.token), "token {} ran twice", next.token);
                    }
                }
                sent.push(next);
            }
            Happens::Repeat { back } => {
                let at = sent.len().saturating_sub(1 + back);
                let again = sent[at].clone();
                assert!(!send(&mut driver, &again), "a repeat was taken: {again:?}");
            }
            Happens::Promise { token } => {
                let cluster = common::CLUSTER.parse().unwrap();
                let asked =
                    fence::promise(&driver.state, &authority(1, 1), &cluster, Token(*token), None);
                if let Promise::Record(body) = asked {
                    assert!(driver.state.hold.is_none(), "a promise with an open hold");
                    driver.write(body);
                }
            }
        }
        for entry in &driver.entries[from..] {
            let mut after = before.clone();
            after.apply(entry).unwrap();
            check(&before, entry, &after);
            before = after;
        }
    }
    driver
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn rules_hold_and_everything_ends(script in prop::collection::vec(happens(), 0..120)) {
        let mut driver = live(&script);
        prop_assert_eq!(&fold(&driver.entries).unwrap(), &driver.state, "the fold is the state");
        driver.crash();
        let end = driver.finish_well();
        prop_assert!(end.is_none_or(|state| kind(&state) != "running"));
    }

    #[test]
    fn every_prefix_of_a_ledger_is_a_ledger_that_comes_to_an_end(
        script in prop::collection::vec(happens(), 0..80),
        reboot: bool,
        all_fails: bool,
    ) {
        let whole = live(&script);
        for cut in 1..=whole.entries.len() {
            let mut driver = Driver {
                entries: whole.entries[..cut].to_vec(),
                boot: whole.boot + u32::from(reboot),
                ..Driver::default()
            };
            driver.crash();
            let end = driver.finish(|action| if all_fails { fail(action) } else { None });
            prop_assert!(end.is_none_or(|state| kind(&state) != "running"), "cut at {cut}");
        }
    }

    #[test]
    fn entries_survive_json_and_reports_carry_their_place(
        script in prop::collection::vec(happens(), 0..80),
    ) {
        let driver = live(&script);
        let host = common::HOST.parse().unwrap();
        for (position, entry) in (1u64..).zip(&driver.entries) {
            let text = serde_json::to_vec(entry).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<Entry>(&text).unwrap(), entry);
            if let Some(report) = report::of(&host, position, "", entry) {
                prop_assert_eq!(report.position, position);
                let tells = matches!(entry.body, Body::Sequence { .. } | Body::Ordered { .. });
                prop_assert!(tells, "{:?}", entry.body);
            }
        }
    }
}
