//! The coordinator's one SQLite file: opening, checking, transactions, sealed values.
//!
//! Log, vote, state and events share the file, because its WAL is one ordered stream: whatever a
//! later `FULL` commit makes durable, every earlier commit is durable too, in order. Applying may
//! therefore leave the fsync to the next append.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use serde::{Serialize, de::DeserializeOwned};

use super::Error;

/// The name of the file within the state folder.
pub const FILE_NAME: &str = "coordinator.db";

/// The form of the tables; a file with a larger one was written by a newer build.
const FORMAT: i64 = 1;

/// The form of a sealed value; it is the first byte of each.
const SEAL_VERSION: u8 = 1;

/// Version byte and CRC-32 in front of a sealed value's JSON.
const SEAL_HEAD: usize = 5;

/// Waiting for a support person's `sqlite3` that holds a lock for a moment.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// Waiting for another coordinator's lock: of one that was killed the kernel gives it back when the
/// last of its threads has ended, a moment later.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS meta(k TEXT PRIMARY KEY, v BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log(idx INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS events(
    rollout TEXT NOT NULL,
    seq INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY(rollout, seq)
) STRICT;";

/// How durable a transaction is when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// On disk.
    Full,
    /// In order before the next `Full` one.
    Deferred,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    instance: String,
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    // Held for as long as the file is open: two coordinators on one folder would both vote.
    _lock: fs::File,
}

impl File {
    /// Opens or makes the file in `dir`, and proves that SQLite finds it whole.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| Error::Folder { folder: dir.to_owned(), source })?;
        let lock = take_lock(dir)?;
        let path = dir.join(FILE_NAME);
        let fresh = !path.exists();
        let writer = Connection::open(&path).map_err(|e| sql_at(&path, e))?;
        writer.busy_timeout(BUSY_MAX).map_err(|e| sql_at(&path, e))?;
        if !fresh {
            check_whole(&writer, &path)?;
        }
        prepare(&writer, &path)?;
        let instance = instance_id(&writer).map_err(|e| sql_at(&path, e))?;
        let folder = |source| Error::Folder { folder: dir.to_owned(), source };
        fs::File::open(dir).and_then(|d| d.sync_all()).map_err(folder)?;
        let reader = Connection::open_with_flags(
            &path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(|e| sql_at(&path, e))?;
        reader.busy_timeout(BUSY_MAX).map_err(|e| sql_at(&path, e))?;
        Ok(Self {
            path,
            instance,
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
            _lock: lock,
        })
    }

    /// Returns the random name that this folder got when it was made.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// Says that something in the file is not what was written.
    pub(crate) fn damaged(&self, place: impl Into<String>, what: impl Into<String>) -> Error {
        Error::Damaged { file: self.path.clone(), place: place.into(), what: what.into() }
    }

    /// Runs one transaction: all of it happens, or nothing.
    pub(crate) fn write<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let connection = guard(&self.writer);
        let begin = match durability {
            Durability::Full => "PRAGMA synchronous=FULL; BEGIN IMMEDIATE",
            Durability::Deferred => "PRAGMA synchronous=NORMAL; BEGIN IMMEDIATE",
        };
        connection.execute_batch(begin).map_err(|e| sql_at(&self.path, e))?;
        let done = work(&connection).and_then(|value| {
            connection.execute_batch("COMMIT").map_err(|e| sql_at(&self.path, e))?;
            Ok(value)
        });
        if done.is_err()
            && let Err(error) = connection.execute_batch("ROLLBACK")
        {
            // The first error is the one to tell; SQLite rolls back by itself on most of them.
            tracing::debug!(%error, "roll back a failed transaction");
        }
        done
    }

    /// Moves everything from the WAL into the file proper.
    pub(crate) fn checkpoint(&self) -> Result<(), Error> {
        guard(&self.writer)
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(|e| sql_at(&self.path, e))
    }

    /// Reads from a connection of its own, which never waits for a writer.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        work(&guard(&self.reader))
    }

    /// Reads a sealed value of the `meta` table.
    pub(crate) fn meta<T: DeserializeOwned>(
        &self,
        connection: &Connection,
        key: &str,
    ) -> Result<Option<T>, Error> {
        self.meta_bytes(connection, key)?.map(|sealed| self.unseal(key, &sealed)).transpose()
    }

    /// Reads a value of the `meta` table as it is stored.
    pub(crate) fn meta_bytes(
        &self,
        connection: &Connection,
        key: &str,
    ) -> Result<Option<Vec<u8>>, Error> {
        connection
            .prepare_cached("SELECT v FROM meta WHERE k = ?1")
            .and_then(|mut s| s.query_row([key], |row| row.get(0)).optional())
            .map_err(|e| sql_at(&self.path, e))
    }

    /// Writes a sealed value into the `meta` table.
    pub(crate) fn put<T: Serialize>(
        &self,
        connection: &Connection,
        key: &str,
        value: &T,
    ) -> Result<(), Error> {
        self.put_bytes(connection, key, &seal(value)?)
    }

    /// Writes a value into the `meta` table as it is.
    pub(crate) fn put_bytes(
        &self,
        connection: &Connection,
        key: &str,
        sealed: &[u8],
    ) -> Result<(), Error> {
        connection
            .prepare_cached("INSERT OR REPLACE INTO meta(k, v) VALUES(?1, ?2)")
            .and_then(|mut s| s.execute(params![key, sealed]))
            .map_err(|e| sql_at(&self.path, e))?;
        Ok(())
    }

    /// Opens a sealed value that was found at `place`.
    pub(crate) fn unseal<T: DeserializeOwned>(
        &self,
        place: &str,
        sealed: &[u8],
    ) -> Result<T, Error> {
        let json = open_seal(sealed).map_err(|what| self.damaged(place, what))?;
        serde_json::from_slice(json).map_err(|e| self.damaged(place, e.to_string()))
    }

    /// Wraps an SQLite error with the file's name.
    pub(crate) fn sql(&self, error: rusqlite::Error) -> Error {
        sql_at(&self.path, error)
    }
}

