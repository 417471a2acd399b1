//! Reads replies: bounded, and never more memory than has already arrived calls for.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

use super::connection::Limits;
use super::kind::Kind;
use super::value::{Data, Dictionary, Matrix, Table, Value, Vector};

/// Bytes that one read asks for at most: memory grows with what has arrived, not with what was
/// announced.
const STRIDE: usize = 64 * 1024;
/// What a `String` costs besides its text.
const TEXT_COST: usize = size_of::<String>();
/// Set in a type byte: an array vector of the type.
const ARRAY_BIT: u8 = 64;
/// Set in the type byte of a SYMBOL vector: the base comes along.
const SYMBOL_BASE_BIT: u8 = 128;

/// Why a reply can't be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// The stream broke.
    Io(io::Error),
    /// The bytes are not of the protocol, or beyond a limit.
    Bad(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Decodes one object of a reply from bytes that are all there, as hostile ones are in tests. Says
/// in words what is wrong with them.
pub async fn decode(mut bytes: &[u8], little: bool, limits: &Limits) -> Result<Value, String> {
    Decoder::new(&mut bytes, little, limits).object(0).await.map_err(|fault| match fault {
        Fault::Io(error) => error.to_string(),
        Fault::Bad(what) => what,
    })
}

/// Shorthand for a fault.
fn bad<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Bad(what.into()))
}

/// Reads one reply's objects.
pub(super) struct Decoder<'a, R> {
    reader: &'a mut R,
    little: bool,
    limits: &'a Limits,
    /// Bytes of memory left for this reply.
    budget: usize,
    /// Symbol bases of the table that is being read.
    bases: HashMap<i32, Arc<Vec<String>>>,
}

type Boxed<'f, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 'f>>;

impl<'a, R: AsyncBufRead + Unpin + Send> Decoder<'a, R> {
    /// Begins to read.
    pub(super) fn new(reader: &'a mut R, little: bool, limits: &'a Limits) -> Self {
        Self { reader, little, limits, budget: limits.reply_bytes, bases: HashMap::new() }
    }

