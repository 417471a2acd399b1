//! One session: hello, welcome, then messages both ways until it breaks.

use std::{sync::Arc, time::Duration};

use grayfin_agent_core::{entry::Authority, fence};
use grayfin_proto::{
    MESSAGE_MAX, WIRE, document,
    v1::{self, from_host, host_agent_link_client::HostAgentLinkClient, to_host},
};
use grayfin_types::{
    Code, HostId, Token,
    ledger::Readmit,
    raise::{Raise, SignedRaise},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::{
    Connected, Link, Queues, looks::Ask, looks::Looks, orders, orders::Taken, ports::Look,
};
use crate::{
    ledger,
    runner::{Trust, Wish},
};

/// For the connection (2 s at most), the handshake, and the coordinator's durable enrolment.
const WELCOME_MAX: Duration = Duration::from_secs(8);

/// A message that cannot be handed on for so long means that the coordinator does not read.
const SEND_MAX: Duration = Duration::from_secs(10);

/// Messages on their way; a report is about 300 bytes, facts some 20 KiB.
const OUTGOING_MAX: usize = 64;

/// Reports read from the ledger at once.
const REPORTS_MAX: usize = 64;

/// How a session ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Somebody else leads, perhaps at this address.
    NotLeader {
        /// Where; may be empty.
        leader: String,
    },
    /// It broke, or never came about.
    Broken {
        /// There was a welcome from a leader.
        worked: bool,
        /// Why.
        why: String,
    },
    /// The ledger takes no more.
    Ledger(ledger::Error),
}

impl From<ledger::Error> for Ended {
    fn from(error: ledger::Error) -> Self {
        Self::Ledger(error)
    }
}

/// One session.
pub(super) struct Session<'a, L> {
    link: &'a Arc<Link>,
    looks: &'a Arc<Looks<L>>,
    queues: &'a mut Queues,
    /// Addresses that the coordinator told.
    pub(super) coordinators: Vec<String>,
    worked: bool,
    amnesic: bool,
    /// The readmission that came with the welcome.
    readmission: Option<String>,
    /// Reports up to this ledger position were sent, or are committed.
    reported: u64,
}

impl<'a, L: Look> Session<'a, L> {
    pub(super) fn new(
        link: &'a Arc<Link>,
        looks: &'a Arc<Looks<L>>,
        queues: &'a mut Queues,
    ) -> Self {
        Self {
            link,
            looks,
            queues,
            coordinators: Vec::new(),
            worked: false,
            amnesic: false,
            readmission: None,
            reported: 0,
        }
    }

