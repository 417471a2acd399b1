//! What must be undone in the cluster as a whole (S10).

use grayfin_types::{ClusterId, HostId, NodeAlias, OrderNumber, RolloutId, Token, plan::Effect};
use serde::{Deserialize, Serialize};

/// A debt: recorded before the effect is brought about, gone when it is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    /// Its number; never used again.
    pub id: u64,
    /// The cluster.
    pub cluster: ClusterId,
    /// The rollout that needs it now.
    pub rollout: RolloutId,
    /// The hold that needs it now.
    pub token: Token,
    /// The effect, with the original value: captured once, inherited, never read again.
    pub effect: Effect,
    /// A host agent said that it is brought about, everywhere where it must be.
    pub in_force: bool,
    /// The leading DolphinDB controller then: another one does not know of it.
    pub leader: Option<NodeAlias>,
    /// The order that is out: to whom, its number, and whether it undoes.
    pub order: Option<(HostId, OrderNumber, bool)>,
    /// How often a host agent was asked; the pause before the next time begins with it.
    pub attempts: u32,
    /// Why the last order was not carried out.
    pub problem: Option<String>,
    /// When it was recorded, milliseconds since 1970.
    pub recorded_ms: u64,
    /// After how many milliseconds it is paid in any case.
    pub limit_ms: u64,
}

impl Debt {
    /// Says what it is, for people.
    pub fn words(&self) -> String {
        let state = match (&self.problem, self.in_force) {
            (Some(why), _) => format!("; the last order failed: {why}"),
            (None, true) => String::new(),
            (None, false) => "; not confirmed yet".to_owned(),
        };
        let limit_s = self.limit_ms / 1_000;
        format!("debt {}: {}{state}; undone after {limit_s} s at the latest", self.id, self.effect)
    }
}
