//! Promises and orders from the wire: read, judged by the core, durable before they are answered.

use grayfin_agent_core::{
    entry::{Answer, Authority, Order, Task},
    fence::{self, Promise, Refusal, Verdict},
};
use grayfin_proto::{document, v1};
use grayfin_types::{Code, HostId, Incarnation, OrderNumber, Term, Token};

use crate::ledger::{self, HOLD_ROOM, Ledger};

/// Reads who commands.
pub(super) fn authority(wire: Option<&v1::Authority>) -> Authority {
    // None becomes an empty group, which the fence refuses.
    let wire = wire.cloned().unwrap_or_default();
    Authority {
        group: wire.group,
        incarnation: Incarnation(wire.incarnation),
        term: Term(wire.term),
    }
}

/// Answers a promise request. Durable before it returns a yes.
pub(super) fn promise(
    ledger: &Ledger,
    amnesic: bool,
    asked: v1::PromiseRequest,
) -> Result<v1::PromiseAnswer, ledger::Error> {
    let token = Token(asked.token);
    let decided = if amnesic {
        Err(is_amnesic())
    } else {
        match asked.cluster.parse() {
            Ok(cluster) => {
                let by = authority(asked.authority.as_ref());
                // None from an older coordinator.
                let held = HostId::new(asked.held).ok();
                refusable(ledger.decide(|state| {
                    match fence::promise(state, &by, &cluster, token, held.as_ref()) {
                        Promise::Record(body) => (Some(body), Ok(())),
                        Promise::Already => (None, Ok(())),
                        Promise::Refuse(refusal) => (None, Err(refusal)),
                    }
                }))?
            }
            Err(e) => Err(bad_request(format!("{e}"))),
        }
    };
    if let Err(refusal) = &decided {
        tracing::warn!(token = asked.token, code = %refusal.code, why = refusal.why, "promise refused");
    }
    let (code, why) = code_and_why(decided.as_ref().err());
    let mark = ledger.mark(None);
    Ok(v1::PromiseAnswer {
        cluster: asked.cluster,
        token: asked.token,
        promised: decided.is_ok(),
        code,
        why,
        ledger_position: mark.position,
        ledger_chain: mark.chain,
        authority: asked.authority,
    })
}

/// Answers an order. Durable before it returns; what it starts, the loops find in the ledger.
pub(super) fn order(
    ledger: &Ledger,
    amnesic: bool,
    boot_id: &str,
    wire: &v1::Order,
) -> Result<v1::OrderAnswer, ledger::Error> {
    let decided = if amnesic { Err(is_amnesic()) } else { decide(ledger, boot_id, wire)? };
    let answer = decided.unwrap_or_else(|refusal| Answer::no(refusal.code, refusal.why));
    if answer.accepted {
        tracing::info!(number = wire.number, kind = wire.kind, token = wire.token, "order taken");
    } else {
        tracing::warn!(number = wire.number, kind = wire.kind, why = answer.why, "order refused");
    }
    let mark = ledger.mark(None);
    Ok(v1::OrderAnswer {
        cluster: wire.cluster.clone(),
        number: wire.number,
        token: wire.token,
        accepted: answer.accepted,
        code: answer.code.map(|code| code.to_string()).unwrap_or_default(),
        why: answer.why,
        ledger_position: mark.position,
        ledger_chain: mark.chain,
        state: answer.state.as_ref().map(document::wrap),
    })
}

/// What is to be done about an order.
pub(super) enum Taken {
    /// It is answered.
    Answered(v1::OrderAnswer),
    /// It is to be carried out first, and answered with its outcome: [`carried_out`].
    CarryOut(Box<Order>),
}

/// Takes an order. One about a cluster-wide effect is judged, but not recorded: it can be done again.
pub(super) fn take(
    ledger: &Ledger,
    amnesic: bool,
    boot_id: &str,
    wire: &v1::Order,
) -> Result<Taken, ledger::Error> {
    if !amnesic
        && wire.kind() == v1::OrderKind::PayDebt
        && let Ok(order) = read(wire)
        && ledger.state(|state| {
            matches!(fence::order(state, &order, boot_id), Verdict::Record(_, answer) if answer.accepted)
        })
    {
        return Ok(Taken::CarryOut(Box::new(order)));
    }
    order(ledger, amnesic, boot_id, wire).map(Taken::Answered)
}

/// Records and answers an order that was carried out, or not. Durable before it returns.
pub(super) fn carried_out(
    ledger: &Ledger,
    amnesic: bool,
    boot_id: &str,
    done: Done,
) -> Result<v1::OrderAnswer, ledger::Error> {
    let Done { mut order, outcome } = done;
    let (number, token, cluster) = (order.number, order.token, order.cluster.clone());
    if let (Task::Debt { failed, .. }, Err(why)) = (&mut order.task, &outcome) {
        *failed = Some(why.clone());
    }
    let decided = if amnesic { Err(is_amnesic()) } else { record(ledger, boot_id, &order)? };
    let answer = decided.unwrap_or_else(|refusal| Answer::no(refusal.code, refusal.why));
    tracing::info!(number = number.0, accepted = answer.accepted, why = answer.why, "debt order");
    let mark = ledger.mark(None);
    Ok(v1::OrderAnswer {
        cluster: cluster.to_string(),
        number: number.0,
        token: token.0,
        accepted: answer.accepted,
        code: answer.code.map(|code| code.to_string()).unwrap_or_default(),
        why: answer.why,
        ledger_position: mark.position,
        ledger_chain: mark.chain,
        state: None,
    })
}

