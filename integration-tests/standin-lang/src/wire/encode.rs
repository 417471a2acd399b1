//! Values to bytes, always little endian.

use std::collections::HashMap;

use super::Error;
use crate::value::{
    Cell, Decimal, Dictionary, Function, Matrix, Storage, Table, Type, Value, Vector, format,
};

/// Form bytes of the protocol.
pub(super) mod form {
    pub(in crate::wire) const SCALAR: u8 = 0;
    pub(in crate::wire) const VECTOR: u8 = 1;
    pub(in crate::wire) const PAIR: u8 = 2;
    pub(in crate::wire) const MATRIX: u8 = 3;
    pub(in crate::wire) const SET: u8 = 4;
    pub(in crate::wire) const DICTIONARY: u8 = 5;
    pub(in crate::wire) const TABLE: u8 = 6;
    /// "System object": here only the stand-in's own objects between its nodes.
    pub(in crate::wire) const SYSTEM: u8 = 9;
}

/// Type byte of a SYMBOL vector with a base of texts and an index per row.
pub(super) const SYMBOL_BASE: u8 = 17 + 128;
/// Type byte of the objects that only stand-ins exchange; no DolphinDB type has it.
pub(super) const PRIVATE: u8 = 127;
/// Tags behind a `PRIVATE` word.
pub(super) mod tag {
    pub(in crate::wire) const FUNCTION: u8 = 1;
    pub(in crate::wire) const TABLE_HANDLE: u8 = 2;
    pub(in crate::wire) const DATABASE: u8 = 3;
}

/// Who reads the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// A client: a function goes as FUNCTIONDEF with its text, a database as text.
    Client,
    /// Another stand-in: functions keep their bound arguments, handles stay handles.
    Node,
}

/// Returns a value's bytes.
///
/// # Errors
/// `Unsendable` for what has no form for this reader.
pub fn encode(value: &Value, reader: Reader) -> Result<Vec<u8>, Error> {
    let mut encoder = Encoder { out: Vec::new(), reader };
    encoder.value(value)?;
    Ok(encoder.out)
}

struct Encoder {
    out: Vec<u8>,
    reader: Reader,
}

impl Encoder {
    fn value(&mut self, value: &Value) -> Result<(), Error> {
        match value {
            Value::Nothing => {
                self.out.extend([Type::Void.code(), form::SCALAR, 0]);
                Ok(())
            }
            Value::Scalar(scalar) => {
                self.word(scalar.ty.code(), form::SCALAR);
                if let Storage::Decimal(_) = scalar.ty.storage() {
                    self.i32(scale_of(std::slice::from_ref(&scalar.cell)));
                }
                self.cell(scalar.ty, &scalar.cell)
            }
            Value::Vector(vector) => self.vector(form::VECTOR, vector, 0),
            Value::Pair(pair) => self.vector(form::PAIR, pair, 0),
            Value::Set(set) => {
                self.word(set.ty.code(), form::SET);
                self.vector(form::VECTOR, set, 0)
            }
            Value::Matrix(matrix) => self.matrix(matrix),
            Value::Dictionary(dictionary) => self.dictionary(dictionary),
            Value::Table(table) => self.table(table),
            Value::Function(function) => self.function(function),
            Value::TableHandle(handle) => {
                if self.reader == Reader::Client {
                    return Err(Error::Unsendable("a DFS table"));
                }
                self.private(tag::TABLE_HANDLE);
                self.text(&handle.database);
                self.text(&handle.table);
                Ok(())
            }
            Value::Database(database) => {
                if self.reader == Reader::Client {
                    return self.value(&Value::string(format::text(value)));
                }
                self.private(tag::DATABASE);
                self.text(&database.path);
                Ok(())
            }
            Value::Reference(_) => Err(Error::Unsendable("a reference to a variable")),
        }
    }

    fn word(&mut self, ty: u8, form: u8) {
        self.out.extend([ty, form]);
    }

