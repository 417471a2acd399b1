//! What belongs to a file besides its bytes: owner, mode, time, extended attributes.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    io,
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, OpenOptionsExt},
        },
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

/// The largest value of one extended attribute (the kernel's own limit).
const XATTR_BYTES_MAX: usize = 1 << 16;

/// What to do where the owner cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// That is an error: the file would be useless to its owner.
    Exact,
    /// Go on: the manifest keeps the owner, and the copy is not used in place.
    WhereAllowed,
}

/// Owner, mode, modification time and extended attributes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// Permission bits with set-uid and the like, `0o7777`.
    pub mode: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Modification time, nanoseconds since 1970 (until the year 2262).
    pub mtime_ns: i64,
    /// Extended attributes: name to value in hex. The kernel's own security labels are included.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
}

impl Attributes {
    /// Reads them, without following a link.
    pub fn read(path: &Path, metadata: &Metadata) -> io::Result<Self> {
        Ok(Self {
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime_ns: modified_ns(metadata),
            xattrs: read_xattrs(path)?,
        })
    }

    /// Sets them, without following a link. Attributes that the file system does not support stay
    /// in the manifest alone.
    pub(crate) fn apply(&self, path: &Path, owners: Owners) -> io::Result<()> {
        let is_link = fs::symlink_metadata(path)?.file_type().is_symlink();
        let owner = Some(Uid::from_raw(self.uid));
        let group = Some(Gid::from_raw(self.gid));
        let chowned = rustix::fs::chownat(CWD, path, owner, group, AtFlags::SYMLINK_NOFOLLOW);
        match chowned {
            Err(Errno::PERM) if owners == Owners::WhereAllowed => {}
            other => other?,
        }
        if !is_link {
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = fs::OpenOptions::new()
                .read(true)
                .custom_flags(flags.bits().cast_signed())
                .open(path)?;
            self.apply_xattrs(file.as_fd())?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(self.mode))?;
        }
        let time = Timespec {
            tv_sec: self.mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: self.mtime_ns.rem_euclid(1_000_000_000),
        };
        let times = Timestamps { last_access: time, last_modification: time };
        Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn apply_xattrs(&self, file: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
        for (name, value) in &self.xattrs {
            let value = unhex(value).ok_or(io::ErrorKind::InvalidData)?;
            match rustix::fs::fsetxattr(file, name.as_str(), &value, XattrFlags::empty()) {
                Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Says what differs apart from the times of folders, which change with what is in them; empty
    /// if nothing.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.mode != other.mode {
            return Some(format!("mode {:o}, expected {:o}", other.mode, self.mode));
        }
        if (self.uid, self.gid) != (other.uid, other.gid) {
            let (uid, gid) = (other.uid, other.gid);
            return Some(format!("owner {uid}:{gid}, expected {}:{}", self.uid, self.gid));
        }
        (self.xattrs != other.xattrs).then(|| "extended attributes differ".to_owned())
    }
}

/// Returns the modification time in nanoseconds since 1970.
pub fn modified_ns(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

fn read_xattrs(path: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut names = vec![0_u8; XATTR_BYTES_MAX];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(e.into()),
    };
    let mut all = BTreeMap::new();
    let mut value = Vec::new();
    for name in names.get(..length).unwrap_or_default().split(|b| *b == 0) {
        let Ok(text) = std::str::from_utf8(name) else { continue };
        if text.is_empty() {
            continue;
        }
        value.resize(XATTR_BYTES_MAX, 0);
        let name = std::ffi::OsStr::from_bytes(name);
        match rustix::fs::lgetxattr(path, name, &mut value) {
            Ok(length) => {
                let bytes = value.get(..length).unwrap_or_default();
                all.insert(text.to_owned(), super::hex(bytes));
            }
            // Removed in between, or for the security module's eyes only.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(all)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits?;
    (digits.len() % 2 == 0)
        .then(|| digits.as_chunks::<2>().0.iter().map(|[high, low]| high * 16 + low).collect())
}
