//! Calls: by name, by value, of the evaluator's own functions and of the host's.

use std::collections::BTreeMap;

use super::ast::{Arg, Expr};
use super::host::BoxFuture;
use super::interpreter::{Fault, Frame, Interpreter, Result};
use super::{CallError, Scan, functions, ops, parser, rows};
use crate::value::{Cell, Function, Type, Value, Vector, format, time};

/// Functions that need the session, the host or other functions.
const SPECIAL: &[&str] = &[
    "append!",
    "call",
    "defined",
    "each",
    "funcByName",
    "loop",
    "now",
    "print",
    "schema",
    "table",
    "tableInsert",
    "today",
    "undef",
    "unifiedCall",
];

/// Functions whose first argument is a variable that they change.
const MUTATORS: &[&str] = &["append!", "tableInsert"];

/// Tells whether the evaluator treats this name itself.
pub(super) fn is_special(name: &str) -> bool {
    SPECIAL.contains(&name)
}

impl Interpreter<'_> {
    /// Evaluates `callee(args)`.
    pub(super) fn call_expression<'e>(
        &'e mut self,
        callee: &'e Expr,
        args: &'e [Arg],
    ) -> BoxFuture<'e, Result<Value>> {
        Box::pin(async move {
            let Expr::Name { name, line } = callee else {
                let function = self.eval(callee).await?;
                let function = self.callable(function)?;
                let values = self.arguments(&function, args).await?;
                return self.apply(&function, values).await;
            };
            match self.lookup(name) {
                Some(Value::Function(function)) => {
                    let values = self.arguments(&function, args).await?;
                    return self.apply(&function, values).await;
                }
                // A column or variable may have a function's name: `count`, `version`, `size`.
                Some(_) | None if self.is_function(name) => {}
                Some(value) => return Err(not_callable(&value)),
                None => return Err(Fault::Token { line: *line, token: name.clone() }),
            }
            if name == "table" && args.iter().any(|arg| arg.alias.is_some()) {
                return self.aliased_table(args).await;
            }
            let values = self.arguments(&Function::named(name.as_str()), args).await?;
            self.call_named(name, values).await
        })
    }

    /// Evaluates `target.name(args)`: `name` with the target as its first argument.
    pub(super) fn method<'e>(
        &'e mut self,
        target: &'e Expr,
        name: &'e str,
        line: usize,
        args: &'e [Arg],
    ) -> BoxFuture<'e, Result<Value>> {
        Box::pin(async move {
            let first = self.argument(name, 0, target).await?;
            if let Value::Dictionary(dictionary) = &first
                && let Some(Value::Function(function)) = dictionary.text_key(name)
            {
                let values = self.arguments(&function, args).await?;
                return self.apply(&function, values).await;
            }
            let function = match self.lookup(name) {
                Some(Value::Function(function)) => function,
                Some(_) | None if self.is_function(name) => Function::named(name),
                Some(_) | None => return Err(Fault::Token { line, token: name.to_owned() }),
            };
            let function = function.bind(vec![Some(first)]);
            let values = self.arguments(&function, args).await?;
            self.apply(&function, values).await
        })
    }

    fn callable(&self, value: Value) -> Result<Function> {
        // A function may be given by its name.
        let Some(name) = value.as_str() else {
            return match value {
                Value::Function(function) => Ok(function),
                other => Err(not_callable(&other)),
            };
        };
        match self.lookup(name) {
            Some(Value::Function(function)) => Ok(function),
            _ if self.is_function(name) => Ok(Function::named(name)),
            _ => Err(not_callable(&value)),
        }
    }

    /// Evaluates arguments, named ones in their places.
    fn arguments<'e>(
        &'e mut self,
        function: &'e Function,
        args: &'e [Arg],
    ) -> BoxFuture<'e, Result<Vec<Value>>> {
        Box::pin(async move {
            let mut values = Vec::with_capacity(args.len());
            for (place, arg) in args.iter().enumerate() {
                if arg.name.is_some() {
                    break;
                }
                values.push(match &arg.value {
                    None => Value::Nothing,
                    Some(expr) => self.argument(&function.name, place, expr).await?,
                });
            }
            for arg in args.iter().skip(values.len()) {
                let (Some(name), Some(expr)) = (&arg.name, &arg.value) else {
                    return Err(Fault::Text("a plain argument behind a named one".to_owned()));
                };
                let filled = function.bound.iter().filter(|place| place.is_some()).count();
                let place = self.parameter(function, name)?.saturating_sub(filled);
                while values.len() <= place {
                    values.push(Value::Nothing);
                }
                let value = self.eval(expr).await?;
                if let Some(slot) = values.get_mut(place) {
                    *slot = value;
                }
            }
            Ok(values)
        })
    }

    /// Returns the place of a named argument.
    fn parameter(&self, function: &Function, wanted: &str) -> Result<usize> {
        let place = match &function.source {
            Some(source) => {
                let definition = parser::definition(source, self.limits.depth)
                    .map_err(|error| Fault::Token { line: error.line, token: error.token })?;
                definition.parameters.iter().position(|(name, _)| name == wanted)
            }
            None => {
                let names = self.host.parameters(&function.name);
                names.and_then(|names| names.iter().position(|name| *name == wanted))
            }
        };
        place.ok_or_else(|| Fault::Unmodelled(format!("{}({wanted}=…)", function.name)))
    }

    /// Evaluates one argument. A function that changes its first argument gets the variable.
    pub(super) fn argument<'e>(
        &'e mut self,
        function: &'e str,
        place: usize,
        expr: &'e Expr,
    ) -> BoxFuture<'e, Result<Value>> {
        Box::pin(async move {
            if place == 0
                && MUTATORS.contains(&function)
                && let Expr::Name { name, .. } = expr
                && let Some(Value::Table(_) | Value::Vector(_)) = self.variable(name)
            {
                return Ok(Value::Reference(name.clone()));
            }
            self.eval(expr).await
        })
    }

    /// Applies a function value.
    pub(super) fn apply<'e>(
        &'e mut self,
        function: &'e Function,
        given: Vec<Value>,
    ) -> BoxFuture<'e, Result<Value>> {
        Box::pin(async move {
            let values = function.arguments(given);
            self.enter()?;
            let outcome = match &function.source {
                Some(source) => self.call_defined(source, values).await,
                None => match self.session.variables.get(&function.name).cloned() {
                    Some(Value::Function(defined)) if defined.name == function.name => {
                        match &defined.source {
                            Some(source) => self.call_defined(source, values).await,
                            None => self.call_named(&function.name, values).await,
                        }
                    }
                    _ => self.call_named(&function.name, values).await,
                },
            };
            self.leave();
            outcome
        })
    }

    /// Runs a function that a script defined.
    fn call_defined<'e>(
        &'e mut self,
        source: &'e str,
        values: Vec<Value>,
    ) -> BoxFuture<'e, Result<Value>> {
        Box::pin(async move {
            let definition = parser::definition(source, self.limits.depth)
                .map_err(|error| Fault::Token { line: error.line, token: error.token })?;
            if values.len() > definition.parameters.len() {
                let (expected, found) = (definition.parameters.len(), values.len());
                let text = format!("the function expects {expected} argument(s), not {found}");
                return Err(Fault::Text(text));
            }
            let mut locals = BTreeMap::new();
            let mut values = values.into_iter();
            for (name, default) in &definition.parameters {
                let value = match (values.next().unwrap_or(Value::Nothing), default) {
                    (Value::Nothing, Some(default)) => self.eval(default).await?,
                    (value, _) => value,
                };
                locals.insert(name.clone(), value);
            }
            let frames = self.frames.len();
            self.frames.push(Frame::Locals(locals));
            let outcome = self.run(&definition.body).await;
            self.frames.truncate(frames);
            match outcome {
                Ok(value) => Ok(value.unwrap_or(Value::Nothing)),
                Err(Fault::Return(value)) => Ok(value),
                Err(fault) => Err(fault),
            }
        })
    }

    /// Calls a function by name: the evaluator's own first, unless it is about a DFS object.
    pub(super) fn call_named<'e>(
        &'e mut self,
        name: &'e str,
        values: Vec<Value>,
    ) -> BoxFuture<'e, Result<Value>> {
        Box::pin(async move {
            let remote = matches!(values.first(), Some(Value::TableHandle(_) | Value::Database(_)));
            if remote && self.host.knows(name) {
                let fallback = name == "schema";
                let kept = if fallback { values.clone() } else { Vec::new() };
                return match self.host_call(name, values).await {
                    Err(Fault::Function(_)) if fallback => self.special(name, kept).await,
                    outcome => outcome,
                };
            }
            if is_special(name) {
                return self.special(name, values).await;
            }
            if let Some(outcome) = functions::call(name, &values, self.limits.cells) {
                return Ok(outcome?);
            }
            self.host_call(name, values).await
        })
    }

    fn host_call<'e>(
        &'e mut self,
        name: &'e str,
        values: Vec<Value>,
    ) -> BoxFuture<'e, Result<Value>> {
        Box::pin(async move {
            match self.host.call(self.session, name, values).await {
                Ok(value) => Ok(value),
                Err(CallError::Error(text)) => Err(Fault::Verbatim(text)),
                Err(CallError::Unknown) => Err(Fault::Function(name.to_owned())),
            }
        })
    }

    fn special<'e>(
        &'e mut self,
        name: &'e str,
        values: Vec<Value>,
    ) -> BoxFuture<'e, Result<Value>> {
        Box::pin(async move {
            let first = values.first().cloned().unwrap_or(Value::Nothing);
            let now = self.host.now_ms();
            match name {
                "print" => {
                    self.session.messages.extend(values.iter().map(format::text));
                    Ok(Value::Nothing)
                }
                "now" if first.as_bool() == Some(true) => {
                    let nanos = now.saturating_mul(time::MS_NANOS);
                    Ok(Value::scalar(Type::NanoTimestamp, Cell::Int(nanos)))
                }
                "now" => Ok(Value::timestamp(now)),
                "today" => Ok(Value::date(now.div_euclid(time::DAY_MS))),
                "defined" => {
                    let known = first
                        .as_str()
                        .is_some_and(|name| self.lookup(name).is_some() || self.is_function(name));
                    Ok(Value::bool(known))
                }
                "undef" => self.undefine(&first),
                "funcByName" => {
                    let name = first.as_str().unwrap_or("").to_owned();
                    match self.lookup(&name) {
                        Some(Value::Function(function)) => Ok(function.into()),
                        _ if self.is_function(&name) => Ok(Value::function(name)),
                        _ => Err(Fault::Function(name)),
                    }
                }
                "call" => {
                    let function = self.callable(first)?;
                    self.apply(&function, values.into_iter().skip(1).collect()).await
                }
                "unifiedCall" => {
                    let function = self.callable(first)?;
                    let args = values.get(1).and_then(Value::to_vector);
                    let args = args.ok_or_else(|| "unifiedCall needs a vector".to_owned())?;
                    self.apply(&function, args.values().collect()).await
                }
                "each" | "loop" => self.each(name, first, values).await,
                "schema" => self.schema(first).await,
                "table" => Ok(Value::Table(rows::new_table(&values, self.limits.cells)?)),
                "tableInsert" => self.append(first, &values).map(Value::count),
                "append!" => {
                    self.append(first.clone(), &values)?;
                    Ok(match first {
                        Value::Reference(name) => self.lookup(&name).unwrap_or(Value::Nothing),
                        other => other,
                    })
                }
                _ => Err(Fault::Function(name.to_owned())),
            }
        })
    }

    fn undefine(&mut self, what: &Value) -> Result<Value> {
        let names = what.to_texts().ok_or_else(|| "undef needs names".to_owned())?;
        for name in names {
            if name == "all" {
                self.session.variables.clear();
            } else {
                self.session.variables.remove(&name);
            }
        }
        Ok(Value::Nothing)
    }

    /// Applies a function to each element of one or more vectors.
    fn each<'e>(
        &'e mut self,
        name: &'e str,
        first: Value,
        values: Vec<Value>,
    ) -> BoxFuture<'e, Result<Value>> {
        Box::pin(async move {
            let function = self.callable(first)?;
            let vectors: Vec<_> = values.into_iter().skip(1).collect();
            let lengths = vectors.iter().filter_map(Value::as_vector).map(Vector::len);
            let Some(length) = lengths.max() else {
                return Err(Fault::Unmodelled(format!("{name} without a vector")));
            };
            let mut results = Vec::new();
            for place in 0..length {
                let args = vectors.iter().map(|value| match value {
                    Value::Vector(vector) => vector.get(place),
                    other => other.clone(),
                });
                let result = self.apply(&function, args.collect()).await?;
                self.charge(&result)?;
                results.push(result);
            }
            let collect = if name == "loop" { Vector::any } else { Vector::collect };
            Ok(collect(results).into())
        })
    }

    /// Returns a dictionary with the column definitions of a table.
    fn schema<'e>(&'e mut self, target: Value) -> BoxFuture<'e, Result<Value>> {
        Box::pin(async move {
            let table = match target {
                Value::Table(table) => table,
                Value::TableHandle(handle) => {
                    let scan = Scan { schema_only: true, ..Scan::default() };
                    self.host.read_table(self.session, &handle, &scan).await?
                }
                Value::Reference(name) => match self.lookup(&name) {
                    Some(Value::Table(table)) => table,
                    _ => return Err(Fault::Text(format!("{name} is no table"))),
                },
                other => return Err(Fault::Text(format!("schema of {}", ops::kind(&other)))),
            };
            Ok(Value::dictionary([("colDefs", Value::Table(table.column_definitions()))]))
        })
    }

    /// Appends to a table or vector in a variable; returns the number of rows.
    fn append(&mut self, target: Value, values: &[Value]) -> Result<usize> {
        let data = values.get(1..).unwrap_or(&[]);
        let name = match target {
            Value::Reference(name) => name,
            Value::Scalar(scalar) => scalar.cell.as_str().unwrap_or("").to_owned(),
            other => return Err(Fault::Text(format!("{} cannot grow", ops::kind(&other)))),
        };
        let limit = self.limits.cells;
        let Some(variable) = self.variable(&name) else {
            return Err(Fault::Text(format!("no variable {name}")));
        };
        let rows = match variable {
            Value::Table(table) => {
                let data = rows::rows_for(table, data)?;
                if (table.rows() + data.rows()).saturating_mul(table.columns().len()) > limit {
                    return Err(Fault::Text(format!("a table of more than {limit} cells")));
                }
                table.append(&data).map_err(|error| error.to_string())?
            }
            Value::Vector(vector) => {
                let data = data
                    .first()
                    .and_then(Value::to_vector)
                    .unwrap_or_else(|| Vector::empty(vector.ty));
                let mut data = data.cast(vector.ty).ok_or_else(|| "types differ".to_owned())?;
                if vector.len() + data.len() > limit {
                    return Err(Fault::Text(format!("a vector of more than {limit} cells")));
                }
                let rows = data.len();
                vector.cells.append(&mut data.cells);
                rows
            }
            other => return Err(Fault::Text(format!("{} cannot grow", ops::kind(other)))),
        };
        self.charge_variable(&name)?;
        Ok(rows)
    }

    /// Evaluates `table(a as x, b as y)`.
    fn aliased_table<'e>(&'e mut self, args: &'e [Arg]) -> BoxFuture<'e, Result<Value>> {
        Box::pin(async move {
            let mut columns = Vec::with_capacity(args.len());
            for (place, arg) in args.iter().enumerate() {
                let Some(expr) = &arg.value else {
                    return Err(Fault::Text("a column is missing".to_owned()));
                };
                let name =
                    arg.alias.clone().unwrap_or_else(|| super::query::derived_name(expr, place));
                columns.push((name, self.eval(expr).await?));
            }
            Ok(Value::Table(rows::columns_of_one_length(columns)?))
        })
    }
}

fn not_callable(value: &Value) -> Fault {
    Fault::Text(format!("{} cannot be called", ops::kind(value)))
}
