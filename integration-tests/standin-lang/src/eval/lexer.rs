//! Text to tokens.

use crate::value::{Cell, Scalar, Type, parse};

/// A token and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Line, from 1.
    pub(super) line: usize,
    /// First byte in the source.
    pub(super) start: usize,
    /// Byte behind the last.
    pub(super) end: usize,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// A name or a word of the language.
    Name(String),
    /// A number, date or time.
    Literal(Scalar),
    /// A quoted text.
    Text(String),
    /// `` `a `` or `` `a`b ``.
    Backtick(Vec<String>),
    /// An operator or a bracket.
    Op(&'static str),
    /// The end of a line, outside of round and square brackets.
    Newline,
    /// The end of the source.
    End,
}

/// Where reading stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) line: usize,
    pub(super) token: String,
}

/// Operators and brackets, longer ones before their beginnings.
const OPERATORS: &[&str] = &[
    "->", "..", "==", "!=", "<>", "<=", ">=", "&&", "||", "+=", "-=", "(", ")", "[", "]", "{", "}",
    ",", ";", ":", ".", "+", "-", "*", "/", "\\", "%", "<", ">", "=", "!",
];

/// Splits a source into tokens; the last is `End`.
pub(super) fn tokens(source: &str) -> Result<Vec<Token>, Unreadable> {
    let mut lexer = Lexer { source, at: 0, line: 1, tokens: Vec::new(), open: Vec::new() };
    while lexer.step()? {}
    lexer.push(Kind::End, lexer.at);
    Ok(lexer.tokens)
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: usize,
    tokens: Vec<Token>,
    /// The brackets that are open: a line end counts only outside of round and square ones.
    open: Vec<&'static str>,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.source.get(self.at..).unwrap_or("")
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.source.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn push(&mut self, kind: Kind, start: usize) {
        self.tokens.push(Token { kind, line: self.line, start, end: self.at });
    }

    /// Returns the error for what stands here: the word, or the single character.
    fn unreadable(&self) -> Unreadable {
        let rest = self.rest();
        let word: String = rest.chars().take_while(|c| is_name(*c)).take(40).collect();
        let token = if word.is_empty() { rest.chars().take(1).collect() } else { word };
        Unreadable { line: self.line, token }
    }

    /// Reads one token or skips blanks; false at the end.
    fn step(&mut self) -> Result<bool, Unreadable> {
        let Some(first) = self.rest().chars().next() else { return Ok(false) };
        let start = self.at;
        if first == '\n' {
            self.at += 1;
            if !matches!(self.open.last(), Some(&("(" | "["))) {
                self.push(Kind::Newline, start);
            }
            self.line += 1;
        } else if first.is_whitespace() {
            self.at += first.len_utf8();
        } else if self.rest().starts_with("//") {
            self.at += self.rest().find('\n').unwrap_or_else(|| self.rest().len());
        } else if self.rest().starts_with("/*") {
            let Some(length) = self.rest().find("*/") else { return Err(self.unreadable()) };
            self.line += self.rest().bytes().take(length).filter(|byte| *byte == b'\n').count();
            self.at += length + 2;
        } else if first.is_ascii_digit() {
            self.number()?;
        } else if is_name_start(first) {
            self.name();
        } else if first == '"' || first == '\'' {
            self.quoted(first)?;
        } else if first == '`' {
            self.backtick();
        } else {
            self.operator()?;
        }
        Ok(true)
    }

    fn operator(&mut self) -> Result<(), Unreadable> {
        let rest = self.rest();
        let Some(operator) = OPERATORS.iter().copied().find(|op| rest.starts_with(op)) else {
            return Err(self.unreadable());
        };
        let start = self.at;
        self.at += operator.len();
        match operator {
            "(" | "[" | "{" => self.open.push(operator),
            ")" | "]" | "}" => drop(self.open.pop()),
            _ => {}
        }
        self.push(Kind::Op(operator), start);
        Ok(())
    }

    /// Reads a name; `module::name` and `append!` are names too.
    fn name(&mut self) {
        let start = self.at;
        loop {
            let length: usize =
                self.rest().chars().take_while(|c| is_name(*c)).map(char::len_utf8).sum();
            self.at += length;
            let module = self.byte(0) == b':' && self.byte(1) == b':';
            if !(module && is_name_start(char::from(self.byte(2)))) {
                break;
            }
            self.at += 2;
        }
        if self.byte(0) == b'!' && self.byte(1) != b'=' {
            self.at += 1;
        }
        let name = self.source.get(start..self.at).unwrap_or("").to_owned();
        self.push(Kind::Name(name), start);
    }

    fn quoted(&mut self, quote: char) -> Result<(), Unreadable> {
        let start = self.at;
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((place, c)) = chars.next() {
            if c == quote {
                let lines = text.matches('\n').count();
                self.at += place + 1;
                self.push(Kind::Text(text), start);
                self.line += lines;
                return Ok(());
            }
            if c != '\\' {
                text.push(c);
                continue;
            }
            match chars.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                Some((_, 'r')) => text.push('\r'),
                Some((_, escaped @ ('\\' | '"' | '\''))) => text.push(escaped),
                // Any other backslash is itself: paths and patterns are written with it.
                Some((_, other)) => text.extend(['\\', other]),
                None => break,
            }
        }
        Err(self.unreadable())
    }

    fn backtick(&mut self) {
        let start = self.at;
        let mut texts = Vec::new();
        while self.byte(0) == b'`' {
            self.at += 1;
            let rest = self.rest();
            let mut length = 0;
            for (place, c) in rest.char_indices() {
                let after = rest.get(place + 1..).and_then(|rest| rest.chars().next());
                // A point belongs to it (`600000.SH`) unless a method call follows.
                let point =
                    c == '.' && after.is_some_and(|c| c.is_ascii_digit() || c.is_ascii_uppercase());
                if !is_name(c) && !point {
                    break;
                }
                length = place + c.len_utf8();
            }
            texts.push(rest.get(..length).unwrap_or("").to_owned());
            self.at += length;
        }
        self.push(Kind::Backtick(texts), start);
    }

    fn number(&mut self) -> Result<(), Unreadable> {
        let start = self.at;
        if let Some(length) = self.temporal_length() {
            let text = self.source.get(start..start + length).unwrap_or("");
            let Some((ty, cell)) = parse::temporal(text) else { return Err(self.unreadable()) };
            self.at += length;
            self.push(Kind::Literal(Scalar::new(ty, cell)), start);
            return Ok(());
        }
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let mut length = digits(self.rest());
        let mut real = false;
        let fraction = self.rest().get(length..).and_then(|rest| rest.strip_prefix('.'));
        if let Some(fraction) = fraction.map(digits).filter(|count| *count > 0) {
            length += 1 + fraction;
            real = true;
        }
        if let Some(exponent) =
            self.rest().get(length..).and_then(|rest| rest.strip_prefix(['e', 'E']))
        {
            let sign = usize::from(exponent.starts_with(['+', '-']));
            let count = exponent.get(sign..).map_or(0, digits);
            if count > 0 {
                length += 1 + sign + count;
                real = true;
            }
        }
        let text = self.rest().get(..length).unwrap_or("").to_owned();
        let suffix = char::from(self.byte(length));
        let suffix = Some(suffix).filter(|c| is_name(*c));
        let Some(scalar) = number_of(&text, real, suffix) else { return Err(self.unreadable()) };
        self.at += length + usize::from(suffix.is_some());
        if is_name(char::from(self.byte(0))) {
            self.at = start;
            return Err(self.unreadable());
        }
        self.push(Kind::Literal(scalar), start);
        Ok(())
    }

    /// Returns the length of a date or time that starts here.
    fn temporal_length(&self) -> Option<usize> {
        let rest = self.rest().as_bytes();
        let time = |from: usize| -> Option<usize> {
            matches(rest, from, "dd:dd:dd").then(|| {
                let mut end = from + 8;
                if rest.get(end) == Some(&b'.') && rest.get(end + 1).is_some_and(u8::is_ascii_digit)
                {
                    let digits = rest.iter().skip(end + 1).take_while(|b| b.is_ascii_digit());
                    end += 1 + digits.count();
                }
                end
            })
        };
        if matches(rest, 0, "dddd.dd.dd") {
            let divided = matches!(rest.get(10), Some(b'T' | b' '));
            if let Some(end) = time(11).filter(|_| divided) {
                return Some(end);
            }
            return Some(if matches(rest, 10, "Tdd") { 13 } else { 10 });
        }
        if matches(rest, 0, "dddd.ddM") {
            return Some(8);
        }
        if matches(rest, 0, "dd:ddm") {
            return Some(6);
        }
        time(0)
    }
}

