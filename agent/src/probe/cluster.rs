//! The whole cluster, as this host sees it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use grayfin_types::{
    NodeAlias,
    facts::{ChunkFacts, ClusterFacts, ClusterNode, NodeRole, NodeSpec, Probe, RaftGroup},
};

use super::chunks::Wanted;
use super::files::Configured;
use super::live::{self, PerfRow};
use super::node::{Answer, Asker};
use super::{Account, Prober, concurrently};
use crate::ddb::Call;

/// DolphinDB raises every recovery wait below this one to it.
const RECOVERY_WAIT_FLOOR_MS: u64 = 60_000;
/// With more of its memory in use than this the leader is not asked for its whole chunk table.
const LEADER_MEMORY_MAX: f64 = 0.8;
/// A look waits this long for a scan; one that takes longer is told in the look after its end.
const SCAN_WAIT: Duration = Duration::from_secs(10);
/// The same for a guard, whose go is fresh for five seconds.
const GUARD_SCAN_WAIT: Duration = Duration::from_secs(2);
/// `dfsReplicationFactor` where nothing is set.
const DEFAULT_FACTOR: u64 = 2;

/// What controllers say about the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Votes {
    /// Each asked controller and its answer.
    pub(super) all: Vec<(NodeSpec, Result<NodeAlias, String>)>,
}

impl Votes {
    /// The alias that a majority of the configured controllers names.
    pub(super) fn leader(&self, configured: usize) -> Probe<NodeAlias> {
        let mut counts: BTreeMap<&NodeAlias, usize> = BTreeMap::new();
        for (_, vote) in &self.all {
            if let Ok(alias) = vote {
                *counts.entry(alias).or_default() += 1;
            }
        }
        let best = counts.iter().max_by_key(|(_, count)| **count);
        if let Some((alias, count)) = best
            && *count * 2 > configured
        {
            return Probe::Known((*alias).clone());
        }
        let said: Vec<String> = self
            .all
            .iter()
            .map(|(spec, vote)| match vote {
                Ok(alias) => format!("`{}` names `{alias}`", spec.alias),
                Err(why) => format!("`{}`: {why}", spec.alias),
            })
            .collect();
        Probe::Unknown(format!(
            "no majority of the {configured} configured controllers names the same leader ({})",
            said.join("; ")
        ))
    }
}

/// What only the leader knows.
struct FromLeader {
    nodes: Probe<Vec<PerfRow>>,
    /// The live `cluster.nodes`.
    listed: Probe<Vec<NodeSpec>>,
    factor: Probe<u64>,
    reliability: Probe<u64>,
    recovery_wait: Probe<u64>,
    restart_interval: Probe<u64>,
    recovery_tasks: Probe<u64>,
    raft_groups: Probe<Vec<RaftGroup>>,
}

impl FromLeader {
    fn unknown(why: &str) -> Self {
        Self {
            nodes: Probe::Unknown(why.to_owned()),
            listed: Probe::Unknown(why.to_owned()),
            factor: Probe::Unknown(why.to_owned()),
            reliability: Probe::Unknown(why.to_owned()),
            recovery_wait: Probe::Unknown(why.to_owned()),
            restart_interval: Probe::Unknown(why.to_owned()),
            recovery_tasks: Probe::Unknown(why.to_owned()),
            raft_groups: Probe::Unknown(why.to_owned()),
        }
    }
}

impl Prober {
    /// Looks at the whole cluster: every controller's word on the leader, the leader's view of all
    /// nodes, and a direct probe of each node from here. With `chunks` a scan is made where its
    /// ration allows one; its age tells.
    pub async fn cluster_facts(&self, chunks: bool) -> ClusterFacts {
        self.look_at_cluster(chunks, SCAN_WAIT).await
    }

