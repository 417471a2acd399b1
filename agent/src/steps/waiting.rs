//! Waiting for something to become true.

use std::time::Duration;

use tokio::time::Instant;

use super::{Context, StepError};

/// The shortest pause: what is started often answers within milliseconds.
const SHORTEST: Duration = Duration::from_millis(5);
/// The longest pause: what takes seconds may be noticed a fifth of a second late.
const LONGEST: Duration = Duration::from_millis(200);
/// A pause is this part of the time that was waited already: on average a twentieth of the wait is
/// lost to looking too late, and waiting a second takes about forty looks.
const PART: u32 = 10;

/// Pauses that grow, within the step's limits.
#[derive(Debug)]
pub(super) struct Pauses {
    begun: Instant,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { begun: Instant::now() }
    }
}

impl Pauses {
    /// Waits a little longer than the last time; fails when the step has to stop.
    pub(super) async fn pause(&mut self, ctx: &Context) -> Result<(), StepError> {
        let next = (self.begun.elapsed() / PART).clamp(SHORTEST, LONGEST);
        ctx.until(tokio::time::sleep(next)).await
    }
}
