//! What fails from outside while a host is down: links, coordinators, power, people, nodes that lie.
//! Each rollout ends by itself, or says why it waits, and the way out that it names works. An
//! observer sees that no second host goes down meanwhile.
//!
//! Needs the stand-in for its faults (a node that ignores SIGTERM, one that lies about its version);
//! the rest could run on a real cluster.

use std::time::Duration;

use anyhow::{Context, ensure};
use grayfin_types::status::RolloutState;
use grayfin_types::step::SequenceState;
use integration_tests::relay::Mode;
use integration_tests::suite::{self, CANARY, FROM, TO};
use integration_tests::{Lab, Options, Target};
use standin::config::Role;
use standin::faults::Kind;

fn options() -> Options {
    Options { version: FROM.to_owned(), ..Options::default() }
}

/// Lets each host's agent stand still at a place of its own, starts a rollout, and returns the hosts
/// in their order and the rollout.
async fn start(lab: &Lab, places: [&str; 3]) -> anyhow::Result<(Vec<u8>, String)> {
    let hosts = lab.stand_at(&places).await?;
    let id = lab.start_rollout(TO, &CANARY).await?;
    Ok((hosts, id))
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
        let relay = lab.relay(1)?;

        lab.wait_agent_stands(hosts[0]).await?;
        relay.set(Mode::Cut);
        lab.agent_goes_on(hosts[0]).await?;
        lab.wait_runs(hosts[0], FROM).await?;
        relay.set(Mode::Open);
        let halted = lab.wait_state(&id, RolloutState::Halted).await?;
        let undone = halted
            .hosts
            .iter()
            .any(|host| matches!(&host.sequence, Some(SequenceState::Undone { .. })));
        ensure!(undone, "{}", suite::summary(&halted));
        lab.retry(&id).await?;

        // The coordinator is away for the whole rest of the second host.
        lab.wait_agent_stands(hosts[1]).await?;
        lab.kill(&Target::Coordinator(1)).await?;
        lab.agent_goes_on(hosts[1]).await?;
        lab.wait_runs(hosts[1], TO).await?;
        lab.restart(&Target::Coordinator(1)).await?;

        // Half-open: nothing ends the connection, and nothing comes through.
        lab.wait_agent_stands(hosts[2]).await?;
        relay.set(Mode::Frozen);
        lab.agent_goes_on(hosts[2]).await?;
        lab.wait_runs(hosts[2], TO).await?;
        relay.set(Mode::Open);
        lab.ensure_good_end(&id, TO, &observer.stop()).await
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
                lab.retry(&id).await?;
            }
        }
        lab.ensure_good_end(&id, TO, &observer.stop()).await
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
        lab.wait_runs(hosts[1], FROM).await?;
        lab.clear_fault(data.alias(), Kind::IgnoreSigterm)?;
        lab.retry(&id).await?;

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
        lab.ensure_good_end(&id, TO, &observer.stop()).await
    })
    .await;
}
