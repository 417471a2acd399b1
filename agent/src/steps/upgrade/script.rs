//! Script mode: the site's own upgrade script, driven through all its traps.
//!
//! The vendor's script asks three questions, needs bash and a terminal type, says success while nodes
//! run, exits 0 on several failures, deletes the package, and leaves a new executable without its
//! executable bit. So it gets a copy of the package, its answers and a `TERM`; it runs under a
//! supervisor with a limit; and whatever it says, the disk decides.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use grayfin_types::{Code, step::Step};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        Context, Seen, StepError,
        host::{HostSteps, control, file_error, place, process_error, shown},
        interlock::Lock,
    },
    Checked, Installed,
    plan::expected,
};
use crate::{
    backup::Backup,
    files::{
        Attributes, Copier, Entry, Kind, Owners, chain, encode_path, remove_tree, rename_durably,
    },
    packages::{self, BINARY, Staged},
    process::{Owner, how::account_environment, launch::Program},
};

/// The word that the script ends with when it thinks that it went well.
const SUCCESS: &str = "UpgradeSuccess";

/// The journal's key.
const JOURNAL: &str = "script";

/// What is left of the step's limit for judging and cleaning up behind the script.
const MARGIN: Duration = Duration::from_secs(20);

/// How much of what a script said is put into an error.
const SAID_MAX: usize = 1500;

/// The journal's line: what was in the work folder before.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Begun {
    /// The package was there already.
    package_was_there: bool,
}

impl HostSteps {
    pub(super) fn check_script(
        &self,
        ctx: &Context,
        staged: &Staged,
    ) -> Result<Checked, StepError> {
        let installation = ctx.installation();
        let refused = |text: String| Err(StepError::new(Code::ScriptFailed, text));
        if installation.executable != BINARY {
            return refused(format!(
                "the executable is called `{}`, but the upgrade script replaces `{BINARY}`: use native mode",
                installation.executable
            ));
        }
        if self.script_dir(ctx).parent() != Some(&installation.server_dir) {
            return refused(format!(
                "{} does not lie in a folder directly below {}: it would replace something else",
                shown(&installation.upgrade_script),
                shown(&installation.server_dir)
            ));
        }
        if !installation.upgrade_script.is_file() {
            return refused(format!("{} is not there", shown(&installation.upgrade_script)));
        }
        let begun: Vec<Begun> = ctx.journalled(Step::Upgrade, JOURNAL)?;
        let done = !begun.is_empty()
            && self.interlock(ctx).look() == Lock::On
            && matches!(self.judge(ctx, staged, &[])?, Installed::Whole(_));
        Ok(if done { Checked::Done } else { Checked::ToDo })
    }

    pub(super) async fn run_script(&self, ctx: &Context) -> Result<Seen, StepError> {
        let this = self.clone();
        let program = ctx.blocking(move |ctx| this.prepare_script(ctx)).await?;
        let answers = format!("y\n2\n{}\n", ctx.plan().target);
        // The policy's limit is the script's own; the step's is longer, for what surrounds it.
        let own = Duration::from_millis(ctx.plan().policy.upgrade_timeout_ms);
        let limit = ctx.remaining().saturating_sub(MARGIN).min(own).max(Duration::from_secs(1));
        let helper = self.helper(ctx);
        let outcome = ctx.until(helper.run(&program, &answers, limit)).await?;
        let outcome = outcome.map_err(|e| process_error(&e, "drive the upgrade script"))?;
        place("step.upgrade.script_ran");
        self.nothing_runs(ctx)?;
        let said = tail(&outcome.output);
        if !outcome.succeeded() {
            let text = format!("the upgrade script ended with {}: {said}", outcome.status);
            return Err(StepError::new(Code::ScriptFailed, text));
        }
        if !outcome.output.contains(SUCCESS) {
            let text = format!("the upgrade script ended without `{SUCCESS}`: {said}");
            return Err(StepError::new(Code::ScriptFailed, text));
        }
        let this = self.clone();
        ctx.blocking(move |ctx| this.take_over(ctx)).await?;
        Ok("the upgrade script ended well".into())
    }

