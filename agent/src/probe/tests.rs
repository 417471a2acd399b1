//! The prober against fake nodes.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;

use grayfin_types::{
    ClusterId, Code, Generation, LedgerId, Token,
    facts::{AgentStanding, HostFacts, ProcessState},
    plan::{DebtOrder, Effect, UpgradeMode},
};
use standin_lang::value::{Type, Value, Vector};

use super::fake::{Act, Fake, PASSWORD, Store};
use super::*;
use crate::config::{StopBy, Units};

mod hosts;

/// A cluster of fake nodes, and a host whose files name them.
struct Cluster {
    dir: tempfile::TempDir,
    controllers: Vec<Arc<Fake>>,
    data: Vec<Arc<Fake>>,
    prober: Prober,
}

impl Cluster {
    async fn start(password: &str) -> Self {
        let store = Arc::new(Store::default());
        let (mut controllers, mut data) = (Vec::new(), Vec::new());
        for alias in ["c1", "c2", "c3"] {
            let fake = Fake::start(alias, NodeRole::Controller, &store).await;
            fake.answer("getActiveMaster", Value::string("c2"));
            controllers.push(fake);
        }
        for alias in ["n1", "n2"] {
            data.push(Fake::start(alias, NodeRole::DataNode, &store).await);
        }
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("server/clusterDemo/config");
        std::fs::create_dir_all(&config).unwrap();
        std::fs::create_dir_all(dir.path().join("packages")).unwrap();
        let lines: Vec<String> =
            controllers.iter().chain(&data).map(|fake| line(&fake.spec)).collect();
        let nodes = format!("localSite,mode\n{}\n", lines.join("\n"));
        std::fs::write(config.join("cluster.nodes"), nodes).unwrap();
        let site = &controllers[0].spec;
        let own = format!("mode=controller\nlocalSite={}:{}:c1\n", site.address, site.port);
        std::fs::write(config.join("controller.cfg"), own).unwrap();
        let prober = prober(dir.path(), password);
        let cluster = Self { dir, controllers, data, prober };
        cluster.set_leader_answers(&lines);
        cluster
    }

    fn leader(&self) -> &Fake {
        &self.controllers[1]
    }

    fn set_leader_answers(&self, lines: &[String]) {
        let leader = self.leader();
        leader.answer("getClusterNodesCfg", Vector::strings(lines.to_vec()).into());
        leader.answer(
            "loadClusterNodesConfigs",
            Vector::strings(["streamingRaftGroups=2:n1:n2"]).into(),
        );
        leader.answer("getClusterPerf", self.perf(&[1, 1, 1, 1, 1]));
        leader.answer("getConfig", Value::null());
        leader.answer("getRecoveryTaskStatus", statuses(&["Finish", "Aborted", "In-Progress"]));
        leader.answer("getClusterChunksStatus", chunks(&GOOD));
    }

    fn perf(&self, states: &[i32]) -> Value {
        let specs: Vec<&NodeSpec> =
            self.controllers.iter().chain(&self.data).map(|fake| &fake.spec).collect();
        let mode = |spec: &&NodeSpec| if spec.role == NodeRole::Controller { 2 } else { 0 };
        Value::table([
            ("host", Vector::strings(specs.iter().map(|s| s.address.clone()))),
            ("port", Vector::ints(specs.iter().map(|s| i32::from(s.port)))),
            ("mode", Vector::ints(specs.iter().map(mode))),
            ("state", Vector::ints(states.iter().copied())),
            ("name", Vector::strings(specs.iter().map(|s| s.alias.to_string()))),
            ("memoryUsed", Vector::longs(specs.iter().map(|_| 1000))),
            ("maxMemSize", Vector::doubles(specs.iter().map(|_| 4.0))),
        ])
        .unwrap()
    }

    async fn host(&self, depth: Depth) -> HostFacts {
        self.prober.host_facts(&depth, standing()).await
    }
}

