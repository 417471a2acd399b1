//! The canary against fake nodes that share one table.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use grayfin_types::{
    facts::NodeRole,
    plan::{CanarySpec, UpgradeMode},
};
use standin_lang::value::{Cell, Table};

use super::*;
use crate::config::{Installation, StopBy, Units};
use crate::probe::Options;
use crate::probe::fake::{Act, Fake, Inserts, PASSWORD, Store};

const PATH: &str = "dfs://grayfin_canary/rows";

struct Bench {
    dir: tempfile::TempDir,
    nodes: Vec<Arc<Fake>>,
    store: Arc<Store>,
    held: Arc<AtomicBool>,
    canaries: Canaries,
    reports: mpsc::Receiver<v1::CanaryReport>,
}

impl Bench {
    async fn start() -> Self {
        let store = Arc::new(Store::default());
        let mut nodes = Vec::new();
        for alias in ["n1", "n2"] {
            nodes.push(Fake::start(alias, NodeRole::DataNode, &store).await);
        }
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("server/clusterDemo/config");
        std::fs::create_dir_all(&config).unwrap();
        let line = |fake: &Arc<Fake>| {
            let spec = &fake.spec;
            format!("{}:{}:{},datanode\n", spec.address, spec.port, spec.alias)
        };
        let lines: String = nodes.iter().map(line).collect();
        std::fs::write(config.join("cluster.nodes"), format!("localSite,mode\n{lines}")).unwrap();
        let credentials = dir.path().join("credentials.toml");
        let entry = |name| format!("[{name}]\nuser = \"{name}\"\npassword = \"{PASSWORD}\"\n");
        std::fs::write(&credentials, entry("probe") + &entry("operate")).unwrap();
        std::fs::set_permissions(&credentials, std::fs::Permissions::from_mode(0o600)).unwrap();
        let held = Arc::new(AtomicBool::new(false));
        let (canaries, reports) = canaries(dir.path(), &held);
        Self { dir, nodes, store, held, canaries, reports }
    }

    /// Another life of the host agent, with the same folder.
    fn restart(&mut self) {
        (self.canaries, self.reports) = canaries(self.dir.path(), &self.held);
    }

    fn rows(&self) -> Table {
        self.store
            .tables
            .lock()
            .unwrap()
            .get(PATH)
            .cloned()
            .unwrap_or_else(|| Table::empty([("seq", standin_lang::value::Type::Long)]))
    }

