//! The group as operators change it: growing, shrinking, replacing, the lead, a lost majority.

use grayfin_coordinator::{
    config, group,
    serve::{Error, Running},
};
use grayfin_proto::{
    identity::Identity,
    v1::{
        ControlAnswer, CoordinatorsAction, CoordinatorsAnswer, CoordinatorsRequest, Empty,
        RolloutName,
    },
};
use grayfin_types::status::RolloutStatus;
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::{
    common::{self, DEADLINE, Pki},
    coordinator::{configuration, free_port, operator, read},
};

struct Site {
    pki: Pki,
    dir: TempDir,
}

struct One {
    id: u64,
    port: u16,
    running: Running,
}

impl Site {
    fn new() -> Self {
        Self { pki: Pki::new(), dir: tempfile::tempdir().unwrap() }
    }

    async fn start(&self, id: u64, port: u16, join: bool, folder: &str) -> One {
        let mut config = configuration(&self.pki, &self.dir.path().join(folder), port);
        config.id = id;
        config.join = join;
        // A heartbeat must fit a machine that runs all tests at once.
        config.raft =
            config::Raft { heartbeat_ms: 200, election_min_ms: 600, election_max_ms: 1_200 };
        config.tls = self.pki.files(&Identity::Coordinator(id));
        One { id, port, running: Running::start(config).await.unwrap() }
    }

    /// A new one that waits to be added.
    async fn newcomer(&self, id: u64) -> One {
        self.start(id, free_port(), true, &id.to_string()).await
    }

    async fn change(
        &self,
        at: u16,
        action: CoordinatorsAction,
        id: u64,
        port: u16,
        request_id: &str,
    ) -> Result<ControlAnswer, Status> {
        let request = CoordinatorsRequest {
            request_id: request_id.to_owned(),
            action: action.into(),
            id,
            address: if port == 0 { String::new() } else { format!("127.0.0.1:{port}") },
            reason: "a test".to_owned(),
        };
        let mut client = operator(&self.pki, at);
        let end = tokio::time::Instant::now() + DEADLINE;
        loop {
            let answer = client.change_coordinators(request.clone()).await;
            // As the command line does: what may have been lost is asked for again.
            match answer.map(tonic::Response::into_inner) {
                Err(lost)
                    if lost.code() == Code::Unavailable
                        && !lost.message().contains("missing")
                        && tokio::time::Instant::now() < end => {}
                other => return other,
            }
        }
    }

    async fn add(&self, at: u16, one: &One) {
        let wish = format!("add-{}", one.id);
        let done = self.change(at, CoordinatorsAction::Add, one.id, one.port, &wish).await.unwrap();
        assert!(done.accepted, "{}", done.why);
    }

    async fn seen(&self, at: u16) -> CoordinatorsAnswer {
        operator(&self.pki, at).coordinators(Empty {}).await.unwrap().into_inner()
    }

    /// A group of 1 and two newcomers that were added.
    async fn three(&self) -> (One, One, One) {
        let one = self.start(1, free_port(), false, "1").await;
        self.leads(&[&one]).await;
        let (two, three) = (self.newcomer(2).await, self.newcomer(3).await);
        self.add(one.port, &two).await;
        self.add(one.port, &three).await;
        (one, two, three)
    }

    /// Waits until one of these leads and drives; returns its place.
    async fn leads(&self, all: &[&One]) -> usize {
        common::until_told("one that leads", async || {
            for (place, one) in all.iter().enumerate() {
                if operator(&self.pki, one.port).holds(Empty {}).await.is_ok() {
                    return Some(place);
                }
            }
            None
        })
        .await
    }
}

fn ids(answer: &CoordinatorsAnswer) -> Vec<(u64, bool)> {
    answer.coordinators.iter().map(|c| (c.id, c.voter)).collect()
}

