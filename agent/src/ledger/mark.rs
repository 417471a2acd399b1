//! Marks outside the state folder that say how far the ledger reached (S8).
//!
//! A ledger that is put back to an older copy, or removed, is told from the newest one by the coordinators,
//! who know how long it was. When *their* state is put back as well, nobody would know of a hold that
//! both have forgotten. So each durable entry is followed by a small mark in the folder of backups of
//! every installation: another folder, best on another disk, which a restore of the state folder alone
//! does not touch. A ledger that does not hold what a mark says is an old one, whoever else knows.
//!
//! The mark is written after its entry is durable, so it never says too much. It is synced with the
//! entries that give something away or take something down, for a sync of its own doubles what an entry
//! costs; after a power loss it may say less than was true, after anything else it is exact.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use grayfin_agent_core::{Body, entry::Event};
use grayfin_types::{Generation, HostId};

/// First word of the file.
const MAGIC: &str = "GFMARK1";

/// One sector, which a disk writes whole or not at all.
const LENGTH: usize = 512;

/// How far a ledger reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reached {
    /// Its id.
    pub(super) ledger: String,
    /// Number of entries.
    pub(super) position: u64,
    /// The running hash there.
    pub(super) chain: String,
    /// Of the certificate under which it was written: a newer one begins a new ledger.
    pub(super) generation: Generation,
}

/// The marks of a ledger; none for one that nobody asked to be marked.
#[derive(Debug, Default)]
pub(super) struct Marks {
    places: Vec<Place>,
    generation: Generation,
    /// Why the ledger cannot be the newest one.
    pub(super) lost: Option<String>,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    file: Option<fs::File>,
}

impl Marks {
    /// Reads the marks in these folders and compares them with the ledger; `chain_at` returns its
    /// running hash at a position, empty where there is none.
    pub(super) fn open(
        host: &HostId,
        folders: impl IntoIterator<Item = PathBuf>,
        generation: Generation,
        ledger: &str,
        chain_at: impl Fn(u64) -> String,
    ) -> Self {
        let mut lost = None;
        let mut places = Vec::new();
        for folder in folders {
            let path = folder.join(format!("ledger-{host}.mark"));
            let against = match read(&path) {
                Ok(None) => None,
                Ok(Some(mark)) if mark.generation < generation => None,
                Ok(Some(mark)) => {
                    let holds = mark.ledger == ledger && chain_at(mark.position) == mark.chain;
                    (!holds).then(|| {
                        format!(
                            "`{}` says that ledger `{}` reached position {}, which this ledger `{ledger}` does not hold",
                            path.display(), mark.ledger, mark.position
                        )
                    })
                }
                Err(why) => Some(format!(
                    "the mark `{}` cannot be read: {why}; if the ledger is known to be the newest one, move the mark away and start the host agent again",
                    path.display()
                )),
            };
            lost = lost.or(against);
            places.push(Place { path, file: None });
        }
        Self { places, generation, lost }
    }

    /// An entry is durable. While the ledger is known to be an old one, its marks stay what they are;
    /// an operator's readmission ends that.
    pub(super) fn reached(&mut self, ledger: &str, position: u64, chain: &str, body: &Body) {
        if matches!(body, Body::Readmitted { readmit, .. } if readmit.proven()) {
            self.lost = None;
        }
        if self.lost.is_some() {
            return;
        }
        let (ledger, chain, generation) = (ledger.to_owned(), chain.to_owned(), self.generation);
        let text = written(&Reached { ledger, position, chain, generation });
        for place in &mut self.places {
            // One that says less than is true finds less, and is no reason to stop.
            match place.write(&text, matters(body)) {
                Ok(()) => {}
                // The folder is made with the first staging.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(file = %place.path.display(), %error, "mark the ledger");
                }
            }
        }
    }
}

impl Place {
    fn write(&mut self, text: &[u8], sync: bool) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(&self.path);
        if self.file.is_none() {
            // Without the folder: one of ours in the place of a volume that is not mounted would only
            // mislead.
            let file = fs::OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&self.path)?;
            file.write_all_at(text, 0)?;
            file.sync_all()?;
            fs::File::open(folder)?.sync_all()?;
            self.file = Some(file);
            return Ok(());
        }
        let Some(file) = &self.file else { return Ok(()) };
        file.write_all_at(text, 0)?;
        if sync { file.sync_data() } else { Ok(()) }
    }
}

/// Tells whether an entry gives something away or takes something down.
const fn matters(body: &Body) -> bool {
    match body {
        Body::Promised { .. } | Body::Readmitted { .. } | Body::Ordered { .. } => true,
        Body::Sequence { event, .. } => {
            matches!(event, Event::GoingDown { .. } | Event::FirstStart | Event::Ended { .. })
        }
        Body::Made { .. }
        | Body::Raised { .. }
        | Body::Welcomed { .. }
        | Body::Staging { .. }
        | Body::CanaryAnswered { .. } => false,
    }
}

