//! Which host is next: hosts without the leading DolphinDB controller first, the leader's last.
//!
//! The leader is read again before each choice, for it moves: then at most one change of leadership
//! is caused when nothing else goes wrong.

use grayfin_types::{HostId, NodeAlias, gate::Reason};

use crate::{
    gates::{Input, Moment},
    state::{Rollout, State},
    topology::Topology,
    view::View,
};

/// A host and why it is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub host: HostId,
    /// Why, in a person's words.
    pub reason: String,
}

/// Chooses among the hosts that are left. None when none is left.
pub fn next(
    state: &State,
    view: &View,
    rollout: &Rollout,
    now_ms: u64,
) -> Result<Option<Choice>, Vec<Reason>> {
    let left: Vec<&HostId> = rollout.hosts.iter().filter(|h| !h.ended()).map(|h| &h.host).collect();
    let Some(first) = left.first() else { return Ok(None) };
    let input = Input::of_rollout(state, view, rollout, Moment::Grant, None, now_ms);
    let leader = input.leader().map_err(|reason| vec![reason])?;
    let topology = Topology::read(state, view, &rollout.cluster);
    let leads = topology.host_of(leader);
    let reason = |host: &HostId| why(Some(host) == leads, leader, left.len());
    let choice = left.iter().find(|host| Some(**host) != leads).unwrap_or(first);
    Ok(Some(Choice { host: (*choice).clone(), reason: reason(choice) }))
}

/// Says why a host stands where it stands.
pub fn why(leads: bool, leader: &NodeAlias, left: usize) -> String {
    match (leads, left) {
        (true, 1) => format!(
            "last: it keeps the leading DolphinDB controller `{leader}`, so leadership changes once at most"
        ),
        (true, _) => format!("it keeps the leading DolphinDB controller `{leader}`"),
        (false, _) => {
            format!("it does not keep the leading DolphinDB controller, which is `{leader}` now")
        }
    }
}
