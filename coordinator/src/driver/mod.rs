//! The one loop that drives: look, decide, propose, send. Only the leader runs it.

mod narrate;
mod pace;
mod windows;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use grayfin_coordinator_core::{Cmd, Decision, Response, View, decide, invariant::Violation};
use grayfin_types::{Code, Incarnation, RolloutId, Term, gate::Reason};

use self::{narrate::Narrator, pace::Pacer};
use crate::{
    clock::monotonic_ms,
    server::status,
    sessions::Tempo,
    shared::Shared,
    store::{Leadership, Refused},
};

/// Time alone changes something: facts get too old, limits are passed, answers are late.
const TICK: Duration = Duration::from_millis(200);

/// The tick while a rollout waits for something to be seen: looks are asked for on time.
const SHORT_TICK: Duration = Duration::from_millis(20);

/// The longest rest between two rounds; a round of a small group takes far less than 1 ms.
const REST_MAX: Duration = Duration::from_millis(100);

/// Between two tries to confirm a lead.
const CONFIRM_AGAIN: Duration = Duration::from_millis(200);

/// Why a term's driving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Another term began, or the lead is gone.
    LeadLost,
    /// The coordinator stops.
    Stopped,
}

/// Runs until the coordinator stops.
pub async fn run(shared: Arc<Shared>) {
    let mut leadership = shared.store.leadership();
    loop {
        let lead = tokio::select! {
            () = shared.stopped() => return,
            lead = leadership.wait_for(|l| l.leads || l.fatal.is_some()) => match lead {
                Ok(lead) if lead.fatal.is_none() => lead.clone(),
                // Whoever runs us ends the process then.
                _ => return,
            },
        };
        tracing::info!(term = %lead.term, "this coordinator leads");
        let end = drive(&shared, lead.term).await;
        shared.driving.send_replace(None);
        let leader = shared.leadership().leader.filter(|(id, _)| *id != shared.store.id());
        shared.links.end_all(&status::refused(&Refused::NotLeader { leader }));
        // What was seen is the next leader's business; for this one it is old by the time it leads
        // again.
        shared.sight.update(|view| *view = View::default());
        if end == End::Stopped {
            return;
        }
        tracing::warn!(term = %lead.term, "this coordinator does not lead any more");
        // The engine may say for a moment longer that it leads.
        tokio::time::sleep(CONFIRM_AGAIN).await;
    }
}

async fn drive(shared: &Arc<Shared>, term: Term) -> End {
    let mut leadership = shared.store.leadership();
    let lost = |l: &Leadership| !l.leads || l.term != term || l.fatal.is_some();
    tokio::select! {
        () = shared.stopped() => End::Stopped,
        // Whatever the loop is at: it ends at once.
        _ = leadership.wait_for(lost) => End::LeadLost,
        () = rounds(shared, term) => End::LeadLost,
    }
}

/// Confirms and records the lead, then decides round after round. Returns when the lead is lost.
async fn rounds(shared: &Arc<Shared>, term: Term) {
    if take_over(shared, term).await.is_err() {
        return;
    }
    shared.driving.send_replace(Some(term));
    let mut changes = shared.store.changes();
    let mut seen = shared.sight.changes();
    let mut violations = shared.store.violations();
    let mut narrator = Narrator::new(&shared.store.state());
    let mut pacer = Pacer::default();
    let mut broken = false;
    loop {
        changes.borrow_and_update();
        seen.borrow_and_update();
        let found = violations.borrow_and_update().clone();
        if !found.is_empty() && !broken {
            broken = true;
            halt_all(shared, &found).await;
        }
        narrator.tell(shared.store.as_ref());
        let begun = Instant::now();
        let next = if broken { Ok(Some(TICK)) } else { round(shared, &mut pacer).await };
        match next {
            Ok(None) => {}
            Ok(Some(tick)) => {
                // Facts of thousands of hosts arrive all the time: half of the time is for others.
                tokio::time::sleep(begun.elapsed().min(REST_MAX)).await;
                tokio::select! {
                    _ = changes.changed() => {}
                    _ = seen.changed() => {}
                    () = tokio::time::sleep(tick) => {}
                }
            }
            Err(Refused::NotLeader { .. }) => return,
            Err(refused @ (Refused::NoQuorum | Refused::Group(_) | Refused::Stopped(_))) => {
                tracing::warn!(%refused, "a decision could not be committed");
                tokio::time::sleep(CONFIRM_AGAIN).await;
            }
        }
    }
}

