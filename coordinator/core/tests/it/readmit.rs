//! Readmitting hosts whose ledger is old, or that hold what nobody here knows (S8).

use grayfin_coordinator_core::{
    Cmd, Response,
    cmd::{Action, Enrol, LedgerSaid},
    readmit,
};
use grayfin_types::{
    Code, Generation, LedgerId, Token,
    event::Body,
    ledger::{LedgerMark, Readmit},
    plan::CanarySpec,
    status::RolloutState,
};

use crate::{
    model::{alias, cluster, host},
    world::World,
};

fn prove(world: &World, number: usize) -> Result<Action, Vec<Code>> {
    let of = (&world.state, &world.view);
    readmit::prove(of.0, of.1, &cluster(), &host(number), world.now_ms)
        .map_err(|against| against.iter().map(|why| why.code).collect())
}

fn hello(ledger: &str, position: u64, said: Option<LedgerSaid>) -> Enrol {
    Enrol {
        host: host(2),
        clusters: [cluster()].into(),
        generation: Generation(1),
        ledger_id: LedgerId::new(ledger).unwrap(),
        ledger_position: position,
        agent_version: "0.1.0".to_owned(),
        last_orders: [].into(),
        ledger: said,
    }
}

fn said(chain: &str, proof: Option<(u64, &str)>) -> LedgerSaid {
    LedgerSaid {
        chain: chain.to_owned(),
        proof: proof.map(|(position, chain)| LedgerMark { position, chain: chain.to_owned() }),
        floor: Token(0),
        open_hold: None,
        readmitted: None,
        own: Token(0),
        promised_for: [].into(),
        lost: None,
    }
}

