//! Rules that can be left out, to see that the checker finds what they are there for.

/// A rule of S2 or S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// S2: the coordinator asks every other host's agent for its promise before a hold takes effect.
    PromisesAsked,
    /// S2: a host agent that promises remembers it.
    PromiseKept,
    /// S2: a host agent with an open hold promises nothing.
    NoPromiseWhileOpen,
    /// S3: a hold is released only when its agent has closed it, and not after some time.
    ReleaseByEvidence,
    /// S3: a broken hold's host must promise before the next hold, like any other.
    BreakClosesNothing,
    /// S3: a host agent that closes a token goes on no more under it.
    CloseRecorded,
    /// S3: a closed token is never opened again.
    CloseKept,
    /// S8: a new ledger takes the token floor of the others over before it promises anything.
    FloorTaken,
    /// S8: a host agent whose ledger is another or older one than before may only look.
    Amnesia,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::PromisesAsked,
        Self::PromiseKept,
        Self::NoPromiseWhileOpen,
        Self::ReleaseByEvidence,
        Self::BreakClosesNothing,
        Self::CloseRecorded,
        Self::CloseKept,
        Self::FloorTaken,
        Self::Amnesia,
    ];
}

/// How much may happen. Everything else (loss, lateness, repetition and order of messages, crashes)
/// has no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// The largest token.
    pub tokens: u8,
    /// Operators' acts.
    pub acts: u8,
    /// Steps that fail, and restarts of machines.
    pub faults: u8,
    /// Times that another coordinator takes the lead.
    pub leads: u8,
    /// Times that the coordinators' state is restored, with the incarnation raised.
    pub restores: u8,
    /// Times that it is cloned, with nothing raised: two groups believe that they lead.
    pub clones: u8,
    /// Ledgers lost or put back.
    pub ledgers: u8,
    /// Machines switched off for good.
    pub power: u8,
}

impl Bounds {
    /// Two holds and nothing else.
    pub const PLAIN: Self = Self {
        tokens: 2,
        acts: 0,
        faults: 0,
        leads: 0,
        restores: 0,
        clones: 0,
        ledgers: 0,
        power: 0,
    };
}
