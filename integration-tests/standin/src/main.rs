//! One node of the stand-in for DolphinDB. It is a test double.

use std::process::ExitCode;

fn main() -> ExitCode {
    standin::run(std::env::args().skip(1))
}
