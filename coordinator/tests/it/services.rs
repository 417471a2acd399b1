//! Who may say what, and what the services answer.

use std::sync::Arc;

use grayfin_coordinator::serve::Running;
use grayfin_coordinator_core::{
    Cmd,
    cmd::{Action, Enrol},
};
use grayfin_proto::{
    document,
    identity::Identity,
    v1::{
        self, ControlAction, ControlRequest, Empty, FetchPackageRequest, RolloutName, WatchRequest,
        from_host::Message, host_agent_link_client::HostAgentLinkClient,
    },
};
use grayfin_types::{
    Generation, RolloutId,
    plan::PlanAnswer,
    status::{HoldStatus, HostLine, RolloutState, RolloutStatus},
};
use tonic::{Code, Status};

use crate::{
    common::{self, DEADLINE, Pki},
    coordinator::{client, configuration, free_port, operator, plan_request, read, start, wish},
    fake::Fake,
    world::{World, host},
};

struct Setup {
    pki: Pki,
    port: u16,
    dir: tempfile::TempDir,
    world: Arc<World>,
}

impl Setup {
    fn new() -> Self {
        Self {
            pki: Pki::new(),
            port: free_port(),
            dir: tempfile::tempdir().unwrap(),
            world: Arc::new(World::new(&["db1", "db2", "db3"])),
        }
    }

    async fn up(&self) -> Running {
        start(&self.pki, self.dir.path(), self.port).await
    }

    fn fake(&self, name: &str) -> Arc<Fake> {
        self.fake_with(name, &Identity::HostAgent { host: host(name), generation: Generation(1) })
    }

    fn fake_with(&self, name: &str, identity: &Identity) -> Arc<Fake> {
        let address = format!("127.0.0.1:{}", self.port);
        Fake::with(&self.world, &host(name), self.pki.files(identity), &address)
    }
}

fn code_of(status: &Status) -> String {
    let code = status.metadata().get("grayfin-code");
    code.map_or_else(String::new, |code| code.to_str().unwrap().to_owned())
}

#[test]
fn only_the_right_certificate_may_speak_as_a_host_agent() {
    let setup = Setup::new();
    common::process(async {
        let _running = setup.up().await;
        let hello = setup.fake("db1").hello();
        // A host agent of another host, an operator, a coordinator.
        let db2 = Identity::HostAgent { host: host("db2"), generation: Generation(1) };
        let operator = Identity::Operator("ann".to_owned());
        for (identity, expected) in [
            (db2, "the certificate is of `db2`"),
            (operator, "may not speak as a host agent"),
            (Identity::Coordinator(1), "may not speak as a host agent"),
        ] {
            let refused =
                setup.fake_with("db1", &identity).connect(hello.clone()).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{identity}: {refused}");
            assert!(refused.message().contains(expected), "{identity}: {refused}");
        }
        let newer = v1::Hello { wire: grayfin_proto::WIRE + 1, ..hello.clone() };
        let refused = setup.fake("db1").connect(newer).await.unwrap_err();
        assert!(refused.message().contains("upgrade the older side"), "{refused}");
        let (_out, _stream, welcome) = setup.fake("db1").connect(hello).await.unwrap();
        assert!(welcome.leads && !welcome.authority.unwrap().group.is_empty());
    });
}

#[test]
fn an_older_generation_is_refused_and_a_foreign_ledger_may_only_look() {
    let setup = Setup::new();
    common::process(async {
        let running = setup.up().await;
        let second = Identity::HostAgent { host: host("db1"), generation: Generation(2) };
        let newer = setup.fake_with("db1", &second);
        drop(newer.connect(newer.hello()).await.unwrap());
        let older = setup.fake("db1");
        let refused = older.connect(older.hello()).await.unwrap_err();
        assert_eq!((refused.code(), &*code_of(&refused)), (Code::PermissionDenied, "GF0103"));

        let amnesic = setup.fake("db2");
        drop(amnesic.connect(amnesic.hello()).await.unwrap());
        let other = v1::Hello { ledger_id: "another".to_owned(), ..amnesic.hello() };
        let (_out, _stream, welcome) = amnesic.connect(other).await.unwrap();
        assert!(welcome.leads);
        let state = running.shared().store.state();
        assert!(state.hosts[&host("db2")].amnesic.is_some());
    });
}

#[test]
fn a_host_agent_that_speaks_for_another_host_loses_its_session() {
    let setup = Setup::new();
    common::process(async {
        let running = setup.up().await;
        let fake = setup.fake("db1");
        let (out, mut stream, _) = fake.connect(fake.hello()).await.unwrap();
        let foreign = document::wrap(&setup.world.host_facts(&host("db2")));
        let message = v1::FromHost { message: Some(Message::HostFacts(foreign)) };
        out.send(message).await.unwrap();
        let end = loop {
            match tokio::time::timeout(DEADLINE, stream.message()).await.unwrap() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the session ended without a reason"),
                Err(status) => break status,
            }
        };
        assert_eq!(end.code(), Code::PermissionDenied, "{end}");
        let shared = running.shared();
        common::until("the view forgets it", || {
            (!shared.sight.read(|view| view.is_connected(&host("db1")))).then_some(())
        })
        .await;
    });
}