    async fn look_at_cluster(&self, chunks: bool, scan_wait: Duration) -> ClusterFacts {
        let _turn = self.0.cluster_turn.lock().await;
        let look = self.0.next_look();
        let local = self.0.local().await;
        let topology = self.topology(&local).await;
        let controllers = controllers_of(&topology.all);
        let votes = self.votes(&controllers).await;
        let mut leader = votes.leader(controllers.len());
        let mut from = self.ask_leader(&leader, &topology.all, &local.configured).await;

        // The live configuration may have more controllers than this host's file.
        if let Probe::Known(listed) = &from.listed {
            let live = controllers_of(listed).len();
            if live > controllers.len() {
                leader = votes.leader(live);
                if let Probe::Unknown(why) = &leader {
                    from = FromLeader::unknown(why);
                }
            }
        }
        let nodes = match merged(&from) {
            Probe::Known(nodes) => Probe::Known(self.probed(nodes).await),
            Probe::Unknown(why) => Probe::Unknown(why),
        };
        let chunks = match (&leader, &nodes) {
            (Probe::Known(alias), Probe::Known(nodes)) if chunks => {
                self.scan(alias, nodes, &from, scan_wait).await
            }
            _ => self.0.scanner.last(),
        };
        let floor = |wait: &u64| if *wait == 0 { 0 } else { (*wait).max(RECOVERY_WAIT_FLOOR_MS) };
        ClusterFacts {
            cluster: self.0.installation.cluster.clone(),
            seen_from: self.0.host.clone(),
            look,
            leader,
            leader_votes: votes
                .all
                .iter()
                .filter_map(|(spec, vote)| Some((spec.alias.clone(), vote.as_ref().ok()?.clone())))
                .collect(),
            nodes,
            replication_factor: small(&from.factor),
            reliability_level: small(&from.reliability),
            recovery_wait_ms: match &from.recovery_wait {
                Probe::Known(wait) => Probe::Known(floor(wait)),
                Probe::Unknown(why) => Probe::Unknown(why.clone()),
            },
            restart_interval_s: from.restart_interval,
            chunks,
            recovery_tasks: from.recovery_tasks,
            raft_groups: from.raft_groups,
        }
    }

    /// What S4 is evaluated on, from this host and now: like [`Self::cluster_facts`] with chunks.
    /// Every node that is counted on has just been asked directly. Takes less time than a go stays
    /// fresh, so a scan that takes longer than two seconds is told with its age.
    pub async fn guard_facts(&self) -> ClusterFacts {
        self.look_at_cluster(true, GUARD_SCAN_WAIT).await
    }

    /// Asks every configured controller directly, now, whom it takes for the leader.
    pub async fn controllers_alive(&self) -> Vec<(NodeAlias, Probe<NodeAlias>)> {
        let local = self.0.local().await;
        let controllers = controllers_of(&self.topology(&local).await.all);
        let votes = self.votes(&controllers).await;
        let probe = |vote| match vote {
            Ok(alias) => Probe::Known(alias),
            Err(why) => Probe::Unknown(why),
        };
        votes.all.into_iter().map(|(spec, vote)| (spec.alias, probe(vote))).collect()
    }

    /// Finds the leading controller: named alike by a majority of the configured ones, now.
    pub async fn leader(&self) -> Result<NodeSpec, String> {
        let local = self.0.local().await;
        let controllers = controllers_of(&self.topology(&local).await.all);
        let votes = self.votes(&controllers).await;
        match votes.leader(controllers.len()) {
            Probe::Known(alias) => {
                let found = controllers.into_iter().find(|spec| spec.alias == alias);
                found.ok_or_else(|| format!("the leader `{alias}` is not configured here"))
            }
            Probe::Unknown(why) => Err(why),
        }
    }

    async fn votes(&self, controllers: &[NodeSpec]) -> Votes {
        let inner = Arc::clone(&self.0);
        let all = concurrently(controllers.to_vec(), move |spec| {
            let inner = Arc::clone(&inner);
            async move {
                let asker = Asker::new(&inner.pool, inner.options.probe);
                let limit = inner.options.probe * 2;
                let vote = tokio::time::timeout(limit, asker.leader(&spec)).await;
                let vote = vote.unwrap_or_else(|_| Err("it did not answer in time".to_owned()));
                (spec, vote)
            }
        })
        .await;
        Votes { all }
    }

