//! Writes arguments, always little endian.

use super::kind::Kind;
use super::value::{Data, Table, Value, Vector};

/// Forms on the wire.
const SCALAR: u8 = 0;
const VECTOR: u8 = 1;
const TABLE: u8 = 6;

/// Appends one argument. Fails for what no caller of ours sends.
pub(super) fn value(out: &mut Vec<u8>, value: &Value) -> Result<(), &'static str> {
    match value {
        Value::Nothing => {
            out.extend([Kind::Void.code(), SCALAR, 0]);
            Ok(())
        }
        Value::Scalar(vector) => {
            out.extend([vector.kind.code(), SCALAR]);
            elements(out, vector)
        }
        Value::Vector(vector) => column(out, vector),
        Value::Table(table) => whole_table(out, table),
        Value::Pair(_) | Value::Matrix(_) | Value::Set(_) | Value::Dictionary(_) => {
            Err("this form of argument is not supported")
        }
    }
}

/// Appends a vector with its word.
fn column(out: &mut Vec<u8>, vector: &Vector) -> Result<(), &'static str> {
    out.extend([vector.kind.code(), VECTOR]);
    out.extend(count(vector.len())?);
    out.extend(1_i32.to_le_bytes());
    elements(out, vector)
}

/// Appends a table.
fn whole_table(out: &mut Vec<u8>, table: &Table) -> Result<(), &'static str> {
    out.extend([0, TABLE]);
    out.extend(count(table.rows)?);
    out.extend(count(table.columns.len())?);
    // The table has no name.
    out.push(0);
    for (name, _) in &table.columns {
        text(out, name)?;
    }
    for (_, vector) in &table.columns {
        if vector.len() != table.rows {
            return Err("a column of another length than its table");
        }
        column(out, vector)?;
    }
    Ok(())
}

/// Appends the elements alone.
fn elements(out: &mut Vec<u8>, vector: &Vector) -> Result<(), &'static str> {
    match &vector.data {
        Data::I8(values) => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Data::I32(values) => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Data::I64(values) => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Data::F64(values) => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Data::Text(values) => {
            for value in values {
                text(out, value)?;
            }
        }
        Data::I16(_)
        | Data::I128(_)
        | Data::F32(_)
        | Data::B16(_)
        | Data::Symbol { .. }
        | Data::Blob(_)
        | Data::Any(_)
        | Data::Arrays { .. } => return Err("this type of argument is not supported"),
    }
    Ok(())
}

/// Appends a text and its NUL.
fn text(out: &mut Vec<u8>, text: &str) -> Result<(), &'static str> {
    if text.contains('\0') {
        return Err("a text with a NUL in it");
    }
    out.extend(text.as_bytes());
    out.push(0);
    Ok(())
}

/// A count of elements.
fn count(count: usize) -> Result<[u8; 4], &'static str> {
    i32::try_from(count).map(i32::to_le_bytes).map_err(|_| "more than 2^31 elements")
}
