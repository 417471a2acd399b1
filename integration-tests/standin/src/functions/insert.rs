//! Putting rows into a DFS table, and taking them out.
//!
//! Rows are taken out by a record that names them, behind the records that put them in: so that
//! it is a transaction like any other, with versions, replicas and recovery.

use std::collections::BTreeMap;

use standin_lang::eval::CallError;
use standin_lang::value::{Cell, Table, TableHandle, Type, Value, Vector};
use standin_model::Tid;
use standin_model::member::{Input, Write};
use standin_model::message::{Answer, Ask, Payload, TableView};
use standin_model::meta::{Command, Database};

use super::dfs::{empty_table, parse, require_table};
use super::{Call, Outcome, users};
use crate::faults::Kind;
use crate::node::log::local_ms;
use crate::node::{Brain, Node, inserts, stop};
use crate::partition::{DatabaseSpec, Level, Partitioner, Place, TableSpec, to_hex};

/// Another client may add a partition at the same moment; then it is tried again.
const ATTEMPTS: usize = 20;

/// What to do with rows of a partition that does not exist: `newValuePartitionPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Skip,
    Add,
    Fail,
}

fn policy(node: &Node) -> Policy {
    match node.shared.setting("newValuePartitionPolicy") {
        Some("add") => Policy::Add,
        Some("fail") => Policy::Fail,
        Some(_) | None => Policy::Skip,
    }
}

/// `tableInsert` and the like; without `put` the rows are taken out instead.
pub(super) async fn insert(call: &mut Call<'_>, put: bool) -> Outcome {
    let Value::TableHandle(handle) = call.arg(0).clone() else { return Err(CallError::Unknown) };
    users::may_table(call, if put { "TABLE_WRITE" } else { "TABLE_DELETE" }, &handle)?;
    let Brain::Member(engine) = call.node.brain.clone() else { return Err(CallError::Unknown) };
    let node = call.node.clone();
    if put && node.shared.faults.take(Kind::CrashBeforeApply).is_some() {
        stop::die();
    }
    let view = match node.memory.recent_view(&handle) {
        Some(view) => view,
        None => require_table(&node, &handle).await?,
    };
    let spec: TableSpec = parse(&view.table.spec)?;
    let mut rows = empty_table(&spec);
    let given = rows_of(call, &rows)?;
    rows.append(&given).map_err(|error| CallError::Error(error.to_string()))?;
    let count = rows.rows();
    if put {
        rows = without_dropped(&node, rows);
    }
    let parts = split(&node, &handle, view, &spec, &rows, put).await?;
    let tid = Tid(rand::random::<u64>() >> 1);
    let names = (handle.database.as_str(), handle.table.as_str());
    let about = inserts::describe(node.shared.alias(), tid, names, local_ms(), &rows);
    inserts::begin(&node.shared.places.own, &about)
        .map_err(|error| CallError::Error(format!("write down an insert: {error}")))?;
    call.caller.add_insert(tid.0);
    let write = Write {
        tid,
        db: handle.database,
        table: handle.table,
        parts,
        client: client_of(call),
        at_ms: jiff::Timestamp::now().as_millisecond(),
    };
    let answer = engine.request(|request| Input::Write { request, write }).await;
    if let Answer::Duplicate { rows } = answer {
        return Ok(Value::int(i32::try_from(rows).unwrap_or(0)));
    }
    if let Answer::Failed(text) = answer {
        call.caller.drop_insert(tid.0);
        if text.contains("is unknown") {
            let left = vec![inserts::path_of(&node.shared.places.own, tid.0)];
            tokio::spawn(async move { inserts::settle(&node, left).await });
        } else {
            inserts::forget(&node.shared.places.own, tid.0);
        }
        return Err(CallError::Error(text));
    }
    if answer != Answer::Done {
        return Err(CallError::Error(format!("unexpected {answer:?}")));
    }
    if put && node.shared.faults.take(Kind::CrashAfterApply).is_some() {
        drop(inserts::record(&node.shared.places.own, tid.0));
        stop::die();
    }
    Ok(if put { Value::count(count) } else { Value::Nothing })
}

/// Client and number of the request, where the server keeps account of them.
fn client_of(call: &Call<'_>) -> Option<(String, u64)> {
    let (client, number) = call.session.request.clone()?;
    call.node.shared.version.runs_once().then(|| (client, number.unsigned_abs()))
}

