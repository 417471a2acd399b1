//! The small program between the host agent and what it starts. See [`super::launch`].
//!
//! It is single-threaded until it starts what it was asked for (the supervising one then has a
//! second thread that waits for its input to end), because user, group and limits are properties of
//! threads in Linux. It never prints what it was given: an environment can hold secrets.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, ExitCode, ExitStatus, Stdio},
};

use rustix::{
    fs::Mode,
    io::Errno,
    process::{Gid, Resource, Rlimit, Uid, WaitOptions},
};

use super::{
    identify,
    launch::{BECOME, LAUNCH, Manner, ORDER_BYTES_MAX, Order, Program},
    procfs, signal,
};

/// Exit code of a launcher that could not do what it was asked for; shells use it for "not found".
const FAILED: u8 = 127;

/// Call this first in `main`, before any thread is started. Returns the exit code if this process
/// is a launcher, none if it is the host agent.
pub fn entry() -> Option<ExitCode> {
    let word = std::env::args_os().nth(1)?;
    let done = match word.to_str()? {
        LAUNCH => launch(),
        BECOME => become_program(),
        _ => return None,
    };
    Some(match done {
        Ok(code) => code,
        Err(e) => {
            // Standard error is a pipe to the host agent, or the file for the program's words.
            drop(writeln!(io::stderr(), "{e}"));
            ExitCode::from(FAILED)
        }
    })
}

fn launch() -> io::Result<ExitCode> {
    let line = read_line()?;
    let order: Order = serde_json::from_slice(&line)?;
    leave_session();
    match order.manner {
        Manner::Detached { output } => {
            let to = |path: &std::path::Path| {
                fs::OpenOptions::new().append(true).create(true).open(path)
            };
            // A node is not left down because there is no room for its words.
            let file = to(&output).or_else(|_| to("/dev/null".as_ref()))?;
            let mut child = Command::new("/proc/self/exe");
            child.arg0("grayfin-agent").arg(BECOME).stdin(Stdio::piped());
            child.stdout(file.try_clone()?).stderr(file);
            let mut child = child.spawn()?;
            if let Some(mut input) = child.stdin.take() {
                input.write_all(&line)?;
            }
            writeln!(io::stdout(), "{}", child.id())?;
            Ok(ExitCode::SUCCESS)
        }
        Manner::Supervised { input } => supervise(&line, &input),
    }
}

/// Makes this process the head of a session of its own: signals to the host agent's group or
/// terminal do not reach it.
fn leave_session() {
    match rustix::process::setsid() {
        // Head of a session already.
        Ok(_) | Err(_) => {}
    }
}

/// Runs the program; afterwards, or when our input ends, everything that came of it is killed.
fn supervise(line: &[u8], input: &str) -> io::Result<ExitCode> {
    // Orphans of the program become our children, whatever sessions and groups they make.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut child = Command::new("/proc/self/exe");
    child.arg0("grayfin-agent").arg(BECOME).stdin(Stdio::piped());
    child.stderr(io::stdout().try_clone_to_owned()?);
    let mut child = child.spawn()?;
    let mut pipe = child.stdin.take();
    if let Some(pipe) = &mut pipe {
        // It may end without reading.
        drop(pipe.write_all(line).and_then(|()| pipe.write_all(input.as_bytes())));
    }
    std::thread::spawn(|| {
        // The host agent says nothing more; the end of this means that it is gone or wants us to end.
        drop(io::copy(&mut io::stdin(), &mut io::sink()));
        kill_descendants();
    });
    let status = child.wait()?;
    drop(pipe);
    empty();
    writeln!(io::stderr(), "{}", describe(status))?;
    Ok(ExitCode::SUCCESS)
}

/// `exit N` or `signal N`: what [`super::helper`] reads.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}

