//! Sets of numbers, kept as ranges: millions of acknowledged rows are a handful of ranges.

/// A set of numbers. Ranges are `from..to`, sorted, apart from each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges {
    ranges: Vec<(u64, u64)>,
    count: u64,
}

impl Ranges {
    /// Adds `from..to`. Adding what is there changes nothing.
    pub fn add(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        // The first range that ends at or after `from`, and the first that begins after `to`.
        let first = self.ranges.partition_point(|(_, end)| *end < from);
        let after = self.ranges.partition_point(|(begin, _)| *begin <= to);
        let (mut begin, mut end) = (from, to);
        let mut replaced = 0;
        for (old_begin, old_end) in self.ranges.get(first..after).unwrap_or_default() {
            begin = begin.min(*old_begin);
            end = end.max(*old_end);
            replaced += old_end - old_begin;
        }
        self.ranges.splice(first..after.max(first), [(begin, end)]);
        self.count = self.count - replaced + (end - begin);
    }

    /// How many numbers there are.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Tells whether a number is there.
    pub fn contains(&self, number: u64) -> bool {
        let at = self.ranges.partition_point(|(_, end)| *end <= number);
        self.ranges.get(at).is_some_and(|(begin, _)| *begin <= number)
    }

    /// Returns the ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ranges.iter().copied()
    }

    /// Returns the part within `from..to`.
    pub fn within(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> {
        let first = self.ranges.partition_point(move |(_, end)| *end <= from);
        let rest = self.ranges.get(first..).unwrap_or_default();
        rest.iter()
            .take_while(move |(begin, _)| *begin < to)
            .map(move |(begin, end)| ((*begin).max(from), (*end).min(to)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_is_the_set_that_it_should_be() {
        // A linear congruential generator: the same cases each time.
        let mut state = 7_u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for _ in 0..200 {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for _ in 0..30 {
                let from = next(60);
                let to = from + next(9);
                ranges.add(from, to);
                set.extend(from..to);
            }
            let listed: Vec<u64> = ranges.iter().flat_map(|(from, to)| from..to).collect();
            assert_eq!(listed, set.iter().copied().collect::<Vec<_>>());
            assert_eq!(ranges.count(), set.len() as u64);
            assert!((0..80).all(|n| ranges.contains(n) == set.contains(&n)));
            let apart = ranges.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
            assert!(apart, "{ranges:?}");
            let (from, to) = (next(40), next(70));
            let part: Vec<u64> = ranges.within(from, to).flat_map(|(a, b)| a..b).collect();
            let expected: Vec<u64> =
                set.iter().copied().filter(|n| *n >= from && *n < to).collect();
            assert_eq!(part, expected);
        }
    }
}
