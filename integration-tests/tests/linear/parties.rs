//! Who acts on the group: two drivers that do not know of each other, three host agents that follow
//! whichever coordinator they meet, however old its state, an operator who breaks holds, somebody who
//! looks, and somebody who follows the events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use grayfin_coordinator::store::{Replicated, Store};
use grayfin_coordinator_core::cmd::{Action, Control, GoDecided, PromiseAnswered};
use grayfin_coordinator_core::state::{Hold, HoldStage, OrderKind, Rollout, Staging, State};
use grayfin_coordinator_core::{Cmd, Response};
use grayfin_types::event::{Body, Event};
use grayfin_types::status::{HostPhase, RolloutState};
use grayfin_types::step::{Happened, Report, SequenceState, Step};
use grayfin_types::{ClusterId, HostId, Incarnation, RolloutId, Seq, Token};
use integration_tests::history::{History, Host, Op, Pending, Ret, Stage};
use rand::Rng;
use tokio::task::JoinSet;

use super::commands::{enrol, start};
use super::members::Members;

/// Hosts of the one cluster.
pub(crate) const HOSTS: Host = 3;

/// A caller does not wait longer; what was asked may still be done.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Between two looks of a party.
const PACE: Duration = Duration::from_millis(5);
/// Between two breaks of holds, and between two looks.
const BREAK_EVERY: Duration = Duration::from_millis(900);
const LOOK_EVERY: Duration = Duration::from_millis(45);

pub(crate) fn cluster() -> ClusterId {
    "trade".parse().unwrap()
}

pub(crate) fn host_id(host: Host) -> HostId {
    HostId::new(format!("db{host}")).unwrap()
}

fn number(host: &HostId) -> Host {
    host.as_str().trim_start_matches("db").parse().unwrap()
}

/// Which event shows that an operation of unknown outcome took effect.
#[derive(Debug, Default)]
pub(crate) struct Tags(std::sync::Mutex<Vec<(Pending, Tag)>>);

#[derive(Debug)]
enum Tag {
    /// The words in the event are this operation's alone.
    Words(String),
    /// A token for the host, asked for at this time of the clock.
    Allotted(Host, u64),
}

/// The operations of unknown outcome that took effect.
#[derive(Debug)]
pub(crate) struct Took(Vec<Pending>);

