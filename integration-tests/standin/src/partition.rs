//! Partition schemes, and the specs of databases and tables as the controllers keep them.

use serde::{Deserialize, Serialize};
use standin_lang::value::{Cell, Table, Type, Value, Vector, cast_cell, format};
use standin_lang::wire::{self, Limits, Reader};

/// Partition types by their numbers in scripts.
pub(crate) const VALUE: i64 = 1;
pub(crate) const RANGE: i64 = 2;
pub(crate) const COMPO: i64 = 4;
pub(crate) const HASH: i64 = 5;

/// Between the levels of a key.
const LEVELS: &str = "/";
/// The one chunk of a table without partitions.
const WHOLE: &str = "whole";

/// One level of a scheme.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Level {
    /// [`VALUE`], [`RANGE`] or [`HASH`].
    pub(crate) kind: i64,
    /// The scheme, as [`to_hex`] writes it.
    pub(crate) scheme: String,
}

/// What the controllers keep of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DatabaseSpec {
    pub(crate) levels: Vec<Level>,
    pub(crate) engine: String,
    pub(crate) atomic: String,
    pub(crate) granularity: String,
    pub(crate) owner: String,
}

/// What the controllers keep of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableSpec {
    /// Names and type codes.
    pub(crate) columns: Vec<(String, u8)>,
    pub(crate) partition_columns: Vec<String>,
    pub(crate) sort_columns: Vec<String>,
    pub(crate) keep_duplicates: String,
}

/// Writes a value as text.
pub(crate) fn to_hex(value: &Value) -> Result<String, String> {
    let bytes = wire::encode(value, Reader::Node).map_err(|error| error.to_string())?;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    Ok(text)
}

/// Reads a value back.
pub(crate) fn from_hex(text: &str) -> Result<Value, String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let bytes: Option<Vec<u8>> = text
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect();
    let bytes = bytes.ok_or("rows that cannot be read")?;
    let (value, _) =
        wire::decode(&bytes, true, &Limits::default()).map_err(|error| error.to_string())?;
    Ok(value)
}

impl Level {
    /// A level of a database that is made.
    pub(crate) fn new(kind: i64, scheme: &Value) -> Result<Self, String> {
        let vector = scheme.to_vector().ok_or("the partition scheme must be a vector")?;
        match kind {
            VALUE if vector.is_empty() => return Err("an empty partition scheme".to_owned()),
            RANGE if vector.len() < 2 => {
                return Err("a RANGE scheme needs two values at least".to_owned());
            }
            HASH => {
                let buckets = vector.get(1).as_i64();
                if vector.len() != 2 || buckets.is_none_or(|n| n < 1) {
                    return Err("a HASH scheme is [type, number]".to_owned());
                }
            }
            VALUE | RANGE => {}
            _ => return Err(format!("the stand-in does not model partition type {kind}")),
        }
        Ok(Self { kind, scheme: to_hex(&Value::Vector(vector))? })
    }

    /// The scheme as a vector.
    pub(crate) fn vector(&self) -> Vector {
        from_hex(&self.scheme).ok().and_then(|value| value.to_vector()).unwrap_or_else(|| {
            // It was written by `new`.
            Vector::empty(Type::Void)
        })
    }

    /// The name of the kind.
    pub(crate) fn kind_name(&self) -> &'static str {
        match self.kind {
            VALUE => "VALUE",
            RANGE => "RANGE",
            _ => "HASH",
        }
    }
}

/// A level, read for use.
struct Reading {
    kind: i64,
    scheme: Vector,
    keys: std::collections::HashSet<String>,
}

/// A scheme over a table's columns, read for use.
pub(crate) struct Partitioner {
    levels: Vec<(Reading, usize)>,
}

/// Where a row goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    /// To this partition.
    Key(String),
    /// To a partition of a VALUE level that does not exist yet: the level and the value.
    New(usize, Cell),
    /// Nowhere.
    Outside,
}