fn enrolled(response: Response) -> (Option<String>, Option<Readmit>) {
    match response {
        Response::Enrolled { amnesic, readmit, .. } => (amnesic, readmit),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_old_copy_that_grew_to_its_known_length_is_told_by_its_running_hash() {
    let mut world = World::new(3);
    let say = |world: &mut World, position, said| {
        world.apply(Cmd::Enrol(hello("ledger-db2", position, Some(said))))
    };
    assert_eq!(enrolled(say(&mut world, 7, said("seven", None))).0, None);
    assert_eq!(enrolled(say(&mut world, 9, said("nine", Some((7, "seven"))))).0, None);
    // As long as it was, or longer, and another one.
    for position in [9, 12] {
        let old = enrolled(say(&mut world, position, said("other", Some((9, "other")))));
        assert!(old.0.is_some_and(|why| why.contains("position 9")));
    }
    let silent = enrolled(say(&mut world, 12, said("twelve", None)));
    assert!(silent.0.is_some(), "what is not proven is not believed");
    let older_build = enrolled(world.apply(Cmd::Enrol(hello("ledger-db2", 12, None))));
    assert!(older_build.0.is_some(), "nor by a host agent that knows nothing of it any more");
    // More was heard since it was asked.
    let late = say(&mut world, 12, said("twelve", Some((7, "seven"))));
    assert!(matches!(late, Response::Ignored { .. }), "{late:?}");
    // The newest copy is found.
    assert_eq!(enrolled(say(&mut world, 12, said("twelve", Some((9, "nine"))))).0, None);
}

/// The world with an amnesic `db2`, and a rollout that waits.
fn amnesic() -> World {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("db3 is held", |w| w.held() == Some(host(3)));
    world.disconnect(&host(2));
    world.agents.get_mut(&host(2)).unwrap().ledger = "another".to_owned();
    world.connect(&host(2));
    assert!(world.state.hosts[&host(2)].amnesic.is_some());
    world
}

#[test]
fn a_host_is_readmitted_only_when_its_state_is_proven() {
    let mut world = amnesic();
    for _ in 0..100 {
        world.step();
    }
    assert!(prove(&world, 2).is_ok());
    assert_eq!(prove(&world, 9).unwrap_err(), [Code::NoSuchObject]);
    let now_ms = world.now_ms;
    world.model.set_up(&alias("node2"), false, now_ms);
    for _ in 0..20 {
        world.step();
    }
    assert_eq!(prove(&world, 2).unwrap_err(), [Code::NodeDown]);
    let now_ms = world.now_ms;
    world.model.set_up(&alias("node2"), true, now_ms);
    for _ in 0..20 {
        world.step();
    }
    world.disconnect(&host(1));
    assert_eq!(prove(&world, 2).unwrap_err(), [Code::AgentMissing], "its floor is not known");
    world.connect(&host(1));
    world.now_ms += 60_000;
    assert!(prove(&world, 2).unwrap_err().contains(&Code::FactStale));
    world.disconnect(&host(2));
    assert_eq!(prove(&world, 2).unwrap_err(), [Code::AgentMissing]);
}

#[test]
fn a_readmitted_host_is_whole_when_its_agent_has_taken_the_floor() {
    let mut world = amnesic();
    // One whose ledger is the newest is left alone, and so is a held one.
    let healthy = Action::Readmit {
        host: host(1),
        ledger: LedgerId::new("ledger-db1").unwrap(),
        floor: Token(1),
        closes: None,
    };
    assert!(matches!(world.control(healthy), Response::Refused { code: Code::WrongState, .. }));
    let held = Action::Readmit {
        host: host(3),
        ledger: LedgerId::new("ledger-db3").unwrap(),
        floor: Token(1),
        closes: None,
    };
    assert!(matches!(world.control(held), Response::Refused { code: Code::HoldOpen, .. }));
    for _ in 0..100 {
        world.step();
    }
    let Ok(action) = prove(&world, 2) else { panic!("it is up") };
    let Action::Readmit { floor, closes, .. } = &action else { panic!("{action:?}") };
    assert_eq!((*floor, *closes), (world.state.last_token, None));
    assert_eq!(world.control(action), Response::Done);
    let told = world.bodies().any(|body| {
        matches!(body, Body::Operator { action, reason } if action == "readmit" && reason.contains("db2"))
    });
    assert!(told);
    assert!(world.state.hosts[&host(2)].amnesic.is_some(), "not before its agent took it in");
    // Its agent says hello: it is handed the act; then it says that it has taken it in.
    let first = world.apply(Cmd::Enrol(hello("another", 4, Some(said("four", None)))));
    let (still, readmit) = enrolled(first);
    let readmit = readmit.unwrap();
    assert!(still.is_some() && readmit.floor == world.state.last_token && readmit.forget);
    let taken =
        LedgerSaid { floor: readmit.floor, readmitted: Some(readmit.act), ..said("five", None) };
    let last = world.apply(Cmd::Enrol(hello("another", 5, Some(taken))));
    assert_eq!(enrolled(last), (None, None));
    assert_eq!(world.state.hosts[&host(2)].ledger_position, 5);
    let agent = world.agents.get_mut(&host(2)).unwrap();
    (agent.position, agent.floor) = (6, readmit.floor);
    world.state.hosts.get_mut(&host(2)).unwrap().mark = None;
    world.disconnect(&host(2));
    world.connect(&host(2));
    assert!(world.state.hosts[&host(2)].amnesic.is_none());
    world.finish(RolloutState::Succeeded);
}

#[test]
fn a_host_that_is_enrolled_anew_takes_the_floor_before_it_works() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("db3 is held", |w| w.held() == Some(host(3)));
    let anew = |said| Enrol { generation: Generation(2), ..hello("new", 1, Some(said)) };
    let (amnesic, readmit) = enrolled(world.apply(Cmd::Enrol(anew(said("one", None)))));
    let readmit = readmit.unwrap();
    assert!(amnesic.is_some());
    assert_eq!((readmit.floor, readmit.closes), (world.state.last_token, None));
    let taken =
        LedgerSaid { floor: readmit.floor, readmitted: Some(readmit.act), ..said("two", None) };
    let whole = Enrol { ledger_position: 2, ..anew(taken) };
    assert_eq!(enrolled(world.apply(Cmd::Enrol(whole))), (None, None));
}
