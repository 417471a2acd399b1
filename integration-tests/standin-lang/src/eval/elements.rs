//! Elements of values: `x[i]` by place, flag, key, column or row.

use super::bounds;
use super::ops::{Outcome, kind, truth};
use crate::value::{Cell, Type, Value, Vector};

/// Returns `target[index]`.
pub(super) fn index(target: &Value, index: &Value) -> Outcome {
    match (target, index) {
        (Value::Dictionary(dictionary), Value::Scalar(key)) => {
            Ok(dictionary.get(key).unwrap_or(Value::null()))
        }
        (Value::Dictionary(dictionary), Value::Vector(keys)) => {
            let values = keys.values().map(|key| {
                key.as_scalar().and_then(|key| dictionary.get(key)).unwrap_or(Value::null())
            });
            Ok(Vector::collect(values.collect()).into())
        }
        (Value::Table(_), _) => index_table(target, index),
        (Value::Scalar(_), _) => Err("a scalar has no elements".to_owned()),
        _ => {
            let vector =
                target.to_vector().ok_or_else(|| format!("{} has no elements", kind(target)))?;
            match places(index, vector.len())? {
                Places::One(place) => Ok(vector.get(place)),
                Places::Many(places) => Ok(bounds::pick(&vector, &places)?.into()),
            }
        }
    }
}

fn index_table(target: &Value, index: &Value) -> Outcome {
    let Value::Table(table) = target else { return Err("not a table".to_owned()) };
    if let Some(name) = index.as_str() {
        let column = table.column(name).ok_or_else(|| format!("no column `{name}`"))?;
        return Ok(Value::Vector(column.clone()));
    }
    match places(index, table.rows())? {
        Places::Many(places) => Ok(Value::Table(bounds::pick_rows(table, &places)?)),
        Places::One(row) => {
            let names = table.columns().iter().map(|(name, _)| name.clone());
            let values = table.columns().iter().map(|(_, column)| column.get(row));
            Ok(Value::dictionary(names.zip(values)))
        }
    }
}

/// Which elements an index names.
enum Places {
    One(usize),
    Many(Vec<usize>),
}

fn places(index: &Value, length: usize) -> Result<Places, String> {
    let beyond = usize::MAX;
    let place = |cell: &Cell| cell.as_i64().and_then(|n| usize::try_from(n).ok()).unwrap_or(beyond);
    match index {
        Value::Scalar(scalar) if scalar.ty.is_number() => Ok(Places::One(place(&scalar.cell))),
        Value::Pair(pair) => {
            let ends: Vec<_> = pair.cells.iter().map(place).collect();
            let from = ends.first().copied().unwrap_or(0).min(length);
            let to = ends.get(1).copied().unwrap_or(0).min(length);
            Ok(Places::Many((from..to).collect()))
        }
        Value::Vector(flags) if flags.ty == Type::Bool => {
            if flags.len() != length {
                return Err("a boolean index must have one element for each row".to_owned());
            }
            let set = |at: &usize| flags.cells.get(*at).and_then(truth).unwrap_or(false);
            Ok(Places::Many((0..length).filter(set).collect()))
        }
        Value::Vector(places) if places.ty.is_number() => {
            Ok(Places::Many(places.cells.iter().map(place).collect()))
        }
        other => Err(format!("{} is no index", kind(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_by_place_key_and_flag() {
        let vector = Value::Vector(Vector::ints([5, 6, 7]));
        assert_eq!(index(&vector, &Value::int(1)), Ok(Value::int(6)));
        assert_eq!(index(&vector, &Value::int(9)), Ok(Value::scalar(Type::Int, Cell::Null)));
        let flags = Value::Vector(Vector::bools([true, false, true]));
        assert_eq!(index(&vector, &flags), Ok(Vector::ints([5, 7]).into()));
        let dictionary = Value::dictionary([("a", Value::int(1))]);
        assert_eq!(index(&dictionary, &Value::string("a")), Ok(Value::int(1)));
        assert!(index(&dictionary, &Value::string("b")).unwrap().is_null());
        let table = Value::table([("a", Vector::ints([1, 2]))]).unwrap();
        assert_eq!(index(&table, &Value::string("a")), Ok(Vector::ints([1, 2]).into()));
        assert_eq!(index(&table, &Value::int(1)).unwrap().len(), 1);
    }
}
