//! The fence: which promises may be given and which orders are taken (S2, S3, S8).

use grayfin_types::{
    ClusterId, Code, HostId, Token,
    ledger::Readmit,
    raise::Raise,
    step::{SequenceState, Step},
};

use crate::{
    entry::{Answer, Authority, Body, Order, Task},
    mutation,
    state::{Hold, LastOrder, Phase, State},
};

/// Why something is refused without leaving a trace in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: Code,
    /// In words.
    pub why: String,
}

/// What to do about an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is the highest known.
    Known,
    /// It is higher than all before: record it before it is obeyed.
    Higher,
}

/// What to do about a promise request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Promise {
    /// Record it, then say yes.
    Record(Body),
    /// Say yes: what is promised holds already.
    Already,
    /// Say no.
    Refuse(Refusal),
}

/// What to do about a readmission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readmission {
    /// Record it, and say hello again.
    Record(Box<Body>),
    /// It is recorded.
    Already,
    /// Not now.
    Refuse(Refusal),
}

/// What to do about an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Record it, then give the answer, then act.
    Record(Box<Body>, Answer),
    /// It was answered before: the same again.
    Repeat(Answer),
    /// It is stale or not for us: say no, record nothing.
    Refuse(Refusal),
}

fn stale(why: String) -> Refusal {
    Refusal { code: Code::TokenStale, why }
}

fn outdated(why: String) -> Refusal {
    Refusal { code: Code::CoordinatorRefused, why }
}

/// Judges a coordinator that presents itself as the one that leads. `raise` is an operator's act
/// whose signature was verified. Returns what to record before it is listened to.
pub fn welcome(
    state: &State,
    asked: &Authority,
    membership: u64,
    raise: Option<&Raise>,
) -> Result<Option<Body>, Refusal> {
    let known = state.authority.as_ref();
    let raised = known.filter(|k| k.group == asked.group && k.incarnation < asked.incarnation);
    if let Some(known) = raised {
        let proven = raise.is_some_and(|raise| {
            raise.group == asked.group
                && raise.to == asked.incarnation
                && raise.from >= known.incarnation
        });
        if !proven && !mutation::is("s2-raise-unproven") {
            return Err(outdated(format!(
                "it has incarnation {}, this host agent knows {}, and no operator's signed act raises it",
                asked.incarnation, known.incarnation
            )));
        }
    } else {
        authority(state, asked)?;
        if membership < state.membership {
            return Err(outdated(format!(
                "it knows the group's membership of log entry {membership}, this host agent has seen that of {}: it was removed, or is a copy from before the group changed",
                state.membership
            )));
        }
    }
    let news = known != Some(asked) || membership > state.membership;
    Ok(news.then(|| Body::Welcomed { authority: asked.clone(), membership }))
}

/// Judges who commands. A higher incarnation is never taken from here: [`welcome`] wants proof.
pub fn authority(state: &State, asked: &Authority) -> Result<Standing, Refusal> {
    if asked.group.is_empty() {
        return Err(stale("it names no coordinator group".to_owned()));
    }
    let Some(known) = &state.authority else { return Ok(Standing::Higher) };
    if known.group != asked.group {
        return Err(stale(format!(
            "it comes from coordinator group `{}`, this host agent belongs to `{}`",
            asked.group, known.group
        )));
    }
    if asked.incarnation > known.incarnation {
        return Err(outdated(format!(
            "incarnation {} is higher than {} and was not proven by an operator's act",
            asked.incarnation, known.incarnation
        )));
    }
    let (asked_at, known_at) = ((asked.incarnation, asked.term), (known.incarnation, known.term));
    match asked_at.cmp(&known_at) {
        std::cmp::Ordering::Less if mutation::is("s2-older-authority") => Ok(Standing::Known),
        std::cmp::Ordering::Less => Err(stale(format!(
            "it comes from incarnation {} term {}, this host agent has seen incarnation {} term {}",
            asked.incarnation, asked.term, known.incarnation, known.term
        ))),
        std::cmp::Ordering::Equal => Ok(Standing::Known),
        std::cmp::Ordering::Greater => Ok(Standing::Higher),
    }
}

