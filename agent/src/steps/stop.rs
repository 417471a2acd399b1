//! Telling a running step to stop.

use std::sync::Arc;

use tokio::sync::watch;

/// Why a step has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// An operator aborted the rollout or asked for the host to be rolled back.
    Aborted,
    /// The step's limit has passed.
    Deadline,
}

/// Asks a running step to stop. The runner keeps it, steps see it through their [`super::Context`].
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<Option<Why>>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Stop {
    /// Asks for it; the first reason stays.
    pub fn ask(&self, why: Why) {
        self.0.send_if_modified(|now| {
            let first = now.is_none();
            if first {
                *now = Some(why);
            }
            first
        });
    }

    /// Returns the reason, once it was asked for.
    pub fn asked(&self) -> Option<Why> {
        *self.0.borrow()
    }

    /// Waits until it is asked for.
    pub async fn wait(&self) -> Why {
        let mut seen = self.0.subscribe();
        loop {
            if let Some(why) = *seen.borrow_and_update() {
                return why;
            }
            if seen.changed().await.is_err() {
                // Cannot be: the sender lives in `self`.
                std::future::pending::<()>().await;
            }
        }
    }
}
