//! The canary's orders: what the ledger says is to be written, stopped and read back here.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use grayfin_agent_core::{Body, state::CanaryTask};
use grayfin_proto::{document, v1};
use grayfin_types::{ClusterId, OrderNumber, plan::CanaryOrder, status::CanaryStatus};

use super::{Link, ports::Canary};
use crate::{ledger, runner::trust};

/// Reports to orders are kept, and made again after a restart, for this many orders of a cluster:
/// the coordinator has a stop and a check outstanding at most, each perhaps repeated once.
const OWED_MAX: usize = 4;

/// Carries out the canary's orders of all installations.
#[derive(Debug)]
pub struct CanaryLoop<C> {
    canary: Arc<C>,
    link: Arc<Link>,
    /// The writer's order that was started in this life.
    started: BTreeMap<ClusterId, OrderNumber>,
}

/// The next thing to do.
enum Next {
    Start(ClusterId, OrderNumber, CanaryOrder),
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
        let trust = self.link.trust();
        if self.next().is_some() {
            trust::settled(&trust).await;
        }
        loop {
            changed.borrow_and_update();
            trust::not_amnesic(&trust).await;
            let Some(next) = self.next() else {
                if changed.changed().await.is_err() {
                    return Ok(());
                }
                continue;
            };
            match next {
                Next::Start(cluster, number, order) => {
                    self.canary.start(&cluster, &order).await;
                    self.started.insert(cluster, number);
                }
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
                    && self.started.get(cluster) != Some(number)
                {
                    return Some(Next::Start(cluster.clone(), *number, order.clone()));
                }
            }
            None
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
