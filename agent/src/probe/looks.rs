//! How the link sees what is looked at.

use std::collections::BTreeMap;

use grayfin_types::{
    ClusterId,
    facts::{ClusterFacts, HostFacts},
    plan::DebtOrder,
};

use super::{Depth, Prober};
use crate::link;

/// The looks of all installations, for the link.
#[derive(Debug, Clone)]
pub struct Looks {
    probers: BTreeMap<ClusterId, Prober>,
}

impl Looks {
    /// Takes the probers of all installations; there must be one for each configured cluster.
    pub fn new(probers: BTreeMap<ClusterId, Prober>) -> Self {
        Self { probers }
    }

    /// The link asks about configured clusters alone.
    fn prober(&self, cluster: &ClusterId) -> &Prober {
        self.probers
            .get(cluster)
            .or_else(|| self.probers.values().next())
            .expect("a configuration has at least one installation")
    }
}

impl link::Look for Looks {
    async fn host_facts(&self, ask: link::HostAsk) -> HostFacts {
        let depth = match ask.package_version {
            None => Depth::Cheap,
            // An unreadable version names no package; the rest of a full look is still wanted.
            Some(version) => Depth::Full { package: version.parse().ok() },
        };
        let facts = self.prober(&ask.cluster).host_facts(&depth, ask.standing).await;
        HostFacts { look: ask.look, boot_id: ask.boot_id, ..facts }
    }

    async fn cluster_facts(&self, ask: link::ClusterAsk) -> ClusterFacts {
        let facts = self.prober(&ask.cluster).cluster_facts(ask.chunks).await;
        ClusterFacts { look: ask.look, ..facts }
    }

    async fn effect(&self, cluster: &ClusterId, order: &DebtOrder) -> Result<(), String> {
        self.prober(cluster).effect(order).await
    }
}
