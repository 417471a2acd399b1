//! Step `guard`: may this host go down, as seen from here, now (S4)? It changes nothing.

use grayfin_types::{Code, NodeAlias};

use super::{Context, Precheck, Seen, StepError, host::HostSteps, interlock::Lock};

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
        let all = all_nodes(ctx);
        drop(ctx.ask_go(&all).await?);
        ctx.until(self.nodes.guard(ctx, &all)).await?
    }

    pub(super) async fn verify_guard(&self, ctx: &Context) -> Result<Seen, StepError> {
        let here = self.nodes_here(ctx, |_| true).await?;
        let running = here.iter().filter(|node| node.process.is_some()).count();
        Ok(format!("{running} of {} nodes run here", here.len()).into())
    }
}

/// Every node of this host: each down action is judged as if all of them were gone.
pub(super) fn all_nodes(ctx: &Context) -> Vec<NodeAlias> {
    ctx.host_plan().nodes.iter().map(|node| node.alias.clone()).collect()
}
