//! The version of a node, appended to its binary.
//!
//! One compiled binary stands in for every version: behind the program's own bytes come a JSON text,
//! its length as four bytes (little endian) and a magic word. Loaders ignore what follows the
//! sections they know, so the program still runs, and its bytes, size and hash differ by version as
//! they would in reality. A node reads its own trailer through `/proc/self/exe`, which names the right
//! inode even after an upgrade has replaced the file under the running process.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Last bytes of a binary that has a trailer.
const MAGIC: &[u8; 8] = b"SIvTRL1\n";

/// No honest trailer is longer; more means that the bytes are something else.
const MAX_JSON: u32 = 4096;

/// What a binary knows about itself.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Trailer {
    /// Version, such as `2.00.8.12`.
    pub version: String,
    /// Release date as `version()` prints it, such as `2023.01.10`.
    pub date: String,
    /// Words behind the date in `version()` (`JIT`, `ABI`) and wishes for tests; mostly empty.
    #[serde(default)]
    pub flags: Vec<String>,
}

/// Why a trailer could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("read the version trailer of `{path}`")]
    Io {
        /// The file.
        path: String,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// The trailer is there but damaged.
    #[error("the version trailer of `{path}` is damaged: {reason}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Trailer {
    /// The trailer's bytes, to be written behind a binary.
    pub fn to_bytes(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("strings always serialise");
        let length = u32::try_from(json.len()).expect("versions and flags are short");
        let mut bytes = json;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(MAGIC);
        bytes
    }

    /// The answer of `version()` up to the date and the flags.
    pub fn version_line(&self) -> String {
        let mut line = format!("{} {}", self.version, self.date);
        for flag in self.flags.iter().filter(|flag| matches!(flag.as_str(), "JIT" | "ABI")) {
            line.push(' ');
            line.push_str(flag);
        }
        line
    }
}

/// Reads the trailer of the running program; `None` where it has none (straight from the compiler).
pub fn of_this_process() -> Result<Option<Trailer>, Error> {
    read(Path::new("/proc/self/exe"))
}

/// Reads the trailer of a binary; `None` where it has none.
pub fn read(path: &Path) -> Result<Option<Trailer>, Error> {
    let name = || path.display().to_string();
    let io_error = |source| Error::Io { path: name(), source };
    let mut file = File::open(path).map_err(io_error)?;
    let size = file.metadata().map_err(io_error)?.len();
    if size < 12 {
        return Ok(None);
    }
    let mut tail = [0_u8; 12];
    file.seek(SeekFrom::Start(size - 12)).map_err(io_error)?;
    file.read_exact(&mut tail).map_err(io_error)?;
    let [a, b, c, d, magic @ ..] = tail;
    if magic != *MAGIC {
        return Ok(None);
    }
    let damaged = |reason: String| Error::Damaged { path: name(), reason };
    let length = u32::from_le_bytes([a, b, c, d]);
    if length > MAX_JSON || u64::from(length) + 12 > size {
        return Err(damaged(format!("its length {length} cannot be")));
    }
    file.seek(SeekFrom::Start(size - 12 - u64::from(length))).map_err(io_error)?;
    let mut json = Vec::new();
    file.take(u64::from(length)).read_to_end(&mut json).map_err(io_error)?;
    serde_json::from_slice(&json).map(Some).map_err(|error| damaged(error.to_string()))
}

/// Number of bytes of a binary without its trailer, so that one can be put in place of another.
pub fn program_length(bytes: &[u8]) -> usize {
    let Some((rest, magic)) = bytes.split_last_chunk::<8>() else {
        return bytes.len();
    };
    let Some((rest, length)) = rest.split_last_chunk::<4>() else {
        return bytes.len();
    };
    if magic != MAGIC {
        return bytes.len();
    }
    usize::try_from(u32::from_le_bytes(*length))
        .ok()
        .and_then(|length| rest.len().checked_sub(length))
        .unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trailer(version: &str) -> Trailer {
        Trailer { version: version.into(), date: "2023.01.10".into(), flags: vec!["JIT".into()] }
    }

    fn scratch(name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("trailer-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = b"program".to_vec();
        bytes.extend(trailer("2.00.8.12").to_bytes());
        assert_eq!(program_length(&bytes), 7);
        let path = scratch("ok", &bytes);
        let read_back = read(&path).unwrap().unwrap();
        assert_eq!(read_back, trailer("2.00.8.12"));
        assert_eq!(read_back.version_line(), "2.00.8.12 2023.01.10 JIT");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn none_and_damaged_are_told_apart() {
        for bytes in [&b""[..], b"short", b"a program without any trailer"] {
            let path = scratch("none", bytes);
            assert_eq!(read(&path).unwrap(), None);
            assert_eq!(program_length(bytes), bytes.len());
            std::fs::remove_file(path).unwrap();
        }
        let mut bytes = b"xx{}".to_vec();
        bytes.extend(2_u32.to_le_bytes());
        bytes.extend(MAGIC);
        let path = scratch("damaged", &bytes);
        assert!(matches!(read(&path), Err(Error::Damaged { .. })));
        std::fs::remove_file(path).unwrap();
        assert_eq!(of_this_process().unwrap(), None);
    }
}
