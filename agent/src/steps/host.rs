//! The real executor: the effects of the host sequence on this host.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use grayfin_types::{Code, NodeAlias, Token, facts::NodeRole, step::Step};
use tokio::time::Instant;

use super::{
    Context, Executor, Precheck, Seen, StepError,
    interlock::Interlock,
    nodes::{NodeHere, Nodes},
    waiting::Pauses,
};
use crate::{
    config::{Installation, Settings},
    files::{self, Control, Disk, RealDisk, chain},
    packages::{self, Staged},
    process::{
        self, Helper, Scope,
        installation::{Member, members},
        launch::Launcher,
        units::Systemctl,
    },
};

/// How long it may be unclear which process is which node: between fork and exec a process is its
/// parent's double, for milliseconds, on a machine out of memory for longer.
const UNCLEAR_MAX: Duration = Duration::from_secs(2);

/// Places inside steps at which a test can end the process, besides those that the runner and the
/// ledger have: one before and after each kind of effect.
pub const FAIL_POINTS: [&str; 17] = [
    "step.quiesce.kept_down",
    "step.quiesce.going_down",
    "step.quiesce.stop_asked",
    "step.quiesce.stopped",
    "step.stop.going_down",
    "step.stop.stopped",
    "step.backup.locked",
    "step.backup.taken",
    "step.upgrade.listed",
    "step.upgrade.operation",
    "step.upgrade.script_ran",
    "step.upgrade.taken_back",
    "step.start.unlocked",
    "step.start.controlling_up",
    "step.start.working_up",
    "step.stop.started_again",
    "step.backup.unlocked",
];

/// Ends the process if a test wants it to end here; see [`FAIL_POINTS`].
pub(super) fn place(name: &'static str) {
    debug_assert!(FAIL_POINTS.contains(&name), "{name} is not listed");
    crate::failpoint::reach(&[name]);
}

/// Carries out steps on this host.
#[derive(Clone)]
pub struct HostSteps {
    pub(super) nodes: Arc<dyn Nodes>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) launcher: Launcher,
    /// The staged package that was read through last; see [`Proven`].
    pub(super) proven: Arc<Mutex<Option<Proven>>>,
}

/// A staged package that the precheck has just read through. Its verification is next and need not read
/// it again: that takes a second for a package of a gigabyte, under the hold.
#[derive(Debug)]
pub(super) struct Proven {
    pub(super) place: PathBuf,
    pub(super) token: Token,
    pub(super) files: u64,
    pub(super) at: Instant,
}

impl std::fmt::Debug for HostSteps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostSteps").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl HostSteps {
    /// Makes them for one installation's nodes.
    pub fn new(nodes: Arc<dyn Nodes>) -> Self {
        Self {
            nodes,
            disk: Arc::new(RealDisk),
            launcher: Launcher::default(),
            proven: Arc::default(),
        }
    }

    /// Uses another disk, for tests.
    #[must_use]
    pub fn with_disk(self, disk: Arc<dyn Disk>) -> Self {
        Self { disk, ..self }
    }

    /// Uses another launcher, for tests: see [`Launcher::at`].
    #[must_use]
    pub fn with_launcher(self, launcher: Launcher) -> Self {
        Self { launcher, ..self }
    }

    /// Every process of the installation, known node or not.
    pub(super) fn members(&self, ctx: &Context) -> Result<Vec<Member>, StepError> {
        let installation = ctx.installation();
        members(&installation.server_dir, &installation.executable)
            .map_err(|e| process_error(&e, "look for processes of the installation"))
    }

    /// Fails if any process of the installation runs (S6).
    pub(super) fn nothing_runs(&self, ctx: &Context) -> Result<(), StepError> {
        let members = self.members(ctx)?;
        if members.is_empty() {
            return Ok(());
        }
        let shown: Vec<String> = members.iter().map(Member::describe).collect();
        let text = format!("{} run while none may: end them", shown.join(", "));
        Err(StepError::new(Code::ProcessAppeared, text))
    }

    pub(super) fn interlock(&self, ctx: &Context) -> Interlock {
        Interlock::of(ctx.installation())
    }

    pub(super) fn systemctl(&self, ctx: &Context) -> Systemctl {
        Systemctl::new(&ctx.installation().units.systemctl)
    }

    pub(super) fn helper(&self, ctx: &Context) -> Helper {
        let scope = Scope::new(&ctx.work().state_dir, ctx.installation().cluster.as_str());
        Helper::new(self.launcher.clone(), scope)
    }

    /// Opens the staged package of the plan.
    pub(super) fn staged(&self, ctx: &Context) -> Result<Option<Staged>, StepError> {
        let place = self.stage_place(ctx);
        let staged = Staged::open(&*self.disk, &place).map_err(|e| package_error(ctx, &e))?;
        let wanted = &ctx.plan().package.sha256;
        Ok(staged.filter(|staged| staged.sha256.eq_ignore_ascii_case(wanted)))
    }

    pub(super) fn stage_place(&self, ctx: &Context) -> PathBuf {
        packages::stage_place(&ctx.installation().server_dir, &ctx.plan().package.sha256)
    }

    /// The nodes of this host, those for which `wanted` says yes. A process that is just being made
    /// looks like nobody, or like its parent: only what stays unclear counts.
    pub(super) async fn nodes_here(
        &self,
        ctx: &Context,
        wanted: impl Fn(NodeRole) -> bool,
    ) -> Result<Vec<NodeHere>, StepError> {
        let deadline = ctx.now() + UNCLEAR_MAX;
        let mut pauses = Pauses::default();
        loop {
            match ctx.until(self.nodes.here(ctx)).await? {
                Ok(all) => {
                    return Ok(all.into_iter().filter(|node| wanted(node.spec.role)).collect());
                }
                Err(e) if ctx.now() >= deadline => return Err(e),
                Err(e) if matches!(e.code, Code::FactUnknown | Code::NodeUnclaimed) => {
                    pauses.pause(ctx).await?;
                }
                Err(e) => return Err(e),
            }
        }
    }
}

