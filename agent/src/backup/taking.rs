//! Taking a backup and proving it.

use std::path::{Path, PathBuf};

use grayfin_types::{
    ClusterId, DdbVersion, HostId, RolloutId, Token,
    facts::{BackupClass, BackupPart, Probe},
};
use serde::{Deserialize, Serialize};

use super::{Error, Part};
use crate::files::{
    Comparison, Control, Copier, Disk, Durability, Entry, Error as FilesError, Kind, chain,
    make_durable, remove_tree, rename_durably, walk, write_manifest,
};

/// The manifest's name in a backup.
pub const MANIFEST: &str = "MANIFEST.jsonl";

/// The folder of the copies in a backup.
pub const TREE: &str = "tree";

/// What the names of backups that are not complete begin with.
pub const PARTIAL_PREFIX: &str = ".partial-";

/// The first line of a backup's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Its folder's name.
    pub name: String,
    /// Whose.
    pub cluster: ClusterId,
    /// Whose.
    pub host: HostId,
    /// For which rollout.
    pub rollout: RolloutId,
    /// Under which hold.
    pub token: Token,
    /// Wall clock, milliseconds since 1970.
    pub created_ms: u64,
    /// The version that was installed, if it was known.
    pub from: Option<DdbVersion>,
    /// The version that was to be installed.
    pub to: DdbVersion,
    /// What is in it, in the order of the entries' part numbers.
    pub parts: Vec<PartCopied>,
}

/// A part as it was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartCopied {
    /// The part.
    #[serde(flatten)]
    pub part: Part,
    /// It was there.
    pub present: bool,
    /// Bytes of its files.
    pub bytes: u64,
}

/// A line of the manifest: a name of one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Number of the part in the header.
    pub part: usize,
    /// The name with everything that belongs to it.
    #[serde(flatten)]
    pub entry: Entry,
}

/// What to back up, and where to.
#[derive(Debug)]
pub struct Taking<'a> {
    /// The disk.
    pub disk: &'a dyn Disk,
    /// Stop flag and progress.
    pub control: &'a Control,
    /// Where backups go.
    pub backup_dir: &'a Path,
    /// Everything of the header but the parts.
    pub header: Header,
    /// The parts to copy.
    pub parts: &'a [Part],
    /// Parts that lie elsewhere at the moment: id and path. The executable while it is held.
    pub moved: &'a [(String, PathBuf)],
}

/// A backup that was taken and proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Its folder.
    pub path: PathBuf,
    /// Bytes of all files.
    pub bytes: u64,
    /// Number of files.
    pub files: u64,
    /// SHA-256 of its manifest.
    pub digest: String,
}

impl Taking<'_> {
    fn source(&self, part: &Part) -> PathBuf {
        let moved = self.moved.iter().find(|(id, _)| *id == part.id);
        moved.map_or_else(|| part.path(), |(_, path)| path.clone())
    }
}

/// Takes a backup: copies every part, reads the copies back, compares with the sources once more,
/// writes the manifest, and gives the folder its name. An interrupted one of the same name is
/// removed first; on failure nothing with that name exists and the room is given back.
pub fn take(taking: &Taking<'_>) -> Result<Taken, Error> {
    let disk = taking.disk;
    let name = &taking.header.name;
    let partial = taking.backup_dir.join(format!("{PARTIAL_PREFIX}{name}"));
    let path = taking.backup_dir.join(name);
    remove_tree(disk, &partial)?;
    let done = fill(taking, &partial)
        .and_then(|taken| Ok(rename_durably(disk, &partial, &path).map(|()| taken)?));
    let digest = done.inspect_err(|_| {
        // The room may be what is missing; a copy that is not proven is of no use.
        drop(remove_tree(disk, &partial));
    })?;
    Ok(Taken { path, ..digest })
}

