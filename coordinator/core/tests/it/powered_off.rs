//! Hosts that never come back: broken holds, and the attestation that a host is powered off (S2, S3).

use grayfin_coordinator_core::{
    Cmd, Response,
    cmd::{Action, Control, Enrol},
    status,
};
use grayfin_types::{
    Code, Generation, HostId, LedgerId, Token,
    event::Body,
    plan::CanarySpec,
    status::{HostPhase, RolloutState},
    step::Step,
};

use crate::{
    agent::Fault,
    model::{alias, cluster, host},
    world::{World, request},
};

fn code(response: &Response) -> Option<Code> {
    match response {
        Response::Refused { code, .. } => Some(*code),
        _ => None,
    }
}

fn attest(world: &mut World, host: &HostId, token: Token) -> Response {
    world.control(Action::AttestPoweredOff { host: host.clone(), token })
}

/// The machine loses its power: no agent, no node.
fn power_off(world: &mut World, number: usize) {
    world.disconnect(&host(number));
    world.agents.get_mut(&host(number)).unwrap().hold = None;
    let now_ms = world.now_ms;
    for name in [format!("ctl{number}"), format!("agent{number}"), format!("node{number}")] {
        world.model.set_up(&alias(&name), false, now_ms);
    }
}

fn told(world: &World, action: &str) -> Vec<String> {
    let of = |body: &Body| match body {
        Body::Operator { action: found, reason } if found == action => Some(reason.clone()),
        _ => None,
    };
    world.bodies().filter_map(of).collect()
}

#[test]
fn an_attestation_needs_a_known_host_that_is_not_held_its_token_and_a_reason() {
    let mut world = World::started(5, CanarySpec::Off);
    world.until("db2 is held", |w| w.held() == Some(host(2)));
    let token = world.token();
    let nobody: HostId = "nobody".parse().unwrap();
    assert_eq!(code(&attest(&mut world, &nobody, token)), Some(Code::NoSuchObject));
    assert_eq!(code(&attest(&mut world, &host(2), token)), Some(Code::HoldOpen));
    let stale = attest(&mut world, &host(5), Token(token.0 + 1));
    assert_eq!(code(&stale), Some(Code::TokenStale));
    let silent = Cmd::Control(Control {
        request_id: "silent".to_owned(),
        rollout: world.id.clone(),
        action: Action::AttestPoweredOff { host: host(5), token },
        reason: "  ".to_owned(),
        by: "ann".to_owned(),
    });
    assert_eq!(code(&world.apply(silent)), Some(Code::BadRequest));
    assert!(world.state.hosts[&host(5)].gone.is_none());
    assert_eq!(attest(&mut world, &host(5), token), Response::Done);
    assert_eq!(code(&attest(&mut world, &host(5), token)), Some(Code::WrongState));
    assert_eq!(told(&world, "attest-powered-off"), ["`db5` is powered off: because"]);
    let lines = status::hosts(&world.state, &world.view, world.now_ms);
    assert!(lines[4].problems.iter().any(|p| p.code == Code::PoweredOff));
}

#[test]
fn a_host_that_dies_before_its_turn_blocks_until_it_is_attested_and_left_out() {
    let mut world = World::started(5, CanarySpec::New { rows_per_second: 100 });
    world.until("db2 is up again", |w| {
        w.state.rollouts[&w.id].host(&host(2)).unwrap().phase == HostPhase::Recovering
    });
    // One canary's writer is lost as well, and with it the journal of its rows.
    world.state.rollouts.get_mut(&world.id).unwrap().canary.wrote.insert(host(5));
    power_off(&mut world, 5);
    world.model.chunks.retain(|c| !c.current_on.contains(&alias("node5")));
    for _ in 0..300 {
        world.step();
    }
    assert_eq!(world.held(), Some(host(2)), "nothing goes on without it");
    let token = world.state.last_token;
    assert_eq!(attest(&mut world, &host(5), token), Response::Done);
    assert_eq!(world.control(Action::Skip { host: Some(host(5)) }), Response::Done);
    world.until("the others are done", |w| w.granted().len() == 4);
    world.until("it ended", |w| w.state.rollouts[&w.id].state.is_final());
    assert_eq!(world.granted(), [host(2), host(3), host(4), host(1)]);
    // It may not come back as it was.
    let hello = |generation| {
        Cmd::Enrol(Enrol {
            host: host(5),
            clusters: [cluster()].into(),
            generation: Generation(generation),
            ledger_id: LedgerId::new("ledger-db5").unwrap(),
            ledger_position: 999,
            agent_version: "0.1.0".to_owned(),
            last_orders: [].into(),
            ledger: None,
        })
    };
    assert_eq!(code(&world.apply(hello(1))), Some(Code::AgentAmnesic));
    assert!(matches!(world.apply(hello(2)), Response::Enrolled { amnesic: None, .. }));
    assert!(world.state.hosts[&host(5)].gone.is_none());
}

#[test]
fn a_live_node_of_a_host_that_is_attested_as_powered_off_holds() {
    let mut world = World::started(5, CanarySpec::Off);
    world.until("db2 is held", |w| w.held() == Some(host(2)));
    // Somebody attested it for a host that only lost its link.
    world.disconnect(&host(5));
    let token = world.token();
    assert_eq!(attest(&mut world, &host(5), token), Response::Done);
    for _ in 0..300 {
        world.step();
    }
    assert_eq!(world.granted(), [host(2)]);
    let waiting = &world.state.rollouts[&world.id].waiting;
    assert!(waiting.iter().any(|r| r.code == Code::NodeUnclaimed), "{waiting:?}");
}

#[test]
fn a_broken_hold_is_recorded_and_the_next_grant_needs_a_promise_or_the_attestation() {
    let mut world = World::started(5, CanarySpec::Off);
    world.agents.get_mut(&host(2)).unwrap().fault = Some(Fault::Fail(Step::Start));
    world.until_state(RolloutState::Halted);
    let token = world.token();
    power_off(&mut world, 2);
    world.model.chunks.retain(|c| !c.current_on.contains(&alias("node2")));
    assert_eq!(world.control(Action::BreakHold { token }), Response::Done);
    assert_eq!(told(&world, "break"), [format!("token {token} of `db2`: because")]);
    let by: Vec<_> = world
        .events
        .iter()
        .filter(|e| matches!(&e.body, Body::Operator { action, .. } if action == "break"))
        .map(|e| e.by.as_str())
        .collect();
    assert_eq!(by, ["ann"]);
    assert_eq!(world.rollout_state(), Some(RolloutState::Failed));
    let halted = world.state.rollouts[&world.id].halted.clone().unwrap();
    assert!(halted.remedy.contains("grayfin hold attest db2"), "{}", halted.remedy);
    // Broken is not closed: nothing new can start without its host agent.
    world.id = "r2".parse().unwrap();
    assert!(!world.start(&request(CanarySpec::Off)).ready);
    assert_eq!(attest(&mut world, &host(2), token), Response::Done);
    assert!(world.state.broken.is_empty());
    let mut again = request(CanarySpec::Off);
    again.overrides.push(("partition-capacity".to_owned(), "one host is gone".to_owned()));
    let answer = world.start(&again);
    assert!(answer.ready, "{:#?}", answer.findings);
    assert_eq!(told(&world, "attest-powered-off"), ["`db2` is powered off: because"]);
    world.finish(RolloutState::Succeeded);
    assert!(!world.granted().contains(&host(2)));
}
