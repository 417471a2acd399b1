//! A host agent: the real core between a ledger that can be lost and a machine that can be lost.
//!
//! The loop here is the runner's, in steps of virtual time: ask the core, write, act, write. A life
//! can end before and after every write and in the middle of every action.

use grayfin_agent_core::{
    Body, Entry, Hold, State, fold, report,
    sequence::{Checked, Outcome, Success},
    state::Failure,
};
use grayfin_types::{Code, Generation, HostId, LedgerId, OrderNumber, step::Step};

use crate::{
    canary::Writer,
    facts::Blur,
    message::{FromHost, Happening},
    world::World,
};

/// What the coordinators say about the ledger (S8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Nothing yet in this life.
    Unknown,
    /// It is the newest.
    Confirmed,
    /// It is an old copy.
    Amnesic,
}

/// What kind of call of the executor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A look before a step.
    Check,
    /// The step.
    Run,
    /// Its undoing.
    Undo,
    /// Staging, without a hold.
    Stage,
}

/// A go that is asked for.
#[derive(Debug, Clone)]
pub struct Asking {
    /// Its number.
    pub request: u64,
    /// When it was sent last.
    pub sent_ms: u64,
    /// It counts as refused then.
    pub until_ms: u64,
    /// For which nodes.
    pub nodes: Vec<usize>,
    /// The answer.
    pub answer: Option<bool>,
    /// When it came.
    pub answered_ms: u64,
}

/// A call of the executor on its way.
#[derive(Debug, Clone)]
pub struct Call {
    /// What kind.
    pub what: What,
    /// Which step.
    pub step: Step,
    /// Only verify.
    pub already: bool,
    /// How far it is.
    pub at: u32,
    /// It fails then.
    pub deadline_ms: u64,
    /// The go that it waits for.
    pub ask: Option<Asking>,
    /// The order that staging belongs to.
    pub order: OrderNumber,
}

/// A session with a coordinator.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its number, unique in the run.
    pub id: u64,
    /// Which group.
    pub group: usize,
    /// Which coordinator of it.
    pub replica: usize,
    /// Nothing said now arrives before this.
    pub fifo_ms: u64,
    /// Reports up to here were sent.
    pub reported: u64,
}

/// A mark outside the ledger's folder: how far the ledger reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Its id.
    pub ledger: String,
    /// Its length.
    pub position: u64,
    /// Its running hash there.
    pub chain: String,
    /// Of the certificate.
    pub generation: u64,
}

/// How a step is to go wrong, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepFault {
    /// It fails.
    Fail,
    /// It never ends by itself.
    Hang,
    /// It says that it did it, and did nothing.
    Lie,
}

/// A host agent.
#[derive(Debug)]
pub struct HostAgent {
    /// Its host.
    pub id: HostId,
    /// Its process runs.
    pub up: bool,
    /// Grows with each process.
    pub life: u64,
    /// Its process stands still until then.
    pub frozen_until: u64,
    /// Of its certificate.
    pub generation: u64,
    /// Grows with each new ledger.
    pub line: u64,
    /// The ledger.
    pub entries: Vec<Entry>,
    /// Its fold.
    pub state: State,
    /// Writes of this host so far; never the same number twice.
    pub writes: u64,
    /// Which write each entry was: stands for the running hash, for what differs in one of them
    /// differs from there on.
    pub chain: Vec<u64>,
    /// The mark outside the ledger's folder.
    pub mark: Option<Mark>,
    /// It shows that the ledger is an old one.
    pub lost: bool,
    /// The session.
    pub session: Option<Session>,
    /// What is known of the ledger.
    pub trust: Trust,
    /// When this life began.
    pub began_ms: u64,
    /// Work was open when it began.
    pub resumes: bool,
    /// The last outcome of this life.
    pub outcome: Option<Outcome>,
    /// The same for staging.
    pub staged: Option<(OrderNumber, Result<Success, Failure>)>,
    /// What it is at.
    pub call: Option<Call>,
    /// Requests for a go so far.
    pub requests: u64,
    /// Looks so far.
    pub looks: u64,
    /// What is wrong with its looks.
    pub blur: Blur,
    /// Until when.
    pub blur_until: u64,
    /// Steps that are to go wrong.
    pub faults: Vec<(Step, bool, StepFault)>,
    /// The canary.
    pub writer: Writer,
    /// A wake-up is on its way.
    pub woken: bool,
}

/// What came of a write to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is durable.
    Yes,
    /// The state changed under us: it does not fit any more.
    Illegal,
    /// No room.
    Full,
    /// The process died.
    Died,
}

