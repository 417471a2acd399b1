//! What a controller is told, and what it wants done.

use crate::ids::{Alias, RequestId};
use crate::message::{Answer, Ask, Order};
use crate::raft::{self, Persist, Term};

/// Something happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Time passed.
    Tick,
    /// Another controller spoke.
    Raft {
        /// Who.
        from: Alias,
        /// What.
        message: raft::Message,
    },
    /// A node, or this node's own evaluator, asks; exactly one [`Action::Reply`] follows.
    Ask {
        /// The driver's number for it.
        request: RequestId,
        /// What.
        ask: Ask,
    },
    /// What became of an [`Action::Order`] with that token.
    Ordered {
        /// The token.
        token: u64,
        /// The node's answer, or why there is none.
        result: Result<Answer, String>,
    },
    /// `setRaftElectionTick`, in milliseconds.
    SetElection(u64),
    /// `setDynamicConfig` of `dfsChunkNodeHeartBeatTimeout`, in milliseconds.
    SetHeartbeatTimeout(u64),
    /// `setDatanodeRestartInterval`, in milliseconds.
    SetRestart(Option<u64>),
    /// `suspendRecovery` and `resumeRecovery`.
    SuspendRecovery(bool),
    /// `cancelRecoveryTask`.
    CancelTask(u64),
    /// `triggerNodeReport`: a node is to report all its chunks again.
    AskReport(Alias),
    /// A fault: give leadership up and keep quiet for so long.
    StepDown {
        /// Milliseconds on top of the ordinary election wait.
        quiet_ms: u64,
    },
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Durable before anything after it.
    Persist(Persist),
    /// One-way, to another controller.
    SendRaft {
        /// Whom.
        to: Alias,
        /// What.
        message: raft::Message,
    },
    /// The answer to an [`Input::Ask`].
    Reply {
        /// The driver's number.
        request: RequestId,
        /// The answer.
        answer: Answer,
    },
    /// A request to a node that is not a controller; the outcome comes back as
    /// [`Input::Ordered`] if there is a token.
    Order {
        /// To find it again.
        token: Option<u64>,
        /// Whom.
        to: Alias,
        /// What.
        order: Order,
    },
    /// Worth a line in the log.
    Notice(Notice),
}

/// Events that a controller writes to its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It follows.
    Following {
        /// The term.
        term: Term,
        /// Whom, if known.
        leader: Option<Alias>,
    },
    /// It leads.
    Leading {
        /// The term.
        term: Term,
    },
    /// It leads and has everything it needs.
    Initialized,
    /// A node came.
    Online(Alias),
    /// A node went.
    Offline(Alias),
    /// A recovery task failed.
    RecoveryFailed {
        /// The chunk's path.
        path: String,
        /// Why.
        reason: String,
    },
}