/// An order that was carried out, or not.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) order: Order,
    pub(super) outcome: Result<(), String>,
}

fn decide(
    ledger: &Ledger,
    boot_id: &str,
    wire: &v1::Order,
) -> Result<Result<Answer, Refusal>, ledger::Error> {
    let order = match read(wire) {
        Ok(order) => order,
        Err(why) => return Ok(Err(bad_request(why))),
    };
    // Room for the whole sequence before it begins (S5); an open hold has it already.
    if matches!(order.task, Task::Run { .. })
        && let Err(e) = ledger.reserve(HOLD_ROOM)
    {
        return refusable(Err(e));
    }
    record(ledger, boot_id, &order)
}

fn record(
    ledger: &Ledger,
    boot_id: &str,
    order: &Order,
) -> Result<Result<Answer, Refusal>, ledger::Error> {
    refusable(ledger.decide(|state| match fence::order(state, order, boot_id) {
        Verdict::Record(body, answer) => (Some(*body), Ok(answer)),
        Verdict::Repeat(answer) => (None, Ok(answer)),
        Verdict::Refuse(refusal) => (None, Err(refusal)),
    }))
}

/// A full disk refuses; a ledger that takes no more ends the host agent.
fn refusable<T>(
    decided: Result<(u64, Result<T, Refusal>), ledger::Error>,
) -> Result<Result<T, Refusal>, ledger::Error> {
    match decided {
        Ok((_, result)) => Ok(result),
        Err(e @ ledger::Error::Illegal(_)) => {
            Ok(Err(Refusal { code: Code::Internal, why: e.to_string() }))
        }
        Err(e) if e.code() == Code::DiskTooSmall => {
            let why = format!("no room for the ledger: {e}");
            Ok(Err(Refusal { code: Code::DiskTooSmall, why }))
        }
        Err(other) => Err(other),
    }
}

/// Reads an order. Says in words what is wrong with it.
fn read(wire: &v1::Order) -> Result<Order, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let document = wire.document.as_ref();
    let plan = || document::read("plan", document).map(Box::new).map_err(|e| unread(&e));
    let canary = || document::read("canary order", document).map_err(|e| unread(&e));
    let kind = v1::OrderKind::try_from(wire.kind).map_err(|_| {
        format!("orders of kind {} are not known to this host agent: upgrade it", wire.kind)
    })?;
    let task = match kind {
        v1::OrderKind::Stage => Task::Stage { plan: plan()? },
        v1::OrderKind::Run => Task::Run { plan: plan()? },
        v1::OrderKind::Retry => Task::Retry,
        v1::OrderKind::Undo => Task::Undo,
        v1::OrderKind::Abort => Task::Abort,
        v1::OrderKind::Close => Task::Close,
        v1::OrderKind::CanaryStart => Task::CanaryStart { canary: canary()? },
        v1::OrderKind::CanaryStop => Task::CanaryStop { canary: canary()? },
        v1::OrderKind::CanaryCheck => Task::CanaryCheck { canary: canary()? },
        v1::OrderKind::PayDebt => {
            let debt = document::read("debt order", document).map_err(|e| unread(&e))?;
            Task::Debt { debt, failed: None }
        }
        v1::OrderKind::Unspecified => return Err("the order has no kind".to_owned()),
    };
    Ok(Order {
        authority: authority(wire.authority.as_ref()),
        cluster: wire.cluster.parse().map_err(|e| text(&e))?,
        number: OrderNumber(wire.number),
        token: Token(wire.token),
        rollout: wire.rollout.parse().map_err(|e| text(&e))?,
        task,
    })
}

/// Says why a document of an order cannot be read.
fn unread(error: &document::Error) -> String {
    let mut words = crate::files::chain(error);
    if matches!(error, document::Error::Malformed { .. }) {
        // A field or a word of a newer coordinator must not be passed over: it may be a limit.
        words.push_str("; if the coordinator is newer, upgrade this host agent");
    }
    words
}

fn bad_request(why: String) -> Refusal {
    Refusal { code: Code::BadRequest, why }
}

fn is_amnesic() -> Refusal {
    let why = "this host agent's ledger is older than it was: an operator must readmit the host";
    Refusal { code: Code::AgentAmnesic, why: why.to_owned() }
}

fn code_and_why(refusal: Option<&Refusal>) -> (String, String) {
    refusal.map_or_else(Default::default, |r| (r.code.to_string(), r.why.clone()))
}
