//! The same restarts without Grayfin, by somebody who never sleeps: what the database itself takes.
//!
//! Nodes of a host are stopped in the order in which Grayfin stops them and started in the order in
//! which it starts them. There is no backup, no new software, no guard, no hold. Between two looks there
//! is a millisecond, so that next to nothing of what is measured is waiting for a look.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::Signal;
use standin::config::Role;

use crate::Lab;
use crate::ddb::Ddb;
use crate::processes::ProcessId;
use crate::topology::Node;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);
/// For anything that is waited for here.
const LIMIT: Duration = Duration::from_secs(120);

/// What one host took, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// From the first order to stop until the last process is gone.
    pub(super) stop_ms: u64,
    /// From the first start until every node answers and is ready.
    pub(super) start_ms: u64,
    /// From there until the cluster is whole: all on line, one leader, every chunk complete.
    pub(super) whole_ms: u64,
}

impl Taken {
    /// All of it.
    pub(super) fn total(self) -> u64 {
        self.stop_ms + self.start_ms + self.whole_ms
    }
}

/// Restarts the nodes of every host of the first cluster, the leader's host last.
pub(super) async fn restart_all(lab: &Lab) -> anyhow::Result<Vec<Taken>> {
    let leader = lab.leader(lab.cluster()).await?.host;
    let mut hosts: Vec<u8> = lab.topology().hosts.iter().map(|host| host.number).collect();
    hosts.sort_by_key(|number| (*number == leader, *number));
    let mut taken = Vec::new();
    for host in hosts {
        taken.push(restart(lab, host).await.with_context(|| format!("restart host {host}"))?);
    }
    Ok(taken)
}

async fn restart(lab: &Lab, host: u8) -> anyhow::Result<Taken> {
    let cluster = lab.cluster();
    let on = |role: Role| -> Vec<&Node> {
        cluster.with_role(role).filter(|node| node.host == host).collect()
    };
    let mut working = on(Role::DataNode);
    working.extend(on(Role::ComputeNode));
    let mut controlling = on(Role::Controller);
    controlling.extend(on(Role::DdbAgent));
    let begun = Instant::now();
    let running = processes(lab, &working)?;
    ask_leader(lab, "stopDataNode", &working).await?;
    gone(&running).await?;
    let running = processes(lab, &controlling)?;
    running.iter().for_each(|process| process.signal(Signal::TERM));
    gone(&running).await?;
    let stop_ms = millis(begun);

    let begun = Instant::now();
    for node in &controlling {
        lab.start_node(node).await?;
        until("a node to answer", || answers(node)).await?;
    }
    until("the leader to take the order", || async {
        ask_leader(lab, "startDataNode", &working).await.is_ok()
    })
    .await?;
    for node in &working {
        until("a node to be ready", || ready(node)).await?;
    }
    let start_ms = millis(begun);

    let begun = Instant::now();
    lab.wait_cluster_healthy(cluster).await?;
    Ok(Taken { stop_ms, start_ms, whole_ms: millis(begun) })
}

fn processes(lab: &Lab, nodes: &[&Node]) -> anyhow::Result<Vec<ProcessId>> {
    let mut found = Vec::new();
    for node in nodes {
        found.extend(lab.node(node.alias())?.processes());
    }
    Ok(found)
}

async fn ask_leader(lab: &Lab, function: &str, nodes: &[&Node]) -> anyhow::Result<()> {
    let quoted: Vec<String> = nodes.iter().map(|node| format!("\"{}\"", node.alias())).collect();
    let leader = lab.leader(lab.cluster()).await?;
    let script = format!("{function}([{}])", quoted.join(","));
    Ddb::at(leader.site.address()).run(&script).await.map(drop)
}

async fn answers(node: &Node) -> bool {
    // A DolphinDB agent takes no login.
    Ddb::at(node.site.address()).as_guest().text("version()").await.is_ok()
}

async fn ready(node: &Node) -> bool {
    let asked = Ddb::at(node.site.address()).eval("isDataNodeInitialized()").await;
    asked.is_ok_and(|value| value.as_bool() == Some(true))
}

async fn gone(processes: &[ProcessId]) -> anyhow::Result<()> {
    until("processes to end", || async { !processes.iter().any(|process| process.is_alive()) })
        .await
}

async fn until<F>(what: &str, mut look: impl FnMut() -> F) -> anyhow::Result<()>
where
    F: Future<Output = bool>,
{
    let begun = Instant::now();
    while !look().await {
        anyhow::ensure!(begun.elapsed() < LIMIT, "waited {LIMIT:?} for {what}");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// The least that a backup of the same files can take: a plain copy, on disk, read back once.
pub(super) fn plain_copy(backup: &Path) -> anyhow::Result<u64> {
    let copy = backup.with_extension("plain-copy");
    let begun = Instant::now();
    let outcome = copy_tree(backup, &copy);
    let took = millis(begun);
    if copy.exists() {
        std::fs::remove_dir_all(&copy).with_context(|| format!("remove `{}`", copy.display()))?;
    }
    outcome.with_context(|| format!("copy `{}`", backup.display())).map(|()| took)
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), &target)?;
            std::fs::File::open(&target)?.sync_all()?;
            drop(std::fs::read(&target)?);
        }
    }
    std::fs::File::open(to)?.sync_all()
}

/// The newest backup of a host.
pub(super) fn newest_backup(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut names: Vec<(std::time::SystemTime, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        names.push((entry.metadata()?.modified()?, entry.path()));
    }
    names.sort();
    names
        .pop()
        .map(|(_, path)| path)
        .with_context(|| format!("no backup in `{}`", folder.display()))
}

fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}
