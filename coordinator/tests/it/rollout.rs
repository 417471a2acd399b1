//! Whole rollouts through the real services, with played host agents.

use std::sync::Arc;

use grayfin_coordinator::{config::Config, serve::Running};
use grayfin_proto::v1::{Empty, RolloutName, WatchRequest};
use grayfin_types::{
    event::{Body, Event},
    plan::PlanAnswer,
    status::{HostLine, RolloutState, RolloutStatus},
};
use tokio::task::JoinSet;

use crate::{
    common::{self, DEADLINE, Pki},
    coordinator::{configuration, fakes, free_port, operator, plan_request, play, read, wish},
    fake::Fake,
    world::{NEW, World},
};

const HOSTS: [&str; 3] = ["db1", "db2", "db3"];

/// Watches until the stream ends, or until `enough`.
pub async fn watch(
    pki: &Pki,
    port: u16,
    rollout: &str,
    from: u64,
    enough: impl Fn(&Event) -> bool,
) -> Result<Vec<Event>, tonic::Status> {
    let request = WatchRequest { rollout: rollout.to_owned(), from };
    let mut stream = operator(pki, port).watch(request).await?.into_inner();
    let mut events = Vec::new();
    while let Some(document) = stream.message().await? {
        let event: Event = read(&document);
        let last = enough(&event);
        events.push(event);
        if last {
            break;
        }
    }
    Ok(events)
}

pub fn check_gapless(events: &[Event], from: u64) {
    let seqs: Vec<u64> = events.iter().map(|e| e.seq.0).collect();
    let end = from + u64::try_from(events.len()).unwrap();
    assert_eq!(seqs, (from..end).collect::<Vec<_>>());
}

pub fn is_final(events: &[Event]) -> Option<RolloutState> {
    match events.last()?.body {
        Body::State { state } if state.is_final() => Some(state),
        _ => None,
    }
}

/// A coordinator, its host agents and their cluster.
pub struct Lab {
    pub pki: Pki,
    pub port: u16,
    pub dir: tempfile::TempDir,
    pub world: Arc<World>,
    pub fakes: Vec<Arc<Fake>>,
}

impl Lab {
    pub fn new() -> Self {
        let (pki, port) = (Pki::new(), free_port());
        let world = Arc::new(World::new(&HOSTS));
        let fakes = fakes(&world, &pki, port);
        Self { pki, port, dir: tempfile::tempdir().unwrap(), world, fakes }
    }

    pub async fn up(&self) -> (Running, JoinSet<()>) {
        self.up_with(configuration(&self.pki, self.dir.path(), self.port)).await
    }

    async fn up_with(&self, config: Config) -> (Running, JoinSet<()>) {
        let running = Running::start(config).await.unwrap();
        let fakes = play(&self.fakes);
        common::until_told("all host agents to be connected", async || {
            let hosts = operator(&self.pki, self.port).hosts(Empty {}).await;
            let lines: Vec<HostLine> = hosts.map(|h| read(h.get_ref())).unwrap_or_default();
            let seen = lines.iter().filter(|l| l.connected && !l.nodes.is_empty()).count();
            (seen == HOSTS.len()).then_some(())
        })
        .await;
        (running, fakes)
    }

    pub async fn begin(&self, request_id: &str) -> String {
        let answer = operator(&self.pki, self.port).start(wish(request_id)).await.unwrap();
        let answer = answer.into_inner();
        let plan: PlanAnswer = read(answer.answer.as_ref().unwrap());
        assert!(plan.ready, "{:#?}", plan.findings);
        assert!(!answer.rollout.is_empty());
        answer.rollout
    }

    pub fn check_upgraded(&self) {
        for host in self.world.hosts() {
            let machine = self.world.look(&host);
            assert_eq!(machine.version.to_string(), NEW);
            assert!(machine.down.is_empty() && machine.open_hold.is_none(), "{host}");
        }
        assert_eq!(*self.world.down_at_once.lock().unwrap(), 1, "S1: one host at a time");
    }
}

