//! Functions over texts.

use super::{Args, Entry};
use crate::eval::ops::Outcome;
use crate::value::{Cell, Type, Value, Vector, format};

pub(super) const FUNCTIONS: &[Entry] = &[
    ("strlen", 1, 1, |args| {
        args.map(Type::Int, |ty, cell| {
            let length = format::cell_text(ty, cell).len();
            Ok(Cell::Int(i64::try_from(length).unwrap_or(i64::MAX)))
        })
    }),
    ("lower", 1, 1, |args| map(args, |text| text.to_lowercase())),
    ("upper", 1, 1, |args| map(args, |text| text.to_uppercase())),
    ("trim", 1, 1, |args| map(args, |text| text.trim().to_owned())),
    ("strip", 1, 1, |args| map(args, |text| text.trim().to_owned())),
    ("split", 1, 2, split),
    ("substr", 2, 3, substr),
    ("left", 2, 2, |args| {
        let count = args.count(1)?;
        map(args, |text| text.chars().take(count).collect())
    }),
    ("right", 2, 2, |args| {
        let count = args.count(1)?;
        map(args, |text| text.chars().skip(text.chars().count().saturating_sub(count)).collect())
    }),
    ("startsWith", 2, 2, |args| {
        let part = args.text(1)?;
        test(args, |text| text.starts_with(part))
    }),
    ("endsWith", 2, 2, |args| {
        let part = args.text(1)?;
        test(args, |text| text.ends_with(part))
    }),
    ("strpos", 2, 2, |args| {
        let part = args.text(1)?;
        args.map(Type::Int, |ty, cell| {
            let text = format::cell_text(ty, cell);
            let place = text.find(part).and_then(|place| i64::try_from(place).ok());
            Ok(Cell::Int(place.unwrap_or(-1)))
        })
    }),
    ("strReplace", 3, 3, |args| {
        let (from, to) = (args.text(1)?, args.text(2)?);
        if from.is_empty() {
            return map(args, str::to_owned);
        }
        args.map(Type::String, |ty, cell| {
            let text = format::cell_text(ty, cell);
            let added = text.matches(from).count().saturating_mul(to.len());
            args.bounded(text.len().saturating_add(added))?;
            Ok(Cell::Text(text.replace(from, to)))
        })
    }),
    ("regexReplace", 3, 3, regex_replace),
    ("concat", 1, 2, concat),
    ("strcat", 2, 2, |args| Ok(Value::string(args.text(0)?.to_owned() + args.text(1)?))),
];

fn map(args: &Args<'_>, function: impl Fn(&str) -> String) -> Outcome {
    args.map(Type::String, |ty, cell| Ok(Cell::Text(function(&format::cell_text(ty, cell)))))
}

fn test(args: &Args<'_>, function: impl Fn(&str) -> bool) -> Outcome {
    args.map(Type::Bool, |ty, cell| Ok(Cell::bool(function(&format::cell_text(ty, cell)))))
}

fn split(args: &Args<'_>) -> Outcome {
    let separator = if args.given(1).is_some() { args.text(1)? } else { "," };
    let text = args.text(0)?;
    if separator.is_empty() {
        return Ok(Vector::strings([text]).into());
    }
    Ok(Vector::strings(text.split(separator)).into())
}

fn substr(args: &Args<'_>) -> Outcome {
    let from = args.count(1)?;
    let length = if args.given(2).is_some() { args.count(2)? } else { usize::MAX };
    map(args, |text| text.chars().skip(from).take(length).collect())
}

/// Replaces every match. The server's dialect is larger (it looks ahead and refers back); what this
/// one does not have is an error and not another meaning.
fn regex_replace(args: &Args<'_>) -> Outcome {
    let (pattern, to) = (args.text(1)?, args.text(2)?);
    let pattern = regex::RegexBuilder::new(pattern).size_limit(1 << 20).build();
    let pattern = pattern.map_err(|error| error.to_string().replace('\n', " "))?;
    args.map(Type::String, |ty, cell| {
        let text = format::cell_text(ty, cell);
        let added = pattern.find_iter(&text).count().saturating_mul(to.len());
        args.bounded(text.len().saturating_add(added))?;
        Ok(Cell::Text(pattern.replace_all(&text, regex::NoExpand(to)).into_owned()))
    })
}

/// Joins a vector's texts, or two texts.
fn concat(args: &Args<'_>) -> Outcome {
    let separator = if args.given(1).is_some() { args.text(1)? } else { "" };
    if let Some(text) = args.get(0).as_str() {
        return Ok(Value::string(text.to_owned() + separator));
    }
    let texts: Vec<_> = args.vector(0)?.values().map(|value| format::text(&value)).collect();
    let separators = separator.len().saturating_mul(texts.len());
    args.bounded(texts.iter().map(String::len).sum::<usize>().saturating_add(separators))?;
    Ok(Value::string(texts.join(separator)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::run;
    use super::*;

    fn text(text: &str) -> Value {
        Value::string(text)
    }

    #[test]
    fn texts_are_cut_and_joined() {
        let parts = run("split", &[text("a,b"), text(",")]).unwrap();
        assert_eq!(parts, Vector::strings(["a", "b"]).into());
        assert_eq!(run("concat", &[parts, text("+")]), Ok(text("a+b")));
        assert_eq!(run("substr", &[text("海豚db"), Value::int(1), Value::int(2)]), Ok(text("豚d")));
        assert_eq!(run("left", &[text("abc"), Value::int(2)]), Ok(text("ab")));
        assert_eq!(run("right", &[text("abc"), Value::int(2)]), Ok(text("bc")));
        assert_eq!(run("strReplace", &[text("abab"), text("b"), text("c")]), Ok(text("acac")));
    }

    #[test]
    fn patterns_are_replaced() {
        let replace = |source: &str, pattern: &str, to: &str| {
            run("regexReplace", &[text(source), text(pattern), text(to)])
        };
        assert_eq!(replace("abc234 ff456", "[0-9]+", "zzz"), Ok(text("abczzz ffzzz")));
        assert_eq!(replace("n1:1:0,n2:1:0", ":[^,]*", ""), Ok(text("n1,n2")));
        assert_eq!(replace("n1:1:0:f,n2", "(:[^:,]*){1}(,|$)", ";"), Ok(text("n1:1:0;n2")));
        assert!(replace("a", "(", "").is_err());
    }

    #[test]
    fn texts_are_asked() {
        assert_eq!(run("startsWith", &[text("dfs://x"), text("dfs")]), Ok(Value::bool(true)));
        assert_eq!(run("strlen", &[text("abc")]), Ok(Value::int(3)));
        assert_eq!(run("strpos", &[text("abc"), text("z")]), Ok(Value::int(-1)));
        let uppercase = run("upper", &[Vector::strings(["a", "b"]).into()]);
        assert_eq!(uppercase, Ok(Vector::strings(["A", "B"]).into()));
    }
}
