//! Choosing the next host, and granting its hold.

use grayfin_types::{Code, HostId, Token, facts::UnsettledChunk, status::RolloutState};

use super::Work;
use crate::{
    cmd::Cmd,
    gates::{self, Gate, Moment, reason, short_of_replicas},
    hold, mutation, order,
    state::{Hold, Staging},
};

impl Work<'_> {
    /// No host is in turn: verifies those that are done already, then chooses one.
    pub(super) fn next_host(&mut self) {
        if self.skip_those_done() {
            return;
        }
        let choice = match order::next(self.state, self.view, self.rollout, self.now_ms) {
            Ok(Some(choice)) => choice,
            Ok(None) => {
                self.commands.push(Cmd::Verify { rollout: self.rollout.id.clone() });
                return;
            }
            Err(reasons) => {
                self.waiting.extend(reasons);
                self.canary(None);
                return;
            }
        };
        if self.rollout.baseline.is_none() {
            self.take_baseline();
            return;
        }
        self.canary(Some(&choice.host));
        if !self.commands.is_empty() {
            return;
        }
        let findings =
            gates::before(self.state, self.view, self.rollout, &choice.host, self.now_ms);
        self.waiting = gates::against(&findings);
        if self.waiting.is_empty() {
            let rollout = self.rollout.id.clone();
            self.commands.push(Cmd::AllotToken { rollout, host: choice.host });
        }
    }

    /// Hosts that were on the target when the rollout was planned are verified and skipped.
    fn skip_those_done(&mut self) -> bool {
        let rollout = self.rollout;
        for run in &rollout.hosts {
            if run.staging != Staging::NotNeeded || run.ended() {
                continue;
            }
            let input = self.input(Moment::After, Some(&run.host));
            let findings = gates::ask(&[Gate::Versions], &input);
            let against = gates::against(&findings);
            if against.is_empty() {
                self.commands.push(Cmd::SkipDone {
                    rollout: rollout.id.clone(),
                    host: run.host.clone(),
                    reason: format!("every node answers with {} already", rollout.plan.target),
                });
            } else {
                self.waiting.extend(against);
            }
        }
        !self.commands.is_empty() || !self.waiting.is_empty()
    }

    fn take_baseline(&mut self) {
        let input = self.input(Moment::Grant, None);
        let against = gates::against(&gates::ask(&[Gate::ReplicasWhole], &input));
        if !against.is_empty() {
            self.waiting.extend(against);
            return;
        }
        let factor = input
            .cluster_facts()
            .and_then(|facts| input.known(&facts.replication_factor, "dfsReplicationFactor"));
        match (factor, input.chunks()) {
            (Ok(factor), Ok(chunks)) => {
                let short: Vec<UnsettledChunk> =
                    short_of_replicas(chunks, *factor).into_iter().cloned().collect();
                let rollout = self.rollout.id.clone();
                self.commands.push(Cmd::SetBaseline { rollout, chunks: short });
            }
            (Err(why), _) | (_, Err(why)) => self.wait(why),
        }
    }

    /// A token is allotted: waits for promises, looks again, grants.
    pub(super) fn granting(&mut self, host: &HostId, token: Token) {
        let Some(held) = self.state.hold_of(&self.rollout.id) else { return };
        let rollout = self.rollout.id.clone();
        let on = mutation::is("commitment-grant-while-paused");
        if self.rollout.state != RolloutState::Running && !on {
            self.commands.push(Cmd::AbandonToken { rollout, token });
            return;
        }
        let choice = match order::next(self.state, self.view, self.rollout, self.now_ms) {
            Ok(Some(choice)) if &choice.host == host => choice,
            // The leader moved onto the host meanwhile, or away from another one.
            Ok(_) => {
                self.commands.push(Cmd::AbandonToken { rollout, token });
                return;
            }
            Err(reasons) => {
                self.waiting.extend(reasons);
                return;
            }
        };
        self.canary(Some(host));
        if !self.commands.is_empty() {
            return;
        }
        self.missing_promises(held);
        let findings = gates::before(self.state, self.view, self.rollout, host, self.now_ms);
        self.waiting.extend(gates::against(&findings));
        if self.waiting.is_empty() && self.effects_in_force(token) {
            let (host, reason) = (choice.host, choice.reason);
            self.commands.push(Cmd::Grant { rollout, host, token, reason, findings });
        }
    }

    fn missing_promises(&mut self, held: &Hold) {
        for (other, cluster) in hold::missing(self.state, held) {
            let refusal = held
                .promises
                .iter()
                .find(|p| p.host == other && p.cluster == cluster)
                .and_then(|p| p.refusal.clone());
            let (code, evidence) = match refusal {
                Some((code, why)) => (code, format!("its host agent refuses the promise: {why}")),
                None if self.view.is_connected(&other) => (
                    Code::PromiseMissing,
                    format!("its promise of token {} is awaited", held.token),
                ),
                None => (
                    Code::PromiseMissing,
                    "its host agent must promise, but is not connected".to_owned(),
                ),
            };
            self.wait(reason(
                code,
                other.to_string(),
                evidence,
                format!(
                    "start the host agent on `{other}`; or, if the host is switched off for good, `grayfin hold attest {other} --token {}`",
                    held.token
                ),
            ));
        }
    }
}
