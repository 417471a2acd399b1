//! The live view: a row per host, folded from events.

use grayfin_types::{
    HostId,
    event::{Body, Event},
    gate::Reason,
    plan::CanarySpec,
    status::{CanaryStatus, HostPhase, RolloutState},
    step::{Happened, Report, SequenceState, Step},
};

use super::{
    duration,
    events::progress,
    status::{canary, phase_word},
    table::{row, table},
};

/// One host's row.
#[derive(Debug, Clone)]
struct Row {
    host: HostId,
    phase: HostPhase,
    note: String,
    started_ms: Option<u64>,
    ended_ms: Option<u64>,
}

/// What the events so far say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board {
    title: String,
    state: Option<RolloutState>,
    rows: Vec<Row>,
    waiting: Vec<Reason>,
    canary: CanaryStatus,
    leader_changes: u32,
    started_ms: u64,
    last_ms: u64,
}

impl Board {
    /// Takes an event.
    pub(crate) fn take(&mut self, event: &Event) {
        self.last_ms = self.last_ms.max(event.at_ms);
        match &event.body {
            Body::Started { plan } => {
                self.title =
                    format!("rollout {} of {} to {}", event.rollout, plan.cluster, plan.target);
                self.started_ms = event.at_ms;
                let off = plan.canary == CanarySpec::Off;
                if off { "off" } else { "starting" }.clone_into(&mut self.canary.state);
                self.rows = plan
                    .hosts
                    .iter()
                    .map(|planned| Row {
                        host: planned.host.clone(),
                        phase: HostPhase::Waiting,
                        note: String::new(),
                        started_ms: None,
                        ended_ms: None,
                    })
                    .collect();
            }
            Body::TokenAllotted { host, .. } => self.phase(host, HostPhase::Granting, ""),
            Body::Granted { host, .. } => {
                self.phase(host, HostPhase::Working { step: Step::Guard }, "");
                if let Some(row) = self.row(host) {
                    row.started_ms = Some(event.at_ms);
                    row.ended_ms = None;
                }
            }
            Body::Go { host, allowed: false, action, .. } => {
                if let Some(row) = self.row(host) {
                    row.note = format!("no go for {action}");
                }
            }
            Body::Reported { report } => self.reported(report),
            Body::LeaderChanged { from, .. } => {
                self.leader_changes += u32::from(from.is_some());
            }
            Body::Waiting { reasons } => self.waiting.clone_from(reasons),
            Body::HostVerified { host, .. } => self.phase(host, HostPhase::Closing, ""),
            Body::Released { host, .. } => {
                if let Some(row) = self.row(host) {
                    // What failed and was closed is as it was before.
                    let failed = row.phase == HostPhase::Failed;
                    row.phase = if failed { HostPhase::Skipped } else { HostPhase::Done };
                    row.note.clear();
                    row.ended_ms = Some(event.at_ms);
                }
            }
            Body::Skipped { host, reason } => self.phase(host, HostPhase::Skipped, reason),
            Body::Canary { canary } => self.canary = canary.clone(),
            Body::State { state } => {
                self.state = Some(*state);
                if state.is_final() {
                    self.waiting.clear();
                }
            }
            Body::Gates { .. }
            | Body::Baseline { .. }
            | Body::Promised { .. }
            | Body::Go { .. }
            | Body::Operator { .. }
            | Body::FinalVerification { .. }
            | Body::Debt { .. }
            | Body::Lease { .. } => {}
        }
    }

    /// Returns the final state once it is reached.
    pub(crate) fn ended(&self) -> Option<RolloutState> {
        self.state.filter(|state| state.is_final())
    }

    /// Returns the time of the last event, by the coordinators' clock.
    pub(crate) const fn last_ms(&self) -> u64 {
        self.last_ms
    }

