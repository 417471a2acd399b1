//! One look at all processes and ports, again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use tokio::sync::watch;

use super::identify::{Found, Watched, identify};
use super::{SAMPLE_EVERY, Shared, locked};
use crate::processes::{self, ProcessId};
use crate::wait;

/// A process that is no node after this many looks never becomes one: between fork and exec there
/// are microseconds, and this is a second.
const LOOKS_BEFORE_IGNORED: u32 = 33;

/// Looks until told to stop, and then once more.
pub(super) fn run(watched: &[Watched], report: &Shared, stop: &watch::Receiver<bool>) {
    let mut sampler = Sampler::default();
    let started = Instant::now();
    loop {
        let last = *stop.borrow();
        let begun = Instant::now();
        let seen = sampler.look(watched);
        let at = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        locked(report).add_sample(at, &seen);
        if last {
            return;
        }
        wait::pause_thread(SAMPLE_EVERY.saturating_sub(begun.elapsed()));
    }
}

/// What one look found about one node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Seen {
    /// Its live processes.
    pub(super) processes: Vec<ProcessId>,
    /// Its port is open.
    pub(super) listening: bool,
}

/// Remembers who is who, so that a look stays cheap.
#[derive(Debug, Default)]
struct Sampler {
    known: BTreeMap<i32, Found>,
    others: BTreeMap<i32, u32>,
}

impl Sampler {
    fn look(&mut self, watched: &[Watched]) -> Vec<Seen> {
        let pids: BTreeSet<i32> = processes::all().into_iter().collect();
        self.known.retain(|pid, _| pids.contains(pid));
        self.others.retain(|pid, _| pids.contains(pid));
        for pid in pids {
            self.learn(pid, watched);
        }
        let mut listening = processes::listening();
        // A lab may have networks of its own.
        if watched.iter().any(|node| !node.address.starts_with("127.")) {
            for pid in self.known.keys() {
                listening.extend(processes::listening_beside(*pid));
            }
        }
        watched
            .iter()
            .enumerate()
            .map(|(index, node)| Seen {
                processes: self
                    .known
                    .values()
                    .filter(|found| found.node == index)
                    .map(|found| found.process)
                    .collect(),
                listening: listening.contains(&node.address),
            })
            .collect()
    }

    fn learn(&mut self, pid: i32, watched: &[Watched]) {
        if let Some(found) = self.known.get(&pid) {
            if found.process.is_alive() {
                return;
            }
            self.known.remove(&pid);
        }
        let looks = self.others.entry(pid).or_default();
        if *looks >= LOOKS_BEFORE_IGNORED {
            return;
        }
        *looks += 1;
        if let Some(found) = identify(pid, watched).filter(|found| found.process.is_alive()) {
            self.others.remove(&pid);
            self.known.insert(pid, found);
        }
    }
}
