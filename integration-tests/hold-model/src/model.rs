//! The model as the checker sees it: which actions there are, and what each leads to.

use grayfin_agent_core::state::{Phase, Progress};
use grayfin_coordinator_core::state::OrderKind;
use grayfin_types::step::Step;
use stateright::{Model, Property};

use crate::{
    agent::{Agents, Fate, Input, Reply},
    coordinator::Coordinators,
    deeds::{Act, Deed},
    properties,
    rules::{Bounds, Rule},
    words::{Asked, HOSTS, Message, small},
    world::{Host, Left, World},
};

/// The hold protocol within bounds, with a rule left out or none.
#[derive(Debug)]
pub struct Protocol {
    /// The coordinators' states.
    pub coordinators: Coordinators,
    /// The host agents' ledgers.
    pub agents: Agents,
    /// How much may happen.
    pub bounds: Bounds,
    /// The rule that is left out.
    pub rule: Option<Rule>,
    /// Only this property is checked, of those that must hold.
    pub only: Option<&'static str>,
}

/// One thing that can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Happening {
    /// A group's coordinator does a deed by itself, or its operator does.
    Deed(u8, Deed),
    /// Another coordinator of the group takes the lead; every session ends.
    Lead(u8),
    /// A host agent says hello to a group's leader.
    Hello(u8, u8),
    /// An operator readmits an amnesic host with a new ledger and a new certificate.
    Readmit(u8, u8),
    /// A message arrives; its answer arrives too, or is lost.
    Deliver(Message, bool),
    /// The next report of a host agent's ledger arrives at a group.
    Report(u8, u8),
    /// A group decides on the go that a host agent asks for.
    Go(u8, u8),
    /// The go arrives: the nodes go down.
    Down(u8),
    /// The sequence goes on until it needs a go.
    Begin(u8),
    /// The sequence goes on to its end.
    Finish(u8, Fate),
    /// The host agent is killed while it waits for a go.
    Crash(u8),
    /// The ledger is copied, to be put back later.
    CopyLedger(u8),
    /// The copy of the ledger is put back.
    PutBackLedger(u8),
    /// The ledger is lost.
    LoseLedger(u8),
    /// The machine is switched off for good.
    PowerOff(u8),
    /// The coordinators' state is copied.
    CopyState,
    /// The copy is restored on other machines, declared by an operator.
    Restore,
    /// The copy is started on other machines, and nobody says so.
    Clone,
    /// A rule that is left out is broken at this group.
    Break(u8),
}

impl Protocol {
    /// Makes the model.
    pub fn new(bounds: Bounds, rule: Option<Rule>) -> Self {
        let exact = bounds.ledgers > 0;
        let (coordinators, agents) = (Coordinators::new(exact), Agents::new(exact, rule));
        Self { coordinators, agents, bounds, rule, only: None }
    }

    /// Checks one property alone, so that a way to break it is found behind others.
    #[must_use]
    pub const fn only(mut self, property: &'static str) -> Self {
        self.only = Some(property);
        self
    }

    pub(crate) fn hosts() -> impl Iterator<Item = u8> {
        (0..HOSTS).map(|number| small(u64::try_from(number).unwrap_or(0)))
    }

    /// What the group's coordinators decide by themselves, and what operators may do.
    fn deeds(&self, world: &World, group: u8, life: u32, out: &mut Vec<Happening>) {
        let mut offer = |deed| {
            if self.coordinators.deed(life, deed).life != life {
                out.push(Happening::Deed(group, deed));
            }
        };
        let known = self.coordinators.life(life);
        if known.state.last_token.0 < self.bounds.tokens.into() {
            // At first all hosts are alike: which of them is the first makes no difference.
            let alike = self.untouched(world);
            Self::hosts().filter(|host| !alike || *host == 0).for_each(|h| offer(Deed::Allot(h)));
        }
        for deed in [Deed::Abandon, Deed::Grant, Deed::Close, Deed::CloseBroken] {
            offer(deed);
        }
        if world.left.acts == 0 {
            return;
        }
        for act in [
            Act::Pause,
            Act::Resume,
            Act::Abort,
            Act::Retry,
            Act::Skip,
            Act::Rollback,
            Act::Break,
            Act::Start,
        ] {
            offer(Deed::Operator(act));
        }
        for host in Self::hosts() {
            offer(Deed::Operator(Act::SkipHost(host)));
            if world.host(host).off && !world.host(host).attested {
                offer(Deed::Operator(Act::Attest(host)));
            }
        }
    }

