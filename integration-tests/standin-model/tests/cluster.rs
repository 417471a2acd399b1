//! The model's claims, in virtual time.

#![expect(clippy::panic, reason = "a test that finds something else than it expects fails")]

mod world;

use std::collections::{BTreeMap, BTreeSet};

use standin_model::controller::{ChunkState, Input, TaskKind, TaskStatus};
use standin_model::message::{Answer, Ask};
use standin_model::meta::Command;
use standin_model::{Rng, Timing};
use world::World;

fn ready(seed: u64, timing: Timing) -> World {
    let mut world = World::new(seed, 3, timing);
    world.run_until(40_000, "all data nodes ready", |w| {
        w.leader().is_some()
            && (1..=3).all(|n| w.member(&format!("dn{n}")).is_some_and(|m| m.is_ready()))
    });
    world.run_for(3_000);
    world.make_table();
    world
}

fn states(world: &World) -> Vec<(ChunkState, usize)> {
    let leader = world.leading().expect("a leader");
    leader.chunk_statuses(world.now).iter().map(|c| (c.state, c.replicas.len())).collect()
}

fn whole(world: &World) -> bool {
    world.leading().is_some_and(|l| {
        l.chunk_statuses(world.now)
            .iter()
            .all(|c| c.state == ChunkState::Complete && c.replicas.len() == 2)
    })
}

#[test]
fn first_election_takes_one_to_two_election_waits() {
    for seed in 0..30 {
        let mut world = World::new(seed, 3, Timing::default());
        let start = world.now;
        world.run_until(40_000, "a leader", |w| w.leader().is_some());
        let took = world.now - start;
        assert!((8_000..16_200).contains(&took), "seed {seed}: {took} ms");
    }
}

#[test]
fn leadership_moves_when_the_leader_dies_and_does_not_move_back() {
    for seed in 0..20 {
        let mut world = ready(seed, Timing::default());
        let first = world.leader().expect("a leader");
        world.crash(&first);
        let at = world.now;
        world.run_until(60_000, "another leader", |w| w.leader().is_some());
        let second = world.leader().expect("a leader");
        assert_ne!(first, second);
        assert!((6_000..33_000).contains(&(world.now - at)), "seed {seed}: {}", world.now - at);
        world.start(&first);
        world.run_for(60_000);
        assert_eq!(world.leader(), Some(second), "seed {seed}");
    }
}

#[test]
fn a_minority_does_not_lead_and_nobody_shares_a_term() {
    let mut world = ready(7, Timing::default());
    let leader = world.leader().expect("a leader");
    for n in 1..=3 {
        let alias = format!("ctl{n}");
        if alias != leader {
            world.crash(&alias);
        }
    }
    world.run_for(9_000);
    assert_eq!(world.leader(), None);
    for n in 1..=3 {
        let alias = format!("ctl{n}");
        if alias != leader {
            world.start(&alias);
        }
    }
    world.run_until(40_000, "a leader again", |w| w.leader().is_some());
    let terms: Vec<u64> = world.leaders_seen.iter().map(|(term, _)| *term).collect();
    let distinct: BTreeSet<u64> = terms.iter().copied().collect();
    assert_eq!(terms.len(), distinct.len());
}

#[test]
fn rows_are_on_two_nodes_once_the_client_is_told() {
    let mut world = ready(1, Timing::default());
    assert_eq!(world.write_now("dn1", "a", 1), Answer::Done);
    assert_eq!(world.write_now("dn2", "a", 2), Answer::Done);
    let rows = world.rows_by_replica();
    assert_eq!(rows.len(), 2);
    assert!(rows.values().all(|r| *r == [1, 2]), "{rows:?}");
    assert_eq!(states(&world), [(ChunkState::Complete, 2)]);
}

#[test]
fn a_node_that_was_away_recovers_and_counts_again() {
    let mut world = ready(2, Timing::default());
    assert_eq!(world.write_now("dn1", "a", 1), Answer::Done);
    let holders: Vec<String> =
        world.rows_by_replica().keys().map(|(_, alias)| alias.clone()).collect();
    let (away, other) = (holders[0].clone(), holders[1].clone());
    world.crash(&away);
    // The first attempt may meet the dead node: it is rolled back, and the leader learns of it.
    let first = world.write_now(&other, "a", 2);
    let told = matches!(&first, Answer::Failed(t) if t.starts_with("<DataNodeNotAvail>"));
    assert!(told || first == Answer::Done);
    world.run_for(500);
    for row in 3..200 {
        assert_eq!(world.write_now(&other, "a", row), Answer::Done);
    }
    assert_eq!(states(&world), [(ChunkState::Complete, 1)]);
    world.start(&away);
    world.run_until(5_000, "recovering", |w| states(w) == [(ChunkState::Recovering, 2)]);
    // It recovers although the chunk is written to all the time.
    let mut row = 200;
    while !whole(&world) {
        assert_eq!(world.write_now(&other, "a", row), Answer::Done);
        row += 1;
        assert!(row < 3_000, "recovery does not end under load");
    }
    let rows = world.rows_by_replica();
    assert_eq!(rows.len(), 2);
    let all: Vec<_> = rows.values().collect();
    assert_eq!(all[0], all[1]);
    let leader = world.leading().expect("a leader");
    let finished = leader.tasks().filter(|t| t.status == TaskStatus::Finished).count();
    assert_eq!(finished, 1);
}

