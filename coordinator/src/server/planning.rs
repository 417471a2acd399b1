//! Plans and starts: the cluster is looked at closely, and then the core decides.

use std::{sync::Arc, time::Duration};

use grayfin_coordinator_core::{Cmd, Response, State, View, cmd, plan};
use grayfin_proto::{
    document,
    v1::{StartAnswer, StartRequest},
};
use grayfin_types::{
    ClusterId, Code, DdbVersion, RolloutId,
    gate::{Decision, Finding, Reason},
    plan::{PlanAnswer, PlanRequest},
};
use tonic::Status;

use super::{coordinators, status};
use crate::{
    clock::monotonic_ms,
    shared::Shared,
    store::{Refused, sha256_hex},
};

/// The longest wait for fresh facts. Hashing and inflating a package of 1 GiB takes some 10 s the
/// first time; what is still unknown then is said to be unknown.
const LOOK_MAX: Duration = Duration::from_secs(45);

/// The longest id of a request.
const REQUEST_ID_MAX: usize = 128;

/// The cluster stays looked at for so long after the answer: a start mostly follows.
const STAYS_WANTED_MS: u64 = 30_000;

/// Makes a plan, or says what stands against it.
pub(crate) async fn plan(
    shared: &Arc<Shared>,
    mut request: PlanRequest,
    by: String,
) -> Result<PlanAnswer, Status> {
    request.by = by;
    must_lead(shared).await?;
    // A target that is none is refused without a look.
    if let Ok(target) = request.target.parse::<DdbVersion>() {
        look_closely(shared, &request, &target).await;
    }
    // Whatever was decided in the meantime counts, and so does a lead that was lost.
    must_lead(shared).await?;
    let state = shared.store.state();
    let policy = shared.config.policy(&request.cluster);
    Ok(shared
        .sight
        .read(|view| plan::build(&state, view, &request, policy, &sha256_hex, monotonic_ms())))
}

/// Starts a rollout.
pub(crate) async fn start(
    shared: &Arc<Shared>,
    wish: &StartRequest,
    request: PlanRequest,
    by: String,
) -> Result<StartAnswer, Status> {
    check_request_id(&wish.request_id)?;
    must_lead(shared).await?;
    if let Some(answer) = remembered(&shared.store.state(), &wish.request_id) {
        return Ok(answer);
    }
    let mut answer = plan(shared, request, by.clone()).await?;
    let Some(plan) = answer.plan.clone().filter(|_| answer.ready) else {
        return Ok(not_started(&answer));
    };
    if !wish.plan_hash.is_empty() && wish.plan_hash != plan.hash {
        let reason = Reason {
            code: Code::WrongState,
            subject: plan.cluster.to_string(),
            evidence: format!(
                "the plan that was shown has hash {}, the plan of this moment has {}",
                wish.plan_hash, plan.hash
            ),
            remedy: "look at the new plan and start again".to_owned(),
        };
        return Ok(refuse(&mut answer, reason));
    }
    let command = Cmd::Start(Box::new(cmd::Start {
        request_id: wish.request_id.clone(),
        rollout: new_id(&shared.store.state()),
        plan: plan.clone(),
        findings: answer.findings.clone(),
        by,
    }));
    match shared.store.propose(command).await.map_err(|e| status::refused(&e))? {
        Response::Started { rollout } => {
            Ok(StartAnswer { rollout: rollout.to_string(), answer: Some(document::wrap(&answer)) })
        }
        Response::Refused { code, why } => {
            let remedy = "see the evidence".to_owned();
            let subject = plan.cluster.to_string();
            Ok(refuse(&mut answer, Reason { code, subject, evidence: why, remedy }))
        }
        other @ (Response::Done
        | Response::Ignored { .. }
        | Response::Enrolled { .. }
        | Response::Allotted { .. }
        | Response::Committed { .. }
        | Response::Go { .. }) => {
            Err(Status::internal(format!("GF9999: a start was answered {other:?}")))
        }
    }
}

/// Checks the id of a request that changes something: a repeat must be known as one.
pub(crate) fn check_request_id(id: &str) -> Result<(), Status> {
    if id.is_empty() || id.len() > REQUEST_ID_MAX {
        let why = format!("a request needs an id of 1 to {REQUEST_ID_MAX} bytes, unique per wish");
        return Err(status::of(Code::BadRequest, tonic::Code::InvalidArgument, &why));
    }
    Ok(())
}

