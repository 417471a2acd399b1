//! The functions of a node: which there are, who may call them where, and what they do.

mod chunks;
mod cluster;
mod configuration;
mod dfs;
mod identity;
mod insert;
pub(crate) mod jobs;
pub(crate) mod memory;
mod operate;
mod plugins;
mod read;
pub(crate) mod remote;
mod streams;
mod table;
pub(crate) mod users;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use standin_lang::eval::{BoxFuture, CallError, Host, Scan, Session, UNKNOWN_FUNCTION};
use standin_lang::value::{Table, TableHandle, Value};

use crate::config::Role;
use crate::node::Node;
use crate::node::log::local_ms;

/// The result of a function.
pub(crate) type Outcome = Result<Value, CallError>;

/// Where a function may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Any,
    Controllers,
    /// Data and compute nodes.
    Workers,
    DataNodes,
}

/// Who may call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Anybody,
    /// Whoever is logged in.
    Users,
    Administrators,
}

/// A function: its name, its parameters, where and by whom it may be called.
#[derive(Clone, Copy, Debug)]
struct Function {
    name: &'static str,
    parameters: &'static [&'static str],
    on: On,
    by: By,
}

const fn f(name: &'static str, parameters: &'static [&'static str], on: On, by: By) -> Function {
    Function { name, parameters, on, by }
}

/// All functions, by group.
const GROUPS: &[&[Function]] = &[
    identity::FUNCTIONS,
    configuration::FUNCTIONS,
    cluster::FUNCTIONS,
    operate::FUNCTIONS,
    remote::FUNCTIONS,
    dfs::FUNCTIONS,
    chunks::FUNCTIONS,
    users::FUNCTIONS,
    jobs::FUNCTIONS,
    streams::FUNCTIONS,
    plugins::FUNCTIONS,
];

fn find(name: &str) -> Option<(usize, &'static Function)> {
    GROUPS.iter().enumerate().find_map(|(group, functions)| {
        functions.iter().find(|function| function.name == name).map(|function| (group, function))
    })
}

/// One call.
pub(crate) struct Call<'a> {
    caller: &'a Caller,
    node: &'a Arc<Node>,
    session: &'a mut Session,
    name: &'a str,
    args: Vec<Value>,
}

impl Call<'_> {
    /// An argument; `Nothing` if it is missing.
    fn arg(&self, place: usize) -> &Value {
        self.args.get(place).unwrap_or(&Value::Nothing)
    }

    /// An argument, if it is there.
    fn given(&self, place: usize) -> Option<&Value> {
        self.args.get(place).filter(|value| !matches!(value, Value::Nothing))
    }

    /// An argument that is a text.
    fn text(&self, place: usize) -> Result<String, CallError> {
        let text = self.arg(place).as_str().map(str::to_owned);
        text.ok_or_else(|| self.wrong(place, "a string"))
    }

    /// An argument that is one text or several.
    fn texts(&self, place: usize) -> Result<Vec<String>, CallError> {
        self.arg(place).to_texts().ok_or_else(|| self.wrong(place, "a string or strings"))
    }

    /// An argument that is a number.
    fn number(&self, place: usize) -> Result<i64, CallError> {
        self.arg(place).as_i64().ok_or_else(|| self.wrong(place, "a number"))
    }

    fn wrong(&self, place: usize, wanted: &str) -> CallError {
        CallError::Error(format!("{}: argument {} must be {wanted}", self.name, place + 1))
    }

    /// The server of this version does not have the function: it says so, and that is no lack of
    /// the stand-in.
    fn not_yet(&self) -> CallError {
        CallError::Error(format!("{UNKNOWN_FUNCTION} {}", self.name))
    }

    /// Something that this stand-in does not do: noted, so that no test passes by luck.
    fn unmodelled(&self, what: &str) -> CallError {
        self.caller.unmodelled(what);
        CallError::Error(format!("the stand-in does not model {what}"))
    }
}

/// The evaluator's host: the node, for one client.
#[derive(Debug)]
pub(crate) struct Caller {
    node: Arc<Node>,
    remote: SocketAddr,
    inserts: Mutex<Vec<u64>>,
}

impl Caller {
    pub(crate) fn new(node: Arc<Node>, remote: SocketAddr) -> Self {
        Self { node, remote, inserts: Mutex::new(Vec::new()) }
    }

