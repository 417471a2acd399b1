//! The operator's command line: every verb except `serve` is a client of the coordinators.

mod args;
mod error;
mod output;
mod pki;
mod values;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

use self::{
    args::{Cli, Command, join_canary},
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
        Command::Serve { config } => {
            crate::telemetry::init();
            runtime()?
                .block_on(crate::serve::run(config))
                .map(|()| Exit::Done)
                .map_err(|e| serve_error(&e))
        }
        Command::Preflight(_)
        | Command::Plan(_)
        | Command::Rollout(_)
        | Command::Hosts
        | Command::Hold(_)
        | Command::Explain { .. }
        | Command::Coordinators => Err(Error::usage("not there yet")),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::from_chain(Exit::Internal, &e).cause("start the runtime"))
}

fn serve_error(error: &crate::serve::Error) -> Error {
    use crate::serve::Error as Serve;
    let exit = match error {
        Serve::Config(_) | Serve::Tls(_) => Exit::Usage,
        Serve::Store(_) | Serve::Listen { .. } | Serve::System { .. } => Exit::Refused,
        Serve::Fatal(_) | Serve::Serve(_) => Exit::Internal,
    };
    Error::from_chain(exit, error)
}
