//! What goes wrong by itself: links, agents, coordinators, nodes, chunks, rows.

use grayfin_coordinator_core::{
    Cmd, Response,
    cmd::{Action, Enrol},
    state::{CanaryPhase, HoldStage},
};
use grayfin_types::{
    Code, Generation, HostId, LedgerId,
    event::Body,
    plan::CanarySpec,
    status::{HostPhase, RolloutState},
    step::{SequenceState, Step},
};

use crate::{
    agent::Fault,
    model::{alias, cluster, host},
    world::World,
};

const CANARY: CanarySpec = CanarySpec::New { rows_per_second: 100 };

fn codes(world: &World) -> Vec<Code> {
    world.state.rollouts[&world.id].waiting.iter().map(|r| r.code).collect()
}

#[test]
fn a_coordinator_that_dies_at_any_moment_goes_on_from_its_state() {
    // Every 7th step of 100 ms is a moment of its own; a whole rollout has some 300.
    for at in (1..300).step_by(7) {
        let mut world = World::started(3, CANARY);
        for _ in 0..at {
            world.step();
        }
        world.restart_coordinator();
        world.finish(RolloutState::Succeeded);
        assert_eq!(world.granted().len(), 3, "restart after {at} steps");
    }
}

#[test]
fn a_coordinator_that_dies_again_and_again_still_gets_to_the_end() {
    let mut world = World::started(3, CANARY);
    for _ in 0..12 {
        for _ in 0..45 {
            world.step();
        }
        if world.rollout_state() != Some(RolloutState::Succeeded) {
            world.restart_coordinator();
        }
    }
    world.finish(RolloutState::Succeeded);
}

#[test]
fn a_link_that_breaks_while_a_host_is_down_delays_and_nothing_more() {
    for step in [Step::Backup, Step::Upgrade, Step::Start, Step::Join] {
        let mut world = World::started(3, CANARY);
        world.until("db2 is at work", |w| {
            w.agents[&host(2)].hold.as_ref().is_some_and(|h| h.step == step)
        });
        world.disconnect(&host(2));
        for _ in 0..60 {
            world.step();
        }
        // Alone it brought its host up, and took nothing more down.
        assert!(world.model.of_host(&host(2)).all(|n| n.up), "{step}");
        assert_eq!(codes(&world), [Code::AgentMissing], "{step}");
        assert_eq!(world.held(), Some(host(2)));
        world.connect(&host(2));
        world.finish(RolloutState::Succeeded);
    }
}

#[test]
fn a_link_that_breaks_before_a_go_makes_the_host_undo_and_the_rollout_halt() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("db2 stops", |w| {
        w.agents[&host(2)].hold.as_ref().is_some_and(|h| h.step == Step::Stop)
    });
    world.disconnect(&host(2));
    for _ in 0..60 {
        world.step();
    }
    assert!(world.model.of_host(&host(2)).all(|n| n.up));
    world.connect(&host(2));
    world.until_state(RolloutState::Halted);
    assert_eq!(codes(&world), [Code::NoGo]);
    assert_eq!(world.held(), Some(host(2)));
}

#[test]
fn no_hold_is_granted_while_a_promise_is_missing() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("promises are asked for", |w| w.state.holds.contains_key(&cluster()));
    // The grant follows in the same breath, so the link must break before.
    let mut world = World::started(3, CanarySpec::Off);
    world.disconnect(&host(3));
    for _ in 0..100 {
        world.step();
    }
    assert!(world.granted().is_empty());
    assert_eq!(codes(&world).first(), Some(&Code::AgentMissing));
    world.connect(&host(3));
    world.finish(RolloutState::Succeeded);
}

#[test]
fn a_host_agent_with_a_hold_of_its_own_refuses_and_blocks_the_grant() {
    let mut world = World::started(3, CanarySpec::Off);
    // Somebody put an old host agent's state back: a hold is open that nobody knows of.
    world.until("staged", |w| w.rollout_state() == Some(RolloutState::Running));
    let mut stray = World::started(3, CanarySpec::Off);
    stray.until("db3 works", |w| w.agents[&host(3)].hold.is_some());
    let hold = stray.agents[&host(3)].hold.clone();
    world.agents.get_mut(&host(3)).unwrap().hold = hold.map(|mut h| {
        h.ended = Some(SequenceState::Up);
        h.token = grayfin_types::Token(999);
        h
    });
    for _ in 0..60 {
        world.step();
    }
    assert!(world.granted().iter().all(|h| *h == host(2)), "{:?}", world.granted());
    let holds_on = codes(&world);
    assert!(holds_on.contains(&Code::HoldOpen), "{holds_on:?}");
}

