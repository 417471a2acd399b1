//! Step `join`: every node of the host is proven to run the new version and to be ready, and nothing
//! that lived only in memory is missing without having been accepted.

use std::{collections::BTreeSet, time::Duration};

use grayfin_types::{
    Code,
    facts::{MemoryObject, Probe},
};

use super::{
    Context, Precheck, Seen, StepError,
    host::HostSteps,
    nodes::{NodeHere, NodeLook},
    waiting::Pauses,
};

/// How long what a startup script makes again is waited for: it runs right after a node is ready.
const STARTUP_SCRIPT: Duration = Duration::from_secs(30);

/// Missing objects named in a message; the rest is counted.
const SHOWN_MAX: usize = 5;

impl HostSteps {
    pub(super) async fn check_join(&self, _: &Context) -> Result<Precheck, StepError> {
        Ok(Precheck::Ready)
    }

    pub(super) async fn join(&self, ctx: &Context) -> Result<Seen, StepError> {
        let mut pauses = Pauses::default();
        let mut ready = BTreeSet::new();
        loop {
            let mut waiting = Vec::new();
            for node in self.nodes_here(ctx, |_| true).await? {
                let look = ctx.until(self.nodes.look(ctx, &node, &self.marks(ctx)?)).await?;
                match self.judge_node(ctx, &node, &look)? {
                    None => {
                        if ready.insert(node.spec.alias.clone()) {
                            ctx.node(&node.spec.alias, "ready");
                        }
                    }
                    Some(why) => waiting.push(format!("`{}` {why}", node.spec.alias)),
                }
            }
            if waiting.is_empty() {
                break;
            }
            if let Err(stop) = pauses.pause(ctx).await {
                let text = format!("{}; {}", stop.message, waiting.join("; "));
                let timed_out = stop.code == Code::StepTimeout;
                let code = if timed_out { Code::JoinFailed } else { stop.code };
                return Err(StepError::new(code, text));
            }
        }
        self.nothing_lost(ctx).await?;
        self.late_stop_is_over(ctx).await?;
        Ok(format!("{} nodes run {} and are ready", ready.len(), ctx.plan().target).into())
    }

    pub(super) async fn verify_join(&self, ctx: &Context) -> Result<Seen, StepError> {
        let mut count = 0;
        for node in self.nodes_here(ctx, |_| true).await? {
            let look = ctx.until(self.nodes.look(ctx, &node, &self.marks(ctx)?)).await?;
            if let Some(why) = self.judge_node(ctx, &node, &look)? {
                let text = format!("`{}` {why}", node.spec.alias);
                return Err(StepError::new(Code::JoinFailed, text));
            }
            count += 1;
        }
        Ok(format!("{count} nodes answer with {}", ctx.plan().target).into())
    }

    /// Says what is still missing of a node, none if nothing is; fails where waiting cannot help.
    fn judge_node(
        &self,
        ctx: &Context,
        node: &NodeHere,
        look: &NodeLook,
    ) -> Result<Option<String>, StepError> {
        let alias = &node.spec.alias;
        let Some(process) = &node.process else {
            let text = format!("`{alias}` has ended after its start");
            return Err(StepError::new(Code::JoinFailed, text));
        };
        if !self.runs_new(ctx, node) {
            let text = format!(
                "`{alias}` (process {}) runs `{}`, which is not the new executable",
                process.pid, process.executable
            );
            return Err(StepError::new(Code::VersionNotReached, text));
        }
        let target = &ctx.plan().target;
        match &look.version {
            // A server that does not name its variant is not contradicted by that.
            Probe::Known(version)
                if version.same_numbers(target)
                    && (version.variant().is_empty() || version.same_variant(target)) => {}
            Probe::Known(version) => {
                let text = format!("`{alias}` answers with {version}, not with {target}");
                return Err(StepError::new(Code::VersionNotReached, text));
            }
            Probe::Unknown(why) => return Ok(Some(format!("does not tell its version: {why}"))),
        }
        match &look.ready {
            Probe::Known(true) => {}
            Probe::Known(false) => return Ok(Some("is not ready yet".to_owned())),
            Probe::Unknown(why) => return Ok(Some(format!("may not be ready: {why}"))),
        }
        if let Some(Probe::Unknown(why)) = &look.leader {
            return Ok(Some(format!("names no leader: {why}")));
        }
        if look.start_marker == Probe::Known(false) {
            return Ok(Some("has no start marker in its log yet".to_owned()));
        }
        Ok(None)
    }

    /// S13: what was only in memory is there again, or its loss was accepted by name.
    async fn nothing_lost(&self, ctx: &Context) -> Result<(), StepError> {
        let before = self.memory_before(ctx)?;
        if before.is_empty() {
            return Ok(());
        }
        let deadline = ctx.now() + STARTUP_SCRIPT.min(ctx.remaining() / 2);
        let mut pauses = Pauses::default();
        loop {
            let now = ctx.until(self.nodes.memory(ctx)).await??;
            let lost = lost(&before, &now, &ctx.plan().accepted_losses);
            if lost.is_empty() {
                return Ok(());
            }
            if ctx.now() >= deadline {
                let shown: Vec<&str> = lost.iter().take(SHOWN_MAX).map(String::as_str).collect();
                let more = if lost.len() > SHOWN_MAX { ", …" } else { "" };
                let text = format!(
                    "{} things that were only in memory are not there any more and were not accepted: {}{more}",
                    lost.len(),
                    shown.join(", ")
                );
                return Err(StepError::new(Code::MemoryLoss, text));
            }
            pauses.pause(ctx).await?;
        }
    }
}

/// Objects that are missing and whose loss nobody accepted, as `node/kind/name`.
fn lost(before: &[MemoryObject], now: &[MemoryObject], accepted: &[String]) -> Vec<String> {
    let name = |o: &MemoryObject| format!("{}/{}/{}", o.node, o.kind, o.name);
    let there: BTreeSet<String> = now.iter().map(name).collect();
    before.iter().map(name).filter(|one| !there.contains(one) && !accepted.contains(one)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_and_not_accepted_is_lost() {
        let object = |name: &str| MemoryObject {
            node: "node43".parse().unwrap(),
            kind: "stream_table".into(),
            name: name.into(),
            provided_for: false,
        };
        let before = [object("a"), object("b"), object("c")];
        let accepted = ["node43/stream_table/b".to_owned()];
        assert_eq!(lost(&before, &[object("a")], &accepted), ["node43/stream_table/c"]);
        assert!(lost(&[], &before, &[]).is_empty());
    }
}
