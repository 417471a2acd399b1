//! A controller's disk: term and vote, the log, the metadata as a whole.
//!
//! With high availability that is `raft/raftHardstate`, `raft/raftWAL` and `raft/raftSnapshot`,
//! and the metadata is also in `dfsMeta/DFSMasterMetaCheckpoint.0`; without, it is
//! `DFSMetaState.0`, `DFSMetaLog.0` and `DFSMasterMetaCheckpoint.0` in `dfsMetaDir`.

use std::fs;
use std::path::{Path, PathBuf};

use standin_model::raft::{Entry, HardState, Log, Persist, Snapshot};

use super::Error;
use super::lines::{self, LineFile};
use crate::config::ControllerDirs;
use crate::version::Version;

/// The files of a controller.
#[derive(Debug)]
pub(crate) struct RaftStore {
    hard: PathBuf,
    wal: LineFile,
    snapshot: PathBuf,
    checkpoint: PathBuf,
    sysmgmt: PathBuf,
    version: Version,
    sync: bool,
}

/// What is read at the start.
pub(crate) struct Stored {
    pub(crate) store: RaftStore,
    pub(crate) state: (HardState, Log),
    /// The version that wrote the files, if it was another one.
    pub(crate) upgraded_from: Option<Version>,
}

struct Paths {
    hard: PathBuf,
    wal: PathBuf,
    snapshot: PathBuf,
}

impl Paths {
    fn of(dirs: &ControllerDirs, ha: bool) -> Self {
        let (folder, names) = if ha {
            (&dirs.raft, ["raftHardstate", "raftWAL", "raftSnapshot"])
        } else {
            (&dirs.dfs_meta, ["DFSMetaState.0", "DFSMetaLog.0", "DFSMasterMetaCheckpoint.0"])
        };
        let [hard, wal, snapshot] = names.map(|name| folder.join(name));
        Self { hard, wal, snapshot }
    }
}

/// The one value of a file of one line; its version is the oldest seen so far.
fn single<T: serde::de::DeserializeOwned + Clone>(
    path: &Path,
    own: &Version,
    oldest: &mut Option<Version>,
) -> Result<Option<T>, Error> {
    let Some(file) = lines::read::<T>(path, own)? else { return Ok(None) };
    note(oldest, &file.version);
    match file.lines.as_slice() {
        [value] => Ok(Some(value.clone())),
        _ => {
            let reason = if path.ends_with("raftHardstate") {
                "[Raft] incomplete hardstate file"
            } else {
                "incomplete file"
            };
            Err(Error::Damaged { path: path.to_owned(), reason: reason.to_owned() })
        }
    }
}

fn note(oldest: &mut Option<Version>, version: &Version) {
    if oldest.as_ref().is_none_or(|known| version < known) {
        *oldest = Some(version.clone());
    }
}

impl RaftStore {
    /// Reads the files and rewrites them in this version's form.
    pub(crate) fn open(
        dirs: &ControllerDirs,
        ha: bool,
        version: &Version,
        sync: bool,
    ) -> Result<Stored, Error> {
        for folder in [&dirs.home, &dirs.dfs_meta, &dirs.sysmgmt, &dirs.keys] {
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        if ha {
            fs::create_dir_all(&dirs.raft).map_err(Error::io(&dirs.raft))?;
        }
        let paths = Paths::of(dirs, ha);
        let mut oldest = None;
        let hard: Option<HardState> = single(&paths.hard, version, &mut oldest)?;
        let snapshot: Option<Snapshot> = single(&paths.snapshot, version, &mut oldest)?;
        let entries = match lines::read::<Entry>(&paths.wal, version)? {
            Some(file) => {
                note(&mut oldest, &file.version);
                file.lines
            }
            None => Vec::new(),
        };
        if hard.is_none() && (snapshot.is_some() || !entries.is_empty()) {
            let reason = "[Raft] incomplete hardstate file".to_owned();
            return Err(Error::Damaged { path: paths.hard, reason });
        }
        let hard = hard.unwrap_or_default();
        let log = Log::new(snapshot.unwrap_or_default(), entries);
        let kept = log.from(0, usize::MAX);
        // The newest form first for what an older version reads first.
        lines::replace(&paths.hard, version, std::slice::from_ref(&hard), sync)?;
        let wal = LineFile::create(&paths.wal, version, &kept, sync)?;
        let checkpoint = dirs.dfs_meta.join("DFSMasterMetaCheckpoint.0");
        let store = Self {
            hard: paths.hard,
            wal,
            snapshot: paths.snapshot,
            checkpoint,
            sysmgmt: dirs.sysmgmt.clone(),
            version: version.clone(),
            sync,
        };
        store.write_snapshot(log.snapshot())?;
        make_keys(&dirs.keys)?;
        let upgraded_from = oldest.filter(|known| known != version);
        Ok(Stored { store, state: (hard, log), upgraded_from })
    }

    /// Makes a change durable.
    pub(crate) fn persist(&mut self, persist: &Persist) -> Result<(), Error> {
        match persist {
            Persist::Hard(hard) => {
                lines::replace(&self.hard, &self.version, std::slice::from_ref(hard), self.sync)
            }
            Persist::Append(entries) => self.wal.append(entries),
            Persist::Truncate(index) => {
                let kept = lines::read::<Entry>(self.wal.path(), &self.version)?
                    .map(|file| file.lines)
                    .unwrap_or_default();
                let kept: Vec<Entry> = kept.into_iter().filter(|e| e.index < *index).collect();
                self.restart_wal(&kept)
            }
            Persist::Snapshot(snapshot, rest) => {
                self.write_snapshot(snapshot)?;
                self.restart_wal(rest)
            }
        }
    }

    fn restart_wal(&mut self, entries: &[Entry]) -> Result<(), Error> {
        let path = self.wal.path().to_owned();
        self.wal = LineFile::create(&path, &self.version, entries, self.sync)?;
        Ok(())
    }

    fn write_snapshot(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let one = std::slice::from_ref(snapshot);
        lines::replace(&self.snapshot, &self.version, one, self.sync)?;
        if self.checkpoint != self.snapshot {
            lines::replace(&self.checkpoint, &self.version, one, false)?;
        }
        // Users are part of the metadata; the files of their own that a real controller has are
        // written, and not read.
        let names: Vec<&String> = snapshot.state.users.keys().collect();
        lines::replace(&self.sysmgmt.join("aclCheckPoint.meta"), &self.version, &names, false)?;
        lines::replace::<u8>(&self.sysmgmt.join("aclEditlog.meta"), &self.version, &[], false)
    }
}

/// `keys/aclPublic.key` and `keys/aclPrivate.key`: made once, random, without any use.
fn make_keys(folder: &Path) -> Result<(), Error> {
    for name in ["aclPublic.key", "aclPrivate.key"] {
        let path = folder.join(name);
        if !path.exists() {
            let bytes: [u8; 64] = rand::random();
            let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            fs::write(&path, text + "\n").map_err(Error::io(&path))?;
        }
    }
    Ok(())
}
