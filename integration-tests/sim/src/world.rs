//! The world: one queue of happenings in virtual time, one source of chance, no threads.

use std::collections::BTreeMap;

use grayfin_coordinator_core::{Cmd, State};
use grayfin_types::{HostId, facts::AgentStanding, facts::NodeRole};

use crate::{
    agent::HostAgent,
    cluster::{CameUp, Cluster, Tree},
    dice::Dice,
    facts::{Blur, cluster_facts, cluster_id, host_facts},
    faults::Chaos,
    group::Group,
    message::{FromHost, Happening, ToHost},
    operator::Operator,
    tally::Tally,
    truth::{HostTruth, Truth},
};

/// The cluster's own time passes in steps of this.
const TICK_MS: u64 = 25;
/// Coordinators look at least this often.
const COORDINATOR_TICK_MS: u64 = 200;
/// Host agents look this often.
const LOOK_MS: u64 = 120;
/// A host agent tries to connect this often.
const CONNECT_MS: u64 = 120;

/// Everything.
#[derive(Debug)]
pub struct World {
    /// Now, in milliseconds of virtual time.
    pub now_ms: u64,
    /// The source of chance.
    pub dice: Dice,
    /// DolphinDB and the machines.
    pub cluster: Cluster,
    /// Host agents.
    pub agents: Vec<HostAgent>,
    /// Groups of coordinators: the real one, and perhaps a clone of it.
    pub groups: Vec<Group>,
    /// What really happened.
    pub truth: Truth,
    /// Interesting things.
    pub tally: Tally,
    /// What goes wrong.
    pub chaos: Chaos,
    /// Who steers.
    pub operator: Operator,
    /// What happened, for people.
    pub trace: Option<Vec<String>>,
    /// Happenings so far.
    pub happenings: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    queued: u64,
    sessions: u64,
}

impl World {
    /// Makes a world from a seed.
    pub fn new(seed: u64, traced: bool) -> Self {
        let mut dice = Dice::new(seed);
        let hosts = if dice.percent(25) { 4 } else { 3 };
        let coordinators = if dice.percent(50) { 3 } else { 1 };
        let cluster = Cluster::new(hosts, &mut dice);
        let agents = cluster.hosts.iter().map(|h| HostAgent::new(h.id.clone())).collect();
        let chaos = Chaos::new(seed, &mut dice);
        let operator = Operator::new(&mut dice);
        let truth = Truth { hosts: vec![HostTruth::default(); hosts], ..Truth::default() };
        let mut world = Self {
            now_ms: 1,
            dice,
            cluster,
            agents,
            groups: vec![Group::new(coordinators, State::default())],
            truth,
            tally: Tally::default(),
            chaos,
            operator,
            trace: traced.then(Vec::new),
            happenings: 0,
            queue: BTreeMap::new(),
            queued: 0,
            sessions: 0,
        };
        world.vary();
        world.set_going();
        world
    }

    fn set_going(&mut self) {
        self.elect_soon(0);
        self.after(TICK_MS, Happening::Tick);
        self.after(50, Happening::CoordinatorTick);
        for host in 0..self.agents.len() {
            let life = self.agents[host].life;
            let at = self.dice.between(1, 100);
            self.after(at, Happening::Connect { host, life });
            self.after(at + 20, Happening::Look { host, life });
        }
        self.after(200, Happening::Operator);
        self.plan_faults();
    }

