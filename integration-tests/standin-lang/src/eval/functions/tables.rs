//! Functions over tables in memory. What concerns DFS tables is the host's.

use super::{Args, Entry};
use crate::eval::ops::Outcome;
use crate::value::{Table, Value, Vector};

pub(super) const FUNCTIONS: &[Entry] = &[
    ("columnNames", 1, 1, names),
    ("colNames", 1, 1, names),
    ("columns", 1, 1, |args| Ok(Value::count(table(args)?.columns().len()))),
    ("cols", 1, 1, |args| Ok(Value::count(table(args)?.columns().len()))),
];

fn table<'a>(args: &'a Args<'_>) -> Result<&'a Table, String> {
    args.get(0).as_table().ok_or_else(|| args.wrong(0, "a table"))
}

fn names(args: &Args<'_>) -> Outcome {
    Ok(Vector::strings(table(args)?.columns().iter().map(|(name, _)| name.as_str())).into())
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;

    #[test]
    fn columns_are_named_and_counted() {
        let table = Value::table([("a", Vector::ints([1])), ("b", Vector::ints([2]))]).unwrap();
        let names = run("columnNames", std::slice::from_ref(&table)).unwrap();
        assert_eq!(names, Vector::strings(["a", "b"]).into());
        assert_eq!(run("cols", &[table]), Ok(Value::int(2)));
    }
}
