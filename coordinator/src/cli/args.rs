//! The command line, as `--help` shows it.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use grayfin_types::{ClusterId, HostId, RolloutId};

use super::values::{CanaryChoice, Duration, HostOf, Override};

/// Rolling upgrades of DolphinDB clusters, one host at a time, while they are being written to.
#[derive(Debug, Parser)]
#[command(
    name = "grayfin",
    version,
    after_help = "Exit codes: 0 done; 1 refused or failed for a reason that you can act on; 2 bad command line or configuration; 3 held: it waits, nothing is wrong; 70 internal fault."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every verb that talks to coordinators needs.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Addresses of the coordinators, `host:port`, separated by commas
    #[arg(long, global = true, env = "GRAYFIN_COORDINATORS", value_delimiter = ',')]
    pub(crate) coordinators: Vec<String>,
    /// The CA's certificate
    #[arg(long, global = true, env = "GRAYFIN_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Your certificate
    #[arg(long, global = true, env = "GRAYFIN_CERT", value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// Your private key
    #[arg(long, global = true, env = "GRAYFIN_KEY", value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Print one JSON document on stdout (one per line when watching), everything else on stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print nothing but the result and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look whether a rollout could start now; disturbs nothing
    Preflight(Wish),
    /// Show what a rollout would do, host by host; disturbs nothing
    Plan(Wish),
    /// Start, watch and steer rollouts
    #[command(subcommand)]
    Rollout(Rollout),
    /// List hosts, their host agents and nodes
    Hosts,
    /// Readmit a host whose agent may only look
    #[command(subcommand)]
    Host(Host),
    /// Show or break holds, or attest that a host is powered off
    #[command(subcommand)]
    Hold(Hold),
    /// Say why nothing happens, what is next, and whether there is a way back
    Explain {
        /// The rollout; the newest if none is named
        id: Option<RolloutId>,
    },
    /// List the coordinators and who leads
    Coordinators,
    /// Look at, enlarge and shrink the group of coordinators
    #[command(subcommand)]
    Coordinator(Coordinator),
    /// Back up and restore the state of one coordinator, on its own machine
    #[command(subcommand)]
    State(State),
    /// Make a private CA and certificates
    #[command(subcommand)]
    Pki(Pki),
    /// Run a coordinator
    Serve {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// What is wished for, when planning or starting.
#[derive(Debug, Clone, Args)]
pub(crate) struct Wish {
    /// The cluster
    #[arg(env = "GRAYFIN_CLUSTER")]
    pub(crate) cluster: ClusterId,
    /// The target version, e.g. `2.00.8.12`
    #[arg(long, value_name = "VERSION")]
    pub(crate) to: String,
    /// Go on although the vendor does not publish rolling upgrade for this pair of versions
    #[arg(long, value_name = "REASON")]
    pub(crate) accept_compat_risk: Option<String>,
    /// Set a gate aside, with a reason that the report shows; may be repeated
    #[arg(long = "override", value_name = "GATE=REASON")]
    pub(crate) overrides: Vec<Override>,
    /// Accept that something that lives only in memory vanishes; may be repeated
    #[arg(long, value_name = "NODE/KIND/NAME")]
    pub(crate) accept_loss: Vec<String>,
    /// Write continuously and prove that nothing is lost: `new`, `off`, or `table DB.TABLE`
    #[arg(long, value_name = "new|off|table DB.TABLE", default_value = "new")]
    pub(crate) canary: CanaryChoice,
    /// Rows a second that the canary writes
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) rate: u32,
    /// How the software is replaced
    #[arg(long, value_enum, default_value_t = Mode::Native)]
    pub(crate) mode: Mode,
    /// How long all must be well after a host before the next, e.g. `60s`; the coordinator's
    /// policy if not given
    #[arg(long, value_name = "DURATION")]
    pub(crate) soak: Option<Duration>,
    /// What to do when a host would be down longer than DolphinDB's recovery wait
    #[arg(long, value_enum)]
    pub(crate) recovery: Option<Recovery>,
    /// Allow SIGKILL for a process that outlives its time to stop
    #[arg(long)]
    pub(crate) allow_kill: bool,
    /// When to pause by itself
    #[arg(long, value_enum, default_value_t = PauseAfter::Never)]
    pub(crate) pause_after: PauseAfter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Grayfin replaces it entry by entry
    Native,
    /// The site's upgrade.sh is driven
    Script,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Recovery {
    /// Do not begin
    Refuse,
    /// Begin, and wait for the copies to end
    Allow,
    /// Suspend recovery while a host is down, and let it run again before the next
    Suspend,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PauseAfter {
    /// Never
    Never,
    /// After the first host
    First,
    /// After each host
    Each,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Rollout {
    /// Show the plan, ask, and start
    Start {
        #[command(flatten)]
        wish: Wish,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        /// Watch until it ends
        #[arg(long)]
        watch: bool,
        /// The wish's own id, for programs that repeat it: a repeat begins no second rollout
        #[arg(long, value_name = "ID")]
        request_id: Option<String>,
    },
    /// Watch until it ends, from the beginning
    Watch {
        /// The rollout; the newest if none is named
        id: Option<RolloutId>,
        /// The first event wanted
        #[arg(long, value_name = "SEQ", default_value_t = 1)]
        from: u64,
    },
    /// Show where a rollout stands
    Status {
        /// The rollout; the newest if none is named
        id: Option<RolloutId>,
    },
    /// List rollouts, newest first
    List,
    /// Take no further host after the present one
    Pause(Act),
    /// Go on after a pause, or after a halt whose cause is gone
    Resume(Act),
    /// End it; the held host is brought up first
    Abort(Act),
    /// Try again what failed
    Retry(Act),
    /// Leave out a host that was not disturbed
    Skip {
        #[command(flatten)]
        act: Act,
        /// Which host; the one that failed if none is named
        #[arg(long)]
        host: Option<HostId>,
    },
    /// Undo what was done on the held host, as long as there is a way back
    RollbackHost(Act),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Act {
    /// The rollout
    pub(crate) id: RolloutId,
    /// Why; it is in the event log
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Hold {
    /// Show the hold of each cluster
    Show {
        /// Only this cluster
        cluster: Option<ClusterId>,
    },
    /// Break a hold whose host agent cannot close it. Closes nothing: the next hold still needs that
    /// host agent's promise, or the attestation that the host is powered off
    Break {
        /// The cluster
        #[arg(env = "GRAYFIN_CLUSTER")]
        cluster: ClusterId,
        /// The token that `hold show` names; refused if it has changed
        #[arg(long)]
        token: u64,
        #[command(flatten)]
        sure: Sure,
    },
    /// Attest that a host is powered off for good, so that nobody waits for its promise. If it is not,
    /// two hosts of the cluster can be down at once. It must enrol anew with a new certificate
    Attest {
        /// The host
        host: HostId,
        /// The token of its cluster that `hold show` names; refused if it has changed
        #[arg(long)]
        token: u64,
        #[command(flatten)]
        sure: Sure,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Host {
    /// Let a host agent go on whose ledger is lost or an old copy, or that has a hold open which the
    /// coordinators do not know. Only when the host's state is proven: all its nodes run and answer
    Readmit {
        /// The cluster and the host
        #[arg(value_name = "CLUSTER/HOST")]
        place: HostOf,
        #[command(flatten)]
        sure: Sure,
    },
}

/// What an act needs that nobody should do by mistake.
#[derive(Debug, Clone, Args)]
pub(crate) struct Sure {
    /// Why; it is in the event log. Asked for if not given
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// The host's name, for scripts; otherwise it is to be typed
    #[arg(long, value_name = "HOST")]
    pub(crate) confirm: Option<HostId>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Coordinator {
    /// List the coordinators and who leads
    List,
    /// Show who answers, how far behind it is, and what was done to the group
    Status,
    /// Take a new coordinator in: it learns the log first, then it votes
    Add {
        /// Its number, which no coordinator of the group ever had
        id: u64,
        /// Where it listens, `host:port`
        address: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// Take a coordinator out, for ever
    Remove {
        /// Its number
        id: u64,
        #[command(flatten)]
        asked: Asked,
    },
    /// Go on with one coordinator when the majority is lost for good; on its machine, while it is
    /// stopped. It is signed by you, and host agents verify that
    ForceRecover(Recover),
    /// Let another coordinator lead, before the leader's machine is worked on
    TransferLead {
        #[command(flatten)]
        asked: Asked,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum State {
    /// Copy the state into one file, while the coordinator runs or not; the copy is proven whole
    Backup {
        /// The file to make
        file: PathBuf,
        /// The coordinator's configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Put a backup back as a new group of one. It is signed by you, and host agents verify that
    Restore {
        /// The backup
        file: PathBuf,
        #[command(flatten)]
        recover: Recover,
    },
}

/// What an act needs that raises the incarnation.
#[derive(Debug, Clone, Args)]
pub(crate) struct Recover {
    /// The configuration file of the coordinator that goes on
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Why; it is on record
    #[arg(long)]
    pub(crate) reason: String,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Asked {
    /// Why; it is on record
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
    /// The wish's own id, for programs that repeat it: a repeat goes on where the first one ended
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Pki {
    /// Make a CA: `ca.pem` and `ca.key`
    Init {
        /// Where
        #[arg(long)]
        dir: PathBuf,
    },
    /// Issue a certificate: `OUT.pem` and `OUT.key`
    Issue {
        /// Where the CA is
        #[arg(long)]
        dir: PathBuf,
        /// The files to write, without suffix
        #[arg(long)]
        out: PathBuf,
        #[command(subcommand)]
        party: Party,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Party {
    /// A coordinator
    Coordinator {
        /// Its number
        id: u64,
    },
    /// A host agent, bound to one host
    Agent {
        /// The host
        host: HostId,
        /// Raised when the host is enrolled anew; older ones are refused
        #[arg(long, default_value_t = 1)]
        generation: u64,
    },
    /// A person or program that may change things
    Operator {
        /// Who
        name: String,
    },
    /// A person or program that may only look
    Viewer {
        /// Who
        name: String,
    },
}

/// Joins `--canary table DB.TABLE` into one value, so that no value swallows the cluster's name.
pub(crate) fn join_canary(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    for arg in args {
        let table_follows = joined.last().is_some_and(|last| {
            last == "--canary=table"
                || (last == "table"
                    && joined.len() >= 2
                    && joined.get(joined.len() - 2).is_some_and(|before| before == "--canary"))
        });
        match (table_follows, joined.last_mut()) {
            (true, Some(last)) => {
                last.push(":");
                last.push(arg);
            }
            (true, None) | (false, _) => joined.push(arg),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_canary_table_takes_two_words_and_swallows_no_third() {
        let line = ["grayfin", "plan", "--canary", "table", "dfs://c.t", "trade", "--to", "1"];
        let joined = join_canary(line.map(OsString::from));
        assert_eq!(joined[3], "table:dfs://c.t");
        let cli = Cli::try_parse_from(joined).unwrap();
        assert!(matches!(cli.command, Command::Plan(wish) if wish.cluster.as_str() == "trade"));
    }
}
