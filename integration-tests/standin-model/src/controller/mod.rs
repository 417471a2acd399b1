//! A DolphinDB controller: the replicated metadata, and on the leader everything that is known
//! only for now: who lives, which chunk a transaction holds, what is being recovered.
//!
//! The driver gives [`Input`]s and does the [`Action`]s in order: what is to be persisted must be
//! durable before any later action of the same list is taken.

mod change;
mod events;
mod nodes;
mod placement;
mod recovery;
mod report;
mod txn;
mod view;

use std::collections::{BTreeMap, BTreeSet};

pub use self::events::{Action, Input, Notice};
use self::nodes::{Batch, Known};
use self::recovery::Tasks;
pub use self::recovery::{Task, TaskKind, TaskStatus};
use self::txn::{Holder, Place, Txn};
pub use self::view::{ChunkState, ChunkStatus, NodeStatus};
use crate::ids::{Alias, ChunkId, Millis, RequestId};
use crate::message::{Answer, Ask, Order};
use crate::meta::{ClusterConfig, Command, Metadata, User};
use crate::raft::{self, HardState, Index, Log, Raft};
use crate::rng::Rng;
use crate::timing::Timing;

/// Log entries after which the metadata is written as a whole.
const COMPACT_AFTER: usize = 2_000;

/// What a controller is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its alias.
    pub me: Alias,
    /// The controllers of the cluster, itself among them.
    pub controllers: BTreeSet<Alias>,
    /// Times.
    pub timing: Timing,
    /// `dfsReplicationFactor`.
    pub replication: usize,
    /// `dfsReplicaReliabilityLevel`.
    pub reliability: u8,
    /// `datanodeRestartLevel` is `OFFLINE`: restart even what `stopDataNode` stopped.
    pub restart_always: bool,
    /// Most recovery tasks at a time.
    pub recovery_max: usize,
    /// The configuration files: for the very first start, or for every start without high
    /// availability.
    pub files: ClusterConfig,
    /// Without high availability the files always count.
    pub files_rule: bool,
    /// What data and compute nodes use of this controller's own configuration.
    pub worker_settings: Vec<(String, String)>,
    /// The administrator, for the very first start.
    pub first_user: (String, User),
    /// Seed of everything random.
    pub seed: u64,
}

/// What is done once a proposed entry is applied.
#[derive(Debug)]
enum Waiting {
    Change { request: RequestId, victims: BTreeMap<Alias, Vec<ChunkId>> },
    Commit(crate::ids::Tid),
    Recovery { request: RequestId, task: u64 },
}

/// What only the leader knows, and forgets when it no longer leads.
#[derive(Debug)]
struct Leading {
    since: Millis,
    first_index: Index,
    initialized: bool,
    nodes: BTreeMap<Alias, Known>,
    txns: BTreeMap<crate::ids::Tid, Txn>,
    locks: BTreeMap<Place, Holder>,
    tasks: Tasks,
    batches: BTreeMap<u64, Batch>,
    tokens: BTreeMap<u64, u64>,
    housekeeping_at: Millis,
}

/// A controller.
#[derive(Debug)]
pub struct Controller {
    settings: Settings,
    raft: Raft,
    meta: Metadata,
    rng: Rng,
    leading: Option<Leading>,
    waiting: BTreeMap<Index, Waiting>,
    recovery_suspended: bool,
    next_number: u64,
    out: Vec<Action>,
}

impl Controller {
    /// Starts from what is on its disk.
    #[must_use]
    pub fn new(settings: Settings, stored: (HardState, Log), now: Millis) -> Self {
        let mut rng = Rng::new(settings.seed);
        let meta = stored.1.snapshot().state.clone();
        let raft = Raft::new(
            settings.me.clone(),
            settings.controllers.clone(),
            (settings.timing.election_ms, settings.timing.raft_heartbeat_ms),
            rng.next_u64(),
            stored,
            now,
        );
        Self {
            settings,
            raft,
            meta,
            rng,
            leading: None,
            waiting: BTreeMap::new(),
            recovery_suspended: false,
            next_number: 1,
            out: Vec::new(),
        }
    }

