//! Functions that need nothing but their arguments.

mod aggregates;
mod casts;
mod json;
mod shapes;
mod tables;
mod texts;

use super::bounds;
use super::ops::{self, Outcome};
use crate::value::{Cell, Scalar, Type, Value, Vector};

/// A function: its name, how many arguments it takes, and what it does.
type Entry = (&'static str, usize, usize, fn(&Args<'_>) -> Outcome);

/// All of them.
const TABLES: &[&[Entry]] = &[
    aggregates::FUNCTIONS,
    casts::FUNCTIONS,
    json::FUNCTIONS,
    shapes::FUNCTIONS,
    tables::FUNCTIONS,
    texts::FUNCTIONS,
];

/// Tells whether there is a function of this name.
pub(super) fn is_known(name: &str) -> bool {
    find(name).is_some()
}

/// Calls a function; `None` if there is none of this name. `cells` bounds what it may make.
pub(super) fn call(name: &str, values: &[Value], cells: usize) -> Option<Outcome> {
    let (name, least, most, function) = find(name)?;
    if values.len() < *least || values.len() > *most {
        let expected = if least == most { least.to_string() } else { format!("{least} to {most}") };
        let found = values.len();
        return Some(Err(format!("{name} expects {expected} argument(s), not {found}")));
    }
    let outcome = function(&Args { name, values, cells });
    Some(outcome.map_err(|error| format!("{name}: {error}")))
}

fn find(name: &str) -> Option<&'static Entry> {
    TABLES.iter().flat_map(|table| table.iter()).find(|(known, ..)| *known == name)
}

/// The arguments of a call.
struct Args<'a> {
    name: &'a str,
    values: &'a [Value],
    cells: usize,
}

impl Args<'_> {
    /// Returns an argument; `Nothing` if it is missing.
    fn get(&self, place: usize) -> &Value {
        self.values.get(place).unwrap_or(&Value::Nothing)
    }

    fn given(&self, place: usize) -> Option<&Value> {
        self.values.get(place).filter(|value| !matches!(value, Value::Nothing))
    }

    fn vector(&self, place: usize) -> Result<Vector, String> {
        let value = self.get(place);
        value.to_vector().ok_or_else(|| self.wrong(place, "a vector"))
    }

    fn text(&self, place: usize) -> Result<&str, String> {
        match self.get(place) {
            Value::Scalar(Scalar { ty: Type::Void, .. }) => Ok(""),
            value => value.as_str().ok_or_else(|| self.wrong(place, "a string")),
        }
    }

    fn count(&self, place: usize) -> Result<usize, String> {
        let number = self.get(place).as_i64().and_then(|number| usize::try_from(number).ok());
        let number = number.ok_or_else(|| self.wrong(place, "a number that is not negative"))?;
        self.bounded(number)
    }

    /// Refuses sizes beyond the limit of a value.
    fn bounded(&self, size: usize) -> Result<usize, String> {
        if size > self.cells {
            return Err(format!("{size} elements are more than the limit of {}", self.cells));
        }
        Ok(size)
    }

    fn flag(&self, place: usize, default: bool) -> Result<bool, String> {
        match self.given(place) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(place, "a boolean")),
        }
    }

    fn wrong(&self, place: usize, wanted: &str) -> String {
        let found = ops::kind(self.get(place));
        format!("argument {} of {} must be {wanted}, not {found}", place + 1, self.name)
    }

    /// Applies a function to a scalar, or to every element of a vector.
    fn map(&self, ty: Type, function: impl Fn(Type, &Cell) -> Result<Cell, String>) -> Outcome {
        match self.get(0) {
            Value::Scalar(scalar) => Ok(Value::scalar(ty, function(scalar.ty, &scalar.cell)?)),
            Value::Nothing => Ok(Value::scalar(ty, function(Type::Void, &Cell::Null)?)),
            Value::Vector(vector) => {
                let cells = vector.values().map(|value| match value {
                    Value::Scalar(scalar) => function(scalar.ty, &scalar.cell),
                    other => Err(format!("{} inside a vector", ops::kind(&other))),
                });
                Ok(Vector::new(ty, bounds::collect(cells)?).into())
            }
            _ => Err(self.wrong(0, "a scalar or a vector")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls a function that must exist.
    pub(super) fn run(name: &str, values: &[Value]) -> Outcome {
        call(name, values, 1000).unwrap_or_else(|| panic!("no function {name}"))
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = TABLES.iter().flat_map(|table| table.iter().map(|e| e.0)).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn wrong_counts_and_kinds_are_errors_that_name_the_function() {
        assert!(call("nosuch", &[], 1000).is_none());
        let error = run("strlen", &[]).unwrap_err();
        assert!(error.starts_with("strlen expects 1"), "{error}");
        let error = run("split", &[Value::int(1), Value::string(",")]).unwrap_err();
        assert!(error.contains("argument 1 of split must be a string"), "{error}");
        assert!(run("take", &[Value::int(1), Value::int(i32::MAX)]).is_err());
    }
}
