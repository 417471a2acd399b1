//! The command line. Data go to stdout, everything else to stderr.

mod backup;
mod canary;
mod run;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Args, Parser, Subcommand};
use grayfin_types::{ClusterId, Code};

use crate::{
    config::{Appearance, Installation, Settings},
    failpoint, files,
};

/// Grayfin's host agent: looks at DolphinDB's nodes on this host and carries out the host sequence
/// of rollouts.
#[derive(Debug, Parser)]
#[command(name = "grayfin-agent", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 refused or failed; 2 bad command line or \
    configuration; 70 a fault in Grayfin itself.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the host agent.
    Run(Config),
    /// Check the configuration file and the certificate, and print what holds.
    CheckConfig(Config),
    /// List, verify and restore backups of this host.
    #[command(subcommand)]
    Backup(backup::Verb),
    /// Look after the canary's journals on this host.
    #[command(subcommand)]
    Canary(canary::Verb),
    /// List the fail points of this build.
    #[command(hide = true)]
    FailPoints,
}

/// The configuration file.
#[derive(Debug, Args)]
struct Config {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/grayfin/agent.toml")]
    config: PathBuf,
}

/// The configuration file, and which installation of it.
#[derive(Debug, Args)]
struct Chosen {
    #[command(flatten)]
    config: Config,
    /// The cluster; needed only if this host has installations of several
    #[arg(long)]
    cluster: Option<ClusterId>,
}

/// Why a verb failed: what it exits with and what it says.
#[derive(Debug)]
struct Failure {
    exit: u8,
    code: Option<Code>,
    words: String,
}

impl Failure {
    /// Refused, or failed for a reason that a person can act on.
    fn refused(code: Code, error: &(dyn std::error::Error + 'static)) -> Self {
        Self { exit: 1, code: Some(code), words: files::chain(error) }
    }

    /// Bad command line or configuration.
    fn usage(code: Option<Code>, words: String) -> Self {
        Self { exit: 2, code, words }
    }

    /// Our own fault, or the machine's.
    fn internal(words: String) -> Self {
        Self { exit: 70, code: None, words }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::internal(format!("write to standard output: {error}"))
    }
}

/// Runs the program with its arguments, the program's name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(refused) => {
            // Help and version come this way too; they go to stdout and are no error.
            let exit = if refused.use_stderr() { 2 } else { 0 };
            drop(refused.print());
            return exit.into();
        }
    };
    match dispatch(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads us has gone: `grayfin-agent backup list | head`.
        Err(failure) => {
            let code = failure.code.map(|code| format!("{code} ")).unwrap_or_default();
            drop(writeln!(io::stderr(), "error: {code}{}", failure.words));
            failure.exit.into()
        }
    }
}

fn dispatch(command: &Command) -> Result<(), Failure> {
    grayfin_proto::tls::install_provider();
    match command {
        Command::Run(config) => run::run(&config.config),
        Command::CheckConfig(config) => check_config(&config.config),
        Command::Backup(verb) => backup::run(verb),
        Command::Canary(verb) => canary::run(verb),
        Command::FailPoints => {
            let mut out = io::stdout().lock();
            for name in failpoint::all() {
                writeln!(out, "{name}")?;
            }
            Ok(())
        }
    }
}

fn load(file: &Path) -> Result<Settings, Failure> {
    Settings::load(file).map_err(|e| Failure::usage(Some(e.code()), files::chain(&e)))
}

/// Loads the configuration and picks the installation.
fn choose(chosen: &Chosen) -> Result<(Settings, Arc<Installation>), Failure> {
    let settings = load(&chosen.config.config)?;
    let found = match (&chosen.cluster, settings.installations.as_slice()) {
        (None, [only]) => Some(Arc::clone(only)),
        (None, _) => None,
        (Some(cluster), _) => settings.installation(cluster).map(Arc::clone),
    };
    let installation = found.ok_or_else(|| {
        let known: Vec<_> = settings.installations.iter().map(|i| i.cluster.as_str()).collect();
        Failure::usage(None, format!("name a cluster with `--cluster`: {}", known.join(", ")))
    })?;
    Ok((settings, installation))
}

fn check_config(file: &Path) -> Result<(), Failure> {
    let bad = |e: crate::config::Error| Failure::usage(Some(e.code()), files::chain(&e));
    let settings = load(file)?;
    Appearance::own().check().map_err(bad)?;
    let generation = settings.check_identity().map_err(bad)?;
    let mut out = io::stdout().lock();
    writeln!(out, "host {} generation {generation}", settings.host)?;
    writeln!(out, "state_dir {}", settings.state_dir.display())?;
    writeln!(out, "coordinators {}", settings.coordinators.join(" "))?;
    for one in &settings.installations {
        writeln!(out, "installation of {}:", one.cluster)?;
        writeln!(out, "  executable {}", one.executable_path().display())?;
        writeln!(out, "  work_dir {}", one.work_dir.display())?;
        writeln!(out, "  package_dir {}", one.package_dir.display())?;
        writeln!(out, "  backup_dir {}", one.backup_dir.display())?;
        writeln!(out, "  credentials_file {}", one.credentials_file.display())?;
        writeln!(out, "  upgrade_script {}", one.upgrade_script.display())?;
        writeln!(out, "  start_controller {}", one.start_controller.join(" "))?;
        writeln!(out, "  start_ddb_agent {}", one.start_ddb_agent.join(" "))?;
        writeln!(out, "  stop {:?}", one.stop)?;
        for (whose, unit) in &one.units.names {
            writeln!(out, "  unit of {whose}: {unit}")?;
        }
    }
    // Told, but no error: a host may be checked before DolphinDB is there.
    for path in
        settings.installations.iter().flat_map(|i| [i.executable_path(), i.work_dir.clone()])
    {
        if !path.exists() {
            writeln!(io::stderr(), "warning: `{}` does not exist", path.display())?;
        }
    }
    Ok(())
}
