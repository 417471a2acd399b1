//! A machine seen from outside: switching it on and off, and asking its first process.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::init::SOCKET;
use super::protocol::{Command, Finished, Request, Response};
use crate::processes::{self, ProcessId};
use crate::wait;

/// For the first process to open its socket; it takes some milliseconds.
const BOOT_LIMIT: Duration = Duration::from_secs(10);
/// For a killed machine to be gone.
const OFF_LIMIT: Duration = Duration::from_secs(10);
/// For an answer that needs no waiting on the machine's side.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How machines are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Isolation {
    /// PID and mount namespaces.
    Namespaces,
    /// The same with a network of its own for each machine.
    Networks,
    /// The same inside a user namespace, for users without the right to the former.
    UserNamespaces,
    /// None: processes and signals only.
    Signals,
}

impl Isolation {
    /// Finds out what this user may do on this machine.
    pub fn detect() -> Self {
        let works = |isolation: Self| {
            let mut argv = isolation.prefix();
            argv.push("true".to_owned());
            let Some((program, arguments)) = argv.split_first() else {
                return false;
            };
            std::process::Command::new(program)
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        [Self::Namespaces, Self::UserNamespaces]
            .into_iter()
            .find(|it| works(*it))
            .unwrap_or(Self::Signals)
    }

    /// What a person should know about it.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Namespaces => "hosts are PID and mount namespaces",
            Self::Networks => "hosts are PID, mount and network namespaces",
            Self::UserNamespaces => "hosts are PID and mount namespaces inside user namespaces",
            Self::Signals => {
                "no right to make namespaces: hosts are groups of processes, a power loss is a \
                 signal to each of them, and a script on one host sees the processes of all"
            }
        }
    }

    /// What stands before the first process's own command line.
    fn prefix(self) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Namespaces => {
                &["unshare", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]
            }
            Self::Networks => {
                &["unshare", "--net", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]
            }
            Self::UserNamespaces => &[
                "unshare",
                "--user",
                "--map-root-user",
                "--pid",
                "--mount",
                "--fork",
                "--mount-proc",
                "--kill-child",
            ],
            Self::Signals => &[],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }
}

/// The processes a machine consists of, as kept in `machine.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Running {
    boot_id: String,
    /// `unshare`, or the first process itself where there are no namespaces.
    outer: ProcessId,
    /// The first process.
    init: ProcessId,
}

/// A machine, by its folder.
#[derive(Debug, Clone)]
pub struct Machine {
    folder: PathBuf,
    programs: PathBuf,
    isolation: Isolation,
}

