//! New versions that misbehave once they are started, agents and rollouts that meet their own doubles.
//! One lab serves all: each breaks one thing, reads what is said about it, and mends it as it says.
//!
//! Needs the stand-in for its faults (a node that dies after its start, a late stop, a leader that
//! gives up); the rest could run on a real cluster.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use grayfin_types::Code;
use grayfin_types::status::{RolloutState, RolloutStatus};
use grayfin_types::step::SequenceState;
use integration_tests::suite::{self, CANARY, FROM, NOTICE_LIMIT, TO};
use integration_tests::{Lab, Options, Target, wait};
use standin::config::Role;
use standin::faults::Kind;

/// For a second host agent to give up waiting for the first one's locks, and some more.
const SECOND_LIMIT: Duration = Duration::from_secs(20);
/// Hours by which a host's clock is wrong, in milliseconds.
const WRONG_BY_MS: i64 = 5 * 3_600_000;

fn alias(lab: &Lab, host: u8, role: Role) -> anyhow::Result<String> {
    let node = lab.cluster().on_host(host, role);
    Ok(node.with_context(|| format!("host {host} has no {role}"))?.alias().to_owned())
}

/// Two host agents on one host: the second one ends at once and names the folder.
async fn second_agent_on_a_host(lab: &Lab) -> anyhow::Result<()> {
    let host = lab.host(1)?;
    let folder = lab.paths().agent(&host.name);
    let program = lab.paths().programs().join("grayfin-agent").display().to_string();
    let config = folder.join("agent.toml").display().to_string();
    let argv = [program.as_str(), "run", "--config", &config];
    let done = lab.run_on(host, folder, &argv, SECOND_LIMIT).await?;
    ensure!(!done.is_success() && !done.timed_out, "a second agent runs: {done:?}");
    ensure!(done.output.contains("another host agent works on"), "{done:?}");
    lab.wait_hosts_connected().await
}

/// Another machine's agent with the certificate of a host that is there: it is refused, and the
/// first one goes on undisturbed. Returns its process, which tries all the time.
async fn same_name_on_another_machine(lab: &Lab) -> anyhow::Result<PathBuf> {
    let (first, second) = (lab.host(1)?, lab.host(2)?);
    let folder = lab.paths().machine(&second.name).join("double");
    let own = lab.paths().agent(&first.name);
    let text = std::fs::read_to_string(own.join("agent.toml"))?;
    let text = text
        .replace(&format!("{}/state", own.display()), &format!("{}/state", folder.display()))
        .replace(&format!("/{}/ddb/", first.name), &format!("/{}/double/ddb/", second.name));
    std::fs::create_dir_all(folder.join("ddb"))?;
    std::fs::write(folder.join("agent.toml"), text)?;
    let server = lab.paths().server(&second.name, lab.cluster());
    let program = lab.paths().programs().join("grayfin-agent");
    let script = format!(
        "cp -a {} ddb/ && {{ {} run --config agent.toml > double.log 2>&1 & echo $! > pid; }}",
        server.display(),
        program.display()
    );
    let argv = ["bash", "-c", &script];
    let done = lab.run_on(second, folder.clone(), &argv, SECOND_LIMIT).await?;
    ensure!(done.is_success(), "{done:?}");
    let log = folder.join("double.log");
    wait::until("the second agent to be refused", NOTICE_LIMIT, || async {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.contains("GF0103: another host agent is connected") { Ok(()) } else { Err(text) }
    })
    .await?;
    lab.wait_hosts_connected().await?;
    Ok(folder)
}

async fn end_double(lab: &Lab, folder: PathBuf) -> anyhow::Result<()> {
    let second = lab.host(2)?;
    let argv = ["bash", "-c", "kill -9 $(cat pid)"];
    lab.run_on(second, folder, &argv, SECOND_LIMIT).await.map(drop)
}

/// Two operators start at once, and one of them says the same twice because no answer came: one
/// rollout begins, and the repeat gets its id.
async fn started_at_once_and_twice(lab: &Lab) -> anyhow::Result<String> {
    let name = lab.cluster().name.clone();
    let wish = ["rollout", "start", &name, "--to", TO, "--yes", "--json"];
    let line = |id: &'static str| [&wish[..], &CANARY, &["--request-id", id]].concat();
    let (one_line, two_line) = (line("one"), line("two"));
    let (one, two) = tokio::join!(lab.cli(&one_line), lab.cli(&two_line));
    let (one, two) = (one?, two?);
    let (good, bad, again) =
        if one.code == Some(0) { (one, two, one_line) } else { (two, one, two_line) };
    ensure!(good.code == Some(0), "neither began: {} {}", suite::words(&good), suite::words(&bad));
    ensure!(bad.code == Some(1), "both began: {}", suite::words(&bad));
    ensure!(suite::words(&bad).contains("GF0415"), "{}", suite::words(&bad));
    let repeat = lab.cli(&again).await?;
    ensure!(repeat.code == Some(0), "{}", suite::words(&repeat));
    let id = |text: &str| -> anyhow::Result<String> {
        let answer: serde_json::Value = serde_json::from_str(text)?;
        Ok(answer["id"].as_str().context("an id")?.to_owned())
    };
    ensure!(id(&repeat.out)? == id(&good.out)?, "the repeat began another rollout");
    ensure!(lab.rollout_ids().await?.len() == 1, "{:?}", lab.rollout_ids().await?);
    id(&good.out)
}

