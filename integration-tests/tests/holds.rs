//! Holds that an operator breaks, ledgers that are lost or put back, a host that is gone for good, and
//! debts that are open meanwhile: each with its way out, executed and working.
//!
//! Could run on a real cluster.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use grayfin_proto::identity::Identity;
use grayfin_proto::pki;
use grayfin_types::Generation;
use grayfin_types::status::{RolloutState, RolloutStatus};
use grayfin_types::step::SequenceState;
use integration_tests::suite::{self, CANARY, FROM, NOTICE_LIMIT, ROLLOUT_LIMIT, TO};
use integration_tests::{Lab, Options, Target, wait};

/// A further version, at the same level of compatibility.
const NEXT: &str = "2.00.9.4";
/// Longer than DolphinDB's wait before it copies replicas, 6 s here.
const RECOVERY_WAIT: Duration = Duration::from_millis(7_500);

fn options() -> Options {
    Options { version: FROM.to_owned(), ..Options::default() }
}

fn sequence(status: &RolloutStatus, name: &str) -> Option<SequenceState> {
    status.hosts.iter().find(|it| it.host.as_str() == name)?.sequence.clone()
}

/// A rollout to a version of the next line needs its risk accepted where the vendor does not
/// publish the pair; it changes nothing where it does.
const ACCEPT: [&str; 6] =
    ["--canary", "new", "--rate", "60", "--accept-compat-risk", "the vendor says that it works"];

/// Runs a rollout to its end and proves it.
async fn whole_rollout(lab: &Lab, to: &str) -> anyhow::Result<()> {
    lab.wait_ready(to, &ACCEPT).await?;
    let observer = lab.observer()?;
    let id = lab.start_rollout(to, &ACCEPT).await?;
    lab.wait_rollout(&id, ROLLOUT_LIMIT).await?;
    lab.ensure_succeeded(&id, to, &observer.stop()).await.map(drop)
}

/// A host agent stands still in the middle of a host, its hold is broken: nothing else of the cluster
/// may be touched until it is back. Then it brings its host to an end, and `abort` closes.
async fn broken_while_it_stands(lab: &Lab) -> anyhow::Result<()> {
    let hosts = lab.stand_at(&["act.execute.upgrade.before"]).await?;
    let name = lab.host(hosts[0])?.name.clone();
    let observer = lab.observer()?;
    let id = lab.start_rollout(TO, &CANARY).await?;
    lab.wait_agent_stands(hosts[0]).await?;
    let done = lab.break_hold().await?;
    ensure!(done.code == Some(0), "{}", suite::words(&done));
    let ended = lab.wait_rollout(&id, ROLLOUT_LIMIT).await?;
    ensure!(ended.state == RolloutState::Failed, "{}", suite::summary(&ended));
    let again = lab.cli(&["rollout", "start", &lab.cluster().name, "--to", TO, "--yes"]).await?;
    ensure!(again.code == Some(1), "a rollout began: {}", suite::words(&again));
    ensure!(suite::words(&again).contains(&name), "{}", suite::words(&again));
    lab.agent_goes_on(hosts[0]).await?;
    lab.wait_hosts_connected().await?;
    wait::until("`abort` to be accepted", NOTICE_LIMIT, || async {
        let done = lab.cli(&["rollout", "abort", &id, "--reason", "a test"]).await;
        let done = done.map_err(|error| format!("{error:#}"))?;
        if done.code == Some(0) { Ok(()) } else { Err(suite::words(&done)) }
    })
    .await?;
    lab.wait_ready(TO, &CANARY).await?;
    let seen = observer.stop();
    ensure!(seen.overlaps().is_empty(), "{:?}", seen.overlaps());
    Ok(())
}

