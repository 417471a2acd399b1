//! The same rollout over other clusters: five controllers, several data nodes a host, compute nodes;
//! controllers on hosts of their own; two clusters on the same hosts; the site's upgrade script; a
//! machine without namespaces.
//!
//! Could run on a real cluster.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use grayfin_types::plan::PlanAnswer;
use grayfin_types::status::RolloutStatus;
use integration_tests::observer::Report;
use integration_tests::suite::{self, FROM, ROLLOUT_LIMIT, TO};
use integration_tests::{Lab, Options};
use standin::config::Role;

/// One whole rollout of the first cluster: everything restarted once, the leader moved once at most.
async fn whole_rollout(lab: &Lab, more: &[&str]) -> anyhow::Result<RolloutStatus> {
    lab.wait_ready(TO, more).await?;
    let observer = lab.observer()?;
    let id = lab.start_rollout(TO, more).await?;
    lab.wait_rollout(&id, ROLLOUT_LIMIT).await?;
    let seen = observer.stop();
    let status = lab.ensure_succeeded(&id, TO, &seen).await?;
    let objections = lab.objections(&seen);
    ensure!(objections.is_empty(), "{}", objections.join("; "));
    ensure!(
        status.hosts.len() == lab.topology().hosts.len(),
        "{} of {} hosts are in the rollout",
        status.hosts.len(),
        lab.topology().hosts.len()
    );
    for host in &lab.topology().hosts {
        let done = lab.agent_cli(host.number, &["backup", "verify"]).await?;
        ensure!(done.is_success(), "the backup of `{}`: {done:?}", host.name);
    }
    Ok(status)
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hosts_with_two_data_nodes_and_a_compute_node_each() {
    let options = Options {
        hosts: 5,
        controllers: 5,
        data_nodes_per_host: 2,
        compute_nodes_per_host: 1,
        version: FROM.to_owned(),
        ..Options::default()
    };
    suite::in_lab(&options, async |lab| {
        ensure!((lab.count(Role::DataNode), lab.count(Role::ComputeNode)) == (10, 5));
        let answer = lab.preflight(TO, &[]).await?;
        let plan =
            answer.plan.as_ref().with_context(|| format!("{:?}", suite::against(&answer)))?;
        for host in &plan.hosts {
            let stays = &host.stays;
            ensure!((stays.controllers, stays.controllers_of) == (4, 5), "{stays:?}");
            ensure!((stays.data_nodes, stays.data_nodes_of) == (8, 10), "{stays:?}");
            ensure!(host.nodes.len() == 5, "{:?}", host.nodes);
        }
        whole_rollout(lab, &[]).await.map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_on_hosts_of_their_own() {
    let options =
        Options { dedicated_controllers: true, version: FROM.to_owned(), ..Options::default() };
    suite::in_lab(&options, async |lab| {
        let status = whole_rollout(lab, &[]).await?;
        // The host of the controller that led at the start is the last one.
        let answer: PlanAnswer =
            lab.preflight("2.00.9.4", &["--accept-compat-risk", "a look"]).await?;
        let plan = answer.plan.context("a plan")?;
        let last = plan.hosts.last().context("a last host")?;
        ensure!(last.has_leader, "the leader's host is not the last: {:?}", plan.hosts);
        ensure!(status.leader_changes <= 1, "{} leader changes", status.leader_changes);
        Ok(())
    })
    .await;
}

/// Times in which hosts were disturbed, whatever the cluster: two hosts at once would be two machines.
fn machines_at_once(seen: &Report, clusters: &[&str]) -> Vec<String> {
    let mut spans = Vec::new();
    for cluster in clusters {
        for (host, downs) in seen.disturbed(cluster) {
            spans.extend(downs.iter().map(|span| (host.clone(), *span)));
        }
    }
    let mut found = Vec::new();
    for (index, (first, one)) in spans.iter().enumerate() {
        for (second, two) in spans.iter().skip(index + 1).filter(|(host, _)| host != first) {
            let end = |to: Option<u64>| to.unwrap_or(u64::MAX);
            if one.from_ms < end(two.to_ms) && two.from_ms < end(one.to_ms) {
                found.push(format!("`{first}` {one:?} and `{second}` {two:?}"));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_on_the_same_hosts_take_turns() {
    let options = Options { clusters: 2, version: FROM.to_owned(), ..Options::default() };
    suite::in_lab(&options, async |lab| {
        let clusters: Vec<&str> =
            lab.topology().clusters.iter().map(|cluster| cluster.name.as_str()).collect();
        lab.wait_ready(TO, &[]).await?;
        let observer = lab.observer()?;
        let mut ids = Vec::new();
        for cluster in &clusters {
            let arguments = ["rollout", "start", cluster, "--to", TO, "--yes", "--json"];
            let answer: serde_json::Value = lab.ask(&arguments).await?;
            let id = answer.get("id").and_then(serde_json::Value::as_str).context("an id")?;
            ids.push(id.to_owned());
        }
        for id in &ids {
            lab.wait_rollout(id, ROLLOUT_LIMIT).await?;
        }
        let seen = observer.stop();
        for id in &ids {
            lab.ensure_succeeded(id, TO, &seen).await?;
        }
        let at_once = machines_at_once(&seen, &clusters);
        ensure!(at_once.is_empty(), "two machines at once: {}", at_once.join("; "));
        for cluster in &lab.topology().clusters {
            for node in &cluster.nodes {
                let version = lab.ddb(node.alias())?.as_guest().text("version()").await?;
                ensure!(version.starts_with(TO), "`{}` answers {version}", node.alias());
                let record = seen.node(node.alias()).context("the observer knows every node")?;
                ensure!(record.processes.len() == 2, "`{}`: {record:?}", node.alias());
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sites_upgrade_script_is_driven_through_its_traps() {
    let options = Options { version: FROM.to_owned(), ..Options::default() };
    suite::in_lab(&options, async |lab| {
        whole_rollout(lab, &["--mode", "script"]).await?;
        // What the script must not have taken with it.
        for host in &lab.topology().hosts {
            let work = lab.paths().work(&host.name, lab.cluster());
            for kept in ["config/cluster.nodes", "config/controller.cfg", "config/agent.cfg"] {
                ensure!(work.join(kept).exists(), "`{kept}` is gone on `{}`", host.name);
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_namespaces_hosts_are_groups_of_processes() {
    let options = Options { no_namespaces: true, version: FROM.to_owned(), ..Options::default() };
    suite::in_lab(&options, async |lab| whole_rollout(lab, &[]).await.map(drop)).await;
}

/// A cluster that grew: hosts that are on the target already are verified and left alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_is_started_again_touches_nothing() {
    let options = Options { version: TO.to_owned(), time_scale: 0.05, ..Options::default() };
    suite::in_lab(&options, async |lab| {
        lab.wait_ready(TO, &[]).await?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &["--canary", "off"]).await?;
        let status = lab.ensure_succeeded(&id, TO, &observer.report()).await?;
        suite::ensure_untouched(&observer).await?;
        let restarts = lab.ensure_restarts(&observer.stop(), 1, &BTreeMap::new());
        restarts.with_context(|| suite::summary(&status))
    })
    .await;
}
