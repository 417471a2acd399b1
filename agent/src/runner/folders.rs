//! The small folders that sequences work in, and what is cleaned up after them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use grayfin_types::{Token, step::Step};

use super::Fatal;
use crate::{
    config::Settings,
    ledger::Ledger,
    steps::{Context, Executor, Stop},
};

/// Where the work folders are, below the state folder.
const WORK: &str = "work";

/// How the names of the work folders of holds begin.
const HOLD_FOLDER: &str = "hold-";

/// Removing old backups and unpacked packages: some ten thousand files.
const TIDY_MAX: Duration = Duration::from_secs(120);

/// Cleans up after a hold, or a staging that failed; what fails is only logged.
pub(super) async fn tidy<E: Executor>(executor: &E, ctx: &Context) {
    let ctx = ctx.for_step(Step::Join, false, TIDY_MAX, Stop::default());
    let tidied = tokio::time::timeout(TIDY_MAX, executor.tidy(&ctx)).await;
    match tidied {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "cannot tidy up"),
        Err(_) => tracing::warn!("tidying up takes too long"),
    }
    remove(ctx.work_dir());
}

fn remove(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::warn!(%error, folder = %folder.display(), "cannot remove a work folder");
    }
}

/// Names the work folder of a hold.
pub(super) fn of_hold(token: Token) -> String {
    format!("{HOLD_FOLDER}{token}")
}

/// Makes a work folder.
pub(super) fn make(settings: &Settings, name: &str) -> Result<PathBuf, Fatal> {
    let folder = settings.state_dir.join(WORK).join(name);
    match std::fs::create_dir_all(&folder) {
        Ok(()) => Ok(folder),
        Err(source) => Err(Fatal::Folder { folder, source }),
    }
}

/// Removes the folders of holds that were closed just before an earlier life ended.
pub(super) fn sweep(settings: &Settings, ledger: &Ledger) {
    let open = ledger.state(grayfin_agent_core::State::open_hold);
    let keep = open.map(|token| of_hold(token).into());
    let Ok(entries) = std::fs::read_dir(settings.state_dir.join(WORK)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let of_a_hold = name.to_string_lossy().starts_with(HOLD_FOLDER);
        if of_a_hold && Some(&name) != keep.as_ref() {
            remove(&entry.path());
        }
    }
}
