//! Waiting until the database is well.

use std::collections::BTreeSet;
use std::time::Duration;

use standin::config::Role;

use super::Lab;
use crate::ddb::Ddb;
use crate::topology::Cluster;
use crate::wait;

/// On a busy machine even quick things take a while.
const SLACK: Duration = Duration::from_secs(60);

impl Lab {
    /// A limit for something that takes `documented` on a real cluster.
    pub fn limit(&self, documented: Duration) -> Duration {
        documented.mul_f64(self.spec.options.time_scale.max(0.01)) + SLACK
    }

    /// Waits until every cluster is well: all nodes on line and of one mind about the leader, data
    /// nodes ready, every chunk complete.
    pub async fn wait_healthy(&self) -> anyhow::Result<()> {
        for cluster in &self.spec.topology.clusters {
            self.wait_cluster_healthy(cluster).await?;
        }
        Ok(())
    }

    /// The same for one cluster.
    pub async fn wait_cluster_healthy(&self, cluster: &Cluster) -> anyhow::Result<()> {
        // Two elections and a start: 16 s each at most.
        let limit = self.limit(Duration::from_secs(60));
        let what = format!("cluster `{}` to be healthy", cluster.name);
        wait::until(&what, limit, || async {
            self.look_healthy(cluster).await.map_err(|error| format!("{error:#}"))
        })
        .await
    }

    /// Waits until a majority of the controllers name one leader.
    pub async fn wait_leader(&self, cluster: &Cluster) -> anyhow::Result<String> {
        let limit = self.limit(Duration::from_secs(60));
        let what = format!("a leader of `{}`", cluster.name);
        wait::until(&what, limit, || async {
            let leader = self.leader(cluster).await.map_err(|error| format!("{error:#}"))?;
            Ok(leader.alias().to_owned())
        })
        .await
    }

    /// One look; the error says what is missing.
    async fn look_healthy(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let leader = Ddb::at(self.leader(cluster).await?.site.address());
        let online = leader.texts("exec name from getClusterPerf(true) where state = 1").await?;
        let online: BTreeSet<&str> = online.iter().map(String::as_str).collect();
        let missing: Vec<&str> =
            cluster.nodes.iter().map(|it| it.alias()).filter(|it| !online.contains(it)).collect();
        anyhow::ensure!(missing.is_empty(), "not on line: {}", missing.join(", "));
        for node in cluster.with_role(Role::DataNode) {
            let ready = Ddb::at(node.site.address()).eval("isDataNodeInitialized()").await?;
            anyhow::ensure!(ready.as_bool() == Some(true), "`{}` is not ready", node.alias());
        }
        let count = "exec count(*) from getClusterChunksStatus() where state != \"COMPLETE\"";
        let open = leader.number(count).await?;
        anyhow::ensure!(open == 0, "{open} chunks are not complete");
        Ok(())
    }
}
