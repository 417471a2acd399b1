//! SHA-256 of files, computed while they are read.

use std::{
    io::{self, Read},
    path::Path,
};

use sha2::{Digest as _, Sha256};

use super::{Control, Disk, Error};

/// Bytes per read: large enough that system calls do not matter, small enough to stay in cache. Less
/// than the 128 KiB from which glibc asks the kernel for memory of its own: having done so once, it
/// keeps twice as much in each thread's arena for ever, some 15 MiB in an idle host agent.
pub(crate) const BLOCK: usize = 64 << 10;

/// A running SHA-256.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest in hex.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

/// Writes bytes in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|b| [b >> 4, b & 15])
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .collect()
}

/// Hashes a regular file without following a link at its name. Returns digest and length.
pub fn hash_file(disk: &dyn Disk, path: &Path, control: &Control) -> Result<(String, u64), Error> {
    let file = disk.open_read(path).map_err(Error::at("open", path))?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; BLOCK];
    let mut length = 0_u64;
    loop {
        control.check()?;
        let count = disk.read(&file, path, &mut buffer).map_err(Error::at("read", path))?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        hasher.update(bytes);
        length += bytes.len() as u64;
        control.advance(bytes.len() as u64)?;
    }
    Ok((hasher.finish(), length))
}

/// A reader that hashes what passes.
#[derive(Debug)]
pub struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
    length: u64,
}

impl<R> HashingReader<R> {
    /// Wraps a reader.
    pub fn new(inner: R) -> Self {
        Self { inner, hasher: Hasher::default(), length: 0 }
    }

    /// Returns digest and number of bytes that passed.
    pub fn finish(self) -> (String, u64) {
        (self.hasher.finish(), self.length)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let bytes = buffer.get(..count).unwrap_or_default();
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::RealDisk;

    #[test]
    fn the_digest_is_sha256() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"abc").unwrap();
        let (digest, length) = hash_file(&RealDisk, &path, &Control::default()).unwrap();
        assert_eq!(length, 3);
        assert_eq!(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
