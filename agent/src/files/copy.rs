//! Copying a tree with everything that belongs to it.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustix::{
    fs::{Advice, SeekFrom},
    io::Errno,
};

use super::{
    Attributes, Control, Disk, Entry, Error, Found, Hasher, Kind, Owners, Stamp, WORKERS,
    encode_path, hash::BLOCK, in_parallel, walk,
};

/// When a copy becomes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// File by file: slower, and it flushes nothing that is not ours. For work beside nodes that
    /// serve.
    EachFile,
    /// All at once at the end: see [`make_durable`].
    AtTheEnd,
    /// Not at all: the caller makes several copies durable together with [`make_durable`].
    ByCaller,
}

/// Up to this many names are flushed one by one, many at a time, so that the file system's journal
/// takes them together. Beyond it one flush of the whole file system is quicker, though it also
/// writes what is not ours.
const ONE_BY_ONE_MAX: usize = 512;

/// Names flushed at the same time.
const FLUSHED_AT_ONCE: usize = 16;

/// Makes trees durable that were just written: every file and folder, and the names of the trees
/// themselves.
pub fn make_durable(disk: &dyn Disk, roots: &[PathBuf]) -> Result<(), Error> {
    let mut names = Vec::new();
    let mut folders = std::collections::BTreeSet::new();
    for root in roots {
        for found in walk(root, &|_| false)? {
            let path = join(root, &found.relative);
            if found.metadata.is_dir() {
                folders.insert(path.clone());
            } else if found.metadata.is_file() {
                names.push(path.clone());
            }
            folders.extend(path.parent().map(Path::to_path_buf));
        }
    }
    if names.len() > ONE_BY_ONE_MAX
        && let Some(root) = roots.first()
    {
        let volume = if root.is_dir() { root } else { root.parent().unwrap_or(root) };
        return disk.sync_volume(volume).map_err(Error::at("make durable", volume));
    }
    in_parallel(&names, FLUSHED_AT_ONCE, |_, path| {
        let file = disk.open_read(path).map_err(Error::at("open", path))?;
        disk.sync_file(&file, path).map_err(Error::at("make durable", path))
    })?;
    let folders: Vec<PathBuf> = folders.into_iter().collect();
    in_parallel(&folders, FLUSHED_AT_ONCE, |_, path| {
        disk.sync_dir(path).map_err(Error::at("make durable", path))
    })
}

/// Copies trees.
#[derive(Debug)]
pub struct Copier<'a> {
    /// Where to.
    pub disk: &'a dyn Disk,
    /// Stop flag, progress and pace.
    pub control: &'a Control,
    /// Threads.
    pub workers: usize,
    /// What to do where an owner cannot be set.
    pub owners: Owners,
    /// When the copy becomes durable.
    pub durability: Durability,
}

/// What was copied.
#[derive(Debug, Clone, Default)]
pub struct Copied {
    /// Every name with its attributes and hash, parents before children; the root is the first.
    pub entries: Vec<Entry>,
    /// Bytes of all files.
    pub bytes: u64,
}

impl<'a> Copier<'a> {
    /// One for backups: owners where allowed, durable at the end.
    pub fn new(disk: &'a dyn Disk, control: &'a Control) -> Self {
        Self {
            disk,
            control,
            workers: WORKERS,
            owners: Owners::WhereAllowed,
            durability: Durability::AtTheEnd,
        }
    }

    /// Copies `from` (a folder or a file) to `to`, which must not exist. Links are copied as links,
    /// sockets, pipes and devices are only noted. Fails if the source changes meanwhile; what was
    /// copied by then stays for the caller to remove.
    pub fn copy(
        &self,
        from: &Path,
        to: &Path,
        skip: &dyn Fn(&Path) -> bool,
    ) -> Result<Copied, Error> {
        let found = walk(from, skip)?;
        let mut entries = Vec::with_capacity(found.len());
        for one in &found {
            entries.push(self.describe(from, one)?);
        }
        for (one, entry) in found.iter().zip(&entries) {
            self.make_name(&join(to, &one.relative), entry)?;
        }
        let hashes = Mutex::new(Vec::new());
        let files: Vec<(usize, &Found)> =
            found.iter().enumerate().filter(|(_, f)| f.metadata.is_file()).collect();
        in_parallel(&files, self.workers, |_, (at, one)| {
            let source = join(from, &one.relative);
            let hash = self.copy_file(&source, &join(to, &one.relative), one, entries.get(*at))?;
            hashes.lock().unwrap_or_else(PoisonError::into_inner).push((*at, hash));
            Ok(())
        })?;
        let mut bytes = 0;
        for (at, hash) in hashes.into_inner().unwrap_or_else(PoisonError::into_inner) {
            if let Some(Entry { kind: Kind::File { size, sha256 }, .. }) = entries.get_mut(at) {
                bytes += *size;
                *sha256 = hash;
            }
        }
        self.finish_folders(to, &found, &entries)?;
        confirm_unchanged(from, &found, skip)?;
        Ok(Copied { entries, bytes })
    }

