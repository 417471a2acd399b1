//! Making a plan.

use grayfin_types::plan::{PlanAnswer, PlanRequest, Policy};

use crate::{Hasher, State, View};

/// Makes a plan, or says what stands against it. `policy` is the cluster's, from the
/// configuration; what the request says goes before it.
pub fn build(
    state: &State,
    view: &View,
    request: &PlanRequest,
    policy: &Policy,
    hasher: Hasher<'_>,
    now_ms: u64,
) -> PlanAnswer {
    let _ = (state, view, request, policy, hasher, now_ms);
    PlanAnswer { plan: None, findings: Vec::new(), ready: false }
}
