//! The small language of the stand-in: text in, values out, everything about the cluster asked
//! from a [`Host`].
//!
//! Entry points: [`run_script`] and [`run_function`] for what clients send, [`apply`] for a
//! function value that the host was given or that another node forwarded.
//!
//! What cannot be read or is not known is answered as the server answers it (`Syntax Error: [line
//! #1] Cannot recognize the token foo`, `Can't recognize function name f`) and reported to
//! [`Host::unmodelled`].

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "operations of a dynamic language name the kinds of value they take; all others, also \
              those to come, are one and the same error"
)]

mod ast;
mod bounds;
mod calls;
mod elements;
mod expressions;
mod functions;
mod host;
mod interpreter;
mod lexer;
mod ops;
mod parser;
mod query;
mod rows;
#[cfg(test)]
mod tests;

pub use host::{
    BoxFuture, CallError, Condition, Host, Limits, Operator, Scan, Session, UNKNOWN_FUNCTION,
};

use self::interpreter::{Fault, Interpreter};
use crate::value::{Cell, Function, Scalar, Type, Value};

/// Tells whether the evaluator has a function of this name itself.
#[must_use]
pub fn is_builtin(name: &str) -> bool {
    calls::is_special(name) || functions::is_known(name)
}

/// Runs a script and returns the value of its last statement, if it has one.
///
/// # Errors
/// The text for the client.
pub async fn run_script(
    host: &dyn Host,
    session: &mut Session,
    source: &str,
) -> Result<Option<Value>, String> {
    session.nesting = 0;
    let limits = host.limits();
    if source.len() > limits.source_bytes {
        return Err(format!("a script of more than {} bytes", limits.source_bytes));
    }
    let statements = match parser::script(source, limits.depth) {
        Ok(statements) => statements,
        Err(error) => {
            let unknown = error.before.filter(|(_, name)| {
                !is_builtin(name) && !host.knows(name) && !session.variables.contains_key(name)
            });
            let (line, token) = unknown.unwrap_or((error.line, error.token));
            host.unmodelled(source);
            return Err(unrecognized(line, &token));
        }
    };
    let mut interpreter = Interpreter::new(host, session);
    let value = match interpreter.run(&statements).await {
        Ok(value) => value,
        Err(Fault::Return(value)) => Some(value),
        Err(fault) => return Err(explain(host, source, fault)),
    };
    finish(host, session, value).await
}

/// Runs a function request: `name` may be a plain name or an expression that gives a function,
/// such as `tableInsert{loadTable('dfs://stock', 'stock')}`.
///
/// # Errors
/// The text for the client.
pub async fn run_function(
    host: &dyn Host,
    session: &mut Session,
    name: &str,
    args: Vec<Value>,
) -> Result<Option<Value>, String> {
    session.nesting = 0;
    let limits = host.limits();
    let unknown = || {
        host.unmodelled(name);
        format!("{UNKNOWN_FUNCTION} {name}")
    };
    if name.len() > limits.source_bytes {
        return Err(format!("a name of more than {} bytes", limits.source_bytes));
    }
    let expr = parser::expression(name, limits.depth).map_err(|_| unknown())?;
    let mut interpreter = Interpreter::new(host, session);
    let outcome = match interpreter.eval(&expr).await {
        Ok(Value::Function(function)) => interpreter.apply(&function, args).await,
        Ok(_) => return Err(unknown()),
        Err(Fault::Token { .. }) if matches!(expr, ast::Expr::Name { .. }) => return Err(unknown()),
        Err(fault) => Err(fault),
    };
    match outcome {
        Ok(value) => finish(host, session, Some(value)).await,
        Err(fault) => Err(explain(host, name, fault)),
    }
}

/// Applies a function value to arguments: its bound arguments are put in place first. The
/// evaluator's functions, functions defined by a script and the host's functions all work.
///
/// # Errors
/// `Unknown` if there is no such function, otherwise the text for the client.
pub async fn apply(
    host: &dyn Host,
    session: &mut Session,
    function: &Function,
    args: Vec<Value>,
) -> Result<Value, CallError> {
    let mut interpreter = Interpreter::new(host, session);
    let fault = match interpreter.apply(function, args).await {
        Ok(value) => return Ok(value),
        Err(fault) => fault,
    };
    match fault {
        Fault::Function(unknown) if unknown == function.name => Err(CallError::Unknown),
        fault => Err(CallError::Error(explain(host, &function.name, fault))),
    }
}

impl Condition {
    /// Tells whether a cell fulfils the condition; `None` if the two cannot be compared, which is
    /// the evaluator's to report: a host must keep such a row.
    #[must_use]
    pub fn holds(&self, ty: Type, cell: &Cell) -> Option<bool> {
        let Value::Scalar(value) = &self.value else { return None };
        ops::compare(self.operator, &Scalar::new(ty, cell.clone()), value).ok()
    }
}

/// Turns a result into what can be sent: a DFS table becomes its columns without rows. (What a
/// server sends for a bare `loadTable(…)` is not known; no known client depends on it.)
async fn finish(
    host: &dyn Host,
    session: &mut Session,
    value: Option<Value>,
) -> Result<Option<Value>, String> {
    match value {
        None | Some(Value::Nothing) => Ok(None),
        Some(Value::TableHandle(handle)) => {
            let scan = Scan { schema_only: true, ..Scan::default() };
            match host.read_table(session, &handle, &scan).await {
                Ok(table) => Ok(Some(Value::Table(table.pick(&[])))),
                Err(error) => Err(explain(host, "loadTable", error.into())),
            }
        }
        Some(Value::Reference(name)) => Ok(session.variables.get(&name).cloned()),
        Some(value) => Ok(Some(value)),
    }
}

/// Returns the client's text for a fault, and reports what the stand-in does not have.
fn explain(host: &dyn Host, source: &str, fault: Fault) -> String {
    match fault {
        Fault::Text(text) => interpreter::quote(source, &text),
        Fault::Verbatim(text) => text,
        Fault::Token { line, token } => {
            host.unmodelled(source);
            unrecognized(line, &token)
        }
        Fault::Function(name) => {
            host.unmodelled(source);
            format!("{UNKNOWN_FUNCTION} {name}")
        }
        Fault::Unmodelled(what) => {
            host.unmodelled(&what);
            format!("the stand-in does not model {what}")
        }
        Fault::Return(_) => "return outside of a function".to_owned(),
    }
}

fn unrecognized(line: usize, token: &str) -> String {
    format!("Syntax Error: [line #{line}] Cannot recognize the token {token}")
}
