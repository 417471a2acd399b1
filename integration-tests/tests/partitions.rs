//! Three coordinators and three hosts, each machine with a network of its own, and partitions of every
//! kind while rollouts run. Networks need root: elsewhere this is skipped with a message, in CI it fails.

use std::time::Duration;

use anyhow::{Context, ensure};
use grayfin_types::status::{HostPhase, RolloutState};
use integration_tests::suite::{self, CANARY, FROM, ROLLOUT_LIMIT};
use integration_tests::{Lab, Options};
use standin::package::Release;

/// Each kind of partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    LeaderAlone,
    FollowerAlone,
    /// A follower hears everybody and nobody hears it.
    OneWay,
    /// One host agent reaches the old leader only, and the old leader reaches it alone.
    AgentsSplit,
    /// The leader and the other coordinators do not hear each other; host agents reach all of them.
    CoordinatorsOnly,
}

const KINDS: [Kind; 5] = [
    Kind::LeaderAlone,
    Kind::FollowerAlone,
    Kind::OneWay,
    Kind::AgentsSplit,
    Kind::CoordinatorsOnly,
];

/// What stands against later releases and has nothing to do with partitions.
const ACCEPTED: [&str; 4] = ["--accept-compat-risk", "a test", "--override", "plugins=a test"];

/// A partition that nothing has to be waited for lasts as long as two elections.
const LASTS: Duration = Duration::from_secs(5);

fn options() -> Options {
    Options {
        version: FROM.to_owned(),
        coordinators: 3,
        netns: true,
        time_scale: 0.05,
        ..Options::default()
    }
}

/// Rollouts one after the other, each to the next release.
struct Rollouts<'lab> {
    lab: &'lab Lab,
    targets: Vec<String>,
    ids: Vec<(String, String)>,
}

impl Rollouts<'_> {
    /// Returns the id of a rollout in which a host is being worked on.
    async fn at_work(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some((id, _)) = self.ids.last() {
                let status = self.lab.rollout(id).await?;
                if status.hosts.iter().any(|host| matches!(host.phase, HostPhase::Working { .. })) {
                    return Ok(id.clone());
                }
                retry_if_halted(self.lab, id, status.state).await?;
                if !status.state.is_final() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            }
            ensure!(!self.targets.is_empty(), "no release is left");
            let target = self.targets.remove(0);
            let more = [&CANARY[..], &ACCEPTED[..]].concat();
            self.lab.wait_ready(&target, &more).await?;
            let id = self.lab.start_rollout(&target, &more).await?;
            self.ids.push((id, target));
        }
    }
}

/// A host agent that was cut off with its host half down takes back what it can, and a person is asked.
async fn retry_if_halted(lab: &Lab, id: &str, state: RolloutState) -> anyhow::Result<()> {
    if state == RolloutState::Halted {
        lab.wait_hosts_connected().await?;
        lab.cli(&["rollout", "retry", id, "--reason", "the links are back"]).await?;
    }
    Ok(())
}

async fn part(lab: &Lab, kind: Kind, rollout: &str) -> anyhow::Result<()> {
    let leader = lab.leading_coordinator().await?;
    let others = lab.coordinators_but(leader);
    let follower = *others.first().context("a follower")?;
    let name = |number: u8| format!("coordinator{number}");
    let (first, second) = (name(leader), name(follower));
    match kind {
        Kind::LeaderAlone => lab.cut_off(&first, |_| true)?,
        Kind::FollowerAlone => lab.cut_off(&second, |_| true)?,
        Kind::OneWay => {
            for other in lab.topology().machines().filter(|it| *it != second) {
                lab.cut(&second, other)?;
            }
        }
        Kind::AgentsSplit => {
            let host = &lab.host(1)?.name;
            lab.cut_off(&first, |other| other != host)?;
            for other in &others {
                lab.cut_both(host, &name(*other))?;
            }
        }
        Kind::CoordinatorsOnly => lab.cut_off(&first, |other| other.starts_with("coordinator"))?,
    }
    match kind {
        Kind::LeaderAlone | Kind::AgentsSplit | Kind::CoordinatorsOnly => {
            let next = lab.leads_other_than(leader).await?;
            suite::say(&format!("{kind:?}: coordinator {next} leads instead of {leader}"));
            lab.ensure_powerless(leader, rollout).await?;
        }
        Kind::FollowerAlone => {
            tokio::time::sleep(LASTS).await;
            ensure!(lab.leading_coordinator().await? != follower, "a lone follower leads");
            lab.ensure_powerless(follower, rollout).await?;
        }
        Kind::OneWay => {
            tokio::time::sleep(LASTS).await;
            let now = lab.leading_coordinator().await?;
            ensure!(now != follower, "one that nobody hears leads");
        }
    }
    lab.join_all()?;
    lab.group_is_whole().await
}

#[tokio::test(flavor = "multi_thread")]
async fn rollouts_survive_partitions_of_every_kind_and_whoever_is_cut_off_decides_nothing() {
    suite::in_lab(&options(), async |lab| {
        let releases = Release::all().into_iter().map(|it| it.version);
        let targets = releases.skip_while(|version| version != FROM).skip(1).collect();
        let mut rollouts = Rollouts { lab, targets, ids: Vec::new() };
        let observer = lab.observer()?;
        for kind in KINDS {
            let id = rollouts.at_work().await?;
            part(lab, kind, &id).await.with_context(|| format!("{kind:?}"))?;
        }
        let (last, target) = rollouts.ids.last().context("a rollout was started")?;
        let ended = async {
            loop {
                let state = lab.rollout(last).await?.state;
                if state.is_final() {
                    return anyhow::Ok(());
                }
                retry_if_halted(lab, last, state).await?;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(ROLLOUT_LIMIT, ended).await.context("it does not end")??;
        let seen = observer.stop();
        lab.ensure_succeeded(last, target, &seen).await?;
        for (id, _) in &rollouts.ids {
            let status = lab.rollout(id).await?;
            ensure!(status.state == RolloutState::Succeeded, "{}", suite::summary(&status));
            ensure!(status.canary.lost == 0, "{:?}", status.canary);
        }
        suite::say(&format!("{} rollouts under {} partitions", rollouts.ids.len(), KINDS.len()));
        Ok(())
    })
    .await;
}
