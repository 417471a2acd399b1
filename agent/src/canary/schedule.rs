//! When the next rows are due, and which partition they go to.

use std::time::{Duration, Instant};

use super::{table::PARTS, writer::millis};
use grayfin_proto::clock::wall_ms;

/// Rows of one batch at most; after a pause the writer does not try to catch up with more.
const BATCH_MAX: u64 = 1000;
/// A new partition this often.
const FRESH_EVERY: Duration = Duration::from_secs(10);
/// Partitions made lately that are still written.
const FRESH_KEPT: usize = 4;
/// The shortest time between two batches.
const BEAT: Duration = Duration::from_millis(20);

/// Which partition a batch goes to.
#[derive(Debug)]
pub(super) struct Parts {
    base: u32,
    turn: u32,
    fresh: Vec<u32>,
    last_fresh: Instant,
    own: bool,
}

impl Parts {
    pub(super) fn new(base: u32, own: bool) -> Self {
        Self { base, turn: 0, fresh: Vec::new(), last_fresh: Instant::now(), own }
    }

    /// Takes turns among so many partitions from now on, beside the new ones.
    pub(super) fn spread(&mut self, base: u32) {
        self.base = base;
    }

    /// The next partition in turn; now and then one that is new.
    pub(super) fn next(&mut self) -> u32 {
        if self.own && self.last_fresh.elapsed() >= FRESH_EVERY {
            self.last_fresh = Instant::now();
            let slot = wall_ms() / u64::try_from(FRESH_EVERY.as_millis()).unwrap_or(1);
            let room = u64::from(PARTS.saturating_sub(self.base).max(1));
            let part = self.base + u32::try_from(slot % room).unwrap_or(0);
            if self.fresh.len() >= FRESH_KEPT {
                self.fresh.remove(0);
            }
            self.fresh.push(part);
            return part;
        }
        self.turn = self.turn.wrapping_add(1);
        let all = self.base + u32::try_from(self.fresh.len()).unwrap_or(0);
        let at = self.turn % all.max(1);
        let fresh = at.checked_sub(self.base).and_then(|at| self.fresh.get(at as usize).copied());
        fresh.unwrap_or(at)
    }

    /// Another one after a refusal: a new partition needs as many data nodes as there are replicas,
    /// and there may be too few just now.
    pub(super) fn instead_of(&mut self, refused: u32) -> u32 {
        self.fresh.retain(|part| *part != refused);
        self.next()
    }
}

/// When the next rows are due. Rows that were missed while a node was slow are made up for; those of
/// more than a second are not.
#[derive(Debug)]
pub(super) struct Pace {
    rate: u64,
    began: Instant,
    taken: u64,
    last: Instant,
}

impl Pace {
    pub(super) fn new(rows_per_second: u32) -> Self {
        let now = Instant::now();
        Self { rate: u64::from(rows_per_second.max(1)), began: now, taken: 0, last: now }
    }

    /// When the next batch may be sent.
    pub(super) fn next(&self) -> Instant {
        let due = self.began + Duration::from_micros(self.taken * 1_000_000 / self.rate);
        due.max(self.last + BEAT)
    }

    /// Takes what is due now: one row at least.
    pub(super) fn take(&mut self) -> u64 {
        self.last = Instant::now();
        let due = millis(self.began.elapsed()).saturating_mul(self.rate) / 1000 + 1;
        let arrears = due.saturating_sub(self.taken);
        if arrears > self.rate {
            // Begun anew, with a second's worth.
            self.began = self.last;
            self.taken = 0;
            return self.rate.clamp(1, BATCH_MAX);
        }
        let rows = arrears.clamp(1, BATCH_MAX);
        self.taken += rows;
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_kept_whatever_the_batches_take() {
        let at = |ms: u64| Instant::now().checked_sub(Duration::from_millis(ms)).unwrap();
        let mut pace = Pace::new(50);
        assert_eq!(pace.take(), 1);
        pace.began = at(200);
        // Eleven are due after 200 ms, one was taken.
        assert_eq!(pace.take(), 10);
        assert_eq!(pace.taken, 11);
        assert!(pace.next() <= Instant::now() + BEAT);
        pace.began = at(60_000);
        assert_eq!(pace.take(), 50, "an outage is not made up for");
        assert_eq!(pace.take(), 1);
        let mut slow = Pace::new(1);
        assert_eq!(slow.take(), 1);
        assert!(slow.next() > Instant::now() + Duration::from_millis(900));
    }

    #[test]
    fn partitions_take_turns_and_a_refused_new_one_is_left() {
        let mut parts = Parts::new(8, true);
        let seen: std::collections::BTreeSet<u32> = (0..16).map(|_| parts.next()).collect();
        assert_eq!(seen, (0..8).collect());
        parts.last_fresh = Instant::now().checked_sub(FRESH_EVERY).unwrap();
        let fresh = parts.next();
        assert!((8..PARTS).contains(&fresh));
        let seen: std::collections::BTreeSet<u32> = (0..9).map(|_| parts.next()).collect();
        assert!(seen.contains(&fresh));
        assert!((0..20).all(|_| parts.instead_of(fresh) < 8));
    }
}
