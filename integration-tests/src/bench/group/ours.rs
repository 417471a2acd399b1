//! Three coordinators of a lab.

use anyhow::{Context, ensure};
use grayfin_proto::tls::Files;
use grayfin_proto::v1::operator_client::OperatorClient;
use grayfin_proto::v1::{ControlAction, ControlRequest, Empty};
use grayfin_types::status::RolloutState;
use tonic::transport::Channel;

use super::{FAILOVER_LIMIT, Group, until_led};
use crate::suite::{self, TO};
use crate::{Lab, Target, wait};

/// Coordinators of a lab with a rollout that is paused: each write is one more wish to pause it, which is
/// recorded, checked and answered, and changes nothing.
pub(super) struct Ours<'lab> {
    lab: &'lab Lab,
    clients: Vec<OperatorClient<Channel>>,
    rollout: String,
    wishes: u64,
}

impl<'lab> Ours<'lab> {
    /// Starts a rollout and pauses it.
    pub(super) async fn prepare(lab: &'lab Lab) -> anyhow::Result<Self> {
        let more = ["--canary", "off"];
        lab.wait_ready(TO, &more).await?;
        let rollout = lab.start_rollout(TO, &more).await?;
        let done = lab.cli(&["rollout", "pause", &rollout]).await?;
        ensure!(done.code == Some(0), "{}", suite::words(&done));
        lab.wait_state(&rollout, RolloutState::Paused).await?;
        Ok(Self { lab, clients: clients(lab)?, rollout, wishes: 0 })
    }

    fn number(at: usize) -> anyhow::Result<u8> {
        u8::try_from(at + 1).context("three coordinators")
    }
}

/// An operator's connection to each coordinator.
pub(super) fn clients(lab: &Lab) -> anyhow::Result<Vec<OperatorClient<Channel>>> {
    let pki = lab.paths().pki();
    let files = Files {
        ca: pki.join("ca.pem"),
        cert: pki.join("operator.pem"),
        key: pki.join("operator.key"),
    };
    let channels = lab.topology().coordinators.iter().map(|it| files.channel(&it.address));
    Ok(channels.map(|it| it.map(OperatorClient::new)).collect::<Result<_, _>>()?)
}

impl Group for Ours<'_> {
    async fn leader(&mut self) -> anyhow::Result<usize> {
        let clients = &self.clients;
        until_led("a coordinator to lead", async |at| {
            // Only a leader that has confirmed its lead answers this.
            let mut client = clients.get(at)?.clone();
            client.holds(Empty {}).await.is_ok().then_some(at)
        })
        .await
    }

    async fn write(&mut self, at: usize) -> Result<(), String> {
        self.wishes += 1;
        let wish = ControlRequest {
            request_id: format!("bench-{}", self.wishes),
            rollout: self.rollout.clone(),
            action: ControlAction::Pause.into(),
            reason: "a benchmark".to_owned(),
            ..ControlRequest::default()
        };
        let client = self.clients.get_mut(at).ok_or("three coordinators")?;
        client.control(wish).await.map(drop).map_err(|status| status.to_string())
    }

    async fn kill(&mut self, at: usize) -> anyhow::Result<()> {
        self.lab.kill(&Target::Coordinator(Self::number(at)?)).await
    }

    async fn restart(&mut self, at: usize) -> anyhow::Result<()> {
        self.lab.restart(&Target::Coordinator(Self::number(at)?)).await?;
        self.lab.group_is_whole().await?;
        self.lab.wait_hosts_connected().await
    }

    async fn served(&mut self, by: usize) -> anyhow::Result<bool> {
        let client = self.clients.get(by).context("three coordinators")?;
        wait::until("every host agent to be connected", FAILOVER_LIMIT, || async {
            let answer = client.clone().hosts(Empty {}).await.map_err(|it| it.to_string())?;
            let text = String::from_utf8_lossy(&answer.get_ref().json).into_owned();
            let there = text.matches(r#""connected":true"#).count();
            if there == self.lab.topology().hosts.len() { Ok(true) } else { Err(text) }
        })
        .await
    }
}
