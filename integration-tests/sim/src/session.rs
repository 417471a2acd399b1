//! How a host agent comes to a session: hello, enrolment, welcome.

use std::collections::BTreeMap;

use grayfin_agent_core::fence::{self, Readmission};
use grayfin_coordinator_core::{
    Cmd, Response,
    cmd::{Enrol, LedgerSaid},
    view::{Connection, Fence},
};
use grayfin_types::{
    ledger::{LedgerMark, Readmit},
    raise::{Raise, SignedRaise},
};

use crate::{
    agent::{Session, Trust, Written},
    facts::cluster_id,
    group::Group,
    message::FromHost,
    world::World,
};

/// The log's place of the group's membership: nobody joins or leaves here.
const MEMBERSHIP: u64 = 1;

/// Stands for the operator's key.
const SIGNED: &str = "signed by ann";

/// Signs an operator's act, as the operator's tool does.
pub fn sign(raise: &Raise) -> SignedRaise {
    SignedRaise {
        text: serde_json::to_string(raise).expect("plain fields make a document"),
        certificate: "ann".to_owned(),
        signature: SIGNED.to_owned(),
    }
}

fn verify(signed: &SignedRaise) -> Option<Raise> {
    if signed.signature != SIGNED {
        return None;
    }
    serde_json::from_str(&signed.text).ok()
}

impl World {
    /// Tries to reach a coordinator that leads.
    pub(crate) fn connect(&mut self, h: usize) {
        if self.agents[h].session.is_some() || self.chaos.is_cut(h, self.now_ms) {
            return;
        }
        let alive: Vec<usize> = (0..self.groups.len()).filter(|g| self.groups[*g].alive).collect();
        if alive.is_empty() {
            return;
        }
        let g = alive[self.dice.index(alive.len())];
        let Some(r) = self.groups[g].leader else { return };
        let position = self.agents[h].state.position;
        let hello = self.hello(h, g);
        let fence = Fence {
            floor: self.agents[h].state.floor,
            open_hold: self.agents[h].state.open_hold(),
            last_order: self.agents[h].state.last_order(&cluster_id()),
        };
        let ledger_id = hello.ledger_id.clone();
        let known = self.groups[g].state.hosts.get(&hello.host);
        let known = known.map(|e| (e.ledger_id.clone(), e.ledger_position));
        let Some(Response::Enrolled { committed_position, amnesic, readmit }) =
            self.propose(g, Cmd::Enrol(hello))
        else {
            return;
        };
        if amnesic.is_none() {
            self.judge_whole(g, h, known);
        }
        self.end_amnesic(g);
        if !self.welcomed(h, g) {
            return;
        }
        let old = amnesic.is_some() || committed_position > position || self.agents[h].lost;
        if let Some(readmit) = readmit
            && self.readmitted(h, g, &readmit, old)
        {
            // The session ends, and it says hello again.
            return;
        }
        let trust = if old { Trust::Amnesic } else { Trust::Confirmed };
        if trust == Trust::Amnesic {
            self.tally.note("host agent told that its ledger is old");
        }
        self.agents[h].trust = trust;
        let id = self.next_session();
        let connection = Connection {
            session_id: id.to_string(),
            since_ms: self.now_ms,
            ledger_id,
            fences: BTreeMap::from([(cluster_id(), fence)]),
        };
        let host = self.agents[h].id.clone();
        self.groups[g].replicas[r].view.connected(&host, connection);
        let session =
            Session { id, group: g, replica: r, fifo_ms: 0, reported: committed_position };
        self.agents[h].session = Some(session);
        let answered: Vec<_> = self.agents[h].writer.answered.values().cloned().collect();
        for report in answered {
            self.tell(h, FromHost::Canary(report));
        }
        self.send_reports(h);
        self.look(h);
        self.wake(h, 2);
        self.hurry(g, r);
    }

    /// The host agent takes an operator's readmission in. False if it does not, or not now.
    fn readmitted(&mut self, h: usize, g: usize, readmit: &Readmit, old: bool) -> bool {
        let by = Group::authority(&self.groups[g].state);
        let body = match fence::readmission(&self.agents[h].state, &by, readmit, old) {
            Readmission::Record(body) => *body,
            Readmission::Already => return true,
            Readmission::Refuse(refusal) => {
                self.say(|w| format!("{} refuses: {}", w.agents[h].id, refusal.why));
                self.tally.note("readmission not taken in yet");
                return false;
            }
        };
        // Nothing runs any more that an earlier step began.
        self.agents[h].call = None;
        self.cluster.hosts[h].helper_until = None;
        self.append(h, body);
        true
    }

    fn hello(&self, h: usize, g: usize) -> Enrol {
        let agent = &self.agents[h];
        let known = self.groups[g].state.hosts.get(&agent.id);
        let mark = known.and_then(|e| e.mark.as_ref()).map(|mark| mark.position);
        let said = LedgerSaid {
            chain: agent.chain_at(agent.state.position),
            proof: mark.map(|position| LedgerMark { position, chain: agent.chain_at(position) }),
            floor: agent.state.floor,
            open_hold: agent.state.open_hold(),
            readmitted: agent.state.readmitted.clone(),
            own: agent.state.own,
            promised_for: agent.state.promised_for.clone(),
            lost: agent.lost.then(|| "a mark says more".to_owned()),
        };
        Enrol {
            host: agent.id.clone(),
            clusters: std::collections::BTreeSet::from([cluster_id()]),
            generation: agent.generation(),
            ledger_id: agent.state.ledger.clone().expect("every ledger begins with its id"),
            ledger_position: agent.state.position,
            agent_version: "0.1.0".to_owned(),
            last_orders: BTreeMap::from([(cluster_id(), agent.state.last_order(&cluster_id()))]),
            ledger: Some(said),
        }
    }

    /// The host agent judges whom it talks to. False if it refuses.
    fn welcomed(&mut self, h: usize, g: usize) -> bool {
        let state = &self.groups[g].state;
        let by = Group::authority(state);
        let raise = state.coordinators.raise.as_ref().and_then(verify);
        match fence::welcome(&self.agents[h].state, &by, MEMBERSHIP, raise.as_ref()) {
            Ok(None) => true,
            // Written before the session exists, so that nothing is reported into the void.
            Ok(Some(body)) => self.append(h, body) == Written::Yes,
            Err(_) => {
                self.tally.note("host agent refused an older authority");
                self.operator.refused += 1;
                false
            }
        }
    }
}
