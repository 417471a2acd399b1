//! What must hold in every state, whatever happened. Checked in tests, in the simulator, and after
//! each command in production (the driver reports a violation and stops deciding).

use std::collections::BTreeSet;

use grayfin_types::{
    HostId, OrderNumber, Token,
    status::{HostPhase, RolloutState},
};

use crate::{
    hold,
    state::{HoldStage, OrderKind, State},
};

/// The invariants, one line each.
pub const ALL: &[(&str, &str)] = &[
    ("I1", "no cluster is covered by two holds (S1)"),
    ("I2", "a hold is in force only when every host agent asked has promised (S2)"),
    ("I3", "the last token never decreases, and no hold or order carries a larger one (S2)"),
    (
        "I4",
        "a finished rollout has no hold; only closes, canary stops, debts and aborts of a broken hold stay",
    ),
    ("I5", "a plan names each host once"),
    ("I6", "order numbers grow within an outbox and never pass the last one given"),
    ("I7", "a rollout's events are numbered without a gap from 1"),
    ("I8", "work is ordered only under a hold in force; a broken one may be told to abort (S3)"),
    ("I9", "at most one host of a rollout is in turn, and a hold exists exactly then"),
    ("I10", "a cluster has at most one unfinished rollout"),
    ("I11", "no host is worked on before the baseline was taken (S7)"),
    ("I12", "only a disturbed host has a go, and it keeps its hold (S3)"),
];

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub id: &'static str,
    /// What was seen.
    pub detail: String,
}

struct Checker {
    found: Vec<Violation>,
}

impl Checker {
    fn expect(&mut self, id: &'static str, holds: bool, detail: impl FnOnce() -> String) {
        if !holds {
            self.found.push(Violation { id, detail: detail() });
        }
    }
}

/// Checks a state by itself.
pub fn check(state: &State) -> Vec<Violation> {
    let mut checker = Checker { found: Vec::new() };
    check_holds(state, &mut checker);
    check_outboxes(state, &mut checker);
    check_rollouts(state, &mut checker);
    checker.found
}

/// Checks a step from a state whose last token was `before`.
pub fn check_step(before: Token, state: &State) -> Vec<Violation> {
    let mut checker = Checker { found: Vec::new() };
    checker.expect("I3", state.last_token >= before, || {
        format!("the last token went from {before} to {}", state.last_token)
    });
    checker.found
}

fn check_holds(state: &State, checker: &mut Checker) {
    for (cluster, held) in &state.holds {
        if held.stage != HoldStage::Asking {
            let other = hold::conflict(state, cluster, &held.covers)
                .filter(|other| other.stage != HoldStage::Asking);
            checker.expect("I1", other.is_none(), || {
                format!("holds on `{}` and {other:?} cover the same cluster", held.host)
            });
            let all = held.promises.iter().all(|p| p.promised);
            checker.expect("I2", all, || {
                format!("token {} is in force without all promises", held.token)
            });
        }
        checker.expect("I3", held.token <= state.last_token, || {
            format!("hold token {} is beyond {}", held.token, state.last_token)
        });
        let rollout = state.rollouts.get(&held.rollout);
        let fits = rollout.is_some_and(|r| {
            &r.cluster == cluster
                && !r.state.is_final()
                && r.host(&held.host).is_some_and(|run| run.token == Some(held.token))
        });
        checker.expect("I9", fits, || {
            format!("the hold on `{}` belongs to no host in turn", held.host)
        });
    }
}

fn check_outboxes(state: &State, checker: &mut Checker) {
    for enrolment in state.hosts.values() {
        for (cluster, outbox) in &enrolment.outboxes {
            let mut before = OrderNumber(0);
            for order in &outbox.pending {
                checker.expect("I6", order.number > before && order.number <= outbox.last, || {
                    format!("order {} to `{}` is out of turn", order.number, enrolment.host)
                });
                before = order.number;
                let works = matches!(
                    order.kind,
                    OrderKind::Run | OrderKind::Retry | OrderKind::Undo | OrderKind::Abort
                );
                let in_force = state.holds.get(cluster).is_some_and(|held| {
                    held.token == order.token
                        && held.host == enrolment.host
                        && held.stage != HoldStage::Asking
                });
                let broken = state.broken.iter().any(|b| {
                    b.token == order.token
                        && b.host == enrolment.host
                        && order.kind == OrderKind::Abort
                });
                checker.expect("I8", !works || in_force || broken, || {
                    format!("order {} to `{}` has no hold in force", order.number, enrolment.host)
                });
                let over = state.rollouts.get(&order.rollout).is_none_or(|r| r.state.is_final());
                let may_stay = broken
                    || matches!(
                        order.kind,
                        OrderKind::Close | OrderKind::CanaryStop | OrderKind::Debt
                    );
                checker.expect("I4", !over || may_stay, || {
                    format!("order {} to `{}` outlived its rollout", order.number, enrolment.host)
                });
            }
        }
    }
}

fn check_rollouts(state: &State, checker: &mut Checker) {
    let mut busy = BTreeSet::new();
    for rollout in state.rollouts.values() {
        let named: BTreeSet<&HostId> = rollout.plan.hosts.iter().map(|h| &h.host).collect();
        checker.expect("I5", named.len() == rollout.hosts.len(), || {
            format!("rollout `{}` names a host twice", rollout.id)
        });
        let first = !rollout.last_hash.is_empty() || rollout.last_seq.0 == 0;
        checker
            .expect("I7", first, || format!("rollout `{}` has events without a hash", rollout.id));
        let held = state.hold_of(&rollout.id);
        if rollout.state.is_final() {
            checker.expect("I4", held.is_none(), || {
                format!("rollout `{}` is {} and holds a host", rollout.id, rollout.state)
            });
            continue;
        }
        checker.expect("I10", busy.insert(&rollout.cluster), || {
            format!("`{}` has two unfinished rollouts", rollout.cluster)
        });
        let in_turn: Vec<_> = rollout.hosts.iter().filter(|h| h.in_turn()).collect();
        let fits = match (held, in_turn.as_slice()) {
            (None, []) => true,
            (Some(held), [run]) => held.host == run.host && run.token == Some(held.token),
            (Some(_), _) | (None, [_, ..]) => false,
        };
        checker.expect("I9", fits, || {
            let hosts: Vec<_> = in_turn.iter().map(|h| h.host.as_str()).collect();
            format!("rollout `{}` has {hosts:?} in turn with hold {held:?}", rollout.id)
        });
        let working = rollout.hosts.iter().any(|h| matches!(h.phase, HostPhase::Working { .. }));
        checker.expect("I11", !working || rollout.baseline.is_some(), || {
            format!("rollout `{}` works without a baseline", rollout.id)
        });
        for run in rollout.hosts.iter().filter(|h| h.disturbed) {
            let in_force =
                held.is_some_and(|held| held.host == run.host && held.stage != HoldStage::Asking);
            checker.expect("I12", in_force, || {
                format!("`{}` is disturbed without a hold in force", run.host)
            });
        }
        let over = rollout.state == RolloutState::Verifying && held.is_some();
        checker.expect("I4", !over, || {
            format!("rollout `{}` is at its final check and holds a host", rollout.id)
        });
    }
}
