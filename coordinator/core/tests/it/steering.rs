//! What operators do, at good moments and at bad ones.

use grayfin_coordinator_core::{
    Cmd, Response,
    cmd::{Action, Control},
    explain::explain,
    status,
};
use grayfin_types::{
    Code, Token,
    plan::{CanarySpec, PauseAfter},
    status::{HostPhase, RolloutState},
    step::Step,
};

use crate::{
    agent::Fault,
    model::{NEW, OLD, host, version},
    world::{World, request},
};

const CANARY: CanarySpec = CanarySpec::New { rows_per_second: 100 };

pub(crate) fn failing(fault: Fault) -> World {
    let mut world = World::started(3, CANARY);
    world.agents.get_mut(&host(2)).unwrap().fault = Some(fault);
    world.until_state(RolloutState::Halted);
    world
}

pub(crate) fn code(response: &Response) -> Option<Code> {
    match response {
        Response::Refused { code, .. } => Some(*code),
        _ => None,
    }
}

pub(crate) fn mend(world: &mut World) {
    world.agents.get_mut(&host(2)).unwrap().fault = None;
}

#[test]
fn a_refused_guard_halts_and_a_retry_goes_on() {
    let mut world = failing(Fault::Refuse);
    assert!(world.model.nodes.iter().all(|n| n.start_ticks == 1), "nothing was touched");
    mend(&mut world);
    assert_eq!(world.control(Action::Retry), Response::Done);
    world.finish(RolloutState::Succeeded);
}

#[test]
fn every_failed_step_can_be_retried() {
    for step in [Step::Quiesce, Step::Stop, Step::Backup, Step::Upgrade] {
        let mut world = failing(Fault::Undo(step));
        assert!(world.model.of_host(&host(2)).all(|n| n.up && n.version == version(OLD)));
        mend(&mut world);
        assert_eq!(world.control(Action::Retry), Response::Done, "{step}");
        world.finish(RolloutState::Succeeded);
    }
    for step in [Step::Backup, Step::Start, Step::Join] {
        let mut world = failing(Fault::Fail(step));
        mend(&mut world);
        assert_eq!(world.control(Action::Retry), Response::Done, "{step}");
        world.finish(RolloutState::Succeeded);
    }
}

#[test]
fn an_undone_host_can_be_left_out_and_the_end_says_so() {
    let mut world = failing(Fault::Undo(Step::Stop));
    assert_eq!(world.control(Action::Skip { host: None }), Response::Done);
    world.finish(RolloutState::Incomplete);
    assert_eq!(world.granted(), [host(2), host(3), host(1)]);
    let rollout = &world.state.rollouts[&world.id];
    assert_eq!(rollout.host(&host(2)).unwrap().phase, HostPhase::Skipped);
    assert!(world.model.of_host(&host(1)).all(|n| n.version == version(NEW)));
}

#[test]
fn a_disturbed_host_cannot_be_left_out() {
    let mut world = failing(Fault::Fail(Step::Backup));
    assert_eq!(code(&world.control(Action::Skip { host: None })), Some(Code::WrongState));
    assert_eq!(world.held(), Some(host(2)));
}

#[test]
fn a_host_whose_turn_has_not_come_can_be_left_out() {
    let mut world = World::started(3, CanarySpec::Off);
    assert_eq!(world.control(Action::Skip { host: Some(host(3)) }), Response::Done);
    world.finish(RolloutState::Incomplete);
    assert_eq!(world.granted(), [host(2), host(1)]);
    assert_eq!(code(&world.control(Action::Pause)), Some(Code::WrongState));
}

#[test]
fn rollback_host_undoes_before_the_first_start_and_is_refused_after_it() {
    let mut world = failing(Fault::Fail(Step::Backup));
    assert!(world.model.of_host(&host(2)).all(|n| !n.up));
    assert_eq!(world.control(Action::RollbackHost), Response::Done);
    world.until("it is up again", |w| w.model.of_host(&host(2)).all(|n| n.up));
    for _ in 0..10 {
        world.step();
    }
    assert_eq!(world.rollout_state(), Some(RolloutState::Halted));
    assert!(world.model.of_host(&host(2)).all(|n| n.version == version(OLD)));
    assert_eq!(world.control(Action::Abort), Response::Done);
    world.finish(RolloutState::Aborted);

    let mut world = failing(Fault::Fail(Step::Start));
    assert_eq!(code(&world.control(Action::RollbackHost)), Some(Code::UndoImpossible));
}

#[test]
fn an_abort_at_any_moment_ends_with_every_host_up_and_none_held() {
    for at in (0..300).step_by(5) {
        let mut world = World::started(3, CANARY);
        for _ in 0..at {
            world.step();
        }
        if world.state.rollouts[&world.id].state.is_final() {
            break;
        }
        assert_eq!(world.control(Action::Abort), Response::Done);
        let granted = world.granted().len();
        world.until("it ended", |w| w.state.rollouts[&w.id].state.is_final());
        world.check_log();
        assert_eq!(world.granted().len(), granted, "nothing new is granted");
        assert!(world.model.nodes.iter().all(|n| n.up), "abort after {at} steps");
        assert!(world.agents.values().all(|a| a.hold.is_none()));
        assert_eq!(world.rollout_state(), Some(RolloutState::Aborted));
    }
}

#[test]
fn an_abort_after_a_failed_start_goes_forward_when_the_cause_is_gone() {
    let mut world = failing(Fault::Fail(Step::Start));
    mend(&mut world);
    assert_eq!(world.control(Action::Abort), Response::Done);
    world.finish(RolloutState::Aborted);
    assert!(world.model.of_host(&host(2)).all(|n| n.up && n.version == version(NEW)));
}

