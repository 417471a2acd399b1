//! Status, explanation, holds.

use grayfin_types::{
    status::{CanaryStatus, Explanation, HoldStatus, HostPhase, HostStatus, RolloutStatus},
    step::SequenceState,
};
use jiff::tz::TimeZone;

use super::{
    bytes, clock, count, duration,
    findings::{findings, line, reason_lines},
    table::{row, table},
};

/// Writes where a rollout stands. `now_ms` is the wall clock.
pub(crate) fn rollout(status: &RolloutStatus, now_ms: u64, zone: &TimeZone) -> String {
    let mut out = String::new();
    let took = duration(status.ended_ms.unwrap_or(now_ms).saturating_sub(status.started_ms));
    line(
        &mut out,
        format_args!(
            "rollout {} of {} to {}: {}, started {} by {}, {took}",
            status.id,
            status.cluster,
            status.target,
            status.state,
            clock(status.started_ms, zone),
            status.by
        ),
    );
    if status.stale {
        line(
            &mut out,
            format_args!("this answer may be old: no coordinator that leads was reached"),
        );
    }
    let mut rows = vec![row(["HOST", "STATE", "TIME", "BACKUP"])];
    rows.extend(status.hosts.iter().map(|host| host_row(host, now_ms)));
    out.push_str(&table(&rows));
    if !status.waiting.is_empty() {
        let since = status.waiting_since_ms.map_or_else(String::new, |since| {
            format!(" since {} ({})", clock(since, zone), duration(now_ms.saturating_sub(since)))
        });
        line(&mut out, format_args!("waits{since}:"));
        for reason in &status.waiting {
            out.push_str(&reason_lines(reason, "  "));
        }
    }
    line(&mut out, format_args!("canary: {}", canary(&status.canary)));
    line(
        &mut out,
        format_args!(
            "changes of the leading DolphinDB controller: {}; events: {}",
            status.leader_changes, status.last_seq
        ),
    );
    out
}

fn host_row(host: &HostStatus, now_ms: u64) -> Vec<String> {
    let time = host.started_ms.map_or_else(String::new, |started| {
        duration(host.ended_ms.unwrap_or(now_ms).saturating_sub(started))
    });
    let backup = host.backup.as_ref().map_or_else(String::new, |(name, size)| {
        format!("{name} {}", bytes(*size)).trim().to_owned()
    });
    row([host.host.as_str(), &phase(host), &time, &backup])
}

fn phase(host: &HostStatus) -> String {
    match (&host.phase, &host.sequence) {
        (HostPhase::Failed, Some(SequenceState::Failed { step, code, .. })) => {
            format!("failed at {step}, {code}")
        }
        (HostPhase::Failed, Some(SequenceState::Refused { step, code, .. })) => {
            format!("refused by {step}, {code}")
        }
        (HostPhase::Failed, Some(SequenceState::Undone { step, code, .. })) => {
            format!("{step} failed and was undone, {code}")
        }
        (phase, _) => phase_word(phase),
    }
}

/// Returns a phase in words.
pub(crate) fn phase_word(phase: &HostPhase) -> String {
    match phase {
        HostPhase::Waiting => "waiting".to_owned(),
        HostPhase::Staged => "staged".to_owned(),
        HostPhase::Granting => "asking for promises".to_owned(),
        HostPhase::Working { step } => step.to_string(),
        HostPhase::Recovering => "up, cluster recovers and soaks".to_owned(),
        HostPhase::Closing => "closing its hold".to_owned(),
        HostPhase::Done => "done".to_owned(),
        HostPhase::Skipped => "skipped".to_owned(),
        HostPhase::Failed => "failed".to_owned(),
    }
}

/// Writes the canary in one line.
pub(crate) fn canary(canary: &CanaryStatus) -> String {
    if canary.state == "off" {
        return "off".to_owned();
    }
    let mut text = canary.state.clone();
    if let Some(host) = &canary.host {
        text.push_str(&format!(" on {host}"));
    }
    text.push_str(&format!(
        ", {} rows acknowledged, {} read back, {} lost, {} duplicates, longest gap {}, p99 {} ms",
        count(canary.acknowledged),
        count(canary.verified),
        count(canary.lost),
        count(canary.duplicates),
        duration(canary.longest_gap_ms),
        canary.p99_ms
    ));
    if let Some(problem) = &canary.problem {
        text.push_str(&format!("; {problem}"));
    }
    for lost in &canary.lost_examples {
        text.push_str(&format!("; missing {lost}"));
    }
    text
}

/// Writes all rollouts.
pub(crate) fn list(all: &[RolloutStatus], now_ms: u64, zone: &TimeZone) -> String {
    let mut rows =
        vec![row(["ID", "CLUSTER", "TARGET", "STATE", "HOSTS", "STARTED", "TIME", "BY"])];
    for status in all {
        let done = status.hosts.iter().filter(|h| h.phase == HostPhase::Done).count();
        let took = status.ended_ms.unwrap_or(now_ms).saturating_sub(status.started_ms);
        rows.push(row([
            status.id.as_str(),
            status.cluster.as_str(),
            &status.target.to_string(),
            &status.state.to_string(),
            &format!("{done} of {}", status.hosts.len()),
            &clock(status.started_ms, zone),
            &duration(took),
            &status.by,
        ]));
    }
    table(&rows)
}

/// Writes an explanation.
pub(crate) fn explanation(explained: &Explanation) -> String {
    let mut out = String::new();
    line(&mut out, format_args!("rollout {} is {}", explained.rollout, explained.state));
    if explained.waiting.is_empty() {
        line(&mut out, format_args!("it waits for nothing"));
    } else {
        line(&mut out, format_args!("it waits because:"));
        for reason in &explained.waiting {
            out.push_str(&reason_lines(reason, "  "));
        }
    }
    if let Some((host, why)) = &explained.next {
        line(&mut out, format_args!("next: {host}, {why}"));
    }
    line(&mut out, format_args!("way back: {}", explained.way_back));
    for remains in &explained.way_forward {
        line(&mut out, format_args!("what remains: {remains}"));
    }
    if !explained.gates.is_empty() {
        out.push_str(&findings(&explained.gates));
    }
    for command in &explained.commands {
        line(&mut out, format_args!("makes sense now: `{command}`"));
    }
    out
}

/// Writes holds.
pub(crate) fn holds(holds: &[HoldStatus]) -> String {
    let mut rows =
        vec![row(["CLUSTER", "TOKEN", "STATE", "HOST", "ROLLOUT", "PROMISED", "AWAITED"])];
    let names = |hosts: &[grayfin_types::HostId]| {
        hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    for hold in holds {
        rows.push(row([
            hold.cluster.as_str(),
            &hold.token.to_string(),
            &hold.state,
            hold.host.as_ref().map_or("", |h| h.as_str()),
            hold.rollout.as_ref().map_or("", |r| r.as_str()),
            &names(&hold.promised),
            &names(&hold.awaited),
        ]));
    }
    let mut out = table(&rows);
    for hold in holds {
        for debt in &hold.debts {
            line(&mut out, format_args!("{}: to be undone: {debt}", hold.cluster));
        }
    }
    out
}
