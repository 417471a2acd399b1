//! Three coordinators and three hosts, each machine with a network of its own, and partitions of every
//! kind while rollouts run. Networks need root: elsewhere this is skipped with a message, in CI it fails.

use anyhow::{Context, ensure};
use grayfin_types::status::{HostPhase, HostStatus, RolloutState};
use integration_tests::suite::{self, CANARY, FROM, ROLLOUT_LIMIT};
use integration_tests::{Lab, Options, wait};
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

/// A rollout that goes on while a follower is cut off has told so much since. The steps of a host alone
/// make more events.
const EVENTS: u64 = 10;

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
            if let Some((id, _)) = self.ids.last()
                && works_on_a_host(self.lab, id).await?
            {
                return Ok(id.clone());
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

/// Waits until a rollout works on a host, and tells whether it does: it may be at its end.
async fn works_on_a_host(lab: &Lab, id: &str) -> anyhow::Result<bool> {
    wait::until("a host to be worked on", ROLLOUT_LIMIT, || async {
        let status = lab.rollout(id).await.map_err(|error| format!("{error:#}"))?;
        let works = |host: &HostStatus| matches!(host.phase, HostPhase::Working { .. });
        let works = status.hosts.iter().any(works);
        if works || status.state.is_final() {
            return Ok(works);
        }
        let retried = retry_if_halted(lab, id, status.state).await;
        retried.map_err(|error| format!("{error:#}"))?;
        Err(suite::summary(&status))
    })
    .await
}

/// A host agent that was cut off with its host half down takes back what it can, and a person is asked.
async fn retry_if_halted(lab: &Lab, id: &str, state: RolloutState) -> anyhow::Result<()> {
    if state == RolloutState::Halted {
        lab.wait_hosts_connected().await?;
        lab.cli(&["rollout", "retry", id, "--reason", "the links are back"]).await?;
    }
    Ok(())
}

/// Waits until a rollout has told more, or is at its end.
async fn goes_on(lab: &Lab, rollout: &str) -> anyhow::Result<()> {
    let from = lab.rollout(rollout).await?.last_seq.0;
    wait::until("the rollout to go on", ROLLOUT_LIMIT, || async {
        let status = lab.rollout(rollout).await.map_err(|error| format!("{error:#}"))?;
        let told = status.last_seq.0.saturating_sub(from);
        if told >= EVENTS || status.state.is_final() {
            Ok(())
        } else {
            Err(suite::summary(&status))
        }
    })
    .await
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
            goes_on(lab, rollout).await?;
            ensure!(lab.leading_coordinator().await? != follower, "a lone follower leads");
            lab.ensure_powerless(follower, rollout).await?;
        }
        Kind::OneWay => {
            goes_on(lab, rollout).await?;
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
        wait::until("the last rollout to end", ROLLOUT_LIMIT, || async {
            let status = lab.rollout(last).await.map_err(|error| format!("{error:#}"))?;
            if status.state.is_final() {
                return Ok(());
            }
            let retried = retry_if_halted(lab, last, status.state).await;
            retried.map_err(|error| format!("{error:#}"))?;
            Err(suite::summary(&status))
        })
        .await?;
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
