//! Verbs that only look.

use std::time::Duration;

use grayfin_proto::v1::{Empty, RolloutName};
use grayfin_types::{
    ClusterId, Code, RolloutId,
    status::{Explanation, HoldStatus, HostLine, RolloutStatus},
};
use jiff::tz::TimeZone;

use super::{
    client::Client,
    error::{Error, Exit},
    output::Output,
    render,
};

/// A read is confirmed by a majority, which takes 2 s at most.
pub(crate) const READ_MAX: Duration = Duration::from_secs(6);

/// Returns the wall clock, for display.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// Returns a rollout by its id, or the newest one of the cluster that the environment names.
pub(crate) async fn rollout(
    client: &Client,
    id: Option<&RolloutId>,
) -> Result<RolloutStatus, Error> {
    let name = name(id);
    client
        .document("RolloutStatus", READ_MAX, |mut operator| {
            let name = name.clone();
            async move { operator.status(name).await }
        })
        .await
}

fn name(id: Option<&RolloutId>) -> RolloutName {
    let cluster = if id.is_none() {
        std::env::var("GRAYFIN_CLUSTER").unwrap_or_default()
    } else {
        String::new()
    };
    RolloutName { id: id.map(ToString::to_string).unwrap_or_default(), cluster }
}

/// `rollout status`.
pub(crate) async fn status(
    client: &Client,
    id: Option<&RolloutId>,
    output: Output,
) -> Result<Exit, Error> {
    let status = rollout(client, id).await?;
    output.either(&status, || render::status::rollout(&status, now_ms(), &TimeZone::system()))?;
    Ok(Exit::Done)
}

/// `rollout list`.
pub(crate) async fn list(client: &Client, output: Output) -> Result<Exit, Error> {
    let all: Vec<RolloutStatus> = client
        .document("RolloutStatus list", READ_MAX, |mut operator| async move {
            operator.list(Empty {}).await
        })
        .await?;
    output.either(&all, || render::status::list(&all, now_ms(), &TimeZone::system()))?;
    Ok(Exit::Done)
}

/// `hosts`.
pub(crate) async fn hosts(client: &Client, output: Output) -> Result<Exit, Error> {
    let hosts = host_lines(client).await?;
    output.either(&hosts, || render::hosts::hosts(&hosts))?;
    Ok(Exit::Done)
}

/// Returns what is known of all hosts.
pub(crate) async fn host_lines(client: &Client) -> Result<Vec<HostLine>, Error> {
    client
        .document("HostLine list", READ_MAX, |mut operator| async move {
            operator.hosts(Empty {}).await
        })
        .await
}

/// Returns the holds of all clusters.
pub(crate) async fn hold_list(client: &Client) -> Result<Vec<HoldStatus>, Error> {
    client
        .document("HoldStatus list", READ_MAX, |mut operator| async move {
            operator.holds(Empty {}).await
        })
        .await
}

/// `hold show`.
pub(crate) async fn holds(
    client: &Client,
    cluster: Option<&ClusterId>,
    output: Output,
) -> Result<Exit, Error> {
    let mut holds = hold_list(client).await?;
    if let Some(cluster) = cluster {
        holds.retain(|hold| &hold.cluster == cluster);
        if holds.is_empty() {
            return Err(Error::refused(
                Code::NoSuchObject,
                format!("there is no cluster `{cluster}`"),
            )
            .hint("`grayfin hosts` shows the clusters that host agents serve"));
        }
    }
    output.either(&holds, || render::status::holds(&holds))?;
    Ok(Exit::Done)
}

/// `explain`.
pub(crate) async fn explain(
    client: &Client,
    id: Option<&RolloutId>,
    output: Output,
) -> Result<Exit, Error> {
    let explained = explanation(client, id).await?;
    output.either(&explained, || render::status::explanation(&explained))?;
    Ok(Exit::Done)
}

/// Returns why a rollout stands as it does; the gates are run for it.
pub(crate) async fn explanation(
    client: &Client,
    id: Option<&RolloutId>,
) -> Result<Explanation, Error> {
    let name = name(id);
    client
        .document("Explanation", READ_MAX, |mut operator| {
            let name = name.clone();
            async move { operator.explain(name).await }
        })
        .await
}
