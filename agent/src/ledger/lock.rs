//! One hand (S8): locks of the operating system on the state folder and on each installation.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;

use super::Error;

/// Locks that last as long as this value, or until the process dies.
#[derive(Debug)]
pub struct Locks(Vec<File>);

impl Locks {
    /// Locks the state folder and the folders of all installations. A folder of an installation
    /// that is not there is left out: there is nothing to work on, and looks will say so.
    pub fn take<'a>(
        state_dir: &Path,
        installations: impl IntoIterator<Item = &'a Path>,
    ) -> Result<Self, Error> {
        let mut held = vec![lock(state_dir).map_err(|e| refused(state_dir, e))?];
        for folder in installations {
            match lock(folder) {
                Ok(file) => held.push(file),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    tracing::warn!(folder = %folder.display(), "the installation is not there");
                }
                Err(e) => return Err(refused(folder, e)),
            }
        }
        Ok(Self(held))
    }

    /// Returns how many folders are locked.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// Locks a folder itself: no file of ours has to be put into an installation. The descriptor is
/// closed in every program that we start, so that no helper keeps the lock.
fn lock(folder: &Path) -> io::Result<File> {
    let file = File::open(folder)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

fn refused(folder: &Path, source: io::Error) -> Error {
    if source.kind() == io::ErrorKind::WouldBlock {
        return Error::Locked { folder: PathBuf::from(folder) };
    }
    Error::Io { what: "lock", file: PathBuf::from(folder), source }
}
