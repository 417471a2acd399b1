//! Everything about this host.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use grayfin_types::{
    Code, DdbVersion,
    facts::{
        AgentStanding, BackupPart, HostFacts, LicenceFacts, MemoryObject, NodeFacts, NodeRole,
        NodeSpec, Probe, Problem, ProcessIdentity, ProcessState,
    },
    plan::UpgradeMode,
};

use super::node::{Answer, Asker};
use super::processes::{NodeProcess, started_ms};
use super::settings::{self, NodeSettings};
use super::surroundings::{self, Packages, Startup};
use super::{Depth, Inner, Local, Prober, Topology, concurrently, memory, rights};
use crate::backup::{Part, weigh};
use crate::ddb::Call;

/// What changes slowly is looked at again after this time, or at a full look.
const SLOW: Duration = Duration::from_secs(30);

/// What is remembered between looks.
#[derive(Debug, Default)]
pub(super) struct Cache {
    pub(super) packages: Packages,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Settings by alias, with the process that they came from.
    settings: HashMap<String, (Option<ProcessIdentity>, NodeSettings)>,
    /// Bytes by part, as last weighed.
    weights: HashMap<String, Probe<Option<u64>>>,
    memory: Option<(Instant, Vec<ProcessIdentity>, Probe<Vec<MemoryObject>>)>,
    licence: Option<(Instant, Probe<LicenceFacts>)>,
    /// What the account `operate` lacks, with the state of the accounts' file that it was asked with.
    rights: Option<(u64, Vec<Problem>)>,
    /// The executable whose version a process of it told.
    installed: Option<(surroundings::FileId, DdbVersion)>,
}

impl Cache {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the file system says.
struct Blocking {
    start_markers: Vec<Option<Probe<bool>>>,
    volumes: Vec<grayfin_types::facts::VolumeFacts>,
    packages: Vec<grayfin_types::facts::PackageFacts>,
    backup: Vec<BackupPart>,
    plugins: Probe<Vec<(String, String)>>,
    problems: Vec<Problem>,
}

impl Prober {
    /// Looks at this host. A cheap look asks each own node two or three short questions on open
    /// connections and reads what was appended to the controllers' logs; all else is as it was found
    /// lately. A full look also weighs the backup and reads the package through.
    pub async fn host_facts(&self, depth: &Depth, standing: AgentStanding) -> HostFacts {
        let look = self.0.next_look();
        let local = self.0.local().await;
        let topology = self.topology(&local).await;
        let full = *depth != Depth::Cheap;
        let answers = self.answers(&local, &topology).await;
        let settings = self.settings(&local, &topology).await;
        let memory = self.memory(&local, &topology, full).await;
        let licence = self.licence(&local, &topology, full).await;
        let rights = self.rights(&local, &topology, full).await;
        let blocking = self.blocking(&local, &topology, &settings, depth).await;

        let mut problems = local.configured.problems.clone();
        problems.extend(self.0.pool.credentials().problems());
        problems.extend(rights);
        problems.extend(topology.strangers.iter().map(stranger));
        if topology.own.is_empty() {
            problems.push(nothing_own(&self.0.installation.server_dir));
        }
        problems.extend(blocking.problems);
        let installed = self.installed(&local, &topology, &answers);
        let nodes = topology
            .own
            .iter()
            .zip(answers)
            .zip(blocking.start_markers)
            .map(|((spec, answer), start_marker)| NodeFacts {
                spec: spec.clone(),
                process: local.processes.state(spec),
                version: answer.version,
                ready: answer.ready,
                leader: answer.leader,
                start_marker,
                unit: self.unit(spec, local.processes.of(spec)),
            })
            .collect();
        HostFacts {
            cluster: self.0.installation.cluster.clone(),
            host: self.0.host.clone(),
            boot_id: crate::process::boot_id().unwrap_or_default(),
            look,
            standing,
            server_dir: self.0.installation.server_dir.display().to_string(),
            installed,
            upgrade_mode: match self.0.installation.upgrade_mode {
                UpgradeMode::Native => "native".to_owned(),
                UpgradeMode::Script => "script".to_owned(),
            },
            nodes,
            configured: topology.all,
            nodes_digest: topology.digest,
            volumes: blocking.volumes,
            packages: blocking.packages,
            backup: blocking.backup,
            licence,
            plugins: blocking.plugins,
            memory,
            problems,
        }
    }

