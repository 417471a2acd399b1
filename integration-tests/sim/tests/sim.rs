//! What CI asks of the simulator: fixed seeds and fresh ones, every seed that ever failed, that every
//! interesting thing did happen, and that every mutation of the cores is found.

use std::time::{SystemTime, UNIX_EPOCH};

use grayfin_sim::{
    mutations,
    run::{replay_command, run},
    tally::Tally,
};

/// Fixed seeds, from 0.
const FIXED: u64 = 300;

/// Fresh seeds, from one that is printed.
const FRESH: u64 = 40;

/// How many seeds a mutation may need, from the seed that is written down for it.
const BUDGET: u64 = 60;

/// What must happen over the fixed seeds.
const SOMETIMES: &str = include_str!("sometimes.txt");

/// Seeds that failed once.
const REGRESSIONS: &str = include_str!("regressions.txt");

/// Where the search for each mutation begins.
const MUTATIONS: &str = include_str!("mutations.txt");

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn all_good(seeds: impl Iterator<Item = u64>) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        let outcome = run(seed, None, false);
        let replay = replay_command(seed, None);
        assert!(outcome.broken.is_empty(), "{:?}\nreplay: {replay}", outcome.broken);
        tally.add(&outcome.tally);
    }
    tally
}

#[test]
fn no_rule_is_broken_over_the_fixed_seeds_and_everything_interesting_happens() {
    let tally = all_good(0..FIXED);
    let never: Vec<&str> = lines(SOMETIMES).filter(|what| tally.count(what) == 0).collect();
    assert!(never.is_empty(), "these never happened over {FIXED} seeds: {never:?}");
}

#[test]
fn no_rule_is_broken_over_fresh_seeds() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let first = now.as_secs() * 1_000;
    all_good(first..first + FRESH);
}

#[test]
fn seeds_that_failed_once_are_good_now() {
    all_good(lines(REGRESSIONS).map(|line| line.parse().unwrap()));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (one, other) = (run(7, None, true), run(7, None, true));
    assert!(one.trace.len() > 100);
    assert_eq!(one.trace, other.trace);
}

#[test]
fn every_mutation_is_found() {
    if !cfg!(debug_assertions) {
        // They are not in release builds.
        return;
    }
    // A panic of an assertion in the cores counts as found; it need not be printed.
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for (name, what) in mutations::all() {
        let hint = lines(MUTATIONS).filter_map(|line| line.split_once(' '));
        let first = hint.filter(|(of, _)| *of == name).find_map(|(_, seed)| seed.parse().ok());
        let first: u64 = first.unwrap_or(0);
        let found = (first..first + BUDGET).any(|s| !run(s, Some(name), false).broken.is_empty());
        if !found {
            missed.push(format!("{name}: {what}"));
        }
    }
    drop(std::panic::take_hook());
    assert!(missed.is_empty(), "not found within {BUDGET} seeds: {missed:#?}");
}
