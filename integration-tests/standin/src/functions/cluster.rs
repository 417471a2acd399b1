//! How the cluster is: nodes, chunks, recovery, Raft groups.

use standin_lang::eval::CallError;
use standin_lang::value::{Cell, Type, Value, Vector};
use standin_model::controller::{ChunkStatus, NodeStatus, Task, TaskKind, TaskStatus};
use standin_model::message::{Answer, Ask};
use standin_model::{Millis, NodeRole};

use super::identity::texts;
use super::table::{Rows, flag, int, maybe, real, text};
use super::{By, Call, Function, On, Outcome, f};
use crate::faults::Kind;
use crate::node::controller::ControllerMachine;
use crate::node::housekeeping;
use crate::node::log::local_ms;
use crate::node::{Brain, Node};

pub(super) const FUNCTIONS: &[Function] = &[
    f("getClusterPerf", &["includeMaster"], On::Any, By::Anybody),
    f("getClusterLiveDataNodes", &["includeComputeNode"], On::Any, By::Anybody),
    f("getClusterChunksStatus", &[], On::Controllers, By::Users),
    f("getRecoveryTaskStatus", &[], On::Controllers, By::Users),
    f("getUnresolvedTxn", &[], On::Controllers, By::Administrators),
    f("getStreamingRaftGroups", &[], On::Workers, By::Anybody),
    f("getHaMvccRaftGroups", &[], On::Workers, By::Anybody),
];

pub(super) async fn call(call: &mut Call<'_>) -> Outcome {
    match call.name {
        "getClusterPerf" => cluster_perf(call).await,
        "getClusterLiveDataNodes" => live_data_nodes(call).await,
        "getClusterChunksStatus" => chunks_status(call.node).await,
        "getRecoveryTaskStatus" => recovery_tasks(call.node).await,
        "getUnresolvedTxn" => {
            leading(call.node, |_, _| ()).await?;
            Rows::new(&[("tid", Type::Long), ("initiatingNode", Type::String)]).done()
        }
        "getStreamingRaftGroups" => raft_groups(call.node, "streamingRaftGroups").await,
        "getHaMvccRaftGroups" => raft_groups(call.node, "mvccTableRaftGroups").await,
        _ => Err(CallError::Unknown),
    }
}

/// Looks at the leader's state, or says who leads.
pub(super) async fn leading<R: Send + 'static>(
    node: &Node,
    look: impl FnOnce(&mut ControllerMachine, Millis) -> R + Send + 'static,
) -> Result<R, CallError> {
    let Brain::Controller(engine) = &node.brain else { return Err(CallError::Unknown) };
    let look = |m: &mut ControllerMachine, now: Millis| {
        if m.controller.is_initialized(now) {
            return Ok(look(m, now));
        }
        let leads = m.controller.is_leader(now);
        Err((leads, m.controller.raft().leader().cloned()))
    };
    match engine.look(look).await.map_err(CallError::Error)? {
        Ok(found) => Ok(found),
        Err((true, _)) => Err(node.not_ready("cluster management")),
        Err((false, leader)) => Err(node.not_leader(leader.as_deref())),
    }
}

/// All nodes as the leader sees them.
pub(super) async fn nodes(node: &Node) -> Result<Vec<NodeStatus>, CallError> {
    let answer = node.ask_leader(Ask::Nodes).await?;
    let Answer::Nodes(nodes) = answer else {
        return Err(CallError::Error(format!("unexpected {answer:?}")));
    };
    Ok(nodes)
}

const PERF: &[(&str, Type)] = &[
    ("host", Type::String),
    ("port", Type::Int),
    ("site", Type::String),
    ("mode", Type::Int),
    ("state", Type::Int),
    ("agentSite", Type::String),
    ("maxConnections", Type::Int),
    ("maxMemSize", Type::Double),
    ("workerNum", Type::Int),
    ("executorNum", Type::Int),
    ("connectionNum", Type::Int),
    ("name", Type::String),
    ("memoryUsed", Type::Long),
    ("memoryAlloc", Type::Long),
    ("cpuUsage", Type::Double),
    ("avgLoad", Type::Double),
    ("medLast10QueryTime", Type::Long),
    ("maxLast10QueryTime", Type::Long),
    ("medLast100QueryTime", Type::Long),
    ("maxLast100QueryTime", Type::Long),
    ("maxRunningQueryTime", Type::Long),
    ("runningJobs", Type::Int),
    ("queuedJobs", Type::Int),
    ("runningTasks", Type::Int),
    ("queuedTasks", Type::Int),
    ("jobLoad", Type::Double),
    ("diskCapacity", Type::Long),
    ("diskFreeSpace", Type::Long),
    ("diskFreeSpaceRatio", Type::Double),
    ("diskWriteRate", Type::Long),
    ("diskReadRate", Type::Long),
    ("lastMinuteWriteVolume", Type::Long),
    ("lastMinuteReadVolume", Type::Long),
    ("networkSendRate", Type::Long),
    ("networkRecvRate", Type::Long),
    ("lastMinuteNetworkSend", Type::Long),
    ("lastMinuteNetworkRecv", Type::Long),
    ("publicName", Type::String),
    ("lastMsgLatency", Type::Long),
    ("cumMsgLatency", Type::Long),
    ("isLeader", Type::Bool),
];

