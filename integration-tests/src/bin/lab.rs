//! `lab`: a cluster of the stand-in database with Grayfin on top. Under the names `unzip` and `clear`
//! it is the tool of that name, for hosts that have none.

use std::process::ExitCode;

fn main() -> ExitCode {
    match integration_tests::tools::run_as_named() {
        Some(code) => ExitCode::from(code),
        None => integration_tests::cli::main(),
    }
}
