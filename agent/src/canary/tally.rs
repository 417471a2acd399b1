//! What a writer has done so far. Pure: time is an input.

use std::collections::BTreeMap;

use grayfin_types::status::CanaryStatus;
use serde::{Deserialize, Serialize};

use super::ranges::Ranges;

/// Latencies below this many milliseconds have a class each; above it there are eight classes per
/// doubling, so a class is never off by more than an eighth.
const EXACT_MS: u64 = 16;

/// Numbers that are written to the journal now and then, so that a restart keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Rows that were handed to a node at least once.
    pub sent: u64,
    /// Rows that were sent, surely not taken, and given up when the writer stopped.
    #[serde(default)]
    pub refused: u64,
    /// Rows sent again after an unknown outcome.
    pub retries: u64,
    /// Longest time between two acknowledgements, the writer's own outages apart.
    pub longest_gap_ms: u64,
    /// Longest time that the writer itself did not run.
    pub writer_outage_ms: u64,
    /// Acknowledged rows by class of latency.
    pub latency: BTreeMap<u32, u64>,
}

/// Everything about one epoch of a writer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Rows below this number may have been sent.
    pub planned: u64,
    /// Rows that were acknowledged.
    pub acked: Ranges,
    /// The rest.
    pub figures: Figures,
}

impl Tally {
    /// A batch of rows is handed to a node, for the first time or again. `unknown` says that an
    /// earlier attempt may have been applied.
    pub fn sending(&mut self, rows: u64, first: bool, unknown: bool) {
        if first {
            self.figures.sent += rows;
        }
        if unknown {
            self.figures.retries += rows;
        }
    }

    /// A batch was acknowledged after `latency_ms`; the acknowledgement before it was `gap_ms` ago,
    /// the writer's own outages taken off.
    pub fn acknowledged(&mut self, from: u64, to: u64, latency_ms: u64, gap_ms: Option<u64>) {
        self.acked.add(from, to);
        *self.figures.latency.entry(class_of(latency_ms)).or_default() += to.saturating_sub(from);
        self.gap(gap_ms.unwrap_or(0));
    }

    /// A time without acknowledgements.
    pub fn gap(&mut self, gap_ms: u64) {
        self.figures.longest_gap_ms = self.figures.longest_gap_ms.max(gap_ms);
    }

    /// A time in which the writer itself did not run.
    pub fn outage(&mut self, ms: u64) {
        self.figures.writer_outage_ms = self.figures.writer_outage_ms.max(ms);
    }

    /// A latency that this share (per thousand) of the acknowledged rows did not exceed.
    pub fn latency_ms(&self, per_mille: u64) -> u64 {
        let all: u64 = self.figures.latency.values().sum();
        let wanted = (all.saturating_mul(per_mille)).div_ceil(1000).max(1);
        let mut seen = 0;
        for (class, rows) in &self.figures.latency {
            seen += rows;
            if seen >= wanted {
                return upper_ms(*class);
            }
        }
        0
    }

    /// The status of this writer, without what a check finds.
    pub fn status(&self, state: &str) -> CanaryStatus {
        let acknowledged = self.acked.count();
        CanaryStatus {
            state: state.to_owned(),
            sent: self.figures.sent,
            acknowledged,
            unknown: self
                .figures
                .sent
                .saturating_sub(acknowledged)
                .saturating_sub(self.figures.refused),
            retries: self.figures.retries,
            longest_gap_ms: self.figures.longest_gap_ms,
            writer_outage_ms: self.figures.writer_outage_ms,
            p50_ms: self.latency_ms(500),
            p99_ms: self.latency_ms(990),
            ..CanaryStatus::default()
        }
    }
}

/// Adds the figures of several writers up.
pub fn add(sum: &mut CanaryStatus, one: &CanaryStatus) {
    sum.sent += one.sent;
    sum.acknowledged += one.acknowledged;
    sum.unknown += one.unknown;
    sum.verified += one.verified;
    sum.lost += one.lost;
    sum.duplicates += one.duplicates;
    sum.retries += one.retries;
    sum.longest_gap_ms = sum.longest_gap_ms.max(one.longest_gap_ms);
    sum.writer_outage_ms = sum.writer_outage_ms.max(one.writer_outage_ms);
    sum.p50_ms = sum.p50_ms.max(one.p50_ms);
    sum.p99_ms = sum.p99_ms.max(one.p99_ms);
    sum.lost_examples.extend(one.lost_examples.iter().cloned());
    if sum.problem.is_none() {
        sum.problem.clone_from(&one.problem);
    }
}

/// The class of a latency.
fn class_of(ms: u64) -> u32 {
    let exact = u32::try_from(EXACT_MS).unwrap_or(u32::MAX);
    if ms < EXACT_MS {
        return u32::try_from(ms).unwrap_or(0);
    }
    let doublings = ms.ilog2() - EXACT_MS.ilog2();
    let eighth = u32::try_from((ms >> (ms.ilog2() - 3)) & 7).unwrap_or(0);
    exact + doublings * 8 + eighth
}

/// The largest latency of a class.
fn upper_ms(class: u32) -> u64 {
    let exact = u32::try_from(EXACT_MS).unwrap_or(u32::MAX);
    if class < exact {
        return u64::from(class);
    }
    let (doublings, eighth) = ((class - exact) / 8, u64::from((class - exact) % 8));
    let shift = (doublings + EXACT_MS.ilog2()).saturating_sub(3).min(60);
    ((8 + eighth + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_latency_are_never_off_by_more_than_an_eighth() {
        for ms in (0..5000).chain([60_000, 123_456, 3_600_000]) {
            let upper = upper_ms(class_of(ms));
            assert!(upper >= ms && upper - ms <= ms / 8, "{ms} {upper}");
        }
    }

    #[test]
    fn figures_become_a_status() {
        let mut tally = Tally { planned: 200, ..Tally::default() };
        for batch in 0..100 {
            tally.sending(1, true, false);
            let latency = if batch == 98 { 500 } else { 3 };
            if batch != 99 {
                tally.acknowledged(batch, batch + 1, latency, Some(20));
            }
        }
        tally.sending(1, false, true);
        tally.outage(700);
        let status = tally.status("writing");
        assert_eq!((status.sent, status.acknowledged, status.unknown), (100, 99, 1));
        assert_eq!((status.retries, status.longest_gap_ms, status.writer_outage_ms), (1, 20, 700));
        assert_eq!(status.p50_ms, 3);
        assert!(status.p99_ms >= 500 && status.p99_ms < 570, "{status:?}");
        assert_eq!(Tally::default().latency_ms(990), 0);
    }
}
