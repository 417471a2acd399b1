//! Cluster-wide effects: which are needed, who brings them about, when they are undone (S10).

use grayfin_types::{
    Code, HostId, NodeAlias, Token,
    facts::Probe,
    gate::Reason,
    plan::{Effect, RecoveryPolicy},
    step::SequenceState,
};

use super::Work;
use crate::{
    cmd::Cmd,
    gates::reason,
    state::{Debt, HoldStage, State},
    view::View,
};

/// Between two orders about the same debt, and before one goes to another host agent.
const AGAIN_MS: u64 = 2_000;

impl Work<'_> {
    /// Has the effects recorded and brought about that a host's time down needs. True when all are in
    /// force.
    pub(super) fn effects_in_force(&mut self, token: Token) -> bool {
        let debts: Vec<&Debt> = self.state.debts_of(&self.rollout.cluster).collect();
        for effect in self.effects() {
            if !debts.iter().any(|debt| debt.token == token && debt.effect.is_alike(effect)) {
                let rollout = self.rollout.id.clone();
                self.commands.push(Cmd::RecordDebt { rollout, token, effect });
                return false;
            }
        }
        let mut all = true;
        for debt in debts {
            // What was there before an earlier host's turn comes back first: it is never read as it
            // is in between (S10).
            let what = if debt.token == token {
                "it is not brought about yet"
            } else {
                "it is left from an earlier hold and not undone yet"
            };
            if debt.token != token || !debt.in_force {
                all = false;
                self.wait(open(debt, what));
            }
        }
        all
    }

    fn effects(&self) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.rollout.plan.policy.recovery == RecoveryPolicy::Suspend {
            effects.push(Effect::SuspendedRecovery);
        }
        // Else a DolphinDB controller starts again what is stopped, in the middle of its host's turn.
        // Where the setting cannot be read, the interlock alone keeps nodes from starting (S6).
        let seen = self.view.clusters.get(&self.rollout.cluster).and_then(|c| c.facts.as_ref());
        if let Some(Probe::Known(original_s @ 1..)) =
            seen.map(|seen| &seen.value.restart_interval_s)
        {
            effects.push(Effect::RestartInterval { original_s: *original_s });
        }
        effects
    }
}

/// Makes the reason for a debt that is waited for.
pub(crate) fn open(debt: &Debt, what: &str) -> Reason {
    reason(
        Code::DebtOpen,
        debt.cluster.to_string(),
        format!("{what}: {}", debt.words()),
        "a connected host agent is asked until it succeeds; every DolphinDB controller must be reached",
    )
}

/// Orders what is due for every debt, whatever became of its rollout.
pub(super) fn drive(state: &State, view: &View, now_ms: u64) -> Vec<Cmd> {
    state.debts.iter().filter_map(|debt| next(state, view, debt, now_ms)).collect()
}

fn next(state: &State, view: &View, debt: &Debt, now_ms: u64) -> Option<Cmd> {
    let leader = leader(view, debt)?;
    let asked = view.debts.get(&(debt.id, debt.token, debt.attempts)).copied().unwrap_or(now_ms);
    let rested = debt.attempts == 0 || now_ms.saturating_sub(asked) >= AGAIN_MS;
    let recorded = view.debts.get(&(debt.id, debt.token, 0)).copied().unwrap_or(now_ms);
    let overdue = now_ms.saturating_sub(recorded) >= debt.limit_ms;
    let pay = overdue || !is_needed(state, debt);
    let wanted = match &debt.order {
        Some((_, _, paying)) if *paying != pay => true,
        Some((host, _, _)) => !view.is_connected(host) && rested,
        None if pay => rested || debt.problem.is_none(),
        // Another leader does not know of it (S10).
        None => {
            let lost = debt.leader.as_ref() != Some(&leader);
            (!debt.in_force && rested) || (debt.in_force && lost)
        }
    };
    let host = wanted.then(|| payer(state, view, debt)).flatten()?;
    Some(Cmd::OrderDebt { debt: debt.id, host, pay, leader })
}

/// Tells whether the host for which an effect was brought about still needs it: it is about to be
/// held, worked on, or failed. One that is up, or was not touched, does not.
fn is_needed(state: &State, debt: &Debt) -> bool {
    let Some(held) = state.holds.values().find(|h| h.token == debt.token) else { return false };
    let Some(rollout) = state.rollouts.get(&held.rollout) else { return false };
    match (held.stage, rollout.host(&held.host).and_then(|run| run.sequence.as_ref())) {
        (HoldStage::Closing, _) => false,
        (HoldStage::Asking, _) => true,
        (
            HoldStage::Held,
            Some(
                SequenceState::Up
                | SequenceState::Refused { .. }
                | SequenceState::Undone { .. }
                | SequenceState::Closed,
            ),
        ) => false,
        (
            HoldStage::Held,
            None | Some(SequenceState::Running { .. } | SequenceState::Failed { .. }),
        ) => true,
    }
}

fn leader(view: &View, debt: &Debt) -> Option<NodeAlias> {
    let seen = view.clusters.get(&debt.cluster)?.facts.as_ref()?;
    match &seen.value.leader {
        Probe::Known(leader) => Some(leader.clone()),
        Probe::Unknown(_) => None,
    }
}

/// Chooses who is asked: never the held host where another one is there.
fn payer(state: &State, view: &View, debt: &Debt) -> Option<HostId> {
    let held = state.holds.values().find(|h| h.token == debt.token).map(|h| &h.host);
    let fit: Vec<&HostId> = state
        .hosts_of(&debt.cluster)
        .filter(|e| e.amnesic.is_none() && view.is_connected(&e.host))
        .map(|e| &e.host)
        .collect();
    let last = debt.order.as_ref().map(|(host, _, _)| host);
    let observer = view.clusters.get(&debt.cluster)?.observer.as_ref().map(|o| &o.host);
    let others: Vec<&HostId> = fit.iter().copied().filter(|h| Some(*h) != held).collect();
    others
        .iter()
        .copied()
        .find(|h| Some(*h) == observer && Some(*h) != last)
        .or_else(|| others.first().copied())
        .or_else(|| fit.first().copied())
        .cloned()
}
