//! A data node's disk: `CHUNK_METADATA` says which chunks there are and how far each file counts,
//! the files under the volumes hold the rows.
//!
//! A chunk's file is a line per transaction: version, transaction, rows, checksum, payload. What
//! lies behind the committed length is undecided, or never was. After a power cut the list of
//! chunks may be behind the files: a line with another one behind it was committed, or the other
//! one would have taken its place; the last one is undecided.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use standin_model::member::{Local, StoreOp, Undecided};
use standin_model::message::Record;
use standin_model::meta::ChunkPlace;
use standin_model::{ChunkId, Tid};

use super::Error;
use super::chunk_file::{file_of, follow_file, remove_empty_folders, write_records};
use super::lines::{self, LineFile, sync_folder};
use super::redo::{GcStat, Redo};
use crate::config::NodeDirs;
use crate::version::Version;

/// Edits after which the list of chunks is written as a whole.
const CHECKPOINT_AFTER: usize = 5_000;

/// A chunk and how far its file counts.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Held {
    pub(crate) place: ChunkPlace,
    pub(crate) version: u64,
    pub(crate) length: u64,
    pub(crate) rows: u64,
    pub(crate) pending: Option<Pending>,
}

/// What lies behind the committed length.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Pending {
    pub(super) tid: Tid,
    pub(super) version: u64,
    pub(super) end: u64,
    pub(super) rows: u64,
}

/// A change of the list of chunks.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
enum Edit {
    Create(ChunkPlace),
    Pending { chunk: ChunkId, pending: Pending },
    Commit { chunk: ChunkId },
    Drop { chunk: ChunkId },
    Append { chunk: ChunkId, version: u64, end: u64, rows: u64 },
    Delete { chunk: ChunkId },
}

/// A data node's disk.
#[derive(Debug)]
pub(crate) struct NodeStore {
    dirs: NodeDirs,
    version: Version,
    sync: bool,
    chunks: BTreeMap<ChunkId, Held>,
    edits: LineFile,
    number: u64,
    edited: usize,
    redo: Redo,
    tsdb_meta: LineFile,
}

/// What is found at the start.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: NodeStore,
    /// The version that wrote it, if it was another one.
    pub(crate) upgraded_from: Option<Version>,
    /// Redo logs that a crash had left.
    pub(crate) replayed: usize,
    /// Transactions that were under way.
    pub(crate) undecided: usize,
}

