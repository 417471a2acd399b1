//! The writer's durable memory, one file per rollout and epoch.
//!
//! A row is only sent when a durable entry says that rows up to its number may be; an
//! acknowledgement is written a little later. So a crash can turn acknowledged rows into rows of
//! unknown outcome, at most those of one group, and never the other way round.
//!
//! ```text
//! <crc32 of the JSON, 8 hex digits> <JSON>\n
//! ```
//! A line that was not finished is the end of the file. A bad line in the middle is damage: what is
//! behind it is not believed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use grayfin_types::plan::CanaryOrder;
use serde::{Deserialize, Serialize};

use super::tally::{Figures, Tally};

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// The first line.
    Begun {
        /// What is written.
        order: CanaryOrder,
    },
    /// A group, four times a second.
    Group {
        /// Wall clock, milliseconds since 1970: to tell the writer's own outages.
        at_ms: u64,
        /// Rows below this number may have been sent.
        planned: u64,
        /// Rows acknowledged since the last group.
        acked: Vec<(u64, u64)>,
        /// Now and then, and at the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        figures: Option<Figures>,
        /// The writer was stopped; nothing is on its way.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        ended: bool,
    },
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no.
    #[error("{action} the canary's journal `{}`", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is damaged in the middle: which rows were sent is not known, so no row is sent again.
    #[error("{0}; the writer cannot go on in this epoch")]
    Damaged(String),
    /// It belongs to another order.
    #[error("the canary's journal `{}` is of another order", path.display())]
    OtherOrder {
        /// Which.
        path: PathBuf,
    },
}

impl Error {
    fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// What a journal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What was written.
    pub order: CanaryOrder,
    /// How far it got.
    pub tally: Tally,
    /// Wall clock of the last entry.
    pub last_ms: u64,
    /// The writer was stopped, not cut off.
    pub ended: bool,
    /// Damage in the middle, in a person's words.
    pub damage: Option<String>,
    /// Bytes up to the end of the last good line.
    good_bytes: u64,
}

/// A journal that is being written.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Opens the journal of an order, or begins it. Returns what it said so far.
    pub fn open(path: &Path, order: &CanaryOrder) -> Result<(Self, Told), Error> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::at("make the folder of", path))?;
        }
        let told = read(path)?;
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(Error::at("open", path))?;
        if let Some(told) = told {
            if told.order != *order {
                return Err(Error::OtherOrder { path: path.to_owned() });
            }
            if let Some(damage) = told.damage {
                return Err(Error::Damaged(damage));
            }
            // An unfinished line would run into the next one.
            file.set_len(told.good_bytes).map_err(Error::at("shorten", path))?;
            return Ok((Self { file, path: path.to_owned() }, told));
        }
        file.set_len(0).map_err(Error::at("shorten", path))?;
        let entry = Entry::Begun { order: order.clone() };
        file.write_all(&line(&entry)).map_err(Error::at("write", path))?;
        file.sync_all().map_err(Error::at("sync", path))?;
        if let Some(folder) = path.parent().and_then(|folder| File::open(folder).ok()) {
            folder.sync_all().map_err(Error::at("sync the folder of", path))?;
        }
        let told = Told::of(order.clone());
        Ok((Self { file, path: path.to_owned() }, told))
    }

    /// Writes an entry durably.
    pub fn append(&mut self, entry: &Entry) -> Result<(), Error> {
        self.file.write_all(&line(entry)).map_err(Error::at("write", &self.path))?;
        self.file.sync_data().map_err(Error::at("sync", &self.path))
    }
}

impl Told {
    fn of(order: CanaryOrder) -> Self {
        Self {
            order,
            tally: Tally::default(),
            last_ms: 0,
            ended: false,
            damage: None,
            good_bytes: 0,
        }
    }

    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Begun { .. } => {}
            Entry::Group { at_ms, planned, acked, figures, ended } => {
                self.last_ms = at_ms;
                self.ended = ended;
                self.tally.planned = self.tally.planned.max(planned);
                for (from, to) in acked {
                    self.tally.acked.add(from, to);
                }
                if let Some(figures) = figures {
                    self.tally.figures = figures;
                }
            }
        }
    }

    /// Figures are older than the groups behind them: what is certain is at least there.
    fn settle(&mut self) {
        let sent = if self.ended { self.tally.acked.count() } else { self.tally.planned };
        self.tally.figures.sent = self.tally.figures.sent.max(sent);
    }
}

