//! Bringing replicas back: those that fell behind while their node was away and, after
//! `dfsRecoveryWaitTime`, those whose node stays away.
//!
//! A task copies while the chunk is being written to; after some rounds it holds the chunk for a
//! moment so that it can catch up with it.

use std::collections::BTreeMap;

use super::txn::{Holder, place_of};
use super::{Action, Controller, Notice, Waiting};
use crate::ids::{Alias, ChunkId, Millis, RequestId};
use crate::message::{Answer, Order};
use crate::meta::{Chunk, Command};

/// Copies of a chunk under load before it is held.
const ROUNDS_BEFORE_HOLD: u32 = 5;
/// Attempts before a task is given up.
const ATTEMPTS_MAX: u32 = 5;
/// Finished tasks that are remembered.
const DONE_MAX: usize = 1_000;

/// Why a chunk is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// A replica fell behind.
    CatchUp,
    /// A node stays away: another one gets its replica.
    Replace,
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskStatus {
    /// Not started.
    Waiting,
    /// The copy runs.
    InProgress,
    /// Done.
    Finished,
    /// Given up.
    Aborted,
}

/// One recovery task.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its number.
    pub id: u64,
    /// Why it is there.
    pub kind: TaskKind,
    /// The chunk.
    pub chunk: ChunkId,
    /// The chunk's path.
    pub path: String,
    /// Copied from.
    pub source: Alias,
    /// Copied to.
    pub dest: Alias,
    /// How far it is.
    pub status: TaskStatus,
    /// Failed attempts.
    pub attempts: u32,
    /// When it was made.
    pub created_at: Millis,
    /// When it last started.
    pub started_at: Option<Millis>,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// Why it failed last.
    pub reason: String,
    replaces: Option<Alias>,
    rounds: u32,
    token: Option<u64>,
}

/// All tasks of a leader.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    pub(super) dirty: bool,
    pub(super) all: BTreeMap<u64, Task>,
}

impl Tasks {
    fn open(&self) -> impl Iterator<Item = &Task> {
        self.all
            .values()
            .filter(|t| matches!(t.status, TaskStatus::Waiting | TaskStatus::InProgress))
    }

    fn running(&self) -> usize {
        self.all.values().filter(|t| t.status == TaskStatus::InProgress).count()
    }

    fn trim(&mut self) {
        while self.all.len() > DONE_MAX {
            let oldest = self.all.values().find(|t| t.ended_at.is_some()).map(|t| t.id);
            match oldest {
                Some(id) => self.all.remove(&id),
                None => break,
            };
        }
    }
}