impl NodeStore {
    /// Reads everything and rewrites it in this version's form.
    pub(crate) fn open(
        dirs: &NodeDirs,
        version: &Version,
        sync: bool,
        scale: f64,
    ) -> Result<Opened, Error> {
        let meta = dirs.chunk_meta.join("CHUNK_METADATA");
        let more = [&dirs.pkey_redo_log, &dirs.pkey_meta, &dirs.recover_log, &dirs.sysmgmt];
        let own = [meta.clone(), dirs.chunk_meta.join("LOG"), dirs.tsdb_meta.clone()];
        let all = own.iter().chain(&dirs.volumes).chain(more);
        for folder in all.chain(dirs.persistence.as_ref()).chain([&dirs.streaming_ha]) {
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        let number = newest_number(&meta)?;
        let (mut chunks, from) = load(&meta, number, version)?;
        for held in chunks.values_mut() {
            follow_file(&file_of(dirs, &held.place), held)?;
        }
        let undecided = chunks.values().filter(|held| held.pending.is_some()).count();
        let (redo, replayed) = Redo::open(&dirs.redo_log, &dirs.tsdb_redo_log, scale)
            .map_err(Error::io(&dirs.redo_log))?;
        let tsdb_meta = open_tsdb_meta(dirs, version)?;
        let edits = write_generation(&meta, number + 1, version, sync, &chunks)?;
        let store = Self {
            dirs: dirs.clone(),
            version: version.clone(),
            sync,
            chunks,
            edits,
            number: number + 1,
            edited: 0,
            redo,
            tsdb_meta,
        };
        Ok(Opened { store, upgraded_from: from.filter(|v| v != version), replayed, undecided })
    }

    /// The chunks, as the model knows them.
    pub(crate) fn locals(&self) -> Vec<Local> {
        self.chunks
            .values()
            .map(|held| Local {
                place: held.place.clone(),
                version: held.version,
                pending: held.pending.map(|p| Undecided { tid: p.tid, version: p.version }),
            })
            .collect()
    }

    /// The chunks with their sizes and files.
    pub(crate) fn held(&self) -> impl Iterator<Item = (&Held, PathBuf)> {
        self.chunks.values().map(|held| (held, file_of(&self.dirs, &held.place)))
    }

    /// Does what the model says; durable when it returns.
    pub(crate) fn apply(&mut self, op: StoreOp) -> Result<(), Error> {
        match op {
            StoreOp::Create(place) => self.create(place),
            StoreOp::AppendPending { chunk, record } => self.append_pending(chunk, &record),
            StoreOp::CommitPending { chunk, .. } => self.settle(chunk, true),
            StoreOp::DropPending { chunk } => self.settle(chunk, false),
            StoreOp::Append { chunk, records } => self.append(chunk, &records),
            StoreOp::Delete(chunk) => self.delete(chunk),
        }?;
        if self.edited > CHECKPOINT_AFTER { self.checkpoint() } else { Ok(()) }
    }

    /// Writes the list of chunks as a whole.
    pub(crate) fn checkpoint(&mut self) -> Result<(), Error> {
        let meta = self.dirs.chunk_meta.join("CHUNK_METADATA");
        self.number += 1;
        self.edits = write_generation(&meta, self.number, &self.version, self.sync, &self.chunks)?;
        self.edited = 0;
        Ok(())
    }

    /// `flushOLAPCache` and `flushTSDBCache`.
    pub(crate) fn flush(&mut self, is_tsdb: bool) {
        self.redo.flush(is_tsdb);
    }

    /// Removes redo logs whose time has come.
    pub(crate) fn collect_redo(&mut self) {
        self.redo.collect();
    }

    /// What `getRedoLogGCStat` shows.
    pub(crate) fn redo_stats(&self) -> Vec<GcStat> {
        self.redo.stats()
    }

    /// The file of a chunk and how far it may be read.
    pub(crate) fn readable(&self, chunk: ChunkId) -> Option<(PathBuf, u64)> {
        let held = self.chunks.get(&chunk)?;
        Some((file_of(&self.dirs, &held.place), held.length))
    }

    fn edit(&mut self, edit: &Edit) -> Result<(), Error> {
        self.edited += 1;
        let edit = std::slice::from_ref(edit);
        match edit {
            [Edit::Create(_) | Edit::Delete { .. }] => self.edits.append(edit),
            // The files of the chunks say as much.
            _ => self.edits.append_lazily(edit),
        }
    }

    fn create(&mut self, place: ChunkPlace) -> Result<(), Error> {
        let path = file_of(&self.dirs, &place);
        let make = || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            File::create(&path)?;
            sync_folder(&path, self.sync)
        };
        make().map_err(Error::io(&path))?;
        self.edit(&Edit::Create(place.clone()))?;
        let held = Held { place, version: 0, length: 0, rows: 0, pending: None };
        self.chunks.insert(held.place.id, held);
        Ok(())
    }

    fn append_pending(&mut self, chunk: ChunkId, record: &Record) -> Result<(), Error> {
        let Some(held) = self.chunks.get(&chunk) else { return Ok(()) };
        let (place, from) = (held.place.clone(), held.length);
        let path = file_of(&self.dirs, &place);
        let log = self.dirs.chunk_meta.join("LOG").join(record.tid.to_string());
        fs::create_dir_all(&log).map_err(Error::io(&log))?;
        let is_tsdb = record.payload.data.as_bytes().get(1) == Some(&b'T');
        self.redo
            .write(record.tid, is_tsdb, &table_path(&place), &record.payload.data)
            .map_err(Error::io(&path))?;
        let end = write_records(&path, from, std::slice::from_ref(record), self.sync)
            .map_err(Error::io(&path))?;
        let Record { tid, version, payload } = record;
        let pending = Pending { tid: *tid, version: *version, end, rows: payload.rows };
        self.edit(&Edit::Pending { chunk, pending })?;
        if let Some(held) = self.chunks.get_mut(&chunk) {
            held.pending = Some(pending);
        }
        Ok(())
    }

    fn settle(&mut self, chunk: ChunkId, commit: bool) -> Result<(), Error> {
        let Some(held) = self.chunks.get_mut(&chunk) else { return Ok(()) };
        let Some(pending) = held.pending.take() else { return Ok(()) };
        if commit {
            held.version = pending.version;
            held.length = pending.end;
            held.rows += pending.rows;
        }
        let path = table_path(&held.place);
        let edit = if commit { Edit::Commit { chunk } } else { Edit::Drop { chunk } };
        self.edit(&edit)?;
        let log = self.dirs.chunk_meta.join("LOG").join(pending.tid.to_string());
        // Another chunk of the same transaction may have removed it.
        drop(fs::remove_dir_all(log));
        self.redo.end(pending.tid, commit);
        if commit {
            self.tsdb_meta.append(&[(path, chunk, pending.version)])?;
        }
        Ok(())
    }

