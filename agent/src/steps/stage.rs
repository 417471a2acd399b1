//! Step `stage`: the package on the host, proven and unpacked, and room for everything that follows,
//! before anything is disturbed (S5).

use std::{
    path::{Path, PathBuf},
    sync::PoisonError,
    time::Duration,
};

use grayfin_types::{Code, facts::BackupClass, plan::UpgradeMode};

use super::{
    Context, Precheck, Seen, StepError,
    host::{
        HostSteps, Proven, backup_error, control, file_error, package_error, process_error, shown,
        watched,
    },
    upgrade::OLD_PREFIX,
};
use crate::{
    backup::{InstallationSource, Part, Store, room, select, store::make_folder, weigh},
    files::{self, Need, create_dir_durably, remove_tree, shortages},
    packages::{self, Inspection, Staged, Unpack, Verdict},
    process::Owner,
};

/// Bytes per second that unpacking may write beside nodes that serve: a disk of the slowest kind
/// that databases run on does twice that.
const PACE: u64 = 64 << 20;

/// Room for the ledger and the small files of a sequence. A sequence writes some hundred lines of a
/// kilobyte; this is a thousand times that.
const LEDGER_BYTES: u64 = 16 << 20;

/// How old the precheck's proof may be for the verification that follows it: one entry of the ledger
/// lies between the two.
const PROVEN_MAX: Duration = Duration::from_secs(5);

/// The override that leaves out parts of class *should*.
const WITHOUT_SHOULD: &str = "backup-should";

impl HostSteps {
    pub(super) async fn check_stage(&self, ctx: &Context) -> Result<Precheck, StepError> {
        let this = self.clone();
        let staged = ctx
            .blocking(move |ctx| {
                let Some(staged) = this.staged(ctx)? else { return Ok(false) };
                let Ok(compared) = staged.verify(&*this.disk, &control(ctx)) else {
                    return Ok(false);
                };
                this.remember_proven(ctx, compared.files);
                Ok(true)
            })
            .await?;
        // Whether there is room for what follows is verified next.
        let done = || Precheck::AlreadyDone("the package is unpacked and whole".into());
        Ok(if staged { done() } else { Precheck::Ready })
    }

    fn remember_proven(&self, ctx: &Context, files: u64) {
        let (place, token, at) = (self.stage_place(ctx), ctx.token(), ctx.now());
        let mut last = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(Proven { place, token, files, at });
    }

    /// Files that the precheck of this very sequence has just read through; once.
    fn just_proven(&self, ctx: &Context) -> Option<u64> {
        let mut last = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        let proven = last.take()?;
        let same = proven.token == ctx.token() && proven.place == self.stage_place(ctx);
        let fresh = ctx.now().duration_since(proven.at) <= PROVEN_MAX;
        (same && fresh).then_some(proven.files)
    }

    pub(super) async fn stage(&self, ctx: &Context) -> Result<Seen, StepError> {
        let package = self.have_package(ctx).await?;
        let this = self.clone();
        let (file, inspection) = ctx
            .blocking(move |ctx| {
                let inspection = this.inspect(ctx, &package)?;
                Ok((package, inspection))
            })
            .await?;
        self.room(ctx, Some(inspection.unpacked_bytes)).await?;
        let this = self.clone();
        let unpacked = inspection.unpacked_bytes;
        ctx.blocking(move |ctx| this.unpack(ctx, &file, unpacked)).await?;
        let files = inspection.files;
        let version = match inspection.verdict {
            Verdict::Supported(why) => format!("its version is claimed, and {why}"),
            Verdict::Claimed | Verdict::Refuted(_) => "its version is claimed by name".to_owned(),
        };
        Ok(format!("{files} files, {unpacked} bytes unpacked; {version}").into())
    }

    pub(super) async fn verify_stage(&self, ctx: &Context) -> Result<Seen, StepError> {
        let this = self.clone();
        let seen = ctx
            .blocking(move |ctx| {
                let Some(staged) = this.staged(ctx)? else {
                    let text = "the package is not unpacked, or not the plan's";
                    return Err(StepError::new(Code::PackageMissing, text));
                };
                let files = match this.just_proven(ctx) {
                    Some(files) => files,
                    None => {
                        let control = watched(ctx, ctx.plan().package.bytes);
                        let compared = staged.verify(&*this.disk, &control);
                        compared.map_err(|e| package_error(ctx, &e))?.files
                    }
                };
                let change = match ctx.plan().mode {
                    UpgradeMode::Native => this.try_native(ctx, &staged)?,
                    UpgradeMode::Script => "the site's script will replace the software".to_owned(),
                };
                Ok(format!("{files} files verified; {change}"))
            })
            .await?;
        let need = self.room(ctx, None).await?;
        Ok(format!("{seen}; {need}").into())
    }

