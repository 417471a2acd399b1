//! What is waited for, what makes a host agent turn back, and what an operator can do meanwhile.
//!
//! Needs the stand-in for its faults (a recovery that does not end, a slow stop, a leader that gives
//! up, a version that does not start); the rest could run on a real cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use grayfin_types::Code;
use grayfin_types::event::{Body, Event};
use grayfin_types::status::{HoldStatus, HostPhase, RolloutState, RolloutStatus};
use grayfin_types::step::SequenceState;
use integration_tests::observer::Report;
use integration_tests::suite::{self, CANARY, FROM, NOTICE_LIMIT, ROLLOUT_LIMIT, Refusal, TO};
use integration_tests::{Lab, Options, Target, wait};
use standin::config::Role;
use standin::faults::Kind;

fn options() -> Options {
    Options { version: FROM.to_owned(), ..Options::default() }
}

/// The alias of a host's first node with a role.
fn alias(lab: &Lab, host: u8, role: Role) -> anyhow::Result<String> {
    let node = lab.cluster().on_host(host, role);
    Ok(node.with_context(|| format!("host {host} has no {role}"))?.alias().to_owned())
}

fn phase_of(status: &RolloutStatus, lab: &Lab, host: u8) -> anyhow::Result<HostPhase> {
    let name = &lab.host(host)?.name;
    let found = status.hosts.iter().find(|it| it.host.as_str() == name);
    Ok(found.with_context(|| format!("`{name}` is not in the rollout"))?.phase.clone())
}

/// Runs a steering verb; it must be accepted.
async fn steer(lab: &Lab, verb: &str, id: &str) -> anyhow::Result<()> {
    let done = lab.cli(&["rollout", verb, id, "--reason", "a test"]).await?;
    ensure!(done.code == Some(0), "{verb}: {}", suite::words(&done));
    Ok(())
}

/// Runs a steering verb; it must be refused because of the rollout's state.
async fn steer_refused(lab: &Lab, verb: &str, id: &str) -> anyhow::Result<()> {
    let done = lab.cli(&["rollout", verb, id, "--reason", "a test"]).await?;
    let said = suite::words(&done);
    ensure!(done.code == Some(1) && said.contains("GF0705"), "{verb}: {said}");
    Ok(())
}

/// A process that watches a rollout, each event one line.
struct Watcher(tokio::task::JoinHandle<anyhow::Result<Vec<String>>>);

impl Watcher {
    fn start(lab: &Lab, id: &str, from: u64) -> anyhow::Result<Self> {
        let from = from.to_string();
        let mut command = lab.grayfin(["rollout", "watch", id, "--json", "--from", &from]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        Ok(Self(tokio::spawn(async move {
            let output = tokio::time::timeout(ROLLOUT_LIMIT, child.wait_with_output()).await??;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "watch: {} {said}", output.status);
            Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
        })))
    }

    async fn lines(self) -> anyhow::Result<Vec<String>> {
        self.0.await?
    }
}

/// Every event from the first on, without a gap, each bound to the one before.
fn ensure_chain(lines: &[String]) -> anyhow::Result<Vec<Event>> {
    let events: Vec<Event> =
        lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?;
    let mut previous = String::new();
    for (event, number) in events.iter().zip(1_u64..) {
        ensure!(event.seq.0 == number, "event {number} has the number {}", event.seq);
        ensure!(event.previous == previous, "event {number} is not bound to the one before");
        previous.clone_from(&event.hash);
    }
    let last = events.last().context("there are events")?;
    let ended = matches!(&last.body, Body::State { state } if state.is_final());
    ensure!(ended, "the last event is not the end: {last:?}");
    Ok(events)
}

