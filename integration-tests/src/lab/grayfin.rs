//! Grayfin's side of a lab: certificates, configuration files, coordinators and host agents.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use grayfin_proto::identity::Identity;
use grayfin_proto::pki;
use grayfin_types::Generation;
use toml::{Table, Value};

use super::Lab;
use crate::ddb;
use crate::hostns::Command;
use crate::topology::{Cluster, Coordinator, Host};
use crate::wait;

/// Name of the host agent's process on its machine.
pub(super) const AGENT: &str = "grayfin-agent";
/// Name of the coordinator's process on its machine.
pub(super) const COORDINATOR: &str = "grayfin";
/// The variable that names the file with a clock's error.
const CLOCK: &str = "GRAYFIN_CLOCK_OFFSET_MS";
/// The variable by which a test has a host agent end at a place.
pub(crate) const FAILPOINT: &str = "GRAYFIN_FAILPOINT";

/// For every host agent to be connected.
const JOIN_LIMIT: Duration = Duration::from_secs(60);

impl Lab {
    /// Makes certificates and writes every configuration file.
    pub(super) fn write_grayfin(&self) -> anyhow::Result<()> {
        let pki_folder = self.paths.pki();
        pki::make_ca(&pki_folder)?;
        pki::issue(
            &pki_folder,
            &Identity::Operator("lab".to_owned()),
            &pki_folder.join("operator"),
        )?;
        pki::issue(&pki_folder, &Identity::Viewer("lab".to_owned()), &pki_folder.join("viewer"))?;
        for coordinator in &self.spec.topology.coordinators {
            let identity = Identity::Coordinator(u64::from(coordinator.number));
            pki::issue(&pki_folder, &identity, &pki_folder.join(&coordinator.name))?;
            let folder = self.paths.machine(&coordinator.name);
            fs::create_dir_all(&folder)?;
            let text = toml::to_string(&self.coordinator_toml(coordinator)?)?;
            write(&folder.join("coordinator.toml"), &text, 0o644)?;
        }
        for host in &self.spec.topology.hosts {
            let identity = Identity::HostAgent {
                host: host.name.parse().context("a host's name is no host id")?,
                generation: Generation(1),
            };
            pki::issue(&pki_folder, &identity, &pki_folder.join(&host.name))?;
            let folder = self.paths.agent(&host.name);
            fs::create_dir_all(&folder)?;
            for cluster in self.clusters_on(host) {
                fs::create_dir_all(self.paths.backups(&host.name, cluster))?;
            }
            let text = toml::to_string(&self.agent_toml(host)?)?;
            write(&folder.join("agent.toml"), &text, 0o644)?;
            write(&folder.join("credentials.toml"), &credentials()?, 0o600)?;
        }
        Ok(())
    }

    /// Clusters that have nodes on a host.
    fn clusters_on<'lab>(&'lab self, host: &'lab Host) -> impl Iterator<Item = &'lab Cluster> {
        let clusters = self.spec.topology.clusters.iter();
        clusters.filter(|cluster| cluster.nodes.iter().any(|node| node.host == host.number))
    }

    fn tls(&self, name: &str) -> Table {
        let file = |name: &str| text(self.paths.pki().join(name).display());
        Table::from_iter([
            ("ca".to_owned(), file("ca.pem")),
            ("cert".to_owned(), file(&format!("{name}.pem"))),
            ("key".to_owned(), file(&format!("{name}.key"))),
        ])
    }

    fn coordinator_addresses(&self) -> Vec<String> {
        self.spec.topology.coordinators.iter().map(|it| it.address.clone()).collect()
    }

    /// Where host agents and other coordinators find a coordinator.
    fn seen_by_others(&self, coordinator: &Coordinator) -> String {
        if self.spec.options.relayed {
            coordinator.relay_address()
        } else {
            coordinator.address.clone()
        }
    }

