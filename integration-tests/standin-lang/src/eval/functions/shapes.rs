//! Functions that build, choose and rearrange vectors, sets and dictionaries.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::aggregates::unique_places;
use super::{Args, Entry};
use crate::eval::ops::{self, Outcome};
use crate::eval::{bounds, elements};
use crate::value::{Cell, Dictionary, Scalar, Type, Value, Vector};

pub(super) const FUNCTIONS: &[Entry] = &[
    ("iif", 3, 3, |args| choose(args.get(0), args.get(1), args.get(2))),
    ("at", 1, 2, at),
    ("take", 2, 2, take),
    ("head", 1, 2, |args| ends(args, false)),
    ("tail", 1, 2, |args| ends(args, true)),
    ("unique", 1, 1, unique),
    ("distinct", 1, 1, unique),
    ("isDuplicated", 1, 2, is_duplicated),
    ("sort", 1, 2, sort),
    ("reverse", 1, 1, reverse),
    ("find", 2, 2, find),
    ("join", 2, 2, join),
    ("til", 1, 1, |args| {
        let count = i64::try_from(args.count(0)?).unwrap_or(0);
        Ok(Vector::new(Type::Int, (0..count).map(Cell::Int).collect()).into())
    }),
    ("array", 1, 4, array),
    ("set", 1, 1, |args| {
        let vector = args.vector(0)?;
        Ok(Value::Set(vector.pick(&unique_places(&vector))))
    }),
    ("dict", 2, 3, dict),
    ("keys", 1, 1, |args| match args.get(0) {
        Value::Dictionary(dictionary) => Ok(dictionary.keys.clone().into()),
        _ => Err(args.wrong(0, "a dictionary")),
    }),
    ("values", 1, 1, |args| match args.get(0) {
        Value::Dictionary(dictionary) => Ok(dictionary.values.clone().into()),
        Value::Table(table) => {
            Ok(Value::any(table.columns().iter().map(|(_, column)| column.clone().into())))
        }
        _ => Err(args.wrong(0, "a dictionary or a table")),
    }),
    ("rows", 1, 1, |args| match args.get(0) {
        Value::Matrix(matrix) => Ok(Value::count(matrix.rows)),
        other => Ok(Value::count(other.len())),
    }),
    ("flatten", 1, 1, |args| {
        let vector = args.vector(0)?;
        let mut all = Vec::new();
        for value in vector.values() {
            all.extend(value.to_vector().ok_or("an element is no vector")?.values());
        }
        args.bounded(all.len())?;
        Ok(Vector::collect(all).into())
    }),
];

/// Returns `yes` where the condition holds and `no` elsewhere.
pub(super) fn choose(condition: &Value, yes: &Value, no: &Value) -> Outcome {
    let Value::Vector(flags) = condition else {
        return Ok(if ops::condition(condition)? { yes } else { no }.clone());
    };
    let element = |value: &Value, place| match value {
        Value::Vector(vector) => vector.get(place),
        other => other.clone(),
    };
    let chosen = flags.cells.iter().enumerate().map(|(place, flag)| {
        let value = element(if ops::truth(flag).unwrap_or(false) { yes } else { no }, place);
        Ok(Cell::Value(Box::new(value)))
    });
    let chosen = Vector::new(Type::Any, bounds::collect(chosen)?);
    Ok(Vector::collect(chosen.values().collect()).into())
}

/// With one argument the places of true; with two an index.
fn at(args: &Args<'_>) -> Outcome {
    if let Some(index) = args.given(1) {
        return elements::index(args.get(0), index);
    }
    let vector = args.vector(0)?;
    let set =
        (0..vector.len()).filter(|at| vector.cells.get(*at).and_then(ops::truth) == Some(true));
    let places = set.map(|place| Cell::Int(i64::try_from(place).unwrap_or(i64::MAX)));
    Ok(Vector::new(Type::Int, places.collect()).into())
}

/// Repeats or cuts to a length; a negative length takes from the end.
fn take(args: &Args<'_>) -> Outcome {
    let wanted = args.get(1).as_i64().ok_or_else(|| args.wrong(1, "a number"))?;
    let count = usize::try_from(wanted.unsigned_abs()).unwrap_or(usize::MAX);
    let count = args.bounded(count)?;
    let length = args.get(0).len();
    let skip = if wanted < 0 && length > 0 { (length - count % length) % length } else { 0 };
    let places: Vec<_> = (0..count).map(|at| (at + skip) % length.max(1)).collect();
    pick(args, &places)
}

