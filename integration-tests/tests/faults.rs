//! What fails from outside while a host is down: links, coordinators, power, people, nodes that lie.
//! Each rollout ends by itself, or says why it waits, and the way out that it names works. An
//! observer sees that no second host goes down meanwhile.
//!
//! Needs the stand-in for its faults (a node that ignores SIGTERM, one that lies about its version);
//! the rest could run on a real cluster.

use std::time::Duration;

use anyhow::{Context, ensure};
use grayfin_types::status::{RolloutState, RolloutStatus};
use grayfin_types::step::SequenceState;
use integration_tests::observer::Report;
use integration_tests::relay::Mode;
use integration_tests::suite::{self, CANARY, FROM, ROLLOUT_LIMIT, TO};
use integration_tests::{Lab, Options, Target, wait};
use standin::config::Role;
use standin::faults::Kind;

/// Retries that a rollout may need after one fault.
const RETRIES_MAX: usize = 4;

fn options() -> Options {
    Options { version: FROM.to_owned(), ..Options::default() }
}

/// Lets each host's agent stand still at a place of its own, starts a rollout, and returns the hosts
/// in their order and the rollout.
async fn start(lab: &Lab, places: [&str; 3]) -> anyhow::Result<(Vec<u8>, String)> {
    let hosts = lab.order().await?;
    for (host, place) in hosts.iter().zip(places) {
        lab.restart_agent_with_stops(*host, &[place.to_owned()]).await?;
    }
    lab.wait_hosts_connected().await?;
    lab.wait_ready(TO, &CANARY).await?;
    let id = lab.start_rollout(TO, &CANARY).await?;
    Ok((hosts, id))
}

/// Waits until every node of a host answers with a version, asked directly.
async fn wait_runs(lab: &Lab, host: u8, version: &str) -> anyhow::Result<()> {
    let what = format!("every node of host {host} to answer with {version}");
    wait::until(&what, ROLLOUT_LIMIT, || async {
        let versions = lab.versions().await.map_err(|error| format!("{error:#}"))?;
        let own = lab.cluster().nodes.iter().filter(|node| node.host == host);
        let wrong = own.filter(|node| versions.get(node.alias()).is_none_or(|it| it != version));
        let wrong: Vec<&str> = wrong.map(|node| node.alias()).collect();
        if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?} do not")) }
    })
    .await
}

/// Follows a rollout to its end; whenever it is halted, does what it says makes sense: retry.
async fn end_with_retries(lab: &Lab, id: &str) -> anyhow::Result<RolloutStatus> {
    for _ in 0..RETRIES_MAX {
        let over = lab.wait_status(id, "to end or to halt", |status| {
            status.state.is_final() || status.state == RolloutState::Halted
        });
        let status = over.await?;
        if status.state.is_final() {
            return Ok(status);
        }
        suite::say(&format!("halted: {}", suite::summary(&status)));
        ensure!(!status.waiting.is_empty(), "it is halted and does not say why");
        retry(lab, id).await?;
    }
    lab.wait_rollout(id, ROLLOUT_LIMIT).await
}

/// Asks for a retry as soon as the coordinator takes it: whoever was cut off connects again first.
async fn retry(lab: &Lab, id: &str) -> anyhow::Result<()> {
    lab.wait_hosts_connected().await?;
    lab.wait_healthy().await?;
    let done = lab.cli(&["rollout", "retry", id, "--reason", "the cause is gone"]).await?;
    let halted = lab.rollout(id).await?.state == RolloutState::Halted;
    ensure!(done.code == Some(0) || !halted, "retry: {}", suite::words(&done));
    Ok(())
}

async fn ensure_good_end(lab: &Lab, id: &str, seen: &Report) -> anyhow::Result<()> {
    let status = end_with_retries(lab, id).await?;
    ensure!(status.state == RolloutState::Succeeded, "{}", suite::summary(&status));
    lab.ensure_succeeded(id, TO, seen).await?;
    for host in &lab.topology().hosts {
        let done = lab.agent_cli(host.number, &["backup", "verify"]).await?;
        ensure!(done.is_success(), "backups of `{}`: {done:?}", host.name);
    }
    Ok(())
}

/// Without a link a host agent takes nothing more down: what it has begun it takes back as long as
/// it can (the first host), and brings to its end where it cannot (the others).
#[tokio::test(flavor = "multi_thread")]
async fn cut_off_with_a_host_down_its_agent_brings_it_up_alone() {
    let options = Options { relayed: true, ..options() };
    suite::in_lab(&options, async |lab| {
        let places = [
            "act.execute.quiesce.after",
            "act.execute.backup.before",
            "act.execute.upgrade.before",
        ];
        let (hosts, id) = start(lab, places).await?;
        let observer = lab.observer()?;
        let relay = lab.relay()?;

        lab.wait_agent_stands(hosts[0]).await?;
        relay.set(Mode::Cut);
        lab.agent_goes_on(hosts[0]).await?;
        wait_runs(lab, hosts[0], FROM).await?;
        relay.set(Mode::Open);
        let halted = lab.wait_state(&id, RolloutState::Halted).await?;
        let undone = halted
            .hosts
            .iter()
            .any(|host| matches!(&host.sequence, Some(SequenceState::Undone { .. })));
        ensure!(undone, "{}", suite::summary(&halted));
        retry(lab, &id).await?;

        // The coordinator is away for the whole rest of the second host.
        lab.wait_agent_stands(hosts[1]).await?;
        lab.kill(&Target::Coordinator(1)).await?;
        lab.agent_goes_on(hosts[1]).await?;
        wait_runs(lab, hosts[1], TO).await?;
        lab.restart(&Target::Coordinator(1)).await?;

        // Half-open: nothing ends the connection, and nothing comes through.
        lab.wait_agent_stands(hosts[2]).await?;
        relay.set(Mode::Frozen);
        lab.agent_goes_on(hosts[2]).await?;
        wait_runs(lab, hosts[2], TO).await?;
        relay.set(Mode::Open);
        ensure_good_end(lab, &id, &observer.stop()).await
    })
    .await;
}

