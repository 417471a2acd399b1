//! Log and vote of the Raft engine. Nothing is answered before it is on disk.

use std::{
    fmt::Debug,
    ops::{Bound, RangeBounds},
    path::Path,
    sync::Arc,
};

use openraft::{
    LogState, OptionalSend, RaftLogReader, StorageIOError, Vote,
    storage::{LogFlushed, RaftLogStorage},
};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Error,
    file::{Durability, File, seal},
    machine::Machine,
    mark::Mark,
    types::{EngineError, Entry, LogId, TypeConfig},
};

const VOTE: &str = "vote";
const PURGED: &str = "purged";
const COMMITTED: &str = "committed";

/// Handle to log and vote.
#[derive(Debug, Clone)]
pub struct LogStore {
    file: Arc<File>,
    mark: Arc<Mark>,
    // Purging needs the state to be durable first, for it is rebuilt from the log.
    machine: Machine,
}

impl LogStore {
    /// Opens the log, and reads every entry once: no gap, no bad checksum, no entry that isn't one,
    /// none missing at the end.
    pub(crate) fn open(dir: &Path, file: Arc<File>, machine: Machine) -> Result<Self, Error> {
        let (term, end) = verify(&file)?;
        let mark = Arc::new(Mark::open(dir, file.instance(), term, end)?);
        Ok(Self { file, mark, machine })
    }

    /// Reads every entry after the place that a state stands for.
    pub(crate) fn entries_after(&self, applied: Option<LogId>) -> Result<Vec<Entry>, Error> {
        let from = applied.map_or(0, |id| id.index.saturating_add(1));
        self.file.read(|c| {
            c.prepare("SELECT idx, body FROM log WHERE idx >= ?1 ORDER BY idx")
                .and_then(|mut s| {
                    s.query_map([i64::try_from(from).unwrap_or(i64::MAX)], |row| self.entry(row))?
                        .collect::<rusqlite::Result<Vec<_>>>()
                })
                .map_err(|e| self.file.sql(e))?
                .into_iter()
                .collect()
        })
    }

