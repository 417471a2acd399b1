//! How long everything has been well after a host (S7).

use grayfin_types::{ClusterId, HostId, NodeAlias, Token, gate::Finding};

use super::View;
use crate::{gates, state::State};

/// The soak of the host that is up and waits for the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Soak {
    /// The host.
    pub host: HostId,
    /// Its hold's token.
    pub token: Token,
    /// A retry or resume begins it anew.
    pub attempt: u32,
    /// When it was first looked at.
    pub began_ms: u64,
    /// Since when every sample has been good; none if the last one was bad.
    pub good_since_ms: Option<u64>,
    /// The last look at the whole cluster that counted.
    pub last_look_ms: Option<u64>,
    /// The leader while it has been good.
    pub leader: Option<NodeAlias>,
    /// How often it began again.
    pub restarts: u32,
    /// What the gates said in the last sample.
    pub findings: Vec<Finding>,
}

impl Soak {
    /// Returns how long it has been good, as far as looks prove it.
    pub fn soaked_ms(&self) -> Option<u64> {
        Some(self.last_look_ms?.saturating_sub(self.good_since_ms?))
    }
}

impl View {
    /// Judges one sample: every look counts, so that a bad one between two good ones is not missed.
    pub(super) fn sample(&mut self, state: &State, cluster: &ClusterId, now_ms: u64, look: bool) {
        let Some(rollout) = state.active(cluster) else { return };
        let waiting = rollout
            .hosts
            .iter()
            .find(|h| h.in_turn() && h.phase == grayfin_types::status::HostPhase::Recovering);
        let Some((run, token)) = waiting.and_then(|run| Some((run, run.token?))) else {
            self.soaks.remove(&rollout.id);
            return;
        };
        let findings = gates::after(state, self, rollout, &run.host, now_ms);
        let good = findings.iter().all(gates::passes) || crate::mutation::is("s7-soak-goes-on");
        let leader = self
            .clusters
            .get(cluster)
            .and_then(|c| c.facts.as_ref())
            .and_then(|seen| seen.value.leader.known().cloned());
        let before = self.soaks.remove(&rollout.id).filter(|soak| {
            soak.host == run.host && soak.token == token && soak.attempt == run.attempt
        });
        let mut soak = before.unwrap_or_else(|| Soak {
            host: run.host.clone(),
            token,
            attempt: run.attempt,
            began_ms: now_ms,
            good_since_ms: None,
            last_look_ms: None,
            leader: None,
            restarts: 0,
            findings: Vec::new(),
        });
        // A leader change or a hole in the looks begins it anew as well as a bad sample does.
        let hole = soak
            .last_look_ms
            .is_some_and(|last| now_ms.saturating_sub(last) > rollout.plan.policy.fact_age_max_ms);
        if soak.good_since_ms.is_some() && (!good || hole || soak.leader != leader) {
            soak.good_since_ms = None;
            soak.restarts = soak.restarts.saturating_add(1);
        }
        if good && look {
            soak.good_since_ms.get_or_insert(now_ms);
            soak.last_look_ms = Some(now_ms);
        }
        soak.leader = leader;
        soak.findings = findings;
        self.soaks.insert(rollout.id.clone(), soak);
    }
}
