//! What a host agent answers to promise requests and orders: judged by the core, durable before it is
//! said.

use grayfin_agent_core::{
    entry::{Authority, Order},
    fence::{self, Promise, Verdict},
};
use grayfin_coordinator_core::cmd::{OrderAnswered, PromiseAnswered};
use grayfin_types::{Code, HostId, Token};

use crate::{
    agent::{Trust, Written},
    facts::cluster_id,
    message::FromHost,
    world::World,
};

impl World {
    /// Answers a promise request.
    pub(crate) fn asked_to_promise(
        &mut self,
        h: usize,
        by: &Authority,
        token: Token,
        held: &HostId,
    ) {
        let amnesic = self.agents[h].trust == Trust::Amnesic;
        let cluster = cluster_id();
        let decided = if amnesic {
            Err((Code::AgentAmnesic, "an old copy".to_owned()))
        } else {
            match fence::promise(&self.agents[h].state, by, &cluster, token, Some(held)) {
                Promise::Record(body) => match self.append(h, body) {
                    Written::Yes => Ok(()),
                    Written::Full => Err((Code::DiskTooSmall, "no room".to_owned())),
                    Written::Illegal => Err((Code::Internal, "it does not fit".to_owned())),
                    Written::Died => return,
                },
                Promise::Already => Ok(()),
                Promise::Refuse(refusal) => Err((refusal.code, refusal.why)),
            }
        };
        if decided.is_err() {
            self.tally.note("promise refused");
        }
        let (code, why) = decided.as_ref().err().cloned().unzip();
        self.tell(
            h,
            FromHost::Promise(PromiseAnswered {
                host: self.agents[h].id.clone(),
                cluster,
                token,
                promised: decided.is_ok(),
                code,
                why: why.unwrap_or_default(),
                ledger_position: self.agents[h].state.position,
                chain: self.agents[h].chain_at(self.agents[h].state.position),
            }),
        );
    }

    /// Answers an order.
    pub(crate) fn ordered(&mut self, h: usize, order: &Order) {
        let no = |code, why: String| grayfin_agent_core::entry::Answer::no(code, why);
        let answer = if self.agents[h].trust == Trust::Amnesic {
            no(Code::AgentAmnesic, "an old copy".to_owned())
        } else {
            let boot = self.boot(h);
            match fence::order(&self.agents[h].state, order, &boot) {
                Verdict::Record(body, answer) => match self.append(h, *body) {
                    Written::Yes => answer,
                    Written::Full => no(Code::DiskTooSmall, "no room for the ledger".to_owned()),
                    Written::Illegal => no(Code::Internal, "it does not fit".to_owned()),
                    Written::Died => return,
                },
                Verdict::Repeat(answer) => {
                    self.tally.note("order came twice");
                    answer
                }
                Verdict::Refuse(refusal) => {
                    self.tally.note("stale order refused");
                    no(refusal.code, refusal.why)
                }
            }
        };
        self.say(|w| format!("{} answers order {}: {answer:?}", w.agents[h].id, order.number));
        self.tell(
            h,
            FromHost::Answer(OrderAnswered {
                host: self.agents[h].id.clone(),
                cluster: order.cluster.clone(),
                number: order.number,
                token: order.token,
                accepted: answer.accepted,
                code: answer.code,
                why: answer.why,
                ledger_position: self.agents[h].state.position,
                chain: self.agents[h].chain_at(self.agents[h].state.position),
                state: answer.state,
            }),
        );
    }
}
