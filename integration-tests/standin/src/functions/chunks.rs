//! What one data node has: chunks, transactions, redo logs, caches.

use standin_lang::eval::CallError;
use standin_lang::value::{Cell, Type, Value};

use super::table::{Rows, flag, int, maybe, text};
use super::{By, Call, Function, On, Outcome, f};
use crate::config::wildcard_matches;
use crate::node::member::MemberMachine;
use crate::node::{Brain, Node};

pub(super) const FUNCTIONS: &[Function] = &[
    f("getAllChunks", &[], On::Workers, By::Users),
    f("getChunksMeta", &["chunkPath", "top"], On::Workers, By::Users),
    f("getTabletsMeta", &["chunkPath", "tableName", "diskUsage", "top"], On::Workers, By::Users),
    f("getTransactionStatus", &[], On::Workers, By::Users),
    f("getRedoLogGCStat", &[], On::Workers, By::Users),
    f("flushOLAPCache", &[], On::Workers, By::Users),
    f("flushTSDBCache", &[], On::Workers, By::Users),
    f("getTSDBCompactionTaskStatus", &["count"], On::DataNodes, By::Users),
];

/// Rows of `getChunksMeta` and `getTabletsMeta` when the caller does not say.
const TOP: i64 = 1_024;

pub(super) async fn call(call: &mut Call<'_>) -> Outcome {
    match call.name {
        "getAllChunks" => chunks_meta(call.node, "%", -1).await,
        "getChunksMeta" => {
            let (pattern, top) = (pattern(call, 0)?, top(call, 1)?);
            chunks_meta(call.node, &pattern, top).await
        }
        "getTabletsMeta" => tablets_meta(call).await,
        "getTransactionStatus" => transactions(call.node).await,
        "getRedoLogGCStat" => redo(call.node).await,
        "flushOLAPCache" => flush(call.node, false).await,
        "flushTSDBCache" => flush(call.node, true).await,
        "getTSDBCompactionTaskStatus" => Rows::new(&[
            ("volume", Type::String),
            ("level", Type::Int),
            ("chunkId", Type::Uuid),
            ("tableName", Type::String),
            ("files", Type::String),
            ("force", Type::Bool),
            ("receivedTime", Type::Timestamp),
            ("startTime", Type::Timestamp),
            ("endTime", Type::Timestamp),
            ("errorMessage", Type::String),
        ])
        .done(),
        _ => Err(CallError::Unknown),
    }
}

fn pattern(call: &Call<'_>, place: usize) -> Result<String, CallError> {
    match call.given(place) {
        None => Ok("%".to_owned()),
        Some(_) => Ok(call.text(place)?.replace('*', "%")),
    }
}

fn top(call: &Call<'_>, place: usize) -> Result<i64, CallError> {
    if call.given(place).is_some() { call.number(place) } else { Ok(TOP) }
}

async fn machine<R: Send + 'static>(
    node: &Node,
    look: impl FnOnce(&mut MemberMachine) -> R + Send + 'static,
) -> Result<R, CallError> {
    let Brain::Member(engine) = &node.brain else { return Err(CallError::Unknown) };
    engine.look(|machine, _| look(machine)).await.map_err(CallError::Error)
}

/// A chunk on this node's disk.
struct Found {
    id: u128,
    file: String,
    path: String,
    table: String,
    version: u64,
    rows: u64,
    bytes: u64,
    is_open: bool,
}

async fn found(node: &Node, pattern: &str, top: i64) -> Result<Vec<Found>, CallError> {
    let list = |machine: &mut MemberMachine| {
        let store = machine.store.iter();
        store
            .flat_map(|store| store.held())
            .map(|(held, file)| Found {
                id: held.place.id.0,
                file: file.display().to_string(),
                path: held.place.path.clone(),
                table: held.place.table.clone(),
                version: held.version,
                rows: held.rows,
                bytes: held.length,
                is_open: held.pending.is_some(),
            })
            .collect::<Vec<_>>()
    };
    let mut all = machine(node, list).await?;
    all.retain(|chunk| wildcard_matches(pattern, &chunk.path));
    if let Ok(top) = usize::try_from(top) {
        all.truncate(top);
    }
    Ok(all)
}

fn uuid(id: u128) -> Cell {
    Cell::Bytes(id.to_be_bytes().to_vec())
}

