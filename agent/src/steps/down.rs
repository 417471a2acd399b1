//! Step `stop`: the DolphinDB agent and the controllers go, until no process of the installation is
//! left.

use std::time::Duration;

use grayfin_types::{Code, NodeAlias, facts::NodeRole};

use super::{
    Context, Precheck, Seen, StepError,
    ending::{Ending, end},
    host::{HostSteps, place, process_error},
    nodes::NodeHere,
    quiesce::controls,
    reach::{matched_by_script, outside},
};
use crate::{
    config::StopBy,
    process::{Owner, how::account_environment, launch::Program},
};

/// How often processes may appear anew while everything is being stopped before it counts as failed:
/// a controller's own restart of a data node takes one round; three mean that somebody fights us.
const ROUNDS_MAX: u32 = 4;

/// For the site's stop script itself: it only sends signals and does not wait.
const SCRIPT_LIMIT: Duration = Duration::from_secs(60);

impl HostSteps {
    pub(super) async fn check_stop(&self, ctx: &Context) -> Result<Precheck, StepError> {
        if self.members(ctx)?.is_empty() {
            return Ok(Precheck::AlreadyDone("no process of the installation runs".into()));
        }
        // Who they are must be known before anything more goes.
        self.nodes_here(ctx, |_| true).await?;
        Ok(Precheck::Ready)
    }

    pub(super) async fn stop(&self, ctx: &Context) -> Result<Seen, StepError> {
        let begun = ctx.now();
        let mut count = 0;
        for _ in 0..ROUNDS_MAX {
            let running: Vec<NodeHere> = self
                .nodes_here(ctx, |_| true)
                .await?
                .into_iter()
                .filter(|node| node.process.is_some())
                .collect();
            if running.is_empty() {
                self.settle_units(ctx).await?;
                let took = ctx.now().duration_since(begun).as_millis();
                return Ok(format!("{count} processes gone after {took} ms").into());
            }
            count += running.len();
            match &ctx.installation().stop {
                StopBy::Signal => self.stop_by_signal(ctx, &running).await?,
                StopBy::Script(script) => self.stop_by_script(ctx, script, &running).await?,
            }
        }
        let text = "processes of the installation keep coming back while they are stopped: find out \
            what starts them";
        Err(StepError::new(Code::ProcessAppeared, text))
    }

    pub(super) async fn verify_stop(&self, ctx: &Context) -> Result<Seen, StepError> {
        self.nothing_runs(ctx)?;
        Ok("no process of the installation runs".into())
    }

    /// Controllers and DolphinDB agent up again.
    pub(super) async fn undo_stop(&self, ctx: &Context) -> Result<Seen, StepError> {
        self.release_units(ctx).await?;
        if self.untouched(ctx).await? {
            return Ok("nothing was stopped".into());
        }
        self.start_controlling_nodes(ctx).await?;
        place("step.stop.started_again");
        Ok("controllers and DolphinDB agent run again".into())
    }

    /// The agent goes with the first controller, each further controller on its own; data nodes that
    /// came back go first, without a new go: they are down already as far as anybody was promised.
    async fn stop_by_signal(&self, ctx: &Context, running: &[NodeHere]) -> Result<(), StepError> {
        let role = |wanted: fn(NodeRole) -> bool| -> Vec<NodeHere> {
            running.iter().filter(|node| wanted(node.spec.role)).cloned().collect()
        };
        let again = role(|role| !controls(role));
        if !again.is_empty() {
            self.end_nodes(ctx, &again).await?;
        }
        let mut first = role(|role| role == NodeRole::DdbAgent);
        let mut controllers = role(|role| role == NodeRole::Controller).into_iter();
        first.extend(controllers.next());
        if !first.is_empty() {
            self.take_down(ctx, &first).await?;
        }
        for controller in controllers {
            self.take_down(ctx, &[controller]).await?;
        }
        Ok(())
    }

    /// One down action: go, guard, intent, and at once the act.
    async fn take_down(&self, ctx: &Context, nodes: &[NodeHere]) -> Result<(), StepError> {
        let aliases: Vec<NodeAlias> = nodes.iter().map(|node| node.spec.alias.clone()).collect();
        let (go, _seen) = self.may_go(ctx, &aliases).await?;
        self.going_down(ctx, go)?;
        place("step.stop.going_down");
        aliases.iter().for_each(|alias| ctx.node(alias, "stopping"));
        self.end_nodes(ctx, nodes).await?;
        place("step.stop.stopped");
        aliases.iter().for_each(|alias| ctx.node(alias, "stopped"));
        Ok(())
    }

    async fn stop_by_script(
        &self,
        ctx: &Context,
        script: &[String],
        running: &[NodeHere],
    ) -> Result<(), StepError> {
        let installation = ctx.installation();
        let owner = Owner::of_file(&installation.executable_path())
            .map_err(|e| process_error(&e, "find the installation's owner"))?;
        let mut program = Program::new(script, &installation.work_dir)
            .with("PATH", &installation.path)
            .with("TERM", "xterm");
        let uid = owner.uid;
        program.owner = Some(owner);
        let program = account_environment(program, uid);
        let user = program.environment.iter().find(|(name, _)| name == "USER");
        let user = user.map(|(_, value)| value.clone()).unwrap_or_default();
        let matched = matched_by_script(script, &installation.work_dir, &user)?;
        let ours: Vec<u32> = self.members(ctx)?.iter().map(|member| member.identity.pid).collect();
        if let Some(line) = outside(&matched, &ours) {
            let text = format!(
                "the stop script would also end {line}, which is not of this installation: use \
                 `stop = \"signal\"`"
            );
            return Err(StepError::new(Code::StopScriptTooWide, text));
        }
        let aliases: Vec<NodeAlias> = running.iter().map(|node| node.spec.alias.clone()).collect();
        let (go, _seen) = self.may_go(ctx, &aliases).await?;
        self.going_down(ctx, go)?;
        place("step.stop.going_down");
        let helper = self.helper(ctx);
        let ran = ctx.until(helper.run(&program, "", SCRIPT_LIMIT)).await?;
        ran.map_err(|e| process_error(&e, "run the stop script"))?;
        // Its exit code says nothing (123 when there was nothing to do), so what it was to end is
        // waited for, and asked once more by identity.
        let what: Vec<Ending> = running
            .iter()
            .filter_map(|node| {
                let identity = node.process.clone()?;
                Some(Ending { name: node.spec.alias.to_string(), identity })
            })
            .collect();
        end(ctx, &what).await.map(drop)
    }

    /// With their processes gone, units are told to be down; otherwise systemd would still think of
    /// restarting them.
    async fn settle_units(&self, ctx: &Context) -> Result<(), StepError> {
        for unit in self.units_before(ctx)? {
            let stopped = ctx.until(self.systemctl(ctx).stop(&unit.name)).await?;
            stopped.map_err(|e| process_error(&e, "tell systemd that a unit is down"))?;
        }
        Ok(())
    }
}
