//! The DolphinDB API protocol, server side, and the little of the client side that nodes need to
//! talk to each other.

mod decode;
mod encode;
mod line;
mod primitives;
mod reply;
mod request;
#[cfg(test)]
mod tests;

pub use decode::decode;
pub use encode::{Reader, encode};
pub use reply::{Reply, encode_reply, write_reply};
pub use request::{Body, Credentials, Flags, Request};

/// Bounds of everything a peer can make long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a header line.
    pub header_bytes: usize,
    /// Bytes of a body: a script, or a function's name.
    pub body_bytes: usize,
    /// Arguments of a function, names of a variable upload.
    pub arguments: usize,
    /// Rows of a vector or of a table.
    pub rows: usize,
    /// Columns of a table.
    pub columns: usize,
    /// Memory that all arguments of a request may take, in bytes.
    pub memory_bytes: usize,
    /// Nesting of objects.
    pub depth: usize,
}

impl Default for Limits {
    /// A stand-in's clients send some rows at a time; the widest table of the facts has 44 columns.
    fn default() -> Self {
        Self {
            header_bytes: 4096,
            body_bytes: 1 << 20,
            arguments: 256,
            rows: 1 << 22,
            columns: 4096,
            memory_bytes: 256 << 20,
            depth: 16,
        }
    }
}

/// Why bytes are not a request, a reply or an object. The connection cannot go on after any of
/// these: nobody knows where the next request starts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed or ended in the middle.
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    /// The first line is not a request's.
    #[error("bad header line `{0}`")]
    Header(String),
    /// The body is not one of the known commands.
    #[error("bad body: {0}")]
    Body(String),
    /// Something is longer, bigger or deeper than the limits allow.
    #[error("{what} of {size} is above the limit of {limit}")]
    Limit {
        /// What was too big.
        what: &'static str,
        /// Its size.
        size: u64,
        /// The limit.
        limit: usize,
    },
    /// An object that cannot be read.
    #[error("bad object: {0}")]
    Object(String),
    /// A value that the protocol has no form for.
    #[error("cannot send {0}")]
    Unsendable(&'static str),
}
