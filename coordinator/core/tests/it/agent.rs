//! A fake host agent: a ledger, the fence, and a sequence that takes its host's nodes down and up.

use std::collections::BTreeMap;

use grayfin_coordinator_core::{
    cmd::{CanaryReported, OrderAnswered, PromiseAnswered},
    go::Ask,
    state::{OrderBody, OrderEntry, OrderKind},
};
use grayfin_types::{
    Code, DdbVersion, HostId, NodeAlias, OrderNumber, RolloutId, Token,
    facts::{NodeRole, Probe},
    plan::{DebtOrder, Effect},
    status::CanaryStatus,
    step::{Happened, Report, SequenceState, Step},
};

use crate::model::{Model, cluster, version};

/// What a host agent says.
#[derive(Debug, Clone)]
pub(crate) enum Said {
    Promise(PromiseAnswered),
    Answer(OrderAnswered),
    Report(Report),
    Go(Ask),
    Canary(CanaryReported),
}

/// How a sequence is to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The guard refuses.
    Refuse,
    /// The step fails and is undone (before the first start).
    Undo(Step),
    /// The step fails and cannot be undone, or must not be.
    Fail(Step),
}

#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) token: Token,
    pub(crate) step: Step,
    pub(crate) ended: Option<SequenceState>,
    pub(crate) first_start: bool,
    pub(crate) abort: bool,
    began_ms: u64,
    go: Option<(u64, u64)>,
    go_for: Vec<NodeAlias>,
}

#[derive(Debug, Clone)]
pub(crate) struct PlayedHostAgent {
    pub(crate) host: HostId,
    pub(crate) ledger: String,
    pub(crate) position: u64,
    pub(crate) floor: Token,
    pub(crate) hold: Option<Work>,
    pub(crate) last_order: Option<(OrderNumber, OrderAnswered)>,
    pub(crate) reports: Vec<Report>,
    pub(crate) fault: Option<Fault>,
    pub(crate) target: Option<DdbVersion>,
    pub(crate) runs: u32,
    pub(crate) rows_lost: u64,
    pub(crate) rows_unread: u64,
    /// What it did in the cluster as a whole.
    pub(crate) effects: Vec<DebtOrder>,
    effects_had: usize,
    /// It reaches no DolphinDB controller.
    pub(crate) cannot_reach: bool,
    staging: bool,
    canary: Option<(RolloutId, u64, u64)>,
    acked: BTreeMap<u64, u64>,
    requests: u64,
    pub(crate) out: Vec<Said>,
}

impl PlayedHostAgent {
    pub(crate) fn new(host: HostId) -> Self {
        Self {
            ledger: format!("ledger-{host}"),
            host,
            position: 1,
            floor: Token(0),
            hold: None,
            last_order: None,
            reports: Vec::new(),
            fault: None,
            target: None,
            runs: 0,
            rows_lost: 0,
            rows_unread: 0,
            effects: Vec::new(),
            effects_had: 0,
            cannot_reach: false,
            staging: false,
            canary: None,
            acked: BTreeMap::new(),
            requests: 0,
            out: Vec::new(),
        }
    }

    pub(crate) fn open_hold(&self) -> Option<Token> {
        self.hold.as_ref().map(|h| h.token)
    }

    fn report(&mut self, token: Token, step: Step, happened: Happened) {
        self.position += 1;
        let report = Report {
            host: self.host.clone(),
            token,
            step,
            undo: false,
            happened,
            seen: String::new(),
            position: self.position,
            chain: String::new(),
            at_ms: 0,
        };
        self.reports.push(report.clone());
        self.out.push(Said::Report(report));
    }

    /// After a reconnect: reports that were not committed are sent again.
    pub(crate) fn resend(&mut self, committed: u64) {
        self.out.clear();
        let again = self.reports.iter().filter(|r| r.position > committed).cloned();
        self.out.extend(again.map(Said::Report));
        if let Some(hold) = &mut self.hold {
            // A go that was asked for over the old link is not waited for.
            hold.go = None;
        }
    }

