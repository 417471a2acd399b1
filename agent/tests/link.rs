//! A whole host agent in this process against a coordinator on a real socket: what is said, when
//! it is said again, and what happens when nobody answers.
#![expect(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test")]

mod double;

use double::{
    CLUSTER, NEW, OLD, RunningAgent, Site, canary, connected,
    coordinator::{Coordinator, Go},
    plan,
};
use grayfin_proto::v1::{self, OrderKind, to_host};
use grayfin_types::{
    Code,
    plan::{DebtOrder, Effect, Plan},
    step::{Happened, SequenceState, Step},
};

const NOTHING: Option<&Plan> = None;

fn in_order(world: &double::coordinator::World) -> bool {
    let places: Vec<_> = world.reports.keys().collect();
    places.is_sorted()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_staged_upgraded_and_closed_and_all_of_it_is_reported() {
    let (site, coordinator, agent) = connected().await;
    let stage = coordinator.order(OrderKind::Stage, 0, Some(&plan()));
    assert!(coordinator.answer(stage).await.accepted);
    assert!(coordinator.until("staged", |world| world.staged()).await);
    let run = coordinator.order(OrderKind::Run, 5, Some(&plan()));
    assert!(coordinator.answer(run).await.accepted);
    assert_eq!(coordinator.ended(5).await, SequenceState::Up);
    assert!(site.host().all_run(NEW));
    let close = coordinator.order(OrderKind::Close, 5, NOTHING);
    assert!(coordinator.answer(close).await.accepted);
    coordinator
        .until("closed", |world| (world.state(5)? == SequenceState::Closed).then_some(()))
        .await;
    coordinator.world(|world| {
        assert!(in_order(world));
        let asked: Vec<_> = world.gos.iter().map(|go| go.nodes.join(",")).collect();
        assert_eq!(asked, ["node43", "ctl43"]);
        let done = |step| {
            world.reports.values().any(|report| {
                report.token.0 == 5
                    && report.step == step
                    && matches!(report.happened, Happened::Finished { .. })
            })
        };
        assert!(Step::ALL.into_iter().all(done));
        let node = |r: &grayfin_types::step::Report| matches!(r.happened, Happened::Node { .. });
        assert!(world.passing.iter().any(node), "passing reports come too");
    });
    assert_eq!(site.host().violations(), None);
    let work = site.path().join("state").join("work").join("hold-5");
    double::eventually("the work folder is gone", || !work.exists()).await;
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_and_promises_are_answered_again_but_run_once() {
    let (site, coordinator, agent) = connected().await;
    let run = coordinator.order(OrderKind::Run, 5, Some(&plan()));
    let first = coordinator.answer(run).await;
    coordinator.promise(6);
    let refused =
        coordinator.until("promise answer", |world| world.promises.first().cloned()).await;
    assert!(!refused.promised, "a hold is open");
    assert_eq!(refused.code, Code::HoldOpen.as_str());
    coordinator.ended(5).await;
    let acts = site.host().acts();
    // The same order again, as after a lost answer, and an older one.
    let again = v1::Order {
        authority: Some(coordinator.world(|world| world.authority())),
        cluster: CLUSTER.to_owned(),
        number: run,
        token: 5,
        kind: OrderKind::Run.into(),
        rollout: "r1".to_owned(),
        document: Some(grayfin_proto::document::wrap(&plan())),
    };
    coordinator.send(to_host::Message::Order(again.clone()));
    let answers = coordinator
        .until("the second answer", |world| {
            world.answers.get(&run).filter(|answers| answers.len() > 1).cloned()
        })
        .await;
    assert_eq!((answers[1].accepted, &answers[1].state), (true, &first.state));
    let close = coordinator.order(OrderKind::Close, 5, NOTHING);
    assert!(coordinator.answer(close).await.accepted);
    coordinator.send(to_host::Message::Order(again));
    let late = coordinator
        .until("the third answer", |world| {
            world.answers.get(&run).filter(|answers| answers.len() > 2).map(|a| a[2].clone())
        })
        .await;
    assert!(!late.accepted);
    assert_eq!(late.code, Code::TokenStale.as_str());
    coordinator.promise(6);
    let promised = coordinator.until("the promise", |world| world.promises.get(1).cloned()).await;
    assert!(promised.promised, "{promised:?}");
    let closed = coordinator.order(OrderKind::Run, 6, Some(&plan()));
    assert_eq!(coordinator.answer(closed).await.code, Code::TokenStale.as_str());
    assert_eq!(site.host().acts(), acts, "nothing ran twice");
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_an_older_or_foreign_authority_are_refused() {
    let (_site, coordinator, agent) = connected().await;
    let mut old = coordinator.world(|world| {
        world.term = 7;
        world.authority()
    });
    coordinator.promise(1);
    coordinator.until("promise", |world| world.promises.pop()).await;
    old.term = 6;
    let mut foreign = old.clone();
    foreign.group = "another".to_owned();
    foreign.term = 99;
    for authority in [Some(old), Some(foreign), None] {
        let order = v1::Order {
            authority: authority.clone(),
            cluster: CLUSTER.to_owned(),
            number: 50,
            token: 5,
            kind: OrderKind::Run.into(),
            rollout: "r1".to_owned(),
            document: Some(grayfin_proto::document::wrap(&plan())),
        };
        coordinator.send(to_host::Message::Order(order));
        let answer = coordinator.until("answer", |world| world.answers.remove(&50)).await;
        assert_eq!(answer[0].code, Code::TokenStale.as_str(), "{authority:?}");
        coordinator.send(to_host::Message::Promise(v1::PromiseRequest {
            authority,
            cluster: CLUSTER.to_owned(),
            token: 9,
            held: String::new(),
        }));
        let answer = coordinator.until("promise", |world| world.promises.pop()).await;
        assert!(!answer.promised);
    }
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_that_cannot_be_read_are_refused_and_the_session_lives_on() {
    let (_site, coordinator, agent) = connected().await;
    for kind in [OrderKind::Unspecified, OrderKind::Run, OrderKind::PayDebt, OrderKind::CanaryStart]
    {
        let order = coordinator.order(kind, 5, NOTHING);
        let answer = coordinator.answer(order).await;
        assert_eq!(answer.code, Code::BadRequest.as_str(), "{kind:?}");
    }
    coordinator.send(to_host::Message::Ping(v1::Ping { nonce: 7 }));
    coordinator.until("the pong", |world| world.pings.pop().filter(|nonce| *nonce == 7)).await;
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_debts_order_is_carried_out_first_and_answered_with_its_outcome() {
    let (_site, coordinator, agent) = connected().await;
    for (debt, code) in [(1, ""), (13, Code::DebtOpen.as_str())] {
        let order =
            DebtOrder { debt, effect: Effect::SuspendedRecovery, pay: true, without: vec![] };
        let number = coordinator.order(OrderKind::PayDebt, 0, Some(&order));
        let answer = coordinator.answer(number).await;
        assert_eq!((answer.accepted, answer.code.as_str()), (code.is_empty(), code), "{answer:?}");
        assert_eq!(answer.why.contains("`trade`"), debt == 13, "{answer:?}");
    }
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_go_nothing_more_goes_down_and_the_host_comes_back() {
    for (go, code) in [(Go::No, Code::NoGo), (Go::Stale, Code::NoGo)] {
        let (site, coordinator, agent) = connected().await;
        coordinator.world(|world| {
            world.go = go;
            // A stale answer needs a newer term to be stale against.
            world.term = 3;
        });
        coordinator.promise(1);
        coordinator.until("promise", |world| world.promises.pop()).await;
        if go == Go::Stale {
            // Nobody answers in a way that counts: give up sooner than the 30 s of a go.
            coordinator.order(OrderKind::Run, 5, Some(&plan()));
            coordinator.until("two requests", |world| (world.gos.len() > 1).then_some(())).await;
            let abort = coordinator.order(OrderKind::Abort, 5, NOTHING);
            assert!(coordinator.answer(abort).await.accepted);
            let ended = coordinator.ended(5).await;
            assert!(matches!(ended, SequenceState::Refused { code: Code::Aborted, .. }));
        } else {
            coordinator.order(OrderKind::Run, 5, Some(&plan()));
            let ended = coordinator.ended(5).await;
            let SequenceState::Refused { step: Step::Quiesce, code: found, .. } = ended else {
                panic!("{ended:?}")
            };
            assert_eq!(found, code);
        }
        assert!(site.host().all_run(OLD), "nothing was stopped");
        agent.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_dies_half_way_leaves_the_host_up_and_learns_everything_later() {
    let (site, mut coordinator, agent) = connected().await;
    site.host().hang("execute.backup");
    coordinator.order(OrderKind::Run, 5, Some(&plan()));
    site.host().hangs("execute.backup").await;
    coordinator.stop().await;
    // All nodes are down now and the agent is alone. It is even killed, and comes back alone.
    agent.kill().await;
    let agent = RunningAgent::start(&site.path().join("agent.toml"));
    double::eventually("the host is up", || site.host().all_run(NEW)).await;
    coordinator.restart().await;
    assert_eq!(coordinator.ended(5).await, SequenceState::Up);
    coordinator.world(|world| assert!(in_order(world)));
    assert_eq!(site.host().violations(), None);
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_are_sent_again_from_where_the_coordinator_has_them() {
    let (_site, coordinator, agent) = connected().await;
    coordinator.order(OrderKind::Run, 5, Some(&plan()));
    coordinator.ended(5).await;
    let (all, half) = coordinator.world(|world| {
        let all: Vec<u64> = world.reports.keys().copied().collect();
        // It lost the second half, as a restored coordinator has.
        let half = all[all.len() / 2];
        world.reports.retain(|position, _| *position <= half);
        world.committed = half;
        world.arrivals.clear();
        (all, half)
    });
    coordinator.cut();
    coordinator.ended(5).await;
    coordinator.world(|world| {
        let known: Vec<u64> = world.reports.keys().copied().collect();
        assert_eq!(known, all);
        assert!(world.arrivals.iter().all(|position| *position > half), "{:?}", world.arrivals);
    });
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_found_by_what_others_say() {
    let site = Site::new();
    let leader = Coordinator::start(&site).await;
    let follower = Coordinator::start(&site).await;
    follower.world(|world| {
        world.leads = false;
        world.leader_address = leader.address();
    });
    // A third one that nobody listens at.
    let dead = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let agent = RunningAgent::start(&site.configure(&[dead, follower.address()]));
    leader.until("a session", |world| world.connected().then_some(())).await;
    follower.world(|world| assert!(!world.hellos.is_empty() && world.host_facts.is_empty()));
    let hello = leader.world(|world| world.hellos[0].clone());
    assert_eq!((hello.host.as_str(), hello.clusters), (double::HOST, vec![CLUSTER.to_owned()]));
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looks_come_by_themselves_and_when_they_are_asked_for() {
    let (_site, coordinator, agent) = connected().await;
    coordinator.until("three looks", |world| (world.host_facts.len() >= 3).then_some(())).await;
    coordinator.send(to_host::Message::Observe(v1::Observe {
        cluster: CLUSTER.to_owned(),
        whole_cluster: true,
        chunks: true,
        package_version: NEW.to_owned(),
    }));
    let facts = coordinator.until("cluster facts", |world| world.cluster_facts.pop()).await;
    assert_eq!(facts.chunks.why_unknown(), Some("chunks true"));
    coordinator
        .until("a look at the package", |world| {
            world.host_facts.iter().any(|facts| facts.server_dir == NEW).then_some(())
        })
        .await;
    let (first, last) = coordinator.world(|world| {
        assert!(world.host_facts.iter().all(|facts| facts.standing.open_hold.is_none()));
        (world.host_facts[0].look, world.host_facts[2].look)
    });
    assert!(last > first);
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canary_orders_are_reported_with_their_number_also_after_a_restart() {
    let (site, coordinator, agent) = connected().await;
    let start = coordinator.order(OrderKind::CanaryStart, 0, Some(&canary(1)));
    assert!(coordinator.answer(start).await.accepted);
    let check = coordinator.order(OrderKind::CanaryCheck, 0, Some(&canary(1)));
    let report = |number: u64| {
        move |world: &mut double::coordinator::World| {
            world.canary.iter().position(|r| r.order == number).map(|at| world.canary.remove(at))
        }
    };
    coordinator.until("the check", report(check)).await;
    let stop = coordinator.order(OrderKind::CanaryStop, 0, Some(&canary(1)));
    let stopped = coordinator.until("the stop", report(stop)).await;
    assert_eq!((stopped.rollout.as_str(), stopped.epoch), ("r1", 1));
    coordinator.world(|world| world.canary.clear());
    coordinator.cut();
    coordinator.until("the check again", report(check)).await;
    agent.kill().await;
    coordinator.world(|world| world.canary.clear());
    let agent = RunningAgent::start(&site.path().join("agent.toml"));
    coordinator.until("the check after a restart", report(check)).await;
    // Old answers are not kept for ever.
    for epoch in 2..8 {
        let number = coordinator.order(OrderKind::CanaryCheck, 0, Some(&canary(epoch)));
        coordinator.until("a later check", report(number)).await;
    }
    coordinator.world(|world| world.canary.clear());
    coordinator.cut();
    coordinator.until("answers again", |world| (world.canary.len() >= 4).then_some(())).await;
    coordinator.world(|world| {
        assert!(world.canary.iter().all(|r| r.order != check), "{:?}", world.canary);
    });
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_ends_a_step_that_hangs_and_a_panic_is_a_failed_step() {
    let (site, coordinator, agent) = connected().await;
    site.host().hang("execute.stop");
    coordinator.order(OrderKind::Run, 5, Some(&plan()));
    site.host().hangs("execute.stop").await;
    let abort = coordinator.order(OrderKind::Abort, 5, NOTHING);
    assert!(coordinator.answer(abort).await.accepted);
    let ended = coordinator.ended(5).await;
    assert!(matches!(ended, SequenceState::Undone { code: Code::Aborted, .. }), "{ended:?}");
    assert!(site.host().all_run(OLD));
    std::fs::write(site.path().join("world/panic"), "").unwrap();
    let retry = coordinator.order(OrderKind::Retry, 5, NOTHING);
    assert!(coordinator.answer(retry).await.accepted);
    let ended = coordinator
        .until("the second end", |world| {
            world
                .ended(5)
                .filter(|e| !matches!(e, SequenceState::Undone { code: Code::Aborted, .. }))
        })
        .await;
    let (SequenceState::Undone { code, .. } | SequenceState::Refused { code, .. }) = ended else {
        panic!("{ended:?}")
    };
    assert_eq!(code, Code::Internal);
    assert_eq!(site.host().violations(), None);
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_host_agent_on_the_same_folders_ends_at_once() {
    let (site, _coordinator, agent) = connected().await;
    let second = RunningAgent::start(&site.path().join("agent.toml"));
    let error = second.end().await.unwrap_err();
    assert_eq!(error.code(), Code::AgentLocked, "{error}");
    agent.kill().await;
}
