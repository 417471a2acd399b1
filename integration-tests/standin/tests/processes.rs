//! Clusters of stand-in processes do what the documents say. Needs the stand-in.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod cluster;

use cluster::{Cluster, Options};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_comes_up_and_says_who_it_is() {
    let cluster = Cluster::up(&Options::default()).await;
    let leader = cluster.leader().await.unwrap();
    let version = cluster.eval("node1", "version()").await.unwrap();
    assert_eq!(version.as_str(), Some("2.00.8.10 2022.12.28"));
    let controller = cluster.eval("node2", "getControllerAlias()").await.unwrap();
    assert_eq!(controller.as_str(), Some(leader.as_str()));
}