    /// Removes what an earlier run left and puts a copy of the package beside the script.
    fn prepare_script(&self, ctx: &Context) -> Result<Program, StepError> {
        let disk = &*self.disk;
        let installation = ctx.installation();
        let folder = self.script_dir(ctx);
        let failed = |e: &crate::files::Error| file_error(ctx, Code::UpgradeFailed, e);
        // With leftovers the script's unzip would ask a question that nobody sees.
        remove_tree(disk, &self.unpacked(ctx)).map_err(|e| failed(&e))?;
        let lock = self.interlock(ctx);
        if lock.look() == Lock::Both {
            // An earlier run that broke off had copied its executable already.
            disk.remove_file(&lock.open)
                .map_err(|e| failed(&crate::files::Error::at("remove", &lock.open)(e)))?;
        }
        let owner = Owner::of_file(&lock.held)
            .map_err(|e| process_error(&e, "find the installation's owner"))?;
        let package = packages::find(&installation.package_dir, &ctx.plan().target)
            .map_err(|e| StepError::new(e.code(), chain(&e)))?;
        let target = folder.join(&ctx.plan().package.file);
        let there = target.symlink_metadata().is_ok();
        if ctx.journalled::<Begun>(Step::Upgrade, JOURNAL)?.is_empty() {
            ctx.journal(JOURNAL, &Begun { package_was_there: there })?;
        }
        if there {
            disk.remove_file(&target)
                .map_err(|e| failed(&crate::files::Error::at("remove", &target)(e)))?;
        }
        let attributes =
            Attributes { mode: 0o644, uid: owner.uid, gid: owner.gid, ..Attributes::default() };
        let control = control(ctx);
        let digest = Copier::new(disk, &control)
            .copy_one(&package.path, &target, &attributes)
            .map_err(|e| failed(&e))?;
        if !digest.eq_ignore_ascii_case(&ctx.plan().package.sha256) {
            let text = format!("{} is not the plan's package any more", shown(&package.path));
            return Err(StepError::new(Code::PackageDiffers, text));
        }
        let script = installation.upgrade_script.file_name().unwrap_or_default();
        let words = ["bash".to_owned(), script.to_string_lossy().into_owned()];
        let mut program = Program::new(&words, &folder)
            .with("PATH", &installation.path)
            .with("TERM", "xterm")
            .with("LC_ALL", "C");
        program.umask = Some(0o022);
        let uid = owner.uid;
        program.owner = Some(owner);
        Ok(account_environment(program, uid))
    }

    /// The script has put the new executable where the old one was: takes it into the interlock, as
    /// the old one was, and the old one into the old tree.
    fn take_over(&self, ctx: &Context) -> Result<(), StepError> {
        let disk = &*self.disk;
        let lock = self.interlock(ctx);
        let failed = |e: &crate::files::Error| file_error(ctx, Code::UpgradeFailed, e);
        if lock.look() != Lock::Both {
            let text = format!(
                "the upgrade script said `{SUCCESS}`, but there is no new {}",
                shown(&lock.open)
            );
            return Err(StepError::new(Code::ScriptFailed, text));
        }
        let old = fs::symlink_metadata(&lock.held)
            .map_err(crate::files::Error::at("look at", &lock.held))
            .map_err(|e| failed(&e))?;
        let attributes = Attributes::read(&lock.held, &old)
            .map_err(crate::files::Error::at("read the attributes of", &lock.held))
            .map_err(|e| failed(&e))?;
        // `cp` gives a new file the zip's mode, which has no executable bit.
        let new = fs::symlink_metadata(&lock.open)
            .map_err(crate::files::Error::at("look at", &lock.open))
            .map_err(|e| failed(&e))?;
        let mtime_ns = crate::files::modified_ns(&new);
        let attributes = Attributes { mode: attributes.mode | 0o111, mtime_ns, ..attributes };
        let set = disk.set_attributes(&lock.open, &attributes, Owners::WhereAllowed);
        set.map_err(crate::files::Error::at("set owner and mode of", &lock.open))
            .map_err(|e| failed(&e))?;
        let kept = self.old_tree(ctx);
        crate::files::create_dir_durably(disk, &kept, 0o755).map_err(|e| failed(&e))?;
        rename_durably(disk, &lock.held, &kept.join(BINARY)).map_err(|e| failed(&e))?;
        rename_durably(disk, &lock.open, &lock.held).map_err(|e| failed(&e))
    }

