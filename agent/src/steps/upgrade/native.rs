//! Native mode: the software replaced by ourselves.

use std::{collections::BTreeSet, path::PathBuf};

use grayfin_types::{Code, step::Step};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        Context, Seen, StepError,
        host::{HostSteps, control, file_error, package_error, place, shown},
        interlock::Lock,
    },
    Checked, Installed,
    operations::{Ground, Operation, Stuck, all_done, apply, take_back},
    plan::{Comparing, Notes, Obstacle},
};
use crate::{
    files::{ManifestError, chain, create_dir_durably, read_manifest, remove_tree, write_manifest},
    packages::{self, Staged, own_folder},
};

/// What the old trees' names begin with.
pub(in crate::steps) const OLD_PREFIX: &str = ".grayfin-old-";

/// The list of operations, in the old tree.
const OPERATIONS: &str = "OPERATIONS.jsonl";

/// The journal's key.
const JOURNAL: &str = "operations";

/// The first line of the list.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Header {
    token: u64,
    sha256: String,
    notes: Notes,
}

/// What the ledger says about the list: it is believed only if its digest is this.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Journalled {
    digest: String,
    count: usize,
}

/// A list that was made durable.
struct List {
    notes: Notes,
    operations: Vec<Operation>,
}

impl HostSteps {
    /// Plans without changing anything: what is in the way is found before anything is stopped.
    pub(in crate::steps) fn try_native(
        &self,
        ctx: &Context,
        staged: &Staged,
    ) -> Result<String, StepError> {
        let change = self.compare(ctx, staged)?;
        Ok(format!("{} operations; {}", change.operations.len(), change.notes.text()))
    }

    pub(super) fn check_native(
        &self,
        ctx: &Context,
        staged: &Staged,
    ) -> Result<Checked, StepError> {
        let Some(list) = self.load(ctx)? else { return Ok(Checked::ToDo) };
        let ground = self.ground(ctx);
        if !all_done(&ground, &list.operations).map_err(|e| stuck(ctx, &e, Code::UpgradeFailed))? {
            return Ok(Checked::ToDo);
        }
        Ok(match self.judge(ctx, staged, &list.notes.kept)? {
            Installed::Whole(_) => Checked::Done,
            Installed::Wrong(_) => Checked::ToDo,
        })
    }

    pub(super) fn run_native(&self, ctx: &Context, staged: &Staged) -> Result<Seen, StepError> {
        let disk = &*self.disk;
        let list = match self.load(ctx)? {
            Some(list) => list,
            None => self.make_list(ctx, staged)?,
        };
        place("step.upgrade.listed");
        let ground = self.ground(ctx);
        let total = list.operations.len() as u64;
        apply(disk, &ground, &list.operations, &mut |number| {
            place("step.upgrade.operation");
            ctx.progress(number as u64, total, "files");
            ctx.check().is_ok()
        })
        .map_err(|e| stuck(ctx, &e, Code::UpgradeFailed))?;
        Ok(format!("{total} operations done; {}", list.notes.text()).into())
    }

    pub(super) fn native_notes(&self, ctx: &Context) -> Result<Notes, StepError> {
        Ok(self.load(ctx)?.map(|list| list.notes).unwrap_or_default())
    }

    /// Tells whether this sequence has made its list of operations.
    pub(super) fn is_listed(&self, ctx: &Context) -> Result<bool, StepError> {
        Ok(self.load(ctx)?.is_some())
    }

    pub(super) fn undo_native(&self, ctx: &Context) -> Result<usize, StepError> {
        // Taken back and removed by a life that ended before it could write that down. The comparison
        // with the backup, which follows, tells whether that is so.
        if !self.old_tree(ctx).join(OPERATIONS).exists() && !self.old_tree_holds_files(ctx)? {
            return Ok(0);
        }
        let Some(list) = self.load(ctx)? else { return Ok(0) };
        let ground = self.ground(ctx);
        take_back(&*self.disk, &ground, &list.operations)
            .map_err(|e| stuck(ctx, &e, Code::UndoFailed))?;
        place("step.upgrade.taken_back");
        Ok(list.operations.len())
    }

    /// Removes an old tree that holds no file any more but the list.
    pub(super) fn drop_empty_old_tree(&self, ctx: &Context) -> Result<(), StepError> {
        let old = self.old_tree(ctx);
        if !old.is_dir() {
            return Ok(());
        }
        if self.old_tree_holds_files(ctx)? {
            let text = format!("{} still holds files of the old software", shown(&old));
            return Err(StepError::new(Code::UndoFailed, text));
        }
        remove_tree(&*self.disk, &old).map_err(|e| file_error(ctx, Code::UndoFailed, &e))
    }

