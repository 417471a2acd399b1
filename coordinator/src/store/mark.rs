//! How far the log is known to reach, in a small file beside the database.
//!
//! SQLite reads its write-ahead log up to the first frame that does not match its checksum, and
//! takes what follows for a write that never ended. A bit that flips in the middle of that file
//! would so take acknowledged entries away without a word. The mark says how far the log reached and
//! which term was voted in; a log that ends before it, or a vote that is older, is refused.
//!
//! The mark is written after the commit that it is about has returned, so it never says too much. It
//! is synced each [`SYNC_EVERY`] entries only, for a sync of its own would double what a commit costs:
//! after a power loss it may say less than was true, after anything else it is exact.

use std::{
    fs,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{Error, file::FILE_NAME};

/// The file's name in the state folder.
pub const MARK_NAME: &str = "coordinator.mark";

/// First bytes of the file.
const MAGIC: &[u8; 8] = b"GFMARK01";

/// Magic, checksum of the instance's name, term, end of the log, checksum of all that. Far less than
/// a sector, which a disk writes whole or not at all.
const LENGTH: usize = 32;

/// A sync takes about a millisecond on a plain disk, as does a commit: one in 64 is not felt.
const SYNC_EVERY: u64 = 64;

/// The open mark.
#[derive(Debug)]
pub(crate) struct Mark {
    path: PathBuf,
    file: fs::File,
    instance: u32,
    known: Mutex<Known>,
}

/// What is known to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Known {
    /// The term that was voted in.
    term: u64,
    /// The index after the last entry.
    end: u64,
}

/// Removes the mark of a log that is about to end, if there is one. The coordinator does not run.
pub(super) fn remove(dir: &Path) -> Result<(), Error> {
    let folder = |source| Error::Folder { folder: dir.to_owned(), source };
    match fs::remove_file(dir.join(MARK_NAME)) {
        Ok(()) => fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(folder),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(folder(e)),
    }
}

impl Mark {
    /// Opens the mark and compares it with what the database holds: the term of its vote, and the
    /// index after its last entry.
    pub(crate) fn open(dir: &Path, instance: &str, term: u64, end: u64) -> Result<Self, Error> {
        let path = dir.join(MARK_NAME);
        let folder = |source| Error::Folder { folder: dir.to_owned(), source };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(folder(e)),
        };
        let instance = crc32fast::hash(instance.as_bytes());
        let before = read(&bytes, instance).map_err(|what| Error::Damaged {
            file: path.clone(),
            place: "the mark of how far the log reaches".to_owned(),
            what: format!("{what}; if the database is known to be whole, move the mark away"),
        })?;
        compare(dir, before, Known { term, end })?;
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(folder)?;
        let known = Mutex::new(Known::default());
        let mark = Self { path, file, instance, known };
        mark.change(|known| *known = Known { term, end }).map_err(folder)?;
        mark.file.sync_data().map_err(folder)?;
        Ok(mark)
    }

    /// Entries up to before `end` are durable.
    pub(crate) fn reaches(&self, end: u64) {
        self.note(|known| known.end = known.end.max(end));
        if end.is_multiple_of(SYNC_EVERY)
            && let Err(error) = self.file.sync_data()
        {
            tracing::warn!(file = %self.path.display(), %error, "sync the log's mark");
        }
    }

    /// A vote in this term is durable.
    pub(crate) fn voted(&self, term: u64) {
        self.note(|known| known.term = known.term.max(term));
    }

    /// Entries from `end` on are about to be removed: said before it is done.
    pub(crate) fn shrinks(&self, end: u64) -> Result<(), Error> {
        let folder = |source| Error::Folder {
            folder: self.path.parent().unwrap_or(&self.path).to_owned(),
            source,
        };
        self.change(|known| known.end = known.end.min(end)).map_err(folder)?;
        self.file.sync_data().map_err(folder)
    }

    /// A mark that says less than is true finds less, and is no reason to stop.
    fn note(&self, change: impl FnOnce(&mut Known)) {
        if let Err(error) = self.change(change) {
            tracing::warn!(file = %self.path.display(), %error, "write the log's mark");
        }
    }

    fn change(&self, change: impl FnOnce(&mut Known)) -> std::io::Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut known);
        self.file.write_all_at(&written(*known, self.instance), 0)
    }
}

fn written(known: Known, instance: u32) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(instance.to_le_bytes());
    bytes.extend(known.term.to_le_bytes());
    bytes.extend(known.end.to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// Reads the mark. One that was never written, or whose first write a power loss took, says nothing.
fn read(bytes: &[u8], instance: u32) -> Result<Known, &'static str> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(Known::default());
    }
    let number = |at: usize| -> Option<u64> {
        Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
    };
    let (Some(term), Some(end)) = (number(12), number(20)) else {
        return Err("it is cut short");
    };
    let known = Known { term, end };
    if bytes == written(known, instance) {
        return Ok(known);
    }
    let own = bytes.get(8..12) == Some(&instance.to_le_bytes()[..]);
    let whole = bytes.len() == LENGTH && bytes.get(..8) == Some(MAGIC);
    if whole && !own {
        return Err("it belongs to another database");
    }
    Err("its checksum does not match")
}

fn compare(dir: &Path, before: Known, found: Known) -> Result<(), Error> {
    let damaged = |place: String, what: String| Error::Damaged {
        file: dir.join(format!("{FILE_NAME}-wal")),
        place,
        what: format!(
            "{what}: a write-ahead log that is damaged in the middle ends there for SQLite; if the \
             database was put back from a backup on purpose, move `{MARK_NAME}` away"
        ),
    };
    if found.end < before.end {
        let last = before.end.saturating_sub(1);
        let place = format!("log entries {} to {last}", found.end);
        return Err(damaged(place, "they were durable and are missing".to_owned()));
    }
    if found.term < before.term {
        let (now, then) = (found.term, before.term);
        let what = format!("a vote in term {then} was durable, the one found is of term {now}");
        return Err(damaged("vote".to_owned(), what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_durable_and_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mark = Mark::open(dir.path(), "a", 0, 0).unwrap();
        mark.reaches(10);
        mark.voted(3);
        drop(mark);
        let error = Mark::open(dir.path(), "a", 3, 7).unwrap_err().to_string();
        assert!(error.contains("log entries 7 to 9") && error.contains("-wal"), "{error}");
        let error = Mark::open(dir.path(), "a", 2, 10).unwrap_err().to_string();
        assert!(error.contains("term 3"), "{error}");
        let mark = Mark::open(dir.path(), "a", 4, 12).unwrap();
        mark.shrinks(5).unwrap();
        drop(mark);
        drop(Mark::open(dir.path(), "a", 4, 5).unwrap());
        let error = Mark::open(dir.path(), "b", 4, 5).unwrap_err().to_string();
        assert!(error.contains("another database"), "{error}");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_the_mark_is_found() {
        let known = Known { term: 7, end: 300 };
        let whole = written(known, 5);
        assert_eq!((whole.len(), read(&whole, 5)), (LENGTH, Ok(known)));
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bad = whole.clone();
                bad[at] ^= 1 << bit;
                assert!(read(&bad, 5).is_err(), "byte {at}, bit {bit}");
            }
            assert!(at == 0 || read(&whole[..at], 5).is_err(), "cut at {at}");
        }
        assert_eq!(read(&[0; LENGTH], 5), Ok(Known::default()));
    }
}
