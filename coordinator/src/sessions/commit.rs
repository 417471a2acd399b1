//! What a host agent says for good, committed in the order in which it was said.

use std::{sync::Arc, time::Duration};

use grayfin_coordinator_core::{
    Cmd, Response,
    go::{self, go},
};
use grayfin_proto::{document, v1, v1::to_host};
use grayfin_types::{Code, gate::Reason, step::Happened};
use tokio::sync::mpsc;
use tonic::Status;

use super::{
    incoming::Peer,
    links::{Outgoing, committed, to_host},
};
use crate::{clock::monotonic_ms, server::status, shared::Shared, store::Refused};

/// The most items taken at once; their commands become one log entry.
const BATCH_MAX: usize = 256;

/// A request for a go waits so long for facts that are missing (after a failover, in an election):
/// less than the 10 s after which the host agent asks again.
const GO_WAITS_MAX: Duration = Duration::from_secs(8);

/// Between two looks at whether they are there.
const GO_AGAIN: Duration = Duration::from_millis(250);

/// Something that a host agent said.
#[derive(Debug)]
pub(crate) enum Item {
    /// To be committed.
    Command(Box<Cmd>),
    /// A request for a go, which is judged after everything that was said before it.
    Go(go::Ask),
}

/// Commits until the session's end. Returns why it cannot go on.
pub(crate) async fn run(
    shared: Arc<Shared>,
    peer: Peer,
    mut queue: mpsc::Receiver<Item>,
    out: Outgoing,
) -> Status {
    let committer = Committer { shared, peer, out };
    let mut taken = Vec::with_capacity(BATCH_MAX);
    while queue.recv_many(&mut taken, BATCH_MAX).await > 0 {
        let mut batch = Vec::new();
        for item in taken.drain(..) {
            match item {
                Item::Command(command) => batch.push(*command),
                Item::Go(ask) => {
                    if let Err(refused) = committer.commit(&mut batch).await {
                        return status::refused(&refused);
                    }
                    committer.answer_go(ask).await;
                }
            }
        }
        if let Err(refused) = committer.commit(&mut batch).await {
            // The host agent connects again and says once more what is not committed.
            return status::refused(&refused);
        }
    }
    Status::cancelled("the session ended")
}

struct Committer {
    shared: Arc<Shared>,
    peer: Peer,
    out: Outgoing,
}

impl Committer {
    async fn commit(&self, batch: &mut Vec<Cmd>) -> Result<(), Refused> {
        if batch.is_empty() {
            return Ok(());
        }
        let commands = std::mem::take(batch);
        let telling = commands.iter().any(changes_the_cluster);
        let responses = self.shared.store.propose_all(commands).await?;
        if telling {
            // The nodes are just up, or down: what comes next depends on how the cluster looks now.
            self.peer.clusters.iter().for_each(|cluster| self.shared.links.hurry(cluster));
        }
        let mut position = None;
        for response in responses {
            match response {
                Response::Committed { position: p } => position = position.max(Some(p)),
                Response::Ignored { why } => {
                    tracing::debug!(host = %self.peer.host, %why, "ignored");
                }
                Response::Refused { code, why } => {
                    tracing::warn!(host = %self.peer.host, %code, %why, "refused");
                }
                Response::Done
                | Response::Enrolled { .. }
                | Response::Started { .. }
                | Response::Allotted { .. }
                | Response::Go { .. } => {}
            }
        }
        if let Some(position) = position {
            self.send(committed(position)).await;
        }
        Ok(())
    }

    /// Confirms the lead, decides, commits the decision, and only then answers (Commitment).
    async fn answer_go(&self, ask: go::Ask) {
        let (allowed, reasons) = match self.judge(&ask).await {
            Ok(Some(judged)) => judged,
            // What is missing was not seen in time: no answer, the host agent asks again.
            Ok(None) => return,
            Err(refused) => (false, vec![no_go(&ask, &refused)]),
        };
        tracing::info!(
            host = %ask.host,
            cluster = %ask.cluster,
            token = %ask.token,
            request = ask.request,
            nodes = ?ask.nodes,
            allowed,
            "go answered"
        );
        let answer = v1::GoAnswer {
            authority: Some(self.shared.authority()),
            cluster: ask.cluster.to_string(),
            token: ask.token.0,
            request: ask.request,
            allowed,
            reasons: Some(document::wrap(&reasons)),
        };
        self.send(to_host(to_host::Message::Go(answer))).await;
    }

    /// Judges, and commits the judgement. None when facts were missing all the time.
    async fn judge(&self, ask: &go::Ask) -> Result<Option<(bool, Vec<Reason>)>, Refused> {
        let store = &self.shared.store;
        let waits_since = tokio::time::Instant::now();
        loop {
            store.linearizable().await?;
            let state = store.state();
            let answer = self.shared.sight.read(|view| go(&state, view, ask, monotonic_ms()));
            drop(state);
            if answer.wait {
                if waits_since.elapsed() > GO_WAITS_MAX {
                    tracing::info!(host = %ask.host, reasons = ?answer.reasons, "go waits");
                    return Ok(None);
                }
                self.shared.links.hurry(&ask.cluster);
                tokio::time::sleep(GO_AGAIN).await;
                continue;
            }
            let Some(record) = answer.record else {
                // Without a hold there is nothing to record, and nothing to allow either.
                return Ok(Some((false, answer.reasons)));
            };
            let recorded = store.propose(record).await?;
            if let Response::Go { allowed, reasons } = recorded {
                return Ok(Some((allowed, reasons)));
            }
            tracing::warn!(host = %ask.host, ?recorded, "a go was not recorded");
            return Ok(Some((false, answer.reasons)));
        }
    }

    async fn send(&self, message: v1::ToHost) {
        // A host agent that is gone asks again in its next session.
        drop(self.out.send(Ok(message)).await);
    }
}

fn no_go(ask: &go::Ask, refused: &Refused) -> Reason {
    Reason {
        code: Code::NoGo,
        subject: ask.host.to_string(),
        evidence: refused.to_string(),
        remedy: "it is asked again when a coordinator leads and has a majority".to_owned(),
    }
}

fn changes_the_cluster(command: &Cmd) -> bool {
    matches!(
        command,
        Cmd::Reported { report }
            if matches!(report.happened, Happened::State { .. } | Happened::Node { .. })
    )
}
