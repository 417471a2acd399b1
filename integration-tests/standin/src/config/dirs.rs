//! Where a node keeps its state, from its effective configuration and its home folder.

use std::path::{Path, PathBuf};

use super::cluster::Effective;
use super::properties::Properties;

/// Folders of a data or compute node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDirs {
    /// `<agent's home>/<alias>`.
    pub home: PathBuf,
    /// `volumes`: where chunks are; at least one.
    pub volumes: Vec<PathBuf>,
    /// `chunkMetaDir`: holds `CHUNK_METADATA`, `LOG`, …; the first volume by default.
    pub chunk_meta: PathBuf,
    /// `redoLogDir`.
    pub redo_log: PathBuf,
    /// `TSDBRedoLogDir`.
    pub tsdb_redo_log: PathBuf,
    /// `TSDBMeta`, the sibling of the TSDB redo log.
    pub tsdb_meta: PathBuf,
    /// `PKEYRedoLogDir`.
    pub pkey_redo_log: PathBuf,
    /// `PKEYMetaLogDir`.
    pub pkey_meta: PathBuf,
    /// `recoverLogDir`.
    pub recover_log: PathBuf,
    /// `sysmgmt` (scheduled jobs).
    pub sysmgmt: PathBuf,
    /// `persistenceDir`, where stream tables are persisted; none by default.
    pub persistence: Option<PathBuf>,
    /// `streamingHADir` or `streamingHALogDir`.
    pub streaming_ha: PathBuf,
}

impl NodeDirs {
    /// Works the folders out; relative ones are relative to the node's home.
    pub fn new(home: &Path, config: &Effective) -> Self {
        let dir = |key: &str, default: &str| home.join(config.get(key).unwrap_or(default));
        let volumes: Vec<PathBuf> = config
            .get("volumes")
            .unwrap_or("storage")
            .split(',')
            .map(str::trim)
            .filter(|volume| !volume.is_empty())
            .map(|volume| home.join(volume))
            .collect();
        let volumes = if volumes.is_empty() { vec![home.join("storage")] } else { volumes };
        let first = volumes.first().cloned().unwrap_or_else(|| home.join("storage"));
        let tsdb_redo_log = dir("TSDBRedoLogDir", "log/TSDBRedo");
        let tsdb_meta = tsdb_redo_log.parent().unwrap_or(home).join("TSDBMeta");
        let streaming_key = if config.get("streamingHALogDir").is_some() {
            "streamingHALogDir"
        } else {
            "streamingHADir"
        };
        Self {
            home: home.to_path_buf(),
            chunk_meta: config.get("chunkMetaDir").map_or(first, |meta| home.join(meta)),
            volumes,
            redo_log: dir("redoLogDir", "log/redoLog"),
            tsdb_meta,
            tsdb_redo_log,
            pkey_redo_log: dir("PKEYRedoLogDir", "log/PKEYRedo"),
            pkey_meta: dir("PKEYMetaLogDir", "log/PKEYMeta"),
            recover_log: dir("recoverLogDir", "recoverLog"),
            sysmgmt: home.join("sysmgmt"),
            persistence: config.get("persistenceDir").map(|path| home.join(path)),
            streaming_ha: dir(streaming_key, "log/streamingHALog"),
        }
    }
}

/// Folders of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerDirs {
    /// `<home>/<alias>` with Raft, `<home>` without.
    pub home: PathBuf,
    /// `dfsMetaDir`.
    pub dfs_meta: PathBuf,
    /// `<home>/<alias>/raft`, which in HA mode holds DFS metadata, users and function views.
    pub raft: PathBuf,
    /// `sysmgmt` (users and rights without Raft).
    pub sysmgmt: PathBuf,
    /// `keys`.
    pub keys: PathBuf,
}

impl ControllerDirs {
    /// Works the folders out from `-home`, the alias and `controller.cfg`.
    pub fn new(home: &Path, alias: &str, ha: bool, config: &Properties) -> Self {
        let own = if ha { home.join(alias) } else { home.to_path_buf() };
        let default_meta = if ha { own.join("dfsMeta") } else { own.clone() };
        Self {
            dfs_meta: config.get("dfsMetaDir").map_or(default_meta, |dir| home.join(dir)),
            raft: home.join(alias).join("raft"),
            sysmgmt: own.join("sysmgmt"),
            keys: own.join("keys"),
            home: own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ClusterConfig, Role};
    use super::*;

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = ClusterConfig::parse("c", "workerNum=4\n").unwrap();
        let dirs =
            NodeDirs::new(Path::new("/d/node43"), &config.effective("node43", Role::DataNode));
        assert_eq!(dirs.volumes, [Path::new("/d/node43/storage")]);
        assert_eq!(dirs.chunk_meta, Path::new("/d/node43/storage"));
        assert_eq!(dirs.tsdb_meta, Path::new("/d/node43/log/TSDBMeta"));
    }

    #[test]
    fn several_volumes_and_moved_folders() {
        let text = "volumes=/v1/<ALIAS>, /v2/<ALIAS>\n%.chunkMetaDir=/m/<ALIAS>\nTSDBRedoLogDir=/r/<ALIAS>/redo\n";
        let config = ClusterConfig::parse("c", text).unwrap();
        let dirs = NodeDirs::new(Path::new("/d/n"), &config.effective("n", Role::DataNode));
        assert_eq!(dirs.volumes, [Path::new("/v1/n"), Path::new("/v2/n")]);
        assert_eq!(dirs.chunk_meta, Path::new("/m/n"));
        assert_eq!(dirs.tsdb_meta, Path::new("/r/n/TSDBMeta"));
    }

    #[test]
    fn a_controller_with_raft_has_its_own_folder() {
        let config = Properties::parse("c", "localSite=h:1:c1\n").unwrap();
        let dirs = ControllerDirs::new(Path::new("/d"), "c1", true, &config);
        assert_eq!(dirs.dfs_meta, Path::new("/d/c1/dfsMeta"));
        assert_eq!(dirs.raft, Path::new("/d/c1/raft"));
        let dirs = ControllerDirs::new(Path::new("/d"), "c1", false, &config);
        assert_eq!(dirs.dfs_meta, Path::new("/d"));
    }
}
