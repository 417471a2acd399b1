//! The ledger's file: an append-only log of entries.
//!
//! ```text
//! file    "GFLEDGER" format:u32 0:u32   record*   zeros
//! record  length:u32 crc:u32 position:u32 header_crc:u32   payload   zeros up to a multiple of 16
//! payload version:u8 JSON
//! ```
//! The running hash (S8) is not stored: `chain(n) = SHA-256(chain(n-1), payload n)`, its first 16
//! bytes, from zeros on, so that ledgers of older builds have it too.
//!
//! Numbers are little-endian, checksums CRC-32. The room behind the last record is preallocated
//! and zero. A record counts when `sync` has returned, so only the last one can be incomplete: its
//! header lies within one 512-byte sector, which a disk writes whole or not at all, and its payload
//! has no zero byte, so zeros at its end or a sector of zeros in it were never written. That is healed
//! by cutting the record off, for nobody was told that it is there. Everything else is damage, and
//! never skipped.

use std::path::{Path, PathBuf};

use grayfin_agent_core::{Entry, entry};
use sha2::{Digest, Sha256};

use super::{Error, Storage};

/// First bytes of the file.
const MAGIC: &[u8; 8] = b"GFLEDGER";

/// Format of the file around the entries.
const FORMAT: u32 = 1;

/// Length of the file's header, and alignment of records.
const ALIGN: usize = 16;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// The longest payload: a plan of the largest message (64 MiB) and what is around it.
const PAYLOAD_MAX: usize = 80 << 20;

/// Room that is kept allocated behind the last record: an order with a plan for three hosts takes
/// about 10 KiB, and a sequence with it about 60 KiB.
const AHEAD: u64 = 1 << 20;

/// The running hash over all payloads up to one.
pub(super) type Chain = [u8; 16];

/// What opening found.
#[derive(Debug)]
pub(super) struct Opened<S> {
    pub(super) log: Log<S>,
    pub(super) entries: Vec<Entry>,
    /// An incomplete last record was cut off, here.
    pub(super) healed_at: Option<u64>,
}

/// The open log.
#[derive(Debug)]
pub(super) struct Log<S> {
    storage: S,
    file: PathBuf,
    /// Where the next record goes.
    end: u64,
    /// Up to where room is allocated.
    allocated: u64,
    /// The running hash at each record so far; they are as many as the ledger is long.
    chain: Vec<Chain>,
    /// A sync failed: what is on the disk is unknown until it is read again.
    poisoned: bool,
}

impl<S: Storage> Log<S> {
    /// Opens a log, making it if it is empty. `file` is only named in errors.
    pub(super) fn open(mut storage: S, file: &Path) -> Result<Opened<S>, Error> {
        let io = |what| move |source| Error::Io { what, file: file.to_owned(), source };
        let bytes = storage.read().map_err(io("read"))?;
        if bytes.iter().all(|byte| *byte == 0) {
            // New, or its maker died before the first entry: nobody was told anything.
            let mut header = MAGIC.to_vec();
            header.extend(FORMAT.to_le_bytes());
            header.resize(ALIGN, 0);
            storage.truncate(0).map_err(io("truncate"))?;
            storage.write_at(0, &header).map_err(io("write"))?;
            storage.sync().map_err(io("sync"))?;
            let end = ALIGN as u64;
            let log = Self::at(storage, file, end, end, Vec::new());
            return Ok(Opened { log, entries: Vec::new(), healed_at: None });
        }
        let read = scan(file, &bytes)?;
        let end = read.end as u64;
        if read.torn {
            storage.truncate(end).map_err(io("truncate"))?;
            storage.sync().map_err(io("sync"))?;
        }
        let allocated = if read.torn { end } else { bytes.len() as u64 };
        Ok(Opened {
            log: Self::at(storage, file, end, allocated, read.chain),
            entries: read.entries,
            healed_at: read.torn.then_some(end),
        })
    }

    fn at(storage: S, file: &Path, end: u64, allocated: u64, chain: Vec<Chain>) -> Self {
        Self { storage, file: file.to_owned(), end, allocated, chain, poisoned: false }
    }

    /// Returns the number of records that count.
    pub(super) fn position(&self) -> u64 {
        self.chain.len() as u64
    }