    fn append(&mut self, chunk: ChunkId, records: &[Record]) -> Result<(), Error> {
        let Some(held) = self.chunks.get(&chunk) else { return Ok(()) };
        let Some(version) = records.last().map(|record| record.version) else { return Ok(()) };
        let path = file_of(&self.dirs, &held.place);
        let end =
            write_records(&path, held.length, records, self.sync).map_err(Error::io(&path))?;
        let rows = records.iter().map(|record| record.payload.rows).sum();
        self.edit(&Edit::Append { chunk, version, end, rows })?;
        if let Some(held) = self.chunks.get_mut(&chunk) {
            held.version = version;
            held.length = end;
            held.rows += rows;
        }
        Ok(())
    }

    fn delete(&mut self, chunk: ChunkId) -> Result<(), Error> {
        let Some(held) = self.chunks.remove(&chunk) else { return Ok(()) };
        self.edit(&Edit::Delete { chunk })?;
        if let Some(pending) = held.pending {
            self.redo.end(pending.tid, false);
            drop(fs::remove_dir_all(
                self.dirs.chunk_meta.join("LOG").join(pending.tid.to_string()),
            ));
        }
        let path = file_of(&self.dirs, &held.place);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(&path)(error)),
            Ok(()) | Err(_) => {
                remove_empty_folders(&path);
                Ok(())
            }
        }
    }
}

/// `/database/table`, as `getRedoLogGCStat` names it.
fn table_path(place: &ChunkPlace) -> String {
    let name = place.db.strip_prefix("dfs://").unwrap_or(&place.db);
    format!("/{name}/{}", place.table)
}

fn newest_number(meta: &Path) -> Result<u64, Error> {
    let mut newest = 0;
    for entry in fs::read_dir(meta).map_err(Error::io(meta))? {
        let name = entry.map_err(Error::io(meta))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("checkpoint."));
        newest = newest.max(number.and_then(|n| n.parse().ok()).unwrap_or(0));
    }
    Ok(newest)
}

/// Reads a checkpoint and the edits after it.
fn load(
    meta: &Path,
    number: u64,
    version: &Version,
) -> Result<(BTreeMap<ChunkId, Held>, Option<Version>), Error> {
    let mut chunks = BTreeMap::new();
    let Some(file) = lines::read::<Held>(&meta.join(format!("checkpoint.{number}")), version)?
    else {
        return Ok((chunks, None));
    };
    chunks.extend(file.lines.into_iter().map(|held| (held.place.id, held)));
    let edits = lines::read::<Edit>(&meta.join(format!("editlog.{number}")), version)?;
    for edit in edits.into_iter().flat_map(|file| file.lines) {
        replay(&mut chunks, edit);
    }
    Ok((chunks, Some(file.version)))
}

fn replay(chunks: &mut BTreeMap<ChunkId, Held>, edit: Edit) {
    match edit {
        Edit::Create(place) => {
            let held = Held { place, version: 0, length: 0, rows: 0, pending: None };
            chunks.insert(held.place.id, held);
        }
        Edit::Pending { chunk, pending } => {
            if let Some(held) = chunks.get_mut(&chunk) {
                held.pending = Some(pending);
            }
        }
        Edit::Commit { chunk } => {
            if let Some(held) = chunks.get_mut(&chunk)
                && let Some(pending) = held.pending.take()
            {
                held.version = pending.version;
                held.length = pending.end;
                held.rows += pending.rows;
            }
        }
        Edit::Drop { chunk } => {
            if let Some(held) = chunks.get_mut(&chunk) {
                held.pending = None;
            }
        }
        Edit::Append { chunk, version, end, rows } => {
            if let Some(held) = chunks.get_mut(&chunk) {
                held.version = version;
                held.length = end;
                held.rows += rows;
            }
        }
        Edit::Delete { chunk } => {
            chunks.remove(&chunk);
        }
    }
}