    /// Asks the leader for what only it knows, one question after the other on one connection.
    async fn ask_leader(
        &self,
        leader: &Probe<NodeAlias>,
        nodes: &[NodeSpec],
        configured: &Configured,
    ) -> FromLeader {
        let spec = match leader {
            Probe::Known(alias) => nodes.iter().find(|node| &node.alias == alias),
            Probe::Unknown(why) => return FromLeader::unknown(why),
        };
        let Some(spec) = spec else {
            return FromLeader::unknown("the leader is not among the configured controllers");
        };
        // It has just answered on this connection.
        let lease = self.0.pool.take(spec, Account::Probe, self.0.options.probe).await;
        let mut lease = match lease {
            Ok(lease) => lease,
            Err(error) => return FromLeader::unknown(&error.words()),
        };
        let call = Call::urgent(self.0.options.probe);
        let file = &configured.controller_cfg;
        let listed = live::nodes(&mut lease, &call).await;
        let nodes = live::perf(&mut lease, &call).await;
        let factor =
            live::setting(&mut lease, &call, "dfsReplicationFactor", file, DEFAULT_FACTOR).await;
        let reliability =
            live::setting(&mut lease, &call, "dfsReplicaReliabilityLevel", file, 0).await;
        let recovery_wait = live::setting(&mut lease, &call, "dfsRecoveryWaitTime", file, 0).await;
        let restart_interval =
            live::setting(&mut lease, &call, "datanodeRestartInterval", file, 0).await;
        let recovery_tasks = live::recovery_tasks(&mut lease, &call).await;
        let groups = live::cluster_cfg(&mut lease, &call).await;
        FromLeader {
            nodes: probe(nodes),
            listed: probe(listed.map(|nodes| nodes.nodes)),
            factor,
            reliability,
            recovery_wait,
            restart_interval,
            recovery_tasks: probe(recovery_tasks),
            raft_groups: probe(groups.and_then(|cfg| live::raft_groups(&cfg))),
        }
    }

    /// Asks every node directly.
    async fn probed(&self, nodes: Vec<(NodeSpec, Option<bool>)>) -> Vec<ClusterNode> {
        let inner = Arc::clone(&self.0);
        concurrently(nodes, move |(spec, up)| {
            let inner = Arc::clone(&inner);
            async move {
                let answer = Asker::new(&inner.pool, inner.options.probe).all(&spec).await;
                let answers = answers(&answer);
                // Versions before 2.00.7 list the leading controller alone: the others' own
                // answers count.
                let up = up.unwrap_or_else(|| answers == Probe::Known(true));
                ClusterNode { up, answers, version: answer.version, spec }
            }
        })
        .await
    }

    /// Scans the chunks, unless the leader must be spared.
    async fn scan(
        &self,
        leader: &NodeAlias,
        nodes: &[ClusterNode],
        from: &FromLeader,
        wait: Duration,
    ) -> Probe<ChunkFacts> {
        let Some(spec) = nodes.iter().map(|node| &node.spec).find(|spec| spec.alias == *leader)
        else {
            return Probe::Unknown(format!(
                "the leader `{leader}` is not in its own list of nodes"
            ));
        };
        let row = from.nodes.known().and_then(|rows| rows.iter().find(|r| r.spec.alias == *leader));
        if let Some(turn) = self.0.scanner.begin() {
            let wanted = Wanted {
                leader: spec.clone(),
                factor: small(&from.factor).known().copied(),
                nodes: nodes.iter().map(|node| node.spec.clone()).collect(),
                spare: row.and_then(short_of_memory),
                deadline: self.0.options.scan,
            };
            let inner = Arc::clone(&self.0);
            tokio::spawn(async move { inner.scanner.run(turn, &inner.pool, &wanted).await });
        }
        self.0.scanner.wait(wait).await;
        self.0.scanner.last()
    }
}

/// Says why a controller must not be asked for its whole chunk table.
fn short_of_memory(row: &PerfRow) -> Option<String> {
    let (used, max) = (row.memory_used?, row.memory_max.filter(|max| *max > 0.0)?);
    (used > max * LEADER_MEMORY_MAX).then(|| {
        format!(
            "no chunk scan: `{}` uses {:.0} % of its memory, more than {:.0} %",
            row.spec.alias,
            used / max * 100.0,
            LEADER_MEMORY_MAX * 100.0
        )
    })
}

/// Whether a node can be counted on: it answers, and does not say that it is not ready.
fn answers(answer: &Answer) -> Probe<bool> {
    match (&answer.version, &answer.ready) {
        (Probe::Known(_), Probe::Known(ready)) => Probe::Known(*ready),
        (Probe::Known(_), Probe::Unknown(why)) => Probe::Unknown(why.clone()),
        (Probe::Unknown(_), Probe::Known(false)) => Probe::Known(false),
        (Probe::Unknown(why), _) => Probe::Unknown(why.clone()),
    }
}

/// The controllers among nodes.
pub(super) fn controllers_of(nodes: &[NodeSpec]) -> Vec<NodeSpec> {
    nodes.iter().filter(|node| node.role == NodeRole::Controller).cloned().collect()
}

