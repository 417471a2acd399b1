//! A host agent between two builds: coordinators that are newer or older than it, and a ledger that a
//! newer host agent wrote.
#![expect(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test")]

mod double;

use double::{NEW, OLD, RunningAgent, canary, connected, coordinator::Go, plan};
use grayfin_proto::{
    document,
    v1::{Document, OrderKind},
};
use grayfin_types::{Code, plan::Plan, step::SequenceState};
use serde_json::{Value, json};

const NOTHING: Option<&Plan> = None;

/// A document as another build would write it.
fn changed<T: serde::Serialize>(value: &T, change: impl FnOnce(&mut Value)) -> Option<Document> {
    let mut json = serde_json::to_value(value).unwrap();
    change(&mut json);
    let json = serde_json::to_vec(&json).unwrap();
    Some(Document { schema: grayfin_types::SCHEMA, json })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_newer_coordinator_says_is_done_as_far_as_it_is_understood() {
    let (site, coordinator, agent) = connected().await;
    // A message whose kind is not known is none at all when it is read.
    coordinator.send_nothing();
    let newer = changed(&plan(), |plan| {
        plan["moon_phase"] = json!({ "phase": "full" });
        plan["hosts"][0]["moon_phase"] = json!([1, 2]);
        plan["package"]["moon_phase"] = json!(3);
    });
    for (kind, token) in [(OrderKind::Stage, 0), (OrderKind::Run, 5)] {
        let order = coordinator.order_as_written(kind.into(), token, newer.clone());
        let answer = coordinator.answer(order).await;
        assert!(answer.accepted, "{answer:?}");
    }
    assert_eq!(coordinator.ended(5).await, SequenceState::Up);
    assert!(site.host().all_run(NEW));
    agent.kill().await;
}

/// What is not understood is refused in words before anything is disturbed, and the session lives on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_understood_is_refused_in_words_before_anything_is_disturbed() {
    let (site, coordinator, agent) = connected().await;
    let beyond = Document { schema: grayfin_types::SCHEMA + 1, ..document::wrap(&plan()) };
    // A limit that is not known must not be passed over.
    let limit = changed(&plan(), |plan| plan["policy"]["mercury_max_ms"] = json!(1));
    let mode = changed(&plan(), |plan| plan["mode"] = json!("by_magic"));
    let debt = Some(Document {
        schema: grayfin_types::SCHEMA,
        json: br#"{"debt":1,"effect":{"effect":"frozen_tides"},"pay":true}"#.to_vec(),
    });
    let whole = Some(document::wrap(&plan()));
    let spec = changed(&canary(1), |order| order["spec"] = json!({ "kind": "by_pigeon" }));
    for (kind, document, words) in [
        (99, whole, "kind 99"),
        (OrderKind::Stage.into(), Some(beyond.clone()), "upgrade this side"),
        (OrderKind::Run.into(), Some(beyond), "upgrade this side"),
        (OrderKind::Stage.into(), limit, "`mercury_max_ms`"),
        (OrderKind::Run.into(), mode, "`by_magic`"),
        (OrderKind::PayDebt.into(), debt, "upgrade this host agent"),
        (OrderKind::CanaryStart.into(), spec, "upgrade this host agent"),
    ] {
        let order = coordinator.order_as_written(kind, 5, document);
        let answer = coordinator.answer(order).await;
        assert_eq!((answer.accepted, answer.code.as_str()), (false, Code::BadRequest.as_str()));
        assert!(answer.why.contains(words), "{words}: {}", answer.why);
    }
    assert!(site.host().acts().is_empty() && site.birds().is_empty());
    assert_eq!(coordinator.world(|world| world.hellos.len()), 1, "it is one session");
    let run = coordinator.order(OrderKind::Run, 5, Some(&plan()));
    assert!(coordinator.answer(run).await.accepted);
    assert_eq!(coordinator.ended(5).await, SequenceState::Up);
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_coordinators_reasons_against_a_go_are_told_in_its_words() {
    let (site, coordinator, agent) = connected().await;
    let reasons = json!([{
        "code": "GF0499", "subject": "trade", "evidence": "the tide is high",
        "remedy": "wait for the ebb", "moon_phase": 3,
    }]);
    coordinator.world(|world| {
        world.go = Go::No;
        world.reasons = changed(&reasons, |_| {});
    });
    coordinator.order(OrderKind::Run, 5, Some(&plan()));
    let SequenceState::Refused { code, message, .. } = coordinator.ended(5).await else {
        panic!("{:?}", coordinator.ended(5).await)
    };
    assert_eq!(code, Code::NoGo);
    assert!(message.contains("the tide is high") && message.contains("the ebb"), "{message}");
    assert!(site.host().all_run(OLD));
    agent.kill().await;
}

/// An older one writes less: what was added to documents since has a value without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_coordinators_plan_is_carried_out() {
    let (site, coordinator, agent) = connected().await;
    let older = changed(&plan(), |plan| {
        plan.as_object_mut().unwrap().remove("windows").unwrap();
        // Limits have defaults, each of them.
        plan["policy"] = json!({ "start_attempts": 1 });
        for node in plan["hosts"][0]["nodes"].as_array_mut().unwrap() {
            node.as_object_mut().unwrap().remove("compute_group").unwrap();
        }
    });
    let run = coordinator.order_as_written(OrderKind::Run.into(), 5, older);
    assert!(coordinator.answer(run).await.accepted);
    assert_eq!(coordinator.ended(5).await, SequenceState::Up);
    assert!(site.host().all_run(NEW));
    agent.kill().await;
}

/// Under an open hold a host agent may only be replaced by one that can read the hold's ledger: another
/// one does not start, says which one is needed, and changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_of_a_newer_build_is_left_alone_and_the_newer_one_goes_on() {
    let (site, coordinator, agent) = connected().await;
    site.host().hang("execute.backup");
    coordinator.order(OrderKind::Run, 5, Some(&plan()));
    site.host().hangs("execute.backup").await;
    agent.kill().await;
    let acts = site.host().acts();
    let own = std::fs::read(site.ledger()).unwrap();
    let mut newer = own.clone();
    // The number of the file's form is behind its eight letters.
    newer[8] += 1;
    std::fs::write(site.ledger(), &newer).unwrap();
    let config = site.path().join("agent.toml");
    let error = RunningAgent::start(&config).end().await.unwrap_err();
    assert!(error.to_string().contains("start the newer `grayfin-agent` again"), "{error}");
    assert_eq!(error.code(), Code::LedgerCorrupt);
    assert_eq!(std::fs::read(site.ledger()).unwrap(), newer, "the ledger was touched");
    assert_eq!(site.host().acts(), acts, "something was done");
    std::fs::write(site.ledger(), own).unwrap();
    let agent = RunningAgent::start(&config);
    assert_eq!(coordinator.ended(5).await, SequenceState::Up);
    let close = coordinator.order(OrderKind::Close, 5, NOTHING);
    assert!(coordinator.answer(close).await.accepted);
    assert_eq!(site.host().violations(), None);
    agent.kill().await;
}
