//! Gates about what the rollout was started with: losses, recovery, windows, the canary.

use std::collections::BTreeSet;

use grayfin_types::{
    Code, HostId,
    facts::{HostFacts, MemoryObject, Probe},
    gate::Reason,
    plan::{CanarySpec, RecoveryPolicy, Window},
};

use super::{Input, Moment, Verdict, reason};
use crate::{decide::debts, mutation, state::CanaryPhase, view::LocalTime};

/// Days as a plan names them.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// What stopping and starting a host takes beside its backup; generous, for a loaded node flushes.
const DOWN_BASE_MS: u64 = 30_000;

/// Bytes a millisecond that a backup copies and verifies: 100 MB a second, a plain disk.
const BACKUP_BYTES_PER_MS: u64 = 100_000;

/// The most rows a second that the canary may write: it must be felt by nobody.
const CANARY_RATE_MAX: u32 = 10_000;

/// Names a memory-only object as `--accept-loss` takes it.
pub fn loss_name(object: &MemoryObject) -> String {
    format!("{}/{}/{}", object.node, object.kind, object.name)
}

pub(super) fn memory_loss(input: &Input<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for host in input.hosts {
        let asked = input.host_facts(host).and_then(|facts| {
            let memory = match &facts.memory {
                Probe::Known(memory) => memory,
                Probe::Unknown(why) => {
                    let what = "what lives only in memory";
                    return Err(Input::unknown_at(host, what, why));
                }
            };
            if input.moment == Moment::After {
                missing_after(input, host, memory, &mut verdict);
            } else {
                would_vanish(input, memory, &mut verdict);
            }
            Ok(())
        });
        if let Err(why) = asked {
            verdict.hold(why);
        }
    }
    verdict
}

fn would_vanish(input: &Input<'_>, memory: &[MemoryObject], verdict: &mut Verdict) {
    for object in memory.iter().filter(|o| !o.provided_for) {
        let name = loss_name(object);
        if !input.accepted_losses.contains(&name) && !mutation::is("s13-unlisted-is-fine") {
            verdict.stop_at_start(
                input,
                reason(
                    Code::MemoryLoss,
                    name.clone(),
                    "it lives only in memory and no startup script makes it again",
                    format!("provide for it in startup.dos, or `--accept-loss {name}`"),
                ),
            );
        }
    }
}

/// After a host, what its startup script was to make again must be there.
fn missing_after(input: &Input<'_>, host: &HostId, now: &[MemoryObject], verdict: &mut Verdict) {
    let planned = input.rollout.and_then(|r| r.plan.host(host));
    let there: BTreeSet<String> = now.iter().map(loss_name).collect();
    for object in planned.iter().flat_map(|h| &h.memory).filter(|o| o.provided_for) {
        let name = loss_name(object);
        if !there.contains(&name) && !input.accepted_losses.contains(&name) {
            verdict.hold(reason(
                Code::MemoryLoss,
                name,
                "it was there before the restart, and the startup script did not make it again",
                "make it again by hand, and see the node's log for errors of startup.dos",
            ));
        }
    }
}

/// Predicts how long a host will be down, in milliseconds: from its backup's size.
pub fn predicted_down_ms(facts: &HostFacts) -> u64 {
    let bytes = facts
        .backup
        .iter()
        .filter_map(|part| part.bytes.known().copied().flatten())
        .fold(0, u64::saturating_add);
    DOWN_BASE_MS.saturating_add(bytes / BACKUP_BYTES_PER_MS)
}

pub(super) fn recovery_wait(input: &Input<'_>) -> Verdict {
    match input.policy.recovery {
        // Suspended recovery is a debt that is paid before the host counts as done (S10).
        RecoveryPolicy::Allow | RecoveryPolicy::Suspend => return Verdict::default(),
        RecoveryPolicy::Refuse => {}
    }
    match refused_wait(input) {
        Ok(verdict) => verdict,
        Err(why) => Verdict::unknown(why),
    }
}

fn refused_wait(input: &Input<'_>) -> Result<Verdict, Reason> {
    let facts = input.cluster_facts()?;
    let wait_ms = *input.known(&facts.recovery_wait_ms, "dfsRecoveryWaitTime")?;
    let mut verdict = Verdict::default();
    if wait_ms == 0 {
        return Ok(verdict);
    }
    for host in input.hosts {
        let predicted_ms = predicted_down_ms(input.host_facts(host)?);
        if predicted_ms > wait_ms {
            verdict.stop(reason(
                Code::RecoveryWait,
                host.to_string(),
                format!(
                    "it would be down for about {predicted_ms} ms; after {wait_ms} ms DolphinDB copies its replicas to other nodes"
                ),
                "raise dfsRecoveryWaitTime (needs a restart), `--recovery allow` and wait for the copies to end, or `--recovery suspend`",
            ));
        }
    }
    Ok(verdict)
}

/// What was changed in the cluster for the time of a host is undone before its gates count (S10).
pub(super) fn debts_paid(input: &Input<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for debt in input.state.debts_of(input.cluster) {
        verdict.hold(debts::open(debt, "it is not undone yet"));
    }
    verdict
}

