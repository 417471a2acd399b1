//! Clusters of real processes on a loopback range of their own, made from the package.

#![expect(clippy::print_stderr, reason = "a failed test shows the nodes' logs")]

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use standin::faults::Faults;
use standin::package::{Builder, Release};
use standin_lang::value::Value;
use standin_lang::wire::{Body, Credentials, Limits, Reply, Request};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Twenty times faster than the documents say.
pub(crate) const SCALE: f64 = 0.05;
/// What every wait of these tests is limited by, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) const OLD: &str = "2.00.8.10";
pub(crate) const NEW: &str = "2.00.8.12";

/// Options of a cluster.
pub(crate) struct Options {
    pub(crate) hosts: u8,
    pub(crate) version: &'static str,
    pub(crate) controller: &'static str,
    pub(crate) cluster: &'static str,
    pub(crate) compute_nodes: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { hosts: 3, version: OLD, controller: "", cluster: "", compute_nodes: false }
    }
}

/// A cluster; its processes end with it.
pub(crate) struct Cluster {
    pub(crate) folder: tempfile::TempDir,
    prefix: [u8; 3],
    hosts: u8,
    children: Vec<(String, Child)>,
}

fn builder() -> &'static Builder {
    static BUILDER: OnceLock<Builder> = OnceLock::new();
    BUILDER.get_or_init(|| {
        Builder::new(Path::new(env!("CARGO_BIN_EXE_dolphindb"))).expect("read the binary")
    })
}

/// A range 127.a.b.0/24 where nobody listens on our ports.
fn free_range() -> [u8; 3] {
    for _ in 0..100 {
        let prefix = [127, rand::random_range(1..250), rand::random_range(1..250)];
        let free = (1..=3).all(|host| {
            let [a, b, c] = prefix;
            TcpListener::bind((Ipv4Addr::new(a, b, c, host), 8920)).is_ok()
        });
        if free {
            return prefix;
        }
    }
    panic!("no free loopback range");
}

