//! Step `start`, and what undoing needs of it: the interlock off, then the controllers, the DolphinDB
//! agent, and the data and compute nodes through the leader, each the way it ran before.

use std::{os::unix::fs::MetadataExt, time::Duration};

use grayfin_types::{
    Code,
    facts::{NodeRole, NodeSpec, Probe, ProcessIdentity},
};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    Context, Precheck, Seen, StepError,
    host::{HostSteps, names, place, process_error, shown, works_on_data},
    interlock::Lock,
    nodes::{Asked, NodeHere},
    quiesce::environment_file,
    waiting::Pauses,
};
use crate::process::{HowRun, how::account_environment, identity::is_alive};

/// How long a started script may take until its node's process is there. The vendor's scripts return
/// at once and the process is theirs; a unit may have work of its own before.
const APPEAR: Duration = Duration::from_secs(30);

/// Between two orders to the leader to start nodes that have not appeared, if it may have taken the
/// first: its DolphinDB agent has to connect first, which takes a heartbeat or two.
const ASK_AGAIN: Duration = Duration::from_secs(3);

/// The same if it did not take it, because nobody leads at that moment or the agent is not connected
/// yet: the first of several pauses that grow to [`ASK_AGAIN`]. A node that it started in spite of its
/// words has a process by then.
const NOT_TAKEN_AGAIN: Duration = Duration::from_millis(100);

/// What the logs' ends were before anything was started.
const MARKS: &str = "log-marks";

impl HostSteps {
    pub(super) async fn check_start(&self, ctx: &Context) -> Result<Precheck, StepError> {
        let here = self.nodes_here(ctx, |_| true).await?;
        let all_run = here.iter().all(|node| self.runs_new(ctx, node));
        if all_run && self.interlock(ctx).look() == Lock::Off {
            return Ok(Precheck::AlreadyDone(format!("{} nodes run", here.len()).into()));
        }
        Ok(Precheck::Ready)
    }

    pub(super) async fn start(&self, ctx: &Context) -> Result<Seen, StepError> {
        self.mark_logs(ctx).await?;
        let this = self.clone();
        ctx.blocking(move |ctx| {
            this.interlock(ctx).turn_off(&*this.disk)?;
            this.is_executable(ctx)
        })
        .await?;
        place("step.start.unlocked");
        self.release_units(ctx).await?;
        self.start_controlling_nodes(ctx).await?;
        place("step.start.controlling_up");
        self.start_working_nodes(ctx).await?;
        place("step.start.working_up");
        Ok("every node of this host was started".into())
    }

    /// Without its executable bit nothing would start, and nobody would say why: the scripts that
    /// start nodes do so in the background.
    fn is_executable(&self, ctx: &Context) -> Result<(), StepError> {
        let path = self.interlock(ctx).open;
        let mode = std::fs::metadata(&path).map_or(0, |found| found.mode());
        if mode & 0o111 != 0 {
            return Ok(());
        }
        let text = format!("{} is not executable: `chmod a+x` it and retry", shown(&path));
        Err(StepError::new(Code::StartFailed, text))
    }

    pub(super) async fn verify_start(&self, ctx: &Context) -> Result<Seen, StepError> {
        let here = self.nodes_here(ctx, |_| true).await?;
        let down = here.iter().filter(|node| !self.runs_new(ctx, node));
        let down = names(down.map(|node| &node.spec.alias));
        if !down.is_empty() {
            let text =
                format!("{down} do not run, or not from {}", shown(&self.interlock(ctx).open));
            return Err(StepError::new(Code::StartFailed, text));
        }
        Ok(format!("{} nodes run", here.len()).into())
    }

    /// Tells whether a node runs the executable that is in its place now.
    pub(super) fn runs_new(&self, ctx: &Context, node: &NodeHere) -> bool {
        let open = self.interlock(ctx).open;
        let real = std::fs::canonicalize(&open).unwrap_or(open);
        node.process.as_ref().is_some_and(|process| {
            !process.executable_deleted && std::path::Path::new(&process.executable) == real
        })
    }