/// The first version whose data nodes answer it too, by asking the leader.
const PERF_EVERYWHERE: [u32; 4] = [3, 0, 0, 0];

async fn cluster_perf(call: &Call<'_>) -> Outcome {
    let node = call.node;
    let is_controller = matches!(node.brain, Brain::Controller(_));
    if !is_controller && !node.shared.version.is_at_least(PERF_EVERYWHERE) {
        return Err(CallError::text("Only master or single mode supports function getClusterPerf"));
    }
    let all = call.arg(0).as_bool() == Some(true);
    let mut nodes = nodes(node).await?;
    nodes.retain(|status| all || status.node.role != NodeRole::Controller);
    let grouped = nodes.iter().any(|status| status.node.group.is_some());
    let mut columns = PERF.to_vec();
    if grouped {
        columns.insert(0, ("computeGroup", Type::String));
    }
    let sites: Vec<(String, String)> = nodes
        .iter()
        .map(|s| (s.node.alias.clone(), format!("{}:{}", s.node.site, s.node.alias)))
        .collect();
    let mut rows = Rows::new(&columns);
    for status in &nodes {
        let agent = status.agent.as_ref().and_then(|alias| {
            sites.iter().find(|(known, _)| known == alias).map(|(_, site)| site.clone())
        });
        let row = perf_row(node, status, agent.unwrap_or_default());
        if grouped {
            let group = text(status.node.group.clone().unwrap_or_default());
            rows.push(std::iter::once(group).chain(row));
        } else {
            rows.push(row);
        }
    }
    rows.done()
}

fn perf_row(node: &Node, status: &NodeStatus, agent: String) -> Vec<Cell> {
    let own = status.node.alias == node.shared.alias();
    let stats = if own { housekeeping::stats(node) } else { status.stats.clone() };
    let info = &status.node;
    let port = info.site.rsplit_once(':').and_then(|(_, port)| port.parse::<i64>().ok());
    let memory = int(stats.memory);
    #[expect(clippy::cast_precision_loss, reason = "a ratio for display")]
    let ratio = match stats.disk_capacity {
        0 => 0.0,
        capacity => stats.disk_free as f64 / capacity as f64,
    };
    let executors = i64::from(stats.workers.saturating_sub(1));
    let mut row = vec![
        text(info.host.clone()),
        maybe(port),
        text(format!("{}:{}", info.site, info.alias)),
        int(info.role.code()),
        int(i32::from(status.online)),
        text(agent),
        int(stats.connections_max),
        real(stats.memory_max_gb),
        int(stats.workers),
        int(executors),
        int(stats.connections),
        text(info.alias.clone()),
        memory.clone(),
        memory,
        real(0.0),
        real(0.0),
    ];
    // Query times are empty without performance monitoring.
    row.extend([Cell::Null, Cell::Null, Cell::Null, Cell::Null]);
    row.extend([int(0), int(stats.running_jobs), int(0), int(stats.running_jobs), int(0)]);
    row.extend([real(0.0), int(stats.disk_capacity), int(stats.disk_free), real(ratio)]);
    row.extend(std::iter::repeat_n(int(0), 8));
    row.extend([text(info.host.clone()), int(0), int(0)]);
    row.push(status.leader.map_or(Cell::Null, flag));
    row
}

async fn live_data_nodes(call: &Call<'_>) -> Outcome {
    let compute = call.arg(0).as_bool() != Some(false);
    let nodes = nodes(call.node).await?;
    let live = nodes.into_iter().filter(|s| s.online).filter(|s| match s.node.role {
        NodeRole::DataNode => true,
        NodeRole::ComputeNode => compute,
        NodeRole::Controller | NodeRole::DdbAgent => false,
    });
    Ok(texts(live.map(|s| format!("{}:{}", s.node.site, s.node.alias))))
}

