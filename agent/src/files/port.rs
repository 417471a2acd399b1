//! The port to the disk: every operation that changes one, and the reads that can fail.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::{
    fs::{CWD, OFlags, RenameFlags},
    io::Errno,
};

use super::{Attributes, Owners, Space};

/// A disk. No operation follows a link at the last name of its path.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Opens a file for reading.
    fn open_read(&self, path: &Path) -> io::Result<File>;
    /// Reads into the buffer; 0 at the end.
    fn read(&self, file: &File, path: &Path, buffer: &mut [u8]) -> io::Result<usize>;
    /// Makes a file that must not exist yet.
    fn create_file(&self, path: &Path, mode: u32) -> io::Result<File>;
    /// Writes all bytes at the file's position.
    fn write_all(&self, file: &File, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Sets the length; what is added is a hole.
    fn set_len(&self, file: &File, path: &Path, length: u64) -> io::Result<()>;
    /// Makes the file's bytes durable.
    fn sync_file(&self, file: &File, path: &Path) -> io::Result<()>;
    /// Makes a folder that must not exist yet.
    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes everything below a folder durable at once, with the rest of its file system.
    fn sync_volume(&self, path: &Path) -> io::Result<()>;
    /// Renames; fails if the new name exists.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames a file over whatever file has the new name.
    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file or link.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a symbolic link.
    fn symlink(&self, target: &Path, path: &Path) -> io::Result<()>;
    /// Sets owner, mode, times and extended attributes.
    fn set_attributes(&self, path: &Path, to: &Attributes, owners: Owners) -> io::Result<()>;
    /// Asks for the room on the file system of an existing path.
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// The machine's own disks.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open_read(&self, path: &Path) -> io::Result<File> {
        // Without NONBLOCK a pipe that took a file's name would hang us.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
    }

    fn read(&self, mut file: &File, _: &Path, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match file.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn create_file(&self, path: &Path, mode: u32) -> io::Result<File> {
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
    }

    fn write_all(&self, mut file: &File, _: &Path, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn set_len(&self, file: &File, _: &Path, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    fn sync_file(&self, file: &File, _: &Path) -> io::Result<()> {
        file.sync_all()
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::create_dir(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn sync_volume(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(path)?)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Kernels and file systems without the call: only we write these names, so looking
            // first is nearly as good.
            Err(Errno::NOSYS | Errno::INVAL) => {
                if fs::symlink_metadata(to).is_ok() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                fs::rename(from, to)
            }
            other => Ok(other?),
        }
    }

    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn symlink(&self, target: &Path, path: &Path) -> io::Result<()> {
        std::os::unix::fs::symlink(target, path)
    }

    fn set_attributes(&self, path: &Path, to: &Attributes, owners: Owners) -> io::Result<()> {
        to.apply(path, owners)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        Space::of(path)
    }
}
