//! Disks that fill up, turn read-only, or are written to by somebody else in the middle of a host, and
//! upgrade scripts with traps. Each time the host is brought back, the rollout says which path, and
//! goes on once that is mended.
//!
//! Could run on a real cluster, but for the written scripts.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use grayfin_types::step::SequenceState;
use integration_tests::suite::{self, CANARY, Changed, FROM, TO};
use integration_tests::{Lab, Options, Target, wait};

/// What a script that does not end is given; the good one takes a second.
const UPGRADE_LIMIT: &str = "upgrade_timeout_ms=8000";

fn options(policy: &[&str]) -> Options {
    let policy_cfg = policy.iter().map(|line| (*line).to_owned()).collect();
    Options { version: FROM.to_owned(), policy_cfg, ..Options::default() }
}

/// The folders of a host that matter here.
fn backups(lab: &Lab, host: u8) -> anyhow::Result<PathBuf> {
    Ok(lab.paths().backups(&lab.host(host)?.name, lab.cluster()))
}

fn server(lab: &Lab, host: u8) -> anyhow::Result<PathBuf> {
    Ok(lab.paths().server(&lab.host(host)?.name, lab.cluster()))
}

/// The volume with the backups is full in the middle of one.
async fn full_at_backup(lab: &Lab, id: &str, host: u8) -> anyhow::Result<()> {
    lab.wait_agent_stands(host).await?;
    let folder = backups(lab, host)?;
    lab.small_volume(host, &folder, 64).await?;
    lab.agent_goes_on(host).await?;
    let name = &lab.host(host)?.name;
    lab.wait_halted(id, &[name, "Backup", "DiskTooSmall", "backups"]).await?;
    lab.wait_runs(host, FROM).await?;
    lab.without_volume(host, &folder).await?;
    lab.retry(id).await
}

/// The installation turns read-only when the software is to be replaced, so that nothing can be taken
/// back either; once it can be written again, that is done first.
async fn read_only_at_upgrade(lab: &Lab, id: &str, host: u8) -> anyhow::Result<()> {
    lab.wait_agent_stands(host).await?;
    let path = server(lab, host)?.display().to_string();
    lab.shell(host, &format!("mount --bind {path} {path} && mount -o remount,ro,bind {path}"))
        .await?;
    lab.agent_goes_on(host).await?;
    let name = &lab.host(host)?.name;
    lab.wait_halted(id, &[name, "Read-only file system", "first_start: false"]).await?;
    lab.shell(host, &format!("umount -l {path}")).await?;
    // What failed was the undoing: it is tried again first, and then the host as a whole.
    let done = lab.cli(&["rollout", "rollback-host", id, "--reason", "it can be written"]).await?;
    ensure!(done.code == Some(0), "{}", suite::words(&done));
    lab.wait_status(id, "to have undone the host", |status| {
        status.hosts.iter().any(|it| {
            it.host.as_str() == name && matches!(it.sequence, Some(SequenceState::Undone { .. }))
        })
    })
    .await?;
    lab.wait_runs(host, FROM).await?;
    lab.retry(id).await
}

/// Somebody writes into the installation all the time while it is copied.
async fn source_changes(lab: &Lab, id: &str, host: u8) -> anyhow::Result<()> {
    lab.wait_agent_stands(host).await?;
    let file = server(lab, host)?.join("clusterDemo/config/notes.txt").display().to_string();
    let write = format!("(while [ ! -e {file}.enough ]; do date +%N >> {file}; done) &");
    lab.shell(host, &format!("rm -f {file}.enough; {write}")).await?;
    lab.agent_goes_on(host).await?;
    let name = &lab.host(host)?.name;
    lab.wait_halted(id, &[name, "Backup", "notes.txt"]).await?;
    lab.shell(host, &format!("touch {file}.enough")).await?;
    lab.wait_runs(host, FROM).await?;
    lab.retry(id).await
}

