//! A node that is not a controller: data node, compute node or DolphinDB agent.
//!
//! It tells the leader that it lives, finds the leader again when it moved, coordinates the
//! transactions of its clients and, if it is a data node, keeps chunks.

mod asks;
mod chunks;
mod recovery;
mod txn;

use std::collections::{BTreeMap, BTreeSet};

use self::asks::{Pending, Purpose};
pub use self::chunks::{Local, StoreOp, Undecided};
use self::recovery::Copying;
use self::txn::Txn;
pub use self::txn::Write;
use crate::ids::{Alias, ChunkId, Millis, NodeRole, RequestId, Tid};
use crate::message::{Alive, Answer, Ask, Heartbeat, NodeStats, Order, Report, Start};
use crate::meta::{ClusterConfig, Users};
use crate::rng::Rng;
use crate::timing::Timing;

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its alias.
    pub me: Alias,
    /// A number drawn at this start.
    pub incarnation: u64,
    /// What it is.
    pub role: NodeRole,
    /// The controllers, in any order.
    pub controllers: Vec<Alias>,
    /// Times.
    pub timing: Timing,
    /// Seed of everything random.
    pub seed: u64,
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// Nobody listens there, or the connection broke: the process is gone.
    Gone,
    /// No answer in time.
    Timeout,
}

/// What a call carries.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// To a controller.
    Ask(Ask),
    /// To a node.
    Order(Order),
}

/// Something happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Time passed.
    Tick,
    /// Another node asks for something; exactly one answer follows, from the machine as
    /// [`Action::Reply`] or from the driver where an action says so.
    Order {
        /// The driver's number.
        request: RequestId,
        /// What.
        order: Order,
    },
    /// This node's own evaluator asks the leader.
    Ask {
        /// The driver's number.
        request: RequestId,
        /// What.
        ask: Ask,
    },
    /// This node's own evaluator inserts rows.
    Write {
        /// The driver's number.
        request: RequestId,
        /// What.
        write: Write,
    },
    /// What became of an [`Action::Call`].
    Called {
        /// Its number.
        call: u64,
        /// The answer.
        result: Result<Answer, CallError>,
    },
    /// Current load, for the heartbeats.
    Stats(NodeStats),
    /// The node is asked to stop: it says goodbye and takes nothing new.
    Stop,
}

/// What the driver has to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Change the chunks on disk; durable before any later action.
    Store(StoreOp),
    /// Ask a controller or another node.
    Call {
        /// Comes back in [`Input::Called`].
        call: u64,
        /// Whom.
        to: Alias,
        /// What.
        body: Body,
        /// Give up after this.
        timeout_ms: u64,
    },
    /// Answer an order, an ask or a write.
    Reply {
        /// The driver's number.
        request: RequestId,
        /// The answer.
        answer: Answer,
    },
    /// Read rows from disk and answer with [`Answer::Records`].
    ReadRecords {
        /// The driver's number.
        request: RequestId,
        /// The chunk.
        chunk: ChunkId,
        /// Leave out everything up to this version.
        after: u64,
        /// Stop after this version.
        upto: u64,
    },
    /// Start a process on this host, and answer.
    StartNode {
        /// The driver's number.
        request: RequestId,
        /// Which.
        start: Box<Start>,
    },
    /// Ask a process of this host to stop, and answer.
    StopNode {
        /// The driver's number.
        request: RequestId,
        /// Which.
        alias: Alias,
        /// Its address.
        site: String,
        /// Answer only when it is gone?
        wait: bool,
    },
    /// The node has done everything that a start needs.
    Ready,
    /// Users or configuration are new.
    ViewChanged,
}

/// A node.
#[derive(Debug)]
pub struct Member {
    settings: Settings,
    rng: Rng,
    leader: Option<Alias>,
    turn: usize,
    users: (u64, Users),
    config: (u64, ClusterConfig),
    stats: NodeStats,
    asks: BTreeMap<u64, Pending>,
    calls: BTreeMap<u64, Purpose>,
    txns: BTreeMap<Tid, Txn>,
    copies: BTreeMap<u64, Copying>,
    chunks: chunks::Chunks,
    /// What was undecided at the last heartbeat.
    undecided: BTreeSet<Tid>,
    heartbeat_at: Millis,
    heartbeat_open: bool,
    report_open: bool,
    ready: bool,
    stopping: bool,
    next_number: u64,
    out: Vec<Action>,
}

