//! What is there and belongs to nobody: nodes that no host agent claims, tables that no script makes.

use grayfin_types::facts::HostFacts;

use crate::{faults::Chaos, world::World};

impl Chaos {
    /// Returns the node that nobody claims now, and since when.
    pub(crate) fn unclaimed_since(&self, now_ms: u64) -> Option<(usize, u64)> {
        self.stray.filter(|(_, _, until)| *until > now_ms).map(|(node, since, _)| (node, since))
    }
}

impl World {
    /// A host's agent does not see one of its nodes: it runs from another folder than configured.
    pub(crate) fn fault_stray(&mut self, until_ms: u64) {
        let node = self.chaos.side.index(self.cluster.nodes.len());
        self.chaos.stray = Some((node, self.now_ms, until_ms));
        self.tally.note("live node that no host agent claims");
    }

    /// Leaves it out of what the host's agent says.
    pub(crate) fn hide_stray(&self, facts: &mut HostFacts) {
        if let Some((node, _)) = self.chaos.unclaimed_since(self.now_ms) {
            let alias = &self.cluster.nodes[node].spec.alias;
            facts.nodes.retain(|n| &n.spec.alias != alias);
        }
    }

    /// Worlds differ: somebody keeps a table in a data node's memory that no script makes, or every replica
    /// lies on two hosts.
    pub(crate) fn vary(&mut self) {
        if self.chaos.side.percent(20) {
            let h = self.chaos.side.index(self.cluster.hosts.len());
            self.cluster.hosts[h].scratch = true;
            self.tally.note("table in memory that no script makes");
        }
        if self.chaos.side.percent(15) {
            self.cluster.narrow();
            self.tally.note("all replicas on two hosts");
        }
    }

    /// Returns what the operator asks for beside the plan: accepted losses, gates set aside.
    pub(crate) fn wishes(&mut self) -> (Vec<String>, Vec<(String, String)>) {
        let accepts = self.chaos.over || self.chaos.side.percent(60);
        let hosts = 0..self.cluster.hosts.len();
        let losses: Vec<String> =
            hosts.filter(|_| accepts).filter_map(|h| self.cluster.unprovided(h)).collect();
        if !losses.is_empty() {
            self.tally.note("loss accepted by name");
        }
        let mut gates = Vec::new();
        if !self.chaos.over && self.chaos.side.percent(10) {
            let all = ["controller-quorum", "nodes-claimed", "holds-closed", "replica-elsewhere"];
            let gate = all[self.chaos.side.index(all.len())];
            gates.push((gate.to_owned(), "because".to_owned()));
            self.tally.note("operator wants a gate set aside");
        }
        (losses, gates)
    }
}