/// Enrols a host anew, as `docs/operate/when-it-holds.md` says: its agent is off, it is attested, it
/// gets a certificate of the next generation and a ledger of its own.
async fn enrol_anew(lab: &Lab, host: u8, generation: u64) -> anyhow::Result<()> {
    let name = lab.host(host)?.name.clone();
    if !lab.processes_of(&Target::Agent(host)).await?.is_empty() {
        lab.kill(&Target::Agent(host)).await?;
    }
    wait::until("the attestation to be accepted", NOTICE_LIMIT, || async {
        let done = lab.attest(host).await.map_err(|error| format!("{error:#}"))?;
        if done.code == Some(0) { Ok(()) } else { Err(suite::words(&done)) }
    })
    .await?;
    let pki_folder = lab.paths().pki();
    let identity = Identity::HostAgent { host: name.parse()?, generation: Generation(generation) };
    for suffix in ["pem", "key"] {
        std::fs::remove_file(pki_folder.join(format!("{name}.{suffix}")))?;
    }
    pki::issue(&pki_folder, &identity, &pki_folder.join(&name))?;
    let state = lab.paths().agent(&name).join("state");
    if state.exists() {
        std::fs::rename(&state, state.with_file_name(format!("state-before-{generation}")))?;
    }
    lab.restart_agent(host).await?;
    lab.wait_hosts_connected().await
}

/// A ledger from before the last rollout is put back: its agent may only look, and says since when.
async fn older_ledger(lab: &Lab, host: u8, kept: &Path) -> anyhow::Result<()> {
    let name = lab.host(host)?.name.clone();
    lab.put_ledger_back(host, kept).await?;
    lab.restart_agent(host).await?;
    lab.wait_against(NEXT, &ACCEPT, &[&name, "position"]).await
}

