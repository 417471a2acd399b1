//! `cargo bench-lab`: what Grayfin itself costs.
//!
//! Time: a lab with the shipped look interval and limits is upgraded from release to release. What each
//! hold was spent on comes from the rollout's events. The same restarts are also made by hand, without
//! Grayfin and without any pause that can be noticed, and a backup is copied plainly: what remains of a
//! hold after both is what Grayfin adds. Soak and settling time are 0, because they are waited for on
//! purpose; time lost to looking too seldom counts.
//!
//! Idle: memory and processor time of the host agents while nothing is rolled out.

mod by_hand;
pub mod group;
mod idle;
mod table;
mod timeline;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use grayfin_types::event::Event;
use grayfin_types::status::RolloutState;
use grayfin_types::step::Step;
use standin::package::Release;

use self::by_hand::Taken;
use self::idle::Idle;
use self::table::Samples;
use self::timeline::Turn;
use crate::demo::{run_to_end, say};
use crate::processes::ProcessId;
use crate::{Lab, Options, Target};

/// Grayfin's aim per host, and the host agent's.
const ADDED_AIM_MS: u64 = 100;
const RESIDENT_AIM_KIB: u64 = 20 * 1024;

/// For one rollout: a hundred times what it should take.
const ROLLOUT_LIMIT: Duration = Duration::from_secs(600);

/// What is measured.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "bench-lab",
    about = "Measures what Grayfin itself adds to a rolling upgrade of stand-in nodes, and what an idle \
             host agent costs"
)]
pub struct Arguments {
    /// Rollouts, each over three hosts; at most one per release after the first.
    #[arg(long, default_value_t = 4)]
    pub rollouts: usize,
    /// Factor on the stand-in's times: at 0.05 a node that is silent for 0.4 s is taken for dead, which a
    /// busy machine does not often make of a live one.
    #[arg(long, default_value_t = 0.05)]
    pub time_scale: f64,
    /// Milliseconds between two looks of a host agent; the shipped default.
    #[arg(long, default_value_t = 5_000)]
    pub look_interval_ms: u32,
    /// `off` leaves the canary out: what reading its rows back takes is then not in the figures.
    #[arg(long, default_value = "new")]
    pub canary: String,
    /// Seconds for which the idle host agents are watched.
    #[arg(long, default_value_t = 30)]
    pub idle_seconds: u64,
    /// Folder for the lab; a temporary one that is removed at the end if not given.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Everything that was measured.
#[derive(Debug, Default)]
struct Measured {
    turns: Vec<Turn>,
    by_hand: Vec<Taken>,
    copies_ms: Vec<u64>,
    /// Processor time of each host agent and of the coordinator in each rollout.
    agent_used_ms: Vec<u64>,
    coordinator_used_ms: Vec<u64>,
    idle_before: Vec<Idle>,
    idle_after: Vec<Idle>,
}

/// Runs until its end, Ctrl-C or SIGTERM; the lab is gone afterwards in each case.
pub fn main(arguments: &Arguments) -> std::process::ExitCode {
    run_to_end(run(arguments))
}

async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let releases = Release::all();
    let (first, targets) = releases.split_first().context("no release is modelled")?;
    anyhow::ensure!(
        (1..=targets.len()).contains(&arguments.rollouts),
        "{} rollouts: 1 to {} are possible",
        arguments.rollouts,
        targets.len()
    );
    let temporary = tempfile::Builder::new().prefix("grayfin-bench-").tempdir()?;
    let folder = arguments.dir.clone().unwrap_or_else(|| temporary.path().join("lab"));
    say("The database is a stand-in (a test double), not a DolphinDB server.");
    say(&format!("build profile: {}; {}", profile(), machine()));
    let lab = Lab::up(&folder, &options(arguments, &first.version)).await?;
    let targets: Vec<&str> =
        targets.iter().take(arguments.rollouts).map(|it| it.version.as_str()).collect();
    match measure(&lab, arguments, &targets).await {
        Ok(measured) => {
            lab.down()?;
            tell(arguments, &measured);
            Ok(true)
        }
        Err(error) => {
            let kept = lab.down_keeping_files()?;
            let _kept_folder = temporary.keep();
            Err(error.context(format!("the lab's files are kept: {}", kept.display())))
        }
    }
}

