//! Copies of the coordinators: backups that are put back, and clones that nobody told of.

use grayfin_coordinator_core::{Cmd, State, put_back, state::GroupAct};
use grayfin_types::{Incarnation, raise::Raise};

use crate::{
    group::{Group, hasher},
    message::Happening,
    session,
    world::World,
};

impl World {
    /// The coordinators' state is put back from a backup, by an operator who says so.
    pub(crate) fn fault_restored(&mut self) {
        let Some(state) = self.chaos.backup.take() else {
            self.chaos.backup = Some(self.groups[0].state.clone());
            let after = self.dice.between(200, 4_000);
            self.after(after, Happening::Fault);
            return;
        };
        self.say(|_| "FAULT coordinators restored from a backup".to_owned());
        self.tally.note("coordinators restored from a backup");
        self.fault_double(&state);
        self.restore(state);
    }

    /// Puts a state in the place of the group's and raises the incarnation (S2).
    pub(crate) fn restore(&mut self, state: State) {
        let highest = self.groups.iter().map(|g| g.state.incarnation.0).max().unwrap_or(0);
        for r in 0..self.groups[0].replicas.len() {
            self.end_sessions_of(0, r);
        }
        let coordinators = self.groups[0].replicas.len();
        let raise = Raise {
            group: state.group.clone(),
            from: state.incarnation,
            to: Incarnation(highest + 1),
            act: GroupAct::Restore.to_string(),
            reason: "because".to_owned(),
            at_ms: self.now_ms,
        };
        self.groups[0] = Group::new(coordinators, state);
        self.truth.raised = highest + 1;
        let state = &mut self.groups[0].state;
        state.coordinators.raise = Some(session::sign(&raise));
        put_back(state, raise.to, "the state was put back", self.now_ms, &hasher);
        self.elect_soon(0);
    }

    /// A copy of the coordinators' machine is started beside it, and nobody says so.
    pub(crate) fn fault_clone(&mut self) {
        if self.groups.len() > 1 {
            return;
        }
        let state = match self.chaos.backup.take() {
            Some(state) if self.dice.percent(50) => state,
            Some(_) | None => self.groups[0].state.clone(),
        };
        if state.group.is_empty() {
            return;
        }
        self.say(|_| "FAULT a clone of the coordinators begins".to_owned());
        self.tally.note("coordinators cloned");
        self.fault_double(&state);
        let group = state.group.clone();
        let next = Incarnation(state.incarnation.0 + 1);
        self.groups.push(Group::new(1, state));
        if self.chaos.side.percent(25) {
            // Somebody raised the incarnation without an operator's signature.
            self.tally.note("clone with an incarnation that nobody signed");
            self.commit(1, Cmd::Found { group, incarnation: next });
        }
        self.elect_soon(1);
        let after = self.dice.between(500, 4_000);
        self.after(after, Happening::CloneEnds);
    }

    pub(crate) fn end_clone(&mut self) {
        if self.groups.len() > 1 && self.groups[1].alive {
            self.say(|_| "the clone ends".to_owned());
            self.end_sessions_of(1, 0);
            self.groups[1].alive = false;
            self.groups[1].leader = None;
        }
    }
}