pub(super) fn window(input: &Input<'_>) -> Verdict {
    if input.windows.is_empty() {
        return Verdict::default();
    }
    let mut unknown = None;
    for window in input.windows {
        match open(window, input.view.local_times.get(&window.zone)) {
            Ok(true) => return Verdict::default(),
            Ok(false) => {}
            Err(why) => unknown = Some(why),
        }
    }
    if let Some(why) = unknown {
        return Verdict::unknown(input.unknown("whether a maintenance window is open", &why));
    }
    let words: Vec<_> = input.windows.iter().map(words).collect();
    Verdict::unknown(reason(
        Code::WindowClosed,
        input.cluster.to_string(),
        format!("no maintenance window is open: {}", words.join("; ")),
        "it goes on when one opens; `--override window=REASON` at the start sets windows aside",
    ))
}

fn words(window: &Window) -> String {
    let days = if window.days.is_empty() { "every day".to_owned() } else { window.days.join(" ") };
    format!("{days} {} to {} ({})", window.from, window.to, window.zone)
}

fn open(window: &Window, now: Option<&LocalTime>) -> Result<bool, String> {
    let now = now.ok_or_else(|| format!("the time in zone `{}` is not known", window.zone))?;
    let (from, to) = (minute(&window.from)?, minute(&window.to)?);
    let today = usize::from(now.weekday) % 7;
    let yesterday = (today + 6) % 7;
    let on = |day: usize| {
        window.days.is_empty() || window.days.iter().any(|d| DAYS.get(day) == Some(&d.as_str()))
    };
    if from <= to {
        return Ok(on(today) && (from..to).contains(&now.minute));
    }
    // Over midnight: the day named is the one on which it opens.
    Ok((on(today) && now.minute >= from) || (on(yesterday) && now.minute < to))
}

fn minute(text: &str) -> Result<u16, String> {
    let bad = || format!("`{text}` is no time of day (`HH:MM`)");
    let (hours, minutes) = text.split_once(':').ok_or_else(bad)?;
    let (hours, minutes): (u16, u16) =
        (hours.parse().map_err(|_| bad())?, minutes.parse().map_err(|_| bad())?);
    if hours < 24 && minutes < 60 { Ok(hours * 60 + minutes) } else { Err(bad()) }
}

pub(super) fn canary(input: &Input<'_>) -> Verdict {
    let rate = match input.canary {
        CanarySpec::Off => return Verdict::default(),
        CanarySpec::New { rows_per_second } => *rows_per_second,
        CanarySpec::Table { rows_per_second, .. } => *rows_per_second,
    };
    let mut verdict = Verdict::default();
    let Some(rollout) = input.rollout else {
        if rate == 0 || rate > CANARY_RATE_MAX {
            verdict.stop(reason(
                Code::BadRequest,
                "canary",
                format!("{rate} rows a second cannot be written"),
                format!("choose a rate of 1 to {CANARY_RATE_MAX}, or `--canary off`"),
            ));
        }
        return verdict;
    };
    let down = |evidence: String| {
        reason(
            Code::CanaryDown,
            rollout.canary.phase.host().map_or_else(|| "canary".to_owned(), HostId::to_string),
            evidence,
            "it is started by itself; if this stays, see the host agent's log, and `grayfin rollout status`",
        )
    };
    match &rollout.canary.phase {
        CanaryPhase::Off => return verdict,
        CanaryPhase::Idle | CanaryPhase::Starting { .. } | CanaryPhase::Stopping { .. } => {
            let refused: Vec<_> = rollout
                .canary
                .refused
                .iter()
                .map(|(host, why)| format!("`{host}` refused: {why}"))
                .collect();
            let why = if refused.is_empty() {
                "the canary is about to start or to move".to_owned()
            } else {
                refused.join("; ")
            };
            verdict.hold(down(why));
            return verdict;
        }
        CanaryPhase::Ended => {
            verdict.hold(down("the canary has ended".to_owned()));
            return verdict;
        }
        CanaryPhase::Writing { host } => {
            if input.host() == Some(host) {
                verdict.hold(down(format!("the writer is on `{host}`, which is to go down")));
            }
        }
    }
    let seen = input.view.canaries.get(&rollout.id);
    let live = seen.filter(|s| s.value.epoch == rollout.canary.epoch);
    match live {
        None => verdict.hold(down("the writer has not said anything yet".to_owned())),
        Some(seen) => {
            let age_ms = input.now_ms.saturating_sub(seen.at_ms);
            if age_ms > input.policy.fact_age_max_ms {
                verdict.hold(down(format!("the writer was heard {age_ms} ms ago")));
            } else if let Some(problem) = &seen.value.status.problem {
                verdict.hold(down(problem.clone()));
            } else if seen.value.status.acknowledged == 0 {
                verdict.hold(down("no row was acknowledged yet".to_owned()));
            }
        }
    }
    verdict
}
