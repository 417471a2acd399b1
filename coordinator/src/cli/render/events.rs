//! Events as plain lines.

use grayfin_types::{
    event::{Body, Event},
    step::{Happened, Report, SequenceState},
};
use jiff::tz::TimeZone;

use super::{bytes, clock, count, duration, status::canary};

/// Writes an event as one line without its end.
pub(crate) fn line(event: &Event, zone: &TimeZone) -> String {
    format!("{} {:>4}  {}", clock(event.at_ms, zone), event.seq.0, words(event))
}

/// Tells whether an event is worth a line to somebody who wants few.
pub(crate) fn is_major(body: &Body) -> bool {
    matches!(
        body,
        Body::Started { .. }
            | Body::Granted { .. }
            | Body::Released { .. }
            | Body::Skipped { .. }
            | Body::Operator { .. }
            | Body::State { .. }
            | Body::FinalVerification { .. }
    )
}

fn words(event: &Event) -> String {
    match &event.body {
        Body::Started { plan } => format!(
            "started by {}: {} to {}, {} hosts",
            event.by,
            plan.cluster,
            plan.target,
            plan.hosts.len()
        ),
        Body::Gates { host, findings } => {
            let go = findings.iter().filter(|f| f.decision.is_go()).count();
            let aside = findings.iter().filter(|f| f.overridden.is_some()).count();
            let about = host.as_ref().map_or("the cluster", |h| h.as_str());
            let mut text = format!("gates for {about}: {go} of {} go", findings.len());
            if aside > 0 {
                text.push_str(&format!(", {aside} set aside"));
            }
            text
        }
        Body::Baseline { chunks } => {
            format!("baseline: {} chunk(s) had fewer replicas before", chunks.len())
        }
        Body::TokenAllotted { host, token } => {
            format!("{host}: token {token}, promises are asked for")
        }
        Body::Promised { host, token } => format!("{host} promised token {token}"),
        Body::Granted { host, token, reason } => {
            format!("{host}: held with token {token}; {reason}")
        }
        Body::Go { host, action, allowed: true, .. } => format!("{host}: go for {action}"),
        Body::Go { host, action, allowed: false, reasons, .. } => {
            let why: Vec<_> =
                reasons.iter().map(|r| format!("{} {}", r.code, r.evidence)).collect();
            format!("{host}: no go for {action}: {}", why.join("; "))
        }
        Body::Reported { report } => reported(report),
        Body::LeaderChanged { from: Some(from), to } => {
            format!("the leading DolphinDB controller changed from {from} to {to}")
        }
        Body::LeaderChanged { from: None, to } => format!("DolphinDB controller {to} leads"),
        Body::Waiting { reasons } if reasons.is_empty() => "goes on".to_owned(),
        Body::Waiting { reasons } => format!("waits: {}", waiting(reasons)),
        Body::HostVerified { host, soaked_ms } => {
            format!("{host}: all has been well for {}", duration(*soaked_ms))
        }
        Body::Released { host, token } => format!("{host}: released token {token}"),
        Body::Skipped { host, reason } => format!("{host}: skipped, {reason}"),
        Body::Operator { action, reason } if reason.is_empty() => {
            format!("{}: {action}", event.by)
        }
        Body::Operator { action, reason } => format!("{}: {action}, {reason}", event.by),
        Body::Canary { canary: now } => format!("canary: {}", canary(now)),
        Body::State { state } => format!("state: {state}"),
        Body::FinalVerification { versions, ok: true } => {
            format!("all {} nodes answer with the target version", versions.len())
        }
        Body::FinalVerification { versions, ok: false } => {
            let seen: Vec<_> =
                versions.iter().map(|(node, _, version)| format!("{node} {version}")).collect();
            format!("not every node is on the target version: {}", seen.join(", "))
        }
        Body::Debt { debt, effect, state, detail } => {
            format!("debt {debt} {state}: {effect}; {detail}")
        }
        Body::Lease { coordinator, term } => {
            format!("coordinator {coordinator} drives, term {term}")
        }
    }
}

fn reported(report: &Report) -> String {
    let host = &report.host;
    let step =
        if report.undo { format!("undo of {}", report.step) } else { report.step.to_string() };
    let seen = if report.seen.is_empty() { String::new() } else { format!(" ({})", report.seen) };
    match &report.happened {
        Happened::Started => format!("{host}: {step} begins{seen}"),
        Happened::Progress { done, total, unit } => {
            format!("{host}: {step} {}{seen}", progress(*done, *total, unit))
        }
        Happened::Finished { took_ms } => {
            format!("{host}: {step} done in {}{seen}", duration(*took_ms))
        }
        Happened::Failed { code, message } => {
            format!("{host}: {step} failed, {code}: {message}{seen}")
        }
        Happened::Node { alias, state } => format!("{host}: {alias} {state}{seen}"),
        Happened::State { state } => match state {
            SequenceState::Running { step } => format!("{host}: runs from {step} on"),
            SequenceState::Up => format!("{host}: up on the new version"),
            SequenceState::Refused { step, code, message } => {
                format!("{host}: refused by {step}, {code}: {message}; nothing was disturbed")
            }
            SequenceState::Undone { step, code, message } => {
                format!("{host}: {step} failed, {code}: {message}; undone, the old version is up")
            }
            SequenceState::Failed { step, code, message, .. } => {
                format!("{host}: failed at {step}, {code}: {message}; a person is needed")
            }
            SequenceState::Closed => format!("{host}: closed its hold"),
        },
    }
}

/// Writes how far something is.
pub(crate) fn progress(done: u64, total: u64, unit: &str) -> String {
    let amount = |n: u64| if unit == "bytes" { bytes(n) } else { count(n) };
    let unit = if unit == "bytes" { "" } else { unit };
    // A step reads and writes in several passes: past its total there is none to be named.
    let text = if total == 0 || done > total {
        format!("{} {unit}", amount(done))
    } else {
        format!("{} of {} {unit}", amount(done), amount(total))
    };
    text.trim_end().to_owned()
}

/// One line for what a rollout waits for: the first reason of each code in full, the others counted.
fn waiting(reasons: &[grayfin_types::gate::Reason]) -> String {
    let mut codes: Vec<_> = reasons.iter().map(|r| r.code).collect();
    codes.dedup();
    let mut seen = std::collections::BTreeSet::new();
    let mut words = Vec::new();
    for code in codes.into_iter().filter(|code| seen.insert(*code)) {
        let mut alike = reasons.iter().filter(|r| r.code == code);
        let Some(first) = alike.next() else { continue };
        let more = match alike.count() {
            0 => String::new(),
            more => format!(" (and {more} more like this)"),
        };
        words.push(format!("{code} {}: {}{more}", first.subject, first.evidence));
    }
    words.join("; ")
}
