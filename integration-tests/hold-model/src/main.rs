//! Checks the hold protocol within bounds given on the command line, for example
//! `cargo run --release -p hold-model -- tokens=3 acts=2 leads=1 without=PromiseKept`.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Instant,
};

use hold_model::{
    model::Protocol,
    properties,
    rules::{Bounds, Rule},
};
use stateright::{Checker, Expectation, HasDiscoveries, Model};

fn main() -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let (protocol, threads) = match wanted(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(why) => {
            writeln!(out, "{why}")?;
            return Ok(ExitCode::from(2));
        }
    };
    writeln!(out, "{:?}, left out: {:?}", protocol.bounds, protocol.rule)?;
    let began = Instant::now();
    let checker = protocol
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let model = checker.model();
    writeln!(
        out,
        "{} states ({} steps tried, depth {}), {} coordinator states and {} ledgers, {:.1?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        model.coordinators.met(),
        model.agents.met(),
        began.elapsed()
    )?;
    let mut good = true;
    for property in model.properties() {
        let found = checker.discovery(property.name);
        match (&property.expectation, found) {
            (Expectation::Sometimes, Some(_)) => writeln!(out, "seen     {}", property.name)?,
            (Expectation::Sometimes, None) => writeln!(out, "unseen   {}", property.name)?,
            (_, None) => writeln!(out, "holds    {}", property.name)?,
            (_, Some(path)) => {
                good = false;
                writeln!(out, "VIOLATED {}", property.name)?;
                for action in path.into_actions() {
                    writeln!(out, "         {action:?}")?;
                }
            }
        }
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn wanted(args: impl Iterator<Item = String>) -> Result<(Protocol, usize), String> {
    let (mut bounds, mut rule, mut threads, mut only) = (Bounds::PLAIN, None, 2, None);
    for arg in args {
        let (key, value) = arg.split_once('=').ok_or_else(|| format!("`{arg}` is not KEY=N"))?;
        if key == "without" {
            let known = Rule::ALL.into_iter().find(|rule| format!("{rule:?}") == value);
            rule = Some(known.ok_or_else(|| format!("no rule `{value}`: {:?}", Rule::ALL))?);
            continue;
        }
        if key == "only" {
            let mut known = properties::all().into_iter().map(|p| p.name);
            only = known.find(|name| name.starts_with(value));
            continue;
        }
        let number: u8 = value.parse().map_err(|e| format!("`{arg}`: {e}"))?;
        match key {
            "tokens" => bounds.tokens = number,
            "acts" => bounds.acts = number,
            "faults" => bounds.faults = number,
            "leads" => bounds.leads = number,
            "restores" => bounds.restores = number,
            "clones" => bounds.clones = number,
            "ledgers" => bounds.ledgers = number,
            "power" => bounds.power = number,
            "threads" => threads = number.into(),
            _ => return Err(format!("no bound `{key}`: {bounds:?}")),
        }
    }
    let mut protocol = Protocol::new(bounds, rule);
    protocol.only = only;
    Ok((protocol, threads))
}
