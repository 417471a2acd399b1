//! Gates about the cluster: go, hold, stop, and what missing, stale and wrong facts do to them.

use std::collections::BTreeSet;

use grayfin_coordinator_core::gates::{Gate, Moment};
use grayfin_types::{
    Code, Token,
    facts::{Probe, Problem, ProcessState, RaftGroup},
    gate::Decision,
    plan::Override,
};

use crate::{
    bench::{Bench, after_a_while, unknown},
    model::{NEW, alias, cluster, host, version},
};

#[test]
fn a_healthy_cluster_passes_every_gate() {
    let bench = Bench::new(3);
    for gate in grayfin_coordinator_core::gates::START {
        bench.goes(*gate);
    }
}

#[test]
fn gates_that_judge_by_facts_hold_when_these_are_missing_or_stale() {
    let by_facts = [
        Gate::FactsFresh,
        Gate::NodesClaimed,
        Gate::ConfigEqual,
        Gate::NodesUp,
        Gate::LeaderClear,
        Gate::ControllerQuorum,
        Gate::RaftGroups,
        Gate::ReplicaElsewhere,
        Gate::PartitionCapacity,
        Gate::ControllersCaughtUp,
        Gate::ChunksSettled,
        Gate::ReplicasWhole,
        Gate::RecoveryIdle,
        Gate::Versions,
        Gate::MemoryLoss,
        Gate::Compat,
        Gate::Downgrade,
        Gate::Variant,
        Gate::Package,
        Gate::Room,
        Gate::Plugins,
        Gate::Licence,
    ];
    let stale = after_a_while(3, 60_000);
    let mut missing = Bench::new(3);
    missing.world.view.clusters.clear();
    for seen in missing.world.view.hosts.values_mut() {
        seen.facts.clear();
    }
    let mut away = Bench::new(3);
    let links: Vec<_> = away.world.links.iter().cloned().collect();
    for link in &links {
        away.world.disconnect(link);
    }
    away.world.view.clusters.clear();
    for gate in by_facts {
        for (bench, codes) in [
            (&stale, &[Code::FactStale][..]),
            (&missing, &[Code::FactUnknown][..]),
            (&away, &[Code::AgentMissing, Code::FactUnknown][..]),
        ] {
            let found = bench.ask(gate);
            assert!(matches!(found, Decision::Hold { .. }), "{} {found:?}", gate.name());
            assert!(
                found.reasons().iter().all(|r| codes.contains(&r.code)),
                "{} {found:?}",
                gate.name()
            );
        }
    }
}

#[test]
fn agents_connected_wants_every_agent_and_no_amnesic_one() {
    let mut bench = Bench::new(3);
    bench.world.disconnect(&host(2));
    bench.stops(Gate::AgentsConnected, Code::AgentMissing, "db2");
    bench.moment = Moment::Grant;
    bench.holds(Gate::AgentsConnected, Code::AgentMissing, "db2");
    let mut bench = Bench::new(3);
    bench.world.state.hosts.get_mut(&host(2)).unwrap().amnesic = Some("older".to_owned());
    bench.stops(Gate::AgentsConnected, Code::AgentAmnesic, "db2");
    bench.world.state.hosts.clear();
    bench.stops(Gate::AgentsConnected, Code::AgentMissing, "trade");
}

#[test]
fn holds_closed_sees_a_hold_that_nobody_gave() {
    let mut bench = Bench::new(3);
    bench.host(3).standing.open_hold = Some(Token(9));
    bench.holds(Gate::HoldsClosed, Code::HoldOpen, "db3");
}

#[test]
fn nodes_claimed_wants_each_live_node_seen_by_one_agent() {
    let mut bench = Bench::new(3);
    bench.host(2).nodes.retain(|n| n.spec.alias != alias("node2"));
    bench.stops(Gate::NodesClaimed, Code::NodeUnclaimed, "node2");
    let mut bench = Bench::new(3);
    let foreign = bench.host(1).nodes[0].clone();
    bench.host(2).nodes.push(foreign);
    bench.stops(Gate::NodesClaimed, Code::NodeUnclaimed, "ctl1");
    let mut bench = Bench::new(3);
    bench.host(2).nodes[2].process = ProcessState::Absent;
    bench.stops(Gate::NodesClaimed, Code::NodeUnclaimed, "node2");
}

