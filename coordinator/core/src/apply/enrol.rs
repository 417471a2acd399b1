//! The group's name, the lease, and host agents that say hello.

use std::collections::BTreeMap;

use grayfin_types::{
    ClusterId, Code, HostId, Incarnation, Term, Token, event::Body, ledger::Readmit,
};

use super::Applier;
use crate::{
    cmd::{Enrol, Response},
    hold, mutation,
    state::{Enrolment, HoldStage, Lease, Readmission, Witness},
};

impl Applier<'_> {
    pub(super) fn found(&mut self, group: &str, incarnation: Incarnation) -> Response {
        if !self.state.group.is_empty() && incarnation <= self.state.incarnation {
            return Response::ignored("the group has a name");
        }
        group.clone_into(&mut self.state.group);
        self.state.incarnation = incarnation;
        Response::Done
    }

    pub(super) fn lease(&mut self, coordinator: u64, term: Term) -> Response {
        if self.state.lease.as_ref().is_some_and(|lease| lease.term >= term) {
            return Response::ignored("a newer lease is known");
        }
        self.state.lease = Some(Lease { coordinator, term });
        self.emit_everywhere("coordinator", &Body::Lease { coordinator, term: term.0 });
        Response::Done
    }

    pub(super) fn enrol(&mut self, hello: &Enrol) -> Response {
        if let Some(refusal) = self.refuse_enrolment(hello) {
            return refusal;
        }
        self.take_witness(hello);
        let floor = self.highest_floor(&hello.host);
        let witness = self.state.witnessed.get(&hello.host).cloned();
        let hosts = &mut self.state.hosts;
        let entry = hosts.entry(hello.host.clone()).or_insert_with(|| fresh(hello, floor));
        entry.clusters.clone_from(&hello.clusters);
        if hello.generation > entry.generation {
            // An operator issued a new certificate: the host is enrolled anew, its ledger too.
            let outboxes = std::mem::take(&mut entry.outboxes);
            let (allotted, own) = (entry.allotted, entry.own);
            *entry = Enrolment { outboxes, allotted, own, ..fresh(hello, floor) };
            for outbox in entry.outboxes.values_mut() {
                // They were meant for the ledger that is gone.
                outbox.pending.clear();
            }
        }
        self.take_up(hello);
        let Some(entry) = self.state.hosts.get_mut(&hello.host) else {
            return Response::ignored("the host is not enrolled");
        };
        entry.own = entry.own.max(hello.ledger.as_ref().map_or(Token(0), |said| said.own));
        entry.amnesic = amnesia(entry, hello).or_else(|| unaccounted(entry, witness.as_ref()));
        if entry.amnesic.is_none() {
            entry.heard(hello.ledger_position, chain(hello));
            entry.floor = hello.ledger.as_ref().map_or(entry.floor, |said| said.floor);
            hello.agent_version.clone_into(&mut entry.agent_version);
            for (cluster, last) in &hello.last_orders {
                // Restored coordinators' state may be behind: a number is never used twice.
                let outbox = entry.outboxes.entry(cluster.clone()).or_default();
                outbox.last = outbox.last.max(*last);
            }
        }
        let of_this = |r: &&Readmission| r.ledger == hello.ledger_id;
        let answer = Response::Enrolled {
            amnesic: entry.amnesic.clone(),
            committed_position: entry.committed_position,
            readmit: entry.readmission.as_ref().filter(of_this).map(|r| r.readmit.clone()),
        };
        self.refresh_promises();
        answer
    }

    /// Takes what a host agent has promised away for others, and looks again at those hosts. What an
    /// old ledger promised was promised all the same.
    fn take_witness(&mut self, hello: &Enrol) {
        let Some(said) = &hello.ledger else { return };
        for (host, token) in said.promised_for.iter().filter(|(host, _)| **host != hello.host) {
            let word = Witness { token: *token, by: hello.host.clone() };
            let kept = self.state.witnessed.entry(host.clone()).or_insert_with(|| word.clone());
            if kept.token < word.token {
                *kept = word;
            }
            if let Some(known) = self.state.hosts.get_mut(host)
                && known.amnesic.is_none()
            {
                known.amnesic = unaccounted(known, Some(&*kept));
            }
        }
    }

    fn refuse_enrolment(&self, hello: &Enrol) -> Option<Response> {
        let host = &hello.host;
        let known = self.state.hosts.get(host)?;
        if hello.generation < known.generation {
            let (found, current) = (hello.generation, known.generation);
            return Some(Response::refused(
                Code::BadIdentity,
                format!(
                    "`{host}` enrolled with generation {current}; this certificate has {found}"
                ),
            ));
        }
        if let Some(gone) = &known.gone
            && hello.generation == known.generation
        {
            return Some(Response::refused(
                Code::AgentAmnesic,
                format!(
                    "`{}` attested that `{host}` is powered off ({}): enrol it anew with a certificate of generation {}",
                    gone.by,
                    gone.reason,
                    known.generation.next()
                ),
            ));
        }
        let asked = hello.ledger.as_ref().and_then(|said| said.proof.as_ref());
        if let (Some(asked), Some(mark)) = (asked, &known.mark)
            && hello.generation == known.generation
            && asked.position != mark.position
        {
            return Some(Response::ignored("more was heard of its ledger meanwhile: hello again"));
        }
        let covered = self.covering(host);
        if known.clusters != hello.clusters && covered {
            return Some(Response::refused(
                Code::HoldOpen,
                format!(
                    "`{host}` changed its clusters while a hold covers it: put its configuration back, and change it when the hold is closed"
                ),
            ));
        }
        None
    }

    fn covering(&self, host: &HostId) -> bool {
        self.state.holds.values().any(|h| &h.host == host && h.stage != HoldStage::Asking)
    }

    /// Brings holds that are still being asked for in line with who is enrolled.
    pub(super) fn refresh_promises(&mut self) {
        let mut wanted: BTreeMap<ClusterId, _> = BTreeMap::new();
        for (cluster, held) in &self.state.holds {
            let covers = hold::covers(self.state, &held.host, cluster);
            let required = hold::required(self.state, &held.host, &covers);
            wanted.insert(cluster.clone(), (covers, required));
        }
        for (cluster, (covers, required)) in wanted {
            if let Some(held) = self.state.holds.get_mut(&cluster)
                && held.stage == HoldStage::Asking
            {
                held.covers = covers;
                hold::refresh(held, required);
            }
        }
    }
}