async fn chunks_status(node: &Node) -> Outcome {
    let statuses = leading(node, |m, now| m.controller.chunk_statuses(now)).await?;
    let lie = node.shared.faults.get(Kind::WrongReplicaCount);
    let lie = lie.map(|text| text.parse::<i64>().unwrap_or(1));
    let mut rows = Rows::new(&[
        ("chunkId", Type::Uuid),
        ("file", Type::String),
        ("size", Type::Long),
        ("version", Type::Int),
        ("vcLength", Type::Int),
        ("versionChain", Type::String),
        ("state", Type::String),
        ("replicas", Type::String),
        ("replicaCount", Type::Int),
        ("lastUpdated", Type::Timestamp),
        ("permission", Type::String),
    ]);
    let offset = local_ms() - jiff::Timestamp::now().as_millisecond();
    for status in &statuses {
        let count = i64::try_from(status.replicas.len()).unwrap_or(i64::MAX);
        rows.push([
            Cell::Bytes(status.place.id.0.to_be_bytes().to_vec()),
            text(status.place.path.clone()),
            // A tablet chunk has no size here.
            int(0),
            int(status.version),
            int(1),
            text(format!("{}:0:{} -> ", status.version, status.version)),
            text(status.state.name()),
            text(replicas(node, status)),
            int(count + lie.unwrap_or(0)),
            int(status.updated_ms + offset),
            text("READ_WRITE"),
        ]);
    }
    rows.done()
}

/// `alias:version:corrupted`, and from 2.00.10 on `:inResolution:timestamp:volume` behind it.
fn replicas(node: &Node, status: &ChunkStatus) -> String {
    let long = node.shared.version.has_new_recovery_words();
    let texts: Vec<String> = status
        .replicas
        .iter()
        .map(|(alias, version)| match long {
            true => format!("{alias}:{version}:0:false:{}:0", status.updated_ms),
            false => format!("{alias}:{version}:0"),
        })
        .collect();
    texts.join(",")
}

async fn recovery_tasks(node: &Node) -> Outcome {
    let look = |m: &mut ControllerMachine, now| {
        (now, m.controller.tasks().cloned().collect::<Vec<Task>>())
    };
    let (now, tasks) = leading(node, look).await?;
    let new_words = node.shared.version.has_new_recovery_words();
    let base = local_ms();
    let moment = |at: Option<Millis>| {
        let ago = at.map(|at| i64::try_from(now.saturating_sub(at)).unwrap_or(0));
        maybe(ago.map(|ago| base - ago))
    };
    let mut rows = Rows::new(&[
        ("TaskId", Type::String),
        ("TaskType", Type::String),
        ("ChunkId", Type::String),
        ("ChunkPath", Type::String),
        ("Source", Type::String),
        ("Dest", Type::String),
        ("Status", Type::String),
        ("AttemptCount", Type::Int),
        ("DeleteSource", Type::Bool),
        ("StartTime", Type::Timestamp),
        ("LastDequeueTime", Type::Timestamp),
        ("LastStartTime", Type::Timestamp),
        ("FinishTime", Type::Timestamp),
        ("IsIncrementalRecovery", Type::Bool),
        ("IsAsyncRecovery", Type::Bool),
        ("ChangeFromIncrementalToFull", Type::Bool),
        ("ChangeToSyncTime", Type::Timestamp),
        ("FailureReason", Type::String),
    ]);
    for task in &tasks {
        rows.push([
            text(format!("{:016x}", task.id)),
            text("ChunkRecovery"),
            text(task.chunk.to_string()),
            text(task.path.clone()),
            text(task.source.clone()),
            text(task.dest.clone()),
            text(status_word(task.status, new_words)),
            int(task.attempts),
            flag(false),
            moment(Some(task.created_at)),
            moment(task.started_at),
            moment(task.started_at),
            moment(task.ended_at),
            flag(task.kind == TaskKind::CatchUp),
            flag(true),
            flag(false),
            Cell::Null,
            text(task.reason.clone()),
        ]);
    }
    rows.done()
}

fn status_word(status: TaskStatus, new_words: bool) -> &'static str {
    match (status, new_words) {
        (TaskStatus::Waiting, _) => "Waiting",
        (TaskStatus::InProgress, _) => "In-Progress",
        (TaskStatus::Finished, true) => "Finished",
        (TaskStatus::Finished, false) => "Finish",
        (TaskStatus::Aborted, true) => "Aborted",
        (TaskStatus::Aborted, false) => "Abort",
    }
}

/// The Raft groups this node is in, from `id:alias:alias:…,id:…`.
async fn raft_groups(node: &Node, key: &str) -> Outcome {
    let cluster = node.cluster().await?;
    let mut rows = (Vec::new(), Vec::new());
    for group in node.shared.setting(key).unwrap_or("").split(',') {
        let mut parts = group.split(':');
        let Some(id) = parts.next().and_then(|id| id.trim().parse::<i32>().ok()) else { continue };
        let members: Vec<&str> = parts.collect();
        if !members.contains(&node.shared.alias()) {
            continue;
        }
        let sites = members.iter().filter_map(|alias| {
            let found = cluster.nodes.iter().find(|n| n.alias == **alias)?;
            Some(format!("{}:{}", found.site, found.alias))
        });
        rows.0.push(id);
        rows.1.push(sites.collect::<Vec<_>>().join(","));
    }
    let columns = [("id", Vector::ints(rows.0)), ("sites", Vector::strings(rows.1))];
    Value::table(columns).map_err(|error| CallError::Error(error.to_string()))
}
