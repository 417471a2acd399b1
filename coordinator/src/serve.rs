//! `grayfin serve`: everything is checked before a port is bound, and drained before the end.

use std::{path::Path, sync::Arc, time::Duration};

use grayfin_proto::tls;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};

use crate::{
    config::{self, Config},
    driver,
    group::{self, GroupService},
    server,
    shared::Shared,
    store::{self, Replicated, replicated},
};

/// How long running calls and streams may take to end.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Why a coordinator does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The state folder cannot be used.
    #[error("open the state folder")]
    Store(#[from] store::Error),
    /// TLS cannot be set up.
    #[error("set up TLS")]
    Tls(#[from] tls::Error),
    /// The address cannot be bound.
    #[error("listen on `{address}`")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system refused something else.
    #[error("{what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The Raft engine died: the process must end and be started again.
    #[error("GF9999: the Raft engine has stopped: {0}")]
    Fatal(String),
    /// The group has removed this coordinator.
    #[error(
        "{said}; this coordinator ends: take it out of every list of coordinators, and give a new one a number that was never used"
    )]
    Removed {
        /// The words of a member of the group.
        said: String,
    },
    /// The server ended with an error.
    #[error("serve")]
    Serve(#[from] tonic::transport::Error),
}

/// A running coordinator.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    store: Replicated,
    address: std::net::SocketAddr,
    driver: JoinHandle<()>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    tls: tls::Server,
}

impl Running {
    /// Checks everything, opens the store, binds the port and starts to serve.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let identity = config.own_identity()?;
        let tls = config.tls.server()?;
        if let Some(dir) = &config.package_dir {
            std::fs::read_dir(dir)
                .map_err(|source| Error::System { what: "read `package_dir`", source })?;
        }
        // Before the store is opened, which may begin to call others; nobody is served yet.
        let listen = |source| Error::Listen { address: config.listen.to_string(), source };
        let options = replicated::Options {
            id: config.id,
            address: config.advertise.clone(),
            tls: config.tls.clone(),
            timing: config.raft,
            form: !config.join,
        };
        let store = Replicated::open(&config.state_dir, &options).await?;
        let listener = match TcpListener::bind(config.listen).await {
            Ok(listener) => listener,
            Err(source) => {
                let error = listen(source);
                store.close().await?;
                return Err(error);
            }
        };
        let address = listener.local_addr().map_err(listen)?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            %identity,
            %address,
            advertise = config.advertise,
            config = %config.file.display(),
            state_dir = %config.state_dir.display(),
            instance = store.instance(),
            "coordinator serves"
        );
        let shared = Shared::new(config, Arc::new(store.clone()));
        let driver = tokio::spawn(driver::run(Arc::clone(&shared)));
        let group = GroupService::new(&store);
        let server = tokio::spawn(server::run(Arc::clone(&shared), group, tls.clone(), listener));
        Ok(Self { shared, store, address, driver, server, tls })
    }

    /// Returns the address that it is bound to.
    pub const fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// Returns what its parts share.
    pub const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Reads certificate and key again; open streams go on with the old ones.
    pub fn reload_tls(&self) {
        match self.tls.reload() {
            Ok(()) => tracing::info!("certificate and key were read again"),
            Err(error) => tracing::error!(%error, "the old certificate stays in use"),
        }
    }

    /// Waits until it cannot go on by itself.
    pub async fn failed(&mut self) -> Error {
        let mut leadership = self.shared.store.leadership();
        tokio::select! {
            fatal = leadership.wait_for(|l| l.fatal.is_some()) => {
                let why = fatal.ok().and_then(|l| l.fatal.clone());
                Error::Fatal(why.unwrap_or_else(|| "without a reason".to_owned()))
            }
            said = group::removed(&self.store, &self.shared.config.tls) => Error::Removed { said },
            ended = &mut self.server => match ended {
                Ok(Err(error)) => error.into(),
                Ok(Ok(())) => Error::Fatal("the server ended".to_owned()),
                Err(error) => Error::Fatal(error.to_string()),
            },
        }
    }

    /// Ends: no new call is taken, running ones get a moment, the state is stored.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.shared.stop();
        if tokio::time::timeout(DRAIN_MAX, &mut self.server).await.is_err() {
            tracing::warn!("some calls did not end in time");
            self.server.abort();
        }
        if tokio::time::timeout(DRAIN_MAX, &mut self.driver).await.is_err() {
            self.driver.abort();
        }
        self.store.close().await?;
        tracing::info!("coordinator stopped");
        Ok(())
    }
}

/// Runs a coordinator until SIGTERM or SIGINT. SIGHUP makes it read its certificate again.
pub async fn run(config_file: &Path) -> Result<(), Error> {
    let system = |what: &'static str| move |source| Error::System { what, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(system("wait for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("wait for SIGINT"))?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(system("wait for SIGHUP"))?;
    let config = Config::read(config_file)?;
    let mut running = Running::start(config).await?;
    let failed = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            error = running.failed() => break Some(error),
            _ = hang_up.recv() => running.reload_tls(),
        }
    };
    match failed {
        None => {
            tracing::info!("told to stop");
            running.stop().await
        }
        Some(error @ Error::Removed { .. }) => {
            tracing::error!(%error, "the coordinator ends");
            running.stop().await?;
            Err(error)
        }
        Some(error) => {
            // Nothing can be drained through a dead engine; the log has everything.
            tracing::error!(%error, "the coordinator ends");
            Err(error)
        }
    }
}
