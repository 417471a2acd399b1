//! S4 from this host: one thing wrong at a time, and that it alone refuses.
#![expect(clippy::unwrap_used, clippy::string_slice, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};

use grayfin_agent_core::guard::{Question, judge};
use grayfin_types::{
    Code, HostId, NodeAlias,
    facts::{
        ChunkFacts, ClusterFacts, ClusterNode, NodeRole, NodeSpec, Placement, Probe, RaftGroup,
    },
};

fn alias(text: &str) -> NodeAlias {
    text.parse().unwrap()
}

/// Three hosts with a controller and a data node each; two replicas of everything.
fn facts() -> ClusterFacts {
    let node = |name: &str, role, host: u8| ClusterNode {
        spec: NodeSpec {
            alias: alias(name),
            role,
            address: format!("db{host}"),
            port: 1,
            compute_group: String::new(),
        },
        up: true,
        answers: Probe::Known(true),
        version: Probe::Unknown("not asked".to_owned()),
    };
    let nodes = (1..=3).flat_map(|host| {
        let (controller, data) = (format!("c{host}"), format!("d{host}"));
        [node(&controller, NodeRole::Controller, host), node(&data, NodeRole::DataNode, host)]
    });
    let placement = |on: &[&str]| Placement {
        current_on: on.iter().map(|name| alias(name)).collect(),
        stale_on: Vec::new(),
        state: "COMPLETE".to_owned(),
        replica_count: 2,
        chunks: 5,
        example: format!("/db/{}", on.join("-")),
    };
    ClusterFacts {
        cluster: "trade".parse().unwrap(),
        seen_from: "host1".parse().unwrap(),
        look: 1,
        leader: Probe::Known(alias("c2")),
        leader_votes: Vec::new(),
        nodes: Probe::Known(nodes.collect()),
        replication_factor: Probe::Known(2),
        reliability_level: Probe::Known(1),
        recovery_wait_ms: Probe::Known(0),
        restart_interval_s: Probe::Known(0),
        chunks: Probe::Known(ChunkFacts {
            total: 15,
            placements: vec![
                placement(&["d1", "d2"]),
                placement(&["d2", "d3"]),
                placement(&["d1", "d3"]),
            ],
            unsettled: Vec::new(),
            truncated: false,
            scan_ms: 10,
            age_ms: 100,
        }),
        recovery_tasks: Probe::Known(0),
        raft_groups: Probe::Known(vec![RaftGroup {
            kind: "streaming".to_owned(),
            id: "7".to_owned(),
            members: ["d1", "d2", "d3"].map(alias).to_vec(),
        }]),
    }
}

fn hosts() -> BTreeMap<NodeAlias, HostId> {
    let names = ["c1", "d1", "c2", "d2", "c3", "d3"];
    let host = |name: &str| format!("host{}", &name[1..]).parse().unwrap();
    names.into_iter().map(|name| (alias(name), host(name))).collect()
}

/// Asks with the node's hosts, with an age limit of 15 s.
fn ask_with(
    facts: &ClusterFacts,
    gone: &[&str],
    capacity_overridden: bool,
    hosts: &BTreeMap<NodeAlias, HostId>,
) -> Result<String, Code> {
    let gone: BTreeSet<NodeAlias> = gone.iter().map(|name| alias(name)).collect();
    let question =
        Question { facts, gone: &gone, hosts, fact_age_max_ms: 15_000, capacity_overridden };
    judge(&question).map_err(|refusal| refusal.code)
}

fn ask(facts: &ClusterFacts, gone: &[&str]) -> Result<String, Code> {
    ask_with(facts, gone, false, &hosts())
}

fn node<'a>(facts: &'a mut ClusterFacts, name: &str) -> &'a mut ClusterNode {
    let Probe::Known(nodes) = &mut facts.nodes else { unreachable!() };
    nodes.iter_mut().find(|node| node.spec.alias.as_str() == name).unwrap()
}

fn chunks(facts: &mut ClusterFacts) -> &mut ChunkFacts {
    let Probe::Known(chunks) = &mut facts.chunks else { unreachable!() };
    chunks
}

const HOST: [&str; 2] = ["c1", "d1"];

#[test]
fn one_host_of_three_may_go_and_it_is_said_what_stays() {
    let words = ask(&facts(), &HOST).unwrap();
    assert_eq!(
        words,
        "2 of 3 controllers, 2 of 3 data nodes and a current replica of each of 15 chunks stay"
    );
}

