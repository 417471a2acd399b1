//! `coordinator.toml`: read whole, checked whole, before anything is opened or bound.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

use grayfin_proto::{identity::Identity, tls};
use grayfin_types::{ClusterId, plan::Policy};
use serde::Deserialize;

/// How often host agents look, unless configured otherwise; three looks fit `fact_age_max_ms`.
const LOOK_INTERVAL_MS: u64 = 5_000;

/// The shortest look interval: a look asks every node of a host, which takes some 10 ms.
const LOOK_INTERVAL_MIN_MS: u64 = 50;

/// The longest look interval that makes sense beside the recovery of a host, which takes minutes.
const LOOK_INTERVAL_MAX_MS: u64 = 60_000;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("read configuration `{}`", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line is not what it should be.
    #[error("`{}` line {line}{}: {why}", file.display(), shown(text))]
    Line {
        /// Which file.
        file: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// The line itself.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A value is outside of what works.
    #[error("`{}` field `{field}`: {why}", file.display())]
    Value {
        /// Which file.
        file: PathBuf,
        /// Which field.
        field: String,
        /// What is wrong with it and what would do.
        why: String,
    },
    /// A certificate or key cannot be used.
    #[error("the `[tls]` section of `{}`", file.display())]
    Tls {
        /// Which configuration file.
        file: PathBuf,
        /// Why.
        #[source]
        source: tls::Error,
    },
}

/// What the file says, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fragment {
    id: u64,
    state_dir: PathBuf,
    listen: String,
    advertise: Option<String>,
    #[serde(default)]
    join: bool,
    #[serde(default = "default_look_interval_ms")]
    look_interval_ms: u64,
    package_dir: Option<PathBuf>,
    tls: tls::Files,
    #[serde(default)]
    raft: Raft,
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    cluster: BTreeMap<ClusterId, ClusterFragment>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterFragment {
    // Read for its errors, which name the line; the values come from the merged tables.
    #[serde(default)]
    #[expect(dead_code, reason = "checked while it is read")]
    policy: Policy,
}

/// Timing of the Raft engine, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raft {
    /// The leader speaks at least this often; also the deadline of one append, so it must exceed a
    /// follower's slow fsync (12.6 ms p99 measured on a 4 ms disk) plus the round trip.
    pub heartbeat_ms: u64,
    /// A follower that heard nothing for a random time between the two asks for votes.
    pub election_min_ms: u64,
    /// See `election_min_ms`. For so long a follower also trusts a leader that it heard of last, so that a
    /// failover takes this and the random time together: 1.2 to 1.5 s with the defaults.
    pub election_max_ms: u64,
}

impl Default for Raft {
    fn default() -> Self {
        Self { heartbeat_ms: 150, election_min_ms: 450, election_max_ms: 750 }
    }
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// This coordinator's id, as its certificate has it.
    pub id: u64,
    /// Log, state and events are kept here.
    pub state_dir: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where others reach it.
    pub advertise: String,
    /// With an empty state folder, wait to be added to a group instead of forming one.
    pub join: bool,
    /// How often host agents look.
    pub look_interval: Duration,
    /// Packages for hosts that have none; none if it does not serve any.
    pub package_dir: Option<PathBuf>,
    /// Certificate files.
    pub tls: tls::Files,
    /// Timing of the Raft engine.
    pub raft: Raft,
    /// Limits where a cluster has none of its own.
    pub policy: Policy,
    /// Limits of single clusters, merged with the default ones.
    pub policies: BTreeMap<ClusterId, Policy>,
}

const fn default_look_interval_ms() -> u64 {
    LOOK_INTERVAL_MS
}

