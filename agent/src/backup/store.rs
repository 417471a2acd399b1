//! Backups that exist: listed, verified, restored, thinned out.

use std::{
    fs,
    path::{Path, PathBuf},
};

use grayfin_types::{ClusterId, HostId, Token};

use super::{
    Error, bad_manifest,
    taking::{Header, Line, MANIFEST, PARTIAL_PREFIX, PartCopied, TREE, entries_of},
};
use crate::files::{
    Compared, Comparison, Control, Copier, Difference, Disk, Durability, Entry,
    Error as FilesError, Kind, Owners, create_dir_durably, decode_path, read_manifest, remove_tree,
    rename_durably,
};

/// A folder of backups.
#[derive(Debug)]
pub struct Store<'a> {
    /// The disk.
    pub disk: &'a dyn Disk,
    /// Where backups go.
    pub folder: &'a Path,
}

/// A backup whose manifest is whole.
#[derive(Debug, Clone)]
pub struct Backup {
    /// Its folder.
    pub path: PathBuf,
    /// Who, when, what.
    pub header: Header,
    /// Every name.
    pub lines: Vec<Line>,
    /// SHA-256 of the manifest.
    pub digest: String,
}

/// A line of `backup list`.
#[derive(Debug)]
pub struct Listed {
    /// Its folder's name.
    pub name: String,
    /// Its header, or why it is not good.
    pub state: Result<Header, Error>,
}

/// What must be true before something is restored in place.
#[derive(Debug, Clone, Copy)]
pub struct InPlace<'a> {
    /// The hold that is open on this host.
    pub hold: Option<Token>,
    /// Processes of the installation that run now.
    pub running: &'a [String],
}

/// What follows from a restore in place, to be told to the person.
pub const CATCH_UP: &str = "a controller whose metadata was restored is behind the others: it must \
    catch up from the leader before it counts, and what was written since the backup is not in it";

impl<'a> Store<'a> {
    /// Opens a backup by name.
    pub fn open(&self, name: &str) -> Result<Backup, Error> {
        let plain = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
        let path = self.folder.join(name);
        if !plain || !path.is_dir() {
            return Err(Error::Missing { name: name.to_owned(), folder: self.folder.into() });
        }
        let manifest = path.join(MANIFEST);
        let (header, lines, digest): (Header, Vec<Line>, String) =
            read_manifest(self.disk, &manifest).map_err(bad_manifest(name))?;
        if lines.iter().any(|line| line.part >= header.parts.len()) {
            let why = "its manifest names a part that it does not have".to_owned();
            return Err(Error::Bad { name: name.to_owned(), why });
        }
        Ok(Backup { path, header, lines, digest })
    }

