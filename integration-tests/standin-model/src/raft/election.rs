//! Who leads.

use std::collections::{BTreeMap, BTreeSet};

use super::log::{Index, Term};
use super::{Leading, Message, Output, Raft, Role};
use crate::ids::{Alias, Millis};
use crate::meta::Command;

impl Raft {
    /// Asks whether a candidacy would succeed; nothing changes until a majority says so.
    pub(super) fn ask_for_votes(&mut self, now: Millis) {
        if !self.members.contains(&self.me) {
            self.draw_deadline(now);
            return;
        }
        self.role = Role::Asking(BTreeSet::from([self.me.clone()]));
        self.leader = None;
        self.draw_deadline(now);
        let (term, last_index, last_term) =
            (self.hard.term + 1, self.log.last_index(), self.log.last_term());
        for to in self.others() {
            self.send(&to, Message::PreVote { term, last_index, last_term });
        }
        if self.majority() == 1 {
            self.stand(now);
        }
    }

    /// A voter stays with a leader it heard from within the shortest election wait, less one
    /// heartbeat: the message that would have renewed it may be on its way.
    fn is_loyal(&self, now: Millis) -> bool {
        let loyal_ms = self.election_ms.saturating_sub(self.heartbeat_ms);
        let heard = self.heard_leader_at.is_some_and(|at| now.saturating_sub(at) < loyal_ms);
        (heard && self.leader.is_some()) || self.is_leader(now)
    }

    fn is_up_to_date(&self, last: (Term, Index)) -> bool {
        last >= (self.log.last_term(), self.log.last_index())
    }

    pub(super) fn on_pre_vote(
        &mut self,
        now: Millis,
        from: &Alias,
        term: Term,
        last: (Term, Index),
    ) {
        let granted = term > self.hard.term && !self.is_loyal(now) && self.is_up_to_date(last);
        self.send(from, Message::PreVoteReply { term: self.hard.term, asked: term, granted });
    }

    pub(super) fn on_pre_vote_reply(
        &mut self,
        now: Millis,
        from: &Alias,
        term: Term,
        asked: Term,
        granted: bool,
    ) {
        if term > self.hard.term {
            self.become_follower(now, term, None);
            return;
        }
        let (majority, current) = (self.majority(), self.hard.term);
        let Role::Asking(votes) = &mut self.role else { return };
        if asked != current + 1 || !granted {
            return;
        }
        votes.insert(from.clone());
        if votes.len() >= majority {
            self.stand(now);
        }
    }

    fn stand(&mut self, now: Millis) {
        self.hard.term += 1;
        self.hard.voted_for = Some(self.me.clone());
        self.persist_hard();
        self.role = Role::Candidate(BTreeSet::from([self.me.clone()]));
        self.leader = None;
        self.draw_deadline(now);
        let (term, last_index, last_term) =
            (self.hard.term, self.log.last_index(), self.log.last_term());
        for to in self.others() {
            self.send(&to, Message::Vote { term, last_index, last_term });
        }
        if self.majority() == 1 {
            self.lead(now);
        }
    }

    pub(super) fn on_vote(&mut self, now: Millis, from: &Alias, term: Term, last: (Term, Index)) {
        if term > self.hard.term && !self.is_loyal(now) {
            self.become_follower(now, term, None);
        }
        let free = self.hard.voted_for.as_ref().is_none_or(|voted| voted == from);
        let granted = term == self.hard.term
            && free
            && self.is_up_to_date(last)
            && matches!(self.role, Role::Follower | Role::Asking(_));
        if granted {
            self.hard.voted_for = Some(from.clone());
            self.persist_hard();
            self.draw_deadline(now);
        }
        self.send(from, Message::VoteReply { term: self.hard.term, granted });
    }

    pub(super) fn on_vote_reply(&mut self, now: Millis, from: &Alias, term: Term, granted: bool) {
        if term > self.hard.term {
            self.become_follower(now, term, None);
            return;
        }
        let (majority, current) = (self.majority(), self.hard.term);
        let Role::Candidate(votes) = &mut self.role else { return };
        if term != current || !granted {
            return;
        }
        votes.insert(from.clone());
        if votes.len() >= majority {
            self.lead(now);
        }
    }

    fn lead(&mut self, now: Millis) {
        let next = self.log.last_index() + 1;
        let others = self.others();
        self.role = Role::Leader(Leading {
            next: others.iter().map(|m| (m.clone(), next)).collect(),
            matched: others.iter().map(|m| (m.clone(), 0)).collect::<BTreeMap<_, _>>(),
            // The votes that made it leader are the first signs of life.
            acked_at: others.iter().map(|m| (m.clone(), now)).collect(),
            heartbeat_at: now,
        });
        self.leader = Some(self.me.clone());
        self.out.push(Output::RoleChanged {
            term: self.hard.term,
            leader: self.leader.clone(),
            leading: true,
        });
        // Entries of older terms are committed only together with one of its own.
        self.propose(now, Command::Noop);
    }

    pub(super) fn become_follower(&mut self, now: Millis, term: Term, leader: Option<Alias>) {
        let was_leading = matches!(self.role, Role::Leader(_));
        let changed = was_leading || self.leader != leader || term != self.hard.term;
        if term > self.hard.term {
            self.hard.term = term;
            self.hard.voted_for = None;
            self.persist_hard();
        }
        if !matches!(self.role, Role::Follower) || leader.is_some() {
            self.draw_deadline(now);
        }
        self.role = Role::Follower;
        self.leader = leader;
        if changed {
            self.out.push(Output::RoleChanged {
                term: self.hard.term,
                leader: self.leader.clone(),
                leading: false,
            });
        }
    }
}
