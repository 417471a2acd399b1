//! The replicated state: the core's [`State`] in memory, its events in their table.
//!
//! Applying an entry costs what the entry costs, however large the state is: events are inserted,
//! and the state as a whole is written only when the commands applied since then are together as
//! large as it is (and before the log that could rebuild it is purged). After a crash the engine
//! applies the log again, from the stored state on up to the last place that is known to be
//! committed; the events that come of it are the ones that are there already, because `apply` is
//! deterministic.

use std::{
    io::Cursor,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use grayfin_coordinator_core::{Applied, State, apply, event, invariant::Violation};
use grayfin_types::{RolloutId, Seq, event::Event};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageIOError,
    storage::RaftStateMachine,
};
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    Error,
    chain::sha256_hex,
    file::{Durability, File, seal},
    snapshot,
    types::{Answers, Batch, EngineError, Entry, LogId, Membership, NodeInfo, TypeConfig},
};

const STATE: &str = "state";
const SNAPSHOT_META: &str = "snapshot_meta";
const SNAPSHOT_DATA: &str = "snapshot_data";

/// Below this many bytes of commands the state is not written again: it would cost a page or two
/// per command for a state that a restart rebuilds in a millisecond.
const REWRITE_MIN: usize = 32 << 10;

/// The state as it is stored, with the place in the log that it stands for.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    applied: Option<LogId>,
    membership: Membership,
    state: Arc<State>,
}

#[derive(Debug)]
struct Live {
    state: Arc<State>,
    applied: Option<LogId>,
    membership: Membership,
    /// Up to where the stored state reaches.
    stored: Option<LogId>,
    stored_bytes: usize,
    pending_bytes: usize,
}

/// Handle to the replicated state.
#[derive(Debug, Clone)]
pub struct Machine {
    file: Arc<File>,
    live: Arc<RwLock<Live>>,
    changes: watch::Sender<u64>,
    violations: watch::Sender<Vec<Violation>>,
}

/// Builds a snapshot of the moment in which it was made.
#[derive(Debug)]
pub struct SnapshotBuilder {
    machine: Machine,
    state: Arc<State>,
    applied: Option<LogId>,
    membership: Membership,
}

impl Machine {
    /// Loads the stored state; the engine brings it up to date from the log.
    pub(crate) fn load(file: Arc<File>) -> Result<Self, Error> {
        let sealed = file.read(|c| file.meta_bytes(c, STATE))?;
        let stored: Stored = match &sealed {
            Some(sealed) => file.unseal("the stored state", sealed)?,
            None => Stored::default(),
        };
        let machine = Self {
            live: Arc::new(RwLock::new(Live {
                state: stored.state,
                applied: stored.applied,
                membership: stored.membership,
                stored: stored.applied,
                stored_bytes: sealed.map_or(0, |s| s.len()),
                pending_bytes: 0,
            })),
            changes: watch::channel(0).0,
            violations: watch::channel(Vec::new()).0,
            file,
        };
        machine.verify()?;
        Ok(machine)
    }

