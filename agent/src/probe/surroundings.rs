//! What else a host has: room, packages, plugins, the licence, the startup script.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use grayfin_types::{
    Code, DdbVersion,
    facts::{LicenceFacts, NodeSpec, PackageFacts, Probe, Problem, VolumeFacts},
};

use super::node::Asker;
use super::pool::{Pool, words};
use super::settings::NodeSettings;
use crate::config::Installation;
use crate::ddb::{Call, Cell};
use crate::files::{Control, RealDisk, Space};
use crate::packages::{self, Inspection, Platform};

/// A startup script or plugin description larger than this is not read.
const TEXT_MAX: u64 = 1 << 20;

/// Which file it was, so that a result is not used for another one.
pub(super) type FileId = (u64, u64, u64, i64, i64);
/// What reading a package through has shown, or the code and words of what is wrong.
type ReadThrough = Result<Inspection, (Code, String)>;

/// Reads a file's identity.
pub(super) fn file_id(path: &Path) -> std::io::Result<FileId> {
    let m = std::fs::metadata(path)?;
    Ok((m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
}

/// Reads the room on the volumes that matter.
pub(super) fn volumes(
    installation: &Installation,
    state_dir: &Path,
) -> (Vec<VolumeFacts>, Vec<Problem>) {
    let places: [(&Path, &str); 4] = [
        (&installation.backup_dir, "backup"),
        (&installation.package_dir, "package"),
        (&installation.server_dir, "installation"),
        (state_dir, "ledger"),
    ];
    let (mut volumes, mut problems) = (Vec::new(), Vec::new());
    for (path, purpose) in places {
        // A folder that will be made lies on the volume of the nearest one above it.
        let existing = path.ancestors().find(|path| path.exists()).unwrap_or(path);
        match Space::of(existing) {
            Ok(space) => volumes.push(VolumeFacts {
                path: path.display().to_string(),
                purpose: purpose.to_owned(),
                device: space.device,
                free_bytes: space.free_bytes,
                total_bytes: space.total_bytes,
            }),
            Err(error) => problems.push(Problem {
                code: Code::FactUnknown,
                subject: path.display().to_string(),
                detail: format!("the room for {purpose} cannot be read: {error}"),
            }),
        }
    }
    (volumes, problems)
}

/// What was found out about package files by reading them through.
#[derive(Debug, Default)]
pub(super) struct Packages {
    known: Mutex<HashMap<PathBuf, (FileId, ReadThrough)>>,
}

impl Packages {
    /// Lists the packages for this machine. With `read` the one of that version is read through,
    /// unless that was done for this very file before. Blocks for as long as that takes.
    pub(super) fn look(
        &self,
        folder: &Path,
        read: Option<&DdbVersion>,
    ) -> (Vec<PackageFacts>, Vec<Problem>) {
        let listed = match packages::list(folder) {
            Ok(listed) => listed,
            Err(error) => {
                let problem = Problem {
                    code: Code::PackageMissing,
                    subject: folder.display().to_string(),
                    detail: words(&error),
                };
                return (vec![], vec![problem]);
            }
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut facts, mut problems) = (Vec::new(), Vec::new());
        for package in listed.into_iter().filter(|p| p.platform == Platform::own()) {
            let id = file_id(&package.path).ok();
            known.retain(|path, (before, _)| *path != package.path || Some(*before) == id);
            if let Some(id) = id.filter(|_| read == Some(&package.version))
                && !known.contains_key(&package.path)
            {
                let found = packages::inspect(
                    &RealDisk,
                    &package.path,
                    &package.version,
                    &Control::default(),
                );
                let found = found.map_err(|error| (error.code(), words(&error)));
                known.insert(package.path.clone(), (id, found));
            }
            let file = package.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let result = known.get(&package.path).map(|(_, result)| result);
            if let Some(Err((code, why))) = result {
                let (code, detail) = (*code, why.clone());
                problems.push(Problem { code, subject: file.clone(), detail });
            }
            facts.push(package_facts(file, package.version, package.bytes, result));
        }
        (facts, problems)
    }
}

fn package_facts(
    file: String,
    version: DdbVersion,
    bytes: u64,
    result: Option<&ReadThrough>,
) -> PackageFacts {
    let (sha256, intact, unpacked_bytes) = match result {
        None => {
            let why = "the package has not been read through yet";
            (
                Probe::Unknown(why.to_owned()),
                Probe::Unknown(why.to_owned()),
                Probe::Unknown(why.to_owned()),
            )
        }
        Some(Ok(found)) => (
            Probe::Known(found.sha256.clone()),
            Probe::Known(true),
            Probe::Known(found.unpacked_bytes),
        ),
        Some(Err((code, why))) => {
            // Whether the file could be read at all, and only then what it is.
            let damaged = matches!(code, Code::PackageCorrupt | Code::PackageWrongVersion);
            let intact = if damaged { Probe::Known(false) } else { Probe::Unknown(why.clone()) };
            (Probe::Unknown(why.clone()), intact, Probe::Unknown(why.clone()))
        }
    };
    let plugins = match result {
        Some(Ok(found)) => found.plugins.clone(),
        Some(Err(_)) | None => Vec::new(),
    };
    PackageFacts { file, version, bytes, sha256, intact, unpacked_bytes, plugins }
}

/// Lists installed plugins: the first line of each `Plugin*.txt` is `name,library,version`.
pub(super) fn plugins(
    installation: &Installation,
    nodes: &[NodeSettings],
) -> Probe<Vec<(String, String)>> {
    let own = installation.server_dir.join("plugins");
    let mut folders = vec![own.clone()];
    for node in nodes {
        folders.push(node.source.home.join("plugins"));
        if let Some(path) = node.get("pluginDir") {
            for base in [&node.source.home, &installation.work_dir, &installation.server_dir] {
                folders.push(base.join(&path));
            }
        }
    }
    let mut found = Vec::new();
    for folder in folders {
        let mut here = Vec::new();
        if let Err(why) = plugins_below(&folder, &mut here) {
            return Probe::Unknown(why);
        }
        // A package replaces those of its own folder only.
        let elsewhere = folder != own;
        found.extend(here.into_iter().map(|(name, version)| match elsewhere {
            true => (format!("{name} in {}", folder.display()), version),
            false => (name, version),
        }));
    }
    found.sort();
    found.dedup();
    Probe::Known(found)
}

fn plugins_below(folder: &Path, found: &mut Vec<(String, String)>) -> Result<(), String> {
    let list = |folder: &Path| match std::fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(format!("`{}`: {error}", folder.display())),
    };
    for plugin in list(folder)?.into_iter().filter(|path| path.is_dir()) {
        for file in list(&plugin)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !(name.starts_with("Plugin") && name.ends_with(".txt")) {
                continue;
            }
            let text = small_text(&file).map_err(|why| format!("`{}`: {why}", file.display()))?;
            let fields: Vec<&str> =
                text.lines().next().unwrap_or_default().split(',').map(str::trim).collect();
            if let [name, _library, version, ..] = fields.as_slice() {
                found.push(((*name).to_owned(), (*version).to_owned()));
            }
        }
    }
    Ok(())
}