/// What changes in the facts, and the code that it must be refused with.
type Case = (&'static str, fn(&mut ClusterFacts), Code);

#[test]
fn each_thing_that_is_wrong_refuses_alone() {
    let cases: [Case; 14] = [
        ("leader", |f| f.leader = Probe::Unknown("x".to_owned()), Code::FactUnknown),
        ("nodes", |f| f.nodes = Probe::Unknown("x".to_owned()), Code::FactUnknown),
        ("chunks", |f| f.chunks = Probe::Unknown("x".to_owned()), Code::FactUnknown),
        ("groups", |f| f.raft_groups = Probe::Unknown("x".to_owned()), Code::FactUnknown),
        ("factor", |f| f.replication_factor = Probe::Unknown("x".to_owned()), Code::FactUnknown),
        ("level", |f| f.reliability_level = Probe::Unknown("x".to_owned()), Code::FactUnknown),
        ("a controller is down", |f| node(f, "c3").up = false, Code::QuorumAtRisk),
        (
            "a controller does not answer us",
            |f| node(f, "c3").answers = Probe::Known(false),
            Code::QuorumAtRisk,
        ),
        (
            "it is unknown whether a controller answers",
            |f| node(f, "c3").answers = Probe::Unknown("x".to_owned()),
            Code::QuorumAtRisk,
        ),
        (
            "both replicas of a chunk are here",
            |f| chunks(f).placements[0].current_on = vec![alias("d1")],
            Code::ReplicaAtRisk,
        ),
        (
            "a chunk lies nowhere",
            |f| chunks(f).placements[1].current_on.clear(),
            Code::ReplicaAtRisk,
        ),
        ("chunks are missing in the list", |f| chunks(f).total = 16, Code::FactUnknown),
        ("an old scan", |f| chunks(f).age_ms = 60_000, Code::FactStale),
        (
            "three replicas are wanted",
            |f| f.replication_factor = Probe::Known(3),
            Code::PartitionCapacity,
        ),
    ];
    for (what, change, code) in cases {
        let mut facts = facts();
        change(&mut facts);
        assert_eq!(ask(&facts, &HOST), Err(code), "{what}");
    }
}

#[test]
fn a_dead_data_node_elsewhere_risks_chunks_groups_and_room() {
    let mut facts = facts();
    node(&mut facts, "d2").up = false;
    assert_eq!(ask(&facts, &HOST), Err(Code::GroupAtRisk));
    facts.raft_groups = Probe::Known(Vec::new());
    assert_eq!(ask(&facts, &HOST), Err(Code::ReplicaAtRisk));
    chunks(&mut facts).placements[0].current_on = vec![alias("d3")];
    assert_eq!(ask(&facts, &HOST), Err(Code::PartitionCapacity));
}

#[test]
fn only_the_room_for_new_partitions_can_be_set_aside() {
    let mut facts = facts();
    facts.replication_factor = Probe::Known(3);
    assert!(ask_with(&facts, &HOST, true, &hosts()).is_ok());
    assert_eq!(ask(&facts, &HOST), Err(Code::PartitionCapacity));
    node(&mut facts, "c3").up = false;
    assert_eq!(ask_with(&facts, &HOST, true, &hosts()), Err(Code::QuorumAtRisk));
}

#[test]
fn hosts_count_at_reliability_level_1_and_nodes_otherwise() {
    let mut one = hosts();
    one.insert(alias("d3"), "host2".parse().unwrap());
    let mut facts = facts();
    assert_eq!(ask_with(&facts, &HOST, false, &one), Err(Code::PartitionCapacity));
    facts.reliability_level = Probe::Known(0);
    assert!(ask_with(&facts, &HOST, false, &one).is_ok());
    // Nodes that the plan does not know count by their addresses.
    facts.reliability_level = Probe::Known(1);
    assert!(ask_with(&facts, &HOST, false, &BTreeMap::new()).is_ok());
    node(&mut facts, "d3").spec.address = "db2".to_owned();
    assert_eq!(ask_with(&facts, &HOST, false, &BTreeMap::new()), Err(Code::PartitionCapacity));
}

#[test]
fn a_host_without_a_controller_takes_none_down() {
    let mut facts = facts();
    node(&mut facts, "c3").up = false;
    assert!(ask(&facts, &["d1"]).is_ok());
    // And one with controllers only needs no room for partitions.
    let mut facts = facts_with_controllers_only();
    facts.replication_factor = Probe::Unknown("x".to_owned());
    assert!(ask(&facts, &["c1"]).is_ok());
}

fn facts_with_controllers_only() -> ClusterFacts {
    let mut facts = facts();
    facts.raft_groups = Probe::Known(Vec::new());
    facts
}

#[test]
fn a_scan_may_be_as_old_as_its_ration_makes_it() {
    let mut facts = facts();
    chunks(&mut facts).age_ms = 15_000 + 210;
    assert!(ask(&facts, &HOST).is_ok());
    chunks(&mut facts).age_ms += 1;
    assert_eq!(ask(&facts, &HOST), Err(Code::FactStale));
}

#[test]
fn a_node_that_the_live_configuration_does_not_have_refuses() {
    assert_eq!(ask(&facts(), &["c1", "d1", "x1"]), Err(Code::NodesDiffer));
}