    /// Remembers that the executable on disk has this version: for the step that put it there.
    pub fn note_installed(&self, version: &DdbVersion) {
        let path = self.0.installation.executable_path();
        let id = surroundings::file_id(&path).ok();
        self.0.host_cache.state().installed = id.map(|id| (id, version.clone()));
    }

    /// Asks every own node whose process is there.
    async fn answers(&self, local: &Local, topology: &Topology) -> Vec<Answer> {
        let inner = Arc::clone(&self.0);
        let things: Vec<(NodeSpec, ProcessState)> =
            topology.own.iter().map(|spec| (spec.clone(), local.processes.state(spec))).collect();
        concurrently(things, move |(spec, process)| {
            let inner = Arc::clone(&inner);
            async move {
                if process == ProcessState::Absent {
                    inner.pool.forget(&spec);
                    let mut answer = Answer::unknown(spec.role, "its process is not running");
                    answer.ready = Probe::Known(false);
                    return answer;
                }
                Asker::new(&inner.pool, inner.options.probe).all(&spec).await
            }
        })
        .await
    }

    /// The settings of every own node: as it told them since its process runs, or from the files.
    pub(super) async fn settings(&self, local: &Local, topology: &Topology) -> Vec<NodeSettings> {
        let mut settings = Vec::new();
        for spec in &topology.own {
            let process = local.processes.of(spec);
            let identity = process.map(|process| process.identity.clone());
            let known = self.0.host_cache.state().settings.get(spec.alias.as_str()).cloned();
            // A node that is down keeps its state where it had it when it ran.
            let fits = |before: &Option<ProcessIdentity>| identity.is_none() || *before == identity;
            if let Some((_, known)) = known.filter(|(before, known)| known.running && fits(before))
            {
                settings.push(known);
                continue;
            }
            let call = Call::urgent(self.0.options.probe);
            let asked = match process {
                Some(_) => NodeSettings::ask(&self.0.pool, spec, process, &call).await,
                None => Err("it is not running".to_owned()),
            };
            let found = asked.unwrap_or_else(|_| {
                NodeSettings::from_files(&self.0.installation, &local.configured, spec, process)
            });
            let mut state = self.0.host_cache.state();
            state.settings.insert(spec.alias.to_string(), (identity, found.clone()));
            settings.push(found);
        }
        settings
    }

    /// What own nodes hold only in memory. Asked again when a process is another one, at a full
    /// look, and after a while.
    pub(super) async fn memory(
        &self,
        local: &Local,
        topology: &Topology,
        full: bool,
    ) -> Probe<Vec<MemoryObject>> {
        let running: Vec<(NodeSpec, ProcessIdentity)> = topology
            .own
            .iter()
            .filter(|spec| matches!(spec.role, NodeRole::DataNode | NodeRole::ComputeNode))
            .filter_map(|spec| Some((spec.clone(), local.processes.of(spec)?.identity.clone())))
            .collect();
        let identities: Vec<ProcessIdentity> = running.iter().map(|(_, id)| id.clone()).collect();
        if let Some((at, before, memory)) = &self.0.host_cache.state().memory
            && !full
            && at.elapsed() < SLOW
            && *before == identities
            && memory.known().is_some()
        {
            return memory.clone();
        }
        if let Err(why) = &local.processes.all {
            return Probe::Unknown(why.clone());
        }
        let startup = Arc::new(self.startup().await);
        let inner = Arc::clone(&self.0);
        let specs = running.into_iter().map(|(spec, _)| spec).collect();
        let lists = concurrently(specs, move |spec: NodeSpec| {
            let (inner, startup) = (Arc::clone(&inner), Arc::clone(&startup));
            async move {
                let call = Call::urgent(inner.options.probe);
                let provides = |kind: &str, name: &str| startup.provides(kind, name);
                let asked = memory::objects(&inner.pool, &spec, &call, &provides);
                // Eight questions: a hung node must not cost the deadline for each.
                let asked = tokio::time::timeout(inner.options.probe * 2, asked).await;
                asked.unwrap_or_else(|_| Err(format!("`{}` did not answer in time", spec.alias)))
            }
        })
        .await;
        let memory = match lists.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(lists) => Probe::Known(lists.into_iter().flatten().collect()),
            Err(why) => Probe::Unknown(why),
        };
        self.0.host_cache.state().memory = Some((Instant::now(), identities, memory.clone()));
        memory
    }

