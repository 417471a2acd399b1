//! `kill -9` of the host agent, of the coordinator, and of both at places of the code's own list, then
//! started again: the rollout ends by itself or says what is to be done, no host is down beside
//! another, and no acknowledged row of the canary is missing.
//!
//! The agents stand still at named places (SIGSTOP, by `GRAYFIN_STOPPOINTS`, debug builds only), so
//! that each kill hits its step. All the while recovery is suspended and `datanodeRestartInterval` is
//! 0, which has to be undone in the end. Could run on a real cluster, but for the changed software.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::ensure;
use grayfin_types::status::{HostPhase, RolloutStatus};
use integration_tests::binaries::Binaries;
use integration_tests::matrix::{self, Passed, Places, Run, Victim};
use integration_tests::suite::{self, CANARY, FROM, NOTICE_LIMIT, ROLLOUT_LIMIT, TO};
use integration_tests::{Lab, Options, Target, wait};
use standin::config::Role;

/// Here somebody changes a file of the new software: the upgrade fails and is undone.
const SPOIL_AT: &str = "act.verify.upgrade.before";
/// Places in the write that closes a hold.
const CLOSING: &str = "ledger.ordered.close.";
/// `datanodeRestartInterval` as it is configured: another effect on the cluster as a whole that has to
/// be undone. Long enough, scaled too, to start nothing in the middle of a test; the version that is
/// installed does not count the first hundred seconds.
const RESTART_INTERVAL_S: i64 = 900;
/// In front of the generated table.
const TABLE_BEGINS: &str = "<!-- generated: `docs/develop/testing.md` says how -->";

fn options() -> Options {
    let controller_cfg = vec![format!("datanodeRestartInterval={RESTART_INTERVAL_S}")];
    Options { version: FROM.to_owned(), controller_cfg, ..Options::default() }
}

