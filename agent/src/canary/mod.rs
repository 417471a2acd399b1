//! The canary: a writer that proves, row by row, that what the cluster acknowledged during a rollout
//! is still there (S11). It is a detector, not a promise on DolphinDB's behalf.
//!
//! - `writer` sends rows (epoch, sequence, attempt, part, sent) at an even pace; a row whose outcome
//!   is unknown is sent again with the next attempt, so it may be there twice, and that is counted
//!   apart.
//! - [`journal`] is its durable memory: it survives a restart of the host agent, and each host keeps
//!   the journals of the epochs that it wrote.
//! - `check` reads every acknowledged row back and tells verified, lost and repeated ones.
//! - [`tally`] keeps the figures; gaps of the cluster and outages of the writer are told apart.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use grayfin_proto::{document, v1};
use grayfin_types::{ClusterId, HostId, RolloutId, plan::CanaryOrder, status::CanaryStatus};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

mod check;
pub mod journal;
pub mod ranges;
mod schedule;
mod table;
pub mod tally;
mod writer;

#[cfg(test)]
mod tests;

use crate::link;
use crate::probe::Prober;
use journal::Journal;
use table::{Target, column_epoch};
use writer::{Shown, Writer, pulse};

/// Passing reports go this often: well below the age at which facts count as old.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// What journals are called.
const SUFFIX: &str = ".journal";

/// How long things may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// To connect and log in.
    pub connect: Duration,
    /// For one batch to be acknowledged. A transaction waits for a replica that has just died until
    /// the controller counts it as gone (8 s by default); longer than that a node is hung.
    pub insert: Duration,
    /// For one question of a check.
    pub read: Duration,
    /// For a check as a whole, while no data node answers.
    pub check: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            insert: Duration::from_secs(10),
            read: Duration::from_secs(30),
            // Below the minute after which the coordinator asks again.
            check: Duration::from_secs(45),
        }
    }
}

/// One cluster that can be written to.
pub struct Site {
    prober: Prober,
    limits: Limits,
    /// Tells whether this host is held now: its own nodes are not used then.
    held: Box<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("prober", &self.prober).finish_non_exhaustive()
    }
}

impl Site {
    /// Names a cluster. `held` tells whether this host is held at the moment.
    pub fn new(
        prober: Prober,
        limits: Limits,
        held: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { prober, limits, held: Box::new(held) }
    }
}

/// A writer that runs.
#[derive(Debug)]
struct Running {
    order: CanaryOrder,
    shown: Arc<Shown>,
    stop: watch::Sender<bool>,
    writer: JoinHandle<()>,
    /// Pulse and reports; they end with this.
    helpers: Vec<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for helper in &self.helpers {
            helper.abort();
        }
    }
}

/// The canaries of all clusters that this host has an installation of.
#[derive(Debug)]
pub struct Canaries {
    host: HostId,
    folder: PathBuf,
    sites: BTreeMap<ClusterId, Arc<Site>>,
    running: Mutex<BTreeMap<ClusterId, Running>>,
    reports: mpsc::Sender<v1::CanaryReport>,
}

impl Canaries {
    /// Makes them; nothing is written yet. Journals lie below `state_dir`; passing reports go to
    /// `reports`, and one that finds no room there is dropped.
    pub fn new(
        host: HostId,
        state_dir: &std::path::Path,
        sites: BTreeMap<ClusterId, Site>,
        reports: mpsc::Sender<v1::CanaryReport>,
    ) -> Self {
        let sites = sites.into_iter().map(|(cluster, site)| (cluster, Arc::new(site))).collect();
        let folder = state_dir.join("canary");
        Self { host, folder, sites, running: Mutex::default(), reports }
    }

