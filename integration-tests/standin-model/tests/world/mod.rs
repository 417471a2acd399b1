//! A cluster in virtual time: messages take a few milliseconds, nodes crash and come back with
//! what their disks hold.

use std::collections::{BTreeMap, BTreeSet};

use standin_model::controller::{self, Controller};
use standin_model::member::{self, Body, CallError, Local, Member, StoreOp, Undecided, Write};
use standin_model::message::{Answer, Ask, Order, Payload, Record};
use standin_model::meta::{ClusterConfig, Command, Database, NodeInfo, User};
use standin_model::raft::{self, Entry, HardState, Log, Persist, Snapshot};
use standin_model::{Alias, ChunkId, NodeRole, Rng, Tid, Timing};

#[derive(Default)]
pub(crate) struct ControllerDisk {
    hard: HardState,
    snapshot: Snapshot,
    entries: Vec<Entry>,
}

#[derive(Default)]
pub(crate) struct MemberDisk {
    chunks: BTreeMap<ChunkId, Local>,
    records: BTreeMap<ChunkId, Vec<Record>>,
}

struct ControllerNode {
    settings: controller::Settings,
    running: Option<Controller>,
    disk: ControllerDisk,
    run: u64,
}

struct MemberNode {
    role: NodeRole,
    running: Option<Member>,
    disk: MemberDisk,
    run: u64,
}

#[derive(Clone)]
enum Origin {
    Call { alias: Alias, run: u64, call: u64 },
    Ordered { alias: Alias, run: u64, token: Option<u64> },
    Client(u64),
}

enum Event {
    Raft { to: Alias, from: Alias, message: raft::Message },
    Deliver { to: Alias, request: u64, body: Body },
    Answered { request: u64, answer: Result<Answer, CallError> },
    Wake(Alias),
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) timing: Timing,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    origins: BTreeMap<u64, Origin>,
    controllers: BTreeMap<Alias, ControllerNode>,
    members: BTreeMap<Alias, MemberNode>,
    pub(crate) answers: BTreeMap<u64, Answer>,
    pub(crate) leaders_seen: BTreeSet<(u64, Alias)>,
    pub(crate) started: Vec<Alias>,
    wakes: BTreeMap<Alias, u64>,
}

pub(crate) fn node(alias: &str, host: &str, role: NodeRole) -> NodeInfo {
    NodeInfo {
        alias: alias.to_owned(),
        site: format!("{host}:{alias}"),
        host: host.to_owned(),
        role,
        group: None,
    }
}

impl World {
    /// `hosts` hosts with a controller, an agent and a data node each.
    pub(crate) fn new(seed: u64, hosts: usize, timing: Timing) -> Self {
        let mut nodes = Vec::new();
        for n in 1..=hosts {
            let host = format!("h{n}");
            nodes.push(node(&format!("ctl{n}"), &host, NodeRole::Controller));
            nodes.push(node(&format!("agent{n}"), &host, NodeRole::DdbAgent));
            nodes.push(node(&format!("dn{n}"), &host, NodeRole::DataNode));
        }
        let names: BTreeSet<Alias> = (1..=hosts).map(|n| format!("ctl{n}")).collect();
        let mut world = Self {
            now: 1_000,
            rng: Rng::new(seed),
            timing: timing.clone(),
            queue: BTreeMap::new(),
            sequence: 0,
            origins: BTreeMap::new(),
            controllers: BTreeMap::new(),
            members: BTreeMap::new(),
            answers: BTreeMap::new(),
            leaders_seen: BTreeSet::new(),
            started: Vec::new(),
            wakes: BTreeMap::new(),
        };
        for (position, name) in names.iter().enumerate() {
            let settings = controller::Settings {
                me: name.clone(),
                controllers: names.clone(),
                timing: timing.clone(),
                replication: 2,
                reliability: 1,
                restart_always: false,
                recovery_max: 4,
                files: ClusterConfig { nodes: nodes.clone(), ..ClusterConfig::default() },
                files_rule: false,
                worker_settings: Vec::new(),
                first_user: (
                    "admin".to_owned(),
                    User { secret: String::new(), admin: true, grants: BTreeSet::new() },
                ),
                seed: seed * 31 + position as u64,
            };
            let disk = ControllerDisk::default();
            let node = ControllerNode { settings, running: None, disk, run: 0 };
            world.controllers.insert(name.clone(), node);
        }
        for info in nodes.iter().filter(|n| n.role != NodeRole::Controller) {
            let disk = MemberDisk::default();
            let node = MemberNode { role: info.role, running: None, disk, run: 0 };
            world.members.insert(info.alias.clone(), node);
        }
        let all: Vec<Alias> = nodes.iter().map(|n| n.alias.clone()).collect();
        for alias in all {
            world.start(&alias);
        }
        world
    }