    /// Tells whether the old tree holds more than the list.
    fn old_tree_holds_files(&self, ctx: &Context) -> Result<bool, StepError> {
        let old = self.old_tree(ctx);
        if !old.is_dir() {
            return Ok(false);
        }
        let found = crate::files::walk(&old, &|_| false);
        let found = found.map_err(|e| file_error(ctx, Code::UndoFailed, &e))?;
        Ok(found.iter().any(|f| !f.metadata.is_dir() && f.relative.as_os_str() != OPERATIONS))
    }

    pub(in crate::steps) fn old_tree(&self, ctx: &Context) -> PathBuf {
        let token = ctx.token().to_string();
        own_folder(&ctx.installation().server_dir, OLD_PREFIX, &token)
    }

    fn ground(&self, ctx: &Context) -> Ground {
        let installation = ctx.installation();
        Ground {
            server: installation.server_dir.clone(),
            stage: self.stage_place(ctx),
            old: self.old_tree(ctx),
            executable: installation.executable.clone(),
            held: self.interlock(ctx).held,
        }
    }

    /// Reads the list that the ledger knows; none if there is none yet.
    fn load(&self, ctx: &Context) -> Result<Option<List>, StepError> {
        let lines: Vec<Journalled> = ctx.journalled(Step::Upgrade, JOURNAL)?;
        let Some(line) = lines.last() else { return Ok(None) };
        let path = self.old_tree(ctx).join(OPERATIONS);
        let bad = |why: String| {
            let text = format!("the list of operations {} is not usable: {why}", shown(&path));
            StepError::new(Code::UpgradeFailed, text)
        };
        let (header, operations, digest) = read_manifest::<Header, Operation>(&*self.disk, &path)
            .map_err(|e: ManifestError| bad(chain(&e)))?;
        if digest != line.digest || operations.len() != line.count {
            return Err(bad("it is not the one that the ledger knows".to_owned()));
        }
        Ok(Some(List { notes: header.notes, operations }))
    }

    /// Makes the list durable, and then known to the ledger; nothing was moved before that.
    fn make_list(&self, ctx: &Context, staged: &Staged) -> Result<List, StepError> {
        let disk = &*self.disk;
        let failed = |e: &crate::files::Error| file_error(ctx, Code::UpgradeFailed, e);
        self.drop_empty_old_tree(ctx)?;
        let change = self.compare(ctx, staged)?;
        let old = self.old_tree(ctx);
        create_dir_durably(disk, &old, 0o755).map_err(|e| failed(&e))?;
        let header = Header {
            token: ctx.token().0,
            sha256: staged.sha256.clone(),
            notes: change.notes.clone(),
        };
        let digest = write_manifest(disk, &old.join(OPERATIONS), &header, &change.operations)
            .map_err(|e| failed(&e))?;
        let count = change.operations.len();
        ctx.journal(JOURNAL, &Journalled { digest, count })?;
        Ok(List { notes: change.notes, operations: change.operations })
    }

    fn compare(&self, ctx: &Context, staged: &Staged) -> Result<super::plan::Change, StepError> {
        let installation = ctx.installation();
        let ground = self.ground(ctx);
        let lock = self.interlock(ctx);
        let executable = if lock.look() == Lock::On { &lock.held } else { &lock.open };
        let old_names = self.old_names(ctx)?;
        let comparing = Comparing {
            disk: &*self.disk,
            control: &control(ctx),
            ground: &ground,
            executable,
            entries: &staged.entries,
            old_names: old_names.as_ref(),
            work_dir: &installation.work_dir,
        };
        comparing.change().map_err(|e| match &e {
            Obstacle::Files(e) => file_error(ctx, Code::UpgradeFailed, e),
            Obstacle::InTheWay { .. } => StepError::new(Code::UpgradeFailed, e.to_string()),
        })
    }

    /// The names in the package of the installed version, if it is in the package folder.
    fn old_names(&self, ctx: &Context) -> Result<Option<BTreeSet<PathBuf>>, StepError> {
        let Some(from) = &ctx.host_plan().from else { return Ok(None) };
        let Ok(file) = packages::find(&ctx.installation().package_dir, from) else {
            return Ok(None);
        };
        // A damaged old package only means that less is known.
        match packages::list_names(&*self.disk, &file.path) {
            Ok(names) => Ok(Some(names)),
            Err(packages::Error::Files(e)) => Err(package_error(ctx, &packages::Error::Files(e))),
            Err(
                packages::Error::Missing { .. }
                | packages::Error::Corrupt { .. }
                | packages::Error::WrongVersion { .. }
                | packages::Error::Differs { .. },
            ) => Ok(None),
        }
    }
}

pub(super) fn stuck(ctx: &Context, error: &Stuck, code: Code) -> StepError {
    match error {
        Stuck::Files(e) => file_error(ctx, code, e),
        Stuck::Stopped => ctx
            .check()
            .err()
            .unwrap_or_else(|| StepError::new(Code::Internal, "stopped though nobody asked")),
        Stuck::Conflict(_) | Stuck::BadPath(_) => StepError::new(code, error.to_string()),
    }
}
