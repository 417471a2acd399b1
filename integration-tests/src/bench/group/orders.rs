//! From the death of the leading coordinator to the next order that a host agent carries out.
//!
//! A rollout stands between two hosts. The leader is killed, and at once somebody goes on asking the
//! others to resume. What counts is when the next host's agent says that it began: by then another
//! coordinator was elected, has taken over, heard from the agents how the cluster is, passed its gates,
//! has the others' promises, and its order is in the agent's ledger.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use grayfin_proto::v1::operator_client::OperatorClient;
use grayfin_proto::v1::{ControlAction, ControlRequest};
use grayfin_types::event::{Body, Event};
use grayfin_types::status::{HostPhase, RolloutState};
use grayfin_types::step::Happened;
use standin::package::Release;
use tonic::transport::Channel;

use super::ours::clients;
use super::{Times, options, until_taken};
use crate::suite::{self, ROLLOUT_LIMIT};
use crate::{Lab, Options, Target};

/// Hosts, so that few labs are enough.
const HOSTS: u8 = 6;
/// What has nothing to do with what is measured.
const ACCEPTED: [&str; 8] = [
    "--canary",
    "off",
    "--pause-after",
    "each",
    "--accept-compat-risk",
    "a benchmark in a lab",
    "--override",
    "plugins=a benchmark in a lab",
];

/// Measures so many failovers, in as many labs as that takes.
pub(super) async fn measure(folder: &Path, failovers: usize) -> anyhow::Result<Times> {
    let mut times = Times::default();
    let targets: Vec<String> = Release::all().into_iter().map(|it| it.version).collect();
    for number in 1.. {
        if times.0.len() >= failovers {
            break;
        }
        let options = Options { hosts: HOSTS, ..options() };
        let lab = Lab::up(&folder.join(format!("orders{number}")), &options).await?;
        let clients = clients(&lab)?;
        for target in targets.iter().skip_while(|it| *it != suite::FROM).skip(1) {
            if times.0.len() < failovers {
                one_rollout(&lab, &clients, target, &mut times).await?;
            }
        }
        lab.down()?;
    }
    Ok(times)
}

async fn one_rollout(
    lab: &Lab,
    clients: &[OperatorClient<Channel>],
    target: &str,
    times: &mut Times,
) -> anyhow::Result<()> {
    lab.wait_ready(target, &ACCEPTED).await?;
    let id = lab.start_rollout(target, &ACCEPTED).await?;
    let mut killed_ms = Vec::new();
    for _ in 1..lab.topology().hosts.len() {
        lab.wait_state(&id, RolloutState::Paused).await?;
        let dead = lab.leading_coordinator().await?;
        killed_ms.push(wall_ms()?);
        lab.kill(&Target::Coordinator(dead)).await?;
        resume(clients, usize::from(dead) - 1, &id, killed_ms.len()).await?;
        let going_on =
            |state: RolloutState| matches!(state, RolloutState::Paused | RolloutState::Succeeded);
        // It would be paused already before the new leader has taken the wish in.
        let hosts_done = killed_ms.len() + 1;
        lab.wait_status(&id, "to have done the next host", |status| {
            let done = status.hosts.iter().filter(|host| host.phase == HostPhase::Done).count();
            done >= hosts_done && going_on(status.state)
        })
        .await?;
        lab.restart(&Target::Coordinator(dead)).await?;
        lab.group_is_whole().await?;
    }
    lab.wait_state(&id, RolloutState::Succeeded).await?;
    let began = began_ms(lab, &id).await?;
    for killed in killed_ms {
        let next = began.iter().find(|began| **began >= killed).context("a host after the kill")?;
        times.0.push(u128::from(next - killed) * 1_000);
    }
    Ok(())
}

/// Asks those that live until one has recorded it.
async fn resume(
    clients: &[OperatorClient<Channel>],
    dead: usize,
    rollout: &str,
    number: usize,
) -> anyhow::Result<()> {
    let wish = ControlRequest {
        request_id: format!("bench-{rollout}-{number}"),
        rollout: rollout.to_owned(),
        action: ControlAction::Resume.into(),
        reason: "a benchmark".to_owned(),
        ..ControlRequest::default()
    };
    let answer = until_taken(dead, async |at| {
        let mut client = clients.get(at)?.clone();
        client.control(wish.clone()).await.ok()
    })
    .await?
    .into_inner();
    ensure!(answer.accepted, "{}: {}", answer.code, answer.why);
    Ok(())
}

/// When each host agent began with its host, in order, by its own clock, which is this machine's.
async fn began_ms(lab: &Lab, id: &str) -> anyhow::Result<Vec<u64>> {
    let mut lines = Vec::new();
    let watch = ["rollout", "watch", id, "--json"];
    lab.stream(&watch, ROLLOUT_LIMIT, |line| lines.push(line.to_owned())).await?;
    let mut began = std::collections::BTreeMap::new();
    for line in &lines {
        let event: Event =
            serde_json::from_str(line).with_context(|| format!("no event: {line}"))?;
        if let Body::Reported { report } = event.body
            && report.token.0 > 0
            && report.happened == Happened::Started
        {
            began.entry(report.token).or_insert(report.at_ms);
        }
    }
    Ok(began.into_values().collect())
}

fn wall_ms() -> anyhow::Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}
