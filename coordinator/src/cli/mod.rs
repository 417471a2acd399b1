//! The operator's command line: every verb except `serve` and `pki` is a client of the
//! coordinators.

mod args;
mod client;
mod coordinator;
mod error;
mod hold;
mod output;
mod pki;
mod render;
mod screen;
mod show;
mod state;
mod steer;
mod values;
mod watch;
mod wish;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

use self::{
    args::{Cli, Command, Coordinator, Hold, Host, Rollout, join_canary},
    client::Client,
    error::{Error, Exit},
    output::Output,
};

/// Runs the program with its arguments, the program's name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(join_canary(args)) {
        Ok(cli) => cli,
        Err(refused) => {
            // Help and version come this way too; they go to stdout and are no error.
            let exit = if refused.use_stderr() { Exit::Usage } else { Exit::Done };
            drop(refused.print());
            return exit.into();
        }
    };
    let output = Output::new(cli.common.json, cli.common.quiet);
    grayfin_proto::tls::install_provider();
    let exit = match run(&cli, output) {
        Ok(exit) => exit,
        Err(error) => {
            if error.exit != Exit::Done {
                output::error(&error);
            }
            error.exit
        }
    };
    exit.into()
}

fn run(cli: &Cli, output: Output) -> Result<Exit, Error> {
    match &cli.command {
        Command::Pki(pki) => pki::run(pki, output),
        Command::State(verb) => state::run(&cli.common, verb, output),
        Command::Coordinator(Coordinator::ForceRecover(recover)) => {
            state::force_recover(&cli.common, recover, output)
        }
        Command::Serve { config } => {
            crate::telemetry::init();
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            runtime
                .map_err(|e| no_runtime(&e))?
                .block_on(crate::serve::run(config))
                .map(|()| Exit::Done)
                .map_err(|e| serve_error(&e))
        }
        Command::Preflight(_)
        | Command::Plan(_)
        | Command::Rollout(_)
        | Command::Hosts
        | Command::Host(_)
        | Command::Hold(_)
        | Command::Explain { .. }
        | Command::Coordinator(_)
        | Command::Coordinators => {
            let client = Client::new(&cli.common)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|e| no_runtime(&e))?.block_on(ask(&client, &cli.command, output))
        }
    }
}

async fn ask(client: &Client, command: &Command, output: Output) -> Result<Exit, Error> {
    match command {
        Command::Preflight(wish) => wish::preflight(client, wish, output).await,
        Command::Plan(wish) => wish::plan(client, wish, output).await,
        Command::Rollout(verb) => rollout(client, verb, output).await,
        Command::Hosts => show::hosts(client, output).await,
        Command::Hold(Hold::Show { cluster }) => {
            show::holds(client, cluster.as_ref(), output).await
        }
        Command::Hold(Hold::Break { cluster, token, sure }) => {
            hold::break_hold(client, cluster, *token, sure, output).await
        }
        Command::Hold(Hold::Attest { host, token, sure }) => {
            hold::attest(client, host, *token, sure, output).await
        }
        Command::Host(Host::Readmit { place, sure }) => {
            hold::readmit(client, place, sure, output).await
        }
        Command::Explain { id } => show::explain(client, id.as_ref(), output).await,
        Command::Coordinators => coordinator::list(client, output).await,
        Command::Coordinator(verb) => coordinator::run(client, verb, output).await,
        Command::Pki(_) | Command::State(_) | Command::Serve { .. } => {
            Err(Error::usage("this verb talks to no coordinator"))
        }
    }
}

async fn rollout(client: &Client, verb: &Rollout, output: Output) -> Result<Exit, Error> {
    if let Some(steered) = steer::rollout(client, verb, output).await {
        return steered;
    }
    match verb {
        Rollout::Start { wish, yes, watch, request_id } => {
            let how = wish::How { yes: *yes, watch: *watch, request_id: request_id.clone() };
            wish::start(client, wish, how, output).await
        }
        Rollout::Watch { id, from } => watch::run(client, id.as_ref(), *from, output).await,
        Rollout::Status { id } => show::status(client, id.as_ref(), output).await,
        Rollout::List
        | Rollout::Pause(_)
        | Rollout::Resume(_)
        | Rollout::Abort(_)
        | Rollout::Retry(_)
        | Rollout::Skip { .. }
        | Rollout::RollbackHost(_) => show::list(client, output).await,
    }
}

fn no_runtime(error: &std::io::Error) -> Error {
    Error::from_chain(Exit::Internal, error).cause("start the runtime")
}

fn serve_error(error: &crate::serve::Error) -> Error {
    use crate::serve::Error as Serve;
    let exit = match error {
        Serve::Config(_) | Serve::Tls(_) => Exit::Usage,
        Serve::Store(_) | Serve::Listen { .. } | Serve::System { .. } => Exit::Refused,
        Serve::Removed { .. } => Exit::Removed,
        Serve::Fatal(_) | Serve::Serve(_) => Exit::Internal,
    };
    Error::from_chain(exit, error)
}
