//! Replacing the software entry by entry, so that it can be completed or taken back after a crash at
//! any point.
//!
//! The whole list of operations is made and durable before the first one. Each moves one name
//! within one file system, never over an existing name; so what is on disk says for each operation
//! whether it happened, and doing or undoing the list again completes whatever was interrupted:
//!
//! | operation | done if | undone if |
//! |---|---|---|
//! | make folder | it is there | it is gone, or not empty |
//! | retire a file | it is in the old tree | it is not, and in its place |
//! | place a file | it left the staged package and is in its place | it is in the staged package |
//!
//! A name is used twice, by the file that goes and by the one that comes. So that even a file system
//! that forgets changes in any order cannot lose one of them, all that goes is durable before
//! anything comes, in both directions.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::files::{
    Attributes, Disk, Error as FilesError, Owners, decode_path, encode_path, in_parallel,
};

/// Folders made durable at the same time.
const SYNCED_AT_ONCE: usize = 16;

/// One operation. Paths are encoded and relative to the installation's folder, `from` to the staged
/// package's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum Operation {
    /// Makes a folder that only the new package has.
    MakeFolder { path: String, attributes: Attributes },
    /// Moves a file of the old software into the old tree.
    Retire { path: String },
    /// Moves a file of the new software into its place, with the owner and mode of the one before.
    Place { path: String, from: String, attributes: Attributes },
}

/// Where things are.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    /// The installation's folder.
    pub(super) server: PathBuf,
    /// The staged package's folder, with `server/` in it.
    pub(super) stage: PathBuf,
    /// The old tree.
    pub(super) old: PathBuf,
    /// The executable's name, and where it is kept while nothing may be started.
    pub(super) executable: String,
    /// See `executable`.
    pub(super) held: PathBuf,
}

/// Folders whose names changed.
#[derive(Debug, Default)]
struct Touched {
    /// Something came into these.
    into: BTreeSet<PathBuf>,
    /// Something left these.
    from: BTreeSet<PathBuf>,
}

/// Why the list cannot be completed or taken back.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stuck {
    /// A file could not be moved.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// What is on disk is neither before nor after the operation.
    #[error("{0}: somebody else changed it; put it right by hand and retry")]
    Conflict(String),
    /// The list itself cannot be understood.
    #[error("the list of operations has a bad path `{0}`")]
    BadPath(String),
    /// The step has to stop.
    #[error("stopped on request")]
    Stopped,
}

impl Ground {
    /// Where a file of the installation lies now.
    pub(super) fn in_place(&self, path: &Path) -> PathBuf {
        if path == Path::new(&self.executable) { self.held.clone() } else { self.server.join(path) }
    }

    fn parse(text: &str) -> Result<PathBuf, Stuck> {
        let bad = || Stuck::BadPath(text.to_owned());
        let path = decode_path(text).ok_or_else(bad)?;
        let plain = path.components().all(|c| matches!(c, std::path::Component::Normal(_)));
        if plain && !path.as_os_str().is_empty() { Ok(path) } else { Err(bad()) }
    }
}

/// Does the operations, skipping those that are done. `each` is called before each with its number
/// and says whether to go on. Everything is durable after `Ok`.
pub(super) fn apply(
    disk: &dyn Disk,
    ground: &Ground,
    operations: &[Operation],
    each: &mut dyn FnMut(usize) -> bool,
) -> Result<(), Stuck> {
    let mut number = 0;
    for placing in [false, true] {
        let mut touched = Touched::default();
        let wave = operations.iter().filter(|o| matches!(o, Operation::Place { .. }) == placing);
        for operation in wave {
            if !each(number) {
                sync(disk, &touched)?;
                return Err(Stuck::Stopped);
            }
            number += 1;
            do_one(disk, ground, operation, &mut touched)?;
        }
        sync(disk, &touched)?;
    }
    Ok(())
}

fn do_one(
    disk: &dyn Disk,
    ground: &Ground,
    operation: &Operation,
    touched: &mut Touched,
) -> Result<(), Stuck> {
    match operation {
        Operation::MakeFolder { path, attributes } => {
            let path = ground.server.join(Ground::parse(path)?);
            if !path.is_dir() {
                disk.create_dir(&path, attributes.mode).map_err(at("create", &path))?;
                disk.set_attributes(&path, attributes, Owners::WhereAllowed)
                    .map_err(at("set owner and mode of", &path))?;
                touched.into.extend(path.parent().map(Path::to_path_buf));
            }
            Ok(())
        }
        Operation::Retire { path } => {
            let path = Ground::parse(path)?;
            let (here, there) = (ground.in_place(&path), ground.old.join(&path));
            match (exists(&here)?, exists(&there)?) {
                (_, true) => Ok(()),
                (true, false) => {
                    make_folders(disk, &ground.old, &there, touched)?;
                    move_file(disk, &here, &there, touched)
                }
                (false, false) => Err(gone(&here)),
            }
        }
        Operation::Place { path, from, attributes } => {
            let here = ground.stage.join(Ground::parse(from)?);
            let there = ground.in_place(&Ground::parse(path)?);
            match (exists(&here)?, exists(&there)?) {
                (false, true) => Ok(()),
                (true, false) => {
                    disk.set_attributes(&here, attributes, Owners::WhereAllowed)
                        .map_err(at("set owner and mode of", &here))?;
                    move_file(disk, &here, &there, touched)
                }
                (true, true) => Err(in_the_way(&there)),
                (false, false) => Err(gone(&here)),
            }
        }
    }
}

