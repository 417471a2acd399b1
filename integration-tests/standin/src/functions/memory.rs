//! What a node holds only in memory, and loses when it stops.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use standin_lang::value::Table;

use super::jobs::{Job, Scheduled};
use super::plugins::Plugin;
use super::{jobs, plugins};
use crate::node::shared::Shared;
use crate::node::start::Refused;

/// Texts that are remembered of what clients wanted and this stand-in does not have.
const UNMODELLED_MAX: usize = 50;

/// A table that all sessions share.
#[derive(Clone, Debug)]
pub(crate) struct SharedTable {
    pub(crate) table: Table,
    pub(crate) owner: String,
    pub(crate) is_stream: bool,
    pub(crate) is_persisted: bool,
}

/// A subscription of this node to a stream table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// `host:port:alias/table/action`.
    pub(crate) topic: String,
    pub(crate) table: String,
    pub(crate) action: String,
    pub(crate) server: String,
}

/// A subscription of any node to a stream table of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subscriber {
    pub(crate) table: String,
    pub(crate) site: String,
    pub(crate) action: String,
}

/// Everything that a restart takes away, and the scheduled jobs, which are on disk as well.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    unmodelled: Mutex<(u64, VecDeque<String>)>,
    tables: Mutex<BTreeMap<String, SharedTable>>,
    subscriptions: Mutex<Vec<Subscription>>,
    subscribers: Mutex<Vec<Subscriber>>,
    plugins: Mutex<Vec<Plugin>>,
    jobs: Mutex<Vec<Job>>,
    scheduled: Mutex<Vec<Scheduled>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}

impl Memory {
    /// What a start fills in: plugins to be preloaded, scheduled jobs from the disk.
    pub(crate) fn load(shared: &Shared) -> Result<Self, Refused> {
        let memory = Self::default();
        *locked(&memory.plugins) = plugins::preload(shared).map_err(Refused)?;
        *locked(&memory.scheduled) = jobs::load(shared).map_err(|e| Refused(e.to_string()))?;
        Ok(memory)
    }

    /// Counts something that this stand-in does not have.
    pub(crate) fn note_unmodelled(&self, what: &str) {
        let mut unmodelled = locked(&self.unmodelled);
        unmodelled.0 += 1;
        unmodelled.1.push_back(what.chars().take(500).collect());
        if unmodelled.1.len() > UNMODELLED_MAX {
            unmodelled.1.pop_front();
        }
    }

    /// How often that was, and the last of it.
    pub(crate) fn unmodelled(&self) -> (u64, Vec<String>) {
        let unmodelled = locked(&self.unmodelled);
        (unmodelled.0, unmodelled.1.iter().cloned().collect())
    }

    pub(super) fn tables(&self) -> MutexGuard<'_, BTreeMap<String, SharedTable>> {
        locked(&self.tables)
    }

    pub(super) fn subscriptions(&self) -> MutexGuard<'_, Vec<Subscription>> {
        locked(&self.subscriptions)
    }

    pub(super) fn subscribers(&self) -> MutexGuard<'_, Vec<Subscriber>> {
        locked(&self.subscribers)
    }

    pub(super) fn plugins(&self) -> MutexGuard<'_, Vec<Plugin>> {
        locked(&self.plugins)
    }

    pub(super) fn jobs(&self) -> MutexGuard<'_, Vec<Job>> {
        locked(&self.jobs)
    }

    pub(super) fn scheduled(&self) -> MutexGuard<'_, Vec<Scheduled>> {
        locked(&self.scheduled)
    }
}