    pub(crate) fn start(&mut self, alias: &str) {
        let seed = self.rng.next_u64();
        if let Some(node) = self.controllers.get_mut(alias) {
            node.run += 1;
            let log = Log::new(node.disk.snapshot.clone(), node.disk.entries.clone());
            let mut settings = node.settings.clone();
            settings.seed = seed;
            node.running = Some(Controller::new(settings, (node.disk.hard.clone(), log), self.now));
        } else if let Some(node) = self.members.get_mut(alias) {
            node.run += 1;
            let settings = member::Settings {
                me: alias.to_owned(),
                incarnation: seed,
                role: node.role,
                controllers: self.controllers.keys().cloned().collect(),
                timing: self.timing.clone(),
                seed,
            };
            let chunks = node.disk.chunks.values().cloned().collect();
            node.running = Some(Member::new(settings, chunks, self.now));
        }
        self.wake_at(alias, self.now);
    }

    /// One alarm per node is enough: the earliest.
    fn wake_at(&mut self, alias: &str, at: u64) {
        let at = at.max(self.now);
        if self.wakes.get(alias).is_none_or(|set| *set > at || *set < self.now) {
            self.wakes.insert(alias.to_owned(), at);
            self.push(at - self.now, Event::Wake(alias.to_owned()));
        }
    }

    pub(crate) fn crash(&mut self, alias: &str) {
        if let Some(node) = self.controllers.get_mut(alias) {
            node.running = None;
        } else if let Some(node) = self.members.get_mut(alias) {
            node.running = None;
        }
        // Whoever waits for it sees the connection break.
        let waiting: Vec<u64> = self
            .queue
            .values()
            .filter_map(|event| match event {
                Event::Deliver { to, request, .. } if to == alias => Some(*request),
                Event::Deliver { .. }
                | Event::Raft { .. }
                | Event::Answered { .. }
                | Event::Wake(_) => None,
            })
            .collect();
        for request in waiting {
            self.push(1, Event::Answered { request, answer: Err(CallError::Gone) });
        }
    }

    pub(crate) fn is_up(&self, alias: &str) -> bool {
        self.controllers.get(alias).is_some_and(|n| n.running.is_some())
            || self.members.get(alias).is_some_and(|n| n.running.is_some())
    }

    pub(crate) fn leader(&self) -> Option<Alias> {
        self.controllers
            .iter()
            .find(|(_, n)| n.running.as_ref().is_some_and(|c| c.is_initialized(self.now)))
            .map(|(alias, _)| alias.clone())
    }

    pub(crate) fn leading(&self) -> Option<&Controller> {
        self.controllers.get(&self.leader()?)?.running.as_ref()
    }

    pub(crate) fn controller(&self, alias: &str) -> Option<&Controller> {
        self.controllers.get(alias)?.running.as_ref()
    }

    pub(crate) fn control(&mut self, alias: &str, input: controller::Input) {
        self.step_controller(alias, input);
    }

    pub(crate) fn member(&self, alias: &str) -> Option<&Member> {
        self.members.get(alias)?.running.as_ref()
    }