    /// Takes one event and returns what to do about it.
    pub fn step(&mut self, now: Millis, input: Input) -> Vec<Action> {
        self.raft.check_lease(now);
        match input {
            Input::Tick => self.tick(now),
            Input::Raft { from, message } => self.raft.receive(now, &from, message),
            Input::Ask { request, ask } => self.on_ask(now, request, ask),
            Input::Ordered { token, result } => self.on_ordered(now, token, result),
            Input::SetElection(ms) => {
                self.settings.timing.election_ms = ms;
                self.raft.set_election_ms(now, ms);
            }
            Input::SetHeartbeatTimeout(ms) => self.settings.timing.heartbeat_timeout_ms = ms,
            Input::SetRestart(ms) => self.settings.timing.restart_ms = ms,
            Input::SuspendRecovery(suspend) => self.recovery_suspended = suspend,
            Input::CancelTask(task) => self.cancel_task(now, task),
            Input::AskReport(alias) => self.ask_for_report(&alias),
            Input::StepDown { quiet_ms } => self.raft.step_down(now, quiet_ms),
        }
        self.settle(now);
        std::mem::take(&mut self.out)
    }

    /// When [`Input::Tick`] has something to do next.
    #[must_use]
    pub fn wakeup(&self) -> Millis {
        let raft = self.raft.wakeup();
        self.leading.as_ref().map_or(raft, |leading| raft.min(leading.housekeeping_at))
    }

    /// The metadata as far as it is applied here.
    #[must_use]
    pub fn meta(&self) -> &Metadata {
        &self.meta
    }

    /// The replicated log.
    #[must_use]
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Does this controller lead?
    #[must_use]
    pub fn is_leader(&self, now: Millis) -> bool {
        self.leading.is_some() && self.raft.is_leader(now)
    }

    /// Does it lead and have everything it needs to?
    #[must_use]
    pub fn is_initialized(&self, now: Millis) -> bool {
        self.is_leader(now) && self.leading.as_ref().is_some_and(|l| l.initialized)
    }

    /// The restart interval that counts now.
    #[must_use]
    pub fn restart_ms(&self) -> Option<u64> {
        self.settings.timing.restart_ms
    }

