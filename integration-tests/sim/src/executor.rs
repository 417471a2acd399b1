//! What steps do on the model's machines: the contract of the real executor, in small pieces between
//! which the process can die.

use grayfin_agent_core::{Body, entry::Event, sequence::Checked, state::Hold};
use grayfin_coordinator_core::go::Ask;
use grayfin_types::{Code, NodeAlias, Token, facts::NodeRole, step::Step};
use serde_json::{Value, json};

use crate::{
    agent::{Asking, Call, StepFault, What, Written},
    cluster::{Backup, Tree},
    facts::{Blur, cluster_id, guard},
    message::{FromHost, Happening},
    world::World,
};

/// A go is asked for again after this.
const ASK_AGAIN_MS: u64 = 250;
/// Without an answer it counts as refused after this.
const NO_GO_MS: u64 = 900;

/// An older one is not used: something stood still between.
const GO_OLD_MS: u64 = 150;

/// How a piece of a call ended.
enum Flow {
    /// Go on after so many milliseconds.
    Wait(u64),
    /// The call is over.
    Done(Result<Checked, (Code, String)>),
    /// The process is dead.
    Died,
}

fn fail(code: Code, why: &str) -> Flow {
    Flow::Done(Err((code, why.to_owned())))
}

const FINE: Flow = Flow::Done(Ok(Checked::Ready));

impl World {
    /// One piece of the call that runs.
    pub(crate) fn go_on(&mut self, h: usize) {
        let Some(mut call) = self.agents[h].call.clone() else { return };
        let turned = self.hold(h).is_some_and(Hold::must_turn_round);
        let gone = call.what != What::Stage && self.hold(h).is_none();
        let life = self.agents[h].life;
        let flow = if gone {
            fail(Code::Aborted, "the hold is gone")
        } else if turned && matches!(call.what, What::Check | What::Run) {
            self.tally.note("step ended early by an operator");
            fail(Code::Aborted, "an operator turned the sequence")
        } else if self.now_ms > call.deadline_ms {
            self.tally.note("step reached its limit");
            fail(Code::StepTimeout, "it did not end in time")
        } else {
            match self.faulty(h, &call) {
                Some(flow) => flow,
                None => self.piece(h, &mut call),
            }
        };
        if self.agents[h].life != life || !self.agents[h].up {
            return;
        }
        match flow {
            Flow::Wait(ms) => {
                self.agents[h].call = Some(call);
                self.agents[h].woken = false;
                self.wake(h, ms);
            }
            Flow::Done(result) => {
                self.agents[h].woken = false;
                self.ended(h, result);
            }
            Flow::Died => {}
        }
    }

    fn faulty(&mut self, h: usize, call: &Call) -> Option<Flow> {
        if call.what == What::Check || call.already {
            return None;
        }
        let undo = call.what == What::Undo;
        let faults = &mut self.agents[h].faults;
        let at = faults.iter().position(|(s, u, _)| *s == call.step && *u == undo)?;
        let (_, _, fault) = faults[at];
        match fault {
            StepFault::Hang => {
                // Until its limit; the attempt after that goes well.
                if self.now_ms + 100 >= call.deadline_ms {
                    faults.remove(at);
                    self.tally.note("step hung");
                }
                Some(Flow::Wait(100))
            }
            StepFault::Fail => {
                faults.remove(at);
                self.tally.note(if undo { "undo failed" } else { "step failed" });
                Some(fail(Code::StopFailed, "it was made to fail"))
            }
            StepFault::Lie => {
                faults.remove(at);
                self.tally.note("step lied");
                let fine = self.verified(h, call.step, undo);
                Some(if fine { FINE } else { fail(Code::VersionNotReached, "nothing changed") })
            }
        }
    }

    /// What the verification after a step looks at.
    fn verified(&self, h: usize, step: Step, undo: bool) -> bool {
        let host = &self.cluster.hosts[h];
        match (step, undo) {
            (Step::Stage, _) => host.staged,
            (Step::Guard, _) | (Step::Backup, true) => true,
            (Step::Join, _) => host.units_on == host.units_before && self.cluster.all_up(h),
            (Step::Quiesce, false) => !self.running(h, |role| role == NodeRole::DataNode),
            (Step::Stop, false) => !self.cluster.runs(h),
            (Step::Backup, false) => host.backup.is_some() && host.interlock,
            (Step::Upgrade, false) => host.tree == Tree::New,
            (Step::Upgrade, true) => host.tree == Tree::Old,
            (Step::Start, _) => self.cluster.all_up(h),
            (Step::Quiesce | Step::Stop, true) => false,
        }
    }

