//! Gates (being filled).

use grayfin_types::{
    Code, HostId,
    gate::{Decision, Finding, Reason},
};

use crate::{State, View, state::Rollout};

/// Makes a reason.
pub fn reason(
    code: Code,
    subject: impl Into<String>,
    evidence: impl Into<String>,
    remedy: impl Into<String>,
) -> Reason {
    Reason { code, subject: subject.into(), evidence: evidence.into(), remedy: remedy.into() }
}

/// Tells whether a finding lets pass: the gate says go, or an operator set it aside.
pub fn passes(finding: &Finding) -> bool {
    finding.overridden.is_some() || finding.decision == Decision::Go
}

/// The gates after a host (S7).
pub fn after(
    state: &State,
    view: &View,
    rollout: &Rollout,
    host: &HostId,
    now_ms: u64,
) -> Vec<Finding> {
    let _ = (state, view, rollout, host, now_ms);
    Vec::new()
}
