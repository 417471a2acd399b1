//! What is asked of a machine's first process: one JSON line each way over `init.sock`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A program to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Working folder.
    pub cwd: PathBuf,
    /// The whole environment; nothing is inherited.
    pub env: BTreeMap<String, String>,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Start something that goes on; `name` is how it is asked for later.
    Start {
        /// Its name.
        name: String,
        /// What to start.
        command: Command,
        /// Where its output goes.
        log: PathBuf,
    },
    /// Run something to its end. What it leaves in the background goes on.
    Run {
        /// What to run.
        command: Command,
        /// Kill it after this long.
        limit_ms: u64,
    },
    /// The number, inside the machine, of something started.
    Find {
        /// Its name.
        name: String,
    },
    /// Be switched off when this connection ends. The first request of all: a machine that nobody
    /// owns soon after its start is switched off as well.
    Own,
    /// Stay on when this connection ends, after all.
    Disown,
}

/// How something ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// It was killed because the time was over.
    pub timed_out: bool,
    /// What it wrote, the first 256 KiB.
    pub output: String,
}

impl Finished {
    /// True for exit code 0.
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Done.
    Done,
    /// Number inside the machine.
    Number(i32),
    /// There is no such process.
    NotRunning,
    /// It ended.
    Finished(Finished),
    /// It could not be done.
    Failed(String),
}
