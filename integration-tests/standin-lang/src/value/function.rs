//! Values that only a node knows: functions, table handles, databases.

use std::sync::Arc;

use super::Value;

/// A function as a value: its name or its source, and the arguments bound so far.
///
/// This is what `rpc` and `pnodeRun` hand to the host. It is plain data, so that a node can send
/// it to another (see `wire::encode`), which then applies it with `eval::apply`.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// The name; for a function defined in a script its own name, or empty for a lambda.
    pub name: String,
    /// The definition (`def f(a){…}` or `x -> …`) if a script made the function.
    pub source: Option<Arc<str>>,
    /// Bound arguments by position; `None` is a place still to be filled.
    pub bound: Vec<Option<Value>>,
}

impl Function {
    /// Returns a function by name, without bound arguments.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), source: None, bound: Vec::new() }
    }

    /// Returns a function made by a script.
    #[must_use]
    pub fn defined(name: impl Into<String>, source: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), source: Some(source.into()), bound: Vec::new() }
    }

    /// Returns the function with these places bound too: the first argument fills the first place
    /// that is still open, and so on.
    #[must_use]
    pub fn bind(mut self, arguments: Vec<Option<Value>>) -> Self {
        let mut arguments = arguments.into_iter();
        for place in self.bound.iter_mut().filter(|place| place.is_none()) {
            match arguments.next() {
                Some(argument) => *place = argument,
                None => break,
            }
        }
        self.bound.extend(arguments);
        self
    }

    /// Returns the arguments of a call: bound places kept, open places filled in turn, the rest
    /// behind. An open place without an argument stays `Nothing`.
    #[must_use]
    pub fn arguments(&self, given: Vec<Value>) -> Vec<Value> {
        let mut given = given.into_iter();
        let mut all: Vec<Value> = Vec::with_capacity(self.bound.len() + given.len());
        for place in &self.bound {
            match place {
                Some(value) => all.push(value.clone()),
                None => all.push(given.next().unwrap_or(Value::Nothing)),
            }
        }
        all.extend(given);
        all
    }
}

/// A table of a DFS database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableHandle {
    /// Path of the database, such as `dfs://stock`.
    pub database: String,
    /// Name of the table.
    pub table: String,
}

/// A DFS database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Database {
    /// Its path, such as `dfs://stock`.
    pub path: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_places_are_filled_in_turn() {
        let partial = Function::named("f").bind(vec![None, Some(Value::int(2))]);
        assert_eq!(
            partial.arguments(vec![Value::int(1), Value::int(3)]),
            vec![Value::int(1), Value::int(2), Value::int(3)]
        );
        assert_eq!(partial.arguments(vec![]), vec![Value::Nothing, Value::int(2)]);
        let full = partial.bind(vec![Some(Value::int(9)), Some(Value::int(8))]);
        assert_eq!(full.arguments(vec![]), vec![Value::int(9), Value::int(2), Value::int(8)]);
    }
}
