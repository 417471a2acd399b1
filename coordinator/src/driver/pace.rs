//! How soon to look again: a rollout that waits for something to be seen must not lose time to the
//! look interval, and one that waits for hours must not be looked at ten times a second.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use grayfin_coordinator_core::{
    Decision, State, View,
    decide::Look,
    state::{HostRun, Rollout},
};
use grayfin_types::{
    ClusterId, HostId, RolloutId,
    status::{HostPhase, RolloutState},
};

/// The shortest time between two looks. With looks this close, half of it is lost on average.
const SHORTEST: Duration = Duration::from_millis(50);

/// A wait is looked at again after this part of the time that it has taken so far: looking then
/// costs at most a twentieth of the time that is waited anyway.
const PART: u32 = 20;

/// What a rollout waits at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    state: RolloutState,
    turn: Option<(HostId, HostPhase)>,
}

/// Remembers since when rollouts wait where they are.
#[derive(Debug, Default)]
pub(crate) struct Pacer {
    places: BTreeMap<RolloutId, (Place, Instant)>,
}

impl Pacer {
    /// Returns after which time each waiting cluster is to be looked at again; also asks the host
    /// that is in turn for looks at itself.
    pub(crate) fn pace(
        &mut self,
        state: &State,
        view: &View,
        decision: &mut Decision,
        now_ms: u64,
        look_interval: Duration,
    ) -> BTreeMap<ClusterId, Duration> {
        let mut pace = BTreeMap::new();
        self.places.retain(|id, _| state.rollouts.get(id).is_some_and(|r| !r.state.is_final()));
        let Decision { waiting, wanted, .. } = decision;
        for id in waiting.keys() {
            let Some(rollout) = state.rollouts.get(id) else { continue };
            let turn = rollout.hosts.iter().find(|run| run.in_turn());
            if !waits_for_looks(rollout, turn) {
                continue;
            }
            let waited = self.waited(rollout, turn);
            let soaking = turn.and_then(|_| soak_left(view, rollout, now_ms));
            let gap = soaking.unwrap_or(waited / PART).clamp(SHORTEST, look_interval);
            pace.insert(rollout.cluster.clone(), gap);
            if let Some(run) = turn {
                ask_host(&mut wanted.looks, run, &rollout.cluster);
            }
        }
        pace
    }

    fn waited(&mut self, rollout: &Rollout, turn: Option<&HostRun>) -> Duration {
        let place = Place {
            state: rollout.state,
            turn: turn.map(|run| (run.host.clone(), run.phase.clone())),
        };
        let now = Instant::now();
        let entry = self.places.entry(rollout.id.clone()).or_insert_with(|| (place.clone(), now));
        if entry.0 != place {
            *entry = (place, now);
        }
        now.duration_since(entry.1)
    }
}

/// Tells whether the next thing to happen depends on what is seen.
fn waits_for_looks(rollout: &Rollout, turn: Option<&HostRun>) -> bool {
    match rollout.state {
        RolloutState::Running | RolloutState::Paused => match turn.map(|run| &run.phase) {
            None => rollout.state == RolloutState::Running,
            Some(HostPhase::Granting | HostPhase::Recovering) => true,
            Some(
                HostPhase::Waiting
                | HostPhase::Staged
                | HostPhase::Working { .. }
                | HostPhase::Closing
                | HostPhase::Done
                | HostPhase::Skipped
                | HostPhase::Failed,
            ) => false,
        },
        RolloutState::Verifying => true,
        RolloutState::Staging
        | RolloutState::Halted
        | RolloutState::Aborting
        | RolloutState::Succeeded
        | RolloutState::Incomplete
        | RolloutState::Aborted
        | RolloutState::Failed => false,
    }
}

/// Returns how long a soak that goes well still takes: its last look has to come then.
fn soak_left(view: &View, rollout: &Rollout, now_ms: u64) -> Option<Duration> {
    let since = view.soaks.get(&rollout.id)?.good_since_ms?;
    let end = since.saturating_add(rollout.plan.policy.soak_ms);
    Some(Duration::from_millis(end.saturating_sub(now_ms)))
}

fn ask_host(looks: &mut Vec<Look>, run: &HostRun, cluster: &ClusterId) {
    if !looks.iter().any(|l| l.host == run.host && &l.cluster == cluster) {
        looks.push(Look {
            host: run.host.clone(),
            cluster: cluster.clone(),
            whole_cluster: false,
            chunks: false,
            package: None,
        });
    }
}
