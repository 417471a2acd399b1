//! A coordinator that does what the test says, on a real socket with mTLS. It survives the host
//! agent's deaths, and remembers what must not be forgotten: its outbox and the reports.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use grayfin_proto::{
    document,
    v1::{
        self, from_host, host_agent_link_server::HostAgentLink,
        host_agent_link_server::HostAgentLinkServer, to_host,
    },
};
use grayfin_types::{
    facts::{ClusterFacts, HostFacts},
    step::{Happened, Report, SequenceState},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{CLUSTER, PATIENCE, Site};

/// What the coordinator says to a go request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    Yes,
    No,
    /// It never answers.
    Silent,
    /// It answers with an older term.
    Stale,
}

#[derive(Debug)]
pub struct World {
    pub group: String,
    pub incarnation: u64,
    /// Place in the log of the group's membership.
    pub membership: u64,
    /// The operator's act that comes with the welcome.
    pub raise: Option<v1::Document>,
    /// Asks what the ledger holds here, before the welcome.
    pub prove: Option<u64>,
    pub proofs: Vec<v1::LedgerProof>,
    /// The readmission that comes with the welcome.
    pub readmit: Option<v1::Document>,
    pub term: u64,
    pub leads: bool,
    pub leader_address: String,
    pub go: Go,
    /// What comes with the answer to a go.
    pub reasons: Option<v1::Document>,
    pub committed: u64,
    pub reports: BTreeMap<u64, Report>,
    /// Durable reports as they came, repeats included.
    pub arrivals: Vec<u64>,
    pub passing: Vec<Report>,
    pub hellos: Vec<v1::Hello>,
    pub outbox: Vec<v1::Order>,
    pub answers: BTreeMap<u64, Vec<v1::OrderAnswer>>,
    pub promises: Vec<v1::PromiseAnswer>,
    pub gos: Vec<v1::GoRequest>,
    pub host_facts: Vec<HostFacts>,
    pub cluster_facts: Vec<ClusterFacts>,
    pub canary: Vec<v1::CanaryReport>,
    pub pings: Vec<u64>,
    pub package: Vec<u8>,
    next_order: u64,
    to: Option<mpsc::Sender<Result<v1::ToHost, Status>>>,
}

type Shared = Arc<(Mutex<World>, watch::Sender<u64>)>;

pub struct Coordinator {
    shared: Shared,
    files: grayfin_proto::tls::Files,
    address: std::net::SocketAddr,
    server: Option<tokio::task::JoinHandle<()>>,
}

fn lock(shared: &Shared) -> MutexGuard<'_, World> {
    shared.0.lock().unwrap()
}

impl Coordinator {
    pub async fn start(site: &Site) -> Self {
        let world = World {
            group: "group".to_owned(),
            incarnation: 1,
            membership: 0,
            raise: None,
            term: 1,
            leads: true,
            leader_address: String::new(),
            go: Go::Yes,
            reasons: None,
            committed: 0,
            prove: None,
            proofs: Vec::new(),
            readmit: None,
            reports: BTreeMap::new(),
            arrivals: Vec::new(),
            passing: Vec::new(),
            hellos: Vec::new(),
            outbox: Vec::new(),
            answers: BTreeMap::new(),
            promises: Vec::new(),
            gos: Vec::new(),
            host_facts: Vec::new(),
            cluster_facts: Vec::new(),
            canary: Vec::new(),
            pings: Vec::new(),
            package: Vec::new(),
            next_order: 1,
            to: None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut coordinator = Self {
            shared: Arc::new((Mutex::new(world), watch::Sender::new(0))),
            files: site.files("coordinator"),
            address: listener.local_addr().unwrap(),
            server: None,
        };
        coordinator.listen(listener);
        coordinator
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    fn listen(&mut self, listener: TcpListener) {
        let incoming = self.files.server().unwrap().incoming(listener);
        let service = HostAgentLinkServer::new(Service(Arc::clone(&self.shared)))
            .max_decoding_message_size(grayfin_proto::MESSAGE_MAX);
        self.server = Some(tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        }));
    }