    /// Finds the package, or fetches it from the coordinator.
    async fn have_package(&self, ctx: &Context) -> Result<PathBuf, StepError> {
        let folder = &ctx.installation().package_dir;
        let wanted = &ctx.plan().package;
        let plain = Path::new(&wanted.file).file_name().is_some_and(|n| *n == *wanted.file);
        if !plain
            || wanted.file != packages::file_name(&ctx.plan().target, packages::Platform::own())
        {
            let text = format!(
                "the plan's package `{}` is not the one of {} for this machine",
                wanted.file,
                ctx.plan().target
            );
            return Err(StepError::new(Code::PackageMissing, text));
        }
        let path = folder.join(&wanted.file);
        if path.is_file() {
            return Ok(path);
        }
        std::fs::create_dir_all(folder).map_err(|e| {
            StepError::new(Code::PackageMissing, format!("create {}: {e}", shown(folder)))
        })?;
        let needs = [self.need(&path, "package", wanted.bytes)];
        self.enough(ctx, &needs)?;
        ctx.fetch_package(&path).await?;
        Ok(path)
    }

    fn inspect(&self, ctx: &Context, path: &Path) -> Result<Inspection, StepError> {
        let control = watched(ctx, ctx.plan().package.bytes);
        let failed = |e: packages::Error| package_error(ctx, &e);
        let (found, _) = files::hash_file(&*self.disk, path, &control)
            .map_err(|e| file_error(ctx, Code::PackageCorrupt, &e))?;
        let expected = &ctx.plan().package.sha256;
        let inspection =
            packages::inspect(&*self.disk, path, &ctx.plan().target, &control).map_err(failed)?;
        if !found.eq_ignore_ascii_case(expected) {
            let (path, expected) = (path.to_path_buf(), expected.clone());
            return Err(failed(packages::Error::Differs { path, found, expected }));
        }
        Ok(inspection)
    }

    fn unpack(&self, ctx: &Context, package: &Path, total: u64) -> Result<Staged, StepError> {
        let lock = self.interlock(ctx);
        let executable = if lock.held.is_file() { &lock.held } else { &lock.open };
        let owner = Owner::of_file(executable)
            .map_err(|e| process_error(&e, "find the installation's owner"))?;
        let control = watched(ctx, total).paced(PACE);
        let how = Unpack { disk: &*self.disk, control: &control, owner: (owner.uid, owner.gid) };
        let (target, sha256) = (&ctx.plan().target, &ctx.plan().package.sha256);
        Staged::make(&how, package, sha256, target, &self.stage_place(ctx))
            .map_err(|e| package_error(ctx, &e))
    }

    /// Everything that a backup of this host would have, from the running configuration.
    pub(super) async fn select_parts(&self, ctx: &Context) -> Result<Vec<Part>, StepError> {
        let sources = ctx.until(self.nodes.sources(ctx)).await??;
        let installation = ctx.installation();
        let mut unit_files = Vec::new();
        for unit in installation.units.names.values() {
            let shown = self.systemctl(ctx).fragment(unit).await;
            unit_files.extend(shown.map_err(|e| process_error(&e, "ask for a unit"))?);
        }
        let source = InstallationSource {
            server_dir: installation.server_dir.clone(),
            executable: installation.executable.clone(),
            work_dir: installation.work_dir.clone(),
            apart: vec![installation.package_dir.clone(), installation.backup_dir.clone()],
            unit_files,
        };
        let without_should = ctx.plan().overrides.iter().any(|o| o.gate == WITHOUT_SHOULD);
        let least = if without_should { BackupClass::Must } else { BackupClass::Should };
        Ok(select(&source, &sources).into_iter().filter(|part| part.class <= least).collect())
    }

