//! What each happening does to the world.

use crate::{
    agent::{Fate, Input, Reply},
    deeds::{Act, Deed},
    model::{Happening, Protocol},
    rules::Rule,
    world::World,
};

impl Protocol {
    /// Changes the world as the happening says.
    pub(crate) fn carry_out(&self, world: &mut World, action: Happening) {
        match action {
            Happening::Deed(group, deed) => {
                let Some(life) = world.group(group) else { return };
                let done = self.coordinators.deed(life, deed);
                world.set_group(group, done.life);
                if let Deed::Operator(act) = deed {
                    world.left.acts = world.left.acts.saturating_sub(1);
                    if let Act::Attest(host) = act
                        && done.yes
                    {
                        world.host_mut(host).attested = true;
                    }
                }
            }
            Happening::Lead(group) => {
                world.left.leads = world.left.leads.saturating_sub(1);
                self.lead(world, group);
            }
            Happening::Hello(group, host) => {
                let generation = world.host(host).generation;
                self.hello(world, group, host, generation);
            }
            Happening::Readmit(group, host) => {
                let generation = world.host(host).generation.saturating_add(1);
                self.new_ledger(world, host, generation.saturating_add(10));
                // Readmitted with the host's state proven: its nodes are up.
                let known = world.host_mut(host);
                (known.generation, known.disturbed, known.opened_by) = (generation, false, 0);
                self.hello(world, group, host, generation);
            }
            Happening::Deliver(message, heard) => *world = self.delivered(world, message, heard),
            Happening::Report(group, host) => self.report(world, group, host),
            Happening::Go(group, host) => {
                let Some(life) = world.group(group) else { return };
                let done = self.coordinators.deed(life, Deed::Go(host));
                world.set_group(group, done.life);
                world.host_mut(host).go = done.yes;
            }
            Happening::Break(group) => {
                let Some(life) = world.group(group) else { return };
                world.set_group(group, self.break_rule(life));
            }
            Happening::CopyState => world.state_copy = world.group(0),
            Happening::Restore | Happening::Clone => {
                let Some(copy) = world.state_copy.take() else { return };
                world.set_group(1, copy);
                if action == Happening::Restore {
                    world.left.restores = world.left.restores.saturating_sub(1);
                    world.set_group(1, self.coordinators.deed(copy, Deed::Raise).life);
                } else {
                    world.left.clones = world.left.clones.saturating_sub(1);
                }
                self.lead(world, 1);
            }
            Happening::Down(_)
            | Happening::Begin(_)
            | Happening::Finish(..)
            | Happening::Crash(_)
            | Happening::CopyLedger(_)
            | Happening::PutBackLedger(_)
            | Happening::LoseLedger(_)
            | Happening::PowerOff(_) => self.carry_out_at_host(world, action),
        }
    }

    fn carry_out_at_host(&self, world: &mut World, action: Happening) {
        match action {
            Happening::Down(number) => {
                let host = world.host_mut(number);
                host.go = false;
                let (life, _) = self.agents.happen(host.life, Input::Down);
                host.disturbed |= life != host.life;
                host.life = life;
            }
            Happening::Begin(number) => {
                let host = world.host_mut(number);
                host.life = self.agents.happen(host.life, Input::Begin).0;
            }
            Happening::Finish(number, fate) => {
                if fate != Fate::Well {
                    world.left.faults = world.left.faults.saturating_sub(1);
                }
                let host = world.host_mut(number);
                host.go = false;
                host.life = self.agents.happen(host.life, Input::Finish(fate)).0;
            }
            Happening::Crash(number) => world.host_mut(number).go = false,
            Happening::CopyLedger(number) => {
                world.ledger_copy = Some((number, world.host(number).life));
            }
            Happening::PutBackLedger(number) => {
                world.left.ledgers = world.left.ledgers.saturating_sub(1);
                if let Some((_, copy)) = world.ledger_copy.take() {
                    Self::end_sessions(world, number);
                    world.host_mut(number).life = copy;
                }
            }
            Happening::LoseLedger(number) => {
                world.left.ledgers = world.left.ledgers.saturating_sub(1);
                self.new_ledger(world, number, 2);
            }
            Happening::PowerOff(number) => {
                world.left.power = world.left.power.saturating_sub(1);
                Self::end_sessions(world, number);
                world.host_mut(number).off = true;
            }
            Happening::Deed(..)
            | Happening::Lead(_)
            | Happening::Hello(..)
            | Happening::Readmit(..)
            | Happening::Deliver(..)
            | Happening::Report(..)
            | Happening::Go(..)
            | Happening::Break(_)
            | Happening::CopyState
            | Happening::Restore
            | Happening::Clone => {}
        }
    }

