//! Running seeds.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{mutations, tally::Tally, truth::Broken, world::World};

/// After the last fault a run must end within this virtual time: a hundred times what a rollout takes
/// here would be 600 s; every remedy fits into a third of it.
const LIVENESS_MS: u64 = 180_000;

/// How one seed went.
#[derive(Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The first rules that were broken; empty is good.
    pub broken: Vec<Broken>,
    /// What happened how often.
    pub tally: Tally,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// Happenings.
    pub happenings: u64,
    /// What happened, if it was asked for.
    pub trace: Vec<String>,
}

/// Returns the one command that runs a seed again with everything that happens.
pub fn replay_command(seed: u64, mutation: Option<&str>) -> String {
    let mutation = mutation.map_or_else(String::new, |name| format!(" --mutation {name}"));
    format!("cargo sim run --seed {seed}{mutation}")
}

/// Runs one seed; with a mutation, if one is named.
pub fn run(seed: u64, mutation: Option<&'static str>, traced: bool) -> Outcome {
    mutations::set(mutation);
    let ran = catch_unwind(AssertUnwindSafe(|| one(seed, traced)));
    mutations::set(None);
    ran.unwrap_or_else(|panic| {
        let words = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_default();
        Outcome {
            seed,
            broken: vec![Broken { rule: "panic", what: words }],
            tally: Tally::default(),
            virtual_ms: 0,
            happenings: 0,
            trace: Vec::new(),
        }
    })
}

fn one(seed: u64, traced: bool) -> Outcome {
    let mut world = World::new(seed, traced);
    let limit_ms = world.chaos.until_ms + LIVENESS_MS;
    while world.truth.broken.is_empty() && !world.finished() {
        if world.now_ms > limit_ms {
            let state = &world.groups[0].state;
            let newest = state.newest(None);
            let what = format!(
                "not at an end {} s after the last fault: rollout {:?}, waiting {:?}, halted {:?}, against {:?}",
                LIVENESS_MS / 1_000,
                newest.map(|r| r.state),
                newest.map(|r| &r.waiting),
                newest.map(|r| &r.halted),
                world.operator.against,
            );
            world.truth.expect("Liveness", false, || what);
            break;
        }
        world.step();
    }
    let trace = world.trace.take().unwrap_or_default();
    Outcome {
        seed,
        broken: world.truth.broken,
        tally: world.tally,
        virtual_ms: world.now_ms,
        happenings: world.happenings,
        trace,
    }
}