impl Machine {
    /// Names a machine; `programs` is the folder with the lab's own programs.
    pub fn new(folder: PathBuf, programs: PathBuf, isolation: Isolation) -> Self {
        Self { folder, programs, isolation }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn record(&self) -> PathBuf {
        self.folder.join("machine.json")
    }

    /// What is written down, if it is about this boot.
    fn recorded(&self) -> Option<Running> {
        let running: Running = serde_json::from_slice(&std::fs::read(self.record()).ok()?).ok()?;
        (running.boot_id == processes::boot_id()).then_some(running)
    }

    /// The first process, while it runs.
    pub fn init(&self) -> Option<ProcessId> {
        self.recorded().map(|running| running.init).filter(|init| init.is_alive())
    }

    /// True while it is switched on.
    pub fn is_on(&self) -> bool {
        self.init().is_some()
    }

    /// Switches it on. `claim` is kept open by the machine for as long as it is on. It is switched off
    /// again as soon as the returned connection ends, even by a crash, unless it is [`disown`]ed.
    pub async fn switch_on(&self, claim: Option<File>) -> anyhow::Result<UnixStream> {
        anyhow::ensure!(!self.is_on(), "`{}` is on already", self.folder.display());
        std::fs::create_dir_all(&self.folder)
            .with_context(|| format!("make `{}`", self.folder.display()))?;
        let lab = self.programs.join("lab");
        let lab = lab.to_str().context("the lab's folder is not UTF-8")?;
        let log = File::create(self.folder.join("init.log")).context("make the machine's log")?;
        let mut outer = std::process::Command::new(lab);
        outer
            .arg("host-outer")
            .args(self.isolation.prefix())
            .args([lab, "host-init"])
            .current_dir(&self.folder)
            .stdin(claim.map_or_else(Stdio::null, Stdio::from))
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut child = processes::spawn(&mut outer).with_context(|| format!("start `{lab}`"))?;
        let outer_pid = i32::try_from(child.id()).context("a process number out of range")?;
        // Whoever started it has to take its exit, however long it lives.
        std::thread::Builder::new()
            .name("machine-exit".to_owned())
            .spawn(move || child.wait().ok())
            .context("start a thread")?;
        let what = format!("`{}` to be on", self.folder.display());
        let owner = wait::until(&what, BOOT_LIMIT, || async {
            self.own().await.map_err(|error| {
                let log = std::fs::read_to_string(self.folder.join("init.log")).unwrap_or_default();
                format!("its first process does not answer: {error:#}; log: {}", log.trim())
            })
        })
        .await?;
        let outer = ProcessId::of(outer_pid).context("the machine ended at once")?;
        let init = match self.isolation {
            Isolation::Signals => outer,
            Isolation::Namespaces | Isolation::Networks | Isolation::UserNamespaces => {
                processes::children(outer_pid)
                    .into_iter()
                    .next()
                    .context("the namespace has no first process")?
            }
        };
        let running = Running { boot_id: processes::boot_id(), outer, init };
        std::fs::write(self.record(), serde_json::to_vec(&running)?).context("note the machine")?;
        Ok(owner)
    }

    /// Cuts the power: everything on it is killed at once.
    pub fn cut_power(&self) -> anyhow::Result<()> {
        let Some(running) = self.recorded() else {
            // Nothing is written down while it is being switched on.
            for process in self.remains() {
                process.signal(Signal::KILL);
            }
            return Ok(());
        };
        if self.isolation == Isolation::Signals {
            // Nobody may be adopted or restarted meanwhile, so the first process stands still.
            running.init.signal(Signal::STOP);
            for process in processes::descendants(running.init.pid) {
                process.signal(Signal::KILL);
            }
        }
        running.init.signal(Signal::KILL);
        running.outer.signal(Signal::KILL);
        let started = std::time::Instant::now();
        loop {
            let left = self.remains();
            if left.is_empty() && !running.init.is_alive() && !running.outer.is_alive() {
                break;
            }
            anyhow::ensure!(
                started.elapsed() < OFF_LIMIT,
                "processes of `{}` outlived SIGKILL: {left:?}",
                self.folder.display()
            );
            for process in left {
                process.signal(Signal::KILL);
            }
            wait::pause_thread(Duration::from_millis(5));
        }
        std::fs::remove_file(self.folder.join(SOCKET)).ok();
        std::fs::remove_file(self.record()).ok();
        Ok(())
    }

    /// Live processes that belong to this machine by program and folder.
    pub fn remains(&self) -> Vec<ProcessId> {
        processes::belonging_to(&self.folder, &self.programs)
    }

    /// Starts something that goes on; returns it as seen from outside, none if it has ended already.
    pub async fn start(
        &self,
        name: &str,
        command: Command,
        log: PathBuf,
    ) -> anyhow::Result<Option<ProcessId>> {
        let request = Request::Start { name: name.to_owned(), command, log };
        let response = self.ask(&request).await?;
        let Response::Number(number) = response else {
            anyhow::bail!("start `{name}` in `{}`: {response:?}", self.folder.display());
        };
        Ok(self.seen_from_outside(number))
    }

    /// Something that was started and runs.
    pub async fn find(&self, name: &str) -> anyhow::Result<Option<ProcessId>> {
        if !self.is_on() {
            return Ok(None);
        }
        let response = self.ask(&Request::Find { name: name.to_owned() }).await?;
        if response == Response::NotRunning {
            return Ok(None);
        }
        let Response::Number(number) = response else {
            anyhow::bail!("find `{name}` in `{}`: {response:?}", self.folder.display());
        };
        // One that was just killed may not have been reaped yet.
        Ok(self.seen_from_outside(number).filter(|process| process.is_alive()))
    }

    /// Runs something to its end.
    pub async fn run(&self, command: Command, limit: Duration) -> anyhow::Result<Finished> {
        let shown = command.argv.join(" ");
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Run { command, limit_ms };
        let response = self.ask_within(&request, limit + ANSWER_LIMIT).await?;
        let Response::Finished(finished) = response else {
            anyhow::bail!("run `{shown}` in `{}`: {response:?}", self.folder.display());
        };
        Ok(finished)
    }

    /// Makes the machine go with the returned connection.
    async fn own(&self) -> anyhow::Result<UnixStream> {
        let mut stream = self.connect().await?;
        let response = exchange(&mut stream, &Request::Own).await?;
        anyhow::ensure!(response == Response::Done, "own the machine: {response:?}");
        Ok(stream)
    }

    /// Finds the process with a number inside this machine.
    fn seen_from_outside(&self, number: i32) -> Option<ProcessId> {
        if self.isolation == Isolation::Signals {
            return ProcessId::of(number);
        }
        let init = self.init()?;
        processes::descendants(init.pid)
            .into_iter()
            .find(|process| processes::inner_number(process.pid) == Some(number))
    }

    async fn ask(&self, request: &Request) -> anyhow::Result<Response> {
        self.ask_within(request, ANSWER_LIMIT).await
    }

    async fn ask_within(&self, request: &Request, limit: Duration) -> anyhow::Result<Response> {
        let talk = async {
            let mut stream = self.connect().await?;
            exchange(&mut stream, request).await
        };
        tokio::time::timeout(limit, talk)
            .await
            .with_context(|| format!("`{}` did not answer in {limit:?}", self.folder.display()))?
    }

    /// Connects by way of the folder's descriptor, because a socket's path holds 107 bytes only.
    async fn connect(&self) -> anyhow::Result<UnixStream> {
        let folder = File::open(&self.folder)
            .with_context(|| format!("open `{}`", self.folder.display()))?;
        let path = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
        UnixStream::connect(path)
            .await
            .with_context(|| format!("ask the first process of `{}`", self.folder.display()))
    }
}

/// Lets a machine stay on when the connection that owns it ends.
pub async fn disown(stream: &mut UnixStream) -> anyhow::Result<()> {
    let response = exchange(stream, &Request::Disown).await?;
    anyhow::ensure!(response == Response::Done, "disown the machine: {response:?}");
    Ok(())
}

async fn exchange(stream: &mut UnixStream, request: &Request) -> anyhow::Result<Response> {
    let mut text = serde_json::to_string(request)?;
    text.push('\n');
    stream.write_all(text.as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    serde_json::from_str(&line).with_context(|| format!("the answer `{}`", line.trim()))
}
