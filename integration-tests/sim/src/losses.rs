//! Memory that is lost: ledgers wiped or put back to an older copy, alone, with the marks outside their
//! folder, and together with the coordinators' state (double losses).

use grayfin_coordinator_core::State;
use grayfin_types::HostId;

use crate::{agent::Mark, world::World};

impl World {
    /// A ledger is lost, or put back to less than the coordinators know of it. What nobody has heard of
    /// can be put back unnoticed: that is what S8 cannot promise.
    pub(crate) fn fault_ledger(&mut self, h: usize) {
        let id = self.agents[h].id.clone();
        let known = self.groups[0].state.hosts.get(&id).map_or(0, |e| e.ledger_position);
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        let wiped = self.dice.percent(50);
        if known < 2 || known > self.agents[h].entries.len() {
            return;
        }
        self.kill_agent(h);
        if wiped {
            self.agents[h].new_ledger();
            self.tally.note("ledger wiped");
        } else {
            let keep = 1 + self.dice.index(known - 1);
            self.agents[h].put_back(keep);
            self.tally.note("ledger put back to an older copy");
        }
        self.lost(h, wiped);
    }

    /// Coordinators that were put back, or cloned, and a ledger of the same time: nobody but the other
    /// host agents, and the mark outside the ledger's folder, knows what happened since.
    pub(crate) fn fault_double(&mut self, state: &State) {
        if !self.chaos.side.percent(40) {
            return;
        }
        let disturbed = (0..self.agents.len()).find(|h| self.truth.hosts[*h].disturbed.is_some());
        let any = self.chaos.side.index(self.agents.len());
        let h = disturbed.filter(|_| self.chaos.side.percent(80)).unwrap_or(any);
        let known = state.hosts.get(&self.agents[h].id).map_or(0, |e| e.ledger_position);
        let keep = usize::try_from(known).unwrap_or(usize::MAX);
        if self.cluster.hosts[h].dead || keep < 1 || keep >= self.agents[h].entries.len() {
            return;
        }
        self.kill_agent(h);
        self.agents[h].put_back(keep);
        self.tally.note("ledger put back with the coordinators");
        self.lost(h, false);
    }

    fn lost(&mut self, h: usize, wiped: bool) {
        let kept = if wiped { 0 } else { self.agents[h].entries.len() as u64 };
        let marks_too = self.chaos.side.percent(50);
        if marks_too {
            let agent = &mut self.agents[h];
            agent.mark = if wiped { None } else { Some(agent.reached()) };
            self.tally.note("mark outside the ledger's folder lost with it");
        }
        let truth = &mut self.truth.hosts[h];
        truth.kept = if truth.amnesic { truth.kept.min(kept) } else { kept };
        truth.amnesic = true;
        // What its old copy never saw, it cannot know.
        self.truth.hosts[h].authority = (0, 0);
        self.say(|w| {
            let agent = &w.agents[h];
            format!(
                "FAULT ledger of {} is {} long, marks too: {marks_too}",
                agent.id,
                agent.entries.len()
            )
        });
    }

    /// Has host agents that another one's hello has shown to be amnesic say hello again, as the
    /// coordinator does.
    pub(crate) fn end_amnesic(&mut self, g: usize) {
        for h in 0..self.agents.len() {
            let agent = &self.agents[h];
            let known = self.groups[g].state.hosts.get(&agent.id);
            let amnesic = known.is_some_and(|e| e.amnesic.is_some());
            let works = agent.trust == crate::agent::Trust::Confirmed
                && agent.session.as_ref().is_some_and(|s| s.group == g);
            if amnesic && works {
                self.tally.note("another host's promise showed that a ledger is old");
                self.end_session(h);
            }
        }
    }

    /// Tells whether another host agent, whose ledger is what it is, has promised a token away for a host
    /// of which neither this group nor the host's own ledger knows; and whether it has said so already.
    pub(crate) fn witness(&self, g: usize, h: usize) -> (bool, bool) {
        let id: &HostId = &self.agents[h].id;
        let state = &self.groups[g].state;
        let allotted = state.hosts.get(id).map_or_else(Default::default, |e| e.allotted);
        let accounted = self.agents[h].state.own.max(allotted);
        let alive = |o: &usize| *o != h && !self.cluster.hosts[*o].dead && !self.operator.gone(*o);
        let promised = |o: usize| self.agents[o].state.promised_for.get(id).copied();
        let exists = (0..self.agents.len())
            .filter(alive)
            .any(|o| promised(o).is_some_and(|token| token > accounted));
        let heard = state.witnessed.get(id).is_some_and(|w| w.token > accounted);
        (exists, heard)
    }
}

impl crate::agent::HostAgent {
    /// Returns how far the ledger reaches, as a mark says it.
    pub fn reached(&self) -> Mark {
        let position = self.state.position;
        Mark {
            ledger: self.ledger(),
            position,
            chain: self.chain_at(position),
            generation: self.generation,
        }
    }

    /// Compares the ledger with the mark outside its folder, as a new process does.
    pub fn compare_mark(&mut self) {
        self.lost = self.mark.as_ref().is_some_and(|mark| {
            mark.generation >= self.generation
                && (mark.ledger != self.ledger() || self.chain_at(mark.position) != mark.chain)
        });
    }

    /// An entry is durable: the mark follows, unless the ledger is known to be an old one.
    pub fn mark(&mut self, proven: bool) {
        self.lost &= !proven;
        if !self.lost {
            self.mark = Some(self.reached());
        }
    }
}
