//! Stream tables, shared tables and subscriptions: enough of them to be listed, and to be gone
//! after a restart. No row is ever published.

use standin_lang::eval::CallError;
use standin_lang::value::{Table, Type, Value, Vector};

use super::memory::{SharedTable, Subscriber, Subscription};
use super::table::{Rows, flag, int, text};
use super::{By, Call, Function, On, Outcome, f, remote};
use crate::node::Node;

pub(super) const FUNCTIONS: &[Function] = &[
    f("streamTable", &[], On::Any, By::Anybody),
    f("share", &["table", "sharedName"], On::Workers, By::Anybody),
    f(
        "enableTableShareAndPersistence",
        &["table", "tableName", "asynWrite", "compress", "cacheSize"],
        On::Workers,
        By::Users,
    ),
    f("dropStreamTable", &["tableName"], On::Workers, By::Users),
    f("getStreamTables", &["option"], On::Workers, By::Anybody),
    f("objs", &["shared"], On::Any, By::Anybody),
    f(
        "subscribeTable",
        &["server", "tableName", "actionName", "offset", "handler"],
        On::Workers,
        By::Users,
    ),
    f("unsubscribeTable", &["server", "tableName", "actionName"], On::Workers, By::Users),
    f("standinSubscriber", &["tableName", "site", "actionName", "add"], On::Workers, By::Users),
    f("getStreamingStat", &["stat"], On::Workers, By::Anybody),
    f("getStreamEngineStat", &["name"], On::Workers, By::Anybody),
];

/// How a stream table is told from others until it is shared.
const STREAM: &str = "streamTable";

pub(super) async fn call(call: &mut Call<'_>) -> Outcome {
    match call.name {
        "streamTable" => stream_table(call).await,
        "share" => share(call, false),
        "enableTableShareAndPersistence" => {
            if call.node.shared.setting("persistenceDir").is_none() {
                return Err(CallError::text("persistenceDir is not configured."));
            }
            share(call, true)
        }
        "dropStreamTable" => {
            let name = call.text(0)?;
            match call.node.memory.tables().remove(&name) {
                Some(_) => Ok(Value::Nothing),
                None => Err(CallError::Error(format!("Can't find the stream table {name}."))),
            }
        }
        "getStreamTables" => stream_tables(call),
        "objs" => objects(call),
        "subscribeTable" => subscribe(call).await,
        "unsubscribeTable" => unsubscribe(call).await,
        "standinSubscriber" => subscriber(call),
        "getStreamingStat" => streaming_stat(call),
        // No engine can be made here, so there is none.
        "getStreamEngineStat" => Ok(Value::dictionary::<String>([])),
        _ => Err(CallError::Unknown),
    }
}

/// The same arguments as `table`, another kind of table.
async fn stream_table(call: &mut Call<'_>) -> Outcome {
    let function = standin_lang::value::Function::named("table");
    let args = std::mem::take(&mut call.args);
    let mut made = standin_lang::eval::apply(call.caller, call.session, &function, args).await?;
    if let Value::Table(table) = &mut made {
        STREAM.clone_into(&mut table.name);
    }
    Ok(made)
}

fn share(call: &Call<'_>, is_persisted: bool) -> Outcome {
    let Value::Table(table) = call.arg(0).clone() else { return Err(call.wrong(0, "a table")) };
    let name = call.text(1)?;
    let is_stream = table.name == STREAM;
    if is_persisted && !is_stream {
        return Err(call.wrong(0, "a stream table"));
    }
    let owner = call.session.user.clone();
    let mut tables = call.node.memory.tables();
    if tables.contains_key(&name) {
        return Err(CallError::Error(format!("The shared table {name} already exists.")));
    }
    tables.insert(name, SharedTable { table, owner, is_stream, is_persisted });
    Ok(Value::Nothing)
}

/// Bytes of a table, roughly.
fn bytes(table: &Table) -> usize {
    60 * table.columns().len() + 8 * table.rows() * table.columns().len()
}

fn stream_tables(call: &Call<'_>) -> Outcome {
    let option = call.arg(0).as_i64().unwrap_or(0);
    let mut rows = Rows::new(&[
        ("name", Type::String),
        ("shared", Type::Bool),
        ("persisted", Type::Bool),
        ("cachePurgeEnabled", Type::Bool),
        ("loaded", Type::Bool),
        ("columns", Type::Int),
        ("rowsInMemory", Type::Long),
        ("totalRows", Type::Long),
        ("memoryUsed", Type::Long),
    ]);
    for (name, shared) in call.node.memory.tables().iter().filter(|(_, t)| t.is_stream) {
        let wanted = match option {
            1 => shared.is_persisted,
            2 => !shared.is_persisted,
            _ => true,
        };
        if wanted {
            rows.push([
                text(name.clone()),
                flag(true),
                flag(shared.is_persisted),
                flag(false),
                flag(true),
                int(shared.table.columns().len()),
                int(shared.table.rows()),
                int(shared.table.rows()),
                int(bytes(&shared.table)),
            ]);
        }
    }
    rows.done()
}

