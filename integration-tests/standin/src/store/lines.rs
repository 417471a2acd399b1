//! Files of lines, each with a checksum; a torn last line is what a crash leaves and is dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Error;
use crate::version::Version;

/// The first line of every file.
#[derive(serde::Serialize, serde::Deserialize)]
struct Head {
    standin: String,
    version: String,
}

/// A file that grows line by line.
#[derive(Debug)]
pub(crate) struct LineFile {
    path: PathBuf,
    file: File,
    sync: bool,
}

/// What a file held.
#[derive(Debug)]
pub(crate) struct Lines<T> {
    /// Who wrote it.
    pub(crate) version: Version,
    /// Its lines.
    pub(crate) lines: Vec<T>,
}

fn encode<T: Serialize>(value: &T) -> io::Result<String> {
    let json = serde_json::to_string(value)?;
    Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())))
}

fn decode<T: DeserializeOwned>(line: &str) -> Option<T> {
    let (sum, json) = line.split_once(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    if crc32fast::hash(json.as_bytes()) != sum {
        return None;
    }
    serde_json::from_str(json).ok()
}

/// Reads a file; `None` if there is none.
pub(crate) fn read<T: DeserializeOwned>(
    path: &Path,
    own: &Version,
) -> Result<Option<Lines<T>>, Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path)(error)),
    };
    let damaged =
        |reason: &str| Error::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap_or(""));
    let mut rest = whole.split('\n');
    let head: Head = rest.next().and_then(decode).ok_or_else(|| damaged("incomplete file"))?;
    let version: Version = head.version.parse().map_err(|_| damaged("a file without a version"))?;
    if version > *own {
        let (found, own) = (version, own.clone());
        return Err(Error::TooNew { path: path.to_owned(), found, own });
    }
    let mut lines = Vec::new();
    let mut rest = rest.peekable();
    while let Some(line) = rest.next() {
        match decode(line) {
            Some(value) => lines.push(value),
            None if rest.peek().is_none() => {}
            None => return Err(damaged("a damaged line")),
        }
    }
    Ok(Some(Lines { version, lines }))
}

/// Writes a file as a whole; it is there under its name only when it is complete.
pub(crate) fn replace<T: Serialize>(
    path: &Path,
    version: &Version,
    lines: &[T],
    sync: bool,
) -> Result<(), Error> {
    let mut text = head(version).map_err(Error::io(path))?;
    for line in lines {
        text.push_str(&encode(line).map_err(Error::io(path))?);
    }
    let partial = partial_name(path);
    let write = || {
        let mut file = File::create(&partial)?;
        file.write_all(text.as_bytes())?;
        if sync {
            file.sync_all()?;
        }
        fs::rename(&partial, path)?;
        sync_folder(path, sync)
    };
    write().map_err(Error::io(path))
}

fn head(version: &Version) -> io::Result<String> {
    let standin = "test double, not DolphinDB".to_owned();
    encode(&Head { standin, version: version.to_string() })
}

fn partial_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// A new name is durable only when its folder is.
pub(super) fn sync_folder(path: &Path, sync: bool) -> io::Result<()> {
    match path.parent() {
        Some(folder) if sync => File::open(folder)?.sync_all(),
        Some(_) | None => Ok(()),
    }
}

impl LineFile {
    /// Starts a file with these lines, in place of what was there, and keeps it open.
    pub(crate) fn create<T: Serialize>(
        path: &Path,
        version: &Version,
        lines: &[T],
        sync: bool,
    ) -> Result<Self, Error> {
        replace(path, version, lines, sync)?;
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io(path))?;
        Ok(Self { path: path.to_owned(), file, sync })
    }

    /// Adds lines; durable when it returns, if the file was opened so.
    pub(crate) fn append<T: Serialize>(&mut self, lines: &[T]) -> Result<(), Error> {
        self.add(lines, self.sync)
    }

    /// Adds lines that something else can stand in for after a power cut.
    pub(crate) fn append_lazily<T: Serialize>(&mut self, lines: &[T]) -> Result<(), Error> {
        self.add(lines, false)
    }

    fn add<T: Serialize>(&mut self, lines: &[T], sync: bool) -> Result<(), Error> {
        let mut write = || {
            let mut text = String::new();
            for line in lines {
                text.push_str(&encode(line)?);
            }
            self.file.write_all(text.as_bytes())?;
            if sync { self.file.sync_data() } else { Ok(()) }
        };
        write().map_err(Error::io(&self.path))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn lines_come_back_without_the_torn_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let own = version("2.00.8.10");
        let mut file = LineFile::create(&path, &own, &[1, 2], false).unwrap();
        file.append(&[3]).unwrap();
        let mut text = fs::read(&path).unwrap();
        text.extend(b"deadbeef 4");
        fs::write(&path, &text).unwrap();
        assert_eq!(read::<i32>(&path, &own).unwrap().unwrap().lines, [1, 2, 3]);
        assert!(read::<i32>(&folder.path().join("none"), &own).unwrap().is_none());
    }

    #[test]
    fn an_older_version_refuses_and_damage_in_the_middle_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        replace(&path, &version("2.00.8.12"), &[1, 2], true).unwrap();
        let error = read::<i32>(&path, &version("2.00.8.10")).unwrap_err().to_string();
        assert!(error.starts_with("Unsupported metadata version 2.00.8.12"), "{error}");
        let text = fs::read_to_string(&path).unwrap().replace(" 1\n", " 7\n");
        fs::write(&path, text).unwrap();
        assert!(matches!(read::<i32>(&path, &version("2.00.9.4")), Err(Error::Damaged { .. })));
    }
}
