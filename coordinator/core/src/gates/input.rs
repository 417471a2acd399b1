//! What gates judge by: the state, the view, the time, and what is asked for.

use std::collections::{BTreeMap, BTreeSet};

use grayfin_types::{
    ClusterId, Code, DdbVersion, HostId, NodeAlias,
    facts::{ChunkFacts, ClusterFacts, ClusterNode, HostFacts, NodeRole, Probe},
    gate::Reason,
    plan::{CanarySpec, Override, Plan, Policy, Window},
};

use super::reason;
use crate::{
    mutation,
    state::{Rollout, State},
    topology::Topology,
    view::{View, is_majority, votes_for},
};

/// When a gate is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before a rollout starts.
    Start,
    /// Before a host is held.
    Grant,
    /// Before nodes of a held host go down.
    Go,
    /// After a host.
    After,
}

/// What a gate judges by.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// What is agreed.
    pub state: &'a State,
    /// What is seen.
    pub view: &'a View,
    /// Now, by the view's clock.
    pub now_ms: u64,
    /// When it is asked.
    pub moment: Moment,
    /// The cluster.
    pub cluster: &'a ClusterId,
    /// The limits.
    pub policy: &'a Policy,
    /// The target.
    pub target: &'a DdbVersion,
    /// The hosts that would go down, one after the other; one alone except before the start.
    pub hosts: &'a [HostId],
    /// Gates set aside.
    pub overrides: &'a [Override],
    /// Memory-only objects accepted by name.
    pub accepted_losses: &'a [String],
    /// Why a missing vendor's support is accepted.
    pub compat_accepted: Option<&'a str>,
    /// The canary.
    pub canary: &'a CanarySpec,
    /// Maintenance windows.
    pub windows: &'a [Window],
    /// The rollout; none before the start.
    pub rollout: Option<&'a Rollout>,
}

impl<'a> Input<'a> {
    /// Makes the input for a running rollout and one host.
    pub fn of_rollout(
        state: &'a State,
        view: &'a View,
        rollout: &'a Rollout,
        moment: Moment,
        host: Option<&'a HostId>,
        now_ms: u64,
    ) -> Self {
        let plan: &Plan = &rollout.plan;
        Self {
            state,
            view,
            now_ms,
            moment,
            cluster: &rollout.cluster,
            policy: &plan.policy,
            target: &plan.target,
            hosts: host.map_or(&[], std::slice::from_ref),
            overrides: &plan.overrides,
            accepted_losses: &plan.accepted_losses,
            compat_accepted: Some("the rollout was started with it"),
            canary: &plan.canary,
            windows: &plan.windows,
            rollout: Some(rollout),
        }
    }

