//! What DolphinDB publishes about rolling upgrade between two versions, as data.
//!
//! DolphinDB gives each release a compatibility level with the one before: 4 and 5 support rolling
//! upgrade, 1 to 3 may not. The level of a path is the minimum over its steps. Where a document
//! gives two levels for a release, the lower one counts. A change of the fourth number alone has no
//! published level; it is class `patch`: allowed, and shown as not published.

use grayfin_types::{DdbVersion, plan::Compatibility};

/// The level from which on rolling upgrade is supported.
pub const ROLLING_LEVEL: u8 = 4;

/// The published levels: a release, and its level with the release before it.
const LEVELS: &[([u16; 3], u8)] = &[
    ([1, 30, 17], 3),
    ([1, 30, 18], 2),
    ([1, 30, 19], 1),
    ([1, 30, 20], 2),
    ([1, 30, 21], 2),
    ([1, 30, 22], 1),
    ([2, 0, 5], 2),
    ([2, 0, 6], 2),
    ([2, 0, 7], 1),
    ([2, 0, 8], 2),
    ([2, 0, 9], 2),
    // Two documents differ: one says 2, the other 1.
    ([2, 0, 10], 1),
    ([3, 0, 0], 2),
    ([3, 0, 1], 2),
    ([3, 0, 2], 2),
    ([3, 0, 3], 2),
    ([3, 0, 4], 2),
    ([3, 0, 5], 1),
];

/// The level of a step from 1.30 to 2.00: "1, sometimes 2".
const MAJOR_LEVEL: u8 = 1;

/// The longest path that is looked at: beyond it nothing is published anyway.
const STEPS_MAX: u16 = 64;

/// Says what is published about the path from one version to another.
pub fn between(from: &DdbVersion, to: &DdbVersion) -> Compatibility {
    if from.release() == to.release() {
        let patch = from.patch() != to.patch();
        let why = if patch {
            format!(
                "{from} to {to} changes the fourth number alone: class `patch`; no level is published for this pair"
            )
        } else {
            format!("{from} and {to} are the same release")
        };
        return Compatibility { level: None, patch, why };
    }
    if to.release() < from.release() {
        let why = format!("{to} is older than {from}: no level is published for going back");
        return Compatibility { level: None, patch: false, why };
    }
    let steps = path(from.release(), to.release());
    let mut words = Vec::new();
    let mut level = Some(5);
    let mut lowest = None;
    for (name, step) in &steps {
        match step {
            Some(published) => {
                words.push(format!("{name}: level {published}"));
                lowest = Some(lowest.map_or(*published, |low: u8| low.min(*published)));
                level = level.map(|so_far: u8| so_far.min(*published));
            }
            None => {
                words.push(format!("{name}: nothing published"));
                level = None;
            }
        }
    }
    // Below 1 there is nothing: one step of level 1 settles the path, whatever the others are.
    if lowest == Some(1) {
        level = Some(1);
    }
    if steps.is_empty() {
        level = None;
        words.push("no path of published releases".to_owned());
    }
    Compatibility { level, patch: false, why: words.join(", ") }
}

/// Tells whether the vendor publishes that a rolling upgrade is supported, or it is a patch.
pub fn is_rolling(compatibility: &Compatibility) -> bool {
    compatibility.patch || compatibility.level.is_some_and(|level| level >= ROLLING_LEVEL)
}

/// Returns the steps of a path with their levels, oldest first.
fn path(from: [u16; 3], to: [u16; 3]) -> Vec<(String, Option<u8>)> {
    let mut steps = Vec::new();
    let line = |release: [u16; 3]| [release[0], release[1]];
    if line(from) == line(to) {
        for last in (from[2]..to[2]).take(usize::from(STEPS_MAX)) {
            push(&mut steps, [from[0], from[1], last.saturating_add(1)]);
        }
        return steps;
    }
    let name = format!("{}.{:02} to {}.{:02}", from[0], from[1], to[0], to[1]);
    let major = (line(from) == [1, 30] && line(to) == [2, 0]).then_some(MAJOR_LEVEL);
    steps.push((name, major));
    // What lies between the last release of the old line and the first of the new one is not
    // published; the steps within the new line are.
    for last in (0..=to[2]).take(usize::from(STEPS_MAX)) {
        push(&mut steps, [to[0], to[1], last]);
    }
    steps
}

fn push(steps: &mut Vec<(String, Option<u8>)>, release: [u16; 3]) {
    let level = LEVELS.iter().find(|(of, _)| *of == release).map(|(_, level)| *level);
    steps.push((format!("{}.{:02}.{}", release[0], release[1], release[2]), level));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(from: &str, to: &str) -> Compatibility {
        between(&from.parse().unwrap(), &to.parse().unwrap())
    }

    #[test]
    fn the_level_of_a_path_is_the_minimum_over_its_steps() {
        assert_eq!(of("2.00.7.4", "2.00.8.12").level, Some(2));
        assert_eq!(of("2.00.6.1", "2.00.8.12").level, Some(1));
        assert_eq!(of("1.30.16.1", "1.30.17").level, Some(3));
        assert_eq!(of("3.00.0", "3.00.4.1").level, Some(2));
    }

    #[test]
    fn no_published_pair_of_releases_is_rolling() {
        for (release, _) in LEVELS.iter().filter(|(release, _)| release[2] > 0) {
            let [a, b, c] = *release;
            let found = of(&format!("{a}.{b:02}.{}", c - 1), &format!("{a}.{b:02}.{c}"));
            assert!(!is_rolling(&found), "{found:?}");
        }
    }

    #[test]
    fn a_patch_is_allowed_and_shown_as_not_published() {
        let found = of("2.00.8.10", "2.00.8.12");
        assert!(found.patch && found.level.is_none() && is_rolling(&found));
        assert!(found.why.contains("no level is published"), "{}", found.why);
    }

    #[test]
    fn an_unpublished_step_makes_the_path_unknown_unless_another_is_as_low_as_can_be() {
        assert_eq!(of("2.00.12", "2.00.14").level, None);
        assert_eq!(of("2.00.9.1", "2.00.12").level, Some(1));
        assert!(!is_rolling(&of("2.00.12", "2.00.14")));
    }

    #[test]
    fn a_new_major_line_is_never_rolling() {
        assert_eq!(of("1.30.22", "2.00.8").level, Some(1));
        assert_eq!(of("2.00.12", "3.00.1").level, None);
        assert_eq!(of("2.00.12", "3.00.5").level, Some(1));
    }

    #[test]
    fn going_back_has_no_level() {
        assert!(!is_rolling(&of("2.00.8.12", "2.00.7.4")));
        // A lower patch is a patch here; the gate `downgrade` refuses it.
        assert!(of("2.00.8.12", "2.00.8.10").patch);
    }
}