    /// Writes the metadata as a whole, so that a restart need not replay the log.
    pub fn checkpoint(&mut self) -> Vec<Action> {
        self.raft.compact(self.meta.applied, self.meta.clone());
        self.drain_raft(0);
        std::mem::take(&mut self.out)
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn reply(&mut self, request: RequestId, answer: Answer) {
        self.out.push(Action::Reply { request, answer });
    }

    fn tick(&mut self, now: Millis) {
        self.raft.tick(now);
        self.housekeeping(now);
    }

    fn housekeeping(&mut self, now: Millis) {
        let heartbeat_ms = self.settings.timing.heartbeat_ms;
        let Some(leading) = &mut self.leading else { return };
        if now < leading.housekeeping_at {
            return;
        }
        leading.housekeeping_at = now + heartbeat_ms;
        if !leading.initialized {
            return;
        }
        self.watch_nodes(now);
        self.expire_transactions(now);
        self.restart_nodes(now);
        self.schedule_recovery(now);
    }

    fn on_ask(&mut self, now: Millis, request: RequestId, ask: Ask) {
        if !self.is_leader(now) {
            let leader = self.raft.leader().filter(|l| **l != self.settings.me).cloned();
            return self.reply(request, Answer::NotLeader { leader });
        }
        if !self.is_initialized(now) {
            return self.reply(request, Answer::NotReady);
        }
        match ask {
            Ask::Heartbeat(heartbeat) => self.on_heartbeat(now, request, heartbeat),
            Ask::Report(report) => self.on_report(now, request, report),
            Ask::Goodbye { alias, incarnation } => {
                self.on_goodbye(now, &alias, incarnation);
                self.reply(request, Answer::Done);
            }
            Ask::Outcome { tid } => {
                let answer = self.outcome(tid);
                self.reply(request, answer);
            }
            Ask::Unreachable { alias } => {
                self.node_is_gone(now, &alias);
                self.reply(request, Answer::Done);
            }
            Ask::Begin(begin) => self.on_begin(now, request, begin),
            Ask::Commit { tid, written, at_ms } => {
                self.on_commit(now, request, tid, &written, at_ms);
            }
            Ask::Abort { tid } => {
                self.abort(tid);
                self.reply(request, Answer::Done);
            }
            Ask::Nodes | Ask::Databases | Ask::Database { .. } | Ask::Table { .. } => {
                let answer = self.look_up(now, &ask);
                self.reply(request, answer);
            }
            Ask::Change(command) => self.on_change(now, request, command),
            Ask::Recovered { task, alias, version } => {
                self.on_recovered(now, request, task, &alias, version);
            }
            Ask::StartNodes { nodes } => self.on_start_nodes(now, request, &nodes),
            Ask::StopNodes { nodes, wait } => self.on_stop_nodes(request, &nodes, wait),
        }
    }

    /// Carries out what the log says, and hands on what the log wants done.
    fn settle(&mut self, now: Millis) {
        loop {
            self.drain_raft(now);
            if !self.apply_next(now) {
                break;
            }
        }
        if self.raft.log().len() > COMPACT_AFTER {
            self.raft.compact(self.meta.applied, self.meta.clone());
            self.drain_raft(now);
        }
    }

    fn drain_raft(&mut self, now: Millis) {
        for output in self.raft.take_outputs() {
            match output {
                raft::Output::Persist(persist) => self.out.push(Action::Persist(persist)),
                raft::Output::Send { to, message } => {
                    self.out.push(Action::SendRaft { to, message });
                }
                raft::Output::RoleChanged { term, leader, leading } => {
                    let notice = if leading {
                        self.start_leading(now);
                        Notice::Leading { term }
                    } else {
                        self.stop_leading();
                        Notice::Following { term, leader }
                    };
                    self.out.push(Action::Notice(notice));
                }
            }
        }
    }

    fn start_leading(&mut self, now: Millis) {
        self.leading = Some(Leading {
            since: now,
            first_index: self.raft.log().last_index(),
            initialized: false,
            nodes: BTreeMap::new(),
            txns: BTreeMap::new(),
            locks: BTreeMap::new(),
            tasks: Tasks::default(),
            batches: BTreeMap::new(),
            tokens: BTreeMap::new(),
            housekeeping_at: now,
        });
    }

    /// Whoever still waits for an answer has to ask the next leader.
    fn stop_leading(&mut self) {
        let Some(leading) = self.leading.take() else { return };
        let mut requests: Vec<RequestId> = Vec::new();
        for waiting in std::mem::take(&mut self.waiting).into_values() {
            match waiting {
                Waiting::Change { request, .. } | Waiting::Recovery { request, .. } => {
                    requests.push(request);
                }
                Waiting::Commit(_) => {}
            }
        }
        requests.extend(leading.txns.into_values().flat_map(|txn| txn.waiters));
        requests.extend(leading.batches.into_values().filter_map(|batch| batch.request));
        for request in requests {
            self.reply(request, Answer::NotLeader { leader: None });
        }
    }

    /// Applies the next committed entry, if there is one.
    fn apply_next(&mut self, now: Millis) -> bool {
        let snapshot = self.raft.log().snapshot();
        if snapshot.index > self.meta.applied {
            self.meta = snapshot.state.clone();
            self.meta.applied = snapshot.index;
            return true;
        }
        let next = self.meta.applied + 1;
        if next > self.raft.commit_index() {
            return false;
        }
        let Some(entry) = self.raft.log().get(next).cloned() else { return false };
        let result = self.meta.apply(next, &entry.command);
        if let Some(waiting) = self.waiting.remove(&next) {
            let answer = result.map_or_else(Answer::from, |()| Answer::Done);
            self.applied(now, waiting, answer);
        }
        self.maybe_initialized(now, next);
        true
    }

    fn applied(&mut self, now: Millis, waiting: Waiting, answer: Answer) {
        match waiting {
            Waiting::Change { request, victims } => {
                if answer == Answer::Done {
                    for (to, chunks) in victims {
                        let order = Order::Delete { chunks };
                        self.out.push(Action::Order { token: None, to, order });
                    }
                }
                self.reply(request, answer);
            }
            Waiting::Commit(tid) => self.committed(tid, &answer),
            Waiting::Recovery { request, task } => self.task_applied(now, request, task, &answer),
        }
    }

    /// A leader may act once the first entry of its own term is applied, and there is a
    /// configuration to act on.
    fn maybe_initialized(&mut self, now: Millis, index: Index) {
        let Some(leading) = &mut self.leading else { return };
        if leading.initialized || index < leading.first_index {
            return;
        }
        let fresh = self.meta.config.nodes.is_empty();
        if fresh || (self.settings.files_rule && self.meta.config != self.settings.files) {
            if index == leading.first_index {
                if fresh {
                    let (name, user) = self.settings.first_user.clone();
                    self.raft.propose(now, Command::SetUser { name, user });
                }
                self.raft.propose(now, Command::SetConfig(self.settings.files.clone()));
            }
            return;
        }
        leading.initialized = true;
        leading.housekeeping_at = now;
        self.out.push(Action::Notice(Notice::Initialized));
    }
}
