//! Typed vectors, which are also the columns of tables.

use super::{Cell, Decimal, Scalar, Type, Value, time};

/// A vector of one type. Of type ANY, every cell is a `Cell::Value`.
#[derive(Debug, Clone, PartialEq)]
pub struct Vector {
    /// The type of all cells.
    pub ty: Type,
    /// The cells.
    pub cells: Vec<Cell>,
}

impl Vector {
    /// Returns a vector of these cells, which must fit the type.
    #[must_use]
    pub const fn new(ty: Type, cells: Vec<Cell>) -> Self {
        Self { ty, cells }
    }

    /// Returns a vector without cells.
    #[must_use]
    pub const fn empty(ty: Type) -> Self {
        Self { ty, cells: Vec::new() }
    }

    /// Returns a vector of so many nulls.
    #[must_use]
    pub fn nulls(ty: Type, count: usize) -> Self {
        Self { ty, cells: vec![Cell::Null; count] }
    }

    /// Returns a STRING vector.
    #[must_use]
    pub fn strings<S: Into<String>>(texts: impl IntoIterator<Item = S>) -> Self {
        Self::new(Type::String, texts.into_iter().map(Cell::text).collect())
    }

    /// Returns a SYMBOL vector.
    #[must_use]
    pub fn symbols<S: Into<String>>(texts: impl IntoIterator<Item = S>) -> Self {
        Self::new(Type::Symbol, texts.into_iter().map(Cell::text).collect())
    }

    /// Returns an INT vector.
    #[must_use]
    pub fn ints(numbers: impl IntoIterator<Item = i32>) -> Self {
        Self::new(Type::Int, numbers.into_iter().map(|n| Cell::Int(i64::from(n))).collect())
    }

    /// Returns a LONG vector.
    #[must_use]
    pub fn longs(numbers: impl IntoIterator<Item = i64>) -> Self {
        Self::new(Type::Long, numbers.into_iter().map(Cell::Int).collect())
    }

    /// Returns a DOUBLE vector.
    #[must_use]
    pub fn doubles(numbers: impl IntoIterator<Item = f64>) -> Self {
        Self::new(Type::Double, numbers.into_iter().map(Cell::Real).collect())
    }

    /// Returns a BOOL vector.
    #[must_use]
    pub fn bools(flags: impl IntoIterator<Item = bool>) -> Self {
        Self::new(Type::Bool, flags.into_iter().map(Cell::bool).collect())
    }

    /// Returns a vector of an integer-backed type (dates, times, LONG, …).
    #[must_use]
    pub fn integers(ty: Type, numbers: impl IntoIterator<Item = Option<i64>>) -> Self {
        Self::new(ty, numbers.into_iter().map(|n| n.map_or(Cell::Null, Cell::Int)).collect())
    }

    /// Returns a UUID vector, the bytes in the order they are written.
    #[must_use]
    pub fn uuids(ids: impl IntoIterator<Item = [u8; 16]>) -> Self {
        Self::new(Type::Uuid, ids.into_iter().map(|id| Cell::Bytes(id.to_vec())).collect())
    }

    /// Returns an ANY vector.
    #[must_use]
    pub fn any(values: impl IntoIterator<Item = Value>) -> Self {
        Self::new(Type::Any, values.into_iter().map(|v| Cell::Value(Box::new(v))).collect())
    }

    /// Returns the narrowest vector of these values: typed if all are scalars of one family,
    /// ANY otherwise. This is what `[a, b, c]` does.
    #[must_use]
    pub fn collect(values: Vec<Value>) -> Self {
        let mut ty = None;
        for value in &values {
            let Value::Scalar(scalar) = value else { return Self::any(values) };
            if scalar.ty == Type::Void {
                continue;
            }
            ty = match ty {
                None => Some(scalar.ty),
                Some(known) => match common_type(known, scalar.ty) {
                    Some(common) => Some(common),
                    None => return Self::any(values),
                },
            };
        }
        let ty = ty.unwrap_or(Type::Void);
        let mut cells = Vec::with_capacity(values.len());
        for value in &values {
            let Value::Scalar(scalar) = value else { return Self::any(values) };
            match cast_cell(scalar.ty, &scalar.cell, ty) {
                Some(cell) => cells.push(cell),
                None => return Self::any(values),
            }
        }
        Self::new(ty, cells)
    }