/// Every node of the live list with the leader's word on it; without a list the leader's table is
/// the list.
fn merged(from: &FromLeader) -> Probe<Vec<(NodeSpec, Option<bool>)>> {
    let rows = match &from.nodes {
        Probe::Known(rows) => rows,
        Probe::Unknown(why) => return Probe::Unknown(why.clone()),
    };
    let listed = match &from.listed {
        Probe::Known(listed) => listed,
        // A right may be missing for the list; the problem is reported by itself.
        Probe::Unknown(_) => {
            return Probe::Known(rows.iter().map(|row| (row.spec.clone(), Some(row.up))).collect());
        }
    };
    let up = |spec: &NodeSpec| {
        let row = rows.iter().find(|row| row.spec.alias == spec.alias).map(|row| row.up);
        // Only controllers may be left out by old versions; a node that is not in the table is
        // not up.
        if spec.role == NodeRole::Controller { row } else { Some(row.unwrap_or(false)) }
    };
    let mut nodes: Vec<(NodeSpec, Option<bool>)> =
        listed.iter().map(|spec| (spec.clone(), up(spec))).collect();
    for row in rows {
        if !listed.iter().any(|spec| spec.alias == row.spec.alias) {
            nodes.push((row.spec.clone(), Some(row.up)));
        }
    }
    Probe::Known(nodes)
}

fn probe<T>(result: Result<T, String>) -> Probe<T> {
    match result {
        Ok(value) => Probe::Known(value),
        Err(why) => Probe::Unknown(why),
    }
}

fn small(value: &Probe<u64>) -> Probe<u32> {
    match value {
        Probe::Known(number) => u32::try_from(*number)
            .map_or_else(|_| Probe::Unknown(format!("{number} is too large")), Probe::Known),
        Probe::Unknown(why) => Probe::Unknown(why.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::files::Site;

    fn controller(alias: &str) -> NodeSpec {
        Site::parse(&format!("h:1:{alias}")).unwrap().spec(NodeRole::Controller)
    }

    fn votes(said: &[(&str, Option<&str>)]) -> Votes {
        let vote = |name: &Option<&str>| {
            name.map_or_else(|| Err("timeout".to_owned()), |name| Ok(NodeAlias::new(name).unwrap()))
        };
        Votes { all: said.iter().map(|(from, name)| (controller(from), vote(name))).collect() }
    }

    #[test]
    fn a_leader_needs_a_majority_of_the_configured_controllers() {
        let two = votes(&[("a", Some("b")), ("b", Some("b")), ("c", None)]);
        assert_eq!(two.leader(3), Probe::Known(NodeAlias::new("b").unwrap()));
        assert!(two.leader(4).why_unknown().is_some(), "half is no majority");
        let split = votes(&[("a", Some("a")), ("b", Some("b")), ("c", None)]);
        let why = split.leader(3);
        let why = why.why_unknown().unwrap();
        assert!(why.contains("`a` names `a`") && why.contains("`c`: timeout"), "{why}");
        assert!(votes(&[]).leader(0).why_unknown().is_some());
    }

    #[test]
    fn a_listed_node_that_the_leader_does_not_know_is_not_up() {
        let data =
            |alias: &str| Site::parse(&format!("h:2:{alias}")).unwrap().spec(NodeRole::DataNode);
        let row = |spec: NodeSpec, up| PerfRow { spec, up, memory_used: None, memory_max: None };
        let mut from = FromLeader::unknown("x");
        assert!(merged(&from).known().is_none());
        from.nodes = Probe::Known(vec![row(controller("a"), true), row(data("n1"), true)]);
        assert_eq!(merged(&from).known().unwrap().len(), 2);
        from.listed = Probe::Known(vec![controller("a"), controller("b"), data("n2")]);
        let nodes = merged(&from);
        let shown: Vec<(&str, Option<bool>)> =
            nodes.known().unwrap().iter().map(|(s, up)| (s.alias.as_str(), *up)).collect();
        let expected = [("a", Some(true)), ("b", None), ("n2", Some(false)), ("n1", Some(true))];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_leader_that_is_short_of_memory_is_spared() {
        let row = |used, max| PerfRow {
            spec: controller("a"),
            up: true,
            memory_used: Some(used),
            memory_max: Some(max),
        };
        assert!(short_of_memory(&row(81.0, 100.0)).is_some());
        assert!(short_of_memory(&row(79.0, 100.0)).is_none());
        assert!(short_of_memory(&row(79.0, 0.0)).is_none());
    }
}
