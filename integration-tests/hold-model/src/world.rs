//! A state of the model: who knows what, what is on its way, and what is true.

use crate::words::{HOSTS, Message};

/// A host, its agent, and what is true of it whatever anybody has written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Host {
    /// Its agent's ledger.
    pub life: u32,
    /// Its certificate's generation.
    pub generation: u8,
    /// Which coordinators have greeted its agent, a bit each.
    pub sessions: u8,
    /// Its agent was told that its ledger is an old one: it only looks.
    pub amnesic: bool,
    /// A go is on its way to its agent, which waits for it.
    pub go: bool,
    /// The machine is switched off for good.
    pub off: bool,
    /// An operator has attested that.
    pub attested: bool,
    /// True: nodes went down under a hold that is not closed.
    pub disturbed: bool,
    /// True: which coordinators' order opened the hold, from 1; 0 when none is open.
    pub opened_by: u8,
    /// True: the tokens that were closed here, a bit each.
    pub closed: u16,
    /// True: a token was opened after it was closed.
    pub reopened: bool,
}

/// How much may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Left {
    /// Operators' acts.
    pub acts: u8,
    /// Steps that fail.
    pub faults: u8,
    /// Changes of the leader.
    pub leads: u8,
    /// Restores.
    pub restores: u8,
    /// Clones.
    pub clones: u8,
    /// Ledgers lost or put back.
    pub ledgers: u8,
    /// Machines switched off.
    pub power: u8,
}

/// A state of the model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The group that leads, and the one that has a restored or cloned state.
    pub groups: [Option<u32>; 2],
    /// The hosts.
    pub hosts: [Host; HOSTS],
    /// Every message that was ever sent and that can still change anything, in order.
    pub net: Vec<Message>,
    /// A copy of the coordinators' state of an older time.
    pub state_copy: Option<u32>,
    /// A copy of a host agent's ledger of an older time.
    pub ledger_copy: Option<(u8, u32)>,
    /// What may still happen.
    pub left: Left,
}

impl World {
    /// Returns a host.
    pub fn host(&self, number: u8) -> &Host {
        self.hosts.get(usize::from(number)).expect("hosts are numbered from 0 to 2")
    }

    /// Returns a host, to change it.
    pub fn host_mut(&mut self, number: u8) -> &mut Host {
        self.hosts.get_mut(usize::from(number)).expect("hosts are numbered from 0 to 2")
    }

    /// Returns a group's state.
    pub fn group(&self, number: u8) -> Option<u32> {
        self.groups.get(usize::from(number)).copied().flatten()
    }

    /// Sets a group's state.
    pub fn set_group(&mut self, number: u8, life: u32) {
        if let Some(group) = self.groups.get_mut(usize::from(number)) {
            *group = Some(life);
        }
    }
}

impl Host {
    /// Tells whether a group has greeted this host's agent.
    pub const fn in_session(&self, group: u8) -> bool {
        self.sessions & (1 << group) != 0
    }
}
