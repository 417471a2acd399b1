//! What the coordinator's tests share: certificates, stores, ready-made commands.

use std::{
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use grayfin_coordinator::{
    config,
    store::{
        Replicated, replicated,
        types::{NodeInfo, Raft},
    },
};
use grayfin_coordinator_core::{
    Cmd,
    cmd::{Action, Control, Enrol, Start},
};
use grayfin_proto::{identity::Identity, pki, tls};
use grayfin_types::{
    Generation, HostId, LedgerId, RolloutId,
    plan::{HostPlan, Plan},
};
use openraft::RaftMetrics;

/// No condition that a test waits for takes longer, unless it never comes.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The cluster of all tests.
pub const CLUSTER: &str = "trade";

/// Runs a part of a test as a process of its own would run: when it ends, everything that is left
/// of it is gone at once, without a word, as after kill -9.
pub fn process<T>(work: impl Future<Output = T>) -> T {
    tls::install_provider();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let out = runtime.block_on(work);
    runtime.shutdown_timeout(DEADLINE);
    out
}

/// Waits for a condition.
pub async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    until_told(what, async || condition()).await
}

/// The same for a condition that has to ask somebody.
pub async fn until_told<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < end, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A CA and certificates for everybody.
#[derive(Debug)]
pub struct Pki {
    dir: tempfile::TempDir,
}

impl Pki {
    /// Makes a CA.
    pub fn new() -> Self {
        tls::install_provider();
        let dir = tempfile::tempdir().unwrap();
        pki::make_ca(dir.path()).unwrap();
        Self { dir }
    }

    /// Returns the certificate files of an identity; it is issued on first use.
    pub fn files(&self, identity: &Identity) -> tls::Files {
        let out = self.dir.path().join(identity.to_string().replace(':', "-"));
        let file = |suffix: &str| PathBuf::from(format!("{}{suffix}", out.display()));
        if !file(".pem").exists() {
            pki::issue(self.dir.path(), identity, &out).unwrap();
        }
        tls::Files { ca: self.dir.path().join("ca.pem"), cert: file(".pem"), key: file(".key") }
    }

    /// Opens the store of coordinator 1 in a folder.
    pub async fn open_store(&self, dir: &Path) -> Replicated {
        let options = replicated::Options {
            id: 1,
            address: "127.0.0.1:1".to_owned(),
            tls: self.files(&Identity::Coordinator(1)),
            timing: config::Raft { heartbeat_ms: 50, election_min_ms: 150, election_max_ms: 300 },
            form: true,
        };
        Replicated::open(dir, &options).await.unwrap()
    }
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes the enrolment of a host.
pub fn enrol(host: &str) -> Cmd {
    Cmd::Enrol(Enrol {
        host: HostId::new(host).unwrap(),
        clusters: [CLUSTER.parse().unwrap()].into(),
        generation: Generation(1),
        ledger_id: LedgerId::new(format!("ledger-{host}")).unwrap(),
        ledger_position: 0,
        agent_version: "0.1.0".to_owned(),
        last_orders: [].into(),
        ledger: None,
    })
}

/// Makes the start of a rollout over `db1` to `db3`.
pub fn start(request_id: &str) -> Cmd {
    Cmd::Start(Box::new(Start {
        request_id: request_id.to_owned(),
        rollout: rollout_id(request_id),
        plan: plan(&["db1", "db2", "db3"]),
        findings: Vec::new(),
        by: "ann".to_owned(),
    }))
}

/// Makes an operator's act.
pub fn control(request_id: &str, rollout: &RolloutId, action: Action) -> Cmd {
    Cmd::Control(Control {
        request_id: request_id.to_owned(),
        rollout: rollout.clone(),
        action,
        reason: "because".to_owned(),
        by: "ann".to_owned(),
    })
}

/// Makes a plan over hosts without nodes.
pub fn plan(hosts: &[&str]) -> Plan {
    let host = |name: &&str| HostPlan::bare(HostId::new(*name).unwrap());
    let hosts = hosts.iter().map(host).collect();
    let bare = Plan::bare(CLUSTER.parse().unwrap(), "2.00.8.12".parse().unwrap(), hosts);
    Plan { hash: "0".repeat(64), ..bare }
}

/// Returns the id of the rollout that [`start`] starts.
pub fn rollout_id(request_id: &str) -> RolloutId {
    RolloutId::new(format!("r-{request_id}")).unwrap()
}

/// An operator's act that every unfinished rollout takes.
pub const fn pause() -> Action {
    Action::Pause
}

/// Makes a snapshot and drops the log that it replaces.
pub async fn purge_everything(raft: &Raft) {
    raft.trigger().snapshot().await.unwrap();
    let upto = raft.metrics().borrow().last_applied.unwrap().index;
    let wait = || raft.wait(Some(DEADLINE));
    let made = |m: &RaftMetrics<u64, NodeInfo>| m.snapshot.is_some_and(|id| id.index >= upto);
    wait().metrics(made, "snapshot").await.unwrap();
    raft.trigger().purge_log(upto).await.unwrap();
    let purged = |m: &RaftMetrics<u64, NodeInfo>| m.purged.is_some_and(|id| id.index >= upto);
    wait().metrics(purged, "purge").await.unwrap();
}
