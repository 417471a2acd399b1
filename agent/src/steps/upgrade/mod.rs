//! Step `upgrade`: the software is replaced while nothing runs, and judged by what is on disk.

use std::os::unix::fs::MetadataExt;

use grayfin_types::{Code, plan::UpgradeMode};

use super::{
    Context, Precheck, Seen, StepError,
    host::{HostSteps, backup_error, control, file_error, shown},
    interlock::Lock,
};
use crate::{
    backup::{Backup, Part},
    files::{Comparison, Entry, encode_path},
    packages::Staged,
};

mod native;
mod operations;
mod plan;
mod script;

pub(super) use native::OLD_PREFIX;

/// Differences named in a message; the rest is counted.
const SHOWN_MAX: usize = 3;

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checked {
    Done,
    ToDo,
}

/// What is installed, compared with the package.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Installed {
    /// All of it is the package's.
    Whole(String),
    /// Something is not.
    Wrong(String),
}

impl HostSteps {
    pub(super) async fn check_upgrade(&self, ctx: &Context) -> Result<Precheck, StepError> {
        let this = self.clone();
        ctx.blocking(move |ctx| {
            this.nothing_runs(ctx)?;
            let staged = this.staged_for_upgrade(ctx)?;
            let checked = match ctx.plan().mode {
                UpgradeMode::Native => this.check_native(ctx, &staged)?,
                UpgradeMode::Script => this.check_script(ctx, &staged)?,
            };
            Ok(match checked {
                Checked::Done => Precheck::AlreadyDone("the new software is in place".into()),
                Checked::ToDo => Precheck::Ready,
            })
        })
        .await
    }

    pub(super) async fn upgrade(&self, ctx: &Context) -> Result<Seen, StepError> {
        self.nothing_runs(ctx)?;
        if !self.is_locked(ctx)? {
            let text = "the interlock is not on: the backup has to be taken again";
            return Err(StepError::new(Code::UpgradeFailed, text));
        }
        match ctx.plan().mode {
            UpgradeMode::Native => {
                let this = self.clone();
                ctx.blocking(move |ctx| {
                    let staged = this.staged_for_upgrade(ctx)?;
                    this.run_native(ctx, &staged)
                })
                .await
            }
            UpgradeMode::Script => self.run_script(ctx).await,
        }
    }

    pub(super) async fn verify_upgrade(&self, ctx: &Context) -> Result<Seen, StepError> {
        let this = self.clone();
        ctx.blocking(move |ctx| {
            this.nothing_runs(ctx)?;
            let staged = this.staged_for_upgrade(ctx)?;
            let kept = match ctx.plan().mode {
                UpgradeMode::Native => this.native_notes(ctx)?.kept,
                UpgradeMode::Script => Vec::new(),
            };
            match this.judge(ctx, &staged, &kept)? {
                Installed::Whole(seen) => Ok(seen.into()),
                Installed::Wrong(why) => Err(StepError::new(Code::UpgradeFailed, why)),
            }
        })
        .await
    }

    pub(super) async fn undo_upgrade(&self, ctx: &Context) -> Result<Seen, StepError> {
        let this = self.clone();
        ctx.blocking(move |ctx| {
            this.nothing_runs(ctx)?;
            let done = match ctx.plan().mode {
                UpgradeMode::Native => {
                    let count = this.undo_native(ctx)?;
                    this.drop_empty_old_tree(ctx)?;
                    format!("{count} operations taken back")
                }
                UpgradeMode::Script => this.undo_script(ctx)?,
            };
            this.prove_undone(ctx)?;
            Ok(format!("{done}; software and metadata equal the backup").into())
        })
        .await
    }

    /// Tells whether nothing can be started: the executable is held, or it is in neither place
    /// because a replacement was interrupted between taking the old one away and bringing the new
    /// one.
    fn is_locked(&self, ctx: &Context) -> Result<bool, StepError> {
        Ok(match self.interlock(ctx).look() {
            Lock::On => true,
            Lock::Neither => ctx.plan().mode == UpgradeMode::Native && self.is_listed(ctx)?,
            Lock::Off | Lock::Both => false,
        })
    }

    fn staged_for_upgrade(&self, ctx: &Context) -> Result<Staged, StepError> {
        self.staged(ctx)?.ok_or_else(|| {
            let place = self.stage_place(ctx);
            let text = format!("the unpacked package {} is not there any more", shown(&place));
            StepError::new(Code::PackageMissing, text)
        })
    }

    /// Compares what is installed with the package, by hash.
    fn judge(
        &self,
        ctx: &Context,
        staged: &Staged,
        kept: &[String],
    ) -> Result<Installed, StepError> {
        let installation = ctx.installation();
        let lock = self.interlock(ctx);
        let executable = if lock.look() == Lock::On { lock.held } else { lock.open };
        let expected = plan::expected(&staged.entries, &installation.executable, kept);
        let (mut binary, mut others) = (Vec::new(), Vec::new());
        for (path, entry) in expected {
            if path.as_os_str() == installation.executable.as_str() {
                binary.push(Entry { path: String::new(), ..entry });
            } else {
                others.push(Entry { path: encode_path(&path), ..entry });
            }
        }
        let control = control(ctx);
        let comparison = Comparison { attributes: false, ..Comparison::new(&*self.disk, &control) };
        let failed = |e| file_error(ctx, Code::UpgradeFailed, &e);
        let compared = comparison.run(&installation.server_dir, &others).map_err(failed)?;
        let one = comparison.run(&executable, &binary).map_err(failed)?;
        let mut wrong: Vec<String> =
            compared.differences.iter().chain(&one.differences).map(ToString::to_string).collect();
        let mode = std::fs::metadata(&executable).map_or(0, |m| m.mode());
        if mode & 0o100 == 0 {
            wrong.push(format!("{} is not executable", shown(&executable)));
        }
        if wrong.is_empty() {
            let files = compared.files + one.files;
            return Ok(Installed::Whole(format!("{files} files equal the package")));
        }
        let more = wrong.len().saturating_sub(SHOWN_MAX);
        wrong.truncate(SHOWN_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Ok(Installed::Wrong(format!("not as in the package: {}{more}", wrong.join("; "))))
    }

    /// After an undo: software as in the backup, and no metadata has changed (S12).
    fn prove_undone(&self, ctx: &Context) -> Result<(), StepError> {
        let Some(backup) = self.own_backup(ctx)? else {
            let text = "there is no good backup of this sequence to compare with";
            return Err(StepError::new(Code::UndoFailed, text));
        };
        self.same_as(ctx, &backup, &|part| !part.is_metadata(), Code::UndoFailed)?;
        self.same_as(ctx, &backup, &Part::is_metadata, Code::UndoImpossible)
    }

    /// Fails with `code` if parts on the host differ from the backup.
    pub(super) fn same_as(
        &self,
        ctx: &Context,
        backup: &Backup,
        wanted: &dyn Fn(&Part) -> bool,
        code: Code,
    ) -> Result<(), StepError> {
        let lock = self.interlock(ctx);
        let moved = if lock.look() == Lock::On {
            vec![("executable".to_owned(), lock.held)]
        } else {
            Vec::new()
        };
        let differences = backup
            .compare_sources(&*self.disk, &control(ctx), wanted, &moved)
            .map_err(|e| backup_error(ctx, &e))?;
        let Some(first) = differences.first() else { return Ok(()) };
        let text = format!(
            "{} things differ from the backup `{}`, the first is {first}",
            differences.len(),
            backup.header.name
        );
        Err(StepError::new(code, text))
    }
}

#[cfg(test)]
mod tests;
