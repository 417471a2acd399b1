//! Documents: typed JSON inside the gRPC envelope.

use serde::{Serialize, de::DeserializeOwned};

use crate::v1::Document;

/// Why a document could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The writer is newer than we are.
    #[error(
        "a `{what}` document has schema {found}, this build reads up to {known}: upgrade this side"
    )]
    Newer {
        /// Which document.
        what: &'static str,
        /// Its schema.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// It is not there.
    #[error("a `{0}` document is missing")]
    Missing(&'static str),
    /// It is not what it should be.
    #[error("a `{what}` document is malformed")]
    Malformed {
        /// Which document.
        what: &'static str,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
}

/// Wraps a value. Panics never: our types have no map with keys other than text.
pub fn wrap<T: Serialize>(value: &T) -> Document {
    Document {
        schema: grayfin_types::SCHEMA,
        json: serde_json::to_vec(value).expect("plain data types always serialise"),
    }
}

/// Reads a document that must be there.
pub fn read<T: DeserializeOwned>(
    what: &'static str,
    document: Option<&Document>,
) -> Result<T, Error> {
    let document = document.ok_or(Error::Missing(what))?;
    if document.schema > grayfin_types::SCHEMA {
        return Err(Error::Newer { what, found: document.schema, known: grayfin_types::SCHEMA });
    }
    serde_json::from_slice(&document.json).map_err(|source| Error::Malformed { what, source })
}
