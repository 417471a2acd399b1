//! Looks for the coordinator: side by side, each kind at most once at a time, each with a limit.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use grayfin_agent_core::entry::{Order, Task};
use grayfin_proto::{document, v1};
use grayfin_types::{ClusterId, Generation, OrderNumber};
use tokio::sync::mpsc;

use super::{
    orders::Done,
    ports::{ClusterAsk, HostAsk, Look, standing},
};
use crate::ledger::Ledger;

/// A look that takes longer says nothing any more: facts older than 15 s hold by default.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// Hashing and reading through a package of a few hundred megabytes, and weighing a backup of some
/// hundred thousand files, on a slow disk.
const PACKAGE_MAX: Duration = Duration::from_secs(900);

/// Every DolphinDB controller is asked once, each within its own limit.
const EFFECT_MAX: Duration = Duration::from_secs(60);

/// What a look is about. Each kind and cluster has a place of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    /// This host.
    Host,
    /// The whole cluster, with a chunk scan or without.
    Cluster { chunks: bool },
    /// This host, with the package of this version and the backup's weight.
    Package { version: String },
}

impl Ask {
    const fn kind(&self) -> u8 {
        match self {
            Self::Host => 0,
            Self::Cluster { .. } => 1,
            Self::Package { .. } => 2,
        }
    }

    /// Joins a newer wish with one that waits.
    fn and(self, waiting: Option<Self>) -> Self {
        match (self, waiting) {
            (Self::Cluster { chunks }, Some(Self::Cluster { chunks: before })) => {
                Self::Cluster { chunks: chunks || before }
            }
            (newer, Some(_) | None) => newer,
        }
    }
}

/// Places of looks: there if one runs, with what is wanted after it.
type Places = BTreeMap<(ClusterId, u8), Option<Ask>>;

/// Runs looks.
pub(super) struct Looks<L> {
    pub(super) look: Arc<L>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) generation: Generation,
    pub(super) boot_id: String,
    pub(super) results: mpsc::Sender<v1::from_host::Message>,
    pub(super) count: AtomicU64,
    pub(super) places: Mutex<Places>,
    /// Outcomes of orders about cluster-wide effects.
    pub(super) done: mpsc::Sender<Done>,
    /// Those that are being carried out.
    pub(super) busy: Mutex<BTreeSet<(ClusterId, OrderNumber)>>,
}

impl<L: Look> Looks<L> {
    /// Looks now, or after the look that runs.
    pub(super) fn ask(self: &Arc<Self>, cluster: &ClusterId, ask: Ask) {
        let place = (cluster.clone(), ask.kind());
        {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(waiting) = places.get_mut(&place) {
                *waiting = Some(ask.and(waiting.take()));
                return;
            }
            places.insert(place.clone(), None);
        }
        let looks = Arc::clone(self);
        tokio::spawn(async move {
            let _free = Free { looks: &looks, place: &place };
            let mut ask = Some(ask);
            while let Some(now) = ask.take() {
                looks.one(&place.0, now).await;
                let mut places = looks.places.lock().unwrap_or_else(PoisonError::into_inner);
                ask = places.get_mut(&place).and_then(Option::take);
                if ask.is_none() {
                    places.remove(&place);
                }
            }
        });
    }

    /// Carries an order about a cluster-wide effect out, beside everything else; one that comes again
    /// meanwhile is not begun twice.
    pub(super) fn carry_out(self: &Arc<Self>, order: Order) {
        let key = (order.cluster.clone(), order.number);
        let busy = || self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let Task::Debt { debt, .. } = order.task.clone() else { return };
        if !busy().insert(key.clone()) {
            return;
        }
        let looks = Arc::clone(self);
        tokio::spawn(async move {
            let doing = looks.look.effect(&order.cluster, &debt);
            let outcome = tokio::time::timeout(EFFECT_MAX, doing).await;
            let outcome = outcome
                .unwrap_or_else(|_| Err(format!("it took longer than {} s", EFFECT_MAX.as_secs())));
            looks.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            drop(looks.done.send(Done { order, outcome }).await);
        });
    }

    async fn one(&self, cluster: &ClusterId, ask: Ask) {
        let look = self.count.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let host = |package_version| HostAsk {
            cluster: cluster.clone(),
            boot_id: self.boot_id.clone(),
            look,
            standing: standing(&self.ledger, self.generation),
            package_version,
        };
        use v1::from_host::Message::{ClusterFacts, HostFacts};
        let found = match ask {
            Ask::Host => {
                let facts = tokio::time::timeout(LOOK_MAX, self.look.host_facts(host(None))).await;
                facts.map(|facts| HostFacts(document::wrap(&facts)))
            }
            Ask::Package { version } => {
                let looking = self.look.host_facts(host(Some(version)));
                let facts = tokio::time::timeout(PACKAGE_MAX, looking).await;
                facts.map(|facts| HostFacts(document::wrap(&facts)))
            }
            Ask::Cluster { chunks } => {
                let ask = ClusterAsk { cluster: cluster.clone(), look, chunks };
                let facts = tokio::time::timeout(LOOK_MAX, self.look.cluster_facts(ask)).await;
                facts.map(|facts| ClusterFacts(document::wrap(&facts)))
            }
        };
        match found {
            // Without a session there is nobody to tell, and the next look is fresher anyway.
            Ok(message) => drop(self.results.try_send(message)),
            Err(_) => tracing::warn!(%cluster, "a look took too long and is given up"),
        }
    }
}

/// Frees the place of a look that ended in a panic, too.
struct Free<'a, L> {
    looks: &'a Looks<L>,
    place: &'a (ClusterId, u8),
}

impl<L> Drop for Free<'_, L> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut places = self.looks.places.lock().unwrap_or_else(PoisonError::into_inner);
            places.remove(self.place);
        }
    }
}
