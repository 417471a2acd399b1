//! Three coordinators' stores under cut and frozen links and sudden ends: every history of hold
//! operations, the hosts' real times down among it, is one that a single coordinator could have made,
//! and every event is there once and in order, for whoever followed it from wherever.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "tests fail by panicking"
)]

mod linear {
    pub(crate) mod commands;
    pub(crate) mod members;
    pub(crate) mod parties;
}

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use grayfin_coordinator::store::{Store, sha256_hex};
use grayfin_coordinator_core::event;
use grayfin_types::event::{Body, Event};
use grayfin_types::{RolloutId, Seq};
use integration_tests::history::{Op, Ret};
use integration_tests::relay::Mode;
use integration_tests::{suite, wait};
use linear::members::Members;
use linear::parties::{self, HOSTS, Parties};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// So long faults come, or until there are so many operations: the checker's work grows with the
/// square of their number.
const FAULTS_FOR: Duration = Duration::from_secs(25);
const OPERATIONS_MAX: usize = 1_500;
/// A fault lasts as long as an election takes, about.
const FAULT_MS: std::ops::Range<u64> = 300..1_800;
/// So many operations between two faults, if they come in time.
const MORE: std::ops::Range<usize> = 10..80;
const BETWEEN_LIMIT: Duration = Duration::from_millis(1_500);
/// For everything to come to rest, and for the check.
const REST_LIMIT: Duration = Duration::from_secs(60);

/// Cuts, freezes and ends members, one or two at a time, until it is enough.
async fn harm(members: &Members, parties: &Parties, seed: u64) -> BTreeMap<&'static str, u32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut done = BTreeMap::new();
    let began = Instant::now();
    while began.elapsed() < FAULTS_FOR && parties.operations() < OPERATIONS_MAX {
        let first = rng.random_range(0..3);
        let second = (first + rng.random_range(1..3)) % 3;
        let (what, lasts) = (rng.random_range(0..5), rng.random_range(FAULT_MS));
        let word = match what {
            0 => "nobody reaches one",
            1 => "one hears nothing and answers nothing",
            2 => "one ended at once and started again",
            3 => "nobody reaches two",
            _ => "the leader ended at once and started again",
        };
        *done.entry(word).or_insert(0) += 1;
        let lasts = Duration::from_millis(lasts);
        match what {
            0 => members.linked(first, Mode::Cut),
            1 => members.linked(first, Mode::Frozen),
            2 => members.end(first).await,
            3 => {
                members.linked(first, Mode::Cut);
                members.linked(second, Mode::Cut);
            }
            _ => members.end(members.leading_place().unwrap_or(second)).await,
        }
        tokio::time::sleep(lasts).await;
        members.heal().await;
        // Until somebody was elected and did some work, most of the time; else harm comes upon harm.
        let enough = parties.operations() + rng.random_range(MORE);
        let more = || async { parties.operations() >= enough };
        drop(wait::until_true("more operations", BETWEEN_LIMIT, more).await);
    }
    done
}

/// Waits until all three have applied the same, and returns the events of every rollout.
async fn settled(members: &Members) -> BTreeMap<RolloutId, Vec<Event>> {
    wait::until("the three to come to the same state", REST_LIMIT, || async {
        let leader = members.leading().ok_or("nobody leads")?;
        leader.linearizable().await.map_err(|refused| refused.to_string())?;
        let stores = members.stores();
        let mut all: Vec<_> = stores.iter().map(|store| (store.state(), events(store))).collect();
        if all.len() < 3 || all.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err("they differ".to_owned());
        }
        Ok(all.remove(0).1)
    })
    .await
    .unwrap()
}

fn events(store: &impl Store) -> BTreeMap<RolloutId, Vec<Event>> {
    let state = store.state();
    let of = |id: &RolloutId| (id.clone(), store.events_from(id, Seq(1), usize::MAX).unwrap());
    state.rollouts.keys().map(of).collect()
}