#[test]
fn a_bad_sample_and_a_new_leader_begin_the_soak_again() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("db2 soaks", |w| codes(w) == [Code::Soaking]);
    for _ in 0..10 {
        world.step();
    }
    world.model.chunks[0].state = "RECOVERING".to_owned();
    world.until("the chunk holds", |w| codes(w) == [Code::ChunksRecovering]);
    let evidence = &world.state.rollouts[&world.id].waiting[0];
    assert_eq!(evidence.subject, world.model.chunks[0].path);
    world.model.chunks[0].state = "COMPLETE".to_owned();
    world.until("it soaks again", |w| codes(w) == [Code::Soaking]);
    let again_ms = world.now_ms;
    for _ in 0..10 {
        world.step();
    }
    world.model.leader = Some(alias("ctl3"));
    world.finish(RolloutState::Succeeded);
    let verified = world.events.iter().find(|e| matches!(e.body, Body::HostVerified { .. }));
    let verified_ms = verified.unwrap().at_ms - 1_700_000_000_000;
    // One second of the second soak was lost to the leader's change; then 2 s, and caught up.
    assert!(verified_ms >= again_ms + 1_000 + 2_000, "{verified_ms} {again_ms}");
}

#[test]
fn a_chunk_that_is_built_for_long_holds_and_a_short_one_does_not() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("db2 soaks", |w| codes(w) == [Code::Soaking]);
    // Under load: another version each time.
    for version in 2..10 {
        world.model.chunks[1].state = "CONSTRUCTING".to_owned();
        world.model.chunks[1].version = version;
        world.step();
        assert_eq!(codes(&world), [Code::Soaking]);
    }
    // Now it is stuck.
    world.until("it holds", |w| codes(w) == [Code::ChunksRecovering]);
    world.model.chunks[1].state = "COMPLETE".to_owned();
    world.finish(RolloutState::Succeeded);
}

#[test]
fn chunks_that_were_short_before_do_not_hold_and_new_ones_do() {
    let mut world = World::new(3);
    world.model.chunks[2].current_on = vec![alias("node1"), alias("node2")];
    world.model.chunks[3].current_on = vec![alias("node1"), alias("node3")];
    // An old table with one more replica wanted than it has.
    world.model.factor = 3;
    let answer = world.start(&crate::world::request(CanarySpec::Off));
    assert!(!answer.ready);
    let mut request = crate::world::request(CanarySpec::Off);
    request.overrides.push(("partition-capacity".to_owned(), "no new partitions".to_owned()));
    assert!(world.start(&request).ready);
    world.until("the baseline is taken", |w| w.state.rollouts[&w.id].baseline.is_some());
    assert_eq!(world.state.rollouts[&world.id].baseline.as_ref().unwrap().len(), 6);
    world.until("db2 soaks", |w| codes(w) == [Code::Soaking]);
    world.model.chunks[2].current_on = vec![alias("node1")];
    world.until("one lost more", |w| codes(w).contains(&Code::ReplicasMissing));
    world.model.chunks[2].current_on = vec![alias("node1"), alias("node2")];
    world.finish(RolloutState::Succeeded);
}

#[test]
fn a_controller_that_dies_while_a_data_node_stops_denies_the_next_go() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("db2's data node is down", |w| {
        w.model.nodes.iter().any(|n| n.spec.alias == alias("node2") && !n.up)
    });
    let now_ms = world.now_ms;
    world.model.set_up(&alias("ctl3"), false, now_ms);
    for _ in 0..6 {
        world.step();
    }
    world.until_state(RolloutState::Halted);
    assert!(world.model.of_host(&host(2)).all(|n| n.up), "what was stopped is brought back");
    let denied = world.bodies().find_map(|b| match b {
        Body::Go { allowed: false, reasons, .. } => Some(reasons.clone()),
        _ => None,
    });
    assert_eq!(denied.unwrap()[0].code, Code::QuorumAtRisk);
}

