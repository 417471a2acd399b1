//! Asking the leading controller, whoever that is at the moment.

use super::{Action, Body, CallError, Member};
use crate::ids::{Alias, Millis, RequestId, Tid};
use crate::message::{Answer, Ask};

/// Least wait between two rounds over all controllers, in real milliseconds: long against a
/// round trip.
const PAUSE_MIN_MS: u64 = 25;

/// A question that has no answer yet.
#[derive(Debug)]
pub(super) struct Pending {
    ask: Ask,
    purpose: Purpose,
    deadline: Millis,
    attempts: usize,
    retry_at: Option<Millis>,
    target: Option<Alias>,
}

/// What an answer is for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    Nothing,
    Heartbeat,
    Report,
    /// This node's own evaluator waits for it.
    Local(RequestId),
    Begin(Tid),
    Commit(Tid),
    /// How another node's transaction ended.
    Ended(Tid),
    /// A replica was asked to prepare.
    Prepared(Tid, Alias),
    /// A part of a chunk that is copied here.
    Copied(u64),
    /// The leader was told how far a copy is.
    CopyReported(u64),
    /// One attempt of a question in `asks`.
    Attempt(u64),
}

impl Member {
    /// Asks until there is an answer or the deadline passes.
    pub(super) fn ask(&mut self, now: Millis, ask: Ask, purpose: Purpose, deadline: Millis) {
        let id = self.number();
        let pending = Pending { ask, purpose, deadline, attempts: 0, retry_at: None, target: None };
        self.asks.insert(id, pending);
        self.try_ask(now, id);
    }

    fn try_ask(&mut self, now: Millis, id: u64) {
        let controllers = &self.settings.controllers;
        let Some(pending) = self.asks.get_mut(&id) else { return };
        let target = match &self.leader {
            Some(leader) => leader.clone(),
            None if controllers.is_empty() => return,
            None => {
                self.turn = (self.turn + 1) % controllers.len();
                match controllers.get(self.turn) {
                    Some(alias) => alias.clone(),
                    None => return,
                }
            }
        };
        pending.attempts += 1;
        pending.retry_at = None;
        pending.target = Some(target.clone());
        let body = Body::Ask(pending.ask.clone());
        let left = pending.deadline.saturating_sub(now).max(1);
        let call = self.number();
        self.calls.insert(call, Purpose::Attempt(id));
        let timeout_ms = left.min(self.settings.timing.heartbeat_timeout_ms);
        self.out.push(Action::Call { call, to: target, body, timeout_ms });
    }

    pub(super) fn on_called(&mut self, now: Millis, call: u64, result: Result<Answer, CallError>) {
        let Some(purpose) = self.calls.remove(&call) else { return };
        match purpose {
            Purpose::Attempt(id) => self.on_attempt(now, id, result),
            Purpose::Prepared(tid, alias) => self.on_prepared(now, tid, &alias, result),
            Purpose::Copied(task) => self.on_copied(now, task, result),
            Purpose::Nothing
            | Purpose::Heartbeat
            | Purpose::Report
            | Purpose::Local(_)
            | Purpose::Begin(_)
            | Purpose::Commit(_)
            | Purpose::Ended(_)
            | Purpose::CopyReported(_) => {}
        }
    }

    fn on_attempt(&mut self, now: Millis, id: u64, result: Result<Answer, CallError>) {
        let Some(target) = self.asks.get(&id).and_then(|p| p.target.clone()) else { return };
        match result {
            Ok(Answer::NotLeader { leader }) => {
                let hint = leader.filter(|l| *l != target);
                let known = hint.is_some();
                if self.leader.as_ref() == Some(&target) || known {
                    self.leader = hint;
                }
                self.again(now, id);
            }
            Ok(Answer::NotReady) => {
                self.leader = Some(target);
                self.later(now, id);
            }
            Ok(answer) => {
                self.leader = Some(target);
                if let Some(pending) = self.asks.remove(&id) {
                    self.deliver(now, pending.purpose, Some(answer));
                }
            }
            Err(_) => {
                if self.leader.as_ref() == Some(&target) {
                    self.leader = None;
                }
                self.again(now, id);
            }
        }
    }

    /// At once, unless all controllers had their turn.
    fn again(&mut self, now: Millis, id: u64) {
        let round = self.settings.controllers.len().max(1);
        match self.asks.get(&id) {
            Some(pending) if pending.attempts % round == 0 => self.later(now, id),
            Some(pending) if now >= pending.deadline => self.give_up(now, id),
            Some(_) => self.try_ask(now, id),
            None => {}
        }
    }

    fn later(&mut self, now: Millis, id: u64) {
        // Eight rounds per heartbeat: short against the shortest election.
        let pause = (self.settings.timing.heartbeat_ms / 8).max(PAUSE_MIN_MS);
        match self.asks.get_mut(&id) {
            Some(pending) if now >= pending.deadline => self.give_up(now, id),
            Some(pending) => pending.retry_at = Some(now + pause),
            None => {}
        }
    }

    fn give_up(&mut self, now: Millis, id: u64) {
        if let Some(pending) = self.asks.remove(&id) {
            self.deliver(now, pending.purpose, None);
        }
    }

    pub(super) fn ask_wakeup(&self) -> Option<Millis> {
        self.asks.values().filter_map(|p| p.retry_at).min()
    }

    pub(super) fn retry_asks(&mut self, now: Millis) {
        let due: Vec<u64> = self
            .asks
            .iter()
            .filter(|(_, p)| p.retry_at.is_some_and(|at| now >= at))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.try_ask(now, id);
        }
    }

    /// Hands an answer, or its absence, to whoever asked.
    fn deliver(&mut self, now: Millis, purpose: Purpose, answer: Option<Answer>) {
        match purpose {
            Purpose::Heartbeat => {
                self.heartbeat_open = false;
                if let Some(Answer::Alive(alive)) = answer {
                    self.on_alive(now, *alive);
                }
            }
            Purpose::Report => {
                self.report_open = false;
                if let Some(answer) = answer {
                    self.on_reported(now, answer);
                }
            }
            Purpose::Local(request) => {
                let text = "<ControllerNotAvail>The leader of the controllers is not available.";
                let answer = answer.unwrap_or_else(|| Answer::Failed(text.to_owned()));
                self.reply(request, answer);
            }
            Purpose::Begin(tid) => self.on_begun(now, tid, answer),
            Purpose::Commit(tid) => self.on_committed(tid, answer),
            Purpose::Ended(tid) => self.on_ended(tid, answer),
            Purpose::CopyReported(task) => self.on_copy_reported(now, task, answer),
            Purpose::Nothing | Purpose::Prepared(..) | Purpose::Copied(_) | Purpose::Attempt(_) => {
            }
        }
    }
}
