//! Step `guard`: may this host go down, as seen from here, now (S4)? It changes nothing.

use std::time::Duration;

use grayfin_types::{Code, NodeAlias};

use super::{Context, Go, Precheck, Seen, StepError, host::HostSteps, interlock::Lock};

/// How long a no is asked again: longer than DolphinDB takes to notice that a node is back (8 s by
/// default), short beside what a host may be down.
const NO_PATIENCE: Duration = Duration::from_secs(10);
/// Between two questions: each go that is denied is an event.
const NO_PAUSE: Duration = Duration::from_secs(1);

impl HostSteps {
    pub(super) async fn check_guard(&self, ctx: &Context) -> Result<Precheck, StepError> {
        let this = self.clone();
        ctx.blocking(move |ctx| {
            // Nothing is stopped before the package is there (S5); whether it is still whole is looked
            // at by `stage`, which the runner verifies first.
            if this.staged(ctx)?.is_none() {
                let text = "the package is not unpacked on this host: stage again";
                return Err(StepError::new(Code::PackageMissing, text));
            }
            match this.interlock(ctx).look() {
                Lock::Off => Ok(Precheck::Ready),
                Lock::On | Lock::Both | Lock::Neither => {
                    let open = this.interlock(ctx).open;
                    let text = format!("the executable is not simply at `{}`", open.display());
                    Err(StepError::new(Code::GuardRefused, text))
                }
            }
        })
        .await
    }

    pub(super) async fn guard(&self, ctx: &Context) -> Result<Seen, StepError> {
        // Asked here too, so that a rollout that may not go on ends before anything is prepared.
        let (_go, seen) = self.may_go(ctx, &all_nodes(ctx)).await?;
        Ok(seen)
    }

    /// Asks for a go to take `nodes` down, and judges from here as if all of this host were gone. A
    /// node may be silent for a moment, a chunk between two versions: a no is asked again, the go
    /// with it, before it counts.
    pub(super) async fn may_go(
        &self,
        ctx: &Context,
        nodes: &[NodeAlias],
    ) -> Result<(Go, Seen), StepError> {
        let until = ctx.now() + NO_PATIENCE;
        loop {
            let no = match ctx.ask_go(nodes).await {
                Ok(go) => match ctx.until(self.nodes.guard(ctx, &all_nodes(ctx))).await? {
                    Ok(seen) => return Ok((go, seen)),
                    Err(no) => no,
                },
                Err(no) if no.code == Code::NoGo => no,
                Err(other) => return Err(other),
            };
            if ctx.now() >= until {
                return Err(no);
            }
            ctx.until(tokio::time::sleep(NO_PAUSE)).await?;
        }
    }

    pub(super) async fn verify_guard(&self, ctx: &Context) -> Result<Seen, StepError> {
        let here = self.nodes_here(ctx, |_| true).await?;
        let running = here.iter().filter(|node| node.process.is_some()).count();
        Ok(format!("{running} of {} nodes run here", here.len()).into())
    }
}

/// Every node of this host: each down action is judged as if all of them were gone.
fn all_nodes(ctx: &Context) -> Vec<NodeAlias> {
    ctx.host_plan().nodes.iter().map(|node| node.alias.clone()).collect()
}
