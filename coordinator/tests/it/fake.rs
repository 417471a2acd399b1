//! Host agents that are played: they speak the real protocol over real mTLS, keep what a ledger
//! would keep, and do nothing to any database.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use grayfin_proto::{
    WIRE,
    identity::Identity,
    tls,
    v1::{self, FromHost, OrderKind, ToHost, from_host, to_host},
};
use grayfin_types::{
    Generation, HostId, Token,
    step::{Happened, Report, SequenceState, Step},
};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    IntoStreamingRequest, Status, Streaming, client::Grpc, codegen::http::uri::PathAndQuery,
};

use crate::{
    common::{CLUSTER, Pki},
    dialect::{Dialect, Tongue},
    world::{World, alias, ledger},
};

/// The answers to requests for a go, by request.
type Goes = watch::Sender<BTreeMap<u64, bool>>;

/// A played host agent: what it would keep on disk.
#[derive(Debug)]
pub struct Fake {
    pub host: HostId,
    world: Arc<World>,
    files: tls::Files,
    address: String,
    disk: Mutex<Disk>,
    /// Its sequence goes no further.
    pub stuck: watch::Sender<bool>,
    dialect: std::sync::Mutex<Dialect>,
    /// Another build's process took over.
    replaced: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct Disk {
    /// Durable reports, by ledger position.
    reports: Vec<Report>,
    /// The last order's answer.
    answer: Option<v1::OrderAnswer>,
    /// Where the sequence stands; none without one.
    state: Option<SequenceState>,
    /// Goes already granted and carried out.
    stopped: usize,
    requests: u64,
}

type Out = mpsc::Sender<FromHost>;

fn from_host(message: from_host::Message) -> FromHost {
    FromHost { message: Some(message) }
}

impl Fake {
    pub fn new(world: &Arc<World>, host: &HostId, pki: &Pki, address: &str) -> Arc<Self> {
        let identity = Identity::HostAgent { host: host.clone(), generation: Generation(1) };
        Self::with(world, host, pki.files(&identity), address)
    }

    pub fn with(world: &Arc<World>, host: &HostId, files: tls::Files, address: &str) -> Arc<Self> {
        Arc::new(Self::make(world, host, files, address, Dialect::Same))
    }

    /// One of another build.
    pub fn of_build(
        world: &Arc<World>,
        host: &HostId,
        pki: &Pki,
        address: &str,
        dialect: Dialect,
    ) -> Arc<Self> {
        let identity = Identity::HostAgent { host: host.clone(), generation: Generation(1) };
        Arc::new(Self::make(world, host, pki.files(&identity), address, dialect))
    }

    fn make(
        world: &Arc<World>,
        host: &HostId,
        files: tls::Files,
        address: &str,
        dialect: Dialect,
    ) -> Self {
        Self {
            host: host.clone(),
            world: Arc::clone(world),
            files,
            address: address.to_owned(),
            disk: Mutex::default(),
            stuck: watch::Sender::new(false),
            dialect: std::sync::Mutex::new(dialect),
            replaced: tokio::sync::Notify::new(),
        }
    }

    fn dialect(&self) -> Dialect {
        *self.dialect.lock().unwrap()
    }

    /// The process of another build takes its place, with the same disk.
    pub fn replace(&self, dialect: Dialect) {
        *self.dialect.lock().unwrap() = dialect;
        self.replaced.notify_one();
    }

    /// Connects again and again, for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            if let Err(status) = self.session().await {
                tracing::debug!(host = %self.host, %status, "session ended");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn hello(&self) -> v1::Hello {
        let machine = self.world.look(&self.host);
        v1::Hello {
            agent_version: self.dialect().version().to_owned(),
            wire: WIRE,
            host: self.host.to_string(),
            clusters: vec![CLUSTER.to_owned()],
            ledger_id: ledger(&self.host).to_string(),
            ledger_position: machine.position,
            boot_id: "boot".to_owned(),
            fences: vec![v1::FenceState {
                cluster: CLUSTER.to_owned(),
                floor: machine.floor.0,
                open_hold: machine.open_hold.map_or(0, |t| t.0),
                last_order: machine.last_order,
            }],
            session_id: "session".to_owned(),
            ledger_chain: String::new(),
            readmitted: String::new(),
            ..v1::Hello::default()
        }
    }