impl HostAgent {
    /// Makes one with a ledger of its own.
    pub fn new(id: HostId) -> Self {
        let mut new = Self {
            id,
            up: true,
            life: 1,
            frozen_until: 0,
            generation: 1,
            line: 0,
            entries: Vec::new(),
            state: State::default(),
            writes: 0,
            chain: Vec::new(),
            mark: None,
            lost: false,
            session: None,
            trust: Trust::Unknown,
            began_ms: 0,
            resumes: false,
            outcome: None,
            staged: None,
            call: None,
            requests: 0,
            looks: 0,
            blur: Blur::Clear,
            blur_until: 0,
            faults: Vec::new(),
            writer: Writer::default(),
            woken: false,
        };
        new.new_ledger();
        new
    }

    /// Makes a new ledger in place of the old one.
    pub fn new_ledger(&mut self) {
        self.line += 1;
        let ledger = LedgerId::new(format!("{}-l{}", self.id, self.line)).expect("a plain name");
        let body = Body::Made { ledger, host: self.id.clone() };
        self.entries = vec![Entry { at_ms: 0, body }];
        self.state = fold(&self.entries).expect("the first entry fits");
        self.writes += 1;
        self.chain = vec![self.writes];
    }

    /// Puts the ledger back to its first entries.
    pub fn put_back(&mut self, keep: usize) {
        self.entries.truncate(keep);
        self.chain.truncate(keep);
        self.state = fold(&self.entries).unwrap_or_default();
    }

    /// Returns the running hash at a position; empty where there is none.
    pub fn chain_at(&self, position: u64) -> String {
        let at = usize::try_from(position).unwrap_or(usize::MAX).wrapping_sub(1);
        self.chain.get(at).map_or_else(String::new, u64::to_string)
    }

    /// Returns the ledger's id as text.
    pub fn ledger(&self) -> String {
        self.state.ledger.as_ref().map_or_else(String::new, ToString::to_string)
    }

    /// Returns the generation.
    pub const fn generation(&self) -> Generation {
        Generation(self.generation)
    }
}

impl World {
    /// Wakes a host agent soon.
    pub(crate) fn wake(&mut self, h: usize, after_ms: u64) {
        let agent = &mut self.agents[h];
        if !agent.woken {
            agent.woken = true;
            let life = agent.life;
            self.after(after_ms, Happening::Wake { host: h, life });
        }
    }

    /// Writes an entry, durably; the process may die before or after.
    pub(crate) fn append(&mut self, h: usize, body: Body) -> Written {
        let place = self.dies_at_write(h);
        if place == Some(true) {
            self.tally.note("host agent killed before a write");
            self.kill_agent(h);
            return Written::Died;
        }
        let holds = self.agents[h].state.hold.is_some();
        let reserved = matches!(body, Body::Sequence { .. }) && holds;
        if self.cluster.hosts[h].full && !reserved {
            self.tally.note("ledger full");
            return Written::Full;
        }
        let entry = Entry { at_ms: self.wall_ms(h), body };
        let before = self.agents[h].state.hold.clone();
        if self.agents[h].state.apply(&entry).is_err() {
            self.tally.note("write refused by the core: an order came between");
            return Written::Illegal;
        }
        self.say(|w| format!("{} writes {:?}", w.agents[h].id, brief(&entry.body)));
        self.agents[h].entries.push(entry.clone());
        self.agents[h].writes += 1;
        let write = self.agents[h].writes;
        self.agents[h].chain.push(write);
        let proven = matches!(&entry.body, Body::Readmitted { readmit, .. } if readmit.proven());
        self.agents[h].mark(proven);
        self.judge_entry(h, before.as_ref(), &entry.body);
        if place == Some(false) {
            self.tally.note("host agent killed after a write");
            self.kill_agent(h);
            return Written::Died;
        }
        self.send_reports(h);
        self.wake(h, 1);
        Written::Yes
    }

    /// Sends what the ledger has to report beyond what was sent.
    pub(crate) fn send_reports(&mut self, h: usize) {
        let agent = &self.agents[h];
        let Some(session) = &agent.session else { return };
        if agent.trust == Trust::Amnesic {
            return;
        }
        let from = usize::try_from(session.reported).unwrap_or(usize::MAX);
        let mut out = Vec::new();
        for (at, entry) in agent.entries.iter().enumerate().skip(from) {
            let position = at as u64 + 1;
            out.extend(report::of(&agent.id, position, &agent.chain_at(position), entry));
        }
        let upto = agent.entries.len() as u64;
        if let Some(session) = &mut self.agents[h].session {
            session.reported = upto;
        }
        for one in out {
            self.tell(h, FromHost::Report(one));
        }
    }

