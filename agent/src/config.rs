//! `agent.toml`: read as a fragment, checked in full, handed on as [`Settings`].
//!
//! Nothing else in the program reads configuration of its own. Every complaint names the file, the
//! line and the key, and says what to do. Contents of secrets (keys, `credentials.toml`) are not
//! read here.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use grayfin_proto::{identity::Identity, tls};
use grayfin_types::{ClusterId, Code, Generation, HostId, plan::UpgradeMode};
use serde::Deserialize;
use toml::Spanned;

/// How often a host agent looks at its host when the coordinator has not said otherwise.
pub const LOOK_INTERVAL_MS: u64 = 5000;

/// Faster looks would only burn the host; slower ones than a minute make every gate stale.
const LOOK_INTERVAL_RANGE_MS: std::ops::RangeInclusive<u64> = 50..=60_000;

/// The vendor's stop script ends every process whose line in `ps` contains this word.
const FORBIDDEN: &str = "dolphindb";

/// Keys of `[installation.units]` that are not aliases.
const SYSTEMCTL: &str = "systemctl";

/// What the host agent works by; everything is checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file it came from.
    pub file: PathBuf,
    /// This host's name; the certificate carries the same.
    pub host: HostId,
    /// Ledger, OS lock, interlocks, canary journals; absolute.
    pub state_dir: PathBuf,
    /// Addresses of coordinators, `host:port`; never empty.
    pub coordinators: Vec<String>,
    /// Time between two looks until a coordinator says otherwise.
    pub look_interval: Duration,
    /// Certificate files.
    pub tls: tls::Files,
    /// The DolphinDB installations of this host, one per cluster; never empty.
    pub installations: Vec<Arc<Installation>>,
}

/// One DolphinDB installation on this host. All paths are absolute.
#[derive(Debug, Clone)]
pub struct Installation {
    /// The cluster that it is part of.
    pub cluster: ClusterId,
    /// The folder with the executable, `*.so`, licence and `clusterDemo/`.
    pub server_dir: PathBuf,
    /// File name of the executable in `server_dir`.
    pub executable: String,
    /// Where the site's scripts and relative paths of DolphinDB's configuration start.
    pub work_dir: PathBuf,
    /// Where package zips lie.
    pub package_dir: PathBuf,
    /// Where backups go.
    pub backup_dir: PathBuf,
    /// Names and passwords of the accounts `probe` and `operate`; mode 0600.
    pub credentials_file: PathBuf,
    /// What the site prefers; the plan decides.
    pub upgrade_mode: UpgradeMode,
    /// The site's upgrade script.
    pub upgrade_script: PathBuf,
    /// `PATH` for the site's scripts.
    pub path: String,
    /// Command that starts the DolphinDB controller, run in `work_dir` as the owner.
    pub start_controller: Vec<String>,
    /// Command that starts the DolphinDB agent, run in `work_dir` as the owner.
    pub start_ddb_agent: Vec<String>,
    /// How processes are stopped.
    pub stop: StopBy,
    /// Service manager and the units that nodes run under.
    pub units: Units,
}

impl Installation {
    /// Returns the executable's full path.
    pub fn executable_path(&self) -> PathBuf {
        self.server_dir.join(&self.executable)
    }
}

/// How the processes of an installation are stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopBy {
    /// SIGTERM to exactly the processes that were identified.
    Signal,
    /// The site's script, run in `work_dir`; refused while it would match anything else (S4).
    Script(Vec<String>),
}

/// The service manager of an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Units {
    /// The command, `systemctl` by default.
    pub systemctl: String,
    /// `controller`, `ddb_agent` or a node's alias, and its unit.
    pub names: BTreeMap<String, String>,
}

impl Units {
    /// Returns the unit configured for a node: by its alias, or else by `controller`/`ddb_agent`.
    pub fn of(&self, spec: &grayfin_types::facts::NodeSpec) -> Option<&str> {
        use grayfin_types::facts::NodeRole;
        let role = match spec.role {
            NodeRole::Controller => "controller",
            NodeRole::DdbAgent => "ddb_agent",
            NodeRole::DataNode | NodeRole::ComputeNode => "",
        };
        let found = self.names.get(spec.alias.as_str()).or_else(|| self.names.get(role));
        found.map(String::as_str)
    }
}

