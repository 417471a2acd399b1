//! A coordinator to test: real store, real port, real certificates.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use grayfin_coordinator::{
    config::{self, Config},
    serve::Running,
};
use grayfin_proto::{
    document,
    identity::Identity,
    v1::{Document, StartRequest, operator_client::OperatorClient},
};
use grayfin_types::plan::{PlanRequest, Policy};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::{
    common::{CLUSTER, Pki},
    fake::Fake,
    world::{NEW, World},
};

/// Finds a port that is free now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Makes a configuration with timing for tests.
pub fn configuration(pki: &Pki, state_dir: &Path, port: u16) -> Config {
    let policy = Policy {
        soak_ms: 150,
        leader_settled_ms: 100,
        constructing_look_ms: 100,
        fact_age_max_ms: 2_000,
        free_floor_bytes: 1,
        ..Policy::default()
    };
    Config {
        file: PathBuf::from("coordinator.toml"),
        id: 1,
        state_dir: state_dir.to_owned(),
        listen: ([127, 0, 0, 1], port).into(),
        advertise: format!("127.0.0.1:{port}"),
        join: false,
        look_interval: Duration::from_millis(50),
        package_dir: None,
        tls: pki.files(&Identity::Coordinator(1)),
        raft: config::Raft { heartbeat_ms: 50, election_min_ms: 150, election_max_ms: 300 },
        policy,
        policies: [].into(),
    }
}

pub async fn start(pki: &Pki, state_dir: &Path, port: u16) -> Running {
    Running::start(configuration(pki, state_dir, port)).await.unwrap()
}

/// Makes an operator's client, with a certificate of this identity.
pub fn client(pki: &Pki, identity: &Identity, port: u16) -> OperatorClient<Channel> {
    OperatorClient::new(pki.files(identity).channel(&format!("127.0.0.1:{port}")).unwrap())
}

pub fn operator(pki: &Pki, port: u16) -> OperatorClient<Channel> {
    client(pki, &Identity::Operator("ann".to_owned()), port)
}

/// Makes a host agent for every host of a world.
pub fn fakes(world: &Arc<World>, pki: &Pki, port: u16) -> Vec<Arc<Fake>> {
    let address = format!("127.0.0.1:{port}");
    world.hosts().iter().map(|host| Fake::new(world, host, pki, &address)).collect()
}

/// Starts host agents.
pub fn play(fakes: &[Arc<Fake>]) -> JoinSet<()> {
    let mut set = JoinSet::new();
    for fake in fakes {
        set.spawn(Arc::clone(fake).run());
    }
    set
}

pub fn plan_request() -> PlanRequest {
    PlanRequest::new(CLUSTER.parse().unwrap(), NEW)
}

pub fn wish(request_id: &str) -> StartRequest {
    StartRequest {
        request_id: request_id.to_owned(),
        request: Some(document::wrap(&plan_request())),
        plan_hash: String::new(),
    }
}

pub fn read<T: serde::de::DeserializeOwned>(document: &Document) -> T {
    document::read("test", Some(document)).unwrap()
}
