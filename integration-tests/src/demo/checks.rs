//! What must hold after the rollout.

use anyhow::{Context, ensure};
use grayfin_types::status::{RolloutState, RolloutStatus};

use super::Verdict;
use crate::Lab;
use crate::observer::Report;

/// Acknowledged canary rows a second, over the whole rollout.
const ROWS_PER_SECOND_MIN: u64 = 50;

/// The observer must look at least this often for its word to count.
const SAMPLE_GAP_MEAN_MAX_MS: u64 = 50;

/// Checks everything.
pub(super) async fn all(
    lab: &Lab,
    status: &RolloutStatus,
    seen: &Report,
    target: &str,
    verdict: &mut Verdict,
) {
    verdict.claim("the rollout succeeded", succeeded(status));
    verdict.claim("never two hosts down (observer)", one_host(lab, seen));
    verdict.claim("at most one leader change (observer)", leader(lab, seen));
    verdict.claim("every node was restarted exactly once (observer)", restarted(lab, seen));
    verdict.claim("every node answers with the new version", versions(lab, target).await);
    verdict.claim("the canary lost no acknowledged row", canary(status));
    verdict.claim("the canary wrote all the time", canary_rate(status));
    verdict.claim("every host has a verified backup", backups(lab).await);
}

fn succeeded(status: &RolloutStatus) -> anyhow::Result<String> {
    ensure!(
        status.state == RolloutState::Succeeded,
        "it is {}: {:?}",
        status.state,
        status.waiting
    );
    let took = status.ended_ms.unwrap_or(status.started_ms).saturating_sub(status.started_ms);
    Ok(format!("{} hosts in {:.1} s", status.hosts.len(), seconds(took)))
}

fn one_host(lab: &Lab, seen: &Report) -> anyhow::Result<String> {
    let mean = seen.last_sample_ms / seen.samples.max(1);
    ensure!(mean <= SAMPLE_GAP_MEAN_MAX_MS, "the observer looked every {mean} ms only");
    ensure!(seen.overlaps().is_empty(), "{:?}", seen.overlaps());
    let down: Vec<String> = seen
        .disturbed(&lab.cluster().name)
        .iter()
        .map(|(host, spans)| {
            let total: u64 = spans
                .iter()
                .map(|s| s.to_ms.unwrap_or(seen.last_sample_ms).saturating_sub(s.from_ms))
                .sum();
            format!("{host} {:.1} s", seconds(total))
        })
        .collect();
    ensure!(down.len() == lab.topology().hosts.len(), "not every host was seen down: {down:?}");
    Ok(format!("{} looks, one every {mean} ms; down: {}", seen.samples, down.join(", ")))
}

fn leader(lab: &Lab, seen: &Report) -> anyhow::Result<String> {
    let changes = seen.leader_changes(&lab.cluster().name);
    ensure!(changes.len() <= 1, "{changes:?}");
    Ok(changes.first().map_or_else(|| "none".to_owned(), |c| format!("{} to {}", c.from, c.to)))
}

fn restarted(lab: &Lab, seen: &Report) -> anyhow::Result<String> {
    for node in &lab.cluster().nodes {
        let record = seen.node(node.alias()).context("the observer knows every node")?;
        ensure!(
            record.processes.len() == 2,
            "`{}` had {} processes",
            node.alias(),
            record.processes.len()
        );
    }
    Ok(format!("{} nodes", lab.cluster().nodes.len()))
}

async fn versions(lab: &Lab, target: &str) -> anyhow::Result<String> {
    let versions = lab.versions().await?;
    for (alias, version) in &versions {
        ensure!(version == target, "`{alias}` answers {version}");
    }
    Ok(format!("{} nodes on {target}", versions.len()))
}

fn canary(status: &RolloutStatus) -> anyhow::Result<String> {
    let c = &status.canary;
    ensure!(c.lost == 0, "{} of {} are missing: {:?}", c.lost, c.acknowledged, c.lost_examples);
    ensure!(
        c.verified == c.acknowledged,
        "{} of {} acknowledged rows were read back",
        c.verified,
        c.acknowledged
    );
    Ok(format!(
        "{} acknowledged, {} read back, {} duplicates, longest gap {} ms",
        c.acknowledged, c.verified, c.duplicates, c.longest_gap_ms
    ))
}

fn canary_rate(status: &RolloutStatus) -> anyhow::Result<String> {
    let from =
        status.hosts.iter().filter_map(|h| h.started_ms).min().context("no host was held")?;
    let to =
        status.hosts.iter().filter_map(|h| h.ended_ms).max().context("no host was released")?;
    let millis = to.saturating_sub(from).max(1);
    let rate = status.canary.acknowledged * 1000 / millis;
    ensure!(rate >= ROWS_PER_SECOND_MIN, "only {rate} rows a second over {:.1} s", seconds(millis));
    Ok(format!("{rate} rows a second over {:.1} s", seconds(millis)))
}

async fn backups(lab: &Lab) -> anyhow::Result<String> {
    let mut seen = Vec::new();
    for host in lab.topology().hosts.clone() {
        let done = lab.agent_cli(host.number, &["backup", "verify"]).await?;
        ensure!(done.is_success(), "`{}`: {done:?}", host.name);
        let folder = lab.paths().backups(&host.name, lab.cluster());
        let found = std::fs::read_dir(&folder)?.count();
        ensure!(found > 0, "`{}` has no backup", host.name);
        seen.push(host.name);
    }
    Ok(seen.join(", "))
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds for people to read")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}
