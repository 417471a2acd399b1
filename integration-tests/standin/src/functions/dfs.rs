//! Databases and tables of the distributed file system.

use standin_lang::eval::CallError;
use standin_lang::value::{Database as DatabaseValue, Table, TableHandle, Type, Value, Vector};
use standin_model::message::{Answer, Ask, TableView};
use standin_model::meta::{Command, Database};

use super::identity::texts;
use super::{By, Call, Function, On, Outcome, f, insert, users};
use crate::node::Node;
use crate::partition::{COMPO, DatabaseSpec, Level, Partitioner, TableSpec};

pub(super) const FUNCTIONS: &[Function] = &[
    f(
        "database",
        &["directory", "partitionType", "partitionScheme", "locations", "engine", "atomic"],
        On::Workers,
        By::Anybody,
    ),
    f(
        "createPartitionedTable",
        &[
            "dbHandle",
            "table",
            "tableName",
            "partitionColumns",
            "compressMethods",
            "sortColumns",
            "keepDuplicates",
        ],
        On::Workers,
        By::Users,
    ),
    f("createTable", &["dbHandle", "table", "tableName"], On::Workers, By::Users),
    f("createDimensionTable", &["dbHandle", "table", "tableName"], On::Workers, By::Users),
    f("loadTable", &["database", "tableName", "partitions", "memoryMode"], On::Workers, By::Users),
    f("schema", &["tableOrDatabase"], On::Workers, By::Users),
    f("tableInsert", &["table", "data"], On::Workers, By::Users),
    f("append!", &["table", "data"], On::Workers, By::Users),
    f("deleteRows", &["table", "data"], On::Workers, By::Users),
    f("existsDatabase", &["dbUrl"], On::Workers, By::Users),
    f("existsTable", &["dbUrl", "tableName"], On::Workers, By::Users),
    f("dropDatabase", &["directory"], On::Workers, By::Users),
    f("dropTable", &["dbHandle", "tableName"], On::Workers, By::Users),
    f(
        "dropPartition",
        &["dbHandle", "partitionPaths", "tableName", "forceDelete", "deleteSchema"],
        On::Workers,
        By::Users,
    ),
    f("getDFSDatabases", &[], On::Workers, By::Users),
    f("getClusterDFSDatabases", &["includeSysDb"], On::Any, By::Users),
    f("getDFSTablesByDatabase", &["directory"], On::Workers, By::Users),
    f("getTables", &["dbHandle"], On::Workers, By::Users),
];

/// A scheme without a path, which `database("", …)` makes for COMPO.
const SCHEME_ONLY: &str = "standin-scheme:";

pub(super) async fn call(call: &mut Call<'_>) -> Outcome {
    match call.name {
        "database" => database(call).await,
        "createPartitionedTable" => create_table(call, true).await,
        "createTable" | "createDimensionTable" => create_table(call, false).await,
        "loadTable" => load_table(call).await,
        "schema" => schema(call).await,
        "tableInsert" => insert::insert(call, true).await,
        "append!" => {
            insert::insert(call, true).await?;
            Ok(call.arg(0).clone())
        }
        "deleteRows" => insert::insert(call, false).await,
        "existsDatabase" => {
            let path = path_of(call, 0)?;
            Ok(Value::bool(find_database(call.node, &path).await?.is_some()))
        }
        "existsTable" => {
            let found = find_table(call.node, &path_of(call, 0)?, &call.text(1)?).await?;
            Ok(Value::bool(found.is_some()))
        }
        "dropDatabase" => {
            let path = path_of(call, 0)?;
            users::may(call, "DB_MANAGE", &path)?;
            drop_it(call.node, Command::DropDatabase { path }).await
        }
        "dropTable" => {
            let (db, name) = (path_of(call, 0)?, call.text(1)?);
            users::may(call, "DBOBJ_DELETE", &db)?;
            drop_it(call.node, Command::DropTable { db, name }).await
        }
        "dropPartition" => drop_partition(call).await,
        "getDFSDatabases" | "getClusterDFSDatabases" => {
            let answer = call.node.ask_leader(Ask::Databases).await?;
            let Answer::Databases(found) = answer else { return Err(unexpected(&answer)) };
            Ok(texts(found.into_iter().map(|db| db.path)))
        }
        "getDFSTablesByDatabase" | "getTables" => {
            let path = path_of(call, 0)?;
            let full = call.name == "getDFSTablesByDatabase";
            let (_, tables) = require_database(call.node, &path).await?;
            Ok(texts(tables.into_iter().map(|name| match full {
                true => format!("{path}/{name}"),
                false => name,
            })))
        }
        _ => Err(CallError::Unknown),
    }
}

