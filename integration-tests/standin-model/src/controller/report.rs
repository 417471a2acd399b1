//! What a node's disk holds, compared with what the metadata says about it.

use std::collections::BTreeMap;

use super::Controller;
use crate::ids::Millis;
use crate::ids::{ChunkId, RequestId, Tid};
use crate::message::{Answer, ChunkReport, Report};
use crate::meta::Command;

/// What a report tells the leader to do.
#[derive(Default)]
struct Findings {
    commit: Vec<(ChunkId, Tid)>,
    abort: Vec<(ChunkId, Tid)>,
    delete: Vec<ChunkId>,
    versions: Vec<(ChunkId, u64)>,
    /// Something changed after the report was asked for: it proves nothing, ask again.
    ask_again: bool,
}

impl Controller {
    pub(super) fn on_report(&mut self, now: Millis, request: RequestId, report: Report) {
        let known = self.node(&report.alias);
        if known.is_none_or(|k| k.incarnation != report.incarnation || !k.online) {
            return self.reply(request, Answer::Failed("report of another run".to_owned()));
        }
        let found = self.compare(&report);
        for (chunk, version) in &found.versions {
            let command = Command::Replica {
                chunk: *chunk,
                alias: report.alias.clone(),
                version: Some(*version),
                replaces: None,
            };
            self.raft.propose(now, command);
        }
        if let Some(leading) = &mut self.leading {
            leading.tasks.dirty = true;
            leading.housekeeping_at = now;
            if let Some(known) = leading.nodes.get_mut(&report.alias) {
                known.reported = !found.ask_again;
            }
        }
        let Findings { commit, abort, delete, .. } = found;
        self.reply(request, Answer::Reported { commit, abort, delete });
    }

    fn compare(&self, report: &Report) -> Findings {
        let mut found = Findings::default();
        let held: BTreeMap<ChunkId, &ChunkReport> =
            report.chunks.iter().map(|chunk| (chunk.id, chunk)).collect();
        for (id, chunk) in &self.meta.chunks {
            let Some(expected) = chunk.replicas.get(&report.alias).copied() else { continue };
            let seen = held.get(id).map_or(0, |r| r.version + u64::from(self.ended_well(r)));
            if seen == expected || seen > chunk.version {
                continue;
            }
            if chunk.changed_at > report.ticket || self.is_held(id) {
                found.ask_again = true;
            } else {
                found.versions.push((*id, seen));
            }
        }
        for chunk in &report.chunks {
            self.judge_held(report, chunk, &mut found);
        }
        found
    }

    fn judge_held(&self, report: &Report, held: &ChunkReport, found: &mut Findings) {
        if let Some(tid) = held.pending {
            if self.meta.was_committed(tid) {
                found.commit.push((held.id, tid));
            } else if !self.is_running(tid) {
                found.abort.push((held.id, tid));
            }
        }
        let wanted = self
            .meta
            .chunks
            .get(&held.id)
            .is_some_and(|chunk| chunk.replicas.contains_key(&report.alias));
        if !wanted && !self.is_held(&held.id) && !self.is_being_copied(held.id, &report.alias) {
            found.delete.push(held.id);
        }
    }

    fn ended_well(&self, held: &ChunkReport) -> bool {
        held.pending.is_some_and(|tid| self.meta.was_committed(tid))
    }

    fn is_running(&self, tid: Tid) -> bool {
        self.leading.as_ref().is_some_and(|leading| leading.txns.contains_key(&tid))
    }

    /// Does a running transaction write to this chunk?
    pub(super) fn is_held(&self, id: &ChunkId) -> bool {
        self.leading.as_ref().is_some_and(|leading| {
            leading.txns.values().flat_map(|txn| &txn.grants).any(|grant| grant.place.id == *id)
        })
    }

    /// The next heartbeat of the node is answered with the wish for a report.
    pub(super) fn ask_for_report(&mut self, alias: &str) {
        if let Some(known) = self.leading.as_mut().and_then(|l| l.nodes.get_mut(alias)) {
            known.reported = false;
        }
    }
}
