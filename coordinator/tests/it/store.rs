//! The durable store: the engine's own storage suite, restarts, damage.

use std::{fmt::Debug, fs, ops::RangeBounds, path::Path};

use grayfin_coordinator::store::{
    Error, FILE_NAME, LogStore, Machine, Replicated, Store,
    types::{EngineError, Entry, LogId, TypeConfig},
};
use grayfin_coordinator_core::{Cmd, Response, cmd::Action};
use grayfin_types::{Incarnation, RolloutId, Seq, Token, event::Body};
use openraft::{
    LogState, OptionalSend, RaftLogReader, StorageIOError, Vote,
    storage::{LogFlushed, RaftLogStorage, RaftLogStorageExt},
    testing::{StoreBuilder, Suite, blank_ent},
};
use rusqlite::Connection;

use crate::common::{self, CLUSTER, Pki, control, enrol, start};

/// The log as the engine's suite needs it. The suite appends entries with holes between and before
/// them, and one that is purged already, which no engine ever does and our store refuses: here the
/// holes are filled with blanks, and the purged one is left out.
#[derive(Clone)]
struct WithoutHoles(LogStore);

impl RaftLogReader<TypeConfig> for WithoutHoles {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, EngineError> {
        self.0.try_get_log_entries(range).await
    }
}

impl RaftLogStorage<TypeConfig> for WithoutHoles {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, EngineError> {
        self.0.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.0.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), EngineError> {
        self.0.save_vote(vote).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, EngineError> {
        self.0.read_vote().await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), EngineError> {
        self.0.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, EngineError> {
        self.0.read_committed().await
    }

    async fn append<I>(
        &mut self,
        entries: I,
        done: LogFlushed<TypeConfig>,
    ) -> Result<(), EngineError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let next = self.0.get_log_state().await?.last_log_id.map_or(0, |id| id.index + 1);
        let entries: Vec<Entry> =
            entries.into_iter().filter(|entry| entry.log_id.index >= next).collect();
        let first = entries.first().map_or(next, |entry| entry.log_id.index);
        let holes: Vec<Entry> =
            (next..first).map(|index| blank_ent::<TypeConfig>(0, 0, index)).collect();
        self.0.append(holes.into_iter().chain(entries), done).await
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), EngineError> {
        self.0.truncate(from).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), EngineError> {
        self.0.purge(upto).await
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, WithoutHoles, Machine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, WithoutHoles, Machine), EngineError> {
        let dir = tempfile::tempdir().map_err(|e| StorageIOError::write(&e))?;
        let (log, machine, _) =
            Replicated::open_files(dir.path()).map_err(|e| StorageIOError::write(&e))?;
        Ok((dir, WithoutHoles(log), machine))
    }
}

#[test]
fn the_storage_passes_the_engines_own_suite() {
    Suite::test_all(Builder).unwrap();
}

#[test]
fn a_log_with_a_hole_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _, _) = Replicated::open_files(dir.path()).unwrap();
    common::process(async {
        let entries = |indices: [u64; 2]| indices.map(|i| blank_ent::<TypeConfig>(1, 1, i));
        // What the leader sends to a voter whose folder was wiped: the middle of the log.
        assert!(log.blocking_append(entries([500, 501])).await.is_err());
        assert!(log.blocking_append(entries([0, 2])).await.is_err());
        log.blocking_append(entries([0, 1])).await.unwrap();
        assert!(log.blocking_append(entries([3, 4])).await.is_err());
        log.blocking_append(entries([2, 3])).await.unwrap();
        assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 4);
    });
}

/// Makes a store with a rollout that was paused and resumed `times` times.
fn filled(pki: &Pki, dir: &Path, times: u64) -> RolloutId {
    common::process(fill(pki, dir, times))
}

async fn fill(pki: &Pki, dir: &Path, times: u64) -> RolloutId {
    let store = pki.open_store(dir).await;
    let found = Cmd::Found { group: "g1".to_owned(), incarnation: Incarnation(1) };
    assert_eq!(store.propose(found).await.unwrap(), Response::Done);
    for host in ["db1", "db2", "db3"] {
        store.propose(enrol(host)).await.unwrap();
    }
    let Response::Started { rollout } = store.propose(start("wish-1")).await.unwrap() else {
        panic!("the rollout was not started");
    };
    for n in 0..times {
        let action = if n % 2 == 0 { Action::Pause } else { Action::Resume };
        store.propose(control(&format!("act-{n}"), &rollout, action)).await.unwrap();
    }
    // It ends without `close`: nothing is flushed that was not durable before.
    rollout
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_just_ends() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    let rollout = filled(&pki, dir.path(), 21);
    common::process(check_all_there(&pki, dir.path(), rollout));
}

