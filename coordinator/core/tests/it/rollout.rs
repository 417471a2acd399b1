//! Whole rollouts that go well.

use grayfin_types::{
    Code,
    event::Body,
    plan::CanarySpec,
    status::{HostPhase, RolloutState},
};

use crate::{
    model::{NEW, alias, host, version},
    world::World,
};

const CANARY: CanarySpec = CanarySpec::New { rows_per_second: 100 };

#[test]
fn three_hosts_are_upgraded_one_by_one_with_the_leaders_host_last() {
    let mut world = World::started(3, CANARY);
    world.finish(RolloutState::Succeeded);
    assert_eq!(world.granted(), [host(2), host(3), host(1)]);
    assert!(world.model.nodes.iter().all(|n| n.up && n.version == version(NEW)));
    // The leader's host was the last one, and so leadership changed once.
    assert_eq!(world.leaders_host_at, [host(1)]);
    let rollout = &world.state.rollouts[&world.id];
    assert_eq!((rollout.leader_changes, world.model.elections), (1, 1));
    assert!(rollout.hosts.iter().all(|h| h.phase == HostPhase::Done && !h.disturbed));
    assert!(world.agents.values().all(|a| a.hold.is_none() && a.runs == 1));
}

#[test]
fn the_log_tells_everything_in_order() {
    let mut world = World::started(3, CANARY);
    world.finish(RolloutState::Succeeded);
    let position = |what: &dyn Fn(&Body) -> bool| world.bodies().position(what).unwrap();
    let db2 = host(2);
    let allotted = position(&|b| matches!(b, Body::TokenAllotted { host, .. } if *host == db2));
    let granted = position(&|b| matches!(b, Body::Granted { host, .. } if *host == db2));
    let go = position(&|b| matches!(b, Body::Go { host, allowed: true, .. } if *host == db2));
    let verified = position(&|b| matches!(b, Body::HostVerified { host, .. } if *host == db2));
    let released = position(&|b| matches!(b, Body::Released { host, .. } if *host == db2));
    assert!(allotted < granted && granted < go && go < verified && verified < released);
    // Both other host agents promised before the grant.
    let promises =
        world.bodies().take(granted).filter(|b| matches!(b, Body::Promised { .. })).count();
    assert_eq!(promises, 2);
    let soaked = world.bodies().filter_map(|b| match b {
        Body::HostVerified { soaked_ms, .. } => Some(*soaked_ms),
        _ => None,
    });
    assert!(soaked.into_iter().all(|ms| ms >= 2_000));
    let last: Vec<&Body> = world.bodies().collect();
    assert!(matches!(last.last(), Some(Body::State { state: RolloutState::Succeeded })));
    let proof = world.bodies().find_map(|b| match b {
        Body::FinalVerification { versions, ok } => Some((versions.clone(), *ok)),
        _ => None,
    });
    let (versions, ok) = proof.unwrap();
    assert!(ok && versions.len() == 9 && versions.iter().all(|(_, _, v)| v == NEW));
}

#[test]
fn the_canary_writes_elsewhere_and_its_rows_are_read_back() {
    let mut world = World::started(3, CANARY);
    while world.rollout_state() != Some(RolloutState::Succeeded) {
        world.step();
        let rollout = &world.state.rollouts[&world.id];
        if let Some(held) = world.held() {
            assert_ne!(rollout.canary.phase.host(), Some(&held));
        }
    }
    let canary = world.state.rollouts[&world.id].canary.total(None);
    assert!(canary.verified > 0 && canary.verified >= canary.acknowledged, "{canary:?}");
    assert_eq!((canary.lost, canary.state.as_str()), (0, "ended"));
    // It wrote on the leader's host first, and moved once, to a host that was done.
    assert_eq!(world.state.rollouts[&world.id].canary.epoch, 2);
}

#[test]
fn short_waits_are_not_told_and_long_ones_are() {
    let told = |damped: bool| {
        let mut world = World::started(3, CanarySpec::Off);
        world.damped = damped;
        world.finish(RolloutState::Succeeded);
        let waits = world.bodies().filter_map(|b| match b {
            Body::Waiting { reasons } => reasons.first().map(|r| r.code),
            _ => None,
        });
        waits.collect::<Vec<_>>()
    };
    let (all, damped) = (told(false), told(true));
    assert!(all.contains(&Code::PromiseMissing) && !damped.contains(&Code::PromiseMissing));
    assert!(damped.len() < all.len());
    assert_eq!(damped.iter().filter(|c| **c == Code::Soaking).count(), 3);
}

#[test]
fn a_rollout_without_a_canary_says_so() {
    let mut world = World::started(3, CanarySpec::Off);
    world.finish(RolloutState::Succeeded);
    assert_eq!(world.state.rollouts[&world.id].canary.total(None).state, "off");
}

#[test]
fn five_hosts_with_a_leader_that_moves_during_the_rollout() {
    let mut world = World::started(5, CanarySpec::Off);
    world.until("db3 is held", |w| w.held() == Some(host(3)));
    // Leadership moves, by no fault of ours, to a host that is still to come.
    world.model.leader = Some(alias("ctl4"));
    world.finish(RolloutState::Succeeded);
    assert_eq!(world.granted().last(), Some(&host(4)));
    assert_eq!(world.leaders_host_at, [host(4)]);
}

#[test]
fn a_leader_that_moves_onto_the_host_that_is_asked_for_gives_the_token_up() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("a token is allotted", |w| {
        w.bodies().any(|b| matches!(b, Body::TokenAllotted { .. }))
    });
    assert!(world.held().is_none());
    world.model.leader = Some(alias("ctl2"));
    world.finish(RolloutState::Succeeded);
    assert_eq!(world.granted().last(), Some(&host(2)));
    assert_eq!(world.leaders_host_at, [host(2)]);
}

#[test]
fn hosts_that_are_done_are_verified_and_skipped() {
    let mut world = World::new(3);
    for name in ["ctl2", "agent2", "node2"] {
        world.model.node_mut(name).version = version(NEW);
    }
    let answer = world.start(&crate::world::request(CanarySpec::Off));
    assert!(answer.plan.unwrap().host(&host(2)).unwrap().already_done);
    world.finish(RolloutState::Succeeded);
    assert_eq!(world.granted(), [host(3), host(1)]);
    assert_eq!(world.agents[&host(2)].runs, 0);
}

#[test]
fn a_rollout_that_finds_everything_done_proves_it_and_ends() {
    let mut world = World::new(3);
    for node in &mut world.model.nodes {
        node.version = version(NEW);
    }
    let answer = world.start(&crate::world::request(CANARY));
    assert!(answer.ready, "{:#?}", answer.findings);
    world.finish(RolloutState::Succeeded);
    assert!(world.granted().is_empty());
}