impl Took {
    /// Whether it did.
    pub(crate) fn contains(&self, pending: &Pending) -> bool {
        self.0.contains(pending)
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Tags {
    fn lost(&self, pending: Pending, tag: Tag) {
        self.0.lock().unwrap().push((pending, tag));
    }

    /// Finds those that took effect.
    pub(crate) fn took(self, all: &BTreeMap<RolloutId, Vec<Event>>) -> Took {
        let mut words = BTreeSet::new();
        let mut tokens: Vec<(Host, u64)> = Vec::new();
        for event in all.values().flatten() {
            match &event.body {
                Body::Granted { reason, .. } => drop(words.insert(reason.clone())),
                Body::Go { action, .. } => drop(words.insert(action.clone())),
                Body::HostVerified { soaked_ms, .. } => drop(words.insert(soaked_ms.to_string())),
                Body::TokenAllotted { host, .. } => tokens.push((number(host), event.at_ms)),
                _ => {}
            }
        }
        // The command carries the clock of the moment in which it was proposed.
        let near = |host: Host, at: u64| {
            tokens.iter().any(|(of, when)| *of == host && when.abs_diff(at) <= 5)
        };
        let took = |tag: &Tag| match tag {
            Tag::Words(text) => words.contains(text),
            Tag::Allotted(host, at) => near(*host, *at),
        };
        let lost = self.0.into_inner().unwrap();
        Took(lost.into_iter().filter(|(_, tag)| took(tag)).map(|(pending, _)| pending).collect())
    }
}

/// What all of them share.
pub(crate) struct Shared {
    members: Arc<Members>,
    history: History,
    tags: Tags,
    numbers: AtomicU64,
    over: AtomicBool,
}

/// Everybody at work.
pub(crate) struct Parties {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    following: tokio::task::JoinHandle<BTreeMap<RolloutId, Vec<Event>>>,
}

impl std::ops::Deref for Parties {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Parties {
    /// Enrols the hosts and lets everybody begin.
    pub(crate) async fn begin(members: &Arc<Members>) -> Self {
        let shared = Arc::new(Shared {
            members: Arc::clone(members),
            history: History::default(),
            tags: Tags::default(),
            numbers: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        shared.surely(Cmd::Found { group: "g".to_owned(), incarnation: Incarnation(1) }).await;
        for host in 1..=HOSTS {
            shared.surely(enrol(host)).await;
        }
        let mut tasks = JoinSet::new();
        for _ in 0..2 {
            tasks.spawn(drive(Arc::clone(&shared)));
        }
        for host in 1..=HOSTS {
            tasks.spawn(Agent::new(Arc::clone(&shared), host).run());
        }
        tasks.spawn(operate(Arc::clone(&shared)));
        tasks.spawn(look(Arc::clone(&shared)));
        let following = tokio::spawn(follow(Arc::clone(&shared)));
        Self { shared, tasks, following }
    }

    /// How many operations have begun.
    pub(crate) fn operations(&self) -> usize {
        self.shared.history.operations()
    }

    /// Lets everybody come to the end of what they are at.
    pub(crate) async fn rest(self) -> (History, BTreeMap<RolloutId, Vec<Event>>, Tags) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
        let followed = self.following.await.unwrap();
        let shared = Arc::into_inner(self.shared).expect("everybody has ended");
        (shared.history, followed, shared.tags)
    }
}

impl Shared {
    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Any of those that run, however old its state.
    fn anyone(&self) -> Option<Replicated> {
        let mut stores = self.members.stores();
        if stores.is_empty() {
            return None;
        }
        let place = rand::rng().random_range(0..stores.len());
        Some(stores.swap_remove(place))
    }

    /// Proposes once to one that believes it leads; none if the outcome is unknown or nobody leads.
    async fn propose(&self, command: Cmd) -> Option<Response> {
        let store = self.members.leading()?;
        tokio::time::timeout(PATIENCE, store.propose(command)).await.ok()?.ok()
    }

    /// Proposes until it is answered: only for what may be repeated.
    async fn surely(&self, command: Cmd) -> Response {
        loop {
            if let Some(response) = self.propose(command.clone()).await {
                return response;
            }
            pace().await;
        }
    }

    /// Does something once that must not be repeated. True if it was done.
    async fn once(&self, op: Op, command: Cmd, tag: String) -> bool {
        let Some(store) = self.members.leading() else { return false };
        let asked = wall_ms();
        let allots = if let Op::Allot(host) = op { Some(host) } else { None };
        let pending = self.history.begin(op);
        match tokio::time::timeout(PATIENCE, store.propose(command)).await {
            Ok(Ok(response)) => {
                let ret = judged(&response);
                let done = ret != Ret::No;
                self.history.end(pending, ret);
                done
            }
            Ok(Err(_)) | Err(_) => {
                let tag = allots.map_or(Tag::Words(tag), |host| Tag::Allotted(host, asked));
                self.tags.lost(pending, tag);
                false
            }
        }
    }

    /// Does something that may be repeated until it is answered: one operation, however often sent.
    async fn repeated(&self, op: Op, command: Cmd) {
        let pending = self.history.begin(op);
        let response = self.surely(command).await;
        self.history.end(pending, judged(&response));
    }
}

fn judged(response: &Response) -> Ret {
    match response {
        Response::Done | Response::Committed { .. } | Response::Go { allowed: true, .. } => {
            Ret::Done
        }
        Response::Allotted { token } => Ret::Token(token.0),
        Response::Go { .. } | Response::Ignored { .. } | Response::Refused { .. } => Ret::No,
        Response::Enrolled { .. } | Response::Started { .. } => {
            panic!("this answers something else: {response:?}")
        }
    }
}

fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.unwrap().as_millis()).unwrap()
}

/// Lets the others do something: traffic, not a condition that is waited for.
async fn pace() {
    tokio::time::sleep(PACE).await;
}

/// Drives as a coordinator does, by a state that may be old; what no longer fits is ignored.
async fn drive(shared: Arc<Shared>) {
    while !shared.over() {
        pace().await;
        let Some(store) = shared.anyone() else { continue };
        let state = store.state();
        if let Some(broken) = state.broken.iter().find(|broken| broken.settled) {
            shared.propose(Cmd::CloseBroken { token: broken.token }).await;
        }
        match state.active(&cluster()) {
            None => drop(shared.propose(start(shared.number())).await),
            Some(rollout) => drive_rollout(&shared, &state, rollout).await,
        }
    }
}

async fn drive_rollout(shared: &Shared, state: &State, rollout: &Rollout) {
    let id = rollout.id.clone();
    match rollout.state {
        RolloutState::Running if rollout.all_ended() => {
            shared.propose(Cmd::Verify { rollout: id }).await;
        }
        RolloutState::Running if rollout.baseline.is_none() => {
            shared.propose(Cmd::SetBaseline { rollout: id, chunks: Vec::new() }).await;
        }
        RolloutState::Running => match state.holds.get(&cluster()) {
            None => {
                let ready = rollout.hosts.iter().find(|run| {
                    matches!(run.phase, HostPhase::Waiting | HostPhase::Staged)
                        && run.staging == Staging::Done
                });
                let Some(host) = ready.map(|run| run.host.clone()) else { return };
                let op = Op::Allot(number(&host));
                shared.once(op, Cmd::AllotToken { rollout: id, host }, String::new()).await;
            }
            Some(hold) => drive_hold(shared, rollout, hold).await,
        },
        RolloutState::Verifying => {
            shared.propose(Cmd::Finish { rollout: id, versions: Vec::new(), ok: true }).await;
        }
        RolloutState::Staging
        | RolloutState::Paused
        | RolloutState::Halted
        | RolloutState::Aborting
        | RolloutState::Succeeded
        | RolloutState::Incomplete
        | RolloutState::Aborted
        | RolloutState::Failed => {}
    }
}

async fn drive_hold(shared: &Shared, rollout: &Rollout, hold: &Hold) {
    let (id, host, token) = (rollout.id.clone(), hold.host.clone(), hold.token);
    let (tag, of) = (shared.number(), number(&host));
    let up = rollout.host(&host).is_some_and(|run| run.sequence == Some(SequenceState::Up));
    match hold.stage {
        HoldStage::Asking if hold.promises.iter().all(|promise| promise.promised) => {
            let reason = format!("grant {tag}");
            let (findings, why) = (Vec::new(), reason.clone());
            let command = Cmd::Grant { rollout: id, host, token, reason, findings };
            shared.once(Op::Grant(of, token.0), command, why).await;
        }
        HoldStage::Held if up => {
            let command = Cmd::Close { rollout: id, host, token, soaked_ms: tag };
            shared.once(Op::Close(of, token.0), command, tag.to_string()).await;
        }
        HoldStage::Asking | HoldStage::Held | HoldStage::Closing => {}
    }
}

/// An operator who breaks whatever hold is seen, again and again.
async fn operate(shared: Arc<Shared>) {
    let mut beat = tokio::time::interval(BREAK_EVERY);
    while !shared.over() {
        beat.tick().await;
        let Some(state) = shared.anyone().map(|store| store.state()) else { continue };
        let Some(hold) = state.holds.get(&cluster()) else { continue };
        let action = Action::BreakHold { token: hold.token };
        let command = Cmd::Control(Control {
            request_id: format!("break-{}", shared.number()),
            rollout: hold.rollout.clone(),
            action,
            reason: "a test".to_owned(),
            by: "ann".to_owned(),
        });
        shared.repeated(Op::Break(hold.token.0), command).await;
    }
}

/// Somebody who looks, after the lead was confirmed.
async fn look(shared: Arc<Shared>) {
    while !shared.over() {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(store) = shared.members.leading() else { continue };
        let pending = shared.history.begin(Op::Look);
        if matches!(tokio::time::timeout(PATIENCE, store.linearizable()).await, Ok(Ok(()))) {
            shared.history.end(pending, seen_in(&store.state()));
        }
    }
}

/// What somebody sees who looks at a state.
pub(crate) fn seen_in(state: &State) -> Ret {
    let held = state.holds.get(&cluster()).map(|hold| {
        let stage = match hold.stage {
            HoldStage::Asking => Stage::Asking,
            HoldStage::Held => Stage::Held,
            HoldStage::Closing => Stage::Closing,
        };
        (number(&hold.host), hold.token.0, stage)
    });
    Ret::Saw(state.last_token.0, held)
}

/// Somebody who follows the events of all rollouts, each time at another coordinator, from where the
/// last one ended.
async fn follow(shared: Arc<Shared>) -> BTreeMap<RolloutId, Vec<Event>> {
    let mut seen: BTreeMap<RolloutId, Vec<Event>> = BTreeMap::new();
    while !shared.over() {
        pace().await;
        let Some(store) = shared.anyone() else { continue };
        for id in store.state().rollouts.keys() {
            let so_far = seen.entry(id.clone()).or_default();
            let next = Seq(u64::try_from(so_far.len()).unwrap() + 1);
            so_far.extend(store.events_from(id, next, 64).unwrap());
        }
    }
    seen
}

struct Agent {
    shared: Arc<Shared>,
    host: Host,
    /// The highest token promised, or run; durable in a real agent.
    floor: u64,
    position: u64,
}

impl Agent {
    const fn new(shared: Arc<Shared>, host: Host) -> Self {
        Self { shared, host, floor: 0, position: 0 }
    }

    async fn run(mut self) {
        while !self.shared.over() {
            pace().await;
            let Some(state) = self.shared.anyone().map(|store| store.state()) else { continue };
            self.stage(&state).await;
            let Some(hold) = state.holds.get(&cluster()) else { continue };
            if hold.token.0 <= self.floor {
                continue;
            }
            if hold.host == host_id(self.host) {
                if hold.stage == HoldStage::Held {
                    self.work(hold.rollout.clone(), hold.token.0).await;
                }
            } else if hold.stage == HoldStage::Asking {
                self.promise(hold.token.0).await;
            }
        }
    }

    fn next(&mut self) -> u64 {
        self.position += 1;
        self.position
    }

    fn report(&mut self, token: u64, step: Step, happened: Happened) -> Cmd {
        let position = self.next();
        Cmd::Reported {
            report: Report {
                host: host_id(self.host),
                token: Token(token),
                step,
                undo: false,
                happened,
                seen: String::new(),
                position,
                chain: String::new(),
                at_ms: 0,
            },
        }
    }

    async fn stage(&mut self, state: &State) {
        let active = state.active(&cluster());
        let run = active.and_then(|rollout| rollout.host(&host_id(self.host)));
        if run.is_some_and(|run| run.staging == Staging::Ordered) {
            let done = self.report(0, Step::Stage, Happened::Finished { took_ms: 1 });
            self.shared.surely(done).await;
        }
    }

    async fn promise(&mut self, token: u64) {
        self.floor = token;
        let answer = PromiseAnswered {
            host: host_id(self.host),
            cluster: cluster(),
            token: Token(token),
            promised: true,
            code: None,
            why: String::new(),
            ledger_position: self.position,
            chain: String::new(),
        };
        self.shared.repeated(Op::Promise(self.host, token), Cmd::RecordPromise(answer)).await;
    }

    /// Runs under a token: down only after a fresh go, up by itself, closed when it is told to.
    async fn work(&mut self, rollout: RolloutId, token: u64) {
        self.floor = token;
        let tag = self.shared.number();
        let go = GoDecided {
            rollout,
            host: host_id(self.host),
            token: Token(token),
            request: tag,
            action: format!("go {tag}"),
            allowed: true,
            reasons: Vec::new(),
        };
        let (op, tag) = (Op::Go(self.host, token), format!("go {tag}"));
        if self.shared.once(op, Cmd::Go(go), tag).await {
            self.shared.history.happened(Op::Down(self.host, token));
            let down_ms = rand::rng().random_range(5..60);
            tokio::time::sleep(Duration::from_millis(down_ms)).await;
            self.shared.history.happened(Op::Up(self.host, token));
        }
        let up = self.report(token, Step::Join, Happened::State { state: SequenceState::Up });
        self.shared.surely(up).await;
        while !self.told_to_close(token) {
            if self.shared.over() {
                return;
            }
            pace().await;
        }
        let closed = Happened::State { state: SequenceState::Closed };
        let closed = self.report(token, Step::Join, closed);
        self.shared.repeated(Op::Closed(self.host, token), closed).await;
    }

    fn told_to_close(&self, token: u64) -> bool {
        let Some(state) = self.shared.anyone().map(|store| store.state()) else { return false };
        let Some(enrolment) = state.hosts.get(&host_id(self.host)) else { return false };
        let orders = enrolment.outboxes.get(&cluster()).map_or(&[][..], |outbox| &outbox.pending);
        orders.iter().any(|order| order.kind == OrderKind::Close && order.token.0 == token)
    }
}
