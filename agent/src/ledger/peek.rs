//! Reading a ledger that somebody else may be writing.

use std::path::Path;

use grayfin_agent_core::{State, fold};

use super::{Error, FILE, log};

/// Reads the state as it was written last, without changing anything; an empty state if there is no
/// ledger. For the command line beside a running host agent.
pub fn peek(state_dir: &Path) -> Result<State, Error> {
    let file = state_dir.join(FILE);
    let bytes = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(State::default()),
        Err(source) => return Err(Error::Io { what: "read", file, source }),
    };
    let entries = log::read(&file, &bytes)?;
    fold(&entries).map_err(|source| Error::Contradicts { file, source })
}
