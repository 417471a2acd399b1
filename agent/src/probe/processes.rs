//! Which process is which node: from its own command line and files, never from a name.

use std::path::{Path, PathBuf};

use grayfin_types::{
    NodeAlias,
    facts::{NodeRole, NodeSpec, ProcessIdentity, ProcessState},
};

use super::files::{Properties, Site, role};
use crate::config::Installation;
use crate::process::installation::{Member, members};

/// A DolphinDB process of the installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeProcess {
    /// Which process.
    pub identity: ProcessIdentity,
    /// Its role, from `-mode`.
    pub role: Option<NodeRole>,
    /// Its alias, from `-localSite`, its configuration file, or for data and compute nodes the last
    /// part of `-home`.
    pub alias: Option<NodeAlias>,
    /// Where it listens, where its command line or file says so.
    pub site: Option<Site>,
    /// `-home`, absolute.
    pub home: Option<PathBuf>,
    /// `-logFile`, absolute.
    pub log: Option<PathBuf>,
    /// `-config`, absolute.
    pub config: Option<PathBuf>,
    /// `-nodesFile`, absolute.
    pub nodes_file: Option<PathBuf>,
    /// `-clusterConfig`, absolute.
    pub cluster_config: Option<PathBuf>,
    /// The systemd service that it runs in; empty for none, or for the host agent's own.
    pub unit: String,
}

impl NodeProcess {
    /// Reads what a process is. Fails never: what can't be told is left out.
    fn of(member: Member, own_unit: &str) -> Self {
        let folder = PathBuf::from(&member.identity.working_directory);
        let path = |option: &str| member.argument(option).map(|text| folder.join(text));
        let role = member.argument("-mode").and_then(role);
        let config = path("-config").or_else(|| default_config(&folder, role));
        let site = member
            .argument("-localSite")
            .map(str::to_owned)
            .or_else(|| config.as_deref().and_then(local_site))
            .and_then(|text| Site::parse(&text).ok());
        let home = path("-home");
        let by_home = || {
            let data = matches!(role, Some(NodeRole::DataNode | NodeRole::ComputeNode));
            let name = home.as_ref().filter(|_| data)?.file_name()?.to_str()?;
            NodeAlias::new(name).ok()
        };
        let alias = site.as_ref().map(|site| site.alias.clone()).or_else(by_home);
        let unit = unit_of(member.identity.pid).filter(|unit| unit != own_unit).unwrap_or_default();
        Self {
            role,
            alias,
            home: home.clone(),
            log: path("-logFile"),
            nodes_file: path("-nodesFile"),
            cluster_config: path("-clusterConfig"),
            site,
            config,
            unit,
            identity: member.identity,
        }
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        let role = self.role.map_or_else(|| "unknown mode".to_owned(), |role| role.to_string());
        let alias = self.alias.as_ref().map_or("unknown alias", NodeAlias::as_str);
        format!("process {} ({role}, `{alias}`)", self.identity.pid)
    }
}

/// A controller's or a DolphinDB agent's own file, where the command line names none.
fn default_config(folder: &Path, role: Option<NodeRole>) -> Option<PathBuf> {
    match role? {
        NodeRole::Controller => Some(folder.join("config/controller.cfg")),
        NodeRole::DdbAgent => Some(folder.join("config/agent.cfg")),
        NodeRole::DataNode | NodeRole::ComputeNode => None,
    }
}

/// Reads `localSite` of a file, or the first entry of `sites`.
fn local_site(config: &Path) -> Option<String> {
    let text = std::fs::read_to_string(config).ok()?;
    let properties = Properties::parse("", &text).ok()?;
    let first = || properties.get("sites")?.split(',').next();
    properties.get("localSite").or_else(first).map(str::to_owned)
}

/// The service in `/proc/PID/cgroup`; a person's login session is none.
fn unit_of(pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let line =
        text.lines().find(|line| line.starts_with("0::") || line.contains(":name=systemd:"))?;
    let last = line.rsplit('/').find(|part| part.ends_with(".service"))?;
    (!last.starts_with("user@")).then(|| last.to_owned())
}

/// All processes of an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processes {
    /// All of them, or why that is unknown.
    pub all: Result<Vec<NodeProcess>, String>,
}

impl Processes {
    /// Looks at `/proc`. Blocks for about a millisecond per hundred processes of the machine.
    pub fn look(installation: &Installation) -> Self {
        let own_unit = unit_of(std::process::id()).unwrap_or_default();
        let all = members(&installation.server_dir, &installation.executable);
        let all = all.map_err(|error| super::pool::words(&error));
        let of = |member| NodeProcess::of(member, &own_unit);
        Self { all: all.map(|list| list.into_iter().map(of).collect()) }
    }

    /// The processes that were found.
    pub fn found(&self) -> &[NodeProcess] {
        self.all.as_deref().unwrap_or_default()
    }

    /// Finds the process of a node.
    pub fn of(&self, spec: &NodeSpec) -> Option<&NodeProcess> {
        self.found().iter().find(|p| p.is(spec))
    }

