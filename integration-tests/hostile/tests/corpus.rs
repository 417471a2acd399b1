//! Every committed input, and mutations of it, through every reader.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

use std::{fs, panic, path::PathBuf};

use hostile::{
    TARGETS, Target,
    mutate::{Dice, mutated},
};

/// Mutations of each input: all readers together take some seconds.
const MUTATIONS: u64 = 600;

fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut found: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap())
        })
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{} is empty", folder.display());
    found
}

/// Runs a reader; on a panic the input is kept, so that it can join the corpus.
fn feed(target: &Target, from: &str, seed: u64, bytes: &[u8]) {
    if panic::catch_unwind(|| (target.run)(bytes)).is_err() {
        let kept = std::env::temp_dir().join(format!("hostile-{}-{from}-{seed}", target.name));
        fs::write(&kept, bytes).unwrap();
        panic!("`{}` fails on mutation {seed} of `{from}`: see {}", target.name, kept.display());
    }
}

fn all(targets: &[Target]) {
    for target in targets {
        for (name, bytes) in corpus(target) {
            feed(target, &name, 0, &bytes);
            // Long inputs take longer each.
            let times = if bytes.len() > 4_096 { MUTATIONS / 10 } else { MUTATIONS };
            for seed in 1..=times {
                feed(target, &name, seed, &mutated(&bytes, &mut Dice::new(seed)));
            }
        }
    }
}

#[test]
fn the_first_half_of_the_readers_comes_back_from_everything() {
    all(&TARGETS[..5]);
}

#[test]
fn the_second_half_of_the_readers_comes_back_from_everything() {
    all(&TARGETS[5..]);
}

#[test]
fn every_reader_has_a_corpus_and_a_fuzz_target_and_none_is_left_over() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let names = |folder: PathBuf| -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let mut wanted: Vec<String> = TARGETS.iter().map(|t| t.name.to_owned()).collect();
    wanted.sort();
    assert_eq!(names(root.join("corpus")), wanted);
    assert_eq!(names(root.join("../../fuzz/fuzz_targets")), wanted);
}