/// Takes the operations back, last one first, skipping those that never happened. Everything is
/// durable after `Ok`.
pub(super) fn take_back(
    disk: &dyn Disk,
    ground: &Ground,
    operations: &[Operation],
) -> Result<(), Stuck> {
    for placing in [true, false] {
        let mut touched = Touched::default();
        let wave = operations.iter().rev();
        for operation in wave.filter(|o| matches!(o, Operation::Place { .. }) == placing) {
            undo_one(disk, ground, operation, &mut touched)?;
        }
        sync(disk, &touched)?;
    }
    Ok(())
}

fn undo_one(
    disk: &dyn Disk,
    ground: &Ground,
    operation: &Operation,
    touched: &mut Touched,
) -> Result<(), Stuck> {
    match operation {
        Operation::Place { path, from, .. } => {
            let there = ground.stage.join(Ground::parse(from)?);
            let here = ground.in_place(&Ground::parse(path)?);
            match (exists(&here)?, exists(&there)?) {
                (_, true) => Ok(()),
                (true, false) => move_file(disk, &here, &there, touched),
                (false, false) => Err(gone(&here)),
            }
        }
        Operation::Retire { path } => {
            let path = Ground::parse(path)?;
            let (there, here) = (ground.in_place(&path), ground.old.join(&path));
            match (exists(&here)?, exists(&there)?) {
                (false, true) => Ok(()),
                (true, false) => move_file(disk, &here, &there, touched),
                (true, true) => Err(in_the_way(&there)),
                (false, false) => Err(gone(&here)),
            }
        }
        Operation::MakeFolder { path, .. } => {
            let path = ground.server.join(Ground::parse(path)?);
            match disk.remove_dir(&path) {
                Ok(()) => {
                    touched.into.extend(path.parent().map(Path::to_path_buf));
                    Ok(())
                }
                // Somebody put something there, or it was never made.
                Err(e) if is_harmless(&e) => Ok(()),
                Err(e) => Err(at("remove the folder", &path)(e).into()),
            }
        }
    }
}

/// Tells whether every operation is done.
pub(super) fn all_done(ground: &Ground, operations: &[Operation]) -> Result<bool, Stuck> {
    for operation in operations {
        let done = match operation {
            Operation::MakeFolder { path, .. } => ground.server.join(Ground::parse(path)?).is_dir(),
            Operation::Retire { path } => exists(&ground.old.join(Ground::parse(path)?))?,
            Operation::Place { path, from, .. } => {
                !exists(&ground.stage.join(Ground::parse(from)?))?
                    && exists(&ground.in_place(&Ground::parse(path)?))?
            }
        };
        if !done {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A retire operation for a path.
pub(super) fn retire(path: &Path) -> Operation {
    Operation::Retire { path: encode_path(path) }
}

fn move_file(disk: &dyn Disk, from: &Path, to: &Path, touched: &mut Touched) -> Result<(), Stuck> {
    disk.rename(from, to).map_err(at("move", from))?;
    touched.into.extend(to.parent().map(Path::to_path_buf));
    touched.from.extend(from.parent().map(Path::to_path_buf));
    Ok(())
}

/// Makes the folders above `path` that are missing below `root`.
fn make_folders(
    disk: &dyn Disk,
    root: &Path,
    path: &Path,
    touched: &mut Touched,
) -> Result<(), Stuck> {
    let mut missing: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .take_while(|folder| folder.starts_with(root) && !folder.is_dir())
        .collect();
    missing.reverse();
    for folder in missing {
        disk.create_dir(folder, 0o755).map_err(at("create", folder))?;
        touched.into.extend(folder.parent().map(Path::to_path_buf));
    }
    Ok(())
}

/// Makes the names in folders durable, several at a time: the file system's journal takes them
/// together. Where names came to goes first: were the folders that they left durable before that, a
/// power loss in between could leave a file in neither.
fn sync(disk: &dyn Disk, touched: &Touched) -> Result<(), Stuck> {
    for folders in [&touched.into, &touched.from] {
        let folders: Vec<&PathBuf> = folders.iter().filter(|folder| folder.is_dir()).collect();
        in_parallel(&folders, SYNCED_AT_ONCE, |_, folder| {
            disk.sync_dir(folder).map_err(at("make durable", folder))
        })?;
    }
    Ok(())
}

fn exists(path: &Path) -> Result<bool, Stuck> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(e) => Err(at("look at", path)(e).into()),
    }
}

fn is_harmless(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty)
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FilesError {
    FilesError::at(action, path)
}

fn gone(path: &Path) -> Stuck {
    Stuck::Conflict(format!("`{}` is not where it was", path.display()))
}

fn in_the_way(path: &Path) -> Stuck {
    Stuck::Conflict(format!("there is something at `{}` where nothing should be", path.display()))
}
