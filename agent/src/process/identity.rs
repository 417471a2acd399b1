//! Which process it is.

use std::path::Path;

use grayfin_types::facts::ProcessIdentity;

use super::{Error, procfs};

/// Whether a process that was seen earlier is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// The same process, running the same program in the same folder.
    Same,
    /// It has ended; its pid is free, a zombie's, or another process's.
    Gone,
    /// The same process, but with another program or folder than it had.
    Changed(String),
}

/// Reads the identity of a process; none if it has ended.
pub fn identify(pid: u32) -> Result<Option<ProcessIdentity>, Error> {
    let Some(before) = stat(pid)? else { return Ok(None) };
    if before.is_dead() {
        return Ok(None);
    }
    let read = |what: &'static str| match procfs::link(pid, what) {
        Ok(link) => Ok(Some(link)),
        Err(e) if procfs::is_gone(&e) => Ok(None),
        Err(e) => Err(Error::at("read", procfs::path_of(pid, what))(e)),
    };
    let (Some((executable, executable_deleted)), Some((folder, _))) = (read("exe")?, read("cwd")?)
    else {
        return Ok(None);
    };
    // The same start time before and after: all of it was read from one process.
    if stat(pid)?.is_none_or(|after| after.start_ticks != before.start_ticks || after.is_dead()) {
        return Ok(None);
    }
    Ok(Some(ProcessIdentity {
        pid,
        start_ticks: before.start_ticks,
        executable: text(&executable),
        executable_deleted,
        working_directory: text(&folder),
    }))
}

/// Looks whether a process is still the one that was seen.
pub fn presence(seen: &ProcessIdentity) -> Result<Presence, Error> {
    if !is_alive(seen)? {
        return Ok(Presence::Gone);
    }
    let Some(now) = identify(seen.pid)? else { return Ok(Presence::Gone) };
    if now.start_ticks != seen.start_ticks {
        return Ok(Presence::Gone);
    }
    if now.executable != seen.executable {
        let what = format!("it runs `{}` instead of `{}`", now.executable, seen.executable);
        return Ok(Presence::Changed(what));
    }
    if now.working_directory != seen.working_directory {
        let (now, then) = (now.working_directory, &seen.working_directory);
        return Ok(Presence::Changed(format!("it works in `{now}` instead of `{then}`")));
    }
    Ok(Presence::Same)
}

/// Tells whether the process with this pid and start time is alive, whatever it runs.
pub fn is_alive(seen: &ProcessIdentity) -> Result<bool, Error> {
    Ok(stat(seen.pid)?.is_some_and(|now| now.start_ticks == seen.start_ticks && !now.is_dead()))
}

fn stat(pid: u32) -> Result<Option<procfs::Stat>, Error> {
    procfs::stat(pid).map_err(Error::at("read", procfs::path_of(pid, "stat")))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_with_the_same_pid_is_not_taken_for_it() {
        let own = identify(std::process::id()).unwrap().unwrap();
        assert_eq!(presence(&own).unwrap(), Presence::Same);
        let earlier = ProcessIdentity { start_ticks: own.start_ticks - 1, ..own.clone() };
        assert_eq!(presence(&earlier).unwrap(), Presence::Gone);
        let other = ProcessIdentity { executable: "/bin/other".into(), ..own.clone() };
        assert!(matches!(presence(&other).unwrap(), Presence::Changed(_)));
        let moved = ProcessIdentity { working_directory: "/else".into(), ..own };
        assert!(matches!(presence(&moved).unwrap(), Presence::Changed(_)));
    }

    #[test]
    fn a_zombie_is_gone() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let seen = identify(child.id()).unwrap().unwrap();
        child.kill().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while presence(&seen).unwrap() != Presence::Gone {
            assert!(std::time::Instant::now() < deadline, "{seen:?}");
            std::thread::yield_now();
        }
        assert!(stat(child.id()).unwrap().is_some(), "it is still to be reaped");
        child.wait().unwrap();
    }
}
