//! Several coordinators: the network between them, and what it refuses.

use std::{collections::BTreeSet, path::Path};

use grayfin_coordinator::{
    config,
    group::GroupService,
    store::{Refused, Replicated, Store, replicated, types::NodeInfo},
};
use grayfin_coordinator_core::{Cmd, Response};
use grayfin_proto::{identity::Identity, v1::group_server::GroupServer};
use grayfin_types::{Incarnation, Seq};
use tokio::net::TcpListener;

use crate::{
    common::{self, DEADLINE, Pki},
    coordinator::free_port,
};

struct Member {
    store: Replicated,
    address: String,
}

impl Member {
    /// Opens a store and serves the group's messages to it. Only the first one forms a group.
    async fn open(pki: &Pki, dir: &Path, id: u64, first: bool) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let tls = pki.files(&Identity::Coordinator(id));
        let options = replicated::Options {
            id,
            address: address.clone(),
            tls: tls.clone(),
            timing: config::Raft { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600 },
            form: first,
        };
        let store = Replicated::open(&dir.join(id.to_string()), &options).await.unwrap();
        let listener = TcpListener::bind(&address).await.unwrap();
        let service = GroupService::new(&store);
        let incoming = tls.server().unwrap().incoming(listener);
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(GroupServer::new(service))
                .serve_with_incoming(incoming),
        );
        Self { store, address }
    }

    fn node(&self) -> NodeInfo {
        NodeInfo { address: self.address.clone(), instance: self.store.instance().to_owned() }
    }

    async fn wait_for(&self, events: usize) {
        let rollout = common::rollout_id("wish");
        let mut changes = self.store.changes();
        let enough = changes.wait_for(|_| {
            self.store.events_from(&rollout, Seq(1), usize::MAX).unwrap().len() >= events
        });
        tokio::time::timeout(DEADLINE, enough).await.expect("events arrive").unwrap();
    }
}

async fn fill(store: &dyn Store) -> usize {
    let found = Cmd::Found { group: "g".to_owned(), incarnation: Incarnation(1) };
    store.propose(found).await.unwrap();
    for host in ["db1", "db2", "db3"] {
        store.propose(common::enrol(host)).await.unwrap();
    }
    let started = store.propose(common::start("wish")).await.unwrap();
    assert!(matches!(started, Response::Started { .. }), "{started:?}");
    store.events_from(&common::rollout_id("wish"), Seq(1), usize::MAX).unwrap().len()
}

#[test]
fn a_group_of_one_grows_to_three_by_snapshot_and_log_and_survives_its_leader() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    common::process(async {
        let one = Member::open(&pki, dir.path(), 1, true).await;
        let before = fill(&one.store).await;
        // The newcomers cannot have all of it from the log.
        common::purge_everything(one.store.raft()).await;
        let two = Member::open(&pki, dir.path(), 2, false).await;
        let three = Member::open(&pki, dir.path(), 3, false).await;
        for (id, member) in [(2, &two), (3, &three)] {
            one.store.raft().add_learner(id, member.node(), true).await.unwrap();
        }
        let voters: BTreeSet<u64> = [1, 2, 3].into();
        one.store.raft().change_membership(voters, false).await.unwrap();
        let pause = common::control("p", &common::rollout_id("wish"), common::pause());
        one.store.propose(pause).await.unwrap();
        let all = one.store.events_from(&common::rollout_id("wish"), Seq(1), usize::MAX).unwrap();
        assert!(all.len() > before);
        for member in [&two, &three] {
            member.wait_for(all.len()).await;
            let theirs = member.store.events_from(&common::rollout_id("wish"), Seq(1), usize::MAX);
            assert_eq!(theirs.unwrap(), all);
            assert_eq!(member.store.state(), one.store.state());
            // A follower refuses and says who leads.
            let refused = member.store.linearizable().await.unwrap_err();
            assert_eq!(refused, Refused::NotLeader { leader: Some((1, one.address.clone())) });
        }
        one.store.close().await.unwrap();
        let mut lead = two.store.leadership();
        let led = lead.wait_for(|l| l.leader.as_ref().is_some_and(|(id, _)| *id != 1));
        let leader = tokio::time::timeout(DEADLINE, led).await.unwrap().unwrap().leader.clone();
        let next = if leader.unwrap().0 == 2 { &two } else { &three };
        // Everything acknowledged is there, and it goes on.
        let mut confirmed = next.store.linearizable().await;
        while confirmed == Err(Refused::NoQuorum) {
            confirmed = next.store.linearizable().await;
        }
        confirmed.unwrap();
        let theirs = next.store.events_from(&common::rollout_id("wish"), Seq(1), usize::MAX);
        assert_eq!(theirs.unwrap(), all);
        next.store.propose(common::enrol("db4")).await.unwrap();
    });
}

#[test]
fn a_wiped_folder_under_an_old_id_is_not_taken_for_the_old_member() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    common::process(async {
        let one = Member::open(&pki, dir.path(), 1, true).await;
        fill(&one.store).await;
        let wiped = Member::open(&pki, dir.path(), 2, false).await;
        // What the group knows: the instance that the folder had before it was wiped.
        let before = NodeInfo { instance: "the one before".to_owned(), ..wiped.node() };
        one.store.raft().add_learner(2, before, false).await.unwrap();
        one.store.propose(common::enrol("db4")).await.unwrap();
        let mut metrics = one.store.raft().metrics();
        let tried =
            metrics.wait_for(|m| m.replication.as_ref().is_some_and(|r| r.contains_key(&2)));
        tokio::time::timeout(DEADLINE, tried).await.unwrap().unwrap();
        // Several heartbeats later it has still been told nothing.
        let mut beats = tokio::time::interval(std::time::Duration::from_millis(100));
        for _ in 0..8 {
            beats.tick().await;
        }
        assert!(wiped.store.state().hosts.is_empty());
        assert!(wiped.store.raft().metrics().borrow().last_log_index.is_none());
    });
}
