//! The host agent's program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before any thread: this process may be the small one that starts a node or watches a script.
    if let Some(code) = grayfin_agent::process::launcher::entry() {
        return code;
    }
    grayfin_agent::cli::main(std::env::args_os())
}
