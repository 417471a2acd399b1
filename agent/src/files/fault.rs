//! A disk that fails on demand, for tests: full, broken, or gone together with its power.
//!
//! It works on real folders. Every operation that changes something has a number; one of them can
//! be made to fail, or the machine can be made to "crash" there, after which nothing works any
//! more. [`FaultyDisk::lose_power`] then takes back every change of a name that was not made
//! durable and empties every file whose bytes were not: what an unlucky file system may do.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Attributes, Disk, Owners, RealDisk, Space};

/// Numbers the disks of this process.
static BORN: AtomicU64 = AtomicU64::new(0);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The changing operation of this number, from 0, fails once, half done where it can be.
    At(u64, io::ErrorKind),
    /// From this changing operation on, nothing works any more.
    Crash(u64),
    /// The disk is full after this many bytes.
    Full(u64),
    /// The read of this number fails.
    Read(u64),
}

/// A disk with a fault.
#[derive(Debug)]
pub struct FaultyDisk {
    /// Where replaced and removed files wait, on the same file system.
    trash: PathBuf,
    /// Its own number, so that several can share a trash.
    born: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    fault: Fault,
    operations: u64,
    reads: u64,
    written: u64,
    crashed: bool,
    trashed: u64,
    pending: Vec<Pending>,
    /// Files with bytes that are not durable.
    dirty: BTreeSet<PathBuf>,
}

/// A change of names that is not durable yet.
#[derive(Debug)]
struct Pending {
    undo: Undo,
    /// The folders that must be synced before it is durable.
    folders: BTreeSet<PathBuf>,
}

#[derive(Debug)]
enum Undo {
    RemoveFile(PathBuf),
    RemoveDir(PathBuf),
    CreateDir(PathBuf),
    /// Rename back, and restore what was replaced.
    Rename {
        from: PathBuf,
        to: PathBuf,
        replaced: Option<PathBuf>,
    },
    Restore {
        path: PathBuf,
        kept: PathBuf,
    },
}

impl FaultyDisk {
    /// Makes one; `trash` must be an existing folder on the same file system, apart from the trees
    /// under test.
    pub fn new(trash: &Path, fault: Fault) -> Self {
        let state = State { fault, ..State::default() };
        let born = BORN.fetch_add(1, Ordering::Relaxed);
        Self { trash: trash.to_path_buf(), born, state: Mutex::new(state) }
    }

    /// Returns the number of changing operations so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Tells whether a crash happened.
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// Takes back what was not durable. Afterwards the disk works again, without a fault.
    pub fn lose_power(&self) -> io::Result<()> {
        let mut state = self.state();
        for path in std::mem::take(&mut state.dirty) {
            if path.exists() {
                File::options().write(true).open(&path)?.set_len(0)?;
            }
        }
        while let Some(pending) = state.pending.pop() {
            match pending.undo {
                Undo::RemoveFile(path) => fs::remove_file(path)?,
                Undo::RemoveDir(path) => fs::remove_dir_all(path)?,
                Undo::CreateDir(path) => fs::create_dir(path)?,
                Undo::Rename { from, to, replaced } => {
                    fs::rename(&to, &from)?;
                    if let Some(kept) = replaced {
                        fs::rename(kept, &to)?;
                    }
                }
                Undo::Restore { path, kept } => fs::rename(kept, path)?,
            }
        }
        state.crashed = false;
        state.fault = Fault::None;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation that changes something and decides whether it may happen.
    fn change(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        let number = state.operations;
        state.operations += 1;
        if matches!(state.fault, Fault::Crash(at) if number >= at) {
            state.crashed = true;
        }
        if state.crashed {
            return Err(io::Error::other("the machine is off"));
        }
        match state.fault {
            Fault::At(at, kind) if at == number => Err(kind.into()),
            Fault::At(..) | Fault::None | Fault::Crash(_) | Fault::Full(_) | Fault::Read(_) => {
                Ok(state)
            }
        }
    }

    /// Keeps a file's inode under another name and returns that name.
    fn keep(&self, state: &mut State, path: &Path) -> io::Result<PathBuf> {
        let kept = self.trash.join(format!("{}-{}", self.born, state.trashed));
        state.trashed += 1;
        fs::hard_link(path, &kept)?;
        Ok(kept)
    }
}

impl State {
    fn pend(&mut self, undo: Undo, names: &[&Path]) {
        let folders = names.iter().filter_map(|p| p.parent()).map(Path::to_path_buf).collect();
        self.pending.push(Pending { undo, folders });
    }

