//! `toStdJson` and `fromStdJson`.

use serde_json::{Map, Number, Value as Json, json};

use super::{Args, Entry};
use crate::eval::ops::{self, Outcome};
use crate::value::{Cell, Dictionary, Table, Type, Value, Vector, format};

/// Nesting of JSON that becomes values.
const MAX_DEPTH: usize = 16;

pub(super) const FUNCTIONS: &[Entry] = &[
    ("toStdJson", 1, 1, |args| Ok(Value::string(to_json(args.get(0))?.to_string()))),
    ("fromStdJson", 1, 1, from_std_json),
];

/// Returns a value as JSON: vectors as arrays, tables as arrays of objects, dictionaries as
/// objects, dates and times as texts, nulls as null.
fn to_json(value: &Value) -> Result<Json, String> {
    match value {
        Value::Nothing => Ok(Json::Null),
        Value::Scalar(scalar) => Ok(cell_json(scalar.ty, &scalar.cell)),
        Value::Vector(vector) | Value::Pair(vector) | Value::Set(vector) => {
            vector.values().map(|value| to_json(&value)).collect::<Result<_, _>>().map(Json::Array)
        }
        Value::Dictionary(dictionary) => dictionary_json(dictionary),
        Value::Table(table) => table_json(table),
        Value::Matrix(_)
        | Value::Function(_)
        | Value::TableHandle(_)
        | Value::Database(_)
        | Value::Reference(_) => Err(format!("{} has no JSON form", ops::kind(value))),
    }
}

fn cell_json(ty: Type, cell: &Cell) -> Json {
    // An empty text is a text to JSON, although it is null to DolphinDB.
    if let Cell::Text(text) = cell {
        return json!(text);
    }
    if cell.is_null() {
        return Json::Null;
    }
    match cell {
        Cell::Int(number) if ty == Type::Bool => json!(*number != 0),
        Cell::Int(number) if !ty.is_temporal() => json!(number),
        Cell::Real(number) => Number::from_f64(*number).map(Json::Number).unwrap_or_default(),
        Cell::Int(_)
        | Cell::Bytes(_)
        | Cell::Decimal(_)
        | Cell::Null
        | Cell::Text(_)
        | Cell::Value(_) => json!(format::cell_text(ty, cell)),
    }
}

fn dictionary_json(dictionary: &Dictionary) -> Result<Json, String> {
    let keys = dictionary.keys.values().map(|key| format::text(&key));
    let mut object = Map::new();
    for (key, value) in keys.zip(dictionary.values.values()) {
        object.insert(key, to_json(&value)?);
    }
    Ok(Json::Object(object))
}

fn table_json(table: &Table) -> Result<Json, String> {
    let row = |row| {
        let mut object = Map::new();
        for (name, column) in table.columns() {
            object.insert(name.clone(), to_json(&column.get(row))?);
        }
        Ok(Json::Object(object))
    };
    (0..table.rows()).map(row).collect::<Result<_, _>>().map(Json::Array)
}

fn from_std_json(args: &Args<'_>) -> Outcome {
    let json = serde_json::from_str(args.text(0)?).map_err(|error| error.to_string())?;
    from_json(&json, 0)
}

fn from_json(json: &Json, depth: usize) -> Outcome {
    if depth > MAX_DEPTH {
        return Err(format!("JSON nested deeper than {MAX_DEPTH}"));
    }
    Ok(match json {
        Json::Null => Value::null(),
        Json::Bool(flag) => Value::bool(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => {
                i32::try_from(number).map_or_else(|_| Value::long(number), Value::int)
            }
            (None, real) => real.map_or_else(Value::null, Value::double),
        },
        Json::String(text) => Value::string(text),
        Json::Array(items) => {
            let items = items.iter().map(|item| from_json(item, depth + 1));
            Value::Vector(Vector::collect(items.collect::<Result<_, _>>()?))
        }
        Json::Object(entries) => {
            let entries = entries.iter().map(|(k, v)| Ok((k.clone(), from_json(v, depth + 1)?)));
            Value::dictionary(entries.collect::<Result<Vec<_>, String>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;

    fn json_of(value: Value) -> String {
        run("toStdJson", &[value]).unwrap().as_str().unwrap().to_owned()
    }

    #[test]
    fn values_become_json() {
        assert_eq!(json_of(Value::bool(true)), "true");
        assert_eq!(json_of(Value::date(19_358)), "\"2023.01.01\"");
        assert_eq!(json_of(Value::null()), "null");
        assert_eq!(
            json_of(Value::dictionary([("a", Vector::ints([1, 2]).into())])),
            r#"{"a":[1,2]}"#
        );
        let table = Value::table([("n", Vector::strings(["x"])), ("v", Vector::doubles([1.5]))]);
        assert_eq!(json_of(table.unwrap()), r#"[{"n":"x","v":1.5}]"#);
        assert!(run("toStdJson", &[Value::function("f")]).is_err());
    }

    #[test]
    fn json_becomes_values() {
        let read = |text: &str| run("fromStdJson", &[Value::string(text)]);
        assert_eq!(read("[1,2]"), Ok(Vector::ints([1, 2]).into()));
        assert_eq!(read(r#"{"a":"x"}"#), Ok(Value::dictionary([("a", Value::string("x"))])));
        assert!(read("{").is_err());
        assert!(read(&"[".repeat(100)).is_err());
    }
}
