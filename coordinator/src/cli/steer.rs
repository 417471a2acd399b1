//! Verbs that steer a rollout.

use std::time::Duration;

use grayfin_proto::v1::{ControlAction, ControlAnswer, ControlRequest};
use grayfin_types::Code;
use serde_json::json;

use super::{
    args::{Act, Rollout},
    client::Client,
    error::{Error, Exit},
    output::Output,
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
        host: host.map(ToString::to_string).unwrap_or_default(),
        ..ControlRequest::default()
    };
    Some(send(client, request, id.as_str(), output).await)
}

/// Sends a request and tells what came of it.
pub(crate) async fn send(
    client: &Client,
    request: ControlRequest,
    id: &str,
    output: Output,
) -> Result<Exit, Error> {
    let word = word(request.action());
    let answer: ControlAnswer = client
        .call(CONTROL_MAX, |mut operator| {
            let request = request.clone();
            async move { operator.control(request).await }
        })
        .await?;
    let about = if request.rollout.is_empty() {
        format!("host `{}`", request.host)
    } else {
        format!("rollout `{id}`")
    };
    if !answer.accepted {
        let code = Code::from_text(&answer.code).unwrap_or(Code::WrongState);
        let hint = if request.rollout.is_empty() {
            "`grayfin hosts` and `grayfin hold show` say where things stand".to_owned()
        } else {
            format!("`grayfin explain {id}` says what is possible now")
        };
        return Err(Error::refused(code, format!("{about}: {word} was refused"))
            .cause(answer.why)
            .hint(hint));
    }
    let mut document = json!({ "id": id, "action": word, "accepted": true });
    if !request.host.is_empty()
        && let Some(fields) = document.as_object_mut()
    {
        fields.insert("host".to_owned(), json!(request.host));
    }
    output.either(&document, || format!("{}: {word} accepted\n", about.replace('`', "")))?;
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
        ControlAction::AttestPoweredOff => "hold attest",
        ControlAction::Readmit => "host readmit",
    }
}