    /// Runs to its end.
    pub(super) async fn run(&mut self, address: &str) -> Ended {
        match self.whole(address).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    fn broken(&self, why: impl ToString) -> Ended {
        Ended::Broken { worked: self.worked, why: why.to_string() }
    }

    async fn whole(&mut self, address: &str) -> Result<std::convert::Infallible, Ended> {
        let channel = self.link.settings.tls.channel(address).map_err(|e| self.broken(e))?;
        let (to, outgoing) = mpsc::channel(OUTGOING_MAX);
        let mut changed = self.link.ledger.watch();
        send(&to, from_host::Message::Hello(self.hello())).await.map_err(|e| self.broken(e))?;
        let mut client = HostAgentLinkClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        let opening = async {
            let stream = client.session(ReceiverStream::new(outgoing)).await?;
            let mut from = stream.into_inner();
            let mut first = from.message().await?;
            if let Some(to_host::Message::Prove(asked)) =
                first.as_ref().and_then(|m| m.message.as_ref())
            {
                let mark = self.link.ledger.mark(Some(asked.position));
                let proof = v1::LedgerProof { position: mark.position, chain: mark.chain };
                send(&to, from_host::Message::Proof(proof)).await.map_err(Status::unavailable)?;
                first = from.message().await?;
            }
            Ok::<_, Status>((from, first))
        };
        let opened = timeout(WELCOME_MAX, opening).await;
        let (from, first) = opened
            .map_err(|_| self.broken("no welcome in time"))?
            .map_err(|status| self.broken(status.message()))?;
        let Some(to_host::Message::Welcome(welcome)) = first.and_then(|m| m.message) else {
            return Err(self.broken("the first message is no welcome"));
        };
        let interval_ms = self.welcomed(address, &welcome)?;
        self.link.connected.send_replace(Some(connected(self.link, &to, &channel)));
        for report in self.link.answered() {
            self.send(&to, from_host::Message::Canary(report)).await?;
        }
        self.follow(from, to, &mut changed, interval_ms).await
    }

    fn hello(&self) -> v1::Hello {
        let link = self.link;
        let clusters = link.settings.installations.iter().map(|i| &i.cluster);
        let mark = link.ledger.mark(None);
        let lost = link.ledger.lost().unwrap_or_default();
        link.ledger.state(|state| v1::Hello {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            wire: WIRE,
            host: link.settings.host.to_string(),
            clusters: clusters.clone().map(ToString::to_string).collect(),
            ledger_id: link.ledger.id().to_string(),
            ledger_position: mark.position,
            ledger_chain: mark.chain,
            readmitted: state.readmitted.clone().unwrap_or_default(),
            boot_id: link.boot_id.clone(),
            fences: clusters
                .map(|cluster| v1::FenceState {
                    cluster: cluster.to_string(),
                    floor: state.floor.0,
                    open_hold: state.open_hold().map_or(0, |token| token.0),
                    last_order: state.last_order(cluster).0,
                })
                .collect(),
            session_id: link.session_id.clone(),
            own_token: state.own.0,
            promised_for: state.promised_for.iter().map(promised_for).collect(),
            ledger_lost: lost,
        })
    }

    /// Takes the welcome in; returns the look interval.
    fn welcomed(&mut self, address: &str, welcome: &v1::Welcome) -> Result<u64, Ended> {
        self.coordinators.clone_from(&welcome.coordinators);
        if !welcome.leads {
            return Err(Ended::NotLeader { leader: welcome.leader_address.clone() });
        }
        let by = orders::authority(welcome.authority.as_ref());
        let raise = self.raise(welcome);
        let (position, known) = self.link.ledger.decide(|state| {
            match fence::welcome(state, &by, welcome.membership, raise.as_ref()) {
                Ok(news) => (news, Ok(state.position)),
                Err(refusal) => (None, Err(refusal)),
            }
        })?;
        let before = known.map_err(|refusal| {
            self.broken(format!("{}: refused: {}", refusal.code, refusal.why))
        })?;
        // The entry that was just made must not hide that the ledger is an old copy.
        self.amnesic = welcome.committed_position > before
            || !welcome.amnesic.is_empty()
            || self.link.ledger.lost().is_some();
        let trust = if self.amnesic { Trust::Amnesic } else { Trust::Confirmed };
        if self.amnesic {
            tracing::error!(
                code = %Code::AgentAmnesic, position, committed = welcome.committed_position,
                why = welcome.amnesic, "the coordinators know a newer ledger of this host"
            );
        }
        self.wish(welcome, &by);
        self.link.trust.send_replace(trust);
        self.worked = true;
        self.reported = welcome.committed_position;
        tracing::info!(
            address,
            coordinator = welcome.coordinator,
            term = by.term.0,
            "connected to the coordinator"
        );
        let own = u64::try_from(self.link.settings.look_interval.as_millis()).unwrap_or(u64::MAX);
        Ok(match welcome.look_interval_ms {
            0 => own,
            told => u64::from(told),
        })
    }

    /// Hands a readmission that comes with a welcome to the runner, which takes it in between two
    /// steps; then the next hello says so.
    fn wish(&mut self, welcome: &v1::Welcome, by: &Authority) {
        let Some(document) = &welcome.readmit else { return };
        match document::read::<Readmit>("readmission", Some(document)) {
            Ok(readmit) => {
                self.readmission = Some(readmit.act.clone());
                let wish = Wish { readmit, by: by.clone(), amnesic: self.amnesic };
                self.link.wish.send_replace(Some(wish));
            }
            Err(error) => tracing::warn!(%error, "a readmission that cannot be read"),
        }
    }

    /// Ends the session when the readmission that came with its welcome is in the ledger.
    fn readmitted(&self) -> Result<(), Ended> {
        let taken = self.link.ledger.state(|state| state.readmitted.clone());
        if self.readmission.is_some() && self.readmission == taken {
            self.link.wish.send_replace(None);
            return Err(self.broken("the host is readmitted: saying hello again"));
        }
        Ok(())
    }

    /// Returns the operator's act that comes with a welcome, if its signature is good.
    fn raise(&self, welcome: &v1::Welcome) -> Option<Raise> {
        let signed: SignedRaise = document::read("raise", Some(welcome.raise.as_ref()?)).ok()?;
        match grayfin_proto::raise::verify(&self.link.settings.tls.ca, &signed) {
            Ok((raise, by)) => {
                tracing::debug!(act = raise.act, by, incarnation = %raise.to, "operator's act");
                Some(raise)
            }
            Err(error) => {
                tracing::warn!(%error, "an operator's act that cannot be verified");
                None
            }
        }
    }

    async fn follow(
        &mut self,
        mut from: Streaming<v1::ToHost>,
        to: mpsc::Sender<v1::FromHost>,
        changed: &mut watch::Receiver<u64>,
        interval_ms: u64,
    ) -> Result<std::convert::Infallible, Ended> {
        let mut looking = interval(Duration::from_millis(interval_ms.max(10)));
        looking.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Facts that waited for a session would look fresh: their age is measured from receipt.
        while self.queues.looks.try_recv().is_ok() {}
        self.readmitted()?;
        self.report(&to).await?;
        loop {
            tokio::select! {
                message = from.message() => {
                    let message = message
                        .map_err(|status| self.broken(status.message()))?
                        .ok_or_else(|| self.broken("the coordinator ended the session"))?;
                    self.receive(&to, message).await?;
                }
                changed = changed.changed() => {
                    changed.map_err(|_| self.broken("the ledger is gone"))?;
                    self.readmitted()?;
                    self.report(&to).await?;
                }
                Some(report) = self.queues.passing.recv() => {
                    // Nobody should read of a step's progress before its beginning.
                    self.report(&to).await?;
                    self.send(&to, from_host::Message::Report(document::wrap(&report))).await?;
                }
                Some(report) = self.queues.canary.recv() => {
                    self.send(&to, from_host::Message::Canary(report)).await?;
                }
                Some(facts) = self.queues.looks.recv() => self.send(&to, facts).await?,
                Some(done) = self.queues.done.recv() => {
                    let link = self.link;
                    let answer =
                        orders::carried_out(&link.ledger, self.amnesic, &link.boot_id, done)?;
                    self.send(&to, from_host::Message::Order(answer)).await?;
                }
                _ = looking.tick() => {
                    for installation in &self.link.settings.installations {
                        self.looks.ask(&installation.cluster, Ask::Host);
                    }
                }
            }
        }
    }

    async fn send(
        &self,
        to: &mpsc::Sender<v1::FromHost>,
        message: from_host::Message,
    ) -> Result<(), Ended> {
        send(to, message).await.map_err(|why| self.broken(why))
    }

    /// Sends what the ledger has to report beyond what was sent.
    async fn report(&mut self, to: &mpsc::Sender<v1::FromHost>) -> Result<(), Ended> {
        while !self.amnesic && self.reported < self.link.ledger.position() {
            let (reports, upto) = self.link.ledger.reports_after(self.reported, REPORTS_MAX)?;
            for report in reports {
                self.send(to, from_host::Message::Report(document::wrap(&report))).await?;
            }
            self.reported = upto;
        }
        Ok(())
    }

    async fn receive(
        &mut self,
        to: &mpsc::Sender<v1::FromHost>,
        message: v1::ToHost,
    ) -> Result<(), Ended> {
        let Some(message) = message.message else {
            tracing::warn!("a message of a kind that this version does not know");
            return Ok(());
        };
        match message {
            to_host::Message::Welcome(_) | to_host::Message::Prove(_) => {
                return Err(self.broken("a second welcome"));
            }
            to_host::Message::Observe(wanted) => self.observe(&wanted),
            to_host::Message::Promise(asked) => {
                let answer = orders::promise(&self.link.ledger, self.amnesic, asked)?;
                self.send(to, from_host::Message::Promise(answer)).await?;
            }
            to_host::Message::Order(order) => {
                let link = self.link;
                match orders::take(&link.ledger, self.amnesic, &link.boot_id, &order)? {
                    Taken::Answered(answer) => {
                        self.send(to, from_host::Message::Order(answer)).await?;
                    }
                    Taken::CarryOut(order) => self.looks.carry_out(*order),
                }
            }
            to_host::Message::Committed(committed) => {
                tracing::debug!(position = committed.position, "reports committed");
            }
            to_host::Message::Go(answer) => self.link.answer_go(answer),
            // We only ever answer pings; HTTP/2 keepalive finds a dead coordinator in 3 s.
            to_host::Message::Ping(ping) => self.send(to, from_host::Message::Ping(ping)).await?,
        }
        Ok(())
    }

    fn observe(&self, wanted: &v1::Observe) {
        let cluster = wanted.cluster.parse().ok();
        let installation = cluster.and_then(|c| self.link.settings.installation(&c));
        let Some(installation) = installation else {
            tracing::warn!(cluster = wanted.cluster, "asked to look at a cluster that is not here");
            return;
        };
        if wanted.package_version.is_empty() {
            self.looks.ask(&installation.cluster, Ask::Host);
        } else {
            let version = wanted.package_version.clone();
            self.looks.ask(&installation.cluster, Ask::Package { version });
        }
        if wanted.whole_cluster {
            self.looks.ask(&installation.cluster, Ask::Cluster { chunks: wanted.chunks });
        }
    }
}

fn promised_for((host, token): (&HostId, &Token)) -> v1::PromisedFor {
    v1::PromisedFor { host: host.to_string(), token: token.0 }
}

fn connected(link: &Link, to: &mpsc::Sender<v1::FromHost>, channel: &Channel) -> Connected {
    Connected { id: link.number(), to: to.clone(), channel: channel.clone() }
}

async fn send(
    to: &mpsc::Sender<v1::FromHost>,
    message: from_host::Message,
) -> Result<(), &'static str> {
    let deadline = Instant::now() + SEND_MAX;
    let message = v1::FromHost { message: Some(message) };
    match tokio::time::timeout_at(deadline, to.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err("the connection is gone"),
        Err(_) => Err("the coordinator does not read"),
    }
}
