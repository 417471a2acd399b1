//! Reading a package through without writing anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read, Seek},
    path::{Component, Path, PathBuf},
};

use grayfin_types::DdbVersion;
use zip::ZipArchive;

use super::{
    BINARY, Error, Hints, TOP, Verdict,
    hints::{Search, plugin_line},
};
use crate::files::{self, BLOCK, Control, Disk, hash_file};

/// A real package has a few thousand entries.
const ENTRIES_MAX: usize = 200_000;
/// A real package is some hundred megabytes unpacked.
const UNPACKED_BYTES_MAX: u64 = 32 << 30;
/// A real package shrinks to a third; a bomb shrinks to a thousandth.
const RATIO_MAX: u64 = 100;
/// Below this many bytes the ratio says nothing: a few empty tables shrink very well.
const RATIO_FREE_BYTES: u64 = 64 << 20;
/// The longest path in a package.
const NAME_BYTES_MAX: usize = 1024;
/// Of a plugin's description only the first line counts.
const PLUGIN_BYTES_MAX: u64 = 4096;

/// What was found out about a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// SHA-256 of the file in hex.
    pub sha256: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of all entries unpacked.
    pub unpacked_bytes: u64,
    /// Number of files.
    pub files: u64,
    /// Its plugins as `name version`.
    pub plugins: Vec<(String, String)>,
    /// What it shows about the version that it claims.
    pub verdict: Verdict,
}

/// What an entry is, once its name and kind are found harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SafeEntry {
    /// Path below `server/`; empty for that folder itself.
    pub(super) path: PathBuf,
    pub(super) is_dir: bool,
    /// Permission bits, with set-uid and the like removed; none if the zip has none.
    pub(super) mode: Option<u32>,
    pub(super) bytes: u64,
}

/// Reads a package through: its SHA-256, every entry's name, kind and checksum, its size unpacked, and
/// what it shows about its version.
pub fn inspect(
    disk: &dyn Disk,
    path: &Path,
    claimed: &DdbVersion,
    control: &Control,
) -> Result<Inspection, Error> {
    let (sha256, bytes) = hash_file(disk, path, control)?;
    let mut archive = open(disk, path)?;
    let safe = check_entries(path, bytes, &mut archive)?;
    let mut hints = Hints::default();
    let mut files = 0;
    for (at, entry) in &safe {
        if entry.is_dir {
            continue;
        }
        files += 1;
        let mut search = (entry.path == Path::new(BINARY)).then(Search::default);
        let mut text = Vec::new();
        let wants_text = is_plugin_description(&entry.path);
        read_entry(path, &mut archive, *at, entry, &mut |bytes| {
            if let Some(search) = &mut search {
                search.push(bytes);
            }
            if wants_text && (text.len() as u64) < PLUGIN_BYTES_MAX {
                text.extend_from_slice(bytes);
            }
            Ok(control.advance(bytes.len() as u64)?)
        })?;
        hints.plugins.extend(plugin_line(&String::from_utf8_lossy(&text)));
        if let Some(search) = search {
            hints.texts = search.finish();
        }
    }
    let verdict = hints.judge(claimed);
    if let Verdict::Refuted(evidence) = verdict {
        let (path, claimed) = (path.to_path_buf(), claimed.clone());
        return Err(Error::WrongVersion { path, claimed, evidence });
    }
    let unpacked_bytes = safe.values().map(|e| e.bytes).sum();
    Ok(Inspection { sha256, bytes, unpacked_bytes, files, plugins: hints.plugins, verdict })
}

/// Lists the paths below `server/` of all files in a package, from its directory alone.
pub fn list_names(disk: &dyn Disk, path: &Path) -> Result<BTreeSet<PathBuf>, Error> {
    let mut archive = open(disk, path)?;
    let bytes = std::fs::metadata(path).map_err(files::Error::at("look at", path))?.len();
    let safe = check_entries(path, bytes, &mut archive)?;
    Ok(safe.into_values().filter(|e| !e.is_dir).map(|e| e.path).collect())
}

pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<ZipArchive<File>, Error> {
    let file = match disk.open_read(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let folder = path.parent().unwrap_or(path).to_path_buf();
            return Err(Error::Missing { file: name, folder });
        }
        Err(e) => return Err(files::Error::at("open", path)(e).into()),
    };
    ZipArchive::new(file).map_err(|e| corrupt(path, format!("it is no readable zip: {e}")))
}

