//! More rules as predicates over the truth: one for each clause that has a mutation of its own.

use grayfin_agent_core::{Body, Hold};
use grayfin_coordinator_core::{
    Cmd, Response,
    state::{CanaryPhase, HoldStage},
};
use grayfin_types::{
    Code, HostId, RolloutId,
    facts::{ClusterFacts, NodeRole},
    status::RolloutState,
    step::Step,
};

use crate::{
    check::SEEN_MS,
    facts::{Blur, FACTOR, cluster_id},
    operator::policy,
    world::World,
};

/// Gates that no operator can set aside (S9).
const NEVER_SET_ASIDE: [&str; 8] = [
    "agents-connected",
    "holds-closed",
    "facts-fresh",
    "nodes-claimed",
    "leader-clear",
    "controller-quorum",
    "raft-groups",
    "replica-elsewhere",
];

/// The observer is chosen anew at the next tick after a grant; its last look may be on its way.
const OBSERVER_MS: u64 = 500;

impl World {
    /// S1, S7, S11, S13: what else must be true when a host is granted.
    pub(crate) fn judge_granted(&mut self, g: usize, rollout: &RolloutId, host: &HostId) {
        let Some(h) = self.host_index(host) else { return };
        let now_ms = self.now_ms;
        let stray = self.chaos.unclaimed_since(now_ms).filter(|(node, since)| {
            self.cluster.nodes[*node].up
                && now_ms.saturating_sub((*since).max(self.cluster.nodes[*node].since_ms)) > SEEN_MS
        });
        self.truth.expect("S1", stray.is_none(), || {
            format!("`{host}` is granted and nobody has claimed node {stray:?} for long")
        });
        let dead = self.cluster.hosts.iter().any(|host| host.dead);
        let bad_for = self.truth.bad_since_ms.map_or(0, |since| now_ms.saturating_sub(since));
        // A look may be as old as facts may be, and was on its way for up to 300 ms before that.
        let seen_ms = policy().fact_age_max_ms + 400;
        self.truth.expect("S7", dead || bad_for <= seen_ms, || {
            format!("`{host}` is granted and the cluster has not been whole for {bad_for} ms")
        });
        self.judge_agreement(host);
        let Some(run) = self.groups[g].state.rollouts.get(rollout) else { return };
        let writer = run.canary.phase.host().cloned();
        let writes = matches!(run.canary.phase, CanaryPhase::Writing { .. });
        let sound = run.canary.phase == CanaryPhase::Off || writes && writer.as_ref() != Some(host);
        let lost =
            self.cluster.unprovided(h).filter(|name| !run.plan.accepted_losses.contains(name));
        self.truth.expect("S11", sound, || {
            format!("`{host}` is granted and the canary writes on {writer:?}")
        });
        self.truth.expect("S13", lost.is_none(), || {
            format!("`{host}` is granted, and nobody accepted that {lost:?} vanishes")
        });
    }

    /// S4, S7: every controller has named the same leader not long ago.
    fn judge_agreement(&mut self, host: &HostId) {
        if self.cluster.hosts.iter().any(|host| host.dead) {
            return;
        }
        let age = self.now_ms.saturating_sub(self.truth.agreed_ms);
        self.truth.expect("S7", age <= policy().fact_age_max_ms + 50, || {
            format!("`{host}`: no look saw the controllers agree for {age} ms")
        });
    }

    /// S11: before a host counts as done, every acknowledged row was read back, or is known to be lost.
    pub(crate) fn judge_rows_read(&mut self, g: usize) {
        let Some(run) = self.groups[g].state.active(&cluster_id()) else { return };
        let wrote: Vec<usize> =
            run.canary.wrote.iter().filter_map(|host| self.host_index(host)).collect();
        for h in wrote {
            let read = self.agents[h].writer.read;
            self.truth.expect("S11", read.is_none_or(|(read, all)| read >= all), || {
                format!("a host is closed, and of host {h}'s rows were read: {read:?}")
            });
        }
    }

    /// Commitment and S9: what an operator's wish must not do.
    pub(crate) fn judge_steering(&mut self, g: usize, cmd: &Cmd, answer: &Response) {
        match (cmd, answer) {
            (Cmd::Go(decided), Response::Go { allowed, .. }) => {
                let state = self.groups[g].state.rollouts.get(&decided.rollout).map(|r| r.state);
                let stopped = state == Some(RolloutState::Paused)
                    && decided
                        .reasons
                        .iter()
                        .any(|r| r.code == Code::NoGo && r.evidence.contains("paused"));
                self.truth.expect("Commitment", !stopped, || {
                    "a pause takes the go away from a held host".to_owned()
                });
                if *allowed {
                    self.judge_observer(g, &decided.host);
                    let age = self.now_ms.saturating_sub(self.truth.clear_ms);
                    self.truth.expect("S9", age <= policy().fact_age_max_ms + 50, || {
                        format!("a go, and no clear look for {age} ms")
                    });
                }
            }
            (Cmd::Start(start), Response::Started { .. }) => {
                let wrong = start
                    .plan
                    .overrides
                    .iter()
                    .find(|o| NEVER_SET_ASIDE.contains(&o.gate.as_str()));
                self.truth.expect("S9", wrong.is_none(), || format!("{wrong:?} is set aside"));
            }
            _ => {}
        }
    }

