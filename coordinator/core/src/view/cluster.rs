//! What is seen of one cluster as a whole, and by whom.

use std::collections::{BTreeMap, BTreeSet};

use grayfin_types::{
    ClusterId, DdbVersion, HostId, NodeAlias,
    facts::{ChunkFacts, ClusterFacts, NodeRole},
};

use super::{OBSERVER_SILENT_MS, Seen, View};
use crate::{
    mutation,
    state::{HoldStage, State},
};

/// The host agent that looks at a cluster as a whole (S9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observer {
    /// Its host.
    pub host: HostId,
    /// When it was designated, or was heard last.
    pub heard_ms: u64,
}

/// A wish to look that no rollout has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// When it ends.
    pub until_ms: u64,
    /// Also check packages of this version and weigh backups.
    pub package: Option<DdbVersion>,
}

/// The last scan of the chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenChunks {
    /// When the scan was made: the receipt less the age that came with it.
    pub scanned_ms: u64,
    /// What it found.
    pub facts: ChunkFacts,
}

/// What is seen of one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    /// Who looks.
    pub observer: Option<Observer>,
    /// The last look.
    pub facts: Option<Seen<ClusterFacts>>,
    /// The last scan of the chunks; it may be older than the last look, for scans are rationed.
    pub chunks: Option<SeenChunks>,
    /// Whom each DolphinDB controller names as leader, and since when without a break.
    pub votes: BTreeMap<NodeAlias, (NodeAlias, u64)>,
    /// Chunks in construction: id to version and the time of the first scan that saw that version.
    pub constructing: BTreeMap<String, (i64, u64)>,
    /// Those of them that did not move between two scans far enough apart (S7).
    pub stuck: Vec<String>,
    /// A wish to look.
    pub demand: Option<Demand>,
}

impl ClusterView {
    /// Takes a look. Returns whether it was newer than the last one.
    pub(super) fn take(&mut self, facts: ClusterFacts, now_ms: u64, stuck_after_ms: u64) -> bool {
        let older = self.facts.as_ref().is_some_and(|seen| {
            seen.value.seen_from == facts.seen_from && seen.value.look > facts.look
        });
        if older {
            return false;
        }
        if let Some(observer) = &mut self.observer {
            observer.heard_ms = now_ms;
        }
        self.votes = facts
            .leader_votes
            .iter()
            .map(|(voter, leader)| {
                let since = match self.votes.get(voter) {
                    Some((before, since)) if before == leader => *since,
                    _ => now_ms,
                };
                (voter.clone(), (leader.clone(), since))
            })
            .collect();
        // What a controller says of the chunks that the others do not name as their leader is not taken.
        if let Some(chunks) = facts.chunks.known().filter(|_| is_led(&facts)) {
            self.take_chunks(chunks, now_ms, stuck_after_ms);
        }
        self.facts = Some(Seen { at_ms: now_ms, value: facts });
        true
    }

    fn take_chunks(&mut self, chunks: &ChunkFacts, now_ms: u64, stuck_after_ms: u64) {
        let scanned_ms = now_ms.saturating_sub(chunks.age_ms);
        self.constructing = chunks
            .unsettled
            .iter()
            .filter(|chunk| chunk.state == "CONSTRUCTING")
            .map(|chunk| {
                let first = match self.constructing.get(&chunk.id) {
                    Some((version, first)) if *version == chunk.version => *first,
                    _ => scanned_ms,
                };
                (chunk.id.clone(), (chunk.version, first))
            })
            .collect();
        self.stuck = self
            .constructing
            .iter()
            // The same scan sent twice has the same time, and so proves nothing.
            .filter(|(_, (_, first))| scanned_ms.saturating_sub(*first) >= stuck_after_ms)
            .map(|(id, _)| id.clone())
            .collect();
        self.chunks = Some(SeenChunks { scanned_ms, facts: chunks.clone() });
    }
}

impl View {
    /// Chooses who looks at a cluster: a connected host agent that is not amnesic and whose host
    /// is not held. One that falls silent is followed by the next, so that a host with a wrong
    /// password does not blind us.
    pub(super) fn designate(&mut self, state: &State, cluster: &ClusterId, now_ms: u64) {
        let held = |host: &HostId| {
            state.holds.values().any(|h| h.stage != HoldStage::Asking && &h.host == host)
                && !mutation::is("s9-observer-held")
        };
        let fit: Vec<HostId> = state
            .hosts_of(cluster)
            .filter(|e| e.amnesic.is_none() && self.is_connected(&e.host) && !held(&e.host))
            .map(|e| e.host.clone())
            .collect();
        let entry = self.clusters.entry(cluster.clone()).or_default();
        if entry.demand.as_ref().is_some_and(|demand| demand.until_ms < now_ms) {
            entry.demand = None;
        }
        if let Some(observer) = &entry.observer
            && fit.contains(&observer.host)
            && now_ms.saturating_sub(observer.heard_ms) <= OBSERVER_SILENT_MS
        {
            return;
        }
        let before = entry.observer.take().map(|observer| observer.host);
        // The next one after the one before, in order, round and round.
        let next = before
            .as_ref()
            .and_then(|before| fit.iter().find(|host| *host > before))
            .or_else(|| fit.first());
        entry.observer = next.map(|host| Observer { host: host.clone(), heard_ms: now_ms });
    }
}

/// Counts the controllers that name this leader.
pub(crate) fn votes_for(
    facts: &ClusterFacts,
    leader: &NodeAlias,
    controllers: &BTreeSet<NodeAlias>,
) -> usize {
    let for_it = facts.leader_votes.iter().filter(|(_, named)| named == leader);
    let voters: BTreeSet<_> = for_it.map(|(voter, _)| voter).collect();
    voters.into_iter().filter(|voter| controllers.contains(*voter)).count()
}

/// Tells whether so many of all configured controllers make a leader (S9).
pub(crate) fn is_majority(votes: usize, of: usize) -> bool {
    votes * 2 > of || (votes > 0 && mutation::is("s9-leader-by-one"))
}

/// Tells whether a majority of the live configuration's controllers names the leader of this look.
fn is_led(facts: &ClusterFacts) -> bool {
    let (Some(leader), Some(nodes)) = (facts.leader.known(), facts.nodes.known()) else {
        return false;
    };
    let controllers = nodes.iter().filter(|n| n.spec.role == NodeRole::Controller);
    let controllers: BTreeSet<NodeAlias> = controllers.map(|n| n.spec.alias.clone()).collect();
    is_majority(votes_for(facts, leader, &controllers), controllers.len())
}
