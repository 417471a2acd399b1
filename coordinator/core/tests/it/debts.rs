//! Changes to the cluster as a whole: recorded before they are made, and always undone (S10).

use grayfin_coordinator_core::{Response, cmd::Action, explain::explain, status};
use grayfin_types::{
    Code,
    event::Body,
    facts::Probe,
    plan::{CanarySpec, Effect, RecoveryPolicy},
    status::RolloutState,
    step::Step,
};

use crate::{
    agent::Fault,
    model::{alias, cluster, host},
    world::{World, request},
};

fn suspending() -> World {
    let mut world = World::new(3);
    let mut wish = request(CanarySpec::Off);
    wish.recovery = Some(RecoveryPolicy::Suspend);
    let answer = world.start(&wish);
    assert!(answer.ready, "{:#?}", answer.findings);
    world
}

/// What happened to debts and holds, in order.
fn story(world: &World) -> Vec<String> {
    let words = |body: &Body| match body {
        Body::Debt { debt, effect: Effect::SuspendedRecovery, state, .. } => {
            Some(format!("{debt} {state}"))
        }
        Body::Granted { host, .. } => Some(format!("granted {host}")),
        Body::HostVerified { host, .. } => Some(format!("verified {host}")),
        _ => None,
    };
    world.bodies().filter_map(words).collect()
}

fn done(world: &World) -> (usize, usize) {
    let all: Vec<_> = world.agents.values().flat_map(|a| a.effects.iter()).collect();
    (all.iter().filter(|d| !d.pay).count(), all.iter().filter(|d| d.pay).count())
}

#[test]
fn an_effect_is_recorded_made_and_undone_before_the_host_counts_as_done() {
    let mut world = suspending();
    world.finish(RolloutState::Succeeded);
    let mut expected = Vec::new();
    for (debt, host) in [(1, "db2"), (2, "db3"), (3, "db1")] {
        expected.extend([
            format!("{debt} recorded"),
            format!("{debt} in force"),
            format!("granted {host}"),
            format!("{debt} paid"),
            format!("verified {host}"),
        ]);
    }
    // The leader moved while its host was down: another one was told as well.
    assert_eq!(story(&world), expected);
    assert!(world.state.debts.is_empty());
    let (made, undone) = done(&world);
    assert!(made >= 3 && undone == 3, "{made} {undone}");
}

#[test]
fn a_coordinator_that_dies_at_any_moment_pays_every_debt() {
    for at in (1..300).step_by(23) {
        let mut world = suspending();
        for _ in 0..at {
            world.step();
        }
        world.restart_coordinator();
        world.finish(RolloutState::Succeeded);
        assert!(world.state.debts.is_empty(), "restart after {at} steps");
    }
}

#[test]
fn another_leader_is_told_again() {
    let mut world = suspending();
    world.until("db2 is down", |w| w.model.of_host(&host(2)).all(|n| !n.up));
    let (before, _) = done(&world);
    world.model.leader = Some(alias("ctl3"));
    world.until("it is made again", |w| done(w).0 > before);
    world.finish(RolloutState::Succeeded);
    assert!(world.state.debts.is_empty());
}

#[test]
fn no_hold_is_granted_before_the_effect_is_confirmed() {
    let mut world = suspending();
    for agent in world.agents.values_mut() {
        agent.cannot_reach = true;
    }
    for _ in 0..200 {
        world.step();
    }
    assert!(world.granted().is_empty());
    let waiting = &world.state.rollouts[&world.id].waiting;
    assert!(waiting.iter().any(|r| r.code == Code::DebtOpen), "{waiting:?}");
    let explained = explain(&world.state, &world.view, &world.id, world.now_ms).unwrap();
    assert!(explained.waiting[0].evidence.contains("ctl2 not reached"), "{explained:?}");
    assert!(status::holds(&world.state)[0].debts[0].starts_with("debt 1: recovery is suspended"));
    let asked = world.state.debts[0].attempts;
    assert!((5..20).contains(&asked), "it is asked again, with pauses: {asked}");
    for agent in world.agents.values_mut() {
        agent.cannot_reach = false;
    }
    world.finish(RolloutState::Succeeded);
}

