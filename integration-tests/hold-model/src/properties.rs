//! What must hold in every state (S1 to S3), and what must be seen in some.

use stateright::Property;

use crate::{
    model::Protocol,
    words::small,
    world::{Host, World},
};

/// S1: at most one host is disturbed.
pub const S1: &str = "S1 at most one host is disturbed";
/// S2: at most one host agent has an open hold that counts.
pub const S2_OPEN: &str = "S2 at most one hold is open";
/// S2: every other host agent has promised the token of a disturbed host.
pub const S2_PROMISED: &str = "S2 every other host agent has promised the token";
/// S3: the group that gave a hold remembers it until its agent has closed it.
pub const S3_KEPT: &str = "S3 a hold is remembered until it is closed";
/// S3: a closed token is never opened again.
pub const S3_CLOSED: &str = "S3 a closed token stays closed";

/// All of them.
pub fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always(S1, one_disturbed),
        Property::always(S2_OPEN, one_open),
        Property::always(S2_PROMISED, promised),
        Property::always(S3_KEPT, kept),
        Property::always(S3_CLOSED, stays_closed),
        Property::sometimes("a host is disturbed after another was closed", |_, world: &World| {
            let closed = world.hosts.iter().any(|host| host.closed != 0);
            closed && world.hosts.iter().any(|host| host.disturbed)
        }),
    ]
}

fn stays_closed(_: &Protocol, world: &World) -> bool {
    world.hosts.iter().all(|host| !host.reopened)
}

/// A host that is switched off and attested to be counts as gone.
const fn counts(host: &Host) -> bool {
    !(host.off && host.attested)
}

fn one_disturbed(_: &Protocol, world: &World) -> bool {
    world.hosts.iter().filter(|host| host.disturbed && counts(host)).count() <= 1
}

/// A host agent that was told that its ledger is an old one, or has spoken to nobody since it was put
/// back, promises nothing and takes no order.
const fn works(host: &Host) -> bool {
    host.sessions != 0 && !host.amnesic
}

fn one_open(protocol: &Protocol, world: &World) -> bool {
    let lost = protocol.bounds.ledgers > 0;
    let open = world.hosts.iter().filter(|host| {
        let counts = counts(host) && !host.amnesic && (works(host) || !lost);
        counts && protocol.agents.life(host.life).open().is_some()
    });
    open.count() <= 1
}

fn promised(protocol: &Protocol, world: &World) -> bool {
    let lost = protocol.bounds.ledgers > 0;
    let mut held = world
        .hosts
        .iter()
        .enumerate()
        .filter(|(_, host)| host.disturbed && protocol.agents.life(host.life).open().is_some());
    held.all(|(of, host)| {
        let token = protocol.agents.life(host.life).open().unwrap_or(0);
        let mut others = world
            .hosts
            .iter()
            .enumerate()
            .filter(|(other, host)| *other != of && counts(host) && (works(host) || !lost));
        others.all(|(_, other)| protocol.agents.life(other.life).floor() >= token)
    })
}

fn kept(protocol: &Protocol, world: &World) -> bool {
    let mut hosts = world.hosts.iter().enumerate();
    hosts.all(|(number, host)| {
        let number = small(u64::try_from(number).unwrap_or(0));
        let agent = protocol.agents.life(host.life);
        let (Some(token), Some(by)) = (agent.open(), host.opened_by.checked_sub(1)) else {
            return true;
        };
        let Some(group) = world.group(by) else { return true };
        let group = protocol.coordinators.life(group);
        group.remembers(number, token) || group.gone(number)
    })
}
