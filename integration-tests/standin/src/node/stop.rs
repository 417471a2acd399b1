//! The end of a node: graceful, or like a power cut.

use std::process::ExitCode;
use std::time::Duration;

use rand::Rng as _;
use standin_model::member;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::start::Started;
use super::{Brain, Node};
use crate::faults::Kind;
use crate::store;

/// An idle node takes 0.9 to 1.4 s from the signal to its end, as the screenshots of the
/// documents show.
const IDLE_MS: std::ops::RangeInclusive<u64> = 900..=1_400;
/// Between two looks whether all transactions have ended.
const LOOK: Duration = Duration::from_millis(10);

/// Ends the process as a crash would: nothing is written, nobody is told.
pub(crate) fn die() {
    let own = rustix::process::getpid();
    let killed = rustix::process::kill_process(own, rustix::process::Signal::KILL);
    // It cannot fail: the process exists and is this one. If it did, this ends it as well.
    if killed.is_err() {
        std::process::abort();
    }
}

/// Runs until the node is asked to stop and has stopped, or cannot go on.
pub(crate) async fn run_to_the_end(started: Started) -> std::io::Result<ExitCode> {
    let Started { node, mut failed } = started;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        let error = tokio::select! {
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            () = node.shared.asked_to_stop() => None,
            error = failed.recv() => error,
        };
        if let Some(error) = error {
            return Ok(give_up(&node, &error));
        }
        node.shared.log.info("Received signal 15");
        if node.shared.faults.get(Kind::IgnoreSigterm).is_none() {
            break;
        }
        node.shared.log.warning("The fault ignore_sigterm keeps this node from stopping.");
    }
    stop(&node, &mut failed).await;
    Ok(ExitCode::SUCCESS)
}

fn give_up(node: &Node, error: &store::Error) -> ExitCode {
    node.shared.log.error(&format!("The node cannot go on: {error}"));
    ExitCode::FAILURE
}

async fn stop(node: &Node, failed: &mut mpsc::UnboundedReceiver<store::Error>) {
    node.shared.begin_to_stop();
    if let Brain::Member(engine) = &node.brain {
        engine.input(member::Input::Stop);
        wait_for_transactions(node).await;
    }
    if let Some(ms) = node.shared.faults.millis(Kind::SlowStop) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    let idle = Duration::from_millis(rand::rng().random_range(IDLE_MS));
    tokio::time::sleep(node.shared.scaled(idle)).await;
    let written = match &node.brain {
        Brain::Controller(engine) => engine.look(|m, _| m.checkpoint()).await,
        Brain::Member(engine) => {
            let write = |m: &mut super::member::MemberMachine, _| match &mut m.store {
                Some(store) => store.checkpoint(),
                None => Ok(()),
            };
            engine.look(write).await
        }
    };
    let (log, late) = (&node.shared.log, failed.try_recv().ok());
    match (written, late) {
        (Ok(Err(error)), _) | (_, Some(error)) => log.error(&error.to_string()),
        (Ok(Ok(())) | Err(_), None) => {}
    }
    // Real nodes write these at every clean stop; they mean nothing.
    log.error("The socket server ended.");
    log.error("AsynchronousSubscriberImp::run Shut down the subscription daemon.");
    log.info("MainServer shutdown.");
}

/// Waits for the transactions this node coordinates, however long they take; for those of others
/// only as long as their coordinators can be alive unnoticed.
async fn wait_for_transactions(node: &Node) {
    let Brain::Member(engine) = &node.brain else { return };
    let patience = Duration::from_millis(node.shared.timing.heartbeat_timeout_ms * 2);
    let since = tokio::time::Instant::now();
    loop {
        let state = engine.look(|m, _| (m.member.is_idle(), m.member.transactions().count())).await;
        let Ok((idle, own)) = state else { return };
        if idle || (own == 0 && since.elapsed() > patience) {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    // The last answers are on their way to clients.
    let since = tokio::time::Instant::now();
    while node.sessions.running() > 0 && since.elapsed() < node.shared.scaled(patience) {
        tokio::time::sleep(LOOK).await;
    }
}
