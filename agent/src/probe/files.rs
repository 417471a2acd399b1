//! DolphinDB's own configuration files, read without believing more than they say.
//!
//! `cluster.nodes`, `controller.cfg`, `agent.cfg`, `cluster.cfg`. In a cluster with Raft the files
//! count only at the first start; the live configuration is asked from the controllers
//! (`super::live`). What the files are good for is to know where to ask, and which nodes are this
//! host's own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use grayfin_types::{
    Code, NodeAlias,
    facts::{NodeRole, NodeSpec, Probe, Problem},
};

use crate::files::Hasher;

/// A file larger than this is not one of ours: `cluster.nodes` of 10,000 nodes has half a MiB.
const FILE_MAX: u64 = 8 << 20;

/// A bad line of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{file}` line {line}: {why}")]
pub struct BadLine {
    /// The file, or what answered.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

impl BadLine {
    fn new(file: &str, line: usize, why: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, why: why.into() }
    }

    /// The same for a person to mend.
    pub fn problem(&self) -> Problem {
        Problem {
            code: Code::ConfigUnreadable,
            subject: format!("{}:{}", self.file, self.line),
            detail: self.why.clone(),
        }
    }
}

/// Keys and values of a `.cfg` file, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Properties {
    lines: Vec<(usize, String, String)>,
}

impl Properties {
    /// Parses a file.
    pub fn parse(file: &str, text: &str) -> Result<Self, BadLine> {
        if text.lines().next().is_some_and(|line| line.trim().is_empty()) {
            return Err(BadLine::new(file, 1, "the first line is blank, which DolphinDB refuses"));
        }
        let mut lines = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') || line.starts_with("//") {
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                return Err(BadLine::new(file, at + 1, format!("`{line}` is not `key=value`")));
            };
            let key = key.trim();
            if key.is_empty() || key.contains(char::is_whitespace) {
                return Err(BadLine::new(file, at + 1, format!("`{key}` is not a key")));
            }
            lines.push((at + 1, key.to_owned(), value.trim().to_owned()));
        }
        Ok(Self { lines })
    }

    /// Returns the last value of a key, with its line.
    pub fn line(&self, key: &str) -> Option<(usize, &str)> {
        let found = self.lines.iter().rev().find(|(_, name, _)| name == key);
        found.map(|(line, _, value)| (*line, value.as_str()))
    }

    /// Returns the last value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.line(key).map(|(_, value)| value)
    }

    /// Returns every value of a key whatever stands in front of it (`alias.key`, `%.key`).
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines
            .iter()
            .filter(move |(_, name, _)| name.rsplit_once('.').map_or(name.as_str(), |n| n.1) == key)
            .map(|(_, _, value)| value.as_str())
    }

    /// Returns keys and values in order.
    pub fn pairs(&self) -> Vec<(String, String)> {
        self.lines.iter().map(|(_, key, value)| (key.clone(), value.clone())).collect()
    }
}

/// `host:port:alias`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Host name or address.
    pub address: String,
    /// Port.
    pub port: u16,
    /// Alias.
    pub alias: NodeAlias,
}

impl Site {
    /// Parses `host:port:alias`; more parts after them are ignored.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.trim().split(':');
        let (Some(address), Some(port), Some(alias)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(format!("`{text}` is not host:port:alias"));
        };
        if address.is_empty() {
            return Err(format!("`{text}` has no host"));
        }
        let port = port.parse().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| format!("`{text}` has no port"))?;
        let alias = NodeAlias::new(alias).map_err(|error| error.to_string())?;
        Ok(Self { address: address.to_owned(), port, alias })
    }

    /// The node that it names.
    pub fn spec(&self, role: NodeRole) -> NodeSpec {
        NodeSpec {
            alias: self.alias.clone(),
            role,
            address: self.address.clone(),
            port: self.port,
            compute_group: String::new(),
        }
    }
}

/// Reads a role as DolphinDB writes it.
pub fn role(word: &str) -> Option<NodeRole> {
    match word.trim().to_ascii_lowercase().as_str() {
        "controller" => Some(NodeRole::Controller),
        "agent" => Some(NodeRole::DdbAgent),
        "datanode" => Some(NodeRole::DataNode),
        "computenode" => Some(NodeRole::ComputeNode),
        _ => None,
    }
}

