//! Folding: how each entry changes the state, and which entries are illegal.

mod hold;

use std::{collections::BTreeMap, sync::Arc};

use grayfin_types::{ClusterId, Code, HostId, OrderNumber, Token, ledger::Readmit};

use crate::{
    entry::{Answer, Authority, Body, Entry, Event, Order, StagingEvent, Task},
    mutation,
    state::{
        CanaryTask, Cluster, Hold, LastOrder, Phase, Staging, StagingState, State, Taken, Wanted,
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
            Body::Promised { token, authority, held, .. } => {
                self.promised(*token, authority, held.as_ref())?;
            }
            Body::Readmitted { readmit, authority } => self.readmitted(readmit, authority)?,
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
        if to.term > now.term && mutation::is("s2-newer-term-aborts") {
            self.on_hold(Hold::abort);
        }
        self.authority = Some(to.clone());
        Ok(())
    }

    fn promised(
        &mut self,
        token: Token,
        authority: &Authority,
        held: Option<&HostId>,
    ) -> Result<(), String> {
        if let Some(hold) = &self.hold
            && !mutation::is("s1-promise-while-held")
        {
            return Err(format!("a promise while hold {} is open", hold.token));
        }
        self.raise(authority)?;
        if !mutation::is("s2-forgets-promise") {
            self.floor = self.floor.max(token);
        }
        if let Some(held) = held {
            let known = self.promised_for.entry(held.clone()).or_default();
            *known = token.max(*known);
        }
        Ok(())
    }

    fn readmitted(&mut self, readmit: &Readmit, authority: &Authority) -> Result<(), String> {
        if let Some(hold) = &self.hold
            && readmit.closes != Some(hold.token)
        {
            return Err(format!("a readmission that does not name hold {}", hold.token));
        }
        self.raise(authority)?;
        if !mutation::is("s8-readmit-without-floor") {
            self.floor = self.floor.max(readmit.floor).max(readmit.closes.unwrap_or_default());
        }
        // What an enrolment takes over proves nothing about the host.
        if readmit.proven() {
            self.own = self.own.max(self.floor);
        }
        self.hold = None;
        for (cluster, number) in &readmit.orders {
            let cluster = self.clusters.entry(cluster.clone()).or_default();
            if cluster.last_order.as_ref().is_none_or(|last| last.number < *number) {
                let why = "it was given before the host was readmitted";
                let answer = Answer::no(Code::AgentAmnesic, why);
                cluster.last_order = Some(LastOrder { number: *number, taken: None, answer });
            }
        }
        if readmit.forget {
            for cluster in self.clusters.values_mut() {
                let last_order = cluster.last_order.take();
                *cluster = Cluster { last_order, ..Cluster::default() };
            }
        }
        self.readmitted = Some(readmit.act.clone());
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
        cluster.last_order = Some(LastOrder {
            number: order.number,
            taken: Some(Taken {
                incarnation: order.authority.incarnation,
                token: order.token,
                rollout: order.rollout.clone(),
                task: Arc::new(order.task.clone()),
            }),
            answer: answer.clone(),
        });
        Ok(())
    }

    fn check_accepted(&self, order: &Order) -> Result<(), String> {
        let own = self.hold.as_ref().filter(|h| h.token == order.token);
        match &order.task {
            Task::Run { .. } if self.hold.is_some() && !mutation::is("s1-run-while-held") => {
                Err("a second hold".to_owned())
            }
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
                self.own = self.own.max(order.token);
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
                self.own = self.own.max(order.token);
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
