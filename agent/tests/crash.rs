//! The crash matrix: a host agent in a process of its own dies at every fail point that any of the
//! scenarios passes, is started again, and everything ends as if nothing had happened.
//!
//! The places are not listed here: each scenario is run once to see which it passes, and all of
//! them together must pass every place that the code knows, but for [`ELSEWHERE`].
#![expect(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test")]

mod double;

use std::{collections::BTreeSet, path::Path, process::Stdio, sync::Arc};

use double::{
    NEW, OLD, Site, canary,
    coordinator::{Coordinator, World},
    plan,
};
use grayfin_agent::{config::Settings, failpoint};
use grayfin_proto::v1::OrderKind;
use grayfin_types::{
    plan::Plan,
    step::{SequenceState, Step},
};
use tokio::process::{Child, Command};

const NOTHING: Option<&Plan> = None;

/// Names the configuration file for the child process.
const CHILD: &str = "GRAYFIN_TEST_AGENT";

/// Places that no scenario here passes, each with the reason.
const ELSEWHERE: [(&str, &str); 7] = [
    ("ledger.raised", "needs a term that grows within a session; the core's tests have that"),
    ("ledger.readmitted", "needs an operator's act; the link's tests give it"),
    ("ledger.host_restarted", "the boot id cannot be changed here; the core's tests do"),
    ("ledger.canary_answered", "needs five canary orders; the link's tests give them"),
    ("ledger.ordered.debt", "the coordinator played here knows no debts; labs order them"),
    ("act.fetch_package", "the model host has its package"),
    ("ledger.journal", "the model host journals in `upgrade` only"),
];

/// The host agent that the others start as a process of its own. By itself, without a site, it shows that
/// a configuration that is not there is named.
#[test]
fn child() {
    let Ok(config) = std::env::var(CHILD) else {
        let error = Settings::load(Path::new("/nowhere/agent.toml")).unwrap_err();
        assert!(error.to_string().contains("`/nowhere/agent.toml`"), "{error}");
        return;
    };
    tracing_subscriber::fmt()
        .with_env_filter("grayfin_agent=info,grayfin_failpoint=trace")
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    grayfin_proto::tls::install_provider();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(double::serve(Path::new(&config))).unwrap();
}

/// Starts a host agent in a process of its own.
fn start(site: &Site, fail_point: Option<&str>) -> Child {
    let log = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(site.path().join("agent.log"))
        .unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, site.path().join("agent.toml"))
        .env_remove(failpoint::VARIABLE)
        .kill_on_drop(true)
        .stdout(Stdio::null())
        .stderr(log);
    if let Some(place) = fail_point {
        command.env(failpoint::VARIABLE, place);
    }
    command.spawn().unwrap()
}

/// What is done in a scenario, and how it must end.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    /// What fails once.
    faults: &'static [(&'static str, u32)],
    /// Orders after the first end of the sequence.
    then: &'static [OrderKind],
    /// Every node runs this in the end.
    version: &'static str,
}

const fn scenario(
    name: &'static str,
    faults: &'static [(&'static str, u32)],
    then: &'static [OrderKind],
    version: &'static str,
) -> Scenario {
    Scenario { name, faults, then, version }
}