    pub(crate) fn promise(&mut self, token: Token) {
        let promised = self.hold.is_none();
        if promised && token > self.floor {
            self.floor = token;
            self.position += 1;
        }
        self.out.push(Said::Promise(PromiseAnswered {
            host: self.host.clone(),
            cluster: cluster(),
            token,
            promised,
            code: (!promised).then_some(Code::HoldOpen),
            why: if promised { String::new() } else { "a hold is open".to_owned() },
            ledger_position: self.position,
            chain: String::new(),
        }));
    }

    pub(crate) fn order(&mut self, order: &OrderEntry, target: &DdbVersion, now_ms: u64) {
        if let Some((number, answer)) = &self.last_order {
            if order.number == *number {
                self.out.push(Said::Answer(answer.clone()));
                return;
            }
            if order.number < *number {
                let answer = self.answer(order, Err((Code::TokenStale, "an older order")));
                self.out.push(Said::Answer(answer));
                return;
            }
        }
        let outcome = self.judge(order);
        self.position += 1;
        let answer = self.answer(order, outcome);
        self.last_order = Some((order.number, answer.clone()));
        self.out.push(Said::Answer(answer.clone()));
        if answer.accepted {
            self.take(order, target, now_ms);
        }
    }

    fn judge(&self, order: &OrderEntry) -> Result<Option<SequenceState>, (Code, &'static str)> {
        let own = self.hold.as_ref().filter(|h| h.token == order.token);
        match order.kind {
            OrderKind::Run if self.hold.is_some() => Err((Code::HoldOpen, "a hold is open")),
            OrderKind::Run if order.token <= self.floor => Err((Code::TokenStale, "old token")),
            OrderKind::Run => Ok(Some(SequenceState::Running { step: Step::Stage })),
            OrderKind::Retry | OrderKind::Undo | OrderKind::Abort if own.is_none() => {
                Err((Code::TokenStale, "the token is not open"))
            }
            OrderKind::Debt if self.cannot_reach => Err((Code::AgentMissing, "ctl2 not reached")),
            OrderKind::Undo if own.is_some_and(|h| h.first_start) => {
                Err((Code::UndoImpossible, "the first start was made"))
            }
            OrderKind::Close => match own.map(|h| &h.ended) {
                None => Ok(Some(SequenceState::Closed)),
                Some(Some(
                    SequenceState::Up
                    | SequenceState::Refused { .. }
                    | SequenceState::Undone { .. },
                )) => Ok(Some(SequenceState::Closed)),
                Some(_) => Err((Code::WrongState, "the host is not whole")),
            },
            _ => Ok(None),
        }
    }