    /// The process ends; what it had not written is gone, what it had started goes on.
    pub(crate) fn kill_agent(&mut self, h: usize) {
        if !self.agents[h].up {
            return;
        }
        self.say(|w| format!("{} agent dies", w.agents[h].id));
        let call = self.agents[h].call.take();
        let copying = call.is_some_and(|c| {
            c.what == What::Run && matches!(c.step, Step::Backup | Step::Upgrade) && c.at > 0
        });
        if copying && self.dice.percent(50) {
            self.cluster.hosts[h].helper_until = Some(self.now_ms + self.dice.between(20, 800));
            self.tally.note("helper outlives its host agent");
        }
        let agent = &mut self.agents[h];
        agent.up = false;
        agent.life += 1;
        agent.woken = false;
        agent.outcome = None;
        agent.staged = None;
        agent.writer.stop();
        self.end_session(h);
        let after = self.dice.between(20, 900);
        self.after(after, Happening::AgentStart { host: h });
    }

    /// A new process reads the ledger.
    pub(crate) fn start_agent(&mut self, h: usize) {
        if self.agents[h].up || !self.cluster.hosts[h].on {
            return;
        }
        let state = fold(&self.agents[h].entries);
        let now_ms = self.now_ms;
        let folded = state.is_ok();
        let what = || "a ledger that was written does not fold".to_owned();
        self.truth.expect("S8", folded, what);
        let agent = &mut self.agents[h];
        agent.state = state.unwrap_or_default();
        agent.up = true;
        agent.compare_mark();
        agent.trust = if agent.lost { Trust::Amnesic } else { Trust::Unknown };
        agent.began_ms = now_ms;
        agent.resumes = agent.state.hold.is_some();
        agent.frozen_until = 0;
        agent.faults.clear();
        self.say(|w| format!("{} agent starts", w.agents[h].id));
        let life = self.agents[h].life;
        self.after(5, Happening::Connect { host: h, life });
        self.after(10, Happening::Look { host: h, life });
        self.wake(h, 5);
    }

    pub(crate) fn begin(
        &mut self,
        h: usize,
        what: What,
        step: Step,
        already: bool,
        order: OrderNumber,
    ) {
        if what != What::Run && what != What::Stage {
            // Settle: what an earlier life started is ended before anything is judged.
            self.cluster.hosts[h].helper_until = None;
        }
        let limit_ms = match step {
            Step::Stage | Step::Guard => 800,
            Step::Quiesce | Step::Stop => 2_500,
            Step::Backup | Step::Upgrade => 1_200,
            Step::Start | Step::Join => 900,
        };
        let deadline_ms = self.now_ms + limit_ms;
        self.agents[h].call =
            Some(Call { what, step, already, at: 0, deadline_ms, ask: None, order });
        self.agents[h].woken = false;
        self.wake(h, 3);
    }

    /// A call ended: its outcome is the core's business.
    pub(crate) fn ended(&mut self, h: usize, result: Result<Checked, (Code, String)>) {
        let Some(call) = self.agents[h].call.take() else { return };
        let step = call.step;
        let failed = |(code, message)| Failure { step, code, message };
        let success = Success { seen: "done".to_owned(), took_ms: 1 };
        let agent = &mut self.agents[h];
        match call.what {
            What::Check => {
                let found = result.unwrap_or_else(|e| Checked::Refused(failed(e)));
                agent.outcome = Some(Outcome::Checked(step, found));
            }
            What::Run => {
                let ran = result.map(|_| success).map_err(failed);
                agent.outcome = Some(Outcome::Ran(step, ran));
            }
            What::Undo => {
                let undid = result.map(|_| success).map_err(failed);
                agent.outcome = Some(Outcome::Undid(step, undid));
            }
            What::Stage => {
                agent.staged = Some((call.order, result.map(|_| success).map_err(failed)));
            }
        }
        self.wake(h, 1);
    }

    /// The machine's boot id, now.
    pub(crate) fn boot(&self, h: usize) -> String {
        format!("boot{}", self.cluster.hosts[h].boot)
    }

    /// The open hold of a host agent.
    pub(crate) fn hold(&self, h: usize) -> Option<&Hold> {
        self.agents[h].state.hold.as_ref()
    }
}

/// An entry in a few words, for the trace.
fn brief(body: &Body) -> String {
    match body {
        Body::Ordered { order, answer, .. } => {
            let accepted = if answer.accepted { "accepts" } else { "refuses" };
            let task = format!("{:?}", order.task);
            let name: String = task.chars().take_while(|c| c.is_alphanumeric()).collect();
            format!("{accepted} order {} {name} token {}", order.number, order.token)
        }
        Body::Made { .. }
        | Body::Raised { .. }
        | Body::Welcomed { .. }
        | Body::Promised { .. }
        | Body::Readmitted { .. }
        | Body::Staging { .. }
        | Body::CanaryAnswered { .. }
        | Body::Sequence { .. } => format!("{body:?}").chars().take(160).collect(),
    }
}