#[test]
fn a_second_session_of_a_host_ends_the_first() {
    let setup = Setup::new();
    common::process(async {
        let running = setup.up().await;
        let fake = setup.fake("db1");
        let (_out, mut first, _) = fake.connect(fake.hello()).await.unwrap();
        let again = v1::Hello { session_id: "next".to_owned(), ..fake.hello() };
        let (out, mut second, _) = fake.connect(again).await.unwrap();
        let end = loop {
            match tokio::time::timeout(DEADLINE, first.message()).await.unwrap() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the session ended without a reason"),
                Err(status) => break status,
            }
        };
        assert_eq!(end.code(), Code::Aborted, "{end}");
        // The second one lives: a ping comes back, once.
        let ping = v1::FromHost { message: Some(Message::Ping(v1::Ping { nonce: 7 })) };
        out.send(ping).await.unwrap();
        let echo = tokio::time::timeout(DEADLINE, async {
            loop {
                if let Some(v1::to_host::Message::Ping(ping)) =
                    second.message().await.unwrap().unwrap().message
                {
                    break ping.nonce;
                }
            }
        });
        assert_eq!(echo.await.unwrap(), 7);
        assert!(running.shared().sight.read(|view| view.is_connected(&host("db1"))));
    });
}

#[test]
fn viewers_look_and_operators_change() {
    let setup = Setup::new();
    common::process(async {
        let _running = setup.up().await;
        let viewer = Identity::Viewer("wall".to_owned());
        let mut viewer = client(&setup.pki, &viewer, setup.port);
        let lines: Vec<HostLine> = read(viewer.hosts(Empty {}).await.unwrap().get_ref());
        assert!(lines.is_empty());
        let holds: Vec<HoldStatus> = read(viewer.holds(Empty {}).await.unwrap().get_ref());
        assert!(holds.is_empty());
        let refused = viewer.start(wish("w")).await.unwrap_err();
        assert_eq!((refused.code(), &*code_of(&refused)), (Code::PermissionDenied, "GF0708"));
        let refused = viewer.control(ControlRequest::default()).await.unwrap_err();
        assert_eq!(code_of(&refused), "GF0708");

        let agent = Identity::HostAgent { host: host("db1"), generation: Generation(1) };
        let refused = client(&setup.pki, &agent, setup.port).hosts(Empty {}).await.unwrap_err();
        assert_eq!(code_of(&refused), "GF0708");

        let group = v1::group_client::GroupClient::new(
            setup
                .pki
                .files(&Identity::Operator("ann".to_owned()))
                .channel(&format!("127.0.0.1:{}", setup.port))
                .unwrap(),
        );
        let refused = group.clone().vote(v1::Sealed::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);

        let answer = operator(&setup.pki, setup.port).coordinators(Empty {}).await.unwrap();
        let answer = answer.into_inner();
        assert_eq!((answer.answering, answer.leader), (1, 1));
        assert_eq!(answer.coordinators.len(), 1);
    });
}

#[test]
fn requests_that_make_no_sense_are_refused_with_codes() {
    let setup = Setup::new();
    common::process(async {
        let running = setup.up().await;
        let mut client = operator(&setup.pki, setup.port);
        // Nothing is known of the cluster: a plan is no error, but nothing is ready.
        let request = document::wrap(&plan_request());
        let answer: PlanAnswer = read(client.plan(request).await.unwrap().get_ref());
        assert!(!answer.ready && answer.plan.is_none());
        let answer = client.start(wish("w")).await.unwrap().into_inner();
        assert_eq!(answer.rollout, "");
        let refused = client.start(wish("")).await.unwrap_err();
        assert_eq!((refused.code(), &*code_of(&refused)), (Code::InvalidArgument, "GF0703"));
        let none = RolloutName { id: "none".to_owned(), cluster: String::new() };
        let refused = client.status(none).await.unwrap_err();
        assert_eq!((refused.code(), &*code_of(&refused)), (Code::NotFound, "GF0704"));
        let missing = WatchRequest { rollout: "none".to_owned(), from: 1 };
        let refused = client.watch(missing).await.unwrap_err();
        assert_eq!(code_of(&refused), "GF0704");

        let store = &running.shared().store;
        for name in ["db1", "db2", "db3"] {
            store.propose(common::enrol(name)).await.unwrap();
        }
        store.propose(common::start("one")).await.unwrap();
        let control = |id: &str, action: ControlAction| ControlRequest {
            request_id: id.to_owned(),
            rollout: "r-o".to_owned(),
            action: i32::from(action),
            reason: "because".to_owned(),
            ..ControlRequest::default()
        };
        let refused = client.control(control("1", ControlAction::Unspecified)).await.unwrap_err();
        assert_eq!(code_of(&refused), "GF0703");
        // A rollout may be named by its beginning; the same request is answered alike.
        for _ in 0..2 {
            let done = client.control(control("2", ControlAction::Abort)).await.unwrap();
            assert!(done.get_ref().accepted, "{done:?}");
        }
        let id = RolloutName { id: "r-one".to_owned(), cluster: String::new() };
        let end = tokio::time::Instant::now() + DEADLINE;
        loop {
            let status: RolloutStatus = read(client.status(id.clone()).await.unwrap().get_ref());
            if status.state == RolloutState::Aborted {
                break;
            }
            assert!(tokio::time::Instant::now() < end, "{status:#?}");
        }
        let after = client.control(control("3", ControlAction::Pause)).await.unwrap().into_inner();
        assert!(!after.accepted && !after.code.is_empty(), "{after:?}");
        let rollout = RolloutId::new("r-one").unwrap();
        let command = common::control("4", &rollout, Action::Resume);
        store.propose(command).await.unwrap();
    });
}

