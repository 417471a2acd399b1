//! mTLS for both ends: one private CA, an own acceptor, channels with keepalive.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// A client that does not finish its handshake in this time is dropped.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Ping a silent peer after this; with [`KEEPALIVE_TIMEOUT`] a dead one is noticed in 3 s.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// A ping not answered in this time ends the connection.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(1);

/// The three files that every party has.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// The CA's certificate, PEM.
    pub ca: PathBuf,
    /// This party's certificate chain, PEM.
    pub cert: PathBuf,
    /// This party's private key, PEM.
    pub key: PathBuf,
}

/// Why TLS could not be set up. The key's content is never part of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("read `{file}`")]
    Read {
        /// Which file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("`{file}` holds no usable {what}: {why}")]
    Content {
        /// Which file.
        file: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// An address is none.
    #[error("`{address}` is not an address of the form host:port")]
    Address {
        /// As given.
        address: String,
    },
    /// The engine refused.
    #[error("set up TLS: {0}")]
    Setup(String),
}

/// Installs ring as the process's only cryptography provider. Call it first in every `main`.
pub fn install_provider() {
    // A second call in the same process (tests) finds it installed, which is just as well.
    drop(rustls::crypto::ring::default_provider().install_default());
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(file).map_err(|source| Error::Read { file: file.to_owned(), source })
}

impl Files {
    /// Reads this party's own identity from its certificate.
    pub fn own_identity(&self) -> Result<crate::identity::Identity, Error> {
        let chain = self.chain()?;
        let first =
            chain.first().ok_or_else(|| self.content("certificate", "the file is empty"))?;
        crate::identity::of_certificate(first)
            .map_err(|e| self.content("certificate", &e.to_string()))
    }

    /// Makes a lazily connecting channel to a coordinator at `address` (host:port).
    pub fn channel(&self, address: &str) -> Result<Channel, Error> {
        let bad = || Error::Address { address: address.to_owned() };
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(&self.ca)?))
            .identity(Identity::from_pem(read(&self.cert)?, read(&self.key)?))
            .domain_name(crate::COORDINATOR_NAME);
        Ok(Endpoint::from_shared(format!("https://{address}"))
            .map_err(|_| bad())?
            .connect_timeout(Duration::from_secs(2))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .tls_config(tls)
            .map_err(|e| Error::Setup(e.to_string()))?
            .connect_lazy())
    }

    /// Makes the server side, which demands client certificates of the CA.
    pub fn server(&self) -> Result<Server, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&read(&self.ca)?) {
            let certificate = certificate.map_err(|e| Error::Content {
                file: self.ca.clone(),
                what: "certificate",
                why: e.to_string(),
            })?;
            roots.add(certificate).map_err(|e| Error::Setup(e.to_string()))?;
        }
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&provider),
        )
        .build()
        .map_err(|e| Error::Setup(e.to_string()))?;
        let resolver = Arc::new(Reloadable {
            files: self.clone(),
            current: ArcSwap::from_pointee(self.load()?),
        });
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::Setup(e.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(
                Arc::clone(&resolver) as Arc<dyn rustls::server::ResolvesServerCert>
            );
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Server { config: Arc::new(config), resolver })
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        CertificateDer::pem_slice_iter(&read(&self.cert)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| self.content("certificate", &e.to_string()))
    }

    /// Reads certificate and key, for signing.
    pub(crate) fn certified(&self) -> Result<rustls::sign::CertifiedKey, Error> {
        self.load()
    }

    fn load(&self) -> Result<rustls::sign::CertifiedKey, Error> {
        let bad_key =
            |why: String| Error::Content { file: self.key.clone(), what: "private key", why };
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|_| bad_key("not a PEM private key".to_owned()))?;
        let signer = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|_| bad_key("key type not supported".to_owned()))?;
        Ok(rustls::sign::CertifiedKey::new(self.chain()?, signer))
    }

    fn content(&self, what: &'static str, why: &str) -> Error {
        Error::Content { file: self.cert.clone(), what, why: why.to_owned() }
    }
}

/// The server side of TLS; certificates can be renewed without a restart.
#[derive(Debug, Clone)]
pub struct Server {
    config: Arc<rustls::ServerConfig>,
    resolver: Arc<Reloadable>,
}

impl Server {
    /// Reads certificate and key again; new connections get the new one, streams go on.
    pub fn reload(&self) -> Result<(), Error> {
        self.resolver.current.store(Arc::new(self.resolver.files.load()?));
        Ok(())
    }

    /// Accepts connections until the returned stream is dropped. Handshakes run side by side, so a
    /// stalled peer holds up nobody. The stream suits tonic's `serve_with_incoming_shutdown`.
    pub fn incoming(
        &self,
        listener: TcpListener,
    ) -> ReceiverStream<std::io::Result<TlsStream<TcpStream>>> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        let (sender, receiver) = tokio::sync::mpsc::channel(32);
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = sender.closed() => return,
                };
                let Ok((stream, peer)) = accepted else {
                    // Out of file descriptors, most likely: give others a moment to close some.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "set TCP_NODELAY");
                }
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
                        // A send error means that the server is gone: nobody is left to tell.
                        Ok(Ok(stream)) => drop(sender.send(Ok(stream)).await),
                        Ok(Err(error)) => tracing::warn!(%peer, %error, "TLS handshake refused"),
                        Err(_) => tracing::warn!(%peer, "TLS handshake timed out"),
                    }
                });
            }
        });
        ReceiverStream::new(receiver)
    }
}

#[derive(Debug)]
struct Reloadable {
    files: Files,
    current: ArcSwap<rustls::sign::CertifiedKey>,
}

impl rustls::server::ResolvesServerCert for Reloadable {
    fn resolve(
        &self,
        _: rustls::server::ClientHello<'_>,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.current.load_full())
    }
}
