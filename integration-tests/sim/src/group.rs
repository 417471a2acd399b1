//! A group of coordinators: one linearizable log, and replicas of which one drives.
//!
//! Raft itself is openraft's and its glue's business; here it is what it promises: a command is
//! committed once, in order, by the leader of the newest confirmed term alone, or it is lost before
//! that. A leader that was deposed goes on for a while with what it knew, and sends what follows from
//! it, but commits nothing and gives no go.

use std::collections::BTreeMap;

use grayfin_agent_core::entry::{Authority, Order, Task};
use grayfin_coordinator_core::{
    Applied, Cmd, Decision, Response, Stamped, State, View, apply, decide,
    decide::OrderWanted,
    go::{Ask, go},
    state::{OrderBody, OrderKind},
};
use grayfin_types::{HostId, Incarnation, Term};

use crate::{
    message::{Happening, ToHost},
    world::World,
};

/// The same request is not sent again sooner.
const AGAIN_MS: u64 = 150;
/// A request for a go waits so long for facts.
const GO_WAITS_MS: u64 = 400;

/// One coordinator.
#[derive(Debug, Default)]
pub struct Replica {
    /// Its process runs.
    pub up: bool,
    /// What it sees, while it leads.
    pub view: View,
    /// It was deposed and does not know: what it knew then, and until when.
    pub stale: Option<(Box<State>, u64)>,
    /// A decision is on its way.
    pub deciding: bool,
    /// When each request was sent last.
    pub sent: BTreeMap<(HostId, u64), u64>,
    /// Requests for a go that wait, with the host and until when.
    pub gos: Vec<(Ask, usize, u64)>,
}

/// A group.
#[derive(Debug)]
pub struct Group {
    /// It exists.
    pub alive: bool,
    /// What is committed.
    pub state: State,
    /// Who leads the newest confirmed term.
    pub leader: Option<usize>,
    /// An election is on its way.
    pub electing: bool,
    /// Its coordinators.
    pub replicas: Vec<Replica>,
}

