//! Unpacking a package beside the installation.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{
    BINARY, Error, TOP,
    inspect::{SafeEntry, check_entries, open, read_entry},
};
use crate::files::{
    Attributes, Control, Disk, Entry, Error as FilesError, Hasher, Kind, Owners, encode_path,
};

/// Mode of files for which the zip has none.
const FILE_MODE: u32 = 0o644;
/// Mode of folders for which the zip has none.
const FOLDER_MODE: u32 = 0o755;

/// How to unpack.
#[derive(Debug)]
pub struct Unpack<'a> {
    /// Where to.
    pub disk: &'a dyn Disk,
    /// Stop flag, progress and pace.
    pub control: &'a Control,
    /// User and group that the files get.
    pub owner: (u32, u32),
}

/// Unpacks a package into `target/server`; `target` must be an existing, empty folder. Returns the
/// entries below `target`, parents first. Files are durable when this returns; a failure leaves
/// what there is for the caller to remove.
pub fn unpack(how: &Unpack<'_>, package: &Path, target: &Path) -> Result<Vec<Entry>, Error> {
    let metadata = std::fs::metadata(package).map_err(FilesError::at("look at", package))?;
    let mut archive = open(how.disk, package)?;
    let safe = check_entries(package, metadata.len(), &mut archive)?;
    let mtime_ns = crate::files::modified_ns(&metadata);
    let attributes = |mode| Attributes {
        mode,
        uid: how.owner.0,
        gid: how.owner.1,
        mtime_ns,
        ..Attributes::default()
    };
    let top = target.join(TOP);
    let mut entries = Vec::new();
    for (folder, mode) in folders(&safe) {
        let path = join(&top, &folder);
        how.disk.create_dir(&path, FOLDER_MODE).map_err(FilesError::at("create", &path))?;
        let path = encode_path(&join(Path::new(TOP), &folder));
        entries.push(Entry { path, kind: Kind::Folder, attributes: attributes(mode) });
    }
    for (at, entry) in safe.iter().filter(|(_, entry)| !entry.is_dir) {
        let path = top.join(&entry.path);
        let file = how.disk.create_file(&path, 0o600).map_err(FilesError::at("create", &path))?;
        let mut hasher = Hasher::default();
        read_entry(package, &mut archive, *at, entry, &mut |bytes| {
            hasher.update(bytes);
            how.disk.write_all(&file, &path, bytes).map_err(FilesError::at("write", &path))?;
            Ok(how.control.advance(bytes.len() as u64)?)
        })?;
        let attributes = attributes(mode_of(entry));
        set(how.disk, &path, &attributes)?;
        how.disk.sync_file(&file, &path).map_err(FilesError::at("make durable", &path))?;
        let kind = Kind::File { size: entry.bytes, sha256: hasher.finish() };
        let path = encode_path(&Path::new(TOP).join(&entry.path));
        entries.push(Entry { path, kind, attributes });
    }
    for entry in entries.iter().rev().filter(|e| e.kind == Kind::Folder) {
        let path = entry.relative().map_or_else(|| target.to_path_buf(), |p| target.join(p));
        set(how.disk, &path, &entry.attributes)?;
        how.disk.sync_dir(&path).map_err(FilesError::at("make durable", &path))?;
    }
    how.disk.sync_dir(target).map_err(FilesError::at("make durable", target))?;
    Ok(entries)
}

/// The vendor's zips do not mark the binary as executable; without that nothing would start.
fn mode_of(entry: &SafeEntry) -> u32 {
    let mode = entry.mode.unwrap_or(FILE_MODE) | 0o600;
    if entry.path == Path::new(BINARY) { mode | 0o755 } else { mode }
}

/// All folders with their modes, parents first, also those that only names imply.
fn folders(safe: &BTreeMap<usize, SafeEntry>) -> Vec<(PathBuf, u32)> {
    let mut all: BTreeSet<PathBuf> = BTreeSet::from([PathBuf::new()]);
    for entry in safe.values() {
        all.extend(entry.path.ancestors().skip(1).map(Path::to_path_buf));
        if entry.is_dir {
            all.insert(entry.path.clone());
        }
    }
    let mode = |folder: &Path| {
        let own = safe.values().find(|e| e.is_dir && e.path == folder).and_then(|e| e.mode);
        own.unwrap_or(FOLDER_MODE) | 0o700
    };
    all.into_iter().map(|folder| (folder.clone(), mode(&folder))).collect()
}

fn join(root: &Path, relative: &Path) -> PathBuf {
    if relative.as_os_str().is_empty() { root.to_path_buf() } else { root.join(relative) }
}

fn set(disk: &dyn Disk, path: &Path, attributes: &Attributes) -> Result<(), FilesError> {
    disk.set_attributes(path, attributes, Owners::WhereAllowed)
        .map_err(FilesError::at("set owner and mode of", path))
}
