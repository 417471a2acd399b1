//! Where each own node keeps its state, and with it what a backup of this host would contain.
//!
//! Every node is asked for its own running configuration; only one that does not answer is worked
//! out from the files, and its parts say so. What belongs into a backup is decided by
//! [`backup::select`](crate::backup::select), the same function that the backup step uses.

use std::collections::BTreeMap;
use std::path::PathBuf;

use grayfin_types::facts::{BackupPart, NodeRole, NodeSpec, Probe};

use super::files::Configured;
use super::node::Asker;
use super::pool::Pool;
use super::processes::NodeProcess;
use crate::backup::{InstallationSource, NodeSource, Part, config::effective, select};
use crate::config::Installation;
use crate::ddb::{Call, Value};

/// Said in a part whose place comes from files.
const FROM_FILES: &str = " (place from the configuration files: the node does not answer)";

/// Where one node keeps its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeSettings {
    /// The node, its home folder and its configuration.
    pub(super) source: NodeSource,
    /// The node itself said so.
    pub(super) running: bool,
}

impl NodeSettings {
    /// Asks a node.
    pub(super) async fn ask(
        pool: &Pool,
        spec: &NodeSpec,
        process: Option<&NodeProcess>,
        call: &Call,
    ) -> Result<Self, String> {
        let account = Asker::account(spec);
        let answer = pool.ask(spec, account, "getConfig", &[], call).await;
        let answer = answer.map_err(|error| error.words())?;
        let dictionary = answer.dictionary().ok_or("`getConfig` answered no dictionary")?;
        let config = (0..dictionary.keys.len())
            .filter_map(|at| {
                let key = dictionary.keys.word(at)?.into_owned();
                // Several paths may come as a vector.
                let many = dictionary.values.value(at).and_then(Value::vector);
                let text = match many.filter(|vector| vector.len() > 1) {
                    Some(vector) => vector.words().join(","),
                    None => dictionary.values.word(at)?.into_owned(),
                };
                (!text.is_empty()).then_some((key, text))
            })
            .collect();
        let home = pool.ask(spec, account, "getHomeDir", &[], call).await.ok();
        let home = home.and_then(|value| value.word()).filter(|home| home.starts_with('/'));
        let home = home.map(PathBuf::from).or_else(|| process.and_then(|p| p.home.clone()));
        let home = home.ok_or("its home folder is unknown")?;
        Ok(Self { source: NodeSource { spec: spec.clone(), home, config }, running: true })
    }

    /// Works the settings out from the files.
    pub(super) fn from_files(
        installation: &Installation,
        configured: &Configured,
        spec: &NodeSpec,
        process: Option<&NodeProcess>,
    ) -> Self {
        let alias = spec.alias.as_str();
        let data = installation.work_dir.join("data");
        let (home, file) = match spec.role {
            NodeRole::Controller => (data, &configured.controller_cfg),
            NodeRole::DdbAgent => (data, &configured.agent_cfg),
            NodeRole::DataNode | NodeRole::ComputeNode => {
                (data.join(alias), &configured.cluster_cfg)
            }
        };
        let config: BTreeMap<String, String> = effective(&file.pairs(), alias);
        let home = process.and_then(|p| p.home.clone()).unwrap_or(home);
        Self { source: NodeSource { spec: spec.clone(), home, config }, running: false }
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<String> {
        let alias = self.source.spec.alias.as_str();
        self.source.config.get(key).map(|text| text.replace("<ALIAS>", alias))
    }
}

/// Lists the parts of a backup, as the backup step selects them. Those that do not exist and need not
/// are left out. Blocks for a few dozen look-ups of names.
pub(super) fn parts(
    installation: &Installation,
    nodes: &[NodeSettings],
) -> Vec<(Part, BackupPart)> {
    let source = InstallationSource {
        server_dir: installation.server_dir.clone(),
        executable: installation.executable.clone(),
        work_dir: installation.work_dir.clone(),
        apart: vec![installation.package_dir.clone(), installation.backup_dir.clone()],
        unit_files: unit_files(installation),
    };
    let sources: Vec<NodeSource> = nodes.iter().map(|node| node.source.clone()).collect();
    let guessed = |alias: &str| {
        nodes.iter().any(|node| node.source.spec.alias.as_str() == alias && !node.running)
    };
    select(&source, &sources)
        .into_iter()
        .filter(|part| part.required || part.path().symlink_metadata().is_ok())
        .map(|part| {
            let note = if guessed(&part.node) { FROM_FILES } else { "" };
            let shown = BackupPart {
                node: part.node.clone(),
                class: part.class,
                what: format!("{}{note}", part.what),
                path: part.path().display().to_string(),
                bytes: Probe::Unknown("it has not been weighed yet".to_owned()),
            };
            (part, shown)
        })
        .collect()
}

/// The files of the configured units, where systemd usually has them.
fn unit_files(installation: &Installation) -> Vec<PathBuf> {
    const FOLDERS: [&str; 3] =
        ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
    let units = installation.units.names.values();
    let found = |unit: &String| {
        FOLDERS.iter().map(|folder| PathBuf::from(folder).join(unit)).find(|path| path.exists())
    };
    units.filter_map(found).collect()
}