    /// Returns the running hash at a position in hex; empty where there is none.
    pub(super) fn chain_at(&self, position: u64) -> String {
        let at = usize::try_from(position).ok().and_then(|position| position.checked_sub(1));
        let found = at.and_then(|at| self.chain.get(at));
        found.map(|sum| sum.iter().map(|byte| format!("{byte:02x}")).collect()).unwrap_or_default()
    }

    /// Reads everything again, for entries that are not in memory any more.
    pub(super) fn read_again(&mut self) -> Result<Vec<Entry>, Error> {
        let bytes = self.storage.read().map_err(|source| self.io("read", source))?;
        Ok(scan(&self.file, &bytes)?.entries)
    }

    /// Makes sure that so many bytes more find room.
    pub(super) fn reserve(&mut self, bytes: u64) -> Result<(), Error> {
        let wanted = self.end.saturating_add(bytes);
        if wanted > self.allocated {
            let more = wanted - self.allocated;
            self.storage
                .allocate(self.allocated, more)
                .map_err(|source| self.io("allocate room in", source))?;
            self.allocated = wanted;
        }
        Ok(())
    }

    /// Appends durably and returns the position. On an error nothing was appended, or the log
    /// takes no more until it is opened again.
    pub(super) fn append(&mut self, entry: &Entry) -> Result<u64, Error> {
        if self.poisoned {
            return Err(Error::Poisoned { file: self.file.clone() });
        }
        let position = self.position().saturating_add(1);
        let (record, sum) = encode(entry, position, self.chain.last())
            .ok_or_else(|| Error::TooLong { file: self.file.clone(), max: PAYLOAD_MAX })?;
        let length = record.len() as u64;
        if self.end.saturating_add(length) > self.allocated {
            self.reserve(length.max(AHEAD))?;
        }
        self.poisoned = true;
        self.storage.write_at(self.end, &record).map_err(|source| self.io("write", source))?;
        self.storage.sync().map_err(|source| self.io("sync", source))?;
        self.poisoned = false;
        self.end = self.end.saturating_add(length);
        self.chain.push(sum);
        Ok(position)
    }

    /// Writes half of a record and does not sync it, as a power loss may: for fail points.
    pub(super) fn append_torn(&mut self, entry: &Entry) {
        if let Some((record, _)) = encode(entry, self.position().saturating_add(1), None) {
            let half = record.get(..record.len() / 2).unwrap_or_default();
            // Whether it arrives is just what is left open.
            drop(self.storage.write_at(self.end, half));
            self.poisoned = true;
        }
    }

    fn io(&self, what: &'static str, source: std::io::Error) -> Error {
        Error::Io { what, file: self.file.clone(), source }
    }
}

/// Reads the entries of a file's bytes; an incomplete last one is left out.
pub(super) fn read(file: &Path, bytes: &[u8]) -> Result<Vec<Entry>, Error> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(Vec::new());
    }
    Ok(scan(file, bytes)?.entries)
}

/// Makes a record, and the running hash at it from the one before.
fn encode(entry: &Entry, position: u64, before: Option<&Chain>) -> Option<(Vec<u8>, Chain)> {
    let mut payload = vec![entry.body.version()];
    serde_json::to_writer(&mut payload, entry).ok()?;
    if payload.len() > PAYLOAD_MAX {
        return None;
    }
    let mut record = u32::try_from(payload.len()).ok()?.to_le_bytes().to_vec();
    record.extend(crc32fast::hash(&payload).to_le_bytes());
    record.extend(u32::try_from(position).ok()?.to_le_bytes());
    record.extend(crc32fast::hash(&record).to_le_bytes());
    let sum = follow(before, &payload);
    record.append(&mut payload);
    record.resize(record.len().next_multiple_of(ALIGN), 0);
    Some((record, sum))
}

/// Returns the running hash after one more payload.
fn follow(before: Option<&Chain>, payload: &[u8]) -> Chain {
    let mut hash = Sha256::new();
    hash.update(before.copied().unwrap_or_default());
    hash.update(payload);
    let mut sum = Chain::default();
    sum.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
    sum
}

/// What a file holds.
#[derive(Debug)]
struct Read {
    entries: Vec<Entry>,
    chain: Vec<Chain>,
    /// Where the next record goes.
    end: usize,
    /// An incomplete record stands there.
    torn: bool,
}

/// The parts of a record's header.
struct Header {
    length: usize,
    crc: u32,
    position: u32,
}

