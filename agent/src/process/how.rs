//! How a node runs, captured before it is stopped, so that it can be started in the same way.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use grayfin_types::facts::{NodeRole, NodeSpec, ProcessIdentity};
use serde::{Deserialize, Serialize};

use super::{Error, cgroup, launch::Program, launcher, procfs};

/// Variables that tell a process about its own start; they would lie to another one.
const NOT_INHERITED: [&str; 12] = [
    "_",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "MAINPID",
    "NOTIFY_SOCKET",
    "OLDPWD",
    "PWD",
    "SHLVL",
    "SYSTEMD_EXEC_PID",
];

/// A user with its groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Owner {
    /// The owner of a file, with the groups that `/etc/group` gives to that user.
    pub fn of_file(path: &Path) -> Result<Self, Error> {
        let metadata = fs::metadata(path).map_err(Error::at("look at", path))?;
        let (uid, gid) = (metadata.uid(), metadata.gid());
        let name = account(uid).map(|account| account.name).unwrap_or_default();
        let text = fs::read_to_string("/etc/group").unwrap_or_default();
        let mut groups: Vec<u32> = text
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(':').skip(2);
                let group = fields.next()?.parse().ok()?;
                fields.next()?.split(',').any(|member| member == name).then_some(group)
            })
            .collect();
        groups.push(gid);
        groups.sort_unstable();
        groups.dedup();
        Ok(Self { uid, gid, groups })
    }
}

/// How a node runs. Its environment is kept apart, because it may hold secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HowRun {
    /// The node.
    pub spec: NodeSpec,
    /// The boot in which the process was seen; a pid means nothing in another one.
    pub boot_id: String,
    /// Its process; none if it did not run.
    pub identity: Option<ProcessIdentity>,
    /// Its systemd unit; empty if it has none.
    pub unit: String,
    /// As whom it runs.
    pub owner: Owner,
    /// File mode mask.
    pub umask: u32,
    /// Limits by name: soft and hard, none for unlimited.
    pub limits: Vec<(String, Option<u64>, Option<u64>)>,
    /// Its control groups, as `/proc/PID/cgroup` had them.
    pub cgroup: String,
}

impl HowRun {
    /// Reads how a running process runs.
    pub fn of(
        spec: &NodeSpec,
        identity: &ProcessIdentity,
        unit: &str,
        boot_id: &str,
    ) -> Result<Self, Error> {
        let pid = identity.pid;
        let line = |name: &'static str| {
            procfs::status_line(pid, name)
                .map_err(Error::at("read", procfs::path_of(pid, "status")))
                .map(Option::unwrap_or_default)
        };
        let number = |text: &str| text.split_ascii_whitespace().next().and_then(|n| n.parse().ok());
        let groups = line("Groups")?.split_ascii_whitespace().flat_map(str::parse).collect();
        let limits = procfs::path_of(pid, "limits");
        let limits = fs::read_to_string(&limits).map_err(Error::at("read", limits))?;
        Ok(Self {
            spec: spec.clone(),
            boot_id: boot_id.to_owned(),
            identity: Some(identity.clone()),
            unit: unit.to_owned(),
            owner: Owner {
                uid: number(&line("Uid")?).unwrap_or(0),
                gid: number(&line("Gid")?).unwrap_or(0),
                groups,
            },
            umask: u32::from_str_radix(&line("Umask")?, 8).unwrap_or(0o022),
            limits: parse_limits(&limits),
            cgroup: cgroup::of(pid).unwrap_or_default(),
        })
    }

    /// What is assumed for a node that did not run: its executable's owner.
    pub fn assumed(spec: &NodeSpec, executable: &Path, boot_id: &str) -> Result<Self, Error> {
        Ok(Self {
            spec: spec.clone(),
            boot_id: boot_id.to_owned(),
            identity: None,
            unit: String::new(),
            owner: Owner::of_file(executable)?,
            umask: 0o022,
            limits: Vec::new(),
            cgroup: String::new(),
        })
    }

    /// Reads the environment of the node's process, without what belongs to its own start.
    pub fn environment(&self) -> Vec<(String, String)> {
        let all = self.identity.as_ref().and_then(|i| procfs::environment(i.pid).ok());
        all.unwrap_or_default().into_iter().filter(|(name, _)| is_inherited(name)).collect()
    }

    /// The program that starts a node in the same way.
    pub fn program(
        &self,
        arguments: &[String],
        folder: &Path,
        environment: Vec<(String, String)>,
        path: &str,
    ) -> Program {
        let mut program = Program::new(arguments, folder);
        program.environment = environment;
        program.owner = Some(self.owner.clone());
        program.umask = Some(self.umask);
        program.limits.clone_from(&self.limits);
        program.joins = cgroup::joins(&self.cgroup);
        dedup_search_paths(&mut program.environment);
        account_environment(program, self.owner.uid).with("PATH", path)
    }

    /// Tells whether it is a process that its DolphinDB agent started.
    pub const fn started_by_ddb_agent(&self) -> bool {
        matches!(self.spec.role, NodeRole::DataNode | NodeRole::ComputeNode)
    }
}

