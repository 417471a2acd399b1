//! The ways out: which verbs make sense in which state, and what remains where there is no way back.

use grayfin_types::{
    ClusterId, HostId,
    facts::NodeRole,
    status::{HostPhase, RolloutState},
    step::{SequenceState, Step},
};

use crate::state::{HostRun, Rollout, Staging, State};

/// What an operator can do about a rollout as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// `grayfin rollout watch`: it goes on by itself.
    Watch,
    /// `grayfin rollout pause`.
    Pause,
    /// `grayfin rollout resume`.
    Resume,
    /// `grayfin rollout retry`.
    Retry,
    /// `grayfin rollout skip`.
    Skip,
    /// `grayfin rollout rollback-host`.
    RollbackHost,
    /// `grayfin rollout abort`.
    Abort,
}

impl Verb {
    /// Returns the word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry => "retry",
            Self::Skip => "skip",
            Self::RollbackHost => "rollback-host",
            Self::Abort => "abort",
        }
    }
}

/// Returns the verbs that make sense now, the most likely one first. Each one is accepted.
pub fn possible(state: &State, rollout: &Rollout) -> Vec<Verb> {
    match rollout.state {
        RolloutState::Staging | RolloutState::Running => {
            vec![Verb::Watch, Verb::Pause, Verb::Abort]
        }
        RolloutState::Paused => vec![Verb::Resume, Verb::Abort],
        RolloutState::Aborting | RolloutState::Verifying => vec![Verb::Watch],
        RolloutState::Succeeded | RolloutState::Incomplete | RolloutState::Aborted => Vec::new(),
        RolloutState::Failed => {
            let open = state.broken.iter().any(|b| b.rollout == rollout.id && !b.settled);
            // The host whose hold was broken is told to come up; then its hold is closed.
            if open { vec![Verb::Abort] } else { Vec::new() }
        }
        RolloutState::Halted => halted(state, rollout),
    }
}

fn halted(state: &State, rollout: &Rollout) -> Vec<Verb> {
    let in_turn = rollout.hosts.iter().find(|h| h.in_turn());
    let old = state.hold_of(&rollout.id).is_some_and(|held| held.put_back_since);
    let unstaged =
        rollout.hosts.iter().any(|h| !h.ended() && matches!(h.staging, Staging::Failed { .. }));
    match in_turn {
        Some(run) if is_busy(run) => vec![Verb::Watch, Verb::Abort],
        Some(run) => match &run.sequence {
            Some(SequenceState::Up) => vec![Verb::Resume, Verb::Abort],
            Some(SequenceState::Failed { first_start: false, .. }) if old => {
                vec![Verb::RollbackHost, Verb::Abort]
            }
            Some(SequenceState::Failed { first_start: false, .. }) => {
                vec![Verb::Retry, Verb::RollbackHost, Verb::Abort]
            }
            Some(SequenceState::Failed { .. }) => vec![Verb::Retry, Verb::Abort],
            Some(SequenceState::Refused { .. } | SequenceState::Undone { .. }) => {
                vec![Verb::Retry, Verb::Skip, Verb::Abort]
            }
            Some(SequenceState::Running { .. } | SequenceState::Closed) | None if old => {
                vec![Verb::Abort]
            }
            Some(SequenceState::Running { .. } | SequenceState::Closed) | None => {
                vec![Verb::Retry, Verb::Abort]
            }
        },
        None if unstaged => vec![Verb::Retry, Verb::Skip, Verb::Abort],
        None => vec![Verb::Resume, Verb::Abort],
    }
}

/// Tells whether the host's agent works on an order: its outcome decides what is possible next.
pub fn is_busy(run: &HostRun) -> bool {
    matches!(run.phase, HostPhase::Working { .. } | HostPhase::Closing)
}

/// Tells whether a host runs the old version, or what it did is undone.
pub(crate) const fn is_as_before(run: &HostRun) -> bool {
    matches!(run.sequence, Some(SequenceState::Refused { .. } | SequenceState::Undone { .. }))
}

/// Tells whether a retry is possible under a hold of a time before the coordinators' state was put back:
/// only to bring the host up, or to begin anew with another token.
pub(crate) const fn retries_old(run: &HostRun) -> bool {
    let forward = matches!(
        run.sequence,
        Some(SequenceState::Up | SequenceState::Failed { first_start: true, .. })
    );
    forward || is_as_before(run)
}

/// Writes what is possible as commands.
pub fn commands(state: &State, rollout: &Rollout) -> Vec<String> {
    let id = &rollout.id;
    let verbs = possible(state, rollout);
    if !verbs.is_empty() {
        return verbs.iter().map(|verb| format!("grayfin rollout {} {id}", verb.word())).collect();
    }
    if rollout.state == RolloutState::Succeeded {
        return vec![format!("grayfin rollout status {id}")];
    }
    vec![format!("grayfin rollout start {} --to {}", rollout.cluster, rollout.plan.target)]
}

/// Says how a host whose agent may only look, or has a hold open that nobody knows, comes back (S8).
pub fn readmission(cluster: &ClusterId, host: &HostId, held: bool) -> String {
    let first = if held {
        format!("break its hold (`grayfin hold break {cluster}`), bring")
    } else {
        "bring".to_owned()
    };
    format!(
        "put the newest copy of its ledger back; or {first} every node of it up, see that nothing half-done is left on it, and `grayfin host readmit {cluster}/{host}`"
    )
}

/// Tells whether the new version may have been started on a host: then there is no way back (S12).
pub fn started_new(run: &HostRun) -> bool {
    matches!(
        run.sequence,
        Some(
            SequenceState::Failed { first_start: true, .. }
                | SequenceState::Up
                | SequenceState::Running { step: Step::Start | Step::Join }
        )
    )
}

/// Says what remains possible after the first start, node by node (S12).
pub fn forward(rollout: &Rollout, run: &HostRun) -> Vec<String> {
    let planned = rollout.plan.host(&run.host);
    let mut lines: Vec<String> = planned
        .iter()
        .flat_map(|host| &host.nodes)
        .map(|node| format!("{} `{}`: {}", node.role, node.alias, of_role(node.role)))
        .collect();
    if let Some((name, _)) = run.backup.as_ref().filter(|(name, _)| !name.is_empty()) {
        lines.push(format!(
            "the backup `{name}` on `{}` has every file as it was before the upgrade; metadata of it that is put back is older than the cluster, so its DolphinDB controller must catch up from the leader",
            run.host
        ));
    }
    lines
}

const fn of_role(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Controller => {
            "mend the cause and retry; if its metadata cannot be read, it can be rebuilt from the leading DolphinDB controller (untried on a real server)"
        }
        NodeRole::DataNode => {
            "mend the cause and retry; if its storage cannot be read, it can be filled again from the replicas on other hosts (untried on a real server)"
        }
        NodeRole::DdbAgent | NodeRole::ComputeNode => {
            "mend the cause and retry; it keeps no data of its own and can be installed anew"
        }
    }
}