    /// Opens a stream and says hello. Returns the coordinator's first message as well.
    pub async fn connect(
        &self,
        hello: v1::Hello,
    ) -> Result<(Out, Streaming<ToHost>, v1::Welcome), Status> {
        let channel = self.files.channel(&self.address).unwrap();
        let (out, outgoing) = mpsc::channel(64);
        out.send(from_host(from_host::Message::Hello(hello))).await.unwrap();
        let mut client = Grpc::new(channel);
        client.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let path = PathAndQuery::from_static("/grayfin.v1.HostAgentLink/Session");
        let request = ReceiverStream::new(outgoing).into_streaming_request();
        let mut incoming: Streaming<ToHost> =
            client.streaming(request, path, Tongue(self.dialect())).await?.into_inner();
        match incoming.message().await? {
            Some(ToHost { message: Some(to_host::Message::Welcome(welcome)) }) => {
                Ok((out, incoming, welcome))
            }
            other => Err(Status::internal(format!("no welcome: {other:?}"))),
        }
    }

    async fn session(self: &Arc<Self>) -> Result<(), Status> {
        let (out, mut incoming, welcome) = self.connect(self.hello()).await?;
        if !welcome.leads {
            return Err(Status::unavailable("another one leads"));
        }
        if self.dialect() == Dialect::Newer {
            // A message of a kind that nobody knows here.
            drop(out.send(FromHost { message: None }).await);
        }
        self.resend(&out, welcome.committed_position).await;
        let goes: Arc<Goes> = Arc::default();
        let mut work = tokio::task::JoinSet::new();
        self.go_on(&mut work, &out, &goes).await;
        let every = Duration::from_millis(welcome.look_interval_ms.into());
        let mut looks = tokio::time::interval(every);
        loop {
            let message = tokio::select! {
                _ = looks.tick() => {
                    self.send_facts(&out).await;
                    continue;
                }
                () = self.replaced.notified() => return Ok(()),
                message = incoming.message() => message?,
            };
            match message.and_then(|m| m.message) {
                Some(to_host::Message::Observe(observe)) => self.observe(&observe, &out).await,
                Some(to_host::Message::Promise(request)) => self.promise(request, &out).await,
                Some(to_host::Message::Order(order)) => {
                    self.order(order, &out).await;
                    self.go_on(&mut work, &out, &goes).await;
                }
                Some(to_host::Message::Go(answer)) => {
                    goes.send_modify(|all| {
                        all.insert(answer.request, answer.allowed);
                    });
                }
                Some(
                    to_host::Message::Committed(_)
                    | to_host::Message::Ping(_)
                    | to_host::Message::Prove(_)
                    | to_host::Message::Welcome(_),
                ) => {}
                None => return Ok(()),
            }
        }
    }

    pub async fn send_facts(&self, out: &Out) {
        let facts = self.dialect().wrap(&self.world.host_facts(&self.host));
        drop(out.send(from_host(from_host::Message::HostFacts(facts))).await);
    }

    async fn observe(&self, observe: &v1::Observe, out: &Out) {
        self.send_facts(out).await;
        if observe.whole_cluster {
            let facts = self.world.cluster_facts(&self.host, observe.chunks);
            let facts = from_host::Message::ClusterFacts(self.dialect().wrap(&facts));
            drop(out.send(from_host(facts)).await);
        }
    }

    async fn promise(&self, request: v1::PromiseRequest, out: &Out) {
        let (promised, position) = self.world.change(&self.host, |m| {
            if m.open_hold.is_some() {
                return (false, m.position);
            }
            m.floor = m.floor.max(Token(request.token));
            m.position += 1;
            (true, m.position)
        });
        let answer = v1::PromiseAnswer {
            cluster: request.cluster,
            token: request.token,
            promised,
            code: if promised { String::new() } else { self.dialect().code().to_owned() },
            why: String::new(),
            ledger_position: position,
            ledger_chain: String::new(),
            authority: request.authority,
        };
        drop(out.send(from_host(from_host::Message::Promise(answer))).await);
    }

    async fn order(&self, order: v1::Order, out: &Out) {
        let mut disk = self.disk.lock().await;
        let last = self.world.look(&self.host).last_order;
        if order.number > last {
            let answer = self.take_up(&order, &mut disk, out).await;
            disk.answer = Some(answer);
        }
        let answer = disk.answer.clone().filter(|a| a.number == order.number);
        drop(disk);
        if let Some(answer) = answer {
            drop(out.send(from_host(from_host::Message::Order(answer))).await);
        }
    }

