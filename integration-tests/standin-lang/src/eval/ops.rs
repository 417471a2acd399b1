//! Operators: pure functions over values.

use std::cmp::Ordering;
use std::collections::HashSet;

use super::Operator;
use super::ast::{Binary, Unary};
use super::bounds;
use crate::value::{Cell, Decimal, Scalar, Storage, Type, Value, Vector, cast_cell, parse, time};

pub(super) type Outcome = Result<Value, String>;

/// Pairs of elements that `in` compares: 10,000 chunk ids against as many.
const COMPARISONS: usize = 100_000_000;

/// Applies an operator of two operands. Scalars are spread over vectors; `cells` bounds a range.
pub(super) fn binary(operator: Binary, left: &Value, right: &Value, cells: usize) -> Outcome {
    match operator {
        Binary::Range => range(left, right, cells),
        Binary::Pair => pair(left, right),
        Binary::In => contained(left, right),
        Binary::Between => between(left, right, cells),
        Binary::Add
        | Binary::Subtract
        | Binary::Multiply
        | Binary::Divide
        | Binary::Ratio
        | Binary::Modulo
        | Binary::Compare(_)
        | Binary::And
        | Binary::Or
        | Binary::Like => spread(operator, left, right),
    }
}

/// Applies an operator of one operand.
pub(super) fn unary(operator: Unary, operand: &Value) -> Outcome {
    match operator {
        Unary::Negate => spread(Binary::Subtract, &Value::int(0), operand),
        Unary::Not => {
            let not = |cell: &Cell| match truth(cell) {
                Some(flag) => Cell::bool(!flag),
                None => Cell::Null,
            };
            match operand {
                Value::Scalar(scalar) => Ok(Value::scalar(Type::Bool, not(&scalar.cell))),
                Value::Vector(vector) => {
                    Ok(Vector::new(Type::Bool, vector.cells.iter().map(not).collect()).into())
                }
                other => Err(format!("not cannot be applied to {}", kind(other))),
            }
        }
    }
}

/// Returns what a value is, for error messages.
pub(super) fn kind(value: &Value) -> String {
    match value {
        Value::Nothing => "nothing".to_owned(),
        Value::Scalar(scalar) => format!("a {} scalar", scalar.ty.name()),
        Value::Vector(vector) => format!("a {} vector", vector.ty.name()),
        Value::Pair(_) => "a pair".to_owned(),
        Value::Matrix(_) => "a matrix".to_owned(),
        Value::Set(_) => "a set".to_owned(),
        Value::Dictionary(_) => "a dictionary".to_owned(),
        Value::Table(_) | Value::TableHandle(_) | Value::Reference(_) => "a table".to_owned(),
        Value::Function(_) => "a function".to_owned(),
        Value::Database(_) => "a database".to_owned(),
    }
}

/// Returns a cell's truth; null has none.
pub(super) fn truth(cell: &Cell) -> Option<bool> {
    cell.as_f64().filter(|_| !cell.is_null()).map(|number| number != 0.0)
}

/// Returns a value's truth for `if` and `where`: null is false.
pub(super) fn condition(value: &Value) -> Result<bool, String> {
    match value {
        Value::Nothing => Ok(false),
        Value::Scalar(scalar) => Ok(truth(&scalar.cell).unwrap_or(false)),
        other => Err(format!("a condition must be a boolean scalar, not {}", kind(other))),
    }
}

/// One operand, ready to be spread: a scalar repeats, a vector does not.
enum Side {
    One(Scalar),
    Many(Vector),
}

impl Side {
    fn of(value: &Value) -> Option<Self> {
        if value.is_null() && matches!(value, Value::Nothing) {
            return Some(Self::One(Scalar::new(Type::Void, Cell::Null)));
        }
        match value {
            Value::Scalar(scalar) => Some(Self::One(scalar.clone())),
            Value::Vector(vector) | Value::Pair(vector) => Some(Self::Many(vector.clone())),
            _ => None,
        }
    }

    const fn ty(&self) -> Type {
        match self {
            Self::One(scalar) => scalar.ty,
            Self::Many(vector) => vector.ty,
        }
    }

    fn len(&self) -> Option<usize> {
        match self {
            Self::One(_) => None,
            Self::Many(vector) => Some(vector.len()),
        }
    }

    fn cell(&self, place: usize) -> &Cell {
        match self {
            Self::One(scalar) => &scalar.cell,
            Self::Many(vector) => vector.cells.get(place).unwrap_or(&Cell::Null),
        }
    }

    fn value(&self, place: usize) -> Value {
        match self {
            Self::One(scalar) => Value::Scalar(scalar.clone()),
            Self::Many(vector) => vector.get(place),
        }
    }
}

