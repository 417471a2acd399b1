//! What entries of the host sequence do to an open hold.

use grayfin_types::{
    Code, NodeAlias,
    step::{SequenceState, Step},
};

use crate::{
    entry::Event,
    mutation,
    state::{Failure, Hold, Phase, Progress, Wanted},
};

impl Hold {
    /// Tells whether the host is whole: up on the new version, or never disturbed, or undone (S3).
    pub(crate) fn may_close(&self) -> bool {
        match &self.phase {
            Phase::Ended(
                SequenceState::Up | SequenceState::Refused { .. } | SequenceState::Undone { .. },
            ) => true,
            Phase::Ended(
                SequenceState::Failed { .. }
                | SequenceState::Running { .. }
                | SequenceState::Closed,
            )
            | Phase::Forward
            | Phase::Undoing
            | Phase::Stuck => false,
        }
    }

    pub(crate) fn retry(&mut self) {
        if self.first_start {
            self.start_again();
            self.start_failures = 0;
        } else {
            // What is undone begins anew; what is half-way stays begun, so that it is undone should
            // the guard, which is asked again in any case (S4), say no.
            self.steps.retain(|step, now| *step != Step::Guard && *now != Progress::Undone);
            // What an upgrade had taken back went through the installation, where anybody may have
            // changed it: the package is proven anew, before anything is stopped (S5).
            if !self.begun(Step::Upgrade) {
                self.steps.remove(&Step::Stage);
            }
            for progress in self.steps.values_mut().filter(|now| **now != Progress::Done) {
                *progress = Progress::Failed;
            }
        }
        self.failure = None;
        self.wanted = Wanted::Nothing;
        self.phase = Phase::Forward;
    }

    pub(crate) fn undo(&mut self) {
        match &self.phase {
            Phase::Forward => self.wanted = Wanted::Undo,
            Phase::Ended(SequenceState::Failed { .. }) => self.undo_again(),
            Phase::Undoing | Phase::Stuck | Phase::Ended(_) => {}
        }
    }

    pub(crate) fn abort(&mut self) {
        match &self.phase {
            Phase::Forward => self.wanted = self.wanted.max(Wanted::Abort),
            Phase::Ended(SequenceState::Failed { .. }) if self.first_start => self.retry(),
            Phase::Ended(SequenceState::Failed { .. }) => self.undo_again(),
            Phase::Undoing | Phase::Stuck | Phase::Ended(_) => {}
        }
    }

    /// Start and join are done again; nothing before them ever is after the first start.
    fn start_again(&mut self) {
        self.steps.retain(|step, _| *step < Step::Start);
    }

    fn undo_again(&mut self) {
        for progress in self.steps.values_mut() {
            if matches!(progress, Progress::UndoBegun(_) | Progress::UndoFailed) {
                // Counts its attempts anew.
                *progress = Progress::Failed;
            }
        }
        self.phase = Phase::Undoing;
    }

