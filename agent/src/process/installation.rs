//! Every process of one installation.
//!
//! A process belongs to the installation if its executable lies below the installation's folder, or
//! in one of the folders beside it in which Grayfin keeps old and new software. That finds renamed
//! executables, copies, and processes whose executable was replaced under them; it does not depend
//! on arguments, users or names. What cannot be read is unknown, and unknown blocks.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use grayfin_types::facts::ProcessIdentity;

use super::{Error, identify, procfs};

/// What the names of Grayfin's own folders beside and in an installation begin with.
pub const OWN_PREFIX: &str = ".grayfin-";

/// A process of the installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub identity: ProcessIdentity,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl Member {
    /// One line for people. Arguments are left out: some sites pass passwords there.
    pub fn describe(&self) -> String {
        let mode = self.argument("-mode").unwrap_or("unknown mode");
        let deleted = if self.identity.executable_deleted { ", replaced on disk" } else { "" };
        format!("process {} ({mode}{deleted})", self.identity.pid)
    }

    /// Returns what follows an option such as `-mode`.
    pub fn argument(&self, option: &str) -> Option<&str> {
        let at = self.arguments.iter().position(|a| a == option)?;
        self.arguments.get(at + 1).map(String::as_str)
    }
}

/// Lists the processes of the installation in `server_dir`, whose executable has this name.
pub fn members(server_dir: &Path, executable: &str) -> Result<Vec<Member>, Error> {
    // With a hiding `/proc` other users' processes would just not be there.
    if let Err(e) = fs::read(procfs::path_of(1, "stat")) {
        return Err(Error::Unknown(format!("`/proc` hides processes: {e}; run as root")));
    }
    let place = Place::new(server_dir, executable)?;
    let own = std::process::id();
    let mut all = Vec::new();
    for pid in procfs::pids().map_err(Error::at("list", "/proc"))? {
        if pid != own && place.owns(pid)? {
            all.extend(member(pid)?);
        }
    }
    all.sort_by_key(|m| (m.identity.start_ticks, m.identity.pid));
    Ok(all)
}

/// How long a process may be without arguments: they are set last in its making.
const UNFINISHED_MAX: Duration = Duration::from_millis(100);

fn member(pid: u32) -> Result<Option<Member>, Error> {
    let deadline = Instant::now() + UNFINISHED_MAX;
    loop {
        let Some(identity) = identify(pid)? else { return Ok(None) };
        match procfs::arguments(pid) {
            Ok(arguments) if arguments.is_empty() && Instant::now() < deadline => {
                std::thread::yield_now();
            }
            Ok(arguments) => return Ok(Some(Member { identity, arguments })),
            Err(e) if procfs::is_gone(&e) => return Ok(None),
            Err(e) => return Err(Error::at("read", procfs::path_of(pid, "cmdline"))(e)),
        }
    }
}

/// Where an installation's executables can lie.
struct Place {
    /// With all links resolved, as the kernel names executables.
    server_dir: PathBuf,
    parent: PathBuf,
    executable: String,
    /// Device and inode of the executable, to find it in other mount namespaces.
    inode: Option<(u64, u64)>,
    namespace: Option<PathBuf>,
}

impl Place {
    fn new(server_dir: &Path, executable: &str) -> Result<Self, Error> {
        let server_dir =
            fs::canonicalize(server_dir).map_err(Error::at("find the folder", server_dir))?;
        let parent = server_dir.parent().unwrap_or(&server_dir).to_path_buf();
        let inode = fs::metadata(server_dir.join(executable)).ok().map(|m| (m.dev(), m.ino()));
        let namespace = fs::read_link("/proc/self/ns/mnt").ok();
        Ok(Self { server_dir, parent, executable: executable.to_owned(), inode, namespace })
    }

    fn owns(&self, pid: u32) -> Result<bool, Error> {
        match procfs::link(pid, "exe") {
            Ok((path, _)) if self.in_our_namespace(pid) => Ok(self.covers(&path)),
            Ok(_) => Ok(self.inode.is_some() && self.inode_of(pid) == self.inode),
            // Kernel threads and zombies have no executable; others have ended.
            Err(e) if procfs::is_gone(&e) => Ok(false),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => self.suspects(pid),
            Err(e) => Err(Error::at("read", procfs::path_of(pid, "exe"))(e)),
        }
    }

    fn covers(&self, executable: &Path) -> bool {
        if executable.starts_with(&self.server_dir) {
            return true;
        }
        let beside = executable.strip_prefix(&self.parent).ok().and_then(|rest| {
            let name = rest.components().next()?.as_os_str().to_str()?;
            // `.grayfin-old-<installation>-7`, `.grayfin-stage-<installation>-ab12`
            let (_, whose) = name.strip_prefix(OWN_PREFIX)?.split_once('-')?;
            let own = self.server_dir.file_name()?.to_str()?;
            Some(whose.strip_prefix(own)?.starts_with('-'))
        });
        beside.unwrap_or(false)
    }

    fn in_our_namespace(&self, pid: u32) -> bool {
        let theirs = fs::read_link(procfs::path_of(pid, "ns/mnt")).ok();
        theirs.is_none() || self.namespace.is_none() || theirs == self.namespace
    }

    fn inode_of(&self, pid: u32) -> Option<(u64, u64)> {
        fs::metadata(procfs::path_of(pid, "exe")).ok().map(|m| (m.dev(), m.ino()))
    }

    /// Without the right to see the executable: arguments are readable for everybody. One that may
    /// be ours makes the whole answer unknown.
    fn suspects(&self, pid: u32) -> Result<bool, Error> {
        let Ok(arguments) = procfs::arguments(pid) else { return Ok(false) };
        let program = arguments.first().map(Path::new);
        let named = program.and_then(Path::file_name).is_some_and(|n| *n == *self.executable);
        let inside = program.is_some_and(|p| p.starts_with(&self.server_dir));
        if named || inside {
            let why = format!("process {pid} may be one, but its executable cannot be read");
            return Err(Error::Unknown(format!("{why}; run the host agent as root")));
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_decides_and_not_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let server = dir.path().join("one/server");
        fs::create_dir_all(&server).unwrap();
        let place = Place::new(&server, "node").unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        for (path, ours) in [
            ("one/server/node", true),
            ("one/server/renamed", true),
            ("one/server/.grayfin-held/node", true),
            ("one/.grayfin-old-server-7/node", true),
            ("one/.grayfin-old-other-7/node", false),
            ("one/server2/node", false),
            ("one/other/node", false),
            ("two/server/node", false),
        ] {
            assert_eq!(place.covers(&real.join(path)), ours, "{path}");
        }
    }

    #[test]
    fn a_missing_folder_is_not_an_absence_of_processes() {
        assert!(members(Path::new("/nowhere/at/all"), "node").is_err());
    }
}