/// Every chain is whole, and what was acknowledged is in it exactly once.
fn check_events(all: &BTreeMap<RolloutId, Vec<Event>>, ended: &[(Op, Ret)]) {
    let mut seen: BTreeMap<Key, u32> = BTreeMap::new();
    for (id, events) in all {
        event::verify(0, String::new(), events, &sha256_hex)
            .unwrap_or_else(|error| panic!("the chain of `{id}`: {error}"));
        for event in events {
            let key = match &event.body {
                Body::TokenAllotted { token, .. } => ("allotted", token.0, String::new()),
                Body::Granted { token, .. } => ("granted", token.0, String::new()),
                Body::Released { token, .. } => ("released", token.0, String::new()),
                Body::Promised { host, token } => ("promised", token.0, host.to_string()),
                _ => continue,
            };
            *seen.entry(key).or_default() += 1;
        }
    }
    let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "these happened twice: {twice:?}");
    for (op, ret) in ended {
        let key = match (op, ret) {
            (Op::Allot(_), Ret::Token(token)) => ("allotted", *token, String::new()),
            (Op::Grant(_, token), Ret::Done) => ("granted", *token, String::new()),
            (Op::Promise(host, token), Ret::Done) => ("promised", *token, format!("db{host}")),
            _ => continue,
        };
        assert!(seen.contains_key(&key), "it was acknowledged and is not there: {op:?}");
    }
}

type Key = (&'static str, u64, String);

fn in_a_group(work: impl AsyncFnOnce(&Arc<Members>)) {
    grayfin_proto::tls::install_provider();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let members = runtime.block_on(async {
        let members = Arc::new(Members::form().await);
        work(&members).await;
        members
    });
    // It holds runtimes, which must not end inside another one.
    drop(members);
    runtime.shutdown_timeout(Duration::from_secs(5));
}

#[test]
fn under_faults_every_history_of_holds_is_linearizable_and_every_event_comes_once() {
    let seed = std::env::var("GRAYFIN_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
    in_a_group(async |members| {
        let parties = Parties::begin(members).await;
        let faults = harm(members, &parties, seed).await;
        let (history, followed, tags) = parties.rest().await;
        let all = settled(members).await;
        check_events(&all, &history.ended());
        for (id, seen) in &followed {
            let whole = all.get(id).map_or(&[][..], |events| events);
            assert!(whole.starts_with(seen), "who followed `{id}` saw something else");
        }
        let took = tags.took(&all);
        let checked = history.check(HOSTS, REST_LIMIT, |pending, _| took.contains(pending));
        let ended = history.ended();
        let of = |wanted: fn(&Op, &Ret) -> bool| {
            ended.iter().filter(|(op, ret)| wanted(op, ret)).count()
        };
        let (downs, breaks) = (
            of(|op, _| matches!(op, Op::Down(..))),
            of(|op, ret| matches!(op, Op::Break(_)) && *ret == Ret::Done),
        );
        suite::say(&format!(
            "seed {seed}: {checked:?} operations checked, {} of unknown outcome (of which {} took \
             effect), {downs} hosts down and up, {breaks} holds broken, {} rollouts; faults: {faults:?}",
            history.operations() - ended.len(),
            took.len(),
            all.len()
        ));
        checked.unwrap();
        assert!(downs > 5 && !faults.is_empty(), "too little happened to prove anything");
    });
}

#[test]
fn a_read_that_nobody_confirmed_at_a_coordinator_that_is_cut_off_is_found() {
    in_a_group(async |members| {
        let follower = (members.leading_place().unwrap_or(0) + 1) % 3;
        members.linked(follower, Mode::Frozen);
        let old = members.store_at(follower).unwrap();
        let parties = Parties::begin(members).await;
        wait::until_true("twelve operations with two of three", REST_LIMIT, || async {
            parties.operations() >= 12
        })
        .await
        .unwrap();
        let (history, _, tags) = parties.rest().await;
        let now = members.leading().map(|store| events(&store)).unwrap_or_default();
        let took = tags.took(&now);
        let check = || history.check(HOSTS, REST_LIMIT, |pending, _| took.contains(pending));
        check().unwrap();
        let look = history.begin(Op::Look);
        history.end(look, parties::seen_in(&old.state()));
        assert!(check().is_err(), "an old read was not found");
    });
}
