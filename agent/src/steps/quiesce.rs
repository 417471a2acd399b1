//! Step `quiesce`: remember how everything runs, keep it from being restarted behind our back, and
//! take the data and compute nodes down.

use std::{path::PathBuf, time::Duration};

use grayfin_types::{
    Code, NodeAlias,
    facts::{MemoryObject, NodeRole, NodeSpec},
};

use super::{
    Context, Go, Precheck, Seen, StepError,
    ending::{Ending, end, wait_gone},
    host::{HostSteps, file_error, names, place, process_error, works_on_data},
    late,
    nodes::{Asked, NodeHere},
};
use crate::{
    backup::Part,
    files::write_durably,
    process::{self, HowRun, boot_id, units::UnitState},
};

/// How the nodes ran before anything was touched.
const HOW: &str = "how-run";
/// What the units were like.
const UNITS: &str = "units";
/// What a backup consists of, by the configuration that ran.
const PARTS: &str = "backup-parts";
/// Something was stopped in this hold.
const DOWN: &str = "down";
/// What was only in memory (S13).
const MEMORY: &str = "memory";

/// How long the leading controller's stop may take to show an effect before the processes are asked
/// directly. Its agent forwards the order within a heartbeat; a loaded node then still runs for long,
/// which costs nothing: it is asked a second time by signal, and SIGTERM only repeats the wish.
const BY_CONTROLLER: Duration = Duration::from_secs(10);

impl HostSteps {
    pub(super) async fn check_quiesce(&self, ctx: &Context) -> Result<Precheck, StepError> {
        let here = self.nodes_here(ctx, works_on_data).await?;
        let prepared = ctx.captured::<Vec<HowRun>>(HOW)?.is_some()
            && ctx.captured::<Vec<Part>>(PARTS)?.is_some()
            && ctx.captured::<Vec<MemoryObject>>(MEMORY)?.is_some();
        if prepared && here.iter().all(|node| node.process.is_none()) && self.kept(ctx).await? {
            return Ok(Precheck::AlreadyDone("no data or compute node runs here".into()));
        }
        Ok(Precheck::Ready)
    }

    pub(super) async fn quiesce(&self, ctx: &Context) -> Result<Seen, StepError> {
        self.capture_all(ctx).await?;
        self.keep_units_down(ctx).await?;
        place("step.quiesce.kept_down");
        let here = self.nodes_here(ctx, works_on_data).await?;
        let running: Vec<NodeHere> =
            here.into_iter().filter(|node| node.process.is_some()).collect();
        if running.is_empty() {
            return Ok("no data or compute node runs here".into());
        }
        let specs: Vec<NodeSpec> = running.iter().map(|node| node.spec.clone()).collect();
        let flushed = ctx.until(self.nodes.flush(ctx, &specs)).await??;

        let aliases: Vec<NodeAlias> = specs.iter().map(|spec| spec.alias.clone()).collect();
        let (go, _seen) = self.may_go(ctx, &aliases).await?;
        self.going_down(ctx, go)?;
        place("step.quiesce.going_down");
        aliases.iter().for_each(|alias| ctx.node(alias, "stopping"));
        let how = self.stop_through_controller(ctx, &specs, &running).await?;
        let ended = self.end_nodes(ctx, &running).await?;
        place("step.quiesce.stopped");
        aliases.iter().for_each(|alias| ctx.node(alias, "stopped"));
        Ok(format!("{}; {how}; {ended}", flushed.0).into())
    }

    pub(super) async fn verify_quiesce(&self, ctx: &Context) -> Result<Seen, StepError> {
        let here = self.nodes_here(ctx, works_on_data).await?;
        let left = here.iter().filter(|node| node.process.is_some()).map(|node| &node.spec.alias);
        let left = names(left);
        if !left.is_empty() {
            return Err(StepError::new(Code::StopFailed, format!("{left} still run")));
        }
        if !self.kept(ctx).await? {
            let text = "a systemd unit of this installation can still be started";
            return Err(StepError::new(Code::StopFailed, text));
        }
        Ok(format!("{} data and compute nodes are down", here.len()).into())
    }

