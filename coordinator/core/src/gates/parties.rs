//! Gates about who takes part: host agents, their facts, the nodes that they claim.

use std::collections::BTreeSet;

use grayfin_types::{
    Code, NodeAlias,
    facts::{NodeRole, Probe, ProcessState},
};

use super::{Input, Moment, Verdict, reason};
use crate::{hold, mutation, ways};

pub(super) fn cluster_free(input: &Input<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    if let Some(active) = input.state.active(input.cluster) {
        verdict.stop(reason(
            Code::ClusterBusy,
            input.cluster.to_string(),
            format!("rollout `{}` to {} is {}", active.id, active.plan.target, active.state),
            format!(
                "wait for its end (`grayfin rollout watch {}`), or `grayfin rollout abort {}`",
                active.id, active.id
            ),
        ));
    }
    verdict
}

pub(super) fn agents_connected(input: &Input<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let mut any = false;
    for enrolment in input.state.hosts_of(input.cluster) {
        any = true;
        let host = &enrolment.host;
        if let Some(why) = &enrolment.amnesic {
            verdict.stop(reason(
                Code::AgentAmnesic,
                host.to_string(),
                format!("its host agent may only look: {why}"),
                ways::readmission(input.cluster, host, false),
            ));
        } else if !input.view.is_connected(host) {
            let lost = input.view.hosts.get(host).and_then(|h| h.lost_ms);
            let since = lost.map_or_else(
                || "since this coordinator leads".to_owned(),
                |lost| format!("for {} ms", input.now_ms.saturating_sub(lost)),
            );
            let why = reason(
                Code::AgentMissing,
                host.to_string(),
                format!("its host agent is not connected, {since}"),
                format!(
                    "start the host agent on `{host}`; `grayfin hosts` shows who is connected; only if the host is switched off for good: `grayfin hold attest {host}`"
                ),
            );
            verdict.stop_at_start(input, why);
        }
    }
    if !any {
        verdict.stop(reason(
            Code::AgentMissing,
            input.cluster.to_string(),
            "no host agent has an installation of this cluster",
            "start a host agent on each of its hosts; `grayfin hosts` shows the clusters that are known",
        ));
    }
    verdict
}

pub(super) fn holds_closed(input: &Input<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let own = input
        .rollout
        .and_then(|r| input.state.hold_of(&r.id))
        .map(|held| (held.host.clone(), held.token));
    let hosts = input.hosts.iter().chain(input.state.hosts_of(input.cluster).map(|e| &e.host));
    let covers: BTreeSet<_> =
        hosts.flat_map(|host| hold::covers(input.state, host, input.cluster)).collect();
    for enrolment in input.state.hosts.values().filter(|e| e.gone.is_none()) {
        for cluster in enrolment.clusters.intersection(&covers) {
            let Some(token) = input.view.open_hold(&enrolment.host, cluster) else { continue };
            let ours =
                own.as_ref().is_some_and(|(host, of)| *host == enrolment.host && *of == token);
            if ours {
                continue;
            }
            let host = &enrolment.host;
            let known = input.state.knows_hold(host, token);
            let whose = if known { "" } else { ", of which these coordinators know nothing" };
            verdict.hold(reason(
                Code::HoldOpen,
                host.to_string(),
                format!("its host agent has the hold with token {token} open for `{cluster}`{whose}"),
                if known {
                    "it is told to close it as soon as its nodes are up; `grayfin hold show` says more".to_owned()
                } else {
                    ways::readmission(cluster, host, false)
                },
            ));
        }
    }
    if let Some(other) = hold::conflict(input.state, input.cluster, &covers)
        && input.moment != Moment::Start
    {
        verdict.hold(reason(
            Code::HoldOpen,
            other.host.to_string(),
            format!("rollout `{}` holds a host that serves this cluster too", other.rollout),
            format!("it goes on when that host is done: `grayfin rollout watch {}`", other.rollout),
        ));
    }
    verdict
}

pub(super) fn facts_fresh(input: &Input<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for enrolment in input.state.hosts_of(input.cluster) {
        if let Err(why) = input.host_facts(&enrolment.host) {
            verdict.hold(why);
        }
    }
    if let Err(why) = input.nodes() {
        verdict.hold(why);
    }
    verdict
}

pub(super) fn nodes_claimed(input: &Input<'_>) -> Verdict {
    let nodes = match input.nodes() {
        Ok(nodes) => nodes,
        Err(why) => return Verdict::unknown(why),
    };
    let live: BTreeSet<NodeAlias> = nodes
        .iter()
        .filter(|n| n.up || n.answers == Probe::Known(true))
        .map(|n| n.spec.alias.clone())
        .collect();
    let mut topology = input.topology();
    for node in nodes {
        topology.configured.entry(node.spec.alias.clone()).or_insert_with(|| node.spec.clone());
    }
    // What a host that is attested as powered off had is claimed by nobody. One that lives disproves it.
    let gone = input.state.nodes_gone(input.cluster);
    topology.configured.retain(|alias, _| !gone.contains(alias));
    let mut verdict = Verdict::default();
    for why in topology.unclaimed(&live) {
        verdict.stop_at_start(input, why);
    }
    verdict
}

