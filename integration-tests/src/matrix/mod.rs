//! The crash matrix: which process is killed at which place of the code's own list, how often a lab
//! passes the place, and how each cell must end.
//!
//! The list is `grayfin-agent fail-points`, which the host agent makes from the core's list of steps.
//! [`table`] is what `docs/develop/crash-matrix.md` shows; a test compares the two, so that a new step
//! or a new kind of ledger entry cannot be forgotten: [`passed`] does not know it, and says so.

mod run;

use std::collections::BTreeSet;

use anyhow::Context;

pub use run::{Places, Run, drive};

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// The host agent that stands at the place.
    Agent,
    /// The coordinator; the host agent works on without it.
    Coordinator,
    /// Both at once; the host agent is back first.
    Both,
}

impl Victim {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Coordinator, Self::Both];
}

/// When a rollout on a lab passes a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// On each host that goes well.
    Going,
    /// On one host of a rollout at least: the canary writes and is read from one, one brings
    /// cluster-wide effects about and undoes them, and an agent that is killed in the middle of closing
    /// tidies up in another way.
    OneHost,
    /// On a host whose software somebody changes during the upgrade: it fails, is undone, and is
    /// tried again.
    Undo,
    /// Not in these rollouts.
    Elsewhere(&'static str),
}

/// Says when a place is passed.
///
/// # Errors
/// If the place is of no known kind.
pub fn passed(place: &str) -> anyhow::Result<Passed> {
    use Passed::{Elsewhere, Going, OneHost, Undo};
    let (stem, _) = split(place)?;
    let parts: Vec<&str> = stem.split('.').collect();
    Ok(match parts.as_slice() {
        ["ledger", "made" | "welcomed"] => {
            Elsewhere("a host agent's first start, or its first session: doubles")
        }
        ["ledger", "raised"] => Elsewhere("a term that grows within a session: doubles"),
        ["ledger", "readmitted"] => Elsewhere("an operator's readmission: doubles"),
        ["ledger", "host_restarted"] => Elsewhere("the boot after a power loss: faults"),
        ["ledger", "canary_answered"] => Elsewhere("needs five canary orders: doubles"),
        ["ledger", "staging", "failed"] => Elsewhere("a package that cannot be staged: doubles"),
        ["ledger", "ordered", "undo" | "abort"] => Elsewhere("an operator's wish: doubles"),
        ["ledger", "ended", "refused" | "failed"] => Elsewhere("another end: doubles"),
        ["ledger", "undo_failed", _] => Elsewhere("an undo that fails: doubles"),
        ["ledger", "failed", step] if *step != "upgrade" => {
            Elsewhere("another step that fails: doubles")
        }
        ["ledger", "journal", "join"] => {
            Elsewhere("a stop of which nobody knows whether it was heard: the tests of the steps")
        }
        ["ledger", "journal", step] if !["quiesce", "backup", "upgrade"].contains(step) => {
            Elsewhere("it writes no journal")
        }
        ["act", "fetch_package"] => Elsewhere("hosts of a lab have their package: doubles"),
        ["ledger", "ordered", "canary_start" | "canary_stop" | "canary_check" | "debt"]
        | ["act", "tidy"] => OneHost,
        ["ledger", "ordered", "retry"]
        | ["ledger", "failed", _]
        | ["ledger", "undo_started" | "undone", _]
        | ["ledger", "ended", "undone"]
        | ["act", "undo", _] => Undo,
        ["ledger", "promised" | "first_start" | "captured" | "going_down"]
        | ["ledger", "ordered", "stage" | "run" | "close"]
        | ["ledger", "staging", "started" | "finished"]
        | ["ledger", "ended", "up"]
        | ["ledger", "started" | "finished" | "journal", _]
        | ["act", "settle" | "check" | "execute" | "verify", _] => Going,
        _ => anyhow::bail!("`{place}` is new: say in `matrix::passed` when a lab passes it"),
    })
}

/// The place without its side, and the side: `before`, `torn` or `after`.
fn split(place: &str) -> anyhow::Result<(&str, &str)> {
    place.rsplit_once('.').with_context(|| format!("`{place}` has no side"))
}

/// True for the middle of a write: the process ends there by itself, it cannot stand still.
pub fn is_torn(place: &str) -> bool {
    place.ends_with(".torn")
}

/// The cell's victim can be killed at the place: in the middle of its own write only the host agent.
pub fn is_cell(place: &str, victim: Victim) -> bool {
    !(is_torn(place) && victim == Victim::Coordinator)
}

/// The generated part of `docs/develop/crash-matrix.md`.
///
/// # Errors
/// If a place is of no known kind.
pub fn table(places: &[String]) -> anyhow::Result<String> {
    let mut text = "| place | sides | passed | agent | coordinator | both |\n\
        |---|---|---|---|---|---|\n"
        .to_owned();
    let mut seen = BTreeSet::new();
    for place in places {
        let (stem, _) = split(place)?;
        if !seen.insert(stem.to_owned()) {
            continue;
        }
        let sides = places.iter().filter_map(|it| it.strip_prefix(stem)?.strip_prefix('.'));
        let sides: Vec<&str> = sides.filter(|side| !side.contains('.')).collect();
        let when = passed(place)?;
        let cell = match when {
            Passed::Going | Passed::OneHost => "S",
            Passed::Undo => "U",
            Passed::Elsewhere(_) => "–",
        };
        let row = match when {
            Passed::Going => "by each host".to_owned(),
            Passed::OneHost => "by one host".to_owned(),
            Passed::Undo => "on the way back".to_owned(),
            Passed::Elsewhere(why) => format!("not here: {why}"),
        };
        let cells = Victim::ALL.map(|_| cell).join(" | ");
        text.push_str(&format!("| `{stem}` | {} | {row} | {cells} |\n", sides.join(", ")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_kind_of_place_is_noticed() {
        for place in ["ledger.blessed.before", "act.dance.stop.after", "nonsense"] {
            assert!(passed(place).is_err(), "{place}");
        }
        assert_eq!(passed("act.execute.stop.after").unwrap(), Passed::Going);
        assert_eq!(passed("ledger.undone.stop.torn").unwrap(), Passed::Undo);
    }

    #[test]
    fn a_coordinator_cannot_be_killed_in_the_middle_of_the_agents_write() {
        assert!(!is_cell("ledger.promised.torn", Victim::Coordinator));
        assert!(is_cell("ledger.promised.torn", Victim::Both));
        assert!(is_cell("ledger.promised.after", Victim::Coordinator));
    }
}
