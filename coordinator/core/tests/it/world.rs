//! Coordinator, host agents and cluster in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use grayfin_coordinator_core::{
    Applied, Cmd, Response, Stamped, State, View, apply,
    cmd::{Action, Control, Enrol, Start},
    decide, event,
    go::{Ask, go},
    plan,
    state::HoldStage,
    view::{Connection, Fence},
};
use grayfin_types::{
    Generation, HostId, LedgerId, OrderNumber, RolloutId, Term, Token,
    event::{Body, Event},
    plan::{CanarySpec, PlanAnswer, PlanRequest, Policy},
    status::RolloutState,
};

use crate::{
    agent::{PlayedHostAgent, Said},
    model::{Model, NEW, cluster, host, standing},
};

/// One step of virtual time.
pub(crate) const STEP_MS: u64 = 100;
/// Host agents look this often.
const LOOK_MS: u64 = 300;

/// A hash that is good enough for a chain in tests.
pub(crate) fn hasher(bytes: &[u8]) -> String {
    let mut sum: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in bytes {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{sum:016x}")
}

pub(crate) fn policy() -> Policy {
    Policy {
        soak_ms: 2_000,
        leader_settled_ms: 1_600,
        constructing_look_ms: 1_000,
        fact_age_max_ms: 2_000,
        free_floor_bytes: 1 << 20,
        ..Policy::default()
    }
}

pub(crate) fn request(canary: CanarySpec) -> PlanRequest {
    PlanRequest { canary, by: "ann".to_owned(), ..PlanRequest::new(cluster(), NEW) }
}

/// A small generator: the same seed gives the same run.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides.max(1)
    }
}

pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) state: State,
    pub(crate) view: View,
    pub(crate) model: Model,
    pub(crate) agents: BTreeMap<HostId, PlayedHostAgent>,
    pub(crate) links: BTreeSet<HostId>,
    pub(crate) events: Vec<Event>,
    pub(crate) id: RolloutId,
    /// Messages of host agents are delivered twice, this often in a hundred.
    pub(crate) twice: u64,
    pub(crate) dice: Dice,
    /// Short waits are not told, as in the driver.
    pub(crate) damped: bool,
    looks: BTreeMap<HostId, u64>,
    requests: u64,
    sessions: u64,
    late: Vec<Said>,
    gos: Vec<Ask>,
    pub(crate) leaders_host_at: Vec<HostId>,
}

impl World {
    pub(crate) fn new(hosts: usize) -> Self {
        let mut world = Self {
            now_ms: 1_000,
            state: State::default(),
            view: View::default(),
            model: Model::new(hosts),
            agents: (1..=hosts).map(|n| (host(n), PlayedHostAgent::new(host(n)))).collect(),
            links: BTreeSet::new(),
            events: Vec::new(),
            id: RolloutId::new("r1").unwrap(),
            twice: 0,
            dice: Dice(7),
            damped: false,
            looks: BTreeMap::new(),
            requests: 0,
            sessions: 0,
            late: Vec::new(),
            gos: Vec::new(),
            leaders_host_at: Vec::new(),
        };
        world.apply(Cmd::Found {
            group: "g".to_owned(),
            incarnation: grayfin_types::Incarnation(1),
        });
        world.apply(Cmd::Lease { coordinator: 1, term: Term(1) });
        for number in 1..=hosts {
            world.connect(&host(number));
        }
        world
    }

    /// A world in which a rollout was started.
    pub(crate) fn started(hosts: usize, canary: CanarySpec) -> Self {
        let mut world = Self::new(hosts);
        let answer = world.start(&request(canary));
        assert!(answer.ready, "{:#?}", answer.findings);
        world
    }

