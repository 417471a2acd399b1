//! Who a certificate says its owner is: `urn:grayfin:<role>:<id>[:<generation>]`.

use std::fmt;

use grayfin_types::{Generation, HostId};

/// An identity read from, or to be written into, a certificate's URI name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A coordinator with its id.
    Coordinator(u64),
    /// A host agent, bound to one host and one enrolment generation.
    HostAgent {
        /// The host.
        host: HostId,
        /// The generation; an older one is refused.
        generation: Generation,
    },
    /// A person or program that may change things.
    Operator(String),
    /// A person or program that may only look.
    Viewer(String),
}

/// Why a certificate is not accepted as an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The peer showed none.
    #[error(
        "the peer showed no client certificate: point GRAYFIN_CERT and GRAYFIN_KEY at one made by `grayfin pki`"
    )]
    NoCertificate,
    /// It is not one of ours.
    #[error("the certificate carries no Grayfin identity (URI name `urn:grayfin:…`): {0}")]
    NotOurs(String),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(id) => write!(f, "urn:grayfin:coordinator:{id}"),
            Self::HostAgent { host, generation } => {
                write!(f, "urn:grayfin:agent:{host}:{generation}")
            }
            Self::Operator(name) => write!(f, "urn:grayfin:operator:{name}"),
            Self::Viewer(name) => write!(f, "urn:grayfin:viewer:{name}"),
        }
    }
}

impl std::str::FromStr for Identity {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self, Error> {
        let bad = || Error::NotOurs(uri.chars().take(200).collect());
        let parts: Vec<&str> = uri.split(':').collect();
        match parts.as_slice() {
            ["urn", "grayfin", "coordinator", id] => {
                id.parse().map(Self::Coordinator).map_err(|_| bad())
            }
            ["urn", "grayfin", "agent", host, generation] => Ok(Self::HostAgent {
                host: host.parse().map_err(|_| bad())?,
                generation: Generation(generation.parse().map_err(|_| bad())?),
            }),
            ["urn", "grayfin", "operator", name] if !name.is_empty() => {
                Ok(Self::Operator((*name).to_owned()))
            }
            ["urn", "grayfin", "viewer", name] if !name.is_empty() => {
                Ok(Self::Viewer((*name).to_owned()))
            }
            _ => Err(bad()),
        }
    }
}

/// Reads the identity of a request's peer from its certificate.
pub fn of_peer<T>(request: &tonic::Request<T>) -> Result<Identity, Error> {
    let certificates = request.peer_certs().ok_or(Error::NoCertificate)?;
    of_certificate(certificates.first().ok_or(Error::NoCertificate)?)
}

/// Reads the identity from a DER certificate.
pub fn of_certificate(der: &[u8]) -> Result<Identity, Error> {
    let not_ours = |e: &dyn fmt::Display| Error::NotOurs(e.to_string());
    let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|e| not_ours(&e))?;
    let names = certificate.subject_alternative_name().map_err(|e| not_ours(&e))?;
    names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .find_map(|name| {
            if let x509_parser::extensions::GeneralName::URI(uri) = name {
                Some(uri.parse())
            } else {
                None
            }
        })
        .unwrap_or_else(|| Err(Error::NotOurs("no URI name".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_survive_the_round_trip_and_others_are_refused() {
        for text in [
            "urn:grayfin:coordinator:3",
            "urn:grayfin:agent:db43:2",
            "urn:grayfin:operator:ann",
            "urn:grayfin:viewer:wall",
        ] {
            assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
        }
        for text in
            ["", "urn:grayfin:agent:db43", "urn:other:operator:x", "urn:grayfin:coordinator:x"]
        {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
    }
}
