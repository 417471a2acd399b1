//! Bytes to values. Nothing is allocated before its bytes are there, and everything is charged
//! against one budget: a hostile length ends the request, not the process.

use std::collections::HashMap;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncBufRead, AsyncReadExt};

use super::encode::{PRIVATE, SYMBOL_BASE, form, tag};
use super::{Error, Limits};
use crate::value::{
    Cell, Database, Decimal, Dictionary, Function, Matrix, Storage, Table, TableHandle, Type,
    Value, Vector,
};

/// What a cell is charged beside its own bytes.
const CELL_COST: usize = size_of::<Cell>();
/// What an object is charged.
const VALUE_COST: usize = size_of::<Value>() + CELL_COST;
/// Cells for which room is made before their bytes have come.
const RESERVED_CELLS: usize = 1024;
/// Added to a type's code: a vector of vectors of that type.
const ARRAY_OFFSET: u8 = 64;

/// Reads one object from bytes; returns it and what follows it.
///
/// # Errors
/// `Object`, `Limit`, or `Io` when the bytes end too early.
pub fn decode<'b>(
    bytes: &'b [u8],
    little_endian: bool,
    limits: &Limits,
) -> Result<(Value, &'b [u8]), Error> {
    let mut rest = bytes;
    let outcome = {
        let mut decoder = Decoder::new(&mut rest, little_endian, limits);
        let future = pin!(decoder.value());
        // A slice is always ready, so the first poll is the last one.
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Err(Error::Object("a slice was not ready".to_owned())),
        }
    };
    outcome.map(|value| (value, rest))
}

/// Reads objects from a stream.
pub(super) struct Decoder<'r, R> {
    pub(super) reader: &'r mut R,
    pub(super) little_endian: bool,
    pub(super) limits: Limits,
    pub(super) memory_left: usize,
}

/// Bases of the SYMBOL columns of one table.
type Bases = HashMap<i32, Vec<String>>;

impl<'r, R: AsyncBufRead + Unpin + Send> Decoder<'r, R> {
    pub(super) fn new(reader: &'r mut R, little_endian: bool, limits: &Limits) -> Self {
        Self { reader, little_endian, limits: *limits, memory_left: limits.memory_bytes }
    }

    pub(super) async fn value(&mut self) -> Result<Value, Error> {
        self.object(0, &mut Bases::new()).await
    }

    async fn object(&mut self, depth: usize, bases: &mut Bases) -> Result<Value, Error> {
        if depth > self.limits.depth {
            let (size, limit) = (depth as u64, self.limits.depth);
            return Err(Error::Limit { what: "nesting", size, limit });
        }
        self.charge(VALUE_COST, 1)?;
        let word: [u8; 2] = self.array().await?;
        let [ty, form] =
            if self.little_endian { word } else { u16::from_be_bytes(word).to_le_bytes() };
        // Boxed here, so that nesting costs heap and not stack.
        Box::pin(self.formed(ty, form, depth, bases)).await
    }

    async fn formed(
        &mut self,
        code: u8,
        form: u8,
        depth: usize,
        bases: &mut Bases,
    ) -> Result<Value, Error> {
        match form {
            form::SCALAR => self.scalar(known(code)?, depth).await,
            form::VECTOR => Ok(Value::Vector(self.vector(code, depth, bases).await?)),
            form::PAIR => {
                let pair = self.vector(code, depth, bases).await?;
                if pair.len() != 2 {
                    return Err(Error::Object(format!("a pair of {} values", pair.len())));
                }
                Ok(Value::Pair(pair))
            }
            form::MATRIX => self.matrix(depth).await,
            form::SET => Ok(Value::Set(self.inner_vector(depth).await?)),
            form::DICTIONARY => {
                let keys = self.inner_vector(depth).await?;
                let values = self.inner_vector(depth).await?;
                if keys.len() != values.len() {
                    let (keys, values) = (keys.len(), values.len());
                    return Err(Error::Object(format!("{keys} keys with {values} values")));
                }
                Ok(Value::Dictionary(Dictionary { keys, values }))
            }
            form::TABLE => self.table(depth).await,
            form::SYSTEM if code == PRIVATE => self.private(depth).await,
            _ => Err(Error::Object(format!("unknown form {form}"))),
        }
    }