/// Adds what a login would set and is not there: `ps`-based scripts need `USER`.
pub fn account_environment(mut program: Program, uid: u32) -> Program {
    let account = account(uid).unwrap_or_else(|| Account {
        name: uid.to_string(),
        home: "/".to_owned(),
        shell: "/bin/sh".to_owned(),
    });
    for (name, value) in [
        ("USER", account.name.as_str()),
        ("LOGNAME", account.name.as_str()),
        ("HOME", account.home.as_str()),
        ("SHELL", account.shell.as_str()),
    ] {
        if !program.environment.iter().any(|(n, _)| n == name) {
            program = program.with(name, value);
        }
    }
    program
}

/// Finds a user's name.
pub fn user_name(uid: u32) -> Option<String> {
    account(uid).map(|account| account.name)
}

fn is_inherited(name: &str) -> bool {
    !NOT_INHERITED.contains(&name) && !name.starts_with("GRAYFIN_") && !name.starts_with("WATCHDOG")
}

/// The start scripts put their folder in front of the search path each time; after some upgrades it
/// would be there many times.
fn dedup_search_paths(environment: &mut [(String, String)]) {
    for (name, value) in environment {
        if name == "LD_LIBRARY_PATH" {
            let mut seen: Vec<&str> = Vec::new();
            for part in value.split(':') {
                if !seen.contains(&part) {
                    seen.push(part);
                }
            }
            *value = seen.join(":");
        }
    }
}

struct Account {
    name: String,
    home: String,
    shell: String,
}

/// Finds a user in `/etc/passwd`.
fn account(uid: u32) -> Option<Account> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, id, _, _, home, shell] = fields.as_slice() else { return None };
        (id.parse() == Ok(uid)).then(|| Account {
            name: (*name).to_owned(),
            home: (*home).to_owned(),
            shell: (*shell).to_owned(),
        })
    })
}

fn parse_limits(text: &str) -> Vec<(String, Option<u64>, Option<u64>)> {
    let value = |word: &str| -> Option<Option<u64>> {
        if word == "unlimited" { Some(None) } else { word.parse().ok().map(Some) }
    };
    text.lines()
        .filter_map(|line| {
            // The name has words, the columns are as wide as they like: the name ends before the
            // first value.
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let at = words.iter().position(|word| value(word).is_some())?;
            let name = words.get(..at)?.join(" ");
            launcher::resource(&name)?;
            Some((name, value(words.get(at)?)?, value(words.get(at + 1)?)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max cpu time              unlimited            unlimited            seconds   \n\
            Max open files            1024                 524288               files     \n\
            Max nice priority         0                    0                    \n\
            Max new thing             1                    2                    x\n";
        assert_eq!(
            parse_limits(text),
            [
                ("Max cpu time".to_owned(), None, None),
                ("Max open files".to_owned(), Some(1024), Some(524_288)),
                ("Max nice priority".to_owned(), Some(0), Some(0)),
            ]
        );
        let own = fs::read_to_string("/proc/self/limits").unwrap();
        assert!(parse_limits(&own).len() >= 14, "{own}");
    }

    #[test]
    fn a_search_path_does_not_grow() {
        let mut all = vec![("LD_LIBRARY_PATH".to_owned(), "/s:/s:/lib:/s:".to_owned())];
        dedup_search_paths(&mut all);
        assert_eq!(all[0].1, "/s:/lib:");
        assert!(!is_inherited("GRAYFIN_HELPER") && !is_inherited("PWD") && is_inherited("TZ"));
    }

    #[test]
    fn the_environment_of_scripts_names_the_user() {
        let program = account_environment(Program::new(&[], Path::new("/")), 0);
        assert!(program.environment.contains(&("USER".to_owned(), "root".to_owned())));
        let program = account_environment(program, u32::MAX);
        assert!(program.environment.contains(&("USER".to_owned(), "root".to_owned())));
    }
}
