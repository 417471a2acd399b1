//! The coordinators' side: the real state and the real `apply`, each answer computed once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use grayfin_coordinator_core::{
    Cmd, Response, Stamped, State, View, apply,
    cmd::Start,
    decide,
    state::{HoldStage, OrderKind},
    view::Connection,
};
use grayfin_types::{Incarnation, Seq, Term, Token};

use crate::{
    deeds::{Act, Deed, command},
    intern::{Interner, Memo},
    words::{self, Asked, GROUP, Told, cluster, host, host_number, rollout, rollout_number, small},
};

/// What a coordinator wants to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Want {
    /// To which host's agent.
    pub to: u8,
    /// The token.
    pub token: u8,
    /// What for.
    pub asked: Asked,
}

/// A coordinators' state, and what follows from it.
#[derive(Debug)]
pub struct Life {
    /// The state.
    pub state: State,
    /// What it wants to send.
    pub wants: BTreeSet<Want>,
}

impl Life {
    /// The incarnation and term of its orders.
    pub fn authority(&self) -> (u8, u8) {
        let term = self.state.lease.as_ref().map_or(0, |lease| lease.term.0);
        (small(self.state.incarnation.0), small(term))
    }

    /// The hold: token, host, and whether it is in force or being closed.
    pub fn hold(&self) -> Option<(u8, u8, bool)> {
        let held = self.state.holds.get(&cluster())?;
        let in_force = held.stage != HoldStage::Asking;
        Some((small(held.token.0), host_number(&held.host), in_force))
    }

    /// Tells whether this host's token is held in force, or broken and not closed yet.
    pub fn remembers(&self, of: u8, token: u8) -> bool {
        let held = self.hold() == Some((token, of, true));
        held || self
            .state
            .broken
            .iter()
            .any(|b| host_number(&b.host) == of && small(b.token.0) == token)
    }

    /// Tells whether an operator attested that this host is powered off.
    pub fn gone(&self, of: u8) -> bool {
        self.state.hosts.get(&host(of)).is_some_and(|e| e.gone.is_some())
    }

    /// Tells whether the host's agent is told that its ledger is an old one.
    pub fn amnesic(&self, of: u8) -> bool {
        self.state.hosts.get(&host(of)).is_some_and(|e| e.amnesic.is_some())
    }

    /// Returns the floor that a host's new ledger is to take over, with the enrolment's generation.
    pub fn floor_for(&self, of: u8) -> Option<(u8, u8)> {
        let enrolment = self.state.hosts.get(&host(of))?;
        let readmit = &enrolment.readmission.as_ref()?.readmit;
        Some((small(readmit.floor.0), small(enrolment.generation.0)))
    }

    /// Returns up to which position this host's reports are in the event log.
    pub fn committed(&self, of: u8) -> u16 {
        let committed = self.state.hosts.get(&host(of)).map_or(0, |e| e.committed_position);
        u16::try_from(committed).unwrap_or(u16::MAX)
    }
}

/// What came of a deed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// The state that follows.
    pub life: u32,
    /// It was not refused or ignored; for a go: it is allowed.
    pub yes: bool,
}

/// All coordinators' states that were met.
#[derive(Debug)]
pub struct Coordinators {
    lives: Interner<Life>,
    done: Memo<(u32, Deed), Done>,
    /// Ledger positions are exact, because ledgers may be lost.
    exact: bool,
}

impl Coordinators {
    /// Makes an empty collection.
    pub fn new(exact: bool) -> Self {
        Self { lives: Interner::default(), done: Memo::default(), exact }
    }

    /// A group with three hosts and a rollout that has staged and taken its baseline.
    pub fn first(&self) -> u32 {
        let mut state = State::default();
        let mut take = |cmd| drop(run(&mut state, cmd));
        take(Cmd::Found { group: GROUP.to_owned(), incarnation: Incarnation(1) });
        take(Cmd::Lease { coordinator: 1, term: Term(1) });
        for number in 0..words::HOSTS {
            let number = small(u64::try_from(number).unwrap_or(0));
            let hello = Deed::Hello {
                host: number,
                generation: 1,
                ledger: 1,
                position: 1,
                last_order: 0,
                floor: 0,
                taken: 0,
            };
            let cmd = command(&State::default(), hello).expect("a hello always fits");
            take(cmd);
        }
        start(&mut state, 1);
        self.keep(state)
    }

    /// Returns a state that was met.
    pub fn life(&self, number: u32) -> Arc<Life> {
        self.lives.value(number)
    }

    /// Returns how many states were met.
    pub fn met(&self) -> usize {
        self.lives.len()
    }

