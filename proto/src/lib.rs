//! The wire contract: generated messages and services, documents, and the TLS set-up that both
//! ends share.

pub mod clock;
pub mod document;
pub mod identity;
pub mod pki;
pub mod raise;
pub mod tls;

/// Messages and services generated from `proto/grayfin.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::allow_attributes, reason = "generated")]
#[allow(
    clippy::large_futures,
    clippy::or_fun_call,
    clippy::wildcard_enum_match_arm,
    clippy::use_self,
    clippy::semicolon_if_nothing_returned,
    clippy::allow_attributes_without_reason,
    let_underscore_drop,
    unused_qualifications,
    reason = "generated"
)]
pub mod v1 {
    tonic::include_proto!("grayfin.v1");
}

/// The wire version that this build speaks; `Hello` carries it.
pub const WIRE: u32 = 1;

/// The DNS name in every coordinator's certificate, whatever its address.
pub const COORDINATOR_NAME: &str = "coordinator";

/// The largest message either side accepts, in bytes: a plan for 100 hosts is about 1 MiB.
pub const MESSAGE_MAX: usize = 64 << 20;
