//! Rollouts under random trouble and random operators: the rules hold at every step (the world
//! checks them), and when the trouble ends the remedies that Grayfin names lead to an end.

use grayfin_coordinator_core::{Response, cmd::Action, explain::explain};
use grayfin_types::{
    Code,
    plan::CanarySpec,
    status::{HostPhase, RolloutState},
    step::Step,
};
use proptest::prelude::*;

use crate::{
    agent::Fault,
    model::{NEW, OLD, cluster, host, version},
    world::{Dice, World},
};

const HOSTS: usize = 3;

/// What happened at least once over all cases; a check that nothing interesting was left out.
#[derive(Debug, Default)]
struct Sometimes {
    restarted: bool,
    cut: bool,
    halted: bool,
    undone: bool,
    succeeded: bool,
    aborted: bool,
    failed: bool,
    broken: bool,
}

fn fault(dice: &mut Dice) -> Option<Fault> {
    let step = Step::ALL[usize::try_from(1 + dice.roll(7)).unwrap()];
    match dice.roll(6) {
        0 => Some(Fault::Refuse),
        1 if step < Step::Start => Some(Fault::Undo(step)),
        2 if step > Step::Stop => Some(Fault::Fail(step)),
        _ => None,
    }
}

fn trouble(world: &mut World, dice: &mut Dice, seen: &mut Sometimes) {
    let somebody = host(1 + usize::try_from(dice.roll(3)).unwrap());
    match dice.roll(14) {
        0 | 1 => {
            world.restart_coordinator();
            seen.restarted = true;
        }
        2 | 3 => {
            world.disconnect(&somebody);
            seen.cut = true;
        }
        4..=6 => {
            if !world.links.contains(&somebody) {
                world.connect(&somebody);
            }
        }
        7 => world.agents.get_mut(&somebody).unwrap().fault = fault(dice),
        8 => {
            let state = if dice.roll(2) == 0 { "RECOVERING" } else { "COMPLETE" };
            world.model.chunks[0].state = state.to_owned();
        }
        9 => {
            let up: Vec<_> = world
                .model
                .nodes
                .iter()
                .filter(|n| n.up && n.spec.alias.as_str().starts_with("ctl"))
                .map(|n| n.spec.alias.clone())
                .collect();
            let pick = usize::try_from(dice.roll(3)).unwrap();
            world.model.leader = up.get(pick).or_else(|| up.first()).cloned();
        }
        10 => drop(world.control(Action::Pause)),
        11 => drop(world.control(Action::Resume)),
        12 => drop(world.control(Action::Retry)),
        _ => match dice.roll(8) {
            0 => drop(world.control(Action::Abort)),
            1 | 2 => drop(world.control(Action::Skip { host: None })),
            3 => drop(world.control(Action::Skip { host: Some(somebody) })),
            4 => drop(world.control(Action::RollbackHost)),
            5 => {
                if let Some(hold) = world.state.holds.get(&cluster()) {
                    let token = hold.token;
                    seen.broken |= world.control(Action::BreakHold { token }) == Response::Done;
                }
            }
            _ => {}
        },
    }
}

/// Ends all trouble, and does what `explain` names until the rollout ends.
fn remedy(world: &mut World) {
    world.twice = 0;
    world.model.chunks[0].state = "COMPLETE".to_owned();
    for number in 1..=HOSTS {
        world.agents.get_mut(&host(number)).unwrap().fault = None;
        if !world.links.contains(&host(number)) {
            world.connect(&host(number));
        }
    }
    for _ in 0..40 {
        for _ in 0..70 {
            if world.rollout_state().is_some_and(RolloutState::is_final) {
                return;
            }
            world.step();
        }
        if world.rollout_state().is_some_and(RolloutState::is_final) {
            return;
        }
        let explained = explain(&world.state, &world.view, &world.id, world.now_ms).unwrap();
        let action = match explained.commands.iter().find_map(|c| c.split(' ').nth(2)) {
            Some("retry") => Action::Retry,
            Some("resume") => Action::Resume,
            Some("watch") => continue,
            other => panic!("no way on: {other:?} {explained:#?}"),
        };
        let done = world.control(action.clone());
        assert_eq!(done, Response::Done, "{action:?} is no remedy: {explained:#?}");
    }
    panic!("it does not end: {:#?}", world.state.rollouts[&world.id]);
}

/// A broken hold's host is told to come up, as `explain` says, and its hold is closed.
fn close_broken(world: &mut World) {
    for _ in 0..10 {
        for _ in 0..100 {
            if world.state.broken.is_empty() && world.agents.values().all(|a| a.hold.is_none()) {
                return;
            }
            world.step();
        }
        drop(world.control(Action::Abort));
    }
    panic!("a broken hold stays: {:?}", world.state.broken);
}

fn run(seed: u64, canary: bool, seen: &mut Sometimes) {
    let mut dice = Dice(seed);
    let spec = if canary { CanarySpec::New { rows_per_second: 100 } } else { CanarySpec::Off };
    let mut world = World::started(HOSTS, spec);
    world.dice = Dice(seed ^ 1);
    world.twice = dice.roll(50);
    for _ in 0..dice.roll(40) {
        for _ in 0..dice.roll(25) {
            world.step();
        }
        if world.rollout_state().is_some_and(RolloutState::is_final) {
            break;
        }
        trouble(&mut world, &mut dice, seen);
        seen.halted |= world.rollout_state() == Some(RolloutState::Halted);
        seen.undone |= world.agents.values().any(|a| {
            a.hold.as_ref().is_some_and(|h| {
                matches!(h.ended, Some(grayfin_types::step::SequenceState::Undone { .. }))
            })
        });
    }
    remedy(&mut world);
    close_broken(&mut world);
    world.check_log();
    assert!(world.state.holds.is_empty(), "{seed}: a hold is left");
    assert!(world.agents.values().all(|a| a.hold.is_none()), "{seed}: an agent holds");
    assert!(world.model.nodes.iter().all(|n| n.up), "{seed}: a node is left down");
    let rollout = &world.state.rollouts[&world.id];
    for run in &rollout.hosts {
        let wanted = if run.phase == HostPhase::Done { NEW } else { OLD };
        let nodes: Vec<_> = world.model.of_host(&run.host).collect();
        // After a break the host agent finished by itself, one way or the other.
        let broken = rollout.halted.as_ref().is_some_and(|r| r.code == Code::HoldBroken);
        assert!(
            broken && run.phase == HostPhase::Failed
                || nodes.iter().all(|n| n.version == version(wanted)),
            "{seed}: {} is {:?} with {nodes:?}",
            run.host,
            run.phase
        );
    }
    match rollout.state {
        RolloutState::Succeeded => seen.succeeded = true,
        RolloutState::Aborted => seen.aborted = true,
        _ => seen.failed = true,
    }
}

#[test]
fn fixed_seeds_meet_everything_and_end() {
    let mut seen = Sometimes::default();
    for seed in 0..100 {
        run(seed * 7_919, seed % 2 == 0, &mut seen);
    }
    let all = [
        seen.restarted,
        seen.cut,
        seen.halted,
        seen.undone,
        seen.succeeded,
        seen.aborted,
        seen.failed,
        seen.broken,
    ];
    assert!(all.iter().all(|met| *met), "{seen:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]
    #[test]
    fn any_seed_keeps_the_rules_and_ends(seed in any::<u64>(), canary in any::<bool>()) {
        run(seed, canary, &mut Sometimes::default());
    }
}