    fn running(&self, h: usize, role: impl Fn(NodeRole) -> bool) -> bool {
        self.cluster.of_host(h).any(|n| {
            let node = &self.cluster.nodes[n];
            node.up && role(node.spec.role)
        })
    }

    fn piece(&mut self, h: usize, call: &mut Call) -> Flow {
        call.at += 1;
        match (call.what, call.step) {
            (What::Check, step) => Flow::Done(self.check(h, step)),
            (What::Stage, _) | (What::Run, Step::Stage) => self.stage(h, call),
            (What::Run, _) if call.already => {
                if self.verified(h, call.step, false) {
                    FINE
                } else {
                    fail(Code::StopFailed, "it is not done any more")
                }
            }
            (What::Run, Step::Guard) => match self.guard_now(h) {
                Ok(()) => FINE,
                Err((code, why)) => fail(code, &why),
            },
            (What::Run, Step::Quiesce) => self.quiesce(h, call),
            (What::Run, Step::Stop) => self.stop(h, call),
            (What::Run, Step::Backup) => self.back_up(h, call),
            (What::Run, Step::Upgrade) => self.upgrade(h, call),
            (What::Run, Step::Start) => self.start(h, call),
            (What::Run, Step::Join) => self.join(h),
            (What::Undo, step) => self.undo(h, step, call),
        }
    }

    fn check(&self, h: usize, step: Step) -> Result<Checked, (Code, String)> {
        let host = &self.cluster.hosts[h];
        let token = self.hold(h).map(|hold| hold.token);
        let done = match step {
            Step::Stage => host.staged,
            Step::Guard | Step::Join => false,
            Step::Quiesce => {
                self.captured_units(h).is_some()
                    && !host.units_on
                    && !self.running(h, |role| role == NodeRole::DataNode)
            }
            Step::Stop => !self.cluster.runs(h),
            Step::Backup => {
                host.interlock
                    && !self.cluster.runs(h)
                    && host.backup.is_some_and(|b| Some(b.token) == token && b.at_ms >= host.ran_ms)
            }
            Step::Upgrade => {
                if self.cluster.runs(h) {
                    let why = "processes run while none may".to_owned();
                    return Ok(Checked::Refused(grayfin_agent_core::state::Failure {
                        step,
                        code: Code::ProcessAppeared,
                        message: why,
                    }));
                }
                host.tree == Tree::New
            }
            Step::Start => host.tree == Tree::New && self.cluster.all_up(h),
        };
        Ok(if done { Checked::AlreadyDone } else { Checked::Ready })
    }

    fn stage(&mut self, h: usize, call: &Call) -> Flow {
        if call.at == 1 {
            return Flow::Wait(self.dice.between(5, 60));
        }
        if self.cluster.hosts[h].full {
            self.tally.note("no room while staging");
            return fail(Code::DiskTooSmall, "no room for the package");
        }
        self.cluster.hosts[h].staged = true;
        FINE
    }

    fn guard_now(&mut self, h: usize) -> Result<(), (Code, String)> {
        let blur = self.blur_of(h);
        let judged = guard(&self.cluster, h, blur);
        if judged.is_err() {
            let what = if blur == Blur::Clear { "guard refused" } else { "guard saw nothing" };
            self.tally.note(what);
        }
        judged.map(drop)
    }

    /// Records the value before anything is touched; the first one counts (S10).
    fn capture(&mut self, h: usize) -> Option<Flow> {
        let token = self.hold(h)?.token;
        let value = json!(self.cluster.hosts[h].units_on);
        let event = Event::Captured { key: "units".to_owned(), value };
        match self.append(h, Body::Sequence { token, event }) {
            Written::Yes => None,
            Written::Illegal | Written::Full => Some(fail(Code::Internal, "not recorded")),
            Written::Died => Some(Flow::Died),
        }
    }

    fn captured_units(&self, h: usize) -> Option<bool> {
        self.hold(h)?.captured("units").and_then(Value::as_bool)
    }