    fn agent_toml(&self, host: &Host) -> anyhow::Result<Table> {
        let folder = self.paths.agent(&host.name);
        let mut installations = Vec::new();
        for cluster in self.clusters_on(host) {
            let mut table = Table::from_iter(
                [
                    ("cluster", text(&cluster.name)),
                    ("server_dir", text(self.paths.server(&host.name, cluster).display())),
                    ("package_dir", text(self.paths.packages(&host.name).display())),
                    ("backup_dir", text(self.paths.backups(&host.name, cluster).display())),
                    ("credentials_file", text(folder.join("credentials.toml").display())),
                    ("path", text(self.environment().get("PATH").cloned().unwrap_or_default())),
                ]
                .map(|(key, value)| (key.to_owned(), value)),
            );
            add_lines(&mut table, &self.spec.options.installation_cfg)?;
            installations.push(Value::Table(table));
        }
        let own = &self.spec.topology.coordinators;
        let coordinators = own.iter().map(|it| Value::String(self.seen_by_others(it))).collect();
        Ok(Table::from_iter(
            [
                ("host", text(&host.name)),
                ("state_dir", text(folder.join("state").display())),
                ("coordinators", Value::Array(coordinators)),
                ("look_interval_ms", Value::Integer(self.spec.options.look_interval_ms.into())),
                ("tls", Value::Table(self.tls(&host.name))),
                ("installation", Value::Array(installations)),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        ))
    }

    fn coordinator_toml(&self, coordinator: &Coordinator) -> anyhow::Result<Table> {
        let folder = self.paths.machine(&coordinator.name);
        let scaled = |documented: f64| {
            #[expect(clippy::cast_possible_truncation, reason = "milliseconds of some minutes")]
            let scaled = (documented * self.spec.options.time_scale) as i64;
            Value::Integer(scaled.max(1))
        };
        let look_interval_ms = i64::from(self.spec.options.look_interval_ms);
        let mut policy = Table::from_iter(
            [
                // 20 s at documented timing: a person trying things does not want to wait a minute.
                ("soak_ms", scaled(20_000.0)),
                // Two election ticks.
                ("leader_settled_ms", scaled(16_000.0)),
                ("constructing_look_ms", scaled(10_000.0)),
                ("late_stop_ms", scaled(30_000.0)),
                // Three looks at least, as the shipped defaults have it.
                ("fact_age_max_ms", Value::Integer(look_interval_ms.saturating_mul(3).max(5_000))),
                ("free_floor_bytes", Value::Integer(1 << 20)),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        add_lines(&mut policy, &self.spec.options.policy_cfg)?;
        Ok(Table::from_iter(
            [
                ("id", Value::Integer(i64::from(coordinator.number))),
                ("state_dir", text(folder.join("state").display())),
                ("listen", text(&coordinator.address)),
                ("advertise", text(self.seen_by_others(coordinator))),
                // The first one is a group of its own; the others are added to it.
                ("join", Value::Boolean(coordinator.number > 1)),
                ("look_interval_ms", Value::Integer(self.spec.options.look_interval_ms.into())),
                ("tls", Value::Table(self.tls(&coordinator.name))),
                ("policy", Value::Table(policy)),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        ))
    }

    /// Adds the coordinators that form the group to the first one.
    pub(super) async fn form_group(&self) -> anyhow::Result<()> {
        let all = self.spec.options.coordinators;
        for number in 2..=self.spec.options.joined.unwrap_or(all) {
            self.add_coordinator(number).await?;
        }
        Ok(())
    }

    /// Adds a coordinator that runs to the group.
    pub async fn add_coordinator(&self, number: u8) -> anyhow::Result<()> {
        let coordinator = self.coordinator(number)?;
        let (id, address) = (number.to_string(), self.seen_by_others(coordinator));
        // It may listen a moment later than its process is there; the wish is the same one.
        let wish = format!("lab-add-{number}");
        wait::until(&format!("coordinator {number} to be added"), JOIN_LIMIT, || async {
            let arguments = ["coordinator", "add", &id, &address, "--request-id", &wish];
            let output = self.grayfin(arguments).output().await.map_err(|e| e.to_string())?;
            if output.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
            }
        })
        .await
    }

    /// Starts a coordinator on its machine.
    pub(super) async fn start_coordinator(&self, number: u8) -> anyhow::Result<()> {
        self.start_coordinator_with(number, &BTreeMap::new()).await
    }

    /// The same with more variables in its environment.
    pub(super) async fn start_coordinator_with(
        &self,
        number: u8,
        variables: &BTreeMap<String, String>,
    ) -> anyhow::Result<()> {
        let name = self.coordinator(number)?.name.clone();
        let folder = self.paths.machine(&name);
        let config = folder.join("coordinator.toml");
        let arguments = ["serve", "--config"].map(str::to_owned).to_vec();
        self.start_ours(&name, COORDINATOR, arguments, config, variables).await
    }

    /// Starts the host agent of a host.
    pub(super) async fn start_agent(&self, host: &Host) -> anyhow::Result<()> {
        self.start_agent_with(host, &BTreeMap::new()).await
    }

    /// The same with more variables in its environment.
    pub(super) async fn start_agent_with(
        &self,
        host: &Host,
        variables: &BTreeMap<String, String>,
    ) -> anyhow::Result<()> {
        let folder = self.paths.agent(&host.name);
        let config = folder.join("agent.toml");
        let arguments = ["run", "--config"].map(str::to_owned).to_vec();
        self.start_ours(&host.name, AGENT, arguments, config, variables).await
    }

    async fn start_ours(
        &self,
        machine: &str,
        program: &str,
        arguments: Vec<String>,
        config: PathBuf,
        variables: &BTreeMap<String, String>,
    ) -> anyhow::Result<()> {
        let folder = config.parent().context("a configuration file has a folder")?.to_owned();
        let log = folder.join(format!("{program}.log"));
        let mut argv = vec![self.paths.programs().join(program).display().to_string()];
        argv.extend(arguments);
        argv.push(config.display().to_string());
        let mut env = self.environment();
        env.insert(CLOCK.to_owned(), self.paths.clock(machine).display().to_string());
        env.extend(variables.clone());
        let command = Command { argv, cwd: folder, env };
        let started = self.machine(machine).start(program, command, log.clone()).await?;
        // One that is to die at a fail point may have come to it already.
        let may_end = variables.contains_key(FAILPOINT);
        ensure!(started.is_some() || may_end, "`{program}` ended at once, see `{}`", log.display());
        Ok(())
    }

    /// What the CLI needs to reach the coordinators.
    pub fn grayfin_environment(&self) -> BTreeMap<String, String> {
        let pki_folder = self.paths.pki();
        let file = |name: &str| pki_folder.join(name).display().to_string();
        BTreeMap::from([
            ("GRAYFIN_COORDINATORS".to_owned(), self.coordinator_addresses().join(",")),
            ("GRAYFIN_CA".to_owned(), file("ca.pem")),
            ("GRAYFIN_CERT".to_owned(), file("operator.pem")),
            ("GRAYFIN_KEY".to_owned(), file("operator.key")),
        ])
    }

    /// The CLI with arguments, ready to be run.
    pub fn grayfin<S: AsRef<std::ffi::OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(self.paths.programs().join(COORDINATOR));
        command
            .args(arguments)
            .envs(self.grayfin_environment())
            .env("NO_COLOR", "1")
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Waits until every host agent is connected to the coordinators.
    pub async fn wait_hosts_connected(&self) -> anyhow::Result<()> {
        wait::until("every host agent to be connected", JOIN_LIMIT, || async {
            let output = self.grayfin(["hosts", "--json"]).output().await;
            let output = output.map_err(|error| error.to_string())?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
            }
            let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
                .map_err(|error| format!("`grayfin hosts --json`: {error}"))?;
            let connected = connected_hosts(&answer);
            let missing: Vec<&str> = self
                .spec
                .topology
                .hosts
                .iter()
                .map(|host| host.name.as_str())
                .filter(|name| !connected.iter().any(|it| it == name))
                .collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("not connected: {missing:?}")) }
        })
        .await
    }
}

