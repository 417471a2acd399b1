//! `select` and `exec` over anything that is a table.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

use super::ast::{Binary, Expr, Select, Unary};
use super::host::BoxFuture;
use super::interpreter::{Fault, Frame, Interpreter, Result};
use super::rows::columns_of_one_length;
use super::{Condition, Operator, Scan, bounds, ops};
use crate::value::{Cell, Scalar, Table, Value, Vector};

impl Interpreter<'_> {
    /// Evaluates a `select`.
    pub(super) fn select<'e>(&'e mut self, select: &'e Select) -> BoxFuture<'e, Result<Value>> {
        Box::pin(async move {
            let frames = self.frames.len();
            let outcome = self.select_from(select).await;
            self.frames.truncate(frames);
            outcome
        })
    }

    fn select_from<'e>(&'e mut self, select: &'e Select) -> BoxFuture<'e, Result<Value>> {
        Box::pin(async move {
            let mut table = self.source(select).await?;
            for condition in &select.conditions {
                table = self.filter(table, condition).await?;
            }
            // Which columns an `exec` gives as a scalar.
            let mut aggregated = false;
            let (mut result, order) = if !select.groups.is_empty() {
                let result = self.grouped(select, &table).await?;
                let order = result.clone();
                (result, order)
            } else if select.columns.is_empty() {
                (table.clone(), table)
            } else {
                let (result, scalar) = self.projected(select, &table).await?;
                aggregated = scalar;
                let order = if result.rows() == table.rows() {
                    beside(&result, table)
                } else {
                    result.clone()
                };
                (result, order)
            };
            if !select.order.is_empty() {
                let rows = self.ordered(select, order).await?;
                result = bounds::pick_rows(&result, &rows)?;
            }
            if select.distinct {
                result = bounds::pick_rows(&result, &different_rows(&result))?;
            }
            if let Some(limit) = &select.limit {
                let limit = self.eval(limit).await?;
                let limit = limit.as_i64().and_then(|limit| usize::try_from(limit).ok());
                let limit = limit.ok_or_else(|| "the limit must be a number".to_owned())?;
                let rows: Vec<_> = (0..result.rows().min(limit)).collect();
                result = bounds::pick_rows(&result, &rows)?;
            }
            if !select.exec || select.columns.len() != 1 {
                return Ok(Value::Table(result));
            }
            // The groups' own columns stand in front of the one that was asked for.
            let column = result.into_columns().pop().map(|(_, column)| column);
            let column = column.ok_or_else(|| "exec without a column".to_owned())?;
            Ok(if aggregated { column.get(0) } else { Value::Vector(column) })
        })
    }

    /// Evaluates what stands behind `from`.
    fn source<'e>(&'e mut self, select: &'e Select) -> BoxFuture<'e, Result<Table>> {
        Box::pin(async move {
            match self.eval(&select.from).await? {
                Value::Table(table) => Ok(table),
                Value::TableHandle(handle) => {
                    let scan = scan(select);
                    Ok(self.host.read_table(self.session, &handle, &scan).await?)
                }
                Value::Scalar(Scalar { cell: Cell::Text(name), .. }) => match self.lookup(&name) {
                    Some(Value::Table(table)) => Ok(table),
                    _ => Err(Fault::Text(format!("{name} is no table"))),
                },
                other => Err(Fault::Text(format!("select from {}", ops::kind(&other)))),
            }
        })
    }

    /// Evaluates an expression over the columns of a table, which is given back.
    fn over<'e>(
        &'e mut self,
        table: Table,
        expr: &'e Expr,
    ) -> BoxFuture<'e, Result<(Value, Table)>> {
        Box::pin(async move {
            self.frames.push(Frame::Columns(table));
            let value = self.eval(expr).await?;
            match self.frames.pop() {
                Some(Frame::Columns(table)) => Ok((value, table)),
                Some(Frame::Locals(_)) | None => Err(Fault::Text("lost the table".to_owned())),
            }
        })
    }

    fn filter<'e>(&'e mut self, table: Table, condition: &'e Expr) -> BoxFuture<'e, Result<Table>> {
        Box::pin(async move {
            let (value, table) = self.over(table, condition).await?;
            match value {
                Value::Vector(flags) if flags.len() == table.rows() => {
                    let kept =
                        |row: &usize| flags.cells.get(*row).and_then(ops::truth) == Some(true);
                    let rows: Vec<_> = (0..table.rows()).filter(kept).collect();
                    Ok(bounds::pick_rows(&table, &rows)?)
                }
                Value::Scalar(_) if ops::condition(&value)? => Ok(table),
                Value::Scalar(_) => Ok(table.pick(&[])),
                other => {
                    Err(Fault::Text(format!("where needs a condition, not {}", ops::kind(&other))))
                }
            }
        })
    }

    /// Evaluates the columns without groups; tells also whether each is a single value.
    fn projected<'e>(
        &'e mut self,
        select: &'e Select,
        table: &'e Table,
    ) -> BoxFuture<'e, Result<(Table, bool)>> {
        Box::pin(async move {
            let mut columns = Vec::with_capacity(select.columns.len());
            let mut source = table.clone();
            for (place, (expr, alias)) in select.columns.iter().enumerate() {
                let (value, back) = self.over(source, expr).await?;
                source = back;
                columns.push((column_name(expr, alias.as_ref(), place), value));
            }
            unique_names(&mut columns);
            let scalar = columns.iter().all(|(_, value)| value.as_vector().is_none());
            Ok((columns_of_one_length(columns)?, scalar))
        })
    }

    /// Evaluates the columns once for each group, in the order of the groups' keys.
    fn grouped<'e>(
        &'e mut self,
        select: &'e Select,
        table: &'e Table,
    ) -> BoxFuture<'e, Result<Table>> {
        Box::pin(async move {
            let mut keys = Vec::with_capacity(select.groups.len());
            let mut source = table.clone();
            for (place, (expr, alias)) in select.groups.iter().enumerate() {
                let (value, back) = self.over(source, expr).await?;
                source = back;
                let key = value.to_vector().filter(|key| key.len() == table.rows());
                let key = key.ok_or_else(|| "group by needs a column".to_owned())?;
                keys.push((column_name(expr, alias.as_ref(), place), key));
            }
            let groups = groups(&keys, table.rows());
            let mut columns: Vec<(String, Vec<Value>)> = Vec::new();
            for (place, (expr, alias)) in select.columns.iter().enumerate() {
                let name = column_name(expr, alias.as_ref(), place);
                if keys.iter().any(|(key, _)| *key == name) {
                    continue;
                }
                let mut values = Vec::with_capacity(groups.len());
                for rows in &groups {
                    let part = bounds::pick_rows(table, rows)?;
                    let (value, _) = self.over(part, expr).await?;
                    if value.as_vector().is_some() {
                        return Err(Fault::Text(format!("{name} is no aggregate")));
                    }
                    values.push(value);
                }
                columns.push((name, values));
            }
            let first: Vec<_> = groups.iter().filter_map(|rows| rows.first().copied()).collect();
            let keys = keys.into_iter().map(|(name, key)| (name, Value::Vector(key.pick(&first))));
            let columns =
                columns.into_iter().map(|(name, v)| (name, Value::Vector(Vector::collect(v))));
            let mut all: Vec<_> = keys.chain(columns).collect();
            unique_names(&mut all);
            Ok(columns_of_one_length(all)?)
        })
    }

    /// Returns the rows in the order that was asked for.
    fn ordered<'e>(
        &'e mut self,
        select: &'e Select,
        table: Table,
    ) -> BoxFuture<'e, Result<Vec<usize>>> {
        Box::pin(async move {
            let mut keys = Vec::with_capacity(select.order.len());
            let mut source = table;
            for (expr, descending) in &select.order {
                let (value, back) = self.over(source, expr).await?;
                source = back;
                let key = value.to_vector().filter(|key| key.len() == source.rows());
                keys.push((key.ok_or_else(|| "order by needs a column".to_owned())?, *descending));
            }
            let mut rows: Vec<_> = (0..source.rows()).collect();
            rows.sort_by(|left, right| {
                let orders = keys.iter().map(|(key, descending)| {
                    let order = compare_rows(key, *left, *right);
                    if *descending { order.reverse() } else { order }
                });
                orders.fold(Ordering::Equal, Ordering::then)
            });
            Ok(rows)
        })
    }
}

