//! How the steps see what is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use grayfin_agent_core::guard::{Question, judge};
use grayfin_types::{
    Code, NodeAlias,
    facts::{MemoryObject, NodeRole, NodeSpec, Probe, ProcessState},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::{CommandError, Prober, marker};
use crate::backup::NodeSource;
use crate::steps::nodes::{Asked, NodeHere, NodeLook, Nodes};
use crate::steps::{Boxed, Context, Seen, StepError};

/// The gate that an operator may set aside.
const CAPACITY_GATE: &str = "partition-capacity";
/// How long transactions are waited for that were pending when a node was told to write out its
/// caches. The engines do so by themselves every 30 and 60 s; what is left after that only makes the
/// stop and the next start longer.
const FLUSH_MAX: Duration = Duration::from_secs(75);
/// The part of a step's remaining time that waiting for them may take.
const FLUSH_SHARE: u32 = 4;
/// Between two looks at pending transactions.
const FLUSH_PAUSE: Duration = Duration::from_millis(100);

/// The nodes of one installation, for the steps.
#[derive(Debug, Clone)]
pub struct ProbedNodes(Prober);

impl ProbedNodes {
    /// Sees through a prober.
    pub const fn new(prober: Prober) -> Self {
        Self(prober)
    }

    /// Every node of this host with its process.
    async fn all_here(&self) -> Result<Vec<NodeHere>, StepError> {
        let local = self.0.0.local().await;
        let topology = self.0.topology(&local).await;
        if let Some(problem) = local.configured.problems.first() {
            let text = format!("`{}`: {}", problem.subject, problem.detail);
            return Err(StepError::new(problem.code, text));
        }
        if let Some(stranger) = topology.strangers.first() {
            let text = format!("{} is no configured node of this host", stranger.describe());
            return Err(StepError::new(Code::NodeUnclaimed, text));
        }
        if topology.own.is_empty() {
            let text = "which nodes are this host's is unknown";
            return Err(StepError::new(Code::FactUnknown, text));
        }
        let work = &self.0.installation().work_dir;
        let mut here = Vec::new();
        for spec in topology.own {
            let process = match local.processes.state(&spec) {
                ProcessState::Running(identity) => Some(identity),
                ProcessState::Absent => None,
                ProcessState::Unknown(why) => {
                    let text = format!("whether `{}` runs is unknown: {why}", spec.alias);
                    return Err(StepError::new(Code::FactUnknown, text));
                }
            };
            let log = local.processes.of(&spec).and_then(|process| process.log.clone());
            let log = Some(log.unwrap_or_else(|| default_log(work, &spec)));
            here.push(NodeHere { spec, process, log });
        }
        Ok(here)
    }

    async fn judged(&self, ctx: &Context, gone: &[NodeAlias]) -> Result<Seen, StepError> {
        let mut all: BTreeSet<NodeAlias> = gone.iter().cloned().collect();
        // A node of this host that the plan did not know goes down with it all the same.
        all.extend(self.all_here().await?.into_iter().map(|node| node.spec.alias));
        let facts = self.0.guard_facts().await;
        let plan = ctx.plan();
        let hosts: BTreeMap<_, _> = plan
            .hosts
            .iter()
            .flat_map(|host| host.nodes.iter().map(|n| (n.alias.clone(), host.host.clone())))
            .collect();
        let question = Question {
            facts: &facts,
            gone: &all,
            hosts: &hosts,
            fact_age_max_ms: plan.policy.fact_age_max_ms,
            capacity_overridden: plan.overrides.iter().any(|o| o.gate == CAPACITY_GATE),
        };
        match judge(&question) {
            Ok(seen) => Ok(seen.into()),
            Err(refusal) => {
                let text =
                    format!("as seen from this host, its nodes must stay up: {}", refusal.message);
                Err(StepError::new(refusal.code, text))
            }
        }
    }

    /// Has the caches written out and waits, bounded, for what was pending then. Clients go on
    /// writing meanwhile; what comes later is the stop's own affair.
    async fn flushed(&self, ctx: &Context, nodes: &[NodeSpec]) -> Result<Seen, StepError> {
        let until = Instant::now() + FLUSH_MAX.min(ctx.remaining() / FLUSH_SHARE);
        let mut words = Vec::new();
        for node in nodes.iter().filter(|node| node.role == NodeRole::DataNode) {
            let flushed = self.flushed_one(ctx, &node.alias, until).await?;
            words.push(flushed.unwrap_or_else(|why| format!("`{}`: {why}", node.alias)));
        }
        let text = if words.is_empty() { "nothing to flush".to_owned() } else { words.join("; ") };
        Ok(text.into())
    }

    /// The same for one node; what it does not answer is no reason not to stop it.
    async fn flushed_one(
        &self,
        ctx: &Context,
        alias: &NodeAlias,
        until: Instant,
    ) -> Result<Result<String, String>, StepError> {
        ctx.check()?;
        let before = match ctx.until(self.0.pending_transactions(alias)).await? {
            Ok(before) => before,
            Err(why) => return Ok(Err(why)),
        };
        if let Err(error) = ctx.until(self.0.flush_caches(alias)).await? {
            return Ok(Err(error.to_string()));
        }
        loop {
            match ctx.until(self.0.pending_transactions(alias)).await? {
                Ok(now) if now.is_past(&before) => return Ok(Ok(format!("`{alias}` has flushed"))),
                Ok(now) if Instant::now() >= until => {
                    let left = now.flush;
                    return Ok(Ok(format!("`{alias}` still has {left} transactions to write out")));
                }
                Ok(_) => ctx.until(tokio::time::sleep(FLUSH_PAUSE)).await?,
                Err(why) => return Ok(Err(why)),
            }
        }
    }

    async fn in_memory(&self) -> Result<Vec<MemoryObject>, StepError> {
        let local = self.0.0.local().await;
        let topology = self.0.topology(&local).await;
        match self.0.memory(&local, &topology, true).await {
            Probe::Known(objects) => Ok(objects),
            Probe::Unknown(why) => Err(StepError::new(Code::FactUnknown, why)),
        }
    }

    async fn all_sources(&self) -> Vec<NodeSource> {
        let local = self.0.0.local().await;
        let topology = self.0.topology(&local).await;
        let settings = self.0.settings(&local, &topology).await;
        settings.into_iter().map(|settings| settings.source).collect()
    }

    async fn looked(&self, node: &NodeHere, marks: &Value) -> NodeLook {
        let answer = self.0.ask(&node.spec).await;
        let start_marker = marked(node, marks);
        NodeLook {
            version: answer.version,
            ready: answer.ready,
            leader: answer.leader,
            start_marker,
        }
    }
}

/// Where a log ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Mark {
    log: PathBuf,
    /// Device, inode, bytes; none if there was no log.
    at: Option<(u64, u64, u64)>,
}

