//! Manifests: what a tree is made of, in a file that tells whether it is whole.
//!
//! One JSON document a line: a header, the entries, and at the end their number with the SHA-256 of
//! everything before. A manifest is written last, so a tree with a good one is complete; a manifest
//! whose last line is missing or does not fit is damaged and never used.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Disk, Error, Hasher, write_durably};

/// The form of the lines; a reader refuses another one.
const FORM: u32 = 1;

/// The longest line: a path of 4096 bytes written as `%XX`, with attributes of 64 KiB in hex.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It could not be read.
    #[error(transparent)]
    Files(#[from] Error),
    /// It is not whole or not ours.
    #[error("the manifest `{}` is damaged at line {line}: {why}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Why.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
struct First<H> {
    form: u32,
    header: H,
}

#[derive(Serialize, Deserialize)]
struct Last {
    entries: usize,
    sha256: String,
}

#[derive(Serialize, Deserialize)]
struct End {
    end: Last,
}

/// Writes a manifest durably; returns its own SHA-256, which names the whole tree.
pub fn write_manifest<H: Serialize, E: Serialize>(
    disk: &dyn Disk,
    path: &Path,
    header: &H,
    entries: &[E],
) -> Result<String, Error> {
    let fail = |e: serde_json::Error| Error::at("write", path)(e.into());
    let mut bytes = serde_json::to_vec(&First { form: FORM, header }).map_err(fail)?;
    bytes.push(b'\n');
    for entry in entries {
        serde_json::to_writer(&mut bytes, entry).map_err(fail)?;
        bytes.push(b'\n');
    }
    let sha256 = digest(&bytes);
    let end = End { end: Last { entries: entries.len(), sha256 } };
    serde_json::to_writer(&mut bytes, &end).map_err(fail)?;
    bytes.push(b'\n');
    write_durably(disk, path, &bytes, 0o600)?;
    Ok(digest(&bytes))
}

/// Reads a manifest and checks that it is whole; also returns its own SHA-256.
pub fn read_manifest<H: DeserializeOwned, E: DeserializeOwned>(
    disk: &dyn Disk,
    path: &Path,
) -> Result<(H, Vec<E>, String), ManifestError> {
    let file = disk.open_read(path).map_err(Error::at("open", path))?;
    let mut lines = Lines::new(file, path);
    let Some(first) = lines.next_line()? else { return Err(lines.damaged("it is empty")) };
    let first: First<serde_json::Value> = lines.parse(&first)?;
    if first.form != FORM {
        return Err(lines.damaged(&format!("its form {} is not known here", first.form)));
    }
    let header = serde_json::from_value(first.header).map_err(|e| lines.damaged(&e.to_string()))?;
    let mut entries = Vec::new();
    loop {
        let so_far = lines.hasher.clone();
        let Some(line) = lines.next_line()? else {
            return Err(lines.damaged("its end is missing"));
        };
        if !line.starts_with(b"{\"end\":") {
            entries.push(lines.parse(&line)?);
            continue;
        }
        let End { end } = lines.parse(&line)?;
        if end.entries != entries.len() || end.sha256 != so_far.finish() {
            return Err(lines.damaged("its content is not what its last line says"));
        }
        if lines.next_line()?.is_some() {
            return Err(lines.damaged("something follows its end"));
        }
        return Ok((header, entries, lines.hasher.finish()));
    }
}

/// Reads bounded lines and hashes them.
struct Lines<'a> {
    reader: BufReader<File>,
    path: &'a Path,
    number: usize,
    hasher: Hasher,
}

impl<'a> Lines<'a> {
    fn new(file: File, path: &'a Path) -> Self {
        Self { reader: BufReader::new(file), path, number: 0, hasher: Hasher::default() }
    }

    fn next_line(&mut self) -> Result<Option<Vec<u8>>, ManifestError> {
        let mut line = Vec::new();
        let count = (&mut self.reader)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .map_err(Error::at("read", self.path))?;
        self.number += 1;
        if count == 0 {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') {
            return Err(self.damaged("the line is cut off or too long"));
        }
        self.hasher.update(&line);
        Ok(Some(line))
    }

    fn parse<T: DeserializeOwned>(&self, line: &[u8]) -> Result<T, ManifestError> {
        serde_json::from_slice(line).map_err(|e| self.damaged(&e.to_string()))
    }

    fn damaged(&self, why: &str) -> ManifestError {
        let path = self.path.to_path_buf();
        ManifestError::Damaged {
            path,
            line: self.number,
            why: grayfin_types::cut(why).into_owned(),
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::RealDisk;

    #[test]
    fn any_change_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let entries = vec!["one".to_owned(), "two".to_owned()];
        let digest = write_manifest(&RealDisk, &path, &7_u32, &entries).unwrap();
        let read = |path: &Path| read_manifest::<u32, String>(&RealDisk, path);
        let (header, back, again) = read(&path).unwrap();
        assert_eq!((header, &back, &again), (7, &entries, &digest));

        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            // A flipped bit in white space or a key's case would still be caught by the hash.
            assert!(read(&path).is_err() || at >= good.len() - 1, "byte {at}");
            std::fs::write(&path, &good[..at]).unwrap();
            assert!(read(&path).is_err(), "cut at {at}");
        }
        std::fs::write(&path, [&good[..], b"\"more\"\n"].concat()).unwrap();
        assert!(read(&path).is_err());
    }
}