/// The volume with the unpacked package is full before the package is unpacked, and the one with the
/// ledger before the hold is granted and during the sequence.
async fn full_before_the_hold(lab: &Lab, hosts: &[u8]) -> anyhow::Result<()> {
    let host = hosts[1];
    let state = lab.paths().agent(&lab.host(host)?.name).join("state");
    lab.kill(&Target::Agent(host)).await?;
    lab.small_volume(host, &state, 80 << 10).await?;
    let places = ["act.execute.upgrade.before".to_owned()];
    lab.restart_agent_with_stops(host, &places).await?;
    lab.wait_hosts_connected().await?;
    // What `preflight` sees, and that it is gone when somebody has made room.
    lab.fill(host, &state).await?;
    let name = lab.host(host)?.name.clone();
    wait::until("`preflight` to see the full volume", suite::NOTICE_LIMIT, || async {
        let answer = lab.preflight(TO, &CANARY).await.map_err(|error| format!("{error:#}"))?;
        let against = suite::against(&answer).join("; ");
        if !answer.ready && against.contains("GF0307") && against.contains(&name) {
            Ok(())
        } else {
            Err(format!("ready: {}; {against}", answer.ready))
        }
    })
    .await?;
    lab.make_room(host, &state).await
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_that_fail_in_the_middle_turn_the_host_back_until_they_are_mended() {
    suite::in_lab(&options(&[]), async |lab| {
        let places = [
            "act.execute.backup.before",
            "act.execute.upgrade.before",
            "act.execute.backup.before",
        ];
        let hosts = lab.stand_at(&places).await?;
        full_before_the_hold(lab, &hosts).await?;
        lab.wait_ready(TO, &CANARY).await?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        full_at_backup(lab, &id, hosts[0]).await?;
        read_only_at_upgrade(lab, &id, hosts[1]).await?;
        source_changes(lab, &id, hosts[2]).await?;
        lab.ensure_good_end(&id, TO, &observer.stop()).await
    })
    .await;
}

/// The site's script on a host, changed for a while.
fn script(lab: &Lab, host: u8, change: impl FnOnce(&str) -> String) -> anyhow::Result<Changed> {
    let path = server(lab, host)?.join("clusterDemo/upgrade.sh");
    Changed::text(&path, change)
}

/// Lets the script fall into one trap: the host comes back as it was, the rollout says what the
/// script said, and goes on with the script as it should be.
async fn trap(
    lab: &Lab,
    id: &str,
    host: u8,
    changed: Changed,
    names: &[&str],
) -> anyhow::Result<()> {
    let name = lab.host(host)?.name.clone();
    let status = lab.wait_halted(id, &[&[name.as_str()][..], names].concat()).await?;
    let one = status.hosts.iter().find(|it| it.host.as_str() == name).context("the host")?;
    let undone = matches!(one.sequence, Some(SequenceState::Undone { .. }));
    ensure!(undone, "{}", suite::summary(&status));
    lab.wait_runs(host, FROM).await?;
    drop(changed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_trap_of_the_upgrade_script_is_taken_for_success() {
    suite::in_lab(&options(&[UPGRADE_LIMIT]), async |lab| {
        let hosts = lab.stand_at(&["act.execute.guard.before"; 3]).await?;
        let more = [&CANARY[..], &["--mode", "script"]].concat();
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &more).await?;
        let success = "echo UpgradeSuccess\n";

        lab.wait_agent_stands(hosts[0]).await?;
        let nothing = script(lab, hosts[0], |text| text.replace("cp -rf ./* $here/..", "true"))?;
        lab.agent_goes_on(hosts[0]).await?;
        trap(lab, &id, hosts[0], nothing, &["ScriptFailed", "there is no new"]).await?;
        let late = script(lab, hosts[0], |text| format!("{text}\nexit 7\n"))?;
        lab.retry(&id).await?;
        trap(lab, &id, hosts[0], late, &["ScriptFailed", "7"]).await?;
        lab.retry(&id).await?;

        lab.wait_agent_stands(hosts[1]).await?;
        let asks = script(lab, hosts[1], |text| {
            text.replace("unzip $name", "echo 'Keep a copy?'; read x\nunzip $name")
        })?;
        lab.agent_goes_on(hosts[1]).await?;
        trap(lab, &id, hosts[1], asks, &["Keep a copy?"]).await?;
        lab.retry(&id).await?;

        lab.wait_agent_stands(hosts[2]).await?;
        let endless =
            script(lab, hosts[2], |text| format!("{text}\n{success}while :; do sleep 1; done\n"))?;
        lab.agent_goes_on(hosts[2]).await?;
        trap(lab, &id, hosts[2], endless, &["StepTimeout"]).await?;
        lab.retry(&id).await?;
        lab.ensure_good_end(&id, TO, &observer.stop()).await
    })
    .await;
}
