//! Reading the rows of a DFS table.

use std::time::Duration;

use standin_lang::eval::{CallError, Scan, Session};
use standin_lang::value::{Table, TableHandle, Value};
use standin_model::Alias;
use standin_model::member::Input;
use standin_model::message::{Answer, Order, Readable, Record};

use super::Caller;
use super::dfs::{empty_table, parse, require_table};
use super::users;
use crate::net::{Question, Response};
use crate::node::{Brain, Node};
use crate::partition::from_hex;

/// Between two attempts to read while replicas are on their way.
const PAUSE: Duration = Duration::from_millis(50);

/// All rows that the evaluator needs.
pub(super) async fn table(
    caller: &Caller,
    session: &Session,
    handle: &TableHandle,
    scan: &Scan,
) -> Result<Table, CallError> {
    users::may_read(session, handle)?;
    let node = caller.node();
    let patience = Duration::from_millis(node.shared.timing.leader_wait_ms);
    let since = tokio::time::Instant::now();
    loop {
        // Which replica is current may change between the question and the read: ask again.
        match attempt(node, handle, scan).await {
            Err(Problem::Replica(text)) if since.elapsed() >= patience => {
                return Err(CallError::Error(text));
            }
            Err(Problem::Replica(_)) => tokio::time::sleep(PAUSE).await,
            Err(Problem::Other(error)) => return Err(error),
            Ok(table) => return Ok(table),
        }
    }
}

enum Problem {
    /// No replica could be read just now.
    Replica(String),
    Other(CallError),
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        Self::Other(error)
    }
}

async fn attempt(node: &Node, handle: &TableHandle, scan: &Scan) -> Result<Table, Problem> {
    let view = require_table(node, handle).await?;
    let mut table = empty_table(&parse(&view.table.spec)?);
    if scan.schema_only {
        return Ok(table);
    }
    for chunk in &view.chunks {
        let records = chunk_records(node, chunk).await?;
        table = with_records(table, records).map_err(CallError::Error)?;
    }
    Ok(table)
}

/// Applies a chunk's records to what is there: rows come, and rows go.
fn with_records(mut all: Table, records: Vec<Record>) -> Result<Table, String> {
    let mut own = all.pick(&[]);
    for record in records {
        let data = &record.payload.data;
        let Some((head, hex)) = data.split_once(':') else {
            return Err("rows that cannot be read".to_owned());
        };
        let Value::Table(rows) = from_hex(hex)? else {
            return Err("rows that are no table".to_owned());
        };
        if head.starts_with('-') {
            own = without(&own, &rows);
        } else {
            own.append(&rows).map_err(|error| error.to_string())?;
        }
    }
    all.append(&own).map_err(|error| error.to_string())?;
    Ok(all)
}

fn without(table: &Table, gone: &Table) -> Table {
    let gone: Vec<Vec<_>> = (0..gone.rows()).map(|row| gone.row(row).collect()).collect();
    let kept: Vec<usize> = (0..table.rows())
        .filter(|row| !gone.contains(&table.row(*row).collect::<Vec<_>>()))
        .collect();
    table.pick(&kept)
}

/// Reads a chunk from this node if it can, otherwise from another replica.
async fn chunk_records(node: &Node, chunk: &Readable) -> Result<Vec<Record>, Problem> {
    let mut replicas: Vec<&Alias> = chunk.replicas.iter().collect();
    replicas.sort_by_key(|alias| **alias != node.shared.alias());
    let path = &chunk.place.path;
    let mut problem = format!("No available replica for the chunk {path}. RefId: S01012");
    for alias in replicas {
        match replica_records(node, alias, chunk).await {
            Ok(records) => return Ok(records),
            Err(text) => problem = format!("<DataNodeNotAvail>The data node {alias}: {text}"),
        }
    }
    Err(Problem::Replica(problem))
}

async fn replica_records(
    node: &Node,
    alias: &Alias,
    chunk: &Readable,
) -> Result<Vec<Record>, String> {
    let Brain::Member(engine) = &node.brain else { return Err("not a data node".to_owned()) };
    let limit = Duration::from_millis(node.shared.timing.heartbeat_timeout_ms);
    let (mut all, mut after) = (Vec::new(), 0);
    while after < chunk.version {
        let order = Order::Read { chunk: chunk.place.id, after, upto: chunk.version };
        let answer = if alias == node.shared.alias() {
            engine.request(|request| Input::Order { request, order }).await
        } else {
            let address = node.address(alias).await.map_err(|error| error.to_string())?;
            match node.shared.peers.ask(&address, Question::Order(order), limit).await {
                Ok(Response::Answer(answer)) => answer,
                Ok(_) => return Err("an unexpected answer".to_owned()),
                Err(error) => return Err(format!("{error:?}")),
            }
        };
        let Answer::Records { records, version, .. } = answer else {
            return Err(format!("{answer:?}"));
        };
        if version <= after {
            return Err("rows are missing".to_owned());
        }
        all.extend(records);
        after = version;
    }
    Ok(all)
}