fn line(spec: &NodeSpec) -> String {
    let mode = if spec.role == NodeRole::Controller { "controller" } else { "datanode" };
    format!("{}:{}:{},{mode}", spec.address, spec.port, spec.alias)
}

fn standing() -> AgentStanding {
    AgentStanding {
        version: "0".into(),
        generation: Generation(1),
        ledger_id: LedgerId::new("l").unwrap(),
        ledger_position: 0,
        floor: Token(0),
        open_hold: None,
    }
}

fn prober(dir: &std::path::Path, password: &str) -> Prober {
    let credentials = dir.join("credentials.toml");
    write_credentials(&credentials, password);
    let server_dir = dir.join("server");
    let installation = Installation {
        cluster: ClusterId::new("trade").unwrap(),
        work_dir: server_dir.join("clusterDemo"),
        executable: "node".into(),
        package_dir: dir.join("packages"),
        backup_dir: dir.join("backups/deep"),
        credentials_file: credentials,
        upgrade_mode: UpgradeMode::Native,
        upgrade_script: server_dir.join("clusterDemo/upgrade.sh"),
        path: String::new(),
        start_controller: vec![],
        start_ddb_agent: vec![],
        stop: StopBy::Signal,
        units: Units { systemctl: "systemctl".into(), names: Default::default() },
        server_dir,
    };
    let options = Options { probe: Duration::from_millis(500), ..Options::default() };
    let host = HostId::new("host1").unwrap();
    Prober::new(host, Arc::new(installation), dir.join("state"), options)
}