    /// Lists all backups, newest first; those that are not good come last.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let at = |e| FilesError::at("list", self.folder)(e);
        let mut all = Vec::new();
        let entries = match fs::read_dir(self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(all),
            Err(e) => return Err(at(e).into()),
        };
        for entry in entries {
            let entry = entry.map_err(at)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !entry.path().is_dir()
                || (name.starts_with('.') && !name.starts_with(PARTIAL_PREFIX))
            {
                continue;
            }
            let state = if name.starts_with(PARTIAL_PREFIX) {
                let why = "it was interrupted".to_owned();
                Err(Error::Bad { name: name.clone(), why })
            } else {
                self.open(&name).map(|backup| backup.header)
            };
            all.push(Listed { name, state });
        }
        all.sort_by_key(|l| {
            (std::cmp::Reverse(l.state.as_ref().map_or(0, |h| h.created_ms)), l.name.clone())
        });
        Ok(all)
    }

    /// Hashes everything in a backup; the error names the first thing that is wrong.
    pub fn verify(&self, name: &str, control: &Control) -> Result<Compared, Error> {
        let backup = self.open(name)?;
        let compared = self.differences(&backup, control)?;
        match compared.differences.first() {
            None => Ok(compared),
            Some(first) => {
                let more = compared.differences.len() - 1;
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                Err(Error::Bad { name: name.to_owned(), why: format!("{first}{more}") })
            }
        }
    }

    fn differences(&self, backup: &Backup, control: &Control) -> Result<Compared, Error> {
        let mut all = Compared::default();
        for (number, copied) in backup.present() {
            let nothing = |_: &Path| false;
            let mut comparison = Comparison::new(self.disk, control);
            comparison.attributes = false;
            comparison.from_disk = true;
            comparison.extra = Some(&nothing);
            let entries = entries_of(&backup.lines, number);
            let compared = comparison.run(&backup.copy_of(copied), &entries)?;
            all.files += compared.files;
            all.bytes += compared.bytes;
            all.differences.extend(compared.differences);
        }
        Ok(all)
    }

    /// Restores parts (all, if none are named) below a folder that must be empty or not exist.
    pub fn restore_to(
        &self,
        name: &str,
        parts: &[String],
        target: &Path,
        control: &Control,
    ) -> Result<Vec<PathBuf>, Error> {
        let backup = self.open(name)?;
        let refused = |why: String| Error::Refused { name: name.to_owned(), why };
        if fs::read_dir(target).is_ok_and(|mut all| all.next().is_some()) {
            return Err(refused(format!("`{}` is not empty", target.display())));
        }
        fs::create_dir_all(target).map_err(FilesError::at("create the folder", target))?;
        let mut restored = Vec::new();
        for (number, copied) in backup.chosen(parts)? {
            let place = target.join(&copied.part.id);
            self.write_part(&backup, number, copied, &place, Owners::WhereAllowed, control)?;
            restored.push(place);
        }
        Ok(restored)
    }

    /// Restores parts where they belong. What is there now is moved aside, beside its place. Refused
    /// without an open hold or while a process of the installation runs. See [`CATCH_UP`].
    pub fn restore_in_place(
        &self,
        name: &str,
        parts: &[String],
        allowed: InPlace<'_>,
        control: &Control,
    ) -> Result<Vec<PathBuf>, Error> {
        let refused = |why: String| Error::Refused { name: name.to_owned(), why };
        let Some(token) = allowed.hold else {
            return Err(refused("no hold is open on this host".to_owned()));
        };
        if !allowed.running.is_empty() {
            return Err(refused(format!("{} still run", allowed.running.join(", "))));
        }
        let backup = self.open(name)?;
        let mut restored = Vec::new();
        for (number, copied) in backup.chosen(parts)? {
            let path = copied.part.path();
            if copied.part.scope != super::Scope::Whole {
                // The software is put back by undoing an upgrade, file by file; here only whole
                // folders can be swapped.
                if parts.is_empty() {
                    continue;
                }
                let why = format!("`{}` shares its folder with other things", copied.part.id);
                return Err(refused(why));
            }
            let beside = |word: &str| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                path.with_file_name(format!("{name}.grayfin-{word}-{token}"))
            };
            let (fresh, aside) = (beside("restored"), free_name(&beside("before")));
            remove_tree(self.disk, &fresh)?;
            self.write_part(&backup, number, copied, &fresh, Owners::Exact, control)?;
            if path.symlink_metadata().is_ok() {
                rename_durably(self.disk, &path, &aside)?;
            }
            rename_durably(self.disk, &fresh, &path)?;
            restored.push(path);
        }
        Ok(restored)
    }

    /// Copies a part out of a backup, gives it the attributes of the manifest, and proves it.
    fn write_part(
        &self,
        backup: &Backup,
        number: usize,
        copied: &PartCopied,
        target: &Path,
        owners: Owners,
        control: &Control,
    ) -> Result<(), Error> {
        let entries = entries_of(&backup.lines, number);
        write_entries(self.disk, &backup.copy_of(copied), &entries, target, owners, control)?;
        let mut comparison = Comparison::new(self.disk, control);
        comparison.attributes = owners == Owners::Exact;
        let compared = comparison.run(target, &entries)?;
        match compared.differences.first() {
            None => Ok(()),
            Some(first) => {
                let name = backup.header.name.clone();
                Err(Error::Bad { name, why: format!("restored, {first}") })
            }
        }
    }

    /// Removes what is too old of one host and cluster: keeps the newest `keep` good ones (at least
    /// one), and removes nothing good at all unless the newest one proves good in full. What was
    /// interrupted goes too. Others' backups in the same folder are never touched. Returns what was
    /// removed.
    pub fn thin_out(
        &self,
        owner: (&HostId, &ClusterId),
        keep: u32,
        control: &Control,
    ) -> Result<Vec<String>, Error> {
        let (host, cluster) = owner;
        let all = self.list()?;
        let mut removed = Vec::new();
        for listed in all.iter().filter(|l| is_partial_of(&l.name, cluster)) {
            remove_tree(self.disk, &self.folder.join(&listed.name))?;
            removed.push(listed.name.clone());
        }
        let ours = |header: &Header| header.host == *host && header.cluster == *cluster;
        let good: Vec<&Listed> = all.iter().filter(|l| l.state.as_ref().is_ok_and(ours)).collect();
        let keep = usize::try_from(keep.max(1)).unwrap_or(usize::MAX);
        if good.len() <= keep {
            return Ok(removed);
        }
        if let Some(newest) = good.first() {
            self.verify(&newest.name, control)?;
        }
        for old in good.iter().skip(keep) {
            // Its name goes first: a half-removed one must not look whole.
            let gone = self.folder.join(format!("{PARTIAL_PREFIX}{}", old.name));
            remove_tree(self.disk, &gone)?;
            rename_durably(self.disk, &self.folder.join(&old.name), &gone)?;
            remove_tree(self.disk, &gone)?;
            removed.push(old.name.clone());
        }
        Ok(removed)
    }
}

/// The name of a backup: `trade-20261122T184846Z-hold7`.
pub fn name(cluster: &ClusterId, created_ms: u64, token: Token) -> String {
    let millis = i64::try_from(created_ms).unwrap_or(0);
    let time = jiff::Timestamp::from_millisecond(millis).unwrap_or_default();
    format!("{cluster}-{}-hold{token}", time.strftime(TIME))
}

