//! Grayfin's own parts are replaced while a rollout runs: told to end (SIGTERM), the program's file
//! exchanged, started again. Between two hosts this changes nothing; under an open hold the next host
//! agent must be able to read that hold's ledger.
//!
//! Could run on a real cluster. How parts of different builds understand each other is played in
//! `agent/tests/versions.rs` and `coordinator/tests/it/versions.rs`.

use std::fs;
use std::path::Path;

use anyhow::ensure;
use grayfin_types::Code;
use grayfin_types::status::{HostPhase, RolloutState, RolloutStatus};
use integration_tests::suite::{self, CANARY, Changed, FROM, NOTICE_LIMIT, TO};
use integration_tests::{Lab, Options, Target, wait};
use rustix::process::Signal;

/// Where the number of the ledger's form stands: behind its eight letters.
const FORM_AT: usize = 8;

/// Tells a part to end as a service manager does, and waits until it is gone.
async fn told_to_end(lab: &Lab, target: &Target) -> anyhow::Result<()> {
    let running = lab.processes_of(target).await?;
    lab.signal(target, Signal::TERM).await?;
    // One that stands still hears it when it goes on.
    lab.signal(target, Signal::CONT).await.ok();
    wait::until_true(&format!("{target} to have ended"), NOTICE_LIMIT, || async {
        running.iter().all(|process| !process.is_alive())
    })
    .await
}

/// Puts a new file into a program's place, as a package manager does.
fn exchange(lab: &Lab, program: &str) -> anyhow::Result<()> {
    let path = lab.paths().programs().join(program);
    let fresh = path.with_extension("fresh");
    fs::copy(&path, &fresh)?;
    fs::rename(&fresh, &path)?;
    Ok(())
}

async fn replace(lab: &Lab, target: &Target, program: &str) -> anyhow::Result<()> {
    told_to_end(lab, target).await?;
    exchange(lab, program)?;
    lab.restart(target).await
}

/// A ledger as a newer host agent would leave it: of a form that this build does not know.
fn of_a_newer_form(ledger: &Path) -> anyhow::Result<Changed> {
    let mut bytes = fs::read(ledger)?;
    let form = bytes.get_mut(FORM_AT);
    *form.ok_or_else(|| anyhow::anyhow!("the ledger is empty"))? += 1;
    Changed::to(ledger, Some(&bytes))
}

/// In the middle of a host its agent is replaced by one that cannot read the ledger: that one ends at
/// once and says why, the rollout waits and the host stays as it is; then the right one goes on.
async fn under_an_open_hold(lab: &Lab, id: &str, host: u8) -> anyhow::Result<()> {
    lab.wait_agent_stands(host).await?;
    let agent = Target::Agent(host);
    told_to_end(lab, &agent).await?;
    let name = lab.host(host)?.name.clone();
    let folder = lab.paths().agent(&name);
    let newer = of_a_newer_form(&folder.join("state/ledger"))?;
    // It may have ended before anybody saw it run.
    let started = lab.restart(&agent).await;
    suite::say(&format!("an agent that cannot read the ledger: {started:?}"));
    wait::until("it to end and to say why", NOTICE_LIMIT, || async {
        let log = fs::read_to_string(folder.join("grayfin-agent.log")).unwrap_or_default();
        let said = log.contains("start the newer `grayfin-agent` again");
        let runs = lab.processes_of(&agent).await.map_err(|error| format!("{error:#}"))?;
        if said && runs.is_empty() { Ok(()) } else { Err(format!("{runs:?}, said: {said}")) }
    })
    .await?;
    let waits = |status: &RolloutStatus| {
        let missing = status.waiting.iter().find(|it| it.code == Code::AgentMissing);
        missing.is_some_and(|reason| reason.subject == name)
    };
    let status = lab.wait_status(id, "to miss the host agent", waits).await?;
    ensure!(status.state == RolloutState::Running, "{}", suite::summary(&status));
    drop(newer);
    lab.restart(&agent).await?;
    lab.wait_hosts_connected().await
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_the_coordinator_are_replaced_while_a_rollout_runs() {
    let options = Options { version: FROM.to_owned(), ..Options::default() };
    suite::in_lab(&options, async |lab| {
        let hosts = lab.stand_at(&["act.execute.upgrade.before"]).await?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        under_an_open_hold(lab, &id, hosts[0]).await?;
        // The other kind: without a pause, whatever the rollout does at that moment.
        replace(lab, &Target::Agent(hosts[2]), "grayfin-agent").await?;
        lab.steer("pause", &id).await?;
        let first = lab.host(hosts[0])?.name.clone();
        lab.wait_status(&id, "to be done with its first host", |status| {
            let done = |it: &grayfin_types::status::HostStatus| {
                it.host.as_str() == first && it.phase == HostPhase::Done
            };
            status.state == RolloutState::Paused && status.hosts.iter().any(done)
        })
        .await?;
        replace(lab, &Target::Agent(hosts[1]), "grayfin-agent").await?;
        replace(lab, &Target::Coordinator(1), "grayfin").await?;
        replace(lab, &Target::Agent(hosts[0]), "grayfin-agent").await?;
        lab.wait_hosts_connected().await?;
        let paused = lab.rollout(&id).await?;
        ensure!(paused.state == RolloutState::Paused, "{}", suite::summary(&paused));
        lab.steer("resume", &id).await?;
        let seen = {
            lab.wait_rollout(&id, suite::ROLLOUT_LIMIT).await?;
            observer.stop()
        };
        lab.ensure_good_end(&id, TO, &seen).await?;
        // Nobody was turned back, and nothing was done twice.
        lab.ensure_restarts(&seen, 2, &std::collections::BTreeMap::new())
    })
    .await;
}
