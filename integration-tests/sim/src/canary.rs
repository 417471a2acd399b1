//! The canary's writer of one host, and what it reads back.

use std::collections::BTreeMap;

use grayfin_coordinator_core::cmd::CanaryReported;
use grayfin_types::{OrderNumber, RolloutId, plan::CanaryOrder, status::CanaryStatus};

use crate::cluster::Cluster;

/// What one host wrote: chunk and version of each acknowledged row.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    /// The order under which it writes now, in this life.
    pub runs: Option<OrderNumber>,
    /// What it writes.
    pub order: Option<CanaryOrder>,
    /// Acknowledged rows by rollout; on disk.
    rows: BTreeMap<RolloutId, Vec<(usize, u64)>>,
    /// Reports to orders, kept while the process lives.
    pub answered: BTreeMap<OrderNumber, CanaryReported>,
    /// How many rows the last reading back accounted for, of how many.
    pub read: Option<(u64, u64)>,
    epoch_rows: u64,
}

impl Writer {
    /// Begins to write.
    pub fn start(&mut self, number: OrderNumber, order: &CanaryOrder) {
        self.runs = Some(number);
        self.order = Some(order.clone());
        self.epoch_rows = 0;
    }

    /// Stops writing.
    pub fn stop(&mut self) {
        self.runs = None;
        self.order = None;
        self.answered.clear();
    }

    /// Writes a row. Returns what to report.
    pub fn write(
        &mut self,
        cluster: &mut Cluster,
        chunk: usize,
    ) -> Option<(CanaryOrder, CanaryStatus)> {
        let order = self.order.clone()?;
        if cluster.write(chunk) {
            self.epoch_rows += 1;
            let row = (chunk, cluster.chunks[chunk].version);
            self.rows.entry(order.rollout.clone()).or_default().push(row);
        }
        let status = self.status(&order.rollout, cluster);
        Some((order, status))
    }

    /// Tells whether it has written anything for a rollout.
    pub fn wrote(&self, rollout: &RolloutId) -> bool {
        self.rows.get(rollout).is_some_and(|rows| rows.len() >= 3)
    }

    /// Says how far it is.
    pub fn status(&self, _: &RolloutId, _: &Cluster) -> CanaryStatus {
        CanaryStatus {
            state: "writing".to_owned(),
            sent: self.epoch_rows,
            acknowledged: self.epoch_rows,
            ..CanaryStatus::default()
        }
    }

    /// Reads every acknowledged row of a rollout back; `blind` where no node answers in time.
    pub fn check(&mut self, rollout: &RolloutId, cluster: &Cluster, blind: bool) -> CanaryStatus {
        let rows = self.rows.get(rollout).map_or(&[][..], Vec::as_slice);
        let readable = |(chunk, _): &&(usize, u64)| {
            !blind && cluster.leader.is_some() && cluster.readable(&cluster.chunks[*chunk], None)
        };
        let read = rows.iter().filter(readable).count() as u64;
        let lost = cluster.lost_rows.min(read);
        let all = rows.len() as u64;
        self.read = Some((read, all));
        CanaryStatus {
            state: "ended".to_owned(),
            sent: all,
            acknowledged: all,
            verified: read - lost,
            lost,
            ..CanaryStatus::default()
        }
    }
}