/// The ledger is gone.
async fn wiped_ledger(lab: &Lab, host: u8) -> anyhow::Result<()> {
    let name = lab.host(host)?.name.clone();
    lab.kill(&Target::Agent(host)).await?;
    std::fs::remove_dir_all(lab.paths().agent(&name).join("state"))?;
    lab.restart_agent(host).await?;
    lab.wait_against(NEXT, &ACCEPT, &[&name, "ledger"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_hold_and_a_lost_ledger_hold_everything_until_their_way_out_is_taken() {
    suite::in_lab(&options(), async |lab| {
        let host = lab.order().await?[2];
        let state = lab.paths().agent(&lab.host(host)?.name).join("state");
        let kept = state.with_file_name("kept");
        lab.kill(&Target::Agent(host)).await?;
        suite::copy_folder(&state, &kept)?;
        lab.restart_agent(host).await?;
        lab.wait_hosts_connected().await?;
        broken_while_it_stands(lab).await?;
        whole_rollout(lab, TO).await?;
        older_ledger(lab, host, &kept).await?;
        lab.readmit(host).await?;
        lab.wait_ready(NEXT, &ACCEPT).await?;
        let other = lab.order_to(NEXT, &ACCEPT).await?[0];
        wiped_ledger(lab, other).await?;
        enrol_anew(lab, other, 2).await?;
        whole_rollout(lab, NEXT).await
    })
    .await;
}

/// Tasks by which DolphinDB copies replicas that have begun; while recovery is suspended they wait.
async fn copies(lab: &Lab) -> anyhow::Result<i64> {
    let leader = lab.leader(lab.cluster()).await?.alias().to_owned();
    let begun = "exec count(*) from getRecoveryTaskStatus() where Status = \"In-Progress\"";
    let ended = "exec count(*) from getRecoveryTaskStatus() where Status = \"Finish\"";
    Ok(lab.ddb(&leader)?.number(begun).await? + lab.ddb(&leader)?.number(ended).await?)
}

/// A host is down for longer than DolphinDB waits, with the coordinator dead for some of the time: no
/// replica is copied.
async fn down_for_long(lab: &Lab, host: u8) -> anyhow::Result<()> {
    lab.wait_agent_stands(host).await?;
    lab.restart(&Target::Coordinator(1)).await?;
    let (began, before) = (std::time::Instant::now(), copies(lab).await?);
    wait::until_true("DolphinDB's wait to pass", NOTICE_LIMIT, || async {
        began.elapsed() > RECOVERY_WAIT
    })
    .await?;
    let after = copies(lab).await?;
    ensure!(after == before, "{} copies although recovery is suspended", after - before);
    let shown = suite::words(&lab.cli(&["hold", "show"]).await?);
    ensure!(shown.contains("recovery is suspended"), "the debt is not shown: {shown}");
    lab.agent_goes_on(host).await
}

/// Waits until no debt is left.
async fn debts_are_paid(lab: &Lab) -> anyhow::Result<()> {
    wait::until("the debts to be paid", NOTICE_LIMIT, || async {
        let shown = lab.cli(&["hold", "show"]).await.map_err(|error| format!("{error:#}"))?;
        let shown = suite::words(&shown);
        if shown.contains("recovery is suspended") { Err(shown) } else { Ok(()) }
    })
    .await
}

/// Recovery is suspended while a host is down, and only then; then a host dies for good with the debt
/// open: it is paid, and the next rollout ends without that host.
#[tokio::test(flavor = "multi_thread")]
async fn recovery_is_suspended_while_a_host_is_down_and_let_go_even_if_it_never_comes_back() {
    let options = Options { hosts: 4, ..options() };
    let more = [&CANARY[..], &["--recovery", "suspend"]].concat();
    suite::in_lab(&options, async |lab| {
        let hosts = lab.stand_at(&["act.execute.upgrade.before"]).await?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &more).await?;
        down_for_long(lab, hosts[0]).await?;
        lab.end_with_retries(&id).await?;
        lab.ensure_succeeded(&id, TO, &observer.stop()).await?;
        debts_are_paid(lab).await?;

        // The fourth host has no controller: the others can do without it.
        let gone = 4;
        lab.restart_agent_with_stops(gone, &["act.execute.backup.before".to_owned()]).await?;
        lab.wait_hosts_connected().await?;
        let more = [&ACCEPT[..], &["--recovery", "suspend"]].concat();
        lab.wait_ready(NEXT, &more).await?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(NEXT, &more).await?;
        lab.wait_agent_stands(gone).await?;
        lab.kill(&Target::Host(gone)).await?;
        let name = lab.host(gone)?.name.clone();
        let waits =
            |status: &RolloutStatus| status.waiting.iter().any(|it| it.subject.contains(&name));
        let status = lab.wait_status(&id, "to wait for the dead host", waits).await?;
        suite::say(&suite::summary(&status));
        ensure!(sequence(&status, &name).is_some(), "{}", suite::summary(&status));
        let refused = lab.attest(gone).await?;
        ensure!(refused.code == Some(1), "attested while it is held: {}", suite::words(&refused));
        let done = lab.break_hold().await?;
        ensure!(done.code == Some(0), "{}", suite::words(&done));
        lab.wait_state(&id, RolloutState::Failed).await?;
        let done = lab.attest(gone).await?;
        ensure!(done.code == Some(0), "{}", suite::words(&done));
        debts_are_paid(lab).await?;
        // From here on that host is down in the observer's eyes, whatever becomes of the others.
        let seen = observer.stop();
        ensure!(seen.overlaps().is_empty(), "{:?}", seen.overlaps());
        without_it(lab, gone).await
    })
    .await;
}

/// The rest of the cluster recovers and is upgraded; the host that is gone is not part of it.
async fn without_it(lab: &Lab, gone: u8) -> anyhow::Result<()> {
    let more = [&ACCEPT[..], &["--override", "nodes-up=the host is gone for good"]].concat();
    lab.wait_ready(NEXT, &more).await?;
    let id = lab.start_rollout(NEXT, &more).await?;
    let status = lab.wait_rollout(&id, ROLLOUT_LIMIT).await?;
    suite::say(&suite::summary(&status));
    let ended = [RolloutState::Succeeded, RolloutState::Incomplete].contains(&status.state);
    ensure!(ended && status.canary.lost == 0, "{}", suite::summary(&status));
    for node in lab.cluster().nodes.iter().filter(|node| node.host != gone) {
        let version = lab.ddb(node.alias())?.as_guest().text("version()").await?;
        ensure!(version.starts_with(NEXT), "`{}` answers {version}", node.alias());
    }
    Ok(())
}
