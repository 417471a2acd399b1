//! The tree walker: statements, names, operators. Calls are in `calls`, SQL in `query`.

use std::collections::BTreeMap;

use super::ast::{Arg, Expr, Statement, StatementKind};
use super::host::BoxFuture;
use super::{CallError, Host, Limits, Session, bounds, elements, functions, ops};
use crate::value::{Cell, Function, Scalar, Table, Type, Value, Vector, cast_cell};

/// Why evaluation stopped.
#[derive(Debug)]
pub(super) enum Fault {
    /// A run-time error; the statement's text goes in front.
    Text(String),
    /// The host's words, which go out as they are.
    Verbatim(String),
    /// A name that nobody knows.
    Token { line: usize, token: String },
    /// A function that nobody knows.
    Function(String),
    /// Something the language has and the stand-in does not.
    Unmodelled(String),
    /// `return`.
    Return(Value),
}

impl From<String> for Fault {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

pub(super) type Result<T> = std::result::Result<T, Fault>;

/// Names that are values in every script. The partition types are DolphinDB's own numbers.
const CONSTANTS: &[(&str, i32)] = &[
    ("SEQ", 0),
    ("VALUE", 1),
    ("RANGE", 2),
    ("LIST", 3),
    ("COMPO", 4),
    ("HASH", 5),
    ("ALL", 0),
    ("LAST", 1),
    ("FIRST", 2),
];

/// What names mean besides session variables.
#[derive(Debug)]
pub(super) enum Frame {
    /// Parameters and variables of a function. Session variables are not seen from inside.
    Locals(BTreeMap<String, Value>),
    /// Columns of the table a `select` reads.
    Columns(Table),
}

/// One evaluation.
pub(super) struct Interpreter<'h> {
    pub(super) host: &'h dyn Host,
    pub(super) session: &'h mut Session,
    pub(super) limits: Limits,
    pub(super) frames: Vec<Frame>,
    steps: usize,
}

impl<'h> Interpreter<'h> {
    pub(super) fn new(host: &'h dyn Host, session: &'h mut Session) -> Self {
        Self { host, session, limits: host.limits(), frames: Vec::new(), steps: 0 }
    }

