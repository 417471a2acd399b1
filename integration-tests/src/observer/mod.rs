//! An observer of a lab that asks Grayfin nothing.
//!
//! It samples the processes and ports of every node, from outside all hosts, every 30 ms, and now and
//! then asks the controllers who leads. What it saw is a [`Report`], which answers whether ever two
//! hosts of a cluster were disturbed at once.

mod identify;
mod leaders;
mod report;
mod sample;

use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::watch;

pub use identify::{Watched, processes_of};
pub use report::{LeaderChange, LeaderSeen, NodeRecord, Overlap, ProcessSeen, Report, Span};

use crate::topology::Cluster;
use crate::wait;

/// Between two samples: under the 50 ms that are promised, with room for a busy machine.
const SAMPLE_EVERY: Duration = Duration::from_millis(30);
/// Between two questions about the leader: an election takes 0.8 s at the lab's time scale.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// For the first look, which takes some milliseconds.
const FIRST_LOOK_LIMIT: Duration = Duration::from_secs(10);

/// What the threads share.
type Shared = Arc<Mutex<Report>>;

/// A running observer.
#[derive(Debug)]
pub struct Observer {
    report: Shared,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Observer {
    /// Starts to look; returns after the first look, so that nothing from now on is missed.
    pub fn start(watched: Vec<Watched>, clusters: Vec<Cluster>) -> anyhow::Result<Self> {
        let report = Arc::new(Mutex::new(Report::new(&watched)));
        let (stop, stopped) = watch::channel(false);
        let mut observer = Self { report, stop, threads: Vec::new() };
        let shared = observer.report.clone();
        let ends = stopped.clone();
        observer.spawn("observer", move || sample::run(&watched, &shared, &ends))?;
        let shared = observer.report.clone();
        observer.spawn("observer-leaders", move || leaders::run(clusters, &shared, stopped))?;
        let started = Instant::now();
        while locked(&observer.report).samples == 0 {
            anyhow::ensure!(started.elapsed() < FIRST_LOOK_LIMIT, "the observer does not look");
            wait::pause_thread(Duration::from_millis(1));
        }
        Ok(observer)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned());
        self.threads.push(thread.spawn(work).context("start an observer thread")?);
        Ok(())
    }

    /// What was seen until now.
    pub fn report(&self) -> Report {
        locked(&self.report).clone()
    }

    /// Stops after one more look and returns what was seen.
    pub fn stop(mut self) -> Report {
        self.end();
        self.report()
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("an observer thread panicked");
            }
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.end();
    }
}

/// Takes the report even if a thread panicked with it: what it holds is still true.
fn locked(report: &Shared) -> MutexGuard<'_, Report> {
    match report.lock() {
        Ok(report) => report,
        Err(poisoned) => poisoned.into_inner(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_looks_often_enough_even_with_nothing_to_see() {
        let observer = Observer::start(Vec::new(), Vec::new()).unwrap();
        wait::until_true("a second of looking", Duration::from_secs(60), || async {
            observer.report().last_sample_ms > 1_000
        })
        .await
        .unwrap();
        let report = observer.stop();
        let mean = report.last_sample_ms / report.samples.max(1);
        assert!(mean <= 50, "{mean} ms between two looks");
    }
}