    /// Dies; what it knows durably stays.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            drop(server.await);
        }
        lock(&self.shared).to = None;
        self.changed();
    }

    /// Comes back at the same address, with a newer term.
    pub async fn restart(&mut self) {
        lock(&self.shared).term += 1;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(e) => assert!(tokio::time::Instant::now() < deadline, "{e}"),
            }
            tokio::task::yield_now().await;
        };
        self.listen(listener);
    }

    /// Ends the session but not the server.
    pub fn cut(&self) {
        lock(&self.shared).to = None;
        self.changed();
    }

    /// Ends the session and waits until the host agent has said hello again.
    pub async fn cut_until_hello(&self) {
        let sessions = self.world(|world| world.hellos.len());
        self.cut();
        self.until("hello again", |w| (w.hellos.len() > sessions).then_some(())).await;
    }

    /// Waits for the hello that says that a readmission was taken in.
    pub async fn readmitted(&self, act: &str) -> v1::Hello {
        let taken_in =
            |world: &mut World| world.hellos.iter().find(|h| h.readmitted == act).cloned();
        self.until("readmitted", taken_in).await
    }

    pub fn world<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        act(&mut lock(&self.shared))
    }

    fn changed(&self) {
        self.shared.1.send_modify(|n| *n += 1);
    }

    fn say(&self, message: to_host::Message) {
        if let Some(to) = &lock(&self.shared).to {
            // A session that just died: what counts is in the outbox.
            drop(to.try_send(Ok(v1::ToHost { message: Some(message) })));
        }
    }

    /// Sends a message without content, which is what one of an unknown kind is when it is read.
    pub fn send_nothing(&self) {
        if let Some(to) = &lock(&self.shared).to {
            to.try_send(Ok(v1::ToHost { message: None })).unwrap();
        }
    }

    /// Puts an order into the outbox and sends it.
    pub fn order<T: serde::Serialize>(
        &self,
        kind: v1::OrderKind,
        token: u64,
        document: Option<&T>,
    ) -> u64 {
        self.order_as_written(kind.into(), token, document.map(document::wrap))
    }

    /// The same with a document, and perhaps a kind, of another build.
    pub fn order_as_written(&self, kind: i32, token: u64, document: Option<v1::Document>) -> u64 {
        let order = self.world(|world| {
            let order = v1::Order {
                authority: Some(world.authority()),
                cluster: CLUSTER.to_owned(),
                number: world.next_order,
                token,
                kind,
                rollout: "r1".to_owned(),
                document,
            };
            world.next_order += 1;
            world.outbox.push(order.clone());
            order
        });
        self.say(to_host::Message::Order(order.clone()));
        order.number
    }

    /// Sends any message as it is.
    pub fn send(&self, message: to_host::Message) {
        self.say(message);
    }

    pub fn promise(&self, token: u64) {
        let authority = self.world(|world| world.authority());
        self.say(to_host::Message::Promise(v1::PromiseRequest {
            authority: Some(authority),
            cluster: CLUSTER.to_owned(),
            token,
            held: String::new(),
        }));
    }

    /// Waits until `seen` finds what it looks for.
    pub async fn until<T>(&self, what: &str, mut seen: impl FnMut(&mut World) -> Option<T>) -> T {
        let waiting = async {
            let mut changes = self.shared.1.subscribe();
            loop {
                if let Some(found) = seen(&mut lock(&self.shared)) {
                    return found;
                }
                changes.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(found) => found,
            Err(_) => panic!("not seen in time: {what}\n{:#?}", lock(&self.shared).summary()),
        }
    }

    pub async fn answer(&self, number: u64) -> v1::OrderAnswer {
        self.until(&format!("answer to order {number}"), |world| {
            world.answers.get(&number).and_then(|answers| answers.first().cloned())
        })
        .await
    }

    /// Waits for the newest state of a token to be one that ends.
    pub async fn ended(&self, token: u64) -> SequenceState {
        self.until(&format!("end of token {token}"), |world| world.ended(token)).await
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

impl World {
    pub fn authority(&self) -> v1::Authority {
        v1::Authority { group: self.group.clone(), incarnation: self.incarnation, term: self.term }
    }

    pub fn connected(&self) -> bool {
        self.to.as_ref().is_some_and(|to| !to.is_closed())
    }

    /// The newest state reported for a token.
    pub fn state(&self, token: u64) -> Option<SequenceState> {
        self.reports.values().rev().filter(|report| report.token.0 == token).find_map(|report| {
            match &report.happened {
                Happened::State { state } => Some(state.clone()),
                _ => None,
            }
        })
    }

    pub fn ended(&self, token: u64) -> Option<SequenceState> {
        self.state(token).filter(|state| !matches!(state, SequenceState::Running { .. }))
    }

    /// Whether the newest staging finished (true) or failed.
    pub fn staged(&self) -> Option<bool> {
        self.reports.values().rev().find(|report| report.token.0 == 0).and_then(|report| {
            match &report.happened {
                Happened::Finished { .. } => Some(true),
                Happened::Failed { .. } => Some(false),
                _ => None,
            }
        })
    }

    fn summary(&self) -> Vec<String> {
        let reports =
            self.reports.values().map(|r| format!("{} {:?} {}", r.position, r.happened, r.step));
        let answers = self.answers.values().flatten().map(|a| format!("{a:?}"));
        reports.chain(answers).collect()
    }

    fn welcome(&self) -> v1::Welcome {
        v1::Welcome {
            authority: Some(self.authority()),
            coordinator: 1,
            leads: self.leads,
            leader_address: self.leader_address.clone(),
            coordinators: Vec::new(),
            committed_position: self.committed,
            look_interval_ms: 0,
            membership: self.membership,
            raise: self.raise.clone(),
            amnesic: String::new(),
            readmit: self.readmit.clone(),
        }
    }
}

struct Service(Shared);

impl Service {
    fn take(&self, message: v1::FromHost) -> Option<to_host::Message> {
        let mut world = lock(&self.0);
        let answer = match message.message.unwrap() {
            from_host::Message::Hello(_) => panic!("a second hello"),
            from_host::Message::Proof(proof) => {
                world.proofs.push(proof);
                None
            }
            from_host::Message::HostFacts(facts) => {
                world.host_facts.push(document::read("facts", Some(&facts)).unwrap());
                None
            }
            from_host::Message::ClusterFacts(facts) => {
                world.cluster_facts.push(document::read("facts", Some(&facts)).unwrap());
                None
            }
            from_host::Message::Promise(answer) => {
                world.promises.push(answer);
                None
            }
            from_host::Message::Order(answer) => {
                world.outbox.retain(|order| order.number != answer.number);
                world.answers.entry(answer.number).or_default().push(answer);
                None
            }
            from_host::Message::Report(report) => {
                let report: Report = document::read("report", Some(&report)).unwrap();
                let position = report.position;
                if position == 0 {
                    world.passing.push(report);
                    None
                } else {
                    world.arrivals.push(position);
                    if let Some(known) = world.reports.get(&position) {
                        assert_eq!(known, &report, "a repeat says the same");
                    }
                    world.reports.insert(position, report);
                    world.committed = world.committed.max(position);
                    Some(to_host::Message::Committed(v1::ReportsCommitted { position }))
                }
            }
            from_host::Message::Go(asked) => {
                world.gos.push(asked.clone());
                let mut authority = world.authority();
                if world.go == Go::Stale {
                    authority.term -= 1;
                }
                (world.go != Go::Silent).then(|| {
                    to_host::Message::Go(v1::GoAnswer {
                        authority: Some(authority),
                        cluster: asked.cluster,
                        token: asked.token,
                        request: asked.request,
                        allowed: world.go != Go::No,
                        reasons: world.reasons.clone(),
                    })
                })
            }
            from_host::Message::Canary(report) => {
                world.canary.push(report);
                None
            }
            from_host::Message::Ping(ping) => {
                world.pings.push(ping.nonce);
                None
            }
        };
        drop(world);
        self.0.1.send_modify(|n| *n += 1);
        answer
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl HostAgentLink for Service {
    type SessionStream = Answers<v1::ToHost>;
    type FetchPackageStream = Answers<v1::PackageChunk>;

    async fn session(
        &self,
        request: Request<Streaming<v1::FromHost>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        grayfin_proto::identity::of_peer(&request).unwrap();
        let mut from = request.into_inner();
        let first = from.message().await?.and_then(|message| message.message);
        let Some(from_host::Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (to, outgoing) = mpsc::channel(1024);
        {
            let mut world = lock(&self.0);
            world.hellos.push(hello);
            if let Some(position) = world.prove {
                let prove = to_host::Message::Prove(v1::ProveLedger { position });
                to.try_send(Ok(v1::ToHost { message: Some(prove) })).unwrap();
            }
            let welcome = to_host::Message::Welcome(world.welcome());
            to.try_send(Ok(v1::ToHost { message: Some(welcome) })).unwrap();
            if world.leads {
                for order in &world.outbox {
                    let mut order = order.clone();
                    order.authority = Some(world.authority());
                    let message = Some(to_host::Message::Order(order));
                    to.try_send(Ok(v1::ToHost { message })).unwrap();
                }
                world.to = Some(to.clone());
            }
        }
        self.0.1.send_modify(|n| *n += 1);
        let service = Self(Arc::clone(&self.0));
        let to = to.downgrade();
        tokio::spawn(async move {
            while let Ok(Some(message)) = from.message().await {
                if let (Some(answer), Some(to)) = (service.take(message), to.upgrade()) {
                    drop(to.send(Ok(v1::ToHost { message: Some(answer) })).await);
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn fetch_package(
        &self,
        _: Request<v1::FetchPackageRequest>,
    ) -> Result<Response<Self::FetchPackageStream>, Status> {
        let package = lock(&self.0).package.clone();
        if package.is_empty() {
            return Err(Status::not_found("no such package"));
        }
        let chunks: Vec<_> =
            package.chunks(2).map(|data| Ok(v1::PackageChunk { data: data.to_vec() })).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }
}