    /// Returns the state of this moment.
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.look().state)
    }

    /// Returns the place in the log of the membership that is applied.
    pub(crate) fn membership(&self) -> u64 {
        self.look().membership.log_id().map_or(0, |id| id.index)
    }

    /// Returns the ids of the members of the applied membership.
    pub(crate) fn members(&self) -> Vec<u64> {
        self.look().membership.nodes().map(|(id, _)| *id).collect()
    }

    /// Returns the place in the log that the state stands for.
    pub(crate) fn applied(&self) -> Option<LogId> {
        self.look().applied
    }

    /// Applies entries of a log whose engine does not run.
    pub(crate) fn replay(&self, entries: Vec<Entry>) -> Result<(), Error> {
        self.apply_entries(entries).map(drop)
    }

    /// Changes the state of a coordinator that does not run and makes it the beginning of a new
    /// log: without a vote, without members, with a new name for the folder.
    pub(crate) fn begin_anew(
        &self,
        change: impl FnOnce(&mut State) -> Applied,
    ) -> Result<(), Error> {
        let mut live = self.change();
        let effect = change(Arc::make_mut(&mut live.state));
        live.applied = None;
        live.membership = Membership::default();
        self.file.write(Durability::Full, |c| {
            for event in &effect.events {
                self.store_event(c, event)?;
            }
            c.execute_batch("DELETE FROM log; DELETE FROM meta").map_err(|e| self.file.sql(e))?;
            self.store_state(c, &mut live)
        })?;
        drop(live);
        self.file.checkpoint()
    }

    /// Fires after each applied entry.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Fires when an applied command broke an invariant.
    pub(crate) fn violations(&self) -> watch::Receiver<Vec<Violation>> {
        self.violations.subscribe()
    }

    /// Reads events of a rollout in order, as they were stored.
    pub(crate) fn events_from(
        &self,
        rollout: &RolloutId,
        from: Seq,
        max: usize,
    ) -> Result<Vec<Event>, Error> {
        let from = i64::try_from(from.0).unwrap_or(i64::MAX);
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        self.file.read(|c| {
            let bodies: Vec<String> = c
                .prepare_cached(
                    "SELECT body FROM events WHERE rollout = ?1 AND seq >= ?2 ORDER BY seq LIMIT ?3",
                )
                .and_then(|mut s| {
                    s.query_map(params![rollout.as_str(), from, max], |row| row.get(0))?.collect()
                })
                .map_err(|e| self.file.sql(e))?;
            bodies.iter().map(|body| self.event(rollout.as_str(), body)).collect()
        })
    }

    /// Runs `work` in one durable transaction in which the state up to `upto` is stored too.
    pub(crate) fn with_durable_state(
        &self,
        upto: LogId,
        work: impl FnOnce(&Connection) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut live = self.change();
        self.file.write(Durability::Full, |c| {
            if live.stored < Some(upto) {
                self.store_state(c, &mut live)?;
            }
            work(c)
        })
    }

    /// Stores the state as it is: a clean end leaves nothing to be applied again, which matters
    /// when the next start is a newer build.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        let mut live = self.change();
        if live.stored != live.applied {
            self.file.write(Durability::Full, |c| self.store_state(c, &mut live))?;
        }
        self.file.checkpoint()
    }

    /// Proves every event's place in its rollout's chain and every sealed value's checksum.
    fn verify(&self) -> Result<(), Error> {
        self.file.read(|c| {
            if let Some(data) = self.file.meta_bytes(c, SNAPSHOT_DATA)? {
                snapshot::open(&data).map_err(|what| self.file.damaged("the snapshot", what))?;
                self.file.meta::<SnapshotMeta<u64, NodeInfo>>(c, SNAPSHOT_META)?;
            }
            let mut statement = c
                .prepare("SELECT rollout, body FROM events ORDER BY rollout, seq")
                .map_err(|e| self.file.sql(e))?;
            let mut rows = statement.query([]).map_err(|e| self.file.sql(e))?;
            let mut before: Option<Event> = None;
            while let Some(row) = rows.next().map_err(|e| self.file.sql(e))? {
                let (rollout, body): (String, String) =
                    row.get(0).and_then(|a| Ok((a, row.get(1)?))).map_err(|e| self.file.sql(e))?;
                let event = self.event(&rollout, &body)?;
                let (seq, hash) = before
                    .filter(|e| e.rollout == event.rollout)
                    .map_or((0, String::new()), |e| (e.seq.0, e.hash));
                event::verify(seq, hash, std::slice::from_ref(&event), &sha256_hex).map_err(
                    |e| {
                        self.file
                            .damaged(format!("the events of rollout `{rollout}`"), e.to_string())
                    },
                )?;
                before = Some(event);
            }
            Ok(())
        })
    }

    fn event(&self, rollout: &str, body: &str) -> Result<Event, Error> {
        serde_json::from_str(body).map_err(|e| {
            self.file.damaged(format!("an event of rollout `{rollout}`"), e.to_string())
        })
    }

    fn look(&self) -> RwLockReadGuard<'_, Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Live> {
        self.live.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn store_state(&self, connection: &Connection, live: &mut Live) -> Result<(), Error> {
        let sealed = seal(&Stored {
            applied: live.applied,
            membership: live.membership.clone(),
            state: Arc::clone(&live.state),
        })?;
        self.file.put_bytes(connection, STATE, &sealed)?;
        live.stored = live.applied;
        live.stored_bytes = sealed.len();
        live.pending_bytes = 0;
        Ok(())
    }

    fn store_event(&self, connection: &Connection, event: &Event) -> Result<(), Error> {
        let body = serde_json::to_string(event).map_err(Error::Encode)?;
        let seq = i64::try_from(event.seq.0).unwrap_or(i64::MAX);
        connection
            .prepare_cached("INSERT OR REPLACE INTO events(rollout, seq, body) VALUES(?1, ?2, ?3)")
            .and_then(|mut s| s.execute(params![event.rollout.as_str(), seq, body]))
            .map(drop)
            .map_err(|e| self.file.sql(e))
    }

    fn forget(&self, connection: &Connection, rollout: &RolloutId) -> Result<(), Error> {
        connection
            .prepare_cached("DELETE FROM events WHERE rollout = ?1")
            .and_then(|mut s| s.execute([rollout.as_str()]))
            .map(drop)
            .map_err(|e| self.file.sql(e))
    }

    fn apply_entries(&self, entries: Vec<Entry>) -> Result<Vec<Answers>, Error> {
        let mut live = self.change();
        let mut answers = Vec::with_capacity(entries.len());
        let mut effects = Vec::new();
        for entry in entries {
            live.applied = Some(entry.log_id);
            answers.push(match entry.payload {
                EntryPayload::Blank => Answers::default(),
                EntryPayload::Membership(membership) => {
                    live.membership = Membership::new(Some(entry.log_id), membership);
                    // It is stored together with the state, at once.
                    live.pending_bytes = usize::MAX;
                    Answers::default()
                }
                EntryPayload::Normal(batch) => {
                    let size = serde_json::to_vec(&batch).map_err(Error::Encode)?.len();
                    live.pending_bytes = live.pending_bytes.saturating_add(size);
                    let state = Arc::make_mut(&mut live.state);
                    apply_batch(state, &batch, &mut effects)
                }
            });
        }
        self.file.write(Durability::Deferred, |c| {
            for effect in &effects {
                for event in &effect.events {
                    self.store_event(c, event)?;
                }
                for rollout in &effect.forgotten {
                    self.forget(c, rollout)?;
                }
            }
            if live.pending_bytes >= live.stored_bytes.max(REWRITE_MIN) {
                self.store_state(c, &mut live)?;
            }
            Ok(())
        })?;
        drop(live);
        self.report_violations(&effects);
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        Ok(answers)
    }

    fn report_violations(&self, effects: &[Applied]) {
        let found: Vec<Violation> =
            effects.iter().flat_map(|e| e.violations.iter().cloned()).collect();
        if !found.is_empty() {
            self.violations.send_replace(found);
        }
    }

    fn install(&self, meta: &SnapshotMeta<u64, NodeInfo>, data: &[u8]) -> Result<(), Error> {
        let (state, events) =
            snapshot::read(data).map_err(|what| self.file.damaged("a received snapshot", what))?;
        let mut live = self.change();
        live.state = Arc::new(state);
        live.applied = meta.last_log_id;
        live.membership = meta.last_membership.clone();
        self.file.write(Durability::Full, |c| {
            c.execute("DELETE FROM events", []).map_err(|e| self.file.sql(e))?;
            for body in &events {
                let event = self.event("of a received snapshot", body)?;
                let seq = i64::try_from(event.seq.0).unwrap_or(i64::MAX);
                c.prepare_cached("INSERT INTO events(rollout, seq, body) VALUES(?1, ?2, ?3)")
                    .and_then(|mut s| s.execute(params![event.rollout.as_str(), seq, body]))
                    .map_err(|e| self.file.sql(e))?;
            }
            self.file.put(c, SNAPSHOT_META, meta)?;
            self.file.put_bytes(c, SNAPSHOT_DATA, data)?;
            self.store_state(c, &mut live)
        })?;
        drop(live);
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }
}