#[test]
fn a_missing_row_halts_with_the_hold_kept() {
    let mut world = World::started(3, CANARY);
    world.agents.get_mut(&host(1)).unwrap().rows_lost = 3;
    world.until_state(RolloutState::Halted);
    assert_eq!(codes(&world), [Code::CanaryLoss]);
    assert_eq!(world.held(), Some(host(2)));
    assert_eq!(world.state.rollouts[&world.id].canary.total(None).lost, 3);
    // It was a slow replica after all: read back again.
    world.agents.get_mut(&host(1)).unwrap().rows_lost = 0;
    assert_eq!(world.control(Action::Resume), Response::Done);
    world.finish(RolloutState::Succeeded);
}

#[test]
fn rows_that_cannot_be_read_back_hold_until_they_can() {
    let mut world = World::started(3, CANARY);
    world.agents.get_mut(&host(1)).unwrap().rows_unread = 3;
    world.until("unread rows are waited for", |w| {
        codes(w) == [Code::CanaryDown] && w.state.rollouts[&w.id].canary.checked()
    });
    assert_eq!(world.held(), Some(host(2)), "the hold is kept meanwhile");
    let rounds = world.state.rollouts[&world.id].canary.rounds;
    world.until("they are read again", |w| w.state.rollouts[&w.id].canary.rounds > rounds);
    world.agents.get_mut(&host(1)).unwrap().rows_unread = 0;
    world.finish(RolloutState::Succeeded);
}

#[test]
fn messages_that_come_twice_and_late_change_nothing() {
    let mut world = World::started(3, CANARY);
    world.twice = 60;
    world.finish(RolloutState::Succeeded);
    assert!(world.agents.values().all(|a| a.runs == 1));
    assert_eq!(world.granted().len(), 3);
}

#[test]
fn a_ledger_that_is_older_than_it_was_makes_its_agent_look_only() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("db3 is in turn", |w| w.held() == Some(host(3)));
    world.disconnect(&host(2));
    world.agents.get_mut(&host(2)).unwrap().position = 3;
    world.connect(&host(2));
    assert!(world.state.hosts[&host(2)].amnesic.is_some());
    for _ in 0..200 {
        world.step();
    }
    assert!(!world.granted().contains(&host(1)));
    assert!(codes(&world).contains(&Code::AgentAmnesic), "{:?}", codes(&world));
}

#[test]
fn no_close_is_decided_for_a_host_whose_ledger_is_old() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("db3 is up", |w| {
        w.state.rollouts[&w.id].host(&host(3)).unwrap().phase == HostPhase::Recovering
    });
    let (token, id) = (world.token(), world.id.clone());
    world.disconnect(&host(3));
    let whole = world.agents[&host(3)].position;
    world.agents.get_mut(&host(3)).unwrap().position = 1;
    world.connect(&host(3));
    let close = Cmd::Close { rollout: id, host: host(3), token, soaked_ms: 1 };
    assert!(matches!(world.apply(close), Response::Ignored { .. }));
    for _ in 0..300 {
        world.step();
    }
    assert_eq!(world.held(), Some(host(3)));
    assert!(codes(&world).contains(&Code::AgentAmnesic), "{:?}", codes(&world));
    assert!(!matches!(world.control(Action::Skip { host: None }), Response::Done));
    // The newest copy is found and put back: all is well.
    world.disconnect(&host(3));
    world.agents.get_mut(&host(3)).unwrap().position = whole;
    world.connect(&host(3));
    world.finish(RolloutState::Succeeded);
}

#[test]
fn an_unknown_ledger_needs_a_new_generation() {
    let mut world = World::new(3);
    let hello = |generation, ledger: &str| {
        Cmd::Enrol(Enrol {
            host: host(2),
            clusters: [cluster()].into(),
            generation: Generation(generation),
            ledger_id: LedgerId::new(ledger).unwrap(),
            ledger_position: 0,
            agent_version: "0.1.0".to_owned(),
            last_orders: [].into(),
            ledger: None,
        })
    };
    let amnesic = |response: Response| match response {
        Response::Enrolled { amnesic, .. } => amnesic.is_some(),
        other => panic!("{other:?}"),
    };
    assert!(amnesic(world.apply(hello(1, "another"))));
    assert!(!amnesic(world.apply(hello(2, "another"))));
    let old = world.apply(hello(1, "ledger-db2"));
    assert!(matches!(old, Response::Refused { code: Code::BadIdentity, .. }), "{old:?}");
}

