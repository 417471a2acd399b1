//! `cargo demo`: a whole gray-scale upgrade on one machine, judged by others than Grayfin.
//!
//! A lab of three hosts is brought up, upgraded host by host while the canary writes, and checked by
//! an observer, by asking every node, and by the host agents' own backup verification. Then come
//! controls: things that must be noticed, so that a check that cannot fail is found out.

mod checks;
mod controls;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use grayfin_types::status::RolloutStatus;

use crate::observer::Report;
use crate::{Lab, Options};

/// What is installed at first, and what is upgraded to.
const FROM: &str = "2.00.8.10";
const TO: &str = "2.00.8.12";

/// Canary rows a second that are asked for; at least 50 must get through.
const CANARY_RATE: &str = "60";

/// The whole rollout takes a minute at the lab's defaults; ten times that on a busy machine.
const ROLLOUT_LIMIT: Duration = Duration::from_secs(600);

/// How the demo is run.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "demo",
    about = "Upgrades a three-host cluster of stand-in nodes, one host at a time, while it is written to"
)]
pub struct Arguments {
    /// Folder for the lab; a temporary one that is removed at the end if not given.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Factor on the stand-in's times; 1 is the documented timing.
    #[arg(long, default_value_t = 0.1)]
    pub time_scale: f64,
    /// Leave out the controls at the end.
    #[arg(long)]
    pub no_controls: bool,
}

/// Collects what held and what did not, and prints it as it comes.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    failed: Vec<String>,
    held: usize,
}

impl Verdict {
    /// Notes one claim.
    pub(crate) fn claim(&mut self, claim: &str, result: anyhow::Result<String>) {
        match result {
            Ok(seen) => {
                self.held += 1;
                say(&format!("  ok    {claim}: {seen}"));
            }
            Err(error) => {
                self.failed.push(claim.to_owned());
                say(&format!("  FAIL  {claim}: {error:#}"));
            }
        }
    }
}

/// Prints one line for the person in front of it.
#[expect(clippy::print_stdout, reason = "the demo's output is what it is for")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

/// Runs the demo; true if everything held.
pub async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let temporary = tempfile::Builder::new().prefix("grayfin-demo-").tempdir()?;
    let folder = arguments.dir.clone().unwrap_or_else(|| temporary.path().join("lab"));
    let options = Options {
        version: FROM.to_owned(),
        time_scale: arguments.time_scale,
        ..Options::default()
    };
    say("Grayfin demo. The database is a stand-in (a test double), not a DolphinDB server.");
    say(&format!("1. bringing up 3 hosts with 3 controllers and 3 data nodes on {FROM} …"));
    let lab = Lab::up(&folder, &options).await?;
    let mut verdict = Verdict::default();
    let finished = rollout(&lab, &mut verdict).await;
    let outcome = match finished {
        Ok((status, seen)) => {
            say("3. checking what came of it, without asking Grayfin where it can be done …");
            checks::all(&lab, &status, &seen, TO, &mut verdict).await;
            if !arguments.no_controls {
                say("4. controls: each of these must be noticed …");
                controls::all(&lab, &mut verdict).await;
            }
            Ok(())
        }
        Err(error) => Err(error),
    };
    if outcome.is_err() || !verdict.failed.is_empty() {
        let kept = lab.down_keeping_files()?;
        let _kept_folder = temporary.keep();
        say(&format!("the lab's files are kept: {}", kept.display()));
    } else {
        lab.down()?;
    }
    outcome?;
    let (held, failed) = (verdict.held, verdict.failed.len());
    say(&format!("{held} claims held, {failed} failed"));
    for claim in &verdict.failed {
        say(&format!("  failed: {claim}"));
    }
    Ok(verdict.failed.is_empty())
}

/// The rollout itself, under the observer's eyes.
async fn rollout(lab: &Lab, verdict: &mut Verdict) -> anyhow::Result<(RolloutStatus, Report)> {
    let name = lab.cluster().name.clone();
    say(&format!("2. grayfin rollout start {name} --to {TO} --yes --watch"));
    let observer = lab.observer()?;
    let arguments = [
        "rollout",
        "start",
        &name,
        "--to",
        TO,
        "--yes",
        "--watch",
        "--canary",
        "new",
        "--rate",
        CANARY_RATE,
    ];
    let code = lab.stream(&arguments, ROLLOUT_LIMIT, |line| say(&format!("   | {line}"))).await?;
    let seen = observer.stop();
    verdict.claim(
        "the rollout's command ended with exit code 0",
        if code == Some(0) {
            Ok("it did".to_owned())
        } else {
            Err(anyhow::anyhow!("it was {code:?}"))
        },
    );
    let all: Vec<RolloutStatus> = lab.ask(&["rollout", "list", "--json"]).await?;
    let status = all.into_iter().next().context("there is no rollout")?;
    Ok((status, seen))
}

/// Runs the demo until its end, Ctrl-C or SIGTERM; the lab is gone afterwards in each case.
pub fn main(arguments: &Arguments) -> std::process::ExitCode {
    run_to_end(run(arguments))
}

/// Runs something that owns a lab until its end, Ctrl-C or SIGTERM; dropping it takes the lab down.
pub(crate) fn run_to_end(
    work: impl Future<Output = anyhow::Result<bool>>,
) -> std::process::ExitCode {
    use std::process::ExitCode;
    use tokio::signal::unix::{SignalKind, signal};

    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("error: {error}"));
            return ExitCode::from(70);
        }
    };
    runtime.block_on(async {
        let interrupted = async {
            let mut term = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
            std::io::Result::Ok(())
        };
        tokio::select! {
            result = work => match result {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::from(1),
                Err(error) => {
                    say(&format!("error: {error:#}"));
                    ExitCode::from(1)
                }
            },
            _ = interrupted => {
                say("interrupted: the lab was taken down");
                ExitCode::from(130)
            }
        }
    })
}
