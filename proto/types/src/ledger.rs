//! What coordinators and host agents say to each other about a ledger (S8).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ClusterId, OrderNumber, Token};

/// What a ledger held at a position: two ledgers that differ in any entry up to it differ in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerMark {
    /// Number of entries.
    pub position: u64,
    /// The running hash over them, in hex.
    pub chain: String,
}

/// An operator's word that a host's state is proven, and from where its ledger goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readmit {
    /// Names the act.
    pub act: String,
    /// Tokens up to this one are refused from then on: the largest of the coordinators' log and of
    /// all other host agents.
    pub floor: Token,
    /// The hold that is open there, which nobody can close otherwise.
    pub closes: Option<Token>,
    /// Orders up to these numbers are refused.
    pub orders: BTreeMap<ClusterId, OrderNumber>,
    /// The ledger is an old copy or a new one: what it says of staging and the canary is not true
    /// any more.
    pub forget: bool,
}

impl Readmit {
    /// Tells whether an operator vouched for the host's state; an enrolment only takes a floor over.
    pub const fn proven(&self) -> bool {
        self.forget || self.closes.is_some()
    }
}
