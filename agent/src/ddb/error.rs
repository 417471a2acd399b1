//! What can go wrong in a call, and whose fault it is.

use std::fmt;
use std::time::Duration;

/// Where a node listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Endpoint {
    /// Names a place.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The words in angle brackets with which a node tells clients where to turn. They are data here:
/// nobody acts on them silently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tag {
    /// Another node leads. The endpoint and alias are given where the node knows them.
    NotLeader {
        /// Where the leader listens.
        leader: Option<Endpoint>,
        /// The leader's alias; older versions leave it out.
        alias: Option<String>,
    },
    /// `<DataNodeNotAvail>`.
    DataNodeNotAvail,
    /// `<DataNodeNotReady>`.
    DataNodeNotReady,
    /// `<ControllerNotReady>`.
    ControllerNotReady,
    /// `<ControllerNotAvail>`.
    ControllerNotAvail,
    /// `<ChunkInTransaction>`.
    ChunkInTransaction,
    /// Another word in brackets.
    Other(String),
}

impl Tag {
    /// Reads the tag that a text starts with, or that follows the last ` => ` of an expression.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let message = text.rsplit_once(" => ").map_or(text, |(_, message)| message).trim_start();
        let (word, rest) = message.strip_prefix('<')?.split_once('>')?;
        let known = word.len() <= 40 && word.chars().all(|c| c.is_ascii_alphanumeric());
        if !known || word.is_empty() {
            return None;
        }
        Some(match word {
            "NotLeader" => {
                let mut parts = rest.trim().split([':', ' ']);
                let host = parts.next().filter(|host| !host.is_empty());
                let port = parts.next().and_then(|port| port.parse().ok());
                let leader = host.zip(port).map(|(host, port)| Endpoint::new(host, port));
                let alias = parts.next().filter(|alias| !alias.is_empty()).map(str::to_owned);
                Self::NotLeader { leader, alias }
            }
            "DataNodeNotAvail" => Self::DataNodeNotAvail,
            "DataNodeNotReady" => Self::DataNodeNotReady,
            "ControllerNotReady" => Self::ControllerNotReady,
            "ControllerNotAvail" => Self::ControllerNotAvail,
            "ChunkInTransaction" => Self::ChunkInTransaction,
            other => Self::Other(other.to_owned()),
        })
    }
}

/// Why a call has no answer. After anything but [`Error::Server`] the connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection could not be made, or it broke.
    #[error("{what} `{endpoint}`")]
    Io {
        /// The node.
        endpoint: Endpoint,
        /// `connect to`, `write to`, `read from`.
        what: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The deadline passed.
    #[error("`{endpoint}` did not {what} within {} ms", after.as_millis())]
    Timeout {
        /// The node.
        endpoint: Endpoint,
        /// `accept a connection`, `answer`.
        what: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The user name or the password is wrong, or the account is locked.
    #[error("`{endpoint}` refused the login of `{user}`: {text}")]
    Refused {
        /// The node.
        endpoint: Endpoint,
        /// The user name.
        user: String,
        /// The node's words.
        text: String,
    },
    /// The node answered with an error. The connection stays good.
    #[error("`{endpoint}` answered: {text}")]
    Server {
        /// The node.
        endpoint: Endpoint,
        /// Its words.
        text: String,
        /// The tag they start with.
        tag: Option<Tag>,
    },
    /// The reply is not of the protocol, or beyond the limits.
    #[error("reply of `{endpoint}`: {what}")]
    Protocol {
        /// The node.
        endpoint: Endpoint,
        /// What is wrong with it.
        what: String,
    },
    /// The connection was closed by an earlier error or a cancelled call.
    #[error("the connection to `{endpoint}` was given up after an earlier error")]
    Closed {
        /// The node.
        endpoint: Endpoint,
    },
    /// The call itself can't be written down: the fault is ours.
    #[error("the request to `{endpoint}` cannot be sent: {what}")]
    Request {
        /// The node.
        endpoint: Endpoint,
        /// Why.
        what: &'static str,
    },
}

impl Error {
    /// Tells whether the node itself answered with an error, so that the connection is still good.
    pub const fn is_server(&self) -> bool {
        matches!(self, Self::Server { .. })
    }

    /// Tells whether the request may have been carried out although no answer came.
    pub const fn outcome_unknown(&self) -> bool {
        match self {
            Self::Io { what, .. } | Self::Timeout { what, .. } => !matches!(
                what.as_bytes(),
                b"connect to" | b"accept a connection" | b"start TLS with"
            ),
            Self::Protocol { .. } => true,
            Self::Refused { .. }
            | Self::Server { .. }
            | Self::Closed { .. }
            | Self::Request { .. } => false,
        }
    }

    /// Returns the server's words.
    pub fn server_text(&self) -> Option<&str> {
        match self {
            Self::Server { text, .. } | Self::Refused { text, .. } => Some(text),
            Self::Io { .. }
            | Self::Timeout { .. }
            | Self::Protocol { .. }
            | Self::Closed { .. }
            | Self::Request { .. } => None,
        }
    }

    /// Returns the failover tag.
    pub const fn tag(&self) -> Option<&Tag> {
        match self {
            Self::Server { tag, .. } => tag.as_ref(),
            Self::Io { .. }
            | Self::Timeout { .. }
            | Self::Refused { .. }
            | Self::Protocol { .. }
            | Self::Closed { .. }
            | Self::Request { .. } => None,
        }
    }

    /// Tells whether the server does not have the function: older and newer versions differ.
    pub fn is_unknown_function(&self) -> bool {
        matches!(self, Self::Server { .. })
            && self.server_text().is_some_and(|text| {
                let text = text.to_ascii_lowercase();
                text.contains("can't recognize function")
                    || text.contains("cannot recognize the token")
                    || text.contains("can't find the function")
            })
    }

    /// Tells whether the account lacks a right, or a login is required.
    pub fn is_missing_right(&self) -> bool {
        /// Wordings vary between versions; these are parts of the documented ones.
        const PARTS: [&str; 9] = [
            "no permission",
            "not granted",
            "permission denied",
            "access denied",
            "no access",
            "not authorized",
            "privilege",
            "login is required",
            "administrator",
        ];
        matches!(self, Self::Server { .. })
            && self.server_text().is_some_and(|text| {
                let text = text.to_ascii_lowercase();
                PARTS.iter().any(|part| text.contains(part))
            })
    }
}

/// Tells whether the words with which a node answered a login mean that the credentials are wrong.
/// Anything else (not ready, too many connections) may be over in a moment.
pub(super) fn means_wrong_credentials(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    Tag::parse(text).is_none()
        && (lower.contains("password")
            || lower.contains("locked")
            || lower.contains("user name")
            || lower.contains("doesn't exist")
            || lower.contains("authenticat"))
}