    /// The startup scripts, by the settings known so far.
    pub(super) async fn startup(&self) -> Startup {
        let inner = Arc::clone(&self.0);
        let read = tokio::task::spawn_blocking(move || {
            let settings: Vec<NodeSettings> =
                inner.host_cache.state().settings.values().map(|(_, s)| s.clone()).collect();
            Startup::read(&inner.installation, &settings)
        });
        read.await.unwrap_or_default()
    }

    /// The licence, from the first own node that answers. The DolphinDB agent is asked last: it may
    /// need a login that it does not have.
    async fn licence(&self, local: &Local, topology: &Topology, full: bool) -> Probe<LicenceFacts> {
        if let Some((at, licence)) = &self.0.host_cache.state().licence
            && !full
            && at.elapsed() < SLOW
            && licence.known().is_some()
        {
            return licence.clone();
        }
        let mut running: Vec<&NodeSpec> =
            topology.own.iter().filter(|spec| local.processes.of(spec).is_some()).collect();
        running.sort_by_key(|spec| spec.role == NodeRole::DdbAgent);
        let mut licence = Probe::Unknown("no node of this host runs that could tell it".to_owned());
        for spec in running {
            let call = Call::urgent(self.0.options.probe);
            licence = surroundings::licence(&self.0.pool, spec, &call).await;
            if licence.known().is_some() {
                break;
            }
        }
        self.0.host_cache.state().licence = Some((Instant::now(), licence.clone()));
        licence
    }

    /// What the account that stops and starts nodes lacks; asked at a full look, when the file of the
    /// accounts has changed, and again while it is unknown.
    async fn rights(&self, local: &Local, topology: &Topology, full: bool) -> Vec<Problem> {
        let generation = self.0.pool.credentials().generation();
        let known = self.0.host_cache.state().rights.clone();
        let known = known.filter(|(asked, _)| !full && *asked == generation);
        if let Some((_, problems)) = known.filter(|(_, found)| !rights::are_unknown(found)) {
            return problems;
        }
        let running = topology
            .own
            .iter()
            .filter(|spec| spec.role != NodeRole::DdbAgent && local.processes.of(spec).is_some());
        let (call, file) =
            (Call::urgent(self.0.options.probe), &self.0.installation.credentials_file);
        // Without a node that runs nothing can start anyway, and other facts say so.
        let mut problems = Vec::new();
        for spec in running {
            problems = rights::problems(&self.0.pool, spec, &call, file).await;
            // One that was just started knows no accounts yet; another one does.
            if !rights::are_unknown(&problems) {
                break;
            }
        }
        self.0.host_cache.state().rights = Some((generation, problems.clone()));
        problems
    }

    /// What has to be read from files, on a thread that may block.
    async fn blocking(
        &self,
        local: &Local,
        topology: &Topology,
        settings: &[NodeSettings],
        depth: &Depth,
    ) -> Blocking {
        let inner = Arc::clone(&self.0);
        let (own, settings, depth) = (topology.own.clone(), settings.to_vec(), depth.clone());
        let processes: Vec<Option<NodeProcess>> =
            own.iter().map(|spec| local.processes.of(spec).cloned()).collect();
        let looked = tokio::task::spawn_blocking(move || {
            inner.look_blocking(&own, &processes, &settings, &depth)
        });
        looked.await.unwrap_or_else(|error| {
            let why = format!("the look broke off: {error}");
            let subject = self.0.installation.server_dir.display().to_string();
            Blocking {
                start_markers: topology.own.iter().map(|_| None).collect(),
                volumes: vec![],
                packages: vec![],
                backup: vec![],
                plugins: Probe::Unknown(why.clone()),
                problems: vec![Problem { code: Code::Internal, subject, detail: why }],
            }
        })
    }

