//! What a node does by itself now and then.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use standin_model::member;
use standin_model::message::NodeStats;

use super::{Brain, Node, inserts};
use crate::config::Role;
use crate::functions::jobs;

/// Redo logs wait for 30 s at least: a look every second is soon enough, scaled.
const COLLECT: Duration = Duration::from_secs(1);
/// Never more often than this, however small the scale.
const LEAST: Duration = Duration::from_millis(200);

/// Starts the tasks of a node.
pub(crate) fn start(node: &Arc<Node>, left: Vec<PathBuf>) {
    if matches!(node.brain, Brain::Controller(_)) {
        return;
    }
    tokio::spawn(tick(Arc::clone(node)));
    if matches!(node.shared.role, Role::DataNode | Role::ComputeNode) {
        tokio::spawn(first_steps(Arc::clone(node), left));
    }
}

/// Load for the heartbeats, and redo logs.
async fn tick(node: Arc<Node>) {
    let pause = node.shared.scaled(COLLECT).max(LEAST);
    loop {
        let stats = stats(&node);
        let Brain::Member(engine) = &node.brain else { return };
        engine.input(member::Input::Stats(stats));
        if node.shared.role == Role::DataNode {
            let collect = |m: &mut super::member::MemberMachine, _| {
                if let Some(store) = &mut m.store {
                    store.collect_redo();
                }
            };
            if engine.look(collect).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Once the node is ready: what became of the last run's inserts, then the startup script.
async fn first_steps(node: Arc<Node>, left: Vec<PathBuf>) {
    while !node.is_ready().await {
        tokio::time::sleep(LEAST).await;
    }
    jobs::run_startup_script(&node).await;
    inserts::settle(&node, left).await;
}

/// What `getClusterPerf` shows of this node.
pub(crate) fn stats(node: &Node) -> NodeStats {
    let number = |key: &str, default: u32| {
        node.shared.setting(key).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let gigabytes = node.shared.setting("maxMemSize").and_then(|text| text.parse().ok());
    let (disk_capacity, disk_free) = disk(&node.shared.places.home);
    NodeStats {
        connections: u32::try_from(node.sessions.count()).unwrap_or(u32::MAX),
        memory: memory(),
        connections_max: number("maxConnections", 512),
        memory_max_gb: gigabytes.unwrap_or(8.0),
        workers: number("workerNum", 4),
        running_jobs: u32::try_from(node.sessions.running()).unwrap_or(u32::MAX),
        disk_capacity,
        disk_free,
    }
}

/// Resident memory of this process, in bytes.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1_024
}

/// Size and free bytes of the disk that holds a folder.
fn disk(folder: &std::path::Path) -> (u64, u64) {
    match rustix::fs::statvfs(folder) {
        Ok(found) => (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize),
        Err(_) => (0, 0),
    }
}