fn ends(args: &Args<'_>, from_end: bool) -> Outcome {
    let count = if args.given(1).is_some() { args.count(1)? } else { 1 };
    let length = args.get(0).len();
    let count = count.min(length);
    let start = if from_end { length - count } else { 0 };
    pick(args, &(start..start + count).collect::<Vec<_>>())
}

/// Returns these elements of a vector, or rows of a table.
fn pick(args: &Args<'_>, places: &[usize]) -> Outcome {
    match args.get(0) {
        Value::Table(table) => Ok(Value::Table(bounds::pick_rows(table, places)?)),
        _ => Ok(bounds::pick(&args.vector(0)?, places)?.into()),
    }
}

fn unique(args: &Args<'_>) -> Outcome {
    let vector = args.vector(0)?;
    Ok(vector.pick(&unique_places(&vector)).into())
}

/// Tells for each element, or each row of several columns, whether it is a repeat. The second
/// argument says which of equals counts as original: 2 the first, 1 the last, otherwise none.
fn is_duplicated(args: &Args<'_>) -> Outcome {
    let vector = args.vector(0)?;
    let columns: Vec<Vector> = match vector.ty {
        Type::Any => vector.values().filter_map(|column| column.to_vector()).collect(),
        _ => vec![vector],
    };
    let rows = columns.first().map_or(0, Vector::len);
    let key = |row: usize| {
        columns.iter().map(|column| format!("{:?}|", column.cells.get(row))).collect::<String>()
    };
    let keys: Vec<_> = (0..rows).map(key).collect();
    // For each key the first place, the last and how many there are.
    let mut seen: HashMap<&str, (usize, usize, usize)> = HashMap::new();
    for (place, key) in keys.iter().enumerate() {
        let entry = seen.entry(key).or_insert((place, place, 0));
        *entry = (entry.0, place, entry.2 + 1);
    }
    let keep = args.given(1).and_then(Value::as_i64).unwrap_or(2);
    let repeated = keys.iter().enumerate().map(|(place, key)| {
        let (first, last, count) = seen.get(key.as_str()).copied().unwrap_or((place, place, 1));
        match keep {
            2 => place != first,
            1 => place != last,
            _ => count > 1,
        }
    });
    Ok(Vector::bools(repeated.collect::<Vec<_>>()).into())
}

fn sort(args: &Args<'_>) -> Outcome {
    let ascending = args.flag(1, true)?;
    let mut vector = args.vector(0)?;
    vector.cells.sort_by(|left, right| {
        let order = left.compare(right).unwrap_or(Ordering::Equal);
        if ascending { order } else { order.reverse() }
    });
    Ok(vector.into())
}

fn reverse(args: &Args<'_>) -> Outcome {
    let mut vector = args.vector(0)?;
    vector.cells.reverse();
    Ok(vector.into())
}

/// Returns the place of a value, or -1.
fn find(args: &Args<'_>) -> Outcome {
    let vector = args.vector(0)?;
    let place = |wanted: &Scalar| {
        let same = |value: Value| {
            value.as_scalar().is_some_and(|s| ops::order(s, wanted) == Some(Ordering::Equal))
        };
        let found = vector.values().position(same);
        Cell::Int(found.and_then(|place| i64::try_from(place).ok()).unwrap_or(-1))
    };
    match args.get(1) {
        Value::Scalar(wanted) => Ok(Value::scalar(Type::Int, place(wanted))),
        Value::Vector(wanted) => {
            let places = wanted.cells.iter().map(|c| place(&Scalar::new(wanted.ty, c.clone())));
            Ok(Vector::new(Type::Int, places.collect()).into())
        }
        _ => Err(args.wrong(1, "a scalar or a vector")),
    }
}

fn join(args: &Args<'_>) -> Outcome {
    let (left, right) = (args.vector(0)?, args.vector(1)?);
    args.bounded(left.len() + right.len())?;
    if left.ty == right.ty {
        return Ok(Vector::new(left.ty, [left.cells, right.cells].concat()).into());
    }
    Ok(Vector::collect(left.values().chain(right.values()).collect()).into())
}