    /// What the executable on disk claims: what a process that runs this very file says.
    fn installed(
        &self,
        local: &Local,
        topology: &Topology,
        answers: &[Answer],
    ) -> Probe<DdbVersion> {
        let path = self.0.installation.executable_path();
        let id = match surroundings::file_id(&path) {
            Ok(id) => id,
            Err(error) => return Probe::Unknown(format!("`{}`: {error}", path.display())),
        };
        let told = topology.own.iter().zip(answers).find_map(|(spec, answer)| {
            let pid = local.processes.of(spec)?.identity.pid;
            let running = surroundings::file_id(Path::new(&format!("/proc/{pid}/exe"))).ok()?;
            // The same inode with the same content.
            (running == id).then(|| answer.version.known().cloned()).flatten()
        });
        let mut state = self.0.host_cache.state();
        if let Some(version) = told {
            state.installed = Some((id, version));
        }
        match &state.installed {
            Some((known, version)) if *known == id => Probe::Known(version.clone()),
            Some(_) | None => Probe::Unknown(format!(
                "no node that runs `{}` has told its version",
                path.display()
            )),
        }
    }

    /// The unit of a node: as configured, or as its control group says. Data and compute nodes live
    /// in their DolphinDB agent's unit and have none of their own.
    fn unit(&self, spec: &NodeSpec, process: Option<&NodeProcess>) -> String {
        if let Some(unit) = self.0.installation.units.of(spec) {
            return unit.to_owned();
        }
        match spec.role {
            NodeRole::Controller | NodeRole::DdbAgent => {
                process.map(|process| process.unit.clone()).unwrap_or_default()
            }
            NodeRole::DataNode | NodeRole::ComputeNode => String::new(),
        }
    }
}

impl Inner {
    fn look_blocking(
        &self,
        own: &[NodeSpec],
        processes: &[Option<NodeProcess>],
        settings: &[NodeSettings],
        depth: &Depth,
    ) -> Blocking {
        let start_markers = own
            .iter()
            .zip(processes)
            .map(|(spec, process)| {
                (spec.role == NodeRole::Controller)
                    .then(|| self.start_marker(spec, process.as_ref()))
            })
            .collect();
        let (volumes, mut problems) = surroundings::volumes(&self.installation, &self.state_dir);
        let (full, package) = match depth {
            Depth::Cheap => (false, None),
            Depth::Full { package } => (true, package.as_ref()),
        };
        let folder = &self.installation.package_dir;
        let (packages, bad) = self.host_cache.packages.look(folder, package);
        problems.extend(bad);
        let parts = settings::parts(&self.installation, settings);
        let backup =
            parts.into_iter().map(|(part, shown)| self.weighed(&part, shown, full)).collect();
        let plugins = surroundings::plugins(&self.installation, settings);
        Blocking { start_markers, volumes, packages, backup, plugins, problems }
    }

    /// Weighs a part, or takes what it weighed last.
    fn weighed(&self, part: &Part, mut shown: BackupPart, full: bool) -> BackupPart {
        if full {
            // Nothing else is held while a large folder is weighed.
            let weighed = weigh(std::slice::from_ref(part)).into_iter().next();
            if let Some(weighed) = weighed {
                shown.bytes = weighed.bytes;
            }
            self.host_cache.state().weights.insert(part.id.clone(), shown.bytes.clone());
        } else if let Some(bytes) = self.host_cache.state().weights.get(&part.id) {
            shown.bytes = bytes.clone();
        }
        shown
    }

    fn start_marker(&self, spec: &NodeSpec, process: Option<&NodeProcess>) -> Probe<bool> {
        let Some(process) = process else {
            return Probe::Unknown("its process is not running".to_owned());
        };
        let log = process.log.clone();
        let log = log.unwrap_or_else(|| self.installation.work_dir.join("log/controller.log"));
        match started_ms(&process.identity) {
            Some(started) => self.markers.look(&spec.alias, &process.identity, started, &log),
            None => Probe::Unknown("the start time of its process cannot be told".to_owned()),
        }
    }
}

fn stranger(process: &NodeProcess) -> Problem {
    Problem {
        code: Code::NodeUnclaimed,
        subject: process.describe(),
        detail: "it runs from this installation, but no node of this host is configured by its alias; configure it or end it".to_owned(),
    }
}

fn nothing_own(server_dir: &Path) -> Problem {
    Problem {
        code: Code::NodeUnclaimed,
        subject: server_dir.display().to_string(),
        detail: "no node of the cluster is this host's: no process of the installation runs, and no configured node has the address of its `controller.cfg` or `agent.cfg`".to_owned(),
    }
}