    async fn scalar(&mut self, ty: Type, depth: usize) -> Result<Value, Error> {
        match ty.storage() {
            Storage::Void => {
                let [mark] = self.array().await?;
                Ok(if mark == 0 { Value::Nothing } else { Value::null() })
            }
            Storage::Function => {
                let [_kind] = self.array().await?;
                Ok(Value::function(self.text().await?))
            }
            Storage::Any => Err(Error::Object("a scalar of type ANY".to_owned())),
            Storage::Integer(_)
            | Storage::Real(_)
            | Storage::Text
            | Storage::Bytes16
            | Storage::TwoDoubles
            | Storage::Duration
            | Storage::Blob
            | Storage::Decimal(_) => {
                let mut cells = self.cells(ty, 1, depth).await?;
                Ok(Value::scalar(ty, cells.pop().unwrap_or_default()))
            }
        }
    }

    async fn inner_vector(&mut self, depth: usize) -> Result<Vector, Error> {
        match self.object(depth + 1, &mut Bases::new()).await? {
            Value::Vector(vector) => Ok(vector),
            Value::Nothing
            | Value::Scalar(_)
            | Value::Pair(_)
            | Value::Matrix(_)
            | Value::Set(_)
            | Value::Dictionary(_)
            | Value::Table(_)
            | Value::Function(_)
            | Value::TableHandle(_)
            | Value::Database(_)
            | Value::Reference(_) => Err(Error::Object("no vector where one must be".to_owned())),
        }
    }

    async fn vector(&mut self, code: u8, depth: usize, bases: &mut Bases) -> Result<Vector, Error> {
        let rows = self.rows().await?;
        let columns = self.i32().await?;
        if code == SYMBOL_BASE {
            return self.symbols(rows, bases).await;
        }
        if let Some(element) = code.checked_sub(ARRAY_OFFSET).and_then(Type::from_code) {
            return self.arrays(element, rows, depth).await;
        }
        if columns > 1 {
            return Err(Error::Object(format!("a vector of {columns} columns")));
        }
        let ty = known(code)?;
        Ok(Vector::new(ty, self.cells(ty, rows, depth).await?))
    }

    async fn symbols(&mut self, rows: usize, bases: &mut Bases) -> Result<Vector, Error> {
        let id = self.i32().await?;
        let size = self.rows().await?;
        let mut base = Vec::with_capacity(size.min(RESERVED_CELLS));
        for _ in 0..size {
            base.push(self.text().await?);
        }
        // A later column of the same table may name a base that an earlier one brought.
        if size > 0 {
            bases.insert(id, base);
        }
        let mut cells = Vec::with_capacity(rows.min(RESERVED_CELLS));
        self.charge(CELL_COST, rows)?;
        for _ in 0..rows {
            let index = self.i32().await?;
            let text = usize::try_from(index)
                .ok()
                .and_then(|index| bases.get(&id)?.get(index))
                .ok_or_else(|| Error::Object(format!("symbol {index} is not in base {id}")))?;
            let text = text.clone();
            self.charge(text.len(), 1)?;
            cells.push(Cell::Text(text));
        }
        Ok(Vector::new(Type::Symbol, cells))
    }

