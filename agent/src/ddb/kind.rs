//! Data types, by the numbers that the wire has for them.

/// A data type of DolphinDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are DolphinDB's own type names")]
pub enum Kind {
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
    Datetime = 11,
    Timestamp = 12,
    Nanotime = 13,
    Nanotimestamp = 14,
    Float = 15,
    Double = 16,
    Symbol = 17,
    Text = 18,
    Uuid = 19,
    Function = 20,
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

impl Kind {
    /// Every type that is read.
    const ALL: [Self; 32] = [
        Self::Void,
        Self::Bool,
        Self::Char,
        Self::Short,
        Self::Int,
        Self::Long,
        Self::Date,
        Self::Month,
        Self::Time,
        Self::Minute,
        Self::Second,
        Self::Datetime,
        Self::Timestamp,
        Self::Nanotime,
        Self::Nanotimestamp,
        Self::Float,
        Self::Double,
        Self::Symbol,
        Self::Text,
        Self::Uuid,
        Self::Function,
        Self::Any,
        Self::DateHour,
        Self::IpAddr,
        Self::Int128,
        Self::Blob,
        Self::Complex,
        Self::Point,
        Self::Duration,
        Self::Decimal32,
        Self::Decimal64,
        Self::Decimal128,
    ];

    /// Finds a type by its number on the wire.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Returns the number on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }
}