#[test]
fn a_pause_lets_the_present_host_finish_and_takes_no_other() {
    let mut world = World::started(3, CANARY);
    world.until("db2 is held", |w| w.held() == Some(host(2)));
    assert_eq!(world.control(Action::Pause), Response::Done);
    world.until("db2 is done", |w| {
        w.state.rollouts[&w.id].host(&host(2)).unwrap().phase == HostPhase::Done
    });
    for _ in 0..100 {
        world.step();
    }
    assert_eq!(world.granted(), [host(2)]);
    assert_eq!(world.rollout_state(), Some(RolloutState::Paused));
    assert_eq!(world.control(Action::Resume), Response::Done);
    world.finish(RolloutState::Succeeded);
}

#[test]
fn a_rollout_pauses_by_itself_as_planned() {
    for (when, pauses) in [(PauseAfter::First, 1), (PauseAfter::Each, 2)] {
        let mut world = World::new(3);
        let mut wish = request(CanarySpec::Off);
        wish.pause_after = when;
        assert!(world.start(&wish).ready);
        for done in 1..=pauses {
            world.until_state(RolloutState::Paused);
            assert_eq!(world.granted().len(), done);
            assert_eq!(world.control(Action::Resume), Response::Done);
        }
        world.finish(RolloutState::Succeeded);
    }
}

#[test]
fn a_broken_hold_closes_nothing_and_its_host_blocks_until_it_is_up() {
    let mut world = failing(Fault::Fail(Step::Start));
    let token = world.token();
    let stale = world.control(Action::BreakHold { token: Token(token.0 + 1) });
    assert_eq!(code(&stale), Some(Code::TokenStale));
    assert_eq!(world.control(Action::BreakHold { token }), Response::Done);
    assert_eq!(world.rollout_state(), Some(RolloutState::Failed));
    assert_eq!(world.state.broken.len(), 1);
    assert_eq!(world.agents[&host(2)].open_hold(), Some(token), "nothing was closed");
    // A new rollout holds: the host is down and its agent has the hold open.
    world.id = "r2".parse().unwrap();
    let answer = world.start(&request(CanarySpec::Off));
    assert!(!answer.ready);
    let says = |gate: &str| answer.findings.iter().any(|f| f.gate == gate && !f.decision.is_go());
    assert!(says("holds-closed") && says("nodes-up"));
    // Its agent brings it up at last, is told to close, and all goes on.
    world.id = "r1".parse().unwrap();
    mend(&mut world);
    let explained = explain(&world.state, &world.view, &world.id, world.now_ms).unwrap();
    assert_eq!(explained.commands, ["grayfin rollout abort r1"]);
    assert_eq!(status::holds(&world.state)[1].state, "broken");
    assert_eq!(world.control(Action::Abort), Response::Done);
    world.until_closed();
    world.id = "r2".parse().unwrap();
    assert!(world.start(&request(CanarySpec::Off)).ready);
    world.finish(RolloutState::Succeeded);
    assert_eq!(world.agents[&host(2)].runs, 1, "it was on the target already");
}

#[test]
fn a_repeated_request_does_nothing_new() {
    let mut world = World::started(3, CanarySpec::Off);
    let pause = Cmd::Control(Control {
        request_id: "once".to_owned(),
        rollout: world.id.clone(),
        action: Action::Pause,
        reason: "lunch".to_owned(),
        by: "ann".to_owned(),
    });
    assert_eq!(world.apply(pause.clone()), Response::Done);
    let events = world.events.len();
    assert_eq!(world.control(Action::Resume), Response::Done);
    // The client did not get the answer and asks again, late.
    assert_eq!(world.apply(pause), Response::Done);
    assert_ne!(world.rollout_state(), Some(RolloutState::Paused));
    assert!(world.events.len() > events);
}

#[test]
fn a_second_rollout_of_a_cluster_is_refused() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until_state(RolloutState::Running);
    let first = world.id.clone();
    world.id = "r2".parse().unwrap();
    let now_ms = world.now_ms;
    let answer = grayfin_coordinator_core::plan::build(
        &world.state,
        &world.view,
        &request(CanarySpec::Off),
        &crate::world::policy(),
        &crate::world::hasher,
        now_ms,
    );
    assert!(!answer.ready);
    let start = grayfin_coordinator_core::cmd::Start {
        request_id: "second".to_owned(),
        rollout: world.id.clone(),
        plan: world.state.rollouts[&first].plan.clone(),
        findings: Vec::new(),
        by: "ann".to_owned(),
    };
    let response = world.apply(Cmd::Start(Box::new(start)));
    assert_eq!(code(&response), Some(Code::ClusterBusy));
}

#[test]
fn explain_and_status_say_what_holds_and_what_leads_on() {
    let mut world = failing(Fault::Fail(Step::Start));
    let explained = explain(&world.state, &world.view, &world.id, world.now_ms).unwrap();
    assert_eq!(explained.waiting[0].code, Code::StartFailed);
    assert!(explained.way_back.starts_with("no:"), "{}", explained.way_back);
    assert!(explained.commands.iter().any(|c| c.contains("retry")));
    assert!(!explained.commands.iter().any(|c| c.contains("rollback")));
    let status = status::by_id(&world.state, Some(&world.view), &world.id, false).unwrap();
    assert_eq!(status.waiting[0].code, Code::StartFailed);
    let holds = status::holds(&world.state);
    assert_eq!((holds[0].state.as_str(), holds[0].host.as_ref()), ("held", Some(&host(2))));
    let lines = status::hosts(&world.state, &world.view, world.now_ms);
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1].open_hold, Some(world.token()));
    mend(&mut world);
    assert_eq!(world.control(Action::Retry), Response::Done);
    world.finish(RolloutState::Succeeded);
}
