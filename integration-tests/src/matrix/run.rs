//! Driving a rollout through cells of the crash matrix.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use grayfin_types::status::{RolloutState, RolloutStatus};

use super::{Passed, Victim, is_torn, passed};
use crate::lab::grayfin::FAILPOINT;
use crate::suite::{self, ROLLOUT_LIMIT};
use crate::{Lab, Target, wait};

/// A retry that an operator gives; more than so many would be a rollout that never ends.
const RETRIES_MAX: usize = 6;
/// For what a host agent does when its hold is closed and the rollout is over.
const TIDY_LIMIT: Duration = Duration::from_secs(10);

/// Where a host's agent is to be met, and who is killed then.
#[derive(Debug, Clone)]
pub struct Places {
    /// Who.
    pub victim: Victim,
    /// Places that are left.
    pub left: Vec<String>,
    /// Somebody changes the installed software here, once: the upgrade fails and is undone.
    pub sabotage: Option<String>,
}

impl Places {
    /// Kills the victim at each of these places.
    pub fn of(victim: Victim, left: Vec<String>) -> Self {
        Self { victim, left, sabotage: None }
    }

    fn variables(&self, shared: &[String]) -> BTreeMap<String, String> {
        let all = self.left.iter().chain(shared).cloned().chain(self.sabotage.clone());
        let (torn, stops): (Vec<_>, Vec<_>) = all.partition(|it| is_torn(it));
        [("GRAYFIN_STOPPOINTS", stops), (FAILPOINT, torn)]
            .into_iter()
            .filter(|(_, places)| !places.is_empty())
            .map(|(name, places)| (name.to_owned(), places.join(",")))
            .collect()
    }
}

/// Cells of one rollout.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// By host.
    pub hosts: BTreeMap<u8, Places>,
    /// Places that some host passes, nobody knows beforehand which; left until one has.
    pub shared: Vec<String>,
}

/// What a host's agent is found doing.
enum Met {
    Stands(u8),
    Dead(u8),
    Halted(RolloutStatus),
    Over(RolloutStatus),
}

impl Run {
    /// Starts a host's agent again so that it is met at the places that are left.
    async fn arm(&self, lab: &Lab, host: u8) -> anyhow::Result<()> {
        let places = self.hosts.get(&host).context("the host has places")?;
        lab.restart_with(&Target::Agent(host), &places.variables(&self.shared)).await
    }

    /// Takes a place off the lists, and returns who is to be killed there; nobody is, but the software
    /// changed, if that was wanted.
    fn take(&mut self, host: u8, place: &str) -> anyhow::Result<Option<Victim>> {
        let places = self.hosts.get_mut(&host).context("the host has places")?;
        if places.sabotage.as_deref() == Some(place) {
            places.sabotage = None;
            return Ok(None);
        }
        let asked = places.left.len() + self.shared.len();
        places.left.retain(|it| it != place);
        self.shared.retain(|it| it != place);
        if asked == places.left.len() + self.shared.len() {
            // Another host's agent was met there meanwhile; this one still stands.
            ensure!(passed(place)? == Passed::OneHost, "nobody asked for a stop at {place}");
        }
        suite::say(&format!("host {host}: {:?} killed at {place}", places.victim));
        Ok(Some(places.victim))
    }

    /// Kills the victim and starts it again. A host agent that died by itself is only started.
    async fn kill(&self, lab: &Lab, host: u8, victim: Victim) -> anyhow::Result<()> {
        let coordinator = Target::Coordinator(1);
        match victim {
            Victim::Agent => self.arm(lab, host).await,
            Victim::Coordinator => {
                // The agent works on without a coordinator: that takes a second to come back.
                lab.kill(&coordinator).await?;
                lab.agent_goes_on(host).await?;
                lab.restart(&coordinator).await
            }
            Victim::Both => {
                lab.kill(&coordinator).await?;
                self.arm(lab, host).await?;
                lab.restart(&coordinator).await
            }
        }
    }
}