fn scan(file: &Path, bytes: &[u8]) -> Result<Read, Error> {
    let damaged = |offset: usize, entry: usize, why: &str| Error::Damaged {
        file: file.to_owned(),
        offset: offset as u64,
        entry: entry as u64,
        why: why.to_owned(),
    };
    if bytes.get(..8) != Some(MAGIC) {
        return Err(damaged(0, 0, "it does not begin as a ledger does"));
    }
    match number(bytes, 8) {
        Some(FORMAT) => {}
        Some(newer) if newer > FORMAT => {
            return Err(Error::Newer { file: file.to_owned(), found: newer, known: FORMAT });
        }
        Some(_) | None => return Err(damaged(8, 0, "its format number is not one")),
    }
    let (mut entries, mut chain) = (Vec::new(), Vec::new());
    let mut end = ALIGN;
    loop {
        let rest = bytes.get(end..).unwrap_or_default();
        if rest.iter().all(|byte| *byte == 0) {
            return Ok(Read { entries, chain, end, torn: false });
        }
        let at = entries.len() + 1;
        let torn = Read { entries: Vec::new(), chain: Vec::new(), end, torn: true };
        if rest.len() < ALIGN {
            // The file was extended by less than a header.
            return Ok(Read { entries, chain, ..torn });
        }
        let Some(header) = header(rest) else {
            if first_sector_missing(rest, end) && !any_record(rest, at) {
                return Ok(Read { entries, chain, ..torn });
            }
            return Err(damaged(end, at, "its header is damaged"));
        };
        if header.position as usize != at {
            return Err(damaged(end, at, &format!("it says that it is entry {}", header.position)));
        }
        let Some(payload) = rest.get(ALIGN..ALIGN.saturating_add(header.length)) else {
            return Ok(Read { entries, chain, ..torn });
        };
        let next = (end + ALIGN + header.length).next_multiple_of(ALIGN);
        if crc32fast::hash(payload) != header.crc {
            let last = bytes.get(next..).unwrap_or_default().iter().all(|byte| *byte == 0);
            if last && has_hole(payload, end + ALIGN) {
                return Ok(Read { entries, chain, ..torn });
            }
            return Err(damaged(end, at, "its content does not match its checksum"));
        }
        entries.push(
            decode(file, payload).map_err(|e| {
                e.unwrap_or_else(|| damaged(end, at, "its content is not an entry"))
            })?,
        );
        chain.push(follow(chain.last(), payload));
        end = next;
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn header(rest: &[u8]) -> Option<Header> {
    let (length, crc) = (number(rest, 0)?, number(rest, 4)?);
    let (position, own) = (number(rest, 8)?, number(rest, 12)?);
    let length = usize::try_from(length).ok()?;
    let whole = crc32fast::hash(rest.get(..12)?) == own && (1..=PAYLOAD_MAX).contains(&length);
    whole.then_some(Header { length, crc, position })
}

/// Tells whether the sector with the record's header, which begins at `start` of the file, was not
/// written although later ones of the same record were.
fn first_sector_missing(rest: &[u8], start: usize) -> bool {
    let upto = SECTOR - start % SECTOR;
    rest.iter().take(upto).all(|byte| *byte == 0)
}

/// Tells whether a later record than `at` follows: then `at` was synced and is not incomplete.
fn any_record(rest: &[u8], at: usize) -> bool {
    let mut places = rest.chunks(ALIGN);
    places.any(|place| header(place).is_some_and(|found| found.position as usize > at))
}

/// Tells whether the end of the payload, or some sector's part of it, is zero and so was never
/// written. The payload begins at `start` of the file.
fn has_hole(payload: &[u8], start: usize) -> bool {
    let first = (SECTOR - start % SECTOR).min(payload.len());
    let (head, tail) = payload.split_at(first);
    let zero = |part: &[u8]| !part.is_empty() && part.iter().all(|byte| *byte == 0);
    payload.last() == Some(&0) || zero(head) || tail.chunks(SECTOR).any(zero)
}

/// `Err(None)` is plain damage.
fn decode(file: &Path, payload: &[u8]) -> Result<Entry, Option<Error>> {
    let (version, json) = payload.split_first().ok_or(None)?;
    if *version > entry::VERSION {
        return Err(Some(Error::Newer {
            file: file.to_owned(),
            found: u32::from(*version),
            known: u32::from(entry::VERSION),
        }));
    }
    serde_json::from_slice(json).map_err(|_| None)
}
