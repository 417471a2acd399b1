//! The called side: what other coordinators of the group may ask.

use std::{fmt, io::Cursor};

use grayfin_proto::{
    identity::{self, Identity},
    v1::{Empty, Introduction, Sealed, group_server::Group},
};
use grayfin_types::Code;
use openraft::{
    Snapshot, SnapshotMeta, Vote,
    raft::{AppendEntriesRequest, VoteRequest},
};
use tonic::{Request, Response, Status, Streaming};

use super::wire;
use crate::{
    server::status,
    store::{
        Replicated, Store,
        types::{NodeInfo, Raft, TypeConfig},
    },
};

/// The largest snapshot that is taken in; it is held in memory while it is installed.
const SNAPSHOT_MAX: usize = 1 << 30;

/// The `Group` service of this coordinator.
#[derive(Clone)]
pub struct GroupService {
    store: Replicated,
    raft: Raft,
    instance: String,
}

impl fmt::Debug for GroupService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupService").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl GroupService {
    /// Serves the engine of this store.
    pub fn new(store: &Replicated) -> Self {
        Self {
            store: store.clone(),
            raft: store.raft().clone(),
            instance: store.instance().to_owned(),
        }
    }

    /// Only coordinators speak here, each for itself, and with the folder that the group knows: a
    /// wiped voter under its old id may have forgotten a vote or acknowledged entries.
    fn check_caller<T>(&self, request: &Request<T>) -> Result<u64, Status> {
        match identity::of_peer(request) {
            Ok(Identity::Coordinator(id)) => {
                if self.store.state().coordinators.removed.contains(&id) {
                    return Err(self.refuse_removed(id));
                }
                Ok(id)
            }
            Ok(other) => Err(Status::permission_denied(format!(
                "GF0708: `{other}` is no coordinator, and only coordinators may call this"
            ))),
            Err(error) => Err(Status::unauthenticated(format!("GF0103: {error}"))),
        }
    }

    /// A removal is recorded first and done then; until it is done its vote may be needed for just
    /// that, so it is only told to end when it is out.
    fn refuse_removed(&self, id: u64) -> Status {
        let (kind, why) = if self.store.applied_members().contains(&id) {
            (tonic::Code::FailedPrecondition, "is being removed from the group")
        } else {
            (tonic::Code::PermissionDenied, "was removed from the group: stop it")
        };
        status::of(Code::CoordinatorRefused, kind, &format!("coordinator {id} {why}"))
    }

    fn check_instances(&self, caller: u64, message: &Sealed) -> Result<(), Status> {
        if message.to_instance != self.instance {
            return Err(Status::failed_precondition(format!(
                "the group knows this coordinator as instance `{}`, but its state folder is `{}`: remove it from the group and add it again",
                message.to_instance, self.instance
            )));
        }
        let metrics = self.raft.metrics().borrow().clone();
        let known = metrics.membership_config.membership().get_node(&caller).cloned();
        match known {
            Some(NodeInfo { instance, .. }) if instance != message.from_instance => {
                Err(Status::failed_precondition(format!(
                    "coordinator {caller} is known as instance `{instance}`, but the call comes from `{}`: remove it from the group and add it again",
                    message.from_instance
                )))
            }
            _ => Ok(()),
        }
    }
}

/// A message says in whose name it is sent; it must be the caller's.
fn check_voice(caller: u64, vote: &Vote<u64>) -> Result<(), Status> {
    let named = vote.leader_id().node_id;
    if named == caller {
        Ok(())
    } else {
        Err(Status::permission_denied(format!(
            "GF0708: coordinator {caller} spoke in the name of coordinator {named}"
        )))
    }
}

#[tonic::async_trait]
impl Group for GroupService {
    async fn append(&self, request: Request<Sealed>) -> Result<Response<Sealed>, Status> {
        let caller = self.check_caller(&request)?;
        let message = request.into_inner();
        self.check_instances(caller, &message)?;
        let rpc: AppendEntriesRequest<TypeConfig> = wire::unwrap(&message)?;
        check_voice(caller, &rpc.vote)?;
        let outcome = self.raft.append_entries(rpc).await;
        wire::wrap(&outcome, &self.instance, &message.from_instance).map(Response::new)
    }

    async fn vote(&self, request: Request<Sealed>) -> Result<Response<Sealed>, Status> {
        let caller = self.check_caller(&request)?;
        let message = request.into_inner();
        self.check_instances(caller, &message)?;
        let rpc: VoteRequest<u64> = wire::unwrap(&message)?;
        check_voice(caller, &rpc.vote)?;
        let outcome = self.raft.vote(rpc).await;
        wire::wrap(&outcome, &self.instance, &message.from_instance).map(Response::new)
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<Sealed>>,
    ) -> Result<Response<Sealed>, Status> {
        let caller = self.check_caller(&request)?;
        let mut stream = request.into_inner();
        let head = stream
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("a snapshot without a head"))?;
        self.check_instances(caller, &head)?;
        let (vote, meta): (Vote<u64>, SnapshotMeta<u64, NodeInfo>) = wire::unwrap(&head)?;
        check_voice(caller, &vote)?;
        let mut data = Vec::new();
        while let Some(piece) = stream.message().await? {
            if data.len() + piece.data.len() > SNAPSHOT_MAX {
                return Err(Status::resource_exhausted("the snapshot is larger than 1 GiB"));
            }
            data.extend_from_slice(&piece.data);
        }
        let snapshot = Snapshot { meta, snapshot: Box::new(Cursor::new(data)) };
        let outcome = self.raft.install_full_snapshot(vote, snapshot).await;
        wire::wrap(&outcome, &self.instance, &head.from_instance).map(Response::new)
    }

    async fn introduce(&self, request: Request<Empty>) -> Result<Response<Introduction>, Status> {
        self.check_caller(&request)?;
        let grouped = self.raft.is_initialized().await;
        let grouped = grouped.map_err(|e| Status::internal(format!("GF9999: {e}")))?;
        Ok(Response::new(Introduction {
            id: self.store.id(),
            instance: self.instance.clone(),
            grouped,
            group: self.store.state().group.clone(),
        }))
    }
}
