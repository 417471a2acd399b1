//! The official Python client works against the stand-in, unchanged, through nodes that are killed.
//!
//! The scripts are in `integration-tests/python`, the client's version is pinned there. A virtual
//! environment is made once per target folder; that needs python3 with venv and the package index.
//! Where there is none the tests say so and are skipped, with `CI=true` they fail.
//!
//! Needs the stand-in for the faults; the rest could run on a real cluster.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use integration_tests::topology::Node;
use integration_tests::{Lab, Options, Target, wait};
use rustix::fs::FlockOperation;
use standin::config::Role;
use standin::faults::{Faults, Kind, applied_not_answered};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;

/// For one thing that the client or the cluster does; nothing of it takes longer than some seconds.
const LIMIT: Duration = Duration::from_secs(120);
/// Rows before the first and after the last disturbance, and while it lasts.
const CALM_ROWS: u32 = 30;

/// One environment is made at a time within this process; the file lock is for other processes.
static MAKING: Mutex<()> = Mutex::new(());

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}

/// Returns the environment's interpreter; `None`, said loudly, where it cannot be made.
fn python() -> Option<PathBuf> {
    match make_environment() {
        Ok(python) => Some(python),
        Err(why) => {
            let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!ci, "CI=true, and the official client cannot be installed: {why}");
            skipped(&why);
            None
        }
    }
}

