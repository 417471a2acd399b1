//! The hold's arithmetic: what it covers, who must promise, what stands against it (S1, S2).

use std::collections::BTreeSet;

use grayfin_types::{ClusterId, HostId, Token};

use crate::{
    mutation,
    state::{Hold, HoldStage, Promise, State},
};

/// Returns every cluster that would be disturbed with a host: a machine that serves two clusters
/// has one hold over both.
pub fn covers(state: &State, host: &HostId, cluster: &ClusterId) -> BTreeSet<ClusterId> {
    let mut covers: BTreeSet<ClusterId> =
        state.hosts.get(host).map(|e| e.clusters.clone()).unwrap_or_default();
    covers.insert(cluster.clone());
    covers
}

/// Returns who must promise before a hold over `covers` takes effect on `host`: every other
/// enrolled host of each of those clusters, once per cluster. Those attested as powered off do
/// not count; they must enrol anew.
pub fn required(
    state: &State,
    host: &HostId,
    covers: &BTreeSet<ClusterId>,
) -> Vec<(HostId, ClusterId)> {
    let mut required = Vec::new();
    for other in state.hosts.values().filter(|e| &e.host != host && e.gone.is_none()) {
        for cluster in other.clusters.intersection(covers) {
            required.push((other.host.clone(), cluster.clone()));
        }
    }
    required
}

/// Finds a hold that stands against one over `covers` for a rollout of `cluster`.
pub fn conflict<'a>(
    state: &'a State,
    cluster: &ClusterId,
    covers: &BTreeSet<ClusterId>,
) -> Option<&'a Hold> {
    state
        .holds
        .iter()
        .filter(|(of, _)| *of != cluster)
        .map(|(_, hold)| hold)
        .find(|hold| !hold.covers.is_disjoint(covers))
}

/// Returns whose promises are missing: of those asked, and of those that enrolled since.
pub fn missing(state: &State, hold: &Hold) -> Vec<(HostId, ClusterId)> {
    if mutation::is("s2-no-promise") {
        return Vec::new();
    }
    required(state, &hold.host, &hold.covers)
        .into_iter()
        .filter(|(host, cluster)| !promised(hold, host, cluster))
        .filter(|(host, _)| {
            let broken = state.broken.iter().any(|b| &b.host == host);
            !(broken && mutation::is("s3-break-closes"))
        })
        .collect()
}

/// Says why nothing may go down under a hold although it is in force here: these coordinators may not
/// know that it was closed.
pub fn outdated(state: &State, hold: &Hold) -> Option<String> {
    if hold.put_back_since {
        return Some("the coordinators' state was put back after this hold was granted: it may have been closed since".to_owned());
    }
    // A later token is promised away only when the earlier one is closed.
    let unknown = |of: &HostId, token: Token| {
        let allotted = state.hosts.get(of).map_or(Token(0), |known| known.allotted);
        token > hold.token && token > allotted
    };
    let (of, later) = state.witnessed.iter().find(|(of, word)| unknown(of, word.token))?;
    Some(format!(
        "`{}` promised token {} away so that `{of}` could be held, which these coordinators did not allot: they are a copy, or were put back, and this hold may have been closed since",
        later.by, later.token
    ))
}

/// Returns the tokens that an operator may have seen for a host: of the hold that stands on each of
/// its clusters, of those that were broken, or the last one allotted where there is none.
pub fn tokens_of(state: &State, host: &HostId) -> BTreeSet<Token> {
    let mut tokens = BTreeSet::new();
    let clusters = state.hosts.get(host).map(|e| e.clusters.clone()).unwrap_or_default();
    for cluster in clusters {
        let held = state.holds.get(&cluster).map(|held| held.token);
        let broken = state.broken.iter().filter(|b| b.cluster == cluster).map(|b| b.token);
        let before = tokens.len();
        tokens.extend(held.into_iter().chain(broken));
        if tokens.len() == before {
            tokens.insert(state.last_token);
        }
    }
    tokens
}

/// Brings the list of promises in line with who is enrolled.
pub(crate) fn refresh(hold: &mut Hold, required: Vec<(HostId, ClusterId)>) {
    if hold.stage != HoldStage::Asking {
        return;
    }
    hold.promises.retain(|p| required.iter().any(|(h, c)| h == &p.host && c == &p.cluster));
    for (host, cluster) in required {
        if !hold.promises.iter().any(|p| p.host == host && p.cluster == cluster) {
            hold.promises.push(Promise { host, cluster, promised: false, refusal: None });
        }
    }
}

fn promised(hold: &Hold, host: &HostId, cluster: &ClusterId) -> bool {
    hold.promises.iter().any(|p| p.promised && &p.host == host && &p.cluster == cluster)
}