fn spread(operator: Binary, left: &Value, right: &Value) -> Outcome {
    let (Some(l), Some(r)) = (Side::of(left), Side::of(right)) else {
        return Err(format!("{} cannot be combined with {}", kind(left), kind(right)));
    };
    let length = match (l.len(), r.len()) {
        (None, None) => None,
        (Some(left), Some(right)) if left != right => {
            return Err("the two vectors must have the same length".to_owned());
        }
        (Some(length), _) | (None, Some(length)) => Some(length),
    };
    if l.ty() == Type::Any || r.ty() == Type::Any {
        let each = (0..length.unwrap_or(1)).map(|at| spread(operator, &l.value(at), &r.value(at)));
        return Ok(Vector::collect(each.collect::<Result<_, _>>()?).into());
    }
    let ty = result_type(operator, l.ty(), r.ty())?;
    let apply = |at| cell(operator, ty, (l.ty(), l.cell(at)), (r.ty(), r.cell(at)));
    match length {
        None => Ok(Value::scalar(ty, apply(0)?)),
        Some(length) => Ok(Vector::new(ty, bounds::collect((0..length).map(apply))?).into()),
    }
}

/// Returns the type of an operator's results.
fn result_type(operator: Binary, left: Type, right: Type) -> Result<Type, String> {
    if matches!(operator, Binary::Compare(_) | Binary::And | Binary::Or | Binary::Like) {
        return Ok(Type::Bool);
    }
    if operator == Binary::Add && (left.is_text() || right.is_text()) {
        return Ok(Type::String);
    }
    let number = |ty: Type| {
        ty.is_number() || ty == Type::Void || matches!(ty.storage(), Storage::Decimal(_))
    };
    if number(left) && number(right) {
        let real = |ty: Type| matches!(ty.storage(), Storage::Real(_) | Storage::Decimal(_));
        return Ok(if operator == Binary::Ratio || real(left) || real(right) {
            Type::Double
        } else if left == Type::Long || right == Type::Long {
            Type::Long
        } else {
            Type::Int
        });
    }
    match operator {
        Binary::Subtract if left.is_temporal() && left == right => Ok(Type::Long),
        Binary::Add | Binary::Subtract if left.is_temporal() && number(right) => Ok(left),
        Binary::Add if right.is_temporal() && number(left) => Ok(right),
        _ => Err(format!("{} and {} cannot be combined", left.name(), right.name())),
    }
}

/// Computes one cell of type `ty`.
fn cell(
    operator: Binary,
    ty: Type,
    (left_type, left): (Type, &Cell),
    (right_type, right): (Type, &Cell),
) -> Result<Cell, String> {
    let logical = |decide: fn(bool, bool) -> bool| match (truth(left), truth(right)) {
        (Some(left), Some(right)) => Cell::bool(decide(left, right)),
        (Some(_) | None, None) | (None, Some(_)) => Cell::Null,
    };
    match operator {
        Binary::And => return Ok(logical(|left, right| left && right)),
        Binary::Or => return Ok(logical(|left, right| left || right)),
        Binary::Compare(how) => {
            let left = Scalar::new(left_type, left.clone());
            let right = Scalar::new(right_type, right.clone());
            return compare(how, &left, &right).map(Cell::bool);
        }
        Binary::Like => {
            let (Some(text), Some(pattern)) = (left.as_str(), right.as_str()) else {
                return Ok(Cell::bool(false));
            };
            return Ok(Cell::bool(like(text, pattern)));
        }
        _ => {}
    }
    if ty == Type::String {
        let text = |ty, cell| match cast_cell(ty, cell, Type::String) {
            Some(Cell::Text(text)) => text,
            _ => String::new(),
        };
        return Ok(Cell::Text(text(left_type, left) + &text(right_type, right)));
    }
    if left.is_null() || right.is_null() {
        return Ok(Cell::Null);
    }
    if ty == Type::Double {
        let (Some(left), Some(right)) = (left.as_f64(), right.as_f64()) else {
            return Ok(Cell::Null);
        };
        return Ok(real(operator, left, right));
    }
    let (Some(left), Some(right)) = (left.as_i64(), right.as_i64()) else { return Ok(Cell::Null) };
    // An overflow is null: the nearest total answer to the server's wrap-around.
    let number = integer(operator, left, right);
    let wide = ty.storage() == Storage::Integer(8);
    Ok(number.filter(|n| wide || i32::try_from(*n).is_ok()).map_or(Cell::Null, Cell::Int))
}

