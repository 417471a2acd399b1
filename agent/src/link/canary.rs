//! The canary's orders: what the ledger says is to be written, stopped and read back here.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use grayfin_agent_core::{Body, state::CanaryTask};
use grayfin_proto::{document, v1};
use grayfin_types::{ClusterId, OrderNumber, plan::CanaryOrder, status::CanaryStatus};

use super::{Link, ports::Canary};
use crate::{
    ledger,
    runner::{Trust, trust},
};

/// Reports to orders are kept, and made again after a restart, for this many orders of a cluster:
/// the coordinator has a stop and a check outstanding at most, each perhaps repeated once.
const OWED_MAX: usize = 4;

/// Carries out the canary's orders of all installations.
#[derive(Debug)]
pub struct CanaryLoop<C> {
    canary: Arc<C>,
    link: Arc<Link>,
    /// The writers' orders that were started in this life.
    started: BTreeMap<ClusterId, (OrderNumber, CanaryOrder)>,
}

/// The next thing to do.
enum Next {
    Start(ClusterId, OrderNumber, CanaryOrder),
    /// The ledger does not want this writer any more, and no order stopped it: the host was readmitted.
    End(ClusterId),
    Owed(ClusterId, OrderNumber, CanaryTask),
    Forget(ClusterId, OrderNumber),
}

impl<C: Canary> CanaryLoop<C> {
    /// Makes the loop.
    pub fn new(canary: Arc<C>, link: Arc<Link>) -> Self {
        Self { canary, link, started: BTreeMap::new() }
    }

    /// Runs until the ledger takes no more.
    pub async fn run(mut self) -> Result<(), ledger::Error> {
        let mut changed = self.link.ledger.watch();
        let mut trust = self.link.trust();
        if self.next().is_some() {
            trust::settled(&trust).await;
        }
        loop {
            changed.borrow_and_update();
            if *trust.borrow_and_update() == Trust::Amnesic {
                // What an old ledger says is not to be done, and not to be gone on with either.
                while let Some(cluster) = self.started.keys().next().cloned() {
                    self.end(&cluster).await;
                }
            }
            trust::not_amnesic(&trust).await;
            let Some(next) = self.next() else {
                let more = tokio::select! {
                    more = changed.changed() => more,
                    more = trust.changed() => more,
                };
                if more.is_err() {
                    return Ok(());
                }
                continue;
            };
            match next {
                Next::Start(cluster, number, order) => {
                    self.canary.start(&cluster, &order).await;
                    self.started.insert(cluster, (number, order));
                }
                Next::End(cluster) => self.end(&cluster).await,
                Next::Owed(cluster, number, task) => {
                    let (order, status) = match task {
                        CanaryTask::Stop(order) => {
                            self.started.remove(&cluster);
                            let status = self.canary.stop(&cluster, &order).await;
                            (order, status)
                        }
                        CanaryTask::Check(order) => {
                            let status = self.canary.check(&cluster, &order).await;
                            (order, status)
                        }
                    };
                    self.link.answer_canary(&cluster, number, &order, &status).await;
                }
                Next::Forget(cluster, number) => {
                    self.link.forget_canary(&cluster, number);
                    self.link.ledger.append(Body::CanaryAnswered { cluster, number })?;
                }
            }
        }
    }

    /// Ends a writer that nobody asks about.
    async fn end(&mut self, cluster: &ClusterId) {
        if let Some((_, order)) = self.started.remove(cluster) {
            tracing::warn!(%cluster, rollout = %order.rollout, epoch = order.epoch, "the canary's writer is of an old ledger: it ends");
            // Its journal stays: rows are read back from there if anybody asks.
            drop(self.canary.stop(cluster, &order).await);
        }
    }

    fn next(&self) -> Option<Next> {
        self.link.ledger.state(|state| {
            for (cluster, known) in &state.clusters {
                if known.canary_owed.len() > OWED_MAX
                    && let Some((number, _)) = known.canary_owed.first_key_value()
                {
                    return Some(Next::Forget(cluster.clone(), *number));
                }
                let owed = known.canary_owed.iter();
                for (number, task) in owed {
                    if !self.link.has_answered(cluster, *number) {
                        return Some(Next::Owed(cluster.clone(), *number, task.clone()));
                    }
                }
                if let Some((number, order)) = &known.canary
                    && self.started.get(cluster).map(|(started, _)| started) != Some(number)
                {
                    return Some(Next::Start(cluster.clone(), *number, order.clone()));
                }
            }
            let wanted = |cluster| state.cluster(cluster).is_some_and(|it| it.canary.is_some());
            let unwanted = self.started.keys().find(|cluster| !wanted(cluster));
            unwanted.map(|cluster| Next::End(cluster.clone()))
        })
    }
}

impl Link {
    /// Reports of canary orders, to be sent at the beginning of a session.
    pub(super) fn answered(&self) -> Vec<v1::CanaryReport> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.values().cloned().collect()
    }

    fn has_answered(&self, cluster: &ClusterId, number: OrderNumber) -> bool {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.contains_key(&(cluster.clone(), number.0))
    }

    fn forget_canary(&self, cluster: &ClusterId, number: OrderNumber) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.remove(&(cluster.clone(), number.0));
    }

    async fn answer_canary(
        &self,
        cluster: &ClusterId,
        number: OrderNumber,
        order: &CanaryOrder,
        status: &CanaryStatus,
    ) {
        let report = v1::CanaryReport {
            cluster: cluster.to_string(),
            rollout: order.rollout.to_string(),
            epoch: order.epoch,
            status: Some(document::wrap(status)),
            order: number.0,
        };
        {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.insert((cluster.clone(), number.0), report.clone());
        }
        // A full queue, or none to read it, is no loss: the next session begins with the answers.
        // With a session there is always room soon.
        if self.connected.borrow().is_some() {
            drop(self.canary.send(report).await);
        }
    }
}