    /// Commitment: an operator's wish turns nothing round after the first start.
    pub(crate) fn judge_turned(&mut self, before: Option<&Hold>, step: Step) {
        let late = before.is_some_and(|hold| hold.first_start);
        self.truth.expect("Commitment", !late, || {
            format!("`{step}` is given up for an operator's wish after the first start")
        });
    }

    /// S9: whoever looks at the cluster is not on the held host.
    fn judge_observer(&mut self, g: usize, host: &HostId) {
        let group = &self.groups[g];
        let held = group.state.holds.get(&cluster_id());
        let granted = held.filter(|x| x.stage != HoldStage::Asking).and_then(|x| x.granted_ms);
        let Some(granted_ms) = granted.map(|ms| ms.saturating_sub(1_700_000_000_000)) else {
            return;
        };
        let Some(view) = group.leader.map(|r| &group.replicas[r].view) else { return };
        let seen = view.clusters.get(&cluster_id());
        let from = seen.and_then(|c| c.observer.as_ref()).map(|o| o.host.clone());
        let long = self.now_ms > granted_ms + OBSERVER_MS;
        self.truth.expect("S9", !long || from.as_ref() != Some(host), || {
            format!("a go for `{host}` on what `{host}` itself saw of the cluster")
        });
    }

    /// S9: no node goes down on a look that saw nothing.
    pub(crate) fn judge_known(&mut self, h: usize) {
        let blur = self.blur_of(h);
        let blind = matches!(blur, Blur::NoLeader | Blur::NoChunks | Blur::NoAnswers);
        self.truth.expect("S9", !blind, || format!("host {h} goes down, its looks are {blur:?}"));
    }

    /// S2: an incarnation is raised by an operator's act; a newer term turns no sequence round.
    pub(crate) fn judge_authority(&mut self, h: usize, before: Option<&Hold>, body: &Body) {
        let by = match body {
            Body::Raised { authority }
            | Body::Welcomed { authority, .. }
            | Body::Promised { authority, .. }
            | Body::Readmitted { authority, .. } => authority,
            Body::Ordered { order, .. } => &order.authority,
            Body::Made { .. }
            | Body::Staging { .. }
            | Body::CanaryAnswered { .. }
            | Body::Sequence { .. } => return,
        };
        // A ledger that is empty knows nobody, and believes whom it meets first.
        let (met, _) = self.truth.hosts[h].authority;
        let (asked, raised) = (by.incarnation.0, self.truth.raised.max(1).max(met));
        self.truth.expect("S2", asked <= raised || met == 0, || {
            format!("incarnation {asked} is obeyed, operators raised it to {raised}")
        });
        let now = self.hold(h).map(|hold| (hold.token, hold.wanted, hold.phase.clone()));
        let was = before.map(|hold| (hold.token, hold.wanted, hold.phase.clone()));
        let greeted = matches!(body, Body::Raised { .. } | Body::Welcomed { .. });
        self.truth.expect("S2", !greeted || now == was, || {
            format!("a newer authority changed a sequence from {was:?} to {now:?}")
        });
    }

    /// Notes what a look that reached a leading coordinator showed.
    pub(crate) fn note_seen(&mut self, facts: &ClusterFacts) {
        let Some(leader) = facts.leader.known() else { return };
        let all = self.cluster.controllers().count();
        let votes = facts.leader_votes.iter().filter(|(_, named)| named == leader).count();
        if facts.chunks.known().is_some() && votes * 2 > all {
            self.truth.clear_ms = self.now_ms;
        }
        if votes == all {
            self.truth.agreed_ms = self.now_ms;
        }
    }

    /// S4: with every node of the host gone, what must stay alive does.
    pub(crate) fn judge_quorum(&mut self, h: usize) {
        let cluster = &self.cluster;
        let all = cluster.controllers().count();
        let own = cluster.controllers().any(|n| cluster.nodes[n].host == h);
        let stay = cluster
            .controllers()
            .filter(|n| cluster.nodes[*n].up && cluster.nodes[*n].host != h)
            .count();
        let at_risk: Vec<_> = cluster
            .chunks
            .iter()
            .filter(|c| !cluster.readable(c, Some(h)))
            .map(|c| c.id.clone())
            .collect();
        self.truth.expect("S4", !own || stay * 2 > all, || {
            format!("{stay} of {all} controllers stay while host {h} goes down")
        });
        self.truth.expect("S4", at_risk.is_empty(), || {
            format!("{at_risk:?} have no current replica elsewhere while host {h} goes down")
        });
        let elsewhere =
            |n: &&crate::cluster::Node| n.up && n.host != h && n.spec.role == NodeRole::DataNode;
        let data = cluster.nodes.iter().filter(elsewhere).count();
        self.truth.expect("S4", data >= FACTOR as usize, || {
            format!("{data} data nodes stay for new partitions while host {h} goes down")
        });
        let group = cluster.raft_group();
        let own = group.iter().any(|n| cluster.nodes[*n].host == h);
        let stay =
            group.iter().filter(|n| cluster.nodes[**n].up && cluster.nodes[**n].host != h).count();
        let all = group.len();
        self.truth.expect("S4", !own || stay * 2 > all, || {
            format!("{stay} of {all} members of a Raft group stay while host {h} goes down")
        });
    }
}