/// Waits until a rollout is halted after the first start of a host; there is no way back.
async fn failed_for_good(lab: &Lab, id: &str, host: u8, names: &[&str]) -> anyhow::Result<()> {
    let status = lab.wait_state(id, RolloutState::Halted).await?;
    let said = suite::summary(&status);
    suite::say(&said);
    let name = &lab.host(host)?.name;
    let run = status.hosts.iter().find(|it| it.host.as_str() == name).context("the host")?;
    ensure!(
        matches!(run.sequence, Some(SequenceState::Failed { first_start: true, .. })),
        "{said}"
    );
    for name in names {
        ensure!(said.contains(name), "it does not name `{name}`: {said}");
    }
    let explained = suite::words(&lab.cli(&["explain", id]).await?);
    ensure!(explained.contains("retry"), "`explain` names no way out: {explained}");
    Ok(())
}

/// The new executable has lost its executable bit: no node starts.
async fn not_executable(lab: &Lab, id: &str, host: u8) -> anyhow::Result<()> {
    lab.wait_agent_stands(host).await?;
    let server = lab.paths().server(&lab.host(host)?.name, lab.cluster());
    let held = server.join(".grayfin-held/dolphindb");
    let mode = std::fs::metadata(&held)?.permissions().mode();
    std::fs::set_permissions(&held, std::fs::Permissions::from_mode(mode & !0o111))?;
    lab.agent_goes_on(host).await?;
    failed_for_good(lab, id, host, &["dolphindb` is not executable"]).await?;
    std::fs::set_permissions(server.join("dolphindb"), std::fs::Permissions::from_mode(mode))?;
    lab.steer("retry", id).await
}

/// The new version starts, and dies a moment later, each time.
async fn dies_after_its_start(lab: &Lab, id: &str, host: u8) -> anyhow::Result<()> {
    lab.wait_agent_stands(host).await?;
    let data = alias(lab, host, Role::DataNode)?;
    lab.fault(&data, Kind::StartThenDie, "1500")?;
    lab.agent_goes_on(host).await?;
    // It may be seen by the sequence or by the gates after it; nothing goes on either way.
    let waits = |status: &RolloutStatus| {
        status.state == RolloutState::Halted
            || status.waiting.iter().any(|it| {
                it.code == Code::NodeDown
                    && it.subject == data
                    && it.evidence.contains("no process")
            })
    };
    let status = lab.wait_status(id, "to miss the node", waits).await?;
    suite::say(&suite::summary(&status));
    ensure!(suite::summary(&status).contains(&data), "{}", suite::summary(&status));
    lab.clear_fault(&data, Kind::StartThenDie)?;
    if status.state == RolloutState::Halted {
        return lab.steer("retry", id).await;
    }
    lab.restart(&Target::Node(data)).await
}

/// With the host up again, the leader gives up again and again: nothing goes on until one stays.
async fn never_quiet(lab: &Lab, id: &str, host: u8) -> anyhow::Result<()> {
    lab.wait_agent_stands(host).await?;
    let nodes: Vec<String> =
        lab.cluster().with_role(Role::Controller).map(|it| it.alias().to_owned()).collect();
    for node in &nodes {
        lab.fault(node, Kind::FlapLeader, "1500")?;
    }
    lab.agent_goes_on(host).await?;
    let codes = [Code::LeaderUnclear, Code::NotCaughtUp, Code::Soaking, Code::FactUnknown];
    let leader = |status: &RolloutStatus| status.waiting.iter().any(|it| codes.contains(&it.code));
    lab.wait_status(id, "to wait for a leader that stays", leader).await?;
    for node in &nodes {
        lab.clear_fault(node, Kind::FlapLeader)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn new_versions_agents_and_rollouts_that_misbehave_are_named_and_mended() {
    let options = Options { version: FROM.to_owned(), ..Options::default() };
    suite::in_lab(&options, async |lab| {
        second_agent_on_a_host(lab).await?;
        let double = same_name_on_another_machine(lab).await?;
        let hosts = lab
            .stand_at(&[
                "act.execute.start.before",
                "act.execute.start.before",
                "ledger.ended.up.after",
            ])
            .await?;
        // One host's clock is wrong by hours, into the past.
        let wrong = ("GRAYFIN_CLOCK_OFFSET_MS".to_owned(), (-WRONG_BY_MS).to_string());
        let stops = ("GRAYFIN_STOPPOINTS".to_owned(), "ledger.ended.up.after".to_owned());
        let variables = BTreeMap::from([wrong, stops]);
        lab.restart_with(&Target::Agent(hosts[2]), &variables).await?;
        lab.wait_hosts_connected().await?;
        lab.wait_ready(TO, &CANARY).await?;
        // The controller passes an order to stop on, but late.
        let leader = lab.leader(lab.cluster()).await?.alias().to_owned();
        lab.fault(&leader, Kind::LateStop, "2500")?;
        let observer = lab.observer()?;
        let id = started_at_once_and_twice(lab).await?;
        not_executable(lab, &id, hosts[0]).await?;
        end_double(lab, double).await?;
        dies_after_its_start(lab, &id, hosts[1]).await?;
        lab.clear_fault(&leader, Kind::LateStop)?;
        never_quiet(lab, &id, hosts[2]).await?;
        lab.ensure_good_end(&id, TO, &observer.stop()).await?;
        finds_everything_done(lab).await
    })
    .await;
}

/// Started again, a rollout finds every host on its target and touches nothing.
async fn finds_everything_done(lab: &Lab) -> anyhow::Result<()> {
    lab.wait_ready(TO, &CANARY).await?;
    let observer = lab.observer()?;
    let id = lab.start_rollout(TO, &CANARY).await?;
    lab.wait_rollout(&id, suite::ROLLOUT_LIMIT).await?;
    suite::ensure_untouched(&observer).await?;
    lab.ensure_succeeded(&id, TO, &observer.stop()).await.map(drop)
}