impl Partitioner {
    /// Prepares a scheme for a table.
    pub(crate) fn new(database: &DatabaseSpec, table: &TableSpec) -> Result<Self, String> {
        let mut levels = Vec::new();
        if table.partition_columns.is_empty() {
            return Ok(Self { levels });
        }
        for (level, column) in database.levels.iter().zip(&table.partition_columns) {
            let position = table
                .columns
                .iter()
                .position(|(name, _)| name.eq_ignore_ascii_case(column))
                .ok_or_else(|| format!("the partition column {column} does not exist"))?;
            let scheme = level.vector();
            let keys = match level.kind {
                VALUE => scheme.cells.iter().map(|cell| value_key(scheme.ty, cell)).collect(),
                _ => std::collections::HashSet::new(),
            };
            levels.push((Reading { kind: level.kind, scheme, keys }, position));
        }
        if levels.len() != database.levels.len() {
            return Err("the number of partition columns does not fit the scheme".to_owned());
        }
        Ok(Self { levels })
    }

    /// Where a row of a typed table goes.
    pub(crate) fn place(&self, table: &Table, row: usize) -> Place {
        let mut parts = Vec::new();
        for (number, (level, position)) in self.levels.iter().enumerate() {
            let column = table.columns().get(*position).map(|(_, column)| column);
            let Some((ty, cell)) = column.and_then(|c| Some((c.ty, c.cells.get(row)?))) else {
                return Place::Outside;
            };
            match level.place(ty, cell) {
                Place::Key(part) => parts.push(part),
                Place::New(_, value) => return Place::New(number, value),
                Place::Outside => return Place::Outside,
            }
        }
        Place::Key(if parts.is_empty() { WHOLE.to_owned() } else { parts.join(LEVELS) })
    }

    /// The keys of partitions that a script names: by path, or by a value of the first level.
    pub(crate) fn keys_of(&self, given: &Value) -> Result<Vec<String>, String> {
        let vector = given.to_vector().ok_or("partitions are given by paths or values")?;
        vector
            .values()
            .map(|value| {
                let Value::Scalar(scalar) = value else {
                    return Err("the stand-in does not model partitions given by level".to_owned());
                };
                if let Some(path) = scalar.cell.as_str().and_then(|text| text.strip_prefix('/')) {
                    return Ok(path.to_owned());
                }
                let Some((level, _)) = self.levels.first().filter(|_| self.levels.len() == 1)
                else {
                    return Err("the stand-in does not model partitions given by level".to_owned());
                };
                match level.place(scalar.ty, &scalar.cell) {
                    Place::Key(key) => Ok(key),
                    Place::New(..) | Place::Outside => {
                        Err("The partition does not exist.".to_owned())
                    }
                }
            })
            .collect()
    }
}

impl Reading {
    fn place(&self, ty: Type, cell: &Cell) -> Place {
        match self.kind {
            VALUE => {
                let Some(value) = cast_cell(ty, cell, self.scheme.ty).filter(|v| !v.is_null())
                else {
                    return Place::Outside;
                };
                let key = value_key(self.scheme.ty, &value);
                if self.keys.contains(&key) { Place::Key(key) } else { Place::New(0, value) }
            }
            RANGE => self.range(ty, cell).map_or(Place::Outside, Place::Key),
            _ => self.hash(ty, cell).map_or(Place::Outside, Place::Key),
        }
    }

    fn range(&self, ty: Type, cell: &Cell) -> Option<String> {
        let value = cast_cell(ty, cell, self.scheme.ty).filter(|value| !value.is_null())?;
        self.scheme.cells.windows(2).find_map(|pair| {
            let [low, high] = pair else { return None };
            let inside = value.compare(low)?.is_ge() && value.compare(high)?.is_lt();
            let text = |cell| value_key(self.scheme.ty, cell);
            inside.then(|| format!("{}_{}", text(low), text(high)))
        })
    }

