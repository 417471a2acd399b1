//! The canary of a rollout: who writes, and what came of it.

use std::collections::{BTreeMap, BTreeSet};

use grayfin_types::{HostId, OrderNumber, status::CanaryStatus};
use serde::{Deserialize, Serialize};

/// Where the canary stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum CanaryPhase {
    /// The plan wants none.
    Off,
    /// No writer runs, and none was ordered to.
    Idle,
    /// A writer was ordered to start.
    Starting {
        /// Where.
        host: HostId,
    },
    /// It writes.
    Writing {
        /// Where.
        host: HostId,
    },
    /// It was ordered to stop.
    Stopping {
        /// Where.
        host: HostId,
    },
    /// It will not write again in this rollout.
    Ended,
}

impl CanaryPhase {
    /// Returns the host whose writer runs, or is to start or stop.
    pub const fn host(&self) -> Option<&HostId> {
        match self {
            Self::Starting { host } | Self::Writing { host } | Self::Stopping { host } => {
                Some(host)
            }
            Self::Off | Self::Idle | Self::Ended => None,
        }
    }
}

/// One round of reading back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The order's number at that host.
    pub number: OrderNumber,
    /// The answer.
    pub result: Option<CanaryStatus>,
    /// What the round before found, shown until the answer is there.
    pub before: Option<CanaryStatus>,
}

impl Check {
    /// Tells whether the answer is there and accounts for every acknowledged row: a row that could
    /// not be read is neither there nor lost, and unknown is never fine (S9).
    pub fn complete(&self) -> bool {
        self.result.as_ref().is_some_and(|r| {
            r.verified.saturating_add(r.lost) >= r.acknowledged
                || crate::mutation::is("s11-unread-is-there")
        })
    }
}

/// What one writer said last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterStatus {
    /// Where it wrote.
    pub host: HostId,
    /// Which writer.
    pub epoch: u64,
    /// What it said.
    pub status: CanaryStatus,
}

/// The canary of one rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryRun {
    /// Where it stands.
    pub phase: CanaryPhase,
    /// The last writer's epoch; each start has the next one.
    pub epoch: u64,
    /// Every host that ever wrote: each reads its own journals back.
    pub wrote: BTreeSet<HostId>,
    /// What each writer said last, in order of their epochs.
    pub writers: Vec<WriterStatus>,
    /// The present round of reading back, by host; empty before the first.
    pub checks: BTreeMap<HostId, Check>,
    /// What the present round is for; empty before the first.
    pub purpose: String,
    /// Rounds so far.
    pub rounds: u32,
    /// Hosts that refused to write, and why; they are not asked again before a retry or resume.
    pub refused: BTreeMap<HostId, String>,
}

impl CanaryRun {
    /// Makes the canary of a new rollout.
    pub const fn new(off: bool) -> Self {
        Self {
            phase: if off { CanaryPhase::Off } else { CanaryPhase::Idle },
            epoch: 0,
            wrote: BTreeSet::new(),
            writers: Vec::new(),
            checks: BTreeMap::new(),
            purpose: String::new(),
            rounds: 0,
            refused: BTreeMap::new(),
        }
    }

    /// Tells whether every host that wrote has answered the present round.
    pub fn checked(&self) -> bool {
        self.wrote.iter().all(|h| self.checks.get(h).is_some_and(|c| c.result.is_some()))
    }

    /// Adds everything up. `live` is what the present writer said since (it may be newer).
    pub fn total(&self, live: Option<&CanaryStatus>) -> CanaryStatus {
        let mut sum = CanaryStatus {
            state: match self.phase {
                CanaryPhase::Off => "off",
                CanaryPhase::Idle | CanaryPhase::Starting { .. } => "starting",
                CanaryPhase::Writing { .. } => "writing",
                CanaryPhase::Stopping { .. } => "moving",
                CanaryPhase::Ended => "ended",
            }
            .to_owned(),
            host: self.phase.host().cloned(),
            ..CanaryStatus::default()
        };
        let last = self.writers.last().map(|w| w.epoch);
        for writer in &self.writers {
            let present = Some(writer.epoch) == last && writer.epoch == self.epoch;
            let status = live.filter(|_| present).unwrap_or(&writer.status);
            add_writer(&mut sum, status, present);
        }
        if self.writers.last().is_none_or(|w| w.epoch != self.epoch)
            && let Some(status) = live
        {
            add_writer(&mut sum, status, true);
        }
        let mut read_back_of = 0u64;
        for result in self.checks.values().filter_map(|c| c.result.as_ref().or(c.before.as_ref())) {
            read_back_of = read_back_of.saturating_add(result.acknowledged);
            sum.verified = sum.verified.saturating_add(result.verified);
            sum.lost = sum.lost.saturating_add(result.lost);
            sum.duplicates = sum.duplicates.saturating_add(result.duplicates);
            let room = 10usize.saturating_sub(sum.lost_examples.len());
            sum.lost_examples.extend(result.lost_examples.iter().take(room).cloned());
        }
        // Who reads back knows of more than the writer's last report said.
        sum.acknowledged = sum.acknowledged.max(read_back_of);
        sum
    }
}

fn add_writer(sum: &mut CanaryStatus, status: &CanaryStatus, present: bool) {
    sum.sent = sum.sent.saturating_add(status.sent);
    sum.acknowledged = sum.acknowledged.saturating_add(status.acknowledged);
    sum.unknown = sum.unknown.saturating_add(status.unknown);
    sum.retries = sum.retries.saturating_add(status.retries);
    sum.longest_gap_ms = sum.longest_gap_ms.max(status.longest_gap_ms);
    sum.writer_outage_ms = sum.writer_outage_ms.max(status.writer_outage_ms);
    // Percentiles of several writers cannot be added up: the worst one is shown.
    sum.p50_ms = sum.p50_ms.max(status.p50_ms);
    sum.p99_ms = sum.p99_ms.max(status.p99_ms);
    if present {
        sum.problem.clone_from(&status.problem);
        if sum.state == "writing" && status.state == "failed" {
            status.state.clone_into(&mut sum.state);
        }
    }
}
