//! Calling functions on other nodes.

use std::sync::Arc;
use std::time::Duration;

use standin_lang::eval::{self, CallError, Session};
use standin_lang::value::{Cell, Function as FunctionValue, Matrix, Table, Value, Vector};
use standin_model::NodeRole;

use super::{By, Call, Caller, Function, On, Outcome, cluster, f};
use crate::net::{Question, Response, Run};
use crate::node::Node;
use crate::partition::{from_hex, to_hex};

pub(super) const FUNCTIONS: &[Function] = &[
    f("rpc", &["nodeAlias", "func"], On::Any, By::Anybody),
    f("pnodeRun", &["function", "nodes", "addNodeAlias"], On::Any, By::Anybody),
];

/// A call that stops nodes may take as long as they do.
const LIMIT: Duration = Duration::from_secs(600);

pub(super) async fn call(call: &mut Call<'_>) -> Outcome {
    match call.name {
        "rpc" => {
            let alias = call.text(0)?;
            let function = function(call, 1)?;
            let args = call.args.iter().skip(2).cloned().collect();
            run_at(call, &alias, &function, args).await
        }
        "pnodeRun" => pnode_run(call).await,
        _ => Err(CallError::Unknown),
    }
}

/// An argument that is a function, or the name of one.
fn function(call: &Call<'_>, place: usize) -> Result<FunctionValue, CallError> {
    if let Value::Function(function) = call.arg(place) {
        return Ok(function.clone());
    }
    let name = call.arg(place).as_str();
    name.map(FunctionValue::named).ok_or_else(|| call.wrong(place, "a function"))
}

/// Applies a function on the node of that alias.
async fn run_at(
    call: &mut Call<'_>,
    alias: &str,
    function: &FunctionValue,
    args: Vec<Value>,
) -> Outcome {
    if alias == call.node.shared.alias() {
        return eval::apply(call.caller, call.session, function, args).await;
    }
    let address = call.node.address(alias).await?;
    let run = package(call.session, function, &args).map_err(CallError::Error)?;
    send(Arc::clone(call.node), alias.to_owned(), address, run).await
}

fn package(session: &Session, function: &FunctionValue, args: &[Value]) -> Result<Run, String> {
    let mut values = vec![to_hex(&Value::Function(function.clone()))?];
    for value in args {
        values.push(to_hex(value)?);
    }
    Ok(Run {
        user: session.user.clone(),
        admin: session.admin,
        rights: session.rights.iter().cloned().collect(),
        values,
    })
}

async fn send(node: Arc<Node>, alias: String, address: String, run: Run) -> Outcome {
    match node.shared.peers.ask(&address, Question::Run(run), LIMIT).await {
        Ok(Response::Value(Ok(value))) => from_hex(&value).map_err(CallError::Error),
        Ok(Response::Value(Err(text))) => Err(CallError::Error(text)),
        Ok(Response::Yes | Response::Answer(_)) => {
            Err(CallError::Error(format!("an unexpected answer of {alias}")))
        }
        Err(_) => {
            let tag = match node.shared.controller(&alias) {
                Some(_) => "ControllerNotAvail",
                None => "DataNodeNotAvail",
            };
            Err(CallError::Error(format!("<{tag}>The node {alias} is not available.")))
        }
    }
}

/// Applies a function here, as another node asked.
pub(crate) async fn run_here(node: &Arc<Node>, run: Run) -> Result<String, String> {
    let mut values = Vec::new();
    for value in &run.values {
        values.push(from_hex(value)?);
    }
    if values.is_empty() {
        return Err("a call without a function".to_owned());
    }
    let Value::Function(function) = values.remove(0) else {
        return Err("a call of something else than a function".to_owned());
    };
    let mut session = Session::new("0");
    session.user = run.user;
    session.admin = run.admin;
    session.rights = run.rights.into_iter().collect();
    let caller = Caller::internal(Arc::clone(node));
    let outcome = eval::apply(&caller, &mut session, &function, values).await;
    let value = outcome.map_err(|error| match error {
        CallError::Unknown => format!("{} {}", eval::UNKNOWN_FUNCTION, function.name),
        CallError::Error(text) => text,
    })?;
    to_hex(&value)
}

