//! What really happened, kept beside what Grayfin believes: the rules are judged by this alone.

use std::collections::{BTreeMap, BTreeSet};

use grayfin_types::Token;

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which: `S1` to `S13`, `Commitment`, `Liveness`, or an invariant of a core.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
}

/// A go that a coordinator gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Go {
    /// When it reached the host agent.
    pub at_ms: u64,
    /// Under which hold.
    pub token: Token,
    /// The coordinator that gave it led, confirmed, when it decided.
    pub confirmed: bool,
    /// A down action was taken on it.
    pub used: bool,
}

/// What is true about one host and its agent's past, also when its ledger has forgotten it.
#[derive(Debug, Clone, Default)]
pub struct HostTruth {
    /// Disturbed by Grayfin under this token and not closed since.
    pub disturbed: Option<Token>,
    /// The highest token ever promised by this ledger's line.
    pub promised: Token,
    /// Tokens that were durably closed.
    pub closed: BTreeSet<Token>,
    /// Ledger and number of each order that was taken up.
    pub orders: BTreeSet<(String, u64)>,
    /// The longest that this ledger ever was.
    pub ledger_max: u64,
    /// The ledger was put back to an older copy, or wiped, and nobody readmitted the host since.
    pub amnesic: bool,
    /// How many of its entries the old copy had, 0 if it was wiped.
    pub kept: u64,
    /// The ledger was put back to an older copy, and so were the coordinators: nobody can tell.
    pub untold: bool,
    /// What had been closed there by then.
    pub forgotten: BTreeSet<Token>,
    /// The token under which the new version may run.
    pub first_start: Option<Token>,
    /// The token under which an abort came before the upgrade began.
    pub aborted: Option<Token>,
    /// The highest incarnation and term that its ledger's line has seen.
    pub authority: (u64, u64),
    /// The last go, not more than one can be awaited.
    pub go: Option<Go>,
    /// All its nodes run, since then.
    pub up_since_ms: Option<u64>,
    /// Not all of them run, since then.
    pub down_since_ms: Option<u64>,
}

/// What is true about the whole.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    /// By host.
    pub hosts: Vec<HostTruth>,
    /// Since when the cluster is whole without a break.
    pub whole_since_ms: Option<u64>,
    /// When it last was whole.
    pub whole_last_ms: u64,
    /// When it was last not whole for long enough that looks had to see it.
    pub bad_seen_ms: u64,
    /// Since when it is not whole.
    pub bad_since_ms: Option<u64>,
    /// When clear facts of the whole cluster last reached a coordinator.
    pub clear_ms: u64,
    /// When facts in which every controller names the same leader last reached one.
    pub agreed_ms: u64,
    /// To which incarnation operators have raised it; 0 for never.
    pub raised: u64,
    /// Terms that were confirmed, by group.
    pub confirmed: BTreeMap<usize, u64>,
    /// Rules that were broken.
    pub broken: Vec<Broken>,
}

impl Truth {
    /// Records that a rule is broken unless `holds`.
    pub fn expect(&mut self, rule: &'static str, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(Broken { rule, what: what() });
        }
    }
}
