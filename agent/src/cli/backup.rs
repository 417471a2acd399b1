//! `grayfin-agent backup list|verify|restore`.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, Subcommand};
use grayfin_types::Code;
use serde_json::json;

use super::{Chosen, Failure, choose};
use crate::{
    backup::{
        Error, InPlace, Store,
        store::{CATCH_UP, Listed},
    },
    files::{Control, RealDisk},
    ledger,
    process::installation::{Member, members},
};

/// What to do with backups.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List the backups of this host, newest first
    List {
        #[command(flatten)]
        chosen: Chosen,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Read backups back and compare everything with their manifests
    Verify {
        /// The backups; all of them if none is named
        names: Vec<String>,
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Restore a backup to a scratch folder, or in place under an open hold
    Restore(Restore),
}

/// What is restored, and where to.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The backup
    name: String,
    #[command(flatten)]
    chosen: Chosen,
    /// Only these parts, as `backup list --json` names them
    #[arg(long = "part", value_name = "PART")]
    parts: Vec<String>,
    /// An empty folder to restore to
    #[arg(long, value_name = "FOLDER", required_unless_present = "in_place")]
    to: Option<PathBuf>,
    /// Restore where it belongs: needs an open hold and no running process
    #[arg(long, conflicts_with = "to")]
    in_place: bool,
}

/// Runs a verb.
pub(super) fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::List { chosen, json } => list(chosen, *json),
        Verb::Verify { names, chosen } => verify(names, chosen),
        Verb::Restore(what) => restore(what),
    }
}

fn failed(error: &Error) -> Failure {
    Failure::refused(error.code(), error)
}

fn list(chosen: &Chosen, as_json: bool) -> Result<(), Failure> {
    let (_, installation) = choose(chosen)?;
    let store = Store { disk: &RealDisk, folder: &installation.backup_dir };
    let all = store.list().map_err(|e| failed(&e))?;
    let mut out = io::stdout().lock();
    if as_json {
        let lines: Vec<_> = all.iter().map(as_document).collect();
        return Ok(writeln!(out, "{}", json!(lines))?);
    }
    for one in &all {
        match &one.state {
            Ok(header) => {
                let bytes: u64 = header.parts.iter().map(|part| part.bytes).sum();
                let from = header.from.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string);
                writeln!(
                    out,
                    "{}  {from} to {}  rollout {}  {bytes} bytes",
                    one.name, header.to, header.rollout
                )?;
            }
            Err(e) => writeln!(out, "{}  NOT GOOD: {}", one.name, crate::files::chain(e))?,
        }
    }
    Ok(())
}

fn as_document(one: &Listed) -> serde_json::Value {
    match &one.state {
        Ok(header) => json!({ "name": one.name, "good": true, "backup": header }),
        Err(e) => json!({ "name": one.name, "good": false, "why": crate::files::chain(e) }),
    }
}

fn verify(names: &[String], chosen: &Chosen) -> Result<(), Failure> {
    let (_, installation) = choose(chosen)?;
    let store = Store { disk: &RealDisk, folder: &installation.backup_dir };
    let names = if names.is_empty() {
        let all = store.list().map_err(|e| failed(&e))?;
        all.into_iter().map(|one| one.name).collect()
    } else {
        names.to_vec()
    };
    let mut out = io::stdout().lock();
    let mut first_bad = None;
    for name in &names {
        match store.verify(name, &Control::default()) {
            Ok(seen) => writeln!(out, "{name}  good: {} files, {} bytes", seen.files, seen.bytes)?,
            Err(e) => {
                writeln!(out, "{name}  NOT GOOD: {}", crate::files::chain(&e))?;
                first_bad.get_or_insert_with(|| failed(&e));
            }
        }
    }
    match first_bad {
        Some(bad) => Err(bad),
        None if names.is_empty() => {
            let words = format!("there is no backup in `{}`", installation.backup_dir.display());
            Err(Failure { exit: 1, code: Some(Code::BackupIncomplete), words })
        }
        None => Ok(()),
    }
}

fn restore(what: &Restore) -> Result<(), Failure> {
    let (settings, installation) = choose(&what.chosen)?;
    let store = Store { disk: &RealDisk, folder: &installation.backup_dir };
    let control = Control::default();
    let restored = match &what.to {
        Some(folder) => store.restore_to(&what.name, &what.parts, folder, &control),
        None => {
            let state =
                ledger::peek(&settings.state_dir).map_err(|e| Failure::refused(e.code(), &e))?;
            let hold = state.hold.filter(|hold| hold.cluster == installation.cluster);
            let running = members(&installation.server_dir, &installation.executable)
                .map_err(|e| Failure::refused(e.code(), &e))?;
            let running: Vec<String> = running.iter().map(Member::describe).collect();
            let allowed = InPlace { hold: hold.map(|hold| hold.token), running: &running };
            store.restore_in_place(&what.name, &what.parts, allowed, &control)
        }
    };
    let mut out = io::stdout().lock();
    for path in restored.map_err(|e| failed(&e))? {
        writeln!(out, "{}", path.display())?;
    }
    if what.in_place {
        writeln!(io::stderr(), "note: {CATCH_UP}")?;
    }
    Ok(())
}