    fn quiesce(&mut self, h: usize, call: &mut Call) -> Flow {
        if call.at == 1 {
            if let Some(flow) = self.capture(h) {
                return flow;
            }
            return Flow::Wait(5);
        }
        self.cluster.hosts[h].units_on = false;
        let data: Vec<usize> = self.of_role(h, |role| role == NodeRole::DataNode);
        if data.is_empty() {
            return FINE;
        }
        self.take_down(h, call, data)
    }

    fn of_role(&self, h: usize, role: impl Fn(NodeRole) -> bool) -> Vec<usize> {
        let up = |n: &usize| {
            let node = &self.cluster.nodes[*n];
            node.up && role(node.spec.role)
        };
        self.cluster.of_host(h).filter(up).collect()
    }

    fn stop(&mut self, h: usize, call: &mut Call) -> Flow {
        let again = self.of_role(h, |role| role == NodeRole::DataNode);
        if !again.is_empty() {
            // They are down already as far as anybody was promised.
            for node in again {
                self.cluster.stop(node, self.now_ms + 10);
            }
            self.tally.note("data node came back while the host was stopped");
            return Flow::Wait(20);
        }
        let left = self.of_role(h, |_| true);
        if left.is_empty() { FINE } else { self.take_down(h, call, left) }
    }

    /// One down action: go, guard, intent, and at once the act.
    fn take_down(&mut self, h: usize, call: &mut Call, nodes: Vec<usize>) -> Flow {
        let stopping = nodes.iter().all(|n| self.cluster.nodes[*n].stopping_at.is_some());
        if stopping {
            return Flow::Wait(20);
        }
        let Some(ask) = call.ask.clone() else {
            self.agents[h].requests += 1;
            let request = self.agents[h].requests;
            let until_ms = self.now_ms + NO_GO_MS;
            let (sent_ms, answer, answered_ms) = (self.now_ms, None, 0);
            let ask = Asking { request, sent_ms, until_ms, nodes, answer, answered_ms };
            self.send_go(h, &ask);
            call.ask = Some(ask);
            return Flow::Wait(10);
        };
        match ask.answer {
            None if self.now_ms >= ask.until_ms => {
                self.tally.note("no go in time");
                fail(Code::NoGo, "no coordinator that leads answered in time")
            }
            None => {
                if self.now_ms >= ask.sent_ms + ASK_AGAIN_MS {
                    self.agents[h].requests += 1;
                    let request = self.agents[h].requests;
                    let ask = Asking { request, sent_ms: self.now_ms, ..ask };
                    self.send_go(h, &ask);
                    call.ask = Some(ask);
                }
                Flow::Wait(10)
            }
            Some(false) => {
                self.tally.note("go refused");
                fail(Code::NoGo, "the coordinator gave no go")
            }
            Some(true) if self.now_ms > ask.answered_ms + GO_OLD_MS => {
                self.tally.note("go too old when it was to be used");
                fail(Code::NoGo, "the go is too old")
            }
            Some(true) => {
                call.ask = None;
                self.act_on_go(h, &ask.nodes)
            }
        }
    }

    fn act_on_go(&mut self, h: usize, nodes: &[usize]) -> Flow {
        self.strike(h);
        if let Err((code, why)) = self.guard_now(h) {
            return fail(code, &why);
        }
        let Some(token) = self.hold(h).map(|hold| hold.token) else { return Flow::Died };
        let event = Event::GoingDown { nodes: self.aliases(nodes) };
        match self.append(h, Body::Sequence { token, event }) {
            Written::Yes => {}
            Written::Illegal | Written::Full => return fail(Code::Aborted, "turned round"),
            Written::Died => return Flow::Died,
        }
        self.judge_down(h, token, nodes);
        for node in nodes.iter().copied() {
            if self.dice.percent(20) {
                // Through the controller: the order takes its time.
                let at = self.dice.between(50, 900);
                let ticks = self.cluster.nodes[node].ticks;
                self.after(at, Happening::LateStop { node, ticks });
                self.tally.note("stop through the controller");
            }
            let at = self.now_ms + self.dice.between(5, 120);
            self.cluster.stop(node, at);
        }
        Flow::Wait(20)
    }

    pub(crate) fn aliases(&self, nodes: &[usize]) -> Vec<NodeAlias> {
        nodes.iter().map(|n| self.cluster.nodes[*n].spec.alias.clone()).collect()
    }

    fn send_go(&mut self, h: usize, ask: &Asking) {
        let Some(token) = self.hold(h).map(|hold| hold.token) else { return };
        let ask = Ask {
            cluster: cluster_id(),
            host: self.agents[h].id.clone(),
            token,
            request: ask.request,
            nodes: self.aliases(&ask.nodes),
        };
        self.tell(h, FromHost::Go(ask));
    }

