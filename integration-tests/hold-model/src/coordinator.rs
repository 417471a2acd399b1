//! The coordinators' side: the real state and the real `apply`, each answer computed once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use grayfin_coordinator_core::{
    Cmd, Response, Stamped, State, View, apply,
    cmd::{Action, Control, Enrol, GoDecided, OrderAnswered, PromiseAnswered, Start},
    decide, hold,
    state::{HoldStage, OrderKind},
    view::Connection,
};
use grayfin_types::{
    Generation, Incarnation, LedgerId, OrderNumber, Seq, Term, Token,
    step::{Happened, Report, Step},
};

use crate::{
    intern::{Interner, Memo},
    words::{self, Asked, GROUP, Told, cluster, host, host_number, rollout, rollout_number, small},
};

/// A command, small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Deed {
    /// A coordinator takes the lead, in the next term.
    Lead,
    /// An operator declares that the state was restored: the next incarnation.
    Raise,
    /// A host agent says hello.
    Hello {
        /// Which.
        host: u8,
        /// Its certificate's generation.
        generation: u8,
        /// Its ledger.
        ledger: u8,
        /// The ledger's position.
        position: u16,
        /// Its last order.
        last_order: u8,
    },
    /// A token is allotted for this host.
    Allot(u8),
    /// The token is given up.
    Abandon,
    /// The hold takes effect.
    Grant,
    /// The held host is to close.
    Close,
    /// A broken hold's host is to close.
    CloseBroken,
    /// An operator's act.
    Operator(Act),
    /// A host agent answered a promise request.
    Promise {
        /// Which.
        host: u8,
        /// The token.
        token: u8,
        /// Yes.
        yes: bool,
    },
    /// A host agent answered an order.
    Answer {
        /// Which.
        host: u8,
        /// The order.
        number: u8,
        /// Its token.
        token: u8,
        /// Taken up.
        yes: bool,
        /// The sequence's state then.
        told: Option<Told>,
    },
    /// A host agent reported; position 0 is not in its ledger.
    Report {
        /// Which.
        host: u8,
        /// The token.
        token: u8,
        /// What.
        told: Told,
        /// Where in its ledger.
        position: u16,
    },
    /// A go is asked for by this host.
    Go(u8),
}

/// What operators do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Act {
    /// Pause.
    Pause,
    /// Resume.
    Resume,
    /// Abort.
    Abort,
    /// Retry.
    Retry,
    /// Leave the held host out.
    Skip,
    /// Leave a host out that waits.
    SkipHost(u8),
    /// Roll the held host back.
    Rollback,
    /// Break the hold.
    Break,
    /// Attest that this host is powered off.
    Attest(u8),
    /// Start the second rollout.
    Start,
}

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
            let hello =
                Deed::Hello { host: number, generation: 1, ledger: 1, position: 1, last_order: 0 };
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
        let answer = Deed::Answer { host, number, token: 0, yes: true, told };
        let staged = Deed::Report { host, token: 0, told: Told::Up, position: 0 };
        for deed in [answer, staged] {
            let cmd = command(state, deed).expect("answers and reports always fit");
            drop(run(state, cmd));
        }
    }
    drop(run(state, Cmd::SetBaseline { rollout: rollout(number), chunks: Vec::new() }));
    true
}

