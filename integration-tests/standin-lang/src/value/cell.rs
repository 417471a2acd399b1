//! One cell: a scalar without its type.

use std::cmp::Ordering;

use super::Value;

/// The content of a scalar or of one row of a column. The type stands beside it: the same integer
/// is a date, a count or a boolean.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Cell {
    /// The null of the type.
    #[default]
    Null,
    /// BOOL (0 or 1), CHAR to LONG, and all dates and times.
    Int(i64),
    /// FLOAT and DOUBLE.
    Real(f64),
    /// STRING and SYMBOL. The empty text is their null.
    Text(String),
    /// BLOB, and the 16 bytes of UUID, IPADDR, INT128 in the order they are written; COMPLEX,
    /// POINT and DURATION as their little-endian bytes.
    Bytes(Vec<u8>),
    /// DECIMAL32, DECIMAL64, DECIMAL128.
    Decimal(Box<Decimal>),
    /// An element of an ANY vector.
    Value(Box<Value>),
}

/// A scaled integer: `units / 10^scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal {
    /// Digits behind the point.
    pub scale: i32,
    /// The unscaled number.
    pub units: i128,
}

impl Decimal {
    /// Returns the nearest double.
    #[must_use]
    pub fn to_f64(self) -> f64 {
        self.units as f64 / 10f64.powi(self.scale)
    }
}

impl Cell {
    /// Returns a text cell.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Returns a boolean cell.
    #[must_use]
    pub fn bool(flag: bool) -> Self {
        Self::Int(i64::from(flag))
    }

    /// Tells whether this is a null: no value, or the empty text.
    #[must_use]
    pub fn is_null(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Text(text) => text.is_empty(),
            Self::Value(value) => value.is_null(),
            Self::Int(_) | Self::Real(_) | Self::Bytes(_) | Self::Decimal(_) => false,
        }
    }

    /// Returns the integer, also of a decimal or float without a fraction.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            Self::Real(number) => whole(*number),
            Self::Decimal(number) => whole(number.to_f64()),
            Self::Value(value) => value.as_i64(),
            Self::Null | Self::Text(_) | Self::Bytes(_) => None,
        }
    }

    /// Returns the number as a double.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(number) => Some(*number as f64),
            Self::Real(number) => Some(*number),
            Self::Decimal(number) => Some(number.to_f64()),
            Self::Value(value) => value.as_f64(),
            Self::Null | Self::Text(_) | Self::Bytes(_) => None,
        }
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Value(value) => value.as_str(),
            Self::Null | Self::Int(_) | Self::Real(_) | Self::Bytes(_) | Self::Decimal(_) => None,
        }
    }

    /// Compares two cells of comparable types; a null is smaller than everything and equal to
    /// itself, as in DolphinDB. `None` for cells that have no order (text against number).
    #[must_use]
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self.is_null(), other.is_null()) {
            (true, true) => return Some(Ordering::Equal),
            (true, false) => return Some(Ordering::Less),
            (false, true) => return Some(Ordering::Greater),
            (false, false) => {}
        }
        if let (Self::Int(left), Self::Int(right)) = (self, other) {
            return Some(left.cmp(right));
        }
        if let (Some(left), Some(right)) = (self.as_str(), other.as_str()) {
            return Some(left.cmp(right));
        }
        if let (Self::Bytes(left), Self::Bytes(right)) = (self, other) {
            return Some(left.cmp(right));
        }
        if let (Self::Decimal(left), Self::Decimal(right)) = (self, other)
            && left.scale == right.scale
        {
            return Some(left.units.cmp(&right.units));
        }
        match (self.as_f64(), other.as_f64()) {
            (Some(left), Some(right)) => left.partial_cmp(&right),
            (Some(_) | None, None) | (None, Some(_)) => None,
        }
    }
}

/// Returns a double's integer if it is one that an `i64` can hold.
fn whole(number: f64) -> Option<i64> {
    // 2^63 is the first double above `i64::MAX`.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if number.fract() != 0.0 || !(-LIMIT..LIMIT).contains(&number) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "whole and inside the range: just checked")]
    let whole = number as i64;
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_smallest_and_equal_to_null() {
        assert_eq!(Cell::Null.compare(&Cell::Null), Some(Ordering::Equal));
        assert_eq!(Cell::Null.compare(&Cell::Int(i64::MIN)), Some(Ordering::Less));
        assert_eq!(Cell::text("a").compare(&Cell::text("")), Some(Ordering::Greater));
        assert_eq!(Cell::text("").compare(&Cell::Null), Some(Ordering::Equal));
    }

    #[test]
    fn numbers_of_different_kinds_compare_by_value() {
        assert_eq!(Cell::Int(2).compare(&Cell::Real(2.5)), Some(Ordering::Less));
        let decimal = Cell::Decimal(Box::new(Decimal { scale: 1, units: 25 }));
        assert_eq!(decimal.compare(&Cell::Real(2.5)), Some(Ordering::Equal));
        assert_eq!(Cell::Int(2).compare(&Cell::text("2")), None);
        assert_eq!(Cell::Real(f64::NAN).compare(&Cell::Int(0)), None);
    }

    #[test]
    fn whole_floats_are_integers_and_others_are_not() {
        assert_eq!(Cell::Real(3.0).as_i64(), Some(3));
        assert_eq!(Cell::Real(3.5).as_i64(), None);
        assert_eq!(Cell::Real(1e300).as_i64(), None);
    }
}
