//! What a node keeps on disk and starts from.
//!
//! Every file begins with a line that names the version that wrote it. A newer version rewrites
//! the files in its own form when it first starts; an older version refuses them.

pub(crate) mod chunk_file;
pub(crate) mod lines;
pub(crate) mod node;
pub(crate) mod raft;
mod redo;

use std::io;
use std::path::PathBuf;

use crate::version::Version;

/// Why a node cannot start from what is on its disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// The file was written by a newer version.
    #[error("Unsupported metadata version {found} of {path}: this server is {own}.", path = .path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Who wrote it.
        found: Version,
        /// Who reads it.
        own: Version,
    },
    /// The file is not what it should be.
    #[error("{reason} [{path}]", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
