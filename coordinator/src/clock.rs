//! The two clocks: wall time for display only, monotonic time for every age and deadline.

use std::{sync::OnceLock, time::Instant};

pub use grayfin_proto::clock::wall_ms;

/// The monotonic clock begins at one day, so that what was seen before this process started (a
/// scan that is minutes old when it arrives) has a time too.
const ORIGIN_MS: u64 = 24 * 60 * 60 * 1_000;

/// Returns milliseconds of this process's monotonic clock.
pub fn monotonic_ms() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let since = ORIGIN.get_or_init(Instant::now).elapsed();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_add(ORIGIN_MS)
}