async fn check_all_there(pki: &Pki, dir: &Path, rollout: RolloutId) {
    let store = pki.open_store(dir).await;
    store.linearizable().await.unwrap();
    let state = store.state();
    assert_eq!(state.group, "g1");
    assert_eq!(state.hosts.len(), 3);
    let last = state.rollouts[&rollout].last_seq;
    let events = store.events_from(&rollout, Seq(0), usize::MAX).unwrap();
    let seqs: Vec<u64> = events.iter().map(|e| e.seq.0).collect();
    assert_eq!(seqs, (1..=last.0).collect::<Vec<_>>());
    let acts = events.iter().filter(|e| matches!(e.body, Body::Operator { .. })).count();
    assert_eq!(acts, 21);

    // The same wish again starts nothing new, also after the restart.
    let again = store.propose(start("wish-1")).await.unwrap();
    assert_eq!(again, Response::Started { rollout: rollout.clone() });
    assert_eq!(store.state().rollouts.len(), 1);
    store.close().await.unwrap();
}

#[test]
fn a_state_rebuilt_from_the_log_equals_the_one_that_was_applied() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    // Enough commands that the state was written in between, and more after that.
    let rollout = filled(&pki, dir.path(), 400);
    let read = |close: bool| {
        common::process(async {
            let store = pki.open_store(dir.path()).await;
            store.linearizable().await.unwrap();
            let events = store.events_from(&rollout, Seq(1), usize::MAX).unwrap();
            if close {
                store.close().await.unwrap();
            }
            (store.state(), events)
        })
    };
    let rebuilt = read(true);
    assert_eq!(rebuilt.0.rollouts[&rollout].last_seq.0, rebuilt.1.len() as u64);
    assert_eq!(read(false), rebuilt);
}

#[test]
fn a_snapshot_and_a_purged_log_keep_everything() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    let rollout = filled(&pki, dir.path(), 30);
    let before = common::process(async {
        let store = pki.open_store(dir.path()).await;
        store.linearizable().await.unwrap();
        common::purge_everything(store.raft()).await;
        (store.state(), store.events_from(&rollout, Seq(1), usize::MAX).unwrap())
    });
    let after = common::process(async {
        let store = pki.open_store(dir.path()).await;
        store.linearizable().await.unwrap();
        (store.state(), store.events_from(&rollout, Seq(1), usize::MAX).unwrap())
    });
    assert_eq!(after, before);
}

/// Changes something in a store's file behind its back and returns what opening it says.
fn damage(change: impl FnOnce(&Connection)) -> Error {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    filled(&pki, dir.path(), 5);
    let raw = Connection::open(dir.path().join(FILE_NAME)).unwrap();
    change(&raw);
    drop(raw);
    Replicated::open_files(dir.path()).map(drop).unwrap_err()
}

fn execute(sql: &'static str) -> impl FnOnce(&Connection) {
    move |raw| assert!(raw.execute(sql, []).unwrap() > 0, "{sql}")
}

#[test]
fn damage_is_found_at_the_start_with_its_place() {
    let cases = [
        ("UPDATE log SET body = substr(body, 1, length(body) - 2) WHERE idx = 3", "log entry 3"),
        ("DELETE FROM log WHERE idx = 2", "log entry 3"),
        ("UPDATE log SET body = (SELECT body FROM log WHERE idx = 2) WHERE idx = 3", "log entry 3"),
        ("UPDATE meta SET v = substr(v, 1, 20) WHERE k = 'state'", "the stored state"),
        ("UPDATE meta SET v = X'0100000000' WHERE k = 'vote'", "vote"),
        (
            "UPDATE events SET body = replace(body, '\"pause\"', '\"abort\"') WHERE body LIKE '%\"pause\"%'",
            "the events of rollout",
        ),
        ("DELETE FROM events WHERE seq = 2", "the events of rollout"),
    ];
    for (sql, place) in cases {
        let error = damage(execute(sql));
        assert!(matches!(error, Error::Damaged { .. }), "{sql}: {error:?}");
        let text = error.to_string();
        assert!(text.contains("GF0707") && text.contains(place), "{sql}: {text}");
    }
}

