//! From every state in which a person is needed: what each verb does, and that what `explain` names is
//! accepted and leads to an end.

use grayfin_coordinator_core::{
    Cmd, Response,
    cmd::Action,
    explain::explain,
    ways::{self, Verb},
};
use grayfin_types::{
    Code,
    facts::Probe,
    plan::CanarySpec,
    status::{HostPhase, RolloutState},
    step::{Happened, Report, SequenceState, Step},
};

use crate::{
    agent::Fault,
    model::{NEW, OLD, cluster, host, version},
    steering::{code, failing, mend},
    world::World,
};

/// What a verb is expected to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    /// It is refused with this code.
    No(Code),
    /// The rollout ends so, once the cause is mended.
    Ends(RolloutState),
    /// The host is brought back to the old version, and the rollout stays halted.
    UndoesAndHalts,
}

use Does::{Ends, No, UndoesAndHalts};

/// A state in which a person is needed.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// The package could not be staged.
    Unstaged,
    /// The host's sequence went wrong.
    Sequence(Fault),
}

const VERBS: [Verb; 6] =
    [Verb::Pause, Verb::Resume, Verb::Retry, Verb::Skip, Verb::RollbackHost, Verb::Abort];

const WRONG: Does = No(Code::WrongState);

/// What S12 and the Commitment say, in the order of [`VERBS`].
fn expected(trouble: Trouble) -> [Does; 6] {
    use RolloutState::{Aborted, Incomplete, Succeeded};
    match trouble {
        Trouble::Unstaged => {
            [WRONG, Ends(Succeeded), Ends(Succeeded), Ends(Incomplete), WRONG, Ends(Aborted)]
        }
        Trouble::Sequence(Fault::Refuse | Fault::Undo(_)) => {
            [WRONG, WRONG, Ends(Succeeded), Ends(Incomplete), WRONG, Ends(Aborted)]
        }
        Trouble::Sequence(Fault::Fail(step)) if step < Step::Start => {
            [WRONG, WRONG, Ends(Succeeded), WRONG, UndoesAndHalts, Ends(Aborted)]
        }
        Trouble::Sequence(Fault::Fail(_)) => {
            [WRONG, WRONG, Ends(Succeeded), WRONG, No(Code::UndoImpossible), Ends(Aborted)]
        }
    }
}

fn troubles() -> Vec<Trouble> {
    let steps = Step::ALL.into_iter().filter(|step| *step > Step::Guard);
    let failed = steps.clone().map(|step| Trouble::Sequence(Fault::Fail(step)));
    let before = steps.filter(|step| *step < Step::Start);
    let undone = before.map(|step| Trouble::Sequence(Fault::Undo(step)));
    let first = [Trouble::Unstaged, Trouble::Sequence(Fault::Refuse)];
    first.into_iter().chain(undone).chain(failed).collect()
}

fn action(verb: Verb) -> Action {
    match verb {
        Verb::Pause => Action::Pause,
        Verb::Resume => Action::Resume,
        Verb::Retry => Action::Retry,
        Verb::Skip => Action::Skip { host: None },
        Verb::RollbackHost => Action::RollbackHost,
        Verb::Abort => Action::Abort,
        Verb::Watch => panic!("it changes nothing"),
    }
}

fn in_trouble(trouble: Trouble) -> World {
    let fault = match trouble {
        Trouble::Sequence(fault) => return failing(fault),
        Trouble::Unstaged => Happened::Failed {
            code: Code::PackageCorrupt,
            message: "the zip is damaged".to_owned(),
        },
    };
    let mut world = World::new(3);
    assert!(world.start(&crate::world::request(CanarySpec::Off)).ready);
    let agent = world.agents.get_mut(&host(2)).unwrap();
    agent.position += 1;
    let report = Report {
        host: host(2),
        token: grayfin_types::Token(0),
        step: Step::Stage,
        undo: false,
        happened: fault,
        seen: String::new(),
        position: agent.position,
        chain: String::new(),
        at_ms: 0,
    };
    world.apply(Cmd::Reported { report });
    world.until_state(RolloutState::Halted);
    world
}

fn old_version_is_up(world: &World) -> bool {
    world.model.of_host(&host(2)).all(|n| n.up && n.version == version(OLD))
}