fn objects(call: &Call<'_>) -> Outcome {
    let all = call.arg(0).as_bool() == Some(true);
    let mut columns = vec![
        ("name", Type::String),
        ("type", Type::String),
        ("form", Type::String),
        ("rows", Type::Int),
        ("columns", Type::Int),
        ("bytes", Type::Long),
        ("shared", Type::Bool),
        ("extra", Type::String),
    ];
    if all {
        columns.push(("owner", Type::String));
    }
    let mut rows = Rows::new(&columns);
    for (name, value) in &call.session.variables {
        let (form, count, extra) = match value {
            Value::Table(table) => ("TABLE", table.columns().len(), String::new()),
            Value::TableHandle(handle) => {
                ("TABLE", 0, format!("{}/{}", handle.database, handle.table))
            }
            Value::Vector(_) => ("VECTOR", 1, String::new()),
            Value::Dictionary(_) => ("DICTIONARY", 1, String::new()),
            Value::Matrix(_) => ("MATRIX", 1, String::new()),
            Value::Pair(_) => ("PAIR", 1, String::new()),
            Value::Set(_) => ("SET", 1, String::new()),
            Value::Nothing | Value::Scalar(_) | Value::Database(_) | Value::Reference(_) => {
                ("SCALAR", 1, String::new())
            }
            Value::Function(_) => continue,
        };
        let kind = if form == "TABLE" { "BASIC" } else { value.data_type().name() };
        let cells = [text(name.clone()), text(kind), text(form), int(value.len()), int(count)];
        let more = [int(8 * value.len()), flag(false), text(extra), text("")];
        rows.push(cells.into_iter().chain(more).take(columns.len()));
    }
    if all {
        for (name, shared) in call.node.memory.tables().iter() {
            let kind = if shared.is_stream { "REALTIME" } else { "BASIC" };
            rows.push([
                text(name.clone()),
                text(kind),
                text("TABLE"),
                int(shared.table.rows()),
                int(shared.table.columns().len()),
                int(bytes(&shared.table)),
                flag(true),
                text(""),
                text(shared.owner.clone()),
            ]);
        }
    }
    rows.done()
}

/// The server of a subscription: a node's alias; without one, this node.
fn server(call: &Call<'_>) -> Result<String, CallError> {
    let named = call.given(0).filter(|value| value.as_str() != Some(""));
    if named.is_some() { call.text(0) } else { Ok(call.node.shared.alias().to_owned()) }
}

async fn topic(call: &Call<'_>) -> Result<(String, String, String, String), CallError> {
    let (server, table) = (server(call)?, call.text(1)?);
    let action = call.arg(2).as_str().unwrap_or("").to_owned();
    let address = match server == call.node.shared.alias() {
        true => call.node.shared.site.address(),
        false => call.node.address(&server).await?,
    };
    let topic = format!("{address}:{server}/{table}/{action}");
    Ok((server, table, action, topic))
}

/// Tells the publisher, on this node or another.
async fn tell_publisher(
    call: &mut Call<'_>,
    server: String,
    table: &str,
    action: &str,
    add: bool,
) -> Outcome {
    let site = call.node.shared.site.address();
    let function = standin_lang::value::Function::named("standinSubscriber");
    let mut remote_call = Call {
        caller: call.caller,
        node: call.node,
        session: call.session,
        name: "rpc",
        args: vec![
            Value::string(server),
            Value::Function(function),
            Value::string(table),
            Value::string(site),
            Value::string(action),
            Value::bool(add),
        ],
    };
    remote::call(&mut remote_call).await
}

async fn subscribe(call: &mut Call<'_>) -> Outcome {
    let (server, table, action, topic) = topic(call).await?;
    if call.node.memory.subscriptions().iter().any(|known| known.topic == topic) {
        return Err(CallError::Error(format!("The subscription {topic} already exists.")));
    }
    tell_publisher(call, server.clone(), &table, &action, true).await?;
    let subscription = Subscription { topic: topic.clone(), table, action, server };
    call.node.memory.subscriptions().push(subscription);
    Ok(Value::string(topic))
}

