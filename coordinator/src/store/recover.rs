//! What is done to the files of a stopped coordinator: backup, restore, and going on alone.
//!
//! A restored state, and that of the one that is left of a group, begin a new log as a group of one.
//! Their incarnation is raised by an operator's signed act (S2); what else makes an older state safe
//! is in [`apply::put_back`].

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use grayfin_coordinator_core::{
    apply,
    state::{Act, GroupAct},
};
use grayfin_types::{
    Incarnation,
    raise::{Raise, SignedRaise},
};
use rusqlite::{Connection, OpenFlags, backup::Backup};

use super::{Error, FILE_NAME, LogStore, Machine, chain::sha256_hex, file::File, mark};

/// Pages that are copied at once while the coordinator works on.
const PAGES: i32 = 512;

/// Between two portions.
const PAUSE: Duration = Duration::from_millis(2);

/// The files of a coordinator that does not run, with the whole log applied.
#[derive(Debug)]
pub struct Stopped {
    dir: PathBuf,
    machine: Machine,
}

impl Stopped {
    /// Opens the folder of a coordinator that does not run. Everything in it is checked.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let file = Arc::new(File::open(dir)?);
        let machine = Machine::load(Arc::clone(&file))?;
        let log = LogStore::open(dir, file, machine.clone())?;
        // Also what is not known to be committed: it may have been acknowledged by others.
        machine.replay(log.entries_after(machine.applied())?)?;
        Ok(Self { dir: dir.to_owned(), machine })
    }

    /// Returns the group's random id.
    pub fn group(&self) -> String {
        self.machine.state().group.clone()
    }

    /// Returns the incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.machine.state().incarnation
    }

    /// Returns the ids of the group's members.
    pub fn members(&self) -> Vec<u64> {
        self.machine.members()
    }

    /// Begins a new log with this state, as a group of one that coordinator `own` forms at its next
    /// start.
    pub fn go_on_alone(
        self,
        own: u64,
        act: GroupAct,
        raise: &Raise,
        signed: SignedRaise,
        by: &str,
    ) -> Result<(), Error> {
        // It speaks of the log that ends here.
        mark::remove(&self.dir)?;
        let others: Vec<u64> = self.members().into_iter().filter(|id| *id != own).collect();
        let why = format!("{by} did `{act}` to the coordinators: {}", raise.reason);
        self.machine.begin_anew(|state| {
            let group = &mut state.coordinators;
            group.removed.extend(others);
            group.removed.remove(&own);
            group.raise = Some(signed);
            group.record(Act {
                at_ms: raise.at_ms,
                by: by.to_owned(),
                what: act,
                id: own,
                address: String::new(),
                reason: raise.reason.clone(),
            });
            apply::put_back(state, raise.to, &why, raise.at_ms, &sha256_hex)
        })
    }
}

/// Copies the state of a coordinator, which may run meanwhile, into one file and proves the copy.
pub fn backup(state_dir: &Path, target: &Path) -> Result<Backed, Error> {
    let folder = |source| Error::Folder { folder: target.to_owned(), source };
    if target.exists() {
        return Err(folder(std::io::ErrorKind::AlreadyExists.into()));
    }
    let from = state_dir.join(FILE_NAME);
    let sql = |file: &Path| {
        let file = file.to_owned();
        move |source| Error::Sql { file, source }
    };
    let source =
        Connection::open_with_flags(&from, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(sql(&from))?;
    let mut name = target.as_os_str().to_owned();
    name.push(".part");
    let scratch = PathBuf::from(name);
    fs::DirBuilder::new().mode(0o700).create(&scratch).map_err(folder)?;
    let copy = scratch.join(FILE_NAME);
    let made = (|| {
        let mut to = Connection::open(&copy).map_err(sql(&copy))?;
        Backup::new(&source, &mut to)
            .and_then(|run| run.run_to_completion(PAGES, PAUSE, None))
            .map_err(sql(&copy))?;
        drop(to);
        let stopped = Stopped::open(&scratch)?;
        let backed = Backed { group: stopped.group(), incarnation: stopped.incarnation() };
        stopped.machine.flush()?;
        drop(stopped);
        fs::File::open(&copy).and_then(|file| file.sync_all()).map_err(folder)?;
        fs::rename(&copy, target).map_err(folder)?;
        Ok(backed)
    })();
    fs::remove_dir_all(&scratch).map_err(folder)?;
    made
}

/// What was backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backed {
    /// The group's random id.
    pub group: String,
    /// Its incarnation.
    pub incarnation: Incarnation,
}

/// Puts a backup into a state folder that has no state yet.
pub fn put_back(file: &Path, state_dir: &Path) -> Result<(), Error> {
    let folder = |source| Error::Folder { folder: state_dir.to_owned(), source };
    let to = state_dir.join(FILE_NAME);
    if to.exists() {
        return Err(folder(std::io::Error::new(
            std::io::ErrorKind::AlreadyExists,
            "it has a state: move the folder away first, and keep it",
        )));
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(folder)?;
    mark::remove(state_dir)?;
    let copied = fs::copy(file, &to)
        .and_then(|_| fs::File::open(&to))
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::File::open(state_dir))
        .and_then(|dir| dir.sync_all());
    copied.map_err(|source| Error::Folder { folder: file.to_owned(), source })
}