    /// Data and compute nodes up again, nothing kept down any more.
    pub(super) async fn undo_quiesce(&self, ctx: &Context) -> Result<Seen, StepError> {
        self.release_units(ctx).await?;
        if self.untouched(ctx).await? {
            return Ok("nothing was stopped".into());
        }
        // Undoing `stop` has started these, unless that step never began and they went down for
        // another reason.
        self.start_controlling_nodes(ctx).await?;
        self.start_working_nodes(ctx).await?;
        let seen = self.old_version_answers(ctx).await?;
        self.late_stop_is_over(ctx).await?;
        Ok(seen)
    }

    /// Makes durable that nodes go down now, in the way that undoing looks for too.
    pub(super) fn going_down(&self, ctx: &Context, go: Go) -> Result<(), StepError> {
        ctx.going_down(go)?;
        ctx.capture(DOWN, &true).map(drop)
    }

    /// Tells whether there is nothing to start again: nothing was stopped in this hold, and nothing
    /// has gone down for another reason (a reboot, in which masked units did not start).
    pub(super) async fn untouched(&self, ctx: &Context) -> Result<bool, StepError> {
        if ctx.captured::<bool>(DOWN)?.is_some() {
            return Ok(false);
        }
        if ctx.captured::<Vec<HowRun>>(HOW)?.is_none() {
            return Ok(true);
        }
        Ok(self.nodes_here(ctx, |_| true).await?.iter().all(|node| node.process.is_some()))
    }

    /// Everything that cannot be found out any more once the nodes are down (S10).
    async fn capture_all(&self, ctx: &Context) -> Result<(), StepError> {
        if ctx.captured::<Vec<HowRun>>(HOW)?.is_none() {
            let how = self.look_how(ctx).await?;
            ctx.capture(HOW, &how)?;
        }
        if ctx.captured::<Vec<Part>>(PARTS)?.is_none() {
            ctx.capture(PARTS, &self.select_parts(ctx).await?)?;
        }
        if ctx.captured::<Vec<MemoryObject>>(MEMORY)?.is_none() {
            let memory = ctx.until(self.nodes.memory(ctx)).await??;
            ctx.capture(MEMORY, &memory)?;
        }
        Ok(())
    }

    async fn look_how(&self, ctx: &Context) -> Result<Vec<HowRun>, StepError> {
        let failed = |e: process::Error| process_error(&e, "see how the nodes run");
        let boot = boot_id().map_err(|e| {
            StepError::new(Code::FactUnknown, format!("read the machine's boot id: {e}"))
        })?;
        let systemctl = self.systemctl(ctx);
        let mut all = Vec::new();
        for node in self.nodes_here(ctx, |_| true).await? {
            let spec = &node.spec;
            let configured = ctx.installation().units.of(spec).map(str::to_owned);
            let Some(identity) = &node.process else {
                let executable = ctx.installation().executable_path();
                let mut how = HowRun::assumed(spec, &executable, &boot).map_err(failed)?;
                how.unit = configured.unwrap_or_default();
                all.push(how);
                continue;
            };
            let unit = match configured {
                Some(unit) => Some(unit),
                None if works_on_data(spec.role) => None,
                None => systemctl.unit_of(identity).await.map_err(failed)?,
            };
            let how =
                HowRun::of(spec, identity, &unit.unwrap_or_default(), &boot).map_err(failed)?;
            self.keep_environment(ctx, &how)?;
            all.push(how);
        }
        Ok(all)
    }

    /// The environment goes into a file of its own that only root reads, and is removed with the hold.
    fn keep_environment(&self, ctx: &Context, how: &HowRun) -> Result<(), StepError> {
        let path = environment_file(ctx, &how.spec.alias);
        let bytes = serde_json::to_vec(&how.environment()).unwrap_or_default();
        write_durably(&*self.disk, &path, &bytes, 0o600)
            .map_err(|e| file_error(ctx, Code::FactUnknown, &e))
    }

    /// How the nodes ran, as captured.
    pub(super) fn how_run(&self, ctx: &Context) -> Result<Vec<HowRun>, StepError> {
        ctx.captured(HOW)?.ok_or_else(|| {
            StepError::new(Code::Internal, "how the nodes ran was not captured in this hold")
        })
    }

    /// What a backup consists of, as captured.
    pub(super) fn parts(&self, ctx: &Context) -> Result<Vec<Part>, StepError> {
        ctx.captured(PARTS)?.ok_or_else(|| {
            StepError::new(Code::Internal, "the parts of a backup were not captured in this hold")
        })
    }

    /// What was in memory only, as captured.
    pub(super) fn memory_before(&self, ctx: &Context) -> Result<Vec<MemoryObject>, StepError> {
        Ok(ctx.captured(MEMORY)?.unwrap_or_default())
    }

