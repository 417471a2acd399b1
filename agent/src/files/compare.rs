//! Comparing a tree with what a manifest says about it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{
    Attributes, Control, Disk, Entry, Error, Kind, WORKERS, chain, encode_path, hash_file,
    in_parallel, walk,
};

/// More differences than this say nothing that these do not.
const DIFFERENCES_MAX: usize = 1000;

/// How to compare.
pub struct Comparison<'a> {
    /// Where the tree is.
    pub disk: &'a dyn Disk,
    /// Stop flag and progress.
    pub control: &'a Control,
    /// Threads.
    pub workers: usize,
    /// Compare owner, mode and extended attributes too.
    pub attributes: bool,
    /// Drop what the kernel has cached first, so that the device is read.
    pub from_disk: bool,
    /// Also find names that the manifest does not have, except where this says yes.
    pub extra: Option<&'a (dyn Fn(&Path) -> bool + Sync)>,
}

/// One thing that is not as the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The full path.
    pub path: PathBuf,
    /// What differs.
    pub what: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`: {}", encode_path(&self.path), self.what)
    }
}

/// The outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// What differs, in order; at most a thousand.
    pub differences: Vec<Difference>,
    /// Files whose content was hashed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl std::fmt::Debug for Comparison<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Comparison").field("attributes", &self.attributes).finish_non_exhaustive()
    }
}

impl<'a> Comparison<'a> {
    /// Content and attributes of what the manifest names.
    pub fn new(disk: &'a dyn Disk, control: &'a Control) -> Self {
        Self { disk, control, workers: WORKERS, attributes: true, from_disk: false, extra: None }
    }

    /// Compares. What cannot be read is a difference; only a request to stop is an error.
    pub fn run(&self, root: &Path, entries: &[Entry]) -> Result<Compared, Error> {
        let result = Mutex::new(Compared::default());
        in_parallel(entries, self.workers, |_, entry| {
            self.control.check()?;
            let (difference, bytes) = self.one(root, entry)?;
            let mut all = result.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(entry.kind, Kind::File { .. }) {
                all.files += 1;
                all.bytes += bytes;
            }
            all.differences.extend(difference);
            Ok(())
        })?;
        let mut compared = result.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(skip) = self.extra {
            compared.differences.extend(surplus(root, entries, skip));
        }
        compared.differences.sort_by(|a, b| a.path.cmp(&b.path));
        compared.differences.truncate(DIFFERENCES_MAX);
        Ok(compared)
    }

    fn one(&self, root: &Path, entry: &Entry) -> Result<(Option<Difference>, u64), Error> {
        let Some(relative) = entry.relative() else {
            let path = root.join(&entry.path);
            return Ok((Some(Difference { path, what: "is no path inside".into() }), 0));
        };
        let path =
            if relative.as_os_str().is_empty() { root.to_path_buf() } else { root.join(relative) };
        let (what, bytes) = self.difference(&path, entry)?;
        Ok((what.map(|what| Difference { path, what }), bytes))
    }

    fn hash(&self, path: &Path) -> Result<(String, u64), Error> {
        if self.from_disk
            && let Ok(file) = self.disk.open_read(path)
        {
            // Advice only: what it cannot do makes the proof weaker, not wrong.
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap_or_default();
        }
        hash_file(self.disk, path, self.control)
    }

    fn difference(&self, path: &Path, entry: &Entry) -> Result<(Option<String>, u64), Error> {
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(_) if entry.kind == Kind::Special => return Ok((None, 0)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok((Some("is missing".to_owned()), 0));
            }
            Err(e) => return Ok((Some(format!("cannot be looked at: {e}")), 0)),
        };
        let file_type = metadata.file_type();
        let mut bytes = 0;
        let wrong = match &entry.kind {
            Kind::Folder => (!file_type.is_dir()).then(|| "is no folder".to_owned()),
            Kind::Special => None,
            Kind::Link { target } => match fs::read_link(path) {
                Ok(found) if &encode_path(&found) == target => None,
                Ok(found) => Some(format!("points to `{}`", encode_path(&found))),
                Err(_) => Some("is no link".to_owned()),
            },
            Kind::File { .. } if !file_type.is_file() => Some("is no regular file".to_owned()),
            Kind::File { size, .. } if metadata.len() != *size => {
                Some(format!("has {} bytes, expected {size}", metadata.len()))
            }
            Kind::File { sha256, .. } => match self.hash(path) {
                Ok((digest, length)) => {
                    bytes = length;
                    (&digest != sha256).then(|| "has another content (SHA-256 differs)".to_owned())
                }
                Err(Error::Stopped) => return Err(Error::Stopped),
                Err(e) => Some(format!("cannot be read: {}", chain(&e))),
            },
        };
        if wrong.is_some() || !self.attributes || entry.kind == Kind::Special {
            return Ok((wrong, bytes));
        }
        let found = match Attributes::read(path, &metadata) {
            Ok(found) => found,
            Err(e) => return Ok((Some(format!("attributes cannot be read: {e}")), bytes)),
        };
        Ok((entry.attributes.difference(&found), bytes))
    }
}

/// Names in the tree that the manifest does not have.
fn surplus(
    root: &Path,
    entries: &[Entry],
    skip: &(dyn Fn(&Path) -> bool + Sync),
) -> Vec<Difference> {
    let known: BTreeSet<&str> = entries.iter().map(|e| e.path.as_str()).collect();
    match walk(root, &|path| skip(path)) {
        Ok(found) => found
            .into_iter()
            .filter(|f| !known.contains(f.encoded().as_str()))
            .map(|f| Difference {
                path: root.join(&f.relative),
                what: "was not there before".to_owned(),
            })
            .collect(),
        Err(e) => vec![Difference { path: root.to_path_buf(), what: chain(&e) }],
    }
}
