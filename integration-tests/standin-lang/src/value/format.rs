//! Values as text: what `string`, `print` and error messages show.

use super::{Cell, Storage, Type, Value, time};

/// Rows of a table that `print` shows.
const SHOWN_ROWS: usize = 50;
/// Elements of a vector that `print` shows.
const SHOWN_ELEMENTS: usize = 100;

/// Returns a cell as `string` writes it; nulls are empty.
#[must_use]
pub fn cell_text(ty: Type, cell: &Cell) -> String {
    if cell.is_null() {
        return String::new();
    }
    match cell {
        Cell::Null => String::new(),
        Cell::Int(number) if ty == Type::Bool => (*number != 0).to_string(),
        Cell::Int(number) => time::text(ty, *number).unwrap_or_else(|| number.to_string()),
        Cell::Real(number) => number.to_string(),
        Cell::Text(text) => text.clone(),
        Cell::Bytes(bytes) => bytes_text(ty, bytes),
        Cell::Decimal(number) => {
            let digits = usize::try_from(number.scale).unwrap_or(0).min(38);
            format!("{:.digits$}", number.to_f64())
        }
        Cell::Value(value) => text(value),
    }
}

/// Writes 16-byte values and blobs.
fn bytes_text(ty: Type, bytes: &[u8]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if ty.storage() == Storage::Blob {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let Ok(octets) = <[u8; 16]>::try_from(bytes) else { return hex(bytes) };
    if ty == Type::IpAddr {
        let address = std::net::Ipv6Addr::from(octets);
        return match octets {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] => format!("{a}.{b}.{c}.{d}"),
            _ => address.to_string(),
        };
    }
    if ty == Type::Uuid {
        let groups = [0..4, 4..6, 6..8, 8..10, 10..16];
        let groups: Vec<_> =
            groups.into_iter().filter_map(|range| octets.get(range)).map(hex).collect();
        return groups.join("-");
    }
    hex(&octets)
}

/// Returns a value as text.
#[must_use]
pub fn text(value: &Value) -> String {
    match value {
        Value::Nothing => String::new(),
        Value::Scalar(scalar) => cell_text(scalar.ty, &scalar.cell),
        Value::Vector(vector) => {
            let shown: Vec<_> = vector
                .cells
                .iter()
                .take(SHOWN_ELEMENTS)
                .map(|cell| cell_text(vector.ty, cell))
                .collect();
            let more = if vector.len() > SHOWN_ELEMENTS { "..." } else { "" };
            let shown = shown.join(",");
            if vector.ty == Type::Any {
                format!("({shown}{more})")
            } else {
                format!("[{shown}{more}]")
            }
        }
        Value::Pair(pair) => {
            let cells: Vec<_> = pair.cells.iter().map(|cell| cell_text(pair.ty, cell)).collect();
            cells.join(" : ")
        }
        Value::Set(set) => {
            let cells: Vec<_> = set.cells.iter().map(|cell| cell_text(set.ty, cell)).collect();
            format!("set({})", cells.join(","))
        }
        Value::Matrix(matrix) => format!("matrix of {} x {}", matrix.rows, matrix.columns),
        Value::Dictionary(dictionary) => {
            let lines: Vec<_> = dictionary
                .keys
                .cells
                .iter()
                .zip(dictionary.values.values())
                .map(|(key, value)| {
                    format!("{}->{}", cell_text(dictionary.keys.ty, key), text(&value))
                })
                .collect();
            lines.join("\n")
        }
        Value::Table(table) => {
            let names: Vec<_> = table.columns().iter().map(|(name, _)| name.as_str()).collect();
            let mut lines = vec![names.join(" ")];
            for row in 0..table.rows().min(SHOWN_ROWS) {
                let cells: Vec<_> = table
                    .columns()
                    .iter()
                    .zip(table.row(row))
                    .map(|((_, column), cell)| cell_text(column.ty, cell))
                    .collect();
                lines.push(cells.join(" "));
            }
            lines.join("\n")
        }
        Value::Function(function) => match &function.source {
            Some(source) => source.to_string(),
            None => function.name.clone(),
        },
        Value::TableHandle(handle) => format!("loadTable({}, {})", handle.database, handle.table),
        Value::Database(database) => format!("DB[{}]", database.path),
        Value::Reference(name) => name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Vector;

    #[test]
    fn values_are_written_for_people() {
        assert_eq!(text(&Value::bool(true)), "true");
        assert_eq!(text(&Value::null()), "");
        assert_eq!(text(&Value::Vector(Vector::ints([1, 2]))), "[1,2]");
        assert_eq!(text(&Value::double(2.0)), "2");
        let id: [u8; 16] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        assert_eq!(text(&Value::uuid(id)), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        let mut address = [0; 16];
        address[12..].copy_from_slice(&[127, 0, 0, 1]);
        assert_eq!(cell_text(Type::IpAddr, &Cell::Bytes(address.to_vec())), "127.0.0.1");
    }
}
