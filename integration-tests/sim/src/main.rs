//! `cargo sim`: runs seeds, replays one, lists mutations.

use std::{io::Write, process::ExitCode, time::Instant};

use clap::{Parser, Subcommand};
use grayfin_sim::{
    mutations,
    run::{Outcome, replay_command, run},
    tally::Tally,
};

/// Deterministic simulation of Grayfin's cores.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run many seeds, or replay one with a trace.
    Run {
        /// How many.
        #[arg(long, default_value_t = 1_000)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Replay this one and print everything that happens.
        #[arg(long)]
        seed: Option<u64>,
        /// Break a rule in the cores on purpose (debug builds only).
        #[arg(long)]
        mutation: Option<String>,
        /// Go on after this many failing seeds.
        #[arg(long, default_value_t = 10)]
        failures: u64,
    },
    /// List the mutations.
    Mutations,
}

fn main() -> anyhow::Result<ExitCode> {
    // A panic is caught and reported with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let mut out = std::io::stdout().lock();
    match Args::parse().command {
        Command::Mutations => {
            for (name, what) in mutations::all() {
                writeln!(out, "{name:<28} {what}")?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Run { seeds, from, seed, mutation, failures } => {
            let mutation = mutation.map(|name| mutations::named(&name)).transpose()?;
            match seed {
                Some(seed) => replay(&mut out, seed, mutation),
                None => many(&mut out, from, seeds, mutation, failures),
            }
        }
    }
}

fn replay(
    out: &mut impl Write,
    seed: u64,
    mutation: Option<&'static str>,
) -> anyhow::Result<ExitCode> {
    let outcome = run(seed, mutation, true);
    for line in &outcome.trace {
        writeln!(out, "{line}")?;
    }
    table(out, &outcome.tally)?;
    if outcome.broken.is_empty() {
        writeln!(out, "seed {seed}: no rule is broken; {} virtual ms", outcome.virtual_ms)?;
        return Ok(ExitCode::SUCCESS);
    }
    tell(out, &outcome, mutation)?;
    Ok(ExitCode::FAILURE)
}

fn many(
    out: &mut impl Write,
    from: u64,
    seeds: u64,
    mutation: Option<&'static str>,
    failures_max: u64,
) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let (mut tally, mut failures, mut ran) = (Tally::default(), 0, 0u64);
    let (mut virtual_ms, mut happenings) = (0u64, 0u64);
    for seed in from..from.saturating_add(seeds) {
        let outcome = run(seed, mutation, false);
        ran += 1;
        virtual_ms += outcome.virtual_ms;
        happenings += outcome.happenings;
        tally.add(&outcome.tally);
        if !outcome.broken.is_empty() {
            failures += 1;
            tell(out, &outcome, mutation)?;
            if failures >= failures_max {
                break;
            }
        }
        if ran.is_multiple_of(10_000) {
            writeln!(out, "{ran} seeds after {} s", begun.elapsed().as_secs())?;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    table(out, &tally)?;
    writeln!(
        out,
        "{ran} seeds from {from}, {failures} with a broken rule; {} rollouts, {happenings} happenings, {} virtual hours in {seconds:.1} s: {:.0} seeds a second",
        tally.count("rollout started"),
        virtual_ms / 3_600_000,
        f64::from(u32::try_from(ran).unwrap_or(u32::MAX)) / seconds.max(0.001),
    )?;
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(out: &mut impl Write, tally: &Tally) -> std::io::Result<()> {
    for (what, count) in tally.all() {
        writeln!(out, "{count:>10}  {what}")?;
    }
    Ok(())
}

fn tell(
    out: &mut impl Write,
    outcome: &Outcome,
    mutation: Option<&'static str>,
) -> std::io::Result<()> {
    let seed = outcome.seed;
    for broken in &outcome.broken {
        writeln!(
            out,
            "seed {seed} at {} ms: {}: {}",
            outcome.virtual_ms, broken.rule, broken.what
        )?;
    }
    writeln!(out, "  replay: {}", replay_command(seed, mutation))
}
