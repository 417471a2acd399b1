//! S8: what follows from a ledger that is old, and from a host that is readmitted.

use grayfin_types::{HostId, LedgerId, ledger::Readmit};

use crate::{cluster::Tree, world::World};

impl World {
    /// S8: nothing is decided on what an old ledger said, once that is known.
    pub(crate) fn judge_not_amnesic(&mut self, g: usize, host: &HostId) {
        let enrolment = self.groups[g].state.hosts.get(host);
        let known = enrolment.is_some_and(|e| e.amnesic.is_some());
        self.truth.expect("S8", !known, || format!("a close of `{host}`, which is amnesic"));
    }

    /// S8: a host that goes on is proven, and refuses all that its lost ledger had promised away.
    pub(crate) fn judge_readmitted(&mut self, h: usize, readmit: &Readmit, by: (u64, u64)) {
        let id = self.agents[h].id.clone();
        let operators = !readmit.act.starts_with("enrolment");
        let (up, half) = (self.cluster.all_up(h), self.cluster.hosts[h].tree == Tree::Half);
        self.truth.expect("S8", !operators || up && !half, || {
            format!("`{id}` is readmitted while it is not up, or half-way")
        });
        let floor = self.agents[h].state.floor;
        let truth = &mut self.truth.hosts[h];
        let promised = truth.promised;
        let all = floor >= promised;
        truth.promised = promised.max(floor);
        truth.authority = std::cmp::max(truth.authority, by);
        if readmit.closes.is_some() || readmit.forget {
            truth.disturbed = None;
        }
        truth.closed.extend(readmit.closes);
        // An old ledger may be told once more what it does not remember.
        truth.orders.clear();
        (truth.amnesic, truth.untold, truth.aborted) = (false, false, None);
        self.truth.expect("S8", all, || {
            format!("`{id}` goes on with floor {floor} after it promised {promised} away")
        });
        self.tally.note(if operators { "host readmitted" } else { "floor taken at an enrolment" });
        if readmit.closes.is_some() {
            self.tally.note("hold closed by a readmission");
        }
    }

    /// S8: a ledger that is an old copy is not taken for the newest by coordinators that could know: by
    /// its mark, by what they have heard of it, or by what others promised away for the host. Where the
    /// others have yet to speak, it stays an old one, and nothing may come of it.
    pub(crate) fn judge_whole(&mut self, g: usize, h: usize, known: Option<(LedgerId, u64)>) {
        if !self.truth.hosts[h].amnesic {
            return;
        }
        let kept = self.truth.hosts[h].kept;
        let (witness, heard) = self.witness(g, h);
        let of_ledger = known.is_some_and(|(ledger, position)| {
            let same = Some(&ledger) == self.agents[h].state.ledger.as_ref();
            !same || position > kept
        });
        let told = of_ledger || heard || self.agents[h].lost;
        let id = self.agents[h].id.clone();
        self.truth.expect("S8", !told, || format!("the old ledger of `{id}` is taken for whole"));
        if witness {
            self.tally.note("old ledger that another host agent will tell");
            return;
        }
        self.truth.hosts[h].amnesic = false;
        let truth = &mut self.truth.hosts[h];
        truth.untold = true;
        truth.forgotten.clone_from(&truth.closed);
        self.tally.note(if g == 0 {
            "old ledger that nobody alive can tell: its mark and the coordinators were put back too"
        } else {
            "old ledger that an undeclared clone cannot tell, its mark put back too"
        });
    }
}