fn apply_batch(state: &mut State, batch: &Batch, effects: &mut Vec<Applied>) -> Answers {
    let mut responses = Vec::with_capacity(batch.commands.len());
    for command in &batch.commands {
        let applied = apply(state, command, &sha256_hex);
        responses.push(applied.response.clone());
        effects.push(applied);
    }
    Answers { responses }
}

fn failed(error: &Error) -> EngineError {
    StorageIOError::write_state_machine(error).into()
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), EngineError> {
        let live = self.look();
        Ok((live.applied, live.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answers>, EngineError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.apply_entries(entries.into_iter().collect()).map_err(|e| failed(&e))
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let live = self.look();
        SnapshotBuilder {
            state: Arc::clone(&live.state),
            applied: live.applied,
            membership: live.membership.clone(),
            machine: self.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, EngineError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, NodeInfo>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), EngineError> {
        self.install(meta, &snapshot.into_inner())
            .map_err(|e| StorageIOError::write_snapshot(Some(meta.signature()), &e).into())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, EngineError> {
        self.file
            .read(|c| {
                let meta = self.file.meta(c, SNAPSHOT_META)?;
                let data = self.file.meta_bytes(c, SNAPSHOT_DATA)?;
                Ok(meta
                    .zip(data)
                    .map(|(meta, data)| Snapshot { meta, snapshot: Box::new(Cursor::new(data)) }))
            })
            .map_err(|e| StorageIOError::read_snapshot(None, &e).into())
    }
}

impl SnapshotBuilder {
    fn build(&self) -> Result<Snapshot<TypeConfig>, Error> {
        let file = &self.machine.file;
        // Events that were stored since may be among them: applying the log on top of the
        // snapshot stores the same ones again.
        let events: Vec<String> = file.read(|c| {
            c.prepare("SELECT body FROM events ORDER BY rollout, seq")
                .and_then(|mut s| s.query_map([], |row| row.get(0))?.collect())
                .map_err(|e| file.sql(e))
        })?;
        let data = snapshot::write(&self.state, &events)?;
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id: uuid::Uuid::now_v7().to_string(),
        };
        file.write(Durability::Full, |c| {
            file.put(c, SNAPSHOT_META, &meta)?;
            file.put_bytes(c, SNAPSHOT_DATA, &data)
        })?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(data)) })
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, EngineError> {
        self.build().map_err(|e| StorageIOError::write_snapshot(None, &e).into())
    }
}