/// Tells whether bytes from a place on follow a pattern in which `d` is a digit.
fn matches(bytes: &[u8], from: usize, pattern: &str) -> bool {
    pattern.bytes().enumerate().all(|(place, wanted)| {
        bytes.get(from + place).is_some_and(|byte| match wanted {
            b'd' => byte.is_ascii_digit(),
            _ => *byte == wanted,
        })
    })
}

/// Returns the number that a text with a type suffix is.
fn number_of(text: &str, real: bool, suffix: Option<char>) -> Option<Scalar> {
    let ty = match suffix {
        None if real => Type::Double,
        None => Type::Int,
        Some('b') => Type::Bool,
        Some('c') => Type::Char,
        Some('h') => Type::Short,
        Some('i') => Type::Int,
        Some('l' | 'L' | 'j') => Type::Long,
        Some('f') => Type::Float,
        Some('F') => Type::Double,
        Some(_) => return None,
    };
    if text == "00" && suffix.is_some() {
        return Some(Scalar::new(ty, Cell::Null));
    }
    if matches!(ty, Type::Double | Type::Float) {
        return Some(Scalar::new(ty, Cell::Real(text.parse().ok()?)));
    }
    if real {
        return None;
    }
    let number: i64 = text.parse().ok()?;
    // A bare number beyond INT is a LONG.
    let wide = ty == Type::Int && suffix.is_none() && i32::try_from(number).is_err();
    Some(Scalar::new(if wide { Type::Long } else { ty }, Cell::Int(number)))
}

