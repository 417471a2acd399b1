//! What was seen, and what follows from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::identify::Watched;
use super::sample::Seen;
use crate::processes::ProcessId;

/// A time in which something was down. Times are milliseconds since the observer's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The first look at which it was down.
    pub from_ms: u64,
    /// The first look at which it was up again; none while it is down.
    pub to_ms: Option<u64>,
}

impl Span {
    /// Its end, or the end of time.
    fn end(self) -> u64 {
        self.to_ms.unwrap_or(u64::MAX)
    }

    /// The time that two have in common.
    fn common(self, other: Self) -> Option<Self> {
        let from_ms = self.from_ms.max(other.from_ms);
        let end = self.end().min(other.end());
        (from_ms < end).then(|| Self { from_ms, to_ms: (end < u64::MAX).then_some(end) })
    }
}

/// A process of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSeen {
    /// The first look at which it was there.
    pub at_ms: u64,
    /// The process.
    pub process: ProcessId,
}

/// One node's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Alias.
    pub alias: String,
    /// Name of its host.
    pub host: String,
    /// Name of its cluster.
    pub cluster: String,
    /// When it was down: no process, or its port closed.
    pub down: Vec<Span>,
    /// Every process it had.
    pub processes: Vec<ProcessSeen>,
}

/// A leader, when first seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderSeen {
    /// When.
    pub at_ms: u64,
    /// Name of the cluster.
    pub cluster: String,
    /// Alias of the controller.
    pub leader: String,
}

/// A change of leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderChange {
    /// When the new one was first seen.
    pub at_ms: u64,
    /// Who led.
    pub from: String,
    /// Who leads.
    pub to: String,
}

/// Two hosts of one cluster disturbed at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// Name of the cluster.
    pub cluster: String,
    /// One host.
    pub first: String,
    /// The other.
    pub second: String,
    /// When both were.
    pub span: Span,
}

/// Everything that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// When the observer started, milliseconds since 1970.
    pub started_epoch_ms: i64,
    /// How often it looked.
    pub samples: u64,
    /// The longest time between two looks.
    pub longest_gap_ms: u64,
    /// Looks that came more than 50 ms after the one before.
    pub late_samples: u64,
    /// When it looked last.
    pub last_sample_ms: u64,
    /// Nodes.
    pub nodes: Vec<NodeRecord>,
    /// Leaders, in the order in which they were seen.
    pub leaders: Vec<LeaderSeen>,
}

impl Report {
    /// A report of nothing yet.
    pub(super) fn new(watched: &[Watched]) -> Self {
        let nodes = watched.iter().map(|node| NodeRecord {
            alias: node.alias.clone(),
            host: node.host.clone(),
            cluster: node.cluster.clone(),
            down: Vec::new(),
            processes: Vec::new(),
        });
        Self {
            started_epoch_ms: jiff::Timestamp::now().as_millisecond(),
            samples: 0,
            longest_gap_ms: 0,
            late_samples: 0,
            last_sample_ms: 0,
            nodes: nodes.collect(),
            leaders: Vec::new(),
        }
    }

    /// Adds one look at all nodes, in their order.
    pub(super) fn add_sample(&mut self, at_ms: u64, seen: &[Seen]) {
        if self.samples > 0 {
            let gap = at_ms.saturating_sub(self.last_sample_ms);
            self.longest_gap_ms = self.longest_gap_ms.max(gap);
            self.late_samples += u64::from(gap > 50);
        }
        self.samples += 1;
        self.last_sample_ms = at_ms;
        for (node, seen) in self.nodes.iter_mut().zip(seen) {
            // A restart that fits between two looks is an outage all the same.
            let known = |it: &ProcessId| node.processes.iter().any(|known| known.process == *it);
            let replaced = !node.processes.is_empty() && !seen.processes.iter().any(known);
            for process in &seen.processes {
                if !node.processes.iter().any(|known| known.process == *process) {
                    node.processes.push(ProcessSeen { at_ms, process: *process });
                }
            }
            let up = seen.listening && !seen.processes.is_empty();
            match node.down.last_mut() {
                Some(span) if span.to_ms.is_none() => {
                    if up {
                        span.to_ms = Some(at_ms);
                    }
                }
                Some(_) | None => {
                    if !up {
                        node.down.push(Span { from_ms: at_ms, to_ms: None });
                    } else if replaced {
                        node.down.push(Span { from_ms: at_ms, to_ms: Some(at_ms + 1) });
                    }
                }
            }
        }
    }

    /// Adds an answer about the leader.
    pub(super) fn add_leader(&mut self, at_ms: u64, cluster: &str, leader: &str) {
        let last = self.leaders.iter().rev().find(|seen| seen.cluster == cluster);
        if last.is_none_or(|last| last.leader != leader) {
            let (cluster, leader) = (cluster.to_owned(), leader.to_owned());
            self.leaders.push(LeaderSeen { at_ms, cluster, leader });
        }
    }

    /// One node's history.
    pub fn node(&self, alias: &str) -> Option<&NodeRecord> {
        self.nodes.iter().find(|node| node.alias == alias)
    }

    /// For each host of a cluster, the times in which any of its nodes was down.
    pub fn disturbed(&self, cluster: &str) -> BTreeMap<String, Vec<Span>> {
        let mut by_host: BTreeMap<String, Vec<Span>> = BTreeMap::new();
        for node in self.nodes.iter().filter(|node| node.cluster == cluster) {
            by_host.entry(node.host.clone()).or_default().extend(&node.down);
        }
        for spans in by_host.values_mut() {
            *spans = merged(spans);
        }
        by_host
    }

