//! Medians, and lines for people.

/// Samples of one figure.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Samples(Vec<u64>);

impl FromIterator<u64> for Samples {
    fn from_iter<I: IntoIterator<Item = u64>>(values: I) -> Self {
        let mut sorted: Vec<u64> = values.into_iter().collect();
        sorted.sort_unstable();
        Self(sorted)
    }
}

impl Samples {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The one in the middle, or the mean of the two in the middle; 0 for none.
    pub(super) fn median(&self) -> u64 {
        let middle = self.0.len() / 2;
        let at = |place: usize| self.0.get(place).copied().unwrap_or(0);
        if self.0.len() % 2 == 1 {
            at(middle)
        } else {
            at(middle.saturating_sub(1)).midpoint(at(middle))
        }
    }

    /// `name   median   least to most`.
    pub(super) fn line(&self, name: &str) -> String {
        let (least, most) = (self.0.first().unwrap_or(&0), self.0.last().unwrap_or(&0));
        format!("  {name:<44} {:>7} ms   ({least} to {most})", self.median())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let of = |values: &[u64]| values.iter().copied().collect::<Samples>().median();
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[9]), 9);
        assert_eq!(of(&[9, 1, 2]), 2);
        assert_eq!(of(&[9, 1, 2, 4]), 3);
        let line = [30, 10, 20].into_iter().collect::<Samples>().line("x");
        assert!(line.ends_with("20 ms   (10 to 30)"), "{line}");
    }
}