/// A host that is enrolled. One that comes with a new ledger takes the floor of the others first:
/// orders of an earlier life may still be on their way.
fn fresh(hello: &Enrol, floor: Token) -> Enrolment {
    let takes_floor = hello.ledger.as_ref().is_some_and(|said| said.floor < floor);
    let readmit = Readmit {
        act: format!("enrolment {}", hello.generation),
        floor,
        closes: None,
        orders: BTreeMap::new(),
        forget: false,
    };
    let readmission = Readmission { ledger: hello.ledger_id.clone(), readmit };
    Enrolment {
        host: hello.host.clone(),
        clusters: hello.clusters.clone(),
        generation: hello.generation,
        ledger_id: hello.ledger_id.clone(),
        ledger_position: hello.ledger_position,
        mark: None,
        committed_position: 0,
        amnesic: None,
        allotted: Token(0),
        own: Token(0),
        readmission: takes_floor.then_some(readmission),
        floor: Token(0),
        gone: None,
        agent_version: hello.agent_version.clone(),
        outboxes: BTreeMap::new(),
    }
}

fn chain(hello: &Enrol) -> &str {
    hello.ledger.as_ref().map_or("", |said| &said.chain)
}

/// Says what stands against a host that was to be held under a token of which neither these
/// coordinators nor its own ledger know (S8): one of them was put back, and the host may be disturbed.
fn unaccounted(known: &Enrolment, witness: Option<&Witness>) -> Option<String> {
    let witness = witness.filter(|w| w.token > known.allotted.max(known.own))?;
    (!mutation::is("s8-witness-unheard")).then(|| {
        format!(
            "`{}` promised token {} away so that it could be held, of which neither its ledger nor these coordinators know: its ledger, or their state, was put back",
            witness.by, witness.token
        )
    })
}

fn amnesia(known: &Enrolment, hello: &Enrol) -> Option<String> {
    if mutation::is("s8-amnesia-unnoticed") {
        return None;
    }
    if known.ledger_id != hello.ledger_id {
        return Some(format!(
            "its ledger is `{}`, not `{}` with which it enrolled",
            hello.ledger_id, known.ledger_id
        ));
    }
    if hello.ledger_position < known.ledger_position {
        return Some(format!(
            "its ledger ends at position {}, but position {} was seen before",
            hello.ledger_position, known.ledger_position
        ));
    }
    if let Some(mark) = &known.mark
        && !mutation::is("s8-regrown-unnoticed")
    {
        let proof = hello.ledger.as_ref().and_then(|said| said.proof.as_ref());
        if proof != Some(mark) {
            let said = if proof.is_some() {
                "holds something else"
            } else {
                "does not prove what it holds"
            };
            return Some(format!(
                "its ledger {said} at position {}: it is an old copy that grew again",
                mark.position
            ));
        }
    }
    if let Some(why) = hello.ledger.as_ref().and_then(|said| said.lost.as_ref()) {
        return Some(format!("its host agent says: {why}"));
    }
    known.readmission.as_ref().map(|_| "its ledger has not taken the token floor yet".to_owned())
}
