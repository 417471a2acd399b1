//! From a rollout's events to what each host's hold was spent on.

use std::collections::BTreeMap;

use grayfin_types::HostId;
use grayfin_types::event::{Body, Event};
use grayfin_types::step::{Happened, Report, Step};

/// The parts of one host's turn, milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Turn {
    /// The host.
    pub(super) host: String,
    /// From the release of the host before (or the first token) to the token for this one.
    pub(super) before_token: u64,
    /// From the token to the grant: promises, and the gates once more.
    pub(super) promises: u64,
    /// From the grant to the first step.
    pub(super) order: u64,
    /// Each step, from its start to its end.
    pub(super) steps: BTreeMap<Step, u64>,
    /// From the end of a step to the start of the next, together.
    pub(super) between_steps: u64,
    /// From the end of the last step to the gates that let the host be closed.
    pub(super) gates: u64,
    /// From there to the release.
    pub(super) close: u64,
}

impl Turn {
    /// From the grant to the release.
    pub(super) fn hold(&self) -> u64 {
        self.order + self.steps.values().sum::<u64>() + self.between_steps + self.gates + self.close
    }

    /// From the release of the host before to this one's grant.
    pub(super) fn between_hosts(&self) -> u64 {
        self.before_token + self.promises
    }

    /// A step's time; 0 if there was none.
    pub(super) fn step(&self, step: Step) -> u64 {
        self.steps.get(&step).copied().unwrap_or(0)
    }
}

/// A turn that is not over.
#[derive(Debug, Default)]
struct Open {
    turn: Turn,
    /// When the part that runs now began.
    since: u64,
    /// A step was started.
    begun: bool,
}

/// Splits a rollout's events into the turns of its hosts, in order. Every millisecond between the grant
/// and the release is in exactly one part.
pub(super) fn turns(events: &[Event]) -> Vec<Turn> {
    let mut done = Vec::new();
    let mut open: Option<Open> = None;
    let mut released_ms: Option<u64> = None;
    for event in events {
        let at = event.at_ms;
        match &event.body {
            Body::TokenAllotted { host, .. } => {
                let mut next = Open { since: at, ..Open::default() };
                next.turn.host = host.to_string();
                next.turn.before_token = at.saturating_sub(released_ms.unwrap_or(at));
                open = Some(next);
            }
            Body::Granted { .. } => advance(&mut open, at, |turn| &mut turn.promises),
            Body::Reported { report } => {
                if let Some(open) = &mut open {
                    reported(open, at, report);
                }
            }
            Body::HostVerified { .. } => advance(&mut open, at, |turn| &mut turn.gates),
            Body::Released { host, .. } => {
                advance(&mut open, at, |turn| &mut turn.close);
                if let Some(open) = open.take().filter(|open| is(host, &open.turn)) {
                    done.push(open.turn);
                }
                released_ms = Some(at);
            }
            Body::Started { .. }
            | Body::Gates { .. }
            | Body::Baseline { .. }
            | Body::Promised { .. }
            | Body::Go { .. }
            | Body::LeaderChanged { .. }
            | Body::Waiting { .. }
            | Body::Skipped { .. }
            | Body::Operator { .. }
            | Body::Canary { .. }
            | Body::State { .. }
            | Body::FinalVerification { .. }
            | Body::Debt { .. }
            | Body::Lease { .. } => {}
        }
    }
    done
}

fn is(host: &HostId, turn: &Turn) -> bool {
    host.as_str() == turn.host
}

/// Ends the part that runs and begins the next one.
fn advance(open: &mut Option<Open>, at: u64, part: impl FnOnce(&mut Turn) -> &mut u64) {
    if let Some(open) = open {
        *part(&mut open.turn) += at.saturating_sub(open.since);
        open.since = open.since.max(at);
    }
}

/// A report of the host agent; when it says it happened counts, not when it was heard. Both clocks are
/// this machine's.
fn reported(open: &mut Open, heard_ms: u64, report: &Report) {
    if !is(&report.host, &open.turn) || report.token.0 == 0 || report.undo {
        return;
    }
    let at = report.at_ms.min(heard_ms).max(open.since);
    let passed = at.saturating_sub(open.since);
    match &report.happened {
        Happened::Started => {
            if open.begun {
                open.turn.between_steps += passed;
            } else {
                open.turn.order += passed;
            }
            open.begun = true;
            open.since = at;
        }
        Happened::Finished { .. } => {
            *open.turn.steps.entry(report.step).or_default() += passed;
            open.since = at;
        }
        Happened::Progress { .. }
        | Happened::Failed { .. }
        | Happened::Node { .. }
        | Happened::State { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use grayfin_types::status::RolloutState;
    use grayfin_types::{RolloutId, Seq, Token};

    use super::*;

    fn host(name: &str) -> HostId {
        name.parse().unwrap()
    }

    fn report(name: &str, at_ms: u64, step: Step, happened: Happened) -> Body {
        let report = Report {
            host: host(name),
            token: Token(7),
            step,
            undo: false,
            happened,
            seen: String::new(),
            position: 1,
            chain: String::new(),
            at_ms,
        };
        Body::Reported { report }
    }

    fn one(name: &str, from: u64) -> Vec<(u64, Body)> {
        let finished = Happened::Finished { took_ms: 0 };
        let (id, token) = (host(name), Token(7));
        vec![
            (from + 10, Body::TokenAllotted { host: id.clone(), token }),
            (from + 30, Body::Granted { host: id.clone(), token, reason: String::new() }),
            // Heard late: what the agent says counts.
            (from + 90, report(name, from + 35, Step::Guard, Happened::Started)),
            (from + 90, report(name, from + 60, Step::Guard, finished.clone())),
            (from + 90, report(name, from + 62, Step::Join, Happened::Started)),
            (from + 100, report(name, from + 99, Step::Join, finished)),
            (from + 150, Body::HostVerified { host: id.clone(), soaked_ms: 0 }),
            (from + 157, Body::Released { host: id, token }),
        ]
    }

    #[test]
    fn every_millisecond_of_a_hold_is_in_one_part() {
        let mut bodies = one("host43", 1_000);
        // Another host's staging report changes nothing.
        bodies.insert(4, (1_095, report("host44", 1_050, Step::Stage, Happened::Started)));
        bodies.extend(one("host44", 2_000));
        bodies.push((3_000, Body::State { state: RolloutState::Verifying }));
        let events: Vec<Event> = (1..)
            .zip(bodies)
            .map(|(seq, (at_ms, body))| Event {
                rollout: RolloutId::new("r1").unwrap(),
                seq: Seq(seq),
                at_ms,
                by: String::new(),
                body,
                previous: String::new(),
                hash: String::new(),
            })
            .collect();
        let found = turns(&events);
        assert_eq!(found.len(), 2);
        let first = &found[0];
        assert_eq!((first.host.as_str(), first.before_token, first.promises), ("host43", 0, 20));
        assert_eq!((first.order, first.between_steps), (5, 2));
        assert_eq!(first.steps, BTreeMap::from([(Step::Guard, 25), (Step::Join, 37)]));
        assert_eq!((first.gates, first.close), (51, 7));
        assert_eq!(first.hold(), 157 - 30);
        assert_eq!(found[1].before_token, 2_010 - 1_157);
        assert_eq!(found[1].between_hosts(), 2_010 - 1_157 + 20);
    }

    #[test]
    fn a_turn_without_its_release_is_left_out() {
        let events: Vec<Event> = Vec::new();
        assert_eq!(turns(&events), []);
    }
}
