//! Leader election and log replication among the DolphinDB controllers.
//!
//! Plain Raft with three additions that the documented behaviour needs: a question before a
//! candidacy (so that a controller that was suspended does not disturb a living leader), voters
//! that stay with a leader they have just heard, and a leader that steps down when it has not
//! heard from a majority for the shortest election wait. Leadership is never handed over: a
//! leader that comes back finds another one.

mod election;
mod log;
mod replication;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::log::{Entry, Index, Log, Snapshot, Term};
use crate::ids::{Alias, Millis};
use crate::meta::{Command, Metadata};
use crate::rng::Rng;

/// Entries sent in one message.
const BATCH: usize = 500;

/// What must be on disk before anything that depends on it is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// The highest term seen.
    pub term: Term,
    /// Who got this controller's vote in that term.
    pub voted_for: Option<Alias>,
}

/// A message between two controllers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// Would you vote for me in this term? (Changes nothing at the voter.)
    PreVote {
        /// The term the asker would stand in.
        term: Term,
        /// Its newest entry.
        last_index: Index,
        /// That entry's term.
        last_term: Term,
    },
    /// Answer to [`Message::PreVote`].
    PreVoteReply {
        /// The voter's term: an asker behind it has to catch up before it can win.
        term: Term,
        /// The term that was asked for.
        asked: Term,
        /// Would the voter vote?
        granted: bool,
    },
    /// Vote for me in this term.
    Vote {
        /// The candidate's term.
        term: Term,
        /// Its newest entry.
        last_index: Index,
        /// That entry's term.
        last_term: Term,
    },
    /// Answer to [`Message::Vote`].
    VoteReply {
        /// The voter's term.
        term: Term,
        /// Is this its vote?
        granted: bool,
    },
    /// The leader lives; these entries follow.
    Append {
        /// The leader's term.
        term: Term,
        /// Index before the first entry.
        prev_index: Index,
        /// Its term.
        prev_term: Term,
        /// What follows, possibly nothing.
        entries: Vec<Entry>,
        /// How far the leader's log is committed.
        commit: Index,
    },
    /// The log behind was compacted: take the whole state.
    Install {
        /// The leader's term.
        term: Term,
        /// The state.
        snapshot: Box<Snapshot>,
    },
    /// Answer to [`Message::Append`] and [`Message::Install`].
    AppendReply {
        /// The follower's term.
        term: Term,
        /// Did the entries fit?
        success: bool,
        /// Up to where the logs agree, or a hint where they might.
        index: Index,
    },
}

/// What the driver has to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Durable before anything after it leaves the node.
    Persist(Persist),
    /// One-way; may be lost.
    Send {
        /// The other controller.
        to: Alias,
        /// What to say.
        message: Message,
    },
    /// The role or the known leader changed.
    RoleChanged {
        /// The term it is about.
        term: Term,
        /// Who leads, as far as known.
        leader: Option<Alias>,
        /// Is it this controller?
        leading: bool,
    },
}

/// A change to what is on disk.
#[derive(Clone, Debug, PartialEq)]
pub enum Persist {
    /// `raftHardstate`.
    Hard(HardState),
    /// Drop this index and all after it from `raftWAL`.
    Truncate(Index),
    /// Add to `raftWAL`.
    Append(Vec<Entry>),
    /// Replace `raftSnapshot`, and keep of `raftWAL` only these entries.
    Snapshot(Box<Snapshot>, Vec<Entry>),
}

#[derive(Debug)]
struct Leading {
    next: BTreeMap<Alias, Index>,
    matched: BTreeMap<Alias, Index>,
    acked_at: BTreeMap<Alias, Millis>,
    heartbeat_at: Millis,
}

#[derive(Debug)]
enum Role {
    Follower,
    Asking(BTreeSet<Alias>),
    Candidate(BTreeSet<Alias>),
    Leader(Leading),
}

/// One controller's part in the group.
#[derive(Debug)]
pub struct Raft {
    me: Alias,
    members: BTreeSet<Alias>,
    election_ms: u64,
    heartbeat_ms: u64,
    rng: Rng,
    hard: HardState,
    log: Log,
    commit: Index,
    role: Role,
    leader: Option<Alias>,
    heard_leader_at: Option<Millis>,
    deadline: Millis,
    out: Vec<Output>,
}

impl Raft {
    /// Starts as a follower that waits for a leader; a group of one need not wait.
    #[must_use]
    pub fn new(
        me: Alias,
        members: BTreeSet<Alias>,
        (election_ms, heartbeat_ms): (u64, u64),
        seed: u64,
        (hard, log): (HardState, Log),
        now: Millis,
    ) -> Self {
        let commit = log.snapshot().index;
        let mut raft = Self {
            me,
            members,
            election_ms,
            heartbeat_ms,
            rng: Rng::new(seed),
            hard,
            log,
            commit,
            role: Role::Follower,
            leader: None,
            heard_leader_at: None,
            deadline: now,
            out: Vec::new(),
        };
        if raft.members.len() > 1 {
            raft.draw_deadline(now);
        }
        raft
    }

