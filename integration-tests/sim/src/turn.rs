//! One turn of a host agent's runner: what its core says, written ahead and then begun.

use grayfin_agent_core::{
    Body,
    entry::Event,
    sequence::{self, Action, Seen},
    staging,
    state::CanaryTask,
};
use grayfin_coordinator_core::cmd::CanaryReported;
use grayfin_types::{OrderNumber, Token, step::Step};

use crate::{
    agent::{Trust, What, Written},
    facts::cluster_id,
    message::FromHost,
    world::World,
};

/// Open work waits so long after a start for a coordinator's word about the ledger.
const RESUME_WAIT_MS: u64 = 300;

impl World {
    /// One turn of the runner.
    pub(crate) fn turn(&mut self, h: usize) {
        self.agents[h].woken = false;
        if self.agents[h].trust == Trust::Amnesic {
            return;
        }
        if self.agents[h].call.is_some() {
            self.go_on(h);
            return;
        }
        let agent = &self.agents[h];
        let since = self.now_ms.saturating_sub(agent.began_ms);
        if agent.resumes && agent.trust == Trust::Unknown && since < RESUME_WAIT_MS {
            self.wake(h, 50);
            return;
        }
        self.canary_turn(h);
        if !self.agents[h].up || self.staging_turn(h) {
            return;
        }
        if self.agents[h].up {
            self.sequence_turn(h);
        }
    }

    fn canary_turn(&mut self, h: usize) {
        let cluster = cluster_id();
        let Some(known) = self.agents[h].state.cluster(&cluster) else { return };
        let (start, owed) = (known.canary.clone(), known.canary_owed.clone());
        for (number, task) in owed {
            if self.agents[h].writer.answered.contains_key(&number) {
                continue;
            }
            let (order, status) = match task {
                CanaryTask::Stop(order) => {
                    let status = self.agents[h].writer.status(&order.rollout, &self.cluster);
                    self.agents[h].writer.stop();
                    (order, status)
                }
                CanaryTask::Check(order) => {
                    let blind = !self.chaos.over && self.chaos.side.percent(4);
                    let writer = &mut self.agents[h].writer;
                    let status = writer.check(&order.rollout, &self.cluster, blind);
                    if blind {
                        self.tally.note("rows that could not be read back in time");
                    }
                    (order, status)
                }
            };
            let report = CanaryReported {
                rollout: order.rollout,
                host: self.agents[h].id.clone(),
                epoch: order.epoch,
                order: number,
                status,
            };
            self.agents[h].writer.answered.insert(number, report.clone());
            self.tell(h, FromHost::Canary(report));
        }
        if let Some((number, order)) = start
            && self.agents[h].writer.runs != Some(number)
        {
            self.agents[h].writer.start(number, &order);
        }
    }

    fn staging_turn(&mut self, h: usize) -> bool {
        let cluster = cluster_id();
        let Some(now) = self.agents[h].state.cluster(&cluster).and_then(|c| c.staging.clone())
        else {
            return false;
        };
        let done = self.agents[h].staged.take().filter(|(number, _)| *number == now.number);
        let action = staging::next(&now, done.as_ref().map(|(_, outcome)| outcome));
        let write = |event| Body::Staging { cluster: cluster.clone(), number: now.number, event };
        match action {
            staging::Action::Rest => false,
            staging::Action::Write(event) => {
                self.append(h, write(event));
                true
            }
            staging::Action::Run { intent, .. } => {
                match self.append(h, write(intent)) {
                    Written::Yes => self.begin(h, What::Stage, Step::Stage, false, now.number),
                    // No room: looked at again when there is.
                    Written::Full => self.wake(h, 100),
                    Written::Illegal | Written::Died => {}
                }
                true
            }
        }
    }

    fn sequence_turn(&mut self, h: usize) {
        let boot = self.boot(h);
        let agent = &mut self.agents[h];
        let outcome = agent.outcome.take();
        let Some(hold) = agent.state.hold.as_ref() else { return };
        let token = hold.token;
        let action = sequence::next(hold, &Seen { boot_id: &boot, outcome });
        match action {
            Action::Rest => {}
            Action::Write(event) => {
                if self.append(h, Body::Sequence { token, event }) == Written::Illegal {
                    self.wake(h, 1);
                }
            }
            Action::Check(step) => self.begin(h, What::Check, step, false, OrderNumber(0)),
            Action::Run { intents, step, already, .. } => {
                if self.intents(h, token, intents) {
                    self.begin(h, What::Run, step, already, OrderNumber(0));
                }
            }
            Action::Undo { intent, step, .. } => {
                if self.intents(h, token, vec![intent]) {
                    self.begin(h, What::Undo, step, false, OrderNumber(0));
                }
            }
        }
    }

    fn intents(&mut self, h: usize, token: Token, intents: Vec<Event>) -> bool {
        for event in intents {
            match self.append(h, Body::Sequence { token, event }) {
                Written::Yes => {}
                Written::Illegal | Written::Full => {
                    self.wake(h, 1);
                    return false;
                }
                Written::Died => return false,
            }
        }
        true
    }
}
