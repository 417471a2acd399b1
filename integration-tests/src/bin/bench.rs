//! `cargo bench-lab`: see `integration_tests::bench`.

use std::process::ExitCode;

use clap::Parser;
use integration_tests::bench;

fn main() -> ExitCode {
    let arguments = bench::Arguments::parse();
    bench::main(&arguments)
}
