//! What a node holds only in memory, and loses when it stops.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use standin_lang::value::{Table, TableHandle};
use standin_model::message::TableView;

use super::jobs::{Job, Scheduled};
use super::plugins::Plugin;
use super::{jobs, plugins};
use crate::node::shared::Shared;
use crate::node::start::Refused;

/// Texts that are remembered of what clients wanted and this stand-in does not have.
const UNMODELLED_MAX: usize = 50;

/// `tableInsert{loadTable(…)}` asks for the table twice within a few milliseconds.
const VIEW_AGE: Duration = Duration::from_millis(200);

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
    views: Mutex<HashMap<TableHandle, (Instant, Box<TableView>)>>,
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

    /// Remembers a table for the insert that probably follows.
    pub(super) fn keep_view(&self, handle: &TableHandle, view: Box<TableView>) {
        let mut views = locked(&self.views);
        views.retain(|_, (at, _)| at.elapsed() < VIEW_AGE);
        views.insert(handle.clone(), (Instant::now(), view));
    }

    /// A table as it was a moment ago. That is enough for an insert: the leader checks all of it
    /// again when the transaction begins.
    pub(super) fn recent_view(&self, handle: &TableHandle) -> Option<Box<TableView>> {
        let views = locked(&self.views);
        let (at, view) = views.get(handle)?;
        (at.elapsed() < VIEW_AGE).then(|| view.clone())
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
