//! Transactions that this node coordinates for its clients.
//!
//! Begin at the leader, write to all replicas, commit at the leader. Only after the commit the
//! client is told; whoever misses the news finds out from the leader.

use std::collections::BTreeMap;

use super::asks::Purpose;
use super::{Body, CallError, Member};
use crate::ids::{Alias, ChunkId, Millis, RequestId, Tid};
use crate::message::{Answer, Ask, Begin, Grant, Order, Payload, Written};

/// Wait before asking again for a chunk that another transaction has, in real milliseconds: it
/// grows by this each time, as far as the most.
const BUSY_PAUSE_MS: u64 = 5;
const BUSY_PAUSE_MAX_MS: u64 = 100;

/// Rows to insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The transaction's identity, which the driver draws, so that it can write it down first.
    pub tid: Tid,
    /// Path of the database.
    pub db: String,
    /// The table.
    pub table: String,
    /// Rows by partition.
    pub parts: Vec<(String, Payload)>,
    /// Client and sequence number, for servers that de-duplicate.
    pub client: Option<(String, u64)>,
    /// When, milliseconds since 1970.
    pub at_ms: i64,
}

/// A running transaction.
#[derive(Debug)]
pub(super) struct Txn {
    request: RequestId,
    write: Write,
    begun_at: Millis,
    busy_since: Option<Millis>,
    retry_at: Option<Millis>,
    refusals: u64,
    grants: Vec<Grant>,
    outstanding: usize,
    failure: Option<String>,
}

impl Txn {
    pub(super) fn begun_at(&self) -> Millis {
        self.begun_at
    }

    pub(super) fn partitions(&self) -> usize {
        self.write.parts.len()
    }

    fn payload(&self, key: &str) -> Option<&Payload> {
        self.write.parts.iter().find(|(k, _)| k == key).map(|(_, payload)| payload)
    }

    fn written(&self) -> Vec<Written> {
        self.grants
            .iter()
            .filter_map(|grant| {
                let payload = self.payload(&grant.place.key)?;
                let bytes = u64::try_from(payload.data.len()).unwrap_or(u64::MAX);
                Some(Written { chunk: grant.place.id, rows: payload.rows, bytes })
            })
            .collect()
    }

    fn chunks_by_node(&self) -> BTreeMap<Alias, Vec<ChunkId>> {
        let mut by_node: BTreeMap<Alias, Vec<ChunkId>> = BTreeMap::new();
        for grant in &self.grants {
            for alias in &grant.replicas {
                by_node.entry(alias.clone()).or_default().push(grant.place.id);
            }
        }
        by_node
    }
}

impl Member {
    pub(super) fn on_write(&mut self, now: Millis, request: RequestId, write: Write) {
        if self.stopping {
            let text = format!("<DataNodeNotAvail>The node {} is shutting down.", self.settings.me);
            return self.reply(request, Answer::Failed(text));
        }
        if write.parts.is_empty() {
            return self.reply(request, Answer::Done);
        }
        let tid = write.tid;
        let txn = Txn {
            request,
            write,
            begun_at: now,
            busy_since: None,
            retry_at: None,
            refusals: 0,
            grants: Vec::new(),
            outstanding: 0,
            failure: None,
        };
        self.txns.insert(tid, txn);
        self.begin(now, tid);
    }

    fn begin(&mut self, now: Millis, tid: Tid) {
        let deadline = now + self.settings.timing.leader_wait_ms;
        let Some(txn) = self.txns.get_mut(&tid) else { return };
        txn.retry_at = None;
        let begin = Begin {
            tid,
            coordinator: self.settings.me.clone(),
            db: txn.write.db.clone(),
            table: txn.write.table.clone(),
            keys: txn.write.parts.iter().map(|(key, _)| key.clone()).collect(),
            client: txn.write.client.clone(),
        };
        self.ask(now, Ask::Begin(begin), Purpose::Begin(tid), deadline);
    }

    pub(super) fn txn_wakeup(&self) -> Option<Millis> {
        self.txns.values().filter_map(|txn| txn.retry_at).min()
    }

    pub(super) fn retry_begins(&mut self, now: Millis) {
        let due: Vec<Tid> = self
            .txns
            .iter()
            .filter(|(_, txn)| txn.retry_at.is_some_and(|at| now >= at))
            .map(|(tid, _)| *tid)
            .collect();
        for tid in due {
            self.begin(now, tid);
        }
    }

    pub(super) fn on_begun(&mut self, now: Millis, tid: Tid, answer: Option<Answer>) {
        match answer {
            Some(Answer::Granted(grants)) => self.prepare_all(now, tid, grants),
            Some(Answer::Duplicate { rows }) => self.end(tid, Answer::Duplicate { rows }),
            Some(Answer::Busy { path }) => self.wait_for_chunk(now, tid, &path),
            Some(Answer::Failed(text)) => self.end(tid, Answer::Failed(text)),
            Some(other) => self.end(tid, Answer::Failed(format!("unexpected {other:?}"))),
            None => {
                // It may have been granted all the same.
                let deadline = now + self.settings.timing.transaction_ms;
                self.ask(now, Ask::Abort { tid }, Purpose::Nothing, deadline);
                let text = "<ControllerNotAvail>The leader of the controllers is not available.";
                self.end(tid, Answer::Failed(text.to_owned()));
            }
        }
    }