    /// Does a deed.
    pub fn deed(&self, life: u32, deed: Deed) -> Done {
        self.done.get((life, deed), || {
            let mut state = self.life(life).state.clone();
            let yes = if deed == Deed::Operator(Act::Start) {
                start(&mut state, 2)
            } else {
                match command(&state, deed).map(|cmd| run(&mut state, cmd)) {
                    None | Some(Response::Ignored { .. } | Response::Refused { .. }) => false,
                    Some(Response::Go { allowed, .. }) => allowed,
                    Some(
                        Response::Done
                        | Response::Enrolled { .. }
                        | Response::Started { .. }
                        | Response::Allotted { .. }
                        | Response::Committed { .. },
                    ) => true,
                }
            };
            Done { life: self.keep(state), yes }
        })
    }

    fn keep(&self, mut state: State) -> u32 {
        strip(&mut state, self.exact);
        let text = serde_json::to_string(&state).expect("a state has a JSON form");
        let wants = wants(&state);
        self.lives.number(text, Life { state, wants })
    }
}

fn run(state: &mut State, cmd: Cmd) -> Response {
    let applied = apply(state, &Stamped { at_ms: 1, cmd }, &|_| "#".to_owned());
    assert!(applied.violations.is_empty(), "{:?}", applied.violations);
    applied.response
}

/// Starts a rollout and takes it through staging, which disturbs nothing.
fn start(state: &mut State, number: u8) -> bool {
    let begin = Start {
        request_id: format!("start-{number}"),
        rollout: rollout(number),
        plan: words::plan(),
        findings: Vec::new(),
        by: "ann".to_owned(),
    };
    if !matches!(run(state, Cmd::Start(Box::new(begin))), Response::Started { .. }) {
        return false;
    }
    let orders: Vec<_> = state
        .hosts
        .values()
        .flat_map(|e| e.outboxes.values().flat_map(|o| o.pending.iter()).map(|o| (&e.host, o)))
        .filter(|(_, order)| order.kind == OrderKind::Stage)
        .map(|(host, order)| (host_number(host), small(order.number.0)))
        .collect();
    for (host, number) in orders {
        let told = None;
        let answer = Deed::Answer { host, number, token: 0, yes: true, told, position: 0 };
        let staged = Deed::Report { host, token: 0, told: Told::Up, position: 0 };
        for deed in [answer, staged] {
            let cmd = command(state, deed).expect("answers and reports always fit");
            drop(run(state, cmd));
        }
    }
    drop(run(state, Cmd::SetBaseline { rollout: rollout(number), chunks: Vec::new() }));
    true
}

/// Takes out what is only told to people, so that states differ only where the protocol does.
fn strip(state: &mut State, exact: bool) {
    state.requests.clear();
    state.request_order.clear();
    for enrolment in state.hosts.values_mut() {
        if let Some(why) = &mut enrolment.amnesic {
            "amnesic".clone_into(why);
        }
        // What witnesses are judged by; the model's promises name no host.
        (enrolment.allotted, enrolment.own) = (Token(0), Token(0));
        if !exact {
            enrolment.ledger_position = 0;
        }
    }
    for held in state.holds.values_mut() {
        for promise in &mut held.promises {
            promise.refusal = None;
        }
    }
    for entry in state.rollouts.values_mut() {
        entry.last_seq = Seq(0);
        entry.last_hash = String::new();
        entry.waiting.clear();
        entry.waiting_since_ms = None;
        entry.halted = None;
        for run in &mut entry.hosts {
            run.attempt = 0;
            run.started_ms = None;
            run.last_go = None;
            run.sequence = run.sequence.take().map(|state| Told::of(&state).state());
        }
    }
}

/// Asks the real decision what is to be sent while every host agent is connected.
fn wants(state: &State) -> BTreeSet<Want> {
    let mut view = View::default();
    for enrolment in state.hosts.values() {
        let connection = Connection {
            session_id: "1".to_owned(),
            since_ms: 0,
            ledger_id: enrolment.ledger_id.clone(),
            fences: BTreeMap::new(),
        };
        view.connected(&enrolment.host, connection);
    }
    let wanted = decide(state, &view, 1).wanted;
    let promises = wanted.promises.iter().map(|p| Want {
        to: host_number(&p.host),
        token: small(p.token.0),
        asked: Asked::Promise,
    });
    let orders = wanted.orders.iter().map(|o| Want {
        to: host_number(&o.host),
        token: small(o.order.token.0),
        asked: Asked::Order {
            number: small(o.order.number.0),
            kind: o.order.kind,
            rollout: rollout_number(&o.order.rollout),
        },
    });
    promises.chain(orders).collect()
}