#[test]
fn config_equal_compares_hosts_and_the_live_cluster() {
    let mut bench = Bench::new(3);
    bench.host(3).nodes_digest = Probe::Known("other".to_owned());
    bench.stops(Gate::ConfigEqual, Code::NodesDiffer, "db3");
    let mut bench = Bench::new(3);
    bench.host(3).nodes_digest = unknown();
    bench.holds(Gate::ConfigEqual, Code::FactUnknown, "db3");
    let mut bench = Bench::new(3);
    if let Probe::Known(nodes) = &mut bench.cluster().nodes {
        nodes.retain(|n| n.spec.alias != alias("node3"));
    }
    bench.stops(Gate::ConfigEqual, Code::NodesDiffer, "node3");
}

#[test]
fn host_checks_pass_problems_on_with_their_codes() {
    let mut bench = Bench::new(3);
    bench.host(2).problems.push(Problem {
        code: Code::ConfigUnreadable,
        subject: "cluster.cfg:7".to_owned(),
        detail: "no `=` in the line".to_owned(),
    });
    bench.stops(Gate::HostChecks, Code::ConfigUnreadable, "db2: cluster.cfg:7");
}

#[test]
fn nodes_up_wants_the_leaders_the_observers_and_the_hosts_word() {
    let mut bench = Bench::new(3);
    bench.node_down("node3");
    bench.stops(Gate::NodesUp, Code::NodeDown, "node3");
    let mut bench = Bench::new(3);
    if let Probe::Known(nodes) = &mut bench.cluster().nodes {
        nodes[4].answers = unknown();
    }
    bench.stops(Gate::NodesUp, Code::NodeDown, "agent2");
    let mut bench = Bench::new(3);
    bench.host(1).nodes[1].process = ProcessState::Unknown("not allowed".to_owned());
    bench.stops(Gate::NodesUp, Code::NodeDown, "agent1");
    // Later a node may come back by itself.
    bench.moment = Moment::Grant;
    bench.holds(Gate::NodesUp, Code::NodeDown, "agent1");
}

#[test]
fn leader_clear_counts_votes_of_all_configured_controllers() {
    let mut bench = Bench::new(3);
    bench.cluster().leader_votes.truncate(1);
    bench.holds(Gate::LeaderClear, Code::LeaderUnclear, "trade");
    let mut bench = Bench::new(3);
    // The same voter twice is one vote, and a stranger's does not count.
    let vote = bench.cluster().leader_votes[0].clone();
    bench.cluster().leader_votes = vec![vote.clone(), vote, (alias("x"), alias("ctl1"))];
    bench.holds(Gate::LeaderClear, Code::LeaderUnclear, "trade");
    let mut bench = Bench::new(3);
    bench.cluster().leader = unknown();
    bench.holds(Gate::LeaderClear, Code::LeaderUnclear, "trade");
}

#[test]
fn controller_quorum_counts_all_configured_controllers() {
    let mut bench = Bench::new(3);
    bench.node_down("ctl3");
    bench.stops(Gate::ControllerQuorum, Code::QuorumAtRisk, "db1");
    // With its own controller dead already, taking db3 down costs nothing more.
    bench.hosts = vec![host(3)];
    bench.goes(Gate::ControllerQuorum);
    bench.hosts = vec![host(2)];
    bench.moment = Moment::Go;
    bench.holds(Gate::ControllerQuorum, Code::QuorumAtRisk, "db2");
    // Two hosts can never do it.
    let mut bench = Bench::new(2);
    bench.moment = Moment::Go;
    bench.stops(Gate::ControllerQuorum, Code::QuorumAtRisk, "db1");
    // Five can, with one down.
    let mut bench = Bench::new(5);
    bench.node_down("ctl5");
    bench.goes(Gate::ControllerQuorum);
}

#[test]
fn a_controller_that_does_not_answer_directly_does_not_count() {
    let mut bench = Bench::new(3);
    if let Probe::Known(nodes) = &mut bench.cluster().nodes {
        nodes[0].answers = Probe::Known(false);
    }
    bench.stops(Gate::ControllerQuorum, Code::QuorumAtRisk, "db2");
}