    async fn take_up(&self, order: &v1::Order, disk: &mut Disk, out: &Out) -> v1::OrderAnswer {
        let token = Token(order.token);
        let position = self.world.change(&self.host, |m| {
            m.last_order = order.number;
            m.position += 1;
            match order.kind() {
                OrderKind::Run => {
                    m.open_hold = Some(token);
                    m.floor = m.floor.max(token);
                }
                OrderKind::Close => m.open_hold = None,
                _ => {}
            }
            m.position
        });
        let state = match order.kind() {
            OrderKind::Run | OrderKind::Retry => Some(SequenceState::Running { step: Step::Guard }),
            OrderKind::Close => Some(SequenceState::Closed),
            _ => None,
        };
        disk.state.clone_from(&state);
        match order.kind() {
            OrderKind::Stage => {
                self.report(disk, out, Token(0), Step::Stage, Happened::Finished { took_ms: 1 })
                    .await;
            }
            OrderKind::Run => disk.stopped = 0,
            _ => {}
        }
        v1::OrderAnswer {
            cluster: order.cluster.clone(),
            number: order.number,
            token: order.token,
            accepted: true,
            code: String::new(),
            why: String::new(),
            ledger_position: position,
            ledger_chain: String::new(),
            state: state.map(|s| self.dialect().wrap(&s)),
        }
    }

    async fn report(
        &self,
        disk: &mut Disk,
        out: &Out,
        token: Token,
        step: Step,
        happened: Happened,
    ) {
        let position = self.world.change(&self.host, |m| {
            m.position += 1;
            m.position
        });
        let report = Report {
            host: self.host.clone(),
            token,
            step,
            undo: false,
            happened,
            seen: String::new(),
            position,
            chain: String::new(),
            at_ms: 1,
        };
        disk.reports.push(report.clone());
        drop(out.send(from_host(from_host::Message::Report(self.dialect().wrap(&report)))).await);
    }

    async fn resend(&self, out: &Out, committed: u64) {
        for report in self.disk.lock().await.reports.iter().filter(|r| r.position > committed) {
            drop(
                out.send(from_host(from_host::Message::Report(self.dialect().wrap(report)))).await,
            );
        }
    }

    /// Goes on with the sequence that is open, if one is.
    async fn go_on(
        self: &Arc<Self>,
        work: &mut tokio::task::JoinSet<()>,
        out: &Out,
        goes: &Arc<Goes>,
    ) {
        let running = matches!(self.disk.lock().await.state, Some(SequenceState::Running { .. }));
        if running && work.is_empty() {
            let (fake, out, goes) = (Arc::clone(self), out.clone(), Arc::clone(goes));
            work.spawn(async move { fake.sequence(&out, &goes).await });
        } else if !running {
            work.abort_all();
            while work.join_next().await.is_some() {}
        }
    }

    /// The host sequence: data node and DolphinDB agent, then the controller, each with a go; then
    /// everything comes up on the new version.
    async fn sequence(&self, out: &Out, goes: &Goes) {
        let token = self.world.look(&self.host).open_hold.unwrap();
        // It lives as long as this does.
        drop(self.stuck.subscribe().wait_for(|stuck| !*stuck).await);
        let actions = [vec!["node", "agent"], vec!["ctl"]];
        let done = self.disk.lock().await.stopped;
        for action in actions.iter().skip(done) {
            let aliases: Vec<_> = action.iter().map(|kind| alias(kind, &self.host)).collect();
            loop {
                let request = {
                    let mut disk = self.disk.lock().await;
                    disk.requests += 1;
                    disk.requests
                };
                let ask = v1::GoRequest {
                    cluster: CLUSTER.to_owned(),
                    token: token.0,
                    request,
                    nodes: aliases.iter().map(ToString::to_string).collect(),
                };
                drop(out.send(from_host(from_host::Message::Go(ask))).await);
                let mut answers = goes.subscribe();
                let answered = answers.wait_for(|all| all.contains_key(&request)).await;
                let Some(allowed) = answered.ok().and_then(|all| all.get(&request).copied()) else {
                    return;
                };
                if allowed {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            self.world.change(&self.host, |m| m.down.extend(aliases));
            self.disk.lock().await.stopped += 1;
        }
        self.world.change(&self.host, |m| {
            m.version = crate::world::NEW.parse().unwrap();
            m.down.clear();
        });
        let mut disk = self.disk.lock().await;
        disk.state = Some(SequenceState::Up);
        let happened = Happened::State { state: SequenceState::Up };
        self.report(&mut disk, out, token, Step::Join, happened).await;
    }
}
