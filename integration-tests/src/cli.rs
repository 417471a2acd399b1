//! The command line of `lab`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use standin::faults::Kind;

use crate::bench;
use crate::chaos;
use crate::ddb;
use crate::hostns;
use crate::lab::{Lab, Status, Target};
use crate::topology::Options;

/// A cluster of the stand-in database on this machine, with Grayfin's host agents and coordinators.
///
/// The database is a test double, not DolphinDB.
#[derive(Debug, Parser)]
#[command(name = "lab")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

/// Which lab.
#[derive(Debug, clap::Args)]
struct Folder {
    /// The lab's folder.
    #[arg(long)]
    dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring a lab up; it is left running.
    Up {
        #[command(flatten)]
        folder: Folder,
        #[command(flatten)]
        options: Box<Options>,
    },
    /// Print shell exports: what `grayfin` needs, and where the database is.
    Env {
        #[command(flatten)]
        folder: Folder,
    },
    /// Show what runs.
    Status {
        #[command(flatten)]
        folder: Folder,
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Kill (SIGKILL) coordinator:N, agent:N, node:ALIAS or host:N (a power loss).
    Kill {
        #[command(flatten)]
        folder: Folder,
        /// What.
        target: Target,
    },
    /// Start again coordinator:N, agent:N, node:ALIAS or host:N.
    Restart {
        #[command(flatten)]
        folder: Folder,
        /// What.
        target: Target,
    },
    /// Make a node of the database misbehave; without a kind, list what it does wrong.
    Fault {
        #[command(flatten)]
        folder: Folder,
        /// The node's alias.
        node: String,
        /// What goes wrong, such as `slow_stop`; see the list in the error for a wrong one.
        kind: Option<Kind>,
        /// The fault's argument, such as milliseconds.
        #[arg(default_value = "")]
        argument: String,
        /// Let it behave again.
        #[arg(long, requires = "kind")]
        clear: bool,
    },
    /// Roll out under faults of all kinds, in labs of its own with three coordinators.
    Chaos {
        #[command(flatten)]
        arguments: chaos::Arguments,
        /// Folder for the labs; a temporary one if not given.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Measure three coordinators beside three members of etcd.
    BenchGroup {
        #[command(flatten)]
        arguments: bench::group::Arguments,
    },
    /// Take the lab down; nothing of it is left.
    Down {
        #[command(flatten)]
        folder: Folder,
        /// Keep the files.
        #[arg(long)]
        keep_files: bool,
    },
    /// The first process of a machine.
    #[command(hide = true)]
    HostInit,
    /// Starts a program in a session of its own.
    #[command(hide = true)]
    HostOuter {
        /// Program and arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        argv: Vec<String>,
    },
}

/// Runs the command line; the exit code is 0, 1 for a failure, or 2 for a command line that cannot be
/// understood.
pub fn main() -> ExitCode {
    let outcome = match Arguments::parse().verb {
        Verb::HostInit => hostns::run_init(),
        Verb::HostOuter { argv } => Err(hostns::exec_in_new_session(&argv)),
        verb @ (Verb::Up { .. }
        | Verb::Env { .. }
        | Verb::Status { .. }
        | Verb::Kill { .. }
        | Verb::Restart { .. }
        | Verb::Fault { .. }
        | Verb::Chaos { .. }
        | Verb::BenchGroup { .. }
        | Verb::Down { .. }) => run_in_runtime(verb),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With a standard error that cannot be written there is nobody to tell.
            writeln!(std::io::stderr(), "error: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run_in_runtime(verb: Verb) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .without_time()
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = run(verb) => outcome,
            () = asked_to_end() => Err(anyhow::anyhow!("interrupted")),
        }
    });
    // A nested build may still be running in the background; it is not waited for.
    runtime.shutdown_background();
    outcome
}

/// Ends at Ctrl-C, SIGTERM or a closed terminal.
pub async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let wait_for = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait_for(SignalKind::interrupt()) => {}
        () = wait_for(SignalKind::terminate()) => {}
        () = wait_for(SignalKind::hangup()) => {}
    }
}

async fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Up { folder, options } => {
            let lab = Lab::up(&folder.dir, &options).await?;
            let words = summary(&lab);
            lab.leave_running().await?;
            print(&words)
        }
        Verb::Env { folder } => print(&exports(&Lab::open(&folder.dir)?)),
        Verb::Status { folder, json } => {
            let status = Lab::open(&folder.dir)?.status().await?;
            if json {
                print(&format!("{}\n", serde_json::to_string(&status)?))
            } else {
                print(&table(&status))
            }
        }
        Verb::Kill { folder, target } => {
            let lab = Lab::open(&folder.dir)?;
            let _lock = lab.lock()?;
            lab.kill(&target).await
        }
        Verb::Restart { folder, target } => {
            let lab = Lab::open(&folder.dir)?;
            let _lock = lab.lock()?;
            lab.restart(&target).await
        }
        Verb::BenchGroup { arguments } => bench::group::run(&arguments).await,
        Verb::Chaos { arguments, dir } => {
            let temporary = tempfile::Builder::new().prefix("grayfin-chaos-").tempdir()?;
            let folder = dir.unwrap_or_else(|| temporary.path().to_owned());
            let outcome = chaos::run(&arguments, &folder).await;
            if outcome.is_err() {
                let _kept = temporary.keep();
            }
            outcome
        }
        Verb::Fault { folder, node, kind, argument, clear } => {
            let lab = Lab::open(&folder.dir)?;
            match kind {
                None => {
                    let mut text = String::new();
                    for (kind, argument) in lab.faults(&node)?.list()? {
                        text.push_str(&format!("{} {argument}\n", kind.name()));
                    }
                    print(&text)
                }
                Some(kind) if clear => lab.clear_fault(&node, kind),
                Some(kind) => lab.fault(&node, kind, &argument),
            }
        }
        Verb::Down { folder, keep_files } => {
            let lab = Lab::open(&folder.dir)?;
            if keep_files {
                let kept = lab.down_keeping_files()?;
                print(&format!("the files are kept in {}\n", kept.display()))
            } else {
                lab.down()
            }
        }
        Verb::HostInit | Verb::HostOuter { .. } => Ok(()),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("write to standard output")
}

fn summary(lab: &Lab) -> String {
    let topology = lab.topology();
    let folder = lab.paths().root().display();
    format!(
        "{} hosts, {} nodes, {} coordinator(s) on {}; {}\n\
         The database is a stand-in, not DolphinDB.\n\
         eval \"$(lab env --dir {folder})\" sets a shell up; lab down --dir {folder} ends it.\n",
        topology.hosts.len(),
        topology.nodes().count(),
        topology.coordinators.len(),
        topology.range,
        lab.isolation().describe(),
    )
}

/// The shell exports of `lab env`.
fn exports(lab: &Lab) -> String {
    use standin::config::Role;
    let cluster = lab.cluster();
    let sites = |role: Role| {
        let sites: Vec<String> = cluster.with_role(role).map(|it| it.site.address()).collect();
        sites.join(" ")
    };
    let mut variables: Vec<(String, String)> = lab.grayfin_environment().into_iter().collect();
    variables.extend(
        [
            ("LAB_DIR", lab.paths().root().display().to_string()),
            ("LAB_CLUSTER", cluster.name.clone()),
            ("LAB_CONTROLLERS", sites(Role::Controller)),
            ("LAB_DATANODES", sites(Role::DataNode)),
            ("LAB_USER", ddb::USER.to_owned()),
            ("LAB_PASSWORD", ddb::PASSWORD.to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    let mut text = String::new();
    for (name, value) in variables {
        text.push_str(&format!("export {name}={}\n", quoted(&value)));
    }
    let programs = lab.paths().programs().display().to_string();
    text.push_str(&format!("export PATH={}:\"$PATH\"\n", quoted(&programs)));
    text
}

/// A word that a shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn table(status: &Status) -> String {
    let mut text = format!("{}\n", status.isolation);
    for machine in &status.machines {
        let grayfin = machine.grayfin_pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let on = if machine.on { "on" } else { "off" };
        text.push_str(&format!("{:<14} {on:<4} grayfin pid {grayfin}\n", machine.name));
    }
    for node in &status.nodes {
        let pid = node.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let version = node.version.as_deref().unwrap_or("-");
        let leads = if node.leads { " leads" } else { "" };
        let port = if node.listening { "open" } else { "closed" };
        text.push_str(&format!(
            "{:<12} {:<12} {:<10} {:<20} {port:<7} pid {pid:<8} {version}{leads}\n",
            node.alias,
            node.role.as_str(),
            node.host,
            node.address,
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_its_defaults_are_the_librarys() {
        Arguments::command().debug_assert();
        let parsed = Arguments::try_parse_from(["lab", "up", "--dir", "/x"]).unwrap();
        let Verb::Up { options, .. } = parsed.verb else { panic!("not `up`") };
        assert_eq!(*options, Options::default());
    }

    #[test]
    fn values_survive_a_shell() {
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