    /// For what the node does by itself or for another node.
    pub(crate) fn internal(node: Arc<Node>) -> Self {
        let remote = SocketAddr::from(([127, 0, 0, 1], node.shared.site.port));
        Self::new(node, remote)
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Inserts of the request that just ended.
    pub(crate) fn take_inserts(&self) -> Vec<u64> {
        match self.inserts.lock() {
            Ok(mut inserts) => std::mem::take(&mut *inserts),
            Err(poisoned) => std::mem::take(&mut *poisoned.into_inner()),
        }
    }

    /// Nothing of it is to be answered for.
    fn drop_insert(&self, tid: u64) {
        match self.inserts.lock() {
            Ok(mut inserts) => inserts.retain(|known| *known != tid),
            Err(poisoned) => poisoned.into_inner().retain(|known| *known != tid),
        }
    }

    fn add_insert(&self, tid: u64) {
        match self.inserts.lock() {
            Ok(mut inserts) => inserts.push(tid),
            Err(poisoned) => poisoned.into_inner().push(tid),
        }
    }

    /// May this session call this function on this node?
    fn check(&self, session: &Session, function: &Function) -> Result<(), CallError> {
        let (role, name) = (self.node.shared.role, function.name);
        let placed = match function.on {
            On::Any => true,
            On::Controllers => role == Role::Controller,
            On::Workers => matches!(role, Role::DataNode | Role::ComputeNode),
            On::DataNodes => role == Role::DataNode,
        };
        if !placed {
            return Err(CallError::Error(match function.on {
                On::Controllers => format!("Only master or single mode supports function {name}"),
                On::Any | On::Workers | On::DataNodes => {
                    format!("Only data node or compute node supports function {name}")
                }
            }));
        }
        let allowed = match function.by {
            By::Anybody => true,
            By::Users => !session.user.is_empty(),
            By::Administrators => session.admin || session.rights.contains(name),
        };
        if allowed {
            return Ok(());
        }
        Err(CallError::Error(match function.by {
            By::Administrators => format!("Only administrators can execute the function {name}."),
            By::Anybody | By::Users => format!("Please log in to execute the function {name}."),
        }))
    }

    async fn dispatch(&self, session: &mut Session, name: &str, args: Vec<Value>) -> Outcome {
        let Some((group, function)) = find(name) else { return Err(CallError::Unknown) };
        self.check(session, function)?;
        let mut call = Call { caller: self, node: &self.node, session, name, args };
        // In the order of `GROUPS`.
        match group {
            0 => identity::call(&mut call).await,
            1 => configuration::call(&mut call).await,
            2 => cluster::call(&mut call).await,
            3 => operate::call(&mut call).await,
            4 => remote::call(&mut call).await,
            5 => dfs::call(&mut call).await,
            6 => chunks::call(&mut call).await,
            7 => users::call(&mut call).await,
            8 => jobs::call(&mut call).await,
            9 => streams::call(&mut call).await,
            _ => plugins::call(&mut call).await,
        }
    }
}

impl Host for Caller {
    fn knows(&self, name: &str) -> bool {
        find(name).is_some()
    }

    fn call<'a>(
        &'a self,
        session: &'a mut Session,
        name: &'a str,
        args: Vec<Value>,
    ) -> BoxFuture<'a, Result<Value, CallError>> {
        Box::pin(self.dispatch(session, name, args))
    }

    fn read_table<'a>(
        &'a self,
        session: &'a mut Session,
        handle: &'a TableHandle,
        scan: &'a Scan,
    ) -> BoxFuture<'a, Result<Table, CallError>> {
        Box::pin(read::table(self, session, handle, scan))
    }

    fn parameters(&self, name: &str) -> Option<&'static [&'static str]> {
        find(name).map(|(_, function)| function.parameters)
    }

    fn unmodelled(&self, what: &str) {
        self.node.memory.note_unmodelled(what);
        self.node.shared.log.warning(&format!("The stand-in does not model: {what}"));
    }

    fn now_ms(&self) -> i64 {
        local_ms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_is_there_once() {
        let mut names: Vec<_> =
            GROUPS.iter().flat_map(|group| group.iter().map(|f| f.name)).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