async fn unsubscribe(call: &mut Call<'_>) -> Outcome {
    let (server, table, action, topic) = topic(call).await?;
    let known = |s: &Subscription| s.topic == topic;
    if !call.node.memory.subscriptions().iter().any(known) {
        return Err(CallError::Error(format!("The subscription {topic} does not exist.")));
    }
    call.node.memory.subscriptions().retain(|s| !known(s));
    tell_publisher(call, server, &table, &action, false).await
}

/// How a subscribing node makes itself known to the publishing one.
fn subscriber(call: &Call<'_>) -> Outcome {
    let subscriber =
        Subscriber { table: call.text(0)?, site: call.text(1)?, action: call.text(2)? };
    let mut subscribers = call.node.memory.subscribers();
    subscribers.retain(|known| *known != subscriber);
    if call.arg(3).as_bool() == Some(true) {
        let tables = call.node.memory.tables();
        if !tables.get(&subscriber.table).is_some_and(|table| table.is_stream) {
            let table = &subscriber.table;
            return Err(CallError::Error(format!("Can't find the stream table {table}.")));
        }
        subscribers.push(subscriber);
    }
    Ok(Value::bool(true))
}

fn streaming_stat(call: &Call<'_>) -> Outcome {
    let node = call.node;
    let tables = [
        ("pubConns", pub_conns(node)?),
        ("subConns", sub_conns(node)?),
        ("pubTables", pub_tables(node)?),
        ("persistWorkers", persist_workers(node)?),
        ("subWorkers", sub_workers(node)?),
    ];
    let Value::Nothing = call.arg(0) else {
        let wanted = call.text(0)?;
        let found = tables.into_iter().find(|(name, _)| *name == wanted);
        return found.map(|(_, table)| table).ok_or_else(|| call.wrong(0, "the name of a table"));
    };
    Ok(Value::dictionary(tables))
}

fn pub_conns(node: &Node) -> Outcome {
    let mut rows = Rows::new(&[
        ("client", Type::String),
        ("queueDepthLimit", Type::Int),
        ("queueDepth", Type::Int),
        ("tables", Type::String),
    ]);
    for subscriber in node.memory.subscribers().iter() {
        let table = text(subscriber.table.clone());
        rows.push([text(subscriber.site.clone()), int(10_000_000), int(0), table]);
    }
    rows.done()
}

fn sub_conns(node: &Node) -> Outcome {
    let mut rows = Rows::new(&[
        ("publisher", Type::String),
        ("cumMsgCount", Type::Long),
        ("cumMsgLatency", Type::Double),
        ("lastMsgLatency", Type::Double),
        ("lastUpdate", Type::Timestamp),
    ]);
    for subscription in node.memory.subscriptions().iter() {
        rows.push([text(subscription.server.clone()), int(0)]);
    }
    rows.done()
}

fn pub_tables(node: &Node) -> Outcome {
    let mut rows = Rows::new(&[
        ("tableName", Type::String),
        ("subscriber", Type::String),
        ("msgOffset", Type::Long),
        ("actions", Type::String),
    ]);
    for subscriber in node.memory.subscribers().iter() {
        let actions = text(subscriber.action.clone());
        rows.push([text(subscriber.table.clone()), text(subscriber.site.clone()), int(0), actions]);
    }
    rows.done()
}

fn persist_workers(node: &Node) -> Outcome {
    let tables = node.memory.tables();
    let names = tables.iter().filter(|(_, t)| t.is_persisted).map(|(name, _)| name.clone());
    let names: Vec<String> = names.collect();
    let count = usize::from(!names.is_empty());
    let columns = [
        ("workerId", Vector::ints(0..i32::from(!names.is_empty()))),
        ("queueDepthLimit", Vector::ints(std::iter::repeat_n(10_000_000, count))),
        ("queueDepth", Vector::ints(std::iter::repeat_n(0, count))),
        ("tables", Vector::strings(std::iter::repeat_n(names.join(","), count))),
    ];
    Value::table(columns).map_err(|error| CallError::Error(error.to_string()))
}

fn sub_workers(node: &Node) -> Outcome {
    let mut rows = Rows::new(&[
        ("workerId", Type::Int),
        ("topic", Type::String),
        ("type", Type::String),
        ("queueDepthLimit", Type::Int),
        ("queueDepth", Type::Int),
        ("processedMsgCount", Type::Long),
        ("lastMsgId", Type::Long),
        ("failedMsgCount", Type::Long),
        ("lastFailedMsgId", Type::Long),
        ("lastFailedTimestamp", Type::Timestamp),
    ]);
    for subscription in node.memory.subscriptions().iter() {
        let topic = text(subscription.topic.clone());
        rows.push([int(0), topic, text("tcp"), int(10_000_000), int(0), int(0), int(-1), int(0)]);
    }
    rows.done()
}