/// Written past the test harness, which shows nothing of a test that passes.
fn skipped(why: &str) {
    let line = format!("\n!!! SKIPPED: the official client cannot be installed: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

fn make_environment() -> Result<PathBuf, String> {
    let _guard = MAKING.lock().unwrap();
    let requirements = scripts().join("requirements.txt");
    let wanted = fs::read_to_string(&requirements).map_err(|error| error.to_string())?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("official-client");
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("lock"))
        .map_err(|error| error.to_string())?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|error| error.to_string())?;
    let python = folder.join("venv/bin/python");
    // Written last, so that half an environment is never taken for a whole one.
    let made = folder.join("made-from.txt");
    if fs::read_to_string(&made).is_ok_and(|made| made == wanted) {
        return Ok(python);
    }
    let venv = folder.join("venv");
    run_to_end(std::process::Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    run_to_end(
        std::process::Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .arg("--requirement")
            .arg(&requirements),
    )?;
    fs::write(made, wanted).map_err(|error| error.to_string())?;
    Ok(python)
}

fn run_to_end(command: &mut std::process::Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// A lab without Grayfin, and how the client reaches it.
struct Cluster {
    lab: Lab,
    python: PathBuf,
    folder: tempfile::TempDir,
}

impl Cluster {
    async fn up(python: PathBuf) -> Self {
        let folder = tempfile::Builder::new().prefix("client").tempdir().unwrap();
        let place = folder.path().canonicalize().unwrap().join("lab");
        let options = Options { no_grayfin: true, ..Options::default() };
        let lab = Lab::up(&place, &options).await.unwrap();
        Self { lab, python, folder }
    }

    fn data_nodes(&self) -> Vec<&Node> {
        self.lab.cluster().with_role(Role::DataNode).collect()
    }

    fn sites(&self) -> String {
        let sites: Vec<_> = self.data_nodes().iter().map(|node| node.site.address()).collect();
        sites.join(",")
    }

    fn aliases(&self) -> String {
        let aliases: Vec<_> = self.data_nodes().iter().map(|node| node.alias()).collect();
        aliases.join(",")
    }

    /// The data node at an address.
    fn node_at(&self, address: &str) -> &Node {
        let found = self.data_nodes().into_iter().find(|node| node.site.address() == address);
        found.unwrap_or_else(|| panic!("no data node at {address}"))
    }

    fn home(&self, node: &Node) -> PathBuf {
        let host = &self.lab.host(node.host).unwrap().name;
        self.lab.paths().work(host, self.lab.cluster()).join("data").join(node.alias())
    }

    fn script(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.python);
        command
            .arg(scripts().join(name))
            .args(arguments)
            .args(["--sites", &self.sites()])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a script to its successful end; returns what it printed.
    async fn run(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.script(name, arguments).output();
        let output = tokio::time::timeout(LIMIT, output).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} {arguments:?}: {text}{errors}");
        text
    }

    /// Makes the document's database, with partitions from yesterday to the day after tomorrow: the
    /// client writes its local time, and a test may run over midnight.
    async fn create_for_today(&self) {
        let day = |offset: i64| {
            let now = jiff::Zoned::now().date();
            now.checked_add(jiff::ToSpan::days(offset)).unwrap().strftime("%Y.%m.%d").to_string()
        };
        let (first, last) = (day(-1), day(2));
        self.run("mission_client.py", &["create", "--first", &first, "--last", &last]).await;
    }

    /// Counts how often each id is stored, as the client reads it.
    async fn stored(&self) -> BTreeMap<u32, usize> {
        let printed = self.run("mission_client.py", &["read"]).await;
        let ids: Vec<u32> = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
        let mut counts = BTreeMap::new();
        for id in ids {
            *counts.entry(id).or_default() += 1;
        }
        counts
    }

    /// The ids of inserts that were applied while the client was told nothing.
    async fn recorded_as_unanswered(&self) -> BTreeSet<u32> {
        let mut ids = BTreeSet::new();
        for node in self.data_nodes() {
            let home = self.home(node);
            let unanswered = wait::until("undecided inserts to be decided", LIMIT, || async {
                let found = applied_not_answered(&home).map_err(|error| error.to_string())?;
                let open = found.undecided.len();
                if open == 0 { Ok(found) } else { Err(format!("{open} are undecided")) }
            });
            for insert in unanswered.await.unwrap().applied {
                let column = insert.columns.iter().find(|(name, _)| name == "id").unwrap();
                ids.extend(column.1.iter().map(|id| id.parse::<u32>().unwrap()));
            }
        }
        ids
    }

    /// Checks that every row is stored and none twice without a record of why.
    async fn assert_nothing_lost(&self, rows: u32) -> BTreeSet<u32> {
        self.lab.wait_healthy().await.unwrap();
        let stored = self.stored().await;
        let missing: Vec<u32> = (1..=rows).filter(|id| !stored.contains_key(id)).collect();
        assert!(missing.is_empty(), "of {rows} rows these are missing: {missing:?}");
        assert_eq!(stored.keys().last(), Some(&rows), "rows that nobody sent");
        let twice: BTreeSet<u32> =
            stored.iter().filter(|(_, count)| **count > 1).map(|(id, _)| *id).collect();
        let recorded = self.recorded_as_unanswered().await;
        let unexplained: Vec<_> = twice.difference(&recorded).collect();
        assert!(unexplained.is_empty(), "twice without a record: {unexplained:?}");
        twice
    }

    /// What the nodes were asked for since their start and do not model.
    async fn unmodelled(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for node in &self.lab.cluster().nodes {
            let client = self.lab.ddb(node.alias()).unwrap().as_guest();
            all.extend(client.texts("standinUnmodelled().last.what").await.unwrap());
        }
        all
    }

    /// Checks that nothing was answered by luck: what is not modelled is exactly this.
    async fn assert_unmodelled(&self, expected: &[&str]) {
        let found = self.unmodelled().await;
        assert!(found.iter().eq(expected), "unmodelled: {found:?}");
    }

    async fn down(self) {
        self.assert_unmodelled(&[]).await;
        self.lab.down().unwrap();
    }
}

/// The document's client while it writes.
struct Writer {
    child: Child,
    stop: PathBuf,
    /// The last row that was answered, and the address it went to.
    latest: watch::Receiver<(u32, String)>,
}

impl Writer {
    fn start(cluster: &Cluster) -> Self {
        let stop = cluster.folder.path().join("stop");
        let mut command = cluster.script("mission_client.py", &["write", "--pause", "0.01"]);
        let mut child = command.arg("--stop").arg(&stop).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, latest) = watch::channel((0, String::new()));
        tokio::spawn(follow(lines, sender));
        Self { child, stop, latest }
    }

    /// The node that the client uses now.
    fn address(&self) -> String {
        self.latest.borrow().1.clone()
    }

    /// Waits for so many more rows than are answered now.
    async fn rows(&mut self, count: u32) {
        let wanted = self.latest.borrow().0 + count;
        let enough = self.latest.wait_for(|(row, _)| *row >= wanted);
        match tokio::time::timeout(LIMIT, enough).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => panic!("the client ended before row {wanted}"),
            Err(_) => panic!("no row {wanted} in {LIMIT:?}"),
        }
    }

    /// Tells the client to end; returns the number of rows it wrote.
    async fn finish(mut self) -> u32 {
        fs::write(&self.stop, "").unwrap();
        let status = tokio::time::timeout(LIMIT, self.child.wait()).await.unwrap().unwrap();
        assert!(status.success(), "{status}");
        // The sender goes when the last line is read.
        while self.latest.changed().await.is_ok() {}
        self.latest.borrow().0
    }
}