    /// Waits until the status is so.
    async fn until(&self, what: &str, holds: impl Fn(&CanaryStatus) -> bool) -> CanaryStatus {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.canaries.status(&cluster()).await.map(|(_, status)| status);
            if let Some(status) = status.as_ref().filter(|status| holds(status)) {
                return status.clone();
            }
            assert!(Instant::now() < limit, "not {what}: {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn acked(&self, rows: u64) -> CanaryStatus {
        self.until("enough rows", |status| status.acknowledged >= rows).await
    }
}

fn canaries(
    dir: &std::path::Path,
    held: &Arc<AtomicBool>,
) -> (Canaries, mpsc::Receiver<v1::CanaryReport>) {
    let server_dir = dir.join("server");
    let installation = Installation {
        cluster: cluster(),
        work_dir: server_dir.join("clusterDemo"),
        executable: "node".into(),
        package_dir: dir.join("packages"),
        backup_dir: dir.join("backups"),
        credentials_file: dir.join("credentials.toml"),
        upgrade_mode: UpgradeMode::Native,
        upgrade_script: server_dir.join("upgrade.sh"),
        path: String::new(),
        start_controller: vec![],
        start_ddb_agent: vec![],
        stop: StopBy::Signal,
        units: Units { systemctl: "systemctl".into(), names: BTreeMap::default() },
        server_dir,
    };
    let options = Options { probe: Duration::from_millis(500), ..Options::default() };
    let host = HostId::new("host1").unwrap();
    let prober = Prober::new(host.clone(), Arc::new(installation), dir.join("state"), options);
    let limits = Limits {
        connect: Duration::from_millis(500),
        insert: Duration::from_millis(400),
        read: Duration::from_secs(5),
        check: Duration::from_millis(600),
    };
    let held = Arc::clone(held);
    let site = Site::new(prober, limits, move || held.load(Ordering::SeqCst));
    let (reports, received) = mpsc::channel(64);
    let sites = BTreeMap::from([(cluster(), site)]);
    (Canaries::new(host, &dir.join("state"), sites, reports), received)
}

fn cluster() -> ClusterId {
    ClusterId::new("trade").unwrap()
}

fn order(epoch: u64) -> CanaryOrder {
    let rollout = RolloutId::new("r1").unwrap();
    CanaryOrder { rollout, epoch, spec: CanarySpec::New { rows_per_second: 200 } }
}

#[tokio::test]
async fn rows_are_written_and_read_back() {
    let mut bench = Bench::start().await;
    bench.canaries.start(&cluster(), &order(1)).await;
    bench.canaries.start(&cluster(), &order(1)).await;
    bench.acked(60).await;
    let stopped = bench.canaries.stop(&cluster(), &order(1)).await;
    assert_eq!((stopped.unknown, stopped.retries, stopped.problem.as_deref()), (0, 0, None));
    let before = bench.rows().rows();
    assert_eq!(before as u64, stopped.acknowledged, "each row once, and none after the stop");
    let checked = bench.canaries.check(&cluster(), &order(1)).await;
    assert_eq!((checked.verified, checked.lost, checked.duplicates), (stopped.acknowledged, 0, 0));
    assert_eq!(bench.rows().rows(), before);
    assert_eq!(bench.store.created.load(Ordering::SeqCst), 1);
    assert!(bench.nodes.iter().all(|node| node.unmodelled.lock().unwrap().is_empty()));
    // All partitions of the rotation were touched.
    let rows = bench.rows();
    let parts: std::collections::BTreeSet<String> =
        (0..rows.rows()).map(|row| format!("{:?}", rows.cell(row, "part"))).collect();
    assert_eq!(parts.len(), 8, "{parts:?}");
    let report = bench.reports.recv().await.unwrap();
    assert_eq!((report.epoch, report.order), (1, 0));
}

#[tokio::test]
async fn an_unknown_outcome_is_sent_again_and_a_repeated_row_is_counted() {
    let bench = Bench::start().await;
    bench.canaries.start(&cluster(), &order(1)).await;
    bench.acked(20).await;
    // Applied, and the answer is lost: on every node once.
    for node in &bench.nodes {
        node.set_inserts(Inserts::AppliedOnly);
    }
    bench.until("a retry", |status| status.retries > 0).await;
    for node in &bench.nodes {
        node.set_inserts(Inserts::Good);
    }
    let now = bench.acked(0).await.acknowledged;
    bench.acked(now + 20).await;
    let stopped = bench.canaries.stop(&cluster(), &order(1)).await;
    assert_eq!(stopped.unknown, 0, "every row was acknowledged in the end");
    let checked = bench.canaries.check(&cluster(), &order(1)).await;
    assert_eq!(checked.lost, 0);
    assert!(checked.duplicates > 0 && checked.retries > 0, "{checked:?}");
    assert_eq!(checked.verified, stopped.acknowledged);
}

#[tokio::test]
async fn a_lost_acknowledged_row_is_found_and_named() {
    let bench = Bench::start().await;
    bench.canaries.start(&cluster(), &order(1)).await;
    bench.acked(30).await;
    bench.canaries.stop(&cluster(), &order(1)).await;
    {
        let mut tables = bench.store.tables.lock().unwrap();
        let table = tables.get_mut(PATH).unwrap();
        let kept: Vec<usize> = (0..table.rows())
            .filter(|row| !matches!(table.cell(*row, "seq"), Some(Cell::Int(7 | 12 | 13))))
            .collect();
        assert_eq!(kept.len() + 3, table.rows());
        *table = table.pick(&kept);
    }
    let checked = bench.canaries.check(&cluster(), &order(1)).await;
    assert_eq!(checked.lost, 3);
    assert_eq!(checked.lost_examples, ["epoch 1 row 7", "epoch 1 rows 12 to 13"]);
}

#[tokio::test]
async fn a_hung_node_costs_a_gap_and_no_row() {
    let bench = Bench::start().await;
    bench.canaries.start(&cluster(), &order(1)).await;
    bench.acked(10).await;
    // Whichever is written to.
    for node in &bench.nodes {
        node.set_inserts(Inserts::Hanging);
    }
    bench.until("a gap", |status| status.longest_gap_ms > 300).await;
    bench.nodes[0].set_inserts(Inserts::Good);
    let now = bench.acked(0).await.acknowledged;
    bench.acked(now + 10).await;
    let stopped = bench.canaries.stop(&cluster(), &order(1)).await;
    assert_eq!(stopped.unknown, 0);
    let checked = bench.canaries.check(&cluster(), &order(1)).await;
    assert_eq!((checked.lost, checked.verified), (0, stopped.acknowledged));
}

#[tokio::test]
async fn refusals_and_dead_nodes_are_waited_out() {
    let bench = Bench::start().await;
    for node in &bench.nodes {
        node.set_inserts(Inserts::Refused);
    }
    bench.canaries.start(&cluster(), &order(1)).await;
    let refused = bench.until("a problem", |status| status.problem.is_some()).await;
    assert!(refused.problem.unwrap().contains("DataNodeNotReady"));
    bench.nodes[0].set_down(true);
    bench.nodes[1].set_inserts(Inserts::Good);
    let good = bench.acked(10).await;
    assert_eq!((good.problem, good.state.as_str()), (None, "writing"));
    bench.nodes[1].set_inserts(Inserts::Lost);
    bench.until("a problem", |status| status.problem.is_some()).await;
    bench.nodes[0].set_inserts(Inserts::Good);
    bench.nodes[0].set_down(false);
    bench.acked(good.acknowledged + 10).await;
    let stopped = bench.canaries.stop(&cluster(), &order(1)).await;
    assert_eq!(stopped.unknown, 0, "{stopped:?}");
}

#[tokio::test]
async fn a_stop_in_the_middle_of_an_outage_counts_it() {
    let bench = Bench::start().await;
    bench.canaries.start(&cluster(), &order(1)).await;
    bench.acked(10).await;
    for node in &bench.nodes {
        node.set_inserts(Inserts::Refused);
    }
    bench.until("a gap", |status| status.longest_gap_ms > 300).await;
    let stopped = bench.canaries.stop(&cluster(), &order(1)).await;
    assert!(stopped.longest_gap_ms > 300, "{stopped:?}");
    assert_eq!(stopped.unknown, 0, "what was refused is known not to be there");
    assert!(stopped.sent > stopped.acknowledged);
}

#[tokio::test]
async fn a_restarted_host_agent_goes_on_with_new_numbers() {
    let mut bench = Bench::start().await;
    bench.canaries.start(&cluster(), &order(1)).await;
    let before = bench.acked(40).await;
    // The process dies: nothing is stopped in order.
    let running = std::mem::take(&mut *bench.canaries.running.lock().await);
    for run in running.values() {
        run.writer.abort();
        for helper in &run.helpers {
            helper.abort();
        }
    }
    for (_, mut run) in running {
        drop((&mut run.writer).await);
    }
    bench.restart();
    bench.canaries.start(&cluster(), &order(1)).await;
    let after = bench.acked(before.acknowledged + 20).await;
    assert!(after.writer_outage_ms > 0 || after.acknowledged > 0, "{after:?}");
    let stopped = bench.canaries.stop(&cluster(), &order(1)).await;
    let checked = bench.canaries.check(&cluster(), &order(1)).await;
    assert_eq!((checked.lost, checked.duplicates), (0, 0), "{checked:?}");
    assert_eq!(checked.verified, stopped.acknowledged);
    // Acknowledged rows of the last group may have become rows of unknown outcome, not the other
    // way round.
    assert!(bench.rows().rows() as u64 >= stopped.acknowledged);
}

#[tokio::test]
async fn epochs_are_checked_together_and_a_held_host_is_not_written_to() {
    let mut bench = Bench::start().await;
    for epoch in [1, 2] {
        bench.canaries.start(&cluster(), &order(epoch)).await;
        bench.acked(15).await;
    }
    // Starting the second ended the first.
    let stopped = bench.canaries.stop(&cluster(), &order(2)).await;
    let checked = bench.canaries.check(&cluster(), &order(2)).await;
    assert!(checked.verified > stopped.acknowledged);
    assert_eq!((checked.verified, checked.lost), (checked.acknowledged, 0));
    assert_eq!(bench.rows().rows() as u64, checked.verified);

    // Both fake nodes are this host's own by address, once its files say so.
    let site = &bench.nodes[0].spec;
    let own = format!("mode=agent\nlocalSite={}:1:a1\n", site.address);
    let path = bench.dir.path().join("server/clusterDemo/config/agent.cfg");
    std::fs::write(path, own).unwrap();
    bench.held.store(true, Ordering::SeqCst);
    bench.restart();
    bench.canaries.start(&cluster(), &order(3)).await;
    let status = bench.until("a problem", |status| status.problem.is_some()).await;
    assert!(status.problem.unwrap().contains("no data node is known"), "{:?}", status.acknowledged);
    let checked = bench.canaries.check(&cluster(), &order(3)).await;
    assert!(checked.problem.unwrap().contains("could not be read back"));
}

#[tokio::test]
async fn a_check_that_cannot_read_says_so() {
    let bench = Bench::start().await;
    bench.canaries.start(&cluster(), &order(1)).await;
    bench.acked(10).await;
    bench.canaries.stop(&cluster(), &order(1)).await;
    for node in &bench.nodes {
        node.act("loadTable", Act::Error("<DataNodeNotAvail>gone".to_owned()));
    }
    let checked = bench.canaries.check(&cluster(), &order(1)).await;
    assert_eq!((checked.verified, checked.lost), (0, 0));
    assert!(checked.problem.is_some_and(|why| why.contains("could not be read back")));
}
