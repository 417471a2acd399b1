//! Functions that make one value of many, and arithmetic by name.

use std::cmp::Ordering;

use super::{Args, Entry};
use crate::eval::Operator;
use crate::eval::ast::{Binary, Unary};
use crate::eval::ops::{self, Outcome};
use crate::value::{Cell, Type, Value, Vector};

pub(super) const FUNCTIONS: &[Entry] = &[
    ("count", 1, 1, count),
    ("size", 1, 1, |args| Ok(Value::count(args.get(0).len()))),
    ("sum", 1, 1, |args| Ok(ops::sum(&args.vector(0)?))),
    ("avg", 1, 1, average),
    ("mean", 1, 1, average),
    ("med", 1, 1, median),
    ("std", 1, 1, deviation),
    ("max", 1, 2, |args| extreme(args, Ordering::Greater)),
    ("min", 1, 2, |args| extreme(args, Ordering::Less)),
    ("first", 1, 1, |args| Ok(args.vector(0)?.get(0))),
    ("last", 1, 1, |args| {
        let vector = args.vector(0)?;
        Ok(vector.get(vector.len().saturating_sub(1)))
    }),
    ("nunique", 1, 1, |args| Ok(Value::count(unique_places(&args.vector(0)?).len()))),
    ("all", 1, 1, |args| Ok(Value::bool(truths(args)?.all(|flag| flag)))),
    ("any", 1, 1, |args| Ok(Value::bool(truths(args)?.any(|flag| flag)))),
    ("abs", 1, 1, |args| ops::map_number(args.get(0), i64::saturating_abs, f64::abs)),
    ("round", 1, 2, round),
    ("floor", 1, 1, |args| whole(args, f64::floor)),
    ("ceil", 1, 1, |args| whole(args, f64::ceil)),
    ("sqrt", 1, 1, |args| {
        args.map(Type::Double, |_, cell| {
            Ok(cell.as_f64().filter(|n| *n >= 0.0).map_or(Cell::Null, |n| Cell::Real(n.sqrt())))
        })
    }),
    ("pow", 2, 2, |args| {
        let (base, exponent) = (args.get(0).as_f64(), args.get(1).as_f64());
        let power = base.zip(exponent).map(|(base, exponent)| base.powf(exponent));
        Ok(Value::scalar(Type::Double, power.map_or(Cell::Null, Cell::Real)))
    }),
    ("add", 2, 2, |args| binary(args, Binary::Add)),
    ("sub", 2, 2, |args| binary(args, Binary::Subtract)),
    ("mul", 2, 2, |args| binary(args, Binary::Multiply)),
    ("div", 2, 2, |args| binary(args, Binary::Divide)),
    ("ratio", 2, 2, |args| binary(args, Binary::Ratio)),
    ("mod", 2, 2, |args| binary(args, Binary::Modulo)),
    ("eq", 2, 2, |args| binary(args, Binary::Compare(Operator::Equal))),
    ("ne", 2, 2, |args| binary(args, Binary::Compare(Operator::NotEqual))),
    ("lt", 2, 2, |args| binary(args, Binary::Compare(Operator::Less))),
    ("le", 2, 2, |args| binary(args, Binary::Compare(Operator::LessEqual))),
    ("gt", 2, 2, |args| binary(args, Binary::Compare(Operator::Greater))),
    ("ge", 2, 2, |args| binary(args, Binary::Compare(Operator::GreaterEqual))),
    ("in", 2, 2, |args| binary(args, Binary::In)),
    ("like", 2, 2, |args| binary(args, Binary::Like)),
    ("between", 2, 2, |args| binary(args, Binary::Between)),
    ("and", 2, 2, |args| binary(args, Binary::And)),
    ("or", 2, 2, |args| binary(args, Binary::Or)),
    ("not", 1, 1, |args| ops::unary(Unary::Not, args.get(0))),
    ("neg", 1, 1, |args| ops::unary(Unary::Negate, args.get(0))),
    ("pair", 2, 2, |args| binary(args, Binary::Pair)),
    ("seq", 2, 2, |args| binary(args, Binary::Range)),
];

fn binary(args: &Args<'_>, operator: Binary) -> Outcome {
    ops::binary(operator, args.get(0), args.get(1), args.cells)
}

/// Counts elements that are not null; rows of a table.
fn count(args: &Args<'_>) -> Outcome {
    match args.get(0) {
        Value::Vector(vector) => {
            Ok(Value::count(vector.cells.iter().filter(|cell| !cell.is_null()).count()))
        }
        Value::Scalar(scalar) => Ok(Value::count(usize::from(!scalar.cell.is_null()))),
        other => Ok(Value::count(other.len())),
    }
}

/// Returns the numbers that are not null.
fn numbers(args: &Args<'_>) -> Result<Vec<f64>, String> {
    let vector = args.vector(0)?;
    Ok(vector.cells.iter().filter(|cell| !cell.is_null()).filter_map(Cell::as_f64).collect())
}

fn real(number: Option<f64>) -> Value {
    let cell = number.filter(|number| number.is_finite()).map_or(Cell::Null, Cell::Real);
    Value::scalar(Type::Double, cell)
}

fn mean(numbers: &[f64]) -> Option<f64> {
    (!numbers.is_empty()).then(|| numbers.iter().sum::<f64>() / numbers.len() as f64)
}