fn fill(taking: &Taking<'_>, partial: &Path) -> Result<Taken, Error> {
    let disk = taking.disk;
    let tree = partial.join(TREE);
    for folder in [partial, &tree] {
        disk.create_dir(folder, 0o700).map_err(FilesError::at("create the folder", folder))?;
    }
    let mut header = taking.header.clone();
    header.parts.clear();
    let mut lines = Vec::new();
    for part in taking.parts {
        let source = taking.source(part);
        let present = source.symlink_metadata().is_ok();
        if !present && part.required {
            let (what, owner) = (part.what.clone(), part.owner());
            return Err(Error::SourceMissing { path: source, what, owner });
        }
        let mut bytes = 0;
        if present {
            let copier =
                Copier { durability: Durability::ByCaller, ..Copier::new(disk, taking.control) };
            let skip = |relative: &Path| part.skips(relative);
            let copied = copier.copy(&source, &tree.join(&part.id), &skip)?;
            bytes = copied.bytes;
            let number = header.parts.len();
            lines.extend(copied.entries.into_iter().map(|entry| Line { part: number, entry }));
        }
        header.parts.push(PartCopied { part: part.clone(), present, bytes });
    }
    make_durable(disk, std::slice::from_ref(&tree))?;
    prove(taking, &header, &lines, &tree)?;
    let digest = write_manifest(disk, &partial.join(MANIFEST), &header, &lines)?;
    let files = lines.iter().filter(|l| matches!(l.entry.kind, Kind::File { .. })).count();
    Ok(Taken {
        path: partial.to_path_buf(),
        bytes: header.parts.iter().map(|p| p.bytes).sum(),
        files: files as u64,
        digest,
    })
}

/// Reads every copy back and hashes every source once more.
fn prove(taking: &Taking<'_>, header: &Header, lines: &[Line], tree: &Path) -> Result<(), Error> {
    for (number, copied) in header.parts.iter().enumerate().filter(|(_, p)| p.present) {
        let part = &copied.part;
        let entries = entries_of(lines, number);
        // The copy's owner may not be settable here; content is what is proven, and the manifest
        // has the attributes.
        let mut comparison = Comparison::new(taking.disk, taking.control);
        comparison.attributes = false;
        comparison.from_disk = true;
        let compared = comparison.run(&tree.join(&part.id), &entries)?;
        if let Some(first) = compared.differences.first() {
            let name = taking.header.name.clone();
            return Err(Error::Bad { name, why: format!("read back, {first}") });
        }
        let skip = |relative: &Path| part.skips(relative);
        let mut comparison = Comparison::new(taking.disk, taking.control);
        comparison.extra = Some(&skip);
        let compared = comparison.run(&taking.source(part), &entries)?;
        if let Some(first) = compared.differences.first() {
            return Err(Error::SourceChanged(first.to_string()));
        }
    }
    Ok(())
}

/// The entries of one part.
pub(super) fn entries_of(lines: &[Line], part: usize) -> Vec<Entry> {
    lines.iter().filter(|line| line.part == part).map(|line| line.entry.clone()).collect()
}

/// Weighs parts, for the plan: what there is and how big it is now.
pub fn weigh(parts: &[Part]) -> Vec<BackupPart> {
    parts
        .iter()
        .map(|part| {
            let path = part.path();
            let bytes = match path.symlink_metadata() {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Probe::Known(None),
                Err(e) => Probe::Unknown(e.to_string()),
                Ok(_) => match walk(&path, &|relative| part.skips(relative)) {
                    Ok(found) => {
                        let files = found.iter().filter(|f| f.metadata.is_file());
                        Probe::Known(Some(files.map(|f| f.metadata.len()).sum()))
                    }
                    Err(e) => Probe::Unknown(chain(&e)),
                },
            };
            BackupPart {
                node: part.node.clone(),
                class: part.class,
                what: part.what.clone(),
                path: path.to_string_lossy().into_owned(),
                bytes,
            }
        })
        .collect()
}

/// Adds up what a backup of these classes takes, with the room that small files waste.
pub fn room(parts: &[BackupPart], least: BackupClass) -> u64 {
    let known = parts.iter().filter(|p| p.class <= least).filter_map(|p| p.bytes.known());
    let bytes: u64 = known.flatten().sum();
    // An eighth more: half a block for each of many small files, the manifest, and growth until
    // the nodes are stopped.
    bytes.saturating_add(bytes / 8).saturating_add(1 << 20)
}
