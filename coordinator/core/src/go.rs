//! The answer to a host agent that wants to take nodes down (Commitment).

use grayfin_types::{ClusterId, HostId, NodeAlias, Token, gate::Reason};

use crate::{cmd::Cmd, state::State, view::View};

/// A host agent's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The cluster.
    pub cluster: ClusterId,
    /// Who asks, as its certificate names it.
    pub host: HostId,
    /// The hold's token.
    pub token: Token,
    /// The request's number.
    pub request: u64,
    /// The nodes that would go down now.
    pub nodes: Vec<NodeAlias>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whether.
    pub allowed: bool,
    /// Why not.
    pub reasons: Vec<Reason>,
    /// What to commit before the answer is sent: the answer to send is then the command's own
    /// [`crate::Response::Go`]. None where there is no such hold: send the refusal as it is.
    pub record: Option<Cmd>,
}

/// Decides. The driver confirms that it leads (a linearizable read) before it calls this.
pub fn go(state: &State, view: &View, ask: &Ask, now_ms: u64) -> Answer {
    let _ = (state, view, ask, now_ms);
    Answer { allowed: false, reasons: Vec::new(), record: None }
}
