//! The durable store: proposals, linearizable reads, the event log, who leads.
//!
//! The rest of the coordinator sees the [`Store`] trait only. Behind it is the Raft engine with
//! one SQLite file ([`replicated::Replicated`]); a single coordinator is a group of one.

mod chain;
mod change;
mod file;
mod log;
mod machine;
mod mark;
mod proposer;
pub mod recover;
pub mod replicated;
mod snapshot;
pub mod types;

use std::{path::PathBuf, sync::Arc};

use grayfin_coordinator_core::{Cmd, Response, State, invariant::Violation};
use grayfin_types::{Code, RolloutId, Seq, Term, event::Event};
use tokio::sync::watch;

pub use chain::sha256_hex;
pub use file::{FILE_NAME, open_seal};
pub use log::LogStore;
pub use machine::Machine;
pub use mark::MARK_NAME;
pub use replicated::Replicated;

/// Why the store's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be used.
    #[error("use the state folder `{}`", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another coordinator has it open.
    #[error("the state folder `{}` is in use by another coordinator: stop it first", folder.display())]
    Busy {
        /// Which.
        folder: PathBuf,
    },
    /// What is there is not what was written.
    #[error(
        "GF0707: `{}` is damaged at {place}: {what}; keep the folder as evidence, then restore it from a backup, or replace this coordinator from the others of its group",
        file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where in it.
        place: String,
        /// What was found.
        what: String,
    },
    /// A newer build wrote it.
    #[error(
        "`{}` has format {found}, this build reads up to {known}: start the newer `grayfin` again",
        file.display()
    )]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// `SQLite` failed.
    #[error("access `{}`", file.display())]
    Sql {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A value has no JSON form: our own fault.
    #[error("encode a stored value")]
    Encode(#[source] serde_json::Error),
    /// Entries must follow each other.
    #[error("log entry {found} would leave a hole, entry {wanted} comes next")]
    Gap {
        /// The next index.
        wanted: u64,
        /// The one that came.
        found: u64,
    },
    /// The engine did not start.
    #[error("start the Raft engine: {0}")]
    Engine(String),
}

/// Why a command or a linearizable read has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another coordinator leads, or none does at the moment.
    #[error("GF0701: this coordinator does not lead{}", led_by(leader.as_ref()))]
    NotLeader {
        /// Id and address of the leader, where it is known.
        leader: Option<(u64, String)>,
    },
    /// No majority answered in time. A command may still take effect later.
    #[error(
        "GF0702: the coordinators have no majority: the outcome is unknown; ask again, the same request is not done twice"
    )]
    NoQuorum,
    /// The group cannot be changed like this.
    #[error("GF0709: {0}")]
    Group(String),
    /// The engine has stopped; the process is about to end.
    #[error("GF9999: the coordinator's store has stopped: {0}")]
    Stopped(String),
}

impl Refused {
    /// Returns the error code.
    pub const fn code(&self) -> Code {
        match self {
            Self::NotLeader { .. } => Code::NotLeader,
            Self::NoQuorum => Code::NoQuorum,
            Self::Group(_) => Code::GroupChange,
            Self::Stopped(_) => Code::Internal,
        }
    }
}

fn led_by(leader: Option<&(u64, String)>) -> String {
    leader.map_or_else(
        || "; nobody is known to lead at the moment".to_owned(),
        |(id, address)| format!("; coordinator {id} at {address} does"),
    )
}

/// Who leads, as far as this coordinator knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// This coordinator believes that it leads. It may be wrong: confirm with
    /// [`Store::linearizable`] before acting on it.
    pub leads: bool,
    /// The term.
    pub term: Term,
    /// Id and address of the leader.
    pub leader: Option<(u64, String)>,
    /// Why the engine died, if it did: the process must end.
    pub fatal: Option<String>,
}

/// A member of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its address.
    pub address: String,
    /// The random name of its state folder.
    pub instance: String,
    /// It votes.
    pub voter: bool,
    /// Log entries that it has not acknowledged; only the leader knows.
    pub behind: Option<u64>,
}

/// A change of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A newcomer is sent the log and does not vote. Returns when it has caught up.
    Learn {
        /// Its id.
        id: u64,
        /// Its address.
        address: String,
        /// The random name of its state folder.
        instance: String,
    },
    /// A learner votes from now on.
    Vote(u64),
    /// A member is taken out.
    Drop(u64),
    /// This coordinator leads no more, if another one can be elected.
    StepAside,
}

/// The port to the durable store.
#[tonic::async_trait]
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    /// Returns this coordinator's id.
    fn id(&self) -> u64;

    /// Makes commands durable on a majority and applies them in order, all together or not at
    /// all. Returns one response for each. Bounded in time.
    async fn propose_all(&self, commands: Vec<Cmd>) -> Result<Vec<Response>, Refused>;

    /// Makes one command durable on a majority and applies it. Bounded in time.
    async fn propose(&self, command: Cmd) -> Result<Response, Refused> {
        let mut responses = self.propose_all(vec![command]).await?;
        responses.pop().ok_or_else(|| Refused::Stopped("a command was not answered".to_owned()))
    }

    /// Confirms that this coordinator leads and that [`Store::state`] has everything that was
    /// acknowledged before. Bounded in time.
    async fn linearizable(&self) -> Result<(), Refused>;

    /// Returns the state as applied here; it may lag behind the leader's.
    fn state(&self) -> Arc<State>;

    /// Reads up to `max` events of a rollout from `from` on, in order.
    fn events_from(&self, rollout: &RolloutId, from: Seq, max: usize) -> Result<Vec<Event>, Error>;

    /// Fires after each applied entry, on leader and followers.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Follows who leads.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// Fires when an applied command broke an invariant: a fault of ours.
    fn violations(&self) -> watch::Receiver<Vec<Violation>>;

    /// Returns the members of the group.
    fn members(&self) -> Vec<Member>;

    /// Returns the place in the log of the newest membership that is applied here; it only grows
    /// as long as the incarnation stays.
    fn membership(&self) -> u64;

    /// Changes the group. Bounded in time; what was begun may be repeated.
    async fn change(&self, change: Change) -> Result<(), Refused>;
}
