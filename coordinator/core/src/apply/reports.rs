//! Host agents' reports about sequences, and what follows from them.

use grayfin_types::{
    HostId, RolloutId, Token,
    event::Body,
    status::{HostPhase, RolloutState},
    step::{Happened, Report, SequenceState, Step},
};

use super::Applier;
use crate::{
    cmd::Response,
    mutation,
    state::{CloseAs, HoldStage, Staging},
};

impl Applier<'_> {
    pub(super) fn reported(&mut self, report: &Report) -> Response {
        let Some(enrolment) = self.state.hosts.get_mut(&report.host) else {
            return Response::ignored("the host is not enrolled");
        };
        if enrolment.amnesic.is_some() {
            return Response::ignored("the host agent may only look");
        }
        let durable = report.position > 0;
        if durable && report.position <= enrolment.committed_position {
            return Response::Committed { position: enrolment.committed_position };
        }
        if durable {
            enrolment.committed_position = report.position;
            enrolment.heard(report.position, &report.chain);
        }
        let position = enrolment.committed_position;
        if let Some(rollout) = self.rollout_of(report) {
            let by = format!("host {}", report.host);
            self.emit(&rollout, &by, Body::Reported { report: report.clone() });
            self.take_report(&rollout, report);
        }
        Response::Committed { position }
    }

    /// Finds the rollout that a report is about. A token names one; staging has none, and belongs
    /// to the rollout that ordered it (with two at once, the one that began first).
    fn rollout_of(&self, report: &Report) -> Option<RolloutId> {
        let about = |r: &&crate::state::Rollout| {
            r.host(&report.host).is_some_and(|run| {
                if report.token == Token(0) {
                    !r.state.is_final() && run.staging == Staging::Ordered
                } else {
                    run.token == Some(report.token)
                }
            })
        };
        self.state
            .rollouts
            .values()
            .filter(about)
            .min_by_key(|r| (r.state.is_final(), r.started_ms))
            .map(|r| r.id.clone())
    }

    fn take_report(&mut self, rollout: &RolloutId, report: &Report) {
        let (host, token) = (&report.host, report.token);
        if token == Token(0) {
            self.take_staging(rollout, report);
            return;
        }
        match &report.happened {
            Happened::State { state } => self.sequence(rollout, host, token, state),
            Happened::Started if self.works_under(rollout, host, token) => {
                if let Some(run) = self.run_mut(rollout, host)
                    && matches!(run.phase, HostPhase::Working { .. })
                {
                    run.phase = HostPhase::Working { step: report.step };
                    if !report.undo {
                        run.sequence = Some(SequenceState::Running { step: report.step });
                    }
                }
            }
            Happened::Progress { done, total, .. } => {
                if let Some(run) = self.run_mut(rollout, host) {
                    run.progress_ms = run.progress_ms.max(report.at_ms);
                    if report.step == Step::Backup && !report.undo {
                        let name = run.backup.take().map(|(name, _)| name).unwrap_or_default();
                        run.backup = Some((name, (*done).max(*total)));
                    }
                }
            }
            Happened::Finished { .. } if report.step == Step::Backup && !report.undo => {
                if let Some(run) = self.run_mut(rollout, host) {
                    run.backup = Some(backup_of(&report.seen, run.backup.take()));
                }
            }
            Happened::Started
            | Happened::Finished { .. }
            | Happened::Failed { .. }
            | Happened::Node { .. } => {}
        }
    }

    fn take_staging(&mut self, rollout: &RolloutId, report: &Report) {
        let host = &report.host;
        match &report.happened {
            Happened::Finished { .. } if report.step == Step::Stage && !report.undo => {
                self.staged(rollout, host);
            }
            Happened::State { state: SequenceState::Up } => self.staged(rollout, host),
            Happened::Failed { code, message }
            | Happened::State {
                state:
                    SequenceState::Refused { code, message, .. }
                    | SequenceState::Undone { code, message, .. }
                    | SequenceState::Failed { code, message, .. },
            } => self.staging_failed(rollout, host, *code, message),
            Happened::Progress { .. } => {
                if let Some(run) = self.run_mut(rollout, host) {
                    run.progress_ms = run.progress_ms.max(report.at_ms);
                }
            }
            Happened::Started
            | Happened::Finished { .. }
            | Happened::Node { .. }
            | Happened::State { state: SequenceState::Running { .. } | SequenceState::Closed } => {}
        }
    }

    fn staged(&mut self, rollout: &RolloutId, host: &HostId) {
        let Some(run) = self.run_mut(rollout, host) else { return };
        if run.staging != Staging::Ordered {
            return;
        }
        run.staging = Staging::Done;
        if run.phase == HostPhase::Waiting {
            run.phase = HostPhase::Staged;
        }
        self.staging_over(rollout);
    }

    /// Goes on to the hosts when the last one is staged.
    pub(super) fn staging_over(&mut self, rollout: &RolloutId) {
        let Some(entry) = self.state.rollouts.get(rollout) else { return };
        if entry.state == RolloutState::Staging && entry.all_staged() {
            self.set_waiting(rollout, Vec::new());
            self.set_state(rollout, RolloutState::Running);
        }
    }

    /// Takes a sequence's new state.
    pub(super) fn sequence(
        &mut self,
        rollout: &RolloutId,
        host: &HostId,
        token: Token,
        state: &SequenceState,
    ) {
        self.settle_broken(token, state);
        if !self.works_under(rollout, host, token) {
            return;
        }
        if *state == SequenceState::Closed {
            self.released(rollout, host, token);
            return;
        }
        let Some(entry) = self.state.rollouts.get_mut(rollout) else { return };
        let aborting = entry.state == RolloutState::Aborting;
        let closing = self
            .state
            .holds
            .get(&entry.cluster)
            .is_some_and(|held| held.stage == HoldStage::Closing);
        let Some(run) = entry.host_mut(host) else { return };
        run.sequence = Some(state.clone());
        if closing {
            // The close was ordered on what was known; its answer decides.
            return;
        }
        match state {
            SequenceState::Running { step } => run.phase = HostPhase::Working { step: *step },
            SequenceState::Up => {
                run.phase = HostPhase::Recovering;
                if mutation::is("s3-release-without-close") {
                    run.close_as = Some(CloseAs::Done);
                    self.released(rollout, host, token);
                    return;
                }
                if aborting {
                    self.order_close(rollout, host, CloseAs::Aborted);
                }
            }
            SequenceState::Refused { code, message, .. }
            | SequenceState::Undone { code, message, .. } => {
                run.phase = HostPhase::Failed;
                if aborting {
                    self.order_close(rollout, host, CloseAs::Aborted);
                } else {
                    let halted = self.held_reason(rollout, host, *code, message);
                    self.halt(rollout, halted);
                }
            }
            SequenceState::Failed { code, message, .. } => {
                run.phase = HostPhase::Failed;
                let halted = self.held_reason(rollout, host, *code, message);
                self.halt(rollout, halted);
            }
            SequenceState::Closed => {}
        }
    }

    /// A broken hold's host is up, undone or untouched: its token may be closed.
    fn settle_broken(&mut self, token: Token, state: &SequenceState) {
        if *state == SequenceState::Closed {
            self.forget_broken(token);
            return;
        }
        if let Some(broken) = self.state.broken.iter_mut().find(|b| b.token == token) {
            broken.settled = match state {
                SequenceState::Up
                | SequenceState::Refused { .. }
                | SequenceState::Undone { .. } => true,
                SequenceState::Running { .. }
                | SequenceState::Failed { .. }
                | SequenceState::Closed => false,
            };
        }
    }

    fn run_mut(
        &mut self,
        rollout: &RolloutId,
        host: &HostId,
    ) -> Option<&mut crate::state::HostRun> {
        self.state.rollouts.get_mut(rollout)?.host_mut(host)
    }
}

