//! Results as people read them. Nothing here talks to anybody: values in, text out.

pub(crate) mod board;
pub(crate) mod coordinators;
pub(crate) mod events;
pub(crate) mod findings;
pub(crate) mod hosts;
pub(crate) mod plan;
pub(crate) mod status;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use jiff::{Timestamp, tz::TimeZone};

/// Writes a number of bytes.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut scale: u64 = 1;
    while unit + 1 < UNITS.len() && count / scale >= 1024 {
        scale *= 1024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("TiB");
    if scale == 1 {
        return format!("{count} {name}");
    }
    let tenths = count / (scale / 10).max(1);
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

/// Writes a length of time.
pub(crate) fn duration(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..=9 => format!("{}.{} s", seconds, ms % 1_000 / 100),
        10..=59 => format!("{seconds} s"),
        60..=3_599 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3_600, seconds % 3_600 / 60),
    }
}

/// Writes the time of day of a wall clock's milliseconds.
pub(crate) fn clock(ms: u64, zone: &TimeZone) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.map_or_else(
        || "--:--:--".to_owned(),
        |at| at.to_zoned(zone.clone()).strftime("%H:%M:%S").to_string(),
    )
}

/// Writes a large number with thin groups, as people read it.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
