//! The data types of the protocol, by their wire codes.

/// A DolphinDB data type; the discriminant is the type byte of the wire protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are DolphinDB's own")]
pub enum Type {
    Void = 0,
    Bool = 1,
    Char = 2,
    Short = 3,
    Int = 4,
    Long = 5,
    Date = 6,
    Month = 7,
    Time = 8,
    Minute = 9,
    Second = 10,
    DateTime = 11,
    Timestamp = 12,
    NanoTime = 13,
    NanoTimestamp = 14,
    Float = 15,
    Double = 16,
    Symbol = 17,
    String = 18,
    Uuid = 19,
    FunctionDef = 20,
    Any = 25,
    DateHour = 28,
    IpAddr = 30,
    Int128 = 31,
    Blob = 32,
    Complex = 34,
    Point = 35,
    Duration = 36,
    Decimal32 = 37,
    Decimal64 = 38,
    Decimal128 = 39,
}

/// Every type with the name scripts and `typestr` use.
const NAMES: &[(Type, &str)] = &[
    (Type::Void, "VOID"),
    (Type::Bool, "BOOL"),
    (Type::Char, "CHAR"),
    (Type::Short, "SHORT"),
    (Type::Int, "INT"),
    (Type::Long, "LONG"),
    (Type::Date, "DATE"),
    (Type::Month, "MONTH"),
    (Type::Time, "TIME"),
    (Type::Minute, "MINUTE"),
    (Type::Second, "SECOND"),
    (Type::DateTime, "DATETIME"),
    (Type::Timestamp, "TIMESTAMP"),
    (Type::NanoTime, "NANOTIME"),
    (Type::NanoTimestamp, "NANOTIMESTAMP"),
    (Type::Float, "FLOAT"),
    (Type::Double, "DOUBLE"),
    (Type::Symbol, "SYMBOL"),
    (Type::String, "STRING"),
    (Type::Uuid, "UUID"),
    (Type::FunctionDef, "FUNCTIONDEF"),
    (Type::Any, "ANY"),
    (Type::DateHour, "DATEHOUR"),
    (Type::IpAddr, "IPADDR"),
    (Type::Int128, "INT128"),
    (Type::Blob, "BLOB"),
    (Type::Complex, "COMPLEX"),
    (Type::Point, "POINT"),
    (Type::Duration, "DURATION"),
    (Type::Decimal32, "DECIMAL32"),
    (Type::Decimal64, "DECIMAL64"),
    (Type::Decimal128, "DECIMAL128"),
];

/// How a type's cells are kept and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// One byte: 0 nothing, 1 NULL.
    Void,
    /// A signed integer of so many bytes; its minimum is null.
    Integer(u8),
    /// A float of so many bytes; the lowest finite value is null.
    Real(u8),
    /// NUL-terminated UTF-8; the empty text is null.
    Text,
    /// 16 bytes that a little-endian sender reverses; zeros are null.
    Bytes16,
    /// Two doubles of 8 bytes.
    TwoDoubles,
    /// Two 32-bit words: amount and unit.
    Duration,
    /// A 32-bit length and bytes.
    Blob,
    /// A scaled integer of so many bytes.
    Decimal(u8),
    /// A function definition: a kind byte and a text.
    Function,
    /// Objects with words of their own.
    Any,
}

impl Type {
    /// Returns the wire code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Returns the type with this wire code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        NAMES.iter().map(|(ty, _)| *ty).find(|ty| ty.code() == code)
    }

    /// Returns the name scripts use, such as `TIMESTAMP`.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(ty, _)| *ty == self).map_or("VOID", |(_, name)| *name)
    }

    /// Returns the type of this name, in capitals as scripts write it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(ty, _)| *ty)
    }

    /// Returns how cells of this type are kept and sent.
    #[must_use]
    pub const fn storage(self) -> Storage {
        match self {
            Self::Void => Storage::Void,
            Self::Bool | Self::Char => Storage::Integer(1),
            Self::Short => Storage::Integer(2),
            Self::Int
            | Self::Date
            | Self::Month
            | Self::Time
            | Self::Minute
            | Self::Second
            | Self::DateTime
            | Self::DateHour => Storage::Integer(4),
            Self::Long | Self::Timestamp | Self::NanoTime | Self::NanoTimestamp => {
                Storage::Integer(8)
            }
            Self::Float => Storage::Real(4),
            Self::Double => Storage::Real(8),
            Self::Symbol | Self::String => Storage::Text,
            Self::Uuid | Self::IpAddr | Self::Int128 => Storage::Bytes16,
            Self::Complex | Self::Point => Storage::TwoDoubles,
            Self::Duration => Storage::Duration,
            Self::Blob => Storage::Blob,
            Self::Decimal32 => Storage::Decimal(4),
            Self::Decimal64 => Storage::Decimal(8),
            Self::Decimal128 => Storage::Decimal(16),
            Self::FunctionDef => Storage::Function,
            Self::Any => Storage::Any,
        }
    }

    /// Tells whether this is one of the date and time types.
    #[must_use]
    pub const fn is_temporal(self) -> bool {
        matches!(
            self,
            Self::Date
                | Self::Month
                | Self::Time
                | Self::Minute
                | Self::Second
                | Self::DateTime
                | Self::Timestamp
                | Self::NanoTime
                | Self::NanoTimestamp
                | Self::DateHour
        )
    }

    /// Tells whether arithmetic takes this type as a number.
    #[must_use]
    pub const fn is_number(self) -> bool {
        matches!(
            self,
            Self::Bool
                | Self::Char
                | Self::Short
                | Self::Int
                | Self::Long
                | Self::Float
                | Self::Double
        )
    }

    /// Tells whether cells are texts.
    #[must_use]
    pub const fn is_text(self) -> bool {
        matches!(self, Self::String | Self::Symbol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_lead_back_to_the_type() {
        for (ty, name) in NAMES {
            assert_eq!(Type::from_code(ty.code()), Some(*ty));
            assert_eq!(Type::from_name(name), Some(*ty));
            assert_eq!(ty.name(), *name);
        }
        assert_eq!(Type::from_code(99), None);
    }
}