/// Why the configuration is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("read `{file}`")]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML, or has keys that we do not know.
    #[error("`{file}` line {line}: {why}")]
    Syntax {
        /// Which.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Why.
        why: String,
    },
    /// A value is not acceptable.
    #[error("`{file}` line {line}: `{key}` {why}")]
    Value {
        /// Which.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// Why, and what to do.
        why: String,
    },
    /// The vendor's stop script would end the host agent.
    #[error(
        "{what} contains the word `{FORBIDDEN}`: the vendor's stop script ends every process whose line in `ps` has it, so it would end this host agent; {remedy}"
    )]
    ForbiddenWord {
        /// `the user name`, `the executable's path`, an argument or a key.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The certificate belongs to somebody else.
    #[error("`{file}` says host `{host}`, but the certificate is {found}: {remedy}")]
    Identity {
        /// The configuration file.
        file: PathBuf,
        /// The configured host.
        host: HostId,
        /// What the certificate says.
        found: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A certificate file cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

impl Error {
    /// Returns the code with a page of its own.
    pub const fn code(&self) -> Code {
        match self {
            Self::Read { .. } | Self::Syntax { .. } | Self::Value { .. } => Code::ConfigUnreadable,
            Self::ForbiddenWord { .. } => Code::ForbiddenName,
            Self::Identity { .. } | Self::Tls(_) => Code::BadIdentity,
        }
    }
}

/// Who this process is in the eyes of `ps`.
#[derive(Debug, Clone)]
pub struct Appearance {
    /// The user's name.
    pub user: String,
    /// The executable's path.
    pub executable: PathBuf,
    /// All arguments, the program's own name included.
    pub arguments: Vec<String>,
}

impl Appearance {
    /// Reads how this process looks now.
    pub fn own() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        // Without a name `ps` prints the number, which is harmless.
        let user = sysinfo::Users::new_with_refreshed_list().ok().and_then(|users| {
            let found = users.iter().find(|user| **user.id() == uid);
            found.map(|user| user.name().to_owned())
        });
        let user = user.unwrap_or_else(|| uid.to_string());
        Self {
            user,
            executable: std::env::current_exe().unwrap_or_default(),
            arguments: std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect(),
        }
    }

    /// Refuses the word that the vendor's stop script kills by (GF0104).
    pub fn check(&self) -> Result<(), Error> {
        forbid("the user name", &self.user, "run the host agent as another user, such as root")?;
        let executable = self.executable.to_string_lossy();
        forbid("the path of its own executable", &executable, "install it in another folder")?;
        for argument in &self.arguments {
            let what = format!("the argument `{argument}`");
            forbid(&what, argument, "move the file to another folder")?;
        }
        Ok(())
    }
}

impl Settings {
    /// Reads and checks a file. Looks at no certificate, so that `check-config` can say more.
    pub fn load(file: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| Error::Read { file: file.to_owned(), source })?;
        Self::parse(file, &text)
    }

    /// Checks a file's text; `file` is only named in errors.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        let fragment: Fragment = toml::from_str(text).map_err(|e| Error::Syntax {
            file: file.to_owned(),
            line: e.span().map_or(1, |span| line_of(text, &span)),
            why: grayfin_types::cut(e.message()).into_owned(),
        })?;
        Checker { file, text }.settings(fragment)
    }

    /// Finds the installation of a cluster.
    pub fn installation(&self, cluster: &ClusterId) -> Option<&Arc<Installation>> {
        self.installations.iter().find(|i| &i.cluster == cluster)
    }

    /// Compares the certificate with the configured host and returns its generation (GF0103).
    pub fn check_identity(&self) -> Result<Generation, Error> {
        let refused = |found: String| Error::Identity {
            file: self.file.clone(),
            host: self.host.clone(),
            found,
            remedy: "issue one with `grayfin pki issue agent HOST` and point `[tls]` at it",
        };
        match self.tls.own_identity()? {
            Identity::HostAgent { host, generation } if host == self.host => Ok(generation),
            Identity::HostAgent { host, .. } => Err(refused(format!("host `{host}`'s"))),
            other @ (Identity::Coordinator(_) | Identity::Operator(_) | Identity::Viewer(_)) => {
                Err(refused(format!("`{other}`")))
            }
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fragment {
    host: Spanned<String>,
    state_dir: Spanned<PathBuf>,
    coordinators: Spanned<Vec<Spanned<String>>>,
    look_interval_ms: Option<Spanned<u64>>,
    tls: tls::Files,
    installation: Option<Vec<Spanned<InstallationFragment>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstallationFragment {
    cluster: Spanned<String>,
    server_dir: Spanned<PathBuf>,
    executable: Option<Spanned<String>>,
    work_dir: Option<PathBuf>,
    package_dir: Spanned<PathBuf>,
    backup_dir: Spanned<PathBuf>,
    credentials_file: Spanned<PathBuf>,
    upgrade_mode: Option<UpgradeMode>,
    upgrade_script: Option<PathBuf>,
    path: Option<String>,
    start_controller: Option<Spanned<Vec<String>>>,
    start_ddb_agent: Option<Spanned<Vec<String>>>,
    stop: Option<Spanned<String>>,
    stop_script: Option<Spanned<Vec<String>>>,
    units: Option<BTreeMap<String, String>>,
}

/// Turns fragments into settings, with file and line at hand for complaints.
struct Checker<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Checker<'_> {
    fn settings(&self, fragment: Fragment) -> Result<Settings, Error> {
        let host = HostId::new(fragment.host.get_ref().as_str())
            .map_err(|e| self.bad(&fragment.host.span(), "host", e))?;
        let state_dir = self.absolute("state_dir", &fragment.state_dir)?;
        forbid(
            "`state_dir`",
            &state_dir.to_string_lossy(),
            "choose another folder, such as /var/lib/grayfin",
        )?;
        let installations = self.installations(fragment.installation.unwrap_or_default())?;
        Ok(Settings {
            file: self.file.to_owned(),
            host,
            state_dir,
            coordinators: self.coordinators(&fragment.coordinators)?,
            look_interval: self.look_interval(fragment.look_interval_ms.as_ref())?,
            tls: fragment.tls,
            installations,
        })
    }

    fn coordinators(&self, list: &Spanned<Vec<Spanned<String>>>) -> Result<Vec<String>, Error> {
        if list.get_ref().is_empty() {
            return Err(self.bad(&list.span(), "coordinators", "needs at least one `host:port`"));
        }
        for address in list.get_ref() {
            let ok = address
                .get_ref()
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
            if !ok {
                let why = format!("has `{}`, which is not `host:port`", address.get_ref());
                return Err(self.bad(&address.span(), "coordinators", why));
            }
        }
        Ok(list.get_ref().iter().map(|a| a.get_ref().clone()).collect())
    }

    fn look_interval(&self, value: Option<&Spanned<u64>>) -> Result<Duration, Error> {
        let Some(value) = value else { return Ok(Duration::from_millis(LOOK_INTERVAL_MS)) };
        if !LOOK_INTERVAL_RANGE_MS.contains(value.get_ref()) {
            return Err(self.bad(&value.span(), "look_interval_ms", "must be from 50 to 60000"));
        }
        Ok(Duration::from_millis(*value.get_ref()))
    }

    fn installations(
        &self,
        fragments: Vec<Spanned<InstallationFragment>>,
    ) -> Result<Vec<Arc<Installation>>, Error> {
        let mut found: Vec<Arc<Installation>> = Vec::new();
        if fragments.is_empty() {
            return Err(self.bad(&(0..0), "installation", "is missing: add an `[[installation]]`"));
        }
        for fragment in fragments {
            let span = fragment.get_ref().cluster.span();
            let next = self.installation(fragment.into_inner())?;
            for other in &found {
                if other.cluster == next.cluster {
                    return Err(self.bad(&span, "cluster", "is given twice"));
                }
                if other.server_dir == next.server_dir {
                    return Err(self.bad(&span, "server_dir", "is used by two installations"));
                }
            }
            found.push(Arc::new(next));
        }
        Ok(found)
    }

    fn installation(&self, fragment: InstallationFragment) -> Result<Installation, Error> {
        let cluster = ClusterId::new(fragment.cluster.get_ref().as_str())
            .map_err(|e| self.bad(&fragment.cluster.span(), "cluster", e))?;
        let server_dir = self.absolute("server_dir", &fragment.server_dir)?;
        let inside = |path: Option<PathBuf>, default: &str| {
            server_dir.join(path.unwrap_or_else(|| PathBuf::from(default)))
        };
        let executable = self.executable(fragment.executable.as_ref())?;
        let work_dir = inside(fragment.work_dir, "clusterDemo");
        let upgrade_script = inside(fragment.upgrade_script, "clusterDemo/upgrade.sh");
        let start = |given: &Option<Spanned<Vec<String>>>, key: &str, script: &str| match given {
            Some(command) => self.command(key, command),
            None => Ok(vec!["bash".to_owned(), script.to_owned()]),
        };
        Ok(Installation {
            cluster,
            executable,
            work_dir,
            package_dir: self.absolute("package_dir", &fragment.package_dir)?,
            backup_dir: self.absolute("backup_dir", &fragment.backup_dir)?,
            credentials_file: self.absolute("credentials_file", &fragment.credentials_file)?,
            upgrade_mode: fragment.upgrade_mode.unwrap_or(UpgradeMode::Native),
            upgrade_script,
            path: fragment.path.unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".to_owned()),
            start_controller: start(
                &fragment.start_controller,
                "start_controller",
                "startController.sh",
            )?,
            start_ddb_agent: start(&fragment.start_ddb_agent, "start_ddb_agent", "startAgent.sh")?,
            stop: self.stop(fragment.stop.as_ref(), fragment.stop_script.as_ref())?,
            units: units(fragment.units.unwrap_or_default()),
            server_dir,
        })
    }

    fn executable(&self, value: Option<&Spanned<String>>) -> Result<String, Error> {
        let Some(value) = value else { return Ok(FORBIDDEN.to_owned()) };
        let name = value.get_ref();
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(self.bad(&value.span(), "executable", "must be a file name in server_dir"));
        }
        Ok(name.clone())
    }

    fn command(&self, key: &str, value: &Spanned<Vec<String>>) -> Result<Vec<String>, Error> {
        if value.get_ref().first().is_none_or(String::is_empty) {
            return Err(self.bad(&value.span(), key, "needs a program and its arguments"));
        }
        Ok(value.get_ref().clone())
    }

    fn stop(
        &self,
        how: Option<&Spanned<String>>,
        script: Option<&Spanned<Vec<String>>>,
    ) -> Result<StopBy, Error> {
        let Some(how) = how else { return Ok(StopBy::Signal) };
        match (how.get_ref().as_str(), script) {
            ("signal", _) => Ok(StopBy::Signal),
            ("script", Some(script)) => self.command("stop_script", script).map(StopBy::Script),
            ("script", None) => {
                Err(self.bad(&how.span(), "stop", "is `script`, so `stop_script` must be given"))
            }
            (_, _) => Err(self.bad(&how.span(), "stop", "must be `signal` or `script`")),
        }
    }

    fn absolute(&self, key: &str, value: &Spanned<PathBuf>) -> Result<PathBuf, Error> {
        if !value.get_ref().is_absolute() {
            let why = format!("is `{}`: give an absolute path", value.get_ref().display());
            return Err(self.bad(&value.span(), key, why));
        }
        Ok(value.get_ref().clone())
    }

    fn bad(&self, span: &Range<usize>, key: &str, why: impl ToString) -> Error {
        Error::Value {
            file: self.file.to_owned(),
            line: line_of(self.text, span),
            key: key.to_owned(),
            why: why.to_string(),
        }
    }
}

fn units(mut names: BTreeMap<String, String>) -> Units {
    let systemctl = names.remove(SYSTEMCTL).unwrap_or_else(|| SYSTEMCTL.to_owned());
    names.retain(|_, unit| !unit.is_empty());
    Units { systemctl, names }
}

fn forbid(what: &str, text: &str, remedy: &'static str) -> Result<(), Error> {
    // Whatever the case: a script that greps with -i is only a site's edit away.
    if text.to_ascii_lowercase().contains(FORBIDDEN) {
        return Err(Error::ForbiddenWord { what: what.to_owned(), remedy });
    }
    Ok(())
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    let upto = span.start.min(text.len());
    1 + text.as_bytes().iter().take(upto).filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests;