/// Reads a journal; none if there is none, or if not even its first line was finished.
pub fn read(path: &Path) -> Result<Option<Told>, Error> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::at("read", path)(error)),
    };
    let mut told: Option<Told> = None;
    let (mut good_bytes, mut number) = (0_u64, 0_u64);
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').peekable();
    while let Some(text) = lines.next() {
        number += 1;
        let entry = text.ends_with(b"\n").then(|| parse(text)).flatten();
        let Some(entry) = entry else {
            if let (Some(told), true) = (&mut told, lines.peek().is_some()) {
                told.damage = Some(format!(
                    "`{}` line {number} is damaged; rows acknowledged after it count as unknown",
                    path.display()
                ));
            }
            break;
        };
        good_bytes += text.len() as u64;
        match (&mut told, entry) {
            (None, Entry::Begun { order }) => told = Some(Told::of(order)),
            (None, Entry::Group { .. }) => break,
            (Some(told), entry) => told.take(entry),
        }
    }
    if let Some(told) = &mut told {
        told.good_bytes = good_bytes;
        told.settle();
    }
    Ok(told)
}

fn line(entry: &Entry) -> Vec<u8> {
    // Plain data without maps of other keys than numbers: it always has a JSON form.
    let json = serde_json::to_vec(entry).unwrap_or_default();
    let mut line = format!("{:08x} ", crc32fast::hash(&json)).into_bytes();
    line.extend(json);
    line.push(b'\n');
    line
}

fn parse(line: &[u8]) -> Option<Entry> {
    let text = std::str::from_utf8(line).ok()?.trim_end_matches('\n');
    let (crc, json) = text.split_once(' ')?;
    let crc = u32::from_str_radix(crc, 16).ok()?;
    (crc == crc32fast::hash(json.as_bytes())).then(|| serde_json::from_str(json).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use grayfin_types::{RolloutId, plan::CanarySpec};

    use super::*;

    fn order(epoch: u64) -> CanaryOrder {
        let rollout = RolloutId::new("r1").unwrap();
        CanaryOrder { rollout, epoch, spec: CanarySpec::New { rows_per_second: 50 } }
    }

    fn group(planned: u64, acked: &[(u64, u64)]) -> Entry {
        let (acked, figures) = (acked.to_vec(), None);
        Entry::Group { at_ms: 1000 + planned, planned, acked, figures, ended: false }
    }

    #[test]
    fn a_reopened_journal_knows_what_it_knew_at_every_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/r1-1.journal");
        let (mut journal, told) = Journal::open(&path, &order(1)).unwrap();
        assert_eq!(told.tally, Tally::default());
        journal.append(&group(25, &[])).unwrap();
        journal.append(&group(50, &[(0, 20)])).unwrap();
        let figures = Figures { retries: 3, ..Figures::default() };
        let last = Entry::Group {
            at_ms: 2000,
            planned: 50,
            acked: vec![(20, 30)],
            figures: Some(figures),
            ended: true,
        };
        journal.append(&last).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let told = read(&path).unwrap().unwrap();
        assert_eq!((told.tally.planned, told.tally.acked.count(), told.ended), (50, 30, true));
        assert_eq!((told.tally.figures.retries, told.tally.figures.sent), (3, 30));
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let Some(told) = read(&path).unwrap() else { continue };
            assert!(told.damage.is_none(), "{cut}: an unfinished line is the end");
            assert!(told.tally.acked.iter().all(|(_, to)| to <= told.tally.planned), "{cut}");
            let (mut journal, again) = Journal::open(&path, &order(1)).unwrap();
            assert_eq!(again.tally, told.tally);
            journal.append(&group(60, &[(40, 41)])).unwrap();
            let after = read(&path).unwrap().unwrap();
            assert!(after.tally.acked.contains(40) && after.damage.is_none(), "{cut}");
        }
    }

    #[test]
    fn damage_in_the_middle_is_told_and_nothing_behind_it_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let (mut journal, _) = Journal::open(&path, &order(1)).unwrap();
        journal.append(&group(25, &[(0, 5)])).unwrap();
        journal.append(&group(50, &[(5, 25)])).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() - 100;
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let told = read(&path).unwrap().unwrap();
        assert!(told.damage.is_some_and(|words| words.contains("line 2")));
        assert_eq!(told.tally.acked.count(), 0);
        // Rows that were sent before would be sent again with the same numbers.
        assert!(matches!(Journal::open(&path, &order(1)), Err(Error::Damaged(_))));
    }

    #[test]
    fn another_order_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        drop(Journal::open(&path, &order(1)).unwrap());
        assert!(matches!(Journal::open(&path, &order(2)), Err(Error::OtherOrder { .. })));
        assert!(read(&dir.path().join("none")).unwrap().is_none());
    }
}
