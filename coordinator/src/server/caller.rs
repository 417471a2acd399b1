//! Who calls, proven by the certificate, and what that role may do.

use grayfin_proto::identity::{self, Identity};
use grayfin_types::{Code, Generation, HostId};
use tonic::{Request, Status};

use super::status;

fn identity<T>(request: &Request<T>) -> Result<Identity, Status> {
    identity::of_peer(request)
        .map_err(|e| status::of(Code::BadIdentity, tonic::Code::Unauthenticated, &e.to_string()))
}

fn not_allowed(who: &Identity, what: &str) -> Status {
    let why = format!("`{who}` may not {what}: use a certificate of another role");
    status::of(Code::NotAllowed, tonic::Code::PermissionDenied, &why)
}

/// Returns the name of an operator, who may change things.
pub fn operator<T>(request: &Request<T>) -> Result<String, Status> {
    match identity(request)? {
        Identity::Operator(name) => Ok(name),
        other @ (Identity::Viewer(_) | Identity::HostAgent { .. } | Identity::Coordinator(_)) => {
            Err(not_allowed(&other, "change anything"))
        }
    }
}

/// Returns the name of somebody who may look.
pub fn viewer<T>(request: &Request<T>) -> Result<String, Status> {
    match identity(request)? {
        Identity::Operator(name) | Identity::Viewer(name) => Ok(name),
        other @ (Identity::HostAgent { .. } | Identity::Coordinator(_)) => {
            Err(not_allowed(&other, "call the operators' service"))
        }
    }
}

/// Returns the host and generation of a host agent.
pub fn host_agent<T>(request: &Request<T>) -> Result<(HostId, Generation), Status> {
    match identity(request)? {
        Identity::HostAgent { host, generation } => Ok((host, generation)),
        other @ (Identity::Operator(_) | Identity::Viewer(_) | Identity::Coordinator(_)) => {
            Err(not_allowed(&other, "speak as a host agent"))
        }
    }
}
