//! A disk that forgets: what was not synced is lost, in whole or in part, when the test says so.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Storage;

/// A file whose unsynced writes can be dropped. Clones are the same file.
#[derive(Debug, Clone, Default)]
pub struct ForgetfulFile(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    /// What survives.
    durable: Vec<u8>,
    /// What a reader sees.
    seen: Vec<u8>,
    /// Writes since the last sync: offset and bytes.
    pending: Vec<(usize, Vec<u8>)>,
    /// Bytes that the file may grow to.
    room: Option<usize>,
    /// The next sync fails.
    sync_fails: bool,
}

impl ForgetfulFile {
    /// Power is lost: unsynced writes are gone.
    pub fn lose_power(&self) {
        let mut content = self.content();
        content.seen = content.durable.clone();
        content.pending.clear();
    }

    /// Power is lost while the last write was on its way: only the bytes that `kept` says, by
    /// their place in the file, have arrived.
    pub fn lose_power_keeping(&self, kept: impl Fn(usize) -> bool) {
        let mut content = self.content();
        let mut durable = std::mem::take(&mut content.durable);
        for (offset, bytes) in std::mem::take(&mut content.pending) {
            for (at, byte) in (offset..).zip(bytes) {
                if kept(at) {
                    if durable.len() <= at {
                        durable.resize(at + 1, 0);
                    }
                    if let Some(place) = durable.get_mut(at) {
                        *place = byte;
                    }
                }
            }
        }
        content.seen.clone_from(&durable);
        content.durable = durable;
    }

    /// Limits the file's length, as a full disk does.
    pub fn set_room(&self, room: Option<usize>) {
        self.content().room = room;
    }

    /// Makes the next sync fail.
    pub fn fail_sync(&self) {
        self.content().sync_fails = true;
    }

    /// Returns the durable bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.content().durable.clone()
    }

    /// Makes a file of these bytes.
    pub fn of(bytes: Vec<u8>) -> Self {
        let seen = bytes.clone();
        Self(Arc::new(Mutex::new(Content { durable: bytes, seen, ..Content::default() })))
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl Content {
    fn grow(&mut self, length: usize) -> io::Result<()> {
        if self.room.is_some_and(|room| length > room && length > self.seen.len()) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.seen.len() < length {
            self.seen.resize(length, 0);
        }
        Ok(())
    }
}

impl Storage for ForgetfulFile {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.content().seen.clone())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = index(offset)?;
        let mut content = self.content();
        content.grow(offset + bytes.len())?;
        content.pending.push((offset, bytes.to_vec()));
        if let Some(place) = content.seen.get_mut(offset..offset + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let length = index(length)?;
        self.content().seen.truncate(length);
        Ok(())
    }

    fn allocate(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let length = index(offset.saturating_add(length))?;
        self.content().grow(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut content = self.content();
        if std::mem::take(&mut content.sync_fails) {
            return Err(io::Error::other("the disk lost a write"));
        }
        content.durable = content.seen.clone();
        content.pending.clear();
        Ok(())
    }
}
