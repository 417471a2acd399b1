//! The database's configuration files, as an administrator would write them for the topology.

use standin::config::Role;

use crate::topology::{Cluster, Options};

/// `controller.cfg` of the controller on a host; the lines are those of the project's first document.
pub(super) fn controller(cluster: &Cluster, host: u8, options: &Options) -> Option<String> {
    let own = cluster.on_host(host, Role::Controller)?;
    let mut text = format!("mode=controller\nlocalSite={}\n", own.site);
    // Raft needs three; fewer controllers are a cluster without high availability.
    if options.controllers >= 3 {
        text.push_str("dfsHAMode=Raft\n");
    }
    text.push_str(&format!("dfsReplicationFactor={}\n", options.replication));
    text.push_str(
        "dfsReplicaReliabilityLevel=1\ndataSync=1\nworkerNum=4\nlocalExecutors=3\n\
         maxConnections=512\nmaxMemSize=8\nlanCluster=0\ndfsRecoveryWaitTime=30000\n",
    );
    text.push_str(&time_scale(options));
    push_lines(&mut text, &options.controller_cfg);
    Some(text)
}

/// `agent.cfg` of the DolphinDB agent on a host.
pub(super) fn agent(cluster: &Cluster, host: u8, options: &Options) -> Option<String> {
    let own = cluster.on_host(host, Role::DdbAgent)?;
    let first = cluster.with_role(Role::Controller).next()?;
    let mut sites = vec![format!("{}:agent", own.site)];
    sites.extend(cluster.with_role(Role::Controller).map(|it| format!("{}:controller", it.site)));
    Some(format!(
        "mode=agent\nlocalSite={}\ncontrollerSite={}\nsites={}\nworkerNum=4\nlocalExecutors=3\n\
         maxMemSize=4\nlanCluster=0\n{}",
        own.site,
        first.site,
        sites.join(","),
        time_scale(options)
    ))
}

/// `cluster.cfg`.
pub(super) fn cluster(options: &Options) -> String {
    let mut text = "maxMemSize=4\nmaxConnections=512\nworkerNum=4\nlocalExecutors=3\n\
        OLAPCacheEngineSize=1\nTSDBCacheEngineSize=1\nlanCluster=0\n"
        .to_owned();
    push_lines(&mut text, &options.cluster_cfg);
    text
}

/// `cluster.nodes`.
pub(super) fn nodes(cluster: &Cluster) -> String {
    let mut text = "localSite,mode\n".to_owned();
    for node in &cluster.nodes {
        text.push_str(&format!("{},{}\n", node.site, node.role));
    }
    text
}

/// The one line that only the stand-in knows.
fn time_scale(options: &Options) -> String {
    format!("standinTimeScale={}\n", options.time_scale)
}

fn push_lines(text: &mut String, lines: &[String]) {
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use standin::config::{AgentConfig, ClusterConfig, ClusterNodes, ControllerConfig};

    use super::*;
    use crate::topology::{Range, Topology};

    #[test]
    fn the_node_can_read_what_is_written() {
        let options = Options {
            controller_cfg: vec!["dfsRecoveryWaitTime=0".to_owned()],
            cluster_cfg: vec!["node%.volumes=/v/<ALIAS>".to_owned()],
            dedicated_controllers: true,
            ..Options::default()
        };
        let topology = Topology::new(&options, Range { a: 20, b: 1 }).unwrap();
        let trade = &topology.clusters[0];
        let read = ControllerConfig::parse("c", &controller(trade, 4, &options).unwrap()).unwrap();
        assert!(read.ha);
        assert_eq!(read.site.alias, "HActl46");
        assert_eq!(read.properties.get("dfsRecoveryWaitTime"), Some("0"));
        assert_eq!(read.properties.get("standinTimeScale"), Some("0.1"));
        assert!(controller(trade, 1, &options).is_none());
        let read = AgentConfig::parse("a", &agent(trade, 1, &options).unwrap()).unwrap();
        assert_eq!(read.controllers.len(), 3);
        assert!(agent(trade, 4, &options).is_none());
        let read = ClusterNodes::parse("n", &nodes(trade)).unwrap();
        assert_eq!(read.nodes().len(), 9);
        let read = ClusterConfig::parse("cc", &cluster(&options)).unwrap();
        assert_eq!(read.effective("node43", Role::DataNode).get("volumes"), Some("/v/node43"));
    }
}