impl Controller {
    /// All recovery tasks this leader remembers.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.leading.iter().flat_map(|l| l.tasks.all.values())
    }

    /// Makes and starts tasks, if anything changed since the last look.
    pub(super) fn schedule_recovery(&mut self, now: Millis) {
        let waits = self.settings.timing.recovery_wait_ms.is_some();
        let Some(leading) = &mut self.leading else { return };
        let away = waits && leading.nodes.values().any(|known| !known.online);
        let open = leading.tasks.open().next().is_some();
        if !leading.tasks.dirty && !away && !open {
            return;
        }
        leading.tasks.dirty = false;
        if leading.tasks.all.is_empty() && self.meta.chunks.is_empty() {
            return;
        }
        self.drop_needless(now);
        let wanted = self.wanted_tasks(now);
        for (kind, chunk, dest, replaces) in wanted {
            self.add_task(now, kind, chunk, dest, replaces);
        }
        if !self.recovery_suspended {
            self.start_tasks(now);
        }
    }

    /// A replica that was to be replaced may have come back before the copy began.
    fn drop_needless(&mut self, now: Millis) {
        let needless: Vec<u64> = self
            .tasks()
            .filter(|t| t.status == TaskStatus::Waiting)
            .filter(|t| {
                !self.meta.chunks.contains_key(&t.chunk)
                    || t.replaces.as_ref().is_some_and(|old| self.has_reported(old))
            })
            .map(|t| t.id)
            .collect();
        for id in needless {
            self.end_task(now, id, TaskStatus::Aborted, "no longer needed");
        }
    }

    fn wanted_tasks(&self, now: Millis) -> Vec<(TaskKind, ChunkId, Alias, Option<Alias>)> {
        let mut wanted = Vec::new();
        for (id, chunk) in &self.meta.chunks {
            for (alias, version) in &chunk.replicas {
                if *version < chunk.version
                    && self.has_reported(alias)
                    && !self.has_task(now, *id, alias)
                {
                    wanted.push((TaskKind::CatchUp, *id, alias.clone(), None));
                }
            }
            wanted.extend(self.replacements(now, *id, chunk));
        }
        wanted
    }

    fn replacements(
        &self,
        now: Millis,
        id: ChunkId,
        chunk: &Chunk,
    ) -> Vec<(TaskKind, ChunkId, Alias, Option<Alias>)> {
        let Some(wait) = self.settings.timing.recovery_wait_ms else { return Vec::new() };
        let lost = |alias: &Alias| {
            self.down_since(alias).is_some_and(|since| now.saturating_sub(since) >= wait)
        };
        let adding = |alias: &Alias| {
            let replaces = Some(alias);
            self.leading.as_ref().is_some_and(|l| {
                l.tasks.open().any(|t| t.chunk == id && t.replaces.as_ref() == replaces)
            })
        };
        let mut kept: Vec<Alias> =
            chunk.replicas.keys().filter(|alias| !lost(alias)).cloned().collect();
        let mut wanted = Vec::new();
        for old in chunk.replicas.keys().filter(|alias| lost(alias) && !adding(alias)) {
            let Some(dest) = self.choose_node(&kept, id) else { break };
            if self.has_task(now, id, &dest) {
                continue;
            }
            kept.push(dest.clone());
            wanted.push((TaskKind::Replace, id, dest, Some(old.clone())));
        }
        wanted
    }

    /// Is there a task for it, or was one given up a short while ago?
    fn has_task(&self, now: Millis, chunk: ChunkId, dest: &Alias) -> bool {
        let pause = self.settings.timing.heartbeat_timeout_ms;
        self.tasks().any(|t| {
            let recent = t.status == TaskStatus::Aborted
                && t.attempts >= ATTEMPTS_MAX
                && t.ended_at.is_some_and(|at| now.saturating_sub(at) < pause);
            let open = matches!(t.status, TaskStatus::Waiting | TaskStatus::InProgress);
            t.chunk == chunk && t.dest == *dest && (open || recent)
        })
    }

    /// Is this chunk being copied to that node?
    pub(super) fn is_being_copied(&self, chunk: ChunkId, dest: &Alias) -> bool {
        self.leading
            .as_ref()
            .is_some_and(|l| l.tasks.open().any(|t| t.chunk == chunk && t.dest == *dest))
    }

    fn add_task(
        &mut self,
        now: Millis,
        kind: TaskKind,
        chunk: ChunkId,
        dest: Alias,
        replaces: Option<Alias>,
    ) {
        let path = self.meta.chunks.get(&chunk).map_or_else(String::new, |c| c.place.path.clone());
        let id = self.rng.next_u64();
        let Some(leading) = &mut self.leading else { return };
        let task = Task {
            id,
            kind,
            chunk,
            path,
            source: String::new(),
            dest,
            status: TaskStatus::Waiting,
            attempts: 0,
            created_at: now,
            started_at: None,
            ended_at: None,
            reason: String::new(),
            replaces,
            rounds: 0,
            token: None,
        };
        leading.tasks.all.insert(id, task);
        leading.tasks.trim();
    }

    fn start_tasks(&mut self, now: Millis) {
        let room = self
            .leading
            .as_ref()
            .map_or(0, |l| self.settings.recovery_max.saturating_sub(l.tasks.running()));
        let ready: Vec<u64> = self
            .tasks()
            .filter(|t| t.status == TaskStatus::Waiting && self.has_reported(&t.dest))
            .map(|t| t.id)
            .take(room)
            .collect();
        for id in ready {
            self.start_task(now, id);
        }
    }

    fn start_task(&mut self, now: Millis, id: u64) {
        let token = self.number();
        let Some(task) = self.leading.as_ref().and_then(|l| l.tasks.all.get(&id)) else { return };
        let Some(chunk) = self.meta.chunks.get(&task.chunk) else { return };
        let (place, version) = (chunk.place.clone(), chunk.version);
        let mut sources = self.current_replicas(chunk);
        sources.retain(|alias| *alias != task.dest);
        if sources.is_empty() {
            // Nobody has the newest version; this waits until somebody does.
            return;
        }
        let attempt = usize::try_from(task.attempts).unwrap_or(0);
        let source = sources.swap_remove(attempt % sources.len());
        let Some(task) = self.leading.as_mut().and_then(|l| l.tasks.all.get_mut(&id)) else {
            return;
        };
        task.source.clone_from(&source);
        task.status = TaskStatus::InProgress;
        task.started_at = Some(now);
        task.rounds = 0;
        task.token = Some(token);
        let to = task.dest.clone();
        let order = Order::Recover { task: id, place, source, version };
        self.out.push(Action::Order { token: Some(token), to, order });
    }

    /// Was that the outcome of handing a task out? Then a failure is a failed attempt.
    pub(super) fn task_ordered(
        &mut self,
        now: Millis,
        token: u64,
        result: &Result<Answer, String>,
    ) -> bool {
        let Some(id) = self.tasks().find(|t| t.token == Some(token)).map(|t| t.id) else {
            return false;
        };
        match result {
            Ok(Answer::Failed(text)) | Err(text) => {
                let text = text.clone();
                self.attempt_failed(now, id, &text);
            }
            Ok(_) => {}
        }
        true
    }

    pub(super) fn on_recovered(
        &mut self,
        now: Millis,
        request: RequestId,
        id: u64,
        alias: &Alias,
        version: Result<u64, String>,
    ) {
        let task = self.leading.as_ref().and_then(|l| l.tasks.all.get(&id));
        let known = task
            .filter(|t| t.dest == *alias && t.status == TaskStatus::InProgress)
            .and_then(|t| Some((t.clone(), self.meta.chunks.get(&t.chunk)?.clone())));
        let Some((task, chunk)) = known else {
            return self.reply(request, Answer::Failed("no such recovery task".to_owned()));
        };
        let reached = match version {
            Ok(reached) => reached,
            Err(reason) => {
                self.attempt_failed(now, id, &reason);
                return self.reply(request, Answer::Done);
            }
        };
        let place = place_of(&chunk.place);
        let timing = &self.settings.timing;
        let until = now + timing.heartbeat_timeout_ms;
        let Some(leading) = &mut self.leading else { return };
        let holder = leading.locks.get(&place).copied();
        let free = !matches!(holder, Some(Holder::Txn(_)));
        if reached == chunk.version && free {
            leading.locks.insert(place, Holder::Task(id, until));
            let command = Command::Replica {
                chunk: task.chunk,
                alias: task.dest,
                version: Some(reached),
                replaces: task.replaces,
            };
            if let Some(index) = self.raft.propose(now, command) {
                self.waiting.insert(index, Waiting::Recovery { request, task: id });
            }
            return;
        }
        if let Some(task) = leading.tasks.all.get_mut(&id) {
            task.rounds += 1;
            if task.rounds > ROUNDS_BEFORE_HOLD && free {
                leading.locks.insert(place, Holder::Task(id, until));
            }
        }
        self.reply(request, Answer::Continue { version: chunk.version });
    }

    /// The log says that the replica counts now.
    pub(super) fn task_applied(
        &mut self,
        now: Millis,
        request: RequestId,
        id: u64,
        answer: &Answer,
    ) {
        if *answer == Answer::Done {
            self.end_task(now, id, TaskStatus::Finished, "");
        } else {
            self.end_task(now, id, TaskStatus::Aborted, "the chunk is gone");
        }
        self.reply(request, answer.clone());
    }

    fn attempt_failed(&mut self, now: Millis, id: u64, reason: &str) {
        self.release(id);
        let Some(leading) = &mut self.leading else { return };
        leading.tasks.dirty = true;
        let Some(task) = leading.tasks.all.get_mut(&id) else { return };
        task.attempts += 1;
        task.status = TaskStatus::Waiting;
        reason.clone_into(&mut task.reason);
        task.token = None;
        let (path, reason) = (task.path.clone(), reason.to_owned());
        if task.attempts >= ATTEMPTS_MAX {
            self.end_task(now, id, TaskStatus::Aborted, &reason);
        }
        self.out.push(Action::Notice(Notice::RecoveryFailed { path, reason }));
    }

    fn end_task(&mut self, now: Millis, id: u64, status: TaskStatus, reason: &str) {
        self.release(id);
        let Some(leading) = &mut self.leading else { return };
        leading.tasks.dirty = true;
        if let Some(task) = leading.tasks.all.get_mut(&id) {
            task.status = status;
            task.ended_at = Some(now);
            task.token = None;
            reason.clone_into(&mut task.reason);
        }
    }

    /// Lets go of the chunk that a task may hold.
    fn release(&mut self, id: u64) {
        if let Some(leading) = &mut self.leading {
            leading.locks.retain(|_, holder| !matches!(holder, Holder::Task(t, _) if *t == id));
        }
    }

    pub(super) fn cancel_task(&mut self, now: Millis, id: u64) {
        let open = self.leading.as_ref().is_some_and(|l| l.tasks.open().any(|t| t.id == id));
        if open {
            self.end_task(now, id, TaskStatus::Aborted, "cancelled");
        }
    }

    /// A copy to a node that is gone ends; a copy from it starts again elsewhere.
    pub(super) fn tasks_lost_node(&mut self, now: Millis, alias: &Alias) {
        let hit: Vec<(u64, bool)> = self
            .tasks()
            .filter(|t| matches!(t.status, TaskStatus::Waiting | TaskStatus::InProgress))
            .filter(|t| t.dest == *alias || t.source == *alias)
            .map(|t| (t.id, t.dest == *alias))
            .collect();
        for (id, to_it) in hit {
            if to_it {
                self.end_task(now, id, TaskStatus::Aborted, "the node went offline");
            } else {
                self.attempt_failed(now, id, "the source went offline");
            }
        }
    }
}
