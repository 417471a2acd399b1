//! The service that host agents call.

use std::sync::Arc;

use grayfin_proto::v1::{
    FetchPackageRequest, FromHost, PackageChunk, ToHost, host_agent_link_server::HostAgentLink,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{packages, session};
use crate::{server::caller, shared::Shared};

/// Messages that wait for one host agent to read them. Orders and promise requests are few, looks
/// are asked for three times a second at most: a host agent that is so far behind does not read.
const QUEUE: usize = 256;

/// The `HostAgentLink` service of this coordinator.
#[derive(Debug, Clone)]
pub struct HostAgentLinkService {
    shared: Arc<Shared>,
}

impl HostAgentLinkService {
    /// Serves host agents.
    pub const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl HostAgentLink for HostAgentLinkService {
    type SessionStream = ReceiverStream<Result<ToHost, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<FromHost>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (host, generation) = caller::host_agent(&request)?;
        let (out, stream) = mpsc::channel(QUEUE);
        let shared = Arc::clone(&self.shared);
        tokio::spawn(session::run(shared, host, generation, request.into_inner(), out));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type FetchPackageStream = ReceiverStream<Result<PackageChunk, Status>>;

    async fn fetch_package(
        &self,
        request: Request<FetchPackageRequest>,
    ) -> Result<Response<Self::FetchPackageStream>, Status> {
        let (host, _) = caller::host_agent(&request)?;
        let dir = self.shared.config.package_dir.as_deref();
        packages::fetch(&host, dir, request.get_ref()).await.map(Response::new)
    }
}
