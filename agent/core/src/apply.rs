//! Folding: how each entry changes the state, and which entries are illegal.

use std::{collections::BTreeMap, sync::Arc};

use grayfin_types::{
    ClusterId, Code, NodeAlias, OrderNumber, Token,
    step::{SequenceState, Step},
};

use crate::{
    entry::{Answer, Authority, Body, Entry, Event, Order, StagingEvent, Task},
    mutation,
    state::{
        CanaryTask, Cluster, Failure, Hold, Phase, Progress, Staging, StagingState, State, Wanted,
    },
};

/// An entry that cannot follow the state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ledger entry {position} cannot follow: {why}")]
pub struct Illegal {
    /// Its position.
    pub position: u64,
    /// Why.
    pub why: String,
}

/// Folds a whole ledger.
pub fn fold<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Result<State, Illegal> {
    let mut state = State::default();
    for entry in entries {
        state.apply(entry)?;
    }
    Ok(state)
}

impl State {
    /// Takes one more entry in. An illegal one changes nothing.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), Illegal> {
        let position = self.position.saturating_add(1);
        self.apply_body(&entry.body).map_err(|why| Illegal { position, why })?;
        self.position = position;
        Ok(())
    }

    fn apply_body(&mut self, body: &Body) -> Result<(), String> {
        if self.ledger.is_none() != matches!(body, Body::Made { .. }) {
            return Err("the first entry, and no other, says whose ledger it is".to_owned());
        }
        match body {
            Body::Made { ledger, host } => {
                self.ledger = Some(ledger.clone());
                self.host = Some(host.clone());
            }
            Body::Raised { authority } => self.raise(authority)?,
            Body::Welcomed { authority, membership } => {
                self.raise(authority)?;
                if *membership < self.membership {
                    return Err("an older membership after a newer one".to_owned());
                }
                self.membership = *membership;
            }
            Body::Promised { token, authority, .. } => self.promised(*token, authority)?,
            Body::Ordered { order, answer, boot_id } => self.ordered(order, answer, boot_id)?,
            Body::Staging { cluster, number, event } => self.staging(cluster, *number, event)?,
            Body::CanaryAnswered { cluster, number } => {
                let owed = self.clusters.get_mut(cluster).map(|c| &mut c.canary_owed);
                if owed.and_then(|owed| owed.remove(number)).is_none() {
                    return Err(format!("no canary report is owed for order {number}"));
                }
            }
            Body::Sequence { token, event } => self.sequence(*token, event)?,
        }
        Ok(())
    }

    fn raise(&mut self, to: &Authority) -> Result<(), String> {
        let Some(now) = &self.authority else {
            self.authority = Some(to.clone());
            return Ok(());
        };
        if now.group != to.group {
            return Err(format!("group `{}` after group `{}`", to.group, now.group));
        }
        if (to.incarnation, to.term) < (now.incarnation, now.term)
            && !mutation::is("s2-older-authority")
        {
            return Err("an older authority after a newer one".to_owned());
        }
        if to.incarnation > now.incarnation {
            // Places in a log compare only within one incarnation.
            self.membership = 0;
        }
        self.authority = Some(to.clone());
        Ok(())
    }

    fn promised(&mut self, token: Token, authority: &Authority) -> Result<(), String> {
        if let Some(hold) = &self.hold
            && !mutation::is("s1-promise-while-held")
        {
            return Err(format!("a promise while hold {} is open", hold.token));
        }
        self.raise(authority)?;
        if !mutation::is("s2-forgets-promise") {
            self.floor = self.floor.max(token);
        }
        Ok(())
    }

    fn ordered(&mut self, order: &Order, answer: &Answer, boot_id: &str) -> Result<(), String> {
        if order.number <= self.last_order(&order.cluster) && !mutation::is("s8-order-twice") {
            return Err(format!("order {} after a later one", order.number));
        }
        if answer.accepted {
            // Checks first, so that an illegal entry changes nothing.
            self.check_accepted(order)?;
        }
        self.raise(&order.authority)?;
        if answer.accepted {
            self.accepted(order, boot_id);
        }
        let cluster = self.clusters.entry(order.cluster.clone()).or_default();
        cluster.last_order = Some((order.number, answer.clone()));
        Ok(())
    }

    fn check_accepted(&self, order: &Order) -> Result<(), String> {
        let own = self.hold.as_ref().filter(|h| h.token == order.token);
        match &order.task {
            Task::Run { .. } if self.hold.is_some() => Err("a second hold".to_owned()),
            Task::Run { .. }
                if order.token <= self.floor && !mutation::is("s2-takes-promised-token") =>
            {
                Err(format!("token {} at floor {}", order.token, self.floor))
            }
            Task::Retry | Task::Undo | Task::Abort if own.is_none() => {
                Err(format!("token {} is not open", order.token))
            }
            Task::Undo
                if own.is_some_and(|h| h.first_start)
                    && !mutation::is("s12-undo-after-first-start") =>
            {
                Err("an undo after the first start".to_owned())
            }
            Task::Close if self.hold.is_some() && own.is_none() && order.token > self.floor => {
                Err("another hold is open".to_owned())
            }
            Task::Close if own.is_some_and(|h| !h.may_close()) => {
                Err("a close of a host that is not whole".to_owned())
            }
            Task::Run { .. }
            | Task::Retry
            | Task::Undo
            | Task::Abort
            | Task::Close
            | Task::Stage { .. }
            | Task::CanaryStart { .. }
            | Task::CanaryStop { .. }
            | Task::CanaryCheck { .. }
            | Task::Debt { .. } => Ok(()),
        }
    }

    fn accepted(&mut self, order: &Order, boot_id: &str) {
        match &order.task {
            Task::Run { plan } => {
                self.hold = Some(Hold {
                    cluster: order.cluster.clone(),
                    token: order.token,
                    rollout: order.rollout.clone(),
                    plan: Arc::new(plan.as_ref().clone()),
                    boot_id: boot_id.to_owned(),
                    restarted: false,
                    steps: BTreeMap::new(),
                    phase: Phase::Forward,
                    failure: None,
                    wanted: Wanted::Nothing,
                    first_start: false,
                    start_failures: 0,
                    down: Vec::new(),
                    captured: BTreeMap::new(),
                    journal: Vec::new(),
                });
            }
            Task::Close => {
                self.floor = self.floor.max(order.token);
                self.hold.take_if(|hold| hold.token == order.token);
            }
            Task::Retry => self.on_hold(Hold::retry),
            Task::Undo => self.on_hold(Hold::undo),
            Task::Abort => self.on_hold(Hold::abort),
            Task::Stage { .. }
            | Task::CanaryStart { .. }
            | Task::CanaryStop { .. }
            | Task::CanaryCheck { .. } => {
                let cluster = self.clusters.entry(order.cluster.clone()).or_default();
                cluster.take(order);
            }
            Task::Debt { .. } => {}
        }
    }

    fn on_hold(&mut self, act: impl FnOnce(&mut Hold)) {
        if let Some(hold) = &mut self.hold {
            act(hold);
        }
    }

    fn staging(
        &mut self,
        cluster: &ClusterId,
        number: OrderNumber,
        event: &StagingEvent,
    ) -> Result<(), String> {
        let staging = self.clusters.get_mut(cluster).and_then(|c| c.staging.as_mut());
        let staging = staging
            .filter(|s| s.number == number)
            .ok_or_else(|| format!("staging for order {number}, which is not the newest"))?;
        staging.stage = match (event, staging.stage) {
            (StagingEvent::Started { attempt }, StagingState::Pending(_)) => {
                StagingState::Pending(*attempt)
            }
            (StagingEvent::Finished { .. }, StagingState::Pending(1..)) => StagingState::Done,
            (StagingEvent::Failed { .. }, StagingState::Pending(_)) => StagingState::Failed,
            (
                StagingEvent::Started { .. }
                | StagingEvent::Finished { .. }
                | StagingEvent::Failed { .. },
                StagingState::Pending(_) | StagingState::Done | StagingState::Failed,
            ) => return Err("staging that has ended, or did not begin, goes on".to_owned()),
        };
        Ok(())
    }

    fn sequence(&mut self, token: Token, event: &Event) -> Result<(), String> {
        let hold = self.hold.as_mut().filter(|hold| hold.token == token);
        hold.ok_or_else(|| format!("token {token} is not open"))?.apply(event)
    }
}

impl Cluster {
    fn take(&mut self, order: &Order) {
        match &order.task {
            Task::Stage { plan } => {
                self.staging = Some(Staging {
                    number: order.number,
                    rollout: order.rollout.clone(),
                    plan: Arc::new(plan.as_ref().clone()),
                    stage: StagingState::Pending(0),
                });
            }
            Task::CanaryStart { canary } => self.canary = Some((order.number, canary.clone())),
            Task::CanaryStop { canary } => {
                self.canary.take_if(|(_, now)| now.rollout == canary.rollout);
                self.canary_owed.insert(order.number, CanaryTask::Stop(canary.clone()));
            }
            Task::CanaryCheck { canary } => {
                self.canary_owed.insert(order.number, CanaryTask::Check(canary.clone()));
            }
            Task::Run { .. }
            | Task::Retry
            | Task::Undo
            | Task::Abort
            | Task::Close
            | Task::Debt { .. } => {}
        }
    }
}

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

    fn apply(&mut self, event: &Event) -> Result<(), String> {
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
