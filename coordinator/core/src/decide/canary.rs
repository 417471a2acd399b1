//! Where the canary writes, and when it moves.

use grayfin_types::{HostId, status::RolloutState};

use super::Work;
use crate::{
    cmd::Cmd,
    state::{CanaryPhase, HoldStage, OrderKind},
};

impl Work<'_> {
    /// Keeps a writer running, on a host that is neither held nor about to be.
    pub(super) fn canary(&mut self, avoid: Option<&HostId>) {
        let rollout = self.rollout.id.clone();
        match &self.rollout.canary.phase {
            CanaryPhase::Off | CanaryPhase::Ended => {}
            CanaryPhase::Idle => {
                let may =
                    matches!(self.rollout.state, RolloutState::Running | RolloutState::Paused);
                if may && let Some(host) = self.writer(avoid) {
                    self.commands.push(Cmd::CanaryStart { rollout, host });
                }
            }
            CanaryPhase::Writing { host } => {
                if self.lost(host) {
                    self.commands.push(Cmd::CanaryGiveUp { rollout });
                } else if Some(host) == avoid || self.is_held(host) {
                    self.commands.push(Cmd::CanaryStop { rollout, end: false });
                }
            }
            CanaryPhase::Starting { host } | CanaryPhase::Stopping { host } => {
                if self.lost(host) {
                    self.commands.push(Cmd::CanaryGiveUp { rollout });
                }
            }
        }
    }

    /// Brings the canary to its end. True when no writer runs any more.
    pub(super) fn canary_ended(&mut self) -> bool {
        let rollout = self.rollout.id.clone();
        match &self.rollout.canary.phase {
            CanaryPhase::Off | CanaryPhase::Ended => return true,
            CanaryPhase::Idle | CanaryPhase::Writing { .. } => {
                self.commands.push(Cmd::CanaryStop { rollout, end: true });
            }
            CanaryPhase::Starting { host } | CanaryPhase::Stopping { host } => {
                if self.lost(host) {
                    self.commands.push(Cmd::CanaryGiveUp { rollout });
                } else if matches!(self.rollout.canary.phase, CanaryPhase::Starting { .. }) {
                    self.commands.push(Cmd::CanaryStop { rollout, end: true });
                }
            }
        }
        false
    }

    /// Chooses a writer: a host that is done first, for it need not move again; else the one whose
    /// turn comes last.
    fn writer(&self, avoid: Option<&HostId>) -> Option<HostId> {
        let fit = |host: &HostId| {
            Some(host) != avoid
                && self.view.is_connected(host)
                && !self.is_held(host)
                && !self.rollout.canary.refused.contains_key(host)
                && self.state.hosts.get(host).is_some_and(|e| e.amnesic.is_none())
        };
        let hosts = &self.rollout.hosts;
        hosts
            .iter()
            .filter(|run| run.ended())
            .chain(hosts.iter().rev().filter(|run| !run.ended()))
            .map(|run| &run.host)
            .find(|host| fit(host))
            .cloned()
    }

    fn is_held(&self, host: &HostId) -> bool {
        self.state.holds.values().any(|h| h.stage != HoldStage::Asking && &h.host == host)
    }

    /// Tells whether a writer was not heard of for so long that another one must take over: its
    /// host agent is away, is there and says nothing, or will never be told: an amnesic one gets no
    /// orders, and one that enrolled anew has none of those that were given before.
    fn lost(&self, host: &HostId) -> bool {
        let patience_ms = self.rollout.plan.policy.fact_age_max_ms.saturating_mul(2);
        let phase = self.view.canary_phases.get(&self.rollout.id);
        let since = phase.map_or(self.now_ms, |seen| seen.at_ms);
        let heard = self
            .view
            .canaries
            .get(&self.rollout.id)
            .filter(|seen| seen.value.epoch == self.rollout.canary.epoch)
            .map_or(since, |seen| seen.at_ms.max(since));
        let enrolment = self.state.hosts.get(host);
        let amnesic = enrolment.is_none_or(|e| e.amnesic.is_some());
        // What an amnesic one still says of its writing does not mean that it can be told to stop.
        let heard = if amnesic { since } else { heard };
        let away = self.view.hosts.get(host).is_none_or(|h| h.connection.is_none());
        let awaits = |kind| {
            let (cluster, id) = (&self.rollout.cluster, &self.rollout.id);
            enrolment.is_some_and(|e| e.awaits(cluster, id, kind))
        };
        let silent = match self.rollout.canary.phase {
            CanaryPhase::Writing { .. } => true,
            CanaryPhase::Starting { .. } => !awaits(OrderKind::CanaryStart),
            CanaryPhase::Stopping { .. } => !awaits(OrderKind::CanaryStop),
            CanaryPhase::Off | CanaryPhase::Idle | CanaryPhase::Ended => false,
        };
        (away || amnesic || silent) && self.now_ms.saturating_sub(heard) > patience_ms
    }
}