    /// Copies one regular file to a name that must not exist; returns its digest.
    pub fn copy_one(
        &self,
        from: &Path,
        to: &Path,
        attributes: &Attributes,
    ) -> Result<String, Error> {
        let source = self.disk.open_read(from).map_err(Error::at("open", from))?;
        let target = self.disk.create_file(to, 0o600).map_err(Error::at("create", to))?;
        let size = source.metadata().map_err(Error::at("look at", from))?.len();
        let hash = self.transfer(&source, from, &target, to, size)?;
        self.disk
            .set_attributes(to, attributes, self.owners)
            .map_err(Error::at("set owner, mode and time of", to))?;
        self.disk.sync_file(&target, to).map_err(Error::at("make durable", to))?;
        Ok(hash)
    }

    fn describe(&self, root: &Path, found: &Found) -> Result<Entry, Error> {
        let path = join(root, &found.relative);
        let file_type = found.metadata.file_type();
        let kind = if file_type.is_dir() {
            Kind::Folder
        } else if file_type.is_file() {
            Kind::File { size: found.metadata.len(), sha256: String::new() }
        } else if file_type.is_symlink() {
            let target = std::fs::read_link(&path).map_err(Error::at("read the link", &path))?;
            Kind::Link { target: encode_path(&target) }
        } else {
            Kind::Special
        };
        let attributes = Attributes::read(&path, &found.metadata)
            .map_err(Error::at("read the attributes of", &path))?;
        Ok(Entry { path: found.encoded(), kind, attributes })
    }

    fn make_name(&self, path: &Path, entry: &Entry) -> Result<(), Error> {
        match &entry.kind {
            Kind::Folder => {
                self.disk.create_dir(path, 0o700).map_err(Error::at("create the folder", path))
            }
            Kind::Link { target } => {
                let target = super::decode_path(target).unwrap_or_default();
                self.disk.symlink(&target, path).map_err(Error::at("create the link", path))?;
                self.set_attributes(path, entry)
            }
            Kind::File { .. } | Kind::Special => Ok(()),
        }
    }

    fn copy_file(
        &self,
        from: &Path,
        to: &Path,
        found: &Found,
        entry: Option<&Entry>,
    ) -> Result<String, Error> {
        let source = self.disk.open_read(from).map_err(Error::at("open", from))?;
        let metadata = source.metadata().map_err(Error::at("look at", from))?;
        if Stamp::of(&metadata) != Stamp::of(&found.metadata) {
            return Err(changed(from, "it was replaced or written"));
        }
        let target = self.disk.create_file(to, 0o600).map_err(Error::at("create", to))?;
        let hash = self.transfer(&source, from, &target, to, metadata.len())?;
        let after = source.metadata().map_err(Error::at("look at", from))?;
        if Stamp::of(&after) != Stamp::of(&metadata) {
            return Err(changed(from, "it was written"));
        }
        if let Some(entry) = entry {
            self.set_attributes(to, entry)?;
        }
        if self.durability == Durability::EachFile {
            self.disk.sync_file(&target, to).map_err(Error::at("make durable", to))?;
        }
        Ok(hash)
    }

