//! The operator's act that raises the incarnation of a group of coordinators (S2).

use serde::{Deserialize, Serialize};

use crate::Incarnation;

/// What an operator signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raise {
    /// The group's random id.
    pub group: String,
    /// The incarnation of the state that goes on.
    pub from: Incarnation,
    /// The new incarnation.
    pub to: Incarnation,
    /// `restore` or `force-recover`.
    pub act: String,
    /// Why.
    pub reason: String,
    /// When, milliseconds since 1970; for display only.
    pub at_ms: u64,
}

/// A signed act. The signature covers the text exactly as it is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRaise {
    /// A [`Raise`] in JSON.
    pub text: String,
    /// The operator's certificate, DER in hex.
    pub certificate: String,
    /// ECDSA over P-256 with SHA-256, or what else the key does, in hex.
    pub signature: String,
}
