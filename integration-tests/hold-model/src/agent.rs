//! The host agents' side: the real ledger fold, the real fence and the real sequence, each answer
//! computed once.

use std::{collections::BTreeMap, sync::Arc};

use grayfin_agent_core::{
    Body, Entry, State,
    entry::{Authority, Event, Order, Task},
    fence::{self, Promise, Readmission, Verdict},
    report,
    sequence::{self, Action, Checked, Outcome, Seen, Success},
    state::Failure,
};
use grayfin_coordinator_core::state::OrderKind;
use grayfin_types::{
    Code, Incarnation, OrderNumber, Term, Token,
    ledger::Readmit,
    raise::Raise,
    step::{Happened, Step},
};

use crate::{
    deeds::act,
    intern::{Interner, Memo},
    rules::Rule,
    words::{Asked, GROUP, Message, Told, cluster, host, plan, rollout, small},
};

/// A sequence has far fewer turns than this; more would be an endless loop.
const TURNS_MAX: usize = 200;

/// How a sequence goes on from where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// As well as it can.
    Well,
    /// The step that comes next fails, and what was done is undone.
    Fails,
    /// It fails, and the undoing fails.
    UndoFails,
    /// The new version does not start.
    StartFails,
    /// The machine is restarted, then all goes as well as it can.
    Restart,
}

/// What happens to a host agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// A coordinator of this incarnation and term welcomes it.
    Welcome {
        /// The incarnation.
        incarnation: u8,
        /// The term.
        term: u8,
    },
    /// A promise request or an order comes.
    Message(Message),
    /// The sequence goes on until it needs a go.
    Begin,
    /// A go came and is obeyed: the intent is recorded, the nodes go down.
    Down,
    /// The sequence goes on to its end.
    Finish(Fate),
    /// The ledger is lost: a new one with this number.
    Lose(u8),
    /// A new ledger takes the floor of the others over, as it came with a welcome.
    TakeFloor {
        /// The floor.
        floor: u8,
        /// Of the enrolment.
        generation: u8,
        /// The incarnation of who says so.
        incarnation: u8,
        /// The term.
        term: u8,
    },
}

/// A report that the ledger makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reported {
    /// The token.
    pub token: u8,
    /// What.
    pub told: Told,
    /// The entry's position.
    pub position: u16,
}

/// A host agent's ledger, folded.
#[derive(Debug, Clone)]
pub struct Life {
    /// Which host.
    pub host: u8,
    /// Which ledger.
    pub ledger: u8,
    /// The machine's boot, which changes with each restart.
    pub boot: u8,
    /// The fold.
    pub state: State,
    /// What it reports.
    pub reports: Vec<Reported>,
}

/// How a host agent answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reply {
    /// Not at all.
    Nothing,
    /// To a welcome: the coordinator is known or newer; or it is refused.
    Welcome(bool),
    /// To a promise request.
    Promise(bool),
    /// To an order.
    Order {
        /// Taken up.
        yes: bool,
        /// The sequence's state then.
        told: Option<Told>,
        /// It was recorded just now.
        fresh: bool,
    },
}

impl Life {
    /// Tokens up to this one are refused.
    pub fn floor(&self) -> u8 {
        small(self.state.floor.0)
    }

    /// The open hold's token.
    pub fn open(&self) -> Option<u8> {
        self.state.open_hold().map(|token| small(token.0))
    }

    /// The last order's number.
    pub fn last_order(&self) -> u8 {
        small(self.state.last_order(&cluster()).0)
    }

    /// The highest authority seen.
    pub fn authority(&self) -> (u8, u8) {
        let known = self.state.authority.as_ref();
        known.map_or((0, 0), |a| (small(a.incarnation.0), small(a.term.0)))
    }

    /// The enrolment whose floor it has taken over, by its generation; 0 for none.
    pub fn taken(&self) -> u8 {
        let act = self.state.readmitted.as_deref().and_then(|act| act.rsplit_once(' '));
        act.and_then(|(_, generation)| generation.parse().ok()).unwrap_or(0)
    }

    /// The ledger's position.
    pub fn position(&self) -> u16 {
        u16::try_from(self.state.position).unwrap_or(u16::MAX)
    }

    fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    /// Records an entry. False when the fold finds it illegal.
    fn write(&mut self, body: Body, exact: bool) -> bool {
        let entry = Entry { at_ms: 0, body };
        if self.state.apply(&entry).is_err() {
            return false;
        }
        let made = report::of(&host(self.host), self.state.position, "", &entry);
        if let Some(made) = made
            && let Happened::State { state } = &made.happened
        {
            let next = self.reports.len().saturating_add(1);
            let counted = u16::try_from(next).unwrap_or(u16::MAX);
            let position = if exact { self.position() } else { counted };
            let (token, told) = (small(made.token.0), Told::of(state));
            self.reports.push(Reported { token, told, position });
        }
        if !exact {
            self.state.position = 1;
        }
        true
    }