/// Names of the hosts that the coordinators see connected.
fn connected_hosts(answer: &serde_json::Value) -> Vec<String> {
    let rows = answer.get("hosts").unwrap_or(answer).as_array();
    rows.into_iter()
        .flatten()
        .filter(|row| row.get("connected").and_then(serde_json::Value::as_bool) == Some(true))
        .filter_map(|row| row.get("host")?.as_str().map(str::to_owned))
        .collect()
}

fn credentials() -> anyhow::Result<String> {
    let account = || {
        let fields = [("user", ddb::USER), ("password", ddb::PASSWORD)];
        Value::Table(fields.into_iter().map(|(key, value)| (key.to_owned(), text(value))).collect())
    };
    let table =
        Table::from_iter([("probe".to_owned(), account()), ("operate".to_owned(), account())]);
    Ok(toml::to_string(&table)?)
}

fn text(value: impl std::fmt::Display) -> Value {
    Value::String(value.to_string())
}

/// Adds `key = value` lines in TOML; they replace what is there.
fn add_lines(table: &mut Table, lines: &[String]) -> anyhow::Result<()> {
    for line in lines {
        let more: Table = line.parse().with_context(|| format!("`{line}` is not TOML"))?;
        table.extend(more);
    }
    Ok(())
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("write `{}`", path.display()))
}
