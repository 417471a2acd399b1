//! The interlock: while nothing may run, the executable is not where anybody would start it.
//!
//! It is moved into a folder `.grayfin-held` in the installation, with a note for people. That keeps a
//! reboot, systemd, cron and a colleague from starting an old or half-copied tree, without a daemon
//! of ours having to run. It is one rename, so it is on or off after any crash, and what is on disk
//! says which.

use std::path::{Path, PathBuf};

use grayfin_types::Code;

use super::StepError;
use crate::{
    backup::HELD,
    config::Installation,
    files::{Disk, chain, remove_tree, rename_durably},
};

const NOTE_NAME: &str = "README";

const NOTE: &str = "\
The executable of this installation is kept in this folder while Grayfin replaces the software, so
that nothing can start an old or half-copied version. Grayfin puts it back by itself.

Do not move it back while a rollout holds this host: `grayfin hold show` and `grayfin explain` say
where it stands and what to do.
";

/// The interlock of one installation.
#[derive(Debug, Clone)]
pub(super) struct Interlock {
    /// Where the executable belongs.
    pub(super) open: PathBuf,
    /// Where it is while the interlock is on.
    pub(super) held: PathBuf,
}

/// Where the executable is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    /// Where it belongs.
    Off,
    /// Held.
    On,
    /// In both places: somebody put one back.
    Both,
    /// In neither.
    Neither,
}

impl Interlock {
    pub(super) fn of(installation: &Installation) -> Self {
        let server = &installation.server_dir;
        Self {
            open: server.join(&installation.executable),
            held: server.join(HELD).join(&installation.executable),
        }
    }

    /// Looks where the executable is.
    pub(super) fn look(&self) -> Lock {
        let there = |path: &Path| path.symlink_metadata().is_ok();
        match (there(&self.open), there(&self.held)) {
            (true, false) => Lock::Off,
            (false, true) => Lock::On,
            (true, true) => Lock::Both,
            (false, false) => Lock::Neither,
        }
    }

    /// Turns it on; on already is fine.
    pub(super) fn turn_on(&self, disk: &dyn Disk) -> Result<(), StepError> {
        match self.look() {
            Lock::On => return Ok(()),
            Lock::Off => {}
            Lock::Both => return Err(self.both()),
            Lock::Neither => return Err(self.neither()),
        }
        let folder = self.folder();
        let failed = |e: crate::files::Error| {
            let code = if e.is_no_space() { Code::DiskTooSmall } else { Code::BackupIncomplete };
            StepError::new(code, format!("turn the interlock on: {}", chain(&e)))
        };
        if !folder.is_dir() {
            disk.create_dir(folder, 0o755)
                .map_err(crate::files::Error::at("create the folder", folder))
                .map_err(failed)?;
        }
        // The note need not survive a power loss; the rename makes the folder durable with itself.
        drop(std::fs::write(folder.join(NOTE_NAME), NOTE));
        rename_durably(disk, &self.open, &self.held).map_err(failed)
    }

    /// Turns it off; off already is fine.
    pub(super) fn turn_off(&self, disk: &dyn Disk) -> Result<(), StepError> {
        let failed = |e: crate::files::Error| {
            StepError::new(Code::UndoFailed, format!("turn the interlock off: {}", chain(&e)))
        };
        match self.look() {
            Lock::Off => {}
            Lock::On => rename_durably(disk, &self.held, &self.open).map_err(failed)?,
            Lock::Both => return Err(self.both()),
            Lock::Neither => return Err(self.neither()),
        }
        remove_tree(disk, self.folder()).map_err(failed)
    }

    fn folder(&self) -> &Path {
        self.held.parent().unwrap_or(&self.held)
    }

    fn both(&self) -> StepError {
        let (open, held) = (self.open.display(), self.held.display());
        StepError::new(
            Code::ProcessAppeared,
            format!(
                "the executable is held in `{held}`, but somebody put one at `{open}`: move that one away"
            ),
        )
    }

    fn neither(&self) -> StepError {
        let open = self.open.display();
        StepError::new(Code::UpgradeFailed, format!("there is no executable at `{open}`"))
    }
}