/// All places of the code's own list.
async fn fail_points() -> anyhow::Result<Vec<String>> {
    let binaries = tokio::task::spawn_blocking(Binaries::ensure).await??;
    let mut command = tokio::process::Command::new(binaries.grayfin_agent());
    let output = command.arg("fail-points").output().await?;
    ensure!(output.status.success(), "`fail-points`: {output:?}");
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

/// Cluster-wide effects are in force while each host is down: every kill meets them open.
async fn start(lab: &Lab) -> anyhow::Result<String> {
    let more = [&CANARY[..], &["--recovery", "suspend"]].concat();
    lab.wait_hosts_connected().await?;
    lab.wait_ready(TO, &more).await?;
    lab.start_rollout(TO, &more).await
}

/// Every cluster-wide effect is undone: the coordinator says so, and each DolphinDB controller.
async fn nothing_is_owed(lab: &Lab) -> anyhow::Result<()> {
    wait::until("the debts to be paid", NOTICE_LIMIT, || async {
        let shown = lab.cli(&["hold", "show"]).await.map_err(|error| format!("{error:#}"))?;
        let shown = suite::words(&shown);
        if shown.contains("to be undone") { Err(shown) } else { Ok(()) }
    })
    .await?;
    for node in lab.cluster().with_role(Role::Controller) {
        let alias = node.alias();
        let interval = lab.ddb(alias)?.number("getDatanodeRestartInterval()").await?;
        ensure!(interval == RESTART_INTERVAL_S, "`{alias}` restarts data nodes after {interval} s");
    }
    Ok(())
}

/// Drives a rollout through its cells; everything must end well. Nodes of the host that was
/// undone started once more than the others; the ones that a missing go turned back did, too.
async fn end_well(lab: &Lab, run: Run) -> anyhow::Result<()> {
    let undone = run.hosts.iter().find(|(_, it)| it.sabotage.is_some()).map(|(host, _)| *host);
    let observer = lab.observer()?;
    let (id, halts) = matrix::drive(lab, run, start).await?;
    let seen = observer.stop();
    lab.ensure_succeeded(&id, TO, &seen).await?;
    nothing_is_owed(lab).await?;
    let expected = usize::from(undone.is_some());
    ensure!(halts >= expected, "the upgrade that somebody spoilt did not fail");
    suite::say(&format!("{halts} halts"));
    if halts > expected {
        return Ok(());
    }
    let nodes = lab.cluster().nodes.iter().filter(|node| Some(node.host) == undone);
    let others: BTreeMap<&str, usize> = nodes.map(|node| (node.alias(), 3)).collect();
    lab.ensure_restarts(&seen, 2, &others)
}

/// The matrix in the documentation is the one that is tested.
#[tokio::test]
async fn the_documented_matrix_is_the_codes_own() {
    let table = matrix::table(&fail_points().await.unwrap()).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/develop/crash-matrix.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let (head, _) = text.split_once(TABLE_BEGINS).unwrap();
    let expected = format!("{head}{TABLE_BEGINS}\n\n{table}");
    if std::env::var_os("GRAYFIN_WRITE_MATRIX").is_some() {
        std::fs::write(&file, expected).unwrap();
        return;
    }
    assert!(
        text == expected,
        "docs/develop/crash-matrix.md is not what the code's list of places makes: \
         `GRAYFIN_WRITE_MATRIX=1 cargo test --test crashes documented` writes it"
    );
}

/// Every place that a rollout on a lab passes, with one victim: each host has a third of them, for
/// only so many attempts at a step are allowed.
async fn complete(victim: Victim) {
    suite::in_lab(&options(), async |lab| {
        let hosts = lab.order().await?;
        let mut run = Run::default();
        for host in &hosts {
            run.hosts.insert(*host, Places::of(victim, Vec::new()));
        }
        let mut going = 0;
        for place in fail_points().await? {
            if !matrix::is_cell(&place, victim) {
                continue;
            }
            let mut host = hosts[0];
            match matrix::passed(&place)? {
                Passed::Elsewhere(_) => continue,
                Passed::OneHost => {
                    run.shared.push(place);
                    continue;
                }
                Passed::Undo => {}
                // The first host has enough with its way back.
                Passed::Going => {
                    host = hosts[going % hosts.len()];
                    going += 1;
                    if place == SPOIL_AT && host == hosts[0] {
                        host = hosts[1];
                    }
                    // Who is killed in closing may tidy up in another way; the others pass the
                    // places of tidying up.
                    if place.starts_with(CLOSING) {
                        host = hosts[2];
                    }
                }
            }
            run.hosts.entry(host).and_modify(|it| it.left.push(place));
        }
        run.hosts.entry(hosts[0]).and_modify(|it| it.sabotage = Some(SPOIL_AT.to_owned()));
        end_well(lab, run).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_killed_at_every_place_are_started_again() {
    complete(Victim::Agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinator_killed_at_every_place_comes_back() {
    complete(Victim::Coordinator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_killed_at_every_place_come_back() {
    complete(Victim::Both).await;
}

/// What the coordinator does itself between two hosts: granting, soaking, closing, verifying.
#[tokio::test(flavor = "multi_thread")]
async fn the_coordinator_killed_between_hosts_goes_on_where_it_was() {
    let options = Options { version: FROM.to_owned(), time_scale: 0.05, ..Options::default() };
    suite::in_lab(&options, async |lab| {
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        let mut killed = BTreeSet::new();
        let what = format!("rollout {id} to end");
        let killed_in = |status: &RolloutStatus| {
            let phase = |wanted: &HostPhase| status.hosts.iter().any(|it| it.phase == *wanted);
            [HostPhase::Granting, HostPhase::Recovering, HostPhase::Closing]
                .into_iter()
                .filter(phase)
                .map(|phase| format!("{phase:?}"))
                .chain([status.state.to_string()])
                .collect::<Vec<String>>()
        };
        loop {
            let status = wait::until(&what, ROLLOUT_LIMIT, || async {
                let status = lab.rollout(&id).await.map_err(|error| format!("{error:#}"))?;
                let new = killed_in(&status).iter().any(|phase| !killed.contains(phase));
                if status.state.is_final() || new {
                    Ok(status)
                } else {
                    Err(suite::summary(&status))
                }
            })
            .await?;
            if status.state.is_final() {
                break;
            }
            suite::say(&format!("killed while {:?}", killed_in(&status)));
            killed.extend(killed_in(&status));
            lab.restart(&Target::Coordinator(1)).await?;
        }
        let seen = observer.stop();
        lab.ensure_succeeded(&id, TO, &seen).await?;
        lab.ensure_restarts(&seen, 2, &BTreeMap::new())?;
        ensure!(killed.contains("Recovering"), "it was never killed while it soaked: {killed:?}");
        Ok(())
    })
    .await;
}
