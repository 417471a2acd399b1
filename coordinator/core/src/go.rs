//! The answer to a host agent that wants to take nodes down (Commitment).

use std::collections::BTreeMap;

use grayfin_types::{
    ClusterId, Code, HostId, NodeAlias, Token, facts::NodeRole, gate::Reason, status::RolloutState,
};

use crate::{
    cmd::{Cmd, GoDecided},
    gates::{self, FIRST_GO, GO, Input, Moment, reason},
    hold, mutation,
    state::{Hold, HoldStage, Rollout, State},
    view::View,
};

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
    /// Nothing stands against it but that something is not known right now: judge again when more
    /// is seen, and answer nothing meanwhile. The host agent asks again by itself.
    pub wait: bool,
    /// What to commit before the answer is sent: the answer to send is then the command's own
    /// [`crate::Response::Go`]. None where there is no such hold: send the refusal as it is.
    pub record: Option<Cmd>,
}

/// Decides. The driver confirms that it leads (a linearizable read) before it calls this.
pub fn go(state: &State, view: &View, ask: &Ask, now_ms: u64) -> Answer {
    let held = state.holds.get(&ask.cluster).filter(|held| {
        held.token == ask.token && held.host == ask.host && held.stage == HoldStage::Held
    });
    let rollout = held.and_then(|held| state.rollouts.get(&held.rollout));
    let (Some(held), Some(rollout)) = (held, rollout) else {
        let why = no_go(ask, "no hold with this token is in force on this host");
        return Answer { allowed: false, reasons: vec![why], wait: false, record: None };
    };
    let amnesic = state.hosts.get(&ask.host).and_then(|e| e.amnesic.as_ref());
    let reasons = if let Some(why) = amnesic {
        vec![no_go(ask, &format!("its host agent may only look: {why}"))]
    } else if let Some(why) = hold::outdated(state, held) {
        vec![no_go(ask, &why)]
    } else {
        judge(state, view, held, rollout, ask, now_ms)
    };
    let record = Cmd::Go(GoDecided {
        rollout: rollout.id.clone(),
        host: ask.host.clone(),
        token: ask.token,
        request: ask.request,
        action: action(rollout, ask),
        allowed: reasons.is_empty(),
        reasons: reasons.clone(),
    });
    // After a failover, in an election, or when the observer changes, facts are missing for seconds;
    // a denial would make the host agent undo what it has stopped.
    let passing = |reason: &Reason| {
        matches!(
            reason.code,
            Code::FactUnknown | Code::FactStale | Code::LeaderUnclear | Code::AgentMissing
        )
    };
    let wait = !reasons.is_empty() && reasons.iter().all(passing);
    Answer { allowed: reasons.is_empty(), reasons, wait, record: Some(record) }
}

fn judge(
    state: &State,
    view: &View,
    held: &Hold,
    rollout: &Rollout,
    ask: &Ask,
    now_ms: u64,
) -> Vec<Reason> {
    match rollout.state {
        RolloutState::Paused if mutation::is("commitment-pause-stops-host") => {
            return vec![no_go(ask, "the rollout is paused")];
        }
        RolloutState::Running | RolloutState::Paused => {}
        RolloutState::Aborting if mutation::is("commitment-go-while-aborting") => {}
        RolloutState::Aborting => {
            let remedy = "the host agent brings back what it stopped";
            let host = ask.host.to_string();
            return vec![reason(Code::Aborted, host, "the rollout was aborted", remedy)];
        }
        RolloutState::Staging
        | RolloutState::Halted
        | RolloutState::Verifying
        | RolloutState::Succeeded
        | RolloutState::Incomplete
        | RolloutState::Aborted
        | RolloutState::Failed => {
            return vec![no_go(ask, &format!("the rollout is {}", rollout.state))];
        }
    }
    let input = Input::of_rollout(state, view, rollout, Moment::Go, Some(&held.host), now_ms);
    let own = match input.nodes_of(&ask.host) {
        Ok(own) => own,
        Err(why) => return vec![why],
    };
    let foreign: Vec<_> =
        ask.nodes.iter().filter(|n| !own.contains(*n)).map(|n| format!("`{n}`")).collect();
    if ask.nodes.is_empty() || !foreign.is_empty() {
        let evidence = format!("it asked for nodes that are not its own: {}", foreign.join(", "));
        let remedy = "see the host agent's configuration";
        return vec![reason(Code::BadRequest, ask.host.to_string(), evidence, remedy)];
    }
    // As long as nothing of the host is down, nothing else may be; afterwards only S4 counts, for
    // turning back disturbs as well.
    let untouched = input.alive().is_ok_and(|alive| own.is_subset(&alive));
    let asked = if untouched { FIRST_GO } else { GO };
    gates::against(&gates::ask(asked, &input))
}

fn no_go(ask: &Ask, evidence: &str) -> Reason {
    reason(
        Code::NoGo,
        ask.host.to_string(),
        evidence,
        "the host agent brings back what it stopped; `grayfin hold show` says which hold is in force",
    )
}

/// Says in words what would go down: `data node node43`, `controller HActl43`.
fn action(rollout: &Rollout, ask: &Ask) -> String {
    let planned = rollout.plan.host(&ask.host);
    let roles: BTreeMap<&NodeAlias, NodeRole> =
        planned.iter().flat_map(|h| &h.nodes).map(|n| (&n.alias, n.role)).collect();
    let words: Vec<String> = ask
        .nodes
        .iter()
        .map(|alias| match roles.get(alias) {
            Some(role) => format!("{role} {alias}"),
            None => alias.to_string(),
        })
        .collect();
    words.join(", ")
}