#[test]
fn a_package_that_cannot_be_staged_halts_before_anything_is_stopped() {
    let mut world = World::new(3);
    let answer = world.start(&crate::world::request(CanarySpec::Off));
    assert!(answer.ready);
    let report = grayfin_types::step::Report {
        host: host(2),
        token: grayfin_types::Token(0),
        step: Step::Stage,
        undo: false,
        happened: grayfin_types::step::Happened::Failed {
            code: Code::PackageCorrupt,
            message: "the zip is damaged".to_owned(),
        },
        seen: String::new(),
        position: 50,
        chain: String::new(),
        at_ms: 0,
    };
    world.apply(Cmd::Reported { report });
    assert_eq!(world.rollout_state(), Some(RolloutState::Halted));
    assert_eq!(codes(&world), [Code::PackageCorrupt]);
    assert!(world.model.nodes.iter().all(|n| n.up && n.start_ticks == 1));
}

#[test]
fn a_host_whose_start_fails_stays_held_until_a_person_decides() {
    let mut world = World::started(3, CanarySpec::Off);
    world.agents.get_mut(&host(2)).unwrap().fault = Some(Fault::Fail(Step::Start));
    world.until_state(RolloutState::Halted);
    for _ in 0..300 {
        world.step();
    }
    assert_eq!(world.held(), Some(host(2)));
    assert_eq!(world.granted(), [host(2)]);
    let held = &world.state.holds[&cluster()];
    assert_eq!(held.stage, HoldStage::Held);
    let run = world.state.rollouts[&world.id].host(&host(2)).unwrap();
    assert!(run.disturbed && run.phase == HostPhase::Failed);
}

#[test]
fn a_silent_observer_is_followed_by_another() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("somebody observes", |w| w.view.clusters[&cluster()].observer.is_some());
    let observer =
        |w: &World| w.view.clusters[&cluster()].observer.as_ref().map(|o| o.host.clone());
    let first: HostId = observer(&world).unwrap();
    world.disconnect(&first);
    world.step();
    assert_ne!(observer(&world), Some(first.clone()));
    world.connect(&first);
    world.finish(RolloutState::Succeeded);
}

#[test]
fn a_canary_whose_host_is_lost_is_given_up_and_another_writes() {
    let mut world = World::started(4, CANARY);
    world.until("db2 is held", |w| w.held() == Some(host(2)));
    let writer = world.state.rollouts[&world.id].canary.phase.host().unwrap().clone();
    world.disconnect(&writer);
    world.until("another writes", |w| {
        let canary = &w.state.rollouts[&w.id].canary;
        canary.epoch == 2 && canary.phase.host() != Some(&writer)
    });
    world.connect(&writer);
    world.finish(RolloutState::Succeeded);
}

#[test]
fn a_canary_whose_host_lost_its_ledger_is_given_up_and_an_abort_ends() {
    let mut world = World::started(3, CANARY);
    let writer = |w: &World| match &w.state.rollouts[&w.id].canary.phase {
        CanaryPhase::Writing { host } => Some(host.clone()),
        _ => None,
    };
    world.until("the canary writes", |w| writer(w).is_some() && w.held().is_some());
    let host = writer(&world).unwrap();
    world.disconnect(&host);
    world.control(Action::Abort);
    world.step();
    // It comes back with another ledger before it is missed: it may only look, and is told nothing.
    world.agents.get_mut(&host).unwrap().ledger = "another".to_owned();
    world.connect(&host);
    assert!(world.state.hosts[&host].amnesic.is_some());
    world.finish(RolloutState::Aborted);
}

#[test]
fn a_scan_of_the_chunks_by_one_whom_the_others_do_not_follow_is_not_taken() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("chunks are seen", |w| w.view.clusters[&cluster()].chunks.is_some());
    let observer = world.view.clusters[&cluster()].observer.clone().unwrap().host;
    let mut facts = world.model.cluster_facts(&observer, u64::MAX - 1, world.now_ms);
    let leader = facts.leader.known().unwrap().clone();
    for (voter, named) in &mut facts.leader_votes {
        if *voter != leader {
            named.clone_from(voter);
        }
    }
    let later = world.now_ms + 5_000;
    let scanned = |w: &World| w.view.clusters[&cluster()].chunks.as_ref().unwrap().scanned_ms;
    let before = scanned(&world);
    world.view.cluster_facts(&world.state, facts, later);
    assert_eq!(scanned(&world), before);
    let clear = world.model.cluster_facts(&observer, u64::MAX, later);
    world.view.cluster_facts(&world.state, clear, later);
    assert!(scanned(&world) > before);
}
