//! Backups of an installation: what belongs into one, taking it, proving it, restoring it.
//!
//! ```text
//! <backup_dir>/
//!     .partial-<name>/          one that is being made, or was interrupted; never used
//!     <name>/
//!         MANIFEST.jsonl        header (who, when, versions, parts) and every file with its SHA-256
//!         tree/<part>/…         the copies
//! ```
//! The manifest is written last and the folder gets its name after it, so what has a name and a whole
//! manifest is complete. Owner, mode and extended attributes are in the manifest as well as on the
//! copies.
//!
//! - [`selection`] (pure) says which folders of which node belong into it and how much they matter.
//! - [`taking`] copies and proves.
//! - [`store`] lists, verifies, restores and thins out.

use std::path::PathBuf;

use grayfin_types::Code;

use crate::files::{self, ManifestError};

pub mod config;
pub mod selection;
pub mod store;
pub mod taking;

pub use selection::{HELD, InstallationSource, NodeSource, Part, Scope, select};
pub use store::{Backup, InPlace, Store};
pub use taking::{Header, MANIFEST, PARTIAL_PREFIX, Taken, Taking, room, take, weigh};

/// Why something with a backup did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not complete, or not what its manifest says.
    #[error("the backup `{name}` is not good: {why}")]
    Bad {
        /// Which.
        name: String,
        /// What is wrong, with the path.
        why: String,
    },
    /// There is none of this name.
    #[error("there is no backup `{name}` in `{}`", folder.display())]
    Missing {
        /// Its name.
        name: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A part without which there is no way back is not there.
    #[error("`{}` ({what} of {owner}) is not there: without it there is no way back", path.display())]
    SourceMissing {
        /// Where it should be.
        path: PathBuf,
        /// What it is.
        what: String,
        /// The node, or `the installation`.
        owner: String,
    },
    /// A source is not what it was when it was copied.
    #[error("a source changed while it was backed up: {0}; something still writes there")]
    SourceChanged(String),
    /// Restoring in place is not allowed now.
    #[error("the backup `{name}` cannot be restored in place: {why}")]
    Refused {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    Files(files::Error),
}

impl Error {
    /// Returns the code with a page of its own.
    pub fn code(&self) -> Code {
        match self {
            Self::Bad { .. } | Self::Missing { .. } | Self::SourceMissing { .. } => {
                Code::BackupIncomplete
            }
            Self::SourceChanged(_) => Code::BackupSourceChanged,
            Self::Refused { .. } => Code::RestoreRefused,
            Self::Files(e) if e.is_no_space() => Code::DiskTooSmall,
            Self::Files(files::Error::Stopped) => Code::Aborted,
            Self::Files(_) => Code::BackupIncomplete,
        }
    }
}

impl From<files::Error> for Error {
    fn from(error: files::Error) -> Self {
        match error {
            files::Error::SourceChanged { .. } => Self::SourceChanged(error.to_string()),
            files::Error::Io { .. }
            | files::Error::ReadBack { .. }
            | files::Error::Stopped
            | files::Error::TooMuch { .. } => Self::Files(error),
        }
    }
}

/// Names the backup whose manifest cannot be used.
fn bad_manifest(name: &str) -> impl FnOnce(ManifestError) -> Error + '_ {
    move |error| Error::Bad { name: name.to_owned(), why: files::chain(&error) }
}

#[cfg(test)]
mod tests;
