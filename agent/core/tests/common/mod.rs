//! What the tests of the core share: a plan, orders, and a driver of ledger and state.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::allow_attributes,
    reason = "each test file uses its own part"
)]

use grayfin_agent_core::{
    Body, Entry, State,
    entry::{Authority, Event, Order, Task},
    fence::{self, Verdict},
    sequence::{self, Action, Checked, Outcome, Seen, Success},
    state::Failure,
};
use grayfin_types::{
    Code, Incarnation, OrderNumber, Term, Token,
    plan::{HostPlan, Plan, Policy},
    step::{SequenceState, Step},
};

pub const HOST: &str = "host43";
pub const CLUSTER: &str = "trade";

pub fn plan() -> Box<Plan> {
    let hosts = vec![HostPlan::bare(HOST.parse().unwrap())];
    Box::new(Plan {
        hash: "h".to_owned(),
        policy: Policy { start_attempts: 2, ..Policy::default() },
        ..Plan::bare(CLUSTER.parse().unwrap(), "2.00.8.12".parse().unwrap(), hosts)
    })
}

pub fn authority(incarnation: u64, term: u64) -> Authority {
    Authority { group: "g".to_owned(), incarnation: Incarnation(incarnation), term: Term(term) }
}

pub fn order(number: u64, token: u64, task: Task) -> Order {
    Order {
        authority: authority(1, 1),
        cluster: CLUSTER.parse().unwrap(),
        number: OrderNumber(number),
        token: Token(token),
        rollout: "r1".parse().unwrap(),
        task,
    }
}

pub fn failure(step: Step) -> Failure {
    Failure { step, code: Code::StopFailed, message: "it did not".to_owned() }
}

pub fn success() -> Success {
    Success { seen: "fine".to_owned(), took_ms: 1 }
}

/// A ledger in memory with its fold, a boot id, and the last order's number.
#[derive(Debug, Clone)]
pub struct Driver {
    pub entries: Vec<Entry>,
    pub state: State,
    pub boot: u32,
    pub number: u64,
    pub outcome: Option<Outcome>,
}

impl Default for Driver {
    fn default() -> Self {
        let mut new = Self {
            entries: Vec::new(),
            state: State::default(),
            boot: 1,
            number: 0,
            outcome: None,
        };
        new.write(Body::Made { ledger: "l".parse().unwrap(), host: HOST.parse().unwrap() });
        new
    }
}

impl Driver {
    /// A driver with hold 5 open and nothing done yet.
    pub fn running() -> Self {
        let mut driver = Self::default();
        assert!(driver.order(5, Task::Run { plan: plan() }));
        driver
    }

    /// A driver whose sequence has done every step before `step`, with nodes down from `stop` on.
    pub fn at(step: Step) -> Self {
        let mut driver = Self::running();
        while driver.hold().current() != Some(step) {
            driver.turn(&mut |_| None);
        }
        driver
    }

    pub fn hold(&self) -> &grayfin_agent_core::Hold {
        self.state.hold.as_ref().unwrap()
    }

    pub fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    pub fn try_write(&mut self, body: Body) -> bool {
        let entry = Entry { at_ms: 7, body };
        let before = self.state.clone();
        if self.state.apply(&entry).is_ok() {
            self.entries.push(entry);
            return true;
        }
        assert_eq!(self.state, before, "an illegal entry changes nothing: {entry:?}");
        false
    }

    pub fn write(&mut self, body: Body) {
        assert!(self.try_write(body.clone()), "{body:?}\nin {:#?}", self.state);
    }

    pub fn event(&mut self, event: Event) {
        let token = self.state.open_hold().unwrap();
        self.write(Body::Sequence { token, event });
    }

    /// Gives the next order; tells whether it was accepted.
    pub fn order(&mut self, token: u64, task: Task) -> bool {
        self.number += 1;
        let order = order(self.number, token, task);
        match fence::order(&self.state, &order, &self.boot_id()) {
            Verdict::Record(body, _) => {
                let Body::Ordered { answer, .. } = &*body else { unreachable!("{body:?}") };
                let accepted = answer.accepted;
                self.write(*body);
                accepted
            }
            other @ (Verdict::Repeat(_) | Verdict::Refuse(_)) => panic!("{other:?}"),
        }
    }

