//! Tokens to expressions and SQL.

use super::Operator;
use super::ast::{Arg, Binary, Expr, Select, Unary};
use super::lexer::Kind;
use super::parser::{Parser, SyntaxError, is_reserved};
use crate::value::{Scalar, Value, Vector};

type Result<T> = std::result::Result<T, SyntaxError>;

/// Words that continue a `select` on a new line.
const CLAUSES: &[&str] = &["from", "where", "group", "order", "limit"];
/// Binding strength of `not`: below comparisons, above `and`.
const NOT_LEVEL: u8 = 3;
/// Binding strength of a sign: above everything binary.
const SIGN_LEVEL: u8 = 9;

impl Parser<'_> {
    /// Reads an expression.
    pub(super) fn expr(&mut self) -> Result<Expr> {
        self.binding(0)
    }

    /// Reads an expression of operators that bind at least so tightly.
    fn binding(&mut self, level: u8) -> Result<Expr> {
        let mut left = self.deeper(Self::operand)?;
        while let Some((operator, strength)) = self.binary() {
            if strength < level {
                break;
            }
            self.advance();
            self.skip_newlines();
            let right = self.deeper(|parser| parser.binding(strength + 1))?;
            left = Expr::Binary(operator, Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    /// Returns the binary operator that comes next and how tightly it binds.
    fn binary(&self) -> Option<(Binary, u8)> {
        let compare = |operator| Some((Binary::Compare(operator), 4));
        match self.peek() {
            Kind::Op(op) => match *op {
                "||" => Some((Binary::Or, 1)),
                "&&" => Some((Binary::And, 2)),
                "==" => compare(Operator::Equal),
                "=" if self.sql => compare(Operator::Equal),
                "!=" | "<>" => compare(Operator::NotEqual),
                "<" => compare(Operator::Less),
                "<=" => compare(Operator::LessEqual),
                ">" => compare(Operator::Greater),
                ">=" => compare(Operator::GreaterEqual),
                ":" => Some((Binary::Pair, 5)),
                "+" => Some((Binary::Add, 6)),
                "-" => Some((Binary::Subtract, 6)),
                "*" => Some((Binary::Multiply, 7)),
                "/" => Some((Binary::Divide, 7)),
                "\\" => Some((Binary::Ratio, 7)),
                "%" => Some((Binary::Modulo, 7)),
                ".." => Some((Binary::Range, 8)),
                _ => None,
            },
            Kind::Name(word) => {
                let word = word.to_ascii_lowercase();
                match word.as_str() {
                    "or" => Some((Binary::Or, 1)),
                    "and" => Some((Binary::And, 2)),
                    "in" => Some((Binary::In, 4)),
                    "like" => Some((Binary::Like, 4)),
                    "between" => Some((Binary::Between, 4)),
                    _ => None,
                }
            }
            Kind::Literal(_) | Kind::Text(_) | Kind::Backtick(_) | Kind::Newline | Kind::End => {
                None
            }
        }
    }

    fn operand(&mut self) -> Result<Expr> {
        // `not(x)` is the operator with a bracketed operand, so both spellings are one.
        if self.take_word("not") {
            return Ok(Expr::Unary(Unary::Not, Box::new(self.binding(NOT_LEVEL + 1)?)));
        }
        if self.take_op("!") {
            return Ok(Expr::Unary(Unary::Not, Box::new(self.binding(SIGN_LEVEL)?)));
        }
        if self.take_op("-") {
            return Ok(Expr::Unary(Unary::Negate, Box::new(self.binding(SIGN_LEVEL)?)));
        }
        let mut expr = self.primary()?;
        loop {
            let touches = self.touches();
            if self.is_op("(") {
                let args = self.args("(", ")")?;
                expr = Expr::Call { callee: Box::new(expr), args };
            } else if self.is_op("{") && touches {
                let args = self.args("{", "}")?;
                expr = Expr::Partial { callee: Box::new(expr), args };
            } else if self.is_op("[") && touches {
                self.advance();
                let index = Box::new(self.expr()?);
                self.expect_op("]")?;
                expr = Expr::Index { target: Box::new(expr), index };
            } else if self.is_op(".") {
                let line = self.line();
                self.advance();
                let name = self.name()?;
                let target = Box::new(expr);
                expr = if self.is_op("(") {
                    let args = self.args("(", ")")?;
                    Expr::Method { target, name, line, args }
                } else {
                    Expr::Member { target, name }
                };
            } else {
                return Ok(expr);
            }
        }
    }

    /// Tells whether the next token follows the last one without a blank: `f{a}` binds an
    /// argument, `f {` opens a block; `x[1]` is an element, `x [1]` are two things.
    fn touches(&self) -> bool {
        self.text_from(0).len() == self.start()
    }

    fn primary(&mut self) -> Result<Expr> {
        if let Some((_, source)) = self.lambda()? {
            return Ok(Expr::Function { name: String::new(), source: source.into() });
        }
        let line = self.line();
        match self.peek().clone() {
            Kind::Literal(scalar) => Ok(self.numbers(scalar)),
            Kind::Text(text) => {
                self.advance();
                Ok(Expr::Literal(Value::string(text)))
            }
            Kind::Backtick(texts) => {
                self.advance();
                Ok(Expr::Literal(match <[String; 1]>::try_from(texts) {
                    Ok([text]) => Value::string(text),
                    Err(texts) => Value::Vector(Vector::strings(texts)),
                }))
            }
            Kind::Name(name) => match name.as_str() {
                "select" | "exec" => self.select(),
                "def" => {
                    let (name, _, source) = self.def()?;
                    Ok(Expr::Function { name, source: source.into() })
                }
                "true" | "false" | "NULL" => {
                    self.advance();
                    Ok(Expr::Literal(match name.as_str() {
                        "NULL" => Value::null(),
                        text => Value::bool(text == "true"),
                    }))
                }
                _ if is_reserved(&name) => Err(self.unexpected()),
                _ => {
                    self.advance();
                    Ok(Expr::Name { name, line })
                }
            },
            Kind::Op("[") => {
                self.advance();
                self.list("]").map(Expr::List)
            }
            Kind::Op("(") => {
                self.advance();
                let first = self.expr()?;
                if self.take_op(",") {
                    let mut items = vec![first];
                    items.extend(self.list(")")?);
                    return Ok(Expr::Tuple(items));
                }
                self.expect_op(")")?;
                Ok(first)
            }
            Kind::Op(_) | Kind::Newline | Kind::End => Err(self.unexpected()),
        }
    }

    /// Reads `1`, or the vector `1 2 3`.
    fn numbers(&mut self, first: Scalar) -> Expr {
        self.advance();
        let mut values = vec![Value::Scalar(first)];
        while let Kind::Literal(next) = self.peek() {
            values.push(Value::Scalar(next.clone()));
            self.advance();
        }
        match <[Value; 1]>::try_from(values) {
            Ok([value]) => Expr::Literal(value),
            Err(values) => Expr::Literal(Value::Vector(Vector::collect(values))),
        }
    }

    /// Reads expressions up to a closing bracket.
    fn list(&mut self, close: &str) -> Result<Vec<Expr>> {
        let mut items = Vec::new();
        while !self.take_op(close) {
            items.push(self.expr()?);
            if !self.is_op(close) {
                self.expect_op(",")?;
            }
        }
        Ok(items)
    }

    /// Reads the arguments of a call or of a partial application.
    fn args(&mut self, open: &str, close: &str) -> Result<Vec<Arg>> {
        self.expect_op(open)?;
        self.skip_newlines();
        let mut args = Vec::new();
        if self.take_op(close) {
            return Ok(args);
        }
        loop {
            self.skip_newlines();
            args.push(self.arg(close)?);
            self.skip_newlines();
            if self.take_op(close) {
                return Ok(args);
            }
            self.expect_op(",")?;
        }
    }

    fn arg(&mut self, close: &str) -> Result<Arg> {
        if self.is_op(",") || self.is_op(close) {
            return Ok(Arg::default());
        }
        if self.is_op("*") && *self.peek_at(1) == Kind::Op(")") {
            self.advance();
            return Ok(Arg { value: Some(Expr::Star), ..Arg::default() });
        }
        let named = matches!(self.peek(), Kind::Name(_)) && *self.peek_at(1) == Kind::Op("=");
        if named && !self.sql {
            let name = self.name()?;
            self.advance();
            return Ok(Arg { value: Some(self.expr()?), name: Some(name), alias: None });
        }
        let value = Some(self.expr()?);
        let alias = if self.take_word("as") { Some(self.alias()?) } else { None };
        Ok(Arg { value, alias, name: None })
    }

    /// Reads the name behind `as`.
    pub(super) fn alias(&mut self) -> Result<String> {
        let alias = match self.peek() {
            Kind::Text(text) => text.clone(),
            Kind::Backtick(texts) => texts.first().cloned().unwrap_or_default(),
            Kind::Name(_) | Kind::Literal(_) | Kind::Op(_) | Kind::Newline | Kind::End => {
                return self.name();
            }
        };
        self.advance();
        Ok(alias)
    }

    // ----- SQL

    fn select(&mut self) -> Result<Expr> {
        let sql = std::mem::replace(&mut self.sql, true);
        let select = self.deeper(Self::select_clauses);
        self.sql = sql;
        select.map(|select| Expr::Select(Box::new(select)))
    }

    fn select_clauses(&mut self) -> Result<Select> {
        let exec = self.is_word("exec");
        self.advance();
        let mut limit = None;
        if self.is_word("top") && matches!(self.peek_at(1), Kind::Literal(_)) {
            self.advance();
            limit = Some(self.top_count()?);
        }
        let distinct = self.is_word("distinct") && *self.peek_at(1) != Kind::Op("(");
        if distinct {
            self.advance();
        }
        let columns = if self.take_op("*") { Vec::new() } else { self.aliased()? };
        self.skip_newlines_before(CLAUSES);
        if !self.take_word("from") {
            return Err(self.unexpected());
        }
        self.skip_newlines();
        self.sql = false;
        let from = self.expr()?;
        self.sql = true;
        let mut select = Select {
            exec,
            distinct,
            limit,
            columns,
            from,
            conditions: Vec::new(),
            groups: Vec::new(),
            order: Vec::new(),
        };
        loop {
            self.skip_newlines_before(CLAUSES);
            if self.take_word("where") {
                select.conditions = self.comma_separated(Self::expr)?;
            } else if self.take_word("group") {
                self.by()?;
                select.groups = self.aliased()?;
            } else if self.take_word("order") {
                self.by()?;
                select.order = self.comma_separated(Self::order_key)?;
            } else if self.take_word("limit") {
                select.limit = Some(self.expr()?);
            } else {
                return Ok(select);
            }
        }
    }

    /// Reads what stands behind `delete`: `from t where c`, as the `select` of those rows.
    pub(super) fn rows_to_delete(&mut self) -> Result<Expr> {
        if !self.take_word("from") {
            return Err(self.unexpected());
        }
        let from = self.expr()?;
        let mut conditions = Vec::new();
        if self.take_word("where") {
            let sql = std::mem::replace(&mut self.sql, true);
            let read = self.comma_separated(Self::expr);
            self.sql = sql;
            conditions = read?;
        }
        Ok(Expr::Select(Box::new(Select {
            exec: false,
            distinct: false,
            limit: None,
            columns: Vec::new(),
            from,
            conditions,
            groups: Vec::new(),
            order: Vec::new(),
        })))
    }

    /// Reads the number behind `top`, which must not run into `distinct` or the columns.
    fn top_count(&mut self) -> Result<Expr> {
        let Kind::Literal(count) = self.peek().clone() else { return Err(self.unexpected()) };
        self.advance();
        Ok(Expr::Literal(Value::Scalar(count)))
    }

    fn by(&mut self) -> Result<()> {
        if self.take_word("by") { Ok(()) } else { Err(self.unexpected()) }
    }

    fn aliased(&mut self) -> Result<Vec<(Expr, Option<String>)>> {
        self.comma_separated(|parser| {
            let expr = parser.expr()?;
            let alias = if parser.take_word("as") { Some(parser.alias()?) } else { None };
            Ok((expr, alias))
        })
    }

    fn order_key(&mut self) -> Result<(Expr, bool)> {
        let expr = self.expr()?;
        let descending = self.take_word("desc");
        if !descending {
            self.take_word("asc");
        }
        Ok((expr, descending))
    }

    fn comma_separated<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.take_op(",") {
            self.skip_newlines();
            items.push(item(self)?);
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::super::parser::expression;
    use super::*;

    fn parsed(source: &str) -> Expr {
        expression(source, 64).unwrap_or_else(|error| panic!("{source}: {error:?}"))
    }

    #[test]
    fn operators_bind_as_they_should() {
        assert_eq!(parsed("1+2*3"), parsed("1+(2*3)"));
        assert_eq!(parsed("a==1 and b!=2 or c"), parsed("((a==1) and (b!=2)) or c"));
        assert_eq!(parsed("not a in b"), parsed("not (a in b)"));
        assert_eq!(parsed("-1+2"), parsed("(-1)+2"));
        assert_eq!(parsed("1:0+1"), parsed("1:(0+1)"));
        assert_eq!(parsed("a-b-c"), parsed("(a-b)-c"));
        assert_eq!(parsed("!a && b"), parsed("(!a) && b"));
    }

    #[test]
    fn calls_have_missing_named_and_aliased_arguments() {
        let Expr::Call { args, .. } = parsed("f(a,,b)") else { panic!("not a call") };
        assert_eq!(args.iter().filter(|arg| arg.value.is_none()).count(), 1);
        let Expr::Call { args, .. } = parsed("table(a as x, n=1)") else { panic!("not a call") };
        assert_eq!(args[0].alias.as_deref(), Some("x"));
        assert_eq!(args[1].name.as_deref(), Some("n"));
        assert!(matches!(parsed("f{,b}"), Expr::Partial { args, .. } if args.len() == 2));
        assert!(matches!(parsed("schema(t).colDefs.typeInt"), Expr::Member { .. }));
        assert!(matches!(parsed("db.create(t, `a)"), Expr::Method { .. }));
        assert_eq!(parsed("1 2 3"), Expr::Literal(Value::Vector(Vector::ints([1, 2, 3]))));
    }

    #[test]
    fn select_has_its_clauses() {
        let source = "select top 5 a, count(*) as n from t where x=1 and y in [1,2], z like `q \
                      group by a order by n desc, a";
        let Expr::Select(select) = parsed(source) else { panic!("not a select") };
        assert_eq!(select.columns.len(), 2);
        assert_eq!(select.conditions.len(), 2);
        assert_eq!(select.groups.len(), 1);
        assert_eq!(select.order.iter().map(|(_, down)| *down).collect::<Vec<_>>(), [true, false]);
        assert_eq!(select.limit, Some(Expr::Literal(Value::int(5))));
        assert!(matches!(parsed("size((select * from t where a=1))"), Expr::Call { .. }));
    }
}