/// Writes the next checkpoint and an empty edit log, then removes the ones before.
fn write_generation(
    meta: &Path,
    number: u64,
    version: &Version,
    sync: bool,
    chunks: &BTreeMap<ChunkId, Held>,
) -> Result<LineFile, Error> {
    let all: Vec<&Held> = chunks.values().collect();
    let edits = meta.join(format!("editlog.{number}"));
    // The edit log first: a checkpoint without one would be taken as the newest.
    let edits = LineFile::create::<Edit>(&edits, version, &[], sync)?;
    lines::replace(&meta.join(format!("checkpoint.{number}")), version, &all, sync)?;
    for entry in fs::read_dir(meta).map_err(Error::io(meta))? {
        let path = entry.map_err(Error::io(meta))?.path();
        let extension = path.extension().and_then(|e| e.to_str()).and_then(|e| e.parse().ok());
        if extension.is_some_and(|old: u64| old < number) {
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(edits)
}

/// `TSDBMeta/iotEditLog.meta` grows with each commit, `iotCheckPointFile.meta` is there.
fn open_tsdb_meta(dirs: &NodeDirs, version: &Version) -> Result<LineFile, Error> {
    let edits = dirs.tsdb_meta.join("iotEditLog.meta");
    let count = match lines::read::<serde_json::Value>(&edits, version)? {
        Some(file) => file.lines.len(),
        None => 0,
    };
    lines::replace(&dirs.tsdb_meta.join("iotCheckPointFile.meta"), version, &[count], false)?;
    LineFile::create::<usize>(&edits, version, &[], false)
}

#[cfg(test)]
mod tests {
    use standin_model::message::Payload;

    use super::super::chunk_file::read_records;
    use super::*;
    use crate::config::{ClusterConfig, Role};

    fn place(id: u128) -> ChunkPlace {
        ChunkPlace {
            id: ChunkId(id),
            db: "dfs://d".to_owned(),
            table: "t".to_owned(),
            key: "a b".to_owned(),
            path: "/d/a b/1".to_owned(),
        }
    }

    fn record(version: u64, data: &str) -> Record {
        let payload = Payload { rows: 1, data: data.to_owned() };
        Record { version, tid: Tid(version * 100), payload }
    }

    fn open(folder: &Path, version: &str) -> Opened {
        let config = ClusterConfig::parse("c", "workerNum=4\n").unwrap();
        let dirs = NodeDirs::new(folder, &config.effective("n", Role::DataNode));
        NodeStore::open(&dirs, &version.parse().unwrap(), false, 0.05).unwrap()
    }

    fn local(store: &NodeStore) -> Local {
        store.locals().pop().unwrap()
    }

    fn file(store: &NodeStore) -> PathBuf {
        store.readable(ChunkId(1)).unwrap().0
    }

    #[test]
    fn what_is_committed_comes_back_and_what_is_not_is_undecided() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path(), "2.00.8.10").store;
        let chunk = ChunkId(1);
        store.apply(StoreOp::Create(place(1))).unwrap();
        store.apply(StoreOp::AppendPending { chunk, record: record(1, "+T:a") }).unwrap();
        store.apply(StoreOp::CommitPending { chunk, version: 1 }).unwrap();
        store.apply(StoreOp::AppendPending { chunk, record: record(2, "+T:b") }).unwrap();
        store.apply(StoreOp::DropPending { chunk }).unwrap();
        store.apply(StoreOp::AppendPending { chunk, record: record(2, "+T:c") }).unwrap();
        assert_eq!(store.redo_stats().len(), 1);
        let again = open(folder.path(), "2.00.8.12");
        assert_eq!(again.upgraded_from.map(|v| v.to_string()).as_deref(), Some("2.00.8.10"));
        let found = local(&again.store);
        assert_eq!((found.version, found.pending.map(|p| p.version)), (1, Some(2)));
        let (path, length) = again.store.readable(chunk).unwrap();
        let (records, more) = read_records(&path, length, 0, 9).unwrap();
        assert_eq!((records, more), (vec![record(1, "+T:a")], false));
    }

    #[test]
    fn files_say_what_a_lost_list_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path(), "2.00.8.10").store;
        let chunk = ChunkId(1);
        store.apply(StoreOp::Create(place(1))).unwrap();
        store.checkpoint().unwrap();
        let list = folder.path().join("storage/CHUNK_METADATA").join("editlog.2");
        let before = fs::read(&list).unwrap();
        for version in 1..=3 {
            store.apply(StoreOp::AppendPending { chunk, record: record(version, "+O:x") }).unwrap();
            store.apply(StoreOp::CommitPending { chunk, version }).unwrap();
        }
        // A power cut: the list's last lines never reached the disk, and a line is torn.
        fs::write(&list, before).unwrap();
        let mut bytes = fs::read(file(&store)).unwrap();
        bytes.extend(b"4 400 1 0000");
        fs::write(file(&store), &bytes).unwrap();
        let again = open(folder.path(), "2.00.8.10");
        let found = local(&again.store);
        assert_eq!((found.version, found.pending.map(|p| p.version)), (2, Some(3)));
        assert_eq!(fs::metadata(file(&again.store)).unwrap().len() + 12, bytes.len() as u64);
    }

    #[test]
    fn a_lost_file_is_a_chunk_without_rows() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path(), "2.00.8.10").store;
        let chunk = ChunkId(1);
        store.apply(StoreOp::Create(place(1))).unwrap();
        store.apply(StoreOp::Append { chunk, records: vec![record(1, "+O:x")] }).unwrap();
        fs::remove_file(file(&store)).unwrap();
        let mut again = open(folder.path(), "2.00.8.10").store;
        assert_eq!(local(&again).version, 0);
        again.apply(StoreOp::Delete(chunk)).unwrap();
        assert!(again.locals().is_empty());
        assert!(!folder.path().join("storage/d").exists());
    }
}
