//! The Raft engine's messages in our envelope: a version byte, JSON, and both ends' instance ids.

use std::time::Duration;

use grayfin_proto::v1::Sealed;
use serde::{Serialize, de::DeserializeOwned};
use tonic::{Request, Status};

/// The form of the messages; a change of the engine that changes them needs the next number.
const VERSION: u8 = 1;

/// Wraps a message.
pub(crate) fn wrap<T: Serialize>(message: &T, from: &str, to: &str) -> Result<Sealed, Status> {
    let mut data = vec![VERSION];
    serde_json::to_writer(&mut data, message)
        .map_err(|e| Status::internal(format!("encode a message of the group: {e}")))?;
    Ok(Sealed { data, from_instance: from.to_owned(), to_instance: to.to_owned() })
}

/// Wraps a message as a request with a deadline.
pub(crate) fn request<T: Serialize>(
    message: &T,
    from: &str,
    to: &str,
    deadline: Duration,
) -> Result<Request<Sealed>, Status> {
    let mut request = Request::new(wrap(message, from, to)?);
    request.set_timeout(deadline);
    Ok(request)
}

/// Reads a message.
pub(crate) fn unwrap<T: DeserializeOwned>(sealed: &Sealed) -> Result<T, Status> {
    match sealed.data.split_first() {
        Some((&VERSION, json)) => serde_json::from_slice(json).map_err(|e| {
            Status::invalid_argument(format!("a malformed message of the group: {e}"))
        }),
        Some((other, _)) => Err(Status::failed_precondition(format!(
            "a message of the group has version {other}, this build reads {VERSION}: upgrade the older coordinator"
        ))),
        None => Err(Status::invalid_argument("an empty message of the group")),
    }
}