#[test]
fn a_rollout_runs_from_plan_to_final_verification_and_everybody_can_watch_it() {
    let lab = Lab::new();
    common::process(async {
        let (running, _fakes) = lab.up().await;
        let mut client = operator(&lab.pki, lab.port);
        let request = grayfin_proto::document::wrap(&plan_request());
        let answer: PlanAnswer = read(client.plan(request).await.unwrap().get_ref());
        assert!(answer.ready, "{:#?}", answer.findings);
        let order: Vec<String> =
            answer.plan.unwrap().hosts.iter().map(|h| h.host.to_string()).collect();
        assert_eq!(order, HOSTS, "the leader's host is last");

        let rollout = lab.begin("wish").await;
        // The same wish again is the same rollout.
        assert_eq!(lab.begin("wish").await, rollout);
        let all = |_: &Event| false;
        let (first, second) = tokio::join!(
            watch(&lab.pki, lab.port, &rollout, 0, all),
            watch(&lab.pki, lab.port, &rollout, 1, all),
        );
        let events = first.unwrap();
        check_gapless(&events, 1);
        assert_eq!(is_final(&events), Some(RolloutState::Succeeded), "{events:#?}");
        assert_eq!(second.unwrap(), events);
        let middle = events.len() / 2;
        let from = events[middle].seq.0;
        let late = watch(&lab.pki, lab.port, &rollout, from, all).await.unwrap();
        assert_eq!(late, events[middle..]);
        let hasher = grayfin_coordinator::store::sha256_hex;
        grayfin_coordinator_core::event::verify(0, String::new(), &events, &hasher).unwrap();

        lab.check_upgraded();
        assert_eq!(check_order(&events), 6, "data node and controller of each host");
        let name = RolloutName { id: rollout.clone(), cluster: String::new() };
        let status: RolloutStatus = read(client.status(name).await.unwrap().get_ref());
        assert_eq!((status.state, status.stale), (RolloutState::Succeeded, false));
        running.stop().await.unwrap();
    });
}

/// Every hold is promised before it is granted, every go is within a hold, and one ends before the
/// next begins.
/// Returns how many goes were given.
fn check_order(events: &[Event]) -> u32 {
    let mut held = None;
    let mut promised = 0;
    let mut goes = 0;
    for event in events {
        match &event.body {
            Body::TokenAllotted { .. } => promised = 0,
            Body::Promised { .. } => promised += 1,
            Body::Granted { host, token, .. } => {
                assert_eq!((held.replace((host, token)), promised), (None, HOSTS.len() - 1));
            }
            Body::Go { host, token, allowed, .. } => {
                assert_eq!(held, Some((host, token)));
                goes += u32::from(*allowed);
            }
            Body::Released { host, token } => assert_eq!(held.take(), Some((host, token))),
            _ => {}
        }
    }
    assert_eq!(held, None);
    goes
}

/// Tells whether an event is more than a new beginning or a wait.
fn happened(event: &Event) -> bool {
    !matches!(event.body, Body::Lease { .. } | Body::Waiting { .. } | Body::Gates { .. })
}

#[test]
fn a_coordinator_killed_at_any_moment_goes_on_where_it_was_and_watchers_miss_nothing() {
    let lab = Lab::new();
    let mut events: Vec<Event> = Vec::new();
    let mut rollout = String::new();
    // Each life of the coordinator ends, without a word, at the next thing that happens.
    for life in 0..100 {
        let from = events.len() as u64 + 1;
        let (id, seen) = common::process(async {
            let (_running, _fakes) = lab.up().await;
            let id = if life == 0 { lab.begin("wish").await } else { rollout.clone() };
            let seen = watch(&lab.pki, lab.port, &id, from, happened);
            let seen = tokio::time::timeout(DEADLINE, seen).await;
            (id, seen.expect("events come").unwrap())
        });
        rollout = id;
        check_gapless(&seen, from);
        events.extend(seen);
        if is_final(&events).is_some() {
            break;
        }
    }
    assert_eq!(is_final(&events), Some(RolloutState::Succeeded), "{:#?}", events.last());
    let hasher = grayfin_coordinator::store::sha256_hex;
    grayfin_coordinator_core::event::verify(0, String::new(), &events, &hasher).unwrap();
    lab.check_upgraded();
    // A go whose answer was lost is asked for again.
    assert!(check_order(&events) >= 6);
}

#[test]
fn what_is_waited_for_is_looked_at_before_the_next_look_interval() {
    let lab = Lab::new();
    common::process(async {
        let mut config = configuration(&lab.pki, lab.dir.path(), lab.port);
        config.look_interval = std::time::Duration::from_secs(5);
        config.policy.fact_age_max_ms = 15_000;
        config.policy.soak_ms = 0;
        config.policy.leader_settled_ms = 0;
        let (_running, _fakes) = lab.up_with(config).await;
        let rollout = lab.begin("wish").await;
        let events = watch(&lab.pki, lab.port, &rollout, 1, |_| false).await.unwrap();
        assert_eq!(is_final(&events), Some(RolloutState::Succeeded));
        lab.check_upgraded();
        let at = |find: fn(&Body) -> bool| {
            events.iter().filter(|e| find(&e.body)).map(|e| e.at_ms).collect::<Vec<_>>()
        };
        let granted = at(|b| matches!(b, Body::TokenAllotted { .. }));
        let released = at(|b| matches!(b, Body::Released { .. }));
        let took: Vec<u64> = granted.iter().zip(&released).map(|(a, b)| b - a).collect();
        // About 40 ms each; with regular looks only it would be seconds.
        assert!(took.iter().sum::<u64>() < 2_500, "{took:?}");
    });
}