async fn take_over(shared: &Shared, term: Term) -> Result<(), Refused> {
    let store = &shared.store;
    loop {
        match store.linearizable().await {
            Ok(()) => break,
            Err(Refused::NoQuorum) => tokio::time::sleep(CONFIRM_AGAIN).await,
            Err(
                refused @ (Refused::NotLeader { .. } | Refused::Group(_) | Refused::Stopped(_)),
            ) => {
                return Err(refused);
            }
        }
    }
    let mut commands = Vec::new();
    if store.state().group.is_empty() {
        let group = uuid::Uuid::new_v4().to_string();
        commands.push(Cmd::Found { group, incarnation: Incarnation(1) });
    }
    commands.push(Cmd::Lease { coordinator: store.id(), term });
    loop {
        match store.propose_all(commands.clone()).await {
            Ok(_) => return Ok(()),
            Err(Refused::NoQuorum) => tokio::time::sleep(CONFIRM_AGAIN).await,
            Err(refused) => return Err(refused),
        }
    }
}

/// One round. Returns when the next one should follow at the latest; none for at once.
async fn round(shared: &Shared, pacer: &mut Pacer) -> Result<Option<Duration>, Refused> {
    let state = shared.store.state();
    let look_interval = shared.config.look_interval;
    let (Decision { commands, wanted, waiting }, pace) = shared.sight.update_silently(|view| {
        let now = monotonic_ms();
        windows::set_local_times(view, &state);
        view.tick(&state, now);
        let mut decision = decide(&state, view, now);
        view.damp(&mut decision, now);
        let pace = pacer.pace(&state, view, &mut decision, now, look_interval);
        (decision, pace)
    });
    if !waiting.is_empty() {
        tracing::trace!(?waiting, "waiting");
    }
    let tick = if pace.is_empty() { TICK } else { SHORT_TICK };
    shared.links.send_due(&wanted, &state, &shared.authority(), &Tempo { look_interval, pace });
    drop(state);
    if commands.is_empty() {
        return Ok(Some(tick));
    }
    let responses = shared.store.propose_all(commands.clone()).await?;
    let mut progress = false;
    for (command, response) in commands.iter().zip(&responses) {
        match response {
            Response::Ignored { why } => tracing::debug!(?command, %why, "decision ignored"),
            Response::Refused { code, why } => {
                tracing::warn!(?command, %code, %why, "decision refused");
            }
            Response::Done
            | Response::Enrolled { .. }
            | Response::Started { .. }
            | Response::Allotted { .. }
            | Response::Committed { .. }
            | Response::Go { .. } => progress = true,
        }
    }
    if !progress {
        // The same would be decided again at once; something has to change first.
        tokio::time::sleep(TICK).await;
    }
    Ok(None)
}

/// Stops every rollout: an invariant is broken, which is a fault of ours.
async fn halt_all(shared: &Shared, violations: &[Violation]) {
    for violation in violations {
        tracing::error!(id = violation.id, detail = violation.detail, "an invariant is broken");
    }
    let text: Vec<String> = violations.iter().map(|v| format!("{}: {}", v.id, v.detail)).collect();
    let state = shared.store.state();
    let active: Vec<RolloutId> =
        state.rollouts.values().filter(|r| !r.state.is_final()).map(|r| r.id.clone()).collect();
    drop(state);
    let commands: Vec<Cmd> = active
        .into_iter()
        .map(|rollout| Cmd::Halt {
            reason: Reason {
                code: Code::Internal,
                subject: rollout.to_string(),
                evidence: format!("an invariant of the coordinator is broken: {}", text.join("; ")),
                remedy: "nothing is decided any more: keep the state folder and the logs, and report the fault".to_owned(),
            },
            rollout,
        })
        .collect();
    if commands.is_empty() {
        return;
    }
    if let Err(refused) = shared.store.propose_all(commands).await {
        tracing::error!(%refused, "the rollouts could not be halted; nothing is decided any more");
    }
}