    fn untouched(&self, world: &World) -> bool {
        let none = |group: Option<u32>| {
            group.is_none_or(|life| self.coordinators.life(life).state.last_token.0 == 0)
        };
        world.groups.iter().all(|group| none(*group))
    }

    /// What happens at a host.
    fn at_host(&self, world: &World, number: u8, out: &mut Vec<Happening>) {
        let host = world.host(number);
        if host.off {
            return;
        }
        let life = self.agents.life(host.life);
        let works = life.open().is_some() && !host.amnesic;
        let changes = |input| self.agents.happen(host.life, input).0 != host.life;
        if host.go {
            out.extend([Happening::Down(number), Happening::Crash(number)]);
        }
        if works && changes(Input::Begin) {
            out.push(Happening::Begin(number));
        }
        for fate in [Fate::Well, Fate::Fails, Fate::UndoFails, Fate::StartFails, Fate::Restart] {
            let may = fate == Fate::Well || world.left.faults > 0;
            if works && may && changes(Input::Finish(fate)) {
                out.push(Happening::Finish(number, fate));
            }
        }
        if self.untouched(world) {
            return;
        }
        if world.left.ledgers > 0 {
            out.push(Happening::LoseLedger(number));
            match world.ledger_copy {
                None => out.push(Happening::CopyLedger(number)),
                Some((of, copy)) if of == number && copy != host.life => {
                    out.push(Happening::PutBackLedger(number));
                }
                Some(_) => {}
            }
        }
        if world.left.power > 0 {
            out.push(Happening::PowerOff(number));
        }
    }

    /// What happens between a group and a host.
    fn between(&self, world: &World, group: u8, life: u32, number: u8, out: &mut Vec<Happening>) {
        let host = world.host(number);
        if host.off {
            return;
        }
        let state = self.coordinators.life(life);
        let agent = self.agents.life(host.life);
        if !host.in_session(group) {
            out.push(Happening::Hello(group, number));
            return;
        }
        let enrolled = state.state.hosts.get(&crate::words::host(number));
        if enrolled.is_some_and(|e| e.amnesic.is_some()) {
            out.push(Happening::Readmit(group, number));
        }
        if host.amnesic {
            return;
        }
        if agent.reports.iter().any(|report| report.position > state.committed(number)) {
            out.push(Happening::Report(group, number));
        }
        let waits = agent.state.hold.as_ref().is_some_and(|hold| {
            hold.phase == Phase::Forward
                && !hold.disturbed()
                && matches!(hold.steps.get(&Step::Quiesce), Some(Progress::Begun(_)))
        });
        let asked = agent.open().map(|token| (token, number, true));
        if waits && !host.go && state.hold() == asked && self.go(life, number) {
            out.push(Happening::Go(group, number));
        }
    }

    fn go(&self, life: u32, number: u8) -> bool {
        self.coordinators.deed(life, Deed::Go(number)).yes
    }

    fn messages(&self, world: &World, out: &mut Vec<Happening>) {
        for message in &world.net {
            if world.host(message.to).amnesic {
                continue;
            }
            let lost = self.delivered(world, *message, false);
            let heard = self.delivered(world, *message, true);
            let host = world.host(message.to);
            if lost.host(message.to).life != host.life {
                out.push(Happening::Deliver(*message, false));
            }
            if heard.groups != lost.groups {
                out.push(Happening::Deliver(*message, true));
            }
        }
    }

    pub(crate) fn delivered(&self, world: &World, message: Message, heard: bool) -> World {
        let mut next = world.clone();
        let of = world.host(message.to).life;
        let before = self.agents.life(of);
        let (life, reply) = self.agents.happen(of, Input::Message(message));
        let after = self.agents.life(life);
        let host = next.host_mut(message.to);
        host.life = life;
        if let (Reply::Order { fresh: true, .. }, Asked::Order { kind, .. }) =
            (reply, message.asked)
        {
            let token = 1_u16 << message.token;
            if kind == OrderKind::Run {
                host.opened_by = message.from.saturating_add(1);
                host.reopened |= host.closed & token != 0;
            }
            if kind == OrderKind::Close {
                host.closed |= token;
            }
            if before.open().is_some() && after.open().is_none() {
                (host.disturbed, host.opened_by, host.go) = (false, 0, false);
            }
        }
        if heard
            && let Some(group) = world.group(message.from)
            && self.coordinators.life(group).authority() == (message.incarnation, message.term)
        {
            let to = message.to;
            let deed = match (reply, message.asked) {
                (Reply::Promise(yes), Asked::Promise) => Deed::Promise {
                    host: to,
                    token: message.token,
                    yes,
                    position: after.position(),
                },
                (Reply::Order { yes, told, .. }, Asked::Order { number, .. }) => Deed::Answer {
                    host: to,
                    number,
                    token: message.token,
                    yes,
                    told,
                    position: after.position(),
                },
                _ => return next,
            };
            next.set_group(message.from, self.coordinators.deed(group, deed).life);
        }
        next
    }

