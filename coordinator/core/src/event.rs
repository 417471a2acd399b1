//! The event log's chain: each event's hash covers the event and the hash of the one before.

use grayfin_types::event::Event;

use crate::Hasher;

/// Computes an event's hash; the event's own `hash` field does not count.
pub fn hash(event: &Event, hasher: Hasher<'_>) -> String {
    let bare = Event { hash: String::new(), ..event.clone() };
    hasher(&serde_json::to_vec(&bare).expect("plain data types always serialise"))
}

/// Why a sequence of events is no log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A number is missing or there twice.
    #[error("event {found} follows event {before}: the log has a gap or a repeat")]
    Gap {
        /// The event before.
        before: u64,
        /// The event found.
        found: u64,
    },
    /// The hash does not fit.
    #[error("event {seq} does not fit the one before: the log was changed")]
    Chain {
        /// Which.
        seq: u64,
    },
}

/// Checks a run of events that follows an event with number `before` and hash `previous` (0 and
/// the empty text for the beginning).
pub fn verify(
    mut before: u64,
    mut previous: String,
    events: &[Event],
    hasher: Hasher<'_>,
) -> Result<(), Error> {
    for event in events {
        let found = event.seq.0;
        if found != before + 1 {
            return Err(Error::Gap { before, found });
        }
        if event.previous != previous || event.hash != hash(event, hasher) {
            return Err(Error::Chain { seq: found });
        }
        before = found;
        previous.clone_from(&event.hash);
    }
    Ok(())
}
