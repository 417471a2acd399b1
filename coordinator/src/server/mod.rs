//! The one port: operators, host agents and the other coordinators, all over mTLS.

pub mod caller;
mod coordinators;
mod operator;
mod planning;
pub mod status;
mod watch;

use std::{sync::Arc, time::Duration};

use grayfin_proto::{
    MESSAGE_MAX, tls,
    v1::{
        group_server::GroupServer, host_agent_link_server::HostAgentLinkServer,
        operator_server::OperatorServer,
    },
};
use tokio::net::TcpListener;

pub use operator::OperatorService;

use crate::{group::GroupService, sessions::HostAgentLinkService, shared::Shared};

/// A silent connection is asked whether it lives after this time.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// One that does not answer in this time is dropped, and its host agent counts as gone.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Serves until the coordinator is told to stop, and then until the calls that run have ended.
pub async fn run(
    shared: Arc<Shared>,
    group: GroupService,
    server: tls::Server,
    listener: TcpListener,
) -> Result<(), tonic::transport::Error> {
    let operators = OperatorServer::new(OperatorService::new(Arc::clone(&shared)))
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    let agents = HostAgentLinkServer::new(HostAgentLinkService::new(Arc::clone(&shared)))
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    let group = GroupServer::new(group)
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX);
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(operators)
        .add_service(agents)
        .add_service(group)
        .serve_with_incoming_shutdown(server.incoming(listener), async move {
            shared.stopped().await;
        })
        .await
}
