//! The host agent's memory: a durable list of [`grayfin_agent_core::Entry`] and its fold.
//!
//! One ledger for all installations of a host, in `STATE_DIR/ledger`. An entry that [`Ledger::append`]
//! returned `Ok` for survives a power loss. Entries that the core calls illegal are never written.

mod lock;
mod log;
mod mark;
mod peek;
mod port;
pub mod testing;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use grayfin_agent_core::{Body, Entry, Illegal, State, fold, report};
use grayfin_proto::clock;
use grayfin_types::{Code, Generation, HostId, LedgerId, ledger::LedgerMark, step::Report};
use tokio::sync::watch;

pub use lock::Locks;
use log::Log;
use mark::Marks;
pub use peek::peek;
pub use port::{RealFile, Storage};

use crate::failpoint;

/// File name of the ledger in the state folder.
pub const FILE: &str = "ledger";

/// Reports kept in memory; older ones are read from the file when a coordinator wants them again.
const RECENT: usize = 1024;

/// Room that is made sure of before a hold is taken up: three attempts at every step with the
/// journal of a native upgrade of 2000 entries each, 300 bytes a line, are 2 MiB.
pub const HOLD_ROOM: u64 = 4 << 20;

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no.
    #[error("{what} `{file}`")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what was written.
    #[error(
        "the ledger `{file}` is damaged at entry {entry}, byte {offset}: {why}; restore the file from a copy of this very host taken after the last rollout, or move it away and let an operator readmit the host"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Byte.
        offset: u64,
        /// Entry, from 1; 0 is the file's header.
        entry: u64,
        /// What is wrong.
        why: String,
    },
    /// Each entry is readable, but they do not follow from one another.
    #[error(
        "the ledger `{file}` is damaged: {source}; restore the file from a copy of this very host taken after the last rollout, or move it away and let an operator readmit the host"
    )]
    Contradicts {
        /// The file.
        file: PathBuf,
        /// What is wrong, and where.
        #[source]
        source: Illegal,
    },
    /// A newer host agent wrote it.
    #[error(
        "the ledger `{file}` has form {found}, this build reads up to {known}: start the newer `grayfin-agent` again"
    )]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its form.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// It belongs to another host.
    #[error(
        "the ledger `{file}` belongs to host `{found}`, this is host `{own}`: never copy a state folder from one host to another"
    )]
    Stranger {
        /// The file.
        file: PathBuf,
        /// Its host.
        found: String,
        /// Ours.
        own: HostId,
    },
    /// Another host agent works here.
    #[error("another host agent works on `{folder}`: stop it first, or leave this one stopped")]
    Locked {
        /// What is locked.
        folder: PathBuf,
    },
    /// The entry cannot follow; nothing was written.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// An earlier write failed in a way that leaves the file's content open.
    #[error(
        "an earlier write to the ledger `{file}` failed: mend the disk and start the host agent again"
    )]
    Poisoned {
        /// The file.
        file: PathBuf,
    },
    /// The entry is too long.
    #[error("an entry for the ledger `{file}` is longer than {max} bytes")]
    TooLong {
        /// The file.
        file: PathBuf,
        /// The longest allowed.
        max: usize,
    },
}

impl Error {
    /// Returns the code with a page of its own.
    pub fn code(&self) -> Code {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Code::DiskTooSmall
            }
            Self::Io { .. }
            | Self::Damaged { .. }
            | Self::Contradicts { .. }
            | Self::Newer { .. }
            | Self::Stranger { .. }
            | Self::Poisoned { .. } => Code::LedgerCorrupt,
            Self::Locked { .. } => Code::AgentLocked,
            Self::Illegal(_) | Self::TooLong { .. } => Code::Internal,
        }
    }
}

/// The open ledger. Shared by everything that runs in a host agent.
pub struct Ledger {
    inner: Mutex<Inner>,
    position: watch::Sender<u64>,
    host: HostId,
    id: LedgerId,
}