impl Config {
    /// Reads and checks a configuration file. Relative paths in it start at its own folder.
    pub fn read(file: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| Error::Read { file: file.to_owned(), source })?;
        Self::parse(file, &text)
    }

    /// Checks a file's text; `file` is only named in errors.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        let located = |e: &toml::de::Error| line_error(file, text, e);
        let fragment: Fragment = toml::from_str(text).map_err(|e| located(&e))?;
        let document: toml::Table = toml::from_str(text).map_err(|e| located(&e))?;
        let policies = merged_policies(file, &document, fragment.cluster.keys())?;
        let base = file.parent().unwrap_or_else(|| Path::new("."));
        let listen = address(file, "listen", &fragment.listen)?;
        let config = Self {
            file: file.to_owned(),
            id: fragment.id,
            state_dir: base.join(fragment.state_dir),
            listen,
            advertise: fragment.advertise.unwrap_or(fragment.listen),
            join: fragment.join,
            look_interval: Duration::from_millis(fragment.look_interval_ms),
            package_dir: fragment.package_dir.map(|dir| base.join(dir)),
            tls: tls::Files {
                ca: base.join(fragment.tls.ca),
                cert: base.join(fragment.tls.cert),
                key: base.join(fragment.tls.key),
            },
            raft: fragment.raft,
            policy: fragment.policy,
            policies,
        };
        config.check()?;
        Ok(config)
    }

    /// Returns the limits for a cluster.
    pub fn policy(&self, cluster: &ClusterId) -> &Policy {
        self.policies.get(cluster).unwrap_or(&self.policy)
    }

    /// Checks that the certificate is this coordinator's, and returns its identity.
    pub fn own_identity(&self) -> Result<Identity, Error> {
        let failed = |source| Error::Tls { file: self.file.clone(), source };
        let identity = self.tls.own_identity().map_err(failed)?;
        if identity == Identity::Coordinator(self.id) {
            Ok(identity)
        } else {
            Err(self.value(
                "id",
                format!(
                    "it is {}, but the certificate `{}` belongs to `{identity}` (GF0103): issue one with `grayfin pki issue … coordinator {}`",
                    self.id,
                    self.tls.cert.display(),
                    self.id
                ),
            ))
        }
    }

    fn check(&self) -> Result<(), Error> {
        if self.id == 0 {
            return Err(self.value("id", "coordinators are numbered from 1"));
        }
        if self.advertise.rsplit_once(':').is_none_or(|(host, port)| {
            host.is_empty() || port.parse::<u16>().map_or(true, |port| port == 0)
        }) {
            return Err(self.value(
                "advertise",
                "not of the form host:port with a port from 1 to 65535, which others need to reach it",
            ));
        }
        let look = self.look_interval;
        let allowed = Duration::from_millis(LOOK_INTERVAL_MIN_MS)
            ..=Duration::from_millis(LOOK_INTERVAL_MAX_MS);
        if !allowed.contains(&look) {
            return Err(self.value(
                "look_interval_ms",
                format!("must be from {LOOK_INTERVAL_MIN_MS} to {LOOK_INTERVAL_MAX_MS}"),
            ));
        }
        self.check_raft()?;
        self.check_policy("policy", &self.policy)?;
        for (cluster, policy) in &self.policies {
            self.check_policy(&format!("cluster.{cluster}.policy"), policy)?;
        }
        Ok(())
    }

    fn check_raft(&self) -> Result<(), Error> {
        let Raft { heartbeat_ms, election_min_ms, election_max_ms } = self.raft;
        if heartbeat_ms < 10 {
            return Err(self.value("raft.heartbeat_ms", "must be at least 10"));
        }
        // Two lost heartbeats must not cost the lead.
        if election_min_ms < heartbeat_ms.saturating_mul(3) {
            return Err(self.value(
                "raft.election_min_ms",
                format!("must be at least three heartbeats: {}", heartbeat_ms.saturating_mul(3)),
            ));
        }
        if election_max_ms <= election_min_ms {
            return Err(self.value("raft.election_max_ms", "must be more than `election_min_ms`"));
        }
        Ok(())
    }

    fn check_policy(&self, section: &str, policy: &Policy) -> Result<(), Error> {
        let age = Duration::from_millis(policy.fact_age_max_ms);
        if age < self.look_interval.saturating_mul(2) {
            // One late look would hold the rollout for ever.
            return Err(self.value(
                &format!("{section}.fact_age_max_ms"),
                format!(
                    "must be at least twice `look_interval_ms`: {}",
                    self.look_interval.saturating_mul(2).as_millis()
                ),
            ));
        }
        if policy.start_attempts == 0 {
            return Err(self.value(&format!("{section}.start_attempts"), "must be at least 1"));
        }
        if policy.backups_kept == 0 {
            return Err(self.value(
                &format!("{section}.backups_kept"),
                "must be at least 1: the newest backup is the way back",
            ));
        }
        Ok(())
    }

    fn value(&self, field: &str, why: impl Into<String>) -> Error {
        Error::Value { file: self.file.clone(), field: field.to_owned(), why: why.into() }
    }
}

/// Lays each cluster's own limits over the default ones.
fn merged_policies<'a>(
    file: &Path,
    document: &toml::Table,
    clusters: impl Iterator<Item = &'a ClusterId>,
) -> Result<BTreeMap<ClusterId, Policy>, Error> {
    let own = |cluster: &ClusterId| document.get("cluster")?.get(cluster.as_str())?.get("policy");
    let table = |value: Option<&toml::Value>| {
        value.and_then(toml::Value::as_table).cloned().unwrap_or_default()
    };
    clusters
        .map(|cluster| {
            let mut merged = table(document.get("policy"));
            merged.extend(table(own(cluster)));
            let policy =
                Policy::deserialize(toml::Value::Table(merged)).map_err(|e| Error::Value {
                    file: file.to_owned(),
                    field: format!("cluster.{cluster}.policy"),
                    why: e.message().to_owned(),
                })?;
            Ok((cluster.clone(), policy))
        })
        .collect()
}