    fn new_ledger(&self, world: &mut World, number: u8, ledger: u8) {
        Self::end_sessions(world, number);
        let host = world.host_mut(number);
        host.life = self.agents.happen(host.life, Input::Lose(ledger)).0;
    }

    /// The host agent's process is another one: what was said to the old one is lost.
    fn end_sessions(world: &mut World, number: u8) {
        world.net.retain(|message| message.to != number);
        let host = world.host_mut(number);
        (host.sessions, host.amnesic, host.go) = (0, false, false);
    }

    fn lead(&self, world: &mut World, group: u8) {
        let Some(life) = world.group(group) else { return };
        world.set_group(group, self.coordinators.deed(life, Deed::Lead).life);
        for host in &mut world.hosts {
            host.sessions &= !(1 << group);
        }
    }

    fn report(&self, world: &mut World, group: u8, number: u8) {
        let Some(life) = world.group(group) else { return };
        let committed = self.coordinators.life(life).committed(number);
        let agent = self.agents.life(world.host(number).life);
        let next = agent.reports.iter().find(|report| report.position > committed);
        if let Some(report) = next {
            let (token, told, position) = (report.token, report.told, report.position);
            let deed = Deed::Report { host: number, token, told, position };
            world.set_group(group, self.coordinators.deed(life, deed).life);
        }
    }

    fn hello(&self, world: &mut World, group: u8, number: u8, generation: u8) {
        let Some(life) = world.group(group) else { return };
        let host = *world.host(number);
        let agent = self.agents.life(host.life);
        let (mut ledger, mut position) = (agent.ledger, agent.position());
        if self.rule == Some(Rule::Amnesia) && ledger > 1 {
            (ledger, position) = (1, u16::MAX);
        }
        let deed = Deed::Hello {
            host: number,
            generation,
            ledger,
            position: if self.rule == Some(Rule::Amnesia) { u16::MAX } else { position },
            last_order: agent.last_order(),
            floor: agent.floor(),
            taken: agent.taken(),
        };
        let done = self.coordinators.deed(life, deed);
        world.set_group(group, done.life);
        if !done.yes {
            return;
        }
        let after = self.coordinators.life(done.life);
        let (incarnation, term) = after.authority();
        let (welcomed, reply) = self.agents.happen(host.life, Input::Welcome { incarnation, term });
        let known = world.host_mut(number);
        known.life = welcomed;
        if reply == Reply::Welcome(true)
            && self.rule != Some(Rule::FloorTaken)
            && let Some((floor, generation)) = after.floor_for(number)
            && agent.taken() != generation
        {
            // Taken in durably, and then it says hello again: see the next `Hello`.
            let take = Input::TakeFloor { floor, generation, incarnation, term };
            known.life = self.agents.happen(welcomed, take).0;
            return;
        }
        if reply == Reply::Welcome(true) {
            known.sessions |= 1 << group;
            known.amnesic = after.amnesic(number) || after.committed(number) > position;
            known.amnesic &= !matches!(self.rule, Some(Rule::Amnesia | Rule::FloorTaken));
        }
    }

    /// Breaks the rule that is left out on the coordinators' side.
    pub(crate) fn break_rule(&self, life: u32) -> u32 {
        let state = self.coordinators.life(life);
        let Some((token, held, in_force)) = state.hold() else { return life };
        let Some(rule) = self.rule else { return life };
        if rule == Rule::ReleaseByEvidence && in_force {
            let (host, told) = (held, crate::words::Told::Closed);
            return self
                .coordinators
                .deed(life, Deed::Report { host, token, told, position: 0 })
                .life;
        }
        let mut next = life;
        for host in Self::hosts() {
            let broken = state.state.broken.iter().any(|b| b.host == crate::words::host(host));
            let skips = match rule {
                Rule::PromisesAsked => true,
                Rule::BreakClosesNothing => broken,
                Rule::PromiseKept
                | Rule::NoPromiseWhileOpen
                | Rule::ReleaseByEvidence
                | Rule::CloseRecorded
                | Rule::CloseKept
                | Rule::FloorTaken
                | Rule::Amnesia => false,
            };
            if skips && !in_force {
                let yes = true;
                next = self
                    .coordinators
                    .deed(next, Deed::Promise { host, token, yes, position: 0 })
                    .life;
            }
        }
        next
    }
}
