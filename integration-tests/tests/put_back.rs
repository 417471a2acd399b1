//! The coordinator's state is put back to an older copy, and with it a host agent's ledger: who can
//! tell does, and nothing goes down under a hold that may have been closed since.
//!
//! Could run on a real cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::ensure;
use grayfin_types::status::{HostPhase, RolloutState};
use integration_tests::suite::{self, CANARY, FROM, NOTICE_LIMIT, ROLLOUT_LIMIT, TO};
use integration_tests::{Lab, Options, Target, wait};

fn options() -> Options {
    Options { version: FROM.to_owned(), ..Options::default() }
}

fn folder(lab: &Lab) -> anyhow::Result<PathBuf> {
    Ok(lab.paths().machine(&lab.coordinator(1)?.name))
}

/// Copies the coordinator's state while it runs.
async fn back_up(lab: &Lab) -> anyhow::Result<()> {
    let folder = folder(lab)?;
    let config = folder.join("coordinator.toml").display().to_string();
    let file = folder.join("backup").display().to_string();
    let done = lab.cli(&["state", "backup", &file, "--config", &config]).await?;
    ensure!(done.code == Some(0), "{}", suite::words(&done));
    Ok(())
}

/// Kills the coordinator, puts its state back and starts it. Its state of before is kept beside it.
async fn put_back(lab: &Lab) -> anyhow::Result<()> {
    let folder = folder(lab)?;
    let config = folder.join("coordinator.toml").display().to_string();
    let file = folder.join("backup").display().to_string();
    lab.kill(&Target::Coordinator(1)).await?;
    let before = folder.join("state-before");
    if before.exists() {
        std::fs::remove_dir_all(&before)?;
    }
    std::fs::rename(folder.join("state"), before)?;
    let restore = ["state", "restore", &file, "--config", &config, "--reason", "a test"];
    let asked = lab.cli(&restore).await?;
    ensure!(asked.code == Some(2), "without a terminal it needs --yes: {asked:?}");
    let done = lab.cli(&[&restore[..], &["--yes"]].concat()).await?;
    ensure!(done.code == Some(0), "{}", suite::words(&done));
    lab.restart(&Target::Coordinator(1)).await
}

