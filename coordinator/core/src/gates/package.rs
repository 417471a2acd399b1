//! Gates about the software: versions, package, room, plugins, licence.

use std::{cmp::Ordering, collections::BTreeMap};

use grayfin_types::{
    Code, DdbVersion, HostId,
    facts::{BackupClass, HostFacts, PackageFacts, Probe, VolumeFacts},
    gate::Reason,
};

use super::{Input, Verdict, reason, whole::is_target};
use crate::compat;

/// Room beside what is known to be needed: logs, the ledger, journals.
const SPARE_BYTES: u64 = 64 << 20;

/// Asks something of every host that is to be upgraded; what cannot be seen holds.
fn each(
    input: &Input<'_>,
    ask: impl Fn(&HostId, &HostFacts, &mut Verdict) -> Result<(), Reason>,
) -> Verdict {
    let mut verdict = Verdict::default();
    for host in input.hosts {
        let asked = input.host_facts(host).and_then(|facts| ask(host, facts, &mut verdict));
        if let Err(why) = asked {
            verdict.hold(why);
        }
    }
    verdict
}

/// Returns the version that a host runs: its nodes' answers, which must agree, before the file's.
pub(crate) fn version_of(host: &HostId, facts: &HostFacts) -> Result<DdbVersion, Reason> {
    let mut found: Option<DdbVersion> = None;
    for node in &facts.nodes {
        match (&node.version, &found) {
            (Probe::Unknown(why), _) => {
                let what = format!("the version of `{}`", node.spec.alias);
                return Err(Input::unknown_at(host, &what, why));
            }
            (Probe::Known(version), Some(other)) if version != other => {
                let what = "the host's version";
                let why = format!(
                    "`{}` answers with {version}, other nodes with {other}",
                    node.spec.alias
                );
                return Err(Input::unknown_at(host, what, &why));
            }
            (Probe::Known(version), None) => found = Some(version.clone()),
            (Probe::Known(_), Some(_)) => {}
        }
    }
    match (found, &facts.installed) {
        (Some(version), _) => Ok(version),
        (None, Probe::Known(version)) => Ok(version.clone()),
        (None, Probe::Unknown(why)) => Err(Input::unknown_at(host, "the host's version", why)),
    }
}

pub(super) fn compat(input: &Input<'_>) -> Verdict {
    each(input, |host, facts, verdict| {
        let from = version_of(host, facts)?;
        if is_target(&from, input.target) {
            return Ok(());
        }
        let found = compat::between(&from, input.target);
        if !compat::is_rolling(&found) && input.compat_accepted.is_none() {
            let level =
                found.level.map_or_else(|| "unknown".to_owned(), |level| format!("level {level}"));
            verdict.stop(reason(
                Code::CompatRisk,
                host.to_string(),
                format!(
                    "{from} to {} is {level}; rolling upgrade is supported from level {} on ({})",
                    input.target,
                    compat::ROLLING_LEVEL,
                    found.why
                ),
                "ask the vendor; then `--accept-compat-risk REASON` goes on",
            ));
        }
        Ok(())
    })
}

pub(super) fn downgrade(input: &Input<'_>) -> Verdict {
    each(input, |host, facts, verdict| {
        let from = version_of(host, facts)?;
        let numbers = |v: &DdbVersion| (v.release(), v.patch());
        if numbers(&from) > numbers(input.target) {
            verdict.stop(reason(
                Code::Downgrade,
                host.to_string(),
                format!("it runs {from}, which is newer than {}", input.target),
                "an older version cannot read the newer one's metadata: choose a newer target",
            ));
        }
        Ok(())
    })
}

pub(super) fn variant(input: &Input<'_>) -> Verdict {
    each(input, |host, facts, verdict| {
        let from = version_of(host, facts)?;
        if !from.same_variant(input.target) {
            let word = |v: &DdbVersion| {
                if v.variant().is_empty() { "plain".to_owned() } else { v.variant().to_owned() }
            };
            verdict.stop(reason(
                Code::VariantMismatch,
                host.to_string(),
                format!(
                    "installed is the {} build, the target is {}",
                    word(&from),
                    word(input.target)
                ),
                "variants never mix: name the target with the variant, e.g. `2.00.12.3_JIT`",
            ));
        }
        Ok(())
    })
}

