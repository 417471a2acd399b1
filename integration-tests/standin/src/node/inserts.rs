//! Inserts that a client has not been answered yet: each has a file from before it begins until
//! after the answer, so that whoever judges duplicates can tell where they come from.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use standin_lang::value::{Table, format};
use standin_model::Tid;
use standin_model::message::{Answer, Ask};

use super::Node;
use crate::faults::{APPLIED_NOT_ANSWERED, IN_FLIGHT, Insert, in_flight};

/// Rows whose values are written down.
const ROWS_MAX: usize = 1_000;

/// Describes an insert.
pub(crate) fn describe(
    alias: &str,
    tid: Tid,
    (database, table): (&str, &str),
    at_ms: i64,
    rows: &Table,
) -> Insert {
    let columns = rows.columns().iter().map(|(name, column)| {
        let cells = column.cells.iter().take(ROWS_MAX);
        (name.clone(), cells.map(|cell| format::cell_text(column.ty, cell)).collect())
    });
    Insert {
        alias: alias.to_owned(),
        tid: tid.0,
        database: database.to_owned(),
        table: table.to_owned(),
        at_ms,
        rows: rows.rows(),
        columns: columns.collect(),
    }
}

/// The file of an insert under way.
pub(crate) fn path_of(home: &Path, tid: u64) -> PathBuf {
    home.join(IN_FLIGHT).join(format!("{tid}.json"))
}

/// Writes down that an insert begins.
pub(crate) fn begin(home: &Path, insert: &Insert) -> io::Result<()> {
    let path = path_of(home, insert.tid);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, serde_json::to_vec(insert)?)
}

/// The client was answered, or there is nothing to answer for.
pub(crate) fn forget(home: &Path, tid: u64) {
    // Nothing depends on it but a test's judgement, and that would only be more cautious.
    drop(fs::remove_file(path_of(home, tid)));
}

/// The insert was applied and its client was not answered.
pub(crate) fn record(home: &Path, tid: u64) -> io::Result<()> {
    let path = path_of(home, tid);
    let mut line = fs::read(&path)?;
    line.push(b'\n');
    let log = home.join(APPLIED_NOT_ANSWERED);
    fs::OpenOptions::new().create(true).append(true).open(log)?.write_all(&line)?;
    fs::remove_file(path)
}

/// The inserts that the last run left; to be asked before this run makes any.
pub(crate) fn left_by_last_run(home: &Path) -> Vec<PathBuf> {
    in_flight(home).unwrap_or_default()
}

/// Finds out what became of inserts, however long it takes.
pub(crate) async fn settle(node: &Node, inserts: Vec<PathBuf>) {
    let home = node.shared.places.own.clone();
    for path in inserts {
        let parsed = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let Some(insert): Option<Insert> = parsed else {
            // Half written: the insert had not begun.
            drop(fs::remove_file(&path));
            continue;
        };
        let outcome = loop {
            match node.ask_leader(Ask::Outcome { tid: Tid(insert.tid) }).await {
                Ok(Answer::Outcome(committed)) => break committed,
                // Still running at the leader, or no leader: only a matter of time.
                Ok(_) | Err(_) => {
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
            }
        };
        if outcome {
            if let Err(error) = record(&home, insert.tid) {
                node.shared.log.error(&format!("standin-applied-not-answered: {error}"));
            }
        } else {
            forget(&home, insert.tid);
        }
    }
}
