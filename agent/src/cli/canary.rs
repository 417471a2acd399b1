//! `grayfin-agent canary check`: reads acknowledged rows back, without the coordinator.

use std::{
    io::{self, Write},
    path::Path,
    time::SystemTime,
};

use clap::Subcommand;
use grayfin_types::{
    ClusterId, Code, RolloutId,
    plan::{CanaryOrder, CanarySpec},
    status::CanaryStatus,
};
use serde_json::json;
use tokio::sync::mpsc;

use super::{Chosen, Failure, choose, run::probers};
use crate::{
    canary::{Canaries, Limits, Site},
    ledger,
};

/// What to do about the canary.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Read back every row that this host's journals of a rollout call acknowledged
    Check {
        #[command(flatten)]
        chosen: Chosen,
        /// The rollout; the newest one with a journal here if none is named
        #[arg(long)]
        rollout: Option<RolloutId>,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
}

/// Runs a verb.
pub(super) fn run(verb: &Verb) -> Result<(), Failure> {
    let Verb::Check { chosen, rollout, json } = verb;
    let (settings, installation) = choose(chosen)?;
    let cluster = &installation.cluster;
    let newest = || newest_rollout(&settings.state_dir, cluster);
    let Some(rollout) = rollout.clone().or_else(newest) else {
        let words = format!("this host has no journal of a canary of `{cluster}`");
        return Err(Failure { exit: 1, code: Some(Code::NoSuchObject), words });
    };
    let held = ledger::peek(&settings.state_dir)
        .map_err(|e| Failure::refused(e.code(), &e))?
        .hold
        .is_some();
    let (reports, _unused) = mpsc::channel(1);
    let sites = probers(&settings)
        .into_iter()
        .map(|(cluster, prober)| (cluster, Site::new(prober, Limits::default(), move || held)));
    let canaries =
        Canaries::new(settings.host.clone(), &settings.state_dir, sites.collect(), reports);
    // Which epochs there are, and what was written, the journals say.
    let order = CanaryOrder { rollout: rollout.clone(), epoch: 0, spec: CanarySpec::Off };
    let status = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|e| Failure::internal(format!("start the runtime: {e}")))?
        .block_on(canaries.check(cluster, &order));
    tell(&rollout, &status, *json)?;
    judge(&status)
}

fn tell(rollout: &RolloutId, status: &CanaryStatus, as_json: bool) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if as_json {
        return Ok(writeln!(out, "{}", json!({ "rollout": rollout, "canary": status }))?);
    }
    writeln!(
        out,
        "rollout {rollout}: {} sent, {} acknowledged, {} found, {} lost, {} twice, {} unknown",
        status.sent,
        status.acknowledged,
        status.verified,
        status.lost,
        status.duplicates,
        status.unknown
    )?;
    for example in &status.lost_examples {
        writeln!(out, "  lost: {example}")?;
    }
    Ok(())
}

fn judge(status: &CanaryStatus) -> Result<(), Failure> {
    if status.lost > 0 {
        let words = format!("{} acknowledged rows of the canary are missing", status.lost);
        return Err(Failure { exit: 1, code: Some(Code::CanaryLoss), words });
    }
    match &status.problem {
        Some(why) => Err(Failure { exit: 1, code: Some(Code::CanaryDown), words: why.clone() }),
        None => Ok(()),
    }
}

/// Finds the rollout whose journals were written last.
fn newest_rollout(state_dir: &Path, cluster: &ClusterId) -> Option<RolloutId> {
    let folder = state_dir.join("canary").join(cluster.as_str());
    let mut newest: Option<(SystemTime, RolloutId)> = None;
    for rollout in std::fs::read_dir(folder).ok()?.flatten() {
        let Ok(id) = rollout.file_name().to_string_lossy().parse::<RolloutId>() else { continue };
        let Ok(journals) = std::fs::read_dir(rollout.path()) else { continue };
        for journal in journals.flatten() {
            let Ok(at) = journal.metadata().and_then(|m| m.modified()) else { continue };
            if newest.as_ref().is_none_or(|(before, _)| at > *before) {
                newest = Some((at, id.clone()));
            }
        }
    }
    newest.map(|(_, id)| id)
}
