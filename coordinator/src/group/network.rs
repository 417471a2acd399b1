//! The calling side: how this coordinator reaches the others of its group.

use std::{future::Future, time::Duration};

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

/// Makes clients for the group's members.
#[derive(Debug, Clone)]
pub struct Network {
    files: tls::Files,
    instance: String,
}

impl Network {
    /// Calls peers with these certificate files and as this instance.
    pub const fn new(files: tls::Files, instance: String) -> Self {
        Self { files, instance }
    }
}

/// A client for one member.
#[derive(Debug)]
pub struct Peer {
    target: u64,
    own_instance: String,
    instance: String,
    // A certificate file that cannot be read at the moment must not bring the coordinator down.
    client: Result<GroupClient<Channel>, String>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &NodeInfo) -> Peer {
        let client = self.files.channel(&node.address).map_err(|e| e.to_string()).map(|channel| {
            GroupClient::new(channel)
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX)
        });
        Peer {
            target,
            own_instance: self.instance.clone(),
            instance: node.instance.clone(),
            client,
        }
    }
}

impl Peer {
    fn client(&self) -> Result<GroupClient<Channel>, Status> {
        self.client.clone().map_err(Status::unavailable)
    }

    fn request<T: Serialize>(
        &self,
        message: &T,
        option: &RPCOption,
    ) -> Result<tonic::Request<Sealed>, Status> {
        wire::request(message, &self.own_instance, &self.instance, option.hard_ttl())
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
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else comes, the safe answer is to back off"
)]
fn failed<E: std::error::Error>(status: &Status) -> CallError<E> {
    match status.code() {
        // tonic tells a deadline of our own side as "cancelled".
        Code::DeadlineExceeded | Code::Cancelled => RPCError::Network(NetworkError::new(status)),
        _ => RPCError::Unreachable(Unreachable::new(status)),
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, CallError> {
        let request = self.request(&rpc, &option).map_err(|s| failed(&s))?;
        let mut client = self.client().map_err(|s| failed(&s))?;
        self.answer(client.append(request).await)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, CallError> {
        let request = self.request(&rpc, &option).map_err(|s| failed(&s))?;
        let mut client = self.client().map_err(|s| failed(&s))?;
        self.answer(client.vote(request).await)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<u64>,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let unreachable = |s: &Status| StreamingError::Unreachable(Unreachable::new(s));
        let (own, peer) = (self.own_instance.clone(), self.instance.clone());
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
        let mut client = self.client().map_err(|s| unreachable(&s))?;
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            called = client.snapshot(request) => {
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