/// Applies a function on all live data nodes and compute nodes without a group, or on those named.
async fn pnode_run(call: &mut Call<'_>) -> Outcome {
    let function = function(call, 0)?;
    let aliases = if call.given(1).is_some() { call.texts(1)? } else { live(call.node).await? };
    let add_alias = call.arg(2).as_bool() != Some(false);
    let mut running = Vec::new();
    let mut results: Vec<(String, Value)> = Vec::new();
    for alias in aliases {
        if alias == call.node.shared.alias() {
            let value = run_at(call, &alias, &function, Vec::new()).await?;
            results.push((alias, value));
            continue;
        }
        let address = call.node.address(&alias).await?;
        let run = package(call.session, &function, &[]).map_err(CallError::Error)?;
        let asked = send(Arc::clone(call.node), alias.clone(), address, run);
        running.push((alias, tokio::spawn(asked)));
    }
    for (alias, task) in running {
        let value = task.await.map_err(|error| CallError::Error(error.to_string()))??;
        results.push((alias, value));
    }
    merge(call, results, add_alias)
}

async fn live(node: &Node) -> Result<Vec<String>, CallError> {
    let nodes = cluster::nodes(node).await?;
    Ok(nodes
        .into_iter()
        .filter(|status| status.online && status.ready)
        .filter(|status| match status.node.role {
            NodeRole::DataNode => true,
            NodeRole::ComputeNode => status.node.group.is_none(),
            NodeRole::Controller | NodeRole::DdbAgent => false,
        })
        .map(|status| status.node.alias)
        .collect())
}

/// Scalars make a table of nodes and values, vectors a matrix, tables one table.
fn merge(call: &Call<'_>, results: Vec<(String, Value)>, add_alias: bool) -> Outcome {
    let bad = |error: standin_lang::value::TableError| CallError::Error(error.to_string());
    if results.iter().all(|(_, value)| matches!(value, Value::Nothing)) {
        return Ok(Value::Nothing);
    }
    if results.iter().all(|(_, value)| matches!(value, Value::Scalar(_))) {
        let (aliases, values): (Vec<String>, Vec<Value>) = results.into_iter().unzip();
        let columns = [("node", Vector::strings(aliases)), ("value", Vector::collect(values))];
        return Value::table(columns).map_err(bad);
    }
    let mut tables = Vec::new();
    for (alias, value) in &results {
        if let Value::Table(table) = value {
            tables.push((alias, table));
        } else if value.as_vector().is_some() && tables.is_empty() {
            return matrix(results);
        } else {
            return Err(call.unmodelled("pnodeRun with results of this form"));
        }
    }
    let mut merged: Option<Table> = None;
    for (alias, table) in tables {
        let table = with_node(table, alias, add_alias).map_err(bad)?;
        match &mut merged {
            Some(merged) => {
                merged.append(&table).map_err(bad)?;
            }
            None => merged = Some(table),
        }
    }
    Ok(merged.map_or(Value::Nothing, Value::Table))
}

/// A table with the alias in front, unless it names its node itself.
fn with_node(
    table: &Table,
    alias: &str,
    add_alias: bool,
) -> Result<Table, standin_lang::value::TableError> {
    if !add_alias || table.column("node").is_some() {
        return Ok(table.clone());
    }
    let node = Vector::strings(std::iter::repeat_n(alias, table.rows()));
    let columns = std::iter::once(("node".to_owned(), node));
    Table::new(columns.chain(table.columns().iter().cloned()))
}

fn matrix(results: Vec<(String, Value)>) -> Outcome {
    let mut labels = Vec::new();
    let mut vectors = Vec::new();
    for (alias, value) in results {
        let Value::Vector(vector) = value else {
            return Err(CallError::text("the nodes' results differ in form"));
        };
        labels.push(alias);
        vectors.push(vector);
    }
    let rows = vectors.iter().map(Vector::len).max().unwrap_or(0);
    let ty = vectors.first().map_or(standin_lang::value::Type::Void, |vector| vector.ty);
    let cells: Vec<Cell> = vectors
        .iter()
        .flat_map(|v| (0..rows).map(|row| v.cells.get(row).cloned().unwrap_or_default()))
        .collect();
    Ok(Value::Matrix(Matrix {
        row_labels: None,
        columns: labels.len(),
        column_labels: Some(Vector::strings(labels)),
        rows,
        cells: Vector::new(ty, cells),
    }))
}
