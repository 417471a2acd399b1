//! The state put back from a backup, and a group that lost its majority for good.

use std::path::Path;

use grayfin_coordinator::store::{
    Replicated, Store,
    recover::{self, Stopped},
};
use grayfin_coordinator_core::{Response, State, cmd::Action, state::GroupAct};
use grayfin_proto::{identity::Identity, raise};
use grayfin_types::{Incarnation, Seq, raise::Raise, status::RolloutState};

use crate::common::{self, Pki};

async fn fill(store: &Replicated) {
    let group = "g".to_owned();
    let found = grayfin_coordinator_core::Cmd::Found { group, incarnation: Incarnation(1) };
    store.propose(found).await.unwrap();
    for host in ["db1", "db2", "db3"] {
        store.propose(common::enrol(host)).await.unwrap();
    }
    let started = store.propose(common::start("wish")).await.unwrap();
    assert!(matches!(started, Response::Started { .. }), "{started:?}");
}

/// What the command line does, without its questions.
fn go_on_alone(pki: &Pki, dir: &Path, act: GroupAct) -> Raise {
    let stopped = Stopped::open(dir).unwrap();
    let act_word = act.to_string();
    let raise = Raise {
        group: stopped.group(),
        from: stopped.incarnation(),
        to: Incarnation(stopped.incarnation().0 + 1),
        act: act_word,
        reason: "the disk died".to_owned(),
        at_ms: 1,
    };
    let files = pki.files(&Identity::Operator("ann".to_owned()));
    let (signed, by) = raise::sign(&files, &raise).unwrap();
    assert_eq!(raise::verify(&files.ca, &signed).unwrap(), (raise.clone(), "ann".to_owned()));
    stopped.go_on_alone(1, act, &raise, signed, &by).unwrap();
    raise
}

fn check(before: &State, after: &State, raise: &Raise) {
    assert_eq!(after.incarnation, raise.to);
    assert_eq!(after.group, before.group);
    assert_eq!(after.hosts, before.hosts);
    assert!(after.last_token > before.last_token, "tokens leap over what was allotted since");
    let act = after.coordinators.acts.back().unwrap();
    assert_eq!((act.by.as_str(), act.reason.as_str()), ("ann", "the disk died"));
    let rollout = &after.rollouts[&common::rollout_id("wish")];
    assert_eq!(rollout.state, RolloutState::Halted);
}

#[test]
fn a_backup_of_a_running_coordinator_is_put_back_elsewhere_and_goes_on() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let file = dir.path().join("backup");
    let before = common::process(async {
        let store = pki.open_store(&old).await;
        fill(&store).await;
        let made = recover::backup(&old, &file).unwrap();
        assert_eq!((made.group.as_str(), made.incarnation), ("g", Incarnation(1)));
        assert!(recover::backup(&old, &file).is_err(), "nothing is overwritten");
        let before = store.state();
        // What comes later is not in it.
        store.propose(common::enrol("db4")).await.unwrap();
        before
    });
    recover::put_back(&file, &new).unwrap();
    assert!(recover::put_back(&file, &new).is_err(), "nothing is overwritten");
    let raise = go_on_alone(&pki, &new, GroupAct::Restore);
    common::process(async {
        let store = pki.open_store(&new).await;
        check(&before, &store.state(), &raise);
        let rollout = common::rollout_id("wish");
        let events = store.events_from(&rollout, Seq(1), usize::MAX).unwrap();
        assert_eq!(events.last().unwrap().seq, store.state().rollouts[&rollout].last_seq);
        // It is halted, can be ended, and a new one can be started.
        let abort = common::control("end", &rollout, Action::Abort);
        assert_eq!(store.propose(abort).await.unwrap(), Response::Done);
        store.close().await.unwrap();
        // And once more from its own log.
        drop(store);
        let again = pki.open_store(&new).await;
        assert_eq!(again.state().incarnation, raise.to);
    });
}

#[test]
fn the_one_that_is_left_goes_on_alone_and_knows_whom_it_left() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    let before = common::process(async {
        let store = pki.open_store(dir.path()).await;
        fill(&store).await;
        // Members that never answer: with them there is no majority any more.
        for id in [2, 3] {
            let node = grayfin_coordinator::store::types::NodeInfo {
                address: "127.0.0.1:1".to_owned(),
                instance: format!("instance-{id}"),
            };
            store.raft().add_learner(id, node, false).await.unwrap();
        }
        let voters = std::collections::BTreeSet::from([1, 2, 3]);
        let change = store.raft().change_membership(voters, false);
        drop(tokio::time::timeout(std::time::Duration::from_secs(1), change).await);
        store.state()
    });
    let raise = go_on_alone(&pki, dir.path(), GroupAct::ForceRecover);
    common::process(async {
        let store = pki.open_store(dir.path()).await;
        check(&before, &store.state(), &raise);
        assert_eq!(store.members().len(), 1);
        let removed = store.state().coordinators.removed.clone();
        assert_eq!(removed.into_iter().collect::<Vec<_>>(), [2, 3]);
        store.linearizable().await.unwrap();
        store.propose(common::enrol("db4")).await.unwrap();
    });
}
