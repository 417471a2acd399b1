//! What happens at the coordinators, small, and the real command that it is.

use std::collections::{BTreeMap, BTreeSet};

use grayfin_coordinator_core::{
    Cmd, State,
    cmd::{Action, Control, Enrol, GoDecided, LedgerSaid, OrderAnswered, PromiseAnswered},
    hold,
};
use grayfin_types::{
    Generation, Incarnation, LedgerId, OrderNumber, Term, Token,
    step::{Happened, Report, Step},
};

use crate::words::{GROUP, Told, cluster, host};

/// A command, small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Deed {
    /// A coordinator takes the lead, in the next term.
    Lead,
    /// An operator declares that the state was restored: the next incarnation.
    Raise,
    /// A host agent says hello.
    Hello {
        /// Which.
        host: u8,
        /// Its certificate's generation.
        generation: u8,
        /// Its ledger.
        ledger: u8,
        /// The ledger's position.
        position: u16,
        /// Its last order.
        last_order: u8,
        /// Tokens up to this one are refused there.
        floor: u8,
        /// The enrolment whose floor it has taken over, by its generation; 0 for none.
        taken: u8,
    },
    /// A token is allotted for this host.
    Allot(u8),
    /// The token is given up.
    Abandon,
    /// The hold takes effect.
    Grant,
    /// The held host is to close.
    Close,
    /// A broken hold's host is to close.
    CloseBroken,
    /// An operator's act.
    Operator(Act),
    /// A host agent answered a promise request.
    Promise {
        /// Which.
        host: u8,
        /// The token.
        token: u8,
        /// Yes.
        yes: bool,
        /// The ledger's position then.
        position: u16,
    },
    /// A host agent answered an order.
    Answer {
        /// Which.
        host: u8,
        /// The order.
        number: u8,
        /// Its token.
        token: u8,
        /// Taken up.
        yes: bool,
        /// The sequence's state then.
        told: Option<Told>,
        /// The ledger's position then.
        position: u16,
    },
    /// A host agent reported; position 0 is not in its ledger.
    Report {
        /// Which.
        host: u8,
        /// The token.
        token: u8,
        /// What.
        told: Told,
        /// Where in its ledger.
        position: u16,
    },
    /// A go is asked for by this host.
    Go(u8),
}

/// What operators do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Act {
    /// Pause.
    Pause,
    /// Resume.
    Resume,
    /// Abort.
    Abort,
    /// Retry.
    Retry,
    /// Leave the held host out.
    Skip,
    /// Leave a host out that waits.
    SkipHost(u8),
    /// Roll the held host back.
    Rollback,
    /// Break the hold.
    Break,
    /// Attest that this host is powered off.
    Attest(u8),
    /// Start the second rollout.
    Start,
}

/// Makes the real command.
pub(crate) fn command(state: &State, deed: Deed) -> Option<Cmd> {
    let held = || state.holds.get(&cluster());
    let active = || state.active(&cluster()).map(|r| r.id.clone());
    Some(match deed {
        Deed::Lead => {
            let term = state.lease.as_ref().map_or(Term(1), |lease| lease.term.next());
            Cmd::Lease { coordinator: 1, term }
        }
        Deed::Raise => {
            let incarnation = Incarnation(state.incarnation.0.saturating_add(1));
            Cmd::Found { group: GROUP.to_owned(), incarnation }
        }
        Deed::Hello { host: of, generation, ledger, position, last_order, floor, taken } => {
            Cmd::Enrol(Enrol {
                host: host(of),
                clusters: BTreeSet::from([cluster()]),
                generation: Generation(generation.into()),
                ledger_id: ledger_id(of, ledger),
                ledger_position: position.into(),
                agent_version: String::new(),
                last_orders: BTreeMap::from([(cluster(), OrderNumber(last_order.into()))]),
                ledger: Some(LedgerSaid {
                    chain: String::new(),
                    proof: None,
                    floor: Token(floor.into()),
                    open_hold: None,
                    readmitted: (taken > 0).then(|| act(taken)),
                    own: Token(0),
                    promised_for: BTreeMap::new(),
                    lost: None,
                }),
            })
        }
        Deed::Allot(of) => Cmd::AllotToken { rollout: active()?, host: host(of) },
        Deed::Abandon => {
            let held = held()?;
            Cmd::AbandonToken { rollout: held.rollout.clone(), token: held.token }
        }
        Deed::Grant => {
            let held = held()?;
            Cmd::Grant {
                rollout: held.rollout.clone(),
                host: held.host.clone(),
                token: held.token,
                reason: String::new(),
                findings: Vec::new(),
            }
        }
        Deed::Close => {
            let held = held()?;
            let (rollout, host) = (held.rollout.clone(), held.host.clone());
            Cmd::Close { rollout, host, token: held.token, soaked_ms: 1 }
        }
        Deed::CloseBroken => {
            Cmd::CloseBroken { token: state.broken.iter().find(|b| b.settled)?.token }
        }
        Deed::Operator(act) => Cmd::Control(control(state, act)?),
        Deed::Promise { .. } | Deed::Answer { .. } | Deed::Report { .. } => heard(deed)?,
        Deed::Go(of) => {
            let held = held()?;
            Cmd::Go(GoDecided {
                rollout: held.rollout.clone(),
                host: host(of),
                token: held.token,
                request: 1,
                action: String::new(),
                allowed: true,
                reasons: Vec::new(),
            })
        }
    })
}

