//! Small durable changes: a file replaced as a whole, a rename, a folder, a tree removed.

use std::{fs, io, path::Path};

use super::{Disk, Error};

/// Writes a file so that after a crash it has either its old or its new content, durably.
pub fn write_durably(disk: &dyn Disk, path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let parent = parent(path);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let fresh = parent.join(name);
    remove_if_there(disk, &fresh)?;
    let file = disk.create_file(&fresh, mode).map_err(Error::at("create the file", &fresh))?;
    let written = disk
        .write_all(&file, &fresh, bytes)
        .and_then(|()| disk.sync_file(&file, &fresh))
        .and_then(|()| disk.rename_over(&fresh, path));
    if let Err(source) = written {
        // The half-written file is of no use; that it cannot be removed adds nothing to say.
        drop(disk.remove_file(&fresh));
        return Err(Error::at("write", path)(source));
    }
    disk.sync_dir(parent).map_err(Error::at("make durable", parent))
}

/// Renames within one file system and makes it durable; fails if the new name exists.
pub fn rename_durably(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), Error> {
    disk.rename(from, to).map_err(Error::at("rename", from))?;
    let (old, new) = (parent(from), parent(to));
    disk.sync_dir(new).map_err(Error::at("make durable", new))?;
    if old != new {
        disk.sync_dir(old).map_err(Error::at("make durable", old))?;
    }
    Ok(())
}

/// Makes a folder durably, unless it is there.
pub fn create_dir_durably(disk: &dyn Disk, path: &Path, mode: u32) -> Result<(), Error> {
    match disk.create_dir(path, mode) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        other => other.map_err(Error::at("create the folder", path))?,
    }
    let parent = parent(path);
    disk.sync_dir(parent).map_err(Error::at("make durable", parent))
}

/// Removes a tree without following links; nothing there is fine.
pub fn remove_tree(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.is_dir() {
        return remove_if_there(disk, path);
    }
    for found in super::walk(path, &|_| false)?.into_iter().rev() {
        let full = path.join(&found.relative);
        let full = if found.relative.as_os_str().is_empty() { path } else { full.as_path() };
        if found.metadata.is_dir() {
            disk.remove_dir(full).map_err(Error::at("remove the folder", full))?;
        } else {
            disk.remove_file(full).map_err(Error::at("remove", full))?;
        }
    }
    Ok(())
}

fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    match disk.remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::at("remove", path)),
    }
}

/// The folder that holds a name; the current one for a bare name.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}
