//! A state that is older than what has happened: it was put back from a backup, or is what one
//! coordinator has left of a group's.

use grayfin_types::{Code, Incarnation, RolloutId, Token, gate::Reason};

use super::{Applied, Applier, change};
use crate::{
    Hasher,
    cmd::Response,
    mutation,
    state::{HoldStage, State},
};

/// More tokens than a group allots in its life: one for each host of a rollout.
const TOKEN_LEAP: u64 = 1_000_000;

/// Makes an older state safe to go on with. Not a command: it is done to the files of a coordinator
/// that does not run, under an incarnation that an operator raised (S2).
///
/// - Tokens leap over every one that may have been allotted since.
/// - Rollouts that were under way are halted: hosts may be further than what is written here.
/// - A hold may have been closed since, and another host held. Under one that was in force nothing
///   goes down any more: its host comes up, its token is closed, and its turn comes again under a new
///   one, for which everybody must promise (S2, S3). One that was only asked for is given up.
pub fn put_back(
    state: &mut State,
    incarnation: Incarnation,
    why: &str,
    at_ms: u64,
    hasher: Hasher<'_>,
) -> Applied {
    let applied = change(state, at_ms, hasher, |applier| applier.begin_again(incarnation, why));
    debug_assert!(applied.violations.is_empty(), "{:?} after put_back", applied.violations);
    applied
}

impl Applier<'_> {
    fn begin_again(&mut self, incarnation: Incarnation, why: &str) -> Response {
        self.state.incarnation = incarnation;
        self.state.lease = None;
        self.state.last_token = Token(self.state.last_token.0.saturating_add(TOKEN_LEAP));
        let active = self.state.rollouts.values().filter(|r| !r.state.is_final());
        let active: Vec<RolloutId> = active.map(|r| r.id.clone()).collect();
        for id in active {
            self.drop_asking(&id);
            let reason = Reason {
                code: Code::GroupChange,
                subject: id.to_string(),
                evidence: why.to_owned(),
                remedy: "hosts may be further than this state knows: look at `grayfin hosts` and `grayfin hold show`, then resume or abort, and start a new rollout".to_owned(),
            };
            self.halt_by_decision(&id, &reason);
        }
        if mutation::is("s3-old-hold-goes-on") {
            return Response::Done;
        }
        for held in self.state.holds.values_mut() {
            held.put_back_since |= held.stage != HoldStage::Asking;
        }
        Response::Done
    }
}