/// Makes the real command.
fn command(state: &State, deed: Deed) -> Option<Cmd> {
    let held = || state.holds.get(&cluster());
    let active = || state.active(&cluster()).map(|r| r.id.clone());
    Some(match deed {
        Deed::Lead => {
            let term = state.lease.as_ref().map_or(Term(1), |lease| lease.term.next());
            Cmd::Lease { coordinator: 1, term }
        }
        Deed::Raise => {
            let incarnation = Incarnation(state.incarnation.0.saturating_add(1));
            Cmd::Found { group: GROUP.to_owned(), incarnation }
        }
        Deed::Hello { host: of, generation, ledger, position, last_order } => Cmd::Enrol(Enrol {
            host: host(of),
            clusters: BTreeSet::from([cluster()]),
            generation: Generation(generation.into()),
            ledger_id: ledger_id(of, ledger),
            ledger_position: position.into(),
            agent_version: String::new(),
            last_orders: BTreeMap::from([(cluster(), OrderNumber(last_order.into()))]),
            ledger: None,
        }),
        Deed::Allot(of) => Cmd::AllotToken { rollout: active()?, host: host(of) },
        Deed::Abandon => {
            let held = held()?;
            Cmd::AbandonToken { rollout: held.rollout.clone(), token: held.token }
        }
        Deed::Grant => {
            let held = held()?;
            Cmd::Grant {
                rollout: held.rollout.clone(),
                host: held.host.clone(),
                token: held.token,
                reason: String::new(),
                findings: Vec::new(),
            }
        }
        Deed::Close => {
            let held = held()?;
            let (rollout, host) = (held.rollout.clone(), held.host.clone());
            Cmd::Close { rollout, host, token: held.token, soaked_ms: 1 }
        }
        Deed::CloseBroken => {
            Cmd::CloseBroken { token: state.broken.iter().find(|b| b.settled)?.token }
        }
        Deed::Operator(act) => Cmd::Control(control(state, act)?),
        Deed::Promise { .. } | Deed::Answer { .. } | Deed::Report { .. } => heard(deed)?,
        Deed::Go(of) => {
            let held = held()?;
            Cmd::Go(GoDecided {
                rollout: held.rollout.clone(),
                host: host(of),
                token: held.token,
                request: 1,
                action: String::new(),
                allowed: true,
                reasons: Vec::new(),
            })
        }
    })
}

/// Makes the real command of what a host agent said.
fn heard(deed: Deed) -> Option<Cmd> {
    Some(match deed {
        Deed::Promise { host: of, token, yes } => Cmd::RecordPromise(PromiseAnswered {
            host: host(of),
            cluster: cluster(),
            token: Token(token.into()),
            promised: yes,
            code: None,
            why: String::new(),
            ledger_position: 0,
            chain: String::new(),
        }),
        Deed::Answer { host: of, number, token, yes, told } => Cmd::OrderAnswered(OrderAnswered {
            host: host(of),
            cluster: cluster(),
            number: OrderNumber(number.into()),
            token: Token(token.into()),
            accepted: yes,
            code: None,
            why: String::new(),
            ledger_position: 0,
            chain: String::new(),
            state: told.map(Told::state),
        }),
        Deed::Report { host: of, token, told, position } => Cmd::Reported {
            report: Report {
                host: host(of),
                token: Token(token.into()),
                step: Step::Stop,
                undo: false,
                happened: Happened::State { state: told.state() },
                seen: String::new(),
                position: position.into(),
                chain: String::new(),
                at_ms: 0,
            },
        },
        Deed::Lead
        | Deed::Raise
        | Deed::Hello { .. }
        | Deed::Allot(_)
        | Deed::Abandon
        | Deed::Grant
        | Deed::Close
        | Deed::CloseBroken
        | Deed::Operator(_)
        | Deed::Go(_) => return None,
    })
}

fn control(state: &State, act: Act) -> Option<Control> {
    let active = state.active(&cluster()).map(|r| r.id.clone());
    let action = match act {
        Act::Pause => Action::Pause,
        Act::Resume => Action::Resume,
        Act::Abort => Action::Abort,
        Act::Retry => Action::Retry,
        Act::Skip => Action::Skip { host: None },
        Act::SkipHost(of) => Action::Skip { host: Some(host(of)) },
        Act::Rollback => Action::RollbackHost,
        Act::Break => Action::BreakHold { token: state.holds.get(&cluster())?.token },
        Act::Attest(of) => {
            let token = hold::tokens_of(state, &host(of)).into_iter().next()?;
            Action::AttestPoweredOff { host: host(of), token }
        }
        Act::Start => return None,
    };
    // An abort or a retry of an ended rollout with a broken hold brings its host up.
    let broken = || state.broken.first().map(|b| b.rollout.clone());
    let of = active.or_else(broken).or_else(|| state.rollouts.keys().next().cloned())?;
    Some(Control {
        // Every act is a new wish; the memory of answers is taken out of the state below.
        request_id: format!("{act:?}"),
        rollout: of,
        action,
        reason: "because".to_owned(),
        by: "ann".to_owned(),
    })
}

fn ledger_id(of: u8, ledger: u8) -> LedgerId {
    format!("ledger-{of}-{ledger}").parse().expect("a word is a ledger's id")
}

/// Takes out what is only told to people, so that states differ only where the protocol does.
fn strip(state: &mut State, exact: bool) {
    state.requests.clear();
    state.request_order.clear();
    for enrolment in state.hosts.values_mut() {
        if let Some(why) = &mut enrolment.amnesic {
            "amnesic".clone_into(why);
        }
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