    /// Sends what every group wants to send, and drops what can change nothing any more.
    fn settle(&self, mut world: World) -> World {
        for group in 0..2 {
            let Some(life) = world.group(group) else { continue };
            let state = self.coordinators.life(life);
            let (incarnation, term) = state.authority();
            let wanted = state.wants.iter().filter(|want| {
                let host = world.host(want.to);
                host.in_session(group) && !host.off
            });
            let messages = wanted.map(|want| Message {
                to: want.to,
                from: group,
                incarnation,
                term,
                token: want.token,
                asked: want.asked,
            });
            let messages: Vec<Message> = messages.collect();
            world.net.extend(messages);
        }
        world.net.sort_unstable();
        world.net.dedup();
        let net = std::mem::take(&mut world.net);
        world.net = net.into_iter().filter(|message| self.counts(&world, message)).collect();
        world
    }

    /// Tells whether a message can still change anything, as long as the ledger is not lost (which
    /// ends every session, and every message with it).
    fn counts(&self, world: &World, message: &Message) -> bool {
        let Some(group) = world.group(message.from) else { return false };
        let host = world.host(message.to);
        if host.off {
            return false;
        }
        let state = self.coordinators.life(group);
        let leads = state.authority() == (message.incarnation, message.term);
        let agent = self.agents.life(host.life);
        let wanted = state.wants.iter().any(|want| {
            (want.to, want.token, want.asked) == (message.to, message.token, message.asked)
        });
        if leads && wanted {
            return true;
        }
        if (message.incarnation, message.term) < agent.authority() {
            return false;
        }
        match message.asked {
            Asked::Promise => message.token > agent.floor(),
            Asked::Order { number, .. } => number > agent.last_order(),
        }
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Happening;

    fn init_states(&self) -> Vec<World> {
        let mut numbers = Self::hosts();
        let hosts = [(); HOSTS].map(|()| Host {
            life: self.agents.first(numbers.next().unwrap_or(0)),
            generation: 1,
            sessions: 1,
            amnesic: false,
            go: false,
            off: false,
            attested: false,
            disturbed: false,
            opened_by: 0,
            closed: 0,
            reopened: false,
        });
        let Bounds { acts, faults, leads, restores, clones, ledgers, power, .. } = self.bounds;
        let world = World {
            groups: [Some(self.coordinators.first()), None],
            hosts,
            net: Vec::new(),
            state_copy: None,
            ledger_copy: None,
            left: Left { acts, faults, leads, restores, clones, ledgers, power },
        };
        vec![self.settle(world)]
    }

    fn actions(&self, world: &World, out: &mut Vec<Happening>) {
        for group in 0..2 {
            let Some(life) = world.group(group) else { continue };
            self.deeds(world, group, life, out);
            if world.left.leads > 0 && self.coordinators.life(life).state.last_token.0 > 0 {
                out.push(Happening::Lead(group));
            }
            if self.break_rule(life) != life {
                out.push(Happening::Break(group));
            }
            for number in Self::hosts() {
                self.between(world, group, life, number, out);
            }
        }
        for number in Self::hosts() {
            self.at_host(world, number, out);
        }
        self.messages(world, out);
        let copies = world.left.restores > 0 || world.left.clones > 0;
        if copies && world.groups.get(1) == Some(&None) {
            match world.state_copy {
                None => out.push(Happening::CopyState),
                Some(_) => {
                    if world.left.restores > 0 {
                        out.push(Happening::Restore);
                    }
                    if world.left.clones > 0 {
                        out.push(Happening::Clone);
                    }
                }
            }
        }
    }

    fn next_state(&self, last: &World, action: Happening) -> Option<World> {
        let mut world = last.clone();
        self.carry_out(&mut world, action);
        let world = self.settle(world);
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let wanted = |name| self.only.is_none_or(|only| only == name);
        properties::all().into_iter().filter(|property| wanted(property.name)).collect()
    }
}
