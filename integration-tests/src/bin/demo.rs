//! `cargo demo`: see `integration_tests::demo`.

use std::process::ExitCode;

use clap::Parser;
use integration_tests::demo;

fn main() -> ExitCode {
    let arguments = demo::Arguments::parse();
    demo::main(&arguments)
}
