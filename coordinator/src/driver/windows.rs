//! The time of day in the zones that maintenance windows name.

use std::collections::BTreeSet;

use grayfin_coordinator_core::{State, View, view::LocalTime};
use jiff::{Timestamp, tz::TimeZone};

/// Tells the view what time it is in every zone that an unfinished rollout's windows name. A zone
/// that is not known here has no time, and its window lets nothing pass.
pub(crate) fn set_local_times(view: &mut View, state: &State) {
    let zones: BTreeSet<&str> = state
        .rollouts
        .values()
        .filter(|r| !r.state.is_final())
        .flat_map(|r| r.plan.windows.iter().map(|w| w.zone.as_str()))
        .collect();
    let now = Timestamp::now();
    view.local_times = zones
        .into_iter()
        .filter_map(|zone| Some((zone.to_owned(), local_time(now, zone)?)))
        .collect();
}

fn local_time(now: Timestamp, zone: &str) -> Option<LocalTime> {
    let local = now.to_zoned(TimeZone::get(zone).ok()?);
    let weekday = u8::try_from(local.weekday().to_monday_zero_offset()).ok()?;
    let minute =
        u16::try_from(local.hour()).ok()?.checked_mul(60)? + u16::try_from(local.minute()).ok()?;
    Some(LocalTime { weekday, minute })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_in_the_windows_zone() {
        // A Sunday evening in Greenwich is Monday morning in Shanghai.
        let now: Timestamp = "2026-11-22T22:30:00Z".parse().unwrap();
        assert_eq!(local_time(now, "UTC"), Some(LocalTime { weekday: 6, minute: 22 * 60 + 30 }));
        assert_eq!(
            local_time(now, "Asia/Shanghai"),
            Some(LocalTime { weekday: 0, minute: 6 * 60 + 30 })
        );
        assert_eq!(local_time(now, "Nowhere/At-All"), None);
    }
}
