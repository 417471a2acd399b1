//! Listing a tree without following links.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Attributes, Error, decode_path, encode_path};

/// More entries than this in one tree are not ours to handle: 10 million names would need gigabytes
/// of memory, and metadata trees have thousands.
const ENTRIES_MAX: usize = 5_000_000;
/// Deeper than any folder of DolphinDB's; a loop made of bind mounts ends here.
const LEVELS_MAX: usize = 64;

/// One name in a tree with everything that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Path below the tree's root, written by [`encode_path`]; empty for the root itself.
    pub path: String,
    /// What it is.
    #[serde(flatten)]
    pub kind: Kind,
    /// What belongs to it.
    #[serde(flatten)]
    pub attributes: Attributes,
}

/// What kind of thing has a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// A folder.
    Folder,
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// SHA-256 in hex.
        sha256: String,
    },
    /// A symbolic link.
    Link {
        /// Where it points, written by [`encode_path`].
        target: String,
    },
    /// A socket, pipe or device: noted, never copied.
    Special,
}

impl Entry {
    /// Returns the path below the root; none if the text is damaged or leaves the root.
    pub fn relative(&self) -> Option<PathBuf> {
        let path = decode_path(&self.path)?;
        let inside = path.components().all(|c| matches!(c, std::path::Component::Normal(_)));
        inside.then_some(path)
    }
}

/// What tells that a file is still the same: the kernel changes the status-change time with every
/// write, and nobody can set it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Takes it from what `stat` said.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A name found by [`walk`].
#[derive(Debug, Clone)]
pub struct Found {
    /// Path below the root; empty for the root itself.
    pub relative: PathBuf,
    /// What `lstat` said.
    pub metadata: Metadata,
}

impl Found {
    /// Returns the encoded relative path.
    pub fn encoded(&self) -> String {
        encode_path(&self.relative)
    }
}

/// Lists everything below `root` (and the root itself, first), parents before children, names in
/// order, leaving out every path for which `skip` says yes together with what is below it.
pub fn walk(root: &Path, skip: &dyn Fn(&Path) -> bool) -> Result<Vec<Found>, Error> {
    let metadata = fs::symlink_metadata(root).map_err(Error::at("look at", root))?;
    let is_dir = metadata.is_dir();
    let mut all = vec![Found { relative: PathBuf::new(), metadata }];
    let mut folders = if is_dir { vec![PathBuf::new()] } else { Vec::new() };
    while let Some(folder) = folders.pop() {
        if folder.components().count() >= LEVELS_MAX {
            let path = root.join(folder);
            return Err(Error::TooMuch { path, limit: LEVELS_MAX, what: "levels" });
        }
        let full = root.join(&folder);
        let mut names = Vec::new();
        for item in fs::read_dir(&full).map_err(Error::at("list", &full))? {
            names.push(item.map_err(Error::at("list", &full))?.file_name());
        }
        names.sort_unstable();
        let mut below = Vec::new();
        for name in names {
            let relative = folder.join(name);
            if skip(&relative) {
                continue;
            }
            let path = root.join(&relative);
            let metadata = fs::symlink_metadata(&path).map_err(Error::at("look at", &path))?;
            if metadata.is_dir() {
                below.push(relative.clone());
            }
            all.push(Found { relative, metadata });
            if all.len() > ENTRIES_MAX {
                let path = root.to_path_buf();
                return Err(Error::TooMuch { path, limit: ENTRIES_MAX, what: "entries" });
            }
        }
        folders.extend(below.into_iter().rev());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first_links_are_not_followed_and_skipped_trees_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["b/c", "a", "left/out"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("b/c/x"), b"1").unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("a/root")).unwrap();
        let all = walk(dir.path(), &|p| p == Path::new("left")).unwrap();
        let names: Vec<_> = all.iter().map(Found::encoded).collect();
        let mut sorted = names.clone();
        sorted.sort();
        assert_eq!(sorted, ["", "a", "a/root", "b", "b/c", "b/c/x"]);
        for (at, name) in names.iter().enumerate() {
            let parent = Path::new(name).parent().and_then(Path::to_str).unwrap_or("");
            assert!(names.iter().position(|n| n == parent).unwrap() <= at);
        }
    }

    #[test]
    fn an_entry_cannot_leave_its_root() {
        let entry = |path: &str| Entry {
            path: path.to_owned(),
            kind: Kind::Folder,
            attributes: Attributes::default(),
        };
        assert!(entry("a/b").relative().is_some());
        for bad in ["../a", "/etc/x", "a/../../b", "%00"] {
            assert!(entry(bad).relative().is_none(), "{bad}");
        }
    }
}