#[test]
fn after_the_recovery_wait_another_node_gets_the_replica() {
    let timing = Timing { recovery_wait_ms: Some(60_000), ..Timing::default() };
    let mut world = ready(3, timing);
    assert_eq!(world.write_now("dn1", "a", 1), Answer::Done);
    let rows = world.rows_by_replica();
    let away = rows.keys().next().expect("a replica").1.clone();
    world.crash(&away);
    world.run_for(55_000);
    assert_eq!(states(&world), [(ChunkState::Complete, 1)]);
    world.run_until(20_000, "two replicas again", whole);
    let leader = world.leading().expect("a leader");
    assert!(
        leader.tasks().any(|t| t.kind == TaskKind::Replace && t.status == TaskStatus::Finished)
    );
    world.start(&away);
    world.run_for(10_000);
    assert!(whole(&world));
    assert_eq!(world.member(&away).expect("up").chunks().count(), 0);
}

#[test]
fn a_new_partition_needs_as_many_nodes_as_replicas() {
    let mut world = ready(4, Timing::default());
    assert_eq!(world.write_now("dn1", "a", 1), Answer::Done);
    world.crash("dn2");
    world.crash("dn3");
    world.run_for(12_000);
    let refused = world.write_now("dn1", "b", 2);
    assert!(matches!(&refused, Answer::Failed(t) if t.contains("S01015")), "{refused:?}");
}

#[test]
fn a_request_sent_again_is_run_once_where_the_server_remembers_it() {
    let mut world = ready(5, Timing::default());
    let client = Some(("c".to_owned(), 7));
    for _ in 0..2 {
        let id = world.write("dn1", "a", 1, client.clone());
        world.run_until(9_000, "written", |w| w.answers.contains_key(&id));
    }
    assert!(world.rows_by_replica().values().all(|rows| *rows == [1]));
    for _ in 0..2 {
        let id = world.write("dn1", "a", 2, None);
        world.run_until(9_000, "written", |w| w.answers.contains_key(&id));
    }
    assert!(world.rows_by_replica().values().all(|rows| *rows == [1, 2, 2]));
}

#[test]
fn metadata_outlives_any_minority_of_controllers() {
    let mut world = ready(6, Timing::default());
    assert_eq!(world.write_now("dn1", "a", 1), Answer::Done);
    for _ in 0..3 {
        let leader = world.leader().expect("a leader");
        world.crash(&leader);
        world.run_until(60_000, "another leader", |w| w.leader().is_some());
        world.start(&leader);
        world.run_until(20_000, "whole", whole);
    }
    assert!(world.rows_by_replica().values().all(|rows| *rows == [1]));
}

#[test]
fn a_controller_far_behind_gets_the_whole_state() {
    let mut world = ready(8, Timing::default());
    let leader = world.leader().expect("a leader");
    let behind = (1..=3).map(|n| format!("ctl{n}")).find(|c| *c != leader).expect("one");
    world.crash(&behind);
    for row in 0..2_500 {
        assert_eq!(world.write_now("dn1", "a", row), Answer::Done);
    }
    world.start(&behind);
    world.run_for(5_000);
    let (a, b) = (world.controller(&leader).expect("up"), world.controller(&behind).expect("up"));
    assert!(a.raft().log().snapshot().index > 0);
    assert_eq!(a.meta().chunks, b.meta().chunks);
}

#[test]
fn dropping_needs_the_nodes_and_frees_the_disks() {
    let mut world = ready(9, Timing::default());
    assert_eq!(world.write_now("dn1", "a", 1), Answer::Done);
    let drop = Command::DropTable { db: "dfs://d".to_owned(), name: "t".to_owned() };
    world.crash("dn3");
    world.run_for(12_000);
    let refused = world.ask_now("dn1", Ask::Change(drop.clone()));
    assert!(matches!(&refused, Answer::Failed(t) if t.contains("S01013")), "{refused:?}");
    world.start("dn3");
    world.run_for(5_000);
    assert_eq!(world.ask_now("dn1", Ask::Change(drop)), Answer::Done);
    world.run_for(1_000);
    for n in 1..=3 {
        assert_eq!(world.member(&format!("dn{n}")).expect("up").chunks().count(), 0);
    }
}

#[test]
fn nodes_start_and_stop_through_the_agents() {
    let mut world = ready(10, Timing::default());
    let nodes = vec!["dn2".to_owned()];
    let stop = Ask::StopNodes { nodes: nodes.clone(), wait: true };
    assert_eq!(world.ask_now("dn1", stop), Answer::Done);
    world.run_for(100);
    assert!(!world.is_up("dn2"));
    let unknown = Ask::StartNodes { nodes: vec!["nobody".to_owned()] };
    assert!(matches!(world.ask_now("dn1", unknown), Answer::Failed(_)));
    assert_eq!(world.ask_now("dn1", Ask::StartNodes { nodes }), Answer::Done);
    world.run_until(5_000, "it is ready", |w| w.member("dn2").is_some_and(|m| m.is_ready()));
}

