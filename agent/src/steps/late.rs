//! A stop that was asked of the leading DolphinDB controller and may yet take effect (S10).
//!
//! Since 3.00.2 the controller answers before it acts, and a connection that breaks leaves open whether
//! it was heard at all. If the node then ends by signal, the order may still be under way, and would
//! stop the *next* process of that node, minutes later, when another host may be down. So a host whose
//! stop has no known outcome is watched for a while before it counts as up.

use std::time::Duration;

use grayfin_types::{Code, NodeAlias, step::Step};

use super::{
    Context, StepError,
    host::{HostSteps, names, works_on_data},
};

/// Journal of the orders: the nodes of each.
const ASKED: &str = "controller-stop-asked";
/// Journal of those whose outcome is known: their numbers.
const SETTLED: &str = "controller-stop-settled";
/// Up to which order the time in which it could take effect has passed.
const OVER: &str = "controller-stop-over";

/// Between two looks whether the nodes still run.
const LOOK: Duration = Duration::from_millis(500);

/// Makes an order durable before it is given. Returns its number.
pub(super) fn is_asked(ctx: &Context, nodes: &[NodeAlias]) -> Result<usize, StepError> {
    ctx.journal(ASKED, &nodes.to_vec())?;
    Ok(ctx.journalled::<Vec<NodeAlias>>(Step::Quiesce, ASKED)?.len())
}

/// Makes durable that an order's outcome is known.
pub(super) fn is_settled(ctx: &Context, number: usize) -> Result<(), StepError> {
    ctx.journal(SETTLED, &number)
}

/// The newest order, if one up to it may still take effect.
fn pending(ctx: &Context) -> Result<Option<usize>, StepError> {
    let asked = ctx.journalled::<Vec<NodeAlias>>(Step::Quiesce, ASKED)?.len();
    let settled = ctx.journalled::<usize>(Step::Quiesce, SETTLED)?;
    let mut over = ctx.journalled::<usize>(Step::Quiesce, OVER)?;
    over.extend(ctx.journalled::<usize>(Step::Join, OVER)?);
    let over = over.into_iter().max().unwrap_or(0);
    let open = (over.saturating_add(1)..=asked).any(|number| !settled.contains(&number));
    Ok(open.then_some(asked))
}

impl HostSteps {
    /// Watches the data and compute nodes, which run again, until no stop can take effect any more.
    /// Fails if one ends meanwhile: it is started again by a retry.
    pub(super) async fn late_stop_is_over(&self, ctx: &Context) -> Result<(), StepError> {
        let Some(asked) = pending(ctx)? else { return Ok(()) };
        let limit = Duration::from_millis(ctx.plan().policy.late_stop_ms);
        let begun = ctx.now();
        let mut told = false;
        loop {
            let here = self.nodes_here(ctx, works_on_data).await?;
            let ended = here.iter().filter(|node| node.process.is_none());
            let ended = names(ended.map(|node| &node.spec.alias));
            if !ended.is_empty() {
                let text = format!(
                    "{ended} ended after the start: the stop that was asked of the DolphinDB controller, \
                     of which nobody knew whether it was heard, may have taken effect now"
                );
                return Err(StepError::new(Code::JoinFailed, text));
            }
            if ctx.now().duration_since(begun) >= limit {
                return ctx.journal(OVER, &asked);
            }
            if !told {
                here.iter()
                    .for_each(|node| ctx.node(&node.spec.alias, "watched: a stop may come late"));
                told = true;
            }
            ctx.until(tokio::time::sleep(LOOK)).await?;
        }
    }
}
