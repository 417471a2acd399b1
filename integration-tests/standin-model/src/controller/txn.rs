//! Transactions, as the leader sees them: which chunks are held, and what a commit makes of them.
//!
//! Nothing of a running transaction is replicated. A leader commits only what it began itself, so
//! after a change of leadership a transaction is either in the log or rolled back.

use super::{Controller, Waiting};
use crate::ids::{Alias, ChunkId, Millis, RequestId, Tid};
use crate::message::{Answer, Begin, Grant, Written, chunk_commits};
use crate::meta::{ChunkPlace, Command};

/// A partition of a table: what is locked.
pub(super) type Place = (String, String, String);

/// Who holds a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Txn(Tid),
    /// A recovery task in its last phase, until then.
    Task(u64, Millis),
}

/// A running transaction.
#[derive(Debug)]
pub(super) struct Txn {
    pub(super) coordinator: Alias,
    pub(super) begun_at: Millis,
    pub(super) grants: Vec<Grant>,
    pub(super) client: Option<(String, u64)>,
    proposed: bool,
    pub(super) waiters: Vec<RequestId>,
}

impl Txn {
    /// Is its commit in the log already? Then it can no longer be rolled back.
    pub(super) fn is_proposed(&self) -> bool {
        self.proposed
    }
}

/// The lock of a chunk.
pub(super) fn place_of(place: &ChunkPlace) -> Place {
    (place.db.clone(), place.table.clone(), place.key.clone())
}

impl Controller {
    pub(super) fn on_begin(&mut self, now: Millis, request: RequestId, begin: Begin) {
        let answer = self.begin(now, begin).unwrap_or_else(|refusal| refusal);
        self.reply(request, answer);
    }

    fn begin(&mut self, now: Millis, begin: Begin) -> Result<Answer, Answer> {
        if let Some((name, seq)) = &begin.client
            && let Some(last) = self.meta.clients.get(name)
            && last.seq >= *seq
        {
            return Ok(Answer::Duplicate { rows: last.rows });
        }
        let known = self.leading.as_ref().and_then(|l| l.txns.get(&begin.tid));
        if let Some(txn) = known {
            return Ok(Answer::Granted(txn.grants.clone()));
        }
        if self.meta.table(&begin.db, &begin.table).is_none() {
            let text = format!("The table {}/{} does not exist.", begin.db, begin.table);
            return Err(Answer::Failed(text));
        }
        let mut grants = Vec::new();
        for key in &begin.keys {
            grants.push(self.grant(now, &begin, key)?);
        }
        let Some(leading) = &mut self.leading else {
            return Err(Answer::NotLeader { leader: None });
        };
        for grant in &grants {
            leading.locks.insert(place_of(&grant.place), Holder::Txn(begin.tid));
        }
        let txn = Txn {
            coordinator: begin.coordinator,
            begun_at: now,
            grants: grants.clone(),
            client: begin.client,
            proposed: false,
            waiters: Vec::new(),
        };
        leading.txns.insert(begin.tid, txn);
        Ok(Answer::Granted(grants))
    }

    fn grant(&mut self, now: Millis, begin: &Begin, key: &str) -> Result<Grant, Answer> {
        let place = (begin.db.clone(), begin.table.clone(), key.to_owned());
        let path = self.chunk_path(&begin.db, &begin.table, key);
        let held = self.leading.as_ref().and_then(|l| l.locks.get(&place)).copied();
        match held {
            Some(Holder::Txn(_)) => return Err(Answer::Busy { path }),
            Some(Holder::Task(_, until)) if now < until => return Err(Answer::Busy { path }),
            Some(Holder::Task(..)) | None => {}
        }
        let Some(chunk) = self.meta.chunk_of(&begin.db, &begin.table, key) else {
            let id = ChunkId(self.rng.next_u128());
            let replicas = self.place_new(id).map_err(|text| {
                let settling = self.is_settling(now);
                if settling { Answer::Busy { path: path.clone() } } else { Answer::Failed(text) }
            })?;
            let (db, table) = (begin.db.clone(), begin.table.clone());
            let place = ChunkPlace { id, db, table, key: key.to_owned(), path };
            return Ok(Grant { place, base: 0, replicas });
        };
        let current = chunk.replicas.iter().filter(|(_, version)| **version == chunk.version);
        if current.into_iter().any(|(alias, _)| self.may_yet_report(now, alias)) {
            return Err(Answer::Busy { path });
        }
        let replicas = self.current_replicas(chunk);
        if replicas.is_empty() {
            let text = format!("No available replica for the chunk {path}. RefId: S01012");
            return Err(Answer::Failed(text));
        }
        Ok(Grant { place: chunk.place.clone(), base: chunk.version, replicas })
    }