fn write_credentials(path: &std::path::Path, password: &str) {
    let entry = |name: &str| format!("[{name}]\nuser = \"{name}\"\npassword = \"{password}\"\n");
    std::fs::write(path, entry("probe") + &entry("operate")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn statuses(texts: &[&str]) -> Value {
    Value::table([("Status", Vector::strings(texts.to_vec()))]).unwrap()
}

type ChunkRow = (&'static str, i32, &'static str, i32);

const GOOD: [ChunkRow; 4] = [
    ("COMPLETE", 3, "n1:3:0:false:7494976728710525:52,n2:3:0:false:7494976728710526:52", 2),
    ("COMPLETE", 4, "n2:4:0:false:7494976728710527:52,n1:4:0:false:7494976728710528:52", 2),
    ("COMPLETE", 5, "n2:5:0:false:7494976728710529:52,n1:4:0:false:7494976728710530:52", 2),
    ("RECOVERING", 5, "n2:5:0:false:7494976728710529:52", 1),
];

fn chunks(rows: &[ChunkRow]) -> Value {
    let ids = (0..rows.len()).map(|at| {
        let mut id = [7; 16];
        id[15] = u8::try_from(at).unwrap();
        id
    });
    Value::table([
        ("chunkId", Vector::uuids(ids)),
        ("file", Vector::strings((0..rows.len()).map(|at| format!("/db/{at}")))),
        ("version", Vector::ints(rows.iter().map(|row| row.1))),
        ("state", Vector::strings(rows.iter().map(|row| row.0))),
        ("replicas", Vector::strings(rows.iter().map(|row| row.2))),
        ("replicaCount", Vector::ints(rows.iter().map(|row| row.3))),
    ])
    .unwrap()
}

fn known<T>(probe: &Probe<T>) -> &T {
    probe.known().unwrap_or_else(|| panic!("unknown: {:?}", probe.why_unknown()))
}

#[tokio::test]
async fn the_cluster_is_seen_whole() {
    let cluster = Cluster::start(PASSWORD).await;
    let facts = cluster.prober.cluster_facts(true).await;
    assert_eq!(known(&facts.leader).as_str(), "c2");
    assert_eq!(facts.leader_votes.len(), 3);
    let nodes = known(&facts.nodes);
    assert_eq!(nodes.len(), 5);
    assert!(nodes.iter().all(|node| node.up && node.answers == Probe::Known(true)));
    assert!(nodes.iter().all(|node| known(&node.version).to_string() == "2.00.8.10"));
    assert_eq!(*known(&facts.replication_factor), 2);
    assert_eq!(*known(&facts.recovery_wait_ms), 0);
    assert_eq!(*known(&facts.recovery_tasks), 1);
    assert_eq!(known(&facts.raft_groups)[0].members.len(), 2);

    let chunks = known(&facts.chunks);
    assert_eq!(chunks.total, 4);
    let shown: Vec<String> = chunks
        .placements
        .iter()
        .map(|p| {
            let on: Vec<&str> = p.current_on.iter().map(NodeAlias::as_str).collect();
            let off: Vec<&str> = p.stale_on.iter().map(NodeAlias::as_str).collect();
            format!("{} {on:?} {off:?} x{}", p.state, p.chunks)
        })
        .collect();
    let expected = [
        "COMPLETE [\"n1\", \"n2\"] [] x2",
        "RECOVERING [\"n2\"] [] x1",
        "COMPLETE [\"n2\"] [\"n1\"] x1",
    ];
    assert_eq!(shown, expected);
    assert_eq!(chunks.unsettled.len(), 1);
    assert_eq!(chunks.unsettled[0].id, "07070707-0707-0707-0707-070707070703");
    assert_eq!((chunks.unsettled[0].path.as_str(), chunks.truncated), ("/db/3", false));
    assert!(cluster.leader().unmodelled.lock().unwrap().is_empty());
    // Only the leader is asked for the expensive things, and each once.
    assert_eq!(cluster.leader().count("getClusterPerf"), 1);
    assert_eq!(cluster.leader().count("getClusterChunksStatus"), 1);
    assert_eq!(cluster.controllers[0].count("getClusterPerf"), 0);
}

#[tokio::test]
async fn both_formats_of_replicas_are_grouped_alike() {
    let cluster = Cluster::start(PASSWORD).await;
    let old: [ChunkRow; 3] = [
        ("COMPLETE", 1, "n1:1:0,n2:1:0", 2),
        ("COMPLETE", 2, "n2:2:0,n1:2:0", 2),
        ("COMPLETE", 2, "n2:2:0,n1:2:1", 2),
    ];
    cluster.leader().answer("getClusterChunksStatus", chunks(&old));
    let facts = cluster.prober.cluster_facts(true).await;
    let placements = &known(&facts.chunks).placements;
    assert_eq!(placements.len(), 2, "{placements:?}");
    assert_eq!((placements[0].current_on.len(), placements[0].chunks), (2, 2));
    assert_eq!((placements[1].current_on.len(), placements[1].stale_on.len()), (1, 1));
}

#[tokio::test]
async fn too_many_uneven_chunks_are_counted_as_if_nothing_were_current() {
    let cluster = Cluster::start(PASSWORD).await;
    let rows: Vec<ChunkRow> = (0..2100).map(|_| ("COMPLETE", 9, "n1:8:0,n2:9:0", 2)).collect();
    let ids = Vector::strings((0..rows.len()).map(|at| at.to_string()));
    let table = Value::table([
        ("chunkId", ids),
        ("file", Vector::strings(rows.iter().map(|_| "/db/x"))),
        ("version", Vector::longs(rows.iter().map(|row| i64::from(row.1)))),
        ("state", Vector::symbols(rows.iter().map(|row| row.0))),
        ("replicas", Vector::strings(rows.iter().map(|row| row.2))),
        ("replicaCount", Vector::ints(rows.iter().map(|row| row.3))),
    ]);
    cluster.leader().answer("getClusterChunksStatus", table.unwrap());
    let facts = cluster.prober.cluster_facts(true).await;
    let chunks = known(&facts.chunks);
    assert_eq!((chunks.total, chunks.placements.len()), (2100, 1));
    assert!(chunks.placements[0].current_on.is_empty());
}

#[tokio::test]
async fn scans_are_rationed_and_their_age_is_told() {
    let cluster = Cluster::start(PASSWORD).await;
    let first = cluster.prober.cluster_facts(true).await;
    assert!(known(&first.chunks).age_ms < 1000);
    // The first one took some milliseconds: twenty times that has not passed yet.
    let second = cluster.prober.cluster_facts(true).await;
    let count = cluster.leader().count("getClusterChunksStatus");
    assert_eq!(count, 1, "{:?} {:?}", first.chunks, second.chunks);
    assert!(known(&second.chunks).age_ms >= known(&first.chunks).age_ms);
    let limit = Instant::now() + Duration::from_secs(20);
    while cluster.leader().count("getClusterChunksStatus") < 2 {
        assert!(Instant::now() < limit, "no second scan");
        cluster.prober.cluster_facts(true).await;
    }
}

#[tokio::test]
async fn a_failed_scan_is_unknown_and_names_the_missing_right() {
    let cluster = Cluster::start(PASSWORD).await;
    let text = "Only administrators can call getClusterChunksStatus. RefId: S04".to_owned();
    cluster.leader().act("getClusterChunksStatus", Act::Error(text));
    let facts = cluster.prober.cluster_facts(true).await;
    assert!(facts.chunks.why_unknown().unwrap().contains("administrators"));
    let problems = cluster.prober.pool().credentials().problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].code, Code::RightMissing);
    assert_eq!(problems[0].subject, "getClusterChunksStatus");
}