pub(crate) async fn until<F, Fut>(what: &str, mut holds: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<(), String>>,
{
    let since = Instant::now();
    loop {
        match holds().await {
            Ok(()) => return,
            Err(why) => assert!(since.elapsed() < PATIENCE, "{what}: {why}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Cluster {
    /// Writes the installations; nothing runs yet.
    pub(crate) fn new(options: &Options) -> Self {
        let cluster = Self {
            folder: tempfile::tempdir().expect("a folder"),
            prefix: free_range(),
            hosts: options.hosts,
            children: Vec::new(),
        };
        let release = Release::of(options.version).expect("modelled");
        for host in 1..=options.hosts {
            builder()
                .install(&release, &cluster.folder.path().join(format!("h{host}")))
                .expect("install");
            cluster.configure(host, options);
        }
        cluster
    }

    pub(crate) fn address(&self, host: u8) -> String {
        let [a, b, c] = self.prefix;
        format!("{a}.{b}.{c}.{host}")
    }

    pub(crate) fn site(&self, alias: &str) -> String {
        let number: u8 =
            alias.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number");
        let port = match alias.trim_end_matches(|c: char| c.is_ascii_digit()) {
            "ctl" => 8920,
            "agent" => 8921,
            "node" => 8922,
            _ => 8930,
        };
        format!("{}:{port}", self.address(number))
    }

    pub(crate) fn work(&self, host: u8) -> PathBuf {
        self.folder.path().join(format!("h{host}/server/clusterDemo"))
    }

    /// The folder of a node alone.
    pub(crate) fn home(&self, alias: &str) -> PathBuf {
        let host =
            alias.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number");
        self.work(host).join("data").join(alias)
    }

    pub(crate) fn faults(&self, alias: &str) -> Faults {
        Faults::of(self.home(alias))
    }

    pub(crate) fn log(&self, alias: &str) -> String {
        let host =
            alias.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number");
        let name = match alias.trim_end_matches(|c: char| c.is_ascii_digit()) {
            "ctl" => "controller.log".to_owned(),
            "agent" => "agent.log".to_owned(),
            _ => format!("{alias}.log"),
        };
        fs::read_to_string(self.work(host).join("log").join(name)).unwrap_or_default()
    }

    fn names(&self, kind: &str) -> Vec<String> {
        (1..=self.hosts).map(|host| format!("{kind}{host}")).collect()
    }

    fn configure(&self, host: u8, options: &Options) {
        let config = self.work(host).join("config");
        fs::create_dir_all(&config).expect("a folder");
        let site = |alias: &str| format!("{}:{alias}", self.site(alias));
        let mut nodes = "localSite,mode\n".to_owned();
        let mut kinds = vec![("ctl", "controller"), ("agent", "agent"), ("node", "datanode")];
        if options.compute_nodes {
            kinds.push(("comp", "computenode"));
        }
        for (kind, mode) in kinds {
            for alias in self.names(kind) {
                nodes.push_str(&format!("{},{mode}\n", site(&alias)));
            }
        }
        let (ctl, agent) = (site(&format!("ctl{host}")), site(&format!("agent{host}")));
        let ha = if options.hosts > 1 { "dfsHAMode=Raft\n" } else { "" };
        let replicas = options.hosts.min(2);
        let controller = format!(
            "mode=controller\nlocalSite={ctl}\n{ha}dfsReplicationFactor={replicas}\n\
             dfsReplicaReliabilityLevel=1\ndataSync=1\nstandinTimeScale={SCALE}\n{}",
            options.controller
        );
        let sites: Vec<String> =
            self.names("ctl").iter().map(|alias| format!("{}:controller", site(alias))).collect();
        let agent = format!(
            "mode=agent\nlocalSite={agent}\ncontrollerSite={}\nsites={agent}:agent,{}\n\
             standinTimeScale={SCALE}\n",
            site("ctl1"),
            sites.join(",")
        );
        let cluster = format!("maxMemSize=4\nworkerNum=4\n{}", options.cluster);
        for (name, text) in [
            ("controller.cfg", controller),
            ("agent.cfg", agent),
            ("cluster.cfg", cluster),
            ("cluster.nodes", nodes),
        ] {
            fs::write(config.join(name), text).expect("write");
        }
    }

    /// Starts a controller or an agent as the package's scripts do.
    pub(crate) fn spawn(&mut self, alias: &str) {
        let host =
            alias.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number");
        let work = self.work(host);
        let mut command = Command::new(work.join("../dolphindb"));
        command.args(["-console", "0"]);
        if alias.starts_with("ctl") {
            command.args(["-mode", "controller", "-home", "data", "-script", "dolphindb.dos"]);
            command.args(["-config", "config/controller.cfg", "-logFile", "log/controller.log"]);
            command.args(["-nodesFile", "config/cluster.nodes"]);
            command.args(["-clusterConfig", "config/cluster.cfg"]);
        } else {
            command.args(["-mode", "agent", "-home", "data", "-script", "dolphindb.dos"]);
            command.args(["-config", "config/agent.cfg", "-logFile", "log/agent.log"]);
        }
        command.current_dir(&work).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(Stdio::null()).spawn().expect("spawn");
        self.children.retain(|(known, _)| known != alias);
        self.children.push((alias.to_owned(), child));
    }

    /// Starts everything and waits until it is whole.
    pub(crate) async fn up(options: &Options) -> Self {
        let mut cluster = Self::new(options);
        for kind in ["ctl", "agent"] {
            for alias in cluster.names(kind) {
                cluster.spawn(&alias);
            }
        }
        let mut workers = cluster.names("node");
        if options.compute_nodes {
            workers.extend(cluster.names("comp"));
        }
        cluster.start_nodes(&workers).await;
        cluster.wait_whole().await;
        cluster
    }

    /// Starts data and compute nodes through the leader.
    pub(crate) async fn start_nodes(&self, aliases: &[String]) {
        let names: Vec<String> = aliases.iter().map(|alias| format!("\"{alias}\"")).collect();
        let script = format!("startDataNode([{}])", names.join(","));
        until("the nodes to be started", || async {
            let leader = self.leader().await?;
            self.run(&leader, &script).await.map(|_| ())
        })
        .await;
        for alias in aliases {
            until("the node to be ready", || async {
                match self.run(alias, "isDataNodeInitialized()").await?.and_then(|v| v.as_bool()) {
                    Some(true) => Ok(()),
                    other => Err(format!("{alias}: {other:?}")),
                }
            })
            .await;
        }
    }

    /// Puts the binary and the files of another version in place.
    pub(crate) fn install(&self, host: u8, version: &str) {
        let folder = self.folder.path().join(format!("h{host}"));
        let configs = ["controller.cfg", "agent.cfg", "cluster.cfg", "cluster.nodes"];
        let keep = configs.map(|name| {
            let path = self.work(host).join("config").join(name);
            (fs::read(&path).expect("read"), path)
        });
        // The binary of a running process cannot be written to.
        fs::remove_file(self.work(host).join("../dolphindb")).expect("remove");
        builder().install(&Release::of(version).expect("modelled"), &folder).expect("install");
        for (bytes, path) in keep {
            fs::write(path, bytes).expect("write");
        }
    }

    /// Waits until all nodes are on line and nothing recovers; chunks may be written to.
    pub(crate) async fn wait_whole_under_load(&self) {
        until("a whole cluster under load", || async {
            let leader = self.leader().await?;
            let down = "exec name from getClusterPerf(true) where state != 1";
            let down = self.eval(&leader, down).await?;
            if !down.is_empty() {
                return Err(format!("{down:?} are away"));
            }
            let bad = "exec count(*) from getClusterChunksStatus() where state == \"RECOVERING\" \
                       or replicaCount != 2";
            match self.eval(&leader, bad).await?.as_i64() {
                Some(0) => Ok(()),
                other => Err(format!("{other:?} chunks are not whole")),
            }
        })
        .await;
    }

    /// Who leads, as a majority of the controllers says.
    pub(crate) async fn leader(&self) -> Result<String, String> {
        let mut votes: Vec<String> = Vec::new();
        let mut errors = Vec::new();
        for alias in self.names("ctl") {
            match self.run(&alias, "getActiveMaster()").await {
                Ok(Some(value)) => votes.extend(value.as_str().map(str::to_owned)),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        for name in &votes {
            if votes.iter().filter(|vote| *vote == name).count() > usize::from(self.hosts) / 2 {
                return Ok(name.clone());
            }
        }
        Err(format!("no leader: {votes:?} {errors:?}"))
    }

    /// Waits until all nodes are on line and all chunks complete.
    pub(crate) async fn wait_whole(&self) {
        until("a whole cluster", || async {
            let leader = self.leader().await?;
            let down = "exec name from getClusterPerf(true) where state != 1";
            let down = self.eval(&leader, down).await?;
            if !down.is_empty() {
                return Err(format!("{down:?} are away"));
            }
            let bad = format!(
                "exec count(*) from getClusterChunksStatus() where state != \"COMPLETE\" or \
                 replicaCount != {}",
                self.hosts.min(2)
            );
            match self.eval(&leader, &bad).await?.as_i64() {
                Some(0) => Ok(()),
                other => Err(format!("{other:?} chunks are not whole")),
            }
        })
        .await;
    }

    pub(crate) async fn run(&self, alias: &str, script: &str) -> Result<Option<Value>, String> {
        let mut client = Client::connect(&self.site(alias)).await?;
        if !alias.starts_with("agent") {
            client.login("admin", "123456").await?;
        }
        client.script(script).await
    }

    pub(crate) async fn eval(&self, alias: &str, script: &str) -> Result<Value, String> {
        self.run(alias, script).await?.ok_or_else(|| format!("`{script}` has no value"))
    }

    pub(crate) async fn number(&self, alias: &str, script: &str) -> i64 {
        let value = self.eval(alias, script).await.expect("a value");
        value.as_i64().unwrap_or_else(|| panic!("`{script}`: {value:?}"))
    }

    /// The process of a node, by its command line.
    pub(crate) fn pid(&self, alias: &str) -> Option<u32> {
        let folder = self.folder.path().to_str().expect("UTF-8").to_owned();
        for entry in fs::read_dir("/proc").expect("/proc") {
            let name = entry.expect("an entry").file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            let ours = cwd.to_string_lossy().starts_with(&folder) && !words.trim().is_empty();
            let host =
                alias.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number");
            let this = match alias.trim_end_matches(|c: char| c.is_ascii_digit()) {
                "ctl" => words.contains("-mode controller") && cwd == self.work(host),
                "agent" => words.contains("-mode agent") && cwd == self.work(host),
                _ => words.contains(&format!(":{alias} ")),
            };
            if ours && this {
                return Some(pid);
            }
        }
        None
    }

    pub(crate) fn signal(&self, alias: &str, signal: rustix::process::Signal) {
        let pid = self.pid(alias).unwrap_or_else(|| panic!("{alias} does not run"));
        let pid =
            rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("kill");
    }

    pub(crate) fn kill(&mut self, alias: &str) {
        self.signal(alias, rustix::process::Signal::KILL);
        for (known, child) in &mut self.children {
            if known == alias {
                drop(child.wait());
            }
        }
    }

    pub(crate) async fn wait_gone(&mut self, alias: &str) {
        until(&format!("{alias} ends"), || {
            // A process that has just been spawned has no command line yet: ask for its end.
            let own = self.children.iter_mut().find(|(known, _)| known == alias);
            let gone = match own {
                Some((_, child)) => child.try_wait().expect("a child").is_some(),
                None => self.pid(alias).is_none(),
            };
            std::future::ready(if gone { Ok(()) } else { Err("it runs".to_owned()) })
        })
        .await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for kind in ["agent", "ctl", "comp", "node"] {
            for alias in self.names(kind) {
                if self.pid(&alias).is_some() {
                    self.signal(&alias, rustix::process::Signal::KILL);
                }
            }
        }
        for (_, child) in &mut self.children {
            drop(child.wait());
        }
        if std::thread::panicking() {
            for kind in ["ctl", "agent", "node"] {
                for alias in self.names(kind) {
                    eprintln!("--- {alias}\n{}", self.log(&alias));
                }
            }
        }
    }
}

/// A client on one connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    session: String,
    number: i64,
    id: Option<String>,
}

impl Client {
    pub(crate) async fn connect(site: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(site).await.map_err(|e| e.to_string())?;
        let mut client =
            Self { stream: BufReader::new(stream), session: "0".to_owned(), number: 0, id: None };
        client.ask(Body::Connect { login: None }).await?;
        Ok(client)
    }

    /// From now on requests have a client and a number, as clients with high availability send.
    pub(crate) fn with_id(mut self, id: &str, number: i64) -> Self {
        self.id = Some(id.to_owned());
        self.number = number;
        self
    }

    pub(crate) async fn login(&mut self, user: &str, password: &str) -> Result<(), String> {
        let login =
            Credentials { user: user.to_owned(), password: password.to_owned(), encrypted: false };
        self.ask(Body::Connect { login: Some(login) }).await.map(|_| ())
    }

    pub(crate) async fn script(&mut self, script: &str) -> Result<Option<Value>, String> {
        self.ask(Body::Script(script.to_owned())).await
    }

    pub(crate) async fn call(
        &mut self,
        name: &str,
        args: Vec<Value>,
    ) -> Result<Option<Value>, String> {
        self.ask(Body::Function { name: name.to_owned(), args }).await
    }

    async fn ask(&mut self, body: Body) -> Result<Option<Value>, String> {
        let mut request = Request::plain(self.session.clone(), body);
        request.client_id.clone_from(&self.id);
        request.seq_no = self.id.as_ref().map(|_| self.number);
        let bytes = request.encode().map_err(|e| e.to_string())?;
        let exchange = async {
            self.stream.get_mut().write_all(&bytes).await.map_err(|e| e.to_string())?;
            Reply::read(&mut self.stream, &Limits::default()).await.map_err(|e| e.to_string())
        };
        let reply = tokio::time::timeout(PATIENCE, exchange).await;
        let reply = reply.map_err(|_| "no answer".to_owned())??;
        self.session = reply.session;
        reply.outcome
    }
}
