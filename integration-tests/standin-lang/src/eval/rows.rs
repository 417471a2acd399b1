//! Tables made of what scripts give: columns, dictionaries, names with types, single rows.

use super::bounds;
use crate::value::{Table, Type, Value, Vector};

/// Makes a table of values: vectors of one length, and scalars that repeat.
pub(super) fn columns_of_one_length(columns: Vec<(String, Value)>) -> Result<Table, String> {
    let rows = columns.iter().filter_map(|(_, v)| v.as_vector()).map(Vector::len).max();
    let columns = columns.into_iter().map(|(name, value)| match value {
        Value::Vector(vector) => Ok((name, vector)),
        Value::Scalar(scalar) => {
            let one = Vector::new(scalar.ty, vec![scalar.cell]);
            Ok((name, bounds::pick(&one, &vec![0; rows.unwrap_or(1)])?))
        }
        other => Ok((name, Vector::any(vec![other; rows.unwrap_or(1)]))),
    });
    Table::new(columns.collect::<Result<Vec<_>, String>>()?).map_err(|error| error.to_string())
}

/// `table(1:0, names, types)` and `table(capacity:size, …)`, or a table of plain columns.
pub(super) fn new_table(values: &[Value], limit: usize) -> Result<Table, String> {
    if let [Value::Pair(sizes), names, types] = values {
        let names = names.to_texts().ok_or("the column names must be strings")?;
        let types = types.to_vector().ok_or("the column types must be a vector")?;
        if names.len() != types.len() {
            return Err(format!("{} names with {} types", names.len(), types.len()));
        }
        let size = sizes.get(1).as_i64().and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
        if size.saturating_mul(names.len()) > limit {
            return Err(format!("a table of more than {limit} cells"));
        }
        let columns = names.into_iter().zip(&types.cells).map(|(name, code)| {
            let code = code.as_i64().and_then(|code| u8::try_from(code).ok());
            let ty = code.and_then(Type::from_code).ok_or("the column types must be data types")?;
            Ok::<_, String>((name, Vector::nulls(ty, size)))
        });
        return Table::new(columns.collect::<Result<Vec<_>, _>>()?)
            .map_err(|error| error.to_string());
    }
    if let [Value::Dictionary(dictionary)] = values {
        let names = dictionary.keys.texts().ok_or("the keys must be strings")?;
        let columns = names.map(str::to_owned).zip(dictionary.values.values());
        return columns_of_one_length(columns.collect());
    }
    if values.is_empty() {
        return Err("table needs columns".to_owned());
    }
    let name = |place| format!("C{place}");
    let columns = values.iter().enumerate().map(|(place, value)| (name(place), value.clone()));
    columns_of_one_length(columns.collect())
}

/// Makes rows for a table of what `tableInsert` was given: a table, columns, or one row's cells.
pub(super) fn rows_for(table: &Table, data: &[Value]) -> Result<Table, String> {
    if let [Value::Table(rows)] = data {
        return Ok(rows.clone());
    }
    let columns: Vec<Value> = match data {
        [Value::Vector(vector)] if vector.ty == Type::Any => vector.values().collect(),
        [Value::Dictionary(dictionary)] => dictionary.values.values().collect(),
        _ => data.to_vec(),
    };
    if columns.len() != table.columns().len() {
        let (found, expected) = (columns.len(), table.columns().len());
        return Err(format!("the data has {found} columns where the table has {expected}"));
    }
    let names = table.columns().iter().map(|(name, _)| name.clone());
    columns_of_one_length(names.zip(columns).collect())
}
