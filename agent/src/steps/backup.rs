//! Step `backup`: the interlock goes on, then everything that could be needed for the way back is
//! copied and proven.

use grayfin_types::{Code, step::Step};
use serde::{Deserialize, Serialize};

use super::{
    Context, Precheck, Seen, StepError,
    host::{HostSteps, backup_error, place, watched},
    interlock::Lock,
};
use crate::{
    backup::{Backup, Header, PARTIAL_PREFIX, Store, Taken, Taking, store, take, weigh},
    files::{Disk, remove_tree},
};

/// The journal's key for the name that was chosen.
const NAME: &str = "name";
/// The journal's key for a backup that was taken and proven.
const TAKEN: &str = "taken";

/// What the ledger remembers of a proven backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Proven {
    name: String,
    digest: String,
    bytes: u64,
}

impl HostSteps {
    pub(super) async fn check_backup(&self, ctx: &Context) -> Result<Precheck, StepError> {
        let this = self.clone();
        ctx.blocking(move |ctx| {
            this.nothing_runs(ctx)?;
            let proven = this.proven(ctx)?;
            Ok(match (proven, this.interlock(ctx).look()) {
                (Some(proven), Lock::On) => {
                    Precheck::AlreadyDone(format!("backup `{}` was taken", proven.name).into())
                }
                (_, Lock::On | Lock::Off) => Precheck::Ready,
                (_, Lock::Both | Lock::Neither) => {
                    let open = this.interlock(ctx).open;
                    let text = format!("the executable is not simply at `{}`", open.display());
                    Precheck::Refused(StepError::new(Code::ProcessAppeared, text))
                }
            })
        })
        .await
    }

    pub(super) async fn back_up(&self, ctx: &Context) -> Result<Seen, StepError> {
        let this = self.clone();
        ctx.blocking(move |ctx| {
            this.nothing_runs(ctx)?;
            this.interlock(ctx).turn_on(&*this.disk)?;
            place("step.backup.locked");
            // Whoever was quicker than the interlock is seen now; nobody can come after it.
            this.nothing_runs(ctx)?;
            this.backup_folder(ctx)?;
            let taken = this.take_backup(ctx)?;
            place("step.backup.taken");
            this.nothing_runs(ctx)?;
            let name = taken.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let seen = format!("backup `{name}`: {} files, {} bytes", taken.files, taken.bytes);
            let proven = Proven { name, digest: taken.digest, bytes: taken.bytes };
            ctx.journal(TAKEN, &proven)?;
            Ok(seen.into())
        })
        .await
    }

    pub(super) async fn verify_backup(&self, ctx: &Context) -> Result<Seen, StepError> {
        let this = self.clone();
        ctx.blocking(move |ctx| {
            this.nothing_runs(ctx)?;
            if this.interlock(ctx).look() != Lock::On {
                let text = "the interlock is not on";
                return Err(StepError::new(Code::BackupIncomplete, text));
            }
            let Some(backup) = this.own_backup(ctx)? else {
                let text =
                    "the backup of this sequence is not there or not the one that was proven";
                return Err(StepError::new(Code::BackupIncomplete, text));
            };
            let (name, bytes) = (&backup.header.name, backup.bytes());
            Ok(format!("backup `{name}` is whole, {bytes} bytes; the interlock is on").into())
        })
        .await
    }

    pub(super) async fn undo_backup(&self, ctx: &Context) -> Result<Seen, StepError> {
        let this = self.clone();
        ctx.blocking(move |ctx| {
            this.interlock(ctx).turn_off(&*this.disk)?;
            place("step.backup.unlocked");
            let names: Vec<String> = ctx.journalled(Step::Backup, NAME)?;
            for name in names {
                let partial = ctx.installation().backup_dir.join(format!("{PARTIAL_PREFIX}{name}"));
                remove_tree(&*this.disk, &partial)
                    .map_err(|e| super::host::file_error(ctx, Code::UndoFailed, &e))?;
            }
            Ok("the interlock is off; a finished backup is kept".into())
        })
        .await
    }

    fn take_backup(&self, ctx: &Context) -> Result<Taken, StepError> {
        let parts = self.parts(ctx)?;
        let name = self.backup_name(ctx)?;
        let weights = weigh(&parts);
        let held = std::fs::metadata(self.interlock(ctx).held).map_or(0, |m| m.len());
        let known = weights.iter().filter_map(|part| part.bytes.known().copied().flatten());
        let total = known.sum::<u64>().saturating_add(held);
        // Copied, read back, and the source read once more.
        let control = watched(ctx, total.saturating_mul(3));
        let header = Header {
            name,
            cluster: ctx.plan().cluster.clone(),
            host: ctx.work().host.clone(),
            rollout: ctx.work().rollout.clone(),
            token: ctx.token(),
            created_ms: ctx.wall_ms(),
            from: ctx.host_plan().from.clone(),
            to: ctx.plan().target.clone(),
            parts: Vec::new(),
        };
        take(&Taking {
            disk: &*self.disk,
            control: &control,
            backup_dir: &ctx.installation().backup_dir,
            header,
            parts: &parts,
            moved: &[("executable".to_owned(), self.interlock(ctx).held)],
        })
        .map_err(|e| backup_error(ctx, &e))
    }

    /// The name of this sequence's backup: chosen once, and free.
    fn backup_name(&self, ctx: &Context) -> Result<String, StepError> {
        let folder = &ctx.installation().backup_dir;
        let known: Vec<String> = ctx.journalled(Step::Backup, NAME)?;
        // One that was completed by an attempt whose proof did not reach the ledger stays as it is;
        // this attempt takes its own.
        if let Some(name) = known.last().filter(|name| !folder.join(name).exists()) {
            return Ok(name.clone());
        }
        let base = store::name(&ctx.plan().cluster, ctx.wall_ms(), ctx.token());
        let mut name = base.clone();
        let mut number = 2_u32;
        while folder.join(&name).symlink_metadata().is_ok() {
            name = format!("{base}-{number}");
            number = number.saturating_add(1);
        }
        ctx.journal(NAME, &name)?;
        Ok(name)
    }

    fn proven(&self, ctx: &Context) -> Result<Option<Proven>, StepError> {
        Ok(ctx.journalled::<Proven>(Step::Backup, TAKEN)?.pop())
    }

    /// Opens the backup that this sequence proved; none if there is none, or if it is another one.
    pub(super) fn own_backup(&self, ctx: &Context) -> Result<Option<Backup>, StepError> {
        let Some(proven) = self.proven(ctx)? else { return Ok(None) };
        let disk: &dyn Disk = &*self.disk;
        let store = Store { disk, folder: &ctx.installation().backup_dir };
        let backup = store.open(&proven.name).map_err(|e| backup_error(ctx, &e))?;
        Ok((backup.digest == proven.digest).then_some(backup))
    }
}
