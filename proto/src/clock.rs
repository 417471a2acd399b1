//! The wall clock of both ends, for display and for windows that people set by it. Ages and deadlines
//! go by monotonic clocks.

use std::{
    fs,
    path::PathBuf,
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

/// Milliseconds by which a test lets this clock be wrong, or the path of a file that holds them and may
/// change at any time. Debug builds only.
const OFFSET: &str = "GRAYFIN_CLOCK_OFFSET_MS";

/// How wrong a test lets the clock be.
#[derive(Debug)]
enum Offset {
    Fixed(i64),
    File(PathBuf),
}

/// Returns milliseconds since 1970; 0 if the clock stands before that. It may jump.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    now.saturating_add_signed(offset_ms())
}

fn offset_ms() -> i64 {
    static WRONG: OnceLock<Offset> = OnceLock::new();
    let wrong = WRONG.get_or_init(|| {
        let text = std::env::var(OFFSET).ok().filter(|_| cfg!(debug_assertions));
        let text = text.unwrap_or_default();
        if text.starts_with('/') {
            Offset::File(PathBuf::from(text))
        } else {
            Offset::Fixed(text.parse().unwrap_or(0))
        }
    });
    match wrong {
        Offset::Fixed(offset) => *offset,
        Offset::File(file) => {
            let text = fs::read_to_string(file).unwrap_or_default();
            text.trim().parse().unwrap_or(0)
        }
    }
}