/// Kills until this process has no children left. As everything that a descendant leaves behind
/// becomes our child, none means that nothing is left at all.
fn empty() {
    loop {
        kill_descendants();
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn kill_descendants() {
    let mut family = vec![std::process::id()];
    let stats: Vec<_> = procfs::pids()
        .unwrap_or_default()
        .into_iter()
        .filter_map(|pid| procfs::stat(pid).ok().flatten())
        .collect();
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        family.extend(stats.iter().filter(|s| s.parent == parent).map(|s| s.pid));
        at += 1;
    }
    for pid in family.into_iter().skip(1) {
        if let Ok(Some(identity)) = identify(pid) {
            // One that ended or changed meanwhile is met again in the next round.
            drop(signal::send(&identity, signal::Ending::Kill));
        }
    }
}

/// Takes on everything that belongs to the program, then becomes it.
fn become_program() -> io::Result<ExitCode> {
    let order: Order = serde_json::from_slice(&read_line()?)?;
    let program = order.program;
    for file in &program.joins {
        // A group that vanished meanwhile is no reason not to start.
        drop(fs::write(file, std::process::id().to_string()));
    }
    set_limits(&program)?;
    if let Some(mask) = program.umask {
        rustix::process::umask(Mode::from_raw_mode(mask & 0o777));
    }
    set_owner(&program)?;
    let Some((name, arguments)) = program.arguments.split_first() else {
        return Err(io::Error::other("no program was given"));
    };
    let mut command = Command::new(name);
    command.args(arguments).env_clear().envs(program.environment).current_dir(&program.folder);
    let why = command.exec();
    Err(io::Error::new(why.kind(), format!("start `{name}`: {why}")))
}

fn set_limits(program: &Program) -> io::Result<()> {
    for (name, soft, hard) in &program.limits {
        let Some(resource) = resource(name) else { continue };
        let wanted = Rlimit { current: *soft, maximum: *hard };
        match rustix::process::setrlimit(resource, wanted) {
            // Without the right to raise it, the limit stays as it is; the node says so if it minds.
            Ok(()) | Err(Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Finds a limit by its name in `/proc/PID/limits`.
pub(crate) fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "Max cpu time" => Resource::Cpu,
        "Max file size" => Resource::Fsize,
        "Max data size" => Resource::Data,
        "Max stack size" => Resource::Stack,
        "Max core file size" => Resource::Core,
        "Max resident set" => Resource::Rss,
        "Max processes" => Resource::Nproc,
        "Max open files" => Resource::Nofile,
        "Max locked memory" => Resource::Memlock,
        "Max address space" => Resource::As,
        "Max file locks" => Resource::Locks,
        "Max pending signals" => Resource::Sigpending,
        "Max msgqueue size" => Resource::Msgqueue,
        "Max nice priority" => Resource::Nice,
        "Max realtime priority" => Resource::Rtprio,
        "Max realtime timeout" => Resource::Rttime,
        _ => return None,
    })
}

fn set_owner(program: &Program) -> io::Result<()> {
    let Some(owner) = &program.owner else { return Ok(()) };
    if rustix::process::getuid().as_raw() == owner.uid && owner.uid != 0 {
        return Ok(());
    }
    let groups: Vec<Gid> = owner.groups.iter().map(|g| Gid::from_raw(*g)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_gid(Gid::from_raw(owner.gid))?;
    rustix::thread::set_thread_uid(Uid::from_raw(owner.uid))?;
    Ok(())
}

/// Reads one line from standard input, byte by byte: what follows belongs to the program.
fn read_line() -> io::Result<Vec<u8>> {
    let mut input = fs::File::from(io::stdin().try_clone_to_owned()?);
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < ORDER_BYTES_MAX {
        if input.read(&mut byte)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.push(byte[0]);
        if byte == *b"\n" {
            return Ok(line);
        }
    }
    Err(io::Error::other("the order is too long"))
}

/// A second handle of a standard stream.
trait Handle {
    fn try_clone_to_owned(&self) -> io::Result<std::os::fd::OwnedFd>;
}

impl<T: std::os::fd::AsFd> Handle for T {
    fn try_clone_to_owned(&self) -> io::Result<std::os::fd::OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }
}