    /// Returns the host that is, or is to be, down.
    pub fn host(&self) -> Option<&'a HostId> {
        if self.rollout.is_some() { self.hosts.first() } else { None }
    }

    /// Returns the facts of a host, or why they do not count.
    pub fn host_facts(&self, host: &HostId) -> Result<&'a HostFacts, Reason> {
        if !self.view.is_connected(host) {
            return Err(reason(
                Code::AgentMissing,
                host.to_string(),
                "its host agent is not connected",
                format!("start the host agent on `{host}`; `grayfin hosts` shows who is connected"),
            ));
        }
        let Some(seen) = self.view.facts(host, self.cluster) else {
            return Err(reason(
                Code::FactUnknown,
                host.to_string(),
                "its host agent has not looked yet",
                "it looks by itself; if this stays, see the host agent's log",
            ));
        };
        self.fresh(seen.at_ms, host.as_str())?;
        Ok(&seen.value)
    }

    /// Returns the observer's last look at the cluster, or why it does not count.
    pub fn cluster_facts(&self) -> Result<&'a ClusterFacts, Reason> {
        let seen = self.view.clusters.get(self.cluster).and_then(|c| c.facts.as_ref());
        let Some(seen) = seen else {
            return Err(reason(
                Code::FactUnknown,
                self.cluster.to_string(),
                "no host agent has looked at the whole cluster yet",
                "a connected host agent is asked by itself; if this stays, see `grayfin hosts`",
            ));
        };
        self.fresh(seen.at_ms, self.cluster.as_str())?;
        Ok(&seen.value)
    }

    /// Returns the nodes of the live configuration.
    pub fn nodes(&self) -> Result<&'a [ClusterNode], Reason> {
        let nodes = self.known(&self.cluster_facts()?.nodes, "the list of nodes")?;
        if nodes.is_empty() {
            return Err(self.unknown("the list of nodes", "it is empty"));
        }
        Ok(nodes)
    }

    /// Returns the last scan of the chunks. Scans are rationed (one takes as long as it takes, and
    /// the next one comes 20 times that later), so a scan may be older than other facts.
    pub fn chunks(&self) -> Result<&'a ChunkFacts, Reason> {
        let facts = self.cluster_facts()?;
        let seen = self.view.clusters.get(self.cluster).and_then(|c| c.chunks.as_ref());
        let Some(seen) = seen else {
            let why = facts.chunks.why_unknown().unwrap_or("no scan was made yet");
            return Err(self.unknown("the state of the chunks", why));
        };
        let age_ms = self.now_ms.saturating_sub(seen.scanned_ms);
        let rationed_ms = seen.facts.scan_ms.saturating_mul(21);
        let stale = age_ms > self.policy.fact_age_max_ms.saturating_add(rationed_ms);
        if stale && !mutation::is("s9-stale-is-fine") {
            let why = facts.chunks.why_unknown().unwrap_or("the next scan is not there yet");
            return Err(self.stale("the scan of the chunks", age_ms, why));
        }
        Ok(&seen.facts)
    }

    /// Returns the leader, if a majority of the configured DolphinDB controllers names it.
    pub fn leader(&self) -> Result<&'a NodeAlias, Reason> {
        let unclear = |evidence: String| {
            reason(
                Code::LeaderUnclear,
                self.cluster.to_string(),
                evidence,
                "an election takes up to 16 s by default; if this stays, look at the DolphinDB controllers' logs",
            )
        };
        let facts = self.cluster_facts()?;
        let leader = match &facts.leader {
            Probe::Known(leader) => leader,
            Probe::Unknown(why) => return Err(unclear(why.clone())),
        };
        let controllers = self.controllers()?;
        let votes = votes_for(facts, leader, &controllers);
        if is_majority(votes, controllers.len()) {
            return Ok(leader);
        }
        Err(unclear(format!(
            "{votes} of {} configured DolphinDB controllers name `{leader}` as the leader; a majority must",
            controllers.len()
        )))
    }

    /// Returns every configured DolphinDB controller: of the live configuration and of the plan.
    pub fn controllers(&self) -> Result<BTreeSet<NodeAlias>, Reason> {
        let live = self.nodes()?.iter().map(|n| &n.spec);
        let planned = self.rollout.iter().flat_map(|r| r.plan.hosts.iter().flat_map(|h| &h.nodes));
        let all: BTreeSet<NodeAlias> = live
            .chain(planned)
            .filter(|spec| spec.role == NodeRole::Controller)
            .map(|spec| spec.alias.clone())
            .collect();
        if all.is_empty() {
            return Err(self.unknown("the list of DolphinDB controllers", "it is empty"));
        }
        Ok(all)
    }

    /// Returns the nodes that count as alive: the leader says so, and they answered the observer.
    pub fn alive(&self) -> Result<BTreeSet<NodeAlias>, Reason> {
        let leaders_word = mutation::is("s9-contradiction-is-fine");
        let answers =
            |node: &&ClusterNode| node.up && (node.answers == Probe::Known(true) || leaders_word);
        Ok(self.nodes()?.iter().filter(answers).map(|n| n.spec.alias.clone()).collect())
    }

    /// Returns the nodes that would go down with a host: those that its agent has in its
    /// installation, and those that the plan names.
    pub fn nodes_of(&self, host: &HostId) -> Result<BTreeSet<NodeAlias>, Reason> {
        let planned = self.rollout.and_then(|r| r.plan.host(host));
        let mut nodes: BTreeSet<NodeAlias> =
            planned.iter().flat_map(|h| h.nodes.iter().map(|n| n.alias.clone())).collect();
        match self.view.facts(host, self.cluster) {
            Some(seen) => nodes.extend(seen.value.nodes.iter().map(|n| n.spec.alias.clone())),
            None if nodes.is_empty() => return self.host_facts(host).map(|_| nodes),
            None => {}
        }
        Ok(nodes)
    }

    /// Puts together who claims which node.
    pub fn topology(&self) -> Topology {
        Topology::read(self.state, self.view, self.cluster)
    }

    /// Returns the nodes of every host of the cluster whose agent has spoken.
    pub fn hosts_of_nodes(&self) -> BTreeMap<NodeAlias, HostId> {
        self.topology()
            .owners
            .into_iter()
            .filter_map(|(alias, mut hosts)| Some((alias, hosts.pop_first()?)))
            .collect()
    }

    /// Returns a fact's value, or a reason that says why it is unknown.
    pub fn known<T>(&self, probe: &'a Probe<T>, what: &str) -> Result<&'a T, Reason> {
        match probe {
            Probe::Known(value) => Ok(value),
            Probe::Unknown(why) => Err(self.unknown(what, why)),
        }
    }

    /// Makes the reason for a fact that is unknown.
    pub fn unknown(&self, what: &str, why: &str) -> Reason {
        reason(
            Code::FactUnknown,
            self.cluster.to_string(),
            format!("{what} is unknown: {why}"),
            "it is looked at again by itself; if this stays, mend what the evidence names",
        )
    }

    /// Makes the reason for a fact of one host that is unknown.
    pub fn unknown_at(host: &HostId, what: &str, why: &str) -> Reason {
        reason(
            Code::FactUnknown,
            host.to_string(),
            format!("{what} is unknown: {why}"),
            format!("it is looked at again by itself; if this stays, mend it on `{host}`"),
        )
    }

    fn fresh(&self, at_ms: u64, subject: &str) -> Result<(), Reason> {
        let age_ms = self.now_ms.saturating_sub(at_ms);
        if age_ms <= self.policy.fact_age_max_ms || mutation::is("s9-stale-is-fine") {
            return Ok(());
        }
        Err(reason(
            Code::FactStale,
            subject,
            format!(
                "the last look is {age_ms} ms old; {} ms are allowed",
                self.policy.fact_age_max_ms
            ),
            "it is looked at again by itself; if this stays, see the host agent's log",
        ))
    }

    fn stale(&self, what: &str, age_ms: u64, why: &str) -> Reason {
        reason(
            Code::FactStale,
            self.cluster.to_string(),
            format!("{what} is {age_ms} ms old: {why}"),
            "it is looked at again by itself; if this stays, see the observer's log",
        )
    }
}
