//! Connections to nodes, kept between looks.
//!
//! A look costs a login only when the connection is new. A connection that idled may have died with
//! its node; a probe on such a one is tried again on a fresh one, a command never is.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use grayfin_types::facts::NodeSpec;

use super::credentials::{Account, Credentials, Unusable};
use crate::ddb::{Call, Connection, Endpoint, Error, Tls, Value};

/// Idle connections kept per node and account: a look, and a guard at the same time. Nodes have 512
/// in all.
const IDLE_MAX: usize = 2;

/// Why a node could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The call went wrong.
    #[error(transparent)]
    Call(#[from] Error),
    /// There is no login to use.
    #[error(transparent)]
    Login(#[from] Unusable),
}

impl AskError {
    /// Returns the error of the call.
    pub const fn call(&self) -> Option<&Error> {
        match self {
            Self::Call(error) => Some(error),
            Self::Login(_) => None,
        }
    }

    /// The error with its cause, in one line.
    pub fn words(&self) -> String {
        match self {
            Self::Call(error) => words(error),
            Self::Login(error) => error.to_string(),
        }
    }

    /// Tells whether the node was reached by nothing at all, or may have acted without an answer.
    pub const fn outcome_unknown(&self) -> bool {
        match self {
            Self::Call(error) => error.outcome_unknown(),
            Self::Login(_) => false,
        }
    }
}

/// An error with its cause, in one line.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}

type Key = (Endpoint, Account);

#[derive(Default)]
struct Shelf {
    generation: u64,
    idle: HashMap<Key, Vec<Connection>>,
}

/// The connections of one installation.
pub struct Pool {
    credentials: Arc<Credentials>,
    tls: Option<Tls>,
    shelf: Mutex<Shelf>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

/// A connection on loan. It goes back to the shelf if it is still good.
#[derive(Debug)]
pub struct Lease<'a> {
    pool: &'a Pool,
    key: Key,
    generation: u64,
    connection: Option<Connection>,
    /// It had been idle: its node may be gone.
    used: bool,
}

impl Lease<'_> {
    /// Calls a function.
    pub async fn function(
        &mut self,
        name: &str,
        arguments: &[Value],
        call: &Call,
    ) -> Result<Value, Error> {
        match &mut self.connection {
            Some(connection) => {
                let answer = connection.function(name, arguments, call).await;
                let error = answer.as_ref().err();
                self.pool.credentials.note_right(name, self.key.1, error);
                answer
            }
            None => Err(Error::Closed { endpoint: self.key.0.clone() }),
        }
    }

    /// Runs a script; `names` is what it needs the right for.
    pub async fn script(&mut self, names: &str, source: &str, call: &Call) -> Result<Value, Error> {
        match &mut self.connection {
            Some(connection) => {
                let answer = connection.script(source, call).await;
                self.pool.credentials.note_right(names, self.key.1, answer.as_ref().err());
                answer
            }
            None => Err(Error::Closed { endpoint: self.key.0.clone() }),
        }
    }

    /// Closes the connection: what the session holds on the server is freed.
    pub fn close(mut self) {
        self.connection = None;
    }

    /// Tells whether a failure may only mean that the connection had died while it idled.
    const fn is_stale(&self, error: &Error) -> bool {
        self.used && matches!(error, Error::Io { .. } | Error::Closed { .. })
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let mut shelf = self.pool.shelf();
        if !connection.is_usable() || shelf.generation != self.generation {
            return;
        }
        let idle = shelf.idle.entry(self.key.clone()).or_default();
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }
}

impl Pool {
    /// Makes an empty shelf.
    pub fn new(credentials: Arc<Credentials>, tls: Option<Tls>) -> Self {
        Self { credentials, tls, shelf: Mutex::default() }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the accounts.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Takes an idle connection, or makes one.
    pub async fn take(
        &self,
        spec: &NodeSpec,
        account: Account,
        deadline: Duration,
    ) -> Result<Lease<'_>, AskError> {
        let key = (endpoint(spec), account);
        let generation = self.credentials.generation();
        let idle = {
            let mut shelf = self.shelf();
            if shelf.generation != generation {
                shelf.idle.clear();
                shelf.generation = generation;
            }
            shelf.idle.get_mut(&key).and_then(Vec::pop)
        };
        match idle {
            Some(connection) => {
                Ok(Lease { pool: self, key, generation, connection: Some(connection), used: true })
            }
            None => self.open(spec, account, deadline).await,
        }
    }

    /// Makes a connection.
    pub async fn open(
        &self,
        spec: &NodeSpec,
        account: Account,
        deadline: Duration,
    ) -> Result<Lease<'_>, AskError> {
        let key = (endpoint(spec), account);
        let tls = self.tls.as_ref();
        let (connection, generation) = if account == Account::Guest {
            let opened = Connection::open(&key.0, None, tls, deadline).await?;
            (opened, self.credentials.generation())
        } else {
            let attempt = self.credentials.attempt(account).await?;
            let opened = Connection::open(&key.0, Some(&attempt.login), tls, deadline).await;
            let outcome = opened.as_ref().map(|_| ());
            self.credentials.note(account, attempt.generation, outcome);
            (opened?, attempt.generation)
        };
        Ok(Lease { pool: self, key, generation, connection: Some(connection), used: false })
    }

    /// Calls a function that only reads. A connection that had died in the meantime is replaced once.
    pub async fn ask(
        &self,
        spec: &NodeSpec,
        account: Account,
        name: &str,
        arguments: &[Value],
        call: &Call,
    ) -> Result<Value, AskError> {
        let mut lease = self.take(spec, account, call.deadline).await?;
        match lease.function(name, arguments, call).await {
            Err(error) if lease.is_stale(&error) => {
                drop(lease);
                self.forget(spec);
                let mut lease = self.open(spec, account, call.deadline).await?;
                Ok(lease.function(name, arguments, call).await?)
            }
            answer => Ok(answer?),
        }
    }

    /// Drops the idle connections of a node: it was restarted or is gone.
    pub fn forget(&self, spec: &NodeSpec) {
        let endpoint = endpoint(spec);
        self.shelf().idle.retain(|(place, _), _| *place != endpoint);
    }
}

/// Where a node listens.
pub fn endpoint(spec: &NodeSpec) -> Endpoint {
    Endpoint::new(spec.address.clone(), spec.port)
}
