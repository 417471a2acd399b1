//! `grayfin serve` as a process: start, SIGTERM, kill -9, refusals.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use grayfin_coordinator::config::{self, Config};
use grayfin_proto::{
    identity::Identity,
    v1::{Empty, WatchRequest},
};
use grayfin_types::{
    event::{Body, Event},
    plan::Policy,
    status::{RolloutState, RolloutStatus},
};

use crate::{
    common::{self, DEADLINE, Pki},
    coordinator::{fakes, free_port, operator, play, read, wish},
    world::World,
};

struct Site {
    pki: Pki,
    dir: tempfile::TempDir,
    port: u16,
}

impl Site {
    fn new() -> Self {
        Self { pki: Pki::new(), dir: tempfile::tempdir().unwrap(), port: free_port() }
    }

    fn write(&self, more: &str) -> PathBuf {
        let tls = self.pki.files(&Identity::Coordinator(1));
        let file = self.dir.path().join("coordinator.toml");
        let text = format!(
            r#"id = 1
state_dir = "state"
listen = "127.0.0.1:{}"
look_interval_ms = 50
{more}
[tls]
ca = "{}"
cert = "{}"
key = "{}"
[raft]
heartbeat_ms = 50
election_min_ms = 150
election_max_ms = 300
[policy]
soak_ms = 100
leader_settled_ms = 50
constructing_look_ms = 100
fact_age_max_ms = 2000
free_floor_bytes = 1
"#,
            self.port,
            tls.ca.display(),
            tls.cert.display(),
            tls.key.display()
        );
        fs::write(&file, text).unwrap();
        file
    }

    fn serve(&self, config: &Path) -> Process {
        let log = self.dir.path().join("log");
        let open = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_grayfin"))
            .args(["serve", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(open)
            .spawn()
            .unwrap();
        Process { child, log }
    }

    async fn until_it_leads(&self) {
        common::until_told("it to serve", async || {
            operator(&self.pki, self.port).holds(Empty {}).await.ok().map(drop)
        })
        .await;
    }
}

struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        common::until("the process ends", || child.try_wait().unwrap()).await
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended long ago.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn it_survives_kill_9_in_a_rollout_and_ends_cleanly_on_sigterm() {
    let site = Site::new();
    let config = site.write("");
    common::process(async {
        let world = std::sync::Arc::new(World::new(&["db1", "db2", "db3"]));
        let mut process = site.serve(&config);
        site.until_it_leads().await;
        let _fakes = play(&fakes(&world, &site.pki, site.port));
        let mut client = operator(&site.pki, site.port);
        let end = tokio::time::Instant::now() + DEADLINE;
        let rollout = loop {
            let answer = client.start(wish("wish")).await.unwrap().into_inner();
            if !answer.rollout.is_empty() {
                break answer.rollout;
            }
            assert!(tokio::time::Instant::now() < end, "{}", process.text());
        };
        let mut next = 1;
        let mut killed = false;
        let state = 'watch: loop {
            assert!(tokio::time::Instant::now() < end, "{}", process.text());
            let request = WatchRequest { rollout: rollout.clone(), from: next };
            let Ok(stream) = client.watch(request).await else { continue };
            let mut stream = stream.into_inner();
            while let Ok(Some(document)) = stream.message().await {
                let event: Event = read(&document);
                assert_eq!(event.seq.0, next, "each event once, in order");
                next += 1;
                if matches!(event.body, Body::Go { .. }) && !killed {
                    killed = true;
                    process.child.kill().unwrap();
                    process.ended().await;
                    process = site.serve(&config);
                }
                if let Body::State { state } = event.body
                    && state.is_final()
                {
                    break 'watch state;
                }
            }
        };
        assert_eq!((state, killed), (RolloutState::Succeeded, true));
        assert_eq!(*world.down_at_once.lock().unwrap(), 1);
        let list: Vec<RolloutStatus> = read(client.list(Empty {}).await.unwrap().get_ref());
        assert_eq!(list.len(), 1);
        // Host agents are still connected: their sessions are ended, and so is the process.
        process.terminate();
        let status = process.ended().await;
        assert!(status.success(), "{status}: {}", process.text());
        assert!(process.text().contains("coordinator stopped"), "{}", process.text());
    });
}

#[test]
fn a_bad_configuration_or_a_damaged_store_ends_it_with_a_reason() {
    let site = Site::new();
    common::process(async {
        let mut process = site.serve(&site.write("look_intervall_ms = 7"));
        let status = process.ended().await;
        assert_eq!(status.code(), Some(2), "{}", process.text());
        let text = process.text();
        assert!(text.contains("coordinator.toml` line 5"), "{text}");
        assert!(text.contains("look_intervall_ms"), "{text}");

        let config = site.write("");
        let mut process = site.serve(&config);
        site.until_it_leads().await;
        process.terminate();
        process.ended().await;
        let file = site.dir.path().join("state").join(grayfin_coordinator::store::FILE_NAME);
        let mut bytes = fs::read(&file).unwrap();
        bytes[4096..8192].fill(0xa5);
        fs::write(&file, bytes).unwrap();
        let mut process = site.serve(&config);
        let status = process.ended().await;
        assert!(!status.success());
        assert!(process.text().contains("GF0707"), "{}", process.text());
    });
}

#[test]
fn the_shipped_configuration_lists_every_key_with_its_default() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/coordinator.toml");
    let shipped = Config::read(&file).unwrap();
    assert_eq!(shipped.policy, Policy::default());
    assert_eq!(shipped.raft, config::Raft::default());
    assert_eq!(shipped.look_interval, std::time::Duration::from_secs(5));
    let text = fs::read_to_string(&file).unwrap();
    let listed: toml::Table = text.parse().unwrap();
    let keys = |value: &toml::Value| {
        value.as_table().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>()
    };
    let all = toml::Value::try_from(Policy::default()).unwrap();
    assert_eq!(keys(&listed["policy"]), keys(&all));
    for key in ["package_dir", "join", "advertise", "[cluster.trade.policy]"] {
        assert!(text.contains(key), "{key}");
    }
}
