//! `lab host-init`: the first process of a machine.
//!
//! It reaps whatever is orphaned, starts what it is asked to, and does nothing else. The children are
//! started with `std` and waited for in one place only: two waiters would take each other's exits.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::protocol::{Command, Finished, Request, Response};
use crate::processes;

/// Name of the socket, in the machine's folder.
pub(super) const SOCKET: &str = "init.sock";

/// Output that is sent back from a run.
const OUTPUT_MAX: u64 = 256 * 1024;

/// For the maker to own this machine; it asks within milliseconds of the socket's appearance.
const OWNER_LIMIT: Duration = Duration::from_secs(10);

/// What the first process knows.
#[derive(Debug, Default)]
struct State {
    /// Number by name of what was started.
    named: BTreeMap<String, Pid>,
    /// Who waits for the end of a run.
    waiting: BTreeMap<i32, oneshot::Sender<WaitStatus>>,
    /// Runs so far, for file names.
    runs: u64,
    /// Somebody has owned this machine.
    claimed: bool,
}

/// Shared between the tasks of one thread.
type Shared = Rc<RefCell<State>>;

/// Starts a program in a session of its own, in place of this one; returns only if that fails.
pub fn exec_in_new_session(argv: &[String]) -> anyhow::Error {
    if let Err(error) = rustix::process::setsid() {
        return anyhow::Error::new(error).context("make a session");
    }
    let Some((program, arguments)) = argv.split_first() else {
        return anyhow::anyhow!("nothing to execute");
    };
    let error = std::process::Command::new(program).args(arguments).exec();
    anyhow::Error::new(error).context(format!("execute `{program}`"))
}

/// Runs the first process in the current folder, until it is killed.
pub fn run() -> anyhow::Result<()> {
    if rustix::process::getpid() != Pid::INIT {
        // Without a namespace of its own it adopts the orphans of its descendants only.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .context("adopt orphans")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, serve())
}

async fn serve() -> anyhow::Result<()> {
    let state = Shared::default();
    let mut children = signal(SignalKind::child()).context("listen for ended children")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    fs::remove_file(SOCKET).ok();
    let listener = UnixListener::bind(SOCKET).context("open the machine's socket")?;
    let unowned = tokio::time::sleep(OWNER_LIMIT);
    tokio::pin!(unowned);
    loop {
        tokio::select! {
            () = &mut unowned, if !state.borrow().claimed => {
                // Whoever started this was killed before it could say so, unless it said so since this
                // wait began.
                if !state.borrow().claimed {
                    return Ok(());
                }
            }
            _ = children.recv() => reap(&state),
            _ = terminate.recv() => return Ok(()),
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("accept on the machine's socket")?;
                let state = state.clone();
                tokio::task::spawn_local(async move {
                    // A client that went away in the middle is its own affair.
                    converse(stream, &state).await.ok();
                });
            }
        }
    }
}

/// Takes the exits of everybody who ended.
fn reap(state: &Shared) {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        let mut state = state.borrow_mut();
        state.named.retain(|_, named| *named != pid);
        if let Some(waiting) = state.waiting.remove(&pid.as_raw_nonzero().get()) {
            waiting.send(status).ok();
        }
    }
}

async fn converse(stream: UnixStream, state: &Shared) -> anyhow::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let mut owned = false;
    while let Some(line) = lines.next_line().await.unwrap_or(None) {
        let response = match serde_json::from_str::<Request>(&line) {
            Err(error) => Response::Failed(format!("not a request: {error}")),
            Ok(Request::Own) => {
                owned = true;
                state.borrow_mut().claimed = true;
                Response::Done
            }
            Ok(Request::Disown) => {
                owned = false;
                Response::Done
            }
            Ok(request) => answer(request, state).await,
        };
        let mut text = serde_json::to_string(&response)?;
        text.push('\n');
        writer.write_all(text.as_bytes()).await?;
    }
    if owned {
        switch_off();
    }
    Ok(())
}

/// Ends this process and, with it, the machine.
#[expect(clippy::exit, reason = "the end of the first process is what switching off means")]
fn switch_off() {
    if rustix::process::getpid() != Pid::INIT
        && let Some(own) = i32::try_from(std::process::id()).ok()
    {
        for process in processes::descendants(own) {
            process.signal(Signal::KILL);
        }
    }
    std::process::exit(0);
}

async fn answer(request: Request, state: &Shared) -> Response {
    match request {
        Request::Own | Request::Disown => Response::Done,
        Request::Find { name } => state
            .borrow()
            .named
            .get(&name)
            .map_or(Response::NotRunning, |pid| Response::Number(pid.as_raw_nonzero().get())),
        Request::Start { name, command, log } => match start(&command, &log) {
            Ok(pid) => {
                state.borrow_mut().named.insert(name, pid);
                Response::Number(pid.as_raw_nonzero().get())
            }
            Err(error) => Response::Failed(format!("{error:#}")),
        },
        Request::Run { command, limit_ms } => {
            match execute(&command, Duration::from_millis(limit_ms), state).await {
                Ok(finished) => Response::Finished(finished),
                Err(error) => Response::Failed(format!("{error:#}")),
            }
        }
    }
}

/// Starts something whose output goes to the end of `log`.
fn start(command: &Command, log: &Path) -> anyhow::Result<Pid> {
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open `{}`", log.display()))?;
    spawn(command, output)
}

fn spawn(command: &Command, output: File) -> anyhow::Result<Pid> {
    let (program, arguments) = command.argv.split_first().context("nothing to start")?;
    let mut starting = std::process::Command::new(program);
    starting
        .args(arguments)
        .current_dir(&command.cwd)
        .env_clear()
        .envs(&command.env)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0);
    let child = processes::spawn(&mut starting)
        .with_context(|| format!("start `{program}` in `{}`", command.cwd.display()))?;
    let number = i32::try_from(child.id()).context("a process number out of range")?;
    Pid::from_raw(number).context("a process number of zero")
}

/// Runs something and waits for it, reading its output from a file so that what it leaves behind in
/// the background cannot keep a pipe open.
async fn execute(command: &Command, limit: Duration, state: &Shared) -> anyhow::Result<Finished> {
    let path = {
        let mut state = state.borrow_mut();
        state.runs += 1;
        format!("run-{}.out", state.runs)
    };
    let mut output = OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .append(false)
        .write(true)
        .open(&path)
        .context("make the run's output file")?;
    let (sender, mut receiver) = oneshot::channel();
    let pid = spawn(command, output.try_clone()?)?;
    state.borrow_mut().waiting.insert(pid.as_raw_nonzero().get(), sender);
    let (status, timed_out) = match tokio::time::timeout(limit, &mut receiver).await {
        Ok(status) => (status?, false),
        Err(_elapsed) => {
            rustix::process::kill_process(pid, Signal::KILL).ok();
            (receiver.await?, true)
        }
    };
    output.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    output.take(OUTPUT_MAX).read_to_end(&mut bytes)?;
    fs::remove_file(&path).ok();
    Ok(Finished {
        code: status.exit_status(),
        signal: status.terminating_signal(),
        timed_out,
        output: String::from_utf8_lossy(&bytes).into_owned(),
    })
}