fn unexpected(answer: &Answer) -> CallError {
    CallError::Error(format!("an unexpected answer of the leader: {answer:?}"))
}

/// A database by its handle or its path.
fn path_of(call: &Call<'_>, place: usize) -> Result<String, CallError> {
    if let Value::Database(database) = call.arg(place) {
        return Ok(database.path.clone());
    }
    let path = call.arg(place).as_str().map(str::to_owned);
    path.ok_or_else(|| call.wrong(place, "a database"))
}

async fn find_database(
    node: &Node,
    path: &str,
) -> Result<Option<(Database, Vec<String>)>, CallError> {
    let answer = node.ask_leader(Ask::Database { path: path.to_owned() }).await?;
    let Answer::Database(found) = answer else { return Err(unexpected(&answer)) };
    Ok(found
        .map(|(database, tables)| (database, tables.into_iter().map(|table| table.name).collect())))
}

async fn require_database(
    node: &Node,
    path: &str,
) -> Result<(DatabaseSpec, Vec<String>), CallError> {
    let Some((database, tables)) = find_database(node, path).await? else {
        return Err(CallError::Error(format!("The database [{path}] does not exist.")));
    };
    Ok((parse(&database.spec)?, tables))
}

/// Reads a spec; only this program writes them.
pub(super) fn parse<T: serde::de::DeserializeOwned>(spec: &str) -> Result<T, CallError> {
    serde_json::from_str(spec).map_err(|error| CallError::Error(error.to_string()))
}

fn spec<T: serde::Serialize>(value: &T) -> Result<String, CallError> {
    serde_json::to_string(value).map_err(|error| CallError::Error(error.to_string()))
}

async fn find_table(
    node: &Node,
    db: &str,
    name: &str,
) -> Result<Option<Box<TableView>>, CallError> {
    let ask = Ask::Table { db: db.to_owned(), name: name.to_owned() };
    let answer = node.ask_leader(ask).await?;
    let Answer::Table(found) = answer else { return Err(unexpected(&answer)) };
    Ok(found)
}

/// A table with its chunks; an error if there is none.
pub(super) async fn require_table(
    node: &Node,
    handle: &TableHandle,
) -> Result<Box<TableView>, CallError> {
    let found = find_table(node, &handle.database, &handle.table).await?;
    found.ok_or_else(|| missing(&handle.database, &handle.table))
}

fn missing(db: &str, table: &str) -> CallError {
    CallError::Error(format!(
        "getFileBlocksMeta on path '{db}/{table}' failed, reason: path does not exist"
    ))
}

/// A table's columns, without rows.
pub(super) fn empty_table(spec: &TableSpec) -> Table {
    let columns = spec.columns.iter();
    Table::empty(
        columns.map(|(name, code)| (name.clone(), Type::from_code(*code).unwrap_or(Type::Void))),
    )
}

