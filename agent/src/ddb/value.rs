//! Values as nodes send them: columnar, with the wire's own nulls.

use std::borrow::Cow;
use std::sync::Arc;

use super::kind::Kind;

/// The elements of a vector.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// One byte each: BOOL, CHAR, VOID.
    I8(Vec<i8>),
    /// SHORT.
    I16(Vec<i16>),
    /// INT and the four-byte times; DECIMAL32.
    I32(Vec<i32>),
    /// LONG and the eight-byte times; DECIMAL64; DURATION as length in the low half, unit in the
    /// high one.
    I64(Vec<i64>),
    /// DECIMAL128.
    I128(Vec<i128>),
    /// FLOAT.
    F32(Vec<f32>),
    /// DOUBLE.
    F64(Vec<f64>),
    /// UUID, IPADDR, INT128 with the most significant byte first; COMPLEX and POINT as two
    /// little-endian doubles.
    B16(Vec<[u8; 16]>),
    /// STRING, and what functions are called.
    Text(Vec<String>),
    /// SYMBOL: numbers of texts in a base. Every number is in range.
    Symbol {
        /// The texts; the first is empty.
        base: Arc<Vec<String>>,
        /// Which.
        index: Vec<u32>,
    },
    /// BLOB.
    Blob(Vec<Vec<u8>>),
    /// ANY.
    Any(Vec<Value>),
    /// Array vector: how many values each row has, and all values.
    Arrays {
        /// Per row.
        lengths: Vec<u32>,
        /// Of all rows.
        values: Box<Vector>,
    },
}

impl Data {
    /// Appends data of the same type.
    pub(super) fn joined(self, part: Self) -> Self {
        match (self, part) {
            (Self::I8(a), Self::I8(b)) => Self::I8([a, b].concat()),
            (Self::I16(a), Self::I16(b)) => Self::I16([a, b].concat()),
            (Self::I32(a), Self::I32(b)) => Self::I32([a, b].concat()),
            (Self::I64(a), Self::I64(b)) => Self::I64([a, b].concat()),
            (Self::I128(a), Self::I128(b)) => Self::I128([a, b].concat()),
            (Self::F32(a), Self::F32(b)) => Self::F32([a, b].concat()),
            (Self::F64(a), Self::F64(b)) => Self::F64([a, b].concat()),
            (Self::B16(a), Self::B16(b)) => Self::B16([a, b].concat()),
            (a, _) => a,
        }
    }
}

/// A vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Vector {
    /// The type of the elements.
    pub kind: Kind,
    /// Digits after the point, for decimals.
    pub scale: i32,
    /// The elements.
    pub data: Data,
}

/// One element.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// BOOL.
    Bool(bool),
    /// Whole numbers and times, in the type's own unit; a decimal without its point.
    Int(i128),
    /// FLOAT and DOUBLE.
    Float(f64),
    /// STRING, SYMBOL, functions; UUIDs in their written form.
    Text(String),
    /// BLOB and the sixteen-byte types without a written form here.
    Bytes(Vec<u8>),
    /// An element of an ANY vector.
    Value(Box<Value>),
}

/// A matrix: `vector` holds the columns one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// All elements.
    pub vector: Vector,
    /// Row labels.
    pub row_labels: Option<Vector>,
    /// Column labels.
    pub column_labels: Option<Vector>,
}

/// A dictionary.
#[derive(Debug, Clone, PartialEq)]
pub struct Dictionary {
    /// Keys.
    pub keys: Vector,
    /// Values, as many.
    pub values: Vector,
}

/// A table; every column has `rows` elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Rows.
    pub rows: usize,
    /// Names and columns.
    pub columns: Vec<(String, Vector)>,
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// The node sent no object.
    Nothing,
    /// A scalar, kept as a vector of one element.
    Scalar(Vector),
    /// A vector.
    Vector(Vector),
    /// A pair.
    Pair(Vector),
    /// A matrix.
    Matrix(Box<Matrix>),
    /// A set.
    Set(Vector),
    /// A dictionary.
    Dictionary(Box<Dictionary>),
    /// A table.
    Table(Table),
}

