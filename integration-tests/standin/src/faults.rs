//! Faults on demand: files in `<node home>/standin-faults`, read when they could matter.
//!
//! The name of a file is the kind of the fault, its content the argument. A test sets and clears
//! them while the node runs or is down; the node never makes one itself, and removes one only
//! where its kind says that it happens once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The folder in a node's home.
pub const FOLDER: &str = "standin-faults";

/// Where inserts that were applied but not answered are written down.
pub const APPLIED_NOT_ANSWERED: &str = "standin-applied-not-answered.jsonl";

/// Inserts that are under way: one file each. After a crash they tell what may have been applied.
pub const IN_FLIGHT: &str = "standin-inflight";

/// What can be made to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Accepts connections, never answers and says nothing by itself, no heartbeat either; with
    /// `client` as the argument only clients are left without an answer.
    Hang,
    /// A stop takes so many milliseconds longer.
    SlowStop,
    /// Asked to stop, it does not.
    IgnoreSigterm,
    /// Dies when an insert arrives, before anything of it is done. Once.
    CrashBeforeApply,
    /// Dies when an insert is done, before the client is told. Once.
    CrashAfterApply,
    /// Does not start if its version is the argument.
    RefuseStartVersion,
    /// Dies so many milliseconds after its start was complete.
    StartThenDie,
    /// Says that its version is the argument.
    ReportOldVersion,
    /// Takes on the recovery of a chunk and does not begin with it.
    NeverFinishRecovery,
    /// A leading controller gives up its leadership every so many milliseconds.
    FlapLeader,
    /// A controller adds the argument to every replica count it shows.
    WrongReplicaCount,
    /// The last row of the next insert is acknowledged and not kept; the argument is how many
    /// inserts. With `column=value` as the argument this node's rows with that value are hidden
    /// from every reader instead, as long as the fault is there.
    DropAckedRow,
    /// A controller passes the order to stop a node on so many milliseconds late.
    LateStop,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 13] = [
        Self::Hang,
        Self::SlowStop,
        Self::IgnoreSigterm,
        Self::CrashBeforeApply,
        Self::CrashAfterApply,
        Self::RefuseStartVersion,
        Self::StartThenDie,
        Self::ReportOldVersion,
        Self::NeverFinishRecovery,
        Self::FlapLeader,
        Self::WrongReplicaCount,
        Self::DropAckedRow,
        Self::LateStop,
    ];

    /// The name of its file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hang => "hang",
            Self::SlowStop => "slow_stop",
            Self::IgnoreSigterm => "ignore_sigterm",
            Self::CrashBeforeApply => "crash_before_apply",
            Self::CrashAfterApply => "crash_after_apply",
            Self::RefuseStartVersion => "refuse_start_version",
            Self::StartThenDie => "start_then_die",
            Self::ReportOldVersion => "report_old_version",
            Self::NeverFinishRecovery => "never_finish_recovery",
            Self::FlapLeader => "flap_leader",
            Self::WrongReplicaCount => "wrong_replica_count",
            Self::DropAckedRow => "drop_acked_row",
            Self::LateStop => "late_stop",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|kind| kind.name()).collect();
            format!("unknown fault `{name}`: one of {}", known.join(", "))
        })
    }
}

/// The faults of one node.
#[derive(Clone, Debug)]
pub struct Faults {
    home: PathBuf,
}

impl Faults {
    /// Of the node with this home: `<home>/<alias>` for controllers and DolphinDB agents, `-home`
    /// for data and compute nodes. Both are `clusterDemo/data/<alias>`.
    #[must_use]
    pub fn of(home: impl Into<PathBuf>) -> Self {
        Self { home: home.into() }
    }

