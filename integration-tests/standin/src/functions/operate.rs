//! What an administrator does to the cluster.

use std::time::Duration;

use standin_lang::eval::CallError;
use standin_lang::value::Value;
use standin_model::controller::Input;
use standin_model::message::Ask;

use super::{By, Call, Function, On, Outcome, cluster, f};
use crate::node::{Brain, Node};

pub(super) const FUNCTIONS: &[Function] = &[
    f("startDataNode", &["X"], On::Controllers, By::Administrators),
    f("stopDataNode", &["X"], On::Controllers, By::Administrators),
    f("setDatanodeRestartInterval", &["interval"], On::Controllers, By::Administrators),
    f("getDatanodeRestartInterval", &[], On::Controllers, By::Administrators),
    f("setRaftElectionTick", &["groupId", "tickCount"], On::Controllers, By::Administrators),
    f("getRaftElectionTick", &["groupId"], On::Controllers, By::Administrators),
    f("setDynamicConfig", &["configName", "configValue"], On::Any, By::Administrators),
    f("suspendRecovery", &[], On::Controllers, By::Administrators),
    f("resumeRecovery", &[], On::Controllers, By::Administrators),
    f("cancelRecoveryTask", &["taskId"], On::Controllers, By::Administrators),
    f("triggerNodeReport", &["nodeAlias", "chunkId"], On::Controllers, By::Administrators),
];

/// `triggerNodeReport` came with this version.
const REPORT_SINCE: [u32; 4] = [2, 0, 8, 0];

pub(super) async fn call(call: &mut Call<'_>) -> Outcome {
    let node = call.node;
    match call.name {
        "startDataNode" => {
            let nodes = call.texts(0)?;
            node.ask_leader(Ask::StartNodes { nodes }).await?;
        }
        "stopDataNode" => {
            let (nodes, wait) = (call.texts(0)?, !node.shared.version.stops_asynchronously());
            node.ask_leader(Ask::StopNodes { nodes, wait }).await?;
        }
        "setDatanodeRestartInterval" => set_restart_interval(call)?,
        "getDatanodeRestartInterval" => return restart_interval(node).await,
        "setRaftElectionTick" => {
            let tick = u64::try_from(call.number(1)?).unwrap_or(0);
            if tick < 800 {
                return Err(CallError::text("The election tick must not be less than 800."));
            }
            let ms = node.shared.scaled(Duration::from_millis(tick * 10));
            input(node, Input::SetElection(millis(ms)))?;
        }
        "getRaftElectionTick" => {
            let tick = node.shared.setting("raftElectionTick").and_then(|t| t.parse().ok());
            return Ok(Value::int(tick.unwrap_or(800)));
        }
        "setDynamicConfig" => set_dynamic(call)?,
        "suspendRecovery" => input(node, Input::SuspendRecovery(true))?,
        "resumeRecovery" => input(node, Input::SuspendRecovery(false))?,
        "cancelRecoveryTask" => {
            cluster::leading(node, |_, _| ()).await?;
            for task in call.texts(0)? {
                let id = u64::from_str_radix(&task, 16);
                let id = id.map_err(|_| CallError::Error(format!("no recovery task {task}")))?;
                input(node, Input::CancelTask(id))?;
            }
        }
        "triggerNodeReport" if node.shared.version.is_at_least(REPORT_SINCE) => {
            cluster::leading(node, |_, _| ()).await?;
            input(node, Input::AskReport(call.text(0)?))?;
        }
        "triggerNodeReport" => return Err(call.not_yet()),
        _ => return Err(CallError::Unknown),
    }
    Ok(Value::Nothing)
}

fn input(node: &Node, input: Input) -> Result<(), CallError> {
    let Brain::Controller(engine) = &node.brain else { return Err(CallError::Unknown) };
    engine.input(input);
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Lost at a restart, and not told to the other controllers.
fn set_restart_interval(call: &Call<'_>) -> Result<(), CallError> {
    let shared = &call.node.shared;
    let seconds = u64::try_from(call.number(0)?).unwrap_or(0);
    let ms = shared
        .version
        .restart_seconds(seconds)
        .map(|seconds| millis(shared.scaled(Duration::from_secs(seconds))));
    input(call.node, Input::SetRestart(ms))
}

async fn restart_interval(node: &Node) -> Outcome {
    let Brain::Controller(engine) = &node.brain else { return Err(CallError::Unknown) };
    let ms = engine.look(|m, _| m.controller.restart_ms()).await.map_err(CallError::Error)?;
    let Some(ms) = ms else { return Ok(Value::int(0)) };
    let seconds = Duration::from_millis(ms).div_f64(node.shared.scale).as_secs();
    // Before 2.00.9.4 a hundred seconds did not count.
    let hidden = if node.shared.version.is_at_least([2, 0, 9, 4]) { 0 } else { 100 };
    Ok(Value::int(i32::try_from(seconds + hidden).unwrap_or(i32::MAX)))
}

/// `dfsRecoveryWaitTime` is not among the keys that can be set, as on the real server.
fn set_dynamic(call: &Call<'_>) -> Result<(), CallError> {
    let (name, shared) = (call.text(0)?, &call.node.shared);
    match name.as_str() {
        "dfsChunkNodeHeartBeatTimeout" => {
            let seconds = u64::try_from(call.number(1)?).unwrap_or(0).max(1);
            let ms = millis(shared.scaled(Duration::from_secs(seconds)));
            input(call.node, Input::SetHeartbeatTimeout(ms))
        }
        // Taken, without any effect here.
        "maxConnections" | "recoveryWorkers" | "logLevel" => Ok(()),
        _ => Err(CallError::Error(format!("{name} can't be modified online."))),
    }
}