    fn back_up(&mut self, h: usize, call: &Call) -> Flow {
        self.cluster.hosts[h].interlock = true;
        if self.cluster.runs(h) {
            return fail(Code::ProcessAppeared, "processes run while none may");
        }
        if call.at < 3 {
            return Flow::Wait(self.dice.between(5, 60));
        }
        if self.cluster.hosts[h].full {
            self.tally.note("no room while backing up");
            return fail(Code::DiskTooSmall, "no room for the backup");
        }
        let token = self.hold(h).map_or(Token(0), |hold| hold.token);
        self.cluster.hosts[h].backup = Some(Backup { token, at_ms: self.now_ms });
        FINE
    }

    fn upgrade(&mut self, h: usize, call: &Call) -> Flow {
        if self.cluster.runs(h) {
            return fail(Code::ProcessAppeared, "processes run while none may");
        }
        self.judge_swap(h);
        if call.at == 1 {
            self.cluster.hosts[h].tree = Tree::Half;
            return Flow::Wait(self.dice.between(10, 60));
        }
        self.cluster.hosts[h].tree = Tree::New;
        FINE
    }

    fn start(&mut self, h: usize, call: &Call) -> Flow {
        self.cluster.hosts[h].interlock = false;
        if call.at == 1 {
            self.start_nodes(h, |_| true);
        }
        self.wait_for_all(h)
    }

    fn start_nodes(&mut self, h: usize, role: impl Fn(NodeRole) -> bool) {
        for node in self.cluster.of_host(h).collect::<Vec<_>>() {
            if role(self.cluster.nodes[node].spec.role) && !self.cluster.nodes[node].up {
                let at = self.now_ms + self.dice.between(10, 80);
                self.cluster.start(node, at);
            }
        }
    }

    fn wait_for_all(&mut self, h: usize) -> Flow {
        if self.cluster.all_up(h) {
            return FINE;
        }
        let coming = |n: usize| {
            let node = &self.cluster.nodes[n];
            node.up || node.starting_at.is_some()
        };
        if self.cluster.of_host(h).all(coming) {
            return Flow::Wait(20);
        }
        self.tally.note("node did not start");
        fail(Code::StartFailed, "a node does not start")
    }

    fn join(&mut self, h: usize) -> Flow {
        if !self.cluster.all_up(h) {
            self.tally.note("node died after its start");
            return fail(Code::StartFailed, "a node is gone again");
        }
        if let Some(units) = self.captured_units(h) {
            self.cluster.hosts[h].units_on = units;
        }
        if self.cluster.leader.is_none() {
            return Flow::Wait(30);
        }
        FINE
    }

    fn undo(&mut self, h: usize, step: Step, call: &Call) -> Flow {
        match step {
            Step::Upgrade => {
                if self.cluster.runs(h) {
                    return fail(Code::ProcessAppeared, "processes run while none may");
                }
                let truth = &self.truth.hosts[h];
                let old_ledger = truth.amnesic || truth.untold;
                if self.cluster.hosts[h].rewritten && old_ledger {
                    // The metadata is not what the backup's manifest says: an old ledger alone is not
                    // believed (the real executor compares every file).
                    self.tally.note("metadata refused an undo from an old ledger");
                    return fail(Code::UndoImpossible, "the metadata was rewritten");
                }
                self.judge_undo(h);
                if call.at == 1 && self.cluster.hosts[h].tree != Tree::Old {
                    self.cluster.hosts[h].tree = Tree::Half;
                    return Flow::Wait(20);
                }
                self.cluster.hosts[h].tree = Tree::Old;
                FINE
            }
            Step::Backup => {
                self.cluster.hosts[h].interlock = false;
                FINE
            }
            Step::Stop => {
                if call.at == 1 {
                    self.start_nodes(h, |role| role != NodeRole::DataNode);
                    return Flow::Wait(30);
                }
                FINE
            }
            Step::Quiesce => {
                if let Some(units) = self.captured_units(h) {
                    self.cluster.hosts[h].units_on = units;
                }
                if call.at == 1 {
                    self.start_nodes(h, |_| true);
                }
                self.wait_for_all(h)
            }
            Step::Stage | Step::Guard | Step::Start | Step::Join => FINE,
        }
    }
}