    /// Runs statements; returns the value of the last one if it is an expression.
    pub(super) fn run<'e>(
        &'e mut self,
        statements: &'e [Statement],
    ) -> BoxFuture<'e, Result<Option<Value>>> {
        Box::pin(async move {
            let mut last = None;
            for statement in statements {
                last = self.statement(statement).await.map_err(|fault| match fault {
                    // Only the innermost statement is quoted.
                    Fault::Text(text) => Fault::Verbatim(quote(&statement.text, &text)),
                    other => other,
                })?;
            }
            Ok(last)
        })
    }

    fn statement<'e>(
        &'e mut self,
        statement: &'e Statement,
    ) -> BoxFuture<'e, Result<Option<Value>>> {
        Box::pin(async move {
            match &statement.kind {
                StatementKind::Expression(expr) => match self.eval(expr).await? {
                    Value::Nothing => Ok(None),
                    value => Ok(Some(value)),
                },
                StatementKind::Assign { name, value } => {
                    let value = self.eval(value).await?;
                    self.assign(name, value);
                    Ok(None)
                }
                StatementKind::AddAssign { name, operator, value } => {
                    let old =
                        self.lookup(name).ok_or_else(|| format!("{name} has no value yet"))?;
                    let value = self.eval(value).await?;
                    let new = ops::binary(*operator, &old, &value, self.limits.cells)?;
                    self.charge(&new)?;
                    self.assign(name, new);
                    Ok(None)
                }
                StatementKind::AssignAt { name, index, value } => {
                    let index = self.eval(index).await?;
                    let value = self.eval(value).await?;
                    self.assign_at(name, &index, value)?;
                    Ok(None)
                }
                StatementKind::Define { name, source } => {
                    let function = Function::defined(name.as_str(), source.clone());
                    self.assign(name, function.into());
                    Ok(None)
                }
                StatementKind::Return(value) => {
                    let value = match value {
                        Some(expr) => self.eval(expr).await?,
                        None => Value::Nothing,
                    };
                    Err(Fault::Return(value))
                }
                StatementKind::Throw(expr) => {
                    let value = self.eval(expr).await?;
                    Err(Fault::Text(crate::value::format::text(&value)))
                }
                StatementKind::If { .. }
                | StatementKind::For { .. }
                | StatementKind::Try { .. } => self.block(&statement.kind).await,
            }
        })
    }

    /// Runs the statements that contain others.
    fn block<'e>(&'e mut self, kind: &'e StatementKind) -> BoxFuture<'e, Result<Option<Value>>> {
        Box::pin(async move {
            match kind {
                StatementKind::If { condition, then, otherwise } => {
                    let value = self.eval(condition).await?;
                    let chosen = if ops::condition(&value)? { then } else { otherwise };
                    self.nested(chosen).await
                }
                StatementKind::For { name, values, body } => {
                    let values = self.eval(values).await?;
                    let values = match &values {
                        Value::Pair(pair) => {
                            let mut ends = pair.cells.iter().filter_map(Cell::as_i64);
                            let (from, to) = (ends.next().unwrap_or(0), ends.next().unwrap_or(0));
                            if from >= to {
                                return Ok(None);
                            }
                            let (from, to) = (Value::long(from), Value::long(to.saturating_sub(1)));
                            ops::binary(super::ast::Binary::Range, &from, &to, self.limits.cells)?
                        }
                        _ => values,
                    };
                    let elements = values
                        .to_vector()
                        .ok_or_else(|| format!("for over {}", ops::kind(&values)))?;
                    for element in elements.values() {
                        self.assign(name, element);
                        self.nested(body).await?;
                    }
                    Ok(None)
                }
                StatementKind::Try { body, name, handler } => {
                    let frames = self.frames.len();
                    let text = match self.nested(body).await {
                        Err(Fault::Text(text) | Fault::Verbatim(text)) => text,
                        other => return other,
                    };
                    // What was open when the error came is no longer.
                    self.frames.truncate(frames);
                    let caught = Value::any([Value::string("Exception"), Value::string(text)]);
                    self.assign(name, caught);
                    self.nested(handler).await
                }
                StatementKind::Expression(_)
                | StatementKind::Assign { .. }
                | StatementKind::AddAssign { .. }
                | StatementKind::AssignAt { .. }
                | StatementKind::Define { .. }
                | StatementKind::Return(_)
                | StatementKind::Throw(_) => Ok(None),
            }
        })
    }

    async fn nested(&mut self, statements: &[Statement]) -> Result<Option<Value>> {
        self.enter()?;
        let outcome = self.run(statements).await;
        self.leave();
        outcome
    }

    // ----- limits

    /// Goes one level deeper; every level must be left again.
    pub(super) fn enter(&mut self) -> Result<()> {
        if self.session.nesting >= self.limits.depth {
            return Err(Fault::Text(format!("nested deeper than {}", self.limits.depth)));
        }
        self.session.nesting += 1;
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.session.nesting = self.session.nesting.saturating_sub(1);
    }

    /// Counts the work a value stands for.
    pub(super) fn charge(&mut self, value: &Value) -> Result<()> {
        self.charge_bytes(bounds::weigh(value)?)
    }

    /// Counts the work that a variable's value stands for.
    pub(super) fn charge_variable(&mut self, name: &str) -> Result<()> {
        let bytes = match self.variable(name) {
            Some(value) => bounds::weigh(value)?,
            None => 0,
        };
        self.charge_bytes(bytes)
    }

    fn charge_bytes(&mut self, bytes: usize) -> Result<()> {
        // 4 KiB are about as much work as an expression.
        self.steps += 1 + bytes / 4096;
        if self.steps > self.limits.steps {
            return Err(Fault::Text(format!("more than {} steps", self.limits.steps)));
        }
        Ok(())
    }

    // ----- names

    /// Returns a column's or variable's value.
    pub(super) fn lookup(&self, name: &str) -> Option<Value> {
        for frame in self.frames.iter().rev() {
            match frame {
                Frame::Columns(table) => {
                    if let Some(column) = table.column(name) {
                        return Some(Value::Vector(column.clone()));
                    }
                }
                Frame::Locals(locals) => {
                    if let Some(value) = locals.get(name) {
                        return Some(value.clone());
                    }
                    let shared = self.session.variables.get(name);
                    return shared.filter(|value| value.as_function().is_some()).cloned();
                }
            }
        }
        self.session.variables.get(name).cloned()
    }

    /// Returns the place of a variable, to change it.
    pub(super) fn variable(&mut self, name: &str) -> Option<&mut Value> {
        let locals = self.frames.iter_mut().rev().find_map(|frame| match frame {
            Frame::Locals(locals) => Some(locals),
            Frame::Columns(_) => None,
        });
        match locals {
            Some(locals) => locals.get_mut(name),
            None => self.session.variables.get_mut(name),
        }
    }

    pub(super) fn assign(&mut self, name: &str, value: Value) {
        let value = match value {
            Value::Nothing => Value::null(),
            Value::Reference(other) => self.lookup(&other).unwrap_or(Value::null()),
            value => value,
        };
        let locals = self.frames.iter_mut().rev().find_map(|frame| match frame {
            Frame::Locals(locals) => Some(locals),
            Frame::Columns(_) => None,
        });
        locals.unwrap_or(&mut self.session.variables).insert(name.to_owned(), value);
    }

    /// Does `name[index] = value` for dictionaries and vectors.
    fn assign_at(&mut self, name: &str, index: &Value, value: Value) -> Result<()> {
        let Value::Scalar(index) = index else {
            return Err(Fault::Unmodelled(format!("{name}[{}] = …", ops::kind(index))));
        };
        let Some(target) = self.variable(name) else {
            return Err(Fault::Text(format!("{name} has no value yet")));
        };
        let bad = || format!("{} cannot be put into {name}", ops::kind(&value));
        match target {
            Value::Dictionary(dictionary) => {
                let key = cast_cell(index.ty, &index.cell, dictionary.keys.ty).ok_or_else(bad)?;
                let cell = element(&dictionary.values, &value).ok_or_else(bad)?;
                match dictionary.keys.cells.iter().position(|known| *known == key) {
                    Some(place) => {
                        if let Some(old) = dictionary.values.cells.get_mut(place) {
                            *old = cell;
                        }
                    }
                    None => {
                        dictionary.keys.cells.push(key);
                        dictionary.values.cells.push(cell);
                    }
                }
            }
            Value::Vector(vector) => {
                let cell = element(vector, &value).ok_or_else(bad)?;
                let place = index.cell.as_i64().and_then(|place| usize::try_from(place).ok());
                let old = place.and_then(|place| vector.cells.get_mut(place));
                *old.ok_or_else(|| format!("{name} has no such element"))? = cell;
            }
            other => return Err(Fault::Text(format!("{} has no elements", ops::kind(other)))),
        }
        self.charge_variable(name)
    }

    /// Tells whether a name is a function that can be called.
    pub(super) fn is_function(&self, name: &str) -> bool {
        super::calls::is_special(name) || functions::is_known(name) || self.host.knows(name)
    }

    fn name(&self, name: &str, line: usize) -> Result<Value> {
        if let Some(value) = self.lookup(name) {
            return Ok(value);
        }
        if let Some((_, number)) = CONSTANTS.iter().find(|(known, _)| *known == name) {
            return Ok(Value::int(*number));
        }
        if let Some(ty) = Type::from_name(name) {
            return Ok(Value::int(i32::from(ty.code())));
        }
        if self.is_function(name) {
            return Ok(Value::function(name));
        }
        Err(Fault::Token { line, token: name.to_owned() })
    }

    // ----- expressions

    /// Evaluates an expression.
    pub(super) fn eval<'e>(&'e mut self, expr: &'e Expr) -> BoxFuture<'e, Result<Value>> {
        Box::pin(async move {
            self.enter()?;
            let outcome = self.expression(expr).await;
            self.leave();
            let value = outcome?;
            self.charge(&value)?;
            Ok(value)
        })
    }

    async fn expression(&mut self, expr: &Expr) -> Result<Value> {
        match expr {
            Expr::Literal(value) => Ok(value.clone()),
            Expr::Name { name, line } => self.name(name, *line),
            Expr::Star => self.every_row(),
            Expr::List(items) => {
                let values = self.all(items).await?;
                Ok(Vector::collect(values).into())
            }
            Expr::Tuple(items) => Ok(Value::any(self.all(items).await?)),
            Expr::Unary(operator, operand) => {
                let operand = self.eval(operand).await?;
                Ok(ops::unary(*operator, &operand)?)
            }
            Expr::Binary(operator, left, right) => {
                let left = self.eval(left).await?;
                let right = self.eval(right).await?;
                Ok(ops::binary(*operator, &left, &right, self.limits.cells)?)
            }
            Expr::Index { target, index } => {
                let target = self.eval(target).await?;
                let index = self.eval(index).await?;
                Ok(elements::index(&target, &index)?)
            }
            Expr::Member { target, name } => {
                let target = self.eval(target).await?;
                self.member(target, name)
            }
            Expr::Function { name, source } => {
                Ok(Function::defined(name.as_str(), source.clone()).into())
            }
            Expr::Call { callee, args } => self.call_expression(callee, args).await,
            Expr::Partial { callee, args } => self.partial(callee, args).await,
            Expr::Method { target, name, line, args } => {
                self.method(target, name, *line, args).await
            }
            Expr::Select(select) => self.select(select).await,
        }
    }

    fn all<'e>(&'e mut self, items: &'e [Expr]) -> BoxFuture<'e, Result<Vec<Value>>> {
        Box::pin(async move {
            let mut values = Vec::with_capacity(items.len());
            for item in items {
                values.push(self.eval(item).await?);
            }
            Ok(values)
        })
    }

    /// Returns a vector with an element for each row of the `select` around: what `*` counts.
    fn every_row(&self) -> Result<Value> {
        match self.frames.last() {
            Some(Frame::Columns(table)) => {
                Ok(Vector::new(Type::Bool, vec![Cell::Int(1); table.rows()]).into())
            }
            Some(Frame::Locals(_)) | None => {
                Err(Fault::Text("* has a meaning in select only".to_owned()))
            }
        }
    }

    fn member(&self, target: Value, name: &str) -> Result<Value> {
        let target = match target {
            Value::Reference(variable) => self.lookup(&variable).unwrap_or(Value::Nothing),
            other => other,
        };
        let found = match &target {
            Value::Dictionary(dictionary) => dictionary.text_key(name),
            Value::Table(table) => table.column(name).map(|column| Value::Vector(column.clone())),
            _ => None,
        };
        found.ok_or_else(|| Fault::Text(format!("{} has no member {name}", ops::kind(&target))))
    }

    /// Binds arguments: `f{a,,b}`.
    fn partial<'e>(
        &'e mut self,
        callee: &'e Expr,
        args: &'e [Arg],
    ) -> BoxFuture<'e, Result<Value>> {
        Box::pin(async move {
            let function = match self.eval(callee).await? {
                Value::Function(function) => function,
                other => {
                    return Err(Fault::Text(format!("{} cannot be called", ops::kind(&other))));
                }
            };
            let mut bound = Vec::with_capacity(args.len());
            for (place, arg) in args.iter().enumerate() {
                bound.push(match &arg.value {
                    None => None,
                    Some(expr) => Some(self.argument(&function.name, place, expr).await?),
                });
            }
            Ok(function.bind(bound).into())
        })
    }
}

/// Returns a value as a cell of a vector.
fn element(vector: &Vector, value: &Value) -> Option<Cell> {
    if vector.ty == Type::Any {
        return Some(Cell::Value(Box::new(value.clone())));
    }
    let Value::Scalar(Scalar { ty, cell }) = value else { return None };
    cast_cell(*ty, cell, vector.ty)
}

/// Puts a statement in front of a run-time error, as the server does.
pub(super) fn quote(statement: &str, text: &str) -> String {
    let statement: String = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = statement.chars().take(200).collect();
    format!("{short} => {text}")
}

impl From<CallError> for Fault {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Error(text) => Self::Verbatim(text),
            CallError::Unknown => Self::Function(String::new()),
        }
    }
}
