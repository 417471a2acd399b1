//! What happened, in a table.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Instant;

use grayfin_types::status::{RolloutState, RolloutStatus};

use super::Arguments;
use crate::observer::Report;

/// Counts of everything.
#[derive(Debug)]
pub(super) struct Tally {
    began: Instant,
    faults: BTreeMap<&'static str, u32>,
    halts: BTreeMap<String, u32>,
    ends: BTreeMap<String, u32>,
    /// Times in which two hosts were down at once.
    overlaps: usize,
    acknowledged: u64,
    lost: u64,
    longest_gap_ms: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            faults: BTreeMap::new(),
            halts: BTreeMap::new(),
            ends: BTreeMap::new(),
            overlaps: 0,
            acknowledged: 0,
            lost: 0,
            longest_gap_ms: 0,
        }
    }
}

impl Tally {
    /// Something befell the lab.
    pub(super) fn fault(&mut self, what: &'static str) {
        *self.faults.entry(what).or_default() += 1;
    }

    /// A rollout asks for a person.
    pub(super) fn halted(&mut self, status: &RolloutStatus) {
        for reason in &status.waiting {
            *self.halts.entry(reason.code.to_string()).or_default() += 1;
        }
    }

    /// A rollout has ended.
    pub(super) fn ended(&mut self, status: &RolloutStatus, seen: &Report) {
        self.overlaps += seen.overlaps().len();
        *self.ends.entry(status.state.to_string()).or_default() += 1;
        self.acknowledged += status.canary.acknowledged;
        self.lost += status.canary.lost;
        self.longest_gap_ms = self.longest_gap_ms.max(status.canary.longest_gap_ms);
    }

    /// How many faults.
    pub(super) fn faults(&self) -> u32 {
        self.faults.values().sum()
    }

    /// It is as much as was asked for.
    pub(super) fn is_enough(&self, wanted: &Arguments) -> bool {
        self.faults() >= wanted.faults && self.ends.values().sum::<u32>() >= wanted.rollouts
    }

    /// The table.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string does not fail.
            writeln!(text, "  {name:<56} {value:>10}").ok();
        };
        line("faults", self.faults().to_string());
        for (what, times) in &self.faults {
            line(&format!("  {what}"), times.to_string());
        }
        line("rollouts", self.ends.values().sum::<u32>().to_string());
        for (state, times) in &self.ends {
            line(&format!("  {state}"), times.to_string());
        }
        if !self.ends.contains_key(&RolloutState::Succeeded.to_string()) {
            line("  succeeded", "0".to_owned());
        }
        let halts: u32 = self.halts.values().sum();
        line("halts, each with a reason and a remedy that worked", halts.to_string());
        for (code, times) in &self.halts {
            line(&format!("  {code}"), times.to_string());
        }
        line("times that two hosts were disturbed at once", self.overlaps.to_string());
        line("rows acknowledged to the canary", self.acknowledged.to_string());
        line("  of these lost", self.lost.to_string());
        line("longest gap between two rows", format!("{} ms", self.longest_gap_ms));
        line("time", format!("{} s", self.began.elapsed().as_secs()));
        text
    }
}