    /// Reads a vector of vectors: blocks of rows, each with the counts of its rows and then data.
    async fn arrays(&mut self, ty: Type, rows: usize, depth: usize) -> Result<Vector, Error> {
        let mut values = Vec::with_capacity(rows.min(RESERVED_CELLS));
        while values.len() < rows {
            let block = usize::from(self.u16().await?);
            let [width, _reserved] = self.array().await?;
            if block == 0 || block > rows - values.len() {
                return Err(Error::Object(format!("an array block of {block} rows")));
            }
            let mut counts = Vec::with_capacity(block);
            for _ in 0..block {
                counts.push(match width {
                    1 => usize::from(self.array::<1>().await?[0]),
                    2 => usize::from(self.u16().await?),
                    4 => self.rows().await?,
                    _ => return Err(Error::Object(format!("array counts of {width} bytes"))),
                });
            }
            for count in counts {
                self.charge(VALUE_COST, 1)?;
                let cells = self.cells(ty, count, depth + 1).await?;
                values.push(Value::Vector(Vector::new(ty, cells)));
            }
        }
        Ok(Vector::any(values))
    }

    async fn matrix(&mut self, depth: usize) -> Result<Value, Error> {
        let [labels] = self.array().await?;
        let row_labels = if labels & 1 == 0 { None } else { Some(self.inner_vector(depth).await?) };
        let column_labels =
            if labels & 2 == 0 { None } else { Some(self.inner_vector(depth).await?) };
        let word: [u8; 2] = self.array().await?;
        let code = if self.little_endian { word[0] } else { word[1] };
        let ty = known(code)?;
        let rows = self.rows().await?;
        let columns = self.rows().await?;
        let size = rows.saturating_mul(columns);
        if size > self.limits.rows {
            let (size, limit) = (size as u64, self.limits.rows);
            return Err(Error::Limit { what: "matrix", size, limit });
        }
        let cells = Vector::new(ty, self.cells(ty, size, depth).await?);
        Ok(Value::Matrix(Matrix { row_labels, column_labels, rows, columns, cells }))
    }

    async fn table(&mut self, depth: usize) -> Result<Value, Error> {
        let rows = self.rows().await?;
        let columns = self.rows().await?;
        if columns == 0 || columns > self.limits.columns {
            let (size, limit) = (columns as u64, self.limits.columns);
            return Err(Error::Limit { what: "table columns", size, limit });
        }
        let name = self.text().await?;
        let mut names = Vec::with_capacity(columns.min(RESERVED_CELLS));
        for _ in 0..columns {
            names.push(self.text().await?);
        }
        let mut bases = Bases::new();
        let mut data = Vec::with_capacity(columns.min(RESERVED_CELLS));
        for name in names {
            let column = self.object(depth + 1, &mut bases).await?;
            let Value::Vector(column) = column else {
                return Err(Error::Object(format!("column `{name}` is not a vector")));
            };
            if column.len() != rows {
                let found = column.len();
                return Err(Error::Object(format!("column `{name}` has {found} of {rows} rows")));
            }
            data.push((name, column));
        }
        let mut table = Table::new(data).map_err(|error| Error::Object(error.to_string()))?;
        table.name = name;
        Ok(Value::Table(table))
    }

    async fn private(&mut self, depth: usize) -> Result<Value, Error> {
        let [tag] = self.array().await?;
        match tag {
            tag::FUNCTION => {
                let name = self.text().await?;
                let [has_source] = self.array().await?;
                let source = if has_source == 0 { None } else { Some(self.text().await?.into()) };
                let count = self.rows().await?;
                if count > self.limits.arguments {
                    let (size, limit) = (count as u64, self.limits.arguments);
                    return Err(Error::Limit { what: "bound arguments", size, limit });
                }
                let mut bound = Vec::with_capacity(count);
                for _ in 0..count {
                    let [present] = self.array().await?;
                    bound.push(match present {
                        0 => None,
                        _ => Some(self.object(depth + 1, &mut Bases::new()).await?),
                    });
                }
                Ok(Value::Function(Function { name, source, bound }))
            }
            tag::TABLE_HANDLE => {
                let database = self.text().await?;
                let table = self.text().await?;
                Ok(Value::TableHandle(TableHandle { database, table }))
            }
            tag::DATABASE => Ok(Value::Database(Database { path: self.text().await? })),
            _ => Err(Error::Object(format!("unknown object {tag}"))),
        }
    }

