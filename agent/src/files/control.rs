//! Stopping, watching and slowing down work with files.

use std::{
    fmt,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::Error;

/// How long a paced wait lasts before it is looked whether to stop.
const PIECE: Duration = Duration::from_millis(50);

/// A flag that asks blocking work to stop, and wakes it where it waits.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Asks to stop. It cannot be taken back.
    pub fn request(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Tells whether somebody asked.
    pub fn is_requested(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for this long or until somebody asks; returns whether somebody did.
    pub fn wait(&self, time: Duration) -> bool {
        let flag = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (flag, _) = self
            .0
            .1
            .wait_timeout_while(flag, time, |asked| !*asked)
            .unwrap_or_else(PoisonError::into_inner);
        *flag
    }
}

/// What accompanies a long piece of work: the stop flag, who wants to see progress, and how many
/// bytes a second it may move.
#[derive(Default)]
pub struct Control {
    stop: Stop,
    done: AtomicU64,
    must_stop: Option<Box<dyn Fn() -> bool + Send + Sync>>,
    watcher: Option<Box<dyn Fn(u64) + Send + Sync>>,
    pace: Option<Pace>,
}

struct Pace {
    bytes_per_second: u64,
    /// When the bytes that were moved so far are paid for.
    paid_until: Mutex<Option<Instant>>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("stop", &self.stop).finish_non_exhaustive()
    }
}

impl Control {
    /// Makes one with a stop flag that somebody else holds too.
    pub fn new(stop: Stop) -> Self {
        Self { stop, ..Self::default() }
    }

    /// Also asks `must_stop`, before and after each block.
    #[must_use]
    pub fn stopped_by(mut self, must_stop: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.must_stop = Some(Box::new(must_stop));
        self
    }

    /// Calls `watcher` with the bytes moved so far, after each block.
    #[must_use]
    pub fn watched(mut self, watcher: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.watcher = Some(Box::new(watcher));
        self
    }

    /// Limits the bytes per second, for work beside nodes that still serve.
    #[must_use]
    pub fn paced(mut self, bytes_per_second: u64) -> Self {
        self.pace =
            (bytes_per_second > 0).then(|| Pace { bytes_per_second, paid_until: Mutex::new(None) });
        self
    }

    /// Fails if somebody asked to stop.
    pub fn check(&self) -> Result<(), Error> {
        let told = self.must_stop.as_ref().is_some_and(|must_stop| must_stop());
        if told || self.stop.is_requested() { Err(Error::Stopped) } else { Ok(()) }
    }

    /// Counts bytes that were moved, waits as the pace demands, and fails if asked to stop.
    pub fn advance(&self, bytes: u64) -> Result<(), Error> {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(watcher) = &self.watcher {
            watcher(done);
        }
        if let Some(pace) = &self.pace {
            let mut wait = pace.wait_for(bytes);
            while !wait.is_zero() {
                let piece = wait.min(PIECE);
                if self.stop.wait(piece) {
                    return Err(Error::Stopped);
                }
                self.check()?;
                wait -= piece;
            }
        }
        self.check()
    }
}

impl Pace {
    fn wait_for(&self, bytes: u64) -> Duration {
        let now = Instant::now();
        let mut paid = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let from = paid.map_or(now, |until| until.max(now));
        let until = from + cost;
        *paid = Some(until);
        until.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_makes_bytes_cost_time_and_a_stop_ends_the_wait() {
        let control = Control::default().paced(1 << 20);
        let begin = Instant::now();
        control.advance(1 << 16).unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(60));

        let stop = Stop::default();
        let control = Control::new(stop.clone()).paced(1);
        let waiter = std::thread::spawn(move || control.advance(1_000_000));
        stop.request();
        assert!(matches!(waiter.join().unwrap(), Err(Error::Stopped)));
    }
}