fn check(trouble: Trouble, verb: Verb, does: Does) {
    let mut world = in_trouble(trouble);
    let rollout = &world.state.rollouts[&world.id];
    let named = ways::possible(&world.state, rollout).contains(&verb);
    let what = format!("{verb:?} after {trouble:?}");
    if let No(refusal) = does {
        let before = world.state.clone();
        let response = world.control(action(verb));
        assert_eq!(code(&response), Some(refusal), "{what}");
        assert!(!named, "{what} is named and refused");
        assert_eq!(world.state.rollouts, before.rollouts, "{what} changed something");
        assert_eq!(world.state.holds, before.holds, "{what} changed something");
        return;
    }
    mend(&mut world);
    assert_eq!(world.control(action(verb)), Response::Done, "{what}");
    // One that is accepted is named, but for a resume that is a retry.
    assert!(named || verb == Verb::Resume, "{what} is accepted and not named");
    match does {
        Ends(state) => {
            world.finish(state);
            assert!(world.model.nodes.iter().all(|n| n.up), "{what}");
            assert!(world.agents.values().all(|a| a.hold.is_none()), "{what}");
            let started = matches!(trouble, Trouble::Sequence(Fault::Fail(s)) if s >= Step::Start);
            let new = state == RolloutState::Succeeded || started;
            let wanted = version(if new { NEW } else { OLD });
            assert!(world.model.of_host(&host(2)).all(|n| n.version == wanted), "{what}");
        }
        UndoesAndHalts => {
            world.until("it is undone", |w| {
                let run = w.state.rollouts[&w.id].host(&host(2)).unwrap();
                matches!(run.sequence, Some(SequenceState::Undone { .. }))
            });
            assert_eq!(world.rollout_state(), Some(RolloutState::Halted), "{what}");
            assert_eq!(world.held(), Some(host(2)), "{what}");
            assert!(old_version_is_up(&world), "{what}");
        }
        No(_) => {}
    }
}

#[test]
fn every_verb_does_in_every_trouble_what_the_rules_say() {
    for trouble in troubles() {
        for (verb, does) in VERBS.into_iter().zip(expected(trouble)) {
            check(trouble, verb, does);
        }
    }
}

#[test]
fn while_a_host_is_being_undone_only_an_abort_is_taken() {
    let mut world = failing(Fault::Fail(Step::Backup));
    assert_eq!(world.control(Action::RollbackHost), Response::Done);
    for action in [Action::Retry, Action::RollbackHost, Action::Resume, Action::Pause] {
        assert_eq!(code(&world.control(action)), Some(Code::WrongState));
    }
    let rollout = &world.state.rollouts[&world.id];
    assert_eq!(ways::possible(&world.state, rollout), [Verb::Watch, Verb::Abort]);
    assert_eq!(world.control(Action::Abort), Response::Done);
    world.finish(RolloutState::Aborted);
    assert!(old_version_is_up(&world));
}

#[test]
fn verbs_that_make_no_sense_are_refused_with_a_reason() {
    let mut world = World::started(3, CanarySpec::Off);
    world.until("db2 is held", |w| w.held() == Some(host(2)));
    for verb in [Verb::Resume, Verb::Retry, Verb::RollbackHost, Verb::Skip] {
        let response = world.control(action(verb));
        assert_eq!(code(&response), Some(Code::WrongState), "{verb:?}: {response:?}");
    }
    world.finish(RolloutState::Succeeded);
    for verb in VERBS {
        assert_eq!(code(&world.control(action(verb))), Some(Code::WrongState), "{verb:?}");
    }
}

#[test]
fn after_the_first_start_the_refusal_says_what_remains_node_by_node() {
    let mut world = failing(Fault::Fail(Step::Start));
    let Response::Refused { why, .. } = world.control(Action::RollbackHost) else { panic!() };
    for part in ["`ctl2`: ", "rebuilt from the leading DolphinDB controller", "`node2`: ", "retry"]
    {
        assert!(why.contains(part), "{part}: {why}");
    }
    let explained = explain(&world.state, &world.view, &world.id, world.now_ms).unwrap();
    assert_eq!(explained.way_forward.len(), 3, "{:?}", explained.way_forward);
    assert!(explained.way_back.starts_with("no: "));
}

