//! What all parts of a running coordinator share.

use std::sync::Arc;

use grayfin_proto::v1::Authority;
use grayfin_types::Term;
use tokio::sync::watch;

use crate::{
    config::Config,
    sessions::Links,
    sight::Sight,
    store::{Leadership, Store},
};

/// The parts, behind one handle.
#[derive(Debug)]
pub struct Shared {
    /// The checked configuration.
    pub config: Config,
    /// The durable store.
    pub store: Arc<dyn Store>,
    /// What is seen right now.
    pub sight: Sight,
    /// The connected host agents.
    pub links: Links,
    /// The term in which this coordinator drives: its lead is confirmed and recorded.
    pub(crate) driving: watch::Sender<Option<Term>>,
    stopping: watch::Sender<bool>,
}

impl Shared {
    /// Puts the parts together.
    pub fn new(config: Config, store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            config,
            store,
            sight: Sight::default(),
            links: Links::default(),
            driving: watch::channel(None).0,
            stopping: watch::channel(false).0,
        })
    }

    /// Returns who leads, as far as is known.
    pub fn leadership(&self) -> Leadership {
        self.store.leadership().borrow().clone()
    }

    /// Tells whether this coordinator drives: it leads, as far as it knows, and its lead was
    /// confirmed and recorded in this term.
    pub fn drives(&self) -> bool {
        let leadership = self.leadership();
        leadership.leads && *self.driving.borrow() == Some(leadership.term)
    }

    /// Returns what orders and promise requests carry (S2).
    pub fn authority(&self) -> Authority {
        let state = self.store.state();
        // Not the newest term that was heard of: that may be another coordinator's already.
        let term = (*self.driving.borrow()).unwrap_or_else(|| self.leadership().term);
        Authority { group: state.group.clone(), incarnation: state.incarnation.0, term: term.0 }
    }

    /// Tells everybody to end.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Becomes true when everybody is to end.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Waits until everybody is to end.
    pub async fn stopped(&self) {
        // The sender is part of `self`, so it cannot be gone.
        drop(self.stopping.subscribe().wait_for(|stopping| *stopping).await);
    }
}