    fn chunk_path(&self, db: &str, table: &str, key: &str) -> String {
        let name = db.strip_prefix("dfs://").unwrap_or(db);
        let suffix = self.meta.table(db, table).map_or("", |t| t.suffix.as_str());
        format!("/{name}/{key}/{suffix}")
    }

    pub(super) fn on_commit(
        &mut self,
        now: Millis,
        request: RequestId,
        tid: Tid,
        written: &[Written],
        at_ms: i64,
    ) {
        if self.meta.was_committed(tid) {
            return self.reply(request, Answer::Done);
        }
        let Some(txn) = self.leading.as_mut().and_then(|l| l.txns.get_mut(&tid)) else {
            return self.reply(request, Answer::RolledBack);
        };
        txn.waiters.push(request);
        if txn.proposed {
            return;
        }
        txn.proposed = true;
        let command = Command::Commit {
            tid,
            at_ms,
            client: txn.client.clone(),
            chunks: chunk_commits(&txn.grants, written),
        };
        if let Some(index) = self.raft.propose(now, command) {
            self.waiting.insert(index, Waiting::Commit(tid));
        }
    }

    /// The log decided.
    pub(super) fn committed(&mut self, tid: Tid, answer: &Answer) {
        let Some(txn) = self.leading.as_mut().and_then(|l| l.txns.remove(&tid)) else { return };
        self.unlock(tid, &txn.grants);
        let answer = if *answer == Answer::Done { Answer::Done } else { Answer::RolledBack };
        for request in txn.waiters {
            self.reply(request, answer.clone());
        }
    }

    /// How a transaction ended, once it has.
    pub(super) fn outcome(&self, tid: Tid) -> Answer {
        let running = self.leading.as_ref().is_some_and(|l| l.txns.contains_key(&tid));
        if running {
            return Answer::Busy { path: tid.to_string() };
        }
        Answer::Outcome(self.meta.was_committed(tid))
    }

    /// Rolls back, unless the commit is in the log.
    pub(super) fn abort(&mut self, tid: Tid) {
        let Some(leading) = &mut self.leading else { return };
        if leading.txns.get(&tid).is_some_and(|txn| !txn.proposed)
            && let Some(txn) = leading.txns.remove(&tid)
        {
            self.unlock(tid, &txn.grants);
        }
    }

    fn unlock(&mut self, tid: Tid, grants: &[Grant]) {
        let Some(leading) = &mut self.leading else { return };
        for grant in grants {
            let place = place_of(&grant.place);
            if leading.locks.get(&place) == Some(&Holder::Txn(tid)) {
                leading.locks.remove(&place);
            }
            // A replica that the transaction went without has fallen behind.
            leading.tasks.dirty = true;
        }
    }

    pub(super) fn expire_transactions(&mut self, now: Millis) {
        let limit = self.settings.timing.transaction_ms;
        let Some(leading) = &self.leading else { return };
        let old: Vec<Tid> = leading
            .txns
            .iter()
            .filter(|(_, txn)| !txn.proposed && now.saturating_sub(txn.begun_at) >= limit)
            .map(|(tid, _)| *tid)
            .collect();
        for tid in old {
            self.abort(tid);
        }
    }
}