impl Executor for HostSteps {
    async fn settle(&self, ctx: &Context) -> Result<(), StepError> {
        self.helper(ctx)
            .sweep("an earlier helper")
            .await
            .map(drop)
            .map_err(|e| process_error(&e, "end what earlier helpers left"))
    }

    async fn clear(
        &self,
        settings: &Settings,
        installation: &Installation,
    ) -> Result<(), StepError> {
        let scope = Scope::new(&settings.state_dir, installation.cluster.as_str());
        let swept = Helper::new(self.launcher.clone(), scope).sweep("an earlier helper").await;
        swept.map(drop).map_err(|e| process_error(&e, "end what earlier helpers left"))
    }

    async fn precheck(&self, step: Step, ctx: &Context) -> Precheck {
        let found = match step {
            Step::Stage => self.check_stage(ctx).await,
            Step::Guard => self.check_guard(ctx).await,
            Step::Quiesce => self.check_quiesce(ctx).await,
            Step::Stop => self.check_stop(ctx).await,
            Step::Backup => self.check_backup(ctx).await,
            Step::Upgrade => self.check_upgrade(ctx).await,
            Step::Start => self.check_start(ctx).await,
            Step::Join => self.check_join(ctx).await,
        };
        found.unwrap_or_else(Precheck::Refused)
    }

    async fn execute(&self, step: Step, ctx: &Context) -> Result<Seen, StepError> {
        match step {
            Step::Stage => self.stage(ctx).await,
            Step::Guard => self.guard(ctx).await,
            Step::Quiesce => self.quiesce(ctx).await,
            Step::Stop => self.stop(ctx).await,
            Step::Backup => self.back_up(ctx).await,
            Step::Upgrade => self.upgrade(ctx).await,
            Step::Start => self.start(ctx).await,
            Step::Join => self.join(ctx).await,
        }
    }

    async fn verify(&self, step: Step, ctx: &Context) -> Result<Seen, StepError> {
        match step {
            Step::Stage => self.verify_stage(ctx).await,
            Step::Guard => self.verify_guard(ctx).await,
            Step::Quiesce => self.verify_quiesce(ctx).await,
            Step::Stop => self.verify_stop(ctx).await,
            Step::Backup => self.verify_backup(ctx).await,
            Step::Upgrade => self.verify_upgrade(ctx).await,
            Step::Start => self.verify_start(ctx).await,
            Step::Join => self.verify_join(ctx).await,
        }
    }

    async fn undo(&self, step: Step, ctx: &Context) -> Result<Seen, StepError> {
        if ctx.first_start() {
            let text = "the new version may have been started: there is no way back by itself";
            return Err(StepError::new(Code::UndoImpossible, text));
        }
        match step {
            Step::Upgrade => self.undo_upgrade(ctx).await,
            Step::Backup => self.undo_backup(ctx).await,
            Step::Stop => self.undo_stop(ctx).await,
            Step::Quiesce => self.undo_quiesce(ctx).await,
            Step::Stage | Step::Guard | Step::Start | Step::Join => {
                Ok(format!("step `{step}` has nothing to undo").into())
            }
        }
    }

    async fn tidy(&self, ctx: &Context) -> Result<(), StepError> {
        self.tidy_up(ctx).await
    }
}

/// A control for work that blocks: it stops when the step has to.
pub(super) fn control(ctx: &Context) -> Control {
    let ctx = ctx.clone();
    Control::default().stopped_by(move || ctx.check().is_err())
}

/// The same, and it reports bytes of `total`.
pub(super) fn watched(ctx: &Context, total: u64) -> Control {
    let watched = ctx.clone();
    control(ctx).watched(move |done| watched.progress(done, total, "bytes"))
}

/// Says why work with files failed; a stop on request says who asked.
pub(super) fn file_error(ctx: &Context, code: Code, error: &files::Error) -> StepError {
    if matches!(error, files::Error::Stopped) {
        return stopped(ctx);
    }
    let code = if error.is_no_space() { Code::DiskTooSmall } else { code };
    StepError::new(code, chain(error))
}

pub(super) fn package_error(ctx: &Context, error: &packages::Error) -> StepError {
    if matches!(error, packages::Error::Files(files::Error::Stopped)) {
        return stopped(ctx);
    }
    StepError::new(error.code(), chain(error))
}

pub(super) fn backup_error(ctx: &Context, error: &crate::backup::Error) -> StepError {
    if matches!(error, crate::backup::Error::Files(files::Error::Stopped)) {
        return stopped(ctx);
    }
    StepError::new(error.code(), chain(error))
}

pub(super) fn process_error(error: &process::Error, doing: &str) -> StepError {
    StepError::new(error.code(), format!("{doing}: {}", chain(error)))
}

fn stopped(ctx: &Context) -> StepError {
    ctx.check().err().unwrap_or_else(|| {
        StepError::new(Code::Internal, "work was stopped though nobody asked for it")
    })
}

/// Names nodes for people.
pub(super) fn names<'a>(nodes: impl IntoIterator<Item = &'a NodeAlias>) -> String {
    nodes.into_iter().map(|alias| format!("`{alias}`")).collect::<Vec<_>>().join(", ")
}

pub(super) fn works_on_data(role: NodeRole) -> bool {
    matches!(role, NodeRole::DataNode | NodeRole::ComputeNode)
}

/// Shows a path in a message.
pub(super) fn shown(path: &Path) -> String {
    format!("`{}`", path.display())
}
