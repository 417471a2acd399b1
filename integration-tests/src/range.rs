//! Claims a /24 of loopback, so that several labs can run at once.
//!
//! The claim is a lock on a file of the temporary folder. The lock is handed on to the lab's hosts
//! (as their standard input) and so lasts exactly as long as any of them runs, whatever happens to the
//! program that started them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rand::Rng;
use rustix::fs::FlockOperation;

use crate::processes;
use crate::topology::Range;

/// Tries before giving up; with some 50,000 ranges even many labs leave nearly all of them free.
const TRIES: u32 = 200;

/// A claimed range; given back when this and every copy of its file are closed.
#[derive(Debug)]
pub struct Claim {
    /// The addresses.
    pub range: Range,
    /// The locked file; none only while this is dropped.
    file: Option<File>,
}

impl Claim {
    /// The locked file once more, to be held by somebody else as well.
    pub fn copy(&self) -> anyhow::Result<File> {
        let file = self.file.as_ref().context("the claim is being given back")?;
        file.try_clone().context("copy the claim's file")
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.file = None;
        // Does nothing while somebody else holds it.
        forget(self.range);
    }
}

/// Folder of the lock files.
fn folder() -> PathBuf {
    std::env::temp_dir().join("grayfin-lab-ranges")
}

fn lock_path(range: Range) -> PathBuf {
    folder().join(format!("127.{}.{}.lock", range.a, range.b))
}

/// Claims a range that nobody has.
pub fn claim() -> anyhow::Result<Claim> {
    let folder = folder();
    fs::create_dir_all(&folder).with_context(|| format!("make `{}`", folder.display()))?;
    // For other users' labs; if the folder is theirs already, this is not ours to change.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777)).ok();
    let listening = processes::listening();
    let mut random = rand::rng();
    for _ in 0..TRIES {
        let range = Range { a: random.random_range(16..=250), b: random.random_range(0..=250) };
        let prefix = format!("127.{}.{}.", range.a, range.b);
        if listening.iter().any(|address| address.starts_with(&prefix)) {
            continue;
        }
        if let Some(file) = try_lock(&lock_path(range)) {
            return Ok(Claim { range, file: Some(file) });
        }
    }
    anyhow::bail!("no free 127.a.b.0/24 found after {TRIES} tries")
}

/// Claims a known range again, for a host that is started later; `None` while the lab's others hold
/// it, and then nothing is needed.
pub fn claim_again(range: Range) -> Option<File> {
    try_lock(&lock_path(range))
}

/// Removes the lock file of a range that nobody holds any more.
pub fn forget(range: Range) {
    let path = lock_path(range);
    if let Some(_held) = try_lock(&path) {
        fs::remove_file(&path).ok();
    }
}

/// True while somebody holds the range.
pub fn is_claimed(range: Range) -> bool {
    let path = lock_path(range);
    path.exists() && try_lock(&path).is_none()
}

/// Locks the file, making sure that it is still the one with that name.
fn try_lock(path: &Path) -> Option<File> {
    let file =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    let same = fs::metadata(path).ok()?.ino() == file.metadata().ok()?.ino();
    same.then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_claimed_once_and_can_be_given_back() {
        let first = claim().unwrap();
        assert!(is_claimed(first.range));
        assert!(claim_again(first.range).is_none());
        let second = claim().unwrap();
        assert_ne!(first.range, second.range);
        let range = first.range;
        let copy = first.copy().unwrap();
        drop(first);
        assert!(is_claimed(range), "a copy holds it");
        drop(copy);
        assert!(!is_claimed(range));
        forget(range);
        assert!(!lock_path(range).exists());
        let range = second.range;
        drop(second);
        assert!(!lock_path(range).exists(), "the last one tidies up");
    }
}