/// The rows that were given: a table, or columns.
fn rows_of(call: &Call<'_>, like: &Table) -> Result<Table, CallError> {
    let given: Vec<Value> = match call.args.get(1..) {
        Some([Value::Table(table)]) => return Ok(table.clone()),
        Some([Value::Vector(vector)]) if vector.ty == Type::Any => vector.values().collect(),
        Some(values) => values.to_vec(),
        None => Vec::new(),
    };
    if given.len() != like.columns().len() {
        return Err(CallError::text(
            "The number of columns of the table to insert must be the same as that of the \
             original table.",
        ));
    }
    let columns = like.columns().iter().zip(given).map(|((name, _), value)| {
        let vector = value.to_vector().unwrap_or(Vector::empty(Type::Void));
        (name.clone(), vector)
    });
    Table::new(columns).map_err(|error| CallError::Error(error.to_string()))
}

/// The fault that acknowledges a row without keeping it.
fn without_dropped(node: &Node, rows: Table) -> Table {
    let faults = &node.shared.faults;
    let Some(argument) = faults.get(Kind::DropAckedRow).filter(|text| !text.contains('=')) else {
        return rows;
    };
    let left = argument.parse::<u32>().unwrap_or(1).saturating_sub(1);
    let done = if left == 0 {
        faults.clear(Kind::DropAckedRow)
    } else {
        faults.set(Kind::DropAckedRow, &left.to_string())
    };
    if done.is_err() || rows.rows() == 0 {
        return rows;
    }
    node.shared.log.warning("The fault drop_acked_row drops a row that is acknowledged.");
    let kept: Vec<usize> = (0..rows.rows() - 1).collect();
    rows.pick(&kept)
}

/// The rows by partition; partitions are added where the policy says so.
async fn split(
    node: &Node,
    handle: &TableHandle,
    mut view: Box<TableView>,
    spec: &TableSpec,
    rows: &Table,
    put: bool,
) -> Result<Vec<(String, Payload)>, CallError> {
    for _ in 0..ATTEMPTS {
        let database: DatabaseSpec = parse(&view.database.spec)?;
        let partitioner = Partitioner::new(&database, spec).map_err(CallError::Error)?;
        let mut places: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut fresh: Vec<(usize, Cell)> = Vec::new();
        for row in 0..rows.rows() {
            match partitioner.place(rows, row) {
                Place::Key(key) => places.entry(key).or_default().push(row),
                Place::New(level, value) => fresh.push((level, value)),
                Place::Outside => {}
            }
        }
        if fresh.is_empty() || !put || policy(node) == Policy::Skip {
            return payloads(&database, rows, places, put);
        }
        if policy(node) == Policy::Fail {
            return Err(CallError::text("The data is out of the partition scheme."));
        }
        add_partitions(node, &view.database, database, fresh).await?;
        view = require_table(node, handle).await?;
    }
    Err(CallError::text("The partition scheme was changed again and again."))
}

fn payloads(
    database: &DatabaseSpec,
    rows: &Table,
    places: BTreeMap<String, Vec<usize>>,
    put: bool,
) -> Result<Vec<(String, Payload)>, CallError> {
    let engine = if database.engine == "TSDB" { 'T' } else { 'O' };
    let sign = if put { '+' } else { '-' };
    let mut parts = Vec::new();
    for (key, numbers) in places {
        let hex = to_hex(&Value::Table(rows.pick(&numbers))).map_err(CallError::Error)?;
        let count = if put { u64::try_from(numbers.len()).unwrap_or(0) } else { 0 };
        parts.push((key, Payload { rows: count, data: format!("{sign}{engine}:{hex}") }));
    }
    Ok(parts)
}

async fn add_partitions(
    node: &Node,
    known: &Database,
    mut database: DatabaseSpec,
    fresh: Vec<(usize, Cell)>,
) -> Result<(), CallError> {
    for (number, level) in database.levels.iter_mut().enumerate() {
        let mut vector = level.vector();
        for (_, value) in fresh.iter().filter(|(wanted, _)| *wanted == number) {
            if !vector.cells.contains(value) {
                vector.cells.push(value.clone());
            }
        }
        *level = Level::new(level.kind, &Value::Vector(vector)).map_err(CallError::Error)?;
    }
    let spec = serde_json::to_string(&database).map_err(|e| CallError::Error(e.to_string()))?;
    let changed = Database { path: known.path.clone(), spec, revision: known.revision + 1 };
    match node.ask_leader(Ask::Change(Command::ChangeDatabase(changed))).await {
        // Refused: somebody was faster, and it is tried again with what is there now.
        Ok(_) => Ok(()),
        Err(CallError::Error(text)) if text.ends_with("was changed meanwhile.") => Ok(()),
        Err(error) => Err(error),
    }
}