/// Reads the client's lines as they come, so that it never waits for the test.
async fn follow(mut lines: Lines<BufReader<ChildStdout>>, latest: watch::Sender<(u32, String)>) {
    while let Some(line) = lines.next_line().await.unwrap() {
        // The client library writes there too, when it connects again.
        let Some((_, line)) = line.rsplit_once("row ") else { continue };
        let (row, address) = line.split_once(' ').unwrap();
        let row: u32 = row.parse().unwrap();
        assert_eq!(row, latest.borrow().0 + 1, "ids are consecutive");
        latest.send_replace((row, address.to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_asks_is_refused_and_fails_over() {
    let Some(python) = python() else { return };
    let cluster = Cluster::up(python).await;
    cluster.create_for_today().await;
    let few = ["write", "--rows", "3", "--pause", "0"];
    cluster.run("mission_client.py", &few).await;
    cluster.lab.wait_healthy().await.unwrap();

    let aliases = cluster.aliases();
    let version = cluster.lab.ddb("node43").unwrap().text("version()").await.unwrap();
    assert!(version.starts_with(&cluster.lab.options().version), "{version}");
    let arguments = ["--aliases", &aliases, "--version", &version];
    let mut command = cluster.script("checks.py", &arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    let mut killed = false;
    while let Some(line) = tokio::time::timeout(LIMIT, lines.next_line()).await.unwrap().unwrap() {
        if let Some(alias) = line.strip_prefix("kill ") {
            // The two errors that the script provokes, and nothing else.
            cluster.assert_unmodelled(&["foo bar", "nosuchfunction"]).await;
            cluster.lab.kill(&Target::Node(alias.to_owned())).await.unwrap();
            child.stdin.as_mut().unwrap().write_all(b"done\n").await.unwrap();
            killed = true;
        }
        said.push(line);
    }
    let status = child.wait().await.unwrap();
    assert!(status.success(), "{status}: {said:?}");
    assert!(killed && said.iter().any(|line| line == "ok"), "{said:?}");
    cluster.lab.down().unwrap();
}

/// The document's own range of partitions ends in 2023 and its script writes the time of now.
#[tokio::test(flavor = "multi_thread")]
async fn rows_outside_the_partitions_are_silently_skipped() {
    let Some(python) = python() else { return };
    let cluster = Cluster::up(python).await;
    cluster.run("mission_client.py", &["create"]).await;
    let printed = cluster.run("mission_client.py", &["write", "--rows", "5", "--pause", "0"]).await;
    assert_eq!(printed.matches("row ").count(), 5, "each append was answered: {printed}");
    assert_eq!(cluster.stored().await, BTreeMap::new());
    cluster.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_client_loses_nothing_over_a_killed_node() {
    let Some(python) = python() else { return };
    let cluster = Cluster::up(python).await;
    cluster.create_for_today().await;
    let mut writer = Writer::start(&cluster);
    writer.rows(CALM_ROWS).await;

    let killed = cluster.node_at(&writer.address()).alias().to_owned();
    cluster.lab.kill(&Target::Node(killed.clone())).await.unwrap();
    writer.rows(CALM_ROWS).await;
    assert_ne!(cluster.node_at(&writer.address()).alias(), killed, "it went on with another node");
    cluster.lab.restart(&Target::Node(killed)).await.unwrap();
    cluster.lab.wait_healthy().await.unwrap();
    writer.rows(CALM_ROWS).await;

    // Dies with a row applied and not answered: this version does not recognise the row that is sent
    // again, so it is there twice, and the record says so.
    let dying = cluster.node_at(&writer.address()).alias().to_owned();
    let before = cluster.lab.node(&dying).unwrap().pid();
    assert!(before.is_some());
    let home = cluster.home(cluster.lab.node(&dying).unwrap().node);
    Faults::of(home).set(Kind::CrashAfterApply, "").unwrap();
    writer.rows(CALM_ROWS).await;
    assert_eq!(cluster.lab.node(&dying).unwrap().pid(), None, "`{dying}` died");
    cluster.lab.restart(&Target::Node(dying)).await.unwrap();
    cluster.lab.wait_healthy().await.unwrap();
    writer.rows(CALM_ROWS).await;

    let rows = writer.finish().await;
    let twice = cluster.assert_nothing_lost(rows).await;
    assert!(!twice.is_empty(), "the row that was applied and not answered is not there twice");
    cluster.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_client_loses_nothing_over_a_host_without_power() {
    let Some(python) = python() else { return };
    let cluster = Cluster::up(python).await;
    cluster.create_for_today().await;
    let mut writer = Writer::start(&cluster);
    writer.rows(CALM_ROWS).await;

    let host = Target::Host(cluster.node_at(&writer.address()).host);
    cluster.lab.kill(&host).await.unwrap();
    writer.rows(CALM_ROWS).await;
    cluster.lab.restart(&host).await.unwrap();
    cluster.lab.wait_healthy().await.unwrap();
    writer.rows(CALM_ROWS).await;

    let rows = writer.finish().await;
    cluster.assert_nothing_lost(rows).await;
    cluster.down().await;
}
