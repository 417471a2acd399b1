//! Ending exactly one process, and waiting until it is gone.

use std::{future::Future, os::fd::OwnedFd, time::Duration};

use grayfin_types::facts::ProcessIdentity;
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal},
};
use tokio::{io::Interest, io::unix::AsyncFd};

use super::{
    Error, Presence,
    identity::{is_alive, presence},
};

/// Between two looks at a process on kernels that cannot tell us of its end (before 5.3).
const POLL: Duration = Duration::from_millis(20);

/// How a process is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// SIGTERM: a node finishes its transactions and flushes.
    Terminate,
    /// SIGKILL: only where the policy allows it.
    Kill,
}

impl Ending {
    const fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Kill => "SIGKILL",
        }
    }

    const fn signal(self) -> Signal {
        match self {
            Self::Terminate => Signal::TERM,
            Self::Kill => Signal::KILL,
        }
    }
}

/// Sends a signal to exactly the process that was seen; `false` if it is gone already.
///
/// The handle is opened first and the identity is checked through it afterwards, so that the
/// signal cannot reach another process that got the pid in between.
pub fn send(seen: &ProcessIdentity, ending: Ending) -> Result<bool, Error> {
    let Some(pid) = raw(seen.pid) else {
        return Err(Error::NotTheSame { pid: seen.pid, what: "it is no process id".into() });
    };
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => Some(handle),
        Err(Errno::SRCH) => return Ok(false),
        Err(Errno::NOSYS) => None,
        Err(e) => return Err(failed(seen.pid, ending, e)),
    };
    match presence(seen)? {
        Presence::Same => {}
        Presence::Gone => return Ok(false),
        Presence::Changed(what) => return Err(Error::NotTheSame { pid: seen.pid, what }),
    }
    let sent = match handle {
        Some(handle) => pidfd_send_signal(handle, ending.signal()),
        None => kill_process(pid, ending.signal()),
    };
    match sent {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(e) => Err(failed(seen.pid, ending, e)),
    }
}

/// Completes when the process is gone. Has no limit of its own.
pub fn gone(seen: &ProcessIdentity) -> impl Future<Output = Result<(), Error>> + Send + use<> {
    let seen = seen.clone();
    async move {
        if let Some(handle) = handle(&seen)? {
            #[expect(
                deprecated,
                reason = "its successor is `unsafe`; an `OwnedFd` that is moved in is sound"
            )]
            let watched = AsyncFd::with_interest(handle, Interest::READABLE)
                .map_err(|e| failed_io(seen.pid, e))?;
            // Readable means ended; the look below has the last word.
            drop(watched.readable().await.map_err(|e| failed_io(seen.pid, e))?);
        }
        while is_alive(&seen)? {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

/// A handle that becomes readable at the process's end; none if there is no such process any more,
/// or no such handle in this kernel.
fn handle(seen: &ProcessIdentity) -> Result<Option<OwnedFd>, Error> {
    let Some(pid) = raw(seen.pid) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => Ok(is_alive(seen)?.then_some(handle)),
        Err(Errno::SRCH | Errno::NOSYS) => Ok(None),
        Err(e) => Err(failed(seen.pid, Ending::Terminate, e)),
    }
}

fn raw(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

fn failed(pid: u32, ending: Ending, error: Errno) -> Error {
    Error::Signal { pid, signal: ending.name(), source: error.into() }
}

fn failed_io(pid: u32, source: std::io::Error) -> Error {
    Error::Io { action: "watch", path: super::procfs::path_of(pid, ""), source }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::process::identify;

    #[tokio::test]
    async fn a_process_is_ended_and_its_end_is_noticed() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let seen = identify(child.id()).unwrap().unwrap();
        let gone = gone(&seen);
        assert!(send(&seen, Ending::Terminate).unwrap());
        tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap().unwrap();
        child.wait().unwrap();
        assert!(!send(&seen, Ending::Terminate).unwrap());
    }

    #[test]
    fn a_reused_pid_is_spared() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let seen = identify(child.id()).unwrap().unwrap();
        // What the ledger would hold if the pid had belonged to an earlier process.
        let earlier = ProcessIdentity { start_ticks: seen.start_ticks - 5, ..seen.clone() };
        assert!(!send(&earlier, Ending::Kill).unwrap());
        let other = ProcessIdentity { executable: "/srv/server/node".into(), ..seen.clone() };
        assert!(matches!(send(&other, Ending::Kill), Err(Error::NotTheSame { .. })));
        assert!(is_alive(&seen).unwrap(), "it was not touched");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
