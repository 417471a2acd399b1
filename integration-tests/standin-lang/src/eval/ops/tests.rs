//! Operators on scalars, pairs and vectors.

use super::*;

fn op(operator: Binary, left: Value, right: Value) -> Outcome {
    binary(operator, &left, &right, 1000)
}

fn equal() -> Binary {
    Binary::Compare(Operator::Equal)
}

#[test]
fn numbers_add_by_type() {
    assert_eq!(op(Binary::Add, Value::int(1), Value::int(1)), Ok(Value::int(2)));
    assert_eq!(op(Binary::Add, Value::long(1), Value::int(1)), Ok(Value::long(2)));
    assert_eq!(op(Binary::Add, Value::int(1), Value::double(0.5)), Ok(Value::double(1.5)));
    assert_eq!(op(Binary::Divide, Value::int(7), Value::int(2)), Ok(Value::int(3)));
    assert_eq!(op(Binary::Ratio, Value::int(7), Value::int(2)), Ok(Value::double(3.5)));
    let null = Value::scalar(Type::Int, Cell::Null);
    assert_eq!(op(Binary::Modulo, Value::int(7), Value::int(0)), Ok(null.clone()));
    assert_eq!(op(Binary::Add, Value::int(i32::MAX), Value::int(1)), Ok(null.clone()));
    assert_eq!(op(Binary::Add, Value::null(), Value::int(1)), Ok(null));
}

#[test]
fn texts_join_and_dates_move() {
    assert_eq!(op(Binary::Add, Value::string("a"), Value::int(1)), Ok(Value::string("a1")));
    assert_eq!(op(Binary::Add, Value::date(1), Value::int(1)), Ok(Value::date(2)));
    assert_eq!(op(Binary::Subtract, Value::date(5), Value::date(2)), Ok(Value::long(3)));
    assert!(op(Binary::Multiply, Value::date(5), Value::int(2)).is_err());
}

#[test]
fn comparisons_spread_over_columns() {
    let states = Value::Vector(Vector::strings(["COMPLETE", "RECOVERING", ""]));
    let not = Binary::Compare(Operator::NotEqual);
    assert_eq!(
        op(not, states.clone(), Value::string("COMPLETE")),
        Ok(Vector::bools([false, true, true]).into())
    );
    assert!(op(not, states.clone(), Value::int(1)).is_err());
    assert_eq!(op(equal(), states, Value::null()), Ok(Vector::bools([false, false, true]).into()));
    assert_eq!(op(equal(), Value::timestamp(86_400_000), Value::date(1)), Ok(Value::bool(true)));
    let text = Value::string("00000000-0000-0000-0000-000000000001");
    let mut id = [0; 16];
    id[15] = 1;
    assert_eq!(op(equal(), Value::uuid(id), text), Ok(Value::bool(true)));
}

#[test]
fn membership_ranges_and_patterns() {
    let modes = Value::Vector(Vector::ints([0, 3, 4]));
    assert_eq!(op(Binary::In, Value::long(3), modes.clone()), Ok(Value::bool(true)));
    assert_eq!(
        op(Binary::In, Value::Vector(Vector::ints([1, 4])), modes),
        Ok(Vector::bools([false, true]).into())
    );
    assert_eq!(op(Binary::Range, Value::int(3), Value::int(1)), Ok(Vector::ints([3, 2, 1]).into()));
    assert!(op(Binary::Range, Value::int(0), Value::int(i32::MAX)).is_err());
    assert!(op(Binary::Range, Value::long(i64::MIN), Value::long(i64::MAX)).is_err());
    for (text, pattern, expected) in [
        ("dfs://stock", "dfs://%", true),
        ("abc", "%c", true),
        ("abc", "a?c", true),
        ("abc", "ab", false),
        ("aXbXc", "a%b%c", true),
        ("", "%", true),
    ] {
        assert_eq!(like(text, pattern), expected, "{text} like {pattern}");
    }
}
