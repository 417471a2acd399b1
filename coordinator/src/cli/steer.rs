//! Verbs that steer a rollout or break a hold.

use std::time::Duration;

use grayfin_proto::v1::{ControlAction, ControlAnswer, ControlRequest};
use grayfin_types::{ClusterId, Code, RolloutId};
use serde_json::json;

use super::{
    args::{Act, Rollout},
    client::Client,
    error::{Error, Exit},
    output::Output,
    render, show,
};

/// A command waits up to 5 s for a majority.
const CONTROL_MAX: Duration = Duration::from_secs(12);

/// Steers a rollout; none if the verb is not one of these.
pub(crate) async fn rollout(
    client: &Client,
    verb: &Rollout,
    output: Output,
) -> Option<Result<Exit, Error>> {
    let (action, act, host) = match verb {
        Rollout::Pause(act) => (ControlAction::Pause, act, None),
        Rollout::Resume(act) => (ControlAction::Resume, act, None),
        Rollout::Abort(act) => (ControlAction::Abort, act, None),
        Rollout::Retry(act) => (ControlAction::Retry, act, None),
        Rollout::Skip { act, host } => (ControlAction::Skip, act, host.as_ref()),
        Rollout::RollbackHost(act) => (ControlAction::RollbackHost, act, None),
        Rollout::Start { .. } | Rollout::Watch { .. } | Rollout::Status { .. } | Rollout::List => {
            return None;
        }
    };
    let Act { id, reason } = act;
    let request = ControlRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        rollout: id.to_string(),
        action: action.into(),
        reason: reason.clone(),
        token: 0,
        host: host.map(ToString::to_string).unwrap_or_default(),
    };
    Some(send(client, request, id, word(action), output).await)
}

/// Breaks a hold: shows what is known of the host, and wants its name typed.
pub(crate) async fn break_hold(
    client: &Client,
    cluster: &ClusterId,
    token: u64,
    reason: &str,
    yes: bool,
    output: Output,
) -> Result<Exit, Error> {
    if reason.trim().is_empty() {
        return Err(Error::usage("breaking a hold needs a `--reason`; it is in the event log"));
    }
    let holds = show::hold_list(client).await?;
    let held = holds.iter().find(|hold| &hold.cluster == cluster);
    let found = held.and_then(|h| Some((h.host.clone()?, h.rollout.clone()?, h.token)));
    let Some((host, rollout, current)) = found else {
        return Err(Error::refused(
            Code::NoSuchObject,
            format!("cluster `{cluster}` has no hold to break"),
        )
        .hint("`grayfin hold show` lists all"));
    };
    if current.0 != token {
        return Err(Error::refused(
            Code::TokenStale,
            format!("the hold's token is {current}, not {token}: it has changed"),
        )
        .hint(format!("look again: `grayfin hold show {cluster}`")));
    }
    if !yes {
        if !output.can_ask() {
            return Err(Error::usage("nobody can be asked: this is no terminal")
                .hint("`--yes` breaks it without asking"));
        }
        let lines = show::host_lines(client).await?;
        let known: Vec<_> = lines.into_iter().filter(|line| line.host == host).collect();
        output.note(&render::hosts::hosts(&known));
        output.note(&format!(
            "Breaking closes nothing: rollout {rollout} ends as failed, `{host}` stays as it is, and the next hold still needs the promise of its host agent."
        ));
        let typed = output.ask(&format!("Type `{host}` to break its hold: "))?;
        if typed != host.as_str() {
            return Err(Error::refused(Code::Aborted, "nothing was broken"));
        }
    }
    let request = ControlRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        rollout: rollout.to_string(),
        action: ControlAction::BreakHold.into(),
        reason: reason.to_owned(),
        token,
        host: host.to_string(),
    };
    send(client, request, &rollout, "hold break", output).await
}

async fn send(
    client: &Client,
    request: ControlRequest,
    id: &RolloutId,
    word: &str,
    output: Output,
) -> Result<Exit, Error> {
    let answer: ControlAnswer = client
        .call(CONTROL_MAX, |mut operator| {
            let request = request.clone();
            async move { operator.control(request).await }
        })
        .await?;
    if !answer.accepted {
        let code = Code::from_text(&answer.code).unwrap_or(Code::WrongState);
        return Err(Error::refused(code, format!("rollout `{id}`: {word} was refused"))
            .cause(answer.why)
            .hint(format!("`grayfin explain {id}` says what is possible now")));
    }
    output.either(&json!({ "id": id, "action": word, "accepted": true }), || {
        format!("rollout {id}: {word} accepted\n")
    })?;
    Ok(Exit::Done)
}

const fn word(action: ControlAction) -> &'static str {
    match action {
        ControlAction::Unspecified => "nothing",
        ControlAction::Pause => "pause",
        ControlAction::Resume => "resume",
        ControlAction::Abort => "abort",
        ControlAction::Retry => "retry",
        ControlAction::Skip => "skip",
        ControlAction::RollbackHost => "rollback-host",
        ControlAction::BreakHold => "hold break",
    }
}
