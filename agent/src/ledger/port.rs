//! The ledger's port to the disk: one file.

use std::{
    fmt, fs, io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::FallocateFlags;

/// The file that a ledger lives in.
pub trait Storage: fmt::Debug + Send {
    /// Reads everything.
    fn read(&mut self) -> io::Result<Vec<u8>>;
    /// Writes at a place. Not durable before [`Self::sync`].
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts off everything from `length` on. Not durable before [`Self::sync`].
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// Makes sure that writes in this range find room; what is new there reads as zeros.
    fn allocate(&mut self, offset: u64, length: u64) -> io::Result<()>;
    /// Makes all that was written durable. Must not return `Ok` before it is.
    fn sync(&mut self) -> io::Result<()>;
}

/// A real file.
#[derive(Debug)]
pub struct RealFile(fs::File);

impl RealFile {
    /// Opens the file, or makes it, durably named in its folder; readable by us only.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        file.sync_all()?;
        if let Some(folder) = path.parent() {
            fs::File::open(folder)?.sync_all()?;
        }
        Ok(Self(file))
    }
}

impl Storage for RealFile {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let length = self.0.metadata()?.len();
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = vec![0; length];
        self.0.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn allocate(&mut self, offset: u64, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), offset, length) {
            Err(rustix::io::Errno::OPNOTSUPP) => {
                // Zeros in place of the system call; only ever called beyond what is written.
                let zeros = vec![0; usize::try_from(length).unwrap_or(0)];
                self.0.write_all_at(&zeros, offset)
            }
            other => Ok(other?),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}