#[tokio::test(flavor = "multi_thread")]
async fn recovering_chunks_are_waited_for_and_two_watchers_see_the_same() {
    suite::in_lab(&options(), async |lab| {
        let first = lab.order().await?[0];
        let data = alias(lab, first, Role::DataNode)?;
        lab.fault(&data, Kind::NeverFinishRecovery, "")?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        let (one, two) = (Watcher::start(lab, &id, 1)?, Watcher::start(lab, &id, 1)?);
        // It waits, says for which chunk and since when, and the next host stays as it is.
        let waits = lab.wait_status(&id, "to wait for recovering chunks", |status| {
            status.waiting.iter().any(|it| it.code == Code::ChunksRecovering)
        });
        let status = waits.await?;
        let reason = status.waiting.iter().find(|it| it.code == Code::ChunksRecovering);
        let reason = reason.context("just seen")?;
        ensure!(reason.subject.starts_with('/'), "no chunk's path: {reason:?}");
        ensure!(
            status.waiting_since_ms.is_some_and(|since| since > status.started_ms),
            "{status:?}"
        );
        ensure!(phase_of(&status, lab, first)? == HostPhase::Recovering, "{status:?}");
        let explained = suite::words(&lab.cli(&["explain", &id]).await?);
        ensure!(explained.contains("GF0405") && explained.contains(&reason.subject), "{explained}");
        // Pausing now stops it between two hosts.
        steer(lab, "pause", &id).await?;
        steer_refused(lab, "retry", &id).await?;
        lab.clear_fault(&data, Kind::NeverFinishRecovery)?;
        lab.wait_status(&id, "to finish its first host", |status| {
            phase_of(status, lab, first).is_ok_and(|phase| phase == HostPhase::Done)
        })
        .await?;
        let holds: Vec<HoldStatus> = lab.ask(&["hold", "show", "--json"]).await?;
        ensure!(holds.iter().all(|hold| hold.state == "none"), "{holds:?}");
        let paused = lab.rollout(&id).await?;
        ensure!(paused.state == RolloutState::Paused, "{}", suite::summary(&paused));
        let disturbed = observer.report().disturbed(&lab.cluster().name);
        let disturbed: Vec<_> = disturbed.iter().filter(|(_, spans)| !spans.is_empty()).collect();
        ensure!(
            disturbed.len() == 1,
            "while it is paused more than one host went down: {disturbed:?}"
        );
        steer(lab, "resume", &id).await?;
        steer_refused(lab, "resume", &id).await?;
        lab.wait_rollout(&id, ROLLOUT_LIMIT).await?;
        let seen = observer.stop();
        lab.ensure_succeeded(&id, TO, &seen).await?;
        lab.ensure_restarts(&seen, 2, &BTreeMap::new())?;
        // Who watched from the beginning, and who asks afterwards, from wherever, sees the same.
        let (one, two) = (one.lines().await?, two.lines().await?);
        ensure!(one == two, "two watchers saw different things");
        let events = ensure_chain(&one)?;
        let middle = events.len() / 2;
        let from = u64::try_from(middle)? + 1;
        let later = Watcher::start(lab, &id, from)?.lines().await?;
        ensure!(Some(later.as_slice()) == one.get(middle..), "from {from} on it is another story");
        let plain = lab.cli(&["rollout", "watch", &id]).await?;
        ensure!(plain.code == Some(0) && plain.out.lines().count() >= events.len(), "{plain:?}");
        Ok(())
    })
    .await;
}

/// Waits until a rollout is halted over a host that is as it was, and says why.
async fn wait_turned_back(lab: &Lab, id: &str, host: u8) -> anyhow::Result<String> {
    let status = lab.wait_state(id, RolloutState::Halted).await?;
    let name = &lab.host(host)?.name;
    let run = status.hosts.iter().find(|it| it.host.as_str() == name).context("the host")?;
    match &run.sequence {
        Some(
            SequenceState::Refused { code, message, .. }
            | SequenceState::Undone { code, message, .. },
        ) => Ok(format!("{code} {message}")),
        other => anyhow::bail!("`{name}` is {other:?}"),
    }
}

/// A host's controller did not go down: it still has its first process.
fn ensure_controller_untouched(lab: &Lab, seen: &Report, host: u8) -> anyhow::Result<()> {
    let controller = alias(lab, host, Role::Controller)?;
    let record = seen.node(&controller).context("the observer knows every node")?;
    ensure!(record.down.is_empty() && record.processes.len() == 1, "{record:?}");
    Ok(())
}

/// Right before its data nodes go down, the data node of another host dies: with both gone, chunks
/// would have no replica. The host agent turns back, and goes on when an operator says so.
async fn data_node_dies_elsewhere(lab: &Lab, id: &str, hosts: &[u8]) -> anyhow::Result<()> {
    let (held, other) = (hosts[0], hosts[1]);
    let place = lab.wait_agent_stands(held).await?;
    ensure!(place == "act.execute.quiesce.before", "{place}");
    let victim = alias(lab, other, Role::DataNode)?;
    let observer = lab.observer()?;
    lab.kill(&Target::Node(victim.clone())).await?;
    lab.agent_goes_on(held).await?;
    let why = wait_turned_back(lab, id, held).await?;
    ensure!(why.contains("GF0508") || why.contains("GF0507"), "{why}");
    let seen = observer.stop();
    ensure!(seen.nodes_that_changed() == [victim.as_str()], "{:?}", seen.nodes_that_changed());
    steer_refused(lab, "resume", id).await?;
    lab.restart(&Target::Node(victim)).await?;
    lab.wait_healthy().await?;
    steer(lab, "retry", id).await
}