    /// Puts the software back from the backup.
    pub(super) fn undo_script(&self, ctx: &Context) -> Result<String, StepError> {
        let disk = &*self.disk;
        let failed = |e: &crate::files::Error| file_error(ctx, Code::UndoFailed, e);
        let begun: Vec<Begun> = ctx.journalled(Step::Upgrade, JOURNAL)?;
        let Some(begun) = begun.first() else {
            return Ok("the script was never run".to_owned());
        };
        let Some(backup) = self.own_backup(ctx)? else {
            let text = "there is no good backup of this sequence to restore the software from";
            return Err(StepError::new(Code::UndoFailed, text));
        };
        self.bring_back_executable(ctx)?;
        let restored = self.restore_software(ctx, &backup)?;
        let removed = self.remove_new_files(ctx, &backup)?;
        remove_tree(disk, &self.unpacked(ctx)).map_err(|e| failed(&e))?;
        let copy = self.script_dir(ctx).join(&ctx.plan().package.file);
        if !begun.package_was_there {
            remove_tree(disk, &copy).map_err(|e| failed(&e))?;
        }
        self.drop_empty_old_tree(ctx)?;
        Ok(format!("{restored} files restored from the backup, {removed} removed"))
    }

    /// The old executable is in the interlock again, whatever became of the new one.
    fn bring_back_executable(&self, ctx: &Context) -> Result<(), StepError> {
        let disk = &*self.disk;
        let failed = |e: &crate::files::Error| file_error(ctx, Code::UndoFailed, e);
        let lock = self.interlock(ctx);
        let kept = self.old_tree(ctx).join(BINARY);
        if kept.symlink_metadata().is_ok() {
            remove_tree(disk, &lock.held).map_err(|e| failed(&e))?;
            rename_durably(disk, &kept, &lock.held).map_err(|e| failed(&e))?;
        }
        if lock.look() == Lock::Both {
            remove_tree(disk, &lock.open).map_err(|e| failed(&e))?;
        }
        Ok(())
    }

    /// Replaces every file of the software that is not as in the backup.
    fn restore_software(&self, ctx: &Context, backup: &Backup) -> Result<usize, StepError> {
        let control = control(ctx);
        let failed = |e: &crate::files::Error| file_error(ctx, Code::UndoFailed, e);
        let copier = Copier { owners: Owners::Exact, ..Copier::new(&*self.disk, &control) };
        let mut restored = 0;
        for (number, copied) in backup.present().filter(|(_, p)| p.part.id == "software") {
            let root = copied.part.path();
            let from = backup.copy_of(copied);
            let entries = backup.entries(number);
            let compared = crate::files::Comparison::new(&*self.disk, &control)
                .run(&root, &entries)
                .map_err(|e| failed(&e))?;
            let wrong: BTreeSet<PathBuf> =
                compared.differences.into_iter().map(|d| d.path).collect();
            for entry in &entries {
                let Some(relative) = entry.relative() else { continue };
                let target = root.join(&relative);
                if !wrong.contains(&target) || relative.as_os_str().is_empty() {
                    continue;
                }
                self.put_back(&copier, &from.join(&relative), &target, entry)
                    .map_err(|e| failed(&e))?;
                restored += 1;
            }
            // Folders' times and modes last.
            for entry in entries.iter().rev().filter(|e| e.kind == Kind::Folder) {
                let Some(relative) = entry.relative() else { continue };
                let path = if relative.as_os_str().is_empty() {
                    root.clone()
                } else {
                    root.join(relative)
                };
                self.disk
                    .sync_dir(&path)
                    .map_err(crate::files::Error::at("make durable", &path))
                    .map_err(|e| failed(&e))?;
            }
        }
        Ok(restored)
    }