    pub(crate) fn apply(&mut self, cmd: Cmd) -> Response {
        let stamped = Stamped { at_ms: 1_700_000_000_000 + self.now_ms, cmd };
        // A command survives its way through the log.
        let stored = serde_json::to_string(&stamped).unwrap();
        let stamped: Stamped = serde_json::from_str(&stored).unwrap();
        let Applied { response, events, violations, .. } =
            apply(&mut self.state, &stamped, &hasher);
        assert!(violations.is_empty(), "{violations:?}");
        for event in &events {
            if let Body::Granted { host, .. } = &event.body {
                let leads = self.model.leader.clone().unwrap();
                let of = self.model.nodes.iter().find(|n| n.spec.alias == leads).unwrap();
                if &of.host == host {
                    self.leaders_host_at.push(host.clone());
                }
            }
        }
        self.events.extend(events);
        response
    }

    pub(crate) fn connect(&mut self, host: &HostId) {
        let agent = self.agents.get_mut(host).unwrap();
        let hello = Enrol {
            host: host.clone(),
            clusters: BTreeSet::from([cluster()]),
            generation: Generation(1),
            ledger_id: LedgerId::new(agent.ledger.clone()).unwrap(),
            ledger_position: agent.position,
            agent_version: "0.1.0".to_owned(),
            last_orders: agent.last_order.iter().map(|(n, _)| (cluster(), *n)).collect(),
            ledger: None,
        };
        let fence = Fence {
            floor: agent.floor,
            open_hold: agent.open_hold(),
            last_order: agent.last_order.as_ref().map_or(OrderNumber(0), |(n, _)| *n),
        };
        let ledger_id = hello.ledger_id.clone();
        let answer = self.apply(Cmd::Enrol(hello));
        let Response::Enrolled { committed_position, .. } = answer else {
            panic!("{answer:?}");
        };
        self.agents.get_mut(host).unwrap().resend(committed_position);
        self.sessions += 1;
        let connection = Connection {
            session_id: self.sessions.to_string(),
            since_ms: self.now_ms,
            ledger_id,
            fences: BTreeMap::from([(cluster(), fence)]),
        };
        self.view.connected(host, connection);
        self.links.insert(host.clone());
    }

    pub(crate) fn disconnect(&mut self, host: &HostId) {
        self.links.remove(host);
        self.gos.retain(|ask| &ask.host != host);
        let session =
            self.view.hosts.get(host).and_then(|h| h.connection.clone()).map(|c| c.session_id);
        if let Some(session) = session {
            self.view.disconnected(host, &session, self.now_ms);
        }
        let agent = self.agents.get_mut(host).unwrap();
        agent.out.clear();
    }

    /// The coordinator dies and another begins: only the state survives, as it was stored.
    pub(crate) fn restart_coordinator(&mut self) {
        let stored = serde_json::to_string(&self.state).unwrap();
        let state: State = serde_json::from_str(&stored).unwrap();
        assert_eq!(state, self.state);
        self.state = state;
        self.view = View::default();
        self.late.clear();
        self.gos.clear();
        let hosts: Vec<HostId> = self.links.iter().cloned().collect();
        for host in &hosts {
            self.disconnect(host);
        }
        let term = self.state.lease.as_ref().map_or(Term(1), |lease| lease.term.next());
        self.apply(Cmd::Lease { coordinator: 1, term });
        for host in &hosts {
            self.connect(host);
        }
    }

    /// Lets time pass and everybody act.
    pub(crate) fn step(&mut self) {
        self.now_ms += STEP_MS;
        self.model.tick(self.now_ms);
        let hosts: Vec<HostId> = self.agents.keys().cloned().collect();
        for host in &hosts {
            let connected = self.links.contains(host);
            let agent = self.agents.get_mut(host).unwrap();
            agent.work(&mut self.model, connected, self.now_ms);
            self.look(host, connected);
            self.deliver(host, connected);
        }
        self.answer_gos();
        self.decide();
        self.check();
    }