fn average(args: &Args<'_>) -> Outcome {
    Ok(real(mean(&numbers(args)?)))
}

fn median(args: &Args<'_>) -> Outcome {
    let mut numbers = numbers(args)?;
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    let upper = numbers.get(middle).copied();
    let lower = numbers.get(middle.saturating_sub(1)).copied();
    Ok(real(match numbers.len() % 2 {
        1 => upper,
        _ => upper.zip(lower).map(|(upper, lower)| f64::midpoint(upper, lower)),
    }))
}

/// Sample standard deviation.
fn deviation(args: &Args<'_>) -> Outcome {
    let numbers = numbers(args)?;
    let Some(mean) = mean(&numbers).filter(|_| numbers.len() > 1) else { return Ok(real(None)) };
    let squares: f64 = numbers.iter().map(|number| (number - mean).powi(2)).sum();
    Ok(real(Some((squares / (numbers.len() - 1) as f64).sqrt())))
}

/// Returns the greatest or smallest element that is not null; of two arguments, element by
/// element.
fn extreme(args: &Args<'_>, wanted: Ordering) -> Outcome {
    if let Some(other) = args.given(1) {
        let how =
            if wanted == Ordering::Greater { Operator::GreaterEqual } else { Operator::LessEqual };
        let first = ops::binary(Binary::Compare(how), args.get(0), other, args.cells)?;
        return super::shapes::choose(&first, args.get(0), other);
    }
    let vector = args.vector(0)?;
    let mut best: Option<Value> = None;
    for value in vector.values().filter(|value| !value.is_null()) {
        let better = match (&best, &value) {
            (None, _) => true,
            (Some(Value::Scalar(best)), Value::Scalar(new)) => {
                ops::order(new, best) == Some(wanted)
            }
            _ => return Err(args.wrong(0, "a vector of scalars")),
        };
        if better {
            best = Some(value);
        }
    }
    Ok(best.unwrap_or_else(|| Value::scalar(vector.ty, Cell::Null)))
}

fn truths(args: &Args<'_>) -> Result<impl Iterator<Item = bool>, String> {
    let vector = args.vector(0)?;
    Ok(vector.cells.into_iter().filter_map(|cell| ops::truth(&cell)))
}

fn round(args: &Args<'_>) -> Outcome {
    let digits = match args.given(1) {
        None => 0,
        Some(digits) => digits.as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
    };
    if digits == 0 {
        return whole(args, f64::round);
    }
    let scale = 10f64.powi(digits.clamp(0, 15));
    args.map(Type::Double, |_, cell| {
        Ok(cell.as_f64().map_or(Cell::Null, |number| Cell::Real((number * scale).round() / scale)))
    })
}

/// Rounds to LONG.
fn whole(args: &Args<'_>, rounding: fn(f64) -> f64) -> Outcome {
    args.map(Type::Long, |_, cell| {
        Ok(match cell.as_i64() {
            Some(number) => Cell::Int(number),
            None => cell
                .as_f64()
                .and_then(|n| Cell::Real(rounding(n)).as_i64())
                .map_or(Cell::Null, Cell::Int),
        })
    })
}

/// Returns the places of the first of each of the different elements.
pub(super) fn unique_places(vector: &Vector) -> Vec<usize> {
    let mut seen = std::collections::HashSet::new();
    let fresh = |place: &usize| {
        let cell = vector.cells.get(*place).unwrap_or(&Cell::Null);
        seen.insert(format!("{cell:?}"))
    };
    (0..vector.len()).filter(fresh).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;

    fn ints() -> Value {
        Vector::new(Type::Int, vec![Cell::Int(3), Cell::Null, Cell::Int(1)]).into()
    }

    #[test]
    fn aggregates_leave_nulls_out() {
        assert_eq!(run("count", &[ints()]), Ok(Value::int(2)));
        assert_eq!(run("size", &[ints()]), Ok(Value::int(3)));
        assert_eq!(run("sum", &[ints()]), Ok(Value::long(4)));
        assert_eq!(run("avg", &[ints()]), Ok(Value::double(2.0)));
        assert_eq!(run("max", &[ints()]), Ok(Value::int(3)));
        assert_eq!(run("min", &[ints()]), Ok(Value::int(1)));
        assert_eq!(run("last", &[ints()]), Ok(Value::int(1)));
        assert_eq!(run("med", &[ints()]), Ok(Value::double(2.0)));
    }

    #[test]
    fn nothing_aggregates_to_null() {
        let empty = Value::Vector(Vector::empty(Type::Timestamp));
        assert_eq!(
            run("max", std::slice::from_ref(&empty)),
            Ok(Value::scalar(Type::Timestamp, Cell::Null))
        );
        assert!(run("sum", std::slice::from_ref(&empty)).unwrap().is_null());
        assert!(run("avg", &[empty]).unwrap().is_null());
    }

    #[test]
    fn the_greater_of_two() {
        assert_eq!(run("max", &[Value::int(1), Value::int(2)]), Ok(Value::int(2)));
        assert_eq!(run("round", &[Value::double(1.256), Value::int(2)]), Ok(Value::double(1.26)));
        assert_eq!(run("floor", &[Value::double(1.9)]), Ok(Value::long(1)));
        assert_eq!(run("add", &[Value::long(1), Value::long(2)]), Ok(Value::long(3)));
    }
}
