//! What the evaluator needs from the node, and what it keeps per connection.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;

use crate::value::{Table, TableHandle, Value};

/// How a server words a function request for a function it does not have; the name follows.
pub const UNKNOWN_FUNCTION: &str = "Can't recognize function name";

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a call has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There is no such function. The evaluator turns it into the server's wording and reports
    /// the name as unmodelled.
    #[error("no such function")]
    Unknown,
    /// The text for the client, as it is: failover tags such as `<NotLeader>` must stay in front.
    #[error("{0}")]
    Error(String),
}

impl CallError {
    /// Returns an error with this text for the client.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::Error(text.into())
    }
}

/// The node behind the evaluator.
///
/// Implementations write `fn call<'a>(&'a self, …) -> BoxFuture<'a, …> { Box::pin(async move {…}) }`.
pub trait Host: Send + Sync {
    /// Tells whether `call` has a function of this name. A name that is neither a variable nor
    /// known here nor known to the evaluator is a syntax error, as on the server.
    fn knows(&self, name: &str) -> bool;

    /// Calls a function that the evaluator itself does not have. A missing argument (`f(a,,b)`) is
    /// `Value::Nothing`; a function given by name or with bound arguments is `Value::Function`.
    /// `db.createPartitionedTable(t, …)` arrives as `createPartitionedTable` with the database in
    /// front.
    ///
    /// The evaluator's own functions (see `eval::is_builtin`) come first, except where the first
    /// argument is a DFS table or database: then the host is asked for every name it `knows`,
    /// `tableInsert` and `schema` included. To apply a function value here, use `eval::apply`.
    fn call<'a>(
        &'a self,
        session: &'a mut Session,
        name: &'a str,
        args: Vec<Value>,
    ) -> BoxFuture<'a, Result<Value, CallError>>;

    /// Reads rows of a DFS table for a `select`. More columns and rows than asked for are fine:
    /// the evaluator filters again.
    fn read_table<'a>(
        &'a self,
        session: &'a mut Session,
        handle: &'a TableHandle,
        scan: &'a Scan,
    ) -> BoxFuture<'a, Result<Table, CallError>>;

    /// Returns the parameter names of one of the host's functions, for calls such as
    /// `f(name=value)`; without them such a call is unmodelled.
    fn parameters(&self, name: &str) -> Option<&'static [&'static str]> {
        let _ = name;
        None
    }

    /// Notes something a script wanted and the stand-in does not have, so that a test can see it.
    fn unmodelled(&self, what: &str);

    /// Returns the node's local time in milliseconds since 1970.
    fn now_ms(&self) -> i64;

    /// Returns the limits of one request.
    fn limits(&self) -> Limits {
        Limits::default()
    }
}

/// What a `select` needs from a DFS table.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scan {
    /// The columns that are used; `None` for all. Names of no column may be among them, and it
    /// may be empty: the table must have at least one column even then, so that it has rows.
    pub columns: Option<BTreeSet<String>>,
    /// Conditions of the form `column operator constant`; all of them must hold. A host may use
    /// them to skip rows.
    pub conditions: Vec<Condition>,
    /// No row is needed, only the columns and their types.
    pub schema_only: bool,
}

/// A condition a host may use to skip rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The column.
    pub column: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what: a scalar.
    pub value: Value,
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `==`, and `=` inside SQL.
    Equal,
    /// `!=` and `<>`.
    NotEqual,
    /// `<`.
    Less,
    /// `<=`.
    LessEqual,
    /// `>`.
    Greater,
    /// `>=`.
    GreaterEqual,
}

/// How much one request may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a script.
    pub source_bytes: usize,
    /// Nesting of expressions, and of calls of script functions.
    pub depth: usize,
    /// Evaluated expressions.
    pub steps: usize,
    /// Cells of one value.
    pub cells: usize,
}

impl Default for Limits {
    /// Far above what any known client sends: the longest script of an official client has some
    /// hundred bytes and nests less than ten deep. 4 million cells are about 100 MB. A level takes
    /// up to 30 KB of stack in a debug build, a thread of the runtime has 2 MB, and the host needs
    /// some of it too.
    fn default() -> Self {
        Self { source_bytes: 1 << 20, depth: 40, steps: 1_000_000, cells: 4_000_000 }
    }
}

/// The state of one connection.
#[derive(Debug, Clone, Default)]
pub struct Session {
    /// The number the node gave the session, as the wire writes it.
    pub id: String,
    /// Who is logged in; empty before.
    pub user: String,
    /// Whether that user is an administrator.
    pub admin: bool,
    /// Rights granted to the user, in the node's own words.
    pub rights: BTreeSet<String>,
    /// Variables and functions that scripts left.
    pub variables: BTreeMap<String, Value>,
    /// Texts printed by the request that runs now; the node takes and sends them.
    pub messages: Vec<String>,
    /// Client id and sequence number of the request that runs now; a repeated request carries the
    /// negative number.
    pub request: Option<(String, i64)>,
    /// How deep the evaluation is nested now, also through calls of the host and back.
    pub(super) nesting: usize,
}

impl Session {
    /// Returns the session of a new connection.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), ..Self::default() }
    }

    /// Returns what was printed since the last call.
    pub fn take_messages(&mut self) -> Vec<String> {
        std::mem::take(&mut self.messages)
    }
}
