//! Verbs about the group of coordinators itself.

use std::time::Duration;

use grayfin_proto::v1::{
    ControlAnswer, CoordinatorsAction, CoordinatorsAnswer, CoordinatorsRequest, Empty,
};
use grayfin_types::Code;
use jiff::tz::TimeZone;
use serde_json::json;

use super::{
    args::Coordinator,
    client::{Client, chain},
    error::{Error, Exit},
    output::Output,
    render,
    show::READ_MAX,
};

/// A newcomer learns the log for a minute at most.
const CHANGE_MAX: Duration = Duration::from_secs(95);

/// Runs a verb.
pub(crate) async fn run(
    client: &Client,
    verb: &Coordinator,
    output: Output,
) -> Result<Exit, Error> {
    let (action, id, address, asked) = match verb {
        Coordinator::List => return list(client, output).await,
        Coordinator::Status => return status(client, output).await,
        Coordinator::Add { id, address, asked } => {
            (CoordinatorsAction::Add, *id, address.clone(), asked)
        }
        Coordinator::Remove { id, asked } => {
            (CoordinatorsAction::Remove, *id, String::new(), asked)
        }
        Coordinator::ForceRecover(_) => {
            return Err(Error::usage("this is done to the files of a stopped coordinator"));
        }
        Coordinator::TransferLead { asked } => {
            (CoordinatorsAction::TransferLead, 0, String::new(), asked)
        }
    };
    let request = CoordinatorsRequest {
        request_id: asked.request_id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        action: action.into(),
        id,
        address,
        reason: asked.reason.clone(),
    };
    let answer: ControlAnswer = client
        .call(CHANGE_MAX, |mut operator| {
            let request = request.clone();
            async move { operator.change_coordinators(request).await }
        })
        .await?;
    if !answer.accepted {
        let code = Code::from_text(&answer.code).unwrap_or(Code::GroupChange);
        return Err(Error::refused(code, "the group of coordinators stays as it is")
            .cause(answer.why)
            .hint("`grayfin coordinator status` shows who is there"));
    }
    let now = best(client).await?.0;
    output.either(&document(&now, &[]), || render::coordinators::list(&now))?;
    Ok(Exit::Done)
}

/// `coordinators`: asks each one, for those that do not answer are what is looked for.
pub(crate) async fn list(client: &Client, output: Output) -> Result<Exit, Error> {
    let (best, silent) = best(client).await?;
    output.either(&document(&best, &silent), || {
        let mut text = render::coordinators::list(&best);
        text.push_str(&render::coordinators::silent(&silent));
        text
    })?;
    Ok(if best.leader == 0 { Exit::Held } else { Exit::Done })
}

/// `coordinator status`: the same with who reaches whom, how far behind, and what was done.
async fn status(client: &Client, output: Output) -> Result<Exit, Error> {
    let (best, silent) = best(client).await?;
    output.either(&document(&best, &silent), || {
        let mut text = render::coordinators::status(&best, &TimeZone::system());
        text.push_str(&render::coordinators::silent(&silent));
        text
    })?;
    Ok(if best.confirmed { Exit::Done } else { Exit::Held })
}

/// The answer of the one that knows best, and those that gave none.
async fn best(client: &Client) -> Result<(CoordinatorsAnswer, Vec<(String, String)>), Error> {
    let mut best: Option<CoordinatorsAnswer> = None;
    let mut silent = Vec::new();
    for address in client.in_order() {
        let mut operator = client.to(&address)?;
        match tokio::time::timeout(READ_MAX, operator.coordinators(Empty {})).await {
            Ok(Ok(answer)) => {
                let answer = answer.into_inner();
                let rank = |a: &CoordinatorsAnswer| (a.confirmed, a.leader != 0, a.term);
                client.learn(answer.coordinators.iter().map(|c| c.address.clone()));
                if best.as_ref().is_none_or(|b| rank(&answer) > rank(b)) {
                    best = Some(answer);
                }
            }
            Ok(Err(status)) => silent.push((address, chain(&status))),
            Err(_) => silent.push((address, "no answer in time".to_owned())),
        }
    }
    best.map(|best| (best, silent.clone())).ok_or_else(|| {
        let error = Error::refused(Code::Unreachable, "no coordinator could be reached");
        silent
            .iter()
            .fold(error, |error, (address, why)| error.cause(format!("`{address}`: {why}")))
    })
}

fn document(answer: &CoordinatorsAnswer, silent: &[(String, String)]) -> serde_json::Value {
    let lines: Vec<_> = answer
        .coordinators
        .iter()
        .map(|c| {
            json!({
                "id": c.id, "address": c.address, "voter": c.voter, "reached": c.reached,
                "why": c.why, "behind": c.behind,
            })
        })
        .collect();
    let acts: Vec<_> = answer
        .acts
        .iter()
        .map(|a| {
            json!({
                "at_ms": a.at_ms, "by": a.by, "what": a.what, "id": a.id, "address": a.address,
                "reason": a.reason,
            })
        })
        .collect();
    let away: Vec<_> =
        silent.iter().map(|(address, why)| json!({ "address": address, "why": why })).collect();
    json!({
        "answering": answer.answering,
        "leader": answer.leader,
        "term": answer.term,
        "group": answer.group,
        "incarnation": answer.incarnation,
        "confirmed": answer.confirmed,
        "coordinators": lines,
        "acts": acts,
        "silent": away,
    })
}
