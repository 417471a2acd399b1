//! Starting programs apart from the host agent.
//!
//! A node that we start must survive us, and must not inherit our session, limits, umask or cgroup:
//! it hands all of them on to what it starts. A script that we run must be ended together with
//! everything it started. Both need work between fork and exec, which safe Rust does not offer; so
//! the host agent's own executable is started once more as a small single-threaded program
//! ([`super::launcher`]) that does this work and then becomes, or watches over, the wanted program.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

use super::{Error, Owner};

/// First argument that makes the executable a launcher.
pub const LAUNCH: &str = "launch";

/// First argument of the stage that becomes the program.
pub const BECOME: &str = "become";

/// The longest order to a launcher: an environment can be 2 MiB at most by the kernel's limits.
pub(crate) const ORDER_BYTES_MAX: usize = 4 << 20;

/// What is run, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The program and its arguments; a bare name is looked for in the environment's `PATH`.
    pub arguments: Vec<String>,
    /// Where it works.
    pub folder: PathBuf,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// As whom; none for ourselves.
    pub owner: Option<Owner>,
    /// File mode mask.
    pub umask: Option<u32>,
    /// Limits by the names of `/proc/PID/limits`: soft and hard, none for unlimited.
    pub limits: Vec<(String, Option<u64>, Option<u64>)>,
    /// `cgroup.procs` files to be joined.
    pub joins: Vec<PathBuf>,
}

impl Program {
    /// A program with an empty environment, as ourselves.
    pub fn new(arguments: &[String], folder: &Path) -> Self {
        Self {
            arguments: arguments.to_vec(),
            folder: folder.to_path_buf(),
            environment: Vec::new(),
            owner: None,
            umask: None,
            limits: Vec::new(),
            joins: Vec::new(),
        }
    }

    /// Sets one variable, in place of an earlier value.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.retain(|(n, _)| n != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The command as a person would type it.
    pub fn display(&self) -> String {
        self.arguments.join(" ")
    }
}

/// An order to a launcher, one line of JSON on its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) program: Program,
    pub(crate) manner: Manner,
}

/// What becomes of the program.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Manner {
    /// It is left alone; its words go to this file.
    Detached {
        /// The file, appended to.
        output: PathBuf,
    },
    /// It is a helper: these words are its input, and it ends with all its children when our end of
    /// the launcher's input is closed.
    Supervised {
        /// Input; stays open behind it.
        input: String,
    },
}

/// Starts launchers.
#[derive(Debug, Clone)]
pub struct Launcher {
    program: PathBuf,
}

impl Default for Launcher {
    /// The running executable itself, also when its file was replaced meanwhile.
    fn default() -> Self {
        Self { program: PathBuf::from("/proc/self/exe") }
    }
}

impl Launcher {
    /// Uses another executable whose `main` calls [`super::launcher::entry`] first.
    pub fn at(program: &Path) -> Self {
        Self { program: program.to_path_buf() }
    }

    /// Starts a program that is then on its own; returns its pid. What it says goes to `output`.
    pub async fn start(&self, program: &Program, output: &Path) -> Result<u32, Error> {
        let manner = Manner::Detached { output: output.to_path_buf() };
        let order = Order { program: program.clone(), manner };
        let mut child = self.spawn(&order, &[]).await?;
        drop(child.stdin.take());
        let name = program.display();
        let run = |source| Error::Run { program: name.clone(), source };
        let mut answer = String::new();
        if let Some(out) = child.stdout.take() {
            out.take(4096).read_to_string(&mut answer).await.map_err(run)?;
        }
        let mut complaint = String::new();
        if let Some(err) = child.stderr.take() {
            err.take(4096).read_to_string(&mut complaint).await.map_err(run)?;
        }
        let status = child.wait().await.map_err(run)?;
        answer.trim().parse().map_err(|_| Error::Failed {
            program: name.clone(),
            status: status.to_string(),
            output: complaint,
        })
    }

    /// Starts a launcher and gives it its order. Its standard input stays open.
    pub(crate) async fn spawn(
        &self,
        order: &Order,
        environment: &[(&str, &str)],
    ) -> Result<Child, Error> {
        let name = order.program.display();
        let run = |source| Error::Run { program: name.clone(), source };
        let mut command = Command::new(&self.program);
        command
            .arg0("grayfin-agent")
            .arg(LAUNCH)
            .current_dir("/")
            .env_clear()
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(run)?;
        let mut line = serde_json::to_vec(order).map_err(|e| run(e.into()))?;
        line.push(b'\n');
        if let Some(input) = &mut child.stdin {
            input.write_all(&line).await.map_err(run)?;
            input.flush().await.map_err(run)?;
        }
        Ok(child)
    }
}