    /// Starts the writer of an order, or goes on with it. Starting one that runs changes nothing;
    /// another one is stopped first.
    pub async fn start(&self, cluster: &ClusterId, order: &CanaryOrder) {
        let mut running = self.running.lock().await;
        if running.get(cluster).is_some_and(|run| run.order == *order) {
            return;
        }
        if let Some(other) = running.remove(cluster) {
            self.end(cluster, other).await;
        }
        match self.begin(cluster, order).await {
            Ok(Some(run)) => {
                running.insert(cluster.clone(), run);
            }
            Ok(None) => {}
            Err(why) => {
                tracing::error!(%cluster, rollout = %order.rollout, reason = %why, "the canary's writer could not start");
                let status = CanaryStatus {
                    state: "failed".to_owned(),
                    host: Some(self.host.clone()),
                    problem: Some(why),
                    ..CanaryStatus::default()
                };
                // The next order or the coordinator's patience deals with it if this is lost.
                drop(self.reports.try_send(report(cluster, order, &status)));
            }
        }
    }

    /// Stops the writer of an order and returns how it stands. Nothing is sent any more when this
    /// returns. The journal stays.
    pub async fn stop(&self, cluster: &ClusterId, order: &CanaryOrder) -> CanaryStatus {
        let run = {
            let mut running = self.running.lock().await;
            let same = running.get(cluster).is_some_and(|run| {
                (&run.order.rollout, run.order.epoch) == (&order.rollout, order.epoch)
            });
            same.then(|| running.remove(cluster)).flatten()
        };
        if let Some(run) = run {
            self.end(cluster, run).await;
        }
        self.kept(cluster, order)
    }

    /// Reads back all rows of the rollout that journals of this host call acknowledged, whether a
    /// writer runs or not.
    pub async fn check(&self, cluster: &ClusterId, order: &CanaryOrder) -> CanaryStatus {
        let mut sum = CanaryStatus { host: Some(self.host.clone()), ..CanaryStatus::default() };
        let Some(site) = self.sites.get(cluster) else {
            sum.problem = Some(format!("this host has no installation of `{cluster}`"));
            return sum;
        };
        let live = {
            let running = self.running.lock().await;
            let run = running.get(cluster).filter(|run| run.order.rollout == order.rollout);
            run.map(|run| (run.order.epoch, run.shown.tally(), run.shown.status()))
        };
        "ended".clone_into(&mut sum.state);
        let until = Instant::now() + site.limits.check;
        for path in self.journals(cluster, &order.rollout) {
            let told = match journal::read(&path) {
                Ok(Some(told)) => told,
                Ok(None) => continue,
                Err(error) => {
                    sum.problem = Some(crate::probe::words(&error));
                    continue;
                }
            };
            let (epoch, mut tally) = (told.order.epoch, told.tally);
            let mut status = tally.status("ended");
            if let Some((_, now, shown)) = live.as_ref().filter(|(running, ..)| *running == epoch) {
                (tally, status) = (now.clone(), shown.clone());
                sum.state.clone_from(&status.state);
            }
            status.problem = told.damage.or(status.problem);
            if let Ok(Some(target)) = Target::of(&told.order.spec) {
                let column = column_epoch(&told.order.rollout, epoch);
                let found = check::read_back(site, &target, epoch, column, &tally, until).await;
                found.into_status(&mut status);
                // A live writer may have been told of more rows since the tally was taken.
                status.acknowledged = tally.acked.count();
            }
            tally::add(&mut sum, &status);
        }
        sum
    }

    /// How the writer of a cluster stands, if one runs.
    pub async fn status(&self, cluster: &ClusterId) -> Option<(CanaryOrder, CanaryStatus)> {
        let running = self.running.lock().await;
        let run = running.get(cluster)?;
        let status = CanaryStatus { host: Some(self.host.clone()), ..run.shown.status() };
        Some((run.order.clone(), status))
    }

    async fn begin(
        &self,
        cluster: &ClusterId,
        order: &CanaryOrder,
    ) -> Result<Option<Running>, String> {
        let Some(target) = Target::of(&order.spec)? else { return Ok(None) };
        let site = self.sites.get(cluster);
        let site = site.ok_or_else(|| format!("this host has no installation of `{cluster}`"))?;
        let (path, wanted) = (self.journal(cluster, &order.rollout, order.epoch), order.clone());
        let opened = tokio::task::spawn_blocking(move || Journal::open(&path, &wanted)).await;
        let opened = opened.map_err(|error| format!("open the canary's journal: {error}"))?;
        let (journal, told) = opened.map_err(|error| crate::probe::words(&error))?;
        let (stop, stopping) = watch::channel(false);
        let writer = Writer::new(Arc::clone(site), target, journal, &told, stopping);
        let shown = Arc::clone(&writer.shown);
        let reporter = Reporter {
            cluster: cluster.clone(),
            order: order.clone(),
            host: self.host.clone(),
            shown: Arc::clone(&shown),
            reports: self.reports.clone(),
        };
        tracing::info!(%cluster, rollout = %order.rollout, epoch = order.epoch, "the canary's writer starts");
        Ok(Some(Running {
            order: order.clone(),
            stop,
            writer: tokio::spawn(writer.run()),
            helpers: vec![tokio::spawn(pulse(Arc::clone(&shown))), tokio::spawn(reporter.run())],
            shown,
        }))
    }