    fn event(&mut self, event: Event, exact: bool) -> bool {
        let Some(token) = self.state.open_hold() else { return false };
        self.write(Body::Sequence { token, event }, exact)
    }
}

/// All host agents' ledgers that were met.
#[derive(Debug)]
pub struct Agents {
    lives: Interner<Life>,
    done: Memo<(u32, Input), (u32, Reply)>,
    exact: bool,
    rule: Option<Rule>,
}

impl Agents {
    /// Makes an empty collection; `rule` is left out.
    pub fn new(exact: bool, rule: Option<Rule>) -> Self {
        Self { lives: Interner::default(), done: Memo::default(), exact, rule }
    }

    /// A host agent with a new ledger.
    pub fn first(&self, of: u8) -> u32 {
        self.keep(made(of, 1))
    }

    /// Returns a ledger that was met.
    pub fn life(&self, number: u32) -> Arc<Life> {
        self.lives.value(number)
    }

    /// Returns how many ledgers were met.
    pub fn met(&self) -> usize {
        self.lives.len()
    }

    /// Lets something happen.
    pub fn happen(&self, life: u32, input: Input) -> (u32, Reply) {
        self.done.get((life, input), || {
            let mut next = Life::clone(&self.life(life));
            let reply = self.take(&mut next, input);
            (self.keep(next), reply)
        })
    }

    fn keep(&self, life: Life) -> u32 {
        self.lives.number(format!("{life:?}"), life)
    }

    fn take(&self, life: &mut Life, input: Input) -> Reply {
        match input {
            Input::Welcome { incarnation, term } => self.welcome(life, incarnation, term),
            Input::Message(message) => match message.asked {
                Asked::Promise => Reply::Promise(self.promise(life, message)),
                Asked::Order { number, kind, rollout } => {
                    self.order(life, message, number, kind, rollout)
                }
            },
            Input::Begin => {
                self.go_on(life, Fate::Well, true);
                Reply::Nothing
            }
            Input::Down => {
                let nodes = vec!["node1".parse().expect("a word is a node's alias")];
                life.event(Event::GoingDown { nodes }, self.exact);
                Reply::Nothing
            }
            Input::Finish(fate) => {
                if fate == Fate::Restart {
                    life.boot = life.boot.saturating_add(1);
                }
                self.go_on(life, fate, false);
                Reply::Nothing
            }
            Input::TakeFloor { floor, generation, incarnation, term } => {
                self.take_floor(life, floor, generation, &authority(incarnation, term));
                Reply::Nothing
            }
            Input::Lose(ledger) => {
                *life = Life { boot: life.boot, ..made(life.host, ledger) };
                Reply::Nothing
            }
        }
    }

    fn welcome(&self, life: &mut Life, incarnation: u8, term: u8) -> Reply {
        let by = authority(incarnation, term);
        // A declared restore comes with an operator's signed act; a clone has nothing to show.
        let raise = (incarnation > 1).then(|| Raise {
            group: GROUP.to_owned(),
            from: Incarnation(u64::from(incarnation).saturating_sub(1)),
            to: Incarnation(incarnation.into()),
            act: "restore".to_owned(),
            reason: String::new(),
            at_ms: 0,
        });
        match fence::welcome(&life.state, &by, 0, raise.as_ref()) {
            Ok(None) => Reply::Welcome(true),
            Ok(Some(news)) => Reply::Welcome(life.write(news, self.exact)),
            Err(_) => Reply::Welcome(false),
        }
    }

    fn take_floor(&self, life: &mut Life, floor: u8, generation: u8, by: &Authority) {
        let readmit = Readmit {
            act: act(generation),
            floor: Token(floor.into()),
            closes: None,
            orders: BTreeMap::new(),
            forget: false,
        };
        if let Readmission::Record(body) = fence::readmission(&life.state, by, &readmit, true) {
            life.write(*body, self.exact);
        }
    }

    fn promise(&self, life: &mut Life, message: Message) -> bool {
        let by = authority(message.incarnation, message.term);
        let token = Token(message.token.into());
        match fence::promise(&life.state, &by, &cluster(), token, None) {
            Promise::Record(_) if self.rule == Some(Rule::PromiseKept) => true,
            Promise::Record(body) => life.write(body, self.exact),
            Promise::Already => true,
            Promise::Refuse(refusal) => {
                self.rule == Some(Rule::NoPromiseWhileOpen) && refusal.code == Code::HoldOpen
            }
        }
    }

