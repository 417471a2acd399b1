//! Which nodes hold a chunk, and which should.

use std::collections::BTreeMap;

use super::Controller;
use crate::ids::{Alias, ChunkId, NodeRole};
use crate::meta::Chunk;

impl Controller {
    /// Live nodes that have the newest version.
    pub(super) fn current_replicas(&self, chunk: &Chunk) -> Vec<Alias> {
        chunk
            .replicas
            .iter()
            .filter(|(alias, version)| **version == chunk.version && self.has_reported(alias))
            .map(|(alias, _)| alias.clone())
            .collect()
    }

    /// Nodes for a new chunk: as many as the replication factor says, or none.
    pub(super) fn place_new(&self, id: ChunkId) -> Result<Vec<Alias>, String> {
        let mut chosen = Vec::new();
        while chosen.len() < self.settings.replication {
            match self.choose_node(&chosen, id) {
                Some(alias) => chosen.push(alias),
                None => {
                    return Err(format!(
                        "The number of online data nodes is less than the replication factor {}. \
                         RefId: S01015",
                        self.settings.replication
                    ));
                }
            }
        }
        Ok(chosen)
    }

    /// The data node with the fewest chunks that may hold a replica besides those of `taken`.
    pub(super) fn choose_node(&self, taken: &[Alias], id: ChunkId) -> Option<Alias> {
        let host_of = |alias: &Alias| self.meta.node(alias).map(|n| n.host.clone());
        let hosts: Vec<_> = taken.iter().filter_map(host_of).collect();
        let mut counts: BTreeMap<&Alias, usize> = BTreeMap::new();
        for alias in self.meta.chunks.values().flat_map(|c| c.replicas.keys()) {
            *counts.entry(alias).or_default() += 1;
        }
        let mut candidates: Vec<_> = self
            .meta
            .config
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, n)| n.role == NodeRole::DataNode && self.has_reported(&n.alias))
            .filter(|(_, n)| !taken.contains(&n.alias))
            .map(|(position, n)| {
                let shares = hosts.contains(&n.host);
                // Equal candidates take turns, in an order that the chunk decides.
                let turn = spread(id, position);
                (shares, counts.get(&n.alias).copied().unwrap_or(0), turn, n.alias.clone())
            })
            .collect();
        match self.settings.reliability {
            0 => candidates.sort_by_key(|(_, count, turn, _)| (*count, *turn)),
            1 => {
                candidates.retain(|(shares, ..)| !shares);
                candidates.sort_by_key(|(_, count, turn, _)| (*count, *turn));
            }
            _ => candidates.sort_by_key(|(shares, count, turn, _)| (*shares, *count, *turn)),
        }
        candidates.into_iter().next().map(|(.., alias)| alias)
    }
}

fn spread(id: ChunkId, position: usize) -> u64 {
    let low = u64::try_from(id.0 & u128::from(u64::MAX)).unwrap_or(0);
    let position = u64::try_from(position).unwrap_or(0);
    crate::rng::Rng::new(low.wrapping_add(position.wrapping_mul(0x9e37))).next_u64()
}