/// Makes the real command of what a host agent said.
fn heard(deed: Deed) -> Option<Cmd> {
    Some(match deed {
        Deed::Promise { host: of, token, yes, position } => Cmd::RecordPromise(PromiseAnswered {
            host: host(of),
            cluster: cluster(),
            token: Token(token.into()),
            promised: yes,
            code: None,
            why: String::new(),
            ledger_position: position.into(),
            chain: String::new(),
        }),
        Deed::Answer { host: of, number, token, yes, told, position } => {
            Cmd::OrderAnswered(OrderAnswered {
                host: host(of),
                cluster: cluster(),
                number: OrderNumber(number.into()),
                token: Token(token.into()),
                accepted: yes,
                code: None,
                why: String::new(),
                ledger_position: position.into(),
                chain: String::new(),
                state: told.map(Told::state),
            })
        }
        Deed::Report { host: of, token, told, position } => Cmd::Reported {
            report: Report {
                host: host(of),
                token: Token(token.into()),
                step: Step::Stop,
                undo: false,
                happened: Happened::State { state: told.state() },
                seen: String::new(),
                position: position.into(),
                chain: String::new(),
                at_ms: 0,
            },
        },
        Deed::Lead
        | Deed::Raise
        | Deed::Hello { .. }
        | Deed::Allot(_)
        | Deed::Abandon
        | Deed::Grant
        | Deed::Close
        | Deed::CloseBroken
        | Deed::Operator(_)
        | Deed::Go(_) => return None,
    })
}

fn control(state: &State, act: Act) -> Option<Control> {
    let active = state.active(&cluster()).map(|r| r.id.clone());
    let action = match act {
        Act::Pause => Action::Pause,
        Act::Resume => Action::Resume,
        Act::Abort => Action::Abort,
        Act::Retry => Action::Retry,
        Act::Skip => Action::Skip { host: None },
        Act::SkipHost(of) => Action::Skip { host: Some(host(of)) },
        Act::Rollback => Action::RollbackHost,
        Act::Break => Action::BreakHold { token: state.holds.get(&cluster())?.token },
        Act::Attest(of) => {
            let token = hold::tokens_of(state, &host(of)).into_iter().next()?;
            Action::AttestPoweredOff { host: host(of), token }
        }
        Act::Start => return None,
    };
    // An abort or a retry of an ended rollout with a broken hold brings its host up.
    let broken = || state.broken.first().map(|b| b.rollout.clone());
    let of = active.or_else(broken).or_else(|| state.rollouts.keys().next().cloned())?;
    Some(Control {
        // Every act is a new wish; the memory of answers is taken out of the state below.
        request_id: format!("{act:?}"),
        rollout: of,
        action,
        reason: "because".to_owned(),
        by: "ann".to_owned(),
    })
}

fn ledger_id(of: u8, ledger: u8) -> LedgerId {
    format!("ledger-{of}-{ledger}").parse().expect("a word is a ledger's id")
}

/// Names an enrolment as the coordinators do.
pub(crate) fn act(generation: u8) -> String {
    format!("enrolment {generation}")
}