impl Vector {
    /// Makes a vector of strings.
    pub fn text<S: Into<String>>(texts: impl IntoIterator<Item = S>) -> Self {
        let texts = texts.into_iter().map(Into::into).collect();
        Self { kind: Kind::Text, scale: 0, data: Data::Text(texts) }
    }

    /// Makes a vector of INT.
    pub const fn int(values: Vec<i32>) -> Self {
        Self { kind: Kind::Int, scale: 0, data: Data::I32(values) }
    }

    /// Makes a vector of LONG.
    pub const fn long(values: Vec<i64>) -> Self {
        Self { kind: Kind::Long, scale: 0, data: Data::I64(values) }
    }

    /// Makes a vector of TIMESTAMP: milliseconds since 1970.
    pub const fn timestamp(values: Vec<i64>) -> Self {
        Self { kind: Kind::Timestamp, scale: 0, data: Data::I64(values) }
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        match &self.data {
            Data::I8(v) => v.len(),
            Data::I16(v) => v.len(),
            Data::I32(v) => v.len(),
            Data::I64(v) => v.len(),
            Data::I128(v) => v.len(),
            Data::F32(v) => v.len(),
            Data::F64(v) => v.len(),
            Data::B16(v) => v.len(),
            Data::Text(v) => v.len(),
            Data::Symbol { index, .. } => index.len(),
            Data::Blob(v) => v.len(),
            Data::Any(v) => v.len(),
            Data::Arrays { lengths, .. } => lengths.len(),
        }
    }

    /// Tells whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns one element; [`Cell::Null`] beyond the end, and for the rows of array vectors, which
    /// have no single value.
    pub fn cell(&self, at: usize) -> Cell {
        match &self.data {
            Data::I8(v) => match v.get(at) {
                None | Some(&i8::MIN) => Cell::Null,
                Some(_) if self.kind == Kind::Void => Cell::Null,
                Some(&byte) if self.kind == Kind::Bool => Cell::Bool(byte != 0),
                Some(&byte) => Cell::Int(i128::from(byte)),
            },
            Data::I16(v) => whole(v.get(at).copied(), i16::MIN),
            Data::I32(v) => whole(v.get(at).copied(), i32::MIN),
            Data::I64(v) => whole(v.get(at).copied(), i64::MIN),
            Data::I128(v) => whole(v.get(at).copied(), i128::MIN),
            Data::F32(v) => v
                .get(at)
                .filter(|&&f| f != -f32::MAX)
                .map_or(Cell::Null, |&f| Cell::Float(f64::from(f))),
            Data::F64(v) => {
                v.get(at).filter(|&&f| f != -f64::MAX).map_or(Cell::Null, |&f| Cell::Float(f))
            }
            Data::B16(v) => match v.get(at) {
                None => Cell::Null,
                Some(bytes) if *bytes == [0; 16] => Cell::Null,
                Some(bytes) if self.kind == Kind::Uuid => Cell::Text(uuid_text(bytes)),
                Some(bytes) => Cell::Bytes(bytes.to_vec()),
            },
            Data::Text(v) => v.get(at).map_or(Cell::Null, |text| Cell::Text(text.clone())),
            Data::Symbol { .. } => {
                self.str(at).map_or(Cell::Null, |text| Cell::Text(text.to_owned()))
            }
            Data::Blob(v) => v.get(at).map_or(Cell::Null, |bytes| Cell::Bytes(bytes.clone())),
            Data::Any(v) => v.get(at).map_or(Cell::Null, |value| match value {
                Value::Scalar(vector) => vector.cell(0),
                Value::Nothing => Cell::Null,
                Value::Vector(_)
                | Value::Pair(_)
                | Value::Matrix(_)
                | Value::Set(_)
                | Value::Dictionary(_)
                | Value::Table(_) => Cell::Value(Box::new(value.clone())),
            }),
            Data::Arrays { .. } => Cell::Null,
        }
    }