    fn private(&mut self, tag: u8) {
        self.word(PRIVATE, form::SYSTEM);
        self.out.push(tag);
    }

    fn i32(&mut self, number: i32) {
        self.out.extend(number.to_le_bytes());
    }

    fn count(&mut self, count: usize) -> Result<(), Error> {
        let count = i32::try_from(count).map_err(|_| Error::Unsendable("more than 2^31 rows"))?;
        self.i32(count);
        Ok(())
    }

    /// Writes a text and its NUL; a NUL inside would end it early and is left out.
    fn text(&mut self, text: &str) {
        self.out.extend(text.bytes().filter(|byte| *byte != 0));
        self.out.push(0);
    }

    fn vector(&mut self, form: u8, vector: &Vector, symbol_base: i32) -> Result<(), Error> {
        if vector.ty == Type::Symbol && !vector.is_empty() {
            return self.symbols(form, vector, symbol_base);
        }
        self.word(vector.ty.code(), form);
        self.count(vector.len())?;
        self.i32(1);
        self.cells(vector)
    }

    fn cells(&mut self, vector: &Vector) -> Result<(), Error> {
        if let Storage::Decimal(_) = vector.ty.storage() {
            self.i32(scale_of(&vector.cells));
        }
        vector.cells.iter().try_for_each(|cell| self.cell(vector.ty, cell))
    }

    fn symbols(&mut self, form: u8, vector: &Vector, base_id: i32) -> Result<(), Error> {
        let mut base = vec![""];
        let mut places = HashMap::from([("", 0usize)]);
        let mut indices = Vec::with_capacity(vector.len());
        for cell in &vector.cells {
            let text = cell.as_str().unwrap_or("");
            let place = *places.entry(text).or_insert_with(|| {
                base.push(text);
                base.len() - 1
            });
            indices.push(place);
        }
        self.word(SYMBOL_BASE, form);
        self.count(vector.len())?;
        self.i32(1);
        self.i32(base_id);
        self.count(base.len())?;
        for text in base {
            self.text(text);
        }
        indices.into_iter().try_for_each(|place| self.count(place))
    }

    fn matrix(&mut self, matrix: &Matrix) -> Result<(), Error> {
        self.word(matrix.cells.ty.code(), form::MATRIX);
        let labels =
            u8::from(matrix.row_labels.is_some()) + 2 * u8::from(matrix.column_labels.is_some());
        self.out.push(labels);
        for labels in [&matrix.row_labels, &matrix.column_labels].into_iter().flatten() {
            self.vector(form::VECTOR, labels, 0)?;
        }
        self.word(matrix.cells.ty.code(), form::MATRIX);
        self.count(matrix.rows)?;
        self.count(matrix.columns)?;
        self.cells(&matrix.cells)
    }

    fn dictionary(&mut self, dictionary: &Dictionary) -> Result<(), Error> {
        self.word(dictionary.values.ty.code(), form::DICTIONARY);
        self.vector(form::VECTOR, &dictionary.keys, 0)?;
        self.vector(form::VECTOR, &dictionary.values, 0)
    }

    fn table(&mut self, table: &Table) -> Result<(), Error> {
        if table.columns().is_empty() {
            return Err(Error::Unsendable("a table without columns"));
        }
        self.word(0, form::TABLE);
        self.count(table.rows())?;
        self.count(table.columns().len())?;
        self.text(&table.name);
        for (name, _) in table.columns() {
            self.text(name);
        }
        for (base, (_, column)) in (0i32..).zip(table.columns()) {
            self.vector(form::VECTOR, column, base)?;
        }
        Ok(())
    }