#[test]
fn a_torn_tail_is_healed_and_a_damaged_page_is_not() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    filled(&pki, dir.path(), 5);
    // A write that was cut off by a power loss: garbage after the last commit.
    let wal = dir.path().join(format!("{FILE_NAME}-wal"));
    let mut bytes = fs::read(&wal).unwrap_or_default();
    bytes.extend_from_slice(&[0x5a; 3_000]);
    fs::write(&wal, bytes).unwrap();
    drop(Replicated::open_files(dir.path()).unwrap());

    // The same file with a page overwritten.
    let file = dir.path().join(FILE_NAME);
    let raw = Connection::open(&file).unwrap();
    raw.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(raw);
    let mut bytes = fs::read(&file).unwrap();
    assert!(bytes.len() > 3 * 4096);
    bytes[2 * 4096..3 * 4096].fill(0xa5);
    fs::write(&file, bytes).unwrap();
    let error = Replicated::open_files(dir.path()).map(drop).unwrap_err();
    assert!(error.to_string().contains("GF0707"), "{error}");
}

#[test]
fn concurrent_proposals_are_all_applied_once() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    common::process(propose_concurrently(&pki, dir.path()));
}

async fn propose_concurrently(pki: &Pki, dir: &Path) {
    let store = pki.open_store(dir).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let store = store.clone();
        tasks.spawn(async move { store.propose(enrol(&format!("db{n}"))).await.unwrap() });
    }
    while let Some(done) = tasks.join_next().await {
        assert!(matches!(done.unwrap(), Response::Enrolled { amnesic: None, .. }));
    }
    assert_eq!(store.state().hosts.len(), 200);
    // Merged, or each would have cost an entry and an fsync of its own.
    let entries = store.raft().metrics().borrow().last_applied.unwrap().index;
    assert!(entries < 150, "{entries} entries for 200 commands");
    assert_eq!(store.state().last_token, Token(0));
    assert!(store.state().newest(Some(&CLUSTER.parse().unwrap())).is_none());
}

/// Copies what is in a state folder while a coordinator works on it, as a crash would leave it.
fn copied(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

#[test]
fn a_flipped_bit_in_the_write_ahead_log_never_takes_entries_away_silently() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    let crashed = common::process(async {
        let store = pki.open_store(dir.path()).await;
        for host in ["db1", "db2", "db3"] {
            store.propose(enrol(host)).await.unwrap();
        }
        copied(dir.path())
    });
    let state = |dir: &Path| {
        let (mut log, _, _) = Replicated::open_files(dir)?;
        Ok::<_, Error>(common::process(async move { log.get_log_state().await.unwrap() }))
    };
    let whole = copied(crashed.path());
    let wanted = state(whole.path()).unwrap().last_log_id;
    let wal = format!("{FILE_NAME}-wal");
    let bytes = fs::read(crashed.path().join(&wal)).unwrap();
    assert!(bytes.len() > 4 * 4096, "{}", bytes.len());
    // Every header of a frame, and places within each page.
    let mut refused = 0;
    for at in (32..bytes.len()).step_by(1_373).chain([0, 9, 17, 25]) {
        let bad = copied(crashed.path());
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        fs::write(bad.path().join(&wal), &flipped).unwrap();
        match state(bad.path()) {
            Ok(found) => assert_eq!(found.last_log_id, wanted, "byte {at}"),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("GF0707") && text.contains("restore"), "{text}");
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "{refused}");
    // The same for a log that was cut off, at the place of every frame.
    for end in (32..bytes.len()).step_by(4_096 + 24) {
        let bad = copied(crashed.path());
        fs::write(bad.path().join(&wal), &bytes[..end]).unwrap();
        match state(bad.path()) {
            Ok(found) => assert_eq!(found.last_log_id, wanted, "cut at {end}"),
            Err(error) => assert!(error.to_string().contains("GF0707"), "{error}"),
        }
    }
}