fn written(mark: &Reached) -> Vec<u8> {
    let Reached { ledger, position, chain, generation } = mark;
    let words = format!("{MAGIC} {ledger} {position} {chain} {generation}");
    let mut bytes = format!("{words} {:08x}\n", crc32fast::hash(words.as_bytes())).into_bytes();
    bytes.resize(LENGTH, b' ');
    bytes
}

/// Reads a mark; none where there is none, or where a power loss took its first write.
fn read(path: &Path) -> Result<Option<Reached>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let text = String::from_utf8(bytes).map_err(|e| e.to_string())?;
    let damaged = || "it is damaged".to_owned();
    let (words, sum) = text.trim_end().rsplit_once(' ').ok_or_else(damaged)?;
    if sum != format!("{:08x}", crc32fast::hash(words.as_bytes())) {
        return Err(damaged());
    }
    let mut words = words.split(' ');
    let mut next = || words.next().ok_or_else(damaged);
    if next()? != MAGIC {
        return Err("a newer host agent wrote it".to_owned());
    }
    let ledger = next()?.to_owned();
    let position = next()?.parse().map_err(|_| damaged())?;
    let chain = next()?.to_owned();
    let generation = Generation(next()?.parse().map_err(|_| damaged())?);
    Ok(Some(Reached { ledger, position, chain, generation }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger-db1.mark");
        assert_eq!(read(&path), Ok(None));
        let mark = Reached {
            ledger: "l1".to_owned(),
            position: 7,
            chain: "ab".to_owned(),
            generation: Generation(3),
        };
        let mut bytes = written(&mark);
        assert_eq!(bytes.len(), LENGTH);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path), Ok(Some(mark)));
        bytes[12] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(read(&path).is_err());
        fs::write(&path, [0; LENGTH]).unwrap();
        assert_eq!(read(&path), Ok(None));
    }

    fn marks(folder: &Path, generation: u64, ledger: &str, entries: &[&str]) -> Marks {
        let host = "db1".parse().unwrap();
        let chain_at = |position: u64| {
            let at = usize::try_from(position).unwrap().wrapping_sub(1);
            entries.get(at).map_or_else(String::new, ToString::to_string)
        };
        let folders = [folder.join("not-there"), folder.to_owned()];
        Marks::open(&host, folders, Generation(generation), ledger, chain_at)
    }

    fn promised(token: u64) -> Body {
        let authority = grayfin_agent_core::entry::Authority {
            group: "g".to_owned(),
            incarnation: grayfin_types::Incarnation(1),
            term: grayfin_types::Term(1),
        };
        let cluster = "trade".parse().unwrap();
        Body::Promised { cluster, token: grayfin_types::Token(token), authority, held: None }
    }

    #[test]
    fn a_ledger_that_was_put_back_or_removed_is_told_by_its_mark() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = marks(folder.path(), 1, "l1", &["a"]);
        assert_eq!(first.lost, None);
        first.reached("l1", 2, "b", &promised(1));
        // The newest one, also when an entry came that the mark was not told of.
        assert_eq!(marks(folder.path(), 1, "l1", &["a", "b"]).lost, None);
        assert_eq!(marks(folder.path(), 1, "l1", &["a", "b", "c"]).lost, None);
        // An older copy, one that grew again, and a new one.
        for (ledger, entries) in [("l1", &["a"][..]), ("l1", &["a", "x"]), ("l2", &["y", "z"])] {
            let mut old = marks(folder.path(), 1, ledger, entries);
            assert!(old.lost.as_ref().unwrap().contains("position 2"), "{:?}", old.lost);
            // It stays told, whatever it grows by.
            old.reached(ledger, 3, "d", &promised(2));
            assert!(marks(folder.path(), 1, ledger, entries).lost.is_some());
        }
        // A certificate of the next generation begins a new ledger.
        assert_eq!(marks(folder.path(), 2, "l2", &["y"]).lost, None);
    }

    #[test]
    fn a_readmission_makes_an_old_ledger_the_newest_one_and_an_enrolment_does_not() {
        let folder = tempfile::tempdir().unwrap();
        marks(folder.path(), 1, "l1", &["a"]).reached("l1", 2, "b", &promised(1));
        let mut old = marks(folder.path(), 1, "l1", &["a"]);
        let Body::Promised { authority, .. } = promised(1) else { unreachable!() };
        let readmit = |forget| grayfin_types::ledger::Readmit {
            act: "act".to_owned(),
            floor: grayfin_types::Token(5),
            closes: None,
            orders: [].into(),
            forget,
        };
        let body =
            |forget| Body::Readmitted { readmit: readmit(forget), authority: authority.clone() };
        old.reached("l1", 2, "c", &body(false));
        assert!(old.lost.is_some());
        old.reached("l1", 3, "d", &body(true));
        assert_eq!(old.lost, None);
        assert_eq!(marks(folder.path(), 1, "l1", &["a", "c", "d"]).lost, None);
    }

    #[test]
    fn a_mark_that_cannot_be_read_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ledger-db1.mark"), "GFMARK1 l1 2").unwrap();
        let lost = marks(folder.path(), 1, "l1", &["a"]).lost;
        assert!(lost.unwrap().contains("move the mark away"));
    }
}