struct Inner {
    log: Log<Box<dyn Storage>>,
    marks: Marks,
    state: State,
    recent: VecDeque<Report>,
    /// Entries up to this one may have reports that are not in `recent`.
    forgotten: u64,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens, or makes, the ledger in `state_dir`, which must exist and be locked.
    pub fn open(state_dir: &Path, host: &HostId) -> Result<Self, Error> {
        let file = state_dir.join(FILE);
        let storage = RealFile::open(&file).map_err(|source| Error::Io {
            what: "open",
            file: file.clone(),
            source,
        })?;
        Self::open_on(Box::new(storage), &file, host)
    }

    /// Opens a ledger on any storage; `file` is only named in errors.
    pub fn open_on(storage: Box<dyn Storage>, file: &Path, host: &HostId) -> Result<Self, Error> {
        let mut opened = Log::open(storage, file)?;
        if let Some(at) = opened.healed_at {
            tracing::warn!(
                file = %file.display(), at, entries = opened.entries.len(),
                "cut an incomplete last entry off the ledger: its writer died before it counted"
            );
        }
        if opened.entries.is_empty() {
            let id = LedgerId::new(uuid::Uuid::new_v4().to_string())
                .expect("a UUID has only letters, digits and dashes");
            let body = Body::Made { ledger: id, host: host.clone() };
            let entry = Entry { at_ms: clock::wall_ms(), body };
            append(&mut opened.log, &entry)?;
            opened.entries.push(entry);
        }
        let contradicts = |source| Error::Contradicts { file: file.to_owned(), source };
        let state = fold(&opened.entries).map_err(contradicts)?;
        let (Some(id), Some(found)) = (state.ledger.clone(), state.host.clone()) else {
            let why = "it does not say whose it is".to_owned();
            return Err(contradicts(Illegal { position: 1, why }));
        };
        if found != *host {
            let (file, found) = (file.to_owned(), found.to_string());
            return Err(Error::Stranger { file, found, own: host.clone() });
        }
        let (marks, recent) = (Marks::default(), VecDeque::new());
        let mut inner = Inner { log: opened.log, marks, state, recent, forgotten: 0 };
        for (position, entry) in (1u64..).zip(&opened.entries) {
            let chain = inner.log.chain_at(position);
            inner.remember(host, position, &chain, entry);
        }
        let position = watch::Sender::new(inner.state.position);
        Ok(Self { inner: Mutex::new(inner), position, host: host.clone(), id })
    }

    /// Has its length marked in these folders too, and compares it with what is marked there (S8).
    #[must_use]
    pub fn marked(
        self,
        folders: impl IntoIterator<Item = PathBuf>,
        generation: Generation,
    ) -> Self {
        {
            let inner = &mut *self.inner();
            let chain_at = |position| inner.log.chain_at(position);
            inner.marks = Marks::open(&self.host, folders, generation, self.id.as_str(), chain_at);
        }
        self
    }

    /// Says why it cannot be the newest ledger of this host, if a mark outside its folder shows that.
    pub fn lost(&self) -> Option<String> {
        self.inner().marks.lost.clone()
    }

    /// Returns the random id (S8).
    pub fn id(&self) -> &LedgerId {
        &self.id
    }

    /// Returns whose it is.
    pub fn host(&self) -> &HostId {
        &self.host
    }

    /// Returns the number of entries.
    pub fn position(&self) -> u64 {
        *self.position.borrow()
    }

    /// Returns what it holds now, or at an earlier position (S8).
    pub fn mark(&self, position: Option<u64>) -> LedgerMark {
        let inner = self.inner();
        let position = position.unwrap_or(inner.state.position);
        LedgerMark { position, chain: inner.log.chain_at(position) }
    }

