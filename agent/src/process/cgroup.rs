//! Control groups: remembering a node's own, and giving helpers one that can be emptied.
//!
//! Everything here is as good as the machine allows. Where groups cannot be made or joined, helpers
//! still have their supervisor, and nodes stay in the host agent's group (whose unit is shipped with
//! `KillMode=process` for that reason).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::procfs;

/// Where a process is, one line per hierarchy: `0::/system.slice/x.service`.
pub(crate) fn of(pid: u32) -> io::Result<String> {
    fs::read_to_string(procfs::path_of(pid, "cgroup"))
}

/// Returns the innermost systemd service that a `/proc/PID/cgroup` text names.
pub(crate) fn service(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.starts_with("0::")).filter(|line| *line != "0::/");
    let line = line.or_else(|| text.lines().find(|line| line.contains(":name=systemd:")))?;
    let path = line.splitn(3, ':').nth(2)?;
    path.rsplit('/').find(|part| part.ends_with(".service"))
}

/// Files to which a pid must be written so that it joins the groups of a `/proc/PID/cgroup` text;
/// those that exist and where this process is not already.
pub(crate) fn joins(text: &str) -> Vec<PathBuf> {
    let own = of(std::process::id()).unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter(|line| !own.lines().any(|mine| mine == *line))
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let mount = mount_of(&mounts, controllers)?;
            Some(mount.join(path.trim_start_matches('/')).join("cgroup.procs"))
        })
        .filter(|file| file.exists())
        .collect()
}

/// Finds where a hierarchy is mounted; empty controllers mean version 2.
fn mount_of(mounts: &str, controllers: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let fits = if controllers.is_empty() {
            kind == "cgroup2"
        } else {
            kind == "cgroup"
                && controllers.split(',').all(|c| options.split(',').any(|option| option == c))
        };
        fits.then(|| left.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

/// A group of our own for helpers.
#[derive(Debug)]
pub(crate) struct Group {
    path: PathBuf,
}

impl Group {
    /// Makes or finds the group below our own; none where that is not possible.
    pub(crate) fn make(name: &str) -> Option<Self> {
        let group = Self::place(name)?;
        match fs::create_dir(&group.path) {
            Ok(()) => Some(group),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Some(group),
            Err(_) => None,
        }
    }

    /// Finds a group that an earlier life of this process may have left.
    pub(crate) fn left_over(name: &str) -> Option<Self> {
        Self::place(name).filter(|group| group.path.is_dir())
    }

    fn place(name: &str) -> Option<Self> {
        let own = of(std::process::id()).ok()?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let path = mount_of(&mounts, "")?.join(own.trim_start_matches('/')).join(name);
        Some(Self { path })
    }

    /// The file to which a process is written that joins.
    pub(crate) fn join_file(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Pids in the group.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.join_file()).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Kills everything in it, where the kernel can (5.14).
    pub(crate) fn kill(&self) {
        if !self.pids().is_empty() {
            // Without this file the supervisor and the sweep do it one by one.
            drop(fs::write(self.path.join("cgroup.kill"), "1"));
        }
    }

    /// Removes the empty group.
    pub(crate) fn remove(&self) {
        // It may not be empty for a moment yet; the next helper uses it again.
        drop(fs::remove_dir(Path::new(&self.path)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_of_a_process_is_found_in_both_versions() {
        let v2 = "0::/system.slice/ddbcontroller.service\n";
        assert_eq!(service(v2), Some("ddbcontroller.service"));
        let v1 = "3:cpu,cpuacct:/x\n1:name=systemd:/system.slice/ddbagent.service/sub\n0::/\n";
        assert_eq!(service(v1), Some("ddbagent.service"));
        assert_eq!(service("0::/user.slice/user-0.slice/session-3.scope\n"), None);
        assert_eq!(service(""), None);
    }

    #[test]
    fn hierarchies_are_found_by_controller() {
        let mounts = "24 1 0:20 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      25 1 0:21 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      26 1 0:22 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let at = |controllers| mount_of(mounts, controllers).unwrap();
        assert_eq!(at(""), Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(at("cpu,cpuacct"), Path::new("/sys/fs/cgroup/cpu"));
        assert_eq!(at("name=systemd"), Path::new("/sys/fs/cgroup/systemd"));
        assert_eq!(mount_of(mounts, "memory"), None);
    }
}
