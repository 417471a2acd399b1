//! The command line, word for word the one that the package's scripts use.

use std::path::PathBuf;

use crate::config::{Role, Site};

/// What `-help` says.
pub const HELP: &str = "\
This program is a test double: it stands in for a DolphinDB node in tests and is not DolphinDB.

usage: <program> -mode controller|agent|datanode|computenode -home DIR -config FILE [options]
  -console 0            no interactive console; there is none anyway
  -mode MODE            what this node is
  -home DIR             its home folder
  -script FILE          the init script beside the program
  -config FILE          its configuration
  -localSite H:P:ALIAS  where it listens, if the configuration does not say
  -logFile FILE         its log
  -nodesFile FILE       controllers: cluster.nodes
  -clusterConfig FILE   controllers: cluster.cfg
  -maxLogSize N, -stdoutLog N   accepted, no effect
";

/// The command line, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What to be.
    pub mode: Role,
    /// `-home`.
    pub home: PathBuf,
    /// `-script`.
    pub script: Option<PathBuf>,
    /// `-config`.
    pub config: PathBuf,
    /// `-localSite`.
    pub site: Option<Site>,
    /// `-logFile`.
    pub log_file: PathBuf,
    /// `-nodesFile`.
    pub nodes_file: PathBuf,
    /// `-clusterConfig`.
    pub cluster_config: PathBuf,
}

/// A command line that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Help was asked for.
    #[error("{HELP}")]
    Help,
    /// An option nobody knows.
    #[error("unknown option `{0}`")]
    Unknown(String),
    /// An option without its value.
    #[error("the option `{0}` needs a value")]
    NoValue(String),
    /// A value that cannot be read.
    #[error("the option `{option}` cannot be `{value}`: {reason}")]
    BadValue {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        reason: String,
    },
    /// An option that has to be there.
    #[error("the option `{0}` is missing")]
    Missing(&'static str),
}

impl Options {
    /// Reads the words behind the program's name.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, Error> {
        let mut words = words.into_iter();
        let (mut mode, mut home, mut script, mut config) = (None, None, None, None);
        let (mut site, mut log_file) = (None, None);
        let (mut nodes_file, mut cluster_config) = (None, None);
        while let Some(word) = words.next() {
            if matches!(word.as_str(), "-help" | "--help" | "-h") {
                return Err(Error::Help);
            }
            let mut value = || words.next().ok_or_else(|| Error::NoValue(word.clone()));
            match word.as_str() {
                "-console" | "-maxLogSize" | "-stdoutLog" => drop(value()?),
                "-mode" => mode = Some(read("-mode", value()?)?),
                "-home" => home = Some(PathBuf::from(value()?)),
                "-script" => script = Some(PathBuf::from(value()?)),
                "-config" => config = Some(PathBuf::from(value()?)),
                "-localSite" => site = Some(read("-localSite", value()?)?),
                "-logFile" => log_file = Some(PathBuf::from(value()?)),
                "-nodesFile" => nodes_file = Some(PathBuf::from(value()?)),
                "-clusterConfig" => cluster_config = Some(PathBuf::from(value()?)),
                _ => return Err(Error::Unknown(word)),
            }
        }
        Ok(Self {
            mode: mode.ok_or(Error::Missing("-mode"))?,
            home: home.ok_or(Error::Missing("-home"))?,
            script,
            config: config.ok_or(Error::Missing("-config"))?,
            site,
            log_file: log_file.ok_or(Error::Missing("-logFile"))?,
            nodes_file: nodes_file.unwrap_or_else(|| "config/cluster.nodes".into()),
            cluster_config: cluster_config.unwrap_or_else(|| "config/cluster.cfg".into()),
        })
    }
}

fn read<T: std::str::FromStr<Err = String>>(
    option: &'static str,
    value: String,
) -> Result<T, Error> {
    value.parse().map_err(|reason| Error::BadValue { option, value, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, Error> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_scripts_lines_are_understood() {
        let controller = parse(
            "-console 0 -mode controller -home data -script dolphindb.dos -config \
             config/controller.cfg -logFile log/controller.log -nodesFile config/cluster.nodes \
             -clusterConfig config/cluster.cfg",
        )
        .unwrap();
        assert_eq!(controller.mode, Role::Controller);
        let agent = parse(
            "-console 0 -mode agent -home data -script dolphindb.dos -config config/agent.cfg \
             -logFile log/agent.log",
        )
        .unwrap();
        assert_eq!(agent.home, PathBuf::from("data"));
    }

    #[test]
    fn anything_else_is_refused() {
        assert_eq!(parse("-mode agent -x 1"), Err(Error::Unknown("-x".to_owned())));
        assert_eq!(parse("-mode"), Err(Error::NoValue("-mode".to_owned())));
        assert_eq!(parse("-mode agent"), Err(Error::Missing("-home")));
        assert!(matches!(parse("-mode single"), Err(Error::BadValue { .. })));
        assert!(parse("--help").unwrap_err().to_string().contains("test double"));
    }
}
