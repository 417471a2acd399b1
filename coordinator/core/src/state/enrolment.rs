//! What is known for good about one host agent, and the orders it has not answered yet.

use std::collections::{BTreeMap, BTreeSet};

use grayfin_types::{
    ClusterId, Generation, HostId, LedgerId, OrderNumber, RolloutId, Token,
    ledger::{LedgerMark, Readmit},
    plan::{CanaryOrder, DebtOrder},
};
use serde::{Deserialize, Serialize};

/// A host whose agent has enrolled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The host.
    pub host: HostId,
    /// The clusters that it has installations of.
    pub clusters: BTreeSet<ClusterId>,
    /// The certificate's generation; an older one is refused.
    pub generation: Generation,
    /// The ledger's random id.
    pub ledger_id: LedgerId,
    /// The largest ledger position ever heard of (S8).
    pub ledger_position: u64,
    /// What the ledger held at the newest position at which it said so (S8).
    #[serde(default)]
    pub mark: Option<LedgerMark>,
    /// Reports up to this position are in the event log.
    pub committed_position: u64,
    /// Why the host agent may only look (S8): its ledger is unknown or older than it was.
    pub amnesic: Option<String>,
    /// An operator readmitted it, and its agent has not taken that in yet (S8).
    #[serde(default)]
    pub readmission: Option<Readmission>,
    /// Tokens up to this one are refused there, as far as was heard.
    #[serde(default)]
    pub floor: Token,
    /// The largest token that was allotted here to hold this host.
    #[serde(default)]
    pub allotted: Token,
    /// The largest token that its ledger was heard to account for.
    #[serde(default)]
    pub own: Token,
    /// An operator attested that the host is powered off for good (S2).
    pub gone: Option<Gone>,
    /// Version of the host agent.
    pub agent_version: String,
    /// Orders by cluster.
    pub outboxes: BTreeMap<ClusterId, Outbox>,
}

/// Another host agent's word that a token was promised away so that a host could be held (S2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// The largest such token.
    pub token: Token,
    /// Whose word.
    pub by: HostId,
}

/// An operator's word that a host's state is proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readmission {
    /// The ledger that its agent has.
    pub ledger: LedgerId,
    /// What its agent is to take in.
    pub readmit: Readmit,
}

/// An operator's word that a host is powered off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
}

/// Orders to one host agent for one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outbox {
    /// The last number given.
    pub last: OrderNumber,
    /// What is not answered yet, oldest first. Sent again until it is.
    pub pending: Vec<OrderEntry>,
}

/// An order that waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderEntry {
    /// Its number.
    pub number: OrderNumber,
    /// The hold's token, 0 where none is needed.
    pub token: Token,
    /// What to do.
    pub kind: OrderKind,
    /// The rollout.
    pub rollout: RolloutId,
    /// What goes along.
    pub body: OrderBody,
}

/// What an order asks for. The numbers on the wire are in `grayfin.proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderKind {
    /// Check, fetch and unpack the package.
    Stage,
    /// Run the host sequence.
    Run,
    /// Go on after a failure.
    Retry,
    /// Undo what was done.
    Undo,
    /// The operator aborted.
    Abort,
    /// Close the token durably.
    Close,
    /// Start the canary's writer.
    CanaryStart,
    /// Stop it.
    CanaryStop,
    /// Read acknowledged rows back.
    CanaryCheck,
    /// Bring a cluster-wide effect about, or undo it.
    Debt,
}

/// What goes along with an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderBody {
    /// Nothing.
    Nothing,
    /// The rollout's plan, which is not stored twice: [`crate::state::Rollout::plan`].
    Plan,
    /// The canary's order.
    Canary(CanaryOrder),
    /// What a debt is about.
    Debt(DebtOrder),
}

impl Enrolment {
    /// Puts an order into the outbox and returns its number.
    pub(crate) fn push(
        &mut self,
        cluster: &ClusterId,
        token: Token,
        kind: OrderKind,
        rollout: &RolloutId,
        body: OrderBody,
    ) -> OrderNumber {
        let outbox = self.outboxes.entry(cluster.clone()).or_default();
        outbox.last = outbox.last.next();
        let (number, rollout) = (outbox.last, rollout.clone());
        outbox.pending.push(OrderEntry { number, token, kind, rollout, body });
        number
    }

    /// The host agent said how long its ledger is, and what it holds there.
    pub(crate) fn heard(&mut self, position: u64, chain: &str) {
        self.ledger_position = self.ledger_position.max(position);
        if !chain.is_empty() && self.mark.as_ref().is_none_or(|mark| mark.position <= position) {
            self.mark = Some(LedgerMark { position, chain: chain.to_owned() });
        }
    }

    /// Finds an order that is not answered.
    pub fn pending(&self, cluster: &ClusterId, number: OrderNumber) -> Option<&OrderEntry> {
        self.outboxes.get(cluster)?.pending.iter().find(|o| o.number == number)
    }

    /// Removes orders that have been answered or that became pointless.
    pub(crate) fn drop_orders(&mut self, cluster: &ClusterId, gone: impl Fn(&OrderEntry) -> bool) {
        if let Some(outbox) = self.outboxes.get_mut(cluster) {
            outbox.pending.retain(|o| !gone(o));
        }
    }

    /// Tells whether an order of this kind waits for its answer.
    pub fn awaits(&self, cluster: &ClusterId, rollout: &RolloutId, kind: OrderKind) -> bool {
        self.outboxes.get(cluster).is_some_and(|outbox| {
            outbox.pending.iter().any(|o| o.kind == kind && &o.rollout == rollout)
        })
    }
}