    /// Draws it. `now_ms` is by the coordinators' clock.
    pub(crate) fn draw(&self, now_ms: u64) -> String {
        let end_ms = if self.ended().is_some() { self.last_ms } else { now_ms };
        let state = self.state.map_or_else(String::new, |s| s.to_string());
        let mut out = format!(
            "{}: {state}, {}{}\n",
            self.title,
            duration(end_ms.saturating_sub(self.started_ms)),
            self.left(now_ms)
        );
        let mut rows = vec![row(["HOST", "STEP", "TIME", ""])];
        for host in &self.rows {
            let time = host.started_ms.map_or_else(String::new, |started| {
                duration(host.ended_ms.unwrap_or(end_ms).saturating_sub(started))
            });
            rows.push(row([host.host.as_str(), &phase_word(&host.phase), &time, &host.note]));
        }
        out.push_str(&table(&rows));
        out.push_str(&format!("canary: {}\n", canary(&self.canary)));
        out.push_str(&format!(
            "changes of the leading DolphinDB controller: {}\n",
            self.leader_changes
        ));
        for reason in &self.waiting {
            out.push_str(&format!(
                "waits: {} {}: {}\n",
                reason.code, reason.subject, reason.evidence
            ));
        }
        if self.state == Some(RolloutState::Halted) {
            for reason in &self.waiting {
                out.push_str(&format!("  what clears it: {}\n", reason.remedy));
            }
        }
        out
    }

    /// Guesses how long it still takes, from the hosts that are done.
    fn left(&self, now_ms: u64) -> String {
        let took: Vec<u64> = self
            .rows
            .iter()
            .filter_map(|r| Some(r.ended_ms?.saturating_sub(r.started_ms?)))
            .collect();
        let open = self
            .rows
            .iter()
            .filter(|r| !matches!(r.phase, HostPhase::Done | HostPhase::Skipped))
            .count();
        if self.ended().is_some() || took.is_empty() || open == 0 {
            return String::new();
        }
        let mean = took.iter().sum::<u64>() / u64::try_from(took.len()).unwrap_or(1).max(1);
        let begun = self
            .rows
            .iter()
            .filter(|r| r.ended_ms.is_none())
            .filter_map(|r| r.started_ms)
            .map(|started| now_ms.saturating_sub(started).min(mean))
            .sum::<u64>();
        let left = mean.saturating_mul(u64::try_from(open).unwrap_or(0)).saturating_sub(begun);
        format!(", about {} left", duration(left))
    }

    fn reported(&mut self, report: &Report) {
        let Some(row) = self.row(&report.host) else { return };
        let staging = report.token.0 == 0;
        match &report.happened {
            Happened::Started => {
                if !staging {
                    row.phase = HostPhase::Working { step: report.step };
                }
                row.note = if report.undo {
                    "undoing".to_owned()
                } else if staging {
                    "staging".to_owned()
                } else {
                    String::new()
                };
            }
            Happened::Progress { done, total, unit } => row.note = progress(*done, *total, unit),
            Happened::Finished { .. } => {
                if staging && report.step == Step::Stage {
                    row.phase = HostPhase::Staged;
                }
                row.note.clear();
            }
            Happened::Failed { code, message } => row.note = format!("{code}: {message}"),
            Happened::Node { alias, state } => row.note = format!("{alias} {state}"),
            Happened::State { state } => match state {
                SequenceState::Running { step } => {
                    row.phase = HostPhase::Working { step: *step };
                }
                SequenceState::Up => {
                    row.phase = HostPhase::Recovering;
                    row.note.clear();
                }
                SequenceState::Refused { code, message, .. }
                | SequenceState::Undone { code, message, .. }
                | SequenceState::Failed { code, message, .. } => {
                    row.phase = HostPhase::Failed;
                    row.note = format!("{code}: {message}");
                }
                SequenceState::Closed => {}
            },
        }
    }

    fn phase(&mut self, host: &HostId, phase: HostPhase, note: &str) {
        if let Some(row) = self.row(host) {
            row.phase = phase;
            note.clone_into(&mut row.note);
        }
    }

    fn row(&mut self, host: &HostId) -> Option<&mut Row> {
        self.rows.iter_mut().find(|r| &r.host == host)
    }
}