const SCENARIOS: [Scenario; 14] = [
    scenario("all goes well", &[], &[], NEW),
    scenario("staging fails", &[("check.stage", 1)], &[], NEW),
    scenario("stage fails", &[("held.stage", 1)], &[OrderKind::Retry], NEW),
    scenario("guard refuses", &[("check.guard", 1)], &[OrderKind::Undo, OrderKind::Abort], OLD),
    scenario("quiesce fails", &[("execute.quiesce", 1)], &[OrderKind::Retry], NEW),
    scenario("stop fails", &[("execute.stop", 1)], &[], OLD),
    scenario("backup fails", &[("execute.backup", 1)], &[], OLD),
    scenario("upgrade fails", &[("execute.upgrade", 1)], &[OrderKind::Retry], NEW),
    scenario("start fails once", &[("execute.start", 1)], &[], NEW),
    scenario("join fails often", &[("execute.join", 2)], &[OrderKind::Retry], NEW),
    scenario(
        "upgrade and its undo fail",
        &[("execute.upgrade", 1), ("undo.upgrade", 1)],
        &[OrderKind::Undo],
        OLD,
    ),
    scenario(
        "backup and its undo fail",
        &[("execute.upgrade", 1), ("undo.backup", 1)],
        &[OrderKind::Undo],
        OLD,
    ),
    scenario(
        "the undo of stop fails",
        &[("execute.backup", 1), ("undo.stop", 1)],
        &[OrderKind::Retry],
        NEW,
    ),
    scenario(
        "the undo of quiesce fails",
        &[("execute.backup", 1), ("undo.quiesce", 1)],
        &[OrderKind::Abort],
        OLD,
    ),
];

/// Runs a scenario with a death at `place`; returns the places that were passed. The fail point
/// must have been hit.
async fn run(scenario: Scenario, place: Option<String>) -> BTreeSet<String> {
    let site = Arc::new(Site::new());
    for (what, times) in scenario.faults {
        site.host().fault(what, *times);
    }
    let coordinator = Arc::new(Coordinator::start(&site).await);
    site.configure(&[coordinator.address()]);
    let mut keeper = tokio::spawn(keep(Arc::clone(&site), place.clone()));
    let version = tokio::select! {
        version = play(&coordinator, scenario, place.is_none()) => version,
        ended = &mut keeper => panic!("{place:?} in {}: {ended:?}", scenario.name),
    };
    // What happens after the close may be the place, too.
    let hit = format!("{:?}", place.as_ref().map(|place| format!("{place} in {}", scenario.name)));
    let log = || std::fs::read_to_string(site.path().join("agent.log")).unwrap_or_default();
    if place.is_some() {
        let died = || log().contains("fail point reached");
        double::eventually(&hit, died).await;
    }
    let work = site.path().join("state").join("work").join("hold-5");
    double::eventually(&format!("tidy after {hit}"), || !work.exists()).await;
    keeper.abort();
    drop(keeper.await);
    let host = site.host();
    assert_eq!(host.violations(), None, "{hit} {:?}", host.acts());
    assert!(host.all_run(version), "{hit} {:?}", host.acts());
    passed(&log())
}

/// Keeps a host agent running: after it reached its fail point it is started again without one.
async fn keep(site: Arc<Site>, place: Option<String>) {
    let mut process = start(&site, place.as_deref());
    loop {
        let status = process.wait().await.unwrap();
        let log = std::fs::read_to_string(site.path().join("agent.log")).unwrap();
        let log: Vec<_> = log.lines().filter(|line| !line.contains("TRACE")).collect();
        assert_eq!(status.code(), Some(failpoint::EXIT_CODE), "ended by itself: {log:#?}");
        process = start(&site, None);
    }
}