    fn put_back(
        &self,
        copier: &Copier<'_>,
        from: &Path,
        target: &Path,
        entry: &Entry,
    ) -> Result<(), crate::files::Error> {
        let at = crate::files::Error::at;
        match &entry.kind {
            Kind::Folder => {
                if !target.is_dir() {
                    self.disk
                        .create_dir(target, entry.attributes.mode)
                        .map_err(at("create", target))?;
                }
                self.disk
                    .set_attributes(target, &entry.attributes, Owners::Exact)
                    .map_err(at("set owner and mode of", target))
            }
            Kind::File { .. } => {
                let name = target.file_name().unwrap_or_default().to_string_lossy();
                let fresh = target.with_file_name(format!(".grayfin-restore-{name}"));
                remove_tree(&*self.disk, &fresh)?;
                copier.copy_one(from, &fresh, &entry.attributes)?;
                self.disk.rename_over(&fresh, target).map_err(at("put back", target))
            }
            Kind::Link { target: points_to } => {
                remove_tree(&*self.disk, target)?;
                let points_to = crate::files::decode_path(points_to).unwrap_or_default();
                self.disk.symlink(&points_to, target).map_err(at("put back the link", target))?;
                self.disk
                    .set_attributes(target, &entry.attributes, Owners::Exact)
                    .map_err(at("set the owner of", target))
            }
            Kind::Special => Ok(()),
        }
    }

    /// Removes files and folders that the package has and the backup has not.
    fn remove_new_files(&self, ctx: &Context, backup: &Backup) -> Result<usize, StepError> {
        let failed = |e: &crate::files::Error| file_error(ctx, Code::UndoFailed, e);
        let staged = self.staged_for_upgrade(ctx)?;
        let old: BTreeSet<String> = backup
            .present()
            .filter(|(_, copied)| copied.part.id == "software")
            .flat_map(|(number, _)| backup.entries(number))
            .map(|entry| entry.path)
            .collect();
        let server = &ctx.installation().server_dir;
        let mut removed = 0;
        let mut folders = BTreeSet::new();
        for (path, _) in expected(&staged.entries, BINARY, &[]) {
            let here = server.join(&path);
            let is_new = !old.contains(&encode_path(&path)) && path != Path::new(BINARY);
            if is_new && here.symlink_metadata().is_ok_and(|m| m.is_file()) {
                let gone = self.disk.remove_file(&here);
                gone.map_err(crate::files::Error::at("remove", &here)).map_err(|e| failed(&e))?;
                removed += 1;
            }
            folders.extend(path.ancestors().skip(1).map(Path::to_path_buf));
        }
        let folder_entries = staged.entries.iter().filter(|e| e.kind == Kind::Folder);
        folders.extend(
            folder_entries.filter_map(|e| {
                e.relative()?.strip_prefix(packages::TOP).ok().map(Path::to_path_buf)
            }),
        );
        for folder in folders.iter().rev().filter(|f| !f.as_os_str().is_empty()) {
            let work = folder.starts_with("clusterDemo");
            if !work && !old.contains(&encode_path(folder)) {
                // One that holds something else stays, and the comparison with the backup says so.
                drop(self.disk.remove_dir(&server.join(folder)));
            }
        }
        Ok(removed)
    }

    fn script_dir(&self, ctx: &Context) -> PathBuf {
        let script = &ctx.installation().upgrade_script;
        script.parent().unwrap_or(script).to_path_buf()
    }

    /// Where the script unpacks.
    fn unpacked(&self, ctx: &Context) -> PathBuf {
        self.script_dir(ctx).join(format!("v{}", ctx.plan().target))
    }
}

/// The end of what was said.
fn tail(said: &str) -> String {
    let count = said.chars().count();
    let text: String = said.chars().skip(count.saturating_sub(SAID_MAX)).collect();
    if text.is_empty() { "it said nothing".to_owned() } else { text.replace('\n', " | ") }
}