#[test]
fn a_host_agent_fetches_a_package_and_only_that() {
    let setup = Setup::new();
    let packages = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(packages.path().join("p.zip"), &content).unwrap();
    std::fs::write(packages.path().join("secret"), "x").unwrap();
    common::process(async {
        let mut config = configuration(&setup.pki, setup.dir.path(), setup.port);
        config.package_dir = Some(packages.path().join("."));
        let _running = Running::start(config).await.unwrap();
        let identity = Identity::HostAgent { host: host("db1"), generation: Generation(1) };
        let channel = setup.pki.files(&identity).channel(&format!("127.0.0.1:{}", setup.port));
        let mut client = HostAgentLinkClient::new(channel.unwrap());
        let request = |file: &str, sha256: &str| FetchPackageRequest {
            cluster: common::CLUSTER.to_owned(),
            file: file.to_owned(),
            sha256: sha256.to_owned(),
        };
        let digest = grayfin_coordinator::store::sha256_hex(&content);
        let mut stream =
            client.fetch_package(request("p.zip", &digest)).await.unwrap().into_inner();
        let mut got = Vec::new();
        while let Some(piece) = stream.message().await.unwrap() {
            assert!(piece.data.len() <= 1 << 20);
            got.extend(piece.data);
        }
        assert!(got == content);

        let mut stream = client.fetch_package(request("p.zip", "00")).await.unwrap().into_inner();
        let end = loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a package with another digest must not end well"),
                Err(status) => break status,
            }
        };
        assert_eq!(code_of(&end), "GF0306");
        for bad in ["../p.zip", "/etc/passwd", "", ".", "a/b"] {
            let refused = client.fetch_package(request(bad, &digest)).await.unwrap_err();
            assert_eq!(code_of(&refused), "GF0703", "{bad}");
        }
        let refused = client.fetch_package(request("none.zip", &digest)).await.unwrap_err();
        assert_eq!(code_of(&refused), "GF0303");
    });
}

#[test]
fn everything_is_checked_before_a_port_is_bound() {
    let setup = Setup::new();
    common::process(async {
        let mut config = configuration(&setup.pki, setup.dir.path(), setup.port);
        config.tls = setup.pki.files(&Identity::Coordinator(2));
        let error = Running::start(config).await.unwrap_err().to_string();
        assert!(error.contains("GF0103"), "{error}");

        let config = configuration(&setup.pki, setup.dir.path(), setup.port);
        let running = Running::start(config.clone()).await.unwrap();
        let other =
            grayfin_coordinator::config::Config { listen: ([127, 0, 0, 1], 0).into(), ..config };
        let error = Running::start(other).await.unwrap_err();
        let text = format!("{error:?}");
        assert!(text.contains("Busy"), "{text}");
        running.stop().await.unwrap();
        // Stopped, it can be started again in the same place.
        let again = setup.up().await;
        again.shared().store.propose(Cmd::Enrol(enrol())).await.unwrap();
        again.stop().await.unwrap();
    });
}

fn enrol() -> Enrol {
    let Cmd::Enrol(enrol) = common::enrol("db1") else { panic!("an enrolment") };
    enrol
}

#[test]
fn a_store_that_fails_ends_the_coordinator() {
    let setup = Setup::new();
    common::process(async {
        let mut running = setup.up().await;
        let file = setup.dir.path().join(grayfin_coordinator::store::FILE_NAME);
        let raw = rusqlite::Connection::open(file).unwrap();
        raw.busy_timeout(DEADLINE).unwrap();
        raw.execute("DROP TABLE log", []).unwrap();
        let refused = running.shared().store.propose(common::enrol("db1")).await.unwrap_err();
        assert!(matches!(refused, grayfin_coordinator::store::Refused::Stopped(_)), "{refused}");
        let end = tokio::time::timeout(DEADLINE, running.failed()).await.unwrap();
        assert!(matches!(end, grayfin_coordinator::serve::Error::Fatal(_)), "{end}");
    });
}
