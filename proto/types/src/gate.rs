//! Gates: named checks that let go, hold or stop, always with reasons.

use serde::{Deserialize, Serialize};

use crate::Code;

/// Why something waits or is refused: the one object that every surface shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The code, with a page in `docs/errors`.
    pub code: Code,
    /// What it is about: a host, node, chunk path, file with line.
    pub subject: String,
    /// What was seen.
    pub evidence: String,
    /// What clears it, with the exact command where there is one.
    pub remedy: String,
}

/// The answer of a gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "decision")]
pub enum Decision {
    /// Nothing stands against it.
    Go,
    /// Wait and look again: it may clear by itself.
    Hold {
        /// Why; never empty.
        reasons: Vec<Reason>,
    },
    /// It will not clear without a person.
    Stop {
        /// Why; never empty.
        reasons: Vec<Reason>,
    },
}

impl Decision {
    /// Tells whether the way is free.
    pub const fn is_go(&self) -> bool {
        matches!(self, Self::Go)
    }

    /// Returns the reasons, none for [`Decision::Go`].
    pub fn reasons(&self) -> &[Reason] {
        match self {
            Self::Go => &[],
            Self::Hold { reasons } | Self::Stop { reasons } => reasons,
        }
    }
}

/// One gate's result, as preflight and `explain` list it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The gate's name, e.g. `controller-quorum`.
    pub gate: String,
    /// The safety rule it serves, e.g. `S4`.
    pub rule: String,
    /// What it says.
    pub decision: Decision,
    /// An operator set it aside, with this reason.
    pub overridden: Option<String>,
}