#[test]
fn the_restart_interval_brings_back_what_crashed_but_not_what_was_stopped() {
    let timing = Timing { restart_ms: Some(10_000), ..Timing::default() };
    let mut world = ready(11, timing);
    let stop = Ask::StopNodes { nodes: vec!["dn2".to_owned()], wait: true };
    assert_eq!(world.ask_now("dn1", stop), Answer::Done);
    world.crash("dn3");
    world.run_for(60_000);
    assert_eq!(world.started, ["dn3"]);
    assert!(!world.is_up("dn2"));
    let leader = world.leader().expect("a leader");
    world.control(&leader, Input::SetRestart(None));
    world.crash("dn3");
    world.run_for(60_000);
    assert!(!world.is_up("dn3"));
}

#[test]
fn suspended_recovery_waits_until_it_is_resumed() {
    let mut world = ready(12, Timing::default());
    assert_eq!(world.write_now("dn1", "a", 1), Answer::Done);
    let away = world.rows_by_replica().keys().next().expect("a replica").1.clone();
    let via = if away == "dn1" { "dn2" } else { "dn1" };
    world.crash(&away);
    world.run_for(12_000);
    assert_eq!(world.write_now(via, "a", 2), Answer::Done);
    let leader = world.leader().expect("a leader");
    world.control(&leader, Input::SuspendRecovery(true));
    world.start(&away);
    world.run_for(30_000);
    assert_eq!(states(&world), [(ChunkState::Recovering, 2)]);
    world.control(&leader, Input::SuspendRecovery(false));
    world.run_until(5_000, "whole", whole);
}

/// Nodes crash and come back at random while rows are written; in the end every acknowledged row
/// is on every replica exactly once, and no row is there that a client was told is not.
#[test]
fn what_a_dead_writer_left_undecided_is_settled_without_it() {
    let mut left = 0;
    for seed in 0..40 {
        let mut world = ready(seed, Timing::default());
        world.write("dn1", "a", 1, None);
        // Somewhere between the first message and the last one.
        world.run_for(seed);
        world.crash("dn1");
        left += world.undecided();
        world.run_for(120_000);
        assert_eq!(world.undecided(), 0, "seed {seed}");
    }
    assert!(left > 3, "no writer died in time: {left}");
}

#[test]
fn no_acknowledged_row_is_lost_whatever_crashes() {
    let mut failovers = 0;
    let mut refusals = 0;
    for seed in 0..10 {
        let timing = Timing { recovery_wait_ms: Some(60_000), ..Timing::default() };
        let mut world = ready(100 + seed, timing);
        let mut chaos = Rng::new(seed);
        let first = world.leader();
        let mut sent: BTreeMap<u64, u64> = BTreeMap::new();
        for row in 0..400 {
            let up: Vec<String> =
                (1..=3).map(|n| format!("dn{n}")).filter(|a| world.is_up(a)).collect();
            let via = up[usize::try_from(chaos.below(up.len() as u64)).expect("small")].clone();
            let key = ["a", "b", "c", "d"][usize::try_from(chaos.below(4)).expect("small")];
            sent.insert(row, world.write(&via, key, row, None));
            world.run_for(chaos.below(120));
            if chaos.below(12) == 0 {
                disturb(&mut world, &mut chaos);
            }
        }
        for n in 1..=3 {
            for alias in [format!("ctl{n}"), format!("dn{n}"), format!("agent{n}")] {
                if !world.is_up(&alias) {
                    world.start(&alias);
                }
            }
        }
        world.run_for(120_000);
        world.run_until(120_000, "whole", whole);
        failovers += usize::from(world.leader() != first);
        let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
        for rows in world.rows_by_replica().values() {
            rows.iter().for_each(|row| *seen.entry(*row).or_default() += 1);
        }
        for (row, id) in &sent {
            let count = seen.get(row).copied().unwrap_or(0);
            match world.answers.get(id) {
                Some(Answer::Done) => assert_eq!(count, 2, "seed {seed}: row {row}"),
                Some(Answer::Failed(text)) if !text.contains("unknown") => {
                    refusals += 1;
                    assert_eq!(count, 0, "seed {seed}: row {row} after {text}");
                }
                _ => assert!(count == 0 || count == 2, "seed {seed}: row {row} is there {count}x"),
            }
        }
    }
    assert!(failovers > 2 && refusals > 10, "too quiet: {failovers} {refusals}");
}

/// Crashes one node, or brings back what is down; never two of a kind at once.
fn disturb(world: &mut World, chaos: &mut Rng) {
    let kind = ["ctl", "dn"][usize::try_from(chaos.below(2)).expect("small")];
    let names: Vec<String> = (1..=3).map(|n| format!("{kind}{n}")).collect();
    if let Some(down) = names.iter().find(|a| !world.is_up(a)) {
        world.start(down);
        return;
    }
    if kind == "dn" && !whole(world) {
        return;
    }
    let victim = &names[usize::try_from(chaos.below(3)).expect("small")];
    world.crash(victim);
}