    /// Takes memory from the budget.
    fn charge(&mut self, bytes: usize) -> Result<(), Fault> {
        match self.budget.checked_sub(bytes) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => bad(format!("it is larger than {} bytes", self.limits.reply_bytes)),
        }
    }

    /// Reads one object with its word.
    pub(super) fn object(&mut self, depth: usize) -> Boxed<'_, Value> {
        Box::pin(async move {
            if depth >= self.limits.depth {
                return bad(format!("objects are nested more than {} deep", self.limits.depth));
            }
            let (code, form) = self.word().await?;
            match form {
                0 => Ok(Value::Scalar(self.scalar(code).await?)),
                1 => Ok(Value::Vector(self.vector(code, depth).await?)),
                2 => Ok(Value::Pair(self.vector(code, depth).await?)),
                3 => Ok(Value::Matrix(Box::new(self.matrix(depth).await?))),
                4 => Ok(Value::Set(self.inner_vector(depth).await?)),
                5 => Ok(Value::Dictionary(Box::new(self.dictionary(depth).await?))),
                6 => Ok(Value::Table(self.table(depth).await?)),
                other => bad(format!("unknown form {other}")),
            }
        })
    }

    /// Reads the word in front of an object: type and form.
    async fn word(&mut self) -> Result<(u8, u8), Fault> {
        let mut bytes = [0; 2];
        self.reader.read_exact(&mut bytes).await?;
        let [low, high] = bytes;
        Ok(if self.little { (low, high) } else { (high, low) })
    }

    /// Reads a 32-bit number.
    async fn i32(&mut self) -> Result<i32, Fault> {
        let mut bytes = [0; 4];
        self.reader.read_exact(&mut bytes).await?;
        Ok(if self.little { i32::from_le_bytes(bytes) } else { i32::from_be_bytes(bytes) })
    }

    /// Reads a count that must not be negative.
    async fn count(&mut self, what: &str) -> Result<usize, Fault> {
        let count = self.i32().await?;
        usize::try_from(count).or_else(|_| bad(format!("{count} {what}")))
    }

    /// Finds a type by its byte.
    fn kind(code: u8) -> Result<Kind, Fault> {
        Kind::from_code(code).map_or_else(|| bad(format!("unknown type {code}")), Ok)
    }

    /// Reads a scalar after its word.
    async fn scalar(&mut self, code: u8) -> Result<Vector, Fault> {
        let kind = Self::kind(code)?;
        let scale = self.scale(kind).await?;
        let data = match kind {
            Kind::Function => {
                // One byte says what sort of function it is.
                self.fixed::<1, u8>(1, |[byte]| byte, |[byte]| byte).await?;
                Data::Text(vec![self.text().await?])
            }
            Kind::Any => return bad("a scalar of type ANY"),
            Kind::Void
            | Kind::Bool
            | Kind::Char
            | Kind::Short
            | Kind::Int
            | Kind::Long
            | Kind::Date
            | Kind::Month
            | Kind::Time
            | Kind::Minute
            | Kind::Second
            | Kind::Datetime
            | Kind::Timestamp
            | Kind::Nanotime
            | Kind::Nanotimestamp
            | Kind::Float
            | Kind::Double
            | Kind::Symbol
            | Kind::Text
            | Kind::Uuid
            | Kind::DateHour
            | Kind::IpAddr
            | Kind::Int128
            | Kind::Blob
            | Kind::Complex
            | Kind::Point
            | Kind::Duration
            | Kind::Decimal32
            | Kind::Decimal64
            | Kind::Decimal128 => self.elements(kind, 1, 0).await?,
        };
        Ok(Vector { kind, scale, data })
    }

    /// Decimals carry their scale in front of their values.
    async fn scale(&mut self, kind: Kind) -> Result<i32, Fault> {
        if matches!(kind, Kind::Decimal32 | Kind::Decimal64 | Kind::Decimal128) {
            self.i32().await
        } else {
            Ok(0)
        }
    }

    /// Reads a vector with its word, as columns, labels and keys are.
    async fn inner_vector(&mut self, depth: usize) -> Result<Vector, Fault> {
        let (code, form) = self.word().await?;
        if form != 1 {
            return bad(format!("form {form} where a vector must be"));
        }
        self.vector(code, depth).await
    }

    /// Reads rows, columns and the elements of a vector.
    async fn vector(&mut self, code: u8, depth: usize) -> Result<Vector, Fault> {
        let rows = self.count("rows").await?;
        let columns = self.count("columns").await?;
        self.body(code, rows, columns, depth).await
    }

    /// Reads the elements of a vector whose size has been read.
    async fn body(
        &mut self,
        code: u8,
        rows: usize,
        columns: usize,
        depth: usize,
    ) -> Result<Vector, Fault> {
        if code & SYMBOL_BASE_BIT != 0 {
            return if code == SYMBOL_BASE_BIT | Kind::Symbol.code() {
                self.symbols(rows).await
            } else {
                bad(format!("unknown type {code}"))
            };
        }
        if code & ARRAY_BIT != 0 {
            let kind = Self::kind(code & !ARRAY_BIT)?;
            let scale = self.scale(kind).await?;
            return self.arrays(kind, scale, rows, columns).await;
        }
        let kind = Self::kind(code)?;
        let scale = self.scale(kind).await?;
        let Some(count) = rows.checked_mul(columns) else {
            return bad(format!("{rows} rows of {columns} columns"));
        };
        let data = self.elements(kind, count, depth).await?;
        Ok(Vector { kind, scale, data })
    }

    /// Reads the elements of a type.
    async fn elements(&mut self, kind: Kind, count: usize, depth: usize) -> Result<Data, Fault> {
        Ok(match kind {
            Kind::Void | Kind::Bool | Kind::Char => {
                Data::I8(self.fixed(count, i8::from_le_bytes, i8::from_be_bytes).await?)
            }
            Kind::Short => {
                Data::I16(self.fixed(count, i16::from_le_bytes, i16::from_be_bytes).await?)
            }
            Kind::Int
            | Kind::Date
            | Kind::Month
            | Kind::Time
            | Kind::Minute
            | Kind::Second
            | Kind::Datetime
            | Kind::DateHour
            | Kind::Decimal32 => {
                Data::I32(self.fixed(count, i32::from_le_bytes, i32::from_be_bytes).await?)
            }
            Kind::Long
            | Kind::Timestamp
            | Kind::Nanotime
            | Kind::Nanotimestamp
            | Kind::Decimal64 => {
                Data::I64(self.fixed(count, i64::from_le_bytes, i64::from_be_bytes).await?)
            }
            // Two 32-bit numbers: each is turned round by itself.
            Kind::Duration => Data::I64(
                self.fixed(count, i64::from_le_bytes, |bytes: [u8; 8]| {
                    i64::from_be_bytes(bytes).rotate_left(32)
                })
                .await?,
            ),
            Kind::Decimal128 => {
                Data::I128(self.fixed(count, i128::from_le_bytes, i128::from_be_bytes).await?)
            }
            Kind::Float => {
                Data::F32(self.fixed(count, f32::from_le_bytes, f32::from_be_bytes).await?)
            }
            Kind::Double => {
                Data::F64(self.fixed(count, f64::from_le_bytes, f64::from_be_bytes).await?)
            }
            Kind::Uuid | Kind::IpAddr | Kind::Int128 => {
                Data::B16(self.fixed(count, reversed, |bytes| bytes).await?)
            }
            Kind::Complex | Kind::Point => {
                Data::B16(self.fixed(count, |bytes| bytes, halves_reversed).await?)
            }
            Kind::Symbol | Kind::Text => Data::Text(self.texts(count).await?),
            Kind::Blob => {
                let mut blobs = Vec::new();
                for _ in 0..count {
                    blobs.push(self.blob().await?);
                }
                Data::Blob(blobs)
            }
            Kind::Any => {
                let mut values = Vec::new();
                for _ in 0..count {
                    self.charge(size_of::<Value>())?;
                    values.push(self.object(depth + 1).await?);
                }
                Data::Any(values)
            }
            Kind::Function => return bad("a vector of functions"),
        })
    }

    /// Reads elements of `N` bytes.
    async fn fixed<const N: usize, T>(
        &mut self,
        count: usize,
        little: fn([u8; N]) -> T,
        big: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, Fault> {
        let convert = if self.little { little } else { big };
        let mut values = Vec::new();
        let mut buffer = vec![0; STRIDE.min(count.saturating_mul(N))];
        let mut left = count;
        while left > 0 {
            let take = left.min(STRIDE / N);
            self.charge(take * size_of::<T>())?;
            let Some(bytes) = buffer.get_mut(..take * N) else { return bad("an empty buffer") };
            self.reader.read_exact(bytes).await?;
            values.reserve(take);
            values.extend(bytes.as_chunks::<N>().0.iter().map(|chunk| convert(*chunk)));
            left -= take;
        }
        Ok(values)
    }

    /// Reads a text up to its NUL.
    async fn text(&mut self) -> Result<String, Fault> {
        let mut bytes = Vec::new();
        self.charge(TEXT_COST)?;
        loop {
            let arrived = self.reader.fill_buf().await?;
            if arrived.is_empty() {
                return Err(Fault::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            let end = arrived.iter().position(|&byte| byte == 0);
            let part = arrived.get(..end.unwrap_or(arrived.len())).unwrap_or_default();
            let taken = part.len();
            if self.budget < taken {
                return bad(format!("it is larger than {} bytes", self.limits.reply_bytes));
            }
            self.budget -= taken;
            bytes.extend_from_slice(part);
            self.reader.consume(taken + usize::from(end.is_some()));
            if end.is_some() {
                // Names and paths may be in any encoding; a wrong byte must not cost the reply.
                return Ok(String::from_utf8(bytes).unwrap_or_else(|error| {
                    String::from_utf8_lossy(error.as_bytes()).into_owned()
                }));
            }
        }
    }

    /// Reads texts.
    async fn texts(&mut self, count: usize) -> Result<Vec<String>, Fault> {
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(self.text().await?);
        }
        Ok(texts)
    }

    /// Reads a length and as many bytes.
    async fn blob(&mut self) -> Result<Vec<u8>, Fault> {
        let length = self.count("bytes").await?;
        self.charge(TEXT_COST)?;
        self.fixed::<1, u8>(length, |[byte]| byte, |[byte]| byte).await
    }

    /// Reads a SYMBOL vector with its base.
    async fn symbols(&mut self, rows: usize) -> Result<Vector, Fault> {
        let id = self.i32().await?;
        let size = self.count("symbols").await?;
        let known = self.bases.get(&id).filter(|_| size == 0).cloned();
        let base = match known {
            Some(base) => base,
            None => {
                let base = Arc::new(self.texts(size).await?);
                // A base counts at most a few per table; the map can't grow without texts or words.
                self.charge(64)?;
                self.bases.insert(id, Arc::clone(&base));
                base
            }
        };
        let index: Vec<u32> = self.fixed(rows, u32::from_le_bytes, u32::from_be_bytes).await?;
        match index.iter().find(|&&at| at as usize >= base.len()) {
            Some(at) => bad(format!("symbol {at} of a base of {}", base.len())),
            None => Ok(Vector { kind: Kind::Symbol, scale: 0, data: Data::Symbol { base, index } }),
        }
    }

    /// Reads an array vector: blocks of row counts and values.
    async fn arrays(
        &mut self,
        kind: Kind,
        scale: i32,
        rows: usize,
        cells: usize,
    ) -> Result<Vector, Fault> {
        let mut lengths: Vec<u32> = Vec::new();
        let mut values: Option<Data> = None;
        let mut seen = 0_usize;
        while lengths.len() < rows {
            let head: Vec<u8> = self.fixed::<1, u8>(4, |[byte]| byte, |[byte]| byte).await?;
            let &[first, second, width, _] = head.as_slice() else { return bad("a short block") };
            let block = if self.little { [first, second] } else { [second, first] };
            let block = usize::from(u16::from_le_bytes(block));
            if block == 0 || block > rows - lengths.len() {
                return bad(format!("an array block of {block} rows"));
            }
            let counts: Vec<u32> = match width {
                1 => self.fixed(block, |[byte]| u32::from(byte), |[byte]| u32::from(byte)).await?,
                2 => {
                    let little = |bytes| u32::from(u16::from_le_bytes(bytes));
                    self.fixed(block, little, |bytes| u32::from(u16::from_be_bytes(bytes))).await?
                }
                4 => self.fixed(block, u32::from_le_bytes, u32::from_be_bytes).await?,
                other => return bad(format!("array counts of {other} bytes")),
            };
            let total = counts.iter().fold(0_usize, |sum, &n| sum.saturating_add(n as usize));
            seen = seen.saturating_add(total);
            if seen > cells {
                return bad(format!("more than {cells} values in an array vector"));
            }
            lengths.extend(counts);
            if matches!(kind, Kind::Text | Kind::Symbol | Kind::Any | Kind::Blob | Kind::Function) {
                return bad(format!("an array vector of type {}", kind.code()));
            }
            let part = self.elements(kind, total, 0).await?;
            values = Some(match values {
                None => part,
                Some(before) => before.joined(part),
            });
        }
        let data = match values {
            Some(data) => data,
            None => self.elements(kind, 0, 0).await?,
        };
        let values = Box::new(Vector { kind, scale, data });
        Ok(Vector { kind, scale, data: Data::Arrays { lengths, values } })
    }

    /// Reads a matrix after its word.
    async fn matrix(&mut self, depth: usize) -> Result<Matrix, Fault> {
        let labels: Vec<u8> = self.fixed::<1, u8>(1, |[byte]| byte, |[byte]| byte).await?;
        let labels = labels.first().copied().unwrap_or(0);
        let row_labels = if labels & 1 != 0 { Some(self.inner_vector(depth).await?) } else { None };
        let column_labels =
            if labels & 2 != 0 { Some(self.inner_vector(depth).await?) } else { None };
        let (code, form) = self.word().await?;
        if form != 3 && form != 1 {
            return bad(format!("form {form} inside a matrix"));
        }
        let rows = self.count("rows").await?;
        let columns = self.count("columns").await?;
        let vector = self.body(code, rows, columns, depth).await?;
        Ok(Matrix { rows, columns, vector, row_labels, column_labels })
    }

    /// Reads a dictionary after its word.
    async fn dictionary(&mut self, depth: usize) -> Result<Dictionary, Fault> {
        let keys = self.inner_vector(depth).await?;
        let values = self.inner_vector(depth).await?;
        if keys.len() == values.len() {
            Ok(Dictionary { keys, values })
        } else {
            bad(format!("{} keys and {} values", keys.len(), values.len()))
        }
    }

    /// Reads a table after its word.
    async fn table(&mut self, depth: usize) -> Result<Table, Fault> {
        let rows = self.count("rows").await?;
        let width = self.count("columns").await?;
        if width > self.limits.columns {
            return bad(format!("{width} columns"));
        }
        self.text().await?;
        let names = self.texts(width).await?;
        self.bases.clear();
        let mut columns = Vec::new();
        for name in names {
            let column = self.inner_vector(depth).await?;
            if column.len() != rows {
                let length = column.len();
                return bad(format!("column `{name}` has {length} of {rows} rows"));
            }
            columns.push((name, column));
        }
        Ok(Table { rows, columns })
    }
}

/// Little-endian nodes send UUIDs last byte first.
fn reversed(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes.reverse();
    bytes
}

/// Two big-endian doubles as two little-endian ones.
fn halves_reversed(mut bytes: [u8; 16]) -> [u8; 16] {
    let (first, second) = bytes.split_at_mut(8);
    first.reverse();
    second.reverse();
    bytes
}
