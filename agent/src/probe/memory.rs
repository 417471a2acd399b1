//! What a node holds only in memory (S13).

use grayfin_types::{
    NodeAlias,
    facts::{MemoryObject, NodeSpec},
};

use super::node::Asker;
use super::pool::{AskError, Pool};
use crate::ddb::{Call, Table, Value, Vector};

/// Objects listed per node; a node with more is unknown rather than half told.
const OBJECTS_MAX: usize = 10_000;

/// Lists what one data or compute node would lose in a restart. `provides` tells whether the startup
/// script makes an object of this kind and name again.
pub(super) async fn objects(
    pool: &Pool,
    spec: &NodeSpec,
    call: &Call,
    provides: &(dyn Fn(&str, &str) -> bool + Sync),
) -> Result<Vec<MemoryObject>, String> {
    let mut list = List { spec, provides, objects: Vec::new() };
    let ask = |name: &'static str, arguments: Vec<Value>| async move {
        pool.ask(spec, Asker::account(spec), name, &arguments, call).await
    };
    let failed =
        |name: &str, error: AskError| format!("`{name}` on `{}`: {}", spec.alias, error.words());

    let shared = ask("objs", vec![Value::bool(true)]).await.map_err(|e| failed("objs", e))?;
    let shared = table("objs", &shared)?;
    let streams = match ask("getStreamTables", vec![Value::int(0)]).await {
        Ok(value) => names_where(table("getStreamTables", &value)?, "name", |_| true),
        // Before it existed: a stream table shows its type.
        Err(AskError::Call(error)) if error.is_unknown_function() => {
            names_where(shared, "name", |at| is_text(shared, "type", at, "REALTIME"))
        }
        Err(error) => return Err(failed("getStreamTables", error)),
    };
    let tables = names_where(shared, "name", |at| {
        let flag = |name: &str| shared.column(name).and_then(|column| column.boolean(at));
        // A table of a database is only a handle: it has a path.
        let handle = shared.column("extra").and_then(|c| c.str(at)).is_some_and(|t| !t.is_empty());
        flag("shared") == Some(true) && is_text(shared, "form", at, "TABLE") && !handle
    });
    list.add("shared_table", tables.into_iter().filter(|name| !streams.contains(name)).collect());
    list.add("stream_table", streams);

    let stat = ask("getStreamingStat", vec![]).await.map_err(|e| failed("getStreamingStat", e))?;
    let workers = stat.dictionary().and_then(|d| d.value("subWorkers")).and_then(Value::table);
    if let Some(workers) = workers {
        list.add("subscription", subscriptions(workers));
    }
    let engines = ask("getStreamEngineStat", vec![]).await;
    list.add("engine", engine_names(&engines.map_err(|e| failed("getStreamEngineStat", e))?));

    match ask("getLoadedPlugins", vec![]).await {
        Ok(value) => {
            let plugins = table("getLoadedPlugins", &value)?;
            list.add("plugin", names_where(plugins, "plugin", |_| true));
        }
        // Versions before it have no way to tell; the installed ones are compared anyway.
        Err(AskError::Call(error)) if error.is_unknown_function() => {}
        Err(error) => return Err(failed("getLoadedPlugins", error)),
    }
    let jobs = ask("getRecentJobs", vec![]).await.map_err(|e| failed("getRecentJobs", e))?;
    let jobs = table("getRecentJobs", &jobs)?;
    let running = |at| jobs.column("endTime").is_some_and(|ends| ends.integer(at).is_none());
    list.add("batch_job", names_where(jobs, "jobId", running));
    let jobs = ask("getScheduledJobs", vec![]).await.map_err(|e| failed("getScheduledJobs", e))?;
    list.add("scheduled_job", names_where(table("getScheduledJobs", &jobs)?, "jobId", |_| true));
    list.finish()
}

/// Transactions of a data node that have not reached its files for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pending {
    /// Those still to be written out.
    pub flush: u64,
    /// Those written out whose redo log is still to be removed.
    pub collect: u64,
    /// The oldest one still to be written out, where the node tells it.
    pub oldest: Option<i64>,
}

impl Pending {
    /// Tells whether everything that was to be written out at `before` has been since. Under load
    /// there are always newer ones: an engine writes out all that it holds at once, so the rest has
    /// gone with the oldest.
    #[must_use]
    pub fn is_past(&self, before: &Self) -> bool {
        let oldest = (self.oldest, before.oldest);
        self.flush == 0 || matches!(oldest, (Some(now), Some(then)) if now > then)
    }
}