#[test]
fn explain_answers_what_holds_who_is_next_and_whether_there_is_a_way_back() {
    let mut world = World::started(3, CanarySpec::Off);
    let ask = |w: &World| explain(&w.state, &w.view, &w.id, w.now_ms).unwrap();
    world.until("it runs", |w| w.rollout_state() == Some(RolloutState::Running));
    let explained = ask(&world);
    let (next, why) = explained.next.unwrap();
    assert!(next == host(2) && !why.is_empty());
    assert!(explained.way_back.starts_with("not needed"), "{}", explained.way_back);
    assert_eq!(world.control(Action::Pause), Response::Done);
    world.step();
    world.until("it stands between hosts", |w| w.state.holds.is_empty());
    let explained = ask(&world);
    assert!(explained.waiting.iter().any(|r| r.evidence.contains("paused")));
    assert_eq!(explained.commands[0], "grayfin rollout resume r1");
    let next = explained.next.unwrap();
    assert_eq!(next.0, host(if world.granted().is_empty() { 2 } else { 3 }));
    assert_eq!(world.control(Action::Resume), Response::Done);
    world.until("db2 is done and db3 in turn", |w| w.held() == Some(host(3)));
    let explained = ask(&world);
    assert!(explained.way_back.contains("`db2` run"), "{}", explained.way_back);
    assert!(explained.next.unwrap().1.contains("in turn"));
    world.finish(RolloutState::Succeeded);
}

/// A host agent at work says nothing of what it waits for until its step ends: what is seen from
/// here says it.
#[test]
fn explain_names_what_a_host_agent_at_work_cannot_do_without() {
    let mut world = World::started(3, CanarySpec::Off);
    let works_at = |w: &World, wanted: Step| {
        let hosts = &w.state.rollouts[&w.id].hosts;
        hosts.iter().any(|run| run.phase == HostPhase::Working { step: wanted })
    };
    for (step, needs_a_leader) in
        [(Step::Quiesce, true), (Step::Backup, false), (Step::Start, true), (Step::Join, true)]
    {
        world.until("the step began", |w| works_at(w, step));
        let mut view = world.view.clone();
        let facts = view.clusters.get_mut(&cluster()).unwrap().facts.as_mut().unwrap();
        facts.value.leader = Probe::Unknown("an election is on".to_owned());
        let explained = explain(&world.state, &view, &world.id, world.now_ms).unwrap();
        let unclear = explained.waiting.iter().find(|r| r.code == Code::LeaderUnclear);
        assert_eq!(unclear.is_some(), needs_a_leader, "{step}: {:?}", explained.waiting);
        assert!(unclear.is_none_or(|r| r.evidence.contains("election")), "{unclear:?}");
        let (next, why) = explained.next.unwrap();
        assert!(next == host(2) && why.contains(&format!("at step `{step}`")), "{why}");
    }
    // It has joined when its nodes answer; which one does not is named.
    let mut view = world.view.clone();
    let facts = view.clusters.get_mut(&cluster()).unwrap().facts.as_mut().unwrap();
    let Probe::Known(nodes) = &mut facts.value.nodes else { panic!("the nodes are known") };
    let data = nodes.iter_mut().find(|node| node.spec.alias.as_str() == "node2").unwrap();
    data.answers = Probe::Known(false);
    let explained = explain(&world.state, &view, &world.id, world.now_ms).unwrap();
    let down = explained.waiting.iter().any(|r| r.code == Code::NodeDown && r.subject == "node2");
    assert!(down, "{:?}", explained.waiting);
    world.finish(RolloutState::Succeeded);
}

#[test]
fn a_rollout_that_left_a_host_out_says_so_and_can_be_started_again() {
    let mut world = World::started(3, CanarySpec::Off);
    assert_eq!(world.control(Action::Skip { host: Some(host(3)) }), Response::Done);
    world.finish(RolloutState::Incomplete);
    let explained = explain(&world.state, &world.view, &world.id, world.now_ms).unwrap();
    assert!(explained.waiting[0].evidence.contains("`db3`"), "{explained:#?}");
    assert!(explained.commands[0].starts_with("grayfin rollout start trade --to "));
    world.id = "r2".parse().unwrap();
    assert!(world.start(&crate::world::request(CanarySpec::Off)).ready);
    world.finish(RolloutState::Succeeded);
    assert_eq!(world.granted(), [host(3)]);
    let phases = |w: &World| {
        w.state.rollouts[&w.id].hosts.iter().map(|h| h.phase.clone()).collect::<Vec<_>>()
    };
    assert_eq!(phases(&world).iter().filter(|p| **p == HostPhase::Done).count(), 1);
}