    fn order(
        &self,
        life: &mut Life,
        message: Message,
        number: u8,
        kind: OrderKind,
        of: u8,
    ) -> Reply {
        let order = Order {
            authority: authority(message.incarnation, message.term),
            cluster: cluster(),
            number: OrderNumber(number.into()),
            token: Token(message.token.into()),
            rollout: rollout(of),
            task: task(kind),
        };
        match fence::order(&life.state, &order, &life.boot_id()) {
            Verdict::Record(body, answer) => {
                let (floor, hold) = (life.state.floor, life.state.hold.clone());
                if !life.write(*body, self.exact) {
                    return Reply::Order { yes: false, told: None, fresh: false };
                }
                if kind == OrderKind::Close && self.rule == Some(Rule::CloseKept) {
                    life.state.floor = floor;
                }
                if kind == OrderKind::Close && self.rule == Some(Rule::CloseRecorded) {
                    // It says closed and goes on under the hold.
                    life.state.floor = floor;
                    life.state.hold = hold;
                }
                let told = answer.state.as_ref().map(Told::of);
                Reply::Order { yes: answer.accepted, told, fresh: answer.accepted }
            }
            Verdict::Repeat(answer) => {
                let told = answer.state.as_ref().map(Told::of);
                Reply::Order { yes: answer.accepted, told, fresh: false }
            }
            Verdict::Refuse(_) => Reply::Order { yes: false, told: None, fresh: false },
        }
    }

    /// Lets the real sequence run: until it needs a go, or until it rests.
    fn go_on(&self, life: &mut Life, fate: Fate, until_go: bool) {
        let mut outcome = None;
        for _ in 0..TURNS_MAX {
            let boot_id = life.boot_id();
            let Some(hold) = &life.state.hold else { return };
            let seen = Seen { boot_id: &boot_id, outcome: outcome.take() };
            let down = hold.disturbed();
            match sequence::next(hold, &seen) {
                Action::Rest => return,
                Action::Write(event) => {
                    if !life.event(event, self.exact) {
                        return;
                    }
                }
                Action::Check(step) => {
                    let fails = fate == Fate::Fails && step == Step::Guard;
                    let checked =
                        if fails { Checked::Refused(failure(step)) } else { Checked::Ready };
                    outcome = Some(Outcome::Checked(step, checked));
                }
                Action::Run { intents, step, .. } => {
                    if !intents.into_iter().all(|intent| life.event(intent, self.exact)) {
                        return;
                    }
                    let needs_go = matches!(step, Step::Quiesce | Step::Stop) && !down;
                    if needs_go && until_go {
                        return;
                    }
                    let fails = match fate {
                        Fate::Fails => down || needs_go,
                        Fate::UndoFails => step == Step::Stop || needs_go,
                        Fate::StartFails => step == Step::Start || needs_go,
                        Fate::Well | Fate::Restart => needs_go,
                    };
                    let ran = if fails { Err(failure(step)) } else { Ok(success()) };
                    outcome = Some(Outcome::Ran(step, ran));
                }
                Action::Undo { intent, step, .. } => {
                    if !life.event(intent, self.exact) {
                        return;
                    }
                    let fails = fate == Fate::UndoFails;
                    let undid = if fails { Err(failure(step)) } else { Ok(success()) };
                    outcome = Some(Outcome::Undid(step, undid));
                }
            }
        }
    }
}

fn made(of: u8, ledger: u8) -> Life {
    let id = format!("ledger-{of}-{ledger}").parse().expect("a word is a ledger's id");
    let mut life = Life { host: of, ledger, boot: 1, state: State::default(), reports: Vec::new() };
    life.write(Body::Made { ledger: id, host: host(of) }, true);
    life
}

fn authority(incarnation: u8, term: u8) -> Authority {
    Authority {
        group: GROUP.to_owned(),
        incarnation: Incarnation(incarnation.into()),
        term: Term(term.into()),
    }
}

fn task(kind: OrderKind) -> Task {
    match kind {
        OrderKind::Stage => Task::Stage { plan: Box::new(plan()) },
        OrderKind::Run => Task::Run { plan: Box::new(plan()) },
        OrderKind::Retry => Task::Retry,
        OrderKind::Undo => Task::Undo,
        OrderKind::Close => Task::Close,
        // The model's plan has no canary and no debts, so their orders are never wanted.
        OrderKind::Abort
        | OrderKind::Debt
        | OrderKind::CanaryStart
        | OrderKind::CanaryStop
        | OrderKind::CanaryCheck => Task::Abort,
    }
}

fn failure(step: Step) -> Failure {
    Failure { step, code: Code::StopFailed, message: String::new() }
}

const fn success() -> Success {
    Success { seen: String::new(), took_ms: 1 }
}
