//! `grayfin pki`.

use grayfin_proto::{identity::Identity, pki};
use grayfin_types::Generation;
use serde_json::json;

use super::{
    args::{Party, Pki},
    error::{Error, Exit},
    output::Output,
};

/// Runs it.
pub(crate) fn run(pki: &Pki, output: Output) -> Result<Exit, Error> {
    let failed = |e: pki::Error| Error::from_chain(Exit::Refused, &e);
    match pki {
        Pki::Init { dir } => {
            pki::make_ca(dir).map_err(failed)?;
            let text = format!("made `{0}/ca.pem` and `{0}/ca.key`\n", dir.display());
            output.either(&json!({ "dir": dir }), || text)?;
            output.note("keep ca.key away from hosts: whoever has it can act as anybody");
        }
        Pki::Issue { dir, out, party } => {
            let identity = identity(party)?;
            pki::issue(dir, &identity, out).map_err(failed)?;
            let text = format!("made `{0}.pem` and `{0}.key` for {identity}\n", out.display());
            output.either(&json!({ "identity": identity.to_string(), "out": out }), || text)?;
        }
    }
    Ok(Exit::Done)
}

fn identity(party: &Party) -> Result<Identity, Error> {
    let named = |name: &str| {
        let fine = !name.is_empty()
            && name.len() <= grayfin_types::id::MAX_ID_BYTES
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-@".contains(c));
        if fine {
            Ok(name.to_owned())
        } else {
            Err(Error::usage(format!(
                "`{name}` is no name: use 1 to 128 letters, digits, `.`, `_`, `-` or `@`"
            )))
        }
    };
    Ok(match party {
        Party::Coordinator { id } => Identity::Coordinator(*id),
        Party::Agent { host, generation } => {
            Identity::HostAgent { host: host.clone(), generation: Generation(*generation) }
        }
        Party::Operator { name } => Identity::Operator(named(name)?),
        Party::Viewer { name } => Identity::Viewer(named(name)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet() -> Output {
        Output { json: false, quiet: true, terminal: false, colour: false }
    }

    #[test]
    fn a_ca_is_made_once_and_issues_certificates_with_identities() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("pki");
        assert_eq!(run(&Pki::Init { dir: dir.clone() }, quiet()), Ok(Exit::Done));
        assert_eq!(run(&Pki::Init { dir: dir.clone() }, quiet()).unwrap_err().exit, Exit::Refused);
        let out = dir.join("host43");
        let party = Party::Agent { host: "host43".parse().unwrap(), generation: 2 };
        run(&Pki::Issue { dir: dir.clone(), out: out.clone(), party }, quiet()).unwrap();
        let files = grayfin_proto::tls::Files {
            ca: dir.join("ca.pem"),
            cert: out.with_extension("pem"),
            key: out.with_extension("key"),
        };
        assert_eq!(files.own_identity().unwrap().to_string(), "urn:grayfin:agent:host43:2");
    }

    #[test]
    fn a_name_that_would_change_the_identity_is_refused() {
        for bad in ["", "a:b", "a b", &"x".repeat(200)] {
            let party = Party::Operator { name: bad.to_owned() };
            assert_eq!(identity(&party).unwrap_err().exit, Exit::Usage, "{bad}");
        }
    }
}
