//! The writer: sends rows at an even pace, to one data node at a time, and moves on when that one
//! fails. What may be sent is durable before it is sent.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use grayfin_types::{
    NodeAlias,
    facts::{NodeRole, NodeSpec},
    status::CanaryStatus,
};
use tokio::sync::{Notify, watch};

use super::journal::{Entry, Journal, Told};
use super::schedule::{Pace, Parts};
use super::table::{Batch, Target, column_epoch};
use super::{Site, tally::Tally};
use crate::ddb::{Call, Error, Tag, Value};
use crate::probe::{Account, Lease, words};
use grayfin_proto::clock::wall_ms;

/// Groups of rows are planned and acknowledgements made durable this often: four syncs a second.
const GROUP: Duration = Duration::from_millis(250);
/// Figures go into the journal every so many groups.
const FIGURES_EVERY: u32 = 20;
/// Who the data nodes are is looked up this often while the writer looks for one that takes rows.
const LIST_AGE_MAX: Duration = Duration::from_secs(1);
/// A node that cost a deadline is not tried for this long while there are others.
const SLOW_FOR: Duration = Duration::from_secs(10);
/// Between two rounds over all nodes, and after a refusal.
const PAUSE: Duration = Duration::from_millis(100);
/// Refusals in a row before another node is tried.
const REFUSALS_MAX: u32 = 3;
/// How often the writer looks whether it was held up itself.
const PULSE: Duration = Duration::from_millis(50);
/// Being later than this is an outage of the writer, not of the cluster.
const LATE: Duration = Duration::from_millis(250);
/// Without an acknowledgement for this long the writer is said to have failed.
const FAILED_AFTER: Duration = Duration::from_secs(10);

/// What the writer shows to others.
#[derive(Debug)]
pub(super) struct Shown {
    state: Mutex<State>,
    /// Milliseconds in all that the writer itself was held up.
    stalled_ms: AtomicU64,
    /// The first row was acknowledged, or the first after a problem: somebody waits for it.
    pub(super) news: Notify,
}

#[derive(Debug)]
struct State {
    tally: Tally,
    /// The last acknowledgement, and how much the writer had been held up by then.
    last_ack: Option<(Instant, u64)>,
    /// Rows under way, or surely not taken: their outcome is not unknown.
    in_flight: u64,
    /// Why it does not get on; cleared by the next acknowledgement.
    problem: Option<String>,
    started: Instant,
    /// It has ended by itself and will not go on.
    broken: bool,
}

