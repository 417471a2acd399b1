//! What host agents say that becomes part of the state.

use std::collections::{BTreeMap, BTreeSet};

use grayfin_types::{
    ClusterId, Code, Generation, HostId, LedgerId, OrderNumber, RolloutId, Token,
    ledger::LedgerMark, status::CanaryStatus, step::SequenceState,
};
use serde::{Deserialize, Serialize};

/// A host agent's hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrol {
    /// The host, as its certificate names it.
    pub host: HostId,
    /// The clusters that it has installations of.
    pub clusters: BTreeSet<ClusterId>,
    /// The certificate's generation.
    pub generation: Generation,
    /// The ledger's random id.
    pub ledger_id: LedgerId,
    /// Number of entries in the ledger.
    pub ledger_position: u64,
    /// Version of the host agent.
    pub agent_version: String,
    /// The last order that it ran, by cluster.
    pub last_orders: BTreeMap<ClusterId, OrderNumber>,
    /// What S8 needs beyond id and position; none from a host agent that does not know of it.
    #[serde(default)]
    pub ledger: Option<LedgerSaid>,
}

/// What a hello says of the ledger beyond its id and its position (S8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerSaid {
    /// The running hash at its position.
    pub chain: String,
    /// What it holds at the position that it was asked for, which is that of the mark that was known
    /// then; none if it was not asked.
    pub proof: Option<LedgerMark>,
    /// Tokens up to this one are refused.
    pub floor: Token,
    /// The hold that is open there.
    pub open_hold: Option<Token>,
    /// The last readmission.
    pub readmitted: Option<String>,
    /// The largest token that it accounts for: opened or closed there, or covered by a readmission.
    #[serde(default)]
    pub own: Token,
    /// For each host that a token was promised away for: the largest one.
    #[serde(default)]
    pub promised_for: BTreeMap<HostId, Token>,
    /// Why it cannot be the newest one, as its host agent knows by itself.
    #[serde(default)]
    pub lost: Option<String>,
}

/// A host agent's answer to a promise request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromiseAnswered {
    /// Whose.
    pub host: HostId,
    /// For which cluster.
    pub cluster: ClusterId,
    /// The token.
    pub token: Token,
    /// Durably given.
    pub promised: bool,
    /// Why not.
    pub code: Option<Code>,
    /// Why not, in a person's words.
    pub why: String,
    /// The ledger's position then.
    pub ledger_position: u64,
    /// Its running hash there; empty from a host agent that does not know of it.
    #[serde(default)]
    pub chain: String,
}

/// A host agent's answer to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderAnswered {
    /// Whose.
    pub host: HostId,
    /// For which cluster.
    pub cluster: ClusterId,
    /// The order's number.
    pub number: OrderNumber,
    /// The order's token.
    pub token: Token,
    /// Taken up.
    pub accepted: bool,
    /// Why not.
    pub code: Option<Code>,
    /// Why not, in a person's words.
    pub why: String,
    /// The ledger's position then.
    pub ledger_position: u64,
    /// Its running hash there; empty from a host agent that does not know of it.
    #[serde(default)]
    pub chain: String,
    /// Where the sequence stood then.
    pub state: Option<SequenceState>,
}

/// A canary's report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryReported {
    /// The rollout.
    pub rollout: RolloutId,
    /// Whose.
    pub host: HostId,
    /// Which writer.
    pub epoch: u64,
    /// The order that it answers, 0 for a passing report.
    pub order: OrderNumber,
    /// What it says.
    pub status: CanaryStatus,
}
