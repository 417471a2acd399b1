//! A host agent whose ledger is an old copy: it only looks, whatever it did before it heard so, until
//! an operator readmits it.
#![expect(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test")]

mod double;

use double::{CLUSTER, RunningAgent, canary, connected, plan};
use grayfin_proto::v1::OrderKind;
use grayfin_types::{Code, OrderNumber, Token, ledger::Readmit, plan::Plan};

const NOTHING: Option<&Plan> = None;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_a_ledger_only_looks() {
    let (site, mut coordinator, agent) = connected().await;
    agent.kill().await;
    let copy = std::fs::read(site.ledger()).unwrap();
    let agent = RunningAgent::start(&site.path().join("agent.toml"));
    site.host().hang("execute.stop");
    coordinator.order(OrderKind::Run, 5, Some(&plan()));
    site.host().hangs("execute.stop").await;
    agent.kill().await;
    // The ledger is put back, with and without the hold in it.
    let with_hold = std::fs::read(site.ledger()).unwrap();
    for bytes in [copy, with_hold] {
        std::fs::write(site.ledger(), &bytes).unwrap();
        let acts = site.host().acts();
        coordinator.stop().await;
        coordinator.world(|world| {
            world.committed += 100;
            world.host_facts.clear();
            world.promises.clear();
        });
        coordinator.restart().await;
        let agent = RunningAgent::start(&site.path().join("agent.toml"));
        coordinator.until("looks", |world| (!world.host_facts.is_empty()).then_some(())).await;
        coordinator.promise(9);
        let answer = coordinator.until("promise", |world| world.promises.pop()).await;
        assert_eq!(answer.code, Code::AgentAmnesic.as_str());
        let order = coordinator.order(OrderKind::Undo, 5, NOTHING);
        assert_eq!(coordinator.answer(order).await.code, Code::AgentAmnesic.as_str());
        assert_eq!(site.host().acts(), acts, "nothing is done or undone");
        agent.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_proves_what_it_holds_and_goes_on_when_an_operator_readmits_it() {
    let (site, coordinator, agent) = connected().await;
    agent.kill().await;
    let copy = std::fs::read(site.ledger()).unwrap();
    let agent = RunningAgent::start(&site.path().join("agent.toml"));
    coordinator.order(OrderKind::Run, 5, Some(&plan()));
    coordinator.ended(5).await;
    agent.kill().await;
    let known = grayfin_agent::ledger::peek(site.ledger().parent().unwrap()).unwrap().position;
    std::fs::write(site.ledger(), copy).unwrap();
    let readmit = |closes| Readmit {
        act: "op-1".to_owned(),
        floor: Token(9),
        closes,
        orders: [(CLUSTER.parse().unwrap(), OrderNumber(3))].into(),
        forget: true,
    };
    coordinator.world(|world| {
        world.committed = known;
        world.prove = Some(known);
        world.outbox.clear();
        world.readmit = Some(grayfin_proto::document::wrap(&readmit(None)));
        world.proofs.clear();
    });
    let agent = RunningAgent::start(&site.path().join("agent.toml"));
    let proof = coordinator.until("proof", |world| world.proofs.first().cloned()).await;
    assert_eq!((proof.position, proof.chain.as_str()), (known, ""), "it is not so long");
    let hello = coordinator.readmitted("op-1").await;
    assert_eq!((hello.fences[0].floor, hello.fences[0].last_order), (9, 3));
    assert_eq!(hello.ledger_chain.len(), 32);
    coordinator.world(|world| {
        (world.committed, world.prove, world.readmit) = (0, None, None);
        world.promises.clear();
    });
    coordinator.cut_until_hello().await;
    coordinator.promise(10);
    let answer = coordinator.until("promise", |world| world.promises.pop()).await;
    assert!(answer.promised, "{answer:?}");
    let late = coordinator.order(OrderKind::Run, 9, Some(&plan()));
    assert!(!coordinator.answer(late).await.accepted);
    agent.kill().await;
}

/// The host agent hears in the middle of a life that its ledger is an old one. The canary's writer that
/// it runs is from that ledger: nobody knows of it who could stop it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_of_an_old_ledger_ends_and_does_not_come_back_with_the_readmission() {
    let (site, coordinator, agent) = connected().await;
    let start = coordinator.order(OrderKind::CanaryStart, 0, Some(&canary(1)));
    assert!(coordinator.answer(start).await.accepted);
    let birds = || site.birds();
    double::eventually("the writer starts", || birds() == ["start 1"]).await;
    let readmit = Readmit {
        act: "op-1".to_owned(),
        floor: Token(9),
        closes: None,
        orders: [(CLUSTER.parse().unwrap(), OrderNumber(start))].into(),
        forget: true,
    };
    coordinator.world(|world| world.committed += 100);
    coordinator.cut();
    double::eventually("the writer ends", || birds() == ["start 1", "stop 1"]).await;
    coordinator.world(|world| world.readmit = Some(grayfin_proto::document::wrap(&readmit)));
    coordinator.cut();
    coordinator.readmitted("op-1").await;
    // From here on the ledger counts; the coordinators' next canary is the only one.
    coordinator.world(|world| (world.committed, world.readmit) = (0, None));
    coordinator.cut_until_hello().await;
    let next = coordinator.order(OrderKind::CanaryStart, 0, Some(&canary(2)));
    assert!(coordinator.answer(next).await.accepted);
    double::eventually("the next one starts", || birds().len() > 2).await;
    assert_eq!(birds(), ["start 1", "stop 1", "start 2"]);
    agent.kill().await;
}

/// Readmitted although nobody called its ledger an old one (a hold was open that nobody knew): what the
/// ledger wants goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_of_a_good_ledger_outlives_a_readmission() {
    let (site, coordinator, agent) = connected().await;
    let start = coordinator.order(OrderKind::CanaryStart, 0, Some(&canary(1)));
    assert!(coordinator.answer(start).await.accepted);
    double::eventually("the writer starts", || site.birds() == ["start 1"]).await;
    let orders = [(CLUSTER.parse().unwrap(), OrderNumber(start))].into();
    let (act, floor) = ("op-1".to_owned(), Token(9));
    let readmit = Readmit { act, floor, closes: None, orders, forget: false };
    coordinator.world(|world| world.readmit = Some(grayfin_proto::document::wrap(&readmit)));
    coordinator.cut();
    coordinator.readmitted("op-1").await;
    coordinator.world(|world| world.readmit = None);
    coordinator.cut();
    let stop = coordinator.order(OrderKind::CanaryStop, 0, Some(&canary(1)));
    assert!(coordinator.answer(stop).await.accepted);
    double::eventually("it stops when it is told to", || site.birds().len() > 1).await;
    assert_eq!(site.birds(), ["start 1", "stop 1"]);
    agent.kill().await;
}