impl Shown {
    fn new(told: &Told) -> Self {
        let mut tally = told.tally.clone();
        if told.last_ms > 0 && !told.ended {
            // It was cut off: from the last sign of life to now nobody wrote.
            tally.outage(wall_ms().saturating_sub(told.last_ms));
        }
        let resumed = tally.acked.count() > 0;
        let last_ack = resumed.then(|| (Instant::now(), 0));
        let started = Instant::now();
        let state = State { tally, last_ack, in_flight: 0, problem: None, started, broken: false };
        Self { state: Mutex::new(state), stalled_ms: AtomicU64::new(0), news: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time since the last acknowledgement, without the writer's own outages.
    fn gap_ms(&self, state: &State) -> Option<u64> {
        let (at, stalled) = state.last_ack?;
        let own = self.stalled_ms.load(Ordering::Relaxed).saturating_sub(stalled);
        Some(millis(at.elapsed()).saturating_sub(own))
    }

    /// How it stands now.
    pub(super) fn status(&self) -> CanaryStatus {
        let state = self.state();
        let mut tally = state.tally.clone();
        let gap = self.gap_ms(&state);
        tally.gap(gap.unwrap_or(0));
        let quiet = state.last_ack.map_or(state.started, |(at, _)| at).elapsed();
        let word = if state.broken || quiet > FAILED_AFTER {
            "failed"
        } else if state.last_ack.is_none() {
            "starting"
        } else {
            "writing"
        };
        let status = tally.status(word);
        let unknown = status.unknown.saturating_sub(state.in_flight);
        CanaryStatus { unknown, problem: state.problem.clone(), ..status }
    }

    /// What has been acknowledged so far.
    pub(super) fn tally(&self) -> Tally {
        self.state().tally.clone()
    }

    fn problem(&self, why: String) {
        self.state().problem = Some(why);
    }

    /// Ends for good.
    fn broken(&self, why: String) {
        tracing::error!(reason = %why, "the canary's writer cannot go on");
        let mut state = self.state();
        state.broken = true;
        state.problem = Some(why);
    }

    fn acknowledged(&self, batch: &Batch, took: Duration) {
        let stalled = self.stalled_ms.load(Ordering::Relaxed);
        let mut state = self.state();
        let gap = self.gap_ms(&state);
        state.tally.acknowledged(batch.from, batch.to, millis(took), gap);
        if state.last_ack.is_none() || state.problem.is_some() {
            self.news.notify_one();
        }
        state.last_ack = Some((Instant::now(), stalled));
        state.in_flight = 0;
        state.problem = None;
    }
}

/// Notices when this very process was held up: stopped, starved, or its machine asleep.
pub(super) async fn pulse(shown: Arc<Shown>) {
    loop {
        let began = Instant::now();
        tokio::time::sleep(PULSE).await;
        let late = began.elapsed().saturating_sub(PULSE);
        if late > LATE {
            shown.stalled_ms.fetch_add(millis(late), Ordering::Relaxed);
            shown.state().tally.outage(millis(late));
        }
    }
}

/// How a connection ended.
enum Left {
    Stopped,
    /// Another node is to be tried.
    Node(String),
    /// The journal cannot be written.
    Journal(String),
}

/// The writer of one epoch.
pub(super) struct Writer {
    pub(super) site: Arc<Site>,
    pub(super) target: Target,
    pub(super) shown: Arc<Shown>,
    pub(super) stop: watch::Receiver<bool>,
    journal: Arc<Mutex<Journal>>,
    epoch: i64,
    next_seq: u64,
    planned: u64,
    /// Acknowledged, not yet in the journal.
    acked: super::ranges::Ranges,
    last_group: Instant,
    groups: u32,
    parts: Parts,
    pace: Pace,
    pending: Option<(Batch, bool)>,
}

impl Writer {
    pub(super) fn new(
        site: Arc<Site>,
        target: Target,
        journal: Journal,
        told: &Told,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let epoch = column_epoch(&told.order.rollout, told.order.epoch);
        let planned = told.tally.planned;
        Self {
            parts: Parts::new(8, target.own),
            pace: Pace::new(target.rows_per_second),
            site,
            shown: Arc::new(Shown::new(told)),
            stop,
            journal: Arc::new(Mutex::new(journal)),
            epoch,
            // Numbers that may have been sent are never used again.
            next_seq: planned,
            planned,
            acked: super::ranges::Ranges::default(),
            last_group: Instant::now(),
            groups: 0,
            pending: None,
            target,
        }
    }

    /// Writes until it is stopped, or until its journal cannot be written.
    pub(super) async fn run(mut self) {
        let mut turn = 0_usize;
        let mut failures = 0_usize;
        // Nodes that cost a deadline lately: the others first.
        let mut slow: BTreeMap<NodeAlias, Instant> = BTreeMap::new();
        let mut listed: Option<(Instant, Vec<NodeSpec>)> = None;
        while !self.stopped() {
            let nodes = match &listed {
                Some((at, nodes)) if at.elapsed() < LIST_AGE_MAX => nodes.clone(),
                Some(_) | None => {
                    let nodes = self.nodes().await;
                    listed = Some((Instant::now(), nodes.clone()));
                    nodes
                }
            };
            if nodes.is_empty() {
                self.shown.problem("no data node is known to write to".to_owned());
                self.pause().await;
                continue;
            }
            let data = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
            // Four partitions per node: with two replicas each, a node without any chunk is one in
            // a million for three nodes.
            self.parts.spread(data.saturating_mul(4).clamp(8, 200));
            slow.retain(|_, since| since.elapsed() < SLOW_FOR);
            let in_turn = nodes.iter().cycle().skip(turn % nodes.len()).take(nodes.len());
            let quick = in_turn.clone().find(|node| !slow.contains_key(&node.alias));
            let Some(node) = quick.or_else(|| in_turn.clone().next()) else { continue };
            let (before, began) = (self.shown.tally().acked.count(), Instant::now());
            match self.write_to(node).await {
                Left::Stopped => break,
                Left::Journal(why) => {
                    self.shown.broken(why);
                    return;
                }
                Left::Node(why) => {
                    self.shown.problem(format!("`{}`: {why}", node.alias));
                    turn = nodes.iter().position(|n| n.alias == node.alias).map_or(0, |at| at + 1);
                    failures += 1;
                    if self.shown.tally().acked.count() > before {
                        failures = 0;
                    } else if began.elapsed() >= self.site.limits.connect {
                        slow.insert(node.alias.clone(), Instant::now());
                    }
                    if failures >= nodes.len() {
                        failures = 0;
                        self.pause().await;
                    }
                }
            }
        }
        self.settle();
        if let Err(why) = self.group(true).await {
            self.shown.broken(why);
        }
    }

    /// Counts in what was still open when it was stopped: the time since the last acknowledgement,
    /// and rows that were surely not taken.
    fn settle(&mut self) {
        let mut state = self.shown.state();
        let gap = self.shown.gap_ms(&state);
        state.tally.gap(gap.unwrap_or(0));
        state.in_flight = 0;
        if let Some((batch, false)) = self.pending.take() {
            state.tally.figures.refused += batch.rows();
        }
    }

    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits for a moment, or until it is stopped.
    async fn pause(&mut self) {
        // The sender lives as long as the writer's owner; without it the writer stops as well.
        drop(tokio::time::timeout(PAUSE, self.stop.wait_for(|stop| *stop)).await);
    }

    /// The data nodes to write to. Those of a held host are left out.
    async fn nodes(&self) -> Vec<NodeSpec> {
        let held = (self.site.held)();
        let own = if held { self.site.prober.own_nodes().await } else { vec![] };
        let all = self.site.prober.nodes().await;
        let kept = |spec: &NodeSpec| {
            spec.role == NodeRole::DataNode && !own.iter().any(|node| node.alias == spec.alias)
        };
        all.into_iter().filter(kept).collect()
    }

    /// Writes over one connection until something is wrong with it.
    async fn write_to(&mut self, node: &NodeSpec) -> Left {
        let site = Arc::clone(&self.site);
        let opened = site.prober.pool().open(node, Account::Operate, site.limits.connect).await;
        let mut lease = match opened {
            Ok(lease) => lease,
            Err(error) => return Left::Node(error.words()),
        };
        if let Err(why) = self.target.ensure(&mut lease, site.limits.insert).await {
            return Left::Node(why);
        }
        let mut refusals = 0;
        loop {
            if self.pending.is_none() {
                tokio::time::sleep_until(self.pace.next().into()).await;
            }
            if self.stopped() {
                return Left::Stopped;
            }
            let (batch, unknown) = match self.pending.take() {
                Some(pending) => pending,
                None => match self.next_batch().await {
                    Ok(batch) => (batch, false),
                    Err(why) => return Left::Journal(why),
                },
            };
            match self.insert(&mut lease, &batch, unknown).await {
                Ok(()) => refusals = 0,
                Err(error) if error.is_server() => {
                    let part = self.parts.instead_of(batch.part);
                    self.pending =
                        Some((Batch { part, attempt: batch.attempt + 1, ..batch }, unknown));
                    refusals += 1;
                    if refusals >= REFUSALS_MAX || turns_away(&error) {
                        return Left::Node(words(&error));
                    }
                    self.shown.problem(words(&error));
                    self.pause().await;
                }
                Err(error) => {
                    let maybe = unknown || error.outcome_unknown();
                    if maybe {
                        self.shown.state().in_flight = 0;
                    }
                    self.pending = Some((Batch { attempt: batch.attempt + 1, ..batch }, maybe));
                    return Left::Node(words(&error));
                }
            }
        }
    }

    /// Takes the next rows: as many as the pace asks for since the last ones.
    async fn next_batch(&mut self) -> Result<Batch, String> {
        let rows = self.pace.take();
        if self.next_seq + rows > self.planned || self.last_group.elapsed() >= GROUP {
            // Half a second ahead: a group is due twice in that time.
            let ahead = u64::from(self.target.rows_per_second) / 2;
            self.planned = self.planned.max(self.next_seq + rows + ahead);
            self.group(false).await?;
        }
        let from = self.next_seq;
        self.next_seq += rows;
        Ok(Batch { from, to: from + rows, part: self.parts.next(), attempt: 1 })
    }

    /// Sends a batch and waits for its outcome.
    async fn insert(
        &mut self,
        lease: &mut Lease<'_>,
        batch: &Batch,
        unknown: bool,
    ) -> Result<(), Error> {
        {
            let mut state = self.shown.state();
            state.tally.sending(batch.rows(), batch.attempt == 1, unknown);
            state.in_flight = if unknown { 0 } else { batch.rows() };
        }
        let call = Call::plain(self.site.limits.insert);
        let rows = Value::Table(batch.table(self.epoch, wall_ms()));
        let began = Instant::now();
        let answer = lease.function(&self.target.insert_function(), &[rows], &call).await?;
        let taken = answer.integer().and_then(|count| u64::try_from(count).ok());
        if taken.is_some_and(|count| count < batch.rows()) {
            // Rows outside the declared partitions are dropped by default.
            return Err(Error::Server {
                endpoint: crate::ddb::Endpoint::new("the data node", 0),
                text: format!(
                    "only {} of {} rows were taken: the table has no partition for `part` {}",
                    taken.unwrap_or(0),
                    batch.rows(),
                    batch.part
                ),
                tag: None,
            });
        }
        self.shown.acknowledged(batch, began.elapsed());
        self.acked.add(batch.from, batch.to);
        Ok(())
    }

    /// Makes durable what may be sent and what was acknowledged.
    async fn group(&mut self, ended: bool) -> Result<(), String> {
        self.groups = self.groups.wrapping_add(1);
        let full = ended || self.groups.is_multiple_of(FIGURES_EVERY);
        let figures = full.then(|| self.shown.tally().figures);
        let acked = std::mem::take(&mut self.acked).iter().collect();
        let (at_ms, planned) = (wall_ms(), self.planned);
        let entry = Entry::Group { at_ms, planned, acked, figures, ended };
        let journal = Arc::clone(&self.journal);
        let written = tokio::task::spawn_blocking(move || {
            journal.lock().unwrap_or_else(PoisonError::into_inner).append(&entry)
        });
        self.last_group = Instant::now();
        match written.await {
            Ok(Ok(())) => {
                self.shown.state().tally.planned = planned;
                Ok(())
            }
            Ok(Err(error)) => Err(words(&error)),
            Err(error) => Err(format!("write the canary's journal: {error}")),
        }
    }
}

/// The node itself cannot take rows now; another one may.
const fn turns_away(error: &Error) -> bool {
    matches!(
        error.tag(),
        Some(
            Tag::NotLeader { .. }
                | Tag::DataNodeNotAvail
                | Tag::DataNodeNotReady
                | Tag::ControllerNotReady
                | Tag::ControllerNotAvail
        )
    )
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_first_row_and_the_first_after_a_problem_are_news() {
        let dir = tempfile::tempdir().unwrap();
        let spec = grayfin_types::plan::CanarySpec::New { rows_per_second: 50 };
        let order = grayfin_types::plan::CanaryOrder {
            rollout: grayfin_types::RolloutId::new("r1").unwrap(),
            epoch: 1,
            spec,
        };
        let (_, told) = Journal::open(&dir.path().join("j"), &order).unwrap();
        let shown = Shown::new(&told);
        let news = async || tokio::time::timeout(Duration::ZERO, shown.news.notified()).await;
        let row =
            |from| shown.acknowledged(&Batch { from, to: from + 1, part: 0, attempt: 1 }, PULSE);
        assert!(news().await.is_err());
        row(0);
        assert!(news().await.is_ok());
        row(1);
        assert!(news().await.is_err());
        shown.problem("for a moment".to_owned());
        row(2);
        assert!(news().await.is_ok());
    }
}
