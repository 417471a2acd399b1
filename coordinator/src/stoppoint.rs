//! Places at which a test lets a coordinator stand still.
//!
//! Debug builds only; release builds contain none. `GRAYFIN_STOPPOINTS=NAME,…` makes the process
//! stand still (SIGSTOP) when it first reaches each of these places, so that a test can do something
//! meanwhile and let it go on (SIGCONT).

use std::sync::{Mutex, OnceLock, PoisonError};

/// The environment variable that names the places.
const VARIABLE: &str = "GRAYFIN_STOPPOINTS";

/// Stands still if a test wants it here.
pub(crate) fn reached(place: &str) {
    if !cfg!(debug_assertions) {
        return;
    }
    static LEFT: OnceLock<Mutex<Vec<String>>> = OnceLock::new();
    let left = LEFT.get_or_init(|| {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        Mutex::new(text.split(',').map(str::to_owned).collect())
    });
    let wanted = {
        let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
        let found = left.iter().position(|name| name == place);
        found.map(|at| left.swap_remove(at)).is_some()
    };
    if wanted {
        tracing::error!(place, "stop point reached");
        let stopped =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
        if let Err(error) = stopped {
            tracing::error!(place, %error, "cannot stand still");
        }
    }
}