/// `cluster.nodes`, from the file or from a controller.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nodes {
    /// Every node, in the order of the lines.
    pub nodes: Vec<NodeSpec>,
    /// SHA-256 over the sorted, trimmed lines without header, blanks and comments.
    pub digest: String,
}

impl Nodes {
    /// Parses the text of the file.
    pub fn parse(file: &str, text: &str) -> Result<Self, BadLine> {
        if text.lines().next().is_none_or(|line| line.trim().is_empty()) {
            return Err(BadLine::new(file, 1, "the first line is blank, which DolphinDB refuses"));
        }
        Self::from_lines(file, text.lines())
    }

    /// Parses lines; a header is not required.
    pub fn from_lines<'a>(
        file: &str,
        lines: impl Iterator<Item = &'a str>,
    ) -> Result<Self, BadLine> {
        let mut nodes: Vec<NodeSpec> = Vec::new();
        let mut normal = BTreeSet::new();
        for (at, line) in lines.enumerate() {
            let line = line.trim();
            let header = at == 0 && line.starts_with("localSite");
            if line.is_empty() || line.starts_with('#') || header {
                continue;
            }
            let bad = |why: String| BadLine::new(file, at + 1, why);
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            let site = Site::parse(fields.first().copied().unwrap_or_default()).map_err(bad)?;
            let word = fields.get(1).copied().unwrap_or_default();
            let role = role(word).ok_or_else(|| bad(format!("`{word}` is not a mode")))?;
            if nodes.iter().any(|node| node.alias == site.alias) {
                return Err(bad(format!("the alias `{}` is there twice", site.alias)));
            }
            let group = fields.get(2).copied().unwrap_or_default().to_owned();
            nodes.push(NodeSpec { compute_group: group, ..site.spec(role) });
            normal.insert(fields.join(",").trim_end_matches(',').to_owned());
        }
        if nodes.is_empty() {
            return Err(BadLine::new(file, 1, "it names no node"));
        }
        let mut hasher = Hasher::default();
        for line in normal {
            hasher.update(line.as_bytes());
            hasher.update(b"\n");
        }
        Ok(Self { nodes, digest: hasher.finish() })
    }
}

/// Where the files are: beside the scripts, unless a running process was told otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// `cluster.nodes`.
    pub nodes: PathBuf,
    /// `controller.cfg`.
    pub controller: PathBuf,
    /// `agent.cfg`.
    pub ddb_agent: PathBuf,
    /// `cluster.cfg`.
    pub cluster: PathBuf,
}

impl Places {
    /// The package's own places.
    pub fn below(work_dir: &Path) -> Self {
        let config = work_dir.join("config");
        Self {
            nodes: config.join("cluster.nodes"),
            controller: config.join("controller.cfg"),
            ddb_agent: config.join("agent.cfg"),
            cluster: config.join("cluster.cfg"),
        }
    }