fn small_text(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > TEXT_MAX {
        return Err(format!("it has more than {TEXT_MAX} bytes"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Asks a node for its licence.
pub(super) async fn licence(pool: &Pool, spec: &NodeSpec, call: &Call) -> Probe<LicenceFacts> {
    let answer = match pool.ask(spec, Asker::account(spec), "license", &[], call).await {
        Ok(answer) => answer,
        Err(error) => return Probe::Unknown(error.words()),
    };
    let Some(dictionary) = answer.dictionary() else {
        return Probe::Unknown("`license` answered no dictionary".to_owned());
    };
    let expires = match dictionary.cell("expiration") {
        Some(Cell::Int(days)) => i32::try_from(days).ok().and_then(date_of_days),
        Some(Cell::Text(text)) => date_of_text(&text),
        Some(Cell::Null | Cell::Bool(_) | Cell::Float(_) | Cell::Bytes(_) | Cell::Value(_))
        | None => None,
    };
    let unknown = || "`license` tells no expiry date".to_owned();
    let version_cap = match dictionary.cell("version") {
        Some(Cell::Null) | None => Probe::Known(None),
        Some(Cell::Text(text)) => Probe::Known(Some(text).filter(|text| !text.is_empty())),
        Some(other) => Probe::Unknown(format!("`license` has a strange version: {other:?}")),
    };
    Probe::Known(LicenceFacts {
        expires: expires.map_or_else(
            || Probe::Unknown(unknown()),
            |date| Probe::Known(date.strftime("%Y.%m.%d").to_string()),
        ),
        days_left: expires.map_or_else(
            || Probe::Unknown(unknown()),
            |date| {
                let today = jiff::Zoned::now().date();
                Probe::Known((date - today).get_days().into())
            },
        ),
        version_cap,
    })
}

/// DolphinDB's DATE: days since 1970.
fn date_of_days(days: i32) -> Option<jiff::civil::Date> {
    let span = jiff::Span::new().try_days(days).ok()?;
    jiff::civil::date(1970, 1, 1).checked_add(span).ok()
}

/// `2024.09.30`.
fn date_of_text(text: &str) -> Option<jiff::civil::Date> {
    let mut parts = text.trim().splitn(3, '.');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    jiff::civil::Date::new(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?).ok()
}

/// The installation's startup scripts, in which memory-only objects may be made again (S13).
#[derive(Debug, Clone, Default)]
pub(super) struct Startup {
    text: String,
    preload: Vec<String>,
}

impl Startup {
    /// Reads the scripts. Blocks for a few small files.
    pub(super) fn read(installation: &Installation, nodes: &[NodeSettings]) -> Self {
        let mut files: Vec<PathBuf> = Vec::new();
        for base in [&installation.server_dir, &installation.work_dir] {
            files.extend(["startup.dos", "postStart.dos"].map(|name| base.join(name)));
        }
        let mut preload = Vec::new();
        for node in nodes {
            for key in ["startup", "postStart"] {
                let path = node.get(key).unwrap_or_else(|| format!("{key}.dos"));
                files.push(node.source.home.join(&path));
                files.push(installation.work_dir.join(&path));
            }
            let modules = node.get("preloadModules").unwrap_or_default();
            preload.extend(modules.split(',').map(|module| module.trim().to_ascii_lowercase()));
        }
        files.sort();
        files.dedup();
        let texts = files.iter().filter_map(|file| small_text(file).ok());
        let text = texts.map(|text| without_comments(&text)).collect();
        Self { text, preload }
    }

    /// Tells whether an object is made again: a plugin that is loaded before anything else, or one
    /// that the scripts name.
    pub(super) fn provides(&self, kind: &str, name: &str) -> bool {
        if kind == "plugin" {
            let wanted = format!("plugins::{}", name.to_ascii_lowercase());
            return self.preload.contains(&wanted)
                || (self.text.contains("loadPlugin") && self.names(name));
        }
        // `host:port:alias/table/action`: table and action.
        let parts: Vec<&str> = name.split('/').skip(usize::from(name.contains('/'))).collect();
        let parts = if parts.is_empty() { vec![name] } else { parts };
        matches!(kind, "stream_table" | "shared_table" | "subscription" | "engine")
            && parts.iter().filter(|part| !part.is_empty()).all(|part| self.names(part))
    }

    /// Tells whether a name stands in the scripts as a word of its own.
    fn names(&self, name: &str) -> bool {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        self.text.match_indices(name).any(|(at, _)| {
            let before = self.text.get(..at).and_then(|text| text.chars().next_back());
            let after = self.text.get(at + name.len()..).and_then(|text| text.chars().next());
            !before.is_some_and(word) && !after.is_some_and(word)
        })
    }
}

/// Leaves out `// …` and `/* … */`: what is commented out is not made again.
fn without_comments(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("/*") {
        kept.push_str(before);
        rest = after.split_once("*/").map_or("", |(_, after)| after);
    }
    kept.push_str(rest);
    let lines = kept.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    lines.fold(String::new(), |text, line| text + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_startup_script_provides_what_it_names_outside_comments() {
        let script = "share streamTable(1:0, `a, [INT]) as trades // and quotes\n/* old_engine */\n\
            subscribeTable(tableName=`trades, actionName=`agg, handler=f)\n\
            try { loadPlugin(\"zip\") } catch(e) {}\n";
        let preload = vec!["plugins::mysql".to_owned()];
        let startup = Startup { text: without_comments(script), preload };
        assert!(startup.provides("stream_table", "trades"));
        assert!(!startup.provides("stream_table", "trade"), "only whole words");
        assert!(!startup.provides("shared_table", "quotes"));
        assert!(!startup.provides("engine", "old_engine"));
        assert!(startup.provides("subscription", "h:8922:n1/trades/agg"));
        assert!(!startup.provides("subscription", "h:8922:n1/trades/other"));
        assert!(startup.provides("plugin", "zip") && startup.provides("plugin", "MySQL"));
        assert!(!startup.provides("batch_job", "trades"), "a job is never made again");
    }

    #[test]
    fn dates_of_licences_are_read_in_both_forms() {
        let shown =
            |date: Option<jiff::civil::Date>| date.unwrap().strftime("%Y.%m.%d").to_string();
        assert_eq!(shown(date_of_days(19_996)), "2024.09.30");
        assert_eq!(shown(date_of_text("2024.09.30")), "2024.09.30");
        assert!(date_of_text("soon").is_none() && date_of_days(i32::MAX).is_none());
    }

    #[test]
    fn plugins_are_found_by_their_descriptions() {
        let dir = tempfile::tempdir().unwrap();
        let zip = dir.path().join("zip");
        std::fs::create_dir(&zip).unwrap();
        std::fs::write(zip.join("PluginZip.txt"), "zip,libPluginZip.so,2.00.8.12\nfunction\n")
            .unwrap();
        std::fs::write(zip.join("README.txt"), "a,b,c\n").unwrap();
        let mut found = Vec::new();
        plugins_below(dir.path(), &mut found).unwrap();
        plugins_below(&dir.path().join("absent"), &mut found).unwrap();
        assert_eq!(found, [("zip".to_owned(), "2.00.8.12".to_owned())]);
    }
}