#[test]
fn a_group_grows_hands_the_lead_over_shrinks_and_never_takes_a_removed_one_back() {
    let site = Site::new();
    common::process(async {
        let (one, two, three) = site.three().await;
        let seen = site.seen(one.port).await;
        assert_eq!(ids(&seen), [(1, true), (2, true), (3, true)]);
        assert!(seen.coordinators.iter().all(|c| c.reached), "{seen:?}");
        // The same wish, and the same again as another wish: nothing changes, nothing fails.
        for wish in ["add-2", "again"] {
            let add = CoordinatorsAction::Add;
            let again = site.change(one.port, add, 2, two.port, wish).await.unwrap();
            assert!(again.accepted, "{}", again.why);
        }
        let by: Vec<String> = site.seen(one.port).await.acts.into_iter().map(|a| a.by).collect();
        assert_eq!(by.len(), 3, "two wishes and a third one that found it done: {by:?}");

        let transfer = CoordinatorsAction::TransferLead;
        let done = site.change(one.port, transfer, 0, 0, "hand-over").await.unwrap();
        assert!(done.accepted, "{}", done.why);
        let all = [&one, &two, &three];
        let leader = site.leads(&all[1..]).await + 1;
        let (next, mut other) = if leader == 1 { (two, three) } else { (three, two) };

        // The leader does not take itself out; the others can be.
        let remove = CoordinatorsAction::Remove;
        let itself = site.change(next.port, remove, next.id, 0, "itself").await.unwrap();
        assert!(!itself.accepted && itself.why.contains("transfer-lead"), "{}", itself.why);
        let gone = site.change(next.port, remove, other.id, 0, "gone").await.unwrap();
        assert!(gone.accepted, "{}", gone.why);
        let repeat = site.change(next.port, remove, other.id, 0, "gone").await.unwrap();
        assert!(repeat.accepted, "{}", repeat.why);
        assert_eq!(site.seen(next.port).await.coordinators.len(), 2);

        // It finds out by itself, though nobody sends it anything any more, and ends.
        let ended = tokio::time::timeout(DEADLINE, other.running.failed()).await.unwrap();
        let words = ended.to_string();
        assert!(matches!(ended, Error::Removed { .. }) && words.contains("GF0710"), "{words}");

        // It is refused by its certificate, and its number is never given again.
        let files = site.pki.files(&Identity::Coordinator(other.id));
        let refused = group::introduce(&files, &format!("127.0.0.1:{}", next.port)).await;
        assert!(refused.as_ref().is_err_and(|why| why.contains("GF0710")), "{refused:?}");
        let add = CoordinatorsAction::Add;
        let back = site.change(next.port, add, other.id, other.port, "back").await.unwrap();
        assert!(!back.accepted, "a removed one came back");
        let empty = site.start(other.id, free_port(), true, "empty").await;
        let back = site.change(next.port, add, other.id, empty.port, "anew").await.unwrap();
        assert!(!back.accepted && back.why.contains("never given again"), "{}", back.why);
    });
}

#[test]
fn only_an_empty_newcomer_with_the_right_number_is_added() {
    let site = Site::new();
    common::process(async {
        let one = site.start(1, free_port(), false, "1").await;
        site.leads(&[&one]).await;
        let add = CoordinatorsAction::Add;
        let nobody = site.change(one.port, add, 2, free_port(), "a").await.unwrap();
        assert!(!nobody.accepted && nobody.why.contains("join = true"), "{}", nobody.why);
        let two = site.newcomer(2).await;
        let other = site.change(one.port, add, 3, two.port, "b").await.unwrap();
        assert!(!other.accepted && other.why.contains("coordinator 2 answers"), "{}", other.why);
        // One that has formed a group of its own has a history that is not ours.
        let own = site.start(3, free_port(), false, "3").await;
        site.leads(&[&own]).await;
        let grouped = site.change(one.port, add, 3, own.port, "c").await.unwrap();
        assert!(!grouped.accepted && grouped.why.contains("part of a group"), "{}", grouped.why);
        assert_eq!(ids(&site.seen(one.port).await), [(1, true)]);
        // A newcomer leads nothing and says so.
        let refused = operator(&site.pki, two.port).holds(Empty {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    });
}

#[test]
fn a_minority_serves_what_it_has_as_old_and_says_who_is_missing() {
    let site = Site::new();
    common::process(async {
        let (one, two, three) = site.three().await;
        let id = {
            // A rollout to look at, without host agents: straight into the log.
            let store = &one.running.shared().store;
            for host in ["db1", "db2", "db3"] {
                store.propose(common::enrol(host)).await.unwrap();
            }
            store.propose(common::start("wish")).await.unwrap();
            common::rollout_id("wish").to_string()
        };
        two.running.stop().await.unwrap();
        three.running.stop().await.unwrap();
        let mut client = operator(&site.pki, one.port);
        let end = tokio::time::Instant::now() + DEADLINE;
        let refused = loop {
            let refused = site.change(one.port, CoordinatorsAction::Remove, 2, 0, "r").await;
            match refused {
                Err(status) if status.message().contains("missing") => break status,
                other => assert!(tokio::time::Instant::now() < end, "{other:?}"),
            }
        };
        let text = refused.message();
        assert!(text.contains("1 of 3") && text.contains("coordinator 2"), "{text}");
        assert!(text.contains("coordinator 3"), "{text}");
        let name = RolloutName { id, cluster: String::new() };
        let status = client.status(name).await.unwrap();
        let status: RolloutStatus = read(status.get_ref());
        assert!(status.stale, "{status:?}");
        let seen = site.seen(one.port).await;
        assert!(!seen.confirmed);
        let reached: Vec<bool> = seen.coordinators.iter().map(|c| c.reached).collect();
        assert_eq!(reached, [true, false, false]);
    });
}
