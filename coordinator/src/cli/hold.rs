//! `hold break`, `hold attest` and `host readmit`: what nobody should do by mistake.

use grayfin_proto::v1::{ControlAction, ControlRequest};
use grayfin_types::{ClusterId, Code, HostId};

use super::{
    args::Sure,
    client::Client,
    error::{Error, Exit},
    output::Output,
    render, show, steer,
    values::HostOf,
};

/// Breaks a hold: shows what is known of the host and what the gates say, and wants a reason and the
/// host's name.
pub(crate) async fn break_hold(
    client: &Client,
    cluster: &ClusterId,
    token: u64,
    sure: &Sure,
    output: Output,
) -> Result<Exit, Error> {
    let holds = show::hold_list(client).await?;
    let held = holds.iter().find(|hold| &hold.cluster == cluster && hold.state != "broken");
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
    show_host(client, &host, output).await?;
    // The gates are run now; what they say does not decide, for an operator does.
    let explained = show::explanation(client, Some(&rollout)).await?;
    output.note(&render::status::explanation(&explained));
    output.note(&format!(
        "Breaking closes nothing: rollout {rollout} ends as failed, `{host}` stays as it is, and the next hold still needs the promise of its host agent, or `grayfin hold attest {host}` if it is powered off."
    ));
    let reason = confirmed(sure, &host, "break its hold", output)?;
    let request = ControlRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        rollout: rollout.to_string(),
        action: ControlAction::BreakHold.into(),
        reason,
        token,
        host: host.to_string(),
        ..ControlRequest::default()
    };
    steer::send(client, request, rollout.as_str(), output).await
}

/// Attests that a host is powered off: shows what is known of it, warns, and wants a reason and the
/// host's name.
pub(crate) async fn attest(
    client: &Client,
    host: &HostId,
    token: u64,
    sure: &Sure,
    output: Output,
) -> Result<Exit, Error> {
    show_host(client, host, output).await?;
    output.note(&format!(
        "WARNING: make sure that `{host}` has no power and cannot get it back by itself, for example at its power supply. If it still runs, or comes back, its DolphinDB nodes and those of the next host can be down at the same time. Its nodes count as gone from now on, and its host agent must enrol anew with a new certificate."
    ));
    let reason = confirmed(sure, host, "attest that it is powered off", output)?;
    let request = ControlRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        action: ControlAction::AttestPoweredOff.into(),
        reason,
        token,
        host: host.to_string(),
        ..ControlRequest::default()
    };
    steer::send(client, request, "", output).await
}

/// Readmits a host whose state is proven: shows what is known of it, says what is believed, and wants
/// a reason and the host's name. The coordinator looks once more whether it is proven.
pub(crate) async fn readmit(
    client: &Client,
    place: &HostOf,
    sure: &Sure,
    output: Output,
) -> Result<Exit, Error> {
    let HostOf { cluster, host } = place;
    show_host(client, host, output).await?;
    output.note(&format!(
        "The host agent of `{host}` goes on with the ledger that it has, and closes the hold that is open there without undoing anything. Make sure that nothing half-done is left: every node runs the version that it should, no unit of it is masked, no interlock lies in its folder (docs/operate/when-it-holds.md)."
    ));
    let reason = confirmed(sure, host, "readmit it", output)?;
    let request = ControlRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        action: ControlAction::Readmit.into(),
        reason,
        host: host.to_string(),
        cluster: cluster.to_string(),
        ..ControlRequest::default()
    };
    steer::send(client, request, "", output).await
}

async fn show_host(client: &Client, host: &HostId, output: Output) -> Result<(), Error> {
    let lines = show::host_lines(client).await?;
    let known: Vec<_> = lines.into_iter().filter(|line| &line.host == host).collect();
    if known.is_empty() {
        return Err(Error::refused(
            Code::NoSuchObject,
            format!("no host agent `{host}` ever enrolled"),
        )
        .hint("`grayfin hosts` lists all"));
    }
    output.note(&render::hosts::hosts(&known));
    Ok(())
}

/// Returns the reason, once the host's name was typed or given.
fn confirmed(sure: &Sure, host: &HostId, what: &str, output: Output) -> Result<String, Error> {
    let mut reason = sure.reason.clone().unwrap_or_default();
    if sure.confirm.is_none() && !output.can_ask() {
        return Err(Error::usage("nobody can be asked: this is no terminal")
            .hint(format!("`--confirm {host}` with `--reason` does it without asking")));
    }
    if reason.trim().is_empty() && output.can_ask() {
        reason = output.ask("Why? It is in the event log: ")?;
    }
    if reason.trim().is_empty() {
        return Err(Error::usage(format!("to {what} needs a `--reason`; it is in the event log")));
    }
    let named = match &sure.confirm {
        Some(named) => named.to_string(),
        None => output.ask(&format!("Type `{host}` to {what}: "))?,
    };
    if named != host.as_str() {
        return Err(Error::refused(
            Code::Aborted,
            format!("`{named}` is not `{host}`: nothing was done"),
        ));
    }
    Ok(reason)
}