fn integer(operator: Binary, left: i64, right: i64) -> Option<i64> {
    match operator {
        Binary::Add => left.checked_add(right),
        Binary::Subtract => left.checked_sub(right),
        Binary::Multiply => left.checked_mul(right),
        Binary::Divide => left.checked_div_euclid(right),
        Binary::Modulo => left.checked_rem_euclid(right),
        _ => None,
    }
}

fn real(operator: Binary, left: f64, right: f64) -> Cell {
    let number = match operator {
        Binary::Add => left + right,
        Binary::Subtract => left - right,
        Binary::Multiply => left * right,
        Binary::Divide | Binary::Ratio => left / right,
        Binary::Modulo => left.rem_euclid(right),
        _ => f64::NAN,
    };
    if number.is_finite() { Cell::Real(number) } else { Cell::Null }
}

/// Compares two scalars.
pub(super) fn compare(how: Operator, left: &Scalar, right: &Scalar) -> Result<bool, String> {
    let order = order(left, right)
        .ok_or_else(|| format!("{} and {} cannot be compared", left.ty.name(), right.ty.name()))?;
    Ok(match how {
        Operator::Equal => order == Ordering::Equal,
        Operator::NotEqual => order != Ordering::Equal,
        Operator::Less => order == Ordering::Less,
        Operator::LessEqual => order != Ordering::Greater,
        Operator::Greater => order == Ordering::Greater,
        Operator::GreaterEqual => order != Ordering::Less,
    })
}

/// Returns the order of two scalars, across types where that means something: dates against
/// timestamps by their moment, a UUID against its text.
pub(super) fn order(left: &Scalar, right: &Scalar) -> Option<Ordering> {
    if left.cell.is_null() || right.cell.is_null() || left.ty == right.ty {
        return left.cell.compare(&right.cell);
    }
    if left.ty.is_temporal() && right.ty.is_temporal() {
        let moment = |scalar: &Scalar| time::moment_nanos(scalar.ty, scalar.cell.as_i64()?);
        return Some(moment(left)?.cmp(&moment(right)?));
    }
    if left.ty.is_temporal() != right.ty.is_temporal() {
        return None;
    }
    if let (Cell::Bytes(left), Some(right)) = (&left.cell, right.cell.as_str()) {
        return Some(left.as_slice().cmp(&parse::bytes16(right, Type::Uuid)?));
    }
    if let (Some(left), Cell::Bytes(right)) = (left.cell.as_str(), &right.cell) {
        return Some(parse::bytes16(left, Type::Uuid)?.as_slice().cmp(right));
    }
    left.cell.compare(&right.cell)
}

/// Matches a text against a pattern: `%` is any text, `?` any character.
fn like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<_>, Vec<_>) = (text.chars().collect(), pattern.chars().collect());
    // The last `%` and how far the text had been matched then, to try again from.
    let (mut at, mut of, mut star) = (0, 0, None);
    while let Some(c) = text.get(at) {
        match pattern.get(of) {
            Some('%') => {
                star = Some((of, at));
                of += 1;
            }
            Some(p) if p == c || *p == '?' => {
                at += 1;
                of += 1;
            }
            Some(_) | None => {
                let Some((place, matched)) = star else { return false };
                star = Some((place, matched + 1));
                of = place + 1;
                at = matched + 1;
            }
        }
    }
    pattern.iter().skip(of).all(|c| *c == '%')
}

/// Returns for each left element whether it is among the right ones.
fn contained(left: &Value, right: &Value) -> Outcome {
    let among = match right {
        Value::Dictionary(dictionary) => dictionary.keys.clone(),
        other => {
            other.to_vector().ok_or_else(|| format!("in needs a vector, not {}", kind(other)))?
        }
    };
    let members = Members::of(left.data_type(), &among);
    if matches!(members, Members::Any(_)) && left.len().saturating_mul(among.len()) > COMPARISONS {
        return Err(format!("more than {COMPARISONS} comparisons"));
    }
    let found = |scalar: &Scalar| Cell::bool(members.contain(scalar));
    match left {
        Value::Scalar(scalar) => Ok(Value::scalar(Type::Bool, found(scalar))),
        Value::Vector(vector) => {
            let flags =
                vector.cells.iter().map(|cell| found(&Scalar::new(vector.ty, cell.clone())));
            Ok(Vector::new(Type::Bool, flags.collect()).into())
        }
        other => Err(format!("in cannot be applied to {}", kind(other))),
    }
}