async fn chunks_meta(node: &Node, pattern: &str, top: i64) -> Outcome {
    let mut rows = Rows::new(&[
        ("site", Type::String),
        ("chunkId", Type::Uuid),
        ("path", Type::String),
        ("dfsPath", Type::String),
        ("type", Type::Int),
        ("flag", Type::Int),
        ("size", Type::Long),
        ("version", Type::Int),
        ("state", Type::Int),
        ("versionList", Type::String),
        ("resolved", Type::Bool),
    ]);
    for chunk in found(node, pattern, top).await? {
        rows.push([
            text(node.shared.alias()),
            uuid(chunk.id),
            text(chunk.file),
            text(chunk.path),
            int(1),
            int(0),
            int(0),
            int(chunk.version),
            // 0 is the end of a transaction, 1 before its commit.
            int(i32::from(chunk.is_open)),
            text(format!(
                "cid : {},{}=>{}:{}; #",
                chunk.version, chunk.table, chunk.version, chunk.rows
            )),
            flag(chunk.is_open),
        ]);
    }
    rows.done()
}

async fn tablets_meta(call: &Call<'_>) -> Outcome {
    let (pattern, top) = (pattern(call, 0)?, top(call, 3)?);
    let wanted = call.arg(1).as_str().map(|name| name.replace('*', "%"));
    let usage = call.arg(2).as_bool() == Some(true);
    let mut rows = Rows::new(&[
        ("chunkId", Type::Uuid),
        ("path", Type::String),
        ("dfsPath", Type::String),
        ("tableName", Type::String),
        ("version", Type::Int),
        ("rowNum", Type::Long),
        ("createCids", Type::String),
        ("latestPhysicalDir", Type::String),
        ("diskUsage", Type::Long),
    ]);
    for chunk in found(call.node, &pattern, top).await? {
        if wanted.as_ref().is_some_and(|name| !wildcard_matches(name, &chunk.table)) {
            continue;
        }
        rows.push([
            uuid(chunk.id),
            text(chunk.file),
            text(chunk.path),
            text(chunk.table.clone()),
            int(chunk.version),
            int(chunk.rows),
            text(format!("[{}]", chunk.version)),
            text(format!("{}_{}", chunk.table, chunk.version)),
            if usage { int(chunk.bytes) } else { int(-1) },
        ]);
    }
    rows.done()
}

async fn transactions(node: &Node) -> Outcome {
    let list = |machine: &mut MemberMachine| machine.member.transactions().collect::<Vec<_>>();
    let mut rows = Rows::new(&[
        ("tid", Type::Long),
        ("startTime", Type::Timestamp),
        ("type", Type::String),
        ("status", Type::String),
        ("partitionCount", Type::Int),
        ("endTime", Type::Timestamp),
        ("elapsedTime", Type::Long),
    ]);
    let base = crate::node::log::local_ms();
    for (tid, partitions, since) in machine(node, list).await? {
        let elapsed = i64::try_from(node.shared.clock.now().saturating_sub(since)).unwrap_or(0);
        rows.push([
            int(tid.0),
            maybe(Some(base - elapsed)),
            text("APPEND"),
            text("BEGIN"),
            int(partitions),
            Cell::Null,
            int(elapsed),
        ]);
    }
    rows.done()
}

async fn redo(node: &Node) -> Outcome {
    let list = |machine: &mut MemberMachine| {
        machine.store.iter().flat_map(|store| store.redo_stats()).collect::<Vec<_>>()
    };
    let mut rows = Rows::new(&[
        ("physicalName", Type::String),
        ("txnCount", Type::Long),
        ("numOfTxnPendingGC", Type::Long),
        ("minTidPendingGC", Type::Long),
        ("numOfTxnPendingFlush", Type::Long),
        ("minTidPendingFlush", Type::Long),
    ]);
    for stat in machine(node, list).await? {
        let least = |tids: &[standin_model::Tid]| {
            maybe(tids.iter().min().and_then(|tid| i64::try_from(tid.0).ok()))
        };
        rows.push([
            text(stat.table.clone()),
            int(stat.pending_gc.len() + stat.pending_flush.len()),
            int(stat.pending_gc.len()),
            least(&stat.pending_gc),
            int(stat.pending_flush.len()),
            least(&stat.pending_flush),
        ]);
    }
    rows.done()
}

async fn flush(node: &Node, is_tsdb: bool) -> Outcome {
    let flush = move |machine: &mut MemberMachine| {
        if let Some(store) = &mut machine.store {
            store.flush(is_tsdb);
        }
    };
    machine(node, flush).await?;
    Ok(Value::Nothing)
}
