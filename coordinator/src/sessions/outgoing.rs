//! From the core's words to the wire's: looks, promise requests, orders.

use grayfin_coordinator_core::{
    State,
    decide::{Look, OrderWanted, PromiseWanted},
    state::{OrderBody, OrderKind},
};
use grayfin_proto::{
    document,
    v1::{self, Authority, to_host::Message},
};
use grayfin_types::ClusterId;

/// Asks for a look.
pub(crate) fn observe(look: &Look) -> Message {
    Message::Observe(v1::Observe {
        cluster: look.cluster.to_string(),
        whole_cluster: look.whole_cluster,
        chunks: look.chunks,
        package_version: look.package.as_ref().map(ToString::to_string).unwrap_or_default(),
    })
}

/// Asks a host agent for a look at its own host.
pub(crate) fn observe_host(cluster: &ClusterId) -> Message {
    let cluster = cluster.to_string();
    Message::Observe(v1::Observe { cluster, ..v1::Observe::default() })
}

/// Asks for a promise.
pub(crate) fn promise_request(wanted: &PromiseWanted, authority: &Authority) -> Message {
    Message::Promise(v1::PromiseRequest {
        authority: Some(authority.clone()),
        cluster: wanted.cluster.to_string(),
        token: wanted.token.0,
        held: wanted.held.to_string(),
    })
}

/// Tells whether a promise was asked for before, and refused.
pub(crate) fn was_refused(state: &State, wanted: &PromiseWanted) -> bool {
    state.holds.values().filter(|hold| hold.token == wanted.token).any(|hold| {
        hold.promises.iter().any(|promise| {
            promise.host == wanted.host
                && promise.cluster == wanted.cluster
                && promise.refusal.is_some()
        })
    })
}

/// Makes an order; none if its rollout is gone, and with it the plan that it would carry.
pub(crate) fn order(
    wanted: &OrderWanted,
    state: &State,
    authority: &Authority,
) -> Option<v1::Order> {
    let order = &wanted.order;
    let document = match &order.body {
        OrderBody::Nothing => None,
        OrderBody::Plan => Some(document::wrap(&state.rollouts.get(&order.rollout)?.plan)),
        OrderBody::Canary(canary) => Some(document::wrap(canary)),
        OrderBody::Debt(debt) => Some(document::wrap(debt)),
    };
    Some(v1::Order {
        authority: Some(authority.clone()),
        cluster: wanted.cluster.to_string(),
        number: order.number.0,
        token: order.token.0,
        kind: i32::from(kind(order.kind)),
        rollout: order.rollout.to_string(),
        document,
    })
}

const fn kind(kind: OrderKind) -> v1::OrderKind {
    match kind {
        OrderKind::Stage => v1::OrderKind::Stage,
        OrderKind::Run => v1::OrderKind::Run,
        OrderKind::Retry => v1::OrderKind::Retry,
        OrderKind::Undo => v1::OrderKind::Undo,
        OrderKind::Abort => v1::OrderKind::Abort,
        OrderKind::Close => v1::OrderKind::Close,
        OrderKind::CanaryStart => v1::OrderKind::CanaryStart,
        OrderKind::CanaryStop => v1::OrderKind::CanaryStop,
        OrderKind::CanaryCheck => v1::OrderKind::CanaryCheck,
        OrderKind::Debt => v1::OrderKind::PayDebt,
    }
}
