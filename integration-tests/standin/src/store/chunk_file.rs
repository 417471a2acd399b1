//! The file of a chunk: a line per transaction.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use standin_model::Tid;
use standin_model::message::{Payload, Record};
use standin_model::meta::ChunkPlace;

use super::Error;
use super::node::{Held, Pending};
use crate::config::NodeDirs;

/// Bytes of rows in one answer; more is fetched with another request.
const PAGE_BYTES: usize = 1 << 20;

/// Removes the folders of a partition and a database that hold nothing any more.
pub(super) fn remove_empty_folders(path: &Path) {
    for folder in path.ancestors().skip(1).take(3) {
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
}

/// Where a chunk's rows are: `<volume>/<database>/<partition>/<suffix>/<id>`.
pub(super) fn file_of(dirs: &NodeDirs, place: &ChunkPlace) -> PathBuf {
    let count = u128::try_from(dirs.volumes.len().max(1)).unwrap_or(1);
    let volume = usize::try_from(place.id.0 % count).unwrap_or(0);
    let mut path = dirs.volumes.get(volume).cloned().unwrap_or_else(|| dirs.chunk_meta.clone());
    for part in place.path.split('/').filter(|part| !part.is_empty()) {
        path.push(safe_name(part));
    }
    path.join(place.id.to_string())
}

/// A partition may be called anything; a file may not.
fn safe_name(part: &str) -> String {
    let mut name = String::new();
    for byte in part.bytes().take(120) {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02x}"));
        }
    }
    name
}

/// Takes a chunk's state from its file where the list of chunks is behind it, or where the file
/// lacks what the list says; then cuts off what is torn.
pub(super) fn follow_file(path: &Path, held: &mut Held) -> Result<(), Error> {
    let Ok(file) = File::open(path) else {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        File::create(path).map_err(Error::io(path))?;
        (held.version, held.length, held.rows, held.pending) = (0, 0, 0, None);
        return Ok(());
    };
    let listed = held.length;
    let (mut end, mut versions) = (0, (0, 0));
    (held.version, held.length, held.rows, held.pending) = (0, 0, 0, None);
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(Error::io(path))?;
        let Some(record) = parse_record(&line) else { break };
        if record.version != versions.1 + 1 {
            break;
        }
        versions = (versions.1, record.version);
        if let Some(before) = held.pending.take() {
            (held.version, held.length) = (before.version, before.end);
            held.rows += before.rows;
        }
        end += u64::try_from(line.len()).unwrap_or(0) + 1;
        let Record { tid, version, payload } = record;
        held.pending = Some(Pending { tid, version, end, rows: payload.rows });
    }
    // What the list of chunks knows to be committed is.
    if let Some(last) = held.pending.filter(|last| last.end <= listed) {
        (held.version, held.length, held.pending) = (last.version, last.end, None);
        held.rows += last.rows;
    }
    let file = OpenOptions::new().write(true).open(path).map_err(Error::io(path))?;
    match file.metadata().map_err(Error::io(path))?.len() {
        length if length > end => file.set_len(end).map_err(Error::io(path)),
        _ => Ok(()),
    }
}

/// Writes records from `from` on, and nothing behind them; returns where they end.
pub(super) fn write_records(
    path: &Path,
    from: u64,
    records: &[Record],
    sync: bool,
) -> io::Result<u64> {
    let mut text = String::new();
    for Record { version, tid, payload } in records {
        let data = &payload.data;
        let sum = crc32fast::hash(data.as_bytes());
        text.push_str(&format!("{version} {tid} {} {sum:08x} {data}\n", payload.rows));
    }
    let mut file = OpenOptions::new().append(true).open(path)?;
    if file.metadata()?.len() != from {
        file.set_len(from)?;
    }
    file.write_all(text.as_bytes())?;
    if sync {
        file.sync_data()?;
    }
    Ok(from + u64::try_from(text.len()).unwrap_or(0))
}

fn parse_record(line: &[u8]) -> Option<Record> {
    let line = str::from_utf8(line).ok()?;
    let mut words = line.splitn(5, ' ');
    let version = words.next()?.parse().ok()?;
    let tid = Tid(words.next()?.parse().ok()?);
    let rows = words.next()?.parse().ok()?;
    let sum = u32::from_str_radix(words.next()?, 16).ok()?;
    let data = words.next()?;
    if crc32fast::hash(data.as_bytes()) != sum {
        return None;
    }
    Some(Record { version, tid, payload: Payload { rows, data: data.to_owned() } })
}

/// Reads the records after one version up to another, some at a time; tells whether there are
/// more.
pub(crate) fn read_records(
    path: &Path,
    length: u64,
    after: u64,
    upto: u64,
) -> io::Result<(Vec<Record>, bool)> {
    let (mut records, mut bytes) = (Vec::new(), 0);
    for line in BufReader::new(File::open(path)?.take(length)).split(b'\n') {
        let line = line?;
        let Some(record) = parse_record(&line) else {
            return Err(io::Error::other(format!("{}: a damaged record", path.display())));
        };
        if record.version > upto {
            break;
        }
        if record.version <= after {
            continue;
        }
        if bytes > PAGE_BYTES {
            return Ok((records, true));
        }
        bytes += line.len();
        records.push(record);
    }
    Ok((records, false))
}
