//! Which process is which node.

use std::path::{Path, PathBuf};

use standin::config::Role;

use crate::processes::{self, ProcessId};

/// A node to look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Alias.
    pub alias: String,
    /// Role.
    pub role: Role,
    /// Name of its host.
    pub host: String,
    /// Name of its cluster.
    pub cluster: String,
    /// `host:port`.
    pub address: String,
    /// Its installation's `server` folder.
    pub server: PathBuf,
}

/// A process that is a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// The process.
    pub(super) process: ProcessId,
    /// Its place in the list of nodes.
    pub(super) node: usize,
}

/// Live processes of the node with this alias.
pub fn processes_of(watched: &[Watched], alias: &str) -> Vec<ProcessId> {
    processes::all()
        .into_iter()
        .filter_map(|pid| identify(pid, watched))
        .filter(|found| watched.get(found.node).is_some_and(|node| node.alias == alias))
        .map(|found| found.process)
        .filter(|process| process.is_alive())
        .collect()
}

/// Says which node a process is.
pub(super) fn identify(pid: i32, watched: &[Watched]) -> Option<Found> {
    let program = processes::executable(pid)?;
    let folder = program.parent()?;
    if !watched.iter().any(|node| node.server == folder) {
        return None;
    }
    let arguments = processes::arguments(pid);
    if is_copy_of_parent(pid, &program, &arguments) {
        return None;
    }
    let node = watched.iter().position(|node| is_node(node, folder, &arguments))?;
    Some(Found { process: ProcessId::of(pid)?, node })
}

/// A DolphinDB agent starts nodes by making a copy of itself that then becomes the node: until it has,
/// it looks like its parent.
fn is_copy_of_parent(pid: i32, program: &Path, arguments: &[String]) -> bool {
    let Some(parent) = processes::stat(pid).map(|stat| stat.parent) else { return false };
    processes::executable(parent).is_some_and(|it| it == program)
        && processes::arguments(parent) == arguments
}

/// Controllers and DolphinDB agents are one per installation; the others are told apart by alias.
fn is_node(node: &Watched, folder: &Path, arguments: &[String]) -> bool {
    if node.server != folder || option(arguments, "-mode") != Some(node.role.as_str()) {
        return false;
    }
    match node.role {
        Role::Controller | Role::DdbAgent => true,
        Role::DataNode | Role::ComputeNode => {
            arguments.iter().any(|argument| names(argument, &node.alias))
        }
    }
}

fn option<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let place = arguments.iter().position(|argument| argument == name)?;
    arguments.get(place + 1).map(String::as_str)
}

/// True when the alias stands in the argument as a word: `h:1:node43`, `log/node43.log`, `data/node43`.
fn names(argument: &str, alias: &str) -> bool {
    argument
        .split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_' || letter == '-'))
        .any(|word| word == alias)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(alias: &str, role: Role) -> Watched {
        Watched {
            alias: alias.into(),
            role,
            host: "host43".into(),
            cluster: "trade".into(),
            address: "127.1.1.43:8922".into(),
            server: "/l/host43/ddb/server".into(),
        }
    }

    #[test]
    fn nodes_are_told_apart_by_folder_mode_and_alias() {
        let arguments =
            |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        let data =
            arguments("./../dolphindb -mode datanode -localSite 127.1.1.43:8922:node43 -x 1");
        let folder = Path::new("/l/host43/ddb/server");
        assert!(is_node(&watched("node43", Role::DataNode), folder, &data));
        assert!(!is_node(&watched("node43b", Role::DataNode), folder, &data));
        assert!(!is_node(&watched("node4", Role::DataNode), folder, &data));
        assert!(!is_node(&watched("node43", Role::ComputeNode), folder, &data));
        assert!(!is_node(&watched("node43", Role::DataNode), Path::new("/l/host44"), &data));
        let controller = arguments("./../dolphindb -console 0 -mode controller -home data");
        assert!(is_node(&watched("HActl43", Role::Controller), folder, &controller));
    }
}
