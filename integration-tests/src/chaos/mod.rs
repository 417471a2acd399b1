//! `lab chaos`: rollouts on labs with three coordinators while everything that can fail does.
//!
//! Whoever judges is not asked of Grayfin: the observer sees every process, the canary's rows are read
//! back, every node is asked for its version. A rollout that halts is asked why, and what its reason says
//! clears it is done.

mod faults;
mod tally;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use grayfin_types::status::{RolloutState, RolloutStatus};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use standin::package::Release;

use self::faults::Fault;
use self::tally::Tally;
use crate::observer::Report;
use crate::suite::{self, CANARY};
use crate::{Lab, Options, Target};

/// For one rollout under faults: it takes half a minute without.
const ROLLOUT_LIMIT: Duration = Duration::from_secs(900);
/// Between two looks at a rollout.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Retries before a rollout is aborted, and remedies in all; nothing fails so often by chance.
const RETRIES_MAX: u32 = 8;
const REMEDIES_MAX: u32 = 12;
/// For everybody to be there again between two rollouts.
const REST_LIMIT: Duration = Duration::from_secs(180);

/// How much of it.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Faults, at least; the last rollout is brought to its end.
    #[arg(long, default_value_t = 200)]
    pub faults: u32,
    /// Rollouts, at least.
    #[arg(long, default_value_t = 30)]
    pub rollouts: u32,
    /// Choose the same faults again; when they hit depends on the machine all the same.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Milliseconds between two faults, on average.
    #[arg(long, default_value_t = 4_000)]
    pub pause_ms: u64,
    /// What lies between the machines; the one and the other lab by lab if not given.
    #[arg(long, value_enum)]
    pub links: Option<Links>,
}

/// What lies between the machines of a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Links {
    /// A network for each machine, by which links can be cut, one way too. For root.
    Networks,
    /// A relay in front of each coordinator, by which links can be slow and half-open; the coordinators'
    /// state lies on small volumes, which can be full.
    Relays,
}

/// For a coordinator's state in a lab where it can get full.
const STATE_KIB: u64 = 24 << 10;

/// Runs rollouts under faults in labs below a folder, and prints a table of what happened.
///
/// # Errors
/// If a rule was broken or a rollout came to no end. The lab's files are kept then.
pub async fn run(arguments: &Arguments, folder: &Path) -> anyhow::Result<()> {
    let seed = arguments.seed.unwrap_or_else(|| rand::rng().random());
    suite::say(&format!("seed {seed}"));
    let mut tally = Tally::default();
    let mut rng = StdRng::seed_from_u64(seed);
    for number in 1.. {
        let by_turns = if number % 2 == 1 { Links::Networks } else { Links::Relays };
        let links = arguments.links.unwrap_or(by_turns);
        let lab = Lab::up(&folder.join(format!("lab{number}")), &options(links)).await?;
        let outcome = in_one_lab(&lab, links, arguments, &mut rng, &mut tally).await;
        suite::say(&tally.table());
        if let Err(error) = outcome {
            let kept = lab.down_keeping_files()?;
            return Err(error.context(format!("seed {seed}; files: {}", kept.display())));
        }
        lab.down()?;
        if tally.is_enough(arguments) {
            break;
        }
    }
    Ok(())
}

/// Runs rollouts under faults on a lab that has such links, and prints the table.
///
/// # Errors
/// If a rule was broken or a rollout came to no end.
pub async fn on_lab(lab: &Lab, links: Links, arguments: &Arguments) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    let mut rng = StdRng::seed_from_u64(arguments.seed.unwrap_or_else(|| rand::rng().random()));
    let outcome = in_one_lab(lab, links, arguments, &mut rng, &mut tally).await;
    suite::say(&tally.table());
    outcome
}

/// A lab with three coordinators and such links.
pub fn options(links: Links) -> Options {
    Options {
        version: suite::FROM.to_owned(),
        coordinators: 3,
        netns: links == Links::Networks,
        relayed: links == Links::Relays,
        time_scale: 0.05,
        ..Options::default()
    }
}