    fn push(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), event);
    }

    fn latency(&mut self) -> u64 {
        1 + self.rng.below(4)
    }

    /// Runs one event; time jumps to it.
    pub(crate) fn run_one(&mut self) {
        let Some(((at, _), event)) = self.queue.pop_first() else {
            panic!("nothing left to happen");
        };
        self.now = self.now.max(at);
        match event {
            Event::Wake(alias) => self.wake(&alias),
            Event::Raft { to, from, message } => {
                self.step_controller(&to, controller::Input::Raft { from, message });
            }
            Event::Deliver { to, request, body } => self.deliver(&to, request, body),
            Event::Answered { request, answer } => self.answered(request, answer),
        }
    }

    pub(crate) fn run_for(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= until) {
            self.run_one();
        }
        self.now = until;
    }

    /// Runs until the condition holds.
    pub(crate) fn run_until(
        &mut self,
        limit_ms: u64,
        what: &str,
        mut holds: impl FnMut(&Self) -> bool,
    ) {
        let until = self.now + limit_ms;
        while !holds(self) {
            assert!(self.now < until, "not within {limit_ms} ms: {what}");
            self.run_one();
        }
    }

    fn wake(&mut self, alias: &str) {
        let wakeup = |world: &Self| {
            let controller = world.controller(alias).map(Controller::wakeup);
            controller.or_else(|| world.member(alias).map(Member::wakeup))
        };
        self.wakes.remove(alias);
        let Some(at) = wakeup(self) else { return };
        if at > self.now {
            self.wake_at(alias, at);
        } else {
            if self.controllers.contains_key(alias) {
                self.step_controller(alias, controller::Input::Tick);
            } else {
                self.step_member(alias, member::Input::Tick);
            }
        }
    }

    fn deliver(&mut self, to: &str, request: u64, body: Body) {
        if !self.is_up(to) {
            return self.push(1, Event::Answered { request, answer: Err(CallError::Gone) });
        }
        match body {
            Body::Ask(ask) => self.step_controller(to, controller::Input::Ask { request, ask }),
            Body::Order(order) => self.step_member(to, member::Input::Order { request, order }),
        }
    }

    fn answered(&mut self, request: u64, answer: Result<Answer, CallError>) {
        let Some(origin) = self.origins.remove(&request) else { return };
        match origin {
            Origin::Client(id) => {
                if let Ok(answer) = answer {
                    self.answers.insert(id, answer);
                }
            }
            Origin::Call { alias, run, call } => {
                if self.members.get(&alias).is_some_and(|n| n.run == run) {
                    self.step_member(&alias, member::Input::Called { call, result: answer });
                }
            }
            Origin::Ordered { alias, run, token } => {
                if let Some(token) = token
                    && self.controllers.get(&alias).is_some_and(|n| n.run == run)
                {
                    let result = answer.map_err(|e| format!("{e:?}"));
                    self.step_controller(&alias, controller::Input::Ordered { token, result });
                }
            }
        }
    }

    fn request(&mut self, origin: Origin) -> u64 {
        self.sequence += 1;
        self.origins.insert(self.sequence, origin);
        self.sequence
    }

    fn reply_later(&mut self, request: u64, answer: Answer) {
        let delay = self.latency();
        self.push(delay, Event::Answered { request, answer: Ok(answer) });
    }

    fn step_controller(&mut self, alias: &str, input: controller::Input) {
        let now = self.now;
        let Some(node) = self.controllers.get_mut(alias) else { return };
        let (run, Some(controller)) = (node.run, node.running.as_mut()) else { return };
        let actions = controller.step(now, input);
        let wakeup = controller.wakeup();
        for action in actions {
            match action {
                controller::Action::Persist(persist) => {
                    self.controllers.get_mut(alias).expect("known").disk.apply(persist);
                }
                controller::Action::SendRaft { to, message } => {
                    let (delay, from) = (self.latency(), alias.to_owned());
                    self.push(delay, Event::Raft { to, from, message });
                }
                controller::Action::Reply { request, answer } => self.reply_later(request, answer),
                controller::Action::Order { token, to, order } => {
                    let origin = Origin::Ordered { alias: alias.to_owned(), run, token };
                    self.send(origin, to, Body::Order(order), 60_000);
                }
                controller::Action::Notice(controller::Notice::Leading { term }) => {
                    self.leaders_seen.insert((term, alias.to_owned()));
                }
                controller::Action::Notice(_) => {}
            }
        }
        self.wake_at(alias, wakeup);
    }

    fn send(&mut self, origin: Origin, to: Alias, body: Body, timeout_ms: u64) {
        let request = self.request(origin);
        let delay = self.latency();
        self.push(delay, Event::Deliver { to, request, body });
        self.push(timeout_ms, Event::Answered { request, answer: Err(CallError::Timeout) });
    }

    fn step_member(&mut self, alias: &str, input: member::Input) {
        let now = self.now;
        let Some(node) = self.members.get_mut(alias) else { return };
        let (run, Some(member)) = (node.run, node.running.as_mut()) else { return };
        let actions = member.step(now, input);
        let wakeup = member.wakeup();
        for action in actions {
            self.act(alias, run, action);
        }
        if wakeup != u64::MAX {
            self.wake_at(alias, wakeup);
        }
    }

    fn act(&mut self, alias: &str, run: u64, action: member::Action) {
        match action {
            member::Action::Store(op) => {
                self.members.get_mut(alias).expect("known").disk.apply(op);
            }
            member::Action::Call { call, to, body, timeout_ms } => {
                let origin = Origin::Call { alias: alias.to_owned(), run, call };
                self.send(origin, to, body, timeout_ms);
            }
            member::Action::Reply { request, answer } => self.reply_later(request, answer),
            member::Action::ReadRecords { request, chunk, after, upto } => {
                let disk = &self.members[alias].disk;
                let records = disk.read(chunk, after, upto);
                let version = records.last().map_or(after, |r| r.version);
                self.reply_later(request, Answer::Records { records, version, more: false });
            }
            member::Action::StartNode { request, start } => {
                self.started.push(start.alias.clone());
                if !self.is_up(&start.alias) {
                    self.start(&start.alias);
                }
                self.reply_later(request, Answer::Done);
            }
            member::Action::StopNode { request, alias, .. } => {
                self.step_member(&alias, member::Input::Stop);
                self.crash(&alias);
                self.reply_later(request, Answer::Done);
            }
            member::Action::Ready | member::Action::ViewChanged => {}
        }
    }

    /// A client of the node `via` asks the leader.
    pub(crate) fn ask(&mut self, via: &str, ask: Ask) -> u64 {
        let id = self.sequence;
        let request = self.request(Origin::Client(id));
        self.step_member(via, member::Input::Ask { request, ask });
        id
    }

    pub(crate) fn ask_now(&mut self, via: &str, ask: Ask) -> Answer {
        let id = self.ask(via, ask);
        self.run_until(60_000, "an answer", |w| w.answers.contains_key(&id));
        self.answers[&id].clone()
    }

    /// A client of the node `via` inserts one row.
    pub(crate) fn write(
        &mut self,
        via: &str,
        key: &str,
        row: u64,
        client: Option<(String, u64)>,
    ) -> u64 {
        let id = self.sequence;
        let request = self.request(Origin::Client(id));
        let payload = Payload { rows: 1, data: row.to_string() };
        let write = Write {
            tid: Tid(self.rng.next_u64()),
            db: "dfs://d".to_owned(),
            table: "t".to_owned(),
            parts: vec![(key.to_owned(), payload)],
            client,
            at_ms: 0,
        };
        self.step_member(via, member::Input::Write { request, write });
        id
    }

    pub(crate) fn write_now(&mut self, via: &str, key: &str, row: u64) -> Answer {
        let id = self.write(via, key, row, None);
        self.run_until(90_000, "a write to end", |w| w.answers.contains_key(&id));
        self.answers[&id].clone()
    }

    pub(crate) fn make_table(&mut self) {
        let database = Database { path: "dfs://d".to_owned(), spec: String::new(), revision: 1 };
        let made = self.ask_now("dn1", Ask::Change(Command::CreateDatabase(database)));
        assert_eq!(made, Answer::Done);
        let command = Command::CreateTable {
            db: "dfs://d".to_owned(),
            name: "t".to_owned(),
            spec: String::new(),
        };
        assert_eq!(self.ask_now("dn1", Ask::Change(command)), Answer::Done);
    }

    /// Chunks on running nodes with rows that are neither in nor out.
    pub(crate) fn undecided(&self) -> usize {
        let running = self.members.values().filter_map(|member| member.running.as_ref());
        running.flat_map(Member::chunks).filter(|chunk| chunk.pending.is_some()).count()
    }

    /// All rows, once per live replica that counts.
    pub(crate) fn rows_by_replica(&mut self) -> BTreeMap<(String, Alias), Vec<u64>> {
        let ask = Ask::Table { db: "dfs://d".to_owned(), name: "t".to_owned() };
        let Answer::Table(Some(view)) = self.ask_now("dn1", ask) else {
            panic!("no table");
        };
        let mut rows = BTreeMap::new();
        for chunk in view.chunks {
            for alias in &chunk.replicas {
                let numbers = self.read_all(alias, chunk.place.id, chunk.version);
                rows.insert((chunk.place.key.clone(), alias.clone()), numbers);
            }
        }
        rows
    }
}

