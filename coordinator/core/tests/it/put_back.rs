//! Coordinators whose state was put back, or copied: a hold that may have been closed since takes
//! nothing down any more (S2, S3).

use grayfin_coordinator_core::{
    Response, cmd::Action, explain, put_back, state::HoldStage, ways::Verb,
};
use grayfin_types::{
    Code, HostId, Incarnation, Token,
    plan::CanarySpec,
    status::{HostPhase, RolloutState},
    step::{SequenceState, Step},
};

use crate::{
    agent::Fault,
    model::{cluster, host},
    steering::{failing, mend},
    world::{World, hasher},
};

fn restore(world: &mut World) {
    let raised = Incarnation(world.state.incarnation.0 + 1);
    let now_ms = world.now_ms;
    let applied = put_back(&mut world.state, raised, "ann did `restore`", now_ms, &hasher);
    assert!(applied.violations.is_empty(), "{:?}", applied.violations);
    world.events.extend(applied.events);
    world.restart_coordinator();
}

fn phase(world: &World, of: &HostId) -> HostPhase {
    world.state.rollouts[&world.id].host(of).unwrap().phase.clone()
}

fn denied(world: &World) -> bool {
    let run = world.state.rollouts[&world.id].host(&host(3)).unwrap();
    run.last_go.as_ref().is_some_and(|go| !go.allowed)
}

#[test]
fn a_token_that_was_only_asked_for_is_given_up_and_tokens_leap() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("a token is allotted", |w| {
        w.state.holds.values().any(|h| h.stage == HoldStage::Asking)
    });
    let token = world.token();
    restore(&mut world);
    assert!(world.state.holds.is_empty());
    assert!(world.state.last_token > Token(token.0 + 1_000));
    assert_eq!(world.rollout_state(), Some(RolloutState::Halted));
    assert_eq!(world.control(Action::Resume), Response::Done);
    world.finish(RolloutState::Succeeded);
}

#[test]
fn nothing_goes_down_under_an_old_hold_and_its_host_begins_anew() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("db3 is held", |w| w.held() == Some(host(3)));
    let before = world.token();
    restore(&mut world);
    world.until("its agent has turned back", |w| phase(w, &host(3)) == HostPhase::Failed);
    assert_eq!(world.token(), before);
    assert_eq!(world.control(Action::Retry), Response::Done);
    world.until("it is held anew", |w| {
        w.held() == Some(host(3)) && w.state.holds[&cluster()].token > before
    });
    assert!(!world.state.holds[&cluster()].put_back_since);
    world.finish(RolloutState::Succeeded);
    assert!(world.model.nodes.iter().all(|n| n.start_ticks == 2), "no node was started twice");
}

#[test]
fn a_host_that_is_up_again_is_done_under_its_old_hold() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("db3 is up", |w| phase(w, &host(3)) == HostPhase::Recovering);
    restore(&mut world);
    assert!(world.state.holds[&cluster()].put_back_since);
    assert_eq!(world.control(Action::Resume), Response::Done);
    world.finish(RolloutState::Succeeded);
}

#[test]
fn what_failed_before_the_upgrade_is_not_retried_under_an_old_hold_but_undone() {
    let mut world = failing(Fault::Fail(Step::Backup));
    restore(&mut world);
    let now_ms = world.now_ms;
    let told = explain::explain(&world.state, &world.view, &world.id, now_ms).unwrap();
    let named =
        |verb: Verb| told.commands.iter().any(|c| c.contains(&format!(" {} ", verb.word())));
    assert!(!named(Verb::Retry) && named(Verb::RollbackHost) && named(Verb::Abort), "{told:?}");
    match world.control(Action::Retry) {
        Response::Refused { code: Code::WrongState, why } => {
            assert!(why.contains("put back") && why.contains("grayfin explain"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    let run = world.state.rollouts[&world.id].host(&host(2)).unwrap();
    let (sequence, id) = (run.sequence.clone(), world.id.clone());
    let way = |old| explain::way_on(&id, sequence.as_ref(), old);
    assert!(way(true).contains("rollout rollback-host r1`, then"), "{}", way(true));
    assert!(way(false).contains("mend the cause, then `grayfin rollout retry r1`"));
    mend(&mut world);
    assert_eq!(world.control(Action::RollbackHost), Response::Done);
    world.until("it is undone", |w| {
        let run = w.state.rollouts[&w.id].host(&host(2)).unwrap();
        matches!(run.sequence, Some(SequenceState::Undone { .. }))
    });
    assert_eq!(world.control(Action::Retry), Response::Done);
    world.finish(RolloutState::Succeeded);
}

#[test]
fn a_later_token_that_others_promised_away_ends_a_hold_that_a_copy_believes_in() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("db3 is held", |w| w.held() == Some(host(3)));
    let later = Token(world.token().0 + 1);
    // As after db1's hello: it promised a later token away for db2, which was never allotted here.
    let word = grayfin_coordinator_core::state::Witness { token: later, by: host(1) };
    world.state.witnessed.insert(host(2), word);
    world.until("a go is denied", denied);
    let told = world.bodies().any(|body| format!("{body:?}").contains("did not allot"));
    assert!(told, "the event says why");
}