/// Notes where the logs end.
fn mark_all(nodes: &[NodeHere]) -> Result<Value, StepError> {
    let mut marks: BTreeMap<String, Mark> = BTreeMap::new();
    for node in nodes {
        let Some(log) = &node.log else { continue };
        let at = marker::Position::of(log).map_err(|error| {
            let text = format!("look at the log `{}`: {error}", log.display());
            StepError::new(Code::FactUnknown, text)
        })?;
        let at = at.map(|position| (position.file.0, position.file.1, position.bytes));
        marks.insert(node.spec.alias.to_string(), Mark { log: log.clone(), at });
    }
    serde_json::to_value(marks)
        .map_err(|error| StepError::new(Code::Internal, format!("log marks: {error}")))
}

/// Looks for the start marker behind a mark. Only of controllers it is said to be missing: for them
/// it is part of "caught up" (S4), while data nodes tell themselves that they are initialised, and
/// what other roles write differs between versions.
fn marked(node: &NodeHere, marks: &Value) -> Probe<bool> {
    if node.spec.role != NodeRole::Controller {
        return Probe::Unknown("it is looked for in controllers' logs alone".to_owned());
    }
    let mark = marks.get(node.spec.alias.as_str()).cloned();
    let Some(Ok(mark)) = mark.map(serde_json::from_value::<Mark>) else {
        return Probe::Unknown("its log was not marked".to_owned());
    };
    // A process may log elsewhere than before: the whole of the new file is its own then.
    let log = node.log.as_ref().unwrap_or(&mark.log);
    let since = mark.at.filter(|_| *log == mark.log);
    let since =
        since.map(|(device, inode, bytes)| marker::Position { file: (device, inode), bytes });
    match marker::marker_since(log, since) {
        Ok(found) => Probe::Known(found),
        Err(error) => Probe::Unknown(format!("`{}`: {error}", log.display())),
    }
}

