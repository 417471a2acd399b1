//! Who leads, asked rarely and of every controller.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use standin::config::Role;
use tokio::sync::watch;

use super::{ASK_EVERY, Shared, locked};
use crate::ddb::Ddb;
use crate::topology::Cluster;

/// A controller that does not answer in this time has no vote this time.
const ANSWER_LIMIT: Duration = Duration::from_millis(400);

/// Asks until told to stop.
pub(super) fn run(clusters: Vec<Cluster>, report: &Shared, mut stop: watch::Receiver<bool>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the observer cannot ask for leaders");
            return;
        }
    };
    let started = Instant::now();
    runtime.block_on(async {
        while !*stop.borrow() {
            for cluster in &clusters {
                let leader = named_by_majority(cluster).await;
                let at = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                if let Some(leader) = leader {
                    locked(report).add_leader(at, &cluster.name, &leader);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(ASK_EVERY) => {}
                _ = stop.changed() => {}
            }
        }
    });
}

/// The leader that a majority of all configured controllers name.
async fn named_by_majority(cluster: &Cluster) -> Option<String> {
    let mut questions = tokio::task::JoinSet::new();
    let mut count = 0;
    for controller in cluster.with_role(Role::Controller) {
        count += 1;
        let client = Ddb::at(controller.site.address()).as_guest().within(ANSWER_LIMIT);
        questions.spawn(async move { client.text("getActiveMaster()").await.ok() });
    }
    let mut votes: BTreeMap<String, usize> = BTreeMap::new();
    while let Some(answer) = questions.join_next().await {
        if let Ok(Some(name)) = answer {
            *votes.entry(name).or_default() += 1;
        }
    }
    votes.into_iter().find(|(name, votes)| !name.is_empty() && votes * 2 > count).map(|it| it.0)
}
