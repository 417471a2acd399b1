//! A snapshot: the state on the first line, then one event a line, sealed as a whole.
//!
//! Events travel as the texts that were stored, so that hashes stay what they are.

use grayfin_coordinator_core::State;

use super::{
    Error,
    file::{open_seal, seal_bytes},
};

/// Makes a snapshot.
pub(crate) fn write(state: &State, events: &[String]) -> Result<Vec<u8>, Error> {
    let mut out = serde_json::to_vec(state).map_err(Error::Encode)?;
    for event in events {
        // JSON writes a line break within a text as `\n`, so it can't be mistaken for ours.
        out.push(b'\n');
        out.extend_from_slice(event.as_bytes());
    }
    Ok(seal_bytes(&out))
}

/// Checks a snapshot's seal.
pub(crate) fn open(data: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(open_seal(data)?).map_err(|e| e.to_string())
}

/// Reads a snapshot.
pub(crate) fn read(data: &[u8]) -> Result<(State, Vec<String>), String> {
    let mut lines = open(data)?.lines();
    let state = lines.next().ok_or("it is empty")?;
    let state = serde_json::from_str(state).map_err(|e| format!("its state: {e}"))?;
    Ok((state, lines.map(str::to_owned).collect()))
}