/// `array(TYPE, [size], [capacity], [default])`.
fn array(args: &Args<'_>) -> Outcome {
    let code = args.get(0).as_i64().and_then(|code| u8::try_from(code).ok());
    let ty = code.and_then(Type::from_code).ok_or_else(|| args.wrong(0, "a data type"))?;
    let size = if args.given(1).is_some() { args.count(1)? } else { 0 };
    let default = match args.given(3) {
        Some(Value::Scalar(scalar)) => {
            crate::value::cast_cell(scalar.ty, &scalar.cell, ty).unwrap_or_default()
        }
        _ if ty.is_number() && ty != Type::Bool => Cell::Int(0),
        _ => Cell::Null,
    };
    Ok(Vector::new(ty, vec![default; size]).into())
}

/// `dict(keys, values)` or `dict(KEYTYPE, VALUETYPE)`.
fn dict(args: &Args<'_>) -> Outcome {
    if let (Value::Scalar(key), Value::Scalar(value)) = (args.get(0), args.get(1))
        && key.ty == Type::Int
    {
        let ty = |scalar: &Scalar| {
            let code = scalar.cell.as_i64().and_then(|code| u8::try_from(code).ok());
            code.and_then(Type::from_code).ok_or("a dictionary needs data types or vectors")
        };
        let (keys, values) = (Vector::empty(ty(key)?), Vector::empty(ty(value)?));
        return Ok(Value::Dictionary(Dictionary { keys, values }));
    }
    let (keys, values) = (args.vector(0)?, args.vector(1)?);
    if keys.len() != values.len() {
        return Err(format!("{} keys with {} values", keys.len(), values.len()));
    }
    Ok(Value::Dictionary(Dictionary { keys, values }))
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;

    fn ints(numbers: &[i32]) -> Value {
        Vector::ints(numbers.iter().copied()).into()
    }

    #[test]
    fn vectors_are_cut_and_repeated() {
        assert_eq!(run("take", &[ints(&[1, 2]), Value::int(3)]), Ok(ints(&[1, 2, 1])));
        assert_eq!(run("take", &[ints(&[1, 2, 3]), Value::int(-2)]), Ok(ints(&[2, 3])));
        assert_eq!(run("tail", &[ints(&[1, 2, 3]), Value::int(2)]), Ok(ints(&[2, 3])));
        assert_eq!(run("unique", &[ints(&[2, 1, 2])]), Ok(ints(&[2, 1])));
        assert_eq!(run("sort", &[ints(&[2, 1]), Value::bool(false)]), Ok(ints(&[2, 1])));
        assert_eq!(run("find", &[ints(&[5, 6]), Value::long(6)]), Ok(Value::int(1)));
        assert_eq!(run("til", &[Value::int(2)]), Ok(ints(&[0, 1])));
        assert!(run("take", &[ints(&[]), Value::int(1)]).is_ok());
    }

    #[test]
    fn repeats_are_found_over_columns() {
        let columns = Value::any([ints(&[1, 1, 2]), ints(&[5, 5, 5])]);
        let flags = run("isDuplicated", &[columns, Value::int(2)]).unwrap();
        assert_eq!(flags, Vector::bools([false, true, false]).into());
    }

    #[test]
    fn elements_are_chosen_one_by_one() {
        let flags = Value::Vector(Vector::bools([true, false]));
        assert_eq!(run("iif", &[flags, ints(&[1, 2]), Value::int(9)]), Ok(ints(&[1, 9])));
        assert_eq!(
            run("iif", &[Value::bool(false), Value::int(1), Value::int(2)]),
            Ok(Value::int(2))
        );
    }

    #[test]
    fn dictionaries_are_made_of_vectors_or_types() {
        let keys = Value::Vector(Vector::strings(["a"]));
        let made = run("dict", &[keys, ints(&[1])]).unwrap();
        assert_eq!(elements::index(&made, &Value::string("a")), Ok(Value::int(1)));
        assert_eq!(run("dict", &[Value::int(18), Value::int(25)]).unwrap().len(), 0);
        assert_eq!(run("array", &[Value::int(4), Value::int(2)]), Ok(ints(&[0, 0])));
    }
}