/// While a data node stops slowly, a controller of another host dies: this host's controller must
/// stay up, for two of the three that are configured must. The host agent brings its data node back.
async fn controller_dies_during_a_slow_stop(
    lab: &Lab,
    id: &str,
    hosts: &[u8],
) -> anyhow::Result<()> {
    let (held, other) = (hosts[1], hosts[2]);
    let place = lab.wait_agent_stands(held).await?;
    ensure!(place == "act.execute.quiesce.before", "{place}");
    let data = alias(lab, held, Role::DataNode)?;
    lab.fault(&data, Kind::SlowStop, "3000")?;
    let observer = lab.observer()?;
    lab.agent_goes_on(held).await?;
    let log =
        lab.paths().work(&lab.host(held)?.name, lab.cluster()).join(format!("log/{data}.log"));
    wait::until_true("the data node to be stopping", ROLLOUT_LIMIT, || async {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().next_back().is_some_and(|line| line.contains("Received signal 15"))
            || lab.node(&data).is_ok_and(|node| node.pid().is_none())
    })
    .await?;
    let victim = alias(lab, other, Role::Controller)?;
    lab.kill(&Target::Node(victim.clone())).await?;
    let why = wait_turned_back(lab, id, held).await?;
    lab.clear_fault(&data, Kind::SlowStop)?;
    ensure!(["GF0508", "GF0507", "GF0401"].iter().any(|code| why.contains(code)), "{why}");
    let seen = observer.stop();
    ensure_controller_untouched(lab, &seen, held)?;
    ensure!(lab.node(&data)?.pid().is_some(), "`{data}` was not brought back");
    let version = lab.ddb(&data)?.text("version()").await?;
    ensure!(version.starts_with(FROM), "`{data}` came back with {version}");
    lab.restart(&Target::Node(victim)).await?;
    lab.wait_healthy().await?;
    steer(lab, "retry", id).await
}

/// The leadership moves away from the host that was to be the last.
async fn leader_moves(lab: &Lab) -> anyhow::Result<String> {
    let before = lab.leader(lab.cluster()).await?.alias().to_owned();
    lab.fault(&before, Kind::FlapLeader, "100")?;
    let after = wait::until("another leader", NOTICE_LIMIT, || async {
        let leader = lab.leader(lab.cluster()).await.map_err(|error| format!("{error:#}"))?;
        if leader.alias() == before {
            Err("still the same".to_owned())
        } else {
            Ok(leader.alias().to_owned())
        }
    })
    .await?;
    lab.clear_fault(&before, Kind::FlapLeader)?;
    Ok(after)
}

