//! The chunks on a data node: which version each is at, and what is written but not decided.

use std::collections::{BTreeMap, BTreeSet};

use super::asks::Purpose;
use super::{Action, Member};
use crate::ids::{ChunkId, Millis, Tid};
use crate::message::{Answer, Ask, ChunkReport, Payload, Record};
use crate::meta::ChunkPlace;

/// A chunk as a node has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Identity and place.
    pub place: ChunkPlace,
    /// The newest committed version.
    pub version: u64,
    /// Written, but not known to be committed.
    pub pending: Option<Undecided>,
}

/// Rows on disk whose transaction this node has not heard the end of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecided {
    /// The transaction.
    pub tid: Tid,
    /// The version its commit makes.
    pub version: u64,
}

/// A change to what is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOp {
    /// A chunk comes into being, empty.
    Create(ChunkPlace),
    /// Rows are added, not yet decided.
    AppendPending {
        /// The chunk.
        chunk: ChunkId,
        /// The rows.
        record: Record,
    },
    /// The undecided rows count.
    CommitPending {
        /// The chunk.
        chunk: ChunkId,
        /// Their version.
        version: u64,
    },
    /// The undecided rows never were.
    DropPending {
        /// The chunk.
        chunk: ChunkId,
    },
    /// Rows copied from another node are added, decided.
    Append {
        /// The chunk.
        chunk: ChunkId,
        /// The rows.
        records: Vec<Record>,
    },
    /// The chunk is gone.
    Delete(ChunkId),
}

/// All chunks of a node.
#[derive(Debug)]
pub(super) struct Chunks(BTreeMap<ChunkId, Local>);

impl Chunks {
    pub(super) fn new(chunks: Vec<Local>) -> Self {
        Self(chunks.into_iter().map(|chunk| (chunk.place.id, chunk)).collect())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Local> {
        self.0.values()
    }

    pub(super) fn version(&self, id: &ChunkId) -> Option<u64> {
        self.0.get(id).map(|chunk| chunk.version)
    }

    /// Transactions whose end this node has not heard.
    pub(super) fn undecided(&self) -> BTreeSet<Tid> {
        self.0.values().filter_map(|chunk| chunk.pending.map(|pending| pending.tid)).collect()
    }

    fn of(&self, tid: Tid) -> Vec<ChunkId> {
        let waits = |chunk: &&Local| chunk.pending.is_some_and(|pending| pending.tid == tid);
        self.0.values().filter(waits).map(|chunk| chunk.place.id).collect()
    }

    pub(super) fn reports(&self) -> Vec<ChunkReport> {
        self.0
            .values()
            .map(|chunk| ChunkReport {
                id: chunk.place.id,
                version: chunk.version,
                pending: chunk.pending.map(|p| p.tid),
            })
            .collect()
    }
}

impl Member {
    fn store(&mut self, op: StoreOp) {
        self.out.push(Action::Store(op));
    }

    /// Puts a transaction's rows on disk, undecided.
    ///
    /// The leader gave `base` as the version this replica has. So undecided rows of that version
    /// were committed, and undecided rows of the version after it were not.
    pub(super) fn prepare(
        &mut self,
        tid: Tid,
        place: ChunkPlace,
        base: u64,
        payload: Payload,
    ) -> Result<(), String> {
        let id = place.id;
        if !self.chunks.0.contains_key(&id) {
            self.create_chunk(place);
        }
        let Some(local) = self.chunks.0.get(&id) else { return Ok(()) };
        match local.pending {
            Some(pending) if pending.tid == tid => return Ok(()),
            Some(pending) => self.settle_chunk(id, pending.version <= base),
            None => {}
        }
        let has = self.chunks.version(&id).unwrap_or(0);
        if has != base {
            return Err(format!("the replica is at version {has}, not {base}"));
        }
        let version = base + 1;
        if let Some(local) = self.chunks.0.get_mut(&id) {
            local.pending = Some(Undecided { tid, version });
        }
        let record = Record { version, tid, payload };
        self.store(StoreOp::AppendPending { chunk: id, record });
        Ok(())
    }

    pub(super) fn create_chunk(&mut self, place: ChunkPlace) {
        let local = Local { place: place.clone(), version: 0, pending: None };
        self.chunks.0.insert(place.id, local);
        self.store(StoreOp::Create(place));
    }

    /// Ends the undecided rows of a chunk one way or the other.
    fn settle_chunk(&mut self, id: ChunkId, commit: bool) {
        let Some(local) = self.chunks.0.get_mut(&id) else { return };
        let Some(pending) = local.pending.take() else { return };
        if commit {
            local.version = pending.version;
            self.store(StoreOp::CommitPending { chunk: id, version: pending.version });
        } else {
            self.store(StoreOp::DropPending { chunk: id });
        }
    }

    pub(super) fn finish_chunk(&mut self, id: ChunkId, tid: Tid, commit: bool) {
        let pending = self.chunks.0.get(&id).and_then(|local| local.pending);
        if pending.is_some_and(|p| p.tid == tid) {
            self.settle_chunk(id, commit);
        }
        let local = self.chunks.0.get(&id);
        if !commit && local.is_some_and(|l| l.version == 0 && l.pending.is_none()) {
            // It was made for a transaction that never was.
            self.delete_chunk(id);
        }
    }

    /// Whoever wrote may have died before it told how a transaction ended: what is undecided for
    /// longer than a heartbeat is asked for. Nothing else would settle it before the next write.
    pub(super) fn ask_for_ends(&mut self, now: Millis) {
        let undecided = self.chunks.undecided();
        let before = std::mem::replace(&mut self.undecided, undecided);
        let deadline = now + self.settings.timing.heartbeat_timeout_ms;
        for tid in before.intersection(&self.undecided.clone()) {
            if !self.txns.contains_key(tid) {
                self.ask(now, Ask::Outcome { tid: *tid }, Purpose::Ended(*tid), deadline);
            }
        }
    }

    pub(super) fn on_ended(&mut self, tid: Tid, answer: Option<Answer>) {
        let Some(Answer::Outcome(commit)) = answer else { return };
        for id in self.chunks.of(tid) {
            self.finish_chunk(id, tid, commit);
        }
    }

    pub(super) fn delete_chunk(&mut self, id: ChunkId) {
        if self.chunks.0.remove(&id).is_some() {
            self.store(StoreOp::Delete(id));
        }
    }

    /// The asker knows from the leader that this replica has `upto`: undecided rows of it count.
    pub(super) fn ready_to_read(&mut self, id: ChunkId, upto: u64) -> Result<(), String> {
        let Some(local) = self.chunks.0.get(&id) else {
            return Err(format!("the chunk {id} is not here"));
        };
        if local.pending.is_some_and(|p| p.version <= upto) {
            self.settle_chunk(id, true);
        }
        let has = self.chunks.version(&id).unwrap_or(0);
        if has < upto {
            return Err(format!("the chunk {id} is at version {has}, not {upto}"));
        }
        Ok(())
    }

    /// Adds rows copied from another node. What follows the version here counts, the rest is
    /// known already.
    pub(super) fn append_copied(&mut self, id: ChunkId, records: Vec<Record>) {
        if self.chunks.0.get(&id).is_some_and(|local| local.pending.is_some()) {
            self.settle_chunk(id, false);
        }
        let Some(local) = self.chunks.0.get_mut(&id) else { return };
        let mut added = Vec::new();
        for record in records {
            if record.version == local.version + 1 {
                local.version = record.version;
                added.push(record);
            }
        }
        if !added.is_empty() {
            self.store(StoreOp::Append { chunk: id, records: added });
        }
    }
}