    async fn keep_units_down(&self, ctx: &Context) -> Result<(), StepError> {
        let failed = |e: process::Error| process_error(&e, "keep a systemd unit down");
        let systemctl = self.systemctl(ctx);
        if ctx.captured::<Vec<UnitState>>(UNITS)?.is_none() {
            let mut before = Vec::new();
            for unit in units_of(&self.how_run(ctx)?) {
                let state = ctx.until(systemctl.show(&unit)).await?.map_err(failed)?;
                if state.load == "not-found" {
                    let text =
                        format!("there is no systemd unit `{unit}`: mend `[installation.units]`");
                    return Err(StepError::new(Code::ConfigUnreadable, text));
                }
                before.push(state);
            }
            ctx.capture(UNITS, &before)?;
        }
        for before in self.units_before(ctx)? {
            ctx.until(systemctl.keep_down(&before)).await?.map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn units_before(&self, ctx: &Context) -> Result<Vec<UnitState>, StepError> {
        Ok(ctx.captured(UNITS)?.unwrap_or_default())
    }

    /// Tells whether no unit can bring a node back.
    async fn kept(&self, ctx: &Context) -> Result<bool, StepError> {
        let Some(units) = ctx.captured::<Vec<UnitState>>(UNITS)? else { return Ok(false) };
        for before in units {
            let now = ctx.until(self.systemctl(ctx).show(&before.name)).await?;
            let now = now.map_err(|e| process_error(&e, "look at a systemd unit"))?;
            if now.load != "masked" && now.file != "disabled" {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Lets units be started again, as they could be before.
    pub(super) async fn release_units(&self, ctx: &Context) -> Result<(), StepError> {
        for before in self.units_before(ctx)? {
            let released = ctx.until(self.systemctl(ctx).release(&before)).await?;
            released.map_err(|e| process_error(&e, "release a systemd unit"))?;
        }
        Ok(())
    }

    /// Asks the leading controller; a stop that it does not take is made by signal afterwards.
    async fn stop_through_controller(
        &self,
        ctx: &Context,
        specs: &[NodeSpec],
        running: &[NodeHere],
    ) -> Result<String, StepError> {
        let aliases: Vec<NodeAlias> = specs.iter().map(|spec| spec.alias.clone()).collect();
        let order = late::is_asked(ctx, &aliases)?;
        place("step.quiesce.stop_asked");
        let why = match ctx.until(self.nodes.ask_stop(ctx, specs)).await? {
            Asked::Taken => {
                let left = wait_gone(ctx, &endings(running), BY_CONTROLLER).await?;
                if left.is_empty() {
                    late::is_settled(ctx, order)?;
                    return Ok("stopped through the controller".to_owned());
                }
                return Ok("asked through the controller, and by signal after 10 s".to_owned());
            }
            Asked::NotTaken(why) => {
                late::is_settled(ctx, order)?;
                why
            }
            Asked::Unknown(why) => format!("it is unknown whether it took the order: {why}"),
        };
        Ok(format!("stopped by signal, because the controller did not stop them ({why})"))
    }

    /// Ends nodes by identity: SIGTERM, wait, and SIGKILL only where the policy allows it.
    pub(super) async fn end_nodes(
        &self,
        ctx: &Context,
        nodes: &[NodeHere],
    ) -> Result<String, StepError> {
        end(ctx, &endings(nodes)).await
    }
}

/// Where a node's environment is kept.
pub(super) fn environment_file(ctx: &Context, alias: &NodeAlias) -> PathBuf {
    ctx.work_dir().join(format!("environment-{alias}.json"))
}

/// The units of the nodes, each once.
fn units_of(how: &[HowRun]) -> Vec<String> {
    let mut units: Vec<String> =
        how.iter().map(|one| one.unit.clone()).filter(|unit| !unit.is_empty()).collect();
    units.sort();
    units.dedup();
    units
}

/// Those that have a process.
fn endings(nodes: &[NodeHere]) -> Vec<Ending> {
    let one = |node: &NodeHere| {
        let identity = node.process.clone()?;
        Some(Ending { name: node.spec.alias.to_string(), identity })
    };
    nodes.iter().filter_map(one).collect()
}

/// Roles that are not data's or computation's.
pub(super) fn controls(role: NodeRole) -> bool {
    !works_on_data(role)
}
