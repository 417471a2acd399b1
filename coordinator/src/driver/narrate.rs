//! The coordinator's own log of what happens in rollouts: each event, once, in one place.

use std::collections::BTreeMap;

use grayfin_coordinator_core::State;
use grayfin_types::{
    RolloutId, Seq,
    event::{Body, Event},
    step::Happened,
};

use crate::store::Store;

/// Remembers what was told.
#[derive(Debug)]
pub(crate) struct Narrator {
    told: BTreeMap<RolloutId, Seq>,
}

impl Narrator {
    /// Begins with what comes after this state.
    pub(crate) fn new(state: &State) -> Self {
        Self { told: state.rollouts.values().map(|r| (r.id.clone(), r.last_seq)).collect() }
    }

    /// Tells what is new.
    pub(crate) fn tell(&mut self, store: &dyn Store) {
        let state = store.state();
        self.told.retain(|id, _| state.rollouts.contains_key(id));
        for rollout in state.rollouts.values() {
            let told = self.told.entry(rollout.id.clone()).or_default();
            if *told >= rollout.last_seq {
                continue;
            }
            match store.events_from(&rollout.id, told.next(), usize::MAX) {
                Ok(events) => {
                    for event in &events {
                        tell(event);
                        *told = event.seq;
                    }
                }
                Err(error) => tracing::error!(rollout = %rollout.id, %error, "read events"),
            }
        }
    }
}

fn tell(event: &Event) {
    let (rollout, seq, by) = (&event.rollout, event.seq.0, event.by.as_str());
    let passing =
        matches!(&event.body, Body::Canary { .. } | Body::Waiting { .. } | Body::Gates { .. })
            || matches!(
                &event.body,
                Body::Reported { report } if matches!(report.happened, Happened::Progress { .. })
            );
    let what = words(&event.body);
    if passing {
        tracing::debug!(%rollout, seq, by, what, "event");
    } else {
        tracing::info!(%rollout, seq, by, what, "event");
    }
}

fn words(body: &Body) -> String {
    match body {
        Body::Started { plan } => format!("started {} to {}", plan.cluster, plan.target),
        Body::Gates { findings, .. } => format!("{} gates looked at", findings.len()),
        Body::Baseline { chunks } => format!("baseline of {} chunks", chunks.len()),
        Body::TokenAllotted { host, token } => format!("token {token} allotted for {host}"),
        Body::Promised { host, token } => format!("{host} promised token {token}"),
        Body::Granted { host, token, .. } => format!("hold on {host} granted, token {token}"),
        Body::Go { host, action, allowed, .. } => {
            format!("{} for {action} on {host}", if *allowed { "go" } else { "no go" })
        }
        Body::Reported { report } => {
            let undo = if report.undo { "undo of " } else { "" };
            format!("{undo}{}: {:?} {}", report.step, report.happened, report.seen)
        }
        Body::LeaderChanged { to, .. } => format!("DolphinDB controller {to} leads"),
        Body::Waiting { reasons } => match reasons.first() {
            Some(reason) => format!("waits: {} {}", reason.code, reason.evidence),
            None => "goes on".to_owned(),
        },
        Body::HostVerified { host, soaked_ms } => format!("{host} well for {soaked_ms} ms"),
        Body::Released { host, token } => format!("hold on {host} released, token {token}"),
        Body::Skipped { host, reason } => format!("{host} left out: {reason}"),
        Body::Operator { action, reason } => format!("operator: {action} {reason}"),
        Body::Canary { canary } => {
            format!("canary {}: {} acknowledged", canary.state, canary.acknowledged)
        }
        Body::State { state } => format!("is {state}"),
        Body::FinalVerification { ok, versions } => {
            format!("final verification of {} nodes: {ok}", versions.len())
        }
        Body::Debt { debt, effect, state, detail } => {
            format!("debt {debt} {state}: {effect}; {detail}")
        }
        Body::Lease { coordinator, term } => {
            format!("coordinator {coordinator} drives in term {term}")
        }
    }
}