    /// Controllers first, each until it answers; then the DolphinDB agent.
    pub(super) async fn start_controlling_nodes(&self, ctx: &Context) -> Result<(), StepError> {
        let how = self.how_run(ctx)?;
        let marks = self.marks(ctx)?;
        for role in [NodeRole::Controller, NodeRole::DdbAgent] {
            let wave: Vec<&HowRun> = how.iter().filter(|one| one.spec.role == role).collect();
            for one in wave {
                self.start_until_it_answers(ctx, one, &marks).await?;
            }
        }
        Ok(())
    }

    /// Starts one node, again if it dies, at most `start_attempts` times; waits until it answers.
    async fn start_until_it_answers(
        &self,
        ctx: &Context,
        how: &HowRun,
        marks: &Value,
    ) -> Result<(), StepError> {
        let alias = &how.spec.alias;
        let limit = Duration::from_millis(ctx.plan().policy.start_timeout_ms);
        let attempts = ctx.plan().policy.start_attempts.max(1);
        let mut last = String::new();
        for attempt in 1..=attempts {
            let deadline = ctx.now() + limit.min(ctx.remaining());
            if self.process_of(ctx, &how.spec).await?.is_none() {
                ctx.node(alias, "starting");
                self.start_one(ctx, how).await?;
            }
            match self.wait_for_answer(ctx, &how.spec, marks, deadline).await? {
                Waited::Answers => {
                    ctx.node(alias, "started");
                    return Ok(());
                }
                Waited::Died(why) => last = format!("attempt {attempt}: {why}"),
                Waited::Silent(why) => {
                    let text = format!(
                        "`{alias}` runs but is not there after {} ms: {why}",
                        limit.as_millis()
                    );
                    return Err(StepError::new(Code::StartFailed, text));
                }
            }
        }
        let said = self.last_words(ctx, how);
        let text = format!("`{alias}` did not start in {attempts} attempts; {last}{said}");
        Err(StepError::new(Code::StartFailed, text))
    }

    async fn wait_for_answer(
        &self,
        ctx: &Context,
        spec: &NodeSpec,
        marks: &Value,
        deadline: Instant,
    ) -> Result<Waited, StepError> {
        let begun = ctx.now();
        let mut pauses = Pauses::default();
        let mut seen: Option<ProcessIdentity> = None;
        let mut why = "it does not answer".to_owned();
        loop {
            let node = self.node(ctx, spec).await?;
            match (&node.process, &seen) {
                (Some(now), _) => {
                    seen = Some(now.clone());
                    let look = ctx.until(self.nodes.look(ctx, &node, marks)).await?;
                    match (&look.version, &look.start_marker) {
                        // The marker is the vendor's own word for "start complete"; where the log
                        // cannot be read, an answer has to do.
                        (Probe::Known(_), Probe::Known(true) | Probe::Unknown(_)) => {
                            return Ok(Waited::Answers);
                        }
                        (Probe::Known(_), Probe::Known(false)) => {
                            "its start marker is not in its log yet".clone_into(&mut why);
                        }
                        (Probe::Unknown(text), _) => why.clone_from(text),
                    }
                }
                (None, Some(before)) => {
                    let text = format!("process {} ended by itself", before.pid);
                    return Ok(Waited::Died(text));
                }
                (None, None) if begun.elapsed() > APPEAR => {
                    return Ok(Waited::Died("no process of it appeared".to_owned()));
                }
                (None, None) => {}
            }
            if ctx.now() >= deadline {
                let nothing = "no process of it appeared".to_owned();
                return Ok(if seen.is_some() {
                    Waited::Silent(why)
                } else {
                    Waited::Died(nothing)
                });
            }
            pauses.pause(ctx).await?;
        }
    }

