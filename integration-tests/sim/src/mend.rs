//! What people put in order after the faults: hosts that are dead, amnesic or stopped, and a group that
//! was cloned.

use grayfin_agent_core::state::Phase;
use grayfin_coordinator_core::{Response, cmd::Action, hold, readmit, state::HoldStage};
use grayfin_types::{
    HostId, RolloutId, Token,
    step::{SequenceState, Step},
};

use crate::{cluster::Tree, facts::cluster_id, world::World};

impl World {
    /// People start what they stopped, attest what is dead, readmit what is amnesic.
    pub(crate) fn mend_hosts(&mut self) {
        for h in 0..self.agents.len() {
            let id = self.agents[h].id.clone();
            if self.cluster.hosts[h].dead {
                self.attest(h, &id);
                continue;
            }
            let amnesic = self.groups[0].state.hosts.get(&id).is_some_and(|e| e.amnesic.is_some());
            if amnesic || self.holds_unknown(h) {
                self.readmit(h);
                continue;
            }
            self.remove_forgotten_interlock(h);
            self.stop_what_appeared(h);
            self.start_what_nobody_remembers(h);
            let free = self.hold(h).is_none() && self.truth.hosts[h].disturbed.is_none();
            if free && !self.cluster.all_up(h) && self.cluster.hosts[h].on {
                for node in self.cluster.of_host(h).collect::<Vec<_>>() {
                    self.cluster.start(node, self.now_ms + 50);
                }
                self.tally.note("nodes started by people");
            }
            let broken = self.groups[0].state.broken.iter().find(|b| b.host == id && !b.settled);
            if let Some(rollout) = broken.map(|b| b.rollout.clone())
                && self.dice.percent(30)
                && self.control(&rollout, Action::Abort) == Some(Response::Done)
            {
                self.tally.note("remedy: abort of a broken hold");
            }
        }
        if self.groups[0].state.active(&cluster_id()).is_none() {
            self.restore_memory();
            self.cluster.lost_rows = 0;
        }
    }

    /// An old ledger that grew again unnoticed does not know of the interlock, or of what was replaced:
    /// the failed step says so, and a person puts the host in order.
    fn remove_forgotten_interlock(&mut self, h: usize) {
        let forgot = self.hold(h).is_some_and(|hold| {
            matches!(hold.phase, Phase::Ended(SequenceState::Failed { .. }))
                && !hold.begun(Step::Backup)
        });
        let host = &mut self.cluster.hosts[h];
        if forgot && host.interlock {
            host.interlock = false;
            if host.tree == Tree::Half {
                host.tree = Tree::Old;
            }
            self.tally.note("interlock that an old ledger forgot removed by a person");
        }
    }

    /// Somebody started nodes while their software was being replaced: the failed step names them, and a
    /// person stops them again.
    fn stop_what_appeared(&mut self, h: usize) {
        let appeared = self.hold(h).is_some_and(|hold| {
            matches!(&hold.phase, Phase::Ended(SequenceState::Failed { message, .. })
                if message.contains("processes run while none may"))
        });
        if appeared {
            for node in self.cluster.of_host(h).collect::<Vec<_>>() {
                self.cluster.gone(node, self.now_ms);
            }
            self.tally.note("nodes that appeared stopped by people");
        }
    }

    /// An old ledger and coordinators that were put back know nothing of a host that is down: the next
    /// plan names its nodes, and a person starts them.
    fn start_what_nobody_remembers(&mut self, h: usize) {
        let state = &self.groups[0].state;
        let forgotten = self.truth.hosts[h].disturbed.is_some()
            && self.hold(h).is_none()
            && state.active(&cluster_id()).is_none()
            && state.holds.is_empty()
            && state.broken.is_empty();
        if !forgotten {
            return;
        }
        if self.cluster.all_up(h) {
            self.truth.hosts[h].disturbed = None;
            return;
        }
        let host = &mut self.cluster.hosts[h];
        host.interlock = false;
        host.units_on = host.units_before;
        if host.tree == Tree::Half {
            host.tree = if host.rewritten { Tree::New } else { Tree::Old };
        }
        if host.tree == Tree::New {
            self.truth.hosts[h].first_start.get_or_insert(Token(0));
        }
        for node in self.cluster.of_host(h).collect::<Vec<_>>() {
            self.cluster.start(node, self.now_ms + 50);
        }
        self.tally.note("host that nobody remembered started by people");
    }

    /// Tells whether a hold is open at a host that the coordinators, whose state was restored, know
    /// nothing of: nobody can close it any more.
    fn holds_unknown(&self, h: usize) -> bool {
        let state = &self.groups[0].state;
        let Some(token) = self.agents[h].state.open_hold() else { return false };
        let held = state.holds.values().any(|hold| hold.token == token);
        let broken = state.broken.iter().any(|broken| broken.token == token);
        let known = held
            || broken
            || state.rollouts.values().any(|r| {
                !r.state.is_final()
                    && r.host(&self.agents[h].id).is_some_and(|run| run.token == Some(token))
            });
        !known && self.agents[h].session.is_some()
    }