/// Checks names, kinds and sizes of all entries. Returns them by their number in the zip.
pub(super) fn check_entries<R: Read + Seek>(
    path: &Path,
    package_bytes: u64,
    archive: &mut ZipArchive<R>,
) -> Result<BTreeMap<usize, SafeEntry>, Error> {
    if archive.len() > ENTRIES_MAX {
        return Err(corrupt(path, format!("it has more than {ENTRIES_MAX} entries")));
    }
    let mut safe: BTreeMap<usize, SafeEntry> = BTreeMap::new();
    let mut seen: BTreeMap<PathBuf, bool> = BTreeMap::new();
    let mut total = 0_u64;
    for at in 0..archive.len() {
        let raw = archive.by_index_raw(at).map_err(|e| corrupt(path, e.to_string()))?;
        let entry = check_entry(&raw).map_err(|why| corrupt(path, why))?;
        total = total.saturating_add(entry.bytes);
        let limit = package_bytes.saturating_mul(RATIO_MAX).saturating_add(RATIO_FREE_BYTES);
        if total > limit.min(UNPACKED_BYTES_MAX) {
            let why = format!("it would unpack to {total} bytes or more from {package_bytes}");
            return Err(corrupt(path, why));
        }
        match seen.insert(entry.path.clone(), entry.is_dir) {
            Some(true) if entry.is_dir => continue,
            None => {}
            Some(_) => {
                let name = entry.path.display().to_string();
                return Err(corrupt(path, format!("it has `{name}` twice")));
            }
        }
        safe.insert(at, entry);
    }
    for entry in safe.values() {
        // A file cannot be a folder for another one.
        let mut above = entry.path.ancestors().skip(1);
        if above.any(|folder| seen.get(folder) == Some(&false)) {
            let name = entry.path.display();
            return Err(corrupt(path, format!("`{name}` lies below a file")));
        }
    }
    if seen.get(Path::new(BINARY)) != Some(&false) {
        return Err(corrupt(path, format!("it has no `{TOP}/{BINARY}`")));
    }
    let overlap = archive.has_overlapping_files().map_err(|e| corrupt(path, e.to_string()))?;
    if overlap {
        return Err(corrupt(path, "its entries overlap".to_owned()));
    }
    Ok(safe)
}

fn check_entry<R: Read>(raw: &zip::read::ZipFile<'_, R>) -> Result<SafeEntry, String> {
    let shown: String = String::from_utf8_lossy(raw.name_raw()).chars().take(200).collect();
    let shown = shown.escape_default().to_string();
    if raw.encrypted() {
        return Err(format!("`{shown}` is encrypted"));
    }
    if raw.name_raw().len() > NAME_BYTES_MAX {
        return Err(format!("the name `{shown}…` is too long"));
    }
    let raw_name = raw.name_raw();
    let harmful =
        raw_name.first() == Some(&b'/') || raw_name.iter().any(|b| *b < 32 || *b == b'\\');
    let name = std::str::from_utf8(raw_name).map_err(|_| format!("`{shown}` is not UTF-8"))?;
    let path = raw.enclosed_name().filter(|_| !harmful && !name.contains(".."));
    let path = path.ok_or_else(|| format!("the name `{shown}` could lead out of the folder"))?;
    if !path.components().all(|c| matches!(c, Component::Normal(_))) {
        return Err(format!("the name `{shown}` is not plain"));
    }
    let kind = raw.unix_mode().map_or(0, |mode| mode & 0o170_000);
    let is_dir = raw.is_dir();
    let regular = matches!((kind, is_dir), (0, _) | (0o100_000, false) | (0o040_000, true));
    if raw.is_symlink() || !regular {
        return Err(format!("`{shown}` is neither a file nor a folder"));
    }
    let path = path.strip_prefix(TOP).map_err(|_| format!("`{shown}` is not below `{TOP}/`"))?;
    Ok(SafeEntry {
        path: path.to_path_buf(),
        is_dir,
        mode: raw.unix_mode().map(|mode| mode & 0o777).filter(|mode| *mode != 0),
        bytes: if is_dir { 0 } else { raw.size() },
    })
}

/// Reads an entry piece by piece; its checksum and its promised length are checked.
pub(super) fn read_entry<R: Read + Seek>(
    path: &Path,
    archive: &mut ZipArchive<R>,
    at: usize,
    expected: &SafeEntry,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let name = expected.path.display().to_string();
    let damaged = |e: &dyn std::fmt::Display| corrupt(path, format!("`{name}` is damaged: {e}"));
    let mut file = archive.by_index(at).map_err(|e| damaged(&e))?;
    let mut buffer = vec![0; BLOCK];
    let mut length = 0_u64;
    loop {
        let count = file.read(&mut buffer).map_err(|e| damaged(&e))?;
        let Some(bytes) = buffer.get(..count).filter(|b| !b.is_empty()) else { break };
        length += bytes.len() as u64;
        if length > expected.bytes {
            return Err(damaged(&"it is longer than it says"));
        }
        take(bytes)?;
    }
    if length != expected.bytes {
        return Err(damaged(&"it is shorter than it says"));
    }
    Ok(())
}

fn is_plugin_description(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    path.starts_with("plugins") && name.starts_with("Plugin") && name.ends_with(".txt")
}

pub(super) fn corrupt(path: &Path, why: impl Into<String>) -> Error {
    Error::Corrupt { path: path.to_path_buf(), why: why.into() }
}