/// A host loses its power with its data nodes down, with the interlock on, and after the first
/// start of the new version; then it boots, as far as what is on its disk lets it.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_loses_its_power_is_brought_to_an_end() {
    suite::in_lab(&options(), async |lab| {
        let places =
            ["act.execute.quiesce.after", "act.execute.backup.after", "ledger.first_start.after"];
        let (hosts, id) = start(lab, places).await?;
        let observer = lab.observer()?;
        for (host, place) in hosts.iter().zip(places) {
            let stood = lab.wait_agent_stands(*host).await?;
            ensure!(stood == place, "{stood}");
            lab.kill(&Target::Host(*host)).await?;
            // With the interlock on nothing of the database can be started: that is what it is for.
            let booted = lab.restart(&Target::Host(*host)).await;
            suite::say(&format!("power cut at {place}; the boot: {booted:?}"));
            let next = lab.wait_status(&id, "to go on, to halt or to end", |status| {
                let name = lab.host(*host).map(|it| it.name.clone()).unwrap_or_default();
                status.state == RolloutState::Halted
                    || status.state.is_final()
                    || status.hosts.iter().any(|it| {
                        it.host.as_str() == name && it.sequence == Some(SequenceState::Closed)
                    })
            });
            let status = next.await?;
            if status.state == RolloutState::Halted {
                suite::say(&format!("halted: {}", suite::summary(&status)));
                retry(lab, &id).await?;
            }
        }
        ensure_good_end(lab, &id, &observer.stop()).await
    })
    .await;
}

/// Colleagues and nodes: the vendor's stop script by hand in the middle, a node that does not stop,
/// a node that answers with its old version.
#[tokio::test(flavor = "multi_thread")]
async fn people_and_nodes_that_interfere_are_survived_or_named() {
    let options = Options { policy_cfg: vec!["stop_timeout_ms=8000".to_owned()], ..options() };
    suite::in_lab(&options, async |lab| {
        let places = [
            "act.execute.upgrade.before",
            "act.execute.quiesce.before",
            "act.execute.start.before",
        ];
        let (hosts, id) = start(lab, places).await?;
        let observer = lab.observer()?;

        lab.wait_agent_stands(hosts[0]).await?;
        let before = lab.processes_of(&Target::Agent(hosts[0])).await?;
        let host = lab.host(hosts[0])?;
        let folder = lab.paths().work(&host.name, lab.cluster());
        let limit = Duration::from_secs(30);
        lab.run_on(host, folder, &["bash", "stopAllNode.sh"], limit).await?;
        let after = lab.processes_of(&Target::Agent(hosts[0])).await?;
        ensure!(before == after, "the stop script ended the host agent");
        lab.agent_goes_on(hosts[0]).await?;

        // Nobody allowed SIGKILL: the host is brought back, and the rollout says which node it was.
        lab.wait_agent_stands(hosts[1]).await?;
        let data = lab.cluster().on_host(hosts[1], Role::Controller).context("a controller")?;
        lab.fault(data.alias(), Kind::IgnoreSigterm, "")?;
        lab.agent_goes_on(hosts[1]).await?;
        let halted = lab.wait_state(&id, RolloutState::Halted).await?;
        let said = suite::summary(&halted);
        ensure!(said.contains(data.alias()) && said.contains("GF0502"), "{said}");
        wait_runs(lab, hosts[1], FROM).await?;
        lab.clear_fault(data.alias(), Kind::IgnoreSigterm)?;
        retry(lab, &id).await?;

        // After the first start there is no way back; it says so, and goes on once it is true.
        lab.wait_agent_stands(hosts[2]).await?;
        let data = lab.cluster().on_host(hosts[2], Role::DataNode).context("a data node")?;
        lab.fault(data.alias(), Kind::ReportOldVersion, FROM)?;
        lab.agent_goes_on(hosts[2]).await?;
        let halted = lab.wait_state(&id, RolloutState::Halted).await?;
        let said = suite::summary(&halted);
        ensure!(said.contains(data.alias()), "{said}");
        let back = lab.cli(&["rollout", "rollback-host", &id, "--reason", "a test"]).await?;
        ensure!(back.code == Some(1), "no way back: {}", suite::words(&back));
        lab.clear_fault(data.alias(), Kind::ReportOldVersion)?;
        ensure_good_end(lab, &id, &observer.stop()).await
    })
    .await;
}