/// Judges a request to promise that every token up to `token` will be refused here. `held` is the host
/// that is to be held under it, where the coordinator says it.
pub fn promise(
    state: &State,
    asked: &Authority,
    cluster: &ClusterId,
    token: Token,
    held: Option<&HostId>,
) -> Promise {
    let standing = match authority(state, asked) {
        Ok(standing) => standing,
        Err(refusal) => return Promise::Refuse(refusal),
    };
    if token == Token(0) {
        let why = "token 0 is no token".to_owned();
        return Promise::Refuse(Refusal { code: Code::BadRequest, why });
    }
    if let Some(hold) = &state.hold
        && !mutation::is("s1-promise-while-held")
    {
        let why = format!(
            "hold {} of cluster `{}` is open on this host ({})",
            hold.token,
            hold.cluster,
            words(&hold.state())
        );
        return Promise::Refuse(Refusal { code: Code::HoldOpen, why });
    }
    let told = held.is_none_or(|host| state.promised_for.get(host).is_some_and(|of| *of >= token));
    if token <= state.floor && standing == Standing::Known && told {
        return Promise::Already;
    }
    let (cluster, authority, held) = (cluster.clone(), asked.clone(), held.cloned());
    Promise::Record(Body::Promised { cluster, token, authority, held })
}

/// Judges an operator's readmission that came with the welcome of `by` (S8). `amnesic` says whether
/// the coordinators call this ledger an old one: else a hold whose sequence still runs is brought to
/// its end first, for nobody is needed for that. Whoever calls sees to it that nothing runs that an
/// earlier step began.
pub fn readmission(state: &State, by: &Authority, readmit: &Readmit, amnesic: bool) -> Readmission {
    if state.readmitted.as_ref() == Some(&readmit.act) {
        return Readmission::Already;
    }
    if let Err(refusal) = authority(state, by) {
        return Readmission::Refuse(refusal);
    }
    if let Some(hold) = &state.hold {
        if readmit.closes != Some(hold.token) {
            let why = format!(
                "hold {} is open on this host, and the operator's act does not name it",
                hold.token
            );
            return Readmission::Refuse(Refusal { code: Code::HoldOpen, why });
        }
        if !amnesic && !matches!(hold.phase, Phase::Ended(_)) {
            let why = format!("hold {} is {}", hold.token, words(&hold.state()));
            return Readmission::Refuse(Refusal { code: Code::WrongState, why });
        }
    }
    let (readmit, authority) = (readmit.clone(), by.clone());
    Readmission::Record(Box::new(Body::Readmitted { readmit, authority }))
}

/// Judges an order. `boot_id` is the kernel's, now.
pub fn order(state: &State, order: &Order, boot_id: &str) -> Verdict {
    if let Err(refusal) = authority(state, &order.authority) {
        return Verdict::Refuse(refusal);
    }
    let last = state.cluster(&order.cluster).and_then(|c| c.last_order.as_ref());
    if let Some(last) = last
        && order.number <= last.number
        && !mutation::is("s8-order-twice")
    {
        if last.is(order) {
            return Verdict::Repeat(last.answer.clone());
        }
        return Verdict::Refuse(stale(not_in_turn(order, last)));
    }
    if order.number.0 == 0 {
        return Verdict::Refuse(stale("an order needs a number".to_owned()));
    }
    let answer = judge(state, order);
    let body = Body::Ordered {
        order: Box::new(order.clone()),
        answer: answer.clone(),
        boot_id: boot_id.to_owned(),
    };
    Verdict::Record(Box::new(body), answer)
}

/// Says why an order is not the next one, nor the last one again.
fn not_in_turn(order: &Order, last: &LastOrder) -> String {
    if order.number < last.number {
        return format!("order {} comes after order {} was taken", order.number, last.number);
    }
    format!(
        "order {} was taken before with another content, token or incarnation: it is not the same order",
        order.number
    )
}

fn judge(state: &State, order: &Order) -> Answer {
    if order.task.needs_token() && order.token == Token(0) {
        return Answer::no(Code::BadRequest, "this order needs a token");
    }
    match &order.task {
        Task::Run { plan } => run(state, order, plan),
        Task::Stage { plan } => match plan_fits(state, order, plan) {
            Ok(()) => Answer::yes(None),
            Err(answer) => answer,
        },
        Task::Retry => on_hold(state, order, retry),
        Task::Undo => on_hold(state, order, undo),
        Task::Abort => on_hold(state, order, |hold| after(hold, Hold::abort)),
        Task::Close => close(state, order),
        Task::CanaryStart { canary }
        | Task::CanaryStop { canary }
        | Task::CanaryCheck { canary } => {
            if canary.rollout == order.rollout {
                Answer::yes(None)
            } else {
                Answer::no(Code::BadRequest, "the canary belongs to another rollout")
            }
        }
        Task::Debt { failed: None, .. } => Answer::yes(None),
        Task::Debt { failed: Some(why), .. } => Answer::no(Code::DebtOpen, why.clone()),
    }
}