    /// Returns the number of cells.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Tells whether there is no cell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Returns one element as a value; a null beyond the end.
    #[must_use]
    pub fn get(&self, index: usize) -> Value {
        match self.cells.get(index) {
            Some(Cell::Value(value)) => (**value).clone(),
            Some(cell) => Value::Scalar(Scalar::new(self.ty, cell.clone())),
            None if self.ty == Type::Any => Value::null(),
            None => Value::Scalar(Scalar::new(self.ty, Cell::Null)),
        }
    }

    /// Returns the elements as values.
    pub fn values(&self) -> impl Iterator<Item = Value> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Returns the elements at these places; nulls for places that do not exist.
    #[must_use]
    pub fn pick(&self, places: &[usize]) -> Self {
        let cells = places.iter().map(|place| self.cells.get(*place).cloned().unwrap_or_default());
        Self::new(self.ty, cells.collect())
    }

    /// Returns the texts of a STRING or SYMBOL vector (nulls as ""); `None` for other types.
    pub fn texts(&self) -> Option<impl Iterator<Item = &str>> {
        let texts = self.ty.is_text() || self.cells.iter().all(|cell| cell.as_str().is_some());
        texts.then(|| self.cells.iter().map(|cell| cell.as_str().unwrap_or("")))
    }

    /// Returns the vector as another type; `None` if a cell has no counterpart there.
    #[must_use]
    pub fn cast(&self, ty: Type) -> Option<Self> {
        if ty == self.ty {
            return Some(self.clone());
        }
        if ty == Type::Any {
            return Some(Self::any(self.values()));
        }
        let cells: Option<Vec<_>> =
            self.cells.iter().map(|cell| cast_cell(self.ty, cell, ty)).collect();
        Some(Self::new(ty, cells?))
    }
}

/// Returns the type that can hold values of both without loss of meaning.
#[must_use]
pub fn common_type(left: Type, right: Type) -> Option<Type> {
    if left == right {
        return Some(left);
    }
    if left == Type::Void {
        return Some(right);
    }
    if right == Type::Void {
        return Some(left);
    }
    if left.is_text() && right.is_text() {
        return Some(Type::String);
    }
    if left.is_number() && right.is_number() {
        return Some(if left.code() > right.code() { left } else { right });
    }
    // From the coarsest to the finest.
    let moments = [
        Type::Month,
        Type::Date,
        Type::DateHour,
        Type::DateTime,
        Type::Timestamp,
        Type::NanoTimestamp,
    ];
    let place = |ty| moments.iter().position(|known| *known == ty);
    moments.get(place(left)?.max(place(right)?)).copied()
}

/// Returns a cell of type `from` as a cell of type `to`.
#[must_use]
pub fn cast_cell(from: Type, cell: &Cell, to: Type) -> Option<Cell> {
    if let Cell::Value(value) = cell {
        let Value::Scalar(scalar) = &**value else { return None };
        return cast_cell(scalar.ty, &scalar.cell, to);
    }
    if from == to {
        return Some(cell.clone());
    }
    if to.is_text() {
        return Some(Cell::Text(super::format::cell_text(from, cell)));
    }
    if cell.is_null() {
        return Some(Cell::Null);
    }
    if let Cell::Text(text) = cell {
        return parse_cell(text, to);
    }
    if to.is_temporal() && from.is_temporal() {
        return cast_moment(from, cell, to);
    }
    match to.storage() {
        super::Storage::Integer(width) => integer_of(cell, to, width),
        super::Storage::Real(_) => cell.as_f64().map(Cell::Real),
        super::Storage::Decimal(_) => {
            let number = cell.as_f64()?;
            let scale = 4;
            #[expect(clippy::cast_possible_truncation, reason = "saturates, as the server does")]
            let units = (number * 10f64.powi(scale)).round() as i128;
            Some(Cell::Decimal(Box::new(Decimal { scale, units })))
        }
        super::Storage::Void => Some(Cell::Null),
        super::Storage::Text
        | super::Storage::Bytes16
        | super::Storage::TwoDoubles
        | super::Storage::Duration
        | super::Storage::Blob
        | super::Storage::Function
        | super::Storage::Any => None,
    }
}