/// Reads name and bytes of a backup from the words of its last report: the name is what stands
/// first between backticks, the bytes are the number before `bytes`. What the words do not say is
/// taken from the progress before.
fn backup_of(seen: &str, before: Option<(String, u64)>) -> (String, u64) {
    let (name_before, bytes_before) = before.unwrap_or_default();
    let name = seen
        .split('`')
        .nth(1)
        .filter(|name| !name.is_empty() && !name.contains(char::is_whitespace))
        .map_or(name_before, str::to_owned);
    let words: Vec<&str> = seen.split_ascii_whitespace().collect();
    let bytes = words
        .windows(2)
        .find(|pair| {
            pair.last().is_some_and(|unit| unit.trim_matches([';', ',', '.', ')']) == "bytes")
        })
        .and_then(|pair| pair.first()?.parse().ok())
        .unwrap_or(bytes_before);
    (name, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backups_name_and_size_are_read_from_its_report() {
        let seen = "backup `trade-20261122T190843Z-hold3`: 49 files, 50519877 bytes; backup \
                    `trade-20261122T190843Z-hold3` is whole, 50519877 bytes; the interlock is on";
        let name = "trade-20261122T190843Z-hold3".to_owned();
        assert_eq!(backup_of(seen, None), (name, 50_519_877));
        let before = Some((String::new(), 77));
        assert_eq!(backup_of("all files verified", before), (String::new(), 77));
    }
}
