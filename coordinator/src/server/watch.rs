//! Event streams: from any number on, each event once and in order, until the final one.

use std::{sync::Arc, time::Duration};

use grayfin_proto::{document, v1::Document};
use grayfin_types::{Code, RolloutId, Seq};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::status;
use crate::{shared::Shared, store::Error};

/// Events read from the store at once.
const READ_MAX: usize = 256;

/// Events that wait for the watcher.
const QUEUE: usize = 64;

/// A watcher that takes no event for so long is cut off; it can attach again where it was.
const SEND_MAX: Duration = Duration::from_mins(1);

/// A rollout that was started on another coordinator shows here a moment later.
const APPEARS_MAX: Duration = Duration::from_secs(2);

/// Starts a stream.
pub(crate) async fn start(
    shared: &Arc<Shared>,
    rollout: RolloutId,
    from: u64,
) -> Result<ReceiverStream<Result<Document, Status>>, Status> {
    let mut changes = shared.store.changes();
    let appears = changes.wait_for(|_| shared.store.state().rollouts.contains_key(&rollout));
    if !matches!(tokio::time::timeout(APPEARS_MAX, appears).await, Ok(Ok(_))) {
        let why = format!("there is no rollout `{rollout}`: `grayfin rollout list` shows all");
        return Err(status::of(Code::NoSuchObject, tonic::Code::NotFound, &why));
    }
    let (out, stream) = mpsc::channel(QUEUE);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let watcher = Watcher { shared, rollout, next: Seq(from.max(1)), out };
        watcher.run().await;
    });
    Ok(ReceiverStream::new(stream))
}

/// Without a known leader for so long nothing new can come here; another coordinator may have it.
const LEADERLESS_MAX: Duration = Duration::from_secs(6);

struct Watcher {
    shared: Arc<Shared>,
    rollout: RolloutId,
    next: Seq,
    out: mpsc::Sender<Result<Document, Status>>,
}

impl Watcher {
    async fn run(mut self) {
        let mut changes = self.shared.store.changes();
        loop {
            changes.borrow_and_update();
            match self.send_new().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(end) => {
                    // The watcher may be gone, which is the most frequent reason to end.
                    drop(self.out.try_send(Err(end)));
                    return;
                }
            }
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = self.out.closed() => return,
                () = leaderless(&self.shared) => {
                    let end = Status::unavailable("cut off: nobody is known to lead here");
                    drop(self.out.try_send(Err(end)));
                    return;
                }
                () = self.shared.stopped() => {
                    let end = Status::unavailable("the coordinator stops: watch on another one");
                    drop(self.out.try_send(Err(end)));
                    return;
                }
            }
        }
    }

    /// Sends what is there. Returns whether more may come.
    async fn send_new(&mut self) -> Result<bool, Status> {
        // The state is read first: it may know fewer events than are read then, never more.
        let state = self.shared.store.state();
        let last = state.rollouts.get(&self.rollout).map(|r| (r.last_seq, r.state.is_final()));
        drop(state);
        loop {
            let events = self
                .shared
                .store
                .events_from(&self.rollout, self.next, READ_MAX)
                .map_err(|e| damaged(&e))?;
            if events.is_empty() {
                break;
            }
            for event in events {
                let send = self.out.send(Ok(document::wrap(&event)));
                tokio::time::timeout(SEND_MAX, send)
                    .await
                    .map_err(|_| Status::deadline_exceeded("the watcher takes no events"))?
                    .map_err(|_| Status::cancelled("the watcher is gone"))?;
                self.next = event.seq.next();
            }
        }
        Ok(match last {
            Some((last, ended)) => !ended || self.next <= last,
            // Forgotten meanwhile, events and all: it had ended long ago.
            None => false,
        })
    }
}

/// Returns when nobody was known to lead for a while.
async fn leaderless(shared: &Shared) {
    let mut leadership = shared.store.leadership();
    loop {
        if leadership.wait_for(|l| l.leader.is_none()).await.is_err() {
            return;
        }
        let led = leadership.wait_for(|l| l.leader.is_some());
        if !matches!(tokio::time::timeout(LEADERLESS_MAX, led).await, Ok(Ok(_))) {
            return;
        }
    }
}

fn damaged(error: &Error) -> Status {
    tracing::error!(%error, "read events");
    status::of(Code::StoreDamaged, tonic::Code::DataLoss, &error.to_string())
}
