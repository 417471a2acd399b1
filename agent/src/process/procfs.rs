//! What the kernel says about processes, read from `/proc`.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Where the kernel shows processes.
const PROC: &str = "/proc";

/// What the kernel appends to the path of an executable that was replaced or removed.
const DELETED: &str = " (deleted)";

/// The part of `/proc/PID/stat` that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: u32,
    pub(crate) state: char,
    pub(crate) parent: u32,
    /// Clock ticks after boot.
    pub(crate) start_ticks: u64,
}

impl Stat {
    /// A zombie holds no file, port or memory: it is gone in all that matters.
    pub(crate) const fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// Path of something of a process.
pub(crate) fn path_of(pid: u32, what: &str) -> PathBuf {
    Path::new(PROC).join(pid.to_string()).join(what)
}

/// Reads `/proc/PID/stat`; none if there is no such process.
pub(crate) fn stat(pid: u32) -> io::Result<Option<Stat>> {
    match fs::read(path_of(pid, "stat")) {
        Ok(bytes) => parse_stat(&String::from_utf8_lossy(&bytes))
            .map(Some)
            .ok_or_else(|| io::ErrorKind::InvalidData.into()),
        Err(e) if is_gone(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Tells whether an error means that the process ended meanwhile.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn parse_stat(text: &str) -> Option<Stat> {
    let (pid, rest) = text.split_once(' ')?;
    // The name may hold spaces and brackets; the last bracket ends it.
    let (_, rest) = rest.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        pid: pid.parse().ok()?,
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        // Field 22 counted from 1; the state is field 3.
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

/// Lists all pids.
pub(crate) fn pids() -> io::Result<Vec<u32>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(PROC)? {
        if let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            all.push(pid);
        }
    }
    Ok(all)
}

/// Reads a link of a process; the flag tells whether the kernel marked its target as deleted.
pub(crate) fn link(pid: u32, what: &str) -> io::Result<(PathBuf, bool)> {
    let target = fs::read_link(path_of(pid, what))?;
    let bytes = target.as_os_str().as_bytes();
    match bytes.strip_suffix(DELETED.as_bytes()) {
        Some(path) => Ok((PathBuf::from(std::ffi::OsStr::from_bytes(path)), true)),
        None => Ok((target, false)),
    }
}

/// Reads the arguments, lossily.
pub(crate) fn arguments(pid: u32) -> io::Result<Vec<String>> {
    Ok(split_nul(&fs::read(path_of(pid, "cmdline"))?))
}

/// Reads the environment it was started with.
pub(crate) fn environment(pid: u32) -> io::Result<Vec<(String, String)>> {
    let all = split_nul(&fs::read(path_of(pid, "environ"))?);
    Ok(all
        .into_iter()
        .filter_map(|line| line.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
        .collect())
}

fn split_nul(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|b| *b == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// A line `Name:\tvalues` of `/proc/PID/status`.
pub(crate) fn status_line(pid: u32, name: &str) -> io::Result<Option<String>> {
    let text = fs::read_to_string(path_of(pid, "status"))?;
    Ok(text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.trim().to_owned())
    }))
}

/// Returns the kernel's random id of this boot.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_name_is() {
        let text = "42 (a) (b) c) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2 3";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.pid, stat.state, stat.parent, stat.start_ticks), (42, 'S', 7, 98765));
        for bad in ["", "42", "42 (x", "42 (x) S", "42 (x) S 7 1 1"] {
            assert_eq!(parse_stat(bad), None, "{bad}");
        }
    }

    #[test]
    fn we_can_be_read() {
        let own = stat(std::process::id()).unwrap().unwrap();
        assert!(own.start_ticks > 0 && !own.is_dead());
        assert!(pids().unwrap().contains(&own.pid));
        assert!(!arguments(own.pid).unwrap().is_empty());
        assert!(status_line(own.pid, "Umask").unwrap().is_some());
        assert!(!boot_id().unwrap().is_empty());
        assert_eq!(stat(u32::MAX - 1).unwrap(), None);
    }
}