/// Shipped limits; only what is waited for on purpose is 0.
fn options(arguments: &Arguments, version: &str) -> Options {
    let shipped = grayfin_types::plan::Policy::default();
    let policy = [
        "soak_ms=0".to_owned(),
        "leader_settled_ms=0".to_owned(),
        format!("fact_age_max_ms={}", shipped.fact_age_max_ms),
        format!("constructing_look_ms={}", shipped.constructing_look_ms),
    ];
    Options {
        version: version.to_owned(),
        time_scale: arguments.time_scale,
        look_interval_ms: arguments.look_interval_ms,
        policy_cfg: policy.to_vec(),
        ..Options::default()
    }
}

async fn measure(lab: &Lab, arguments: &Arguments, targets: &[&str]) -> anyhow::Result<Measured> {
    let mut measured =
        Measured { idle_before: watch_agents(lab, arguments).await?, ..Measured::default() };
    for target in targets {
        say(&format!("{target}: restarts by hand, then a rollout …"));
        measured.by_hand.extend(by_hand::restart_all(lab).await?);
        lab.wait_healthy().await?;
        let (agents, coordinators) = (agents(lab).await?, coordinators(lab).await?);
        let before = (used(&agents)?, used(&coordinators)?);
        measured.turns.extend(rollout(lab, arguments, target).await?);
        let differ = |before: Vec<u64>, after: Vec<u64>| {
            after.into_iter().zip(before).map(|(after, before)| after.saturating_sub(before))
        };
        measured.agent_used_ms.extend(differ(before.0, used(&agents)?));
        measured.coordinator_used_ms.extend(differ(before.1, used(&coordinators)?));
        for host in &lab.topology().hosts {
            let backups = lab.paths().backups(&host.name, lab.cluster());
            let newest = by_hand::newest_backup(&backups)?;
            let copied = tokio::task::spawn_blocking(move || by_hand::plain_copy(&newest));
            measured.copies_ms.push(copied.await??);
        }
    }
    measured.idle_after = watch_agents(lab, arguments).await?;
    Ok(measured)
}

async fn agents(lab: &Lab) -> anyhow::Result<Vec<ProcessId>> {
    let mut agents = Vec::new();
    for host in &lab.topology().hosts {
        agents.extend(lab.processes_of(&Target::Agent(host.number)).await?);
    }
    anyhow::ensure!(agents.len() == lab.topology().hosts.len(), "not every host agent runs");
    Ok(agents)
}

async fn coordinators(lab: &Lab) -> anyhow::Result<Vec<ProcessId>> {
    let mut found = Vec::new();
    for coordinator in &lab.topology().coordinators {
        found.extend(lab.processes_of(&Target::Coordinator(coordinator.number)).await?);
    }
    Ok(found)
}

fn used(processes: &[ProcessId]) -> anyhow::Result<Vec<u64>> {
    processes.iter().map(|process| idle::used_ms(*process)).collect()
}

async fn watch_agents(lab: &Lab, arguments: &Arguments) -> anyhow::Result<Vec<Idle>> {
    let agents = agents(lab).await?;
    say(&format!("watching {} idle host agents for {} s …", agents.len(), arguments.idle_seconds));
    idle::watch(&agents, Duration::from_secs(arguments.idle_seconds)).await
}

async fn rollout(lab: &Lab, arguments: &Arguments, target: &str) -> anyhow::Result<Vec<Turn>> {
    let more = [
        "--canary",
        arguments.canary.as_str(),
        "--accept-compat-risk",
        "a benchmark in a lab",
        // The sample plugins fit the first release alone.
        "--override",
        "plugins=a benchmark in a lab",
    ];
    lab.wait_ready(target, &more).await?;
    let id = lab.start_rollout(target, &more).await?;
    let mut lines = Vec::new();
    let watch = ["rollout", "watch", &id, "--json"];
    let code = lab.stream(&watch, ROLLOUT_LIMIT, |line| lines.push(line.to_owned())).await?;
    let status = lab.rollout(&id).await?;
    if code != Some(0) || status.state != RolloutState::Succeeded {
        bail!("the rollout to {target} is {}: {:?}", status.state, status.waiting);
    }
    let events: Vec<Event> = lines
        .iter()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no event: {line}")))
        .collect::<anyhow::Result<_>>()?;
    if let Some(folder) = std::env::var_os("GRAYFIN_BENCH_EVENTS") {
        std::fs::write(PathBuf::from(folder).join(format!("{target}.jsonl")), lines.join("\n"))?;
    }
    Ok(timeline::turns(&events))
}