fn compare_rows(key: &Vector, left: usize, right: usize) -> Ordering {
    match (key.cells.get(left), key.cells.get(right)) {
        (Some(left), Some(right)) => left.compare(right).unwrap_or(Ordering::Equal),
        (Some(_) | None, None) | (None, Some(_)) => Ordering::Equal,
    }
}

/// Returns the rows of each group, groups in the order of their keys.
fn groups(keys: &[(String, Vector)], rows: usize) -> Vec<Vec<usize>> {
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for row in 0..rows {
        let key: String =
            keys.iter().map(|(_, key)| format!("{:?}|", key.cells.get(row))).collect();
        let place = *places.entry(key).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        if let Some(group) = groups.get_mut(place) {
            group.push(row);
        }
    }
    groups.sort_by(|left, right| match (left.first(), right.first()) {
        (Some(left), Some(right)) => keys
            .iter()
            .map(|(_, key)| compare_rows(key, *left, *right))
            .fold(Ordering::Equal, Ordering::then),
        (Some(_) | None, None) | (None, Some(_)) => Ordering::Equal,
    });
    groups
}

/// Returns the first of each of the different rows.
fn different_rows(table: &Table) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    let fresh = |row: &usize| seen.insert(format!("{:?}", table.row(*row).collect::<Vec<_>>()));
    (0..table.rows()).filter(fresh).collect()
}

/// Returns a table of both tables' columns; the first one's win.
fn beside(result: &Table, source: Table) -> Table {
    let mut columns = result.columns().to_vec();
    for (name, column) in source.into_columns() {
        if result.column(&name).is_none() {
            columns.push((name, column));
        }
    }
    Table::new(columns).unwrap_or_else(|_| result.clone())
}