    /// Copies `size` bytes, keeping holes as holes; the digest covers holes as zeros.
    fn transfer(
        &self,
        source: &File,
        from: &Path,
        target: &File,
        to: &Path,
        size: u64,
    ) -> Result<String, Error> {
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; BLOCK];
        let mut position = 0;
        while position < size {
            let (data, hole) = next_data(source, position, size);
            if data > position {
                self.skip_hole(&mut hasher, &mut buffer, data - position)?;
            }
            let mut at = data;
            seek(source, at).map_err(Error::at("read", from))?;
            seek(target, at).map_err(Error::at("write", to))?;
            while at < hole {
                let want = usize::try_from(hole - at).unwrap_or(BLOCK).min(BLOCK);
                let room = buffer.get_mut(..want).unwrap_or_default();
                let count = self.disk.read(source, from, room).map_err(Error::at("read", from))?;
                if count == 0 {
                    return Err(changed(from, "it became shorter"));
                }
                let bytes = buffer.get(..count).unwrap_or_default();
                hasher.update(bytes);
                self.disk.write_all(target, to, bytes).map_err(Error::at("write", to))?;
                at += count as u64;
                self.control.advance(count as u64)?;
            }
            position = hole.max(data);
        }
        self.disk.set_len(target, to, size).map_err(Error::at("write", to))?;
        // What the database keeps cached is worth more than our passing through. Only advice: a
        // file system that does not take it loses nothing.
        rustix::fs::fadvise(source, 0, None, Advice::DontNeed).unwrap_or_default();
        Ok(hasher.finish())
    }

    fn skip_hole(
        &self,
        hasher: &mut Hasher,
        buffer: &mut [u8],
        mut length: u64,
    ) -> Result<(), Error> {
        buffer.fill(0);
        while length > 0 {
            let part = length.min(buffer.len() as u64);
            hasher.update(buffer.get(..usize::try_from(part).unwrap_or(0)).unwrap_or_default());
            length -= part;
            self.control.check()?;
        }
        Ok(())
    }

    fn finish_folders(&self, to: &Path, found: &[Found], entries: &[Entry]) -> Result<(), Error> {
        for (one, entry) in found.iter().zip(entries).rev() {
            if entry.kind != Kind::Folder {
                continue;
            }
            let path = join(to, &one.relative);
            self.set_attributes(&path, entry)?;
            if self.durability == Durability::EachFile {
                self.disk.sync_dir(&path).map_err(Error::at("make durable", &path))?;
            }
        }
        if self.durability == Durability::AtTheEnd {
            make_durable(self.disk, &[to.to_path_buf()])?;
        }
        Ok(())
    }

    fn set_attributes(&self, path: &Path, entry: &Entry) -> Result<(), Error> {
        self.disk
            .set_attributes(path, &entry.attributes, self.owners)
            .map_err(Error::at("set owner, mode and time of", path))
    }
}

/// `root/relative`, without a trailing slash where `relative` is empty.
fn join(root: &Path, relative: &Path) -> PathBuf {
    if relative.as_os_str().is_empty() { root.to_path_buf() } else { root.join(relative) }
}

fn changed(path: &Path, what: &str) -> Error {
    Error::SourceChanged { path: path.to_path_buf(), what: what.to_owned() }
}

fn seek(file: &File, to: u64) -> io::Result<()> {
    rustix::fs::seek(file, SeekFrom::Start(to))?;
    Ok(())
}

/// Where the next stretch of data begins and ends; everything is data where holes can't be asked for.
fn next_data(file: &File, position: u64, size: u64) -> (u64, u64) {
    match rustix::fs::seek(file, SeekFrom::Data(position)) {
        Ok(data) => {
            let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap_or(size);
            (data.min(size), hole.clamp(data.min(size), size))
        }
        // Nothing but a hole up to the end.
        Err(Errno::NXIO) => (size, size),
        Err(_) => (position, size),
    }
}

/// Looks at the whole source again: same names, same stamps.
fn confirm_unchanged(
    from: &Path,
    before: &[Found],
    skip: &dyn Fn(&Path) -> bool,
) -> Result<(), Error> {
    let after = walk(from, skip)?;
    for (old, new) in before.iter().zip(&after) {
        let path = join(from, &old.relative);
        if old.relative != new.relative {
            return Err(changed(&path, "names appeared or vanished"));
        }
        if Stamp::of(&old.metadata) != Stamp::of(&new.metadata) {
            return Err(changed(&path, "it was written"));
        }
    }
    if before.len() != after.len() {
        return Err(changed(from, "names appeared or vanished"));
    }
    Ok(())
}