/// Puts version byte and checksum in front of a value's JSON.
pub(crate) fn seal<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map(|json| seal_bytes(&json)).map_err(Error::Encode)
}

/// Puts version byte and checksum in front of bytes.
pub(crate) fn seal_bytes(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEAL_HEAD + content.len());
    out.push(SEAL_VERSION);
    out.extend_from_slice(&crc32fast::hash(content).to_le_bytes());
    out.extend_from_slice(content);
    out
}

/// Checks version byte and checksum and returns the JSON.
pub fn open_seal(sealed: &[u8]) -> Result<&[u8], String> {
    let (head, json) = sealed.split_at_checked(SEAL_HEAD).ok_or("it is cut short")?;
    let (version, sum) = head.split_first().ok_or("it is empty")?;
    if *version != SEAL_VERSION {
        return Err(format!("its version byte is {version}, this build reads {SEAL_VERSION}"));
    }
    if sum == crc32fast::hash(json).to_le_bytes() {
        Ok(json)
    } else {
        Err("its checksum does not match".to_owned())
    }
}

fn guard(mutex: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    // A panic in the middle of a transaction leaves it open; SQLite refuses the next `BEGIN` then.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "before anything else runs in this process")]
fn take_lock(dir: &Path) -> Result<fs::File, Error> {
    let folder = |source| Error::Folder { folder: dir.to_owned(), source };
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(dir.join("coordinator.lock"))
        .map_err(folder)?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::Busy { folder: dir.to_owned() });
            }
            Err(errno) => return Err(folder(errno.into())),
        }
    }
}

fn check_whole(connection: &Connection, path: &Path) -> Result<(), Error> {
    let damaged = |what: String| Error::Damaged {
        file: path.to_owned(),
        place: "the SQLite file itself".to_owned(),
        what,
    };
    let found: Result<Vec<String>, _> = connection
        .prepare("PRAGMA integrity_check(10)")
        .and_then(|mut s| s.query_map([], |row| row.get(0))?.collect());
    match found {
        Ok(lines) if lines.iter().all(|line| line == "ok") => Ok(()),
        Ok(lines) => Err(damaged(lines.join("; "))),
        Err(error) => Err(damaged(error.to_string())),
    }
}

fn prepare(connection: &Connection, path: &Path) -> Result<(), Error> {
    let sql = |e| sql_at(path, e);
    let format: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(sql)?;
    if format > FORMAT {
        return Err(Error::Newer { file: path.to_owned(), found: format, known: FORMAT });
    }
    connection.pragma_update(None, "journal_mode", "WAL").map_err(sql)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(sql)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.execute_batch(SCHEMA).map_err(sql)?;
    connection.pragma_update(None, "user_version", FORMAT).map_err(sql)
}

fn instance_id(connection: &Connection) -> rusqlite::Result<String> {
    let key = "instance";
    let found: Option<Vec<u8>> = connection
        .query_row("SELECT v FROM meta WHERE k = ?1", [key], |row| row.get(0))
        .optional()?;
    if let Some(found) = found {
        return Ok(String::from_utf8_lossy(&found).into_owned());
    }
    let made = uuid::Uuid::new_v4().to_string();
    connection
        .execute("INSERT INTO meta(k, v) VALUES(?1, ?2)", params![key, made.as_bytes()])
        .map(|_| made)
}

fn sql_at(path: &Path, source: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    match source.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => Error::Damaged {
            file: path.to_owned(),
            place: "the SQLite file itself".to_owned(),
            what: source.to_string(),
        },
        _ => Error::Sql { file: path.to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_finds_every_flipped_bit_and_every_cut() {
        let sealed = seal(&("some", 42)).unwrap();
        assert_eq!(open_seal(&sealed).unwrap(), br#"["some",42]"#);
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut bad = sealed.clone();
                bad[at] ^= 1 << bit;
                assert!(open_seal(&bad).is_err(), "byte {at}, bit {bit}");
            }
            assert!(open_seal(&sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_folder_is_opened_once_only_and_keeps_its_instance_id() {
        let dir = tempfile::tempdir().unwrap();
        let first = File::open(dir.path()).unwrap();
        assert!(matches!(File::open(dir.path()), Err(Error::Busy { .. })));
        let name = first.instance().to_owned();
        drop(first);
        assert_eq!(File::open(dir.path()).unwrap().instance(), name);
    }

    #[test]
    fn a_newer_file_and_one_that_is_no_database_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(File::open(dir.path()).unwrap());
        let path = dir.path().join(FILE_NAME);
        let raw = Connection::open(&path).unwrap();
        raw.pragma_update(None, "user_version", FORMAT + 1).unwrap();
        drop(raw);
        assert!(matches!(File::open(dir.path()), Err(Error::Newer { .. })));
        fs::write(&path, vec![7_u8; 8192]).unwrap();
        assert!(matches!(File::open(dir.path()), Err(Error::Damaged { .. })));
    }
}
