//! The calling side: how this coordinator reaches the others of its group.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use grayfin_proto::{
    MESSAGE_MAX, tls,
    v1::{Sealed, group_client::GroupClient},
};
use openraft::{
    OptionalSend, Snapshot, Vote,
    error::{
        Fatal, NetworkError, RPCError, RaftError, RemoteError, ReplicationClosed, StreamingError,
        Unreachable,
    },
    network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tonic::{Code, Status, transport::Channel};

use super::wire;
use crate::store::types::{NodeInfo, TypeConfig};

/// A snapshot's piece; gRPC frames and the receiver's memory stay small.
const PIECE: usize = 1 << 20;

/// For a whole snapshot: 1 GiB at 20 MiB a second.
const SNAPSHOT_DEADLINE: Duration = Duration::from_mins(1);

/// Pause after a peer could not be reached. It bounds both the load of a dead peer (five tries a
/// second) and what its return costs.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(200);

type CallError<E = RaftError<u64>> = RPCError<u64, NodeInfo, E>;

/// So long a connection is used before the next call makes a new one, which presents the certificate
/// that lies there by then. One that fails is replaced at once.
const CHANNEL_AGE_MAX: Duration = Duration::from_mins(10);

/// Makes clients for the group's members.
///
/// The engine asks for a new client with every vote and with every confirmation of the lead: they share
/// one connection per member, for a TLS handshake costs each side some two milliseconds of processor
/// time.
#[derive(Debug, Clone)]
pub struct Network {
    files: tls::Files,
    instance: String,
    channels: Arc<Mutex<Channels>>,
}

/// The connections by address.
#[derive(Debug, Default)]
struct Channels {
    kept: HashMap<String, Kept>,
    /// How many were made.
    made: u64,
}

/// A connection that is used again.
#[derive(Debug, Clone)]
struct Kept {
    since: Instant,
    /// Tells it from the one that replaced it.
    number: u64,
    client: GroupClient<Channel>,
}

impl Network {
    /// Calls peers with these certificate files and as this instance.
    pub fn new(files: tls::Files, instance: String) -> Self {
        Self { files, instance, channels: Arc::default() }
    }

    /// The connection to an address. A certificate file that cannot be read at the moment must not bring
    /// the coordinator down.
    fn connection(&self, address: &str) -> Result<Kept, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let before = channels.kept.get(address);
        if let Some(kept) = before.filter(|kept| kept.since.elapsed() < CHANNEL_AGE_MAX) {
            return Ok(kept.clone());
        }
        let channel =
            self.files.channel(address).map_err(|e| Status::unavailable(e.to_string()))?;
        let client = GroupClient::new(channel)
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        channels.made += 1;
        let kept = Kept { since: Instant::now(), number: channels.made, client };
        channels.kept.insert(address.to_owned(), kept.clone());
        Ok(kept)
    }

    /// The connection failed: the next call makes a new one, unless somebody did so already.
    fn failed(&self, address: &str, number: u64) {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if channels.kept.get(address).is_some_and(|kept| kept.number == number) {
            channels.kept.remove(address);
        }
    }
}

/// A client for one member.
#[derive(Debug)]
pub struct Peer {
    network: Network,
    target: u64,
    address: String,
    instance: String,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &NodeInfo) -> Peer {
        Peer {
            network: self.clone(),
            target,
            address: node.address.clone(),
            instance: node.instance.clone(),
        }
    }
}

impl Peer {
    /// Calls the member and reads its answer.
    async fn call<Q, A, F>(
        &self,
        message: &Q,
        option: &RPCOption,
        ask: impl FnOnce(GroupClient<Channel>, tonic::Request<Sealed>) -> F,
    ) -> Result<A, CallError>
    where
        Q: Serialize + Sync,
        A: DeserializeOwned,
        F: Future<Output = Result<tonic::Response<Sealed>, Status>>,
    {
        let request = self.request(message, option).map_err(|s| failed(&s))?;
        let kept = self.network.connection(&self.address).map_err(|s| failed(&s))?;
        let called = ask(kept.client, request).await;
        if called.as_ref().is_err_and(|status| !is_late(status)) {
            self.network.failed(&self.address, kept.number);
        }
        self.answer(called)
    }

    fn request<T: Serialize>(
        &self,
        message: &T,
        option: &RPCOption,
    ) -> Result<tonic::Request<Sealed>, Status> {
        wire::request(message, &self.network.instance, &self.instance, option.hard_ttl())
    }

    #[expect(clippy::result_large_err, reason = "the engine's own type")]
    fn answer<T: DeserializeOwned>(
        &self,
        called: Result<tonic::Response<Sealed>, Status>,
    ) -> Result<T, CallError> {
        let outcome: Result<T, RaftError<u64>> = called
            .and_then(|answer| wire::unwrap(answer.get_ref()))
            .map_err(|status| failed(&status))?;
        outcome.map_err(|e| RPCError::RemoteError(RemoteError::new(self.target, e)))
    }
}

/// Only a timeout may be tried again at once. Refused, reset, not trusted, not spoken: all of them
/// must back off, or replication spins.
fn failed<E: std::error::Error>(status: &Status) -> CallError<E> {
    if is_late(status) {
        RPCError::Network(NetworkError::new(status))
    } else {
        RPCError::Unreachable(Unreachable::new(status))
    }
}

/// tonic tells a deadline of our own side as "cancelled".
fn is_late(status: &Status) -> bool {
    matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, CallError> {
        self.call(&rpc, &option, async |mut client, request| client.append(request).await).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, CallError> {
        self.call(&rpc, &option, async |mut client, request| client.vote(request).await).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let unreachable = |s: &Status| StreamingError::Unreachable(Unreachable::new(s));
        let (own, peer) = (self.network.instance.clone(), self.instance.clone());
        let head = wire::wrap(&(vote, &snapshot.meta), &own, &peer).map_err(|s| unreachable(&s))?;
        let data = snapshot.snapshot.into_inner();
        let pieces = data.chunks(PIECE).map(|piece| Sealed {
            data: piece.to_vec(),
            from_instance: own.clone(),
            to_instance: peer.clone(),
        });
        let messages: Vec<Sealed> = std::iter::once(head).chain(pieces).collect();
        let mut request = tonic::Request::new(tokio_stream::iter(messages));
        request.set_timeout(SNAPSHOT_DEADLINE);
        let mut kept = self.network.connection(&self.address).map_err(|s| unreachable(&s))?;
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            called = kept.client.snapshot(request) => {
                // Never `Network`: that would build and send the next snapshot at once.
                let answer = called.map_err(|s| unreachable(&s))?;
                let outcome: Result<SnapshotResponse<u64>, Fatal<u64>> =
                    wire::unwrap(answer.get_ref()).map_err(|s| unreachable(&s))?;
                outcome.map_err(|e| {
                    StreamingError::RemoteError(RemoteError::new(self.target, e))
                })
            }
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(UNREACHABLE_PAUSE))
    }
}
