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
use super::table::{Batch, PARTS, Target, column_epoch};
use super::{Site, tally::Tally};
use crate::clock::wall_ms;
use crate::ddb::{Call, Error, Tag, Value};
use crate::probe::{Account, Lease, words};

/// Groups of rows are planned and acknowledgements made durable this often: four syncs a second.
const GROUP: Duration = Duration::from_millis(250);
/// The shortest time between two batches.
const BEAT: Duration = Duration::from_millis(20);
/// Rows of one batch at most; after a pause the writer does not try to catch up with more.
const BATCH_MAX: u64 = 1000;
/// Figures go into the journal every so many groups.
const FIGURES_EVERY: u32 = 20;
/// A new partition this often.
const FRESH_EVERY: Duration = Duration::from_secs(10);
/// Partitions made lately that are still written.
const FRESH_KEPT: usize = 4;
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

/// Which partition a batch goes to.
#[derive(Debug)]
struct Parts {
    base: u32,
    turn: u32,
    fresh: Vec<u32>,
    last_fresh: Instant,
    own: bool,
}

impl Parts {
    fn new(base: u32, own: bool) -> Self {
        Self { base, turn: 0, fresh: Vec::new(), last_fresh: Instant::now(), own }
    }

    /// The next partition in turn; now and then one that is new.
    fn next(&mut self) -> u32 {
        if self.own && self.last_fresh.elapsed() >= FRESH_EVERY {
            self.last_fresh = Instant::now();
            let slot = wall_ms() / u64::try_from(FRESH_EVERY.as_millis()).unwrap_or(1);
            let room = u64::from(PARTS.saturating_sub(self.base).max(1));
            let part = self.base + u32::try_from(slot % room).unwrap_or(0);
            if self.fresh.len() >= FRESH_KEPT {
                self.fresh.remove(0);
            }
            self.fresh.push(part);
            return part;
        }
        self.turn = self.turn.wrapping_add(1);
        let all = self.base + u32::try_from(self.fresh.len()).unwrap_or(0);
        let at = self.turn % all.max(1);
        let fresh = at.checked_sub(self.base).and_then(|at| self.fresh.get(at as usize).copied());
        fresh.unwrap_or(at)
    }

    /// Another one after a refusal: a new partition needs as many data nodes as there are replicas,
    /// and there may be too few just now.
    fn instead_of(&mut self, refused: u32) -> u32 {
        self.fresh.retain(|part| *part != refused);
        self.next()
    }
}

/// When the next rows are due. Rows that were missed while a node was slow are made up for; those of
/// more than a second are not.
#[derive(Debug)]
struct Pace {
    rate: u64,
    began: Instant,
    taken: u64,
    last: Instant,
}

impl Pace {
    fn new(rows_per_second: u32) -> Self {
        let now = Instant::now();
        Self { rate: u64::from(rows_per_second.max(1)), began: now, taken: 0, last: now }
    }

    /// When the next batch may be sent.
    fn next(&self) -> Instant {
        let due = self.began + Duration::from_micros(self.taken * 1_000_000 / self.rate);
        due.max(self.last + BEAT)
    }

    /// Takes what is due now: one row at least.
    fn take(&mut self) -> u64 {
        self.last = Instant::now();
        let due = millis(self.began.elapsed()).saturating_mul(self.rate) / 1000 + 1;
        let arrears = due.saturating_sub(self.taken);
        if arrears > self.rate {
            // Begun anew, with a second's worth.
            self.began = self.last;
            self.taken = 0;
            return self.rate.clamp(1, BATCH_MAX);
        }
        let rows = arrears.clamp(1, BATCH_MAX);
        self.taken += rows;
        rows
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
            self.parts.base = data.saturating_mul(4).clamp(8, 200);
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

    #[test]
    fn the_pace_is_kept_whatever_the_batches_take() {
        let at = |ms: u64| Instant::now().checked_sub(Duration::from_millis(ms)).unwrap();
        let mut pace = Pace::new(50);
        assert_eq!(pace.take(), 1);
        pace.began = at(200);
        // Eleven are due after 200 ms, one was taken.
        assert_eq!(pace.take(), 10);
        assert_eq!(pace.taken, 11);
        assert!(pace.next() <= Instant::now() + BEAT);
        pace.began = at(60_000);
        assert_eq!(pace.take(), 50, "an outage is not made up for");
        assert_eq!(pace.take(), 1);
        let mut slow = Pace::new(1);
        assert_eq!(slow.take(), 1);
        assert!(slow.next() > Instant::now() + Duration::from_millis(900));
    }

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

    #[test]
    fn partitions_take_turns_and_a_refused_new_one_is_left() {
        let mut parts = Parts::new(8, true);
        let seen: std::collections::BTreeSet<u32> = (0..16).map(|_| parts.next()).collect();
        assert_eq!(seen, (0..8).collect());
        parts.last_fresh = Instant::now().checked_sub(FRESH_EVERY).unwrap();
        let fresh = parts.next();
        assert!((8..PARTS).contains(&fresh));
        let seen: std::collections::BTreeSet<u32> = (0..9).map(|_| parts.next()).collect();
        assert!(seen.contains(&fresh));
        assert!((0..20).all(|_| parts.instead_of(fresh) < 8));
    }
}
