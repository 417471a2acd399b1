//! The wall clock, for display only. Decisions use tokio's monotonic clock, which tests can stop.

/// Returns milliseconds since 1970; 0 if the clock stands before that.
pub fn wall_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}