#[test]
fn raft_groups_keep_a_majority_of_their_configured_members() {
    let mut bench = Bench::new(3);
    let group = |members: &[&str]| RaftGroup {
        kind: "streaming".to_owned(),
        id: "2".to_owned(),
        members: members.iter().map(|m| alias(m)).collect(),
    };
    bench.cluster().raft_groups = Probe::Known(vec![group(&["node1", "node2", "node3"])]);
    bench.goes(Gate::RaftGroups);
    bench.node_down("node3");
    bench.stops(Gate::RaftGroups, Code::GroupAtRisk, "streaming group 2");
    let mut bench = Bench::new(3);
    bench.cluster().raft_groups = Probe::Known(vec![group(&["node1", "node2"])]);
    bench.stops(Gate::RaftGroups, Code::GroupAtRisk, "streaming group 2");
    bench.hosts = vec![host(3)];
    bench.goes(Gate::RaftGroups);
    bench.cluster().raft_groups = unknown();
    bench.holds(Gate::RaftGroups, Code::FactUnknown, "trade");
}

#[test]
fn replica_elsewhere_names_the_chunk_and_the_host() {
    let mut bench = Bench::new(3);
    bench.chunks().placements[0].current_on = vec![alias("node2")];
    let path = bench.chunks().placements[0].example.clone();
    bench.stops(Gate::ReplicaElsewhere, Code::ReplicaAtRisk, &path);
    let found = bench.ask(Gate::ReplicaElsewhere);
    assert!(found.reasons()[0].evidence.contains("`db2`"), "{found:?}");
    bench.hosts = vec![host(1)];
    bench.goes(Gate::ReplicaElsewhere);
    // A replica on a node that is down, or that is outdated, is none.
    let mut bench = Bench::new(3);
    bench.node_down("node3");
    bench.stops(Gate::ReplicaElsewhere, Code::ReplicaAtRisk, "/db/");
    // Chunks that were counted and not placed are somewhere.
    let mut bench = Bench::new(3);
    bench.chunks().placements.pop();
    bench.holds(Gate::ReplicaElsewhere, Code::FactUnknown, "trade");
}

#[test]
fn a_scan_that_is_rationed_may_be_older_than_other_facts() {
    let mut bench = Bench::new(3);
    let now_ms = bench.world.now_ms;
    let seen = bench.world.view.clusters.get_mut(&cluster()).unwrap();
    let chunks = seen.chunks.as_mut().unwrap();
    chunks.scanned_ms = now_ms - 3_000;
    chunks.facts.scan_ms = 10;
    bench.holds(Gate::ReplicaElsewhere, Code::FactStale, "trade");
    bench.chunks().scan_ms = 100;
    bench.goes(Gate::ReplicaElsewhere);
}

#[test]
fn partition_capacity_may_be_overridden_and_quorum_may_not() {
    let mut bench = Bench::new(3);
    bench.cluster().replication_factor = Probe::Known(3);
    bench.stops(Gate::PartitionCapacity, Code::PartitionCapacity, "db1");
    for gate in ["partition-capacity", "controller-quorum", "replica-elsewhere"] {
        bench.overrides.push(Override {
            gate: gate.to_owned(),
            reason: "no new partitions tonight".to_owned(),
            by: "ann".to_owned(),
        });
    }
    assert!(bench.find(Gate::PartitionCapacity).1);
    bench.node_down("ctl3");
    assert!(!bench.find(Gate::ControllerQuorum).1);
    bench.chunks().placements[0].current_on.clear();
    assert!(!bench.find(Gate::ReplicaElsewhere).1);
    let mut bench = Bench::new(3);
    bench.cluster().reliability_level = unknown();
    bench.holds(Gate::PartitionCapacity, Code::FactUnknown, "trade");
}

#[test]
fn with_level_0_replicas_may_share_a_host() {
    // Two hosts stay, each with one data node; a second data node on db1 makes three nodes.
    let mut bench = Bench::new(3);
    bench.cluster().replication_factor = Probe::Known(2);
    bench.cluster().reliability_level = Probe::Known(0);
    bench.goes(Gate::PartitionCapacity);
    bench.node_down("node1");
    bench.stops(Gate::PartitionCapacity, Code::PartitionCapacity, "db2");
}

#[test]
fn no_override_exists_for_the_rules_that_have_none() {
    for gate in Gate::ALL {
        let hard = ["S1", "S2", "S3", "S6", "S8", "S12"].contains(&gate.rule());
        assert!(!(hard && gate.overridable()), "{}", gate.name());
        assert_eq!(Gate::named(gate.name()), Some(gate));
    }
    for gate in [Gate::ControllerQuorum, Gate::RaftGroups, Gate::ReplicaElsewhere] {
        assert!(!gate.overridable());
    }
    let names: BTreeSet<_> = Gate::ALL.iter().map(|g| g.name()).collect();
    assert_eq!(names.len(), Gate::ALL.len());
}

