//! A host that answers like a small cluster.

use std::sync::Mutex;

use super::super::*;
use crate::value::{Cell, Database, Table, TableHandle, Type, Value, Vector};

/// 2023-01-01 00:00:00.123.
pub(super) const NOW: i64 = 1_672_531_200_123;

/// What a call was given, and what a script was found to want.
#[derive(Default)]
pub(super) struct FakeHost {
    pub(super) calls: Mutex<Vec<(String, Vec<Value>)>>,
    pub(super) unmodelled: Mutex<Vec<String>>,
    pub(super) rows: Mutex<Vec<(i64, String, i64)>>,
    pub(super) scans: Mutex<Vec<Scan>>,
}

const KNOWN: &[&str] = &[
    "version",
    "getNodeAlias",
    "getNodeType",
    "getControllerAlias",
    "getActiveMaster",
    "getClusterPerf",
    "getClusterChunksStatus",
    "getRecoveryTaskStatus",
    "getAllChunks",
    "getConfig",
    "getRequiredAPIVersion",
    "isNodeInitialized",
    "isControllerInitialized",
    "login",
    "rpc",
    "pnodeRun",
    "stopDataNode",
    "startDataNode",
    "database",
    "loadTable",
    "createPartitionedTable",
    "tableInsert",
    "share",
    "getStreamingRaftGroups",
    "fail",
];

fn chunks() -> Table {
    let states = ["COMPLETE", "RECOVERING", "COMPLETE", "CONSTRUCTING"];
    let ids = (0..4u8).map(|id| std::array::from_fn(|_| id));
    Table::new([
        ("chunkId", Vector::uuids(ids)),
        ("file", Vector::strings(["/a/1", "/a/2", "/b/1", "/b/2"])),
        ("version", Vector::ints([1, 2, 3, 4])),
        ("state", Vector::strings(states)),
        ("replicaCount", Vector::ints([2, 1, 2, 2])),
        ("lastUpdated", Vector::integers(Type::Timestamp, (0..4).map(|n| Some(NOW + n)))),
    ])
    .expect("even")
}

fn perf() -> Table {
    Table::new([
        ("name", Vector::strings(["ctl", "agent", "node43", "node44"])),
        ("mode", Vector::ints([2, 1, 0, 4])),
        ("state", Vector::bools([true, true, true, false])),
        ("host", Vector::strings(["10.0.0.1"; 4])),
    ])
    .expect("even")
}

impl FakeHost {
    fn stock(&self) -> Table {
        let rows = self.rows.lock().unwrap();
        Table::new([
            ("time", Vector::integers(Type::Timestamp, rows.iter().map(|row| Some(row.0)))),
            ("name", Vector::symbols(rows.iter().map(|row| row.1.clone()))),
            ("id", Vector::new(Type::Int, rows.iter().map(|row| Cell::Int(row.2)).collect())),
        ])
        .expect("even")
    }

    async fn answer(
        &self,
        session: &mut Session,
        name: &str,
        args: Vec<Value>,
    ) -> Result<Value, CallError> {
        self.calls.lock().unwrap().push((name.to_owned(), args.clone()));
        let text = |place: usize| args.get(place).and_then(Value::as_str).unwrap_or("").to_owned();
        match name {
            "version" => Ok(Value::string("2.00.8.12 2023.01.10")),
            "getNodeAlias" => Ok(Value::string("node43")),
            "getNodeType" => Ok(Value::int(0)),
            "getControllerAlias" | "getActiveMaster" => Ok(Value::string("HActl44")),
            "getClusterPerf" => Ok(perf().into()),
            "getClusterChunksStatus" => Ok(chunks().into()),
            "getRecoveryTaskStatus" => {
                Ok(Table::empty([("TaskId", Type::String), ("Status", Type::String)]).into())
            }
            "getAllChunks" => Ok(Value::table([("state", Vector::ints([0, 1]))]).expect("even")),
            "getRequiredAPIVersion" => Ok(Value::any([Value::int(0), Value::string("")])),
            "isNodeInitialized" | "isControllerInitialized" | "login" => Ok(Value::bool(true)),
            "getConfig" if args.is_empty() => Ok(Value::dictionary([("mode", Value::string("c"))])),
            "getConfig" => Ok(Value::string(format!("/srv/{}", text(0)))),
            "rpc" => {
                let Some(function) = args.get(1).and_then(Value::as_function) else {
                    return Err(CallError::text("rpc needs a function"));
                };
                let rest = args.iter().skip(2).cloned().collect();
                Box::pin(apply(self, session, function, rest)).await
            }
            "pnodeRun" => {
                let Some(function) = args.first().and_then(Value::as_function) else {
                    return Err(CallError::text("pnodeRun needs a function"));
                };
                let value = Box::pin(apply(self, session, function, Vec::new())).await?;
                if let Value::Table(table) = value {
                    return Ok(table.into());
                }
                let text = value.as_str().unwrap_or("").to_owned();
                Ok(Value::table([
                    ("node", Vector::strings(["node44", "node43"])),
                    ("value", Vector::strings([text.clone(), text])),
                ])
                .expect("even"))
            }
            "stopDataNode" | "startDataNode" | "share" => Ok(Value::Nothing),
            "database" => Ok(Value::Database(Database { path: text(0) })),
            "loadTable" => {
                Ok(Value::TableHandle(TableHandle { database: text(0), table: text(1) }))
            }
            "createPartitionedTable" => match args.first() {
                Some(Value::Database(database)) => Ok(Value::TableHandle(TableHandle {
                    database: database.path.clone(),
                    table: text(2),
                })),
                _ => Err(CallError::text("not a database")),
            },
            "tableInsert" => {
                let Some(Value::Table(data)) = args.get(1) else {
                    return Err(CallError::text("The data to append does not match"));
                };
                let mut rows = self.rows.lock().unwrap();
                for row in 0..data.rows() {
                    let cells: Vec<_> = data.row(row).cloned().collect();
                    let number =
                        |place: usize| cells.get(place).and_then(Cell::as_i64).unwrap_or(0);
                    let name = cells.get(1).and_then(Cell::as_str).unwrap_or("").to_owned();
                    rows.push((number(0), name, number(2)));
                }
                Ok(Value::count(data.rows()))
            }
            "fail" => Err(CallError::text("<NotLeader>127.0.0.1:8848:node44")),
            _ => Err(CallError::Unknown),
        }
    }
}

impl Host for FakeHost {
    fn knows(&self, name: &str) -> bool {
        KNOWN.contains(&name)
    }

    fn call<'a>(
        &'a self,
        session: &'a mut Session,
        name: &'a str,
        args: Vec<Value>,
    ) -> BoxFuture<'a, Result<Value, CallError>> {
        Box::pin(self.answer(session, name, args))
    }

    fn read_table<'a>(
        &'a self,
        _session: &'a mut Session,
        _handle: &'a TableHandle,
        scan: &'a Scan,
    ) -> BoxFuture<'a, Result<Table, CallError>> {
        Box::pin(async move {
            self.scans.lock().unwrap().push(scan.clone());
            Ok(self.stock())
        })
    }

    fn parameters(&self, name: &str) -> Option<&'static [&'static str]> {
        (name == "getConfig").then_some(&["key"])
    }

    fn unmodelled(&self, what: &str) {
        self.unmodelled.lock().unwrap().push(what.to_owned());
    }

    fn now_ms(&self) -> i64 {
        NOW
    }

    fn limits(&self) -> Limits {
        Limits { steps: 100_000, ..Limits::default() }
    }
}