    fn attest(&mut self, h: usize, id: &HostId) {
        let known = self.groups[0].state.hosts.get(id);
        if known.is_none_or(|e| e.gone.is_some()) {
            return;
        }
        let Some(rollout) = self.groups[0].state.newest(None).map(|r| r.id.clone()) else {
            return;
        };
        let hold = self.groups[0].state.holds.get(&cluster_id());
        let held = hold.filter(|x| &x.host == id && x.stage != HoldStage::Asking).map(|x| x.token);
        if let Some(token) = held {
            if self.control(&rollout, Action::BreakHold { token }) == Some(Response::Done) {
                self.tally.note("hold of a dead host broken");
            }
            return;
        }
        let Some(token) = hold::tokens_of(&self.groups[0].state, id).last().copied() else {
            return;
        };
        let action = Action::AttestPoweredOff { host: id.clone(), token };
        if self.control(&rollout, action) == Some(Response::Done) {
            self.tally.note("dead host attested");
            self.operator.gone.push(h);
            self.truth.hosts[h].disturbed = None;
        }
    }

    /// A person brings the host up and readmits it; Grayfin looks whether that is proven (S8).
    fn readmit(&mut self, h: usize) {
        let id = self.agents[h].id.clone();
        let held = self.groups[0].state.holds.get(&cluster_id());
        if let Some(held) = held.filter(|x| x.host == id && x.stage != HoldStage::Asking) {
            let (token, rollout) = (held.token, held.rollout.clone());
            if self.control(&rollout, Action::BreakHold { token }) == Some(Response::Done) {
                self.tally.note("hold of an amnesic host broken");
            }
            return;
        }
        let host = &mut self.cluster.hosts[h];
        host.interlock = false;
        host.units_on = host.units_before;
        host.helper_until = None;
        if host.tree == Tree::Half {
            host.tree = if host.rewritten { Tree::New } else { Tree::Old };
        }
        if !self.cluster.all_up(h) {
            let down_since = self.truth.hosts[h].down_since_ms.unwrap_or(self.now_ms);
            if self.now_ms > down_since + 900 && self.chaos.side.percent(30) {
                self.tally.note("readmission asked for while nodes are down");
                self.readmit_proven(h);
            }
            for node in self.cluster.of_host(h).collect::<Vec<_>>() {
                // A person may start the new version: that it is proven is the point.
                if self.cluster.hosts[h].tree == Tree::New {
                    self.truth.hosts[h].first_start.get_or_insert(Token(0));
                }
                self.cluster.start(node, self.now_ms + 20);
            }
            return;
        }
        let wiped = self.truth.hosts[h].amnesic && self.agents[h].entries.len() < 4;
        if wiped && self.hold(h).is_none() && self.dice.percent(30) {
            self.enrol_anew(h);
            return;
        }
        self.readmit_proven(h);
    }

    fn readmit_proven(&mut self, h: usize) {
        let id = self.agents[h].id.clone();
        let Some(r) = self.groups[0].leader else { return };
        let (group, now_ms) = (&self.groups[0], self.now_ms);
        let view = &group.replicas[r].view;
        let Ok(action) = readmit::prove(&group.state, view, &cluster_id(), &id, now_ms) else {
            self.tally.note("readmission waits for proof");
            return;
        };
        let pending = group.state.hosts.get(&id).and_then(|e| e.readmission.as_ref());
        if pending.is_some_and(|pending| pending.readmit.act.starts_with("control"))
            && self.dice.percent(80)
        {
            // It was done: the host agent takes it in when it says hello.
            return;
        }
        // Which rollout it is told in does not matter: there may be none yet.
        let newest = group.state.newest(None).map(|r| r.id.clone());
        let Some(rollout) = newest.or_else(|| RolloutId::new("none").ok()) else { return };
        if self.control(&rollout, action) == Some(Response::Done) {
            self.say(|_| format!("{id} is readmitted by the operator"));
            // As the coordinator does, so that it says hello again.
            self.end_session(h);
        }
    }

    /// An operator issues a new certificate to a host whose ledger is lost.
    fn enrol_anew(&mut self, h: usize) {
        self.kill_agent(h);
        self.agents[h].generation += 1;
        let truth = &mut self.truth.hosts[h];
        (truth.amnesic, truth.disturbed) = (false, None);
        self.say(|w| format!("{} is enrolled anew", w.agents[h].id));
        self.tally.note("host enrolled anew");
    }

    /// Host agents that refuse an older authority show that the group was cloned: its incarnation is
    /// raised by an operator's act (S2).
    pub(crate) fn mend_coordinators(&mut self) {
        if self.operator.refused == 0 {
            self.operator.refusals = 0;
            return;
        }
        self.operator.refused = 0;
        self.operator.refusals += 1;
        if self.operator.refusals >= 3 {
            self.operator.refusals = 0;
            let state = self.groups[0].state.clone();
            self.restore(state);
            self.tally.note("remedy: incarnation raised");
        }
    }
}