    /// The node's home.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Makes it go wrong from now on.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn set(&self, kind: Kind, argument: &str) -> io::Result<()> {
        let folder = self.home.join(FOLDER);
        fs::create_dir_all(&folder)?;
        // Renamed into place, so that the node never reads half an argument.
        let partial = folder.join(format!(".{}", kind.name()));
        fs::write(&partial, argument)?;
        fs::rename(partial, folder.join(kind.name()))
    }

    /// Makes it go right again; nothing to do if it did.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn clear(&self, kind: Kind) -> io::Result<()> {
        match fs::remove_file(self.home.join(FOLDER).join(kind.name())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// All faults that are set, with their arguments.
    ///
    /// # Errors
    /// If a file is there and cannot be read.
    pub fn list(&self) -> io::Result<Vec<(Kind, String)>> {
        let mut found = Vec::new();
        for kind in Kind::ALL {
            match fs::read_to_string(self.home.join(FOLDER).join(kind.name())) {
                Ok(text) => found.push((kind, text.trim().to_owned())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The argument, if this fault is set.
    #[must_use]
    pub fn get(&self, kind: Kind) -> Option<String> {
        let path = self.home.join(FOLDER).join(kind.name());
        fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    }

    /// The argument as a number of milliseconds; 0 if it is none.
    #[must_use]
    pub fn millis(&self, kind: Kind) -> Option<u64> {
        self.get(kind).map(|text| text.parse().unwrap_or(0))
    }

    /// Is the node to be silent, to other nodes as well?
    #[must_use]
    pub fn is_hanging(&self) -> bool {
        self.get(Kind::Hang).is_some_and(|whom| whom != "client")
    }

    /// Takes a fault that happens once: whoever gets it must do it.
    #[must_use]
    pub fn take(&self, kind: Kind) -> Option<String> {
        let argument = self.get(kind)?;
        fs::remove_file(self.home.join(FOLDER).join(kind.name())).ok()?;
        Some(argument)
    }
}

/// An insert that reached the disks of the cluster while its client was told nothing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Insert {
    /// The node the client had sent it to.
    pub alias: String,
    /// The transaction.
    pub tid: u64,
    /// Path of the database.
    pub database: String,
    /// The table.
    pub table: String,
    /// When it arrived, milliseconds since 1970.
    pub at_ms: i64,
    /// Rows in it.
    pub rows: usize,
    /// The values by column, as text; of the first thousand rows.
    pub columns: Vec<(String, Vec<String>)>,
}

/// Inserts that a client may see twice when it sends them again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unanswered {
    /// They were applied.
    pub applied: Vec<Insert>,
    /// The node went down during them and has not found out yet.
    pub undecided: Vec<Insert>,
}

/// Reads what the node with this home wrote down.
///
/// # Errors
/// If something is there and cannot be read.
pub fn applied_not_answered(home: &Path) -> io::Result<Unanswered> {
    let mut found = Unanswered::default();
    match fs::read_to_string(home.join(APPLIED_NOT_ANSWERED)) {
        Ok(text) => {
            for line in text.lines() {
                found.applied.push(serde_json::from_str(line)?);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for path in in_flight(home)? {
        // The node may remove it at any moment, and may have died while writing it: then the
        // insert had not begun.
        if let Ok(text) = fs::read_to_string(path)
            && let Ok(insert) = serde_json::from_str(&text)
        {
            found.undecided.push(insert);
        }
    }
    Ok(found)
}

/// The files of inserts under way.
pub(crate) fn in_flight(home: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(home.join(IN_FLIGHT)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_set_listed_taken_and_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let faults = Faults::of(folder.path());
        assert_eq!(faults.list().unwrap(), []);
        faults.set(Kind::SlowStop, "1500").unwrap();
        faults.set(Kind::Hang, "").unwrap();
        assert_eq!(faults.millis(Kind::SlowStop), Some(1500));
        assert_eq!(
            faults.list().unwrap(),
            [(Kind::Hang, String::new()), (Kind::SlowStop, "1500".to_owned())]
        );
        assert_eq!(faults.take(Kind::Hang), Some(String::new()));
        assert_eq!(faults.take(Kind::Hang), None);
        faults.clear(Kind::SlowStop).unwrap();
        faults.clear(Kind::SlowStop).unwrap();
        assert_eq!(faults.get(Kind::SlowStop), None);
    }

    #[test]
    fn names_lead_back_to_kinds() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!("lose_exec".parse::<Kind>().is_err());
    }
}
