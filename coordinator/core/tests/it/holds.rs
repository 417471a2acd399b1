//! Holds over machines that serve several clusters, and promises of hosts that come later.

use std::collections::BTreeSet;

use grayfin_coordinator_core::{
    Cmd, Response, Stamped, State, apply,
    cmd::{Enrol, PromiseAnswered, Start},
    hold,
};
use grayfin_types::{
    ClusterId, Generation, HostId, Incarnation, LedgerId, RolloutId, Token,
    step::{Happened, Report, Step},
};

use crate::{
    model::host,
    world::{World, hasher, request},
};

struct Group(State);

impl Group {
    fn new() -> Self {
        let mut group = Self(State::default());
        group.apply(Cmd::Found { group: "g".to_owned(), incarnation: Incarnation(1) });
        group
    }

    fn apply(&mut self, cmd: Cmd) -> Response {
        let applied = apply(&mut self.0, &Stamped { at_ms: 1, cmd }, &hasher);
        assert!(applied.violations.is_empty(), "{:?}", applied.violations);
        applied.response
    }

    fn enrol(&mut self, host: &HostId, clusters: &[&str]) -> Response {
        self.apply(Cmd::Enrol(Enrol {
            host: host.clone(),
            clusters: clusters.iter().map(|c| cluster(c)).collect(),
            generation: Generation(1),
            ledger_id: LedgerId::new(format!("l-{host}")).unwrap(),
            ledger_position: 1,
            agent_version: "0.1.0".to_owned(),
            last_orders: [].into(),
            ledger: None,
        }))
    }

    /// Starts a rollout of a cluster and brings it to where hosts are taken.
    fn rollout(&mut self, name: &str) -> RolloutId {
        let id = RolloutId::new(format!("r-{name}")).unwrap();
        let mut plan =
            World::new(3).start(&request(grayfin_types::plan::CanarySpec::Off)).plan.unwrap();
        plan.cluster = cluster(name);
        let hosts: Vec<HostId> = self.0.hosts_of(&plan.cluster).map(|e| e.host.clone()).collect();
        plan.hosts = hosts
            .iter()
            .map(|host| grayfin_types::plan::HostPlan {
                host: host.clone(),
                ..plan.hosts[0].clone()
            })
            .collect();
        let start = Start {
            request_id: format!("start-{name}"),
            rollout: id.clone(),
            plan,
            findings: Vec::new(),
            by: "ann".to_owned(),
        };
        assert_eq!(
            self.apply(Cmd::Start(Box::new(start))),
            Response::Started { rollout: id.clone() }
        );
        for host in hosts {
            let position = self.0.hosts[&host].committed_position + 1;
            let report = Report {
                host,
                token: Token(0),
                step: Step::Stage,
                undo: false,
                happened: Happened::Finished { took_ms: 1 },
                seen: String::new(),
                position,
                chain: String::new(),
                at_ms: 0,
            };
            self.apply(Cmd::Reported { report });
        }
        self.apply(Cmd::SetBaseline { rollout: id.clone(), chunks: Vec::new() });
        id
    }

    fn allot(&mut self, rollout: &RolloutId, host: &HostId) -> Option<Token> {
        let (rollout, host) = (rollout.clone(), host.clone());
        match self.apply(Cmd::AllotToken { rollout, host }) {
            Response::Allotted { token } => Some(token),
            Response::Ignored { .. } => None,
            other => panic!("{other:?}"),
        }
    }

    fn promise(&mut self, host: &HostId, name: &str, token: Token) {
        self.apply(Cmd::RecordPromise(PromiseAnswered {
            host: host.clone(),
            cluster: cluster(name),
            token,
            promised: true,
            code: None,
            why: String::new(),
            ledger_position: 2,
            chain: String::new(),
        }));
    }

    fn grant(&mut self, rollout: &RolloutId, host: &HostId, token: Token) -> bool {
        let granted = self.apply(Cmd::Grant {
            rollout: rollout.clone(),
            host: host.clone(),
            token,
            reason: String::new(),
            findings: Vec::new(),
        });
        granted == Response::Done
    }
}

fn cluster(name: &str) -> ClusterId {
    ClusterId::new(name).unwrap()
}

#[test]
fn a_machine_that_serves_two_clusters_has_one_hold_over_both() {
    let mut group = Group::new();
    group.enrol(&host(1), &["a"]);
    group.enrol(&host(2), &["a", "b"]);
    group.enrol(&host(3), &["b"]);
    let (a, b) = (group.rollout("a"), group.rollout("b"));
    // db2 is in both: everybody of either cluster must promise.
    let token = group.allot(&a, &host(2)).unwrap();
    let held = &group.0.holds[&cluster("a")];
    assert_eq!(held.covers, BTreeSet::from([cluster("a"), cluster("b")]));
    let missing = hold::missing(&group.0, held);
    assert_eq!(missing, [(host(1), cluster("a")), (host(3), cluster("b"))]);
    // Meanwhile no host of the other cluster is taken, not even one that is in that alone.
    assert_eq!(group.allot(&b, &host(3)), None);
    group.promise(&host(1), "a", token);
    assert!(!group.grant(&a, &host(2), token), "a promise is missing");
    group.promise(&host(3), "b", token);
    assert!(group.grant(&a, &host(2), token));
    assert_eq!(group.allot(&b, &host(3)), None);
}

#[test]
fn hosts_of_two_clusters_that_share_none_of_them_are_held_side_by_side() {
    let mut group = Group::new();
    group.enrol(&host(1), &["a"]);
    group.enrol(&host(2), &["a", "b"]);
    group.enrol(&host(3), &["b"]);
    let (a, b) = (group.rollout("a"), group.rollout("b"));
    let first = group.allot(&a, &host(1)).unwrap();
    let second = group.allot(&b, &host(3)).unwrap();
    assert!(second > first);
    group.promise(&host(2), "a", first);
    group.promise(&host(2), "b", second);
    assert!(group.grant(&a, &host(1), first) && group.grant(&b, &host(3), second));
}

#[test]
fn a_host_that_enrols_while_promises_are_asked_for_must_promise_too() {
    let mut group = Group::new();
    for number in 1..=3 {
        group.enrol(&host(number), &["a"]);
    }
    let a = group.rollout("a");
    let token = group.allot(&a, &host(1)).unwrap();
    group.promise(&host(2), "a", token);
    group.promise(&host(3), "a", token);
    group.enrol(&host(4), &["a"]);
    assert!(!group.grant(&a, &host(1), token));
    group.promise(&host(4), "a", token);
    assert!(group.grant(&a, &host(1), token));
    // Its clusters cannot change while the hold is in force.
    let changed = group.enrol(&host(1), &["a", "b"]);
    assert!(matches!(changed, Response::Refused { .. }), "{changed:?}");
}

#[test]
fn a_token_is_never_allotted_twice() {
    let mut group = Group::new();
    for number in 1..=3 {
        group.enrol(&host(number), &["a"]);
    }
    let a = group.rollout("a");
    let first = group.allot(&a, &host(1)).unwrap();
    group.apply(Cmd::AbandonToken { rollout: a.clone(), token: first });
    let second = group.allot(&a, &host(1)).unwrap();
    assert!(second > first);
    // The promise of the token before is none of this one.
    group.promise(&host(2), "a", first);
    group.promise(&host(3), "a", first);
    assert!(!group.grant(&a, &host(1), second));
    assert!(!group.grant(&a, &host(1), first));
}
