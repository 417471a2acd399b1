//! Our own client of DolphinDB's API protocol: small, asynchronous, and distrustful.
//!
//! - [`Connection`]: one TCP (or TLS) connection, one request in flight, a deadline on every call.
//! - [`Value`]: what a node answers; every fixed-size type, vectors, dictionaries, tables,
//!   matrices and sets.
//! - [`Error`]: typed, so that a server's refusal, a wrong password, a deadline and a broken stream
//!   are never mixed up.
//!
//! The official crate is unfit for this: it panics or aborts on ordinary and on hostile replies,
//! has neither TLS nor deadlines, and answers the call after a cancelled one with the cancelled
//! one's reply. Here memory is taken as data arrives and counted against a limit, and a connection
//! is never used again after anything but an answer of the server. Failover tags are data; nothing
//! is sent twice by itself.
//!
//! The stand-in has a codec of its own on purpose: two ends with one codec hide symmetric faults.

mod connection;
mod decode;
mod encode;
mod error;
mod kind;
mod tls;
mod value;

#[cfg(test)]
mod tests;

pub use connection::{Call, Connection, Limits, Login};
pub use decode::decode;
pub use error::{Endpoint, Error, Tag};
pub use kind::Kind;
pub use tls::Tls;
pub use value::{Cell, Data, Dictionary, Matrix, Table, Value, Vector};