#[tokio::test(flavor = "multi_thread")]
async fn guards_turn_back_when_others_die_and_the_order_follows_the_leader() {
    suite::in_lab(&options(), async |lab| {
        let hosts = lab.order().await?;
        for host in hosts.iter().take(2) {
            let place = "act.execute.quiesce.before".to_owned();
            lab.restart_agent_with_stops(*host, &[place]).await?;
        }
        lab.wait_hosts_connected().await?;
        lab.wait_ready(TO, &CANARY).await?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        data_node_dies_elsewhere(lab, &id, &hosts).await?;
        controller_dies_during_a_slow_stop(lab, &id, &hosts).await?;
        let leader = leader_moves(lab).await?;
        suite::say(&format!("the leader is {leader} now"));
        let status = lab.wait_rollout(&id, ROLLOUT_LIMIT).await?;
        ensure!(status.state == RolloutState::Succeeded, "{}", suite::summary(&status));
        ensure!(status.canary.lost == 0, "{:?}", status.canary);
        for (alias, version) in lab.versions().await? {
            ensure!(version == TO, "`{alias}` answers {version}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leaders_host_is_the_last_even_if_the_leader_moves() {
    suite::in_lab(&options(), async |lab| {
        let hosts = lab.order().await?;
        let place = "act.execute.guard.before".to_owned();
        lab.restart_agent_with_stops(hosts[0], &[place]).await?;
        lab.wait_hosts_connected().await?;
        lab.wait_ready(TO, &CANARY).await?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        lab.wait_agent_stands(hosts[0]).await?;
        // Held is the first; the leader leaves the third, so that the second or the first leads.
        let leader = leader_moves(lab).await?;
        let leads = lab.node(&leader)?.node.host;
        lab.agent_goes_on(hosts[0]).await?;
        lab.wait_rollout(&id, ROLLOUT_LIMIT).await?;
        let seen = observer.stop();
        let status = lab.ensure_succeeded(&id, TO, &seen).await?;
        lab.ensure_restarts(&seen, 2, &BTreeMap::new())?;
        // One change was ours; the upgrade may cause one more.
        let changes = seen.leader_changes(&lab.cluster().name);
        ensure!(changes.len() <= 3, "{changes:?}");
        if leads != hosts[0] {
            let last = status.hosts.iter().max_by_key(|host| host.started_ms).context("hosts")?;
            let last = lab.number_of(&last.host)?;
            ensure!(last == leads, "host {last} was the last, the leader was on host {leads}");
        }
        Ok(())
    })
    .await;
}

/// Partitions that come and go all the time, each with some rows; returns how many came.
async fn churn(lab: &Lab, ends: Arc<AtomicBool>, made: Arc<AtomicU64>) -> anyhow::Result<()> {
    let make = "db = database(\"dfs://churn\", VALUE, 1..3); \
                t = table(1:0, [`part, `x], [INT, INT]); \
                db.createPartitionedTable(t, `rows, `part)";
    let nodes: Vec<_> = lab.cluster().with_role(Role::DataNode).map(|it| it.alias()).collect();
    lab.ddb(nodes[0])?.run(make).await?;
    let mut part = 0_usize;
    while !ends.load(Ordering::Relaxed) {
        part += 1;
        let rows = format!(
            "tableInsert(loadTable(\"dfs://churn\", \"rows\"), table(take({part}, 5) as part, 1..5 as x))"
        );
        // The nodes of the held host are down, and leaders change: then another one is asked.
        for turn in 0..nodes.len() {
            let Some(node) = nodes.get((part + turn) % nodes.len()) else { continue };
            if lab.ddb(node)?.within(Duration::from_secs(3)).run(&rows).await.is_ok() {
                made.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        if part > 5 {
            let old = part - 5;
            let drop = format!("dropPartition(database(\"dfs://churn\"), {old}, \"rows\")");
            for node in &nodes {
                if lab.ddb(node)?.within(Duration::from_secs(3)).run(&drop).await.is_ok() {
                    break;
                }
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_table_is_accepted_by_name_and_partitions_come_and_go() {
    let more = ["newValuePartitionPolicy=add".to_owned()];
    let options = Options { cluster_cfg: more.to_vec(), ..options() };
    suite::in_lab(&options, async |lab| {
        let node = alias(lab, 2, Role::DataNode)?;
        lab.ddb(&node)?
            .run("share streamTable(1:0, [`time,`x], [TIMESTAMP,INT]) as trades")
            .await?;
        let name = format!("{node}/stream_table/trades");
        let names = [name.as_str(), "--accept-loss"];
        let code = Code::MemoryLoss;
        lab.ensure_refused(&Refusal { to: TO, more: &CANARY, code, also: &[], names: &names })
            .await?;
        let mut more = CANARY.to_vec();
        more.extend(["--accept-loss", &name]);
        let observer = lab.observer()?;
        let (ends, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let rollout = async {
            let id = lab.start_rollout(TO, &more).await;
            let ended = match &id {
                Ok(id) => lab.wait_rollout(id, ROLLOUT_LIMIT).await.map(drop),
                Err(_) => Ok(()),
            };
            ends.store(true, Ordering::Relaxed);
            ended.and(id)
        };
        let (id, churned) = tokio::join!(rollout, churn(lab, ends.clone(), made.clone()));
        let (id, ()) = (id?, churned?);
        let seen = observer.stop();
        lab.ensure_succeeded(&id, TO, &seen).await?;
        lab.ensure_restarts(&seen, 2, &BTreeMap::new())?;
        let made = made.load(Ordering::Relaxed);
        suite::say(&format!("{made} partitions came"));
        ensure!(made > 20, "only {made} partitions were made: that is no load");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_down_longer_than_the_recovery_wait_is_recovered_from() {
    // 30 s are taken as 60 s, here 6 s.
    suite::in_lab(&options(), async |lab| {
        let first = lab.order().await?[0];
        let place = "act.execute.upgrade.before".to_owned();
        lab.restart_agent_with_stops(first, &[place]).await?;
        lab.wait_hosts_connected().await?;
        lab.wait_ready(TO, &CANARY).await?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        lab.wait_agent_stands(first).await?;
        // The host stays down until DolphinDB has begun to copy its replicas to others.
        let tasks = wait::until("recovery tasks", NOTICE_LIMIT, || async {
            let look = async {
                let leader = lab.leader(lab.cluster()).await?.alias().to_owned();
                lab.ddb(&leader)?.number("exec count(*) from getRecoveryTaskStatus()").await
            };
            match look.await {
                Ok(0) => Err("none".to_owned()),
                Ok(tasks) => Ok(tasks),
                Err(error) => Err(format!("{error:#}")),
            }
        })
        .await?;
        suite::say(&format!("{tasks} recovery tasks while the host was down"));
        lab.agent_goes_on(first).await?;
        lab.wait_rollout(&id, ROLLOUT_LIMIT).await?;
        let seen = observer.stop();
        lab.ensure_succeeded(&id, TO, &seen).await?;
        lab.ensure_restarts(&seen, 2, &BTreeMap::new())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_brings_the_host_back_and_a_new_version_that_does_not_start_is_retried() {
    suite::in_lab(&options(), async |lab| {
        let first = lab.order().await?[0];
        let place = "act.execute.backup.after".to_owned();
        lab.restart_agent_with_stops(first, &[place]).await?;
        lab.wait_hosts_connected().await?;
        lab.wait_ready(TO, &CANARY).await?;
        // Aborted with everything stopped and nothing replaced: the host comes back as it was.
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        lab.wait_agent_stands(first).await?;
        steer(lab, "abort", &id).await?;
        lab.agent_goes_on(first).await?;
        let ended = lab.wait_rollout(&id, ROLLOUT_LIMIT).await?;
        ensure!(ended.state == RolloutState::Aborted, "{}", suite::summary(&ended));
        steer_refused(lab, "resume", &id).await?;
        lab.wait_healthy().await?;
        let seen = observer.stop();
        ensure!(seen.overlaps().is_empty(), "{:?}", seen.overlaps());
        let names: BTreeSet<&str> = seen
            .nodes_that_changed()
            .iter()
            .filter_map(|a| seen.node(a))
            .map(|n| n.host.as_str())
            .collect();
        ensure!(names == BTreeSet::from([lab.host(first)?.name.as_str()]), "{names:?}");
        for (alias, version) in lab.versions().await? {
            ensure!(version == FROM, "`{alias}` answers {version} after an abort");
        }
        // A new version that does not start: there is no way back, the hold stays, a person helps.
        let first = lab.order().await?[0];
        let data = alias(lab, first, Role::DataNode)?;
        lab.fault(&data, Kind::RefuseStartVersion, TO)?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        let halted = lab.wait_state(&id, RolloutState::Halted).await?;
        let name = lab.host(first)?.name.clone();
        let run = halted.hosts.iter().find(|it| it.host.as_str() == name).context("the host")?;
        let forward_only =
            matches!(&run.sequence, Some(SequenceState::Failed { first_start: true, .. }));
        ensure!(forward_only, "{}", suite::summary(&halted));
        let explained = suite::words(&lab.cli(&["explain", &id]).await?);
        ensure!(explained.contains("retry"), "{explained}");
        let refused = lab.cli(&["rollout", "rollback-host", &id, "--reason", "a test"]).await?;
        ensure!(
            refused.code == Some(1),
            "a rollback after the first start: {}",
            suite::words(&refused)
        );
        lab.clear_fault(&data, Kind::RefuseStartVersion)?;
        steer(lab, "retry", &id).await?;
        lab.wait_rollout(&id, ROLLOUT_LIMIT).await?;
        lab.ensure_succeeded(&id, TO, &observer.stop()).await.map(drop)
    })
    .await;
}

/// A command line that cannot be understood ends with 2, before anybody is asked.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_command_lines_end_with_2() {
    let binaries = tokio::task::spawn_blocking(integration_tests::binaries::Binaries::ensure);
    let grayfin = binaries.await.expect("it does not panic").expect("it builds").grayfin();
    let lines: [&[&str]; 11] = [
        &["rollout", "start", "trade"],
        &["rollout", "start", "--to", TO],
        &["rollout", "start", "trade", "--to", TO, "--canary", "sometimes"],
        &["rollout", "start", "trade", "--to", TO, "--soak", "soon"],
        &["rollout", "start", "trade", "--to", TO, "--mode", "magic"],
        &["rollout", "start", "trade", "--to", TO, "--override", "no-reason"],
        &["rollout", "start", "tr ade", "--to", TO],
        &["rollout", "dance", "4f1c"],
        &["rollout", "pause"],
        &["watch"],
        &["hosts", "--colour"],
    ];
    for line in lines {
        let mut command = tokio::process::Command::new(&grayfin);
        let output = command.args(line).stdin(Stdio::null()).output().await.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line:?}: {said}");
        assert!(said.contains("error") && output.stdout.is_empty(), "{line:?}: {said}");
    }
}
