//! Plans: what they say, and what refuses them.

use grayfin_coordinator_core::{gates::Gate, plan};
use grayfin_types::{
    Code,
    facts::Probe,
    gate::Decision,
    plan::{CanarySpec, PlanAnswer, PlanRequest},
};

use crate::{
    model::{NEW, OLD, alias, cluster, host, version},
    world::{World, hasher, policy, request},
};

fn looked_at(world: &mut World) {
    for _ in 0..20 {
        world.view.demand(&cluster(), Some(version(NEW)), world.now_ms + 5_000);
        world.step();
    }
}

fn build(world: &World, request: &PlanRequest) -> PlanAnswer {
    plan::build(&world.state, &world.view, request, &policy(), &hasher, world.now_ms)
}

fn code_of(answer: &PlanAnswer, gate: &str) -> Option<Code> {
    let finding = answer.findings.iter().find(|f| f.gate == gate && !f.decision.is_go())?;
    finding.decision.reasons().first().map(|r| r.code)
}

#[test]
fn a_plan_says_order_reasons_and_what_stays_alive() {
    let mut world = World::new(3);
    looked_at(&mut world);
    let answer = build(&world, &request(CanarySpec::Off));
    assert!(answer.ready);
    let plan = answer.plan.unwrap();
    let order: Vec<_> = plan.hosts.iter().map(|h| h.host.clone()).collect();
    assert_eq!(order, [host(2), host(3), host(1)]);
    let last = plan.host(&host(1)).unwrap();
    assert!(last.has_leader && last.reason.starts_with("last:"), "{}", last.reason);
    assert_eq!(last.from, Some(version(OLD)));
    assert_eq!((last.stays.controllers, last.stays.controllers_of), (2, 3));
    assert_eq!((last.stays.data_nodes, last.stays.data_nodes_of), (2, 3));
    assert_eq!(last.stays.replicas_min, Some(1));
    assert_eq!((last.backup_dir.as_str(), last.backup.len()), ("/backup", 1));
    assert!(plan.compatibility.patch);
    assert_eq!(plan.package.sha256, "ab".repeat(32));
    assert!(plan.point_of_no_return.starts_with("start:"));
}

#[test]
fn a_plans_hash_names_its_decisions_and_not_the_size_of_a_backup() {
    let mut world = World::new(3);
    looked_at(&mut world);
    let first = build(&world, &request(CanarySpec::Off)).plan.unwrap();
    let mut grown = first.clone();
    grown.hosts[0].backup[0].bytes = Probe::Known(Some(5));
    assert_eq!(plan::hash(&grown, &hasher), first.hash);
    let mut other = first.clone();
    other.hosts.swap(0, 1);
    assert_ne!(plan::hash(&other, &hasher), first.hash);
    let mut longer = request(CanarySpec::Off);
    longer.soak_ms = Some(5);
    assert_ne!(build(&world, &longer).plan.unwrap().hash, first.hash);
}

#[test]
fn a_target_that_is_no_version_is_refused() {
    let mut world = World::new(3);
    looked_at(&mut world);
    for bad in ["", "latest", "2.0.8", "2.00.8.12.1"] {
        let wish = PlanRequest { target: bad.to_owned(), ..request(CanarySpec::Off) };
        let answer = build(&world, &wish);
        assert_eq!(code_of(&answer, "target"), Some(Code::UnknownVersion), "{bad}");
        assert!(answer.plan.is_none() && !answer.ready);
    }
}

#[test]
fn the_tutorials_own_pair_needs_the_risk_accepted() {
    let mut world = World::new(3);
    for node in &mut world.model.nodes {
        node.version = version("2.00.7.4");
    }
    looked_at(&mut world);
    let mut wish = request(CanarySpec::Off);
    let answer = build(&world, &wish);
    assert!(!answer.ready);
    assert_eq!(code_of(&answer, "compat"), Some(Code::CompatRisk));
    assert_eq!(answer.plan.unwrap().compatibility.level, Some(2));
    wish.accept_compat_risk = Some("the vendor was asked".to_owned());
    assert!(build(&world, &wish).ready);
}

#[test]
fn an_override_of_a_gate_that_has_none_is_refused_and_not_ignored() {
    let mut world = World::new(3);
    looked_at(&mut world);
    for (gate, why) in
        [("controller-quorum", "x"), ("no-such-gate", "x"), ("partition-capacity", " ")]
    {
        let mut wish = request(CanarySpec::Off);
        wish.overrides.push((gate.to_owned(), why.to_owned()));
        let answer = build(&world, &wish);
        assert!(!answer.ready);
        assert_eq!(code_of(&answer, "overrides"), Some(Code::BadRequest), "{gate}");
    }
}

#[test]
fn an_override_is_shown_with_its_reason_and_author() {
    let mut world = World::new(3);
    world.model.factor = 3;
    looked_at(&mut world);
    let mut wish = request(CanarySpec::Off);
    assert!(!build(&world, &wish).ready);
    wish.overrides.push(("partition-capacity".to_owned(), "no new partitions".to_owned()));
    let answer = build(&world, &wish);
    assert!(answer.ready);
    let name = Gate::PartitionCapacity.name();
    let finding = answer.findings.iter().find(|f| f.gate == name).unwrap();
    assert_eq!(finding.overridden.as_deref(), Some("no new partitions (`ann`)"));
    assert!(!finding.decision.is_go());
}

#[test]
fn a_chunk_that_recovers_lets_a_rollout_start_and_wait() {
    let mut world = World::new(3);
    world.model.chunks[0].state = "RECOVERING".to_owned();
    looked_at(&mut world);
    let answer = build(&world, &request(CanarySpec::Off));
    assert_eq!(code_of(&answer, "chunks-settled"), Some(Code::ChunksRecovering));
    assert!(answer.ready);
    assert!(world.start(&request(CanarySpec::Off)).ready);
    for _ in 0..100 {
        world.step();
    }
    assert!(world.granted().is_empty());
    let waiting = &world.state.rollouts[&world.id].waiting;
    assert_eq!(waiting[0].code, Code::ChunksRecovering);
    world.model.chunks[0].state = "COMPLETE".to_owned();
    world.finish(grayfin_types::status::RolloutState::Succeeded);
}

#[test]
fn both_replicas_on_one_host_are_refused_with_the_chunks_path() {
    let mut world = World::new(3);
    world.model.chunks[0].current_on = vec![alias("node2")];
    looked_at(&mut world);
    let answer = build(&world, &request(CanarySpec::Off));
    assert!(!answer.ready);
    let finding = answer.findings.iter().find(|f| f.gate == "replica-elsewhere").unwrap();
    let Decision::Stop { reasons } = &finding.decision else { panic!("{finding:?}") };
    assert_eq!(reasons[0].subject, world.model.chunks[0].path);
    assert!(reasons[0].evidence.contains("`db2`"));
}

#[test]
fn a_cluster_that_nobody_knows_is_refused() {
    let world = World::new(3);
    let wish = PlanRequest { cluster: "other".parse().unwrap(), ..request(CanarySpec::Off) };
    let answer = build(&world, &wish);
    assert!(!answer.ready && answer.plan.is_none());
    assert_eq!(code_of(&answer, "agents-connected"), Some(Code::AgentMissing));
}