    /// When [`Raft::tick`] has something to do next.
    #[must_use]
    pub fn wakeup(&self) -> Millis {
        match &self.role {
            Role::Leader(leading) => leading.heartbeat_at,
            Role::Follower | Role::Asking(_) | Role::Candidate(_) => self.deadline,
        }
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Millis) {
        self.check_lease(now);
        if let Role::Leader(leading) = &self.role {
            if now >= leading.heartbeat_at {
                self.broadcast(now);
            }
        } else if now >= self.deadline {
            self.ask_for_votes(now);
        }
    }

    /// A leader that was suspended for longer than an election may not go on as if nothing had
    /// happened, whatever it is about to hear.
    pub fn check_lease(&mut self, now: Millis) {
        if matches!(self.role, Role::Leader(_)) && !self.has_quorum_contact(now) {
            self.become_follower(now, self.hard.term, None);
        }
    }

    /// Takes a message from another controller of the group.
    pub fn receive(&mut self, now: Millis, from: &Alias, message: Message) {
        if !self.members.contains(from) || *from == self.me {
            return;
        }
        match message {
            Message::PreVote { term, last_index, last_term } => {
                self.on_pre_vote(now, from, term, (last_term, last_index));
            }
            Message::PreVoteReply { term, asked, granted } => {
                self.on_pre_vote_reply(now, from, term, asked, granted);
            }
            Message::Vote { term, last_index, last_term } => {
                self.on_vote(now, from, term, (last_term, last_index));
            }
            Message::VoteReply { term, granted } => self.on_vote_reply(now, from, term, granted),
            Message::Append { term, prev_index, prev_term, entries, commit } => {
                self.on_append(now, from, term, (prev_index, prev_term), entries, commit);
            }
            Message::Install { term, snapshot } => self.on_install(now, from, term, *snapshot),
            Message::AppendReply { term, success, index } => {
                self.on_append_reply(now, from, term, success, index);
            }
        }
    }

    /// Adds a command if this controller leads; it counts once it is committed.
    pub fn propose(&mut self, now: Millis, command: Command) -> Option<Index> {
        if !self.is_leader(now) {
            return None;
        }
        let entry = Entry { term: self.hard.term, index: self.log.last_index() + 1, command };
        let index = entry.index;
        self.log.push(entry.clone());
        self.out.push(Output::Persist(Persist::Append(vec![entry])));
        self.broadcast(now);
        self.advance_commit();
        Some(index)
    }

    /// Replaces the log up to `index` by the state it led to.
    pub fn compact(&mut self, index: Index, state: Metadata) {
        let Some(term) = self.log.term_at(index) else { return };
        if index <= self.log.snapshot().index || index > self.commit {
            return;
        }
        self.log.install(Snapshot { index, term, state });
        let rest = self.log.from(index + 1, usize::MAX);
        let snapshot = Box::new(self.log.snapshot().clone());
        self.out.push(Output::Persist(Persist::Snapshot(snapshot, rest)));
    }

    /// Gives leadership up and keeps quiet for `quiet_ms`, so that another controller gets it.
    pub fn step_down(&mut self, now: Millis, quiet_ms: u64) {
        if matches!(self.role, Role::Leader(_)) {
            self.become_follower(now, self.hard.term, None);
            self.deadline = now + self.election_ms * 2 + quiet_ms;
        }
    }

    /// Changes `raftElectionTick` until the next start.
    pub fn set_election_ms(&mut self, now: Millis, election_ms: u64) {
        self.election_ms = election_ms;
        if !matches!(self.role, Role::Leader(_)) {
            self.draw_deadline(now);
        }
    }

    /// Hands out what has to be done since the last call.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.out)
    }

    /// Does this controller lead, and has it heard from a majority recently enough that nobody
    /// else can lead by now?
    #[must_use]
    pub fn is_leader(&self, now: Millis) -> bool {
        matches!(self.role, Role::Leader(_)) && self.has_quorum_contact(now)
    }

    /// Who leads, as far as this controller knows.
    #[must_use]
    pub fn leader(&self) -> Option<&Alias> {
        self.leader.as_ref()
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// How far the log is committed.
    #[must_use]
    pub fn commit_index(&self) -> Index {
        self.commit
    }

    /// The log itself.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The group's members.
    #[must_use]
    pub fn members(&self) -> &BTreeSet<Alias> {
        &self.members
    }

    /// When the leader last heard from `member`; `None` elsewhere.
    #[must_use]
    pub fn acked_at(&self, member: &Alias) -> Option<Millis> {
        match &self.role {
            Role::Leader(leading) => leading.acked_at.get(member).copied(),
            Role::Follower | Role::Asking(_) | Role::Candidate(_) => None,
        }
    }

    fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }

    fn others(&self) -> Vec<Alias> {
        self.members.iter().filter(|m| **m != self.me).cloned().collect()
    }

    fn send(&mut self, to: &Alias, message: Message) {
        self.out.push(Output::Send { to: to.clone(), message });
    }

    fn draw_deadline(&mut self, now: Millis) {
        self.deadline = now + self.election_ms + self.rng.below(self.election_ms.max(1));
    }

    fn persist_hard(&mut self) {
        self.out.push(Output::Persist(Persist::Hard(self.hard.clone())));
    }

    fn has_quorum_contact(&self, now: Millis) -> bool {
        let Role::Leader(leading) = &self.role else { return false };
        let recent = leading
            .acked_at
            .values()
            .filter(|at| now.saturating_sub(**at) < self.election_ms)
            .count();
        recent + 1 >= self.majority()
    }
}