/// The right side of an `in`: looked up where equality is that of the cells, compared one by one
/// where types differ.
enum Members<'v> {
    Numbers(HashSet<Option<i64>>),
    Texts(HashSet<&'v str>),
    Any(&'v Vector),
}

impl<'v> Members<'v> {
    fn of(left: Type, among: &'v Vector) -> Self {
        let integer = |ty: Type| matches!(ty.storage(), Storage::Integer(_));
        let alike = left == among.ty || (left.is_number() && among.ty.is_number());
        if alike && integer(left) && integer(among.ty) {
            return Self::Numbers(among.cells.iter().map(Cell::as_i64).collect());
        }
        if left.is_text() && among.ty.is_text() {
            let text = |cell: &'v Cell| cell.as_str().unwrap_or("");
            return Self::Texts(among.cells.iter().map(text).collect());
        }
        Self::Any(among)
    }

    fn contain(&self, scalar: &Scalar) -> bool {
        match self {
            Self::Numbers(numbers) => numbers.contains(&scalar.cell.as_i64()),
            Self::Texts(texts) => texts.contains(scalar.cell.as_str().unwrap_or("")),
            Self::Any(among) => among.values().any(|candidate| {
                let Value::Scalar(candidate) = candidate else { return false };
                order(scalar, &candidate) == Some(Ordering::Equal)
            }),
        }
    }
}

fn between(left: &Value, right: &Value, cells: usize) -> Outcome {
    let Value::Pair(pair) = right else { return Err("between needs a pair".to_owned()) };
    let compare = |how, place| binary(Binary::Compare(how), left, &pair.get(place), cells);
    let above = compare(Operator::GreaterEqual, 0)?;
    let below = compare(Operator::LessEqual, 1)?;
    binary(Binary::And, &above, &below, cells)
}

fn pair(left: &Value, right: &Value) -> Outcome {
    let vector = Vector::collect(vec![left.clone(), right.clone()]);
    if vector.ty == Type::Any {
        return Err(format!("{} and {} make no pair", kind(left), kind(right)));
    }
    Ok(Value::Pair(vector))
}

/// Returns `a..b`, upwards or downwards, of integers or of dates.
fn range(left: &Value, right: &Value, cells: usize) -> Outcome {
    let ends = || format!("{}..{} is no range", kind(left), kind(right));
    let (Value::Scalar(from), Value::Scalar(to)) = (left, right) else { return Err(ends()) };
    let (Cell::Int(first), Cell::Int(last)) = (&from.cell, &to.cell) else { return Err(ends()) };
    let ty = if from.ty.is_temporal() || to.ty.is_temporal() {
        if from.ty == to.ty { from.ty } else { return Err(ends()) }
    } else if from.ty == Type::Long || to.ty == Type::Long {
        Type::Long
    } else {
        Type::Int
    };
    if first.abs_diff(*last) >= cells as u64 {
        return Err(format!("a range of more than {cells} elements"));
    }
    let numbers: Vec<_> = if first <= last {
        (*first..=*last).map(Cell::Int).collect()
    } else {
        (*last..=*first).rev().map(Cell::Int).collect()
    };
    Ok(Vector::new(ty, numbers).into())
}

/// Returns the sum of cells: LONG for integers, DOUBLE otherwise; null of nothing.
pub(super) fn sum(vector: &Vector) -> Value {
    let real = matches!(vector.ty.storage(), Storage::Real(_) | Storage::Decimal(_));
    let mut cells = vector.cells.iter().filter(|cell| !cell.is_null()).peekable();
    if cells.peek().is_none() {
        return Value::scalar(if real { Type::Double } else { Type::Long }, Cell::Null);
    }
    if real {
        return Value::double(cells.filter_map(Cell::as_f64).sum());
    }
    let sum = cells.filter_map(Cell::as_i64).try_fold(0i64, i64::checked_add);
    Value::scalar(Type::Long, sum.map_or(Cell::Null, Cell::Int))
}

/// Returns a decimal's or float's double, or an integer as it is, with a function applied.
pub(super) fn map_number(value: &Value, integer: fn(i64) -> i64, real: fn(f64) -> f64) -> Outcome {
    let map = |cell: &Cell| match cell {
        Cell::Int(number) => Cell::Int(integer(*number)),
        Cell::Real(number) => Cell::Real(real(*number)),
        Cell::Decimal(number) => Cell::Real(real(Decimal::to_f64(**number))),
        other => other.clone(),
    };
    match value {
        Value::Scalar(scalar) => Ok(Value::scalar(scalar.ty, map(&scalar.cell))),
        Value::Vector(vector) => {
            Ok(Vector::new(vector.ty, vector.cells.iter().map(map).collect()).into())
        }
        other => Err(format!("{} is no number", kind(other))),
    }
}

#[cfg(test)]
mod tests;