    fn settle(&mut self, is_synced: impl Fn(&Path) -> bool) {
        for pending in &mut self.pending {
            pending.folders.retain(|folder| !is_synced(folder));
        }
        self.pending.retain(|pending| !pending.folders.is_empty());
    }

    fn moved(&mut self, from: &Path, to: &Path) {
        let moved: Vec<PathBuf> =
            self.dirty.iter().filter(|p| p.starts_with(from)).cloned().collect();
        for path in moved {
            self.dirty.remove(&path);
            if let Ok(rest) = path.strip_prefix(from) {
                let new = if rest.as_os_str().is_empty() { to.into() } else { to.join(rest) };
                self.dirty.insert(new);
            }
        }
    }
}

impl Disk for FaultyDisk {
    fn open_read(&self, path: &Path) -> io::Result<File> {
        RealDisk.open_read(path)
    }

    fn read(&self, file: &File, path: &Path, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        let number = state.reads;
        state.reads += 1;
        if state.fault == Fault::Read(number) {
            return Err(io::Error::other("input/output error"));
        }
        drop(state);
        RealDisk.read(file, path, buffer)
    }

    fn create_file(&self, path: &Path, mode: u32) -> io::Result<File> {
        let mut state = self.change()?;
        let file = RealDisk.create_file(path, mode)?;
        state.pend(Undo::RemoveFile(path.into()), &[path]);
        Ok(file)
    }

    fn write_all(&self, file: &File, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let half = bytes.get(..bytes.len() / 2).unwrap_or_default();
        match self.change() {
            Ok(mut state) => {
                state.dirty.insert(path.into());
                state.written += bytes.len() as u64;
                let full = matches!(state.fault, Fault::Full(limit) if state.written > limit);
                if full {
                    RealDisk.write_all(file, path, half)?;
                    return Err(io::ErrorKind::StorageFull.into());
                }
                RealDisk.write_all(file, path, bytes)
            }
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                self.state().dirty.insert(path.into());
                RealDisk.write_all(file, path, half)?;
                Err(e)
            }
            Err(e) => Err(e),
        }
    }

    fn set_len(&self, file: &File, path: &Path, length: u64) -> io::Result<()> {
        let mut state = self.change()?;
        state.dirty.insert(path.into());
        RealDisk.set_len(file, path, length)
    }

    fn sync_file(&self, _: &File, path: &Path) -> io::Result<()> {
        self.change()?.dirty.remove(path);
        Ok(())
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        let mut state = self.change()?;
        RealDisk.create_dir(path, mode)?;
        state.pend(Undo::RemoveDir(path.into()), &[path]);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.change()?.settle(|folder| folder == path);
        Ok(())
    }

    fn sync_volume(&self, _: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        state.settle(|_| true);
        state.dirty.clear();
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        RealDisk.rename(from, to)?;
        state.moved(from, to);
        let undo = Undo::Rename { from: from.into(), to: to.into(), replaced: None };
        state.pend(undo, &[from, to]);
        Ok(())
    }

    fn rename_over(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        let replaced = if to.exists() { Some(self.keep(&mut state, to)?) } else { None };
        RealDisk.rename_over(from, to)?;
        state.moved(from, to);
        state.pend(Undo::Rename { from: from.into(), to: to.into(), replaced }, &[from, to]);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        let kept = self.keep(&mut state, path)?;
        RealDisk.remove_file(path)?;
        state.dirty.remove(path);
        state.pend(Undo::Restore { path: path.into(), kept }, &[path]);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        RealDisk.remove_dir(path)?;
        // What happened in a folder that is gone for good is settled with the folder.
        let above = path.parent().unwrap_or(path);
        for pending in &mut state.pending {
            if pending.folders.remove(path) {
                pending.folders.insert(above.into());
            }
        }
        state.pend(Undo::CreateDir(path.into()), &[path]);
        Ok(())
    }

    fn symlink(&self, target: &Path, path: &Path) -> io::Result<()> {
        let mut state = self.change()?;
        RealDisk.symlink(target, path)?;
        state.pend(Undo::RemoveFile(path.into()), &[path]);
        Ok(())
    }

    fn set_attributes(&self, path: &Path, to: &Attributes, owners: Owners) -> io::Result<()> {
        drop(self.change()?);
        RealDisk.set_attributes(path, to, owners)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let mut space = RealDisk.space(path)?;
        let state = self.state();
        if let Fault::Full(limit) = state.fault {
            space.free_bytes = limit.saturating_sub(state.written);
        }
        Ok(space)
    }
}