    /// Returns a watch on the number of entries: it changes after each append.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.position.subscribe()
    }

    /// Reads the state. `read` must be quick: it keeps writers waiting.
    pub fn state<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.inner().state)
    }

    /// Appends durably and returns the position. Blocks for the time of an fsync.
    pub fn append(&self, body: Body) -> Result<u64, Error> {
        self.decide(|_| (Some(body), ())).map(|(position, ())| position)
    }

    /// Decides what to append from the state, with nobody writing in between. Returns the position
    /// of the last entry afterwards, whether or not there is a new one.
    pub fn decide<T>(
        &self,
        decide: impl FnOnce(&State) -> (Option<Body>, T),
    ) -> Result<(u64, T), Error> {
        let mut inner = self.inner();
        let (body, result) = decide(&inner.state);
        let Some(body) = body else { return Ok((inner.state.position, result)) };
        let entry = Entry { at_ms: clock::wall_ms(), body };
        inner.state.apply(&entry)?;
        let written = append(&mut inner.log, &entry);
        let position = match written {
            Ok(position) => position,
            Err(e) => {
                inner.take_back()?;
                return Err(e);
            }
        };
        let chain = inner.log.chain_at(position);
        inner.marks.reached(self.id.as_str(), position, &chain, &entry.body);
        inner.remember(&self.host, position, &chain, &entry);
        drop(inner);
        self.position.send_replace(position);
        Ok((position, result))
    }

    /// Makes sure that so many bytes more find room on the disk (S5).
    pub fn reserve(&self, bytes: u64) -> Result<(), Error> {
        self.inner().log.reserve(bytes)
    }

    /// Returns at most `max` reports for entries after `position`, and the position up to which
    /// there is nothing more to report.
    pub fn reports_after(&self, position: u64, max: usize) -> Result<(Vec<Report>, u64), Error> {
        let mut inner = self.inner();
        let last = inner.state.position;
        let found: Vec<Report> = if position >= inner.forgotten {
            let newer = inner.recent.iter().filter(|report| report.position > position);
            newer.take(max).cloned().collect()
        } else {
            let entries = inner.log.read_again()?;
            (1u64..)
                .zip(&entries)
                .filter(|(at, _)| *at > position)
                .filter_map(|(at, entry)| {
                    report::of(&self.host, at, &inner.log.chain_at(at), entry)
                })
                .take(max)
                .collect()
        };
        let upto = match found.last() {
            Some(report) if found.len() == max => report.position,
            Some(_) | None => last,
        };
        Ok((found, upto))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held; if something does, the state is still that of the disk.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The last entry was not written: folds again what was. Copying the state before each write
    /// instead would make long journals slow.
    fn take_back(&mut self) -> Result<(), Error> {
        let mut entries = self.log.read_again()?;
        entries.truncate(usize::try_from(self.log.position()).unwrap_or(usize::MAX));
        self.state = fold(&entries)?;
        Ok(())
    }

    fn remember(&mut self, host: &HostId, position: u64, chain: &str, entry: &Entry) {
        let Some(report) = report::of(host, position, chain, entry) else { return };
        self.recent.push_back(report);
        if self.recent.len() > RECENT
            && let Some(oldest) = self.recent.pop_front()
        {
            self.forgotten = oldest.position;
        }
    }
}

/// Appends, with fail points around it.
fn append(log: &mut Log<Box<dyn Storage>>, entry: &Entry) -> Result<u64, Error> {
    let name = failpoint::name_of(&entry.body);
    failpoint::reach(&["ledger", &name, "before"]);
    if failpoint::hit(&["ledger", &name, "torn"]) {
        log.append_torn(entry);
        failpoint::end(&format!("ledger.{name}.torn"));
    }
    let position = log.append(entry)?;
    failpoint::reach(&["ledger", &name, "after"]);
    Ok(position)
}

impl<S: Storage + ?Sized> Storage for Box<S> {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        (**self).read()
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (**self).write_at(offset, bytes)
    }
    fn truncate(&mut self, length: u64) -> io::Result<()> {
        (**self).truncate(length)
    }
    fn allocate(&mut self, offset: u64, length: u64) -> io::Result<()> {
        (**self).allocate(offset, length)
    }
    fn sync(&mut self) -> io::Result<()> {
        (**self).sync()
    }
}