    /// Tells whether the process of a node is there.
    pub fn state(&self, spec: &NodeSpec) -> ProcessState {
        let all = match &self.all {
            Ok(all) => all,
            Err(why) => return ProcessState::Unknown(why.clone()),
        };
        let mut matching = all.iter().filter(|process| process.is(spec));
        match (matching.next(), matching.next()) {
            (Some(process), None) => ProcessState::Running(process.identity.clone()),
            (Some(first), Some(second)) => ProcessState::Unknown(format!(
                "the processes {} and {} both say that they are `{}`",
                first.identity.pid, second.identity.pid, spec.alias
            )),
            // A process that does not say who it is may be this one.
            (None, _) => match all.iter().find(|p| p.alias.is_none() && p.may_be(spec.role)) {
                Some(other) => ProcessState::Unknown(format!(
                    "{} does not say which node it is",
                    other.describe()
                )),
                None => ProcessState::Absent,
            },
        }
    }
}

impl NodeProcess {
    /// Tells whether it is the process of a node.
    fn is(&self, spec: &NodeSpec) -> bool {
        self.alias.as_ref() == Some(&spec.alias) && self.may_be(spec.role)
    }

    fn may_be(&self, role: NodeRole) -> bool {
        self.role.is_none_or(|own| own == role)
    }
}

/// When a process started, in milliseconds since 1970, from the kernel's boot time and its ticks.
pub(super) fn started_ms(identity: &ProcessIdentity) -> Option<i64> {
    /// Clock ticks per second that the kernel shows to programs; it has been 100 on every
    /// architecture for decades.
    const TICKS_PER_SECOND: u64 = 100;
    let boot = i64::try_from(sysinfo::System::boot_time().ok()?).ok()?.checked_mul(1000)?;
    let after = i64::try_from(identity.start_ticks.checked_mul(1000)? / TICKS_PER_SECOND).ok()?;
    boot.checked_add(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(folder: &Path, arguments: &[&str]) -> Member {
        Member {
            identity: ProcessIdentity {
                pid: 1,
                start_ticks: 1,
                executable: "/opt/ddb/server/anything".into(),
                executable_deleted: false,
                working_directory: folder.display().to_string(),
            },
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
        }
    }

    fn spec(alias: &str, role: NodeRole) -> NodeSpec {
        Site::parse(&format!("h:1:{alias}")).unwrap().spec(role)
    }

    #[test]
    fn a_process_is_known_by_its_arguments_and_files_and_not_by_names() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("config")).unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join("config").join(name), text).unwrap();
        };
        write("controller.cfg", "mode=controller\nlocalSite=h:8920:agentX\n");
        write("agent.cfg", "mode=agent\nsites=h:8921:controllerX:agent,h:8920:agentX:controller\n");
        // Aliases that lie about the role must not matter.
        let controller = member(
            dir.path(),
            &[
                "renamed",
                "-mode",
                "controller",
                "-config",
                "config/controller.cfg",
                "-logFile",
                "log/c.log",
            ],
        );
        let controller = NodeProcess::of(controller, "");
        assert_eq!(controller.role, Some(NodeRole::Controller));
        assert_eq!(controller.alias.as_ref().unwrap().as_str(), "agentX");
        assert_eq!(controller.log, Some(dir.path().join("log/c.log")));
        let agent = NodeProcess::of(member(dir.path(), &["x", "-mode", "agent"]), "");
        assert_eq!(agent.alias.as_ref().unwrap().as_str(), "controllerX");
        let arguments = ["x", "-mode", "datanode", "-home", "data/controller1"];
        let data = NodeProcess::of(member(dir.path(), &arguments), "");
        assert_eq!(data.alias.as_ref().unwrap().as_str(), "controller1");
        let arguments = ["x", "-mode", "computenode", "-home", "data/x", "-localSite", "h:1:cn1"];
        let compute = NodeProcess::of(member(dir.path(), &arguments), "");
        assert_eq!(compute.alias.as_ref().unwrap().as_str(), "cn1");
        assert_eq!(compute.site.as_ref().unwrap().port, 1);

        let processes = Processes { all: Ok(vec![controller, agent, data]) };
        let running =
            |alias, role| matches!(processes.state(&spec(alias, role)), ProcessState::Running(_));
        assert!(running("agentX", NodeRole::Controller));
        assert!(!running("agentX", NodeRole::DdbAgent));
        assert!(running("controller1", NodeRole::DataNode));
        assert_eq!(processes.state(&spec("n9", NodeRole::DataNode)), ProcessState::Absent);
    }

    #[test]
    fn what_cannot_be_told_is_unknown() {
        let nameless = NodeProcess::of(member(Path::new("/nowhere"), &["x", "-mode", "agent"]), "");
        let twin = NodeProcess::of(
            member(Path::new("/nowhere"), &["x", "-mode", "datanode", "-home", "data/n1"]),
            "",
        );
        let processes = Processes { all: Ok(vec![nameless, twin.clone(), twin]) };
        let state = |alias, role| processes.state(&spec(alias, role));
        assert!(matches!(state("a1", NodeRole::DdbAgent), ProcessState::Unknown(_)));
        assert_eq!(state("c1", NodeRole::Controller), ProcessState::Absent);
        assert!(matches!(state("n1", NodeRole::DataNode), ProcessState::Unknown(_)));
        let blind = Processes { all: Err("no right".to_owned()) };
        assert!(matches!(blind.state(&spec("n1", NodeRole::DataNode)), ProcessState::Unknown(_)));
    }

    #[test]
    fn the_start_of_a_process_is_told_in_wall_clock_time() {
        let own = crate::process::identify(std::process::id()).unwrap().unwrap();
        let started = started_ms(&own).unwrap();
        let now = i64::try_from(grayfin_proto::clock::wall_ms()).unwrap();
        assert!(started <= now + 1000 && now - started < 600_000, "{started} {now}");
    }
}