#[test]
fn controllers_caught_up_wants_time_agreement_and_start_markers() {
    let mut bench = Bench::new(3);
    bench.goes(Gate::ControllersCaughtUp);
    let now_ms = bench.world.now_ms;
    let votes = |bench: &mut Bench, since| {
        let seen = bench.world.view.clusters.get_mut(&cluster()).unwrap();
        seen.votes.insert(alias("ctl2"), (alias("ctl1"), since));
    };
    votes(&mut bench, now_ms - 1_599);
    bench.holds(Gate::ControllersCaughtUp, Code::NotCaughtUp, "ctl2");
    votes(&mut bench, now_ms - 1_600);
    bench.goes(Gate::ControllersCaughtUp);
    let seen = bench.world.view.clusters.get_mut(&cluster()).unwrap();
    seen.votes.insert(alias("ctl2"), (alias("ctl3"), 0));
    bench.holds(Gate::ControllersCaughtUp, Code::NotCaughtUp, "ctl2");
    let mut bench = Bench::new(3);
    bench.host(3).nodes[0].start_marker = Some(Probe::Known(false));
    bench.holds(Gate::ControllersCaughtUp, Code::NotCaughtUp, "ctl3");
    bench.host(3).nodes[0].start_marker = Some(unknown());
    bench.holds(Gate::ControllersCaughtUp, Code::NotCaughtUp, "ctl3");
}

#[test]
fn chunks_settled_knows_recovering_stuck_and_strange_ones() {
    let mut bench = Bench::new(3);
    bench.chunks().placements[1].state = "RECOVERING".to_owned();
    bench.holds(Gate::ChunksSettled, Code::ChunksRecovering, "/db/");
    bench.chunks().placements[1].state = "CONSTRUCTING".to_owned();
    bench.goes(Gate::ChunksSettled);
    bench.chunks().placements[1].state = "MELTING".to_owned();
    bench.holds(Gate::ChunksSettled, Code::FactUnknown, "/db/");
    let mut bench = Bench::new(3);
    bench.chunks().truncated = true;
    bench.holds(Gate::ChunksSettled, Code::FactUnknown, "trade");
}

#[test]
fn replicas_whole_takes_a_bounded_baseline() {
    let mut bench = Bench::new(3);
    bench.policy.baseline_max = 3;
    let short = |id: usize| grayfin_types::facts::UnsettledChunk {
        id: format!("c{id}"),
        path: format!("/db/c{id}"),
        state: "COMPLETE".to_owned(),
        version: 1,
        replica_count: 1,
    };
    bench.chunks().unsettled = (0..3).map(short).collect();
    bench.goes(Gate::ReplicasWhole);
    bench.chunks().unsettled = (0..4).map(short).collect();
    bench.stops(Gate::ReplicasWhole, Code::BaselineTooLarge, "/db/c0");
}

#[test]
fn recovery_idle_wants_no_task() {
    let mut bench = Bench::new(3);
    bench.cluster().recovery_tasks = Probe::Known(2);
    bench.holds(Gate::RecoveryIdle, Code::RecoveryRunning, "trade");
    bench.cluster().recovery_tasks = unknown();
    bench.holds(Gate::RecoveryIdle, Code::FactUnknown, "trade");
}

#[test]
fn versions_wants_every_node_of_the_host_by_its_own_agent() {
    let mut bench = Bench::new(3);
    bench.hosts = vec![host(2)];
    bench.holds(Gate::Versions, Code::VersionNotReached, "node2");
    for node in &mut bench.host(2).nodes {
        node.version = Probe::Known(version(NEW));
    }
    bench.goes(Gate::Versions);
    bench.host(2).nodes[0].version = unknown();
    bench.holds(Gate::Versions, Code::VersionNotReached, "ctl2");
    bench.host(2).nodes[0].version = Probe::Known(version("2.00.8.12_JIT"));
    bench.holds(Gate::Versions, Code::VersionNotReached, "ctl2");
    bench.host(2).nodes[0].version = Probe::Known(version(NEW));
    bench.host(2).nodes[1].ready = Probe::Known(false);
    bench.holds(Gate::Versions, Code::VersionNotReached, "agent2");
}