impl Member {
    /// Starts with the chunks that are on its disk.
    #[must_use]
    pub fn new(settings: Settings, chunks: Vec<Local>, now: Millis) -> Self {
        let mut rng = Rng::new(settings.seed);
        let turn = usize::try_from(rng.below(64)).unwrap_or(0);
        Self {
            settings,
            rng,
            leader: None,
            turn,
            users: (0, Users::new()),
            config: (0, ClusterConfig::default()),
            stats: NodeStats::default(),
            asks: BTreeMap::new(),
            calls: BTreeMap::new(),
            txns: BTreeMap::new(),
            copies: BTreeMap::new(),
            chunks: chunks::Chunks::new(chunks),
            undecided: BTreeSet::new(),
            heartbeat_at: now,
            heartbeat_open: false,
            report_open: false,
            ready: false,
            stopping: false,
            next_number: 1,
            out: Vec::new(),
        }
    }

    /// Takes one event and returns what to do about it.
    pub fn step(&mut self, now: Millis, input: Input) -> Vec<Action> {
        match input {
            Input::Tick => self.tick(now),
            Input::Order { request, order } => self.on_order(now, request, order),
            Input::Ask { request, ask } => {
                let deadline = now + self.settings.timing.leader_wait_ms;
                self.ask(now, ask, Purpose::Local(request), deadline);
            }
            Input::Write { request, write } => self.on_write(now, request, write),
            Input::Called { call, result } => self.on_called(now, call, result),
            Input::Stats(stats) => self.stats = stats,
            Input::Stop => self.on_stop(now),
        }
        std::mem::take(&mut self.out)
    }

    /// When [`Input::Tick`] has something to do next.
    #[must_use]
    pub fn wakeup(&self) -> Millis {
        let mut next = self.ask_wakeup().unwrap_or(Millis::MAX);
        next = next.min(self.txn_wakeup().unwrap_or(Millis::MAX));
        if !self.stopping && !self.heartbeat_open {
            next = next.min(self.heartbeat_at);
        }
        next
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<&Alias> {
        self.leader.as_ref()
    }

    /// Users, as the leader last told.
    #[must_use]
    pub fn users(&self) -> &Users {
        &self.users.1
    }

    /// The cluster's configuration, as the leader last told.
    #[must_use]
    pub fn config(&self) -> &ClusterConfig {
        &self.config.1
    }

    /// The chunks on this node's disk.
    pub fn chunks(&self) -> impl Iterator<Item = &Local> {
        self.chunks.all()
    }

    /// Has it done everything that a start needs?
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready && !self.stopping
    }

    /// Transactions that this node coordinates: partitions, and since when.
    pub fn transactions(&self) -> impl Iterator<Item = (Tid, usize, Millis)> {
        self.txns.iter().map(|(tid, txn)| (*tid, txn.partitions(), txn.begun_at()))
    }

    /// Is nothing under way that a graceful stop waits for?
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.txns.is_empty() && self.chunks.all().all(|chunk| chunk.pending.is_none())
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn reply(&mut self, request: RequestId, answer: Answer) {
        self.out.push(Action::Reply { request, answer });
    }

    fn tick(&mut self, now: Millis) {
        self.retry_asks(now);
        self.retry_begins(now);
        if !self.stopping && !self.heartbeat_open && now >= self.heartbeat_at {
            self.send_heartbeat(now);
        }
    }