    /// Starts a controller or DolphinDB agent the way it ran: unit, or configured command as the
    /// owner, with the environment, limits, umask and cgroup that it had.
    async fn start_one(&self, ctx: &Context, how: &HowRun) -> Result<(), StepError> {
        let alias = &how.spec.alias;
        let failed = |e: crate::process::Error| process_error(&e, &format!("start `{alias}`"));
        if !how.unit.is_empty() {
            let started = ctx.until(self.systemctl(ctx).start(&how.unit)).await?;
            return started.map_err(failed);
        }
        let installation = ctx.installation();
        let command = match how.spec.role {
            NodeRole::Controller => &installation.start_controller,
            NodeRole::DdbAgent | NodeRole::DataNode | NodeRole::ComputeNode => {
                &installation.start_ddb_agent
            }
        };
        let environment = std::fs::read(environment_file(ctx, alias))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let program = how.program(command, &installation.work_dir, environment, &installation.path);
        let program = account_environment(program, how.owner.uid);
        let output = self.output_file(ctx, how);
        ctx.until(self.launcher.start(&program, &output)).await?.map(drop).map_err(failed)
    }

    fn output_file(&self, ctx: &Context, how: &HowRun) -> std::path::PathBuf {
        ctx.work_dir().join(format!("start-{}.log", how.spec.alias))
    }