/// A hash that is good enough for a chain here.
pub fn hasher(bytes: &[u8]) -> String {
    let mut sum: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in bytes {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{sum:016x}")
}

impl Group {
    /// Makes one of so many coordinators around a state.
    pub fn new(coordinators: usize, state: State) -> Self {
        let replicas = (0..coordinators).map(|_| Replica { up: true, ..Replica::default() });
        Self { alive: true, state, leader: None, electing: false, replicas: replicas.collect() }
    }

    /// Says in whose name the leader of this state speaks.
    pub fn authority(state: &State) -> Authority {
        Authority {
            group: state.group.clone(),
            incarnation: state.incarnation,
            term: state.lease.as_ref().map_or(Term(0), |lease| lease.term),
        }
    }

    /// Tells whether a majority of its coordinators runs.
    pub fn has_majority(&self) -> bool {
        self.replicas.iter().filter(|r| r.up).count() * 2 > self.replicas.len()
    }
}

impl World {
    /// Commits a command, or does not: the leader may die before or after.
    pub(crate) fn propose(&mut self, g: usize, cmd: Cmd) -> Option<Response> {
        let leader = self.groups[g].leader?;
        if !self.groups[g].has_majority() {
            return None;
        }
        let place = self.dies_at_commit();
        if place == Some(true) {
            self.tally.note("coordinator killed before a commit");
            self.kill_replica(g, leader);
            return None;
        }
        let response = self.commit(g, cmd);
        if place == Some(false) {
            self.tally.note("coordinator killed after a commit");
            self.kill_replica(g, leader);
            return None;
        }
        self.hurry(g, leader);
        Some(response)
    }

    pub(crate) fn commit(&mut self, g: usize, cmd: Cmd) -> Response {
        let at_ms = 1_700_000_000_000 + self.now_ms;
        let before = self.look_before(g, &cmd);
        let stamped = Stamped { at_ms, cmd };
        let Applied { response, violations, .. } =
            apply(&mut self.groups[g].state, &stamped, &hasher);
        for violation in violations {
            self.truth.expect("core", false, || format!("{} {}", violation.id, violation.detail));
        }
        if self.trace.is_some() && !matches!(stamped.cmd, Cmd::CanaryReported(_)) {
            let words: String = format!("{:?}", stamped.cmd).chars().take(200).collect();
            let answer: String = format!("{response:?}").chars().take(120).collect();
            self.say(|_| format!("group {g} commits {words} -> {answer}"));
        }
        self.judge_commit(g, &before, &stamped.cmd, &response);
        response
    }

    /// Has a coordinator decide soon.
    pub(crate) fn hurry(&mut self, group: usize, replica: usize) {
        let one = &mut self.groups[group].replicas[replica];
        if one.up && !one.deciding {
            one.deciding = true;
            self.after(2, Happening::Decide { group, replica });
        }
    }

    pub(crate) fn kill_replica(&mut self, g: usize, r: usize) {
        if !self.groups[g].replicas[r].up {
            return;
        }
        self.say(|_| format!("coordinator {g}.{r} dies"));
        self.groups[g].replicas[r] = Replica::default();
        self.end_sessions_of(g, r);
        if self.groups[g].leader == Some(r) {
            self.groups[g].leader = None;
        }
        let after = self.dice.between(50, 1_500);
        self.after(after, Happening::ReplicaStart { group: g, replica: r });
        self.elect_soon(g);
    }

    pub(crate) fn elect_soon(&mut self, group: usize) {
        if !self.groups[group].electing {
            self.groups[group].electing = true;
            let after = self.dice.between(30, 300);
            self.after(after, Happening::Elect { group });
        }
    }

    /// A coordinator is elected; one that led and lives may not know that it was deposed.
    pub(crate) fn elect(&mut self, g: usize) {
        self.groups[g].electing = false;
        if !self.groups[g].alive || !self.groups[g].has_majority() {
            return;
        }
        let up: Vec<usize> =
            (0..self.groups[g].replicas.len()).filter(|r| self.groups[g].replicas[*r].up).collect();
        let before = self.groups[g].leader;
        let others: Vec<usize> = up.iter().copied().filter(|r| Some(*r) != before).collect();
        let from = if others.is_empty() { &up } else { &others };
        let leader = from[self.dice.index(from.len())];
        if let Some(old) = before.filter(|old| *old != leader) {
            let until = self.now_ms + self.dice.between(50, 900);
            let state = Box::new(self.groups[g].state.clone());
            self.groups[g].replicas[old].stale = Some((state, until));
            self.tally.note("deposed coordinator does not know it");
        }
        let one = &mut self.groups[g].replicas[leader];
        one.view = View::default();
        one.stale = None;
        one.gos.clear();
        one.sent.clear();
        self.groups[g].leader = Some(leader);
        self.tally.note("coordinator elected");
        self.end_sessions_of(g, leader);
        let term = self.groups[g].state.lease.as_ref().map_or(Term(1), |l| l.term.next());
        if self.groups[g].state.group.is_empty() {
            let group = "g".to_owned();
            self.commit(g, Cmd::Found { group, incarnation: Incarnation(1) });
        }
        self.commit(g, Cmd::Lease { coordinator: leader as u64, term });
        self.hurry(g, leader);
    }

    /// A coordinator looks what to do.
    pub(crate) fn decide(&mut self, g: usize, r: usize) {
        self.groups[g].replicas[r].deciding = false;
        if !self.groups[g].alive || !self.groups[g].replicas[r].up {
            return;
        }
        if self.groups[g].leader != Some(r) {
            self.decide_deposed(g, r);
            return;
        }
        for _ in 0..40 {
            let group = &mut self.groups[g];
            let view = &mut group.replicas[r].view;
            view.tick(&group.state, self.now_ms);
            let mut decision = decide(&group.state, view, self.now_ms);
            self.send_wanted(g, r, &decision, None);
            self.groups[g].replicas[r].view.damp(&mut decision, self.now_ms);
            if decision.commands.is_empty() {
                break;
            }
            let mut progress = false;
            for command in decision.commands {
                match self.propose(g, command) {
                    None => return,
                    Some(Response::Ignored { .. } | Response::Refused { .. }) => {}
                    Some(
                        Response::Done
                        | Response::Enrolled { .. }
                        | Response::Started { .. }
                        | Response::Allotted { .. }
                        | Response::Committed { .. }
                        | Response::Go { .. },
                    ) => progress = true,
                }
            }
            if !progress {
                break;
            }
        }
        self.answer_gos(g, r);
    }

    /// It still believes that it leads: it sends what follows from what it knew.
    fn decide_deposed(&mut self, g: usize, r: usize) {
        let Some((state, until)) = self.groups[g].replicas[r].stale.take() else { return };
        if self.now_ms >= until {
            self.groups[g].replicas[r].view = View::default();
            self.end_sessions_of(g, r);
            return;
        }
        let view = &mut self.groups[g].replicas[r].view;
        view.tick(&state, self.now_ms);
        let decision = decide(&state, view, self.now_ms);
        if !decision.wanted.orders.is_empty() || !decision.wanted.promises.is_empty() {
            self.tally.note("deposed coordinator sent orders or promise requests");
        }
        self.send_wanted(g, r, &decision, Some(&state));
        self.groups[g].replicas[r].stale = Some((state, until));
    }

    /// Sends what is wanted; a deposed coordinator does so from the state that it knew.
    fn send_wanted(&mut self, g: usize, r: usize, decision: &Decision, stale: Option<&State>) {
        let by = Group::authority(stale.unwrap_or(&self.groups[g].state));
        for wanted in &decision.wanted.promises {
            if let Some(h) = self.host_index(&wanted.host)
                && self.due(g, r, &wanted.host, wanted.token.0 << 32)
            {
                let held = wanted.held.clone();
                self.send(g, r, h, ToHost::Promise(by.clone(), wanted.token, held));
            }
        }
        for wanted in &decision.wanted.orders {
            let Some(h) = self.host_index(&wanted.host) else { continue };
            if !self.due(g, r, &wanted.host, wanted.order.number.0) {
                continue;
            }
            let state = stale.unwrap_or(&self.groups[g].state);
            if let Some(order) = document(state, wanted, &by) {
                self.send(g, r, h, ToHost::Order(Box::new(order)));
            }
        }
    }

    fn due(&mut self, g: usize, r: usize, host: &HostId, what: u64) -> bool {
        let now_ms = self.now_ms;
        let sent = &mut self.groups[g].replicas[r].sent;
        let last = sent.entry((host.clone(), what)).or_insert(0);
        let due = *last == 0 || now_ms >= *last + AGAIN_MS;
        if due {
            *last = now_ms;
        }
        due
    }

    fn answer_gos(&mut self, g: usize, r: usize) {
        for (ask, h, until) in std::mem::take(&mut self.groups[g].replicas[r].gos) {
            if self.groups[g].leader != Some(r) {
                return;
            }
            let group = &self.groups[g];
            let answer = go(&group.state, &group.replicas[r].view, &ask, self.now_ms);
            if answer.wait {
                self.tally.note("go waits for facts");
                if self.now_ms < until {
                    self.groups[g].replicas[r].gos.push((ask, h, until));
                }
                continue;
            }
            let by = Group::authority(&self.groups[g].state);
            let allowed = match answer.record {
                None => false,
                Some(record) => match self.propose(g, record) {
                    Some(Response::Go { allowed, .. }) => allowed,
                    Some(
                        Response::Done
                        | Response::Ignored { .. }
                        | Response::Refused { .. }
                        | Response::Enrolled { .. }
                        | Response::Started { .. }
                        | Response::Allotted { .. }
                        | Response::Committed { .. },
                    )
                    | None => continue,
                },
            };
            let confirmed = self.groups[g].alive;
            let (token, request) = (ask.token, ask.request);
            self.send(g, r, h, ToHost::Go { by, token, request, allowed, confirmed });
        }
    }

    /// A request for a go reached the leader.
    pub(crate) fn go_asked(&mut self, g: usize, r: usize, h: usize, ask: Ask) {
        self.abort_at_a_bad_moment();
        let until = self.now_ms + GO_WAITS_MS;
        self.groups[g].replicas[r].gos.push((ask, h, until));
        self.hurry(g, r);
    }
}

/// Makes an order as it goes over the wire; none if its rollout is gone.
fn document(state: &State, wanted: &OrderWanted, by: &Authority) -> Option<Order> {
    let order = &wanted.order;
    let plan = || state.rollouts.get(&order.rollout).map(|r| Box::new(r.plan.clone()));
    let canary = || match &order.body {
        OrderBody::Canary(canary) => Some(canary.clone()),
        OrderBody::Nothing | OrderBody::Plan | OrderBody::Debt(_) => None,
    };
    let debt = || match &order.body {
        OrderBody::Debt(debt) => Some(debt.clone()),
        OrderBody::Nothing | OrderBody::Plan | OrderBody::Canary(_) => None,
    };
    let task = match order.kind {
        OrderKind::Stage => Task::Stage { plan: plan()? },
        OrderKind::Run => Task::Run { plan: plan()? },
        OrderKind::Retry => Task::Retry,
        OrderKind::Undo => Task::Undo,
        OrderKind::Abort => Task::Abort,
        OrderKind::Close => Task::Close,
        OrderKind::CanaryStart => Task::CanaryStart { canary: canary()? },
        OrderKind::CanaryStop => Task::CanaryStop { canary: canary()? },
        OrderKind::CanaryCheck => Task::CanaryCheck { canary: canary()? },
        OrderKind::Debt => Task::Debt { debt: debt()?, failed: None },
    };
    Some(Order {
        authority: by.clone(),
        cluster: wanted.cluster.clone(),
        number: order.number,
        token: order.token,
        rollout: order.rollout.clone(),
        task,
    })
}