    /// Returns a text without copying it; none for other types.
    pub fn str(&self, at: usize) -> Option<&str> {
        match &self.data {
            Data::Text(v) => v.get(at).map(String::as_str),
            Data::Symbol { base, index } => {
                base.get(usize::try_from(*index.get(at)?).ok()?).map(String::as_str)
            }
            Data::Any(v) => match v.get(at)? {
                Value::Scalar(vector) => vector.str(0),
                Value::Nothing
                | Value::Vector(_)
                | Value::Pair(_)
                | Value::Matrix(_)
                | Value::Set(_)
                | Value::Dictionary(_)
                | Value::Table(_) => None,
            },
            Data::I8(_)
            | Data::I16(_)
            | Data::I32(_)
            | Data::I64(_)
            | Data::I128(_)
            | Data::F32(_)
            | Data::F64(_)
            | Data::B16(_)
            | Data::Blob(_)
            | Data::Arrays { .. } => None,
        }
    }

    /// Returns an element as text: texts, UUIDs, whole numbers. None for null and the rest.
    pub fn word(&self, at: usize) -> Option<Cow<'_, str>> {
        if let Some(text) = self.str(at) {
            return Some(Cow::Borrowed(text));
        }
        match self.cell(at) {
            Cell::Text(text) => Some(Cow::Owned(text)),
            Cell::Int(number) => Some(Cow::Owned(number.to_string())),
            Cell::Bool(yes) => Some(Cow::Owned(if yes { "1" } else { "0" }.to_owned())),
            Cell::Null | Cell::Float(_) | Cell::Bytes(_) | Cell::Value(_) => None,
        }
    }

    /// Returns an element as a whole number; BOOL counts as 0 and 1, a text if it is a number.
    pub fn integer(&self, at: usize) -> Option<i64> {
        match self.cell(at) {
            Cell::Int(number) => i64::try_from(number).ok(),
            Cell::Bool(yes) => Some(i64::from(yes)),
            Cell::Text(text) => text.trim().parse().ok(),
            Cell::Null | Cell::Float(_) | Cell::Bytes(_) | Cell::Value(_) => None,
        }
    }

    /// Returns an element as a number.
    pub fn number(&self, at: usize) -> Option<f64> {
        match self.cell(at) {
            Cell::Float(number) => Some(number),
            #[expect(clippy::cast_precision_loss, reason = "figures for people and estimates")]
            Cell::Int(number) => Some(number as f64),
            Cell::Bool(yes) => Some(f64::from(u8::from(yes))),
            Cell::Text(text) => text.trim().parse().ok(),
            Cell::Null | Cell::Bytes(_) | Cell::Value(_) => None,
        }
    }

    /// Returns an element as yes or no; numbers count as "not 0".
    pub fn boolean(&self, at: usize) -> Option<bool> {
        match self.cell(at) {
            Cell::Bool(yes) => Some(yes),
            Cell::Int(number) => Some(number != 0),
            Cell::Text(text) => match text.as_str() {
                "1" | "true" => Some(true),
                "0" | "false" => Some(false),
                _ => None,
            },
            Cell::Null | Cell::Float(_) | Cell::Bytes(_) | Cell::Value(_) => None,
        }
    }

    /// Returns every element as text; nulls are empty.
    pub fn words(&self) -> Vec<String> {
        (0..self.len()).map(|at| self.word(at).unwrap_or_default().into_owned()).collect()
    }

    /// Returns the element of an ANY vector as it is.
    pub fn value(&self, at: usize) -> Option<&Value> {
        if let Data::Any(values) = &self.data { values.get(at) } else { None }
    }
}

