//! Promises and orders: what is refused, what is repeated, what is taken.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use common::{CLUSTER, Driver, authority, order, plan};
use grayfin_agent_core::{
    Body,
    entry::Task,
    fence::{self, Promise, Standing, Verdict},
};
use grayfin_types::{
    Code, Incarnation, Token,
    plan::{CanaryOrder, CanarySpec, DebtOrder, Effect},
    raise::Raise,
};

fn promise(driver: &mut Driver, token: u64) -> Result<(), Code> {
    let cluster = CLUSTER.parse().unwrap();
    match fence::promise(&driver.state, &authority(1, 1), &cluster, Token(token), None) {
        Promise::Record(body) => {
            driver.write(body);
            Ok(())
        }
        Promise::Already => Ok(()),
        Promise::Refuse(refusal) => Err(refusal.code),
    }
}

#[test]
fn a_promise_closes_the_way_to_every_token_up_to_it() {
    let mut driver = Driver::default();
    assert_eq!(promise(&mut driver, 0), Err(Code::BadRequest));
    assert_eq!(promise(&mut driver, 5), Ok(()));
    let entries = driver.entries.len();
    assert_eq!(promise(&mut driver, 5), Ok(()), "again");
    assert_eq!(promise(&mut driver, 3), Ok(()), "a late one says nothing new");
    assert_eq!(driver.entries.len(), entries);
    assert_eq!(driver.state.floor, Token(5));
    for late in [4, 5] {
        assert!(!driver.order(late, Task::Run { plan: plan() }), "{late}");
    }
    assert!(driver.order(6, Task::Run { plan: plan() }));
    assert_eq!(promise(&mut driver, 7), Err(Code::HoldOpen));
    driver.finish_well();
    assert_eq!(promise(&mut driver, 7), Err(Code::HoldOpen), "up is not closed");
    assert!(driver.order(6, Task::Close));
    assert_eq!(promise(&mut driver, 7), Ok(()));
}

#[test]
fn a_promise_says_for_which_host_it_was_given() {
    let mut driver = Driver::default();
    let cluster = CLUSTER.parse().unwrap();
    let ask = |driver: &mut Driver, token, held: &str| {
        let held = held.parse().unwrap();
        match fence::promise(&driver.state, &authority(1, 1), &cluster, Token(token), Some(&held)) {
            Promise::Record(body) => driver.write(body),
            Promise::Already => {}
            Promise::Refuse(refusal) => panic!("{refusal:?}"),
        }
        driver.entries.len()
    };
    let first = ask(&mut driver, 5, "db2");
    assert_eq!(ask(&mut driver, 5, "db2"), first, "again");
    // The same token for another host: a clone of the coordinators allotted it too.
    assert_eq!(ask(&mut driver, 5, "db3"), first + 1);
    ask(&mut driver, 9, "db3");
    let known: Vec<_> =
        driver.state.promised_for.iter().map(|(host, token)| (host.as_str(), token.0)).collect();
    assert_eq!(known, [("db2", 5), ("db3", 9)]);
    assert_eq!(driver.state.own, Token(0), "a promise is no hold");
}

#[test]
fn a_ledger_accounts_for_what_was_opened_closed_or_readmitted_here() {
    let mut driver = Driver::running();
    assert_eq!(driver.state.own, Token(5));
    driver.finish_well();
    assert!(driver.order(5, Task::Close));
    let readmit = |act: &str, floor, forget| grayfin_types::ledger::Readmit {
        act: act.to_owned(),
        floor: Token(floor),
        closes: None,
        orders: [].into(),
        forget,
    };
    let authority = authority(1, 1);
    driver.write(Body::Readmitted {
        readmit: readmit("enrolment 2", 8, false),
        authority: authority.clone(),
    });
    assert_eq!((driver.state.floor, driver.state.own), (Token(8), Token(5)), "it proves nothing");
    driver.write(Body::Readmitted { readmit: readmit("act", 9, true), authority });
    assert_eq!(driver.state.own, Token(9));
}

