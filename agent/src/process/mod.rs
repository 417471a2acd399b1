//! Processes of this host: which they are, ending exactly those, starting them as they ran before,
//! and running the site's scripts so that nothing of them is left behind.
//!
//! - [`identity`]: which process it is; a pid alone is not enough (S6).
//! - [`installation`]: every process of one DolphinDB installation, or the reason why that is unknown.
//! - [`signal`]: SIGTERM and SIGKILL to exactly one process, and waiting until it is gone.
//! - [`how`]: how a node runs, captured before it is stopped.
//! - [`launch`]: the port to a small program of our own ([`launcher`]) that starts a node outside
//!   our session, limits and cgroup, or supervises a script.
//! - [`helper`]: the site's scripts, each in a session of its own under a supervisor that empties it.
//! - [`units`] speaks to systemd.

use std::{io, path::PathBuf};

use grayfin_types::Code;

mod cgroup;
pub mod helper;
pub mod how;
pub mod identity;
pub mod installation;
pub mod launch;
pub mod launcher;
mod procfs;
pub mod signal;
pub mod units;

pub use helper::{Helper, HelperOutcome, Scope, Words};
pub use how::{HowRun, Owner};
pub use identity::{Presence, identify, presence};
pub use procfs::boot_id;

/// Why something with processes did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's view could not be read.
    #[error("{action} `{}`", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The pid belongs to another process now.
    #[error("process {pid} is not the one that was looked at: {what}")]
    NotTheSame {
        /// The pid.
        pid: u32,
        /// What differs.
        what: String,
    },
    /// A signal could not be sent.
    #[error("send {signal} to process {pid}")]
    Signal {
        /// The pid.
        pid: u32,
        /// Which.
        signal: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program could not be run.
    #[error("run `{program}`")]
    Run {
        /// The program.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program ran and said no.
    #[error("`{program}` ended with {status}: {output}")]
    Failed {
        /// The program with its arguments.
        program: String,
        /// Exit code or signal in words.
        status: String,
        /// The end of what it said.
        output: String,
    },
    /// A program did not end in time.
    #[error(
        "`{program}` did not end within {limit_ms} ms; everything it had started was ended; it said: {output}"
    )]
    Timeout {
        /// The program.
        program: String,
        /// The limit.
        limit_ms: u64,
        /// The end of what it said: perhaps a question that nobody answered.
        output: String,
    },
    /// Something that a script started is still there.
    #[error("processes that `{program}` started are still there: {pids:?}; end them by hand")]
    NotEmptied {
        /// The program.
        program: String,
        /// Which.
        pids: Vec<u32>,
    },
    /// What is there cannot be found out.
    #[error("it is unknown which processes run: {0}")]
    Unknown(String),
}

impl Error {
    /// Names what was done, for `map_err`.
    pub(crate) fn at(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Returns the code with a page of its own.
    pub const fn code(&self) -> Code {
        match self {
            Self::Io { .. } | Self::Unknown(_) => Code::FactUnknown,
            Self::NotTheSame { .. } | Self::Signal { .. } => Code::StopFailed,
            Self::Run { .. } | Self::Failed { .. } | Self::NotEmptied { .. } => Code::ScriptFailed,
            Self::Timeout { .. } => Code::StepTimeout,
        }
    }
}
