//! What to ask host agents for: it follows from the durable state and from who is connected.

use grayfin_types::status::RolloutState;

use super::{Look, OrderWanted, PromiseWanted, Wanted};
use crate::{
    hold,
    state::{Hold, HoldStage, State},
    view::View,
};

/// Tells whether every host agent that a hold concerns has said hello to this leader. Each one's hello
/// says for whom it has promised tokens away: only when all have spoken is it known that none of those
/// who are asked is a host that was held while these coordinators, or its ledger, were put back (S8). All
/// must promise in any case.
fn all_have_spoken(state: &State, view: &View, held: &Hold) -> bool {
    let required = hold::required(state, &held.host, &held.covers);
    required.iter().all(|(host, _)| view.is_connected(host)) && view.is_connected(&held.host)
}

pub(super) fn of(state: &State, view: &View) -> Wanted {
    let mut wanted = Wanted::default();
    for held in state.holds.values().filter(|h| h.stage == HoldStage::Asking) {
        if !all_have_spoken(state, view, held) {
            continue;
        }
        for (host, cluster) in hold::missing(state, held) {
            let (token, held) = (held.token, held.host.clone());
            wanted.promises.push(PromiseWanted { host, cluster, token, held });
        }
    }
    for enrolment in state.hosts.values() {
        let may = enrolment.amnesic.is_none() && enrolment.gone.is_none();
        if !may || !view.is_connected(&enrolment.host) {
            continue;
        }
        for (cluster, outbox) in &enrolment.outboxes {
            // One at a time: a host agent remembers its last answer alone, and refuses an order that
            // comes after a later one.
            wanted.orders.extend(outbox.pending.first().map(|order| OrderWanted {
                host: enrolment.host.clone(),
                cluster: cluster.clone(),
                order: order.clone(),
            }));
        }
    }
    for cluster in state.clusters() {
        let demand = view.clusters.get(&cluster).and_then(|c| c.demand.as_ref());
        let active = state.active(&cluster);
        // A debt outlives its rollout, and needs to know who leads.
        let debts = state.debts_of(&cluster).next().is_some();
        if demand.is_none() && active.is_none() && !debts {
            continue;
        }
        let observer = view.clusters.get(&cluster).and_then(|c| c.observer.as_ref());
        let package = demand.and_then(|d| d.package.clone());
        // A scan costs the leading DolphinDB controller memory: none while nothing depends on it.
        let chunks = demand.is_some_and(|d| d.package.is_some())
            || active.is_some_and(|r| {
                matches!(
                    r.state,
                    RolloutState::Running | RolloutState::Paused | RolloutState::Verifying
                )
            });
        for enrolment in state.hosts_of(&cluster).filter(|e| view.is_connected(&e.host)) {
            let whole_cluster = observer.is_some_and(|o| o.host == enrolment.host);
            if whole_cluster || package.is_some() {
                wanted.looks.push(Look {
                    host: enrolment.host.clone(),
                    cluster: cluster.clone(),
                    whole_cluster,
                    chunks: whole_cluster && chunks,
                    package: package.clone(),
                });
            }
        }
    }
    wanted
}
