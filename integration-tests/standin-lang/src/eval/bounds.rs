//! Bounds on what a script may build: a loop that doubles a value must end in an error, not in
//! the end of the process.

use crate::value::{Cell, Table, Value, Vector};

/// Bytes that one value may take. A table of 100,000 rows and four columns takes about 12 MB.
pub(super) const VALUE_BYTES: usize = 128 << 20;
/// Nesting of vectors in vectors, dictionaries and bound arguments. Twice what the wire takes.
const NESTING: usize = 32;

/// Returns roughly the bytes a value takes.
///
/// # Errors
/// If it nests too deep or is too big.
pub(super) fn weigh(value: &Value) -> Result<usize, String> {
    let weight = weight(value, 0)?;
    if weight > VALUE_BYTES {
        return Err(too_big());
    }
    Ok(weight)
}

fn too_big() -> String {
    format!("a value of more than {VALUE_BYTES} bytes")
}

fn weight(value: &Value, depth: usize) -> Result<usize, String> {
    if depth > NESTING {
        return Err(format!("values nested deeper than {NESTING}"));
    }
    let parts = match value {
        Value::Nothing | Value::TableHandle(_) | Value::Database(_) | Value::Reference(_) => 0,
        Value::Scalar(scalar) => cell_weight(&scalar.cell, depth)?,
        Value::Vector(vector) | Value::Pair(vector) | Value::Set(vector) => {
            vector_weight(vector, depth)?
        }
        Value::Matrix(matrix) => vector_weight(&matrix.cells, depth)?,
        Value::Dictionary(dictionary) => {
            vector_weight(&dictionary.keys, depth)? + vector_weight(&dictionary.values, depth)?
        }
        Value::Table(table) => table_weight(table, depth)?,
        Value::Function(function) => {
            let mut sum = function.source.as_deref().map_or(0, str::len);
            for bound in function.bound.iter().flatten() {
                sum += weight(bound, depth + 1)?;
            }
            sum
        }
    };
    Ok(size_of::<Value>() + parts)
}

fn table_weight(table: &Table, depth: usize) -> Result<usize, String> {
    table
        .columns()
        .iter()
        .try_fold(0, |sum, (name, column)| Ok(sum + name.len() + vector_weight(column, depth)?))
}

fn vector_weight(vector: &Vector, depth: usize) -> Result<usize, String> {
    let fixed = vector.len() * size_of::<Cell>();
    vector.cells.iter().try_fold(fixed, |sum, cell| Ok(sum + cell_weight(cell, depth)?))
}

fn cell_weight(cell: &Cell, depth: usize) -> Result<usize, String> {
    Ok(match cell {
        Cell::Null | Cell::Int(_) | Cell::Real(_) | Cell::Decimal(_) => 0,
        Cell::Text(text) => text.len(),
        Cell::Bytes(bytes) => bytes.len(),
        Cell::Value(value) => weight(value, depth + 1)?,
    })
}

/// Collects cells while their size stays within bounds: one long text put into millions of rows
/// must not be built first and measured afterwards.
pub(super) fn collect(
    cells: impl Iterator<Item = Result<Cell, String>>,
) -> Result<Vec<Cell>, String> {
    let mut collected = Vec::new();
    let mut sum = 0;
    for cell in cells {
        let cell = cell?;
        sum += size_of::<Cell>() + cell_weight(&cell, 0)?;
        if sum > VALUE_BYTES {
            return Err(too_big());
        }
        collected.push(cell);
    }
    Ok(collected)
}

/// Returns the elements at these places, see [`Vector::pick`].
pub(super) fn pick(vector: &Vector, places: &[usize]) -> Result<Vector, String> {
    let cells = places.iter().map(|at| Ok(vector.cells.get(*at).cloned().unwrap_or_default()));
    Ok(Vector::new(vector.ty, collect(cells)?))
}

/// Returns the rows at these places, see [`Table::pick`].
pub(super) fn pick_rows(table: &Table, places: &[usize]) -> Result<Table, String> {
    let columns = table.columns().iter().map(|(name, column)| Ok((name, pick(column, places)?)));
    let columns: Vec<_> = columns.collect::<Result<_, String>>()?;
    Table::new(columns.into_iter().map(|(name, column)| (name.as_str(), column)))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn big_and_deep_values_are_refused() {
        let mut deep = Value::int(1);
        for _ in 0..NESTING + 1 {
            deep = Value::any([deep]);
        }
        assert!(weigh(&deep).is_err());
        assert!(weigh(&Value::any([Value::int(1)])).is_ok());
        let text = Vector::strings(["x".repeat(1 << 20)]);
        assert!(pick(&text, &[0; 1000]).is_err());
        assert_eq!(pick(&text, &[0, 0]).map(|v| v.len()), Ok(2));
    }
}
