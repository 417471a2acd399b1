//! How long each step may take: every wait has a limit.

use grayfin_types::{plan::Policy, step::Step};

/// For S4 from this host: probes of every node that is counted on, side by side, each with a limit
/// of a few seconds of its own. A minute is ten times that.
const GUARD_MS: u64 = 60_000;

/// On top of each limit, for what surrounds the step itself: looking at processes, a go (30 s).
const MARGIN_MS: u64 = 60_000;

/// What a step, or its undoing, may take in all, in milliseconds. `nodes` is the number of nodes on
/// the host.
pub fn of(step: Step, undo: bool, policy: &Policy, nodes: usize) -> u64 {
    let nodes = u64::try_from(nodes).unwrap_or(u64::MAX).max(1);
    // Nodes start side by side, except that the DolphinDB agent waits for the controller and data
    // nodes for both: three waves at most.
    let starting = policy.start_timeout_ms.saturating_mul(nodes.min(3));
    let own = match (step, undo) {
        // Copies and unpacks as much as a backup and an upgrade do.
        (Step::Stage, _) => policy.backup_timeout_ms.saturating_add(policy.upgrade_timeout_ms),
        (Step::Guard, _) => GUARD_MS,
        (Step::Quiesce | Step::Stop, false) => policy.stop_timeout_ms,
        (Step::Quiesce, true) => {
            starting.saturating_add(policy.join_timeout_ms).saturating_add(policy.late_stop_ms)
        }
        (Step::Stop, true) | (Step::Start, _) => starting,
        (Step::Backup, _) => policy.backup_timeout_ms,
        (Step::Upgrade, _) => policy.upgrade_timeout_ms,
        (Step::Join, _) => policy.join_timeout_ms.saturating_add(policy.late_stop_ms),
    };
    own.saturating_add(MARGIN_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_a_limit_and_silly_policies_do_not_overflow() {
        let silly = Policy { start_timeout_ms: u64::MAX, ..Policy::default() };
        for step in Step::ALL {
            for undo in [false, true] {
                assert!(of(step, undo, &Policy::default(), 4) > MARGIN_MS);
                assert!(of(step, undo, &silly, usize::MAX) > MARGIN_MS);
            }
        }
    }
}