/// Starts a rollout with `start` once every host agent can be met at its places, and drives it to its
/// end: who is met is killed and started again, what is halted is retried. All places must have been
/// met. Returns the rollout and how often it was halted.
///
/// # Errors
/// If anything ends in another way.
pub async fn drive(
    lab: &Lab,
    mut run: Run,
    start: impl AsyncFnOnce(&Lab) -> anyhow::Result<String>,
) -> anyhow::Result<(String, usize)> {
    let hosts: Vec<u8> = run.hosts.keys().copied().collect();
    for host in &hosts {
        run.arm(lab, *host).await?;
    }
    let id = start(lab).await?;
    let mut halts = 0;
    loop {
        let left = !run.shared.is_empty() || run.hosts.values().any(|it| !it.left.is_empty());
        let (host, place) = match met(lab, &id, &hosts, left).await? {
            Met::Stands(host) => (host, lab.last_stop(host)?),
            Met::Dead(host) => (host, lab.last_place(host, "fail point reached")?),
            Met::Halted(status) => {
                suite::say(&format!("halted, retried: {}", suite::summary(&status)));
                halts += 1;
                ensure!(halts <= RETRIES_MAX, "halted for ever: {}", suite::summary(&status));
                continue;
            }
            Met::Over(status) => {
                let left: Vec<&String> =
                    run.hosts.values().flat_map(|it| &it.left).chain(&run.shared).collect();
                ensure!(left.is_empty(), "never passed: {left:?}; {}", suite::summary(&status));
                return Ok((id, halts));
            }
        };
        match run.take(host, &place)? {
            Some(victim) => run.kill(lab, host, victim).await?,
            None => {
                change_software(lab, host)?;
                lab.agent_goes_on(host).await?;
            }
        }
    }
}

async fn met(lab: &Lab, id: &str, hosts: &[u8], left: bool) -> anyhow::Result<Met> {
    let over = Cell::new(None);
    let what = format!("a host agent to be met, or rollout {id} to halt or end");
    let words = |error: anyhow::Error| format!("{error:#}");
    wait::until(&what, ROLLOUT_LIMIT, || async {
        for host in hosts {
            if lab.processes_of(&Target::Agent(*host)).await.map_err(words)?.is_empty() {
                return Ok(Met::Dead(*host));
            }
            if lab.agent_stands(*host).await.map_err(words)? {
                return Ok(Met::Stands(*host));
            }
        }
        let status = lab.rollout(id).await.map_err(words)?;
        if status.state.is_final() {
            // The last host agent may still tidy up.
            let since = over.get().unwrap_or_else(Instant::now);
            over.set(Some(since));
            return match left && since.elapsed() < TIDY_LIMIT {
                true => Err("it is over, and places are left".to_owned()),
                false => Ok(Met::Over(status)),
            };
        }
        if status.state == RolloutState::Halted && !status.waiting.is_empty() {
            // Refused as long as whoever was killed has not connected again.
            let done = lab.cli(&["rollout", "retry", id, "--reason", "it was killed"]).await;
            let done = done.map_err(words)?;
            if done.code == Some(0) {
                return Ok(Met::Halted(status));
            }
            return Err(suite::words(&done));
        }
        Err(suite::summary(&status))
    })
    .await
}

/// Somebody changes a file of the new software; the check by hash must find it.
fn change_software(lab: &Lab, host: u8) -> anyhow::Result<()> {
    let server = lab.paths().server(&lab.host(host)?.name, lab.cluster());
    let mut files: Vec<_> = fs::read_dir(&server)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|it| it == "so"))
        .collect();
    files.sort();
    let file = files.first().with_context(|| format!("no library in `{}`", server.display()))?;
    let mut bytes = fs::read(file)?;
    bytes.push(b'!');
    let fresh = file.with_extension("changed");
    fs::write(&fresh, bytes)?;
    fs::rename(&fresh, file)?;
    suite::say(&format!("somebody changed `{}`", file.display()));
    Ok(())
}
