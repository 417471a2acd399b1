//! Which node runs on which host, proven by the host agents that see the processes (S1).

use std::collections::{BTreeMap, BTreeSet};

use grayfin_types::{
    ClusterId, Code, HostId, NodeAlias,
    facts::{NodeSpec, ProcessState},
    gate::Reason,
};

use crate::{gates::reason, state::State, view::View};

/// Which host each node belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    /// The hosts whose agents have the node in their installation; one, if all is well.
    pub owners: BTreeMap<NodeAlias, BTreeSet<HostId>>,
    /// The hosts whose agents see the node's process.
    pub runs_on: BTreeMap<NodeAlias, BTreeSet<HostId>>,
    /// All nodes, as any host's configuration files name them.
    pub configured: BTreeMap<NodeAlias, NodeSpec>,
}

impl Topology {
    /// Puts together what the host agents of a cluster said last.
    pub fn read(state: &State, view: &View, cluster: &ClusterId) -> Self {
        let mut topology = Self::default();
        for enrolment in state.hosts_of(cluster) {
            let Some(seen) = view.facts(&enrolment.host, cluster) else { continue };
            for node in &seen.value.nodes {
                let alias = node.spec.alias.clone();
                let host = enrolment.host.clone();
                topology.owners.entry(alias.clone()).or_default().insert(host.clone());
                topology.configured.entry(alias.clone()).or_insert_with(|| node.spec.clone());
                if matches!(node.process, ProcessState::Running(_)) {
                    topology.runs_on.entry(alias).or_default().insert(host);
                }
            }
            for spec in &seen.value.configured {
                topology.configured.entry(spec.alias.clone()).or_insert_with(|| spec.clone());
            }
        }
        topology
    }

    /// Returns the one host that a node belongs to.
    pub fn host_of(&self, alias: &NodeAlias) -> Option<&HostId> {
        let owners = self.owners.get(alias)?;
        if owners.len() == 1 { owners.first() } else { None }
    }

    /// Says which nodes are claimed by no host agent or by several. `live` are the nodes that the
    /// cluster counts as alive: their processes must be seen by exactly one host agent.
    pub fn unclaimed(&self, live: &BTreeSet<NodeAlias>) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let none = BTreeSet::new();
        let all: BTreeSet<&NodeAlias> = self.configured.keys().chain(live).collect();
        for alias in all {
            let owners = self.owners.get(alias).unwrap_or(&none);
            let runs_on = self.runs_on.get(alias).unwrap_or(&none);
            let evidence = if owners.is_empty() {
                "no host agent has it in its installation".to_owned()
            } else if owners.len() > 1 || runs_on.len() > 1 {
                let both = owners.union(runs_on).map(|h| format!("`{h}`")).collect::<Vec<_>>();
                format!("the host agents of {} claim it", both.join(" and "))
            } else if live.contains(alias) && runs_on.is_empty() {
                "it is alive, but no host agent sees its process".to_owned()
            } else {
                continue;
            };
            reasons.push(reason(
                Code::NodeUnclaimed,
                alias.to_string(),
                evidence,
                "run a host agent on the node's host, with its installation in agent.toml; `grayfin hosts` shows who claims what",
            ));
        }
        reasons
    }
}
