//! What an operator does with a rollout that stands, and how it must end then.

use std::path::Path;

use anyhow::ensure;
use grayfin_types::status::{HoldStatus, RolloutState, RolloutStatus};

use crate::observer::Report;
use crate::rollout::Finished;
use crate::suite::{self, CANARY, NOTICE_LIMIT, ROLLOUT_LIMIT, TO};
use crate::{Lab, Target, wait};

/// Retries that a rollout may need after one fault.
const RETRIES_MAX: usize = 4;

impl Lab {
    /// Lets each host's agent stand still at a place of its own, in the order of the plan; returns
    /// the hosts in that order.
    pub async fn stand_at(&self, places: &[&str]) -> anyhow::Result<Vec<u8>> {
        let hosts = self.order().await?;
        for (host, place) in hosts.iter().zip(places) {
            let places: Vec<String> = place.split(',').map(str::to_owned).collect();
            self.restart_agent_with_stops(*host, &places).await?;
        }
        self.wait_hosts_connected().await?;
        self.wait_ready(TO, &CANARY).await?;
        Ok(hosts)
    }

    /// Waits until every node of a host answers with a version, asked directly.
    pub async fn wait_runs(&self, host: u8, version: &str) -> anyhow::Result<()> {
        let what = format!("every node of host {host} to answer with {version}");
        wait::until(&what, ROLLOUT_LIMIT, || async {
            let versions = self.versions().await.map_err(|error| format!("{error:#}"))?;
            let own = self.cluster().nodes.iter().filter(|node| node.host == host);
            let wrong =
                own.filter(|node| versions.get(node.alias()).is_none_or(|it| it != version));
            let wrong: Vec<&str> = wrong.map(|node| node.alias()).collect();
            if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?} do not")) }
        })
        .await
    }

    /// Runs a steering verb; it must be accepted.
    pub async fn steer(&self, verb: &str, id: &str) -> anyhow::Result<()> {
        let done = self.cli(&["rollout", verb, id, "--reason", "a test"]).await?;
        ensure!(done.code == Some(0), "{verb}: {}", suite::words(&done));
        Ok(())
    }

    /// Asks for a retry as soon as the coordinator takes it: whoever was cut off connects again first.
    pub async fn retry(&self, id: &str) -> anyhow::Result<()> {
        self.wait_hosts_connected().await?;
        self.wait_healthy().await?;
        let done = self.cli(&["rollout", "retry", id, "--reason", "the cause is gone"]).await?;
        let halted = self.rollout(id).await?.state == RolloutState::Halted;
        ensure!(done.code == Some(0) || !halted, "retry: {}", suite::words(&done));
        Ok(())
    }

    /// Waits until `preflight` refuses a rollout to `to` with reasons that hold all these words.
    pub async fn wait_against(
        &self,
        to: &str,
        more: &[&str],
        words: &[&str],
    ) -> anyhow::Result<()> {
        wait::until(&format!("`preflight` to say {words:?}"), NOTICE_LIMIT, || async {
            let answer = self.preflight(to, more).await.map_err(|error| format!("{error:#}"))?;
            let against = suite::against(&answer).join("; ");
            if !answer.ready && words.iter().all(|word| against.contains(word)) {
                suite::say(&against);
                Ok(())
            } else {
                Err(format!("ready: {}; {against}", answer.ready))
            }
        })
        .await
    }

    /// Ends a host's agent and puts its ledger back to the copy in `kept`.
    pub async fn put_ledger_back(&self, host: u8, kept: &Path) -> anyhow::Result<()> {
        let state = self.paths().agent(&self.host(host)?.name).join("state");
        self.kill(&Target::Agent(host)).await?;
        std::fs::remove_dir_all(&state)?;
        suite::copy_folder(kept, &state)
    }

    /// Readmits a host whose nodes all run: its agent goes on with the ledger that it has.
    pub async fn readmit(&self, host: u8) -> anyhow::Result<()> {
        let name = self.host(host)?.name.clone();
        let place = format!("{}/{name}", self.cluster().name);
        let verb = ["host", "readmit", &place, "--reason", "a test"];
        let refused = self.cli(&[&verb[..], &["--confirm", "another"]].concat()).await?;
        ensure!(refused.code != Some(0), "the name must be typed: {}", suite::words(&refused));
        wait::until("the readmission to be accepted", NOTICE_LIMIT, || async {
            let done = self.cli(&[&verb[..], &["--confirm", &name]].concat()).await;
            let done = done.map_err(|error| format!("{error:#}"))?;
            if done.code == Some(0) { Ok(()) } else { Err(suite::words(&done)) }
        })
        .await
    }

    /// Follows a rollout to its end; whenever it is halted, does what it says makes sense: retry.
    pub async fn end_with_retries(&self, id: &str) -> anyhow::Result<RolloutStatus> {
        for _ in 0..RETRIES_MAX {
            let over = self.wait_status(id, "to end or to halt", |status| {
                status.state.is_final() || status.state == RolloutState::Halted
            });
            let status = over.await?;
            if status.state.is_final() {
                return Ok(status);
            }
            suite::say(&format!("halted: {}", suite::summary(&status)));
            ensure!(!status.waiting.is_empty(), "it is halted and does not say why");
            self.retry(id).await?;
        }
        self.wait_rollout(id, ROLLOUT_LIMIT).await
    }

    /// The rollout ends well, with retries where it asks for them, and every backup is whole.
    pub async fn ensure_good_end(&self, id: &str, to: &str, seen: &Report) -> anyhow::Result<()> {
        let status = self.end_with_retries(id).await?;
        ensure!(status.state == RolloutState::Succeeded, "{}", suite::summary(&status));
        self.ensure_succeeded(id, to, seen).await?;
        for host in &self.topology().hosts {
            let done = self.agent_cli(host.number, &["backup", "verify"]).await?;
            ensure!(done.is_success(), "backups of `{}`: {done:?}", host.name);
        }
        Ok(())
    }

    /// The hold of the first cluster.
    pub async fn hold(&self) -> anyhow::Result<HoldStatus> {
        let holds: Vec<HoldStatus> = self.ask(&["hold", "show", "--json"]).await?;
        let found = holds.into_iter().find(|hold| hold.cluster.as_str() == self.cluster().name);
        anyhow::Context::context(found, "the cluster has a hold")
    }

    /// Breaks the hold of the first cluster, as an operator would in a script.
    pub async fn break_hold(&self) -> anyhow::Result<Finished> {
        let hold = self.hold().await?;
        let host = hold.host.as_ref().map(ToString::to_string).unwrap_or_default();
        let (token, name) = (hold.token.to_string(), self.cluster().name.clone());
        let sure = ["--reason", "a test", "--confirm", &host];
        self.cli(&[&["hold", "break", &name, "--token", &token][..], &sure].concat()).await
    }

    /// Attests that a host is switched off for good.
    pub async fn attest(&self, host: u8) -> anyhow::Result<Finished> {
        let token = self.hold().await?.token.to_string();
        let name = &self.host(host)?.name;
        let sure = ["--reason", "a test", "--confirm", name];
        self.cli(&[&["hold", "attest", name, "--token", &token][..], &sure].concat()).await
    }

    /// Kills a host's agent and starts it again, as it was configured.
    pub async fn restart_agent(&self, host: u8) -> anyhow::Result<()> {
        self.restart(&Target::Agent(host)).await
    }
}