#[tokio::test]
async fn a_hung_node_costs_its_deadline_and_nothing_else() {
    let cluster = Cluster::start(PASSWORD).await;
    cluster.data[0].act("version", Act::Hang);
    cluster.data[1].answer("isDataNodeInitialized", Value::bool(false));
    let began = Instant::now();
    let facts = cluster.prober.cluster_facts(false).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let nodes = known(&facts.nodes);
    let answers = |alias: &str| {
        let node = nodes.iter().find(|node| node.spec.alias.as_str() == alias).unwrap();
        node.answers.clone()
    };
    assert!(answers("n1").why_unknown().unwrap().contains("did not answer"));
    assert_eq!(answers("n2"), Probe::Known(false));
    assert_eq!(answers("c1"), Probe::Known(true));
}

#[tokio::test]
async fn controllers_that_disagree_leave_everything_of_the_leader_unknown() {
    let cluster = Cluster::start(PASSWORD).await;
    cluster.controllers[0].answer("getActiveMaster", Value::string("c1"));
    cluster.controllers[2].set_down(true);
    let facts = cluster.prober.cluster_facts(true).await;
    assert!(facts.leader.known().is_none() && facts.nodes.known().is_none());
    assert!(facts.chunks.known().is_none());
    assert_eq!(facts.leader_votes.len(), 2);
    let alive = cluster.prober.controllers_alive().await;
    assert_eq!(alive.iter().filter(|(_, vote)| vote.known().is_some()).count(), 2);
    assert!(cluster.prober.leader().await.is_err());
}

#[tokio::test]
async fn a_wrong_password_is_sent_once_and_reported() {
    let cluster = Cluster::start("wrong").await;
    for _ in 0..3 {
        cluster.prober.cluster_facts(true).await;
        let facts = cluster.host(Depth::Cheap).await;
        let problem = facts.problems.iter().find(|p| p.code == Code::CredentialsRefused);
        assert!(problem.is_some(), "{:?}", facts.problems);
    }
    let logins = || -> usize {
        let all = cluster.controllers.iter().chain(&cluster.data);
        all.map(|fake| fake.logins.load(Ordering::SeqCst)).sum()
    };
    assert_eq!(logins(), 1);
    // What guests may ask is still asked.
    let facts = cluster.prober.cluster_facts(true).await;
    assert_eq!(known(&facts.leader).as_str(), "c2");
    assert_eq!(logins(), 1);
    write_credentials(&cluster.dir.path().join("credentials.toml"), PASSWORD);
    let facts = cluster.prober.cluster_facts(true).await;
    assert_eq!(known(&facts.nodes).len(), 5);
    assert!(cluster.prober.pool().credentials().problems().is_empty());
}