fn address(file: &Path, field: &str, text: &str) -> Result<SocketAddr, Error> {
    let bad = |why: String| Error::Value { file: file.to_owned(), field: field.to_owned(), why };
    text.to_socket_addrs()
        .map_err(|e| bad(format!("`{text}` is not an address of the form host:port: {e}")))?
        .next()
        .ok_or_else(|| bad(format!("`{text}` has no address")))
}

fn line_error(file: &Path, text: &str, error: &toml::de::Error) -> Error {
    let start = error.span().map_or(0, |span| span.start);
    let before = text.get(..start).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    Error::Line {
        file: file.to_owned(),
        line,
        text: grayfin_types::cut(text.lines().nth(line - 1).unwrap_or_default().trim())
            .into_owned(),
        why: grayfin_types::cut(error.message()).into_owned(),
    }
}

fn shown(line: &str) -> String {
    if line.is_empty() { String::new() } else { format!(" (`{line}`)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
id = 1
state_dir = "state"
listen = "127.0.0.1:7430"
[tls]
ca = "ca.pem"
cert = "/pki/1.pem"
key = "1.key"
"#;

    fn parse(text: &str) -> Result<Config, Error> {
        Config::parse(Path::new("/etc/grayfin/coordinator.toml"), text)
    }

    #[test]
    fn defaults_fill_a_minimal_file_and_paths_start_at_its_folder() {
        let config = parse(MINIMAL).unwrap();
        assert_eq!(config.state_dir, Path::new("/etc/grayfin/state"));
        assert_eq!(config.tls.ca, Path::new("/etc/grayfin/ca.pem"));
        assert_eq!(config.tls.cert, Path::new("/pki/1.pem"));
        assert_eq!(config.advertise, "127.0.0.1:7430");
        assert_eq!(config.look_interval, Duration::from_secs(5));
        assert_eq!(config.raft, Raft::default());
        assert_eq!(config.policy(&ClusterId::new("any").unwrap()), &Policy::default());
    }

    #[test]
    fn a_clusters_own_limits_lie_over_the_default_ones() {
        let config = parse(&format!(
            "{MINIMAL}\n[policy]\nsoak_ms = 7\nbaseline_max = 9\n[cluster.trade.policy]\nsoak_ms = 8\n"
        ))
        .unwrap();
        let own = config.policy(&ClusterId::new("trade").unwrap());
        assert_eq!((own.soak_ms, own.baseline_max), (8, 9));
        let other = config.policy(&ClusterId::new("other").unwrap());
        assert_eq!((other.soak_ms, other.baseline_max), (7, 9));
    }

    #[test]
    fn errors_name_file_line_and_field() {
        let cases = [
            (format!("{MINIMAL}\n[policy]\nsoak = 7\n"), "line 11 (`soak = 7`): unknown field"),
            (
                format!("{MINIMAL}\n[policy]\nsoak_ms = \"x\"\n"),
                "line 11 (`soak_ms = \"x\"`): invalid type",
            ),
            (format!("{MINIMAL}\n[cluster.trade.policy]\nsok_ms = 1\n"), "line 11"),
            ("id = 1\nid = 2\n".to_owned(), "line 2"),
            (MINIMAL.replace("id = 1", "id = 0"), "field `id`"),
            (MINIMAL.replace("7430", "no"), "field `listen`"),
            (MINIMAL.replace("id = 1", "id = 1\nadvertise = \"x:0\""), "field `advertise`"),
            (MINIMAL.replace("id = 1", "id = 1\nlook_interval_ms = 1"), "`look_interval_ms`"),
            (format!("{MINIMAL}\n[raft]\nheartbeat_ms = 500\n"), "`raft.election_min_ms`"),
            (format!("{MINIMAL}\n[policy]\nfact_age_max_ms = 5000\n"), "`policy.fact_age_max_ms`"),
            (
                format!("{MINIMAL}\n[cluster.trade.policy]\nbackups_kept = 0\n"),
                "`cluster.trade.policy.backups_kept`",
            ),
        ];
        for (text, expected) in cases {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains("/etc/grayfin/coordinator.toml"), "{error}");
            assert!(error.contains(expected), "{error} should contain {expected}");
        }
    }
}