    fn hash(&self, ty: Type, cell: &Cell) -> Option<String> {
        let code = u8::try_from(self.scheme.get(0).as_i64()?).ok()?;
        let buckets = u64::try_from(self.scheme.get(1).as_i64()?).ok()?;
        let ty_wanted = Type::from_code(code)?;
        let value = cast_cell(ty, cell, ty_wanted)?;
        let text = format::cell_text(ty_wanted, &value);
        // FNV-1a: any spread will do, the real function is not known.
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Some(format!("Key{}", hash.checked_rem(buckets)?))
    }
}

/// A value's part of a path: `20230101` for a date.
fn value_key(ty: Type, cell: &Cell) -> String {
    let text = format::cell_text(ty, cell);
    if ty.is_temporal() { text.replace(['.', ':'], "") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(levels: Vec<Level>) -> DatabaseSpec {
        DatabaseSpec {
            levels,
            engine: "TSDB".to_owned(),
            atomic: "TRANS".to_owned(),
            granularity: "TABLE".to_owned(),
            owner: "admin".to_owned(),
        }
    }

    fn table_spec() -> TableSpec {
        TableSpec {
            columns: vec![
                ("time".to_owned(), Type::Timestamp.code()),
                ("id".to_owned(), Type::Int.code()),
            ],
            partition_columns: vec!["time".to_owned(), "id".to_owned()],
            sort_columns: Vec::new(),
            keep_duplicates: "ALL".to_owned(),
        }
    }

    fn rows(ms: i64, id: i64) -> Table {
        Table::new([
            ("time", Vector::new(Type::Timestamp, vec![Cell::Int(ms)])),
            ("id", Vector::new(Type::Int, vec![Cell::Int(id)])),
        ])
        .unwrap()
    }

    #[test]
    fn a_row_goes_to_the_partition_of_its_values() {
        let dates = Vector::new(Type::Date, vec![Cell::Int(19_358), Cell::Int(19_359)]);
        let levels = vec![
            Level::new(VALUE, &Value::Vector(dates)).unwrap(),
            Level::new(RANGE, &Value::Vector(Vector::ints([0, 50, 100]))).unwrap(),
        ];
        let partitioner = Partitioner::new(&spec(levels), &table_spec()).unwrap();
        let day = 86_400_000;
        let place = |ms, id| partitioner.place(&rows(ms, id), 0);
        assert_eq!(place(19_358 * day + 5, 50), Place::Key("20230101/50_100".to_owned()));
        assert_eq!(place(19_359 * day, 49), Place::Key("20230102/0_50".to_owned()));
        assert_eq!(place(19_360 * day, 49), Place::New(0, Cell::Int(19_360)));
        assert_eq!(place(19_359 * day, 100), Place::Outside);
        assert_eq!(place(19_359 * day, -1), Place::Outside);
    }

    #[test]
    fn a_hash_scheme_spreads_and_stays() {
        let scheme = Value::Vector(Vector::ints([4, 3]));
        let levels = vec![Level::new(HASH, &scheme).unwrap()];
        let mut table = table_spec();
        table.partition_columns = vec!["id".to_owned()];
        let partitioner = Partitioner::new(&spec(levels), &table).unwrap();
        let keys: std::collections::BTreeSet<String> = (0..50)
            .map(|id| {
                let place = partitioner.place(&rows(0, id), 0);
                let Place::Key(key) = place else { panic!("{place:?}") };
                key
            })
            .collect();
        assert_eq!(keys.len(), 3);
    }

    #[test]
    fn schemes_that_make_no_sense_are_refused() {
        assert!(Level::new(RANGE, &Value::int(1)).is_err());
        assert!(Level::new(HASH, &Value::Vector(Vector::ints([4, 0]))).is_err());
        assert!(Level::new(3, &Value::int(1)).is_err());
    }

    #[test]
    fn values_survive_as_text() {
        let table = Value::Table(rows(5, 7));
        assert_eq!(from_hex(&to_hex(&table).unwrap()).unwrap(), table);
        assert!(from_hex("zz").is_err());
        assert!(from_hex("0").is_err());
    }
}
