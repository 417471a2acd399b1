//! The coordinator and the operator's command line in one program.

use std::process::ExitCode;

fn main() -> ExitCode {
    grayfin_coordinator::cli::main(std::env::args_os())
}