/// Finds the package for a version; with several files, the first by name.
pub(crate) fn package_of<'a>(
    facts: &'a HostFacts,
    target: &DdbVersion,
) -> Option<&'a PackageFacts> {
    facts
        .packages
        .iter()
        .filter(|p| is_target(&p.version, target))
        .min_by(|a, b| a.file.cmp(&b.file))
}

pub(super) fn package(input: &Input<'_>) -> Verdict {
    let mut verdict = each(input, |host, facts, verdict| {
        let Some(found) = package_of(facts, input.target) else {
            verdict.stop(reason(
                Code::PackageMissing,
                host.to_string(),
                format!("no file for {} is in its package folder", input.target),
                format!(
                    "put the vendor's zip of {} into the package folder of `{host}`",
                    input.target
                ),
            ));
            return Ok(());
        };
        match &found.intact {
            Probe::Known(true) => {}
            Probe::Known(false) => {
                // What is wrong with it: it need not be damaged to be the wrong one.
                let problem = facts.problems.iter().find(|p| p.subject == found.file);
                let (code, seen) = problem.map_or(
                    (Code::PackageCorrupt, "reading it through failed: the zip is damaged"),
                    |problem| (problem.code, problem.detail.as_str()),
                );
                verdict.stop(reason(
                    code,
                    format!("{host}: {}", found.file),
                    seen,
                    format!("copy the package to `{host}` again and compare checksums"),
                ));
                return Ok(());
            }
            Probe::Unknown(why) => {
                verdict.hold(Input::unknown_at(host, "whether the package is intact", why));
            }
        }
        if let Probe::Unknown(why) = &found.sha256 {
            verdict.hold(Input::unknown_at(host, "the package's checksum", why));
        }
        Ok(())
    });
    let mut digests: BTreeMap<&str, &HostId> = BTreeMap::new();
    for host in input.hosts {
        let found = input.host_facts(host).ok().and_then(|f| package_of(f, input.target));
        if let Some(Probe::Known(digest)) = found.map(|p| &p.sha256) {
            digests.entry(digest).or_insert(host);
        }
    }
    if digests.len() > 1 {
        let hosts: Vec<_> = digests.values().map(|h| format!("`{h}`")).collect();
        verdict.stop(reason(
            Code::PackageDiffers,
            input.target.to_string(),
            format!("the package is not the same on {}", hosts.join(" and ")),
            "copy one and the same file to all hosts",
        ));
    }
    verdict
}

/// Adds up what would be written on each volume: the backup, and the package unpacked beside the
/// installation.
pub(super) fn room(input: &Input<'_>) -> Verdict {
    each(input, |host, facts, verdict| {
        let found = package_of(facts, input.target);
        let unpacked = match found.map(|p| &p.unpacked_bytes) {
            Some(Probe::Known(bytes)) => *bytes,
            // `package` says that it is no good.
            Some(Probe::Unknown(_)) if found.is_some_and(|p| p.intact == Probe::Known(false)) => 0,
            Some(Probe::Unknown(why)) => {
                return Err(Input::unknown_at(host, "the package's unpacked size", why));
            }
            // `package` says that there is none.
            None => 0,
        };
        let mut backup = 0u64;
        for part in facts.backup.iter().filter(|p| p.class != BackupClass::Optional) {
            match &part.bytes {
                Probe::Known(bytes) => backup = backup.saturating_add(bytes.unwrap_or(0)),
                Probe::Unknown(why) => {
                    return Err(Input::unknown_at(
                        host,
                        &format!("the size of `{}`", part.path),
                        why,
                    ));
                }
            }
        }
        let mut needs: BTreeMap<u64, (u64, &VolumeFacts)> = BTreeMap::new();
        for volume in &facts.volumes {
            let bytes = match volume.purpose.as_str() {
                "backup" => backup,
                "installation" => unpacked,
                "ledger" => SPARE_BYTES,
                _ => 0,
            };
            let entry = needs.entry(volume.device).or_insert((0, volume));
            entry.0 = entry.0.saturating_add(bytes);
        }
        for purpose in ["backup", "installation"] {
            if !facts.volumes.iter().any(|v| v.purpose == purpose) {
                let what = format!("the room on the {purpose} volume");
                verdict.hold(Input::unknown_at(host, &what, "the host agent did not report it"));
            }
        }
        for (bytes, volume) in needs.values() {
            let floor = input.policy.free_floor_bytes;
            let wanted = bytes.saturating_add(floor);
            if volume.free_bytes < wanted {
                verdict.stop(reason(
                    Code::DiskTooSmall,
                    format!("{host}: {}", volume.path),
                    format!(
                        "{} bytes are free; {bytes} are needed for backup and upgrade, and {floor} must stay free",
                        volume.free_bytes
                    ),
                    format!("free {} bytes there, or point `backup_dir` to another volume", wanted - volume.free_bytes),
                ));
            }
        }
        Ok(())
    })
}