/// Fails unless this coordinator leads, confirmed now, and drives.
pub(crate) async fn must_lead(shared: &Shared) -> Result<(), Status> {
    let Err(why) = leads(shared).await else { return Ok(()) };
    if matches!(why, Refused::NoQuorum | Refused::NotLeader { leader: None })
        && let Some(missing) = coordinators::missing(shared).await
    {
        let why = format!("the coordinators have no majority: {missing}");
        return Err(status::of(Code::NoQuorum, tonic::Code::Unavailable, &why));
    }
    Err(status::refused(&why))
}

/// Confirms that this coordinator leads and drives.
pub(crate) async fn leads(shared: &Shared) -> Result<(), Refused> {
    shared.store.linearizable().await?;
    // It may have just been elected and sort itself out.
    if shared.drives() { Ok(()) } else { Err(Refused::NotLeader { leader: None }) }
}

fn remembered(state: &State, request_id: &str) -> Option<StartAnswer> {
    let Response::Started { rollout } = state.remembered(request_id)? else { return None };
    let plan = state.rollouts.get(rollout).map(|r| r.plan.clone());
    let answer = PlanAnswer { plan, findings: Vec::new(), ready: true };
    Some(StartAnswer { rollout: rollout.to_string(), answer: Some(document::wrap(&answer)) })
}

fn not_started(answer: &PlanAnswer) -> StartAnswer {
    StartAnswer { rollout: String::new(), answer: Some(document::wrap(answer)) }
}

fn refuse(answer: &mut PlanAnswer, reason: Reason) -> StartAnswer {
    answer.ready = false;
    answer.findings.push(Finding {
        gate: "start".to_owned(),
        rule: "S1".to_owned(),
        decision: Decision::Stop { reasons: vec![reason] },
        overridden: None,
    });
    not_started(answer)
}

/// Makes an id that people can type. `apply` refuses one that is taken.
fn new_id(state: &State) -> RolloutId {
    loop {
        let random = uuid::Uuid::new_v4().simple().to_string();
        let short = random.get(..8).unwrap_or(&random);
        let id = RolloutId::new(short).expect("hex digits are a valid id");
        if !state.rollouts.contains_key(&id) {
            return id;
        }
    }
}

/// Asks every host agent of the cluster for a deep look and waits until the answers are there.
async fn look_closely(shared: &Shared, request: &PlanRequest, target: &DdbVersion) {
    if !shared.store.state().clusters().contains(&request.cluster) {
        // Nobody to ask; the core says so.
        return;
    }
    let asked_ms = monotonic_ms();
    let mut changes = shared.sight.changes();
    let until_ms = asked_ms
        .saturating_add(u64::try_from(LOOK_MAX.as_millis()).unwrap_or(u64::MAX))
        .saturating_add(STAYS_WANTED_MS);
    shared.sight.update(|view| view.demand(&request.cluster, Some(target.clone()), until_ms));
    shared.links.hurry(&request.cluster);
    let seen = changes.wait_for(|_| {
        let state = shared.store.state();
        shared.sight.read(|view| seen_closely(&state, view, &request.cluster, target, asked_ms))
    });
    if tokio::time::timeout(LOOK_MAX, seen).await.is_err() {
        tracing::warn!(cluster = %request.cluster, "facts for a plan did not all arrive in time");
    }
}

/// Tells whether everything that a plan needs was seen since `asked_ms`. Hosts whose agents are
/// not connected are not waited for: the gates name them.
fn seen_closely(
    state: &State,
    view: &View,
    cluster: &ClusterId,
    target: &DdbVersion,
    asked_ms: u64,
) -> bool {
    let hosts = state.hosts_of(cluster).filter(|e| view.is_connected(&e.host)).all(|enrolment| {
        view.facts(&enrolment.host, cluster).is_some_and(|seen| {
            let packages = seen.value.packages.iter().filter(|p| &p.version == target);
            let read = |p: &grayfin_types::facts::PackageFacts| {
                p.intact.known().is_some_and(|intact| !intact)
                    || (p.sha256.known().is_some() && p.unpacked_bytes.known().is_some())
            };
            // The installation itself is always part of a backup: none was weighed yet. What cannot
            // be weighed at all is waited for in vain, and then said.
            let parts = &seen.value.backup;
            let weighed = !parts.is_empty() && parts.iter().all(|p| p.bytes.known().is_some());
            seen.at_ms > asked_ms && weighed && packages.into_iter().all(read)
        })
    });
    let observed = view.clusters.get(cluster).is_some_and(|c| {
        let look = c.facts.as_ref().is_some_and(|seen| seen.at_ms > asked_ms);
        // No observer, nobody to wait for.
        (look && c.chunks.is_some()) || (c.observer.is_none() && hosts)
    });
    hosts && observed
}
