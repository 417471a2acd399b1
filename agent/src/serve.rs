//! The running host agent: locks, ledger, loops. Stopping it, in whatever way, stops no DolphinDB
//! node and releases nothing.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use grayfin_proto::v1;
use grayfin_types::{Code, Generation};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    config::Settings,
    ledger::{self, Ledger, Locks},
    link::{Canary, CanaryLoop, Link, Look},
    runner::{Fatal, Parts, Runner},
    steps::{Coordination, Executor},
};

/// Why the host agent ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state folder cannot be made.
    #[error("make the state folder `{folder}`")]
    StateDir {
        /// Which.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Which life of the machine this is cannot be found out; without it a restart in the middle of
    /// a sequence would go unnoticed.
    #[error("read the boot id from /proc")]
    Boot(#[source] io::Error),
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// A loop cannot go on.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

impl Error {
    /// Returns the code with a page of its own.
    pub fn code(&self) -> Code {
        match self {
            Self::StateDir { .. } => Code::ConfigUnreadable,
            Self::Boot(_) => Code::FactUnknown,
            Self::Ledger(e) | Self::Fatal(Fatal::Ledger(e)) => e.code(),
            Self::Fatal(Fatal::Folder { .. }) => Code::DiskTooSmall,
            Self::Fatal(Fatal::Stuck { .. }) => Code::StepTimeout,
            Self::Fatal(Fatal::Unconfigured { .. }) => Code::ConfigUnreadable,
        }
    }
}

/// How long a host agent waits for another one's locks. One that was killed may take a moment to be
/// gone for good: the kernel gives its locks back when the last of its threads has ended.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// Between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Takes the locks, or says who has them.
async fn take_locks(settings: &Settings) -> Result<Locks, ledger::Error> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        let folders = settings.installations.iter().map(|i| i.server_dir.as_path());
        match Locks::take(&settings.state_dir, folders) {
            Err(ledger::Error::Locked { .. }) if Instant::now() < until => {
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            taken => return taken,
        }
    }
}

/// What observes and acts; tests put doubles in.
#[derive(Debug)]
pub struct Hands<E, L, C> {
    /// Carries out steps.
    pub executor: Arc<E>,
    /// Looks.
    pub look: Arc<L>,
    /// Makes the canary, given the ledger and where its passing reports go.
    pub canary: C,
}

/// Serves until something ends it: returns only with an error, or when a loop ended.
pub async fn serve<E, L, C, M>(
    settings: Arc<Settings>,
    generation: Generation,
    hands: Hands<E, L, M>,
) -> Result<(), Error>
where
    E: Executor,
    L: Look,
    C: Canary,
    M: FnOnce(&Arc<Ledger>, mpsc::Sender<v1::CanaryReport>) -> C,
{
    std::fs::create_dir_all(&settings.state_dir)
        .map_err(|source| Error::StateDir { folder: settings.state_dir.clone(), source })?;
    let _locks = take_locks(&settings).await?;
    let boot_id = crate::boot::life().map_err(Error::Boot)?;
    let marks = settings.installations.iter().map(|i| i.backup_dir.clone());
    let ledger = Ledger::open(&settings.state_dir, &settings.host)?.marked(marks, generation);
    let ledger = Arc::new(ledger);
    tracing::info!(
        host = %settings.host, config = %settings.file.display(), %generation, boot_id,
        version = env!("CARGO_PKG_VERSION"), ledger = %ledger.id(), position = ledger.position(),
        open_hold = ?ledger.state(|state| state.open_hold().map(|token| token.0)),
        "host agent started"
    );
    let (link, link_loop) =
        Link::new(Arc::clone(&settings), Arc::clone(&ledger), generation, boot_id.clone());
    let canary = Arc::new((hands.canary)(&ledger, link.canary()));
    let parts = Parts {
        executor: hands.executor,
        ledger,
        settings,
        boot_id,
        passing: link.passing(),
        trust: link.trust(),
        wish: link.wish(),
    };
    let runner = Runner::new(parts, Arc::clone(&link) as Arc<dyn Coordination>)?;
    let canary = CanaryLoop::new(canary, link);
    tokio::select! {
        ended = runner.run() => ended.map_err(Error::from),
        ended = link_loop.run(hands.look) => ended.map_err(Error::from),
        ended = canary.run() => ended.map_err(Error::from),
    }
}
