//! Processes as `/proc` shows them from outside all hosts.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

/// How long a program just written may stay busy.
const WRITTEN_WITHIN: Duration = Duration::from_secs(3);

/// A process, told apart from a later one with the same number by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Number in the root namespace.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub started: u64,
}

/// The parts of `/proc/PID/stat` that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `Z`, ….
    pub state: char,
    /// Parent.
    pub parent: i32,
    /// Start time in clock ticks since boot.
    pub started: u64,
}

impl ProcessId {
    /// Finds out who has this number now.
    pub fn of(pid: i32) -> Option<Self> {
        stat(pid).map(|stat| Self { pid, started: stat.started })
    }

    /// True while the process runs; a zombie does not.
    pub fn is_alive(self) -> bool {
        stat(self.pid)
            .is_some_and(|stat| stat.started == self.started && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Sends a signal, if the process is still the same one.
    pub fn signal(self, signal: Signal) {
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may be gone since the look: that is as good.
            rustix::process::kill_process(pid, signal).ok();
        }
    }
}

/// Reads `/proc/PID/stat`.
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name is in brackets and may hold anything, so the fields are counted from the last bracket.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    // `starttime` is field 22; state was field 3, ppid field 4.
    let started = fields.nth(17)?.parse().ok()?;
    Some(Stat { state, parent, started })
}

/// Numbers of all processes.
pub fn all() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The executable's path, also of one that was replaced meanwhile.
pub fn executable(pid: i32) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(stripped) => Some(PathBuf::from(stripped)),
        None => Some(path),
    }
}

/// The working folder.
pub fn working_folder(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// The arguments.
pub fn arguments(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

/// Number of a process inside its own PID namespace.
pub fn inner_number(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().next_back()?.parse().ok()
}

/// Children of a process.
pub fn children(parent: i32) -> Vec<ProcessId> {
    all()
        .into_iter()
        .filter_map(|pid| {
            let stat = stat(pid)?;
            (stat.parent == parent).then_some(ProcessId { pid, started: stat.started })
        })
        .collect()
}

/// Children, their children, and so on.
pub fn descendants(root: i32) -> Vec<ProcessId> {
    let everybody: Vec<(ProcessId, i32)> = all()
        .into_iter()
        .filter_map(|pid| {
            stat(pid).map(|stat| (ProcessId { pid, started: stat.started }, stat.parent))
        })
        .collect();
    let mut known = BTreeSet::from([root]);
    let mut found = Vec::new();
    loop {
        let before = found.len();
        for (process, parent) in &everybody {
            if known.contains(parent) && known.insert(process.pid) {
                found.push(*process);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Live processes whose program lies under `folder`, or lies under `programs` while they work under
/// `folder`. This one is never among them.
pub fn belonging_to(folder: &Path, programs: &Path) -> Vec<ProcessId> {
    let own = std::process::id().try_into().unwrap_or(0);
    all()
        .into_iter()
        .filter(|pid| *pid != own)
        .filter_map(ProcessId::of)
        .filter(|process| process.is_alive())
        .filter(|process| {
            executable(process.pid).is_some_and(|program| {
                program.starts_with(folder)
                    || (program.starts_with(programs)
                        && working_folder(process.pid).is_some_and(|cwd| cwd.starts_with(folder)))
            })
        })
        .collect()
}

/// Random id of this boot of the machine.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Addresses (`a.b.c.d:port`) that some process listens on.
pub fn listening() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    text.lines().skip(1).filter_map(parse_listening).collect()
}

/// The same in the network that a process is in, which may be another one than ours.
pub fn listening_beside(pid: i32) -> BTreeSet<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    text.lines().skip(1).filter_map(parse_listening).collect()
}

/// `0: 2B084D7F:22D8 00000000:0000 0A …`: state 0A is LISTEN, the address is little endian.
fn parse_listening(line: &str) -> Option<String> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    if state != "0A" {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let [a, b, c, d] = u32::from_str_radix(address, 16).ok()?.to_le_bytes();
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(format!("{a}.{b}.{c}.{d}:{port}"))
}

/// Starts a process. Whoever wrote the program a moment ago may have started something else just
/// then, which holds the file open for writing until it runs: that passes.
///
/// # Errors
/// As [`std::process::Command::spawn`].
#[expect(clippy::disallowed_methods, reason = "a moment, in the thread that starts a process")]
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let until = Instant::now() + WRITTEN_WITHIN;
    loop {
        match command.spawn() {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < until =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_strange_names() {
        let text = "42 (a) b) (c) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
        assert_eq!(parse_stat(text), Some(Stat { state: 'S', parent: 7, started: 12345 }));
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn listening_sockets_are_told_from_others() {
        let line = "   0: 2B084D7F:22D8 00000000:0000 0A 00000000:00000000 00:00000000 0 0 0 1";
        assert_eq!(parse_listening(line).as_deref(), Some("127.77.8.43:8920"));
        let line = "   1: 2B084D7F:22D8 2C084D7F:9999 01 00000000:00000000 00:00000000 0 0 0 1";
        assert_eq!(parse_listening(line), None);
    }

    #[test]
    fn this_process_is_alive_and_a_predecessor_is_not() {
        let own = ProcessId::of(std::process::id().try_into().unwrap()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessId { started: own.started - 1, ..own }.is_alive());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(listening().contains(&listener.local_addr().unwrap().to_string()));
    }
}