    /// Tells something to whoever reads the trace.
    pub(crate) fn say(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>7} ms  {}", self.now_ms, what(self));
            if let Some(trace) = &mut self.trace {
                trace.push(line);
            }
        }
    }

    /// Has something happen later.
    pub(crate) fn after(&mut self, ms: u64, what: Happening) {
        self.queued += 1;
        self.queue.insert((self.now_ms + ms, self.queued), what);
    }

    /// Finds a host by its id.
    pub(crate) fn host_index(&self, id: &HostId) -> Option<usize> {
        self.agents.iter().position(|a| &a.id == id)
    }

    /// A host's wall clock: it may be hours off, and jumps.
    pub(crate) fn wall_ms(&self, h: usize) -> u64 {
        (1_700_000_000_000 + self.now_ms).saturating_add_signed(self.chaos.skew_ms(h))
    }

    /// The next thing happens, and the rules are judged.
    pub fn step(&mut self) {
        let Some(((at, _), what)) = self.queue.pop_first() else { return };
        self.now_ms = self.now_ms.max(at);
        self.happenings += 1;
        self.happen(what);
        self.judge_all();
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Tick => self.tick(),
            Happening::CoordinatorTick => {
                for group in 0..self.groups.len() {
                    for replica in 0..self.groups[group].replicas.len() {
                        self.hurry(group, replica);
                    }
                }
                self.after(COORDINATOR_TICK_MS, Happening::CoordinatorTick);
            }
            Happening::Decide { group, replica } => self.decide(group, replica),
            Happening::Elect { group } => self.elect(group),
            Happening::ReplicaStart { group, replica } => {
                self.groups[group].replicas[replica].up = true;
                if self.groups[group].leader.is_none() {
                    self.elect_soon(group);
                }
            }
            Happening::ToHost { host, line, session, message } => {
                self.reach_host(host, line, session, message);
            }
            Happening::FromHost { host, session, message } => {
                self.reach_coordinator(host, session, message);
            }
            Happening::Wake { host, life } => {
                if self.lives(host, life) {
                    match self.thaws_in(host) {
                        0 => self.turn(host),
                        ms => self.after(ms, Happening::Wake { host, life }),
                    }
                }
            }
            Happening::Connect { host, life } => {
                if self.lives(host, life) {
                    if self.thaws_in(host) == 0 {
                        self.connect(host);
                    }
                    self.after(CONNECT_MS, Happening::Connect { host, life });
                }
            }
            Happening::Look { host, life } => {
                if self.lives(host, life) {
                    if self.thaws_in(host) == 0 {
                        self.look(host);
                    }
                    self.after(LOOK_MS, Happening::Look { host, life });
                }
            }
            Happening::AgentStart { host } => self.start_agent(host),
            Happening::PowerOn { host } => {
                if !self.cluster.hosts[host].dead && !self.cluster.hosts[host].on {
                    self.cluster.power_on(host, self.now_ms);
                    self.start_agent(host);
                }
            }
            Happening::LateStop { node, ticks } => self.late_stop(node, ticks),
            Happening::Fault => self.fault(),
            Happening::Heal { host } => self.chaos.heal(host),
            Happening::CloneEnds => self.end_clone(),
            Happening::Operator => self.operate(),
        }
    }

    fn lives(&self, h: usize, life: u64) -> bool {
        self.agents[h].up && self.agents[h].life == life
    }

    fn thaws_in(&self, h: usize) -> u64 {
        self.agents[h].frozen_until.saturating_sub(self.now_ms)
    }

    fn late_stop(&mut self, node: usize, ticks: u64) {
        // By identity: another process of the same name is not meant.
        if self.cluster.nodes[node].ticks == ticks && self.cluster.nodes[node].up {
            self.tally.note("asynchronous stop took effect late");
            self.cluster.gone(node, self.now_ms);
        }
    }

    fn tick(&mut self) {
        let came = self.cluster.tick(self.now_ms);
        for up in came {
            self.judge_start(up);
        }
        self.helpers();
        for h in 0..self.agents.len() {
            let writes = self.agents[h].up && self.thaws_in(h) == 0;
            if writes && self.agents[h].writer.runs.is_some() && self.dice.percent(30) {
                let chunk = self.dice.index(self.cluster.chunks.len());
                let said = self.agents[h].writer.write(&mut self.cluster, chunk);
                if let Some((order, status)) = said {
                    let report = grayfin_coordinator_core::cmd::CanaryReported {
                        rollout: order.rollout,
                        host: self.agents[h].id.clone(),
                        epoch: order.epoch,
                        order: grayfin_types::OrderNumber(0),
                        status,
                    };
                    self.tell(h, FromHost::Canary(report));
                }
            }
        }
        self.after(TICK_MS, Happening::Tick);
    }

    /// A helper that nobody ended goes on with the copy that it was started for.
    fn helpers(&mut self) {
        for h in 0..self.cluster.hosts.len() {
            if self.cluster.hosts[h].helper_until.is_some_and(|until| until <= self.now_ms) {
                self.cluster.hosts[h].helper_until = None;
                if self.cluster.hosts[h].tree == Tree::Half {
                    self.cluster.hosts[h].tree = Tree::New;
                    self.tally.note("helper of a dead host agent changed the installation");
                }
            }
        }
    }

    /// Sends to a host agent; perhaps late, perhaps twice, perhaps never.
    pub(crate) fn send(&mut self, g: usize, r: usize, h: usize, message: ToHost) {
        let Some(session) = &self.agents[h].session else { return };
        if (session.group, session.replica) != (g, r) || self.chaos.is_cut(h, self.now_ms) {
            return;
        }
        let line = self.agents[h].line;
        let bound = matches!(message, ToHost::Go { .. });
        let id = if bound { session.id } else { 0 };
        if self.chaos.loses(&mut self.dice, self.now_ms) {
            self.tally.note("message lost");
            self.end_session(h);
            return;
        }
        if !bound && self.chaos.doubles(&mut self.dice, self.now_ms) {
            let late = self.dice.between(1, 4_000);
            self.tally.note("order or request doubled, the second one late");
            let message = message.clone();
            self.after(late, Happening::ToHost { host: h, line, session: 0, message });
        }
        let delay = self.chaos.delay(&mut self.dice, self.now_ms);
        self.after(delay, Happening::ToHost { host: h, line, session: id, message });
    }

    /// Sends to the coordinator, in order, as long as the session lasts.
    pub(crate) fn tell(&mut self, h: usize, message: FromHost) {
        if self.agents[h].session.is_none() || self.chaos.is_cut(h, self.now_ms) {
            return;
        }
        if self.chaos.loses(&mut self.dice, self.now_ms) {
            self.tally.note("message lost");
            self.end_session(h);
            return;
        }
        let at = self.now_ms + self.chaos.delay(&mut self.dice, self.now_ms);
        let again =
            matches!(message, FromHost::Promise(_) | FromHost::Answer(_) | FromHost::Report(_))
                && self.chaos.doubles(&mut self.dice, self.now_ms);
        let Some(session) = &mut self.agents[h].session else { return };
        session.fifo_ms = session.fifo_ms.max(at);
        let (after, session) = (session.fifo_ms - self.now_ms, session.id);
        if again {
            self.tally.note("answer or report doubled");
            let message = message.clone();
            let late = after + self.dice.between(1, 1_500);
            self.after(late, Happening::FromHost { host: h, session, message });
        }
        self.after(after, Happening::FromHost { host: h, session, message });
    }

    fn reach_host(&mut self, h: usize, line: u64, session: u64, message: ToHost) {
        let agent = &self.agents[h];
        // Late ones too come over some session, and so after a coordinator's word about the ledger.
        let over = agent.session.as_ref().is_none_or(|s| session != 0 && s.id != session);
        if !agent.up || agent.line != line || over {
            return;
        }
        let thaws = self.thaws_in(h);
        if thaws > 0 {
            self.after(thaws, Happening::ToHost { host: h, line, session, message });
            return;
        }
        match message {
            ToHost::Promise(by, token, held) => self.asked_to_promise(h, &by, token, &held),
            ToHost::Order(order) => self.ordered(h, &order),
            ToHost::Go { by, token, request, allowed, confirmed } => {
                self.go_answered(h, &by, token, request, allowed, confirmed);
            }
        }
    }

    fn reach_coordinator(&mut self, h: usize, session: u64, message: FromHost) {
        let Some((g, r)) = self.agents[h]
            .session
            .as_ref()
            .filter(|s| s.id == session)
            .map(|s| (s.group, s.replica))
        else {
            return;
        };
        if !self.groups[g].alive || !self.groups[g].replicas[r].up {
            return;
        }
        if self.groups[g].leader != Some(r) {
            // It cannot be committed there: the session ends, and all is said again elsewhere.
            if !matches!(message, FromHost::Host(_) | FromHost::Cluster(_)) {
                self.end_session(h);
            }
            return;
        }
        let now_ms = self.now_ms;
        match message {
            FromHost::Promise(answer) => drop(self.propose(g, Cmd::RecordPromise(answer))),
            FromHost::Answer(answer) => drop(self.propose(g, Cmd::OrderAnswered(answer))),
            FromHost::Report(report) => drop(self.propose(g, Cmd::Reported { report })),
            FromHost::Go(ask) => self.go_asked(g, r, h, ask),
            FromHost::Canary(report) if report.order.0 == 0 => {
                let view = &mut self.groups[g].replicas[r].view;
                let (id, host, epoch) = (report.rollout, report.host, report.epoch);
                view.canary_report(&id, &host, epoch, report.status, now_ms);
            }
            FromHost::Canary(report) => drop(self.propose(g, Cmd::CanaryReported(report))),
            FromHost::Host(facts) => {
                let group = &mut self.groups[g];
                group.replicas[r].view.host_facts(&group.state, *facts, now_ms);
                self.hurry(g, r);
            }
            FromHost::Cluster(facts) => {
                self.note_seen(&facts);
                let group = &mut self.groups[g];
                group.replicas[r].view.cluster_facts(&group.state, *facts, now_ms);
                self.hurry(g, r);
            }
        }
    }

    /// Numbers a session.
    pub(crate) fn next_session(&mut self) -> u64 {
        self.sessions += 1;
        self.sessions
    }

    pub(crate) fn end_session(&mut self, h: usize) {
        let Some(session) = self.agents[h].session.take() else { return };
        let now_ms = self.now_ms;
        let host = self.agents[h].id.clone();
        if let Some(group) = self.groups.get_mut(session.group) {
            let replica = &mut group.replicas[session.replica];
            replica.view.disconnected(&host, &session.id.to_string(), now_ms);
            replica.gos.retain(|(_, of, _)| *of != h);
        }
    }

    pub(crate) fn end_sessions_of(&mut self, g: usize, r: usize) {
        for h in 0..self.agents.len() {
            let here = self.agents[h].session.as_ref();
            if here.is_some_and(|s| (s.group, s.replica) == (g, r)) {
                self.end_session(h);
            }
        }
    }

    /// A host agent looks and tells.
    pub(crate) fn look(&mut self, h: usize) {
        let Some(session) = self.agents[h].session.clone() else { return };
        self.agents[h].looks += 1;
        let look = self.agents[h].looks;
        let agent = &self.agents[h];
        let standing = AgentStanding {
            version: "0.1.0".to_owned(),
            generation: agent.generation(),
            ledger_id: agent.state.ledger.clone().expect("every ledger begins with its id"),
            ledger_position: agent.state.position,
            floor: agent.state.floor,
            open_hold: agent.state.open_hold(),
        };
        let mut facts = host_facts(&self.cluster, h, standing, look);
        self.hide_stray(&mut facts);
        self.tell(h, FromHost::Host(Box::new(facts)));
        let replica = &self.groups[session.group].replicas[session.replica];
        let observer = replica.view.clusters.get(&cluster_id()).and_then(|c| c.observer.as_ref());
        let asked = observer.is_some_and(|o| o.host == self.agents[h].id);
        if asked {
            let blur = self.blur_of(h);
            let facts = cluster_facts(&self.cluster, &self.agents[h].id, look, blur);
            self.tell(h, FromHost::Cluster(Box::new(facts)));
        }
    }

    pub(crate) fn blur_of(&self, h: usize) -> Blur {
        let agent = &self.agents[h];
        if agent.blur_until > self.now_ms { agent.blur } else { Blur::Clear }
    }

    fn go_answered(
        &mut self,
        h: usize,
        by: &grayfin_agent_core::entry::Authority,
        token: grayfin_types::Token,
        request: u64,
        allowed: bool,
        confirmed: bool,
    ) {
        if grayfin_agent_core::fence::authority(&self.agents[h].state, by).is_err() {
            return;
        }
        if self.hold(h).is_none_or(|hold| hold.token != token) {
            return;
        }
        let now_ms = self.now_ms;
        let ask = self.agents[h].call.as_mut().and_then(|call| call.ask.as_mut());
        let Some(ask) = ask.filter(|ask| ask.request == request) else { return };
        (ask.answer, ask.answered_ms) = (Some(allowed), now_ms);
        if allowed {
            let go = crate::truth::Go { at_ms: now_ms, token, confirmed, used: false };
            self.truth.hosts[h].go = Some(go);
        }
    }

    /// A DolphinDB node came up.
    fn judge_start(&mut self, up: CameUp) {
        let node = &self.cluster.nodes[up.node];
        let (host, alias, role) = (node.host, node.spec.alias.clone(), node.spec.role);
        self.say(|_| format!("{alias} comes up from {:?}", up.tree));
        let first_start = self.truth.hosts[host].first_start;
        let words = || format!("`{alias}` came up from {:?}", up.tree);
        self.truth.expect("S6", up.tree != Tree::Half && !up.interlock, words);
        self.truth.expect("S12", up.tree != Tree::Old || !up.rewritten, || {
            format!("`{alias}` started with the old version on metadata of the new one")
        });
        self.truth.expect("S12", up.tree != Tree::New || first_start.is_some(), || {
            format!("`{alias}` runs the new version and no first start was recorded")
        });
        if role == NodeRole::Controller {
            self.tally.note("controller came up");
        }
    }
}
