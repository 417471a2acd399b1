//! Starting the database the way its own scripts and controllers do.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use standin::config::Role;

use super::Lab;
use crate::hostns::{Command, Finished};
use crate::topology::{Cluster, Host, Node};

/// For a vendor's script, which only starts something in the background.
const SCRIPT_LIMIT: Duration = Duration::from_secs(20);

impl Lab {
    /// The environment of everything on a machine: what a login shell of its owner would have.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let user = user_name();
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.paths.programs().display());
        [
            ("PATH", path),
            ("HOME", self.paths.root().display().to_string()),
            ("USER", user.clone()),
            ("LOGNAME", user),
            ("TERM", "xterm".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// Runs a program on a host to its end, in a folder, with the host's environment.
    pub async fn run_on(
        &self,
        host: &Host,
        folder: std::path::PathBuf,
        argv: &[&str],
        limit: Duration,
    ) -> anyhow::Result<Finished> {
        let command = Command {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            cwd: folder,
            env: self.environment(),
        };
        self.machine(&host.name).run(command, limit).await
    }

    /// Starts a controller or a DolphinDB agent with the package's script.
    pub(super) async fn start_by_script(&self, node: &Node) -> anyhow::Result<()> {
        let script = match node.role {
            Role::Controller => "startController.sh",
            Role::DdbAgent => "startAgent.sh",
            Role::DataNode | Role::ComputeNode => {
                anyhow::bail!("`{}` is started by the leading controller", node.alias())
            }
        };
        let host = self.host(node.host)?;
        let cluster = self.cluster_of(node)?;
        let folder = self.paths.work(&host.name, cluster);
        let done = self.run_on(host, folder, &["bash", script], SCRIPT_LIMIT).await?;
        anyhow::ensure!(done.is_success(), "{script} on `{}`: {done:?}", host.name);
        Ok(())
    }

    /// Starts data and compute nodes through the leading controller.
    pub(super) async fn start_by_leader(
        &self,
        cluster: &Cluster,
        aliases: &[&str],
    ) -> anyhow::Result<()> {
        if aliases.is_empty() {
            return Ok(());
        }
        let leader = self.leader(cluster).await?;
        let quoted: Vec<String> = aliases.iter().map(|alias| format!("\"{alias}\"")).collect();
        let script = format!("startDataNode([{}])", quoted.join(","));
        let client = crate::ddb::Ddb::at(leader.site.address()).within(SCRIPT_LIMIT);
        client.run(&script).await?;
        Ok(())
    }

    /// The leading controller, as a majority of those configured name it.
    pub async fn leader<'cluster>(
        &self,
        cluster: &'cluster Cluster,
    ) -> anyhow::Result<&'cluster Node> {
        let controllers: Vec<&Node> = cluster.with_role(Role::Controller).collect();
        let mut votes: BTreeMap<String, usize> = BTreeMap::new();
        for controller in &controllers {
            let client = crate::ddb::Ddb::at(controller.site.address());
            let client = client.within(Duration::from_secs(1));
            if let Ok(name) = client.text("getActiveMaster()").await {
                *votes.entry(name).or_default() += 1;
            }
        }
        controllers
            .iter()
            .find(|it| votes.get(it.alias()).is_some_and(|votes| votes * 2 > controllers.len()))
            .copied()
            .with_context(|| {
                let of = controllers.len();
                format!("no majority of the {of} controllers of `{}`: {votes:?}", cluster.name)
            })
    }

    /// The cluster a node is part of.
    pub fn cluster_of(&self, node: &Node) -> anyhow::Result<&Cluster> {
        self.spec
            .topology
            .cluster(node.cluster)
            .with_context(|| format!("there is no cluster {}", node.cluster))
    }
}

/// The name `ps` prints for our processes inside a machine.
fn user_name() -> String {
    let id = rustix::process::geteuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    users
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
        })
        .unwrap_or_else(|| id.to_string())
}