    fn send_heartbeat(&mut self, now: Millis) {
        let beat = Heartbeat {
            alias: self.settings.me.clone(),
            incarnation: self.settings.incarnation,
            role: self.settings.role,
            ready: self.ready,
            users_revision: self.users.0,
            config_revision: self.config.0,
            stats: self.stats.clone(),
        };
        self.heartbeat_open = true;
        // A little early, never late, so that the nodes do not all speak at once.
        let heartbeat_ms = self.settings.timing.heartbeat_ms;
        self.heartbeat_at = now + heartbeat_ms - self.rng.below(heartbeat_ms / 8);
        let deadline = now + self.settings.timing.heartbeat_timeout_ms;
        self.ask(now, Ask::Heartbeat(beat), Purpose::Heartbeat, deadline);
    }

    fn on_alive(&mut self, now: Millis, alive: Alive) {
        if let Some(users) = alive.users {
            self.users = users;
            self.out.push(Action::ViewChanged);
        }
        if let Some(config) = alive.config {
            self.config = config;
            self.out.push(Action::ViewChanged);
        }
        if let Some(ticket) = alive.report {
            self.send_report(now, ticket);
        } else if !self.report_open {
            self.become_ready(now);
            self.ask_for_ends(now);
        }
    }

    fn become_ready(&mut self, now: Millis) {
        if !self.ready {
            self.ready = true;
            self.out.push(Action::Ready);
            // The leader should know at once, not at the next beat.
            self.heartbeat_at = now;
        }
    }

    fn send_report(&mut self, now: Millis, ticket: u64) {
        if self.report_open {
            return;
        }
        self.report_open = true;
        let report = Report {
            alias: self.settings.me.clone(),
            incarnation: self.settings.incarnation,
            ticket,
            chunks: self.chunks.reports(),
        };
        let deadline = now + self.settings.timing.heartbeat_timeout_ms;
        self.ask(now, Ask::Report(report), Purpose::Report, deadline);
    }

    fn on_reported(&mut self, now: Millis, answer: Answer) {
        self.report_open = false;
        let Answer::Reported { commit, abort, delete } = answer else { return };
        for (chunk, tid) in commit {
            self.finish_chunk(chunk, tid, true);
        }
        for (chunk, tid) in abort {
            self.finish_chunk(chunk, tid, false);
        }
        for chunk in delete {
            self.delete_chunk(chunk);
        }
        self.become_ready(now);
        self.heartbeat_at = now;
    }

    fn on_stop(&mut self, now: Millis) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        let ask = Ask::Goodbye {
            alias: self.settings.me.clone(),
            incarnation: self.settings.incarnation,
        };
        let deadline = now + self.settings.timing.heartbeat_ms;
        self.ask(now, ask, Purpose::Nothing, deadline);
    }

    fn on_order(&mut self, now: Millis, request: RequestId, order: Order) {
        match order {
            Order::Prepare { tid, place, base, payload } => {
                let answer = match self.prepare(tid, place, base, payload) {
                    Ok(()) => Answer::Done,
                    Err(text) => Answer::Failed(text),
                };
                self.reply(request, answer);
            }
            Order::Finish { tid, chunks, commit } => {
                for chunk in chunks {
                    self.finish_chunk(chunk, tid, commit);
                }
                self.reply(request, Answer::Done);
            }
            Order::Read { chunk, after, upto } => match self.ready_to_read(chunk, upto) {
                Ok(()) => self.out.push(Action::ReadRecords { request, chunk, after, upto }),
                Err(text) => self.reply(request, Answer::Failed(text)),
            },
            Order::Recover { task, place, source, version } => {
                self.start_copy(now, task, place, source, version);
                self.reply(request, Answer::Done);
            }
            Order::Delete { chunks } => {
                for chunk in chunks {
                    self.delete_chunk(chunk);
                }
                self.reply(request, Answer::Done);
            }
            Order::Start(start) => self.out.push(Action::StartNode { request, start }),
            Order::Stop { alias, site, wait } => {
                self.out.push(Action::StopNode { request, alias, site, wait });
            }
        }
    }

    fn call(&mut self, to: Alias, body: Body, purpose: Purpose) {
        let call = self.number();
        self.calls.insert(call, purpose);
        let timeout_ms = self.settings.timing.heartbeat_timeout_ms;
        self.out.push(Action::Call { call, to, body, timeout_ms });
    }
}