    fn function(&mut self, function: &Function) -> Result<(), Error> {
        if self.reader == Reader::Client {
            self.word(Type::FunctionDef.code(), form::SCALAR);
            self.out.push(u8::from(function.source.is_some()));
            self.text(function.source.as_deref().unwrap_or(&function.name));
            return Ok(());
        }
        self.private(tag::FUNCTION);
        self.text(&function.name);
        self.out.push(u8::from(function.source.is_some()));
        if let Some(source) = &function.source {
            self.text(source);
        }
        self.count(function.bound.len())?;
        for place in &function.bound {
            self.out.push(u8::from(place.is_some()));
            if let Some(value) = place {
                self.value(value)?;
            }
        }
        Ok(())
    }

    fn cell(&mut self, ty: Type, cell: &Cell) -> Result<(), Error> {
        match ty.storage() {
            Storage::Void => self.out.push(1),
            Storage::Integer(width) => {
                let number = cell.as_i64().filter(|_| !cell.is_null());
                self.integer(number.map(i128::from), width);
            }
            Storage::Real(width) => {
                let number = cell.as_f64();
                if width == 4 {
                    #[expect(clippy::cast_possible_truncation, reason = "FLOAT has this precision")]
                    let single = number.map_or(-f32::MAX, |number| number as f32);
                    self.out.extend(single.to_le_bytes());
                } else {
                    self.out.extend(number.unwrap_or(-f64::MAX).to_le_bytes());
                }
            }
            Storage::Text => self.text(cell.as_str().unwrap_or("")),
            Storage::Bytes16 => {
                let bytes = fixed::<16>(cell).unwrap_or_default();
                self.out.extend(bytes.iter().rev());
            }
            Storage::TwoDoubles => {
                let null = (-f64::MAX).to_le_bytes();
                match fixed::<16>(cell) {
                    Some(bytes) => self.out.extend(bytes),
                    None => self.out.extend([null, null].concat()),
                }
            }
            Storage::Duration => match fixed::<8>(cell) {
                Some(bytes) => self.out.extend(bytes),
                None => self.out.extend(i64::from(i32::MIN as u32).to_le_bytes()),
            },
            Storage::Blob => {
                let bytes: &[u8] = match cell {
                    Cell::Bytes(bytes) => bytes,
                    Cell::Text(text) => text.as_bytes(),
                    Cell::Null
                    | Cell::Int(_)
                    | Cell::Real(_)
                    | Cell::Decimal(_)
                    | Cell::Value(_) => &[],
                };
                self.count(bytes.len())?;
                self.out.extend(bytes);
            }
            Storage::Decimal(width) => {
                let units =
                    if let Cell::Decimal(number) = cell { Some(number.units) } else { None };
                self.integer(units, width);
            }
            Storage::Function => {
                self.out.push(0);
                self.text(cell.as_str().unwrap_or(""));
            }
            Storage::Any => match cell {
                Cell::Value(value) => self.value(value)?,
                Cell::Null
                | Cell::Int(_)
                | Cell::Real(_)
                | Cell::Text(_)
                | Cell::Bytes(_)
                | Cell::Decimal(_) => self.value(&Value::null())?,
            },
        }
        Ok(())
    }

    /// Writes an integer of so many bytes; what does not fit is the null, the width's minimum.
    fn integer(&mut self, number: Option<i128>, width: u8) {
        let shift = 128 - u32::from(width) * 8;
        let null = i128::MIN >> shift;
        let number = number.filter(|n| (n << shift) >> shift == *n).unwrap_or(null);
        let bytes = number.to_le_bytes();
        self.out.extend(bytes.iter().take(usize::from(width)));
    }
}

/// Returns the scale that a scalar or vector of decimals is sent with: that of its first value.
fn scale_of(cells: &[Cell]) -> i32 {
    let scale = |cell: &Cell| {
        if let Cell::Decimal(number) = cell { Some(Decimal::clone(number).scale) } else { None }
    };
    cells.iter().find_map(scale).unwrap_or(0)
}

/// Returns a cell's bytes if there are exactly so many.
fn fixed<const N: usize>(cell: &Cell) -> Option<[u8; N]> {
    if let Cell::Bytes(bytes) = cell { bytes.as_slice().try_into().ok() } else { None }
}