pub(super) fn plugins(input: &Input<'_>) -> Verdict {
    each(input, |host, facts, verdict| {
        let plugins = match &facts.plugins {
            Probe::Known(plugins) => plugins,
            Probe::Unknown(why) => {
                return Err(Input::unknown_at(host, "the list of plugins", why));
            }
        };
        let wanted = input.target.release();
        let fits = |version: &str| numbers(version).get(..3) == Some(&wanted[..]);
        let brought = package_of(facts, input.target).map_or(&[][..], |p| &p.plugins);
        for (name, version) in plugins {
            // One that comes with the package is replaced together with it.
            if !fits(version) && !brought.iter().any(|(n, v)| n == name && fits(v)) {
                verdict.stop(reason(
                    Code::PluginMismatch,
                    format!("{host}: {name}"),
                    format!(
                        "installed is {version}; its first three numbers must be those of {}",
                        input.target
                    ),
                    "have the matching plugin ready and install it with the new version, then `--override plugins=REASON`; or remove the plugin",
                ));
            }
        }
        Ok(())
    })
}

pub(super) fn licence(input: &Input<'_>) -> Verdict {
    each(input, |host, facts, verdict| {
        let licence = match &facts.licence {
            Probe::Known(licence) => licence,
            Probe::Unknown(why) => return Err(Input::unknown_at(host, "the licence", why)),
        };
        match &licence.days_left {
            Probe::Known(days) if *days > 0 => {}
            Probe::Known(days) => verdict.stop(reason(
                Code::LicenceExpired,
                host.to_string(),
                format!(
                    "it expired on {} ({days} days left): a node that is stopped would not start again",
                    licence.expires.known().map_or("an unknown day", String::as_str)
                ),
                "put a new dolphindb.lic in place first (`updateLicense()` on each node)",
            )),
            Probe::Unknown(why) => {
                verdict.hold(Input::unknown_at(host, "the licence's expiry", why));
            }
        }
        match &licence.version_cap {
            Probe::Known(None) => {}
            Probe::Known(Some(cap)) => match covers(cap, input.target) {
                Some(true) => {}
                Some(false) => verdict.stop(reason(
                    Code::LicenceCap,
                    host.to_string(),
                    format!("it covers versions up to {cap}, the target is {}", input.target),
                    "ask the vendor for a licence that covers the target",
                )),
                None => {
                    let why = format!("`{cap}` is no version");
                    verdict.hold(Input::unknown_at(host, "the licence's highest version", &why));
                }
            },
            Probe::Unknown(why) => {
                verdict.hold(Input::unknown_at(host, "the licence's highest version", why));
            }
        }
        Ok(())
    })
}

/// Tells whether a licence's cap covers a version; a cap of fewer numbers covers all below it.
fn covers(cap: &str, target: &DdbVersion) -> Option<bool> {
    let cap = numbers(cap);
    if cap.is_empty() {
        return None;
    }
    let [a, b, c] = target.release();
    let target = [a, b, c, target.patch()];
    let upto = cap.len().min(4);
    Some(target.iter().take(upto).cmp(cap.iter().take(upto)) != Ordering::Greater)
}

/// Reads the leading numbers of a dotted version.
fn numbers(text: &str) -> Vec<u16> {
    let first = text.split(|c: char| c.is_whitespace() || c == '_').next().unwrap_or_default();
    first.split('.').map_while(|part| part.parse().ok()).collect()
}