async fn database(call: &Call<'_>) -> Outcome {
    let path = call.arg(0).as_str().unwrap_or("").to_owned();
    if matches!(call.arg(1), Value::Nothing) {
        require_database(call.node, &path).await?;
        return Ok(Value::Database(DatabaseValue { path }));
    }
    let levels = levels(call)?;
    if path.is_empty() {
        let path = format!("{SCHEME_ONLY}{}", spec(&levels)?);
        return Ok(Value::Database(DatabaseValue { path }));
    }
    if !path.starts_with("dfs://") {
        return Err(call.unmodelled("databases that are not in the DFS"));
    }
    users::may(call, "DB_OWNER", &path)?;
    let engine = call.arg(4).as_str().unwrap_or("OLAP").to_owned();
    if !matches!(engine.as_str(), "OLAP" | "TSDB") {
        return Err(call.unmodelled(&format!("the engine {engine}")));
    }
    let wanted = DatabaseSpec {
        levels,
        engine,
        atomic: call.arg(5).as_str().unwrap_or("TRANS").to_owned(),
        granularity: "TABLE".to_owned(),
        owner: call.session.user.clone(),
    };
    if let Some((known, _)) = find_database(call.node, &path).await? {
        let known: DatabaseSpec = parse(&known.spec)?;
        if known.levels != wanted.levels {
            return Err(CallError::Error(format!(
                "The database [{path}] already exists with another partition scheme."
            )));
        }
        return Ok(Value::Database(DatabaseValue { path }));
    }
    let database = Database { path: path.clone(), spec: spec(&wanted)?, revision: 1 };
    call.node.ask_leader(Ask::Change(Command::CreateDatabase(database))).await?;
    Ok(Value::Database(DatabaseValue { path }))
}

/// The levels of a scheme: one, or for COMPO those of several schemes.
fn levels(call: &Call<'_>) -> Result<Vec<Level>, CallError> {
    let kind = call.number(1)?;
    if kind != COMPO {
        return Ok(vec![Level::new(kind, call.arg(2)).map_err(CallError::Error)?]);
    }
    let parts = call.arg(2).to_vector().ok_or_else(|| call.wrong(2, "databases"))?;
    let mut levels = Vec::new();
    for part in parts.values() {
        let Value::Database(database) = part else { return Err(call.wrong(2, "databases")) };
        let Some(scheme) = database.path.strip_prefix(SCHEME_ONLY) else {
            return Err(call.unmodelled("COMPO of databases with a path"));
        };
        levels.extend(parse::<Vec<Level>>(scheme)?);
    }
    Ok(levels)
}

async fn create_table(call: &Call<'_>, partitioned: bool) -> Outcome {
    let db = path_of(call, 0)?;
    users::may(call, "DBOBJ_CREATE", &db)?;
    let Value::Table(table) = call.arg(1) else { return Err(call.wrong(1, "a table")) };
    let name = call.text(2)?;
    let optional = |place: usize| match call.given(place) {
        None => Ok(Vec::new()),
        Some(_) => call.texts(place),
    };
    let keep = call.given(6).map_or(0, |value| value.as_i64().unwrap_or(-1));
    if partitioned && keep != 0 {
        return Err(call.unmodelled("keepDuplicates other than ALL"));
    }
    let table = TableSpec {
        columns: table.columns().iter().map(|(n, c)| (n.clone(), c.ty.code())).collect(),
        partition_columns: if partitioned { call.texts(3)? } else { Vec::new() },
        sort_columns: if partitioned { optional(5)? } else { Vec::new() },
        keep_duplicates: "ALL".to_owned(),
    };
    let (database, _) = require_database(call.node, &db).await?;
    Partitioner::new(&database, &table).map_err(CallError::Error)?;
    if partitioned && database.engine == "TSDB" && table.sort_columns.is_empty() {
        return Err(CallError::text("A TSDB table needs sortColumns."));
    }
    let command = Command::CreateTable { db: db.clone(), name: name.clone(), spec: spec(&table)? };
    call.node.ask_leader(Ask::Change(command)).await?;
    Ok(Value::TableHandle(TableHandle { database: db, table: name }))
}

async fn load_table(call: &Call<'_>) -> Outcome {
    let (db, name) = (path_of(call, 0)?, call.text(1)?);
    let handle = TableHandle { database: db, table: name };
    let view = require_table(call.node, &handle).await?;
    call.node.memory.keep_view(&handle, view);
    Ok(Value::TableHandle(handle))
}

