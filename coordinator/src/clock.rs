//! The two clocks: wall time for display only, monotonic time for every age and deadline.

use std::{
    sync::OnceLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// The monotonic clock begins at one day, so that what was seen before this process started (a
/// scan that is minutes old when it arrives) has a time too.
const ORIGIN_MS: u64 = 24 * 60 * 60 * 1_000;

/// Returns milliseconds since 1970; it may jump.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns milliseconds of this process's monotonic clock.
pub fn monotonic_ms() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let since = ORIGIN.get_or_init(Instant::now).elapsed();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_add(ORIGIN_MS)
}
