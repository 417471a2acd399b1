//! The start marker in a controller's log: followed by inode and offset, so that each byte is read
//! once.
//!
//! A marker counts only if it was written by the process that runs now. The time stamp of its line
//! tells, compared with the process's start; where there is none, that the line was appended while
//! the process was already being followed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use grayfin_types::{
    NodeAlias,
    facts::{Probe, ProcessIdentity},
};

/// Both wordings of "start complete": since 2.00.11, and before.
const MARKERS: [&str; 2] =
    ["Job scheduler initialization completed", "Job schedule initialized successfully"];
/// At the first look at a log at most this much is read, from its end: a process that has been up
/// for long wrote its marker long ago, and a look must stay cheap.
const FIRST_LOOK_BYTES: u64 = 16 << 20;
/// Read at once.
const BLOCK: usize = 64 * 1024;
/// A longer line is cut: its beginning holds time stamp and marker.
const LINE_MAX: usize = 4096;
/// Slack between the kernel's tick count and the log's wall clock.
const SLACK_MS: i64 = 1000;

/// Where a log file's end was: which file and how many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Device and inode of the file.
    pub file: (u64, u64),
    /// Its length.
    pub bytes: u64,
}

impl Position {
    /// Reads where the end of a log is now; none if it does not exist.
    pub fn of(log: &Path) -> std::io::Result<Option<Self>> {
        match std::fs::metadata(log) {
            Ok(m) => Ok(Some(Self { file: (m.dev(), m.ino()), bytes: m.size() })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// How far one log has been read, for one process.
#[derive(Debug, Clone)]
struct Follow {
    pid: u32,
    start_ticks: u64,
    position: Position,
    found: bool,
    /// The log was followed from before this process started, or its lines reach back that far.
    complete: bool,
    /// The last, unfinished line.
    rest: Vec<u8>,
}

/// Follows the logs of this host's controllers.
#[derive(Debug, Default)]
pub struct Markers {
    logs: Mutex<HashMap<NodeAlias, (PathBuf, Follow)>>,
}

impl Markers {
    /// Looks for the marker of a process. `started_ms` is when it started, in milliseconds since
    /// 1970. Blocks for the time of reading what was appended since the last look.
    pub fn look(
        &self,
        alias: &NodeAlias,
        process: &ProcessIdentity,
        started_ms: i64,
        log: &Path,
    ) -> Probe<bool> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let before = logs.remove(alias).filter(|(path, _)| path == log).map(|(_, follow)| follow);
        match advance(before, process, started_ms, log) {
            Ok(follow) => {
                let answer = if follow.found {
                    Probe::Known(true)
                } else if follow.complete {
                    Probe::Known(false)
                } else {
                    Probe::Unknown(format!(
                        "`{}` does not reach back to the start of the process",
                        log.display()
                    ))
                };
                logs.insert(alias.clone(), (log.to_owned(), follow));
                answer
            }
            Err(error) => Probe::Unknown(format!("`{}` cannot be read: {error}", log.display())),
        }
    }
}

/// Tells whether a marker was written to a log after a position: for the step that starts a node.
/// A file that was rotated or shortened since is read from its beginning.
pub fn marker_since(log: &Path, since: Option<Position>) -> std::io::Result<bool> {
    let Some(now) = Position::of(log)? else { return Ok(false) };
    let from = since.filter(|p| p.file == now.file && p.bytes <= now.bytes).map_or(0, |p| p.bytes);
    let mut found = false;
    let mut rest = Vec::new();
    read_lines(log, from, now.bytes, &mut rest, &mut |line| found |= is_marker(line))?;
    Ok(found || is_marker(&String::from_utf8_lossy(&rest)))
}

/// Reads what is new.
fn advance(
    before: Option<Follow>,
    process: &ProcessIdentity,
    started_ms: i64,
    log: &Path,
) -> std::io::Result<Follow> {
    let now = Position::of(log)?.ok_or(std::io::ErrorKind::NotFound)?;
    let same_file =
        |follow: &Follow| follow.position.file == now.file && follow.position.bytes <= now.bytes;
    let same_process =
        |follow: &Follow| follow.pid == process.pid && follow.start_ticks == process.start_ticks;
    let mut follow = match before {
        Some(follow) if same_process(&follow) && same_file(&follow) => follow,
        // Rotated under the same process: the new file begins with its lines.
        Some(follow) if same_process(&follow) => {
            Follow { position: Position { file: now.file, bytes: 0 }, rest: Vec::new(), ..follow }
        }
        // Another process, and the log was followed before it started: all that is new may be its.
        Some(follow) if same_file(&follow) => {
            begin(process, Position { file: now.file, bytes: follow.position.bytes }, true)
        }
        Some(_) | None => {
            let from = now.bytes.saturating_sub(FIRST_LOOK_BYTES);
            begin(process, Position { file: now.file, bytes: from }, from == 0)
        }
    };
    if follow.found {
        follow.position = now;
        return Ok(follow);
    }
    let (mut found, mut first, from) = (false, None, follow.position.bytes);
    let followed = follow.complete && from > 0;
    let mut rest = std::mem::take(&mut follow.rest);
    read_lines(log, from, now.bytes, &mut rest, &mut |line| {
        let at = line_time_ms(line);
        first = first.or(at);
        if is_marker(line) {
            found |= at.map_or(followed, |at| at + SLACK_MS >= started_ms);
        }
    })?;
    follow.found = found;
    // The lines reach back before the start: a marker of this process would be among them.
    follow.complete |= first.is_some_and(|at| at <= started_ms + SLACK_MS);
    follow.rest = rest;
    follow.position = now;
    Ok(follow)
}

fn begin(process: &ProcessIdentity, position: Position, complete: bool) -> Follow {
    Follow {
        pid: process.pid,
        start_ticks: process.start_ticks,
        position,
        found: false,
        complete,
        rest: Vec::new(),
    }
}

/// Reads bytes `from` to `to` and hands on each whole line; `rest` carries the unfinished one.
fn read_lines(
    log: &Path,
    from: u64,
    to: u64,
    rest: &mut Vec<u8>,
    each: &mut dyn FnMut(&str),
) -> std::io::Result<()> {
    let mut file = File::open(log)?;
    file.seek(SeekFrom::Start(from))?;
    let mut reader = file.take(to.saturating_sub(from));
    let mut block = vec![0; BLOCK.min(usize::try_from(to.saturating_sub(from)).unwrap_or(BLOCK))];
    loop {
        let count = reader.read(&mut block)?;
        let Some(bytes) = block.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE_MAX.saturating_sub(rest.len());
            rest.extend(part.iter().take(room));
            if part.ends_with(b"\n") {
                each(&String::from_utf8_lossy(rest));
                rest.clear();
            }
        }
    }
}

fn is_marker(line: &str) -> bool {
    MARKERS.iter().any(|marker| line.contains(marker))
}

/// Reads the time stamp that a log line begins with: `2023.01.10 09:08:07.123`, in local time.
fn line_time_ms(line: &str) -> Option<i64> {
    let mut words = line.split_ascii_whitespace();
    let (date, time) = (words.next()?, words.next()?);
    let mut date = date.splitn(3, '.').map(str::parse::<i16>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = clock.splitn(3, ':').map(str::parse::<i8>);
    let (hour, minute, second) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    let millis: String = fraction.chars().take_while(char::is_ascii_digit).take(3).collect();
    let millis = format!("{millis:0<3}").parse::<i64>().ok()?;
    let (month, day) = (i8::try_from(month).ok()?, i8::try_from(day).ok()?);
    let moment = jiff::civil::DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    let moment = moment.to_zoned(jiff::tz::TimeZone::system()).ok()?;
    Some(moment.timestamp().as_millisecond() + millis)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const NEW: &str = "<INFO> :Job scheduler initialization completed.";
    const OLD: &str = "<INFO> :Job schedule initialized successfully.";

    fn process(pid: u32) -> ProcessIdentity {
        ProcessIdentity {
            pid,
            start_ticks: u64::from(pid) * 10,
            executable: String::new(),
            executable_deleted: false,
            working_directory: String::new(),
        }
    }

    fn stamp(ms: i64) -> String {
        let at = jiff::Timestamp::from_millisecond(ms).unwrap();
        at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y.%m.%d %H:%M:%S%.6f").to_string()
    }

    struct Log {
        _dir: tempfile::TempDir,
        path: PathBuf,
        markers: Markers,
    }

    impl Log {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("controller.log");
            std::fs::write(&path, "").unwrap();
            Self { _dir: dir, path, markers: Markers::default() }
        }

        fn add(&self, text: &str) {
            let mut file = File::options().append(true).create(true).open(&self.path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn look(&self, pid: u32, started_ms: i64) -> Probe<bool> {
            let alias = NodeAlias::new("c1").unwrap();
            self.markers.look(&alias, &process(pid), started_ms, &self.path)
        }
    }

    const T: i64 = 1_770_000_000_000;

    #[test]
    fn a_marker_counts_only_for_the_process_that_wrote_it() {
        let log = Log::new();
        log.add(&format!(
            "{} 1 {OLD}\n{} 1 <INFO> :Received signal 15\n",
            stamp(T),
            stamp(T + 5000)
        ));
        assert_eq!(log.look(1, T - 500), Probe::Known(true));
        // The same log, a process that started later.
        let other = Log::new();
        std::fs::copy(&log.path, &other.path).unwrap();
        assert_eq!(other.look(2, T + 8000), Probe::Known(false));
        other.add(&format!("{} 1 {NEW}", stamp(T + 9000)));
        assert_eq!(other.look(2, T + 8000), Probe::Known(false), "the line is not finished");
        other.add("\n");
        assert_eq!(other.look(2, T + 8000), Probe::Known(true));
        assert_eq!(other.look(3, T + 20_000), Probe::Known(false), "another process");
    }

    #[test]
    fn a_log_that_was_rotated_before_the_first_look_is_unknown() {
        let log = Log::new();
        log.add(&"x".repeat(17 << 20));
        log.add(&format!("\n{} 1 <INFO> :later\n", stamp(T + 60_000)));
        assert!(log.look(1, T).why_unknown().is_some());
        std::fs::remove_file(&log.path).unwrap();
        assert!(log.look(1, T).why_unknown().is_some_and(|why| why.contains("controller.log")));
    }

    #[test]
    fn a_rotation_while_following_loses_nothing() {
        let log = Log::new();
        log.add(&format!("{} 1 <INFO> :begin\n", stamp(T)));
        assert_eq!(log.look(1, T), Probe::Known(false));
        std::fs::rename(&log.path, log.path.with_extension("old")).unwrap();
        log.add(&format!("{} 1 {NEW}\n", stamp(T + 100)));
        assert_eq!(log.look(1, T), Probe::Known(true));
    }

    #[test]
    fn a_marker_after_a_position_is_found() {
        let log = Log::new();
        log.add(&format!("{NEW}\n"));
        let before = Position::of(&log.path).unwrap();
        assert!(!marker_since(&log.path, before).unwrap());
        log.add("something\n");
        assert!(!marker_since(&log.path, before).unwrap());
        log.add(NEW);
        assert!(marker_since(&log.path, before).unwrap());
        assert!(marker_since(&log.path, None).unwrap());
        assert!(!marker_since(Path::new("/nowhere/x.log"), None).unwrap());
    }
}