#[tokio::test]
async fn broken_connections_are_replaced_in_the_next_look() {
    let cluster = Cluster::start(PASSWORD).await;
    cluster.prober.cluster_facts(false).await;
    for fake in cluster.controllers.iter().chain(&cluster.data) {
        fake.cut();
    }
    let facts = cluster.prober.cluster_facts(false).await;
    assert!(known(&facts.nodes).iter().all(|node| node.answers == Probe::Known(true)));
    assert!(known(&facts.leader).as_str() == "c2");
}

#[tokio::test]
async fn an_effect_is_told_to_every_controller_that_runs() {
    let cluster = Cluster::start(PASSWORD).await;
    let order =
        |pay| DebtOrder { debt: 1, effect: Effect::SuspendedRecovery, pay, without: vec![] };
    for fake in &cluster.controllers {
        fake.answer("suspendRecovery", Value::Nothing);
        fake.answer("resumeRecovery", Value::Nothing);
    }
    cluster.prober.effect(&order(false)).await.unwrap();
    cluster.prober.effect(&order(true)).await.unwrap();
    for fake in &cluster.controllers {
        assert_eq!((fake.count("suspendRecovery"), fake.count("resumeRecovery")), (1, 1));
    }
    // One that may have taken it or not is in doubt, unless its host is powered off.
    cluster.controllers[0].act("resumeRecovery", Act::Break);
    let why = cluster.prober.effect(&order(true)).await.unwrap_err();
    assert!(why.contains("`c1`"), "{why}");
    let without = vec![NodeAlias::new("c1").unwrap()];
    cluster.prober.effect(&DebtOrder { without, ..order(true) }).await.unwrap();
}

#[tokio::test]
async fn what_a_controller_does_not_know_cannot_be_brought_about_and_need_not_be_undone() {
    let cluster = Cluster::start(PASSWORD).await;
    let effect = Effect::RestartInterval { original_s: 60 };
    let order = |pay| DebtOrder { debt: 1, effect, pay, without: vec![] };
    let text = "Can't recognize function name setDatanodeRestartInterval".to_owned();
    for fake in &cluster.controllers {
        fake.act("setDatanodeRestartInterval", Act::Error(text.clone()));
    }
    let why = cluster.prober.effect(&order(false)).await.unwrap_err();
    assert!(why.contains("setDatanodeRestartInterval"), "{why}");
    cluster.prober.effect(&order(true)).await.unwrap();
}

#[tokio::test]
async fn commands_are_sent_once_and_an_unknown_outcome_is_said() {
    let cluster = Cluster::start(PASSWORD).await;
    let aliases = [NodeAlias::new("n1").unwrap()];
    let leader = cluster.leader();
    leader.answer("startDataNode", Value::Nothing);
    cluster.prober.start_data_nodes(&aliases).await.unwrap();
    leader.act("stopDataNode", Act::Break);
    let error = cluster.prober.stop_data_nodes(&aliases).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    assert_eq!((leader.count("startDataNode"), leader.count("stopDataNode")), (1, 1));
    leader.act("stopDataNode", Act::Error("node n9 does not exist".to_owned()));
    let error = cluster.prober.stop_data_nodes(&aliases).await.unwrap_err();
    assert!(matches!(error, CommandError::Refused { .. }), "{error}");
    leader.act("stopDataNode", Act::Error("<NotLeader>127.0.0.1:1:c1".to_owned()));
    let error = cluster.prober.stop_data_nodes(&aliases).await.unwrap_err();
    assert!(matches!(error, CommandError::NoLeader(_)), "{error}");

    let node = &cluster.data[0];
    node.answer("flushOLAPCache", Value::Nothing);
    node.answer("getRedoLogGCStat", {
        let counts = || Vector::longs([2, 1]);
        Value::table([
            ("numOfTxnPendingGC", counts()),
            ("numOfTxnPendingFlush", counts()),
            ("minTidPendingFlush", Vector::longs([9, 8])),
        ])
        .unwrap()
    });
    cluster.prober.flush_caches(&aliases[0]).await.unwrap();
    assert_eq!(node.count("flushOLAPCache"), 1);
    let pending = cluster.prober.pending_transactions(&aliases[0]).await.unwrap();
    assert_eq!((pending.flush, pending.collect, pending.oldest), (3, 3, Some(8)));
}

