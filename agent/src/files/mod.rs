//! Files as the host sequence needs them: whole trees copied with everything that belongs to them,
//! compared by hash, renamed so that a crash leaves either the old or the new state, and never
//! more of a volume used than was agreed.
//!
//! Everything that changes a disk goes through [`Disk`], so that tests can make it fail at any
//! single operation ([`fault::FaultyDisk`]). The functions block; callers run them on a thread that
//! may block. Nothing here knows what DolphinDB is.

use std::{io, path::PathBuf};

mod atomic;
mod attributes;
mod compare;
mod control;
mod copy;
pub mod fault;
mod hash;
mod manifest;
mod name;
mod port;
mod space;
mod walk;

pub use atomic::{create_dir_durably, remove_tree, rename_durably, write_durably};
pub use attributes::{Attributes, Owners, modified_ns};
pub use compare::{Compared, Comparison, Difference};
pub use control::{Control, Stop};
pub use copy::{Copied, Copier, Durability, make_durable};
pub(crate) use hash::BLOCK;
pub use hash::{Hasher, HashingReader, hash_file, hex};
pub use manifest::{ManifestError, read_manifest, write_manifest};
pub use name::{decode_path, encode_path};
pub use port::{Disk, RealDisk};
pub use space::{Need, Shortage, Space, shortages, volume_root};
pub use walk::{Entry, Found, Kind, Stamp, walk};

/// Why something with files did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system said no.
    #[error("{action} `{}`", path.display())]
    Io {
        /// What was being done, in a person's words: `read`, `create the file`.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// The source is not what it was when the copy began.
    #[error("`{}` changed while it was copied: {what}", path.display())]
    SourceChanged {
        /// The file or folder.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// What was written is not what was read.
    #[error("`{}` reads back with another content than was written", path.display())]
    ReadBack {
        /// The copy.
        path: PathBuf,
    },
    /// Somebody asked to stop.
    #[error("stopped on request")]
    Stopped,
    /// A tree has more entries or is deeper than anything sensible.
    #[error("`{}` has more than {limit} {what}", path.display())]
    TooMuch {
        /// The tree.
        path: PathBuf,
        /// The limit.
        limit: usize,
        /// `entries` or `levels`.
        what: &'static str,
    },
}

impl Error {
    /// Names what was done and with what, for `map_err`.
    pub fn at(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Tells whether the disk (or the quota) is full.
    pub fn is_no_space(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

/// Writes an error with everything that caused it, as a person reads it in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// How many threads copy and hash at once. Two keep a disk and a core busy; more would only press
/// harder on the machine's other work.
pub const WORKERS: usize = 2;

/// Runs `work` for each item on a few threads; the first error ends it.
pub(crate) fn in_parallel<T: Sync, E: Send>(
    items: &[T],
    workers: usize,
    work: impl Fn(usize, &T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    use std::sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    };
    if workers <= 1 || items.len() <= 1 {
        return items.iter().enumerate().try_for_each(|(at, item)| work(at, item));
    }
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let error = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..workers.min(items.len()) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    if let Err(e) = work(at, item) {
                        failed.store(true, Ordering::Relaxed);
                        error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    }
                }
            });
        }
    });
    error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests;
