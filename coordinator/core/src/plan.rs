//! Making a plan: what stands against it, which host when, what stays alive meanwhile.

use std::collections::BTreeSet;

use grayfin_types::{
    Code, DdbVersion, HostId, NodeAlias,
    facts::{HostFacts, NodeRole, Probe},
    gate::{Decision, Finding, Reason},
    plan::{
        Compatibility, HostPlan, Override, Package, Plan, PlanAnswer, PlanRequest, Policy,
        StaysAlive,
    },
};

use crate::{
    Hasher, compat,
    gates::{self, Gate, Input, Moment, is_target, package_of, reason, version_of},
    order,
    state::State,
    view::View,
};

/// The step after which there is no way back by itself (S12).
pub const POINT_OF_NO_RETURN: &str = "start: the first start of the new version rewrites the metadata into its own form; before it every step is undone by itself, after it a host only goes forward";

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
    let target: DdbVersion = match request.target.parse() {
        Ok(target) => target,
        Err(error) => {
            let error: grayfin_types::version::BadVersion = error;
            let words = error.to_string();
            return refused("target", Code::UnknownVersion, &request.target, &words);
        }
    };
    if state.hosts_of(&request.cluster).next().is_none() {
        return unknown_cluster(state, request);
    }
    let policy = merged(policy, request);
    let overrides: Vec<Override> = request
        .overrides
        .iter()
        .map(|(gate, reason)| Override {
            gate: gate.clone(),
            reason: reason.clone(),
            by: request.by.clone(),
        })
        .collect();
    let (done, todo) = split(state, view, request, &target);
    let input = Input {
        state,
        view,
        now_ms,
        moment: Moment::Start,
        cluster: &request.cluster,
        policy: &policy,
        target: &target,
        hosts: &todo,
        overrides: &overrides,
        accepted_losses: &request.accept_losses,
        compat_accepted: request.accept_compat_risk.as_deref(),
        canary: &request.canary,
        windows: &[],
        rollout: None,
    };
    let mut findings = gates::ask(gates::START, &input);
    findings.extend(wrong_overrides(request));
    let plan = make(&input, request, &overrides, &done, hasher);
    let ready = plan.is_some() && findings.iter().all(gates::lets_start);
    PlanAnswer { plan, findings, ready }
}

/// Computes a plan's hash. Left out are the hash itself and how many bytes each part of a backup
/// has: they grow while the cluster is used, and are no decision.
pub fn hash(plan: &Plan, hasher: Hasher<'_>) -> String {
    let mut bare = Plan { hash: String::new(), ..plan.clone() };
    for part in bare.hosts.iter_mut().flat_map(|h| &mut h.backup) {
        part.bytes = Probe::Known(None);
    }
    hasher(&serde_json::to_vec(&bare).expect("plain data types always serialise"))
}

fn merged(policy: &Policy, request: &PlanRequest) -> Policy {
    let mut policy = policy.clone();
    if let Some(soak_ms) = request.soak_ms {
        policy.soak_ms = soak_ms;
    }
    if let Some(recovery) = request.recovery {
        policy.recovery = recovery;
    }
    policy.allow_kill |= request.allow_kill;
    policy
}

fn refused(gate: &str, code: Code, subject: &str, evidence: &str) -> PlanAnswer {
    stopped(gate, reason(code, subject, evidence, "see `grayfin rollout start --help`"))
}

/// One reason says it all: whatever else is unknown follows from it.
fn unknown_cluster(state: &State, request: &PlanRequest) -> PlanAnswer {
    let known: BTreeSet<String> =
        state.hosts.values().flat_map(|e| &e.clusters).map(|c| format!("`{c}`")).collect();
    let known = if known.is_empty() {
        "no host agent has ever connected".to_owned()
    } else {
        format!("there are host agents of {}", known.into_iter().collect::<Vec<_>>().join(", "))
    };
    let evidence = format!("no host agent has an installation of this cluster; {known}");
    let clears = "name another cluster, or start a host agent on each of its hosts; \
                  `grayfin hosts` shows what is known";
    stopped(
        Gate::AgentsConnected.name(),
        reason(Code::AgentMissing, request.cluster.as_str(), &evidence, clears),
    )
}