/// Plays the coordinator's part; returns the version that must run in the end. A death in the moment
/// of a failure may hide the failure: then (not `exact`) the way differs, but not the rules.
async fn play(coordinator: &Coordinator, scenario: Scenario, exact: bool) -> &'static str {
    coordinator.until("a session", |world| world.connected().then_some(())).await;
    promised(coordinator, 4).await;
    let start = coordinator.order(OrderKind::CanaryStart, 0, Some(&canary(1)));
    coordinator.answer(start).await;
    loop {
        let stage = coordinator.order(OrderKind::Stage, 0, Some(&plan()));
        let before = coordinator.world(|world| world.reports.len());
        coordinator.answer(stage).await;
        let ended = |world: &mut World| {
            let newer = world.reports.values().skip(before).any(|r| r.step == Step::Stage);
            world.staged().filter(|_| newer)
        };
        if coordinator.until("staging ended", ended).await {
            break;
        }
    }
    let stop = coordinator.order(OrderKind::CanaryStop, 0, Some(&canary(1)));
    coordinator.answer(stop).await;
    let run = coordinator.order(OrderKind::Run, 5, Some(&plan()));
    assert!(coordinator.answer(run).await.accepted);
    let mut end = coordinator.ended(5).await;
    for kind in scenario.then {
        let order = coordinator.order(*kind, 5, NOTHING);
        let answer = coordinator.answer(order).await;
        assert!(answer.accepted || !exact, "{answer:?}");
        if answer.accepted {
            let after = answer.ledger_position;
            let ended = |world: &mut World| ended_after(world, after);
            end = coordinator.until("the end after an order", ended).await;
        }
    }
    let version = match end {
        SequenceState::Up => NEW,
        SequenceState::Refused { .. } | SequenceState::Undone { .. } => OLD,
        other => panic!("{other:?} in {}", scenario.name),
    };
    assert!(version == scenario.version || !exact, "{end:?} in {}", scenario.name);
    let check = coordinator.order(OrderKind::CanaryCheck, 0, Some(&canary(1)));
    coordinator
        .until("the check", |world| world.canary.iter().any(|r| r.order == check).then_some(()))
        .await;
    let close = coordinator.order(OrderKind::Close, 5, NOTHING);
    let answer = coordinator.answer(close).await;
    assert!(answer.accepted, "{answer:?}");
    let closed = |world: &mut World| (world.state(5)? == SequenceState::Closed).then_some(());
    coordinator.until("closed", closed).await;
    version
}

/// The sequence's end, unless it is still the one from before the order. An order that changes
/// nothing leaves the old end, told again with the order.
fn ended_after(world: &mut World, position: u64) -> Option<SequenceState> {
    let newest = world.reports.values().rev().find(|report| report.token.0 == 5)?;
    let state = world.ended(5)?;
    (newest.position >= position).then_some(state)
}

/// Asks for a promise until one is given: a request is not kept in an outbox here.
async fn promised(coordinator: &Coordinator, token: u64) {
    loop {
        let sessions = coordinator.world(|world| world.hellos.len());
        coordinator.promise(token);
        let answered = coordinator
            .until("a promise, or another session", |world| {
                let promised = world.promises.iter().any(|answer| answer.promised);
                (promised || world.hellos.len() > sessions && world.connected()).then_some(promised)
            })
            .await;
        if answered {
            return;
        }
    }
}

fn passed(log: &str) -> BTreeSet<String> {
    log.lines()
        .filter_map(|line| {
            let (_, after) = line.split_once(failpoint::TARGET)?;
            let (_, place) = after.split_once("place=\"")?;
            Some(place.split_once('"')?.0.to_owned())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_at_any_place_changes_nothing() {
    let mut seen = BTreeSet::new();
    let mut cells = Vec::new();
    for scenario in SCENARIOS {
        let places = run(scenario, None).await;
        // Places that an earlier scenario has passed already are not tried again.
        cells.extend(places.difference(&seen).map(|place| (scenario, place.clone())));
        seen.extend(places);
    }
    let known: BTreeSet<String> = failpoint::all().into_iter().collect();
    let unknown: Vec<_> = seen.difference(&known).collect();
    assert!(unknown.is_empty(), "places that `fail-points` does not list: {unknown:?}");
    let missed: Vec<_> = known
        .difference(&seen)
        .filter(|place| !ELSEWHERE.iter().any(|(name, _)| place.starts_with(name)))
        .collect();
    assert!(missed.is_empty(), "no scenario passes these places: {missed:?}");

    let total = cells.len();
    let mut running = tokio::task::JoinSet::new();
    for (scenario, place) in cells {
        // Three at a time: more processes than processors only wait for each other.
        while running.len() >= 3 {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(run(scenario, Some(place)));
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    assert!(total > 150, "{total} places were tried");
}