#[tokio::test]
async fn the_account_that_starts_nodes_must_be_an_administrator() {
    let cluster = Cluster::start(PASSWORD).await;
    let node = &cluster.data[0];
    let call = Call::urgent(Duration::from_secs(5));
    let file = std::path::Path::new("credentials.toml");
    for (answer, code) in [
        (Value::bool(true), None),
        (Value::bool(false), Some(Code::RightMissing)),
        (Value::null(), Some(Code::FactUnknown)),
    ] {
        let column = answer.to_vector().unwrap().cast(Type::Bool).unwrap();
        let users = Vector::strings(["porter"]);
        node.answer(
            "getUserAccess",
            Value::table([("userId", users), ("isAdmin", column)]).unwrap(),
        );
        cluster.prober.0.pool.credentials().refresh();
        let found = rights::problems(&cluster.prober.0.pool, &node.spec, &call, file).await;
        assert_eq!(found.first().map(|problem| problem.code), code, "{found:?}");
        let named = found.iter().all(|p| p.detail.contains("startDataNode"));
        assert!(named && found.len() < 2, "{found:?}");
    }
}

#[tokio::test]
async fn objects_in_memory_are_listed_by_kind() {
    let cluster = Cluster::start(PASSWORD).await;
    let node = &cluster.data[0];
    let texts = |texts: &[&str]| Vector::strings(texts.to_vec());
    let shared = Value::table([
        ("name", texts(&["trades", "lookup", "handle", "local"])),
        ("type", texts(&["REALTIME", "BASIC", "ALIAS", "BASIC"])),
        ("form", texts(&["TABLE", "TABLE", "TABLE", "TABLE"])),
        ("shared", Vector::bools([true, true, true, false])),
        ("extra", texts(&["", "", "dfs://x/y", ""])),
    ]);
    node.answer("objs", shared.unwrap());
    let workers = Value::table([
        ("topic", texts(&["h:1:n2/trades/agg", "h:1:n2/ha/agg"])),
        ("raftGroup", Vector::integers(Type::Int, [None, Some(2)])),
    ]);
    node.answer("getStreamingStat", Value::dictionary([("subWorkers", workers.unwrap())]));
    let engines = Value::table([("name", texts(&["bars"]))]).unwrap();
    node.answer("getStreamEngineStat", Value::dictionary([("TimeSeriesEngine", engines)]));
    node.answer("getLoadedPlugins", Value::table([("plugin", texts(&["zip"]))]).unwrap());
    let jobs = Value::table([
        ("jobId", texts(&["done", "runs"])),
        ("endTime", Vector::integers(Type::Timestamp, [Some(5), None])),
    ]);
    node.answer("getRecentJobs", jobs.unwrap());
    node.answer("getScheduledJobs", Value::table([("jobId", texts(&["nightly"]))]).unwrap());
    let startup = "share streamTable(1:0, `a, [INT]) as trades\n";
    std::fs::write(cluster.dir.path().join("server/startup.dos"), startup).unwrap();
    let objects = cluster.prober.memory_objects(&NodeAlias::new("n1").unwrap()).await.unwrap();
    let shown: Vec<String> =
        objects.iter().map(|o| format!("{} {} {}", o.kind, o.name, o.provided_for)).collect();
    let expected = [
        "batch_job runs false",
        "engine bars false",
        "plugin zip false",
        "scheduled_job nightly false",
        "shared_table lookup false",
        "stream_table trades true",
        "subscription h:1:n2/trades/agg false",
    ];
    assert_eq!(shown, expected);
    let why = cluster.prober.memory_objects(&NodeAlias::new("n2").unwrap()).await.unwrap_err();
    assert!(why.contains("`objs` on `n2`"), "{why}");
}
