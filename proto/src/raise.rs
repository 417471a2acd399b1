//! Signing and verifying the operator's act that raises a group's incarnation (S2).
//!
//! The signature is made with the key of an operator's certificate, so that a host agent needs
//! nothing but the CA's certificate to tell an operator's act from a copied folder.

use std::{path::Path, sync::Arc};

use grayfin_types::raise::{Raise, SignedRaise};
use rustls::{
    SignatureScheme,
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};

use crate::{
    identity::{self, Identity},
    tls::{self, Files},
};

/// What `grayfin pki` makes first; keys of a site's own CA after it.
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PKCS1_SHA256,
];

/// Why an act is not signed or not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Certificate or key cannot be used.
    #[error("read the operator's certificate and key")]
    Files(#[from] tls::Error),
    /// The certificate is not an operator's.
    #[error("`{0}` is no operator")]
    NotOperator(Identity),
    /// The certificate is none of ours.
    #[error("the signer's certificate")]
    Identity(#[from] identity::Error),
    /// The act or its signature is not what it should be.
    #[error("{0}")]
    Invalid(String),
}

fn invalid(why: impl ToString) -> Error {
    Error::Invalid(why.to_string())
}

/// Signs an act with an operator's key. Returns the operator's name too.
pub fn sign(files: &Files, raise: &Raise) -> Result<(SignedRaise, String), Error> {
    let Identity::Operator(by) = files.own_identity()? else {
        return Err(Error::NotOperator(files.own_identity()?));
    };
    let text = serde_json::to_string(raise).map_err(invalid)?;
    let certified = files.certified()?;
    let signer = certified
        .key
        .choose_scheme(&SCHEMES)
        .ok_or_else(|| invalid("the operator's key is of a kind that cannot sign this"))?;
    let signature = signer.sign(text.as_bytes()).map_err(invalid)?;
    let certificate = certified.end_entity_cert().map_err(invalid)?;
    Ok((SignedRaise { text, certificate: hex(certificate), signature: hex(&signature) }, by))
}

/// Verifies that an operator of this CA signed an act. Returns it with the operator's name.
pub fn verify(ca: &Path, signed: &SignedRaise) -> Result<(Raise, String), Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(invalid)? {
        roots.add(certificate.map_err(invalid)?).map_err(invalid)?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(invalid)?;
    let der = unhex(&signed.certificate).ok_or_else(|| invalid("a certificate that is no hex"))?;
    let certificate = CertificateDer::from(der);
    verifier
        .verify_client_cert(&certificate, &[], UnixTime::now())
        .map_err(|e| invalid(format!("the signer's certificate: {e}")))?;
    let Identity::Operator(by) = identity::of_certificate(&certificate)? else {
        return Err(Error::NotOperator(identity::of_certificate(&certificate)?));
    };
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(invalid)?;
    let key = &parsed.public_key().subject_public_key.data;
    let signature =
        unhex(&signed.signature).ok_or_else(|| invalid("a signature that is no hex"))?;
    let good = provider.signature_verification_algorithms.all.iter().any(|algorithm| {
        algorithm.verify_signature(key, signed.text.as_bytes(), &signature).is_ok()
    });
    if !good {
        return Err(invalid("the signature does not match"));
    }
    Ok((serde_json::from_str(&signed.text).map_err(invalid)?, by))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use grayfin_types::Incarnation;

    use super::*;
    use crate::pki;

    fn files(dir: &Path, identity: &Identity, name: &str) -> Files {
        let out = dir.join(name);
        pki::issue(dir, identity, &out).unwrap();
        Files {
            ca: dir.join("ca.pem"),
            cert: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
        }
    }

    #[test]
    fn only_what_an_operator_of_the_ca_signed_is_verified() {
        tls::install_provider();
        let (dir, other) = (temporary("ours"), temporary("other"));
        pki::make_ca(&dir).unwrap();
        pki::make_ca(&other).unwrap();
        let raise = Raise {
            group: "g".to_owned(),
            from: Incarnation(1),
            to: Incarnation(2),
            act: "restore".to_owned(),
            reason: "the disk died".to_owned(),
            at_ms: 7,
        };
        let operator = Identity::Operator("ann".to_owned());
        let (signed, by) = sign(&files(&dir, &operator, "ann"), &raise).unwrap();
        assert_eq!(by, "ann");
        let ca = dir.join("ca.pem");
        assert_eq!(verify(&ca, &signed).unwrap(), (raise.clone(), "ann".to_owned()));
        let changed = SignedRaise { text: signed.text.replace(":2", ":3"), ..signed.clone() };
        assert!(verify(&ca, &changed).is_err());
        assert!(verify(&other.join("ca.pem"), &signed).is_err());
        let coordinator = files(&dir, &Identity::Coordinator(1), "c1");
        assert!(matches!(sign(&coordinator, &raise), Err(Error::NotOperator(_))));
        for dir in [dir, other] {
            std::fs::remove_dir_all(dir).unwrap();
        }
    }

    fn temporary(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("raise-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }
}
