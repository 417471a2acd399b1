//! The end: every configured node of every role answers with the target version, by its own host
//! agent's fresh facts.

use grayfin_types::{
    HostId,
    facts::{Probe, ProcessState},
};

use super::Work;
use crate::{
    cmd::Cmd,
    gates::{self, Moment},
};

impl Work<'_> {
    pub(super) fn verifying(&mut self) {
        if !self.canary_ended() || !self.rows_are_there("end") {
            return;
        }
        let rollout = self.rollout;
        // Hosts that an operator left out are not on the target, and are not waited for.
        let left_out = rollout.left_out();
        let hosts = rollout.hosts.iter().map(|run| run.host.clone());
        let proven: Vec<HostId> = hosts.filter(|host| !left_out.contains(host)).collect();
        let mut input = self.input(Moment::After, None);
        input.hosts = &proven;
        let against = gates::against(&gates::at_end(&input));
        let ok = against.is_empty();
        let waited_ms = self
            .view
            .stages
            .get(&rollout.id)
            .map_or(0, |seen| self.now_ms.saturating_sub(seen.at_ms));
        let over = waited_ms > rollout.plan.policy.recover_timeout_ms;
        if !against.is_empty() && !over {
            self.waiting.extend(against);
            return;
        }
        let versions = self.versions();
        self.commands.push(Cmd::Finish { rollout: rollout.id.clone(), versions, ok });
    }

    /// Lists every node with its role and the version that it answers with, or what was seen
    /// instead.
    fn versions(&self) -> Vec<(String, String, String)> {
        let mut lines = Vec::new();
        for planned in &self.rollout.plan.hosts {
            let facts = self.view.facts(&planned.host, &self.rollout.cluster);
            for spec in &planned.nodes {
                let node = facts
                    .and_then(|seen| seen.value.nodes.iter().find(|n| n.spec.alias == spec.alias));
                let seen = match node {
                    None => "not seen".to_owned(),
                    Some(node) => match (&node.process, &node.version) {
                        (ProcessState::Running(_), Probe::Known(version)) => version.to_string(),
                        (ProcessState::Running(_), Probe::Unknown(why)) => why.clone(),
                        (ProcessState::Absent, _) => "down".to_owned(),
                        (ProcessState::Unknown(why), _) => why.clone(),
                    },
                };
                lines.push((spec.alias.to_string(), spec.role.to_string(), seen));
            }
        }
        lines
    }
}