#[test]
fn one_hold_covers_the_whole_machine() {
    let mut driver = Driver::running();
    let mut plan = plan();
    plan.cluster = "risk".parse().unwrap();
    let mut other = order(1, 6, Task::Run { plan });
    other.cluster = "risk".parse().unwrap();
    let Verdict::Record(body, _) = fence::order(&driver.state, &other, "b") else { unreachable!() };
    let Body::Ordered { answer, .. } = &*body else { unreachable!() };
    assert_eq!(answer.code, Some(Code::HoldOpen));
    driver.write(*body);
    assert_eq!(driver.state.open_hold(), Some(Token(5)));
}

#[test]
fn authorities_only_ever_grow() {
    let mut driver = Driver::default();
    assert_eq!(fence::authority(&driver.state, &authority(1, 1)), Ok(Standing::Higher));
    driver.write(Body::Raised { authority: authority(2, 7) });
    assert_eq!(fence::authority(&driver.state, &authority(2, 7)), Ok(Standing::Known));
    assert_eq!(fence::authority(&driver.state, &authority(2, 8)), Ok(Standing::Higher));
    let unproven = fence::authority(&driver.state, &authority(3, 1)).unwrap_err();
    assert_eq!(unproven.code, Code::CoordinatorRefused);
    let mut stranger = authority(9, 9);
    stranger.group = "other".to_owned();
    let mut nobody = authority(9, 9);
    nobody.group = String::new();
    for old in [authority(2, 6), authority(1, 99), stranger, nobody] {
        assert_eq!(fence::authority(&driver.state, &old).unwrap_err().code, Code::TokenStale);
        let mut late = order(1, 5, Task::Run { plan: plan() });
        late.authority = old.clone();
        assert!(matches!(fence::order(&driver.state, &late, "b"), Verdict::Refuse(_)));
        let cluster = CLUSTER.parse().unwrap();
        let asked = fence::promise(&driver.state, &old, &cluster, Token(9), None);
        assert!(matches!(asked, Promise::Refuse(_)));
        assert!(!driver.try_write(Body::Raised { authority: old }));
    }
}

#[test]
fn an_order_runs_once_and_is_answered_alike_for_ever() {
    let mut driver = Driver::default();
    let run = order(4, 5, Task::Run { plan: plan() });
    let Verdict::Record(body, _) = fence::order(&driver.state, &run, "b") else { unreachable!() };
    let Body::Ordered { answer: first, .. } = (*body).clone() else { unreachable!() };
    driver.write(*body.clone());
    assert!(!driver.try_write(*body), "the ledger itself refuses a repeat");
    for term in [1, 2] {
        let mut again = run.clone();
        again.authority = authority(1, term);
        assert_eq!(fence::order(&driver.state, &again, "b"), Verdict::Repeat(first.clone()));
    }
    for older in [0, 1, 3] {
        let late = order(older, 5, Task::Abort);
        assert!(matches!(fence::order(&driver.state, &late, "b"), Verdict::Refuse(_)), "{older}");
    }
    // Another installation counts its own orders.
    let mut other = order(1, 0, Task::Stage { plan: plan() });
    other.cluster = "risk".parse().unwrap();
    assert!(matches!(fence::order(&driver.state, &other, "b"), Verdict::Record(..)));
}

#[test]
fn another_order_under_a_number_that_was_used_gets_no_answer_of_the_first() {
    let mut driver = Driver::default();
    let stage = order(4, 0, Task::Stage { plan: plan() });
    let Verdict::Record(body, first) = fence::order(&driver.state, &stage, "b") else {
        unreachable!()
    };
    driver.write(*body);
    assert_eq!(fence::order(&driver.state, &stage, "b"), Verdict::Repeat(first));
    let mut of_another = stage.clone();
    of_another.rollout = "other".parse().unwrap();
    let mut later_plan = plan();
    later_plan.hash = "another".to_owned();
    let others = [
        of_another,
        order(4, 7, Task::Stage { plan: plan() }),
        order(4, 5, Task::Run { plan: plan() }),
        order(4, 0, Task::Stage { plan: later_plan }),
    ];
    for other in others {
        let verdict = fence::order(&driver.state, &other, "b");
        assert!(matches!(verdict, Verdict::Refuse(_)), "{verdict:?}");
    }
    // Numbers count anew after the coordinators were restored: it is not known to be the same.
    driver.write(Body::Welcomed { authority: authority(2, 1), membership: 0 });
    let mut restored = stage;
    restored.authority = authority(2, 1);
    assert!(matches!(fence::order(&driver.state, &restored, "b"), Verdict::Refuse(_)));
}

