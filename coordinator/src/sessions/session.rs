//! One host agent's session, from its hello to its end.

use std::{sync::Arc, time::Duration};

use grayfin_coordinator_core::{Cmd, Response, cmd::Enrol};
use grayfin_proto::{
    document,
    v1::{self, FromHost, Hello, Welcome, from_host, to_host},
};
use grayfin_types::{
    Code, Generation, HostId,
    ledger::{LedgerMark, Readmit},
    step::Happened,
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{
    commit::{self, Item},
    incoming::{self, Error, Peer},
    links::{Outgoing, to_host},
};
use crate::{clock::monotonic_ms, server::status, shared::Shared};

/// A hello comes right away.
const HELLO_MAX: Duration = Duration::from_secs(5);

/// A coordinator that just took the lead confirms and records that first.
const DRIVING_MAX: Duration = Duration::from_secs(5);

/// A host agent sends facts or a ping at every look interval, which is a minute at most.
const SILENT_MAX: Duration = Duration::from_mins(3);

/// What waits to be committed. A host agent that is further ahead is not read from meanwhile.
const COMMIT_QUEUE: usize = 256;

/// For telling a host agent why its session ends.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Runs a session to its end.
pub(crate) async fn run(
    shared: Arc<Shared>,
    host: HostId,
    generation: Generation,
    mut incoming: Streaming<FromHost>,
    out: Outgoing,
) {
    let end = match greet(&shared, host.clone(), generation, &mut incoming, &out).await {
        Ok(Some(session)) => session.serve(&mut incoming).await,
        Ok(None) => return,
        Err(status) => status,
    };
    tracing::info!(%host, code = ?end.code(), reason = end.message(), "host agent's session ended");
    // The other end may be gone already, which is a reason like any other.
    drop(tokio::time::timeout(FAREWELL_MAX, out.send(Err(end))).await);
}

/// Hello, enrolment, welcome. Returns none for a host agent that was sent to the leader.
async fn greet(
    shared: &Arc<Shared>,
    host: HostId,
    generation: Generation,
    incoming: &mut Streaming<FromHost>,
    out: &Outgoing,
) -> Result<Option<Session>, Status> {
    let first = tokio::time::timeout(HELLO_MAX, incoming.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no hello came"))??;
    let Some(from_host::Message::Hello(hello)) = first.and_then(|m| m.message) else {
        return Err(Status::invalid_argument("GF0703: a session begins with a hello"));
    };
    let peer = Peer::greet(host, generation, &hello).map_err(|e| e.status())?;
    if !drives(shared).await {
        send(out, welcome(shared, None)).await?;
        return Ok(None);
    }
    let proof = prove(shared, &peer, &hello, incoming, out).await?;
    let enrol = peer.enrol(&hello, proof).map_err(|e| e.status())?;
    refuse_a_double(shared, &enrol)?;
    let enrol = Cmd::Enrol(enrol);
    match shared.store.propose(enrol).await {
        Ok(Response::Enrolled { amnesic, committed_position, readmit }) => {
            if let Some(why) = &amnesic {
                tracing::warn!(host = %peer.host, %why, "the host agent may only look");
            }
            let enrolled = Enrolled { amnesic, committed_position, readmit };
            open(shared, peer, &hello, &enrolled, out).await.map(Some)
        }
        Ok(Response::Ignored { why }) => Err(Status::unavailable(why)),
        Ok(Response::Refused { code, why }) => {
            Err(status::of(code, tonic::Code::PermissionDenied, &why))
        }
        Ok(other) => Err(Status::internal(format!("GF9999: an enrolment was answered {other:?}"))),
        Err(refused) => Err(status::refused(&refused)),
    }
}

/// Refuses another host agent under the name of one that is there: it has a ledger of its own. The
/// one that is there keeps its session; were it the wrong one, an operator would have to say so.
fn refuse_a_double(shared: &Shared, hello: &Enrol) -> Result<(), Status> {
    let state = shared.store.state();
    let Some(known) = state.hosts.get(&hello.host) else { return Ok(()) };
    let double = known.generation == hello.generation
        && known.ledger_id != hello.ledger_id
        && known.amnesic.is_none()
        && shared.sight.read(|view| view.is_connected(&hello.host));
    if !double {
        return Ok(());
    }
    let why = format!(
        "another host agent is connected as `{}`, with ledger `{}`: give each host a name and a certificate of its own; if this one is to take its place, stop the other first",
        hello.host, known.ledger_id
    );
    Err(status::of(Code::BadIdentity, tonic::Code::PermissionDenied, &why))
}

/// What an enrolment was answered with.
struct Enrolled {
    amnesic: Option<String>,
    committed_position: u64,
    readmit: Option<Readmit>,
}

/// Asks what the host agent's ledger holds at the position at which it was known last (S8). None where
/// nothing is known, or where the host agent does not know of the running hash.
async fn prove(
    shared: &Shared,
    peer: &Peer,
    hello: &Hello,
    incoming: &mut Streaming<FromHost>,
    out: &Outgoing,
) -> Result<Option<LedgerMark>, Status> {
    let mark = shared.store.state().hosts.get(&peer.host).and_then(|e| e.mark.clone());
    let Some(mark) = mark.filter(|_| !hello.ledger_chain.is_empty()) else { return Ok(None) };
    let position = mark.position;
    send(out, to_host(to_host::Message::Prove(v1::ProveLedger { position }))).await?;
    let answer = tokio::time::timeout(HELLO_MAX, incoming.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no proof of the ledger came"))??;
    if let Some(from_host::Message::Proof(proof)) = answer.and_then(|m| m.message)
        && proof.position == position
    {
        return Ok(Some(LedgerMark { position, chain: incoming::chain(&proof.chain) }));
    }
    Err(Status::invalid_argument("GF0703: the proof of the ledger was awaited"))
}

async fn drives(shared: &Shared) -> bool {
    if !shared.leadership().leads {
        return false;
    }
    let mut driving = shared.driving.subscribe();
    let waited = driving.wait_for(|_| shared.drives() || !shared.leadership().leads);
    matches!(tokio::time::timeout(DRIVING_MAX, waited).await, Ok(Ok(_))) && shared.drives()
}

/// Makes the welcome; one without an enrolment sends to the leader.
fn welcome(shared: &Shared, enrolled: Option<&Enrolled>) -> v1::ToHost {
    let leads = enrolled.is_some();
    let leader = shared.leadership().leader.map(|(_, address)| address);
    let interval = shared.config.look_interval.as_millis();
    to_host(to_host::Message::Welcome(Welcome {
        authority: Some(shared.authority()),
        coordinator: shared.store.id(),
        leads,
        leader_address: leader.filter(|_| !leads).unwrap_or_default(),
        coordinators: shared.store.members().into_iter().map(|m| m.address).collect(),
        committed_position: enrolled.map_or(0, |e| e.committed_position),
        look_interval_ms: u32::try_from(interval).unwrap_or(u32::MAX),
        membership: shared.store.membership(),
        raise: shared.store.state().coordinators.raise.as_ref().map(document::wrap),
        amnesic: enrolled.and_then(|e| e.amnesic.clone()).unwrap_or_default(),
        readmit: enrolled.and_then(|e| e.readmit.as_ref()).map(document::wrap),
    }))
}

async fn open(
    shared: &Arc<Shared>,
    peer: Peer,
    hello: &Hello,
    enrolled: &Enrolled,
    out: &Outgoing,
) -> Result<Session, Status> {
    let committed_position = enrolled.committed_position;
    let connection = peer.connection(hello, monotonic_ms()).map_err(|e| e.status())?;
    let session_id = connection.session_id.clone();
    // First of all, so that nothing can be in front of it.
    send(out, welcome(shared, Some(enrolled))).await?;
    shared.sight.update(|view| view.connected(&peer.host, connection));
    let registered = shared.links.add(&peer.host, out.clone(), enrolled.amnesic.is_none());
    // Its promises may show that others' ledgers are old; and theirs, just now, that its own is.
    shared.links.end_amnesic(&shared.store.state());
    tracing::info!(
        host = %peer.host,
        version = hello.agent_version,
        committed_position,
        "host agent connected"
    );
    Ok(Session {
        shared: Arc::clone(shared),
        peer,
        session_id,
        serial: registered.serial,
        ended: registered.ended,
        out: out.clone(),
        last_ping: None,
    })
}

async fn send(out: &Outgoing, message: v1::ToHost) -> Result<(), Status> {
    out.send(Ok(message)).await.map_err(|_| Status::cancelled("the host agent is gone"))
}

struct Session {
    shared: Arc<Shared>,
    peer: Peer,
    session_id: String,
    serial: u64,
    ended: tokio::sync::oneshot::Receiver<Status>,
    out: Outgoing,
    last_ping: Option<u64>,
}

impl Session {
    async fn serve(mut self, incoming: &mut Streaming<FromHost>) -> Status {
        let (items, queue) = mpsc::channel(COMMIT_QUEUE);
        // It outlives the session until everything that was taken in is committed.
        let mut committer = tokio::spawn(commit::run(
            Arc::clone(&self.shared),
            self.peer.clone(),
            queue,
            self.out.clone(),
        ));
        let end = loop {
            let message = tokio::select! {
                ended = &mut self.ended => {
                    break ended.unwrap_or_else(|_| Status::aborted("the session was removed"));
                }
                failed = &mut committer => {
                    break failed.unwrap_or_else(|e| Status::internal(format!("GF9999: {e}")));
                }
                () = self.shared.stopped() => break Status::unavailable("the coordinator stops"),
                message = tokio::time::timeout(SILENT_MAX, incoming.message()) => message,
            };
            match message {
                Err(_) => {
                    break Status::deadline_exceeded("the host agent was silent for too long");
                }
                Ok(Err(status)) => break status,
                Ok(Ok(None)) => break Status::cancelled("the host agent closed its session"),
                Ok(Ok(Some(FromHost { message: Some(message) }))) => {
                    if let Err(status) = self.take(message, &items).await {
                        break status;
                    }
                }
                // A newer host agent's message that this build does not know.
                Ok(Ok(Some(FromHost { message: None }))) => {}
            }
        };
        self.shared.links.remove(&self.peer.host, self.serial);
        let (host, id) = (&self.peer.host, &self.session_id);
        self.shared.sight.update(|view| view.disconnected(host, id, monotonic_ms()));
        end
    }

    async fn take(
        &mut self,
        message: from_host::Message,
        items: &mpsc::Sender<Item>,
    ) -> Result<(), Status> {
        if let from_host::Message::Ping(ping) = message {
            return self.echo(&ping).await;
        }
        let item = self.read(message).map_err(|e| {
            tracing::warn!(host = %self.peer.host, error = %e, "message not accepted");
            e.status()
        })?;
        if let Some(item) = item {
            items.send(item).await.map_err(|_| Status::internal("GF9999: nobody commits"))?;
        }
        Ok(())
    }

    /// Puts observations into the view and returns what has to be committed.
    fn read(&self, message: from_host::Message) -> Result<Option<Item>, Error> {
        let shared = &self.shared;
        Ok(match message {
            from_host::Message::HostFacts(facts) => {
                let facts = self.peer.host_facts(&facts)?;
                shared.links.looked(&facts.host, &facts.cluster, false);
                let state = shared.store.state();
                shared.sight.update(|view| view.host_facts(&state, facts, monotonic_ms()));
                None
            }
            from_host::Message::ClusterFacts(facts) => {
                let facts = self.peer.cluster_facts(&facts)?;
                shared.links.looked(&facts.seen_from, &facts.cluster, true);
                let state = shared.store.state();
                shared.sight.update(|view| view.cluster_facts(&state, facts, monotonic_ms()));
                None
            }
            from_host::Message::Report(report) => {
                let report = self.peer.report(&report)?;
                if report.position == 0 && matches!(report.happened, Happened::Progress { .. }) {
                    shared.sight.update(|view| view.progress(report));
                    None
                } else {
                    Some(Item::Command(Box::new(Cmd::Reported { report })))
                }
            }
            from_host::Message::Canary(report) => {
                let report = self.peer.canary(&report)?;
                if report.order.0 == 0 {
                    let now = monotonic_ms();
                    shared.sight.update(|view| {
                        let host = &report.host;
                        view.canary_report(&report.rollout, host, report.epoch, report.status, now);
                    });
                    None
                } else {
                    Some(Item::Command(Box::new(Cmd::CanaryReported(report))))
                }
            }
            from_host::Message::Promise(answer) => {
                Some(Item::Command(Box::new(self.peer.promise(&answer)?)))
            }
            from_host::Message::Order(answer) => {
                Some(Item::Command(Box::new(self.peer.order(&answer)?)))
            }
            from_host::Message::Go(request) => Some(Item::Go(self.peer.go(&request)?)),
            from_host::Message::Hello(_) => {
                return Err(Error::Malformed("a second hello in one session".to_owned()));
            }
            from_host::Message::Ping(_) | from_host::Message::Proof(_) => None,
        })
    }

    async fn echo(&mut self, ping: &v1::Ping) -> Result<(), Status> {
        // Once per nonce, so that two ends which both echo do not play ping-pong for ever.
        if self.last_ping.replace(ping.nonce) == Some(ping.nonce) {
            return Ok(());
        }
        send(&self.out, to_host(to_host::Message::Ping(v1::Ping { nonce: ping.nonce }))).await
    }
}
