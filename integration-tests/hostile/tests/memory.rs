//! Hostile lengths and depths take no memory that the input does not pay for.

use std::{fs, path::PathBuf};

use hostile::{TARGETS, reply};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What reading takes besides the input: buffers, paths, error texts, and a new ledger's file.
const AROUND: usize = 3 << 20;

/// The most that a byte of input may become. A JSON number of two bytes is a value of 32 in memory.
const TIMES: usize = 64;

// One test alone in this process: the allocator counts what every thread takes.
#[test]
fn no_input_takes_much_more_memory_than_it_has_bytes() {
    // A vector that says that it has 2^31 - 1 elements, in 16 bytes.
    let huge = [4, 1, 0xff, 0xff, 0xff, 0x7f, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let limits = grayfin_agent::ddb::Limits::default();
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    reply(&huge, true, &limits).unwrap_err();
    let peak = MEMORY.peak_usage().saturating_sub(before);
    assert!(peak < 256 << 10, "{peak} bytes for a reply of {}", huge.len());

    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in TARGETS {
        for entry in fs::read_dir(corpus.join(target.name)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let before = MEMORY.current_usage();
            MEMORY.reset_peak_usage();
            (target.run)(&bytes);
            let peak = MEMORY.peak_usage().saturating_sub(before);
            let allowed = AROUND + TIMES * bytes.len();
            assert!(peak <= allowed, "{}: {peak} bytes, {allowed} allowed", path.display());
        }
    }
}