    fn answer(
        &self,
        order: &OrderEntry,
        outcome: Result<Option<SequenceState>, (Code, &'static str)>,
    ) -> OrderAnswered {
        let (accepted, state, code, why) = match outcome {
            Ok(state) => (true, state, None, ""),
            Err((code, why)) => (false, None, Some(code), why),
        };
        OrderAnswered {
            host: self.host.clone(),
            cluster: cluster(),
            number: order.number,
            token: order.token,
            accepted,
            code,
            why: why.to_owned(),
            ledger_position: self.position,
            chain: String::new(),
            state,
        }
    }

    fn take(&mut self, order: &OrderEntry, target: &DdbVersion, now_ms: u64) {
        match order.kind {
            OrderKind::Stage => self.staging = true,
            OrderKind::Run => {
                self.runs += 1;
                self.target = Some(target.clone());
                self.hold = Some(Work {
                    token: order.token,
                    step: Step::Guard,
                    ended: None,
                    first_start: false,
                    abort: false,
                    began_ms: now_ms,
                    go: None,
                    go_for: Vec::new(),
                });
                let state = SequenceState::Running { step: Step::Guard };
                self.report(order.token, Step::Guard, Happened::State { state });
            }
            OrderKind::Retry => {
                if let Some(hold) = &mut self.hold {
                    hold.ended = None;
                    hold.began_ms = now_ms;
                    hold.step = if hold.first_start { Step::Start } else { Step::Guard };
                    let state = SequenceState::Running { step: hold.step };
                    let (token, step) = (hold.token, hold.step);
                    self.report(token, step, Happened::State { state });
                }
            }
            OrderKind::Undo | OrderKind::Abort => {
                if let Some(hold) = &mut self.hold {
                    hold.abort = true;
                    let failed = matches!(hold.ended, Some(SequenceState::Failed { .. }));
                    if hold.first_start && failed {
                        hold.ended = None;
                        hold.step = Step::Start;
                    }
                }
            }
            OrderKind::Close => {
                self.floor = self.floor.max(order.token);
                self.hold = self.hold.take().filter(|h| h.token != order.token);
                self.report(
                    order.token,
                    Step::Join,
                    Happened::State { state: SequenceState::Closed },
                );
            }
            OrderKind::CanaryStart => {
                if let OrderBody::Canary(canary) = &order.body {
                    self.canary = Some((canary.rollout.clone(), canary.epoch, 0));
                }
            }
            OrderKind::CanaryStop => self.canary = None,
            OrderKind::Debt => {
                if let OrderBody::Debt(debt) = &order.body {
                    self.effects.push(debt.clone());
                }
            }
            OrderKind::CanaryCheck => {
                if let OrderBody::Canary(canary) = &order.body {
                    let acked: u64 = self.acked.values().sum();
                    let status = CanaryStatus {
                        acknowledged: acked,
                        verified: acked.saturating_sub(self.rows_lost + self.rows_unread),
                        lost: self.rows_lost,
                        ..CanaryStatus::default()
                    };
                    self.out.push(Said::Canary(CanaryReported {
                        rollout: canary.rollout.clone(),
                        host: self.host.clone(),
                        epoch: canary.epoch,
                        order: order.number,
                        status,
                    }));
                }
            }
        }
    }

    pub(crate) fn go_answered(
        &mut self,
        request: u64,
        allowed: bool,
        model: &mut Model,
        now_ms: u64,
    ) {
        let Some(hold) = &mut self.hold else { return };
        if hold.go.is_none_or(|(asked, _)| asked != request) {
            return;
        }
        hold.go = None;
        if !allowed {
            self.end_badly(Code::NoGo, model, now_ms);
            return;
        }
        for node in std::mem::take(&mut hold.go_for) {
            model.set_up(&node, false, now_ms);
        }
        hold.began_ms = now_ms;
    }

    /// A step fails: undone before the first start, kept after it.
    fn end_badly(&mut self, code: Code, model: &mut Model, now_ms: u64) {
        let Some(hold) = &mut self.hold else { return };
        let message = "it failed".to_owned();
        let (token, step) = (hold.token, hold.step);
        let state = if hold.first_start {
            SequenceState::Failed { step, code, message, first_start: true }
        } else {
            for node in model.of_host(&self.host).map(|n| n.spec.alias.clone()).collect::<Vec<_>>()
            {
                if !model.of_host(&self.host).any(|n| n.spec.alias == node && n.up) {
                    model.set_up(&node, true, now_ms);
                }
            }
            let refused = matches!(step, Step::Guard);
            if refused {
                SequenceState::Refused { step, code, message }
            } else {
                SequenceState::Undone { step, code, message }
            }
        };
        hold.ended = Some(state.clone());
        self.report(token, step, Happened::State { state });
    }

    /// What the host agent does by itself, connected or not.
    pub(crate) fn work(&mut self, model: &mut Model, connected: bool, now_ms: u64) {
        for told in self.effects.iter().skip(self.effects_had) {
            if let Effect::RestartInterval { original_s } = told.effect {
                let now_s = if told.pay { original_s } else { 0 };
                model.restart_interval_s = Probe::Known(now_s);
            }
        }
        self.effects_had = self.effects.len();
        if self.staging {
            self.staging = false;
            self.report(Token(0), Step::Stage, Happened::Started);
            self.report(Token(0), Step::Stage, Happened::Finished { took_ms: 1 });
        }
        self.write_canary();
        self.step(model, connected, now_ms);
    }

    fn write_canary(&mut self) {
        let Some((rollout, epoch, rows)) = &mut self.canary else { return };
        *rows += 20;
        self.acked.insert(*epoch, *rows);
        let status = CanaryStatus {
            state: "writing".to_owned(),
            host: Some(self.host.clone()),
            sent: *rows,
            acknowledged: *rows,
            ..CanaryStatus::default()
        };
        self.out.push(Said::Canary(CanaryReported {
            rollout: rollout.clone(),
            host: self.host.clone(),
            epoch: *epoch,
            order: OrderNumber(0),
            status,
        }));
    }

    fn step(&mut self, model: &mut Model, connected: bool, now_ms: u64) {
        let fault = self.fault;
        let Some(hold) = &mut self.hold else { return };
        if hold.abort && !hold.first_start {
            let failed = matches!(hold.ended, None | Some(SequenceState::Failed { .. }));
            hold.abort = false;
            if failed {
                hold.go = None;
                if hold.step == Step::Guard {
                    hold.step = Step::Quiesce;
                }
                self.end_badly(Code::Aborted, model, now_ms);
            }
            return;
        }
        if hold.ended.is_some() {
            return;
        }
        if let Some((_, asked_ms)) = hold.go {
            if now_ms.saturating_sub(asked_ms) > 3_000 {
                hold.go = None;
                self.end_badly(Code::NoGo, model, now_ms);
            }
            return;
        }
        if now_ms.saturating_sub(hold.began_ms) < 300 {
            return;
        }
        let (token, step) = (hold.token, hold.step);
        match fault {
            Some(Fault::Refuse) if step == Step::Guard => {
                self.end_badly(Code::GuardRefused, model, now_ms);
                return;
            }
            Some(Fault::Undo(at)) if at == step => {
                self.end_badly(Code::StopFailed, model, now_ms);
                return;
            }
            Some(Fault::Fail(at)) if at == step => {
                let first_start = step >= Step::Start;
                hold.first_start |= first_start;
                let (code, message) = (Code::StartFailed, "it does not start".to_owned());
                let state = SequenceState::Failed { step, code, message, first_start };
                hold.ended = Some(state.clone());
                self.report(token, step, Happened::State { state });
                return;
            }
            _ => {}
        }
        let down = |role: fn(NodeRole) -> bool| -> Vec<NodeAlias> {
            let of_host = model.of_host(&self.host);
            of_host.filter(|n| n.up && role(n.spec.role)).map(|n| n.spec.alias.clone()).collect()
        };
        let wanted = match step {
            Step::Quiesce => down(|role| role == NodeRole::DataNode),
            Step::Stop => down(|role| role != NodeRole::DataNode),
            _ => Vec::new(),
        };
        if !wanted.is_empty() {
            if !connected {
                self.end_badly(Code::NoGo, model, now_ms);
                return;
            }
            self.requests += 1;
            hold.go = Some((self.requests, now_ms));
            hold.go_for.clone_from(&wanted);
            self.out.push(Said::Go(Ask {
                cluster: cluster(),
                host: self.host.clone(),
                token,
                request: self.requests,
                nodes: wanted,
            }));
            return;
        }
        if step == Step::Start {
            hold.first_start = true;
            let target = self.target.clone().unwrap_or_else(|| version(crate::model::NEW));
            let own: Vec<_> = model.of_host(&self.host).map(|n| n.spec.alias.clone()).collect();
            for name in own {
                model.node_mut(name.as_str()).version = target.clone();
                model.set_up(&name, true, now_ms);
            }
        }
        let next = Step::ALL.into_iter().find(|s| *s > step);
        hold.began_ms = now_ms;
        match next {
            Some(next) => {
                hold.step = next;
                self.report(token, step, Happened::Finished { took_ms: 1 });
                self.report(token, next, Happened::Started);
            }
            None => {
                hold.ended = Some(SequenceState::Up);
                self.report(token, step, Happened::Finished { took_ms: 1 });
                self.report(token, step, Happened::State { state: SequenceState::Up });
            }
        }
    }
}