/// Rollouts to one release after the other, until there is none left or it is enough.
async fn in_one_lab(
    lab: &Lab,
    links: Links,
    arguments: &Arguments,
    rng: &mut StdRng,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    if links == Links::Relays {
        for coordinator in &lab.topology().coordinators {
            let target = Target::Coordinator(coordinator.number);
            lab.kill(&target).await?;
            lab.limit_state(coordinator.number, STATE_KIB).await?;
            lab.restart(&target).await?;
        }
        lab.group_is_whole().await?;
    }
    let releases = Release::all().into_iter().map(|it| it.version);
    for target in releases.skip_while(|version| version != suite::FROM).skip(1) {
        if tally.is_enough(arguments) {
            break;
        }
        let more = [&CANARY[..], &ACCEPTED[..]].concat();
        lab.wait_healthy().await?;
        lab.wait_hosts_connected().await?;
        lab.wait_ready(&target, &more).await?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(&target, &more).await?;
        let following = under_faults(lab, &id, links, arguments, rng, tally);
        let status = tokio::time::timeout(ROLLOUT_LIMIT, following)
            .await
            .with_context(|| format!("rollout {id} came to no end within {ROLLOUT_LIMIT:?}"))??;
        let seen = observer.stop();
        tally.ended(&status, &seen);
        judge(lab, &target, &status, &seen).await?;
        suite::say(&format!("{target}: {}, {} faults so far", status.state, tally.faults()));
        // An aborted rollout leaves two versions behind; the next lab begins anew.
        if status.state != RolloutState::Succeeded {
            break;
        }
    }
    Ok(())
}

/// What stands against the stand-in's releases and has nothing to do with faults.
const ACCEPTED: [&str; 4] =
    ["--accept-compat-risk", "a chaos run", "--override", "plugins=a chaos run"];

/// Follows a rollout to its end, harming it on the way. Everything is well again when it returns.
async fn under_faults(
    lab: &Lab,
    id: &str,
    links: Links,
    arguments: &Arguments,
    rng: &mut StdRng,
    tally: &mut Tally,
) -> anyhow::Result<RolloutStatus> {
    let mut remedies = 0;
    let mut lost_power = false;
    loop {
        let pause = rng.random_range(0..arguments.pause_ms.saturating_mul(2).max(1));
        let Some(status) = follow(lab, id, Duration::from_millis(pause)).await? else {
            let fault = Fault::choose(rng, lab, links);
            let status = lab.rollout(id).await?;
            if let Some(did) = fault.befall(lab, rng, &status, &mut lost_power).await? {
                tally.fault(did);
            }
            continue;
        };
        if status.state.is_final() {
            lab.group_is_whole().await?;
            return Ok(status);
        }
        remedies += 1;
        tally.halted(&status);
        suite::say(&format!("halted: {}", suite::summary(&status)));
        remedy(lab, id, remedies).await?;
    }
}

/// Looks at a rollout for a while. Returns it if it has ended or a person is asked for.
async fn follow(lab: &Lab, id: &str, time: Duration) -> anyhow::Result<Option<RolloutStatus>> {
    let end = tokio::time::Instant::now() + time;
    loop {
        let status = lab.rollout(id).await?;
        if status.state.is_final() || status.state == RolloutState::Halted {
            return Ok(Some(status));
        }
        if tokio::time::Instant::now() >= end {
            return Ok(None);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Does what clears a halt: whoever was away comes back, and it is tried again; in the end it is aborted.
async fn remedy(lab: &Lab, id: &str, times: u32) -> anyhow::Result<()> {
    lab.wait_hosts_connected().await?;
    let verb = match times {
        ..=RETRIES_MAX => "retry",
        _ if times <= REMEDIES_MAX => "abort",
        _ => anyhow::bail!("rollout {id} halts again and again, and cannot be aborted"),
    };
    let done = lab.cli(&["rollout", verb, id, "--reason", "the cause is gone"]).await?;
    let halted = lab.rollout(id).await?.state == RolloutState::Halted;
    ensure!(done.code == Some(0) || !halted || verb == "retry", "{verb}: {}", suite::words(&done));
    Ok(())
}

/// What must hold however a rollout ended.
async fn judge(
    lab: &Lab,
    target: &str,
    status: &RolloutStatus,
    seen: &Report,
) -> anyhow::Result<()> {
    let overlaps = seen.overlaps();
    ensure!(overlaps.is_empty(), "two hosts were disturbed at once: {overlaps:?}");
    ensure!(status.canary.lost == 0, "acknowledged rows are lost: {:?}", status.canary);
    let good = matches!(status.state, RolloutState::Succeeded | RolloutState::Aborted);
    ensure!(good, "it ended badly: {}", suite::summary(status));
    if status.state == RolloutState::Succeeded {
        for (alias, version) in lab.versions().await? {
            ensure!(version == target, "`{alias}` answers {version}, not {target}");
        }
    }
    tokio::time::timeout(REST_LIMIT, lab.wait_healthy())
        .await
        .context("the cluster is not well again")?
}
