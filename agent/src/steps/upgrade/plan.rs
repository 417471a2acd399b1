//! Which operations turn the installed software into the staged one.

use std::{
    collections::BTreeSet,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::operations::{Ground, Operation, retire};
use crate::{
    files::{Attributes, Control, Disk, Entry, Error as FilesError, Kind, encode_path, hash_file},
    packages::{BINARY, TOP},
    process::installation::OWN_PREFIX,
};

/// What the package holds and an upgrade never touches: the site's configuration, licence and work
/// folder.
const NEVER: [&str; 3] = ["clusterDemo", "dolphindb.cfg", "dolphindb.lic"];

/// Folders in which links and mounts are the site's own choice: they are kept, and said to be.
const SITES_OWN: [&str; 4] = ["plugins", "modules", "dict", "tzdb"];

/// Names listed in a report; the rest is counted.
const SHOWN_MAX: usize = 5;

/// What an upgrade does, and what it leaves alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) operations: Vec<Operation>,
    pub(super) notes: Notes,
}

/// What a person should know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Notes {
    /// Files that are the same in both.
    pub(super) unchanged: usize,
    /// Files of the package that were not installed, because a link or mount is in their place.
    pub(super) kept: Vec<String>,
    /// Files that only the old package had.
    pub(super) retired: Vec<String>,
    /// Files that neither package has, or whose origin is unknown because the old one is not there.
    pub(super) unknown: Vec<String>,
    /// The old package was there to compare with.
    pub(super) old_known: bool,
}

impl Notes {
    /// One line for people.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{} files unchanged", self.unchanged);
        for (what, list) in [
            ("kept because a link or mount is in their place", &self.kept),
            ("retired because only the old package has them", &self.retired),
            ("left alone because no package known here has them", &self.unknown),
        ] {
            if list.is_empty() {
                continue;
            }
            let shown: Vec<&str> = list.iter().take(SHOWN_MAX).map(String::as_str).collect();
            let more = if list.len() > SHOWN_MAX { ", …" } else { "" };
            text.push_str(&format!("; {} {what} ({}{more})", list.len(), shown.join(", ")));
        }
        if !self.old_known {
            text.push_str("; the old package is not there, so nothing was retired for its sake");
        }
        text
    }
}

/// Why there is no way from one to the other.
#[derive(Debug, thiserror::Error)]
pub(super) enum Obstacle {
    /// A file could not be read.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// Something is in the way that an upgrade must not move.
    #[error("`{path}` is {what}, but the package has a file there: replace it by hand")]
    InTheWay {
        /// Relative to the installation.
        path: String,
        /// What it is.
        what: &'static str,
    },
}

/// What is compared.
#[derive(Debug)]
pub(super) struct Comparing<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) control: &'a Control,
    pub(super) ground: &'a Ground,
    /// Where the executable is now.
    pub(super) executable: &'a Path,
    /// The staged package's entries.
    pub(super) entries: &'a [Entry],
    /// Names in the old package, if it is there.
    pub(super) old_names: Option<&'a BTreeSet<PathBuf>>,
    /// The folder of scripts, configuration and data, if it lies in the installation.
    pub(super) work_dir: &'a Path,
}