/// Casts between dates and times.
fn cast_moment(from: Type, cell: &Cell, to: Type) -> Option<Cell> {
    let number = cell.as_i64()?;
    let nanos = match time::moment_nanos(from, number) {
        Some(nanos) => nanos,
        None => i128::from(number) * i128::from(time::clock_unit(from)?),
    };
    let of_day = matches!(from, Type::Time | Type::NanoTime | Type::Second | Type::Minute);
    if of_day && !matches!(to, Type::Time | Type::NanoTime | Type::Second | Type::Minute) {
        return None;
    }
    time::at_moment(to, nanos).map(Cell::Int)
}

/// Returns a number as an integer cell; out of the width's range it is null.
fn integer_of(cell: &Cell, to: Type, width: u8) -> Option<Cell> {
    let number = match cell.as_i64() {
        Some(number) => number,
        None => {
            let real = cell.as_f64()?;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a cast saturates, then is checked"
            )]
            let whole = real.trunc() as i64;
            whole
        }
    };
    if to == Type::Bool {
        return Some(Cell::bool(number != 0));
    }
    let limit = 1i128 << (u32::from(width) * 8 - 1);
    let fits = i128::from(number) > -limit && i128::from(number) < limit;
    Some(if fits { Cell::Int(number) } else { Cell::Null })
}

/// Reads a text as a cell of another type; a text that is none becomes null, as in the server.
fn parse_cell(text: &str, to: Type) -> Option<Cell> {
    let text = text.trim();
    match to.storage() {
        super::Storage::Integer(_) if to == Type::Bool => Some(match text {
            "true" | "1" => Cell::bool(true),
            "false" | "0" => Cell::bool(false),
            _ => Cell::Null,
        }),
        super::Storage::Integer(width) if !to.is_temporal() => Some(
            text.parse::<i64>()
                .ok()
                .and_then(|number| integer_of(&Cell::Int(number), to, width))
                .unwrap_or_default(),
        ),
        super::Storage::Integer(_) => {
            let (ty, cell) = super::parse::temporal(text)?;
            if ty == to { Some(cell) } else { cast_moment(ty, &cell, to) }
        }
        super::Storage::Real(_) => Some(text.parse().map_or(Cell::Null, Cell::Real)),
        super::Storage::Bytes16 => {
            Some(super::parse::bytes16(text, to).map_or(Cell::Null, |b| Cell::Bytes(b.to_vec())))
        }
        super::Storage::Blob => Some(Cell::Bytes(text.as_bytes().to_vec())),
        super::Storage::Decimal(_) => cast_cell(Type::Double, &Cell::Real(text.parse().ok()?), to),
        super::Storage::Void
        | super::Storage::Text
        | super::Storage::TwoDoubles
        | super::Storage::Duration
        | super::Storage::Function
        | super::Storage::Any => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_collect_to_the_narrowest_type() {
        let ints = Vector::collect(vec![Value::int(1), Value::null(), Value::int(2)]);
        assert_eq!(ints, Vector::new(Type::Int, vec![Cell::Int(1), Cell::Null, Cell::Int(2)]));
        let doubles = Vector::collect(vec![Value::int(1), Value::double(2.5)]);
        assert_eq!(doubles, Vector::doubles([1.0, 2.5]));
        let mixed = Vector::collect(vec![Value::int(1), Value::string("a")]);
        assert_eq!(mixed.ty, Type::Any);
    }

    #[test]
    fn casts_keep_nulls_and_check_ranges() {
        let longs = Vector::new(Type::Long, vec![Cell::Int(5), Cell::Null, Cell::Int(1 << 40)]);
        let ints = longs.cast(Type::Int).unwrap();
        assert_eq!(ints.cells, [Cell::Int(5), Cell::Null, Cell::Null]);
        assert_eq!(
            Vector::strings(["7", "x"]).cast(Type::Int).unwrap().cells,
            [Cell::Int(7), Cell::Null]
        );
        assert_eq!(
            Vector::strings(["2023.01.01"]).cast(Type::Date).unwrap().cells,
            [Cell::Int(19_358)]
        );
        assert!(Vector::uuids([[1; 16]]).cast(Type::Int).is_none());
    }
}
