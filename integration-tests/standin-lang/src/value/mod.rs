//! Values of every form and type a node sends, receives or keeps in a variable.

mod cell;
pub mod format;
mod function;
pub mod parse;
mod table;
pub mod time;
mod types;
mod vector;

pub use cell::{Cell, Decimal};
pub use function::{Database, Function, TableHandle};
pub use table::{Table, TableError};
pub use types::{Storage, Type};
pub use vector::{Vector, cast_cell, common_type};

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// No value at all: a missing argument, the result of a command.
    Nothing,
    /// A typed scalar, null included.
    Scalar(Scalar),
    /// A typed vector, or an ANY vector.
    Vector(Vector),
    /// A pair such as `1:0`; two cells.
    Pair(Vector),
    /// A matrix.
    Matrix(Matrix),
    /// A set.
    Set(Vector),
    /// A dictionary.
    Dictionary(Dictionary),
    /// A table in memory.
    Table(Table),
    /// A function by name or by source text, some of its arguments bound already.
    Function(Function),
    /// A DFS table that the node keeps; `select` asks the host for its rows.
    TableHandle(TableHandle),
    /// A DFS database.
    Database(Database),
    /// An in-memory table by the name of the variable that holds it. Only the evaluator makes
    /// these, so that `tableInsert{t}` reaches the variable and not a copy.
    Reference(String),
}

/// A typed scalar.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    /// Its type; VOID is the untyped NULL.
    pub ty: Type,
    /// Its content.
    pub cell: Cell,
}

impl Scalar {
    /// Returns a scalar.
    #[must_use]
    pub const fn new(ty: Type, cell: Cell) -> Self {
        Self { ty, cell }
    }
}

/// A matrix, column after column.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Labels of the rows.
    pub row_labels: Option<Vector>,
    /// Labels of the columns.
    pub column_labels: Option<Vector>,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// `rows * columns` cells.
    pub cells: Vector,
}

/// A dictionary: keys and values of one length.
#[derive(Debug, Clone, PartialEq)]
pub struct Dictionary {
    /// The keys, in the order they were added.
    pub keys: Vector,
    /// The values; of type ANY where they differ.
    pub values: Vector,
}

impl Dictionary {
    /// Returns the value of a key.
    #[must_use]
    pub fn get(&self, key: &Scalar) -> Option<Value> {
        let wanted = cast_cell(key.ty, &key.cell, self.keys.ty)?;
        let place = self.keys.cells.iter().position(|known| *known == wanted)?;
        Some(self.values.get(place))
    }

    /// Returns the value of a text key.
    #[must_use]
    pub fn text_key(&self, key: &str) -> Option<Value> {
        self.get(&Scalar::new(Type::String, Cell::text(key)))
    }
}

impl Value {
    /// Returns the untyped NULL.
    #[must_use]
    pub const fn null() -> Self {
        Self::Scalar(Scalar::new(Type::Void, Cell::Null))
    }

    /// Returns a scalar of any type.
    #[must_use]
    pub const fn scalar(ty: Type, cell: Cell) -> Self {
        Self::Scalar(Scalar::new(ty, cell))
    }

    /// Returns a BOOL.
    #[must_use]
    pub fn bool(flag: bool) -> Self {
        Self::scalar(Type::Bool, Cell::bool(flag))
    }

    /// Returns an INT.
    #[must_use]
    pub fn int(number: i32) -> Self {
        Self::scalar(Type::Int, Cell::Int(i64::from(number)))
    }

    /// Returns a LONG.
    #[must_use]
    pub const fn long(number: i64) -> Self {
        Self::scalar(Type::Long, Cell::Int(number))
    }

    /// Returns an INT for a count; null where it does not fit.
    #[must_use]
    pub fn count(count: usize) -> Self {
        let cell = i32::try_from(count).map_or(Cell::Null, |n| Cell::Int(i64::from(n)));
        Self::scalar(Type::Int, cell)
    }

    /// Returns a DOUBLE.
    #[must_use]
    pub const fn double(number: f64) -> Self {
        Self::scalar(Type::Double, Cell::Real(number))
    }

    /// Returns a STRING.
    #[must_use]
    pub fn string(text: impl Into<String>) -> Self {
        Self::scalar(Type::String, Cell::text(text))
    }

    /// Returns a SYMBOL.
    #[must_use]
    pub fn symbol(text: impl Into<String>) -> Self {
        Self::scalar(Type::Symbol, Cell::text(text))
    }

    /// Returns a DATE of so many days since 1970.
    #[must_use]
    pub const fn date(days: i64) -> Self {
        Self::scalar(Type::Date, Cell::Int(days))
    }

    /// Returns a TIMESTAMP of so many milliseconds since 1970.
    #[must_use]
    pub const fn timestamp(ms: i64) -> Self {
        Self::scalar(Type::Timestamp, Cell::Int(ms))
    }

    /// Returns a UUID, the bytes in the order they are written.
    #[must_use]
    pub fn uuid(bytes: [u8; 16]) -> Self {
        Self::scalar(Type::Uuid, Cell::Bytes(bytes.to_vec()))
    }

    /// Returns an ANY vector.
    #[must_use]
    pub fn any(values: impl IntoIterator<Item = Self>) -> Self {
        Self::Vector(Vector::any(values))
    }

    /// Returns a dictionary of texts to values of any kind, as `schema` and `license` answer.
    #[must_use]
    pub fn dictionary<K: Into<String>>(entries: impl IntoIterator<Item = (K, Self)>) -> Self {
        let (keys, values): (Vec<_>, Vec<_>) =
            entries.into_iter().map(|(key, value)| (key.into(), value)).unzip();
        Self::Dictionary(Dictionary { keys: Vector::strings(keys), values: Vector::any(values) })
    }