    pub(super) fn apply(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Started { step, attempt } => self.started(*step, *attempt)?,
            Event::FirstStart => {
                self.expect(Step::Start, Phase::Forward, |p| matches!(p, Progress::Begun(_)))?;
                self.may_go_on()?;
                self.first_start = true;
            }
            Event::Finished { step, .. } => {
                self.expect(*step, Phase::Forward, |p| matches!(p, Progress::Begun(_)))?;
                let unmarked = mutation::is("s12-no-first-start");
                if *step == Step::Start && !self.first_start && !unmarked {
                    return Err("a start without the first-start intent".to_owned());
                }
                self.steps.insert(*step, Progress::Done);
            }
            Event::Failed { step, code, message } => self.failed(*step, *code, message)?,
            Event::UndoStarted { step, attempt } => {
                self.expect(*step, Phase::Undoing, |p| p != Progress::Undone)?;
                if self.first_start && !mutation::is("s12-undo-after-first-start") {
                    return Err("an undo after the first start".to_owned());
                }
                self.steps.insert(*step, Progress::UndoBegun(*attempt));
            }
            Event::Undone { step, .. } => {
                self.expect(*step, Phase::Undoing, |p| matches!(p, Progress::UndoBegun(_)))?;
                self.steps.insert(*step, Progress::Undone);
                self.journal.retain(|(of, _, _)| of != step);
            }
            Event::UndoFailed { step, code, message } => {
                self.expect(*step, Phase::Undoing, |p| matches!(p, Progress::UndoBegun(_)))?;
                self.steps.insert(*step, Progress::UndoFailed);
                self.phase = Phase::Stuck;
                self.undo_failed(*step, *code, message);
            }
            Event::Captured { key, value } => {
                // The first one counts (S10).
                if mutation::is("s10-captures-again") {
                    self.captured.insert(key.clone(), value.clone());
                }
                self.captured.entry(key.clone()).or_insert_with(|| value.clone());
            }
            Event::Journal { step, key, value } => {
                self.journal.push((*step, key.clone(), value.clone()));
            }
            Event::GoingDown { nodes } => self.going_down(nodes)?,
            Event::HostRestarted { boot_id } => self.host_restarted(boot_id),
            Event::Ended { state } => self.ended(state)?,
        }
        Ok(())
    }

    fn expect(
        &self,
        step: Step,
        phase: Phase,
        good: impl Fn(Progress) -> bool,
    ) -> Result<(), String> {
        if self.phase != phase {
            return Err(format!("step `{step}` while the sequence is {:?}", self.phase));
        }
        match self.steps.get(&step) {
            Some(progress) if good(*progress) => Ok(()),
            other => Err(format!("step `{step}` while it is {other:?}")),
        }
    }

    /// An order that came while an action was being prepared wins.
    fn may_go_on(&self) -> Result<(), String> {
        if self.must_turn_round() || self.restarted {
            return Err("an operator, or a restart of the machine, turned the sequence".to_owned());
        }
        Ok(())
    }

    fn started(&mut self, step: Step, attempt: u32) -> Result<(), String> {
        if self.phase != Phase::Forward {
            return Err(format!("step `{step}` begins while the sequence is {:?}", self.phase));
        }
        if self.current() != Some(step) {
            return Err(format!("step `{step}` begins before its turn or again"));
        }
        self.may_go_on()?;
        self.steps.insert(step, Progress::Begun(attempt));
        Ok(())
    }

    fn failed(&mut self, step: Step, code: Code, message: &str) -> Result<(), String> {
        if self.phase != Phase::Forward || self.current() != Some(step) {
            return Err(format!("step `{step}` failed while it was not its turn"));
        }
        if self.steps.contains_key(&step) {
            self.steps.insert(step, Progress::Failed);
        }
        self.restarted = false;
        if self.first_start {
            self.start_failures = self.start_failures.saturating_add(1);
            if self.start_failures <= self.plan.policy.start_attempts {
                self.start_again();
                return Ok(());
            }
        }
        self.failure = Some(Failure { step, code, message: message.to_owned() });
        let back = !self.first_start || mutation::is("s12-undo-after-first-start");
        self.phase = if back { Phase::Undoing } else { Phase::Stuck };
        Ok(())
    }

    fn undo_failed(&mut self, step: Step, code: Code, message: &str) {
        let first = self.failure.take();
        let because = first.map_or_else(String::new, |f| {
            format!(
                "; it was to be undone because step `{}` failed: {} {}",
                f.step, f.code, f.message
            )
        });
        self.failure = Some(Failure {
            step,
            code: Code::UndoFailed,
            message: format!("undoing step `{step}` failed: {code} {message}{because}"),
        });
    }

    fn going_down(&mut self, nodes: &[NodeAlias]) -> Result<(), String> {
        let stopping = self.phase == Phase::Forward
            && self.done(Step::Guard)
            && matches!(self.current(), Some(Step::Quiesce | Step::Stop));
        if !stopping {
            return Err("nodes go down outside `quiesce` and `stop`".to_owned());
        }
        self.may_go_on()?;
        for node in nodes {
            if !self.down.contains(node) {
                self.down.push(node.clone());
            }
        }
        Ok(())
    }

    fn host_restarted(&mut self, boot_id: &str) {
        boot_id.clone_into(&mut self.boot_id);
        match &self.phase {
            // Processes of the new version are gone: they are started again.
            Phase::Forward | Phase::Ended(SequenceState::Up) if self.first_start => {
                self.start_again();
                self.phase = Phase::Forward;
            }
            // Interlocked and backed up: nothing can have run, so the way on is open.
            Phase::Forward if self.done(Step::Backup) => {}
            // Anything may have started or not: back to how it was.
            Phase::Forward if self.begun(Step::Quiesce) => self.restarted = true,
            // Nothing was disturbed, but the guard looked at another life of this host.
            Phase::Forward => {
                self.steps.remove(&Step::Guard);
            }
            // What was started again is gone again.
            Phase::Undoing => {
                for step in [Step::Quiesce, Step::Stop] {
                    if let Some(progress @ Progress::Undone) = self.steps.get_mut(&step) {
                        *progress = Progress::Failed;
                    }
                }
            }
            Phase::Stuck | Phase::Ended(_) => {}
        }
    }

    fn ended(&mut self, state: &SequenceState) -> Result<(), String> {
        let fits = match state {
            SequenceState::Up => self.phase == Phase::Forward && self.current().is_none(),
            SequenceState::Refused { .. } => self.phase == Phase::Undoing && !self.disturbed(),
            SequenceState::Undone { .. } => self.phase == Phase::Undoing,
            SequenceState::Failed { .. } => self.phase == Phase::Stuck,
            SequenceState::Running { .. } | SequenceState::Closed => false,
        };
        if !fits {
            return Err(format!("end {state:?} while the sequence is {:?}", self.phase));
        }
        self.wanted = Wanted::Nothing;
        self.phase = Phase::Ended(state.clone());
        Ok(())
    }
}