#[test]
fn a_refused_order_uses_its_number_up() {
    let mut driver = Driver::running();
    assert!(!driver.order(5, Task::Close), "still running");
    let number = driver.number;
    driver.finish_well();
    let again = order(number, 5, Task::Close);
    let Verdict::Repeat(answer) = fence::order(&driver.state, &again, "b") else { unreachable!() };
    assert!(!answer.accepted, "what was refused once stays refused under its number");
}

#[test]
fn orders_that_do_not_fit_are_refused_with_their_reason() {
    let canary = |rollout: &str| CanaryOrder {
        rollout: rollout.parse().unwrap(),
        epoch: 1,
        spec: CanarySpec::New { rows_per_second: 50 },
    };
    let mut stranger = plan();
    stranger.hosts[0].host = "other".parse().unwrap();
    let mut elsewhere = plan();
    elsewhere.cluster = "risk".parse().unwrap();
    let rows = [
        (0, Task::Run { plan: plan() }, Code::BadRequest),
        (6, Task::Run { plan: stranger.clone() }, Code::BadRequest),
        (6, Task::Run { plan: elsewhere.clone() }, Code::BadRequest),
        (0, Task::Stage { plan: stranger }, Code::BadRequest),
        (0, Task::Stage { plan: elsewhere }, Code::BadRequest),
        (6, Task::Retry, Code::TokenStale),
        (6, Task::Undo, Code::TokenStale),
        (6, Task::Abort, Code::TokenStale),
        (0, Task::Abort, Code::BadRequest),
        (0, Task::CanaryCheck { canary: canary("r2") }, Code::BadRequest),
    ];
    for (token, task, code) in rows {
        let order = order(1, token, task.clone());
        let state = Driver::default().state;
        let Verdict::Record(body, _) = fence::order(&state, &order, "b") else { unreachable!() };
        let Body::Ordered { answer, .. } = *body else { unreachable!() };
        assert_eq!(answer.code, Some(code), "{task:?}");
    }
    let mut running = Driver::running();
    for task in [Task::Retry, Task::Undo, Task::Abort] {
        assert!(!running.order(4, task), "an older token");
    }
    assert!(!running.order(6, Task::Close), "a token that is not open");
    assert_eq!(running.state.open_hold(), Some(Token(5)));
}

#[test]
fn a_token_that_was_never_opened_here_can_be_closed_for_good() {
    let mut driver = Driver::default();
    assert!(driver.order(5, Task::Close));
    assert!(!driver.order(5, Task::Run { plan: plan() }), "a late run after the close");
    assert!(driver.order(5, Task::Close), "again under another number");
}

#[test]
fn canary_orders_are_owed_until_they_are_answered() {
    let canary = CanaryOrder {
        rollout: "r1".parse().unwrap(),
        epoch: 1,
        spec: CanarySpec::New { rows_per_second: 50 },
    };
    let mut driver = Driver::default();
    let cluster = CLUSTER.parse().unwrap();
    assert!(driver.order(0, Task::CanaryStart { canary: canary.clone() }));
    assert!(driver.state.cluster(&cluster).unwrap().canary.is_some());
    assert!(driver.order(0, Task::CanaryCheck { canary: canary.clone() }));
    assert!(driver.order(0, Task::CanaryStop { canary }));
    let known = driver.state.cluster(&cluster).unwrap();
    assert!(known.canary.is_none());
    let owed: Vec<_> = known.canary_owed.keys().copied().collect();
    assert_eq!(owed.len(), 2);
    for number in owed {
        let body = Body::CanaryAnswered { cluster: cluster.clone(), number };
        driver.write(body.clone());
        assert!(!driver.try_write(body));
    }
}