    fn wait_for_chunk(&mut self, now: Millis, tid: Tid, path: &str) {
        let patience = self.settings.timing.heartbeat_timeout_ms;
        let Some(txn) = self.txns.get_mut(&tid) else { return };
        let since = *txn.busy_since.get_or_insert(now);
        if now.saturating_sub(since) < patience {
            txn.refusals += 1;
            txn.retry_at = Some(now + (BUSY_PAUSE_MS * txn.refusals).min(BUSY_PAUSE_MAX_MS));
            return;
        }
        let text = format!("<ChunkInTransaction>The chunk {path} is in another transaction.");
        self.end(tid, Answer::Failed(text));
    }

    fn prepare_all(&mut self, now: Millis, tid: Tid, grants: Vec<Grant>) {
        let me = self.settings.me.clone();
        let Some(txn) = self.txns.get_mut(&tid) else { return };
        txn.grants = grants;
        txn.outstanding = txn.grants.iter().map(|grant| grant.replicas.len()).sum();
        let mut orders = Vec::new();
        for grant in &txn.grants {
            let Some(payload) = txn.payload(&grant.place.key).cloned() else { continue };
            for alias in &grant.replicas {
                let place = grant.place.clone();
                let order = (place, grant.base, payload.clone());
                orders.push((alias.clone(), order));
            }
        }
        // Others first, so that they write while this node does.
        orders.sort_by_key(|(alias, _)| *alias == me);
        for (alias, (place, base, payload)) in orders {
            if alias == me {
                let done = self.prepare(tid, place, base, payload);
                let answer = done.map_or_else(Answer::Failed, |()| Answer::Done);
                self.on_prepared(now, tid, &alias, Ok(answer));
            } else {
                let order = Order::Prepare { tid, place, base, payload };
                let purpose = Purpose::Prepared(tid, alias.clone());
                self.call(alias, Body::Order(order), purpose);
            }
        }
    }

    pub(super) fn on_prepared(
        &mut self,
        now: Millis,
        tid: Tid,
        alias: &Alias,
        result: Result<Answer, CallError>,
    ) {
        let deadline = now + self.settings.timing.transaction_ms;
        let Some(txn) = self.txns.get_mut(&tid) else { return };
        txn.outstanding = txn.outstanding.saturating_sub(1);
        let problem = match result {
            Ok(Answer::Done) => None,
            Ok(other) => Some((true, format!("{other:?}"))),
            Err(CallError::Gone) => Some((true, "it is not reachable".to_owned())),
            Err(CallError::Timeout) => Some((false, "it does not answer".to_owned())),
        };
        if let Some((tell, reason)) = problem {
            txn.failure.get_or_insert_with(|| {
                format!(
                    "<DataNodeNotAvail>The data node {alias} failed during the transaction {tid}, \
                     which is rolled back: {reason}"
                )
            });
            if tell {
                let ask = Ask::Unreachable { alias: alias.clone() };
                self.ask(now, ask, Purpose::Nothing, deadline);
            }
        }
        let Some(txn) = self.txns.get_mut(&tid) else { return };
        if txn.outstanding > 0 {
            return;
        }
        if let Some(text) = txn.failure.take() {
            self.ask(now, Ask::Abort { tid }, Purpose::Nothing, deadline);
            self.roll_back(tid, text);
            return;
        }
        let (written, at_ms) = (txn.written(), txn.write.at_ms);
        let ask = Ask::Commit { tid, written, at_ms };
        self.ask(now, ask, Purpose::Commit(tid), deadline);
    }

    pub(super) fn on_committed(&mut self, tid: Tid, answer: Option<Answer>) {
        match answer {
            Some(Answer::Done) => {
                self.spread_end(tid, true);
                self.end(tid, Answer::Done);
            }
            Some(_) => {
                let text = format!("<DataNodeNotAvail>The transaction {tid} is rolled back.");
                self.roll_back(tid, text);
            }
            None => {
                let text = format!("The outcome of the transaction {tid} is unknown.");
                self.end(tid, Answer::Failed(text));
            }
        }
    }

    fn roll_back(&mut self, tid: Tid, text: String) {
        self.spread_end(tid, false);
        self.end(tid, Answer::Failed(text));
    }

    /// Tells the replicas how it ended. If one misses it, it finds out at its next report, or
    /// when the chunk is next read or written.
    fn spread_end(&mut self, tid: Tid, commit: bool) {
        let me = self.settings.me.clone();
        let Some(txn) = self.txns.get(&tid) else { return };
        for (alias, chunks) in txn.chunks_by_node() {
            if alias == me {
                for chunk in chunks {
                    self.finish_chunk(chunk, tid, commit);
                }
            } else {
                let order = Order::Finish { tid, chunks, commit };
                self.call(alias, Body::Order(order), Purpose::Nothing);
            }
        }
    }

    fn end(&mut self, tid: Tid, answer: Answer) {
        if let Some(txn) = self.txns.remove(&tid) {
            self.reply(txn.request, answer);
        }
    }
}