#[test]
fn a_failed_host_keeps_its_debt_shown_until_it_is_up_or_the_limit_is_reached() {
    let mut world = suspending();
    world.agents.get_mut(&host(2)).unwrap().fault = Some(Fault::Fail(Step::Start));
    world.until_state(RolloutState::Halted);
    for _ in 0..50 {
        world.step();
    }
    assert_eq!(world.state.debts.len(), 1);
    let explained = explain(&world.state, &world.view, &world.id, world.now_ms).unwrap();
    assert!(explained.waiting.iter().any(|r| r.code == Code::DebtOpen), "{explained:#?}");
    // Nobody comes for hours.
    world.now_ms += world.state.debts[0].limit_ms;
    world.until("it is paid all the same", |w| w.state.debts.is_empty());
    assert_eq!(world.held(), Some(host(2)));
    world.agents.get_mut(&host(2)).unwrap().fault = None;
    assert_eq!(world.control(Action::Retry), Response::Done);
    world.finish(RolloutState::Succeeded);
    assert!(world.state.debts.is_empty());
}

#[test]
fn an_abort_and_a_break_pay_what_is_open() {
    let mut world = suspending();
    world.until("db2 is down", |w| w.model.of_host(&host(2)).all(|n| !n.up));
    assert_eq!(world.control(Action::Abort), Response::Done);
    world.finish(RolloutState::Aborted);
    assert!(world.state.debts.is_empty());

    let mut world = suspending();
    world.until("db2 is down", |w| w.model.of_host(&host(2)).all(|n| !n.up));
    let token = world.token();
    assert_eq!(world.control(Action::BreakHold { token }), Response::Done);
    world.until("it is paid after the end", |w| w.state.debts.is_empty());
    assert_eq!(world.state.active(&cluster()).map(|r| r.id.clone()), None);
}

#[test]
fn nothing_that_was_stopped_is_started_again_by_a_controller() {
    let mut world = World::new(3);
    world.model.restart_interval_s = Probe::Known(60);
    let mut wish = request(CanarySpec::Off);
    wish.recovery = Some(RecoveryPolicy::Suspend);
    assert!(world.start(&wish).ready);
    world.until("db2 is down", |w| w.model.of_host(&host(2)).all(|n| !n.up));
    assert_eq!(world.model.restart_interval_s, Probe::Known(0));
    world.finish(RolloutState::Succeeded);
    let debts = world.bodies().filter_map(|body| match body {
        Body::Debt { effect: Effect::RestartInterval { original_s }, state, .. } => {
            Some(format!("{original_s} {state}"))
        }
        _ => None,
    });
    // Each host reads what was there before, not what the host before it left behind.
    let once = ["60 recorded", "60 in force", "60 paid"];
    assert_eq!(debts.collect::<Vec<_>>(), [once, once, once].concat());
    assert_eq!(world.model.restart_interval_s, Probe::Known(60));
}

#[test]
fn a_restart_interval_that_is_off_or_cannot_be_read_is_left_alone() {
    for seen in [Probe::Known(0), Probe::Unknown("not asked".to_owned())] {
        let mut world = World::new(3);
        world.model.restart_interval_s = seen;
        assert!(world.start(&request(CanarySpec::Off)).ready);
        world.finish(RolloutState::Succeeded);
        assert_eq!(done(&world), (0, 0));
    }
}

#[test]
fn what_a_broken_hold_left_behind_is_undone() {
    let mut world = World::new(3);
    world.model.restart_interval_s = Probe::Known(60);
    assert!(world.start(&request(CanarySpec::Off)).ready);
    world.until("db2 is down", |w| w.model.of_host(&host(2)).all(|n| !n.up));
    let token = world.token();
    assert_eq!(world.control(Action::BreakHold { token }), Response::Done);
    world.until("it is undone", |w| w.state.debts.is_empty());
    world.until("it is as before", |w| w.model.restart_interval_s == Probe::Known(60));
}