fn stopped(gate: &str, reason: Reason) -> PlanAnswer {
    let finding = Finding {
        gate: gate.to_owned(),
        rule: Gate::named(gate).map_or("S9", Gate::rule).to_owned(),
        decision: Decision::Stop { reasons: vec![reason] },
        overridden: None,
    };
    PlanAnswer { plan: None, findings: vec![finding], ready: false }
}

/// An override must name a gate that has one: nobody should believe that he set a rule aside.
fn wrong_overrides(request: &PlanRequest) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, why) in &request.overrides {
        let evidence = match Gate::named(name) {
            None => "there is no gate of this name".to_owned(),
            Some(gate) if !gate.overridable() => {
                format!("this gate serves {} and has no override", gate.rule())
            }
            Some(_) if why.trim().is_empty() => "the reason is missing".to_owned(),
            Some(_) => continue,
        };
        findings.extend(refused("overrides", Code::BadRequest, name, &evidence).findings);
    }
    findings
}

/// Splits the cluster's hosts into those that are on the target already and those that are not.
fn split(
    state: &State,
    view: &View,
    request: &PlanRequest,
    target: &DdbVersion,
) -> (Vec<HostId>, Vec<HostId>) {
    let done = |host: &HostId| {
        view.facts(host, &request.cluster).is_some_and(|seen| is_done(&seen.value, target))
    };
    state.hosts_of(&request.cluster).map(|e| e.host.clone()).partition(done)
}

/// Tells whether a host needs nothing: every node answers with the target, and so says the disk.
fn is_done(facts: &HostFacts, target: &DdbVersion) -> bool {
    let answers = |probe: &Probe<DdbVersion>| probe.known().is_some_and(|v| is_target(v, target));
    !facts.nodes.is_empty()
        && facts.nodes.iter().all(|n| answers(&n.version))
        && facts.installed.known().is_none_or(|v| is_target(v, target))
}

fn make(
    input: &Input<'_>,
    request: &PlanRequest,
    overrides: &[Override],
    done: &[HostId],
    hasher: Hasher<'_>,
) -> Option<Plan> {
    let topology = input.topology();
    let leader = input.leader().ok();
    let leads = leader.and_then(|alias| topology.host_of(alias)).cloned();
    let mut ordered: Vec<&HostId> = done.iter().collect();
    ordered.extend(input.hosts.iter().filter(|h| Some(*h) != leads.as_ref()));
    ordered.extend(input.hosts.iter().filter(|h| Some(*h) == leads.as_ref()));
    let mut hosts = Vec::new();
    for host in ordered {
        hosts.push(host_plan(input, host, leader, leads.as_ref(), done.contains(host))?);
    }
    if hosts.is_empty() {
        return None;
    }
    let mut plan = Plan {
        hash: String::new(),
        cluster: input.cluster.clone(),
        target: input.target.clone(),
        mode: request.mode,
        package: pinned(input, done)?,
        compatibility: worst(input),
        hosts,
        overrides: overrides.to_vec(),
        accepted_losses: request.accept_losses.clone(),
        policy: input.policy.clone(),
        canary: request.canary.clone(),
        windows: input.windows.to_vec(),
        pause_after: request.pause_after,
        point_of_no_return: POINT_OF_NO_RETURN.to_owned(),
    };
    plan.hash = hash(&plan, hasher);
    Some(plan)
}

/// Returns the package whose digest every host must match.
fn pinned(input: &Input<'_>, done: &[HostId]) -> Option<Package> {
    let found = input.hosts.iter().chain(done).find_map(|host| {
        let facts = &input.view.facts(host, input.cluster)?.value;
        let package = package_of(facts, input.target)?;
        Some(Package {
            file: package.file.clone(),
            sha256: package.sha256.known().cloned().unwrap_or_default(),
            bytes: package.bytes,
        })
    });
    if found.is_none() && input.hosts.is_empty() && !done.is_empty() {
        // Everything is done: no package is needed to prove that.
        return Some(Package { file: String::new(), sha256: String::new(), bytes: 0 });
    }
    found
}

