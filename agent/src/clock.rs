//! The wall clock, for display only. Decisions use tokio's monotonic clock, which tests can stop.

use std::sync::OnceLock;

/// Milliseconds by which a test lets this clock be wrong; debug builds only.
const OFFSET: &str = "GRAYFIN_CLOCK_OFFSET_MS";

/// Returns milliseconds since 1970; 0 if the clock stands before that.
pub fn wall_ms() -> u64 {
    let now = jiff::Timestamp::now().as_millisecond();
    u64::try_from(now.saturating_add(offset_ms())).unwrap_or(0)
}

fn offset_ms() -> i64 {
    static READ: OnceLock<i64> = OnceLock::new();
    *READ.get_or_init(|| {
        let text = std::env::var(OFFSET).ok().filter(|_| cfg!(debug_assertions));
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    })
}
