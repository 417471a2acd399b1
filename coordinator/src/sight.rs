//! The volatile view, shared: sessions put observations in, the driver and the services look.

use std::sync::{Mutex, MutexGuard, PoisonError};

use grayfin_coordinator_core::View;
use tokio::sync::watch;

/// Handle to the view.
#[derive(Debug, Default)]
pub struct Sight {
    view: Mutex<View>,
    changes: watch::Sender<u64>,
}

impl Sight {
    /// Changes the view and wakes whoever waits for something to be seen.
    pub fn update<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        let out = change(&mut self.lock());
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        out
    }

    /// Changes the view without waking anybody: what time alone changes is looked at by the driver
    /// in the same breath.
    pub fn update_silently<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        change(&mut self.lock())
    }

    /// Looks.
    pub fn read<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.lock())
    }

    /// Fires after each [`Sight::update`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, View> {
        // Whoever panicked in between left at worst an older observation behind.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