    /// Every time in which two hosts of one cluster were disturbed at once.
    pub fn overlaps(&self) -> Vec<Overlap> {
        let mut clusters: Vec<&str> = self.nodes.iter().map(|it| it.cluster.as_str()).collect();
        clusters.sort_unstable();
        clusters.dedup();
        let mut found = Vec::new();
        for cluster in clusters {
            let hosts: Vec<(String, Vec<Span>)> = self.disturbed(cluster).into_iter().collect();
            for (index, (first, one)) in hosts.iter().enumerate() {
                for (second, two) in hosts.iter().skip(index + 1) {
                    for span in one.iter().flat_map(|a| two.iter().filter_map(|b| a.common(*b))) {
                        found.push(Overlap {
                            cluster: cluster.to_owned(),
                            first: first.clone(),
                            second: second.clone(),
                            span,
                        });
                    }
                }
            }
        }
        found
    }

    /// Changes of leader in a cluster; the first leader seen is no change.
    pub fn leader_changes(&self, cluster: &str) -> Vec<LeaderChange> {
        let seen: Vec<&LeaderSeen> =
            self.leaders.iter().filter(|seen| seen.cluster == cluster).collect();
        seen.windows(2)
            .filter_map(|pair| {
                let [before, after] = pair else { return None };
                Some(LeaderChange {
                    at_ms: after.at_ms,
                    from: before.leader.clone(),
                    to: after.leader.clone(),
                })
            })
            .collect()
    }

    /// Aliases whose process changed or ended: empty means that nothing was stopped.
    pub fn nodes_that_changed(&self) -> Vec<&str> {
        self.nodes
            .iter()
            .filter(|node| !node.down.is_empty() || node.processes.len() > 1)
            .map(|node| node.alias.as_str())
            .collect()
    }
}

/// Joins spans that touch.
fn merged(spans: &[Span]) -> Vec<Span> {
    let mut sorted = spans.to_vec();
    sorted.sort_by_key(|span| span.from_ms);
    let mut joined: Vec<Span> = Vec::new();
    for span in sorted {
        match joined.last_mut() {
            Some(last) if span.from_ms <= last.end() => {
                let end = last.end().max(span.end());
                last.to_ms = (end < u64::MAX).then_some(end);
            }
            Some(_) | None => joined.push(span),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use standin::config::Role;

    use super::*;

    fn report() -> Report {
        let watched: Vec<Watched> = [("a1", "h1"), ("a2", "h1"), ("b1", "h2")]
            .map(|(alias, host)| Watched {
                alias: alias.into(),
                role: Role::DataNode,
                host: host.into(),
                cluster: "c".into(),
                address: String::new(),
                server: "/".into(),
            })
            .to_vec();
        Report::new(&watched)
    }

    fn look(up: [bool; 3]) -> Vec<Seen> {
        let process = ProcessId { pid: 1, started: 1 };
        let one = |up: bool| Seen { processes: vec![process], listening: up };
        up.map(one).to_vec()
    }

    #[test]
    fn hosts_one_after_the_other_do_not_overlap() {
        let mut report = report();
        for (at, up) in [
            (0, [true, true, true]),
            (30, [false, true, true]),
            (60, [true, false, true]),
            (90, [true, true, false]),
            (120, [true, true, true]),
        ] {
            report.add_sample(at, &look(up));
        }
        assert_eq!(report.overlaps(), []);
        let expected = [Span { from_ms: 30, to_ms: Some(90) }];
        assert_eq!(report.disturbed("c")["h1"], expected, "two nodes of a host are one outage");
        assert_eq!(report.nodes_that_changed(), ["a1", "a2", "b1"]);
        assert_eq!((report.longest_gap_ms, report.late_samples), (30, 0));
    }

    #[test]
    fn two_hosts_at_once_are_seen() {
        let mut report = report();
        report.add_sample(0, &look([true, true, true]));
        report.add_sample(30, &look([false, true, true]));
        report.add_sample(100, &look([false, true, false]));
        let overlaps = report.overlaps();
        assert_eq!(overlaps.len(), 1);
        assert_eq!(overlaps[0].span, Span { from_ms: 100, to_ms: None });
        assert_eq!((report.longest_gap_ms, report.late_samples), (70, 1));
    }

    #[test]
    fn a_missing_process_is_down_even_if_somebody_listens() {
        let mut report = report();
        let mut seen = look([true, true, true]);
        seen[2].processes.clear();
        report.add_sample(0, &seen);
        assert_eq!(report.node("b1").unwrap().down.len(), 1);
    }

    #[test]
    fn a_restart_between_two_looks_is_an_outage() {
        let mut report = report();
        report.add_sample(0, &look([true, true, true]));
        let mut seen = look([true, true, true]);
        seen[1].processes = vec![ProcessId { pid: 2, started: 9 }];
        report.add_sample(30, &seen);
        report.add_sample(60, &seen);
        let expected = [Span { from_ms: 30, to_ms: Some(31) }];
        assert_eq!(report.disturbed("c")["h1"], expected);
        assert_eq!(report.node("a2").unwrap().processes.len(), 2);
    }

    #[test]
    fn leader_changes_are_counted_per_cluster() {
        let mut report = report();
        for (at, cluster, leader) in
            [(1, "c", "x"), (2, "c", "x"), (3, "d", "z"), (4, "c", "y"), (5, "c", "y")]
        {
            report.add_leader(at, cluster, leader);
        }
        let expected = LeaderChange { at_ms: 4, from: "x".into(), to: "y".into() };
        assert_eq!(report.leader_changes("c"), [expected]);
        assert_eq!(report.leader_changes("d"), []);
    }
}