    /// The end of what a start command said, if it said anything.
    fn last_words(&self, ctx: &Context, how: &HowRun) -> String {
        let text = std::fs::read(self.output_file(ctx, how)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let last: Vec<&str> = text.lines().rev().take(3).collect();
        if last.is_empty() {
            return String::new();
        }
        let last: Vec<&str> = last.into_iter().rev().collect();
        format!("; its start command said: {}", last.join(" | "))
    }

    /// Data and compute nodes: those with a unit by it, the others through the leader, asked again
    /// while they do not appear.
    pub(super) async fn start_working_nodes(&self, ctx: &Context) -> Result<(), StepError> {
        let how = self.how_run(ctx)?;
        let working = how.iter().filter(|one| works_on_data(one.spec.role));
        let (by_unit, by_leader): (Vec<&HowRun>, Vec<&HowRun>) =
            working.partition(|one| !one.unit.is_empty());
        for one in by_unit {
            if self.process_of(ctx, &one.spec).await?.is_none() {
                ctx.node(&one.spec.alias, "starting");
                self.start_one(ctx, one).await?;
            }
        }
        let specs: Vec<NodeSpec> = by_leader.iter().map(|one| one.spec.clone()).collect();
        self.start_through_leader(ctx, &specs).await
    }

    async fn start_through_leader(
        &self,
        ctx: &Context,
        specs: &[NodeSpec],
    ) -> Result<(), StepError> {
        let deadline = ctx.now()
            + Duration::from_millis(ctx.plan().policy.start_timeout_ms).min(ctx.remaining());
        let mut asked_at: Option<Instant> = None;
        let (mut again, mut growing) = (ASK_AGAIN, NOT_TAKEN_AGAIN);
        let mut why = String::new();
        let mut pauses = Pauses::default();
        loop {
            let mut missing = Vec::new();
            for spec in specs {
                if self.process_of(ctx, spec).await?.is_none() {
                    missing.push(spec.clone());
                }
            }
            if missing.is_empty() {
                specs.iter().for_each(|spec| ctx.node(&spec.alias, "started"));
                return Ok(());
            }
            if ctx.now() >= deadline {
                let left = names(missing.iter().map(|spec| &spec.alias));
                let text = format!("{left} did not start through the leading controller{why}");
                return Err(StepError::new(Code::StartFailed, text));
            }
            if asked_at.is_none_or(|at| at.elapsed() >= again) {
                if asked_at.is_none() {
                    missing.iter().for_each(|spec| ctx.node(&spec.alias, "starting"));
                }
                (why, again) = match ctx.until(self.nodes.ask_start(ctx, &missing)).await? {
                    Asked::Taken => ("; it took the order".to_owned(), ASK_AGAIN),
                    Asked::NotTaken(text) => {
                        let pause = growing;
                        growing = (growing * 2).min(ASK_AGAIN);
                        (format!("; it did not take the order: {text}"), pause)
                    }
                    Asked::Unknown(text) => {
                        (format!("; it is unknown what it did: {text}"), ASK_AGAIN)
                    }
                };
                asked_at = Some(ctx.now());
                pauses = Pauses::default();
            }
            pauses.pause(ctx).await?;
        }
    }

    async fn node(&self, ctx: &Context, spec: &NodeSpec) -> Result<NodeHere, StepError> {
        let here = self.nodes_here(ctx, |_| true).await?;
        here.into_iter().find(|node| node.spec.alias == spec.alias).ok_or_else(|| {
            let text = format!("`{}` is not configured for this host any more", spec.alias);
            StepError::new(Code::NodesDiffer, text)
        })
    }

    async fn process_of(
        &self,
        ctx: &Context,
        spec: &NodeSpec,
    ) -> Result<Option<ProcessIdentity>, StepError> {
        let Some(identity) = self.node(ctx, spec).await?.process else { return Ok(None) };
        let alive = is_alive(&identity).map_err(|e| process_error(&e, "look at a process"))?;
        Ok(alive.then_some(identity))
    }

    async fn mark_logs(&self, ctx: &Context) -> Result<(), StepError> {
        if ctx.captured::<Value>(MARKS)?.is_none() {
            let here = self.nodes_here(ctx, |_| true).await?;
            let marks = ctx.until(self.nodes.mark_logs(ctx, &here)).await??;
            ctx.capture(MARKS, &marks)?;
        }
        Ok(())
    }

    /// Where the logs ended before the first start; null if nothing was started yet.
    pub(super) fn marks(&self, ctx: &Context) -> Result<Value, StepError> {
        Ok(ctx.captured(MARKS)?.unwrap_or(Value::Null))
    }

    /// After an undo: every node of the host answers with the version that it had, and is ready.
    pub(super) async fn old_version_answers(&self, ctx: &Context) -> Result<Seen, StepError> {
        let mut pauses = Pauses::default();
        loop {
            let mut waiting = Vec::new();
            let here = self.nodes_here(ctx, |_| true).await?;
            if here.iter().any(|node| node.process.is_none() && works_on_data(node.spec.role)) {
                // One that was still on its way down when it was counted as up.
                self.start_working_nodes(ctx).await?;
            }
            for node in here {
                let look = ctx.until(self.nodes.look(ctx, &node, &Value::Null)).await?;
                let alias = &node.spec.alias;
                match (&look.version, &look.ready) {
                    (Probe::Known(version), _)
                        if ctx.host_plan().from.as_ref().is_some_and(|from| from != version) =>
                    {
                        let text = format!("`{alias}` answers with {version} after the undo");
                        return Err(StepError::new(Code::UndoFailed, text));
                    }
                    (Probe::Known(_), Probe::Known(true)) => {}
                    (Probe::Known(_), Probe::Known(false)) => {
                        waiting.push(format!("`{alias}` is not ready"));
                    }
                    (Probe::Unknown(why), _) | (_, Probe::Unknown(why)) => {
                        waiting.push(format!("`{alias}`: {why}"));
                    }
                }
            }
            if waiting.is_empty() {
                return Ok("every node of this host answers with its old version".into());
            }
            if ctx.check().is_err() {
                let text = format!("not up again: {}", waiting.join("; "));
                return Err(StepError::new(Code::UndoFailed, text));
            }
            if let Err(stop) = pauses.pause(ctx).await {
                let text = format!("{}; not up again: {}", stop.message, waiting.join("; "));
                return Err(StepError::new(stop.code, text));
            }
        }
    }
}

/// How waiting for a node ended.
enum Waited {
    Answers,
    Died(String),
    Silent(String),
}