    async fn cells(&mut self, ty: Type, count: usize, depth: usize) -> Result<Vec<Cell>, Error> {
        let scale = match ty.storage() {
            Storage::Decimal(_) => self.i32().await?,
            Storage::Void
            | Storage::Integer(_)
            | Storage::Real(_)
            | Storage::Text
            | Storage::Bytes16
            | Storage::TwoDoubles
            | Storage::Duration
            | Storage::Blob
            | Storage::Function
            | Storage::Any => 0,
        };
        if !(0..=38).contains(&scale) {
            return Err(Error::Object(format!("a decimal of scale {scale}")));
        }
        self.charge(CELL_COST, count)?;
        let mut cells = Vec::with_capacity(count.min(RESERVED_CELLS));
        for _ in 0..count {
            cells.push(self.cell(ty, scale, depth).await?);
        }
        Ok(cells)
    }

    async fn cell(&mut self, ty: Type, scale: i32, depth: usize) -> Result<Cell, Error> {
        Ok(match ty.storage() {
            Storage::Void => {
                let [_mark] = self.array().await?;
                Cell::Null
            }
            Storage::Integer(width) => match self.integer(width).await? {
                Some(number) => i64::try_from(number).map_or(Cell::Null, Cell::Int),
                None => Cell::Null,
            },
            Storage::Real(4) => {
                let number = f32::from_bits(self.bits().await?);
                if number == -f32::MAX { Cell::Null } else { Cell::Real(f64::from(number)) }
            }
            Storage::Real(_) => {
                let bytes = self.ordered::<8>().await?;
                let number = f64::from_le_bytes(bytes);
                if number == -f64::MAX { Cell::Null } else { Cell::Real(number) }
            }
            Storage::Text => Cell::Text(self.text().await?),
            Storage::Bytes16 => {
                let mut bytes: [u8; 16] = self.ordered().await?;
                bytes.reverse();
                self.charge(16, 1)?;
                if bytes == [0; 16] { Cell::Null } else { Cell::Bytes(bytes.to_vec()) }
            }
            Storage::TwoDoubles => {
                let pair = [self.ordered::<8>().await?, self.ordered::<8>().await?];
                self.charge(16, 1)?;
                let null = pair.iter().all(|bytes| f64::from_le_bytes(*bytes) == -f64::MAX);
                if null { Cell::Null } else { Cell::Bytes(pair.concat()) }
            }
            Storage::Duration => {
                let words = [self.ordered::<4>().await?, self.ordered::<4>().await?];
                self.charge(8, 1)?;
                let null = words.first().is_some_and(|word| i32::from_le_bytes(*word) == i32::MIN);
                if null { Cell::Null } else { Cell::Bytes(words.concat()) }
            }
            Storage::Blob => self.blob().await?,
            Storage::Decimal(width) => match self.integer(width).await? {
                Some(units) => {
                    self.charge(32, 1)?;
                    Cell::Decimal(Box::new(Decimal { scale, units }))
                }
                None => Cell::Null,
            },
            Storage::Function => {
                let [_kind] = self.array().await?;
                Cell::Text(self.text().await?)
            }
            Storage::Any => Cell::Value(Box::new(self.object(depth + 1, &mut Bases::new()).await?)),
        })
    }

    async fn blob(&mut self) -> Result<Cell, Error> {
        let length = self.i32().await?;
        let length = u64::try_from(length)
            .map_err(|_| Error::Object(format!("a blob of {length} bytes")))?;
        self.charge(usize::try_from(length).unwrap_or(usize::MAX), 1)?;
        let mut bytes = Vec::new();
        (&mut *self.reader).take(length).read_to_end(&mut bytes).await?;
        if bytes.len() as u64 != length {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        Ok(if bytes.is_empty() { Cell::Null } else { Cell::Bytes(bytes) })
    }
}

/// Returns the type of a code from the wire.
fn known(code: u8) -> Result<Type, Error> {
    Type::from_code(code).ok_or_else(|| Error::Object(format!("unknown type {code}")))
}