    /// What tells two states of the files apart.
    pub(super) fn stamp(&self) -> Vec<Option<(u64, u64, i64, i64)>> {
        use std::os::unix::fs::MetadataExt;
        [&self.nodes, &self.controller, &self.ddb_agent, &self.cluster]
            .map(|path| {
                let found = std::fs::metadata(path).ok();
                found.map(|m| (m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
            })
            .to_vec()
    }
}

/// Everything that the files of one installation say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configured {
    /// `cluster.nodes`; none where this host has none, as hosts without a controller may.
    pub nodes: Probe<Option<Nodes>>,
    /// This host's controller.
    pub controller: Option<Site>,
    /// This host's DolphinDB agent.
    pub ddb_agent: Option<Site>,
    /// Controllers that `agent.cfg` names.
    pub known_controllers: Vec<Site>,
    /// `controller.cfg`.
    pub controller_cfg: Properties,
    /// `agent.cfg`.
    pub agent_cfg: Properties,
    /// `cluster.cfg`.
    pub cluster_cfg: Properties,
    /// Bad lines and unreadable files.
    pub problems: Vec<Problem>,
}

impl Configured {
    /// Reads the files.
    pub fn load(places: &Places) -> Self {
        let mut problems = Vec::new();
        let controller_cfg = properties(&places.controller, &mut problems);
        let agent_cfg = properties(&places.ddb_agent, &mut problems);
        let cluster_cfg = properties(&places.cluster, &mut problems);
        let nodes = match read(&places.nodes) {
            Ok(None) => Probe::Known(None),
            Ok(Some(text)) => match Nodes::parse(&places.nodes.display().to_string(), &text) {
                Ok(nodes) => Probe::Known(Some(nodes)),
                Err(bad) => {
                    problems.push(bad.problem());
                    Probe::Unknown(bad.to_string())
                }
            },
            Err(problem) => {
                let why = problem.detail.clone();
                problems.push(problem);
                Probe::Unknown(why)
            }
        };
        let controller = site(&places.controller, &controller_cfg, "localSite", &mut problems);
        let (mut ddb_agent, mut known_controllers) =
            (site(&places.ddb_agent, &agent_cfg, "localSite", &mut problems), Vec::new());
        known_controllers.extend(site(
            &places.ddb_agent,
            &agent_cfg,
            "controllerSite",
            &mut problems,
        ));
        if let Some((line, sites)) = agent_cfg.line("sites") {
            for item in sites.split(',').filter(|item| !item.trim().is_empty()) {
                match Site::parse(item) {
                    Ok(site) if is_controller(item) => {
                        if !known_controllers.contains(&site) {
                            known_controllers.push(site);
                        }
                    }
                    // The first one is the DolphinDB agent itself.
                    Ok(site) => ddb_agent = ddb_agent.or(Some(site)),
                    Err(why) => {
                        let file = places.ddb_agent.display().to_string();
                        problems.push(BadLine::new(&file, line, why).problem());
                    }
                }
            }
        }
        Self {
            nodes,
            controller,
            ddb_agent,
            known_controllers,
            controller_cfg,
            agent_cfg,
            cluster_cfg,
            problems,
        }
    }

