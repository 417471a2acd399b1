//! The replicated log: entries after a snapshot.

use serde::{Deserialize, Serialize};

use crate::meta::{Command, Metadata};

/// Position in the log; the first entry is 1.
pub type Index = u64;
/// Number of a leadership; it only grows.
pub type Term = u64;

/// One replicated command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Term of the leader that made it.
    pub term: Term,
    /// Its position.
    pub index: Index,
    /// What it does to the metadata.
    pub command: Command,
}

/// The metadata as it was after `index`; it replaces the log up to there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The last entry it contains.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// The state itself.
    pub state: Metadata,
}

/// A snapshot and the entries that follow it, without a gap.
#[derive(Clone, Debug, Default)]
pub struct Log {
    snapshot: Snapshot,
    entries: Vec<Entry>,
}

impl Log {
    /// Puts together what a disk gave back; entries that the snapshot contains, and everything
    /// after a gap, are left out.
    #[must_use]
    pub fn new(snapshot: Snapshot, stored: Vec<Entry>) -> Self {
        let mut log = Self { snapshot, entries: Vec::new() };
        for entry in stored {
            if entry.index <= log.snapshot.index {
                continue;
            }
            if entry.index != log.last_index() + 1 {
                break;
            }
            log.entries.push(entry);
        }
        log
    }

    /// The snapshot under the entries.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Index of the newest entry; 0 when there was none ever.
    #[must_use]
    pub fn last_index(&self) -> Index {
        self.entries.last().map_or(self.snapshot.index, |e| e.index)
    }

    /// Term of the newest entry.
    #[must_use]
    pub fn last_term(&self) -> Term {
        self.entries.last().map_or(self.snapshot.term, |e| e.term)
    }

    /// Term of the entry at `index`, where it is still known.
    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.snapshot.index {
            return Some(self.snapshot.term);
        }
        self.get(index).map(|e| e.term)
    }

    /// The entry at `index`.
    #[must_use]
    pub fn get(&self, index: Index) -> Option<&Entry> {
        let offset = index.checked_sub(self.snapshot.index + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// Up to `limit` entries from `index` on.
    #[must_use]
    pub fn from(&self, index: Index, limit: usize) -> Vec<Entry> {
        let offset = index.saturating_sub(self.snapshot.index + 1);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        self.entries.iter().skip(offset).take(limit).cloned().collect()
    }

    /// Entries kept besides the snapshot.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Is there nothing but the snapshot?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn push(&mut self, entry: Entry) {
        debug_assert_eq!(entry.index, self.last_index() + 1, "the log has no gaps");
        self.entries.push(entry);
    }

    /// Drops `index` and everything after it.
    pub(super) fn truncate_from(&mut self, index: Index) {
        let keep = index.saturating_sub(self.snapshot.index + 1);
        self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
    }

    /// Replaces everything up to the snapshot's index by it.
    pub(super) fn install(&mut self, snapshot: Snapshot) {
        let keep = self.term_at(snapshot.index) == Some(snapshot.term);
        if keep {
            self.entries.retain(|e| e.index > snapshot.index);
        } else {
            self.entries.clear();
        }
        self.snapshot = snapshot;
    }
}
