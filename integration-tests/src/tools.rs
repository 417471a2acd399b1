//! `unzip` and `clear` for hosts that have none: the lab's program under another name.

use std::io::Write;

use standin::package::unzip;

/// Names under which the lab's program is a tool.
pub const NAMES: [&str; 2] = ["unzip", "clear"];

/// Runs the tool this program is called as; `None` if it is called by its own name.
pub fn run_as_named() -> Option<u8> {
    let mut arguments = std::env::args();
    let name = arguments.next()?;
    let arguments: Vec<String> = arguments.collect();
    match name.rsplit('/').next()? {
        "unzip" => {
            let mut input = std::io::stdin().lock();
            let mut output = std::io::stdout().lock();
            let mut errors = std::io::stderr().lock();
            Some(unzip::run(&arguments, &mut input, &mut output, &mut errors))
        }
        "clear" => Some(clear(std::env::var("TERM").ok().as_deref())),
        _ => None,
    }
}

/// Clears the screen; fails without a terminal type that can be cleared, as the usual one does.
fn clear(terminal: Option<&str>) -> u8 {
    match terminal {
        None | Some("") => {
            writeln!(std::io::stderr(), "TERM environment variable not set.").ok();
            1
        }
        Some("dumb") => 1,
        Some(_) => {
            let done = write!(std::io::stdout(), "\u{1b}[H\u{1b}[2J\u{1b}[3J");
            u8::from(done.is_err())
        }
    }
}
