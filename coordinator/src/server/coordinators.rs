//! The group of coordinators, for operators: who is there, and changes.

use std::time::Duration;

use grayfin_coordinator_core::{
    Cmd, Response,
    cmd::CoordinatorsWish,
    state::{Act, GroupAct},
};
use grayfin_proto::v1::{
    ControlAnswer, CoordinatorLine, CoordinatorsAct, CoordinatorsAction, CoordinatorsAnswer,
    CoordinatorsRequest, Introduction,
};
use grayfin_types::Code;
use tonic::Status;

use super::{
    planning::{check_request_id, must_lead},
    status,
};
use crate::{
    group::{introduce, reach},
    shared::Shared,
    store::{Change, Member, Refused},
};

/// A change waits for a newcomer to catch up, a minute at most, and then for two majorities.
pub(crate) const CHANGE_MAX: Duration = Duration::from_secs(90);

/// The longest address and the longest reason that are stored.
const TEXT_MAX: usize = 4_096;

/// Describes the group as it is seen from here.
pub(crate) async fn describe(shared: &Shared) -> CoordinatorsAnswer {
    let members = shared.store.members();
    let (confirmed, reached) = tokio::join!(
        shared.store.linearizable(),
        reach(&shared.config.tls, shared.store.id(), &members)
    );
    let leadership = shared.leadership();
    let state = shared.store.state();
    let line = |member: Member| {
        let found = reached.iter().find(|reached| reached.id == member.id);
        let silent = found.and_then(|reached| reached.silent.clone());
        CoordinatorLine {
            id: member.id,
            address: member.address,
            voter: member.voter,
            reached: silent.is_none(),
            why: silent.unwrap_or_default(),
            behind: member.behind.unwrap_or(0),
        }
    };
    CoordinatorsAnswer {
        answering: shared.store.id(),
        leader: leadership.leader.map_or(0, |(id, _)| id),
        term: leadership.term.0,
        coordinators: members.into_iter().map(line).collect(),
        group: state.group.clone(),
        incarnation: state.incarnation.0,
        confirmed: confirmed.is_ok(),
        acts: state.coordinators.acts.iter().map(act).collect(),
    }
}

fn act(act: &Act) -> CoordinatorsAct {
    CoordinatorsAct {
        at_ms: act.at_ms,
        by: act.by.clone(),
        what: act.what.to_string(),
        id: act.id,
        address: act.address.clone(),
        reason: act.reason.clone(),
    }
}

/// Says which coordinators a group without a majority misses; none if there is nothing to say.
pub(crate) async fn missing(shared: &Shared) -> Option<String> {
    let voters: Vec<Member> = shared.store.members().into_iter().filter(|m| m.voter).collect();
    if voters.len() < 2 {
        return None;
    }
    let silent: Vec<String> = reach(&shared.config.tls, shared.store.id(), &voters)
        .await
        .into_iter()
        .filter_map(|reached| {
            let why = reached.silent?;
            let member = voters.iter().find(|member| member.id == reached.id)?;
            Some(format!("coordinator {} at {} ({why})", member.id, member.address))
        })
        .collect();
    let needed = voters.len() / 2 + 1;
    let here = voters.len() - silent.len();
    (here < needed).then(|| {
        format!(
            "{here} of {} coordinators answer and {needed} are needed; missing: {}",
            voters.len(),
            silent.join(", ")
        )
    })
}

/// Changes the group, step by step; a repeat goes on where the first one ended.
pub(crate) async fn change(
    shared: &Shared,
    wish: CoordinatorsRequest,
    by: String,
) -> Result<ControlAnswer, Status> {
    check_request_id(&wish.request_id)?;
    if wish.reason.len() > TEXT_MAX || wish.address.len() > TEXT_MAX {
        let why = format!("address and reason have {TEXT_MAX} bytes at most");
        return Err(status::of(Code::BadRequest, tonic::Code::InvalidArgument, &why));
    }
    must_lead(shared).await?;
    let done = match wish.action() {
        CoordinatorsAction::Add => add(shared, wish, by).await,
        CoordinatorsAction::Remove => remove(shared, wish, by).await,
        CoordinatorsAction::TransferLead => transfer(shared, wish, by).await,
        CoordinatorsAction::Unspecified => {
            let why = "the action is missing or unknown";
            return Err(status::of(Code::BadRequest, tonic::Code::InvalidArgument, why));
        }
    };
    match done {
        Ok(()) => Ok(ControlAnswer { accepted: true, code: String::new(), why: String::new() }),
        Err(Refused::Group(why)) => {
            Ok(ControlAnswer { accepted: false, code: Code::GroupChange.to_string(), why })
        }
        Err(refused) => Err(status::refused(&refused)),
    }
}

