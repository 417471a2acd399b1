//! Conversions between types, and questions about types.

use super::{Args, Entry};
use crate::eval::ops::Outcome;
use crate::value::{Cell, Type, Value, Vector, cast_cell, format};

pub(super) const FUNCTIONS: &[Entry] = &[
    ("bool", 1, 1, |args| cast(args, Type::Bool)),
    ("char", 1, 1, |args| cast(args, Type::Char)),
    ("short", 1, 1, |args| cast(args, Type::Short)),
    ("int", 1, 1, |args| cast(args, Type::Int)),
    ("long", 1, 1, |args| cast(args, Type::Long)),
    ("float", 1, 1, |args| cast(args, Type::Float)),
    ("double", 1, 1, |args| cast(args, Type::Double)),
    ("date", 1, 1, |args| cast(args, Type::Date)),
    ("month", 1, 1, |args| cast(args, Type::Month)),
    ("time", 1, 1, |args| cast(args, Type::Time)),
    ("minute", 1, 1, |args| cast(args, Type::Minute)),
    ("second", 1, 1, |args| cast(args, Type::Second)),
    ("datehour", 1, 1, |args| cast(args, Type::DateHour)),
    ("datetime", 1, 1, |args| cast(args, Type::DateTime)),
    ("timestamp", 1, 1, |args| cast(args, Type::Timestamp)),
    ("nanotime", 1, 1, |args| cast(args, Type::NanoTime)),
    ("nanotimestamp", 1, 1, |args| cast(args, Type::NanoTimestamp)),
    ("symbol", 1, 1, |args| cast(args, Type::Symbol)),
    ("uuid", 1, 1, |args| cast(args, Type::Uuid)),
    ("ipaddr", 1, 1, |args| cast(args, Type::IpAddr)),
    ("int128", 1, 1, |args| cast(args, Type::Int128)),
    ("blob", 1, 1, |args| cast(args, Type::Blob)),
    ("string", 1, 1, string),
    ("cast", 2, 2, cast_to),
    ("type", 1, 1, |args| Ok(Value::int(i32::from(args.get(0).data_type().code())))),
    ("form", 1, 1, form),
    ("typestr", 1, 1, |args| Ok(Value::string(type_string(args.get(0))))),
    ("isNull", 1, 1, |args| args.map(Type::Bool, |_, cell| Ok(Cell::bool(cell.is_null())))),
    ("isValid", 1, 1, |args| args.map(Type::Bool, |_, cell| Ok(Cell::bool(!cell.is_null())))),
    ("isVoid", 1, 1, |args| Ok(Value::bool(args.get(0).data_type() == Type::Void))),
    ("isNothing", 1, 1, |args| Ok(Value::bool(matches!(args.get(0), Value::Nothing)))),
    ("nullFill", 2, 2, null_fill),
    ("ifNull", 2, 2, null_fill),
];

fn cast(args: &Args<'_>, ty: Type) -> Outcome {
    args.map(ty, |from, cell| {
        cast_cell(from, cell, ty).ok_or_else(|| format!("{} is no {}", from.name(), ty.name()))
    })
}

fn cast_to(args: &Args<'_>) -> Outcome {
    let code = args.get(1).as_i64().and_then(|code| u8::try_from(code).ok());
    let ty = code.and_then(Type::from_code).ok_or_else(|| args.wrong(1, "a data type"))?;
    if ty == Type::Any {
        return Ok(Value::any(args.vector(0)?.values()));
    }
    if ty.is_text() && ty == Type::String { string(args) } else { cast(args, ty) }
}

/// Writes anything as text; a vector of scalars element by element.
fn string(args: &Args<'_>) -> Outcome {
    match args.get(0) {
        Value::Vector(vector) => {
            Ok(Vector::strings(vector.values().map(|value| format::text(&value))).into())
        }
        other => Ok(Value::string(format::text(other))),
    }
}

/// The forms in the order of their wire codes.
fn form(args: &Args<'_>) -> Outcome {
    Ok(Value::int(match args.get(0) {
        Value::Vector(_) => 1,
        Value::Pair(_) => 2,
        Value::Matrix(_) => 3,
        Value::Set(_) => 4,
        Value::Dictionary(_) => 5,
        Value::Table(_) | Value::TableHandle(_) | Value::Reference(_) => 6,
        Value::Nothing | Value::Scalar(_) | Value::Function(_) | Value::Database(_) => 0,
    }))
}

fn type_string(value: &Value) -> String {
    let name = value.data_type().name();
    match value {
        Value::Nothing | Value::Scalar(_) => name.to_owned(),
        Value::Vector(vector) if vector.ty == Type::Any => "ANY VECTOR".to_owned(),
        Value::Vector(_) => format!("FAST {name} VECTOR"),
        Value::Pair(_) => format!("{name} PAIR"),
        Value::Matrix(_) => format!("FAST {name} MATRIX"),
        Value::Set(_) => format!("{name} SET"),
        Value::Dictionary(dictionary) => {
            format!("{}->{name} DICTIONARY", dictionary.keys.ty.name())
        }
        Value::Table(_) | Value::Reference(_) => "IN-MEMORY TABLE".to_owned(),
        Value::TableHandle(_) => "SEGMENTED DFS TABLE".to_owned(),
        Value::Function(_) => "FUNCTIONDEF".to_owned(),
        Value::Database(_) => "DATABASE".to_owned(),
    }
}

fn null_fill(args: &Args<'_>) -> Outcome {
    let Value::Scalar(filler) = args.get(1) else { return Err(args.wrong(1, "a scalar")) };
    let ty = args.get(0).data_type();
    let ty = if ty == Type::Void { filler.ty } else { ty };
    let filler = cast_cell(filler.ty, &filler.cell, ty)
        .ok_or_else(|| args.wrong(1, &format!("a {}", ty.name())))?;
    args.map(ty, |_, cell| Ok(if cell.is_null() { filler.clone() } else { cell.clone() }))
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;

    #[test]
    fn values_change_type() {
        assert_eq!(run("int", &[Value::string("12")]), Ok(Value::int(12)));
        assert_eq!(run("date", &[Value::timestamp(86_400_001)]), Ok(Value::date(1)));
        assert_eq!(run("string", &[Value::date(19_358)]), Ok(Value::string("2023.01.01")));
        let id = "00010203-0405-0607-0809-0a0b0c0d0e0f";
        let uuid = run("uuid", &[Value::string(id)]).unwrap();
        assert_eq!(run("string", &[uuid]), Ok(Value::string(id)));
        let any = run("cast", &[Value::Vector(Vector::ints([1])), Value::int(25)]).unwrap();
        assert_eq!(any, Value::any([Value::int(1)]));
        assert!(run("int", &[Value::uuid([1; 16])]).is_err());
    }

    #[test]
    fn types_are_told() {
        assert_eq!(run("typestr", &[Value::int(1)]), Ok(Value::string("INT")));
        assert_eq!(run("type", &[Value::string("a")]), Ok(Value::int(18)));
        assert_eq!(run("form", &[Value::dictionary([("a", Value::int(1))])]), Ok(Value::int(5)));
        assert_eq!(run("isNull", &[Value::string("")]), Ok(Value::bool(true)));
        let filled =
            run("nullFill", &[Vector::new(Type::Int, vec![Cell::Null]).into(), Value::int(7)]);
        assert_eq!(filled, Ok(Vector::ints([7]).into()));
    }
}