fn is_name_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(source: &str) -> Vec<Kind> {
        let mut kinds: Vec<_> = tokens(source).unwrap().into_iter().map(|t| t.kind).collect();
        assert_eq!(kinds.pop(), Some(Kind::End));
        kinds
    }

    fn literal(ty: Type, number: i64) -> Kind {
        Kind::Literal(Scalar::new(ty, Cell::Int(number)))
    }

    #[test]
    fn ranges_of_dates_and_numbers_are_three_tokens() {
        let date = |day| literal(Type::Date, day);
        assert_eq!(kinds("2023.01.01..2023.01.10"), [date(19_358), Kind::Op(".."), date(19_367)]);
        assert_eq!(kinds("0..3"), [literal(Type::Int, 0), Kind::Op(".."), literal(Type::Int, 3)]);
        assert_eq!(kinds("1:0"), [literal(Type::Int, 1), Kind::Op(":"), literal(Type::Int, 0)]);
    }

    #[test]
    fn literals_have_their_types() {
        assert_eq!(kinds("2023.01.01T00:00:00.123"), [literal(Type::Timestamp, 1_672_531_200_123)]);
        assert_eq!(kinds("2023.01.01 00:00:01"), [literal(Type::DateTime, 1_672_531_201)]);
        assert_eq!(kinds("12:30m"), [literal(Type::Minute, 750)]);
        assert_eq!(kinds("1l"), [literal(Type::Long, 1)]);
        assert_eq!(kinds("3000000000"), [literal(Type::Long, 3_000_000_000)]);
        assert_eq!(kinds("00l"), [Kind::Literal(Scalar::new(Type::Long, Cell::Null))]);
        assert_eq!(kinds("1.5e2"), [Kind::Literal(Scalar::new(Type::Double, Cell::Real(150.0)))]);
        assert_eq!(kinds("`a`b.C"), [Kind::Backtick(vec!["a".into(), "b.C".into()])]);
        assert_eq!(kinds(r#""a\"b" 'c"'"#), [Kind::Text("a\"b".into()), Kind::Text("c\"".into())]);
    }

    #[test]
    fn names_may_carry_a_module_and_a_mark() {
        assert_eq!(kinds("ops::f"), [Kind::Name("ops::f".into())]);
        assert_eq!(kinds("append!(t)")[0], Kind::Name("append!".into()));
        assert_eq!(kinds("a!=b")[1], Kind::Op("!="));
    }

    #[test]
    fn line_ends_count_outside_of_brackets() {
        let lines = |source| kinds(source).iter().filter(|k| **k == Kind::Newline).count();
        assert_eq!(lines("a\nb"), 1);
        assert_eq!(lines("f(a,\nb)\n[1,\n2]"), 1);
        assert_eq!(lines("def f(){\na\n}"), 2);
        let all = tokens("a // x\n/* \n */ b").unwrap();
        let last = all.iter().rfind(|token| token.kind != Kind::End).unwrap();
        assert_eq!((last.line, &last.kind), (3, &Kind::Name("b".into())));
    }

    #[test]
    fn what_is_no_token_is_named_with_its_line() {
        assert_eq!(tokens("1\n#x"), Err(Unreadable { line: 2, token: "#".into() }));
        assert_eq!(tokens("12abc"), Err(Unreadable { line: 1, token: "12abc".into() }));
        assert!(tokens("\"open").is_err());
        assert!(tokens("2023.13.01").is_err());
    }
}
