//! Whether a host's state is proven, so that an operator may readmit it (S8).

use grayfin_types::{
    ClusterId, Code, HostId, Token,
    facts::{HostFacts, Probe, ProcessState},
    gate::Reason,
    plan::Policy,
};

use crate::{
    cmd::{Action, Response},
    gates::reason,
    state::{Enrolment, State},
    view::View,
};

/// Judges whether a host can be readmitted now. What stands against it is returned; otherwise the
/// operator's act, to be proposed. That nothing runs which its host agent began is that agent's to
/// see to before it takes the act in.
pub fn prove(
    state: &State,
    view: &View,
    cluster: &ClusterId,
    host: &HostId,
    now_ms: u64,
) -> Result<Action, Vec<Reason>> {
    let enrolment = state.hosts.get(host).filter(|e| e.clusters.contains(cluster));
    let Some(enrolment) = enrolment else {
        return Err(vec![reason(
            Code::NoSuchObject,
            host.to_string(),
            format!("no host agent `{host}` of cluster `{cluster}` is enrolled"),
            "`grayfin hosts` lists all",
        )]);
    };
    let Some(connection) = view.hosts.get(host).and_then(|h| h.connection.as_ref()) else {
        return Err(vec![not_connected(host, "what is true on its host is not known")]);
    };
    let mut against = Vec::new();
    for own in &enrolment.clusters {
        against.extend(unproven(view, enrolment, own, now_ms));
    }
    let mut floor = state.last_token;
    for other in others(state, enrolment) {
        match floor_of(view, other) {
            Some(of_other) => floor = floor.max(of_other),
            None => {
                against.push(not_connected(&other.host, "which tokens it refuses is not known"));
            }
        }
    }
    if !against.is_empty() {
        return Err(against);
    }
    let closes = enrolment.clusters.iter().find_map(|own| view.open_hold(host, own));
    let (host, ledger) = (host.clone(), connection.ledger_id.clone());
    Ok(Action::Readmit { host, ledger, floor, closes })
}

/// Says why a host is not readmitted.
pub fn refusal(host: &HostId, against: &[Reason]) -> Response {
    let code = against.first().map_or(Code::FactUnknown, |why| why.code);
    let words: Vec<String> = against
        .iter()
        .map(|why| format!("`{}`: {}; {}", why.subject, why.evidence, why.remedy))
        .collect();
    Response::refused(code, format!("the state of `{host}` is not proven: {}", words.join("; ")))
}

/// Returns the other host agents that share a cluster with this one.
fn others<'a>(state: &'a State, of: &'a Enrolment) -> impl Iterator<Item = &'a Enrolment> {
    state
        .hosts
        .values()
        .filter(|e| e.host != of.host && e.gone.is_none() && !e.clusters.is_disjoint(&of.clusters))
}

/// Returns the largest token that a connected host agent refuses or works under.
fn floor_of(view: &View, of: &Enrolment) -> Option<Token> {
    let fences = &view.hosts.get(&of.host)?.connection.as_ref()?.fences;
    let said = fences.values().map(|fence| fence.floor.max(fence.open_hold.unwrap_or_default()));
    said.max()
}

/// Says what is not proven of a host's nodes of one cluster.
fn unproven(view: &View, enrolment: &Enrolment, cluster: &ClusterId, now_ms: u64) -> Vec<Reason> {
    let host = &enrolment.host;
    let limit_ms = Policy::default().fact_age_max_ms;
    let seen = view.facts(host, cluster);
    let Some(seen) = seen.filter(|seen| now_ms.saturating_sub(seen.at_ms) <= limit_ms) else {
        return vec![reason(
            Code::FactStale,
            host.to_string(),
            format!("its host agent has not looked at `{cluster}` for {limit_ms} ms"),
            "it looks by itself; if this stays, see the host agent's log",
        )];
    };
    nodes_of(&seen.value)
}

fn nodes_of(facts: &HostFacts) -> Vec<Reason> {
    let host = &facts.host;
    let mut against = Vec::new();
    let mut down = |alias: &str, evidence: String| {
        let remedy = format!("start `{alias}` on `{host}` and see its log, then readmit the host");
        against.push(reason(Code::NodeDown, alias.to_owned(), evidence, remedy));
    };
    if facts.nodes.is_empty() {
        down(host.as_str(), "its configuration names no node".to_owned());
    }
    for node in &facts.nodes {
        let alias = node.spec.alias.as_str();
        match (&node.process, &node.version) {
            (ProcessState::Running(_), Probe::Known(_)) => {}
            (ProcessState::Running(_), Probe::Unknown(why)) => {
                down(alias, format!("it does not answer: {why}"));
            }
            (ProcessState::Absent, _) => down(alias, "it has no process".to_owned()),
            (ProcessState::Unknown(why), _) => down(alias, format!("it may not run: {why}")),
        }
    }
    against
}

fn not_connected(host: &HostId, what: &str) -> Reason {
    reason(
        Code::AgentMissing,
        host.to_string(),
        format!("its host agent is not connected: {what}"),
        format!(
            "start the host agent on `{host}`; only if it is switched off for good, `grayfin hold attest {host}`"
        ),
    )
}
