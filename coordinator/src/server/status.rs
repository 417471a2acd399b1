//! Errors of calls that did not happen, as gRPC statuses.
//!
//! Refusals of a request that was understood are values in its answer, not statuses. A status
//! carries its error code in the metadata entry `grayfin-code`, and the leader's address, where it
//! is known and another coordinator leads, in `grayfin-leader`; nobody needs to read its text.

use grayfin_types::Code;
use tonic::{
    Status,
    metadata::{Ascii, MetadataValue},
};

use crate::store::Refused;

/// The metadata entry with the error code.
pub const CODE: &str = "grayfin-code";

/// The metadata entry with the leader's address.
pub const LEADER: &str = "grayfin-leader";

/// The metadata entry of an answer that may be old.
pub const STALE: &str = "grayfin-stale";

/// Makes a status with an error code.
pub fn of(code: Code, kind: tonic::Code, message: &str) -> Status {
    let mut status = Status::new(kind, format!("{code}: {message}"));
    status.metadata_mut().insert(CODE, MetadataValue::from_static(code.as_str()));
    status
}

/// Makes the status for a command or read that the store did not answer.
pub fn refused(refused: &Refused) -> Status {
    let kind = match refused {
        Refused::NotLeader { .. } | Refused::Group(_) => tonic::Code::FailedPrecondition,
        Refused::NoQuorum => tonic::Code::Unavailable,
        Refused::Stopped(_) => tonic::Code::Internal,
    };
    let mut status = Status::new(kind, refused.to_string());
    status.metadata_mut().insert(CODE, MetadataValue::from_static(refused.code().as_str()));
    if let Refused::NotLeader { leader: Some((_, address)) } = refused
        && let Ok(address) = MetadataValue::<Ascii>::try_from(address.as_str())
    {
        status.metadata_mut().insert(LEADER, address);
    }
    status
}
