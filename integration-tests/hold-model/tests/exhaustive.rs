//! S1 to S3 hold in every reachable state within small bounds, and a rule that is left out is missed.
//!
//! The bounds here take half a minute together; larger ones are one command each, see
//! `docs/develop/hold-model.md`.

use hold_model::{
    model::Protocol,
    properties::{S1, S2_OPEN, S2_PROMISED, S3_CLOSED, S3_KEPT},
    rules::{Bounds, Rule},
};
use stateright::{Checker, HasDiscoveries, Model};

/// Checks every state; returns how many there are.
fn holds(bounds: Bounds) -> usize {
    let checker = Protocol::new(bounds, None)
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    for property in checker.model().properties() {
        let found = checker.discovery(property.name).map(|path| path.into_actions());
        let sometimes = property.expectation == stateright::Expectation::Sometimes;
        assert!(found.is_none() || sometimes, "{}: {found:#?}", property.name);
    }
    checker.unique_state_count()
}

/// Leaves a rule out and expects the property to be violated.
fn missed(rule: Rule, property: &'static str, bounds: Bounds) {
    let checker = Protocol::new(bounds, Some(rule))
        .only(property)
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_dfs()
        .join();
    assert!(checker.discovery(property).is_some(), "{rule:?} is not missed by `{property}`");
}

const ONE: Bounds = Bounds { tokens: 1, ..Bounds::PLAIN };

#[test]
fn two_holds_an_operator_and_a_change_of_the_leader() {
    let states = holds(Bounds { acts: 1, leads: 1, ..Bounds::PLAIN });
    assert!(states > 200_000, "{states}");
}

#[test]
fn two_holds_an_operator_and_a_step_that_fails() {
    let states = holds(Bounds { acts: 1, faults: 1, ..Bounds::PLAIN });
    assert!(states > 60_000, "{states}");
}

#[test]
fn a_machine_that_is_switched_off_and_attested_to_be() {
    let states = holds(Bounds { acts: 1, power: 1, ..Bounds::PLAIN });
    assert!(states > 20_000, "{states}");
}

#[test]
fn a_state_that_is_cloned_and_nobody_says_so() {
    let states = holds(Bounds { clones: 1, ..ONE });
    assert!(states > 100_000, "{states}");
}

#[test]
fn a_state_that_is_restored_while_the_old_coordinators_live_on() {
    let states = holds(Bounds { restores: 1, ..ONE });
    assert!(states > 100_000, "{states}");
}

#[test]
fn a_ledger_that_is_lost_or_put_back() {
    let states = holds(Bounds { ledgers: 1, ..ONE });
    assert!(states > 40_000, "{states}");
}

#[test]
fn promises_are_missed() {
    missed(Rule::PromisesAsked, S1, Bounds { clones: 1, ..ONE });
    // The older group must come to the same term, or its orders are refused for that.
    missed(Rule::PromiseKept, S1, Bounds { clones: 1, leads: 1, ..ONE });
    missed(Rule::NoPromiseWhileOpen, S2_OPEN, Bounds { acts: 2, ..Bounds::PLAIN });
}

#[test]
fn closing_is_missed() {
    missed(Rule::ReleaseByEvidence, S3_KEPT, Bounds::PLAIN);
    missed(Rule::CloseRecorded, S3_KEPT, Bounds::PLAIN);
    missed(Rule::CloseKept, S3_CLOSED, Bounds { clones: 1, ..ONE });
}

#[test]
fn a_broken_holds_promise_is_missed() {
    missed(Rule::BreakClosesNothing, S2_OPEN, Bounds { acts: 2, ..Bounds::PLAIN });
}

#[test]
fn the_memory_of_ledgers_is_missed() {
    missed(Rule::FloorTaken, S2_PROMISED, Bounds { ledgers: 1, ..ONE });
    missed(Rule::Amnesia, S1, Bounds { ledgers: 1, ..Bounds::PLAIN });
}
