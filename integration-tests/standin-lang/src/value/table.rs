//! Tables: named columns of one length.

use super::{Cell, Type, Value, Vector};

/// A table held in memory.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// The table's own name; nearly always empty.
    pub name: String,
    /// The columns in order. All have the same length.
    columns: Vec<(String, Vector)>,
}

/// Why columns and rows do not make a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// A column is longer or shorter than the first one.
    #[error("column `{column}` has {rows} rows where the table has {expected}")]
    Uneven {
        /// The column's name.
        column: String,
        /// Its rows.
        rows: usize,
        /// Rows of the first column.
        expected: usize,
    },
    /// Data with another number of columns.
    #[error("the data has {found} columns where the table has {expected}")]
    Columns {
        /// Columns of the data.
        found: usize,
        /// Columns of the table.
        expected: usize,
    },
    /// A value cannot become the column's type.
    #[error("column `{column}` of type {ty} cannot take a value of type {found}", ty = .ty.name(), found = .found.name())]
    Type {
        /// The column's name.
        column: String,
        /// The column's type.
        ty: Type,
        /// The type of the data.
        found: Type,
    },
}

impl Table {
    /// Returns a table of these columns.
    ///
    /// # Errors
    /// `Uneven` if the columns are not of one length.
    pub fn new<N: Into<String>>(
        columns: impl IntoIterator<Item = (N, Vector)>,
    ) -> Result<Self, TableError> {
        let columns: Vec<_> =
            columns.into_iter().map(|(name, column)| (name.into(), column)).collect();
        let expected = columns.first().map_or(0, |(_, column)| column.len());
        for (name, column) in &columns {
            if column.len() != expected {
                let (column, rows) = (name.clone(), column.len());
                return Err(TableError::Uneven { column, rows, expected });
            }
        }
        Ok(Self { name: String::new(), columns })
    }

    /// Returns a table without rows.
    #[must_use]
    pub fn empty<N: Into<String>>(schema: impl IntoIterator<Item = (N, Type)>) -> Self {
        let columns = schema.into_iter().map(|(name, ty)| (name.into(), Vector::empty(ty)));
        Self { name: String::new(), columns: columns.collect() }
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, |(_, column)| column.len())
    }

    /// Returns the columns in order.
    #[must_use]
    pub fn columns(&self) -> &[(String, Vector)] {
        &self.columns
    }

    /// Returns the columns, giving the table up.
    #[must_use]
    pub fn into_columns(self) -> Vec<(String, Vector)> {
        self.columns
    }

    /// Returns the column of this name. Names are compared without regard to case, as in SQL.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Vector> {
        let exact = self.columns.iter().find(|(known, _)| known == name);
        let found =
            exact.or_else(|| self.columns.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)));
        found.map(|(_, column)| column)
    }

    /// Returns the cell of a row and a column.
    #[must_use]
    pub fn cell(&self, row: usize, column: &str) -> Option<&Cell> {
        self.column(column)?.cells.get(row)
    }

    /// Returns a row's cells in column order; none beyond the last row.
    pub fn row(&self, row: usize) -> impl Iterator<Item = &Cell> {
        self.columns.iter().filter_map(move |(_, column)| column.cells.get(row))
    }

    /// Returns a table of these rows, in this order; rows that do not exist become nulls.
    #[must_use]
    pub fn pick(&self, rows: &[usize]) -> Self {
        let columns = self.columns.iter().map(|(name, column)| (name.clone(), column.pick(rows)));
        Self { name: self.name.clone(), columns: columns.collect() }
    }

    /// Appends a row.
    ///
    /// # Errors
    /// `Columns` if the row has another number of cells; the cells' types are the caller's care.
    pub fn push_row(&mut self, row: Vec<Cell>) -> Result<(), TableError> {
        if row.len() != self.columns.len() {
            return Err(TableError::Columns { found: row.len(), expected: self.columns.len() });
        }
        for ((_, column), cell) in self.columns.iter_mut().zip(row) {
            column.cells.push(cell);
        }
        Ok(())
    }

    /// Appends the rows of another table by position, casting each column to this table's type.
    /// Nothing is appended on an error.
    ///
    /// # Errors
    /// `Columns` or `Type` if the schemas do not fit.
    pub fn append(&mut self, data: &Self) -> Result<usize, TableError> {
        if data.columns.len() != self.columns.len() {
            let (found, expected) = (data.columns.len(), self.columns.len());
            return Err(TableError::Columns { found, expected });
        }
        let mut cast = Vec::with_capacity(self.columns.len());
        for ((name, column), (_, new)) in self.columns.iter().zip(&data.columns) {
            cast.push(new.cast(column.ty).ok_or_else(|| TableError::Type {
                column: name.clone(),
                ty: column.ty,
                found: new.ty,
            })?);
        }
        for ((_, column), mut new) in self.columns.iter_mut().zip(cast) {
            column.cells.append(&mut new.cells);
        }
        Ok(data.rows())
    }

    /// Returns the table `name, typeString, typeInt, extra, comment` that `schema(t).colDefs` is.
    #[must_use]
    pub fn column_definitions(&self) -> Self {
        let types = || self.columns.iter().map(|(_, column)| column.ty);
        let count = self.columns.len();
        let columns = vec![
            ("name", Vector::strings(self.columns.iter().map(|(name, _)| name.clone()))),
            ("typeString", Vector::strings(types().map(Type::name))),
            ("typeInt", Vector::ints(types().map(|ty| i32::from(ty.code())))),
            ("extra", Vector::nulls(Type::Int, count)),
            ("comment", Vector::nulls(Type::String, count)),
        ];
        Self {
            name: String::new(),
            columns: columns.into_iter().map(|(name, column)| (name.to_owned(), column)).collect(),
        }
    }
}

impl From<Table> for Value {
    fn from(table: Table) -> Self {
        Self::Table(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_appended_with_a_cast_or_not_at_all() {
        let mut table = Table::empty([("time", Type::Timestamp), ("id", Type::Int)]);
        let data = Table::new([
            ("time", Vector::new(Type::Date, vec![Cell::Int(1)])),
            ("id", Vector::longs([7])),
        ])
        .unwrap();
        assert_eq!(table.append(&data), Ok(1));
        assert_eq!(table.cell(0, "TIME"), Some(&Cell::Int(86_400_000)));
        let bad =
            Table::new([("time", Vector::strings(["x"])), ("id", Vector::ints([1]))]).unwrap();
        assert!(table.append(&bad).is_err());
        assert_eq!(table.rows(), 1);
    }

    #[test]
    fn uneven_columns_are_no_table() {
        let error = Table::new([("a", Vector::ints([1])), ("b", Vector::ints([1, 2]))]);
        assert!(matches!(error, Err(TableError::Uneven { rows: 2, expected: 1, .. })));
    }
}