/// Learner first, then voter: a newcomer that is still empty must not be counted on.
async fn add(shared: &Shared, wish: CoordinatorsRequest, by: String) -> Result<(), Refused> {
    let (id, address) = (wish.id, wish.address.clone());
    let who = introduce(&shared.config.tls, &address).await.map_err(|why| {
        Refused::Group(format!(
            "nobody who can be added answers at `{address}`: {why}; start `grayfin serve` there with `id = {id}`, `join = true` and an empty state folder"
        ))
    })?;
    check_newcomer(shared, &wish, &who)?;
    record(shared, wish, GroupAct::Add, by).await?;
    let known = || shared.store.members().into_iter().find(|member| member.id == id);
    if known().is_none() {
        tracing::info!(coordinator = id, address, "a newcomer learns the log");
        let instance = who.instance;
        shared.store.change(Change::Learn { id, address, instance }).await?;
    }
    if known().is_some_and(|member| !member.voter) {
        shared.store.change(Change::Vote(id)).await?;
    }
    tracing::info!(coordinator = id, "it votes");
    Ok(())
}

fn check_newcomer(
    shared: &Shared,
    wish: &CoordinatorsRequest,
    who: &Introduction,
) -> Result<(), Refused> {
    let (id, address) = (wish.id, &wish.address);
    if who.id != id {
        return Err(Refused::Group(format!(
            "coordinator {} answers at `{address}`, not coordinator {id}",
            who.id
        )));
    }
    match shared.store.members().into_iter().find(|member| member.id == id) {
        Some(known) if known.instance == who.instance && known.address == *address => Ok(()),
        Some(known) if known.instance == who.instance => Err(Refused::Group(format!(
            "coordinator {id} is a member already, at `{}`",
            known.address
        ))),
        Some(_) => Err(Refused::Group(format!(
            "the group knows coordinator {id} with another state folder; what it had promised in votes may be forgotten: remove it and add the new one under a number that was never used"
        ))),
        None if who.grouped => Err(Refused::Group(format!(
            "coordinator {id} at `{address}` is, or was, part of a group (`{}`): give it an empty state folder and `join = true`",
            who.group
        ))),
        None => Ok(()),
    }
}

async fn remove(shared: &Shared, wish: CoordinatorsRequest, by: String) -> Result<(), Refused> {
    let id = wish.id;
    let members = shared.store.members();
    let gone = shared.store.state().coordinators.removed.contains(&id);
    let Some(member) = members.iter().find(|member| member.id == id) else {
        return if gone {
            Ok(())
        } else {
            Err(Refused::Group(format!("there is no coordinator {id} in the group")))
        };
    };
    if id == shared.store.id() {
        return Err(Refused::Group(format!(
            "coordinator {id} leads: `grayfin coordinator transfer-lead` first"
        )));
    }
    if member.voter {
        let rest: Vec<Member> =
            members.iter().filter(|it| it.voter && it.id != id).cloned().collect();
        let reached = reach(&shared.config.tls, shared.store.id(), &rest).await;
        let silent: Vec<u64> =
            reached.iter().filter(|it| it.silent.is_some()).map(|it| it.id).collect();
        if rest.len() - silent.len() < rest.len() / 2 + 1 {
            return Err(Refused::Group(format!(
                "the group would lose its majority: of the {} that stay, coordinators {silent:?} do not answer",
                rest.len()
            )));
        }
    }
    record(shared, wish, GroupAct::Remove, by).await?;
    shared.store.change(Change::Drop(id)).await?;
    tracing::info!(coordinator = id, "it was removed from the group");
    Ok(())
}

async fn transfer(
    shared: &Shared,
    mut wish: CoordinatorsRequest,
    by: String,
) -> Result<(), Refused> {
    if shared.store.state().remembered(&wish.request_id).is_some() {
        // A repeat would go on from one to the next.
        return Ok(());
    }
    let own = shared.store.id();
    let voters: Vec<Member> = shared.store.members().into_iter().filter(|m| m.voter).collect();
    let reached = reach(&shared.config.tls, own, &voters).await;
    let alive = reached.iter().filter(|it| it.silent.is_none()).count();
    // They elect one of them with this one silent, though it still votes.
    if voters.len() < 2 || alive < voters.len() / 2 + 1 || alive < 2 {
        return Err(Refused::Group(format!(
            "nobody could take over: {alive} of {} coordinators answer",
            voters.len()
        )));
    }
    wish.id = own;
    record(shared, wish, GroupAct::TransferLead, by).await?;
    shared.store.change(Change::StepAside).await
}

/// Who wished it and when is durable before it is done.
async fn record(
    shared: &Shared,
    wish: CoordinatorsRequest,
    what: GroupAct,
    by: String,
) -> Result<(), Refused> {
    tracing::info!(%what, coordinator = wish.id, %by, reason = wish.reason, "operator's request");
    let command = Cmd::Coordinators(CoordinatorsWish {
        request_id: wish.request_id,
        what,
        id: wish.id,
        address: wish.address,
        reason: wish.reason,
        by,
    });
    match shared.store.propose(command).await? {
        Response::Done => Ok(()),
        Response::Refused { why, .. } | Response::Ignored { why } => Err(Refused::Group(why)),
        other @ (Response::Enrolled { .. }
        | Response::Started { .. }
        | Response::Allotted { .. }
        | Response::Committed { .. }
        | Response::Go { .. }) => Err(Refused::Group(format!(
            "the request id was used for something else before: {other:?}"
        ))),
    }
}