/// Asks whether there are transactions that a stop would have to wait for, or that a restart would
/// have to replay.
pub(super) async fn pending_transactions(
    pool: &Pool,
    spec: &NodeSpec,
    call: &Call,
) -> Result<Pending, AskError> {
    let value = pool.ask(spec, Asker::account(spec), "getRedoLogGCStat", &[], call).await?;
    let Some(table) = value.table() else { return Ok(Pending::default()) };
    let numbers = |name: &str| {
        let column = table.column(name);
        let rows = (0..table.rows).map(move |at| column.and_then(|column| column.integer(at)));
        rows.flatten().collect::<Vec<_>>()
    };
    let sum = |name: &str| {
        numbers(name).into_iter().filter_map(|count| u64::try_from(count).ok()).sum::<u64>()
    };
    Ok(Pending {
        flush: sum("numOfTxnPendingFlush"),
        collect: sum("numOfTxnPendingGC"),
        oldest: numbers("minTidPendingFlush").into_iter().min(),
    })
}

/// Collects objects.
struct List<'a> {
    spec: &'a NodeSpec,
    provides: &'a (dyn Fn(&str, &str) -> bool + Sync),
    objects: Vec<MemoryObject>,
}

impl List<'_> {
    fn add(&mut self, kind: &str, names: Vec<String>) {
        for name in names {
            let provided_for = (self.provides)(kind, &name);
            let node: NodeAlias = self.spec.alias.clone();
            self.objects.push(MemoryObject { node, kind: kind.to_owned(), name, provided_for });
        }
    }

    fn finish(mut self) -> Result<Vec<MemoryObject>, String> {
        if self.objects.len() > OBJECTS_MAX {
            return Err(format!("`{}` holds more than {OBJECTS_MAX} objects", self.spec.alias));
        }
        self.objects.sort();
        self.objects.dedup();
        Ok(self.objects)
    }
}

/// The table in an answer.
fn table<'v>(name: &str, value: &'v Value) -> Result<&'v Table, String> {
    value.table().ok_or_else(|| format!("`{name}` answered no table"))
}

/// The texts of a column in the rows that match.
fn names_where(table: &Table, column: &str, matches: impl Fn(usize) -> bool) -> Vec<String> {
    let Some(column) = table.column(column) else { return Vec::new() };
    (0..table.rows)
        .filter(|at| matches(*at))
        .filter_map(|at| column.word(at).map(std::borrow::Cow::into_owned))
        .filter(|name| !name.is_empty())
        .collect()
}

fn is_text(table: &Table, column: &str, at: usize, text: &str) -> bool {
    table.column(column).and_then(|column| column.str(at)) == Some(text)
}

/// Topics (`host:port:alias/table/action`) that do not belong to a Raft group: those are taken over
/// by another member.
fn subscriptions(workers: &Table) -> Vec<String> {
    let group =
        |at| workers.column("raftGroup").and_then(|c| c.integer(at)).is_some_and(|g| g >= 0);
    let column = if workers.column("topic").is_some() { "topic" } else { "topics" };
    names_where(workers, column, |at| !group(at))
        .iter()
        .flat_map(|topics| topics.split(','))
        .map(|topic| topic.trim().to_owned())
        .filter(|topic| !topic.is_empty())
        .collect()
}

/// The names in each table of the dictionary.
fn engine_names(stat: &Value) -> Vec<String> {
    let Some(dictionary) = stat.dictionary() else { return Vec::new() };
    let keys: &Vector = &dictionary.keys;
    (0..keys.len())
        .filter_map(|at| dictionary.values.value(at).and_then(Value::table))
        .flat_map(|engines| names_where(engines, "name", |_| true))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_transactions_do_not_keep_a_flush_from_being_done() {
        let pending = |flush, oldest| Pending { flush, collect: 3, oldest };
        let before = pending(5, Some(100));
        assert!(!pending(5, Some(100)).is_past(&before));
        assert!(!pending(9, Some(100)).is_past(&before));
        assert!(pending(9, Some(101)).is_past(&before));
        assert!(pending(0, None).is_past(&before));
        // A node that does not tell which one is the oldest: only none is enough.
        assert!(!pending(1, None).is_past(&before));
        assert!(!pending(1, Some(7)).is_past(&pending(2, None)));
    }
}