    fn look(&mut self, host: &HostId, connected: bool) {
        let number = self.now_ms / LOOK_MS;
        if !connected || self.looks.get(host) == Some(&number) {
            return;
        }
        self.looks.insert(host.clone(), number);
        let agent = &self.agents[host];
        let standing = standing(&agent.ledger, agent.position, agent.floor, agent.open_hold());
        let facts = self.model.host_facts(host, standing, number);
        self.view.host_facts(&self.state, facts, self.now_ms);
        let observer = self.view.clusters.get(&cluster()).and_then(|c| c.observer.clone());
        if observer.is_some_and(|o| &o.host == host) {
            let facts = self.model.cluster_facts(host, number, self.now_ms);
            self.view.cluster_facts(&self.state, facts, self.now_ms);
        }
    }

    fn deliver(&mut self, host: &HostId, connected: bool) {
        let said = std::mem::take(&mut self.agents.get_mut(host).unwrap().out);
        if !connected {
            return;
        }
        let late = std::mem::take(&mut self.late);
        for message in late {
            self.hear(message);
        }
        for message in said {
            if self.dice.roll(100) < self.twice {
                // The same once more, after others that were said later.
                self.late.push(message.clone());
            }
            self.hear(message);
        }
    }

    fn hear(&mut self, said: Said) {
        match said {
            Said::Promise(answer) => drop(self.apply(Cmd::RecordPromise(answer))),
            Said::Answer(answer) => drop(self.apply(Cmd::OrderAnswered(answer))),
            Said::Report(report) => drop(self.apply(Cmd::Reported { report })),
            Said::Go(ask) => self.gos.push(ask),
            Said::Canary(report) if report.order == OrderNumber(0) => {
                let status = report.status;
                let (id, host) = (report.rollout, report.host);
                self.view.canary_report(&id, &host, report.epoch, status, self.now_ms);
            }
            Said::Canary(report) => drop(self.apply(Cmd::CanaryReported(report))),
        }
    }

    /// Answers requests for a go; those that need more to be seen stay.
    fn answer_gos(&mut self) {
        for ask in std::mem::take(&mut self.gos) {
            let answer = go(&self.state, &self.view, &ask, self.now_ms);
            if answer.wait {
                self.gos.push(ask);
                continue;
            }
            let allowed = match answer.record {
                None => false,
                Some(record) => matches!(self.apply(record), Response::Go { allowed: true, .. }),
            };
            let agent = self.agents.get_mut(&ask.host).unwrap();
            agent.go_answered(ask.request, allowed, &mut self.model, self.now_ms);
        }
    }

    fn decide(&mut self) {
        for _ in 0..50 {
            self.view.tick(&self.state, self.now_ms);
            let mut decision = decide(&self.state, &self.view, self.now_ms);
            assert_eq!(decision, decide(&self.state, &self.view, self.now_ms));
            for wanted in &decision.wanted.promises {
                self.agents.get_mut(&wanted.host).unwrap().promise(wanted.token);
            }
            for wanted in &decision.wanted.orders {
                let target = self.state.rollouts[&wanted.order.rollout].plan.target.clone();
                let agent = self.agents.get_mut(&wanted.host).unwrap();
                agent.order(&wanted.order, &target, self.now_ms);
            }
            if self.damped {
                self.view.damp(&mut decision, self.now_ms);
            }
            if decision.commands.is_empty() {
                return;
            }
            for command in decision.commands {
                self.apply(command);
            }
        }
        panic!("decisions without end in state {:?}", self.rollout_state());
    }

    /// What an observer of the hosts must never see.
    fn check(&self) {
        let down: BTreeSet<&HostId> =
            self.model.nodes.iter().filter(|n| !n.up).map(|n| &n.host).collect();
        let ours: Vec<_> = down
            .iter()
            .filter(|h| self.agents[**h].hold.as_ref().is_some_and(|w| w.step > Step::Guard))
            .collect();
        assert!(ours.len() <= 1, "S1: {ours:?} are down");
        let open = self.agents.values().filter(|a| a.hold.is_some()).count();
        let broken = self.state.broken.len();
        assert!(open <= 1 + broken, "S1: {open} holds are open");
        for held in self.state.holds.values().filter(|h| h.stage != HoldStage::Asking) {
            for promise in &held.promises {
                let agent = &self.agents[&promise.host];
                assert!(agent.floor >= held.token, "S2: `{}` did not promise", promise.host);
            }
        }
    }