    /// Stops a writer and waits until nothing is on its way.
    async fn end(&self, cluster: &ClusterId, mut run: Running) {
        run.stop.send_replace(true);
        // A batch under way has its own deadline, so has everything else that the writer does.
        if (&mut run.writer).await.is_err() {
            tracing::error!(%cluster, "the canary's writer broke off");
        }
        tracing::info!(%cluster, rollout = %run.order.rollout, epoch = run.order.epoch, "the canary's writer stopped");
    }

    /// What the journal of an order says.
    fn kept(&self, cluster: &ClusterId, order: &CanaryOrder) -> CanaryStatus {
        let mut status = match journal::read(&self.journal(cluster, &order.rollout, order.epoch)) {
            Ok(Some(told)) => {
                CanaryStatus { problem: told.damage.clone(), ..told.tally.status("ended") }
            }
            Ok(None) => CanaryStatus { state: "ended".to_owned(), ..CanaryStatus::default() },
            Err(error) => CanaryStatus {
                state: "failed".to_owned(),
                problem: Some(crate::probe::words(&error)),
                ..CanaryStatus::default()
            },
        };
        status.host = Some(self.host.clone());
        status
    }

    fn journal(&self, cluster: &ClusterId, rollout: &RolloutId, epoch: u64) -> PathBuf {
        self.folder.join(cluster.as_str()).join(rollout.as_str()).join(format!("{epoch}{SUFFIX}"))
    }

    /// Every journal of a rollout, oldest epoch first.
    fn journals(&self, cluster: &ClusterId, rollout: &RolloutId) -> Vec<PathBuf> {
        let folder = self.folder.join(cluster.as_str()).join(rollout.as_str());
        let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
        let mut found: Vec<(u64, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                Some((name.strip_suffix(SUFFIX)?.parse().ok()?, entry.path()))
            })
            .collect();
        found.sort();
        found.into_iter().map(|(_, path)| path).collect()
    }
}

impl link::Canary for Canaries {
    async fn start(&self, cluster: &ClusterId, order: &CanaryOrder) {
        Self::start(self, cluster, order).await;
    }

    async fn stop(&self, cluster: &ClusterId, order: &CanaryOrder) -> CanaryStatus {
        Self::stop(self, cluster, order).await
    }

    async fn check(&self, cluster: &ClusterId, order: &CanaryOrder) -> CanaryStatus {
        Self::check(self, cluster, order).await
    }
}

/// Sends passing reports.
struct Reporter {
    cluster: ClusterId,
    order: CanaryOrder,
    host: HostId,
    shown: Arc<Shown>,
    reports: mpsc::Sender<v1::CanaryReport>,
}

impl Reporter {
    async fn run(self) {
        loop {
            let status = CanaryStatus { host: Some(self.host.clone()), ..self.shown.status() };
            // One that finds no room is no loss: the next one says more.
            drop(self.reports.try_send(report(&self.cluster, &self.order, &status)));
            // The next host is not held before a row was acknowledged: that is told at once.
            drop(tokio::time::timeout(REPORT_EVERY, self.shown.news.notified()).await);
        }
    }
}

fn report(cluster: &ClusterId, order: &CanaryOrder, status: &CanaryStatus) -> v1::CanaryReport {
    v1::CanaryReport {
        cluster: cluster.to_string(),
        rollout: order.rollout.to_string(),
        epoch: order.epoch,
        status: Some(document::wrap(status)),
        order: 0,
    }
}
