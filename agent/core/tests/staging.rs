//! Staging: repeated after a crash, replaced by a newer order, ended once.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use common::{CLUSTER, Driver, failure, plan, success};
use grayfin_agent_core::{
    Body,
    entry::{StagingEvent, Task},
    report,
    sequence::ATTEMPTS_MAX,
    staging::{self, Action},
    state::{Staging, StagingState},
};
use grayfin_types::{Code, OrderNumber, Token, step::Step};

fn staged(driver: &Driver) -> &Staging {
    let cluster = CLUSTER.parse().unwrap();
    driver.state.cluster(&cluster).unwrap().staging.as_ref().unwrap()
}

fn body(number: u64, event: StagingEvent) -> Body {
    Body::Staging { cluster: CLUSTER.parse().unwrap(), number: OrderNumber(number), event }
}

#[test]
fn staging_is_begun_again_after_a_crash_and_ends_once() {
    let mut driver = Driver::default();
    assert!(driver.order(0, Task::Stage { plan: plan() }));
    for attempt in 1..=2 {
        let Action::Run { intent, .. } = staging::next(staged(&driver), None) else {
            unreachable!()
        };
        assert_eq!(intent, StagingEvent::Started { attempt });
        driver.write(body(1, intent));
        driver.crash();
    }
    let Action::Write(event) = staging::next(staged(&driver), Some(&Ok(success()))) else {
        unreachable!()
    };
    driver.write(body(1, event.clone()));
    assert_eq!(staging::next(staged(&driver), None), Action::Rest);
    assert!(!driver.try_write(body(1, event)), "it ends once");
    let told = report::of(&common::HOST.parse().unwrap(), 4, "c", &driver.entries[3]).unwrap();
    assert_eq!((told.step, told.token, told.position), (Step::Stage, Token(0), 4));
}

#[test]
fn a_newer_order_replaces_an_older_one() {
    let mut driver = Driver::default();
    assert!(driver.order(0, Task::Stage { plan: plan() }));
    assert!(driver.order(0, Task::Stage { plan: plan() }));
    let late = StagingEvent::Started { attempt: 1 };
    assert!(!driver.try_write(body(1, late.clone())), "the older one is over");
    assert!(driver.try_write(body(2, late)));
}

#[test]
fn failures_end_it_and_so_do_crashes_without_end() {
    let mut driver = Driver::default();
    assert!(driver.order(0, Task::Stage { plan: plan() }));
    let failed = Err(failure(Step::Stage));
    let Action::Write(event) = staging::next(staged(&driver), Some(&failed)) else {
        unreachable!()
    };
    driver.write(body(1, event));
    assert_eq!(staged(&driver).stage, StagingState::Failed);

    assert!(driver.order(0, Task::Stage { plan: plan() }));
    for attempt in 1..=ATTEMPTS_MAX {
        driver.write(body(2, StagingEvent::Started { attempt }));
    }
    let Action::Write(StagingEvent::Failed { code, .. }) = staging::next(staged(&driver), None)
    else {
        unreachable!()
    };
    assert_eq!(code, Code::Internal);
}