/// How the time stands in names.
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// Tells whether a name is an interrupted backup of a cluster.
fn is_partial_of(name: &str, cluster: &ClusterId) -> bool {
    let rest = name
        .strip_prefix(PARTIAL_PREFIX)
        .and_then(|rest| rest.strip_prefix(cluster.as_str())?.strip_prefix('-'));
    // Another cluster's name may begin with this one's: the time has to follow.
    rest.and_then(|rest| rest.split_once("-hold"))
        .is_some_and(|(time, _)| jiff::civil::DateTime::strptime(TIME, time).is_ok())
}

impl Backup {
    /// Parts that were there, with their numbers.
    pub fn present(&self) -> impl Iterator<Item = (usize, &PartCopied)> {
        self.header.parts.iter().enumerate().filter(|(_, part)| part.present)
    }

    /// Where the copy of a part is.
    pub fn copy_of(&self, copied: &PartCopied) -> PathBuf {
        self.path.join(TREE).join(&copied.part.id)
    }

    /// The entries of a part.
    pub fn entries(&self, number: usize) -> Vec<Entry> {
        entries_of(&self.lines, number)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.header.parts.iter().map(|part| part.bytes).sum()
    }

    fn chosen(&self, ids: &[String]) -> Result<Vec<(usize, &PartCopied)>, Error> {
        let known = |id: &String| self.present().any(|(_, p)| p.part.id == *id);
        if let Some(id) = ids.iter().find(|id| !known(id)) {
            let why = format!("it has no part `{id}`");
            return Err(Error::Bad { name: self.header.name.clone(), why });
        }
        Ok(self.present().filter(|(_, p)| ids.is_empty() || ids.contains(&p.part.id)).collect())
    }

    /// Compares what is on the host with the backup: parts for which `wanted` says yes. `moved`
    /// names parts that lie elsewhere.
    pub fn compare_sources(
        &self,
        disk: &dyn Disk,
        control: &Control,
        wanted: &dyn Fn(&super::Part) -> bool,
        moved: &[(String, PathBuf)],
    ) -> Result<Vec<Difference>, Error> {
        let mut all = Vec::new();
        for (number, copied) in self.header.parts.iter().enumerate() {
            let part = &copied.part;
            if !wanted(part) {
                continue;
            }
            let elsewhere = moved.iter().find(|(id, _)| *id == part.id);
            let path = elsewhere.map_or_else(|| part.path(), |(_, path)| path.clone());
            if !copied.present {
                if path.symlink_metadata().is_ok() {
                    all.push(Difference { path, what: "was not there before".to_owned() });
                }
                continue;
            }
            let skip = |relative: &Path| part.skips(relative);
            let mut comparison = Comparison::new(disk, control);
            comparison.extra = Some(&skip);
            all.extend(comparison.run(&path, &self.entries(number))?.differences);
        }
        Ok(all)
    }
}

/// Writes entries from a copy to a place that must not exist.
fn write_entries(
    disk: &dyn Disk,
    from: &Path,
    entries: &[Entry],
    to: &Path,
    owners: Owners,
    control: &Control,
) -> Result<(), Error> {
    let copier = Copier { owners, durability: Durability::EachFile, ..Copier::new(disk, control) };
    let place = |entry: &Entry, root: &Path| {
        entry.relative().map(|relative| {
            if relative.as_os_str().is_empty() { root.to_path_buf() } else { root.join(relative) }
        })
    };
    for entry in entries {
        control.check()?;
        let (Some(source), Some(target)) = (place(entry, from), place(entry, to)) else { continue };
        match &entry.kind {
            Kind::Folder => {
                disk.create_dir(&target, 0o700).map_err(FilesError::at("create", &target))?;
            }
            Kind::File { .. } => {
                copier.copy_one(&source, &target, &entry.attributes)?;
            }
            Kind::Link { target: points_to } => {
                let points_to = decode_path(points_to).unwrap_or_default();
                disk.symlink(&points_to, &target).map_err(FilesError::at("create", &target))?;
                disk.set_attributes(&target, &entry.attributes, owners)
                    .map_err(FilesError::at("set the owner of", &target))?;
            }
            Kind::Special => {}
        }
    }
    for entry in entries.iter().rev().filter(|entry| entry.kind == Kind::Folder) {
        if let Some(target) = place(entry, to) {
            disk.set_attributes(&target, &entry.attributes, owners)
                .map_err(FilesError::at("set owner and mode of", &target))?;
            disk.sync_dir(&target).map_err(FilesError::at("make durable", &target))?;
        }
    }
    Ok(())
}

/// A name that is not taken.
fn free_name(path: &Path) -> PathBuf {
    let mut free = path.to_path_buf();
    let mut number = 2_u32;
    while free.symlink_metadata().is_ok() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        free = path.with_file_name(format!("{name}-{number}"));
        number = number.saturating_add(1);
    }
    free
}

/// Makes the folder of backups, durably.
pub fn make_folder(disk: &dyn Disk, folder: &Path) -> Result<(), Error> {
    if let Some(above) = folder.parent() {
        fs::create_dir_all(above).map_err(FilesError::at("create the folder", above))?;
    }
    Ok(create_dir_durably(disk, folder, 0o700)?)
}