    fn entry(&self, row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<Entry, Error>> {
        entry(&self.file, row)
    }

    fn purged(&self, connection: &Connection) -> Result<Option<LogId>, Error> {
        self.file.meta(connection, PURGED)
    }

    fn last(&self, connection: &Connection) -> Result<Option<LogId>, Error> {
        connection
            .prepare_cached("SELECT idx, body FROM log ORDER BY idx DESC LIMIT 1")
            .and_then(|mut s| s.query_row([], |row| self.entry(row)).optional())
            .map_err(|e| self.file.sql(e))?
            .transpose()
            .map(|entry| entry.map(|entry| entry.log_id))
    }

    fn store_entries(
        &self,
        connection: &Connection,
        entries: impl IntoIterator<Item = Entry>,
    ) -> Result<Option<u64>, Error> {
        let purged = self.purged(connection)?;
        let mut previous = self.last(connection)?.or(purged).map(|id| id.index);
        let mut insert = connection
            .prepare_cached("INSERT INTO log(idx, body) VALUES(?1, ?2)")
            .map_err(|e| self.file.sql(e))?;
        for entry in entries {
            let index = entry.log_id.index;
            // A hole would be noticed only at the next start, as a store that cannot be read.
            let wanted = previous.map_or(0, |previous| previous + 1);
            if index != wanted {
                return Err(Error::Gap { wanted, found: index });
            }
            insert
                .execute(params![sql_index(index)?, seal(&entry)?])
                .map_err(|e| self.file.sql(e))?;
            previous = Some(index);
        }
        Ok(previous)
    }
}

/// Checks the whole log; returns the term of the vote and the index after the last entry.
fn verify(file: &File) -> Result<(u64, u64), Error> {
    file.read(|c| {
        let vote = file.meta::<Vote<u64>>(c, VOTE)?;
        file.meta::<Option<LogId>>(c, COMMITTED)?;
        let mut expected = file.meta::<LogId>(c, PURGED)?.map_or(0, |id| id.index + 1);
        let mut statement =
            c.prepare("SELECT idx, body FROM log ORDER BY idx").map_err(|e| file.sql(e))?;
        let mut rows = statement.query([]).map_err(|e| file.sql(e))?;
        while let Some(row) = rows.next().map_err(|e| file.sql(e))? {
            let index = entry(file, row).map_err(|e| file.sql(e))??.log_id.index;
            if expected != index {
                let place = format!("log entry {index}");
                return Err(file.damaged(place, "the entry before it is missing"));
            }
            expected = index + 1;
        }
        Ok((vote.map_or(0, |vote| vote.leader_id.term), expected))
    })
}

fn entry(file: &File, row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<Entry, Error>> {
    let index: i64 = row.get(0)?;
    let place = format!("log entry {index}");
    let sealed = row.get_ref(1)?.as_blob()?;
    Ok(file.unseal::<Entry>(&place, sealed).and_then(|entry| {
        if i64::try_from(entry.log_id.index) == Ok(index) {
            Ok(entry)
        } else {
            Err(file.damaged(place, "it carries another index"))
        }
    }))
}

fn sql_index(index: u64) -> Result<i64, Error> {
    i64::try_from(index).map_err(|_| Error::Gap { wanted: 0, found: index })
}

fn bounds(range: &impl RangeBounds<u64>) -> (i64, i64) {
    let from = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (i64::try_from(from).unwrap_or(i64::MAX), i64::try_from(end).unwrap_or(i64::MAX))
}

fn writing(error: &Error) -> EngineError {
    StorageIOError::write_logs(error).into()
}

fn reading(error: &Error) -> EngineError {
    StorageIOError::read_logs(error).into()
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, EngineError> {
        let (from, end) = bounds(&range);
        self.file
            .read(|c| {
                c.prepare_cached(
                    "SELECT idx, body FROM log WHERE idx >= ?1 AND idx < ?2 ORDER BY idx",
                )
                .and_then(|mut s| {
                    s.query_map([from, end], |row| self.entry(row))?
                        .collect::<rusqlite::Result<Vec<_>>>()
                })
                .map_err(|e| self.file.sql(e))?
                .into_iter()
                .collect()
            })
            .map_err(|e| reading(&e))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, EngineError> {
        let (last, purged) =
            self.file.read(|c| Ok((self.last(c)?, self.purged(c)?))).map_err(|e| reading(&e))?;
        Ok(LogState { last_purged_log_id: purged, last_log_id: last.or(purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), EngineError> {
        self.file
            .write(Durability::Full, |c| self.file.put(c, VOTE, vote))
            .map_err(|e| StorageIOError::write_vote(&e))?;
        self.mark.voted(vote.leader_id.term);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, EngineError> {
        self.file
            .read(|c| self.file.meta(c, VOTE))
            .map_err(|e| StorageIOError::read_vote(&e).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), EngineError> {
        // The file is one ordered stream, so the note never gets ahead of the entries it is about.
        self.file
            .write(Durability::Deferred, |c| self.file.put(c, COMMITTED, &committed))
            .map_err(|e| writing(&e))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, EngineError> {
        // The engine applies the log from the stored state up to there before it does anything
        // else, so that a restarted coordinator knows at once what it knew.
        self.file
            .read(|c| self.file.meta::<Option<LogId>>(c, COMMITTED))
            .map(Option::flatten)
            .map_err(|e| reading(&e))
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
        let last = self
            .file
            .write(Durability::Full, |c| self.store_entries(c, entries))
            .map_err(|e| writing(&e))?;
        self.mark.reaches(last.map_or(0, |last| last + 1));
        // Only now: it is on disk.
        done.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), EngineError> {
        self.mark.shrinks(from.index).map_err(|e| writing(&e))?;
        self.file
            .write(Durability::Full, |c| {
                c.execute("DELETE FROM log WHERE idx >= ?1", [sql_index(from.index)?])
                    .map(drop)
                    .map_err(|e| self.file.sql(e))
            })
            .map_err(|e| writing(&e))
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), EngineError> {
        self.machine
            .with_durable_state(upto, |c| {
                self.file.put(c, PURGED, &upto)?;
                c.execute("DELETE FROM log WHERE idx <= ?1", [sql_index(upto.index)?])
                    .map(drop)
                    .map_err(|e| self.file.sql(e))
            })
            .map_err(|e| writing(&e))
    }
}