async fn drop_it(node: &Node, command: Command) -> Outcome {
    node.ask_leader(Ask::Change(command)).await?;
    Ok(Value::Nothing)
}

async fn drop_partition(call: &Call<'_>) -> Outcome {
    let db = path_of(call, 0)?;
    users::may(call, "DB_MANAGE", &db)?;
    let name = call.arg(2).as_str().map(str::to_owned);
    let (database, tables) = require_database(call.node, &db).await?;
    let Some(any) = name.clone().or_else(|| tables.first().cloned()) else {
        return Ok(Value::Nothing);
    };
    let handle = TableHandle { database: db.clone(), table: any };
    let view = require_table(call.node, &handle).await?;
    let partitioner =
        Partitioner::new(&database, &parse(&view.table.spec)?).map_err(CallError::Error)?;
    let keys = partitioner.keys_of(call.arg(1)).map_err(CallError::Error)?;
    drop_it(call.node, Command::DropPartition { db, name, keys }).await
}

async fn schema(call: &Call<'_>) -> Outcome {
    if let Value::TableHandle(handle) = call.arg(0) {
        let view = require_table(call.node, handle).await?;
        let (database, table): (DatabaseSpec, TableSpec) =
            (parse(&view.database.spec)?, parse(&view.table.spec)?);
        return Ok(Value::dictionary(table_schema(&handle.database, &database, &table)));
    }
    let Value::Database(handle) = call.arg(0) else { return Err(CallError::Unknown) };
    let (database, _) = require_database(call.node, &handle.path).await?;
    Ok(Value::dictionary(database_schema(&handle.path, &database)))
}

/// One value as a scalar, several as a vector.
fn one_or_all(values: Vec<Value>) -> Value {
    match <[Value; 1]>::try_from(values) {
        Ok([value]) => value,
        Err(values) => Value::Vector(Vector::collect(values)),
    }
}

fn database_schema(path: &str, database: &DatabaseSpec) -> Vec<(&'static str, Value)> {
    let kinds = database.levels.iter();
    let schemes: Vec<Value> =
        database.levels.iter().map(|level| Value::Vector(level.vector())).collect();
    let kind = |level: &Level| Value::int(i32::try_from(level.kind).unwrap_or(0));
    vec![
        ("databaseDir", Value::string(path)),
        ("partitionSchema", one_or_all(schemes)),
        ("partitionSites", Value::null()),
        ("engineType", Value::string(database.engine.clone())),
        ("atomic", Value::string(database.atomic.clone())),
        ("chunkGranularity", Value::string(database.granularity.clone())),
        ("partitionType", one_or_all(kinds.clone().map(kind).collect())),
        ("partitionTypeName", one_or_all(kinds.map(|l| Value::string(l.kind_name())).collect())),
    ]
}

fn table_schema(
    path: &str,
    database: &DatabaseSpec,
    table: &TableSpec,
) -> Vec<(&'static str, Value)> {
    let mut entries = database_schema(path, database);
    let places: Vec<usize> = table
        .partition_columns
        .iter()
        .filter_map(|column| {
            table.columns.iter().position(|(name, _)| name.eq_ignore_ascii_case(column))
        })
        .collect();
    let names = table.partition_columns.iter().map(|name| Value::string(name.clone()));
    let code = |place: &usize| table.columns.get(*place).map_or(0, |(_, code)| i32::from(*code));
    entries.extend([
        ("colDefs", Value::Table(empty_table(table).column_definitions())),
        ("partitionColumnName", one_or_all(names.collect())),
        ("partitionColumnIndex", one_or_all(places.iter().map(|p| Value::count(*p)).collect())),
        (
            "partitionColumnType",
            one_or_all(places.iter().map(|place| Value::int(code(place))).collect()),
        ),
        ("sortColumns", texts(table.sort_columns.iter().cloned())),
        ("keepDuplicates", Value::string(table.keep_duplicates.clone())),
    ]);
    entries
}
