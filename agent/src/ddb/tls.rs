//! TLS towards nodes that have it on (`enableHTTPS`), always with verification.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::TlsConnector;

/// How to trust nodes.
#[derive(Clone)]
pub struct Tls {
    pub(super) connector: TlsConnector,
    /// The name in the nodes' certificates, where it is not the address.
    name: Option<ServerName<'static>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// Trusts exactly the authorities in a PEM text; `name` is what the nodes' certificates say
    /// where they do not name the address. Fails with a text for people.
    pub fn new(ca_pem: &[u8], name: Option<&str>) -> Result<Self, String> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem) {
            let certificate =
                certificate.map_err(|error| format!("a certificate cannot be read: {error}"))?;
            roots.add(certificate).map_err(|error| format!("a certificate is refused: {error}"))?;
        }
        if roots.is_empty() {
            return Err("there is no certificate in it".to_owned());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = name
            .map(|name| ServerName::try_from(name.to_owned()))
            .transpose()
            .map_err(|error| error.to_string())?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Returns the name that the node at `host` must prove.
    pub(super) fn name_of(&self, host: &str) -> Option<ServerName<'static>> {
        self.name.clone().or_else(|| ServerName::try_from(host.to_owned()).ok())
    }
}
