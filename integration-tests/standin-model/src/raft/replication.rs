//! How the leader's log reaches the others.

use super::log::{Entry, Index, Snapshot, Term};
use super::{BATCH, Message, Output, Persist, Raft, Role};
use crate::ids::{Alias, Millis};

impl Raft {
    /// Sends every follower what it lacks, or a sign of life.
    pub(super) fn broadcast(&mut self, now: Millis) {
        let heartbeat_ms = self.heartbeat_ms;
        if let Role::Leader(leading) = &mut self.role {
            leading.heartbeat_at = now + heartbeat_ms;
        }
        for to in self.others() {
            self.feed(&to);
        }
    }

    fn feed(&mut self, to: &Alias) {
        let term = self.hard.term;
        let Role::Leader(leading) = &mut self.role else { return };
        let next = leading.next.get(to).copied().unwrap_or(1).max(1);
        let prev_index = next - 1;
        let Some(prev_term) = self.log.term_at(prev_index) else {
            let snapshot = Box::new(self.log.snapshot().clone());
            leading.next.insert(to.clone(), snapshot.index + 1);
            self.send(to, Message::Install { term, snapshot });
            return;
        };
        let entries = self.log.from(next, BATCH);
        // Sent is taken for received; if it was lost, the reply to the next message says so.
        let after = entries.last().map_or(next, |e| e.index + 1);
        leading.next.insert(to.clone(), after);
        let commit = self.commit;
        self.send(to, Message::Append { term, prev_index, prev_term, entries, commit });
    }

    pub(super) fn on_append(
        &mut self,
        now: Millis,
        from: &Alias,
        term: Term,
        (prev_index, prev_term): (Index, Term),
        entries: Vec<Entry>,
        commit: Index,
    ) {
        if term < self.hard.term {
            let reply = Message::AppendReply { term: self.hard.term, success: false, index: 0 };
            self.send(from, reply);
            return;
        }
        self.become_follower(now, term, Some(from.clone()));
        self.heard_leader_at = Some(now);
        let (last, base) = (self.log.last_index(), self.log.snapshot().index);
        if prev_index >= base && self.log.term_at(prev_index) != Some(prev_term) {
            let index = last.min(prev_index.saturating_sub(1)).max(base);
            self.send(from, Message::AppendReply { term, success: false, index });
            return;
        }
        let reached = entries.last().map_or(prev_index, |e| e.index);
        self.store(entries);
        let agreed = reached.max(base);
        self.commit = self.commit.max(commit.min(agreed));
        self.send(from, Message::AppendReply { term, success: true, index: agreed });
    }

    /// Adds what is new, after dropping what another leader had put there.
    fn store(&mut self, entries: Vec<Entry>) {
        let mut added = Vec::new();
        for entry in entries {
            if entry.index <= self.log.snapshot().index {
                continue;
            }
            match self.log.term_at(entry.index) {
                Some(term) if term == entry.term => continue,
                Some(_) => {
                    self.log.truncate_from(entry.index);
                    self.out.push(Output::Persist(Persist::Truncate(entry.index)));
                }
                None => {}
            }
            self.log.push(entry.clone());
            added.push(entry);
        }
        if !added.is_empty() {
            self.out.push(Output::Persist(Persist::Append(added)));
        }
    }

    pub(super) fn on_install(&mut self, now: Millis, from: &Alias, term: Term, snapshot: Snapshot) {
        if term < self.hard.term {
            let reply = Message::AppendReply { term: self.hard.term, success: false, index: 0 };
            self.send(from, reply);
            return;
        }
        self.become_follower(now, term, Some(from.clone()));
        self.heard_leader_at = Some(now);
        let index = snapshot.index;
        if index > self.commit {
            self.log.install(snapshot);
            self.commit = index;
            let rest = self.log.from(index + 1, usize::MAX);
            let snapshot = Box::new(self.log.snapshot().clone());
            self.out.push(Output::Persist(Persist::Snapshot(snapshot, rest)));
        }
        let index = self.commit;
        self.send(from, Message::AppendReply { term, success: true, index });
    }

    pub(super) fn on_append_reply(
        &mut self,
        now: Millis,
        from: &Alias,
        term: Term,
        success: bool,
        index: Index,
    ) {
        if term > self.hard.term {
            self.become_follower(now, term, None);
            return;
        }
        let last = self.log.last_index();
        let Role::Leader(leading) = &mut self.role else { return };
        if term < self.hard.term {
            return;
        }
        leading.acked_at.insert(from.clone(), now);
        if success {
            let matched = leading.matched.entry(from.clone()).or_insert(0);
            *matched = (*matched).max(index);
            let next = leading.next.entry(from.clone()).or_insert(1);
            *next = (*next).max(index + 1);
            let lacks = *next <= last;
            self.advance_commit();
            if lacks {
                self.feed(from);
            }
        } else {
            // A late refusal must not throw the position back behind what is known to match.
            let floor = leading.matched.get(from).copied().unwrap_or(0);
            leading.next.insert(from.clone(), index.max(floor) + 1);
            self.feed(from);
        }
    }

    /// Commits what a majority has, if the newest of it is of this term.
    pub(super) fn advance_commit(&mut self) {
        let (majority, last) = (self.majority(), self.log.last_index());
        let Role::Leader(leading) = &self.role else { return };
        let mut reached: Vec<Index> = leading.matched.values().copied().collect();
        reached.push(last);
        reached.sort_unstable_by(|a, b| b.cmp(a));
        let Some(index) = reached.get(majority - 1).copied() else { return };
        if index > self.commit && self.log.term_at(index) == Some(self.hard.term) {
            self.commit = index;
        }
    }
}
