//! Making answers that are tables.

use standin_lang::eval::CallError;
use standin_lang::value::{Cell, Table, Type, Value, Vector};

use super::Outcome;

/// A table made row by row.
pub(super) struct Rows {
    columns: Vec<(&'static str, Vector)>,
}

impl Rows {
    /// A table of these columns, without rows.
    pub(super) fn new(columns: &[(&'static str, Type)]) -> Self {
        Self { columns: columns.iter().map(|(name, ty)| (*name, Vector::empty(*ty))).collect() }
    }

    /// Adds a row; what is missing at its end is null.
    pub(super) fn push(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let mut cells = cells.into_iter();
        for (_, column) in &mut self.columns {
            column.cells.push(cells.next().unwrap_or_default());
        }
    }

    /// The table.
    pub(super) fn table(self) -> Result<Table, CallError> {
        Table::new(self.columns).map_err(|error| CallError::Error(error.to_string()))
    }

    /// The table as an answer.
    pub(super) fn done(self) -> Outcome {
        self.table().map(Value::Table)
    }
}

/// A text cell.
pub(super) fn text(text: impl Into<String>) -> Cell {
    Cell::text(text)
}

/// An integer cell.
pub(super) fn int(number: impl TryInto<i64>) -> Cell {
    number.try_into().map_or(Cell::Null, Cell::Int)
}

/// A number cell.
pub(super) fn real(number: f64) -> Cell {
    Cell::Real(number)
}

/// A boolean cell.
pub(super) fn flag(flag: bool) -> Cell {
    Cell::bool(flag)
}

/// An integer cell that may be null.
pub(super) fn maybe(number: Option<i64>) -> Cell {
    number.map_or(Cell::Null, Cell::Int)
}