    /// Tells whether a configured node is this host's: it has the address of this host's controller
    /// or DolphinDB agent, as the file writes it.
    pub fn is_own(&self, all: &[NodeSpec], spec: &NodeSpec) -> bool {
        [&self.controller, &self.ddb_agent].into_iter().flatten().any(|site| {
            let listed = all.iter().find(|node| node.alias == site.alias);
            spec.address == site.address || listed.is_some_and(|node| node.address == spec.address)
        })
    }
}

/// `host:port:alias:controller[:voter]`.
fn is_controller(item: &str) -> bool {
    item.split(':').nth(3).and_then(role) == Some(NodeRole::Controller)
}

/// Reads a `.cfg` file; a missing one is empty.
fn properties(path: &Path, problems: &mut Vec<Problem>) -> Properties {
    let parsed = match read(path) {
        Ok(None) => return Properties::default(),
        Ok(Some(text)) => {
            Properties::parse(&path.display().to_string(), &text).map_err(|bad| bad.problem())
        }
        Err(problem) => Err(problem),
    };
    parsed.unwrap_or_else(|problem| {
        problems.push(problem);
        Properties::default()
    })
}

/// Reads a key that holds a site.
fn site(
    path: &Path,
    properties: &Properties,
    key: &str,
    problems: &mut Vec<Problem>,
) -> Option<Site> {
    let (line, text) = properties.line(key)?;
    match Site::parse(text) {
        Ok(site) => Some(site),
        Err(why) => {
            problems.push(BadLine::new(&path.display().to_string(), line, why).problem());
            None
        }
    }
}

/// Reads a text file; none if it is not there.
fn read(path: &Path) -> Result<Option<String>, Problem> {
    let problem = |detail: String| Problem {
        code: Code::ConfigUnreadable,
        subject: path.display().to_string(),
        detail,
    };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > FILE_MAX => {
            return Err(problem(format!("it has more than {FILE_MAX} bytes")));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(problem(format!("it cannot be read: {error}"))),
    }
    std::fs::read_to_string(path)
        .map(Some)
        .map_err(|error| problem(format!("it cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "localSite,mode\n10.0.0.1:8920:c1,controller\n10.0.0.2:8920:c2,controller\n\
        10.0.0.1:8921:a1,agent\n\n10.0.0.1:8922:n1,datanode\n10.0.0.2:8922:n2,computenode,cg1\n";

    fn written(files: &[(&str, &str)]) -> (tempfile::TempDir, Places) {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::below(dir.path());
        std::fs::create_dir(dir.path().join("config")).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join("config").join(name), text).unwrap();
        }
        (dir, places)
    }

    #[test]
    fn nodes_are_read_and_their_digest_ignores_order_and_blanks() {
        let nodes = Nodes::parse("cluster.nodes", NODES).unwrap();
        assert_eq!(nodes.nodes.len(), 5);
        assert_eq!(nodes.nodes[4].compute_group, "cg1");
        let other = "localSite,mode,computeGroup\n10.0.0.2:8920:c2, controller,\n10.0.0.1:8920:c1,controller\n\
            # two hosts\n10.0.0.2:8922:n2,computenode,cg1\n10.0.0.1:8922:n1,datanode\n10.0.0.1:8921:a1,agent\n";
        assert_eq!(Nodes::parse("x", other).unwrap().digest, nodes.digest);
        let moved = NODES.replace("10.0.0.2:8922", "10.0.0.3:8922");
        assert_ne!(Nodes::parse("x", &moved).unwrap().digest, nodes.digest);
        // A controller answers without a header.
        let lines = NODES.lines().skip(1);
        assert_eq!(Nodes::from_lines("x", lines).unwrap().digest, nodes.digest);
    }

    #[test]
    fn bad_lines_are_problems_that_name_file_and_line() {
        for (name, text, place) in [
            ("cluster.nodes", "localSite,mode\nh:1:a,agent\nh:x:b,agent\n", "cluster.nodes:3"),
            ("cluster.nodes", "localSite,mode\nh:1:a,boss\n", "cluster.nodes:2"),
            ("cluster.nodes", "localSite,mode\nh:1:a,agent\nh:2:a,agent\n", "cluster.nodes:3"),
            ("cluster.nodes", "\nh:1:a,agent\n", "cluster.nodes:1"),
            ("controller.cfg", "mode=controller\nwhat is this\n", "controller.cfg:2"),
            ("controller.cfg", "mode=controller\nlocalSite=h:1\n", "controller.cfg:2"),
            ("agent.cfg", "mode=agent\nsites=h:1:a:agent,h:2\n", "agent.cfg:2"),
            ("cluster.cfg", "\nworkerNum=4\n", "cluster.cfg:1"),
        ] {
            let (_dir, places) = written(&[(name, text)]);
            let problems = Configured::load(&places).problems;
            assert_eq!(problems.len(), 1, "{text}");
            assert_eq!(problems[0].code, Code::ConfigUnreadable);
            assert!(problems[0].subject.ends_with(place), "{problems:?}");
        }
    }

    #[test]
    fn own_nodes_are_those_with_the_address_of_this_hosts_controller_or_agent() {
        let agent = "mode=agent\nsites=db1:8921:a1:agent,10.0.0.1:8920:c1:controller,10.0.0.2:8920:c2:controller:voter\n";
        let (_dir, places) = written(&[("cluster.nodes", NODES), ("agent.cfg", agent)]);
        let configured = Configured::load(&places);
        assert!(configured.problems.is_empty(), "{:?}", configured.problems);
        assert_eq!(configured.known_controllers.len(), 2);
        let Probe::Known(Some(nodes)) = &configured.nodes else { panic!() };
        let own: Vec<&str> = nodes
            .nodes
            .iter()
            .filter(|spec| configured.is_own(&nodes.nodes, spec))
            .map(|spec| spec.alias.as_str())
            .collect();
        // `agent.cfg` says `db1`; the alias says which address the cluster uses.
        assert_eq!(own, ["c1", "a1", "n1"]);
    }

    #[test]
    fn missing_files_are_no_problem_but_known_to_be_missing() {
        let (_dir, places) = written(&[]);
        let configured = Configured::load(&places);
        assert_eq!(configured.nodes, Probe::Known(None));
        assert!(configured.problems.is_empty() && configured.controller.is_none());
    }

    #[test]
    fn keys_keep_their_order_and_their_fronts() {
        let text =
            "volumes=/plain/<ALIAS>\n%43.volumes=/pattern/<ALIAS>\nworkerNum=4\nworkerNum=8\n";
        let cfg = Properties::parse("cluster.cfg", text).unwrap();
        assert_eq!(cfg.line("workerNum"), Some((4, "8")));
        assert_eq!(cfg.all("volumes").count(), 2);
        assert_eq!(cfg.pairs()[1].0, "%43.volumes");
    }
}