impl Comparing<'_> {
    /// Makes the list. Changes nothing.
    pub(super) fn change(&self) -> Result<Change, Obstacle> {
        let mut change = Change::default();
        change.notes.old_known = self.old_names.is_some();
        let mut new_names = BTreeSet::new();
        for entry in self.entries {
            let Some(path) = self.installed_path(entry) else { continue };
            match self.obstacle(&path, entry)? {
                None => {}
                Some(_) if SITES_OWN.iter().any(|own| path.starts_with(own)) => {
                    if entry.kind != Kind::Folder {
                        change.notes.kept.push(encode_path(&path));
                    }
                    new_names.insert(path);
                    continue;
                }
                Some(what) => {
                    return Err(Obstacle::InTheWay { path: encode_path(&path), what });
                }
            }
            self.entry(&path, entry, &mut change)?;
            new_names.insert(path);
        }
        self.leftovers(&new_names, &mut change)?;
        Ok(change)
    }

    /// Where an entry of the package belongs; none if an upgrade never touches it.
    fn installed_path(&self, entry: &Entry) -> Option<PathBuf> {
        let relative = entry.relative()?;
        let path = relative.strip_prefix(TOP).ok()?;
        if path.as_os_str().is_empty() || NEVER.iter().any(|never| path.starts_with(never)) {
            return None;
        }
        if path == Path::new(BINARY) {
            return Some(PathBuf::from(&self.ground.executable));
        }
        Some(path.to_path_buf())
    }

    fn entry(&self, path: &Path, entry: &Entry, change: &mut Change) -> Result<(), Obstacle> {
        let here = self.now(path);
        let there = look(&here)?;
        match &entry.kind {
            Kind::Folder => {
                if there.is_none() {
                    let attributes = entry.attributes.clone();
                    let path = encode_path(path);
                    change.operations.push(Operation::MakeFolder { path, attributes });
                }
            }
            Kind::File { size, sha256 } => {
                let mut attributes = entry.attributes.clone();
                if let Some(metadata) = &there {
                    let same = metadata.len() == *size
                        && hash_file(self.disk, &here, self.control)?.0 == *sha256;
                    let runs = *path != *self.ground.executable || metadata.mode() & 0o111 != 0;
                    if same && runs {
                        change.notes.unchanged += 1;
                        return Ok(());
                    }
                    let old = Attributes::read(&here, metadata)
                        .map_err(FilesError::at("read the attributes of", &here))?;
                    attributes = Attributes { mtime_ns: attributes.mtime_ns, ..old };
                    change.operations.push(retire(path));
                }
                if *path == *self.ground.executable {
                    attributes.mode |= 0o111 & (attributes.mode >> 2 | 0o100);
                }
                change.operations.push(Operation::Place {
                    path: encode_path(path),
                    from: entry.path.clone(),
                    attributes,
                });
            }
            // The unpacker makes neither.
            Kind::Link { .. } | Kind::Special => {}
        }
        Ok(())
    }

    /// Files that are not in the new package: those of the old one are retired, others are noted.
    fn leftovers(&self, new: &BTreeSet<PathBuf>, change: &mut Change) -> Result<(), Obstacle> {
        let work = self.work_dir.strip_prefix(&self.ground.server).ok();
        let skip = |path: &Path| {
            NEVER.iter().any(|never| path == Path::new(never))
                || work == Some(path)
                || path.as_os_str().as_encoded_bytes().starts_with(OWN_PREFIX.as_bytes())
                || *path == *self.ground.executable
        };
        for found in crate::files::walk(&self.ground.server, &skip)? {
            let path = found.relative;
            if !found.metadata.is_file() || new.contains(&path) {
                continue;
            }
            let crossed = self.crossing(&path)?.is_some();
            if !crossed && self.old_names.is_some_and(|old| old.contains(&path)) {
                change.notes.retired.push(encode_path(&path));
                change.operations.push(retire(&path));
            } else {
                change.notes.unknown.push(encode_path(&path));
            }
        }
        Ok(())
    }

    /// What stands against installing an entry here, if anything.
    fn obstacle(&self, path: &Path, entry: &Entry) -> Result<Option<&'static str>, Obstacle> {
        if let Some(what) = self.crossing(path)? {
            return Ok(Some(what));
        }
        let Some(metadata) = look(&self.now(path))? else { return Ok(None) };
        let is_dir = metadata.is_dir();
        let wants_dir = entry.kind == Kind::Folder;
        Ok(match () {
            () if metadata.file_type().is_symlink() => Some("a link"),
            () if self.is_other_volume(&metadata)? => Some("a mount"),
            () if is_dir && !wants_dir => Some("a folder"),
            () if !is_dir && wants_dir => Some("a file in place of a folder"),
            () if !is_dir && !metadata.is_file() => Some("no regular file"),
            () => None,
        })
    }

    /// A link or mount on the way to a path.
    fn crossing(&self, path: &Path) -> Result<Option<&'static str>, Obstacle> {
        for above in path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            let Some(metadata) = look(&self.ground.server.join(above))? else { continue };
            if metadata.file_type().is_symlink() {
                return Ok(Some("below a link"));
            }
            if !metadata.is_dir() {
                return Ok(Some("below a file"));
            }
            if self.is_other_volume(&metadata)? {
                return Ok(Some("below a mount"));
            }
        }
        Ok(None)
    }

    fn is_other_volume(&self, metadata: &Metadata) -> Result<bool, Obstacle> {
        let server = fs::metadata(&self.ground.server)
            .map_err(FilesError::at("look at", &self.ground.server))?;
        Ok(metadata.dev() != server.dev())
    }

    /// Where a file of the installation is at this moment.
    fn now(&self, path: &Path) -> PathBuf {
        if *path == *self.ground.executable {
            self.executable.to_path_buf()
        } else {
            self.ground.server.join(path)
        }
    }
}

fn look(path: &Path) -> Result<Option<Metadata>, FilesError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(e) => Err(FilesError::at("look at", path)(e)),
    }
}

/// The package's files as they should lie in the installation, to be compared by hash: path relative
/// to the installation and the entry.
pub(super) fn expected(
    entries: &[Entry],
    executable: &str,
    kept: &[String],
) -> Vec<(PathBuf, Entry)> {
    entries
        .iter()
        .filter(|entry| matches!(entry.kind, Kind::File { .. }))
        .filter_map(|entry| {
            let relative = entry.relative()?;
            let path = relative.strip_prefix(TOP).ok()?.to_path_buf();
            let never = NEVER.iter().any(|never| path.starts_with(never));
            if never || kept.contains(&encode_path(&path)) {
                return None;
            }
            let path = if path == Path::new(BINARY) { PathBuf::from(executable) } else { path };
            Some((path, entry.clone()))
        })
        .collect()
}
