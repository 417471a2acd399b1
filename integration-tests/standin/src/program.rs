//! The program: a command line in, an exit code out.

use std::io::Write as _;
use std::process::ExitCode;

use crate::node::{start, stop};
use crate::options::{Error, Options};
use crate::package::trailer;

/// Runs a node until it ends. 0 is a clean end, 1 a node that does not start or cannot go on, 2 a
/// command line or a binary that cannot be used.
pub fn run(words: impl IntoIterator<Item = String>) -> ExitCode {
    let options = match Options::parse(words) {
        Ok(options) => options,
        Err(Error::Help) => {
            say(&Error::Help.to_string());
            return ExitCode::SUCCESS;
        }
        Err(error) => return refuse(&error.to_string()),
    };
    let trailer = match trailer::of_this_process() {
        Ok(Some(trailer)) => trailer,
        Ok(None) => {
            return refuse(
                "this binary stands in for DolphinDB and has no version; it is not an installed \
                 package",
            );
        }
        Err(error) => return refuse(&error.to_string()),
    };
    // Two threads for the network: the machine and its files have one of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&format!("start threads: {error}")),
    };
    runtime.block_on(async {
        let started = match start::start(&options, trailer).await {
            Ok(started) => started,
            Err(refused) => {
                complain(&refused.0);
                return ExitCode::FAILURE;
            }
        };
        match stop::run_to_the_end(started).await {
            Ok(code) => code,
            Err(error) => {
                complain(&error.to_string());
                ExitCode::FAILURE
            }
        }
    })
}

fn refuse(text: &str) -> ExitCode {
    complain(text);
    ExitCode::from(2)
}

fn say(text: &str) {
    // Whoever reads it may have had enough.
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// The package's scripts keep standard error in a file.
fn complain(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}