impl World {
    fn read_all(&mut self, alias: &str, chunk: ChunkId, upto: u64) -> Vec<u64> {
        let (mut after, mut rows) = (0, Vec::new());
        while after < upto {
            let id = self.sequence;
            let order = Order::Read { chunk, after, upto };
            self.send(Origin::Client(id), alias.to_owned(), Body::Order(order), 5_000);
            self.run_until(10_000, "rows", |w| w.answers.contains_key(&id));
            let Answer::Records { records, version, .. } = self.answers[&id].clone() else {
                panic!("{:?} of {alias}", self.answers[&id]);
            };
            rows.extend(records.iter().map(|r| r.payload.data.parse::<u64>().expect("a number")));
            after = version;
        }
        rows
    }
}

impl ControllerDisk {
    fn apply(&mut self, persist: Persist) {
        match persist {
            Persist::Hard(hard) => self.hard = hard,
            Persist::Truncate(index) => self.entries.retain(|e| e.index < index),
            Persist::Append(entries) => self.entries.extend(entries),
            Persist::Snapshot(snapshot, rest) => {
                self.snapshot = *snapshot;
                self.entries = rest;
            }
        }
    }
}

impl MemberDisk {
    fn apply(&mut self, op: StoreOp) {
        match op {
            StoreOp::Create(place) => {
                self.records.insert(place.id, Vec::new());
                self.chunks.insert(place.id, Local { place, version: 0, pending: None });
            }
            StoreOp::AppendPending { chunk, record } => {
                let local = self.chunks.get_mut(&chunk).expect("created");
                local.pending = Some(Undecided { tid: record.tid, version: record.version });
                self.records.get_mut(&chunk).expect("created").push(record);
            }
            StoreOp::CommitPending { chunk, version } => {
                let local = self.chunks.get_mut(&chunk).expect("created");
                local.version = version;
                local.pending = None;
            }
            StoreOp::DropPending { chunk } => {
                let local = self.chunks.get_mut(&chunk).expect("created");
                local.pending = None;
                self.records.get_mut(&chunk).expect("created").pop();
            }
            StoreOp::Append { chunk, records } => {
                let local = self.chunks.get_mut(&chunk).expect("created");
                local.version = records.last().map_or(local.version, |r| r.version);
                self.records.get_mut(&chunk).expect("created").extend(records);
            }
            StoreOp::Delete(chunk) => {
                self.chunks.remove(&chunk);
                self.records.remove(&chunk);
            }
        }
    }

    fn read(&self, chunk: ChunkId, after: u64, upto: u64) -> Vec<Record> {
        let wanted = |r: &&Record| r.version > after && r.version <= upto;
        // A few at a time, so that a copy takes several rounds.
        self.records.get(&chunk).into_iter().flatten().filter(wanted).take(50).cloned().collect()
    }
}