    /// Fails if a volume is too small for what is still to come. `unpacked` is none once the package
    /// is unpacked.
    async fn room(&self, ctx: &Context, unpacked: Option<u64>) -> Result<String, StepError> {
        let parts = self.select_parts(ctx).await?;
        let this = self.clone();
        ctx.blocking(move |ctx| {
            let installation = ctx.installation();
            let backup = room(&weigh(&parts), BackupClass::Optional);
            let mut needs = vec![
                this.need(&installation.backup_dir, "backup", backup),
                this.need(&ctx.work().state_dir, "ledger", LEDGER_BYTES),
            ];
            if let Some(bytes) = unpacked {
                needs.push(this.need(&installation.server_dir, "unpacked package", bytes));
            }
            if ctx.plan().mode == UpgradeMode::Script {
                // The script's copy of the package, what it unpacks, and what it copies.
                let package = ctx.plan().package.bytes;
                let own = unpacked.unwrap_or_else(|| package.saturating_mul(3));
                let bytes = package.saturating_add(own.saturating_mul(2));
                needs.push(this.need(&installation.server_dir, "upgrade script", bytes));
            }
            this.enough(ctx, &needs)?;
            Ok(format!("room for a backup of {backup} bytes"))
        })
        .await
    }

    fn need(&self, path: &Path, purpose: &str, bytes: u64) -> Need {
        Need { path: path.to_path_buf(), purpose: purpose.to_owned(), bytes }
    }

    fn enough(&self, ctx: &Context, needs: &[Need]) -> Result<(), StepError> {
        let floor = ctx.plan().policy.free_floor_bytes;
        let short = shortages(&*self.disk, needs, floor)
            .map_err(|e| file_error(ctx, Code::DiskTooSmall, &e))?;
        if short.is_empty() {
            return Ok(());
        }
        let text: Vec<String> = short.iter().map(ToString::to_string).collect();
        Err(StepError::new(Code::DiskTooSmall, text.join("; ")))
    }

    /// After a hold was closed: the unpacked package, old trees and old backups go.
    pub(super) async fn tidy_up(&self, ctx: &Context) -> Result<(), StepError> {
        let this = self.clone();
        ctx.blocking(move |ctx| {
            let installation = ctx.installation();
            let disk = &*this.disk;
            let failed = |e: files::Error| file_error(ctx, Code::UndoFailed, &e);
            let folders = [installation.server_dir.parent(), Some(&installation.server_dir)];
            for folder in folders.into_iter().flatten() {
                for name in own_names(folder) {
                    let path = folder.join(&name);
                    if this.is_our_stage(ctx, &path) || is_older_tree(ctx, &name) {
                        remove_tree(disk, &path).map_err(failed)?;
                    }
                }
            }
            if ctx.token().0 > 0 && installation.backup_dir.is_dir() {
                let store = Store { disk, folder: &installation.backup_dir };
                store
                    .thin_out(
                        (&ctx.work().host, &installation.cluster),
                        ctx.plan().policy.backups_kept,
                        &control(ctx),
                    )
                    .map_err(|e| backup_error(ctx, &e))?;
            }
            Ok(())
        })
        .await
    }

    /// The unpacked package of this plan, whole or not.
    fn is_our_stage(&self, ctx: &Context, path: &Path) -> bool {
        let own = self.stage_place(ctx);
        let partial = format!("{}.partial", own.display());
        path == own || path == Path::new(&partial)
    }

    /// Makes the folder of backups.
    pub(super) fn backup_folder(&self, ctx: &Context) -> Result<(), StepError> {
        let folder = &ctx.installation().backup_dir;
        make_folder(&*self.disk, folder).map_err(|e| backup_error(ctx, &e))?;
        create_dir_durably(&*self.disk, folder, 0o700)
            .map_err(|e| file_error(ctx, Code::BackupIncomplete, &e))
    }
}

/// Tells whether a name is the old tree of an earlier hold on this installation.
fn is_older_tree(ctx: &Context, name: &str) -> bool {
    let own = ctx.installation().server_dir.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix(OLD_PREFIX)
        .and_then(|rest| rest.strip_prefix(own.as_ref())?.strip_prefix('-'))
        .and_then(|token| token.parse::<u64>().ok())
        .is_some_and(|token| token < ctx.token().0)
}

/// Names in a folder that begin as ours do.
fn own_names(folder: &Path) -> Vec<String> {
    let Ok(all) = std::fs::read_dir(folder) else { return Vec::new() };
    all.flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(crate::process::installation::OWN_PREFIX))
        .collect()
}
