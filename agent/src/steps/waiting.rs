//! Waiting for something to become true.

use std::time::Duration;

use super::{Context, StepError};

/// The first pause: what is started often answers within milliseconds.
const FIRST: Duration = Duration::from_millis(5);
/// The longest pause: what takes seconds may be noticed a fifth of a second late.
const LONGEST: Duration = Duration::from_millis(200);

/// Pauses that grow, within the step's limits.
#[derive(Debug)]
pub(super) struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Pauses {
    /// Waits a little longer than the last time; fails when the step has to stop.
    pub(super) async fn pause(&mut self, ctx: &Context) -> Result<(), StepError> {
        ctx.until(tokio::time::sleep(self.next)).await?;
        self.next = (self.next * 3 / 2).min(LONGEST);
        Ok(())
    }
}