impl Table {
    /// Finds a column by name, exactly or else whatever the case: versions differ in it.
    pub fn column(&self, name: &str) -> Option<&Vector> {
        self.columns
            .iter()
            .find(|(column, _)| column == name)
            .or_else(|| self.columns.iter().find(|(column, _)| column.eq_ignore_ascii_case(name)))
            .map(|(_, vector)| vector)
    }
}

impl Dictionary {
    /// Finds the value of a key as a vector and the place in it.
    fn place(&self, key: &str) -> Option<usize> {
        (0..self.keys.len()).find(|&at| self.keys.str(at) == Some(key))
    }

    /// Returns the value of a key as one element.
    pub fn cell(&self, key: &str) -> Option<Cell> {
        self.place(key).map(|at| self.values.cell(at))
    }

    /// Returns the value of a key as text.
    pub fn word(&self, key: &str) -> Option<String> {
        self.place(key).and_then(|at| self.values.word(at)).map(Cow::into_owned)
    }

    /// Returns the value of a key as it is, where the values are of any form.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.place(key).and_then(|at| self.values.value(at))
    }
}

impl Value {
    /// Makes a STRING.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Scalar(Vector::text([text.into()]))
    }

    /// Makes a BOOL.
    pub fn bool(yes: bool) -> Self {
        let data = Data::I8(vec![i8::from(yes)]);
        Self::Scalar(Vector { kind: Kind::Bool, scale: 0, data })
    }

    /// Makes an INT.
    pub fn int(number: i32) -> Self {
        Self::Scalar(Vector::int(vec![number]))
    }

    /// Returns the elements of a scalar, vector, pair or set.
    pub const fn vector(&self) -> Option<&Vector> {
        match self {
            Self::Scalar(vector)
            | Self::Vector(vector)
            | Self::Pair(vector)
            | Self::Set(vector) => Some(vector),
            Self::Nothing | Self::Matrix(_) | Self::Dictionary(_) | Self::Table(_) => None,
        }
    }

    /// Returns the scalar.
    pub const fn scalar(&self) -> Option<&Vector> {
        if let Self::Scalar(vector) = self { Some(vector) } else { None }
    }

    /// Returns a scalar's text.
    pub fn word(&self) -> Option<String> {
        self.scalar().and_then(|vector| vector.word(0)).map(Cow::into_owned)
    }

    /// Returns a scalar's whole number.
    pub fn integer(&self) -> Option<i64> {
        self.scalar().and_then(|vector| vector.integer(0))
    }

    /// Returns a scalar's yes or no.
    pub fn boolean(&self) -> Option<bool> {
        self.scalar().and_then(|vector| vector.boolean(0))
    }

    /// Returns the table.
    pub const fn table(&self) -> Option<&Table> {
        if let Self::Table(table) = self { Some(table) } else { None }
    }

    /// Returns the dictionary.
    pub const fn dictionary(&self) -> Option<&Dictionary> {
        if let Self::Dictionary(dictionary) = self { Some(dictionary) } else { None }
    }

    /// Tells whether there is nothing in it: no object, or a null scalar.
    pub fn is_null(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Scalar(vector) => match vector.cell(0) {
                Cell::Null => true,
                Cell::Text(text) => text.is_empty(),
                Cell::Bool(_) | Cell::Int(_) | Cell::Float(_) | Cell::Bytes(_) | Cell::Value(_) => {
                    false
                }
            },
            Self::Vector(_)
            | Self::Pair(_)
            | Self::Matrix(_)
            | Self::Set(_)
            | Self::Dictionary(_)
            | Self::Table(_) => false,
        }
    }
}

/// A whole number, or null where it is the type's smallest.
fn whole<T: Copy + PartialEq + Into<i128>>(value: Option<T>, null: T) -> Cell {
    value.filter(|value| *value != null).map_or(Cell::Null, |value| Cell::Int(value.into()))
}

/// The written form of a UUID.
fn uuid_text(bytes: &[u8; 16]) -> String {
    uuid::Uuid::from_bytes(*bytes).to_string()
}