#[test]
fn a_removed_coordinator_and_a_copy_from_before_the_growth_are_not_listened_to() {
    let mut driver = Driver::default();
    let welcome = |driver: &mut Driver, term, membership| match fence::welcome(
        &driver.state,
        &authority(1, term),
        membership,
        None,
    ) {
        Ok(Some(body)) => {
            driver.write(body);
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(refusal) => Err(refusal.code),
    };
    assert_eq!(welcome(&mut driver, 3, 0), Ok(()), "a group of one");
    assert_eq!(welcome(&mut driver, 3, 12), Ok(()), "it grew");
    let entries = driver.entries.len();
    assert_eq!(welcome(&mut driver, 3, 12), Ok(()));
    assert_eq!(driver.entries.len(), entries, "nothing new to record");
    // However often the copy elected itself since.
    assert_eq!(welcome(&mut driver, 99, 0), Err(Code::CoordinatorRefused));
    assert_eq!(welcome(&mut driver, 2, 12), Err(Code::TokenStale), "an old leader");
    assert_eq!(welcome(&mut driver, 4, 15), Ok(()));
    assert_eq!(driver.entries.len(), entries + 1);
}

#[test]
fn a_higher_incarnation_needs_the_operators_act_for_it() {
    let mut driver = Driver::default();
    driver.write(fence::welcome(&driver.state, &authority(1, 9), 12, None).unwrap().unwrap());
    let act = |group: &str, from, to| Raise {
        group: group.to_owned(),
        from: Incarnation(from),
        to: Incarnation(to),
        act: "restore".to_owned(),
        reason: "the disk died".to_owned(),
        at_ms: 1,
    };
    let raised = |driver: &Driver, raise: Option<&Raise>| {
        fence::welcome(&driver.state, &authority(2, 1), 0, raise).map_err(|refusal| refusal.code)
    };
    let refused = Err(Code::CoordinatorRefused);
    assert_eq!(raised(&driver, None), refused);
    for other in [act("h", 1, 2), act("g", 1, 3), act("g", 0, 2)] {
        assert_eq!(raised(&driver, Some(&other)), refused, "{other:?}");
    }
    // Nor by an order or a promise in a session that began lower.
    assert!(fence::authority(&driver.state, &authority(2, 1)).is_err());
    let body = raised(&driver, Some(&act("g", 1, 2))).unwrap().unwrap();
    driver.write(body);
    assert_eq!(driver.state.membership, 0, "places in a log compare within one incarnation");
    assert_eq!(fence::authority(&driver.state, &authority(2, 1)), Ok(Standing::Known));
    assert!(fence::welcome(&driver.state, &authority(1, 99), 99, None).is_err());
}

#[test]
fn a_debts_order_needs_no_token_leaves_the_hold_alone_and_keeps_its_outcome() {
    let debt = |pay| DebtOrder { debt: 1, effect: Effect::SuspendedRecovery, pay, without: vec![] };
    let mut driver = Driver::running();
    let hold = driver.state.hold.clone();
    assert!(driver.order(0, Task::Debt { debt: debt(false), failed: None }));
    let failed = Some("`ctl2` was not reached".to_owned());
    assert!(!driver.order(0, Task::Debt { debt: debt(true), failed }));
    assert_eq!(driver.state.hold, hold);
    // What was answered is answered again, whatever came of it the second time.
    let cluster = CLUSTER.parse().unwrap();
    let last = driver.state.cluster(&cluster).unwrap().last_order.clone().unwrap();
    let before = last.answer;
    let again = order(last.number.0, 0, Task::Debt { debt: debt(true), failed: None });
    let verdict = fence::order(&driver.state, &again, "b");
    assert_eq!(verdict, Verdict::Repeat(before.clone()));
    assert_eq!(
        (before.code, before.why.as_str()),
        (Some(Code::DebtOpen), "`ctl2` was not reached")
    );
}
