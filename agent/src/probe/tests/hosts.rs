//! What is seen of a host itself.

use super::*;

#[tokio::test]
async fn a_host_without_processes_is_told_so_and_what_it_has() {
    let cluster = Cluster::start(PASSWORD).await;
    let server = cluster.dir.path().join("server");
    for folder in
        ["clusterDemo/data/c1/raft", "clusterDemo/data/n1/storage/CHUNK_METADATA", "plugins/zip"]
    {
        std::fs::create_dir_all(server.join(folder)).unwrap();
    }
    std::fs::write(server.join("clusterDemo/data/c1/raft/raftWAL"), [0; 100]).unwrap();
    std::fs::write(server.join("plugins/zip/PluginZip.txt"), "zip,libZip.so,2.00.8.10\n").unwrap();
    let facts = cluster.host(Depth::Full { package: None }).await;
    // All fake nodes have the same address as this host's controller: all are own.
    assert_eq!(facts.nodes.len(), 5);
    assert!(facts.nodes.iter().all(|node| node.process == ProcessState::Absent));
    assert!(facts.nodes.iter().all(|node| node.ready == Probe::Known(false)));
    assert!(facts.nodes.iter().all(|node| node.version.known().is_none()));
    assert_eq!(facts.configured.len(), 5);
    assert_eq!(known(&facts.nodes_digest).len(), 64);
    assert_eq!(known(&facts.memory), &[]);
    assert_eq!(known(&facts.plugins), &[("zip".to_owned(), "2.00.8.10".to_owned())]);
    assert!(facts.licence.why_unknown().unwrap().contains("no node of this host runs"));
    let purposes: Vec<&str> = facts.volumes.iter().map(|v| v.purpose.as_str()).collect();
    assert_eq!(purposes, ["backup", "package", "installation", "ledger"]);
    let part = |end: &str| facts.backup.iter().find(|p| p.path.ends_with(end)).unwrap();
    assert_eq!(part("c1/raft").bytes, Probe::Known(Some(100)));
    assert!(part("c1/raft").what.contains("from the configuration files"));
    assert_eq!(part("n1/storage/CHUNK_METADATA").bytes, Probe::Known(Some(0)));
    assert_eq!(part("n2/storage/CHUNK_METADATA").bytes, Probe::Known(None));
    assert_eq!(part("clusterDemo/config").class, grayfin_types::facts::BackupClass::Must);
    assert!(facts.problems.is_empty(), "{:?}", facts.problems);
    // Nobody's password was needed for that.
    assert_eq!(cluster.controllers[0].logins.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_host_without_cluster_nodes_takes_the_live_list() {
    let cluster = Cluster::start(PASSWORD).await;
    let config = cluster.dir.path().join("server/clusterDemo/config");
    std::fs::remove_file(config.join("cluster.nodes")).unwrap();
    let own = &cluster.data[0].spec;
    let sites: Vec<String> = cluster
        .controllers
        .iter()
        .map(|c| format!("{}:{}:{}:controller:voter", c.spec.address, c.spec.port, c.spec.alias))
        .collect();
    let agent = format!(
        "mode=agent\nlocalSite={}:1:a1\nsites={}:1:a1:agent,{}\n",
        own.address,
        own.address,
        sites.join(",")
    );
    std::fs::write(config.join("agent.cfg"), agent).unwrap();
    std::fs::remove_file(config.join("controller.cfg")).unwrap();
    // The first controller does not answer the question; the second does.
    let facts = cluster.host(Depth::Cheap).await;
    assert_eq!(facts.configured.len(), 5, "{:?}", facts.problems);
    assert!(facts.nodes_digest.known().is_some());
    std::fs::write(config.join("cluster.nodes"), "localSite,mode\nnonsense\n").unwrap();
    let facts = cluster.host(Depth::Cheap).await;
    let problem = facts.problems.iter().find(|p| p.code == Code::ConfigUnreadable).unwrap();
    assert!(problem.subject.ends_with("cluster.nodes:2"), "{problem:?}");
    assert!(facts.nodes_digest.known().is_none());
}