    pub(crate) fn start(&mut self, request: &PlanRequest) -> PlanAnswer {
        for _ in 0..20 {
            self.view.demand(&cluster(), Some(NEW.parse().unwrap()), self.now_ms + 5_000);
            self.step();
        }
        let now_ms = self.now_ms;
        let answer = plan::build(&self.state, &self.view, request, &policy(), &hasher, now_ms);
        if answer.ready {
            let start = Start {
                request_id: format!("start-{}", self.id),
                rollout: self.id.clone(),
                plan: answer.plan.clone().unwrap(),
                findings: answer.findings.clone(),
                by: "ann".to_owned(),
            };
            let response = self.apply(Cmd::Start(Box::new(start)));
            assert_eq!(response, Response::Started { rollout: self.id.clone() });
        }
        answer
    }

    pub(crate) fn control(&mut self, action: Action) -> Response {
        self.requests += 1;
        self.apply(Cmd::Control(Control {
            request_id: format!("control-{}", self.requests),
            rollout: self.id.clone(),
            action,
            reason: "because".to_owned(),
            by: "ann".to_owned(),
        }))
    }

    pub(crate) fn rollout_state(&self) -> Option<RolloutState> {
        self.state.rollouts.get(&self.id).map(|r| r.state)
    }

    pub(crate) fn held(&self) -> Option<HostId> {
        let hold = self.state.holds.get(&cluster())?;
        (hold.stage != HoldStage::Asking).then(|| hold.host.clone())
    }

    /// Runs until something is true, for two minutes of virtual time at most.
    pub(crate) fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..1_200 {
            if done(self) {
                return;
            }
            self.step();
        }
        let rollout = &self.state.rollouts[&self.id];
        panic!(
            "never: {what}\nstate {:?}\nhosts {:#?}\nwaiting {:#?}",
            rollout.state, rollout.hosts, rollout.waiting
        );
    }

    pub(crate) fn until_state(&mut self, state: RolloutState) {
        self.until(&format!("{state}"), |world| world.rollout_state() == Some(state));
    }

    /// Runs until no hold is open or broken any more.
    pub(crate) fn until_closed(&mut self) {
        for _ in 0..600 {
            self.step();
            if self.state.broken.is_empty() && self.agents.values().all(|a| a.hold.is_none()) {
                return;
            }
        }
        panic!("holds stay open: {:?}", self.state.broken);
    }

    /// Runs to the end and checks what every end must have.
    pub(crate) fn finish(&mut self, state: RolloutState) {
        self.until_state(state);
        self.check_log();
        assert!(self.state.holds.is_empty());
    }

    pub(crate) fn check_log(&self) {
        let own: Vec<Event> =
            self.events.iter().filter(|e| e.rollout == self.id).cloned().collect();
        event::verify(0, String::new(), &own, &hasher).unwrap();
        assert_eq!(own.last().map(|e| e.seq), Some(self.state.rollouts[&self.id].last_seq));
    }

    pub(crate) fn bodies(&self) -> impl Iterator<Item = &Body> {
        self.events.iter().filter(|e| e.rollout == self.id).map(|e| &e.body)
    }

    pub(crate) fn granted(&self) -> Vec<HostId> {
        self.bodies()
            .filter_map(|body| match body {
                Body::Granted { host, .. } => Some(host.clone()),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn token(&self) -> Token {
        self.state.holds[&cluster()].token
    }
}

use grayfin_types::step::Step;

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "world at {} ms in {:?}", self.now_ms, self.rollout_state())
    }
}