pub(super) fn config_equal(input: &Input<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let remedy = "make cluster.nodes the same everywhere; in a cluster with several DolphinDB controllers the live configuration is changed in its web page, not by editing files";
    let mut first: Option<(&grayfin_types::HostId, &String)> = None;
    for enrolment in input.state.hosts_of(input.cluster) {
        let facts = match input.host_facts(&enrolment.host) {
            Ok(facts) => facts,
            Err(why) => {
                verdict.hold(why);
                continue;
            }
        };
        match (&facts.nodes_digest, first) {
            (Probe::Unknown(why), _) => {
                verdict.hold(Input::unknown_at(&enrolment.host, "cluster.nodes", why));
            }
            (Probe::Known(digest), None) => first = Some((&enrolment.host, digest)),
            (Probe::Known(digest), Some((other, of_other))) if digest != of_other => {
                verdict.stop_at_start(
                    input,
                    reason(
                        Code::NodesDiffer,
                        enrolment.host.to_string(),
                        format!("its cluster.nodes is not the same as on `{other}`"),
                        remedy,
                    ),
                );
            }
            (Probe::Known(_), Some(_)) => {}
        }
    }
    match input.nodes() {
        Err(why) => verdict.hold(why),
        Ok(nodes) => {
            let live: BTreeSet<_> =
                nodes.iter().map(|n| (n.spec.alias.clone(), n.spec.role, n.spec.port)).collect();
            let files: BTreeSet<_> = input
                .topology()
                .configured
                .values()
                .map(|spec| (spec.alias.clone(), spec.role, spec.port))
                .collect();
            for (alias, role, port) in live.symmetric_difference(&files) {
                let place = if files.contains(&(alias.clone(), *role, *port)) {
                    "a host's cluster.nodes names it, the live configuration does not"
                } else {
                    "the live configuration names it, no host's cluster.nodes does"
                };
                let evidence = format!("{role} on port {port}: {place}");
                verdict.stop_at_start(
                    input,
                    reason(Code::NodesDiffer, alias.to_string(), evidence, remedy),
                );
            }
        }
    }
    verdict
}

pub(super) fn host_checks(input: &Input<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for enrolment in input.state.hosts_of(input.cluster) {
        let Ok(facts) = input.host_facts(&enrolment.host) else {
            // `facts-fresh` says so.
            continue;
        };
        for problem in &facts.problems {
            verdict.stop(reason(
                problem.code,
                format!("{}: {}", enrolment.host, problem.subject),
                problem.detail.clone(),
                format!(
                    "mend it on `{}`; docs/errors/{}.md says how",
                    enrolment.host, problem.code
                ),
            ));
        }
    }
    verdict
}

/// Every node is up: the leader counts it as alive, it answers the observer, and its own host
/// agent sees its process. While a host is down, its own nodes do not count.
pub(super) fn nodes_up(input: &Input<'_>) -> Verdict {
    let nodes = match input.nodes() {
        Ok(nodes) => nodes,
        Err(why) => return Verdict::unknown(why),
    };
    let mut verdict = Verdict::default();
    let mut down = match (input.moment, input.host()) {
        (Moment::Go, Some(host)) => match input.nodes_of(host) {
            Ok(nodes) => nodes,
            Err(why) => return Verdict::unknown(why),
        },
        (Moment::Go, None) | (Moment::Start | Moment::Grant | Moment::After, _) => BTreeSet::new(),
    };
    down.extend(input.state.nodes_gone(input.cluster));
    let mut report = |alias: &NodeAlias, role: NodeRole, evidence: String| {
        verdict.stop_at_start(
            input,
            reason(
                Code::NodeDown,
                alias.to_string(),
                format!("this {role} {evidence}"),
                format!("start `{alias}` and see its log; every node must be up before a host is taken down"),
            ),
        );
    };
    for node in nodes.iter().filter(|n| !down.contains(&n.spec.alias)) {
        let (alias, role) = (&node.spec.alias, node.spec.role);
        match &node.answers {
            _ if node.up && mutation::is("s9-contradiction-is-fine") => {}
            _ if !node.up => report(alias, role, "is not alive in the leader's eyes".to_owned()),
            Probe::Known(true) => {}
            Probe::Known(false) => report(alias, role, "does not answer".to_owned()),
            Probe::Unknown(why) => report(alias, role, format!("may not answer: {why}")),
        }
    }
    for enrolment in input.state.hosts_of(input.cluster) {
        let Some(seen) = input.view.facts(&enrolment.host, input.cluster) else { continue };
        if mutation::is("s9-contradiction-is-fine") {
            continue;
        }
        for node in seen.value.nodes.iter().filter(|n| !down.contains(&n.spec.alias)) {
            match &node.process {
                ProcessState::Running(_) => {}
                ProcessState::Absent => {
                    report(&node.spec.alias, node.spec.role, "has no process".to_owned());
                }
                ProcessState::Unknown(why) => {
                    report(&node.spec.alias, node.spec.role, format!("may have no process: {why}"));
                }
            }
        }
    }
    verdict
}