    /// Returns a table of these columns.
    ///
    /// # Errors
    /// See [`Table::new`].
    pub fn table<N: Into<String>>(
        columns: impl IntoIterator<Item = (N, Vector)>,
    ) -> Result<Self, TableError> {
        Table::new(columns).map(Self::Table)
    }

    /// Returns a reference to a function by name, without bound arguments.
    #[must_use]
    pub fn function(name: impl Into<String>) -> Self {
        Self::Function(Function::named(name))
    }

    /// Tells whether this is no value or a null.
    #[must_use]
    pub fn is_null(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Scalar(scalar) => scalar.cell.is_null(),
            Self::Vector(_)
            | Self::Pair(_)
            | Self::Matrix(_)
            | Self::Set(_)
            | Self::Dictionary(_)
            | Self::Table(_)
            | Self::Function(_)
            | Self::TableHandle(_)
            | Self::Database(_)
            | Self::Reference(_) => false,
        }
    }

    /// Returns the scalar.
    #[must_use]
    pub const fn as_scalar(&self) -> Option<&Scalar> {
        if let Self::Scalar(scalar) = self { Some(scalar) } else { None }
    }

    /// Returns a scalar's text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        self.as_scalar()?.cell.as_str()
    }

    /// Returns a scalar's integer.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        self.as_scalar()?.cell.as_i64()
    }

    /// Returns a scalar's number.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        self.as_scalar()?.cell.as_f64()
    }

    /// Returns a scalar's truth: not zero; null is no answer.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        self.as_f64().map(|number| number != 0.0)
    }

    /// Returns the table.
    #[must_use]
    pub const fn as_table(&self) -> Option<&Table> {
        if let Self::Table(table) = self { Some(table) } else { None }
    }

    /// Returns the vector.
    #[must_use]
    pub const fn as_vector(&self) -> Option<&Vector> {
        if let Self::Vector(vector) = self { Some(vector) } else { None }
    }

    /// Returns the function.
    #[must_use]
    pub const fn as_function(&self) -> Option<&Function> {
        if let Self::Function(function) = self { Some(function) } else { None }
    }

    /// Returns a scalar text, or every text of a vector: how scripts give one name or several.
    #[must_use]
    pub fn to_texts(&self) -> Option<Vec<String>> {
        if let Some(text) = self.as_str() {
            return Some(vec![text.to_owned()]);
        }
        Some(self.as_vector()?.texts()?.map(str::to_owned).collect())
    }

    /// Returns a vector as it is and a scalar as a vector of one.
    #[must_use]
    pub fn to_vector(&self) -> Option<Vector> {
        match self {
            Self::Scalar(scalar) => Some(Vector::new(scalar.ty, vec![scalar.cell.clone()])),
            Self::Vector(vector) | Self::Pair(vector) | Self::Set(vector) => Some(vector.clone()),
            Self::Nothing
            | Self::Matrix(_)
            | Self::Dictionary(_)
            | Self::Table(_)
            | Self::Function(_)
            | Self::TableHandle(_)
            | Self::Database(_)
            | Self::Reference(_) => None,
        }
    }

    /// Returns the number of elements, or rows of a table.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Scalar(_)
            | Self::Function(_)
            | Self::TableHandle(_)
            | Self::Database(_)
            | Self::Reference(_) => 1,
            Self::Vector(vector) | Self::Pair(vector) | Self::Set(vector) => vector.len(),
            Self::Matrix(matrix) => matrix.cells.len(),
            Self::Dictionary(dictionary) => dictionary.keys.len(),
            Self::Table(table) => table.rows(),
        }
    }

    /// Tells whether there is no element or row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the data type as `typestr` and `type` see it.
    #[must_use]
    pub fn data_type(&self) -> Type {
        match self {
            Self::Nothing => Type::Void,
            Self::Scalar(scalar) => scalar.ty,
            Self::Vector(vector) | Self::Pair(vector) | Self::Set(vector) => vector.ty,
            Self::Matrix(matrix) => matrix.cells.ty,
            Self::Dictionary(dictionary) => dictionary.values.ty,
            Self::Table(_) | Self::TableHandle(_) | Self::Database(_) | Self::Reference(_) => {
                Type::Any
            }
            Self::Function(_) => Type::FunctionDef,
        }
    }
}

impl From<Vector> for Value {
    fn from(vector: Vector) -> Self {
        Self::Vector(vector)
    }
}

impl From<Scalar> for Value {
    fn from(scalar: Scalar) -> Self {
        Self::Scalar(scalar)
    }
}

impl From<Function> for Value {
    fn from(function: Function) -> Self {
        Self::Function(function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionaries_are_read_by_key() {
        let Value::Dictionary(dictionary) =
            Value::dictionary([("a", Value::int(1)), ("b", Value::string("x"))])
        else {
            panic!("not a dictionary");
        };
        assert_eq!(dictionary.text_key("b"), Some(Value::string("x")));
        assert_eq!(dictionary.text_key("c"), None);
        assert_eq!(
            dictionary.get(&Scalar::new(Type::Symbol, Cell::text("a"))),
            Some(Value::int(1))
        );
    }

    #[test]
    fn one_name_or_several() {
        assert_eq!(Value::string("a").to_texts(), Some(vec!["a".to_owned()]));
        let several = Value::Vector(Vector::strings(["a", "b"]));
        assert_eq!(several.to_texts().map(|texts| texts.len()), Some(2));
        assert_eq!(Value::int(1).to_texts(), None);
    }
}