/// Gives a second column of the same name a number.
fn unique_names(columns: &mut [(String, Value)]) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (name, _) in columns {
        let plain = name.clone();
        let mut number = 1;
        while !seen.insert(name.clone()) {
            *name = format!("{plain}{number}");
            number += 1;
        }
    }
}

fn column_name(expr: &Expr, alias: Option<&String>, place: usize) -> String {
    alias.cloned().unwrap_or_else(|| derived_name(expr, place))
}

/// Returns the name a column gets from its expression: `max(time)` becomes `max_time`.
pub(super) fn derived_name(expr: &Expr, place: usize) -> String {
    match expr {
        Expr::Name { name, .. } | Expr::Member { name, .. } => name.clone(),
        Expr::Call { callee, args } => match (&**callee, args.first().map(|arg| &arg.value)) {
            (Expr::Name { name, .. }, None | Some(None | Some(Expr::Star))) => name.clone(),
            (Expr::Name { name, .. }, Some(Some(first))) => {
                format!("{name}_{}", derived_name(first, place))
            }
            _ => format!("col{place}"),
        },
        Expr::Literal(_)
        | Expr::Star
        | Expr::List(_)
        | Expr::Tuple(_)
        | Expr::Unary(..)
        | Expr::Binary(..)
        | Expr::Partial { .. }
        | Expr::Method { .. }
        | Expr::Index { .. }
        | Expr::Function { .. }
        | Expr::Select(_) => format!("col{place}"),
    }
}

/// Returns what a `select` needs from a DFS table.
fn scan(select: &Select) -> Scan {
    let mut names = BTreeSet::new();
    let plain = select.columns.iter().chain(&select.groups).map(|(expr, _)| expr);
    let all = plain.chain(&select.conditions).chain(select.order.iter().map(|(expr, _)| expr));
    all.for_each(|expr| collect_names(expr, &mut names));
    let columns = if select.columns.is_empty() { None } else { Some(names) };
    let conditions = select.conditions.iter().flat_map(conjuncts).filter_map(simple).collect();
    Scan { columns, conditions, schema_only: false }
}

fn collect_names(expr: &Expr, names: &mut BTreeSet<String>) {
    match expr {
        Expr::Name { name, .. } => drop(names.insert(name.clone())),
        Expr::Literal(_) | Expr::Star | Expr::Function { .. } => {}
        Expr::List(items) | Expr::Tuple(items) => {
            items.iter().for_each(|item| collect_names(item, names));
        }
        Expr::Unary(_, operand) => collect_names(operand, names),
        Expr::Binary(_, left, right) => {
            collect_names(left, names);
            collect_names(right, names);
        }
        Expr::Call { callee, args } | Expr::Partial { callee, args } => {
            collect_names(callee, names);
            args.iter().filter_map(|arg| arg.value.as_ref()).for_each(|e| collect_names(e, names));
        }
        Expr::Method { target, args, .. } => {
            collect_names(target, names);
            args.iter().filter_map(|arg| arg.value.as_ref()).for_each(|e| collect_names(e, names));
        }
        Expr::Member { target, .. } => collect_names(target, names),
        Expr::Index { target, index } => {
            collect_names(target, names);
            collect_names(index, names);
        }
        Expr::Select(select) => {
            let columns = select.columns.iter().chain(&select.groups).map(|(expr, _)| expr);
            columns.chain(&select.conditions).for_each(|expr| collect_names(expr, names));
            collect_names(&select.from, names);
        }
    }
}

/// Splits a condition at its `and`s.
fn conjuncts(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::Binary(Binary::And, left, right) => {
            let mut all = conjuncts(left);
            all.extend(conjuncts(right));
            all
        }
        other => vec![other],
    }
}

/// Returns a condition of the form `column operator constant`.
fn simple(expr: &Expr) -> Option<Condition> {
    let Expr::Binary(Binary::Compare(operator), left, right) = expr else { return None };
    let (column, operator, value) = match (&**left, &**right) {
        (Expr::Name { name, .. }, value) => (name, *operator, constant(value)?),
        (value, Expr::Name { name, .. }) => (name, mirrored(*operator), constant(value)?),
        _ => return None,
    };
    Some(Condition { column: column.clone(), operator, value })
}

fn constant(expr: &Expr) -> Option<Value> {
    match expr {
        Expr::Literal(value @ Value::Scalar(_)) => Some(value.clone()),
        Expr::Unary(Unary::Negate, operand) => ops::unary(Unary::Negate, &constant(operand)?).ok(),
        _ => None,
    }
}

/// Returns the operator for the operands the other way round.
const fn mirrored(operator: Operator) -> Operator {
    match operator {
        Operator::Less => Operator::Greater,
        Operator::LessEqual => Operator::GreaterEqual,
        Operator::Greater => Operator::Less,
        Operator::GreaterEqual => Operator::LessEqual,
        Operator::Equal | Operator::NotEqual => operator,
    }
}
