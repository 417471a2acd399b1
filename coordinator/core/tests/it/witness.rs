//! What other host agents promised away for a host tells when both its ledger and the coordinators'
//! state were put back (S2, S8).

use grayfin_coordinator_core::{
    Cmd, Response, State,
    cmd::{Enrol, LedgerSaid},
    decide,
    state::HoldStage,
};
use grayfin_types::{Generation, LedgerId, Token, ledger::Readmit, plan::CanarySpec};

use crate::{
    model::{cluster, host},
    world::World,
};

fn said(own: u64, promised_for: &[(usize, u64)]) -> LedgerSaid {
    LedgerSaid {
        chain: "chain".to_owned(),
        proof: None,
        floor: Token(0),
        open_hold: None,
        readmitted: None,
        own: Token(own),
        promised_for: promised_for.iter().map(|(of, token)| (host(*of), Token(*token))).collect(),
        lost: None,
    }
}

fn hello(world: &mut World, number: usize, said: LedgerSaid) -> (Option<String>, Option<Readmit>) {
    let of = host(number);
    // What was heard of it is not the point here.
    world.state.hosts.get_mut(&of).unwrap().mark = None;
    let known = &world.state.hosts[&of];
    let (ledger_id, ledger_position) = (known.ledger_id.clone(), known.ledger_position);
    let answer = world.apply(Cmd::Enrol(Enrol {
        host: of,
        clusters: [cluster()].into(),
        generation: Generation(1),
        ledger_id,
        ledger_position,
        agent_version: "0.1.0".to_owned(),
        last_orders: [].into(),
        ledger: Some(said),
    }));
    match answer {
        Response::Enrolled { amnesic, readmit, .. } => (amnesic, readmit),
        other => panic!("{other:?}"),
    }
}

fn amnesic(state: &State, number: usize) -> Option<&str> {
    state.hosts[&host(number)].amnesic.as_deref()
}

#[test]
fn a_token_that_nobody_knows_makes_its_host_amnesic_whoever_speaks_first() {
    let mut world = World::new(3);
    assert_eq!(hello(&mut world, 2, said(0, &[])).0, None);
    // db1 promised token 7 away so that db2 could be held; here no token was ever allotted.
    assert_eq!(hello(&mut world, 1, said(0, &[(2, 7)])).0, None);
    assert!(amnesic(&world.state, 2).unwrap().contains("token 7"));
    assert!(amnesic(&world.state, 1).is_none());
    // It stays so when it says hello again, and says the same.
    assert!(hello(&mut world, 2, said(6, &[])).0.unwrap().contains("`db1`"));
    // Its own ledger knows of the token: nothing was put back there.
    assert_eq!(hello(&mut world, 2, said(7, &[])).0, None);
    // A later word about a smaller token takes nothing back.
    assert_eq!(hello(&mut world, 3, said(0, &[(2, 3), (1, 9)])).0, None);
    assert_eq!(world.state.witnessed[&host(2)].token, Token(7));
    assert!(amnesic(&world.state, 1).is_some());
}

#[test]
fn tokens_that_were_allotted_here_are_accounted_for() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("db3 is held", |w| w.held() == Some(host(3)));
    let token = world.state.holds[&cluster()].token;
    assert_eq!(world.state.hosts[&host(3)].allotted, token);
    assert_eq!(hello(&mut world, 1, said(0, &[(3, token.0)])).0, None);
    assert!(amnesic(&world.state, 3).is_none());
    assert_eq!(hello(&mut world, 1, said(0, &[(3, token.0 + 1)])).0, None);
    assert!(amnesic(&world.state, 3).is_some());
}

#[test]
fn an_enrolment_proves_nothing_and_an_operators_act_does() {
    let mut world = World::new(3);
    assert_eq!(hello(&mut world, 1, said(0, &[(2, 7)])).0, None);
    let ledger = LedgerId::new("new").unwrap();
    let anew = |said| {
        Cmd::Enrol(Enrol {
            host: host(2),
            clusters: [cluster()].into(),
            generation: Generation(2),
            ledger_id: ledger.clone(),
            ledger_position: 1,
            agent_version: "0.1.0".to_owned(),
            last_orders: [].into(),
            ledger: Some(said),
        })
    };
    let Response::Enrolled { readmit: Some(readmit), .. } = world.apply(anew(said(0, &[]))) else {
        panic!("it takes a floor over")
    };
    assert_eq!((readmit.floor, readmit.proven()), (Token(7), false));
    let taken = LedgerSaid { floor: Token(7), readmitted: Some(readmit.act), ..said(0, &[]) };
    let Response::Enrolled { amnesic, .. } = world.apply(anew(taken)) else { panic!() };
    assert!(amnesic.is_some_and(|why| why.contains("token 7")), "it may still be half-way");
}

#[test]
fn a_host_agent_that_knows_by_itself_is_believed() {
    let mut world = World::new(3);
    let lost = LedgerSaid { lost: Some("a mark says more".to_owned()), ..said(0, &[]) };
    assert!(hello(&mut world, 2, lost).0.unwrap().contains("a mark says more"));
}

#[test]
fn nobody_is_asked_to_promise_before_all_have_spoken() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("a token is allotted", |w| {
        w.state.holds.values().any(|h| h.stage == HoldStage::Asking)
    });
    let held = world.state.holds[&cluster()].host.clone();
    assert_eq!(decide(&world.state, &world.view, world.now_ms).wanted.promises.len(), 2);
    for absent in [1, 2, 3] {
        world.disconnect(&host(absent));
        let wanted = decide(&world.state, &world.view, world.now_ms).wanted.promises;
        assert!(wanted.is_empty(), "{absent}: {wanted:?}");
        world.connect(&host(absent));
    }
    let wanted = decide(&world.state, &world.view, world.now_ms).wanted.promises;
    assert!(wanted.iter().all(|w| w.held == held && w.host != held));
}
