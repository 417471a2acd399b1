//! Hostile and broken input: one function per reader, fed by `cargo fuzz` and by ordinary tests.
//!
//! Each target takes bytes as an attacker or a dying disk would give them, and must come back: no
//! panic, no endless work, no memory beyond a small multiple of the input, and an error that says
//! where and what. `fuzz/` runs the same functions under libFuzzer; `cargo test -p hostile` runs
//! them over the committed corpus and over mutations of it that are the same every time.

pub mod mutate;
mod targets;

pub use targets::{TARGETS, Target, reply};

/// Feeds the reader of this name.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("fuzz targets are named as the readers are").run)(bytes);
}