/// Returns the compatibility of the worst pair: hosts may run different versions.
fn worst(input: &Input<'_>) -> Compatibility {
    let pairs = input.hosts.iter().filter_map(|host| {
        let facts = &input.view.facts(host, input.cluster)?.value;
        let from = version_of(host, facts).ok()?;
        Some(compat::between(&from, input.target))
    });
    pairs
        .min_by_key(|c| (compat::is_rolling(c), c.level.is_some(), c.level))
        .unwrap_or_else(|| compat::between(input.target, input.target))
}

fn host_plan(
    input: &Input<'_>,
    host: &HostId,
    leader: Option<&NodeAlias>,
    leads: Option<&HostId>,
    already_done: bool,
) -> Option<HostPlan> {
    let facts = &input.view.facts(host, input.cluster)?.value;
    let has_leader = leads == Some(host);
    let reason = match leader {
        _ if already_done => format!("it is on {} already: verified and skipped", input.target),
        None => "which DolphinDB controller leads is not known now".to_owned(),
        Some(leader) => {
            let left = if has_leader { 1 } else { input.hosts.len() };
            order::why(has_leader, leader, left)
        }
    };
    let backup_dir = facts
        .volumes
        .iter()
        .find(|v| v.purpose == "backup")
        .map_or_else(String::new, |v| v.path.clone());
    Some(HostPlan {
        host: host.clone(),
        reason,
        from: version_of(host, facts).ok(),
        already_done,
        nodes: facts.nodes.iter().map(|n| n.spec.clone()).collect(),
        has_leader,
        stays: stays(input, host),
        backup: facts.backup.clone(),
        backup_dir,
        memory: facts.memory.known().cloned().unwrap_or_default(),
    })
}

/// Counts what stays alive while a host is down; 0 where it is not known.
fn stays(input: &Input<'_>, host: &HostId) -> StaysAlive {
    let nodes = input.nodes().unwrap_or_default();
    let alive = input.alive().unwrap_or_default();
    let own = input.nodes_of(host).unwrap_or_default();
    let stays = |alias: &NodeAlias| alive.contains(alias) && !own.contains(alias);
    let count = |role: NodeRole| {
        let of_role = nodes.iter().filter(|n| n.spec.role == role);
        let all = of_role.clone().count();
        let stay = of_role.filter(|n| stays(&n.spec.alias)).count();
        (u32::try_from(stay).unwrap_or(u32::MAX), u32::try_from(all).unwrap_or(u32::MAX))
    };
    let (controllers, controllers_of) = count(NodeRole::Controller);
    let (data_nodes, data_nodes_of) = count(NodeRole::DataNode);
    let replicas_min = input.chunks().ok().and_then(|chunks| {
        let kept = |on: &[NodeAlias]| on.iter().filter(|n| stays(n)).count();
        let least = chunks.placements.iter().map(|p| kept(&p.current_on)).min()?;
        u32::try_from(least).ok()
    });
    let groups = input
        .cluster_facts()
        .ok()
        .and_then(|facts| facts.raft_groups.known())
        .map(|groups| {
            groups
                .iter()
                .map(|group| {
                    let members: BTreeSet<&NodeAlias> = group.members.iter().collect();
                    let stay = members.iter().filter(|m| stays(m)).count();
                    let id = format!("{} {}", group.kind, group.id);
                    let of = u32::try_from(members.len()).unwrap_or(u32::MAX);
                    (id, u32::try_from(stay).unwrap_or(u32::MAX), of)
                })
                .collect()
        })
        .unwrap_or_default();
    StaysAlive { controllers, controllers_of, data_nodes, data_nodes_of, replicas_min, groups }
}