/// Where the package's own scripts let a node log.
fn default_log(work_dir: &Path, spec: &NodeSpec) -> PathBuf {
    let name = match spec.role {
        NodeRole::Controller => "controller",
        NodeRole::DdbAgent => "agent",
        NodeRole::DataNode | NodeRole::ComputeNode => spec.alias.as_str(),
    };
    work_dir.join("log").join(format!("{name}.log"))
}

fn asked(outcome: Result<(), CommandError>) -> Asked {
    match outcome {
        Ok(()) => Asked::Taken,
        Err(error) if error.outcome_unknown() => Asked::Unknown(error.to_string()),
        Err(error) => Asked::NotTaken(error.to_string()),
    }
}

fn names(nodes: &[NodeSpec]) -> Vec<NodeAlias> {
    nodes.iter().map(|spec| spec.alias.clone()).collect()
}

impl Nodes for ProbedNodes {
    fn here<'a>(&'a self, _: &'a Context) -> Boxed<'a, Result<Vec<NodeHere>, StepError>> {
        Box::pin(self.all_here())
    }

    fn guard<'a>(
        &'a self,
        ctx: &'a Context,
        gone: &'a [NodeAlias],
    ) -> Boxed<'a, Result<Seen, StepError>> {
        Box::pin(self.judged(ctx, gone))
    }

    fn sources<'a>(&'a self, _: &'a Context) -> Boxed<'a, Result<Vec<NodeSource>, StepError>> {
        Box::pin(async move { Ok(self.all_sources().await) })
    }

    fn flush<'a>(
        &'a self,
        ctx: &'a Context,
        nodes: &'a [NodeSpec],
    ) -> Boxed<'a, Result<Seen, StepError>> {
        Box::pin(self.flushed(ctx, nodes))
    }

    fn ask_stop<'a>(&'a self, _: &'a Context, nodes: &'a [NodeSpec]) -> Boxed<'a, Asked> {
        Box::pin(async move { asked(self.0.stop_data_nodes(&names(nodes)).await) })
    }

    fn ask_start<'a>(&'a self, _: &'a Context, nodes: &'a [NodeSpec]) -> Boxed<'a, Asked> {
        Box::pin(async move { asked(self.0.start_data_nodes(&names(nodes)).await) })
    }

    fn memory<'a>(&'a self, _: &'a Context) -> Boxed<'a, Result<Vec<MemoryObject>, StepError>> {
        Box::pin(self.in_memory())
    }

    fn mark_logs<'a>(
        &'a self,
        _: &'a Context,
        nodes: &'a [NodeHere],
    ) -> Boxed<'a, Result<Value, StepError>> {
        Box::pin(std::future::ready(mark_all(nodes)))
    }

    fn look<'a>(
        &'a self,
        _: &'a Context,
        node: &'a NodeHere,
        marks: &'a Value,
    ) -> Boxed<'a, NodeLook> {
        Box::pin(self.looked(node, marks))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::probe::files::Site;

    #[test]
    fn only_a_marker_behind_the_mark_counts_and_only_for_controllers() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("controller.log");
        let line = "2026.11.22 10:00:00 <INFO> :Job scheduler initialization completed.\n";
        std::fs::write(&log, line).unwrap();
        let node = |alias: &str, role| NodeHere {
            spec: Site::parse(&format!("h:1:{alias}")).unwrap().spec(role),
            process: None,
            log: Some(log.clone()),
        };
        let (controller, data) = (node("c1", NodeRole::Controller), node("n1", NodeRole::DataNode));
        let marks = mark_all(&[controller.clone(), data.clone()]).unwrap();
        assert_eq!(marked(&controller, &marks), Probe::Known(false), "written before");
        assert!(matches!(marked(&data, &marks), Probe::Unknown(_)));
        let mut file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
        file.write_all(line.as_bytes()).unwrap();
        assert_eq!(marked(&controller, &marks), Probe::Known(true));
        assert!(matches!(marked(&controller, &Value::Null), Probe::Unknown(_)));
        // Another file than the one that was marked.
        let moved = NodeHere { log: Some(dir.path().join("other.log")), ..controller };
        assert_eq!(marked(&moved, &marks), Probe::Known(false));
        std::fs::write(dir.path().join("other.log"), line).unwrap();
        assert_eq!(marked(&moved, &marks), Probe::Known(true));
    }
}
