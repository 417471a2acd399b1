//! Merges commands that wait at the same time into one log entry.

use std::time::Duration;

use grayfin_coordinator_core::{Cmd, Response, Stamped};
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{mpsc, oneshot};

use super::{
    Refused,
    types::{Batch, NodeInfo, Raft},
};

/// The most commands in one entry. 256 reports of 1 KiB stay far below what one append carries.
const BATCH_MAX: usize = 256;

/// Commands that wait before proposers are slowed down.
const QUEUE: usize = 1024;

/// The engine itself waits for ever without a majority. The longest failover with the default
/// timing takes about 3 s.
const PROPOSE_MAX: Duration = Duration::from_secs(5);

type Outcome = Result<Vec<Response>, Refused>;
type Waiting = (Vec<Stamped>, oneshot::Sender<Outcome>);

/// Handle to the proposing task, which ends with its last handle.
#[derive(Debug, Clone)]
pub(crate) struct Proposer {
    queue: mpsc::Sender<Waiting>,
}

impl Proposer {
    /// Starts the task.
    pub(crate) fn start(raft: Raft) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Waiting>(QUEUE);
        tokio::spawn(async move {
            let mut taken = Vec::with_capacity(BATCH_MAX);
            while waiting.recv_many(&mut taken, BATCH_MAX).await > 0 {
                // Who gave up waiting was told "unknown": not doing it at all is the kinder half.
                taken.retain(|(_, answer)| !answer.is_closed());
                let mut commands = Vec::with_capacity(taken.len());
                let mut askers = Vec::with_capacity(taken.len());
                for (some, answer) in taken.drain(..) {
                    askers.push((some.len(), answer));
                    commands.extend(some);
                }
                if !askers.is_empty() {
                    answer_all(raft.client_write(Batch { commands }).await, askers);
                }
            }
        });
        Self { queue }
    }

    /// Proposes commands and waits for what applying them answers.
    pub(crate) async fn propose_all(&self, commands: Vec<Cmd>) -> Outcome {
        let at_ms = crate::clock::wall_ms();
        let stamped = commands.into_iter().map(|cmd| Stamped { at_ms, cmd }).collect();
        let (answer, answered) = oneshot::channel();
        let stopped = || Refused::Stopped("the proposer has ended".to_owned());
        let work = async {
            self.queue.send((stamped, answer)).await.map_err(|_| stopped())?;
            answered.await.map_err(|_| stopped())?
        };
        tokio::time::timeout(PROPOSE_MAX, work).await.unwrap_or(Err(Refused::NoQuorum))
    }
}

type Written = Result<
    openraft::raft::ClientWriteResponse<super::types::TypeConfig>,
    RaftError<u64, ClientWriteError<u64, NodeInfo>>,
>;

fn answer_all(written: Written, askers: Vec<(usize, oneshot::Sender<Outcome>)>) {
    match written {
        Ok(written) => {
            let mut responses = written.data.responses.into_iter();
            for (count, answer) in askers {
                // Nobody may be waiting any more.
                drop(answer.send(Ok(responses.by_ref().take(count).collect())));
            }
        }
        Err(error) => {
            let refused = refused(error);
            for (_, answer) in askers {
                drop(answer.send(Err(refused.clone())));
            }
        }
    }
}

fn refused(error: RaftError<u64, ClientWriteError<u64, NodeInfo>>) -> Refused {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => Refused::NotLeader {
            leader: forward.leader_id.zip(forward.leader_node.map(|node| node.address)),
        },
        RaftError::APIError(ClientWriteError::ChangeMembershipError(e)) => {
            Refused::Stopped(e.to_string())
        }
        RaftError::Fatal(fatal) => Refused::Stopped(fatal.to_string()),
    }
}