fn plan_fits(state: &State, order: &Order, plan: &grayfin_types::plan::Plan) -> Result<(), Answer> {
    let no = |why: String| Err(Answer::no(Code::BadRequest, why));
    if plan.cluster != order.cluster {
        return no(format!("the plan is for cluster `{}`", plan.cluster));
    }
    match &state.host {
        Some(host) if plan.host(host).is_some() => Ok(()),
        Some(host) => no(format!("host `{host}` has no part in the plan")),
        None => no("the ledger does not say whose it is".to_owned()),
    }
}

fn run(state: &State, order: &Order, plan: &grayfin_types::plan::Plan) -> Answer {
    if let Some(hold) = &state.hold
        && !mutation::is("s1-run-while-held")
    {
        let why = format!(
            "hold {} of cluster `{}` is open on this host: close it first",
            hold.token, hold.cluster
        );
        return Answer::no(Code::HoldOpen, why);
    }
    if order.token <= state.floor && !mutation::is("s2-takes-promised-token") {
        let why = format!(
            "token {} is closed or was promised away; tokens up to {} are refused",
            order.token, state.floor
        );
        return Answer::no(Code::TokenStale, why);
    }
    match plan_fits(state, order, plan) {
        Ok(()) => Answer::yes(Some(SequenceState::Running { step: Step::Stage })),
        Err(answer) => answer,
    }
}

fn on_hold(state: &State, order: &Order, judge: impl Fn(&Hold) -> Answer) -> Answer {
    match &state.hold {
        Some(hold) if hold.token == order.token && hold.cluster == order.cluster => judge(hold),
        Some(hold) => Answer::no(
            Code::TokenStale,
            format!("token {} is not open here, token {} is", order.token, hold.token),
        ),
        None => Answer::no(Code::TokenStale, format!("token {} is not open here", order.token)),
    }
}

fn retry(hold: &Hold) -> Answer {
    match &hold.phase {
        Phase::Ended(
            SequenceState::Refused { .. }
            | SequenceState::Undone { .. }
            | SequenceState::Failed { .. },
        ) => after(hold, Hold::retry),
        Phase::Ended(
            state @ (SequenceState::Up | SequenceState::Running { .. } | SequenceState::Closed),
        ) => Answer::no(Code::WrongState, format!("there is nothing to retry: {}", words(state))),
        Phase::Forward | Phase::Undoing | Phase::Stuck => Answer::no(
            Code::WrongState,
            format!("the sequence has not ended yet: {}", words(&hold.state())),
        ),
    }
}

fn undo(hold: &Hold) -> Answer {
    if hold.first_start && !mutation::is("s12-undo-after-first-start") {
        let why = "processes of the new version may have run on this host, and the first start rewrites metadata that the old version cannot read; the way is forward";
        return Answer::no(Code::UndoImpossible, why);
    }
    after(hold, Hold::undo)
}

/// Says yes with the state that follows.
fn after(hold: &Hold, change: impl FnOnce(&mut Hold)) -> Answer {
    let mut hold = hold.clone();
    change(&mut hold);
    Answer::yes(Some(hold.state()))
}

fn close(state: &State, order: &Order) -> Answer {
    let closed = || Answer::yes(Some(SequenceState::Closed));
    match &state.hold {
        Some(hold) if hold.token == order.token => {
            if hold.may_close() {
                return closed();
            }
            let why = format!("the host is not whole: {}", words(&hold.state()));
            Answer::no(Code::WrongState, why)
        }
        Some(hold) if order.token > state.floor => Answer::no(
            Code::HoldOpen,
            format!("token {} is not the open one, {} is", order.token, hold.token),
        ),
        // Never opened here, or closed before: it is refused from here on in any case.
        Some(_) | None => closed(),
    }
}

/// Says where a sequence stands, for messages.
pub fn words(state: &SequenceState) -> String {
    match state {
        SequenceState::Running { step } => format!("running, at step `{step}`"),
        SequenceState::Up => "up on the new version".to_owned(),
        SequenceState::Refused { step, code, .. } => format!("refused by step `{step}`, {code}"),
        SequenceState::Undone { step, code, .. } => {
            format!("undone because step `{step}` failed, {code}")
        }
        SequenceState::Failed { step, code, .. } => format!("failed at step `{step}`, {code}"),
        SequenceState::Closed => "closed".to_owned(),
    }
}
