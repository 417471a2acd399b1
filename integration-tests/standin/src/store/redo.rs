//! Redo logs: one file per transaction, collected some time after the rows are on disk.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use standin_model::Tid;

/// One transaction whose redo log is still there.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    table: String,
    written: Instant,
    committed: bool,
    flushed: bool,
}

/// What `getRedoLogGCStat` shows of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GcStat {
    pub(crate) table: String,
    pub(crate) pending_gc: Vec<Tid>,
    pub(crate) pending_flush: Vec<Tid>,
}

/// All redo logs of a node.
#[derive(Debug)]
pub(crate) struct Redo {
    folders: [PathBuf; 2],
    waits: [Duration; 2],
    kept: BTreeMap<(Tid, usize), Kept>,
}

/// The two engines: OLAP and TSDB.
fn slot(is_tsdb: bool) -> usize {
    usize::from(is_tsdb)
}

impl Redo {
    /// Opens the folders; what a crash left there counts as replayed and is collected. Returns
    /// how many logs that were.
    pub(crate) fn open(olap: &Path, tsdb: &Path, scale: f64) -> io::Result<(Self, usize)> {
        let mut left = 0;
        for folder in [olap, tsdb] {
            fs::create_dir_all(folder)?;
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "log") {
                    fs::remove_file(path)?;
                    left += 1;
                }
            }
        }
        let redo = Self {
            folders: [olap.to_owned(), tsdb.to_owned()],
            // OLAP's cache is written out every 30 s, TSDB's every 60 s.
            waits: [30.0, 60.0].map(|seconds| Duration::from_secs_f64(seconds * scale)),
            kept: BTreeMap::new(),
        };
        Ok((redo, left))
    }

    /// Writes the log of a transaction.
    pub(crate) fn write(
        &mut self,
        tid: Tid,
        is_tsdb: bool,
        table: &str,
        data: &str,
    ) -> io::Result<()> {
        let Some(folder) = self.folders.get(slot(is_tsdb)) else { return Ok(()) };
        let path = folder.join(format!("{tid}.log"));
        fs::write(&path, data)?;
        let kept = Kept {
            path,
            table: table.to_owned(),
            written: Instant::now(),
            committed: false,
            flushed: false,
        };
        self.kept.insert((tid, slot(is_tsdb)), kept);
        Ok(())
    }

    /// A transaction ended.
    pub(crate) fn end(&mut self, tid: Tid, commit: bool) {
        for engine in 0..self.waits.len() {
            if let Some(kept) = self.kept.get_mut(&(tid, engine)) {
                kept.committed = true;
                kept.flushed |= !commit;
            }
        }
        self.collect();
    }

    /// `flushOLAPCache` and `flushTSDBCache`: what is committed is written out now.
    pub(crate) fn flush(&mut self, is_tsdb: bool) {
        for ((_, engine), kept) in &mut self.kept {
            if *engine == slot(is_tsdb) && kept.committed {
                kept.flushed = true;
            }
        }
        self.collect();
    }

    /// Removes the logs of what is written out.
    pub(crate) fn collect(&mut self) {
        let waits = self.waits;
        self.kept.retain(|(_, engine), kept| {
            let wait = waits.get(*engine).copied().unwrap_or_default();
            kept.flushed |= kept.committed && kept.written.elapsed() >= wait;
            if kept.flushed {
                drop(fs::remove_file(&kept.path));
            }
            !kept.flushed
        });
    }

    /// What waits, by table.
    pub(crate) fn stats(&self) -> Vec<GcStat> {
        let mut stats: BTreeMap<String, GcStat> = BTreeMap::new();
        for ((tid, _), kept) in &self.kept {
            let stat = stats.entry(kept.table.clone()).or_default();
            stat.table.clone_from(&kept.table);
            if kept.flushed {
                stat.pending_gc.push(*tid);
            } else {
                stat.pending_flush.push(*tid);
            }
        }
        stats.into_values().collect()
    }
}