/// Waits until a host agent's log says something.
async fn wait_log(lab: &Lab, host: u8, words: &str) -> anyhow::Result<()> {
    let log = lab.paths().agent(&lab.host(host)?.name).join("grayfin-agent.log");
    wait::until(&format!("the host agent to say `{words}`"), NOTICE_LIMIT, || async {
        let text = std::fs::read_to_string(&log).map_err(|error| error.to_string())?;
        if text.contains(words) { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await
}

/// A copy from before an earlier restore raises the incarnation from one that host agents have left
/// behind: they refuse it, until an operator raises it once more from there.
async fn raised_once_more(lab: &Lab, other: u8) -> anyhow::Result<()> {
    wait_log(lab, other, "no operator's signed act raises it").await?;
    lab.kill(&Target::Coordinator(1)).await?;
    let config = folder(lab)?.join("coordinator.toml").display().to_string();
    let more = ["--config", &config, "--reason", "a test", "--yes"];
    let done = lab.cli(&[&["coordinator", "force-recover"], &more[..]].concat()).await?;
    ensure!(done.code == Some(0), "{}", suite::words(&done));
    lab.restart(&Target::Coordinator(1)).await?;
    lab.wait_hosts_connected().await
}

/// Ledger and coordinator are as old as each other. The mark beside the backups tells; where it is
/// lost too, the promises of the other hosts do.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_put_back_with_the_state_is_told_by_its_mark_and_by_the_others_promises() {
    suite::in_lab(&options(), async |lab| {
        let order = lab.order().await?;
        let (host, other) = (order[0], order[1]);
        let name = lab.host(host)?.name.clone();
        let agent = lab.paths().agent(&name);
        let kept = agent.join("kept");
        lab.kill(&Target::Agent(host)).await?;
        suite::copy_folder(&agent.join("state"), &kept)?;
        lab.restart_agent(host).await?;
        lab.wait_hosts_connected().await?;
        back_up(lab).await?;
        let more = ["--canary", "off", "--pause-after", "first"];
        let first = lab.start_rollout(TO, &more).await?;
        lab.wait_state(&first, RolloutState::Paused).await?;

        lab.put_ledger_back(host, &kept).await?;
        put_back(lab).await?;
        lab.restart_agent(host).await?;
        lab.wait_against(TO, &[], &[&name, "mark"]).await?;

        let mark = lab.paths().backups(&name, lab.cluster()).join(format!("ledger-{name}.mark"));
        lab.put_ledger_back(host, &kept).await?;
        std::fs::remove_file(mark)?;
        put_back(lab).await?;
        lab.restart_agent(host).await?;
        raised_once_more(lab, other).await?;
        lab.wait_against(TO, &[], &[&name, "promised token"]).await?;

        lab.readmit(host).await?;
        lab.wait_ready(TO, &CANARY).await?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        lab.wait_rollout(&id, ROLLOUT_LIMIT).await?;
        lab.ensure_succeeded(&id, TO, &observer.stop()).await.map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_from_before_a_hold_is_put_back_and_a_rollout_runs_again() {
    suite::in_lab(&Options { time_scale: 0.05, ..options() }, async |lab| {
        back_up(lab).await?;
        // Tokens are allotted and promised and orders are run that the backup knows nothing of.
        let more = ["--canary", "off", "--pause-after", "first"];
        let first = lab.start_rollout(TO, &more).await?;
        lab.wait_state(&first, RolloutState::Paused).await?;
        put_back(lab).await?;
        // Host agents verified the act, or they would not be connected.
        lab.wait_hosts_connected().await?;
        ensure!(lab.rollout_ids().await?.is_empty(), "the rollout is forgotten here");
        lab.wait_ready(TO, &[]).await?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        lab.wait_rollout(&id, ROLLOUT_LIMIT).await?;
        let seen = observer.stop();
        lab.ensure_succeeded(&id, TO, &seen).await?;
        // The state of before, which is a copy by now, is not listened to any more.
        lab.kill(&Target::Coordinator(1)).await?;
        let folder = folder(lab)?;
        std::fs::rename(folder.join("state"), folder.join("state-after"))?;
        std::fs::rename(folder.join("state-before"), folder.join("state"))?;
        lab.restart(&Target::Coordinator(1)).await?;
        wait_log(lab, 1, "GF0602: refused").await
    })
    .await;
}

/// The state is put back while a host is held and still untouched: its agent gets no go, turns back,
/// and `retry` begins under a new token. Then once more while a host is down: it comes up by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_of_before_takes_nothing_down_and_its_host_begins_anew() {
    suite::in_lab(&options(), async |lab| {
        let places = ["ledger.started.quiesce.before", "act.execute.upgrade.before"];
        let hosts = lab.stand_at(&places).await?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        lab.wait_agent_stands(hosts[0]).await?;
        back_up(lab).await?;
        put_back(lab).await?;
        lab.agent_goes_on(hosts[0]).await?;
        lab.wait_status(&id, "to have turned back", |status| {
            status.state == RolloutState::Halted
                && status.hosts.iter().any(|host| host.phase == HostPhase::Failed)
        })
        .await?;
        lab.retry(&id).await?;

        lab.wait_agent_stands(hosts[1]).await?;
        std::fs::remove_file(folder(lab)?.join("backup"))?;
        back_up(lab).await?;
        put_back(lab).await?;
        lab.agent_goes_on(hosts[1]).await?;
        lab.wait_runs(hosts[1], TO).await?;
        wait::until("`resume` to be accepted", NOTICE_LIMIT, || async {
            let done = lab.cli(&["rollout", "resume", &id, "--reason", "a test"]).await;
            let done = done.map_err(|error| format!("{error:#}"))?;
            if done.code == Some(0) { Ok(()) } else { Err(suite::words(&done)) }
        })
        .await?;
        lab.wait_rollout(&id, ROLLOUT_LIMIT).await?;
        let seen = observer.stop();
        lab.ensure_succeeded(&id, TO, &seen).await?;
        lab.ensure_restarts(&seen, 2, &BTreeMap::new())
    })
    .await;
}
