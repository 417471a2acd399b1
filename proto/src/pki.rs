//! A private CA and the certificates of all parties; `grayfin pki` is its command line.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::identity::Identity;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is there already; nothing is overwritten.
    #[error("`{0}` exists already: choose another folder, or move it away first")]
    Exists(PathBuf),
    /// A file could not be read or written.
    #[error("{what} `{file}`")]
    File {
        /// `read`, `write`.
        what: &'static str,
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The CA's files are no CA.
    #[error("`{file}` cannot be used as a CA: {why}")]
    NotACa {
        /// Which.
        file: PathBuf,
        /// Why; never the key itself.
        why: String,
    },
    /// The generator refused.
    #[error("make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
}

/// Makes a CA in `dir`: `ca.pem` and `ca.key`.
pub fn make_ca(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(|source| Error::File {
        what: "write",
        file: dir.to_owned(),
        source,
    })?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, "Grayfin CA");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    write_new(&dir.join("ca.key"), key.serialize_pem().as_bytes(), 0o600)?;
    write_new(&dir.join("ca.pem"), certificate.pem().as_bytes(), 0o644)
}

/// Issues a certificate for `identity` from the CA in `ca_dir`: `<out>.pem` and `<out>.key`.
pub fn issue(ca_dir: &Path, identity: &Identity, out: &Path) -> Result<(), Error> {
    let (ca_file, key_file) = (ca_dir.join("ca.pem"), ca_dir.join("ca.key"));
    let ca = read_text(&ca_file)?;
    let ca_key = KeyPair::from_pem(&read_text(&key_file)?)
        .map_err(|_| Error::NotACa { file: key_file, why: "not a PEM private key".to_owned() })?;
    let issuer = Issuer::from_ca_cert_pem(&ca, ca_key)
        .map_err(|e| Error::NotACa { file: ca_file, why: e.to_string() })?;
    let names = match identity {
        Identity::Coordinator(_) => vec![crate::COORDINATOR_NAME.to_owned()],
        Identity::HostAgent { .. } | Identity::Operator(_) | Identity::Viewer(_) => Vec::new(),
    };
    let mut params = CertificateParams::new(names)?;
    let uri = rcgen::string::Ia5String::try_from(identity.to_string())?;
    params.subject_alt_names.push(SanType::URI(uri));
    params.distinguished_name.push(DnType::CommonName, identity.to_string());
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    write_new(&with_suffix(out, ".key"), key.serialize_pem().as_bytes(), 0o600)?;
    write_new(&with_suffix(out, ".pem"), certificate.pem().as_bytes(), 0o644)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn read_text(file: &Path) -> Result<String, Error> {
    fs::read_to_string(file).map_err(|source| Error::File {
        what: "read",
        file: file.to_owned(),
        source,
    })
}

fn write_new(file: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let failed = |source| Error::File { what: "write", file: file.to_owned(), source };
    let mut handle = match fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(file)
    {
        Ok(handle) => handle,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(Error::Exists(file.to_owned()));
        }
        Err(e) => return Err(failed(e)),
    };
    handle.write_all(content).and_then(|()| handle.sync_all()).map_err(failed)
}