fn tell(arguments: &Arguments, measured: &Measured) {
    let turns = &measured.turns;
    let of = |part: fn(&Turn) -> u64| turns.iter().map(part).collect::<Samples>();
    let hold = of(Turn::hold);
    say("");
    say(&format!(
        "Per host, median of {} (least to most); look interval {} ms, time scale {}, canary {}:",
        hold.count(),
        arguments.look_interval_ms,
        arguments.time_scale,
        arguments.canary
    ));
    say(&hold.line("hold, from grant to release"));
    say(&of(|turn| turn.order).line("  order to first step"));
    for step in Step::ALL {
        let times: Samples = turns.iter().map(|turn| turn.step(step)).collect();
        say(&times.line(&format!("  step {step}")));
    }
    say(&of(|turn| turn.between_steps).line("  between steps"));
    say(&of(|turn| turn.gates).line("  gates after the host, canary's rows included"));
    say(&of(|turn| turn.close).line("  close"));
    let hand = |part: fn(&Taken) -> u64| measured.by_hand.iter().map(part).collect::<Samples>();
    let total = hand(|taken| taken.total());
    say(&total.line("the same restarts by hand"));
    say(&hand(|taken| taken.stop_ms).line("  stop"));
    say(&hand(|taken| taken.start_ms).line("  start"));
    say(&hand(|taken| taken.whole_ms).line("  until the cluster is whole"));
    let copies: Samples = measured.copies_ms.iter().copied().collect();
    say(&copies.line("a plain copy of the backup, synced, read back"));
    let added = hold.median().saturating_sub(total.median()).saturating_sub(copies.median());
    say(&format!("  {:<44} {added:>7} ms   (aim: {ADDED_AIM_MS})", "added by Grayfin to the hold"));
    let later: Samples =
        turns.iter().filter(|turn| turn.before_token > 0).map(Turn::between_hosts).collect();
    say(&later.line("between two hosts, from release to grant"));
    let agents: Samples = measured.agent_used_ms.iter().copied().collect();
    say(&agents.line("processor time of a host agent per rollout"));
    let coordinators: Samples = measured.coordinator_used_ms.iter().copied().collect();
    say(&coordinators.line("processor time of the coordinator per rollout"));
    say("");
    tell_idle("Idle host agents, before the first rollout", &measured.idle_before);
    tell_idle("Idle host agents, after the last rollout", &measured.idle_after);
}

fn tell_idle(what: &str, found: &[Idle]) {
    let median = |part: fn(&Idle) -> u64| found.iter().map(part).collect::<Samples>().median();
    let mut cpu: Vec<f64> = found.iter().map(|one| one.cpu_percent).collect();
    cpu.sort_by(f64::total_cmp);
    let cpu = cpu.get(cpu.len() / 2).copied().unwrap_or(0.0);
    say(&format!(
        "{what} (median): {:.1} MiB resident ({:.1} of its own, {:.1} of the program file), aim {:.0}; \
         {cpu:.2} % of a processor",
        mebibytes(median(|one| one.memory.resident)),
        mebibytes(median(|one| one.memory.anonymous)),
        mebibytes(median(|one| one.memory.file)),
        mebibytes(RESIDENT_AIM_KIB),
    ));
}

#[expect(clippy::cast_precision_loss, reason = "kibibytes for people to read")]
fn mebibytes(kibibytes: u64) -> f64 {
    kibibytes as f64 / 1024.0
}

/// The folder that this program was built into is named after the profile.
fn profile() -> String {
    let program = std::env::current_exe().ok();
    let folder = program.as_deref().and_then(|path| path.parent()?.file_name()?.to_str());
    match folder {
        Some("debug") => {
            "dev (not optimised; `cargo bench-lab --release` measures what ships)".to_owned()
        }
        Some(other) => other.to_owned(),
        None => "unknown".to_owned(),
    }
}

fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_ascii_whitespace().next().unwrap_or("?");
    format!("{processors} processors, load {load} before the start")
}