    /// What comes next now.
    pub fn next(&self) -> Action {
        let boot_id = self.boot_id();
        let seen = Seen { boot_id: &boot_id, outcome: self.outcome.clone() };
        self.state.hold.as_ref().map_or(Action::Rest, |hold| sequence::next(hold, &seen))
    }

    /// Crash of the process: what was not written is forgotten.
    pub fn crash(&mut self) {
        self.outcome = None;
        self.state = grayfin_agent_core::fold(&self.entries).unwrap();
    }

    /// Carries one action out. `world` may say how it ends; else it goes well. False at rest.
    pub fn turn(&mut self, world: &mut impl FnMut(&Action) -> Option<Outcome>) -> bool {
        let action = self.next();
        let given = world(&action);
        self.outcome = None;
        match action {
            Action::Rest => return false,
            Action::Write(event) => self.event(event),
            Action::Check(step) => {
                self.outcome = given.or(Some(Outcome::Checked(step, Checked::Ready)));
            }
            Action::Run { intents, step, .. } => {
                for intent in intents {
                    self.event(intent);
                }
                if matches!(step, Step::Quiesce | Step::Stop) && given.is_none() {
                    self.event(Event::GoingDown { nodes: vec!["node43".parse().unwrap()] });
                }
                self.outcome = given.or_else(|| Some(Outcome::Ran(step, Ok(success()))));
            }
            Action::Undo { intent, step, .. } => {
                self.event(intent);
                self.outcome = given.or_else(|| Some(Outcome::Undid(step, Ok(success()))));
            }
        }
        true
    }

    /// Goes on until there is nothing to do; everything goes as `world` says.
    pub fn finish(
        &mut self,
        mut world: impl FnMut(&Action) -> Option<Outcome>,
    ) -> Option<SequenceState> {
        for _ in 0..1000 {
            if !self.turn(&mut world) {
                return self.state.hold.as_ref().map(grayfin_agent_core::Hold::state);
            }
        }
        panic!("it never ends: {:#?}", self.state.hold);
    }

    /// Goes on, all going well.
    pub fn finish_well(&mut self) -> Option<SequenceState> {
        self.finish(|_| None)
    }

    /// The names of what was written since `from`, for comparison.
    pub fn trace(&self, from: usize) -> Vec<String> {
        self.entries.iter().skip(from).map(|entry| words(&entry.body)).collect()
    }
}

/// A word or three for an entry.
pub fn words(body: &Body) -> String {
    match body {
        Body::Made { .. } => "made".to_owned(),
        Body::Raised { .. } => "raised".to_owned(),
        Body::Welcomed { .. } => "welcomed".to_owned(),
        Body::Promised { token, .. } => format!("promised {token}"),
        Body::Readmitted { .. } => "readmitted".to_owned(),
        Body::Ordered { answer, .. } => {
            (if answer.accepted { "accepted" } else { "refused" }).to_owned()
        }
        Body::Staging { .. } => "staging".to_owned(),
        Body::CanaryAnswered { .. } => "canary".to_owned(),
        Body::Sequence { event, .. } => match event {
            Event::Started { step, attempt } => format!("started {step} {attempt}"),
            Event::FirstStart => "first-start".to_owned(),
            Event::Finished { step, .. } => format!("finished {step}"),
            Event::Failed { step, code, .. } => format!("failed {step} {code}"),
            Event::UndoStarted { step, attempt } => format!("undo-started {step} {attempt}"),
            Event::Undone { step, .. } => format!("undone {step}"),
            Event::UndoFailed { step, .. } => format!("undo-failed {step}"),
            Event::Captured { .. } => "captured".to_owned(),
            Event::Journal { .. } => "journal".to_owned(),
            Event::GoingDown { .. } => "going-down".to_owned(),
            Event::HostRestarted { .. } => "host-restarted".to_owned(),
            Event::Ended { state } => format!("ended {}", kind(state)),
        },
    }
}

pub fn kind(state: &SequenceState) -> &'static str {
    match state {
        SequenceState::Running { .. } => "running",
        SequenceState::Up => "up",
        SequenceState::Refused { .. } => "refused",
        SequenceState::Undone { .. } => "undone",
        SequenceState::Failed { .. } => "failed",
        SequenceState::Closed => "closed",
    }
}
