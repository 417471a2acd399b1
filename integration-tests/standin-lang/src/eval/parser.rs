//! Tokens to statements. Expressions and SQL are in `expressions`.

use super::ast::{Binary, Definition, Expr, Statement, StatementKind};
use super::lexer::{self, Kind, Token, Unreadable};

/// Why a source is not a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) line: usize,
    pub(super) token: String,
    /// A lone name stood before the token. If nobody knows it, the server names it instead.
    pub(super) before: Option<(usize, String)>,
}

impl From<Unreadable> for SyntaxError {
    fn from(unreadable: Unreadable) -> Self {
        Self { line: unreadable.line, token: unreadable.token, before: None }
    }
}

type Result<T> = std::result::Result<T, SyntaxError>;

/// Reads a script.
pub(super) fn script(source: &str, depth: usize) -> Result<Vec<Statement>> {
    let mut parser = Parser::new(source, depth)?;
    let statements = parser.statements()?;
    match parser.peek() {
        Kind::End => Ok(statements),
        _ => Err(parser.unexpected()),
    }
}

/// Reads one expression, such as the name of a function request.
pub(super) fn expression(source: &str, depth: usize) -> Result<Expr> {
    let mut parser = Parser::new(source, depth)?;
    parser.skip_newlines();
    let expr = parser.expr()?;
    parser.skip_newlines();
    match parser.peek() {
        Kind::End => Ok(expr),
        _ => Err(parser.unexpected()),
    }
}

/// Reads the definition of a function: `def f(a){…}`, `def(a){…}`, `a -> …` or `(a, b) -> …`.
pub(super) fn definition(source: &str, depth: usize) -> Result<Definition> {
    let mut parser = Parser::new(source, depth)?;
    if parser.is_word("def") {
        return parser.def().map(|(_, definition, _)| definition);
    }
    match parser.lambda()? {
        Some((definition, _)) => Ok(definition),
        None => Err(parser.unexpected()),
    }
}

/// Words that begin statements or clauses and are never names.
const RESERVED: &[&str] = &[
    "if", "else", "for", "def", "return", "throw", "try", "catch", "select", "exec", "from",
    "where", "group", "order", "as", "while", "do", "delete", "update", "insert", "module", "use",
    "go", "in", "like", "between", "and", "or",
];

pub(super) struct Parser<'s> {
    source: &'s str,
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    limit: usize,
    /// Inside a `select`, where a single `=` compares.
    pub(super) sql: bool,
}

impl<'s> Parser<'s> {
    fn new(source: &'s str, limit: usize) -> Result<Self> {
        let tokens = lexer::tokens(source)?;
        Ok(Self { source, tokens, at: 0, depth: 0, limit, sql: false })
    }

    // ----- tokens

    pub(super) fn peek(&self) -> &Kind {
        self.peek_at(0)
    }

    pub(super) fn peek_at(&self, ahead: usize) -> &Kind {
        self.tokens.get(self.at + ahead).map_or(&Kind::End, |token| &token.kind)
    }

    pub(super) fn line(&self) -> usize {
        self.tokens.get(self.at).or_else(|| self.tokens.last()).map_or(1, |token| token.line)
    }

    /// Returns the first byte of the token that comes next.
    pub(super) fn start(&self) -> usize {
        self.tokens.get(self.at).map_or(self.source.len(), |token| token.start)
    }

    /// Returns the byte behind the token that was taken last.
    fn end(&self) -> usize {
        let last = self.at.checked_sub(1).and_then(|at| self.tokens.get(at));
        last.map_or(0, |token| token.end)
    }

    /// Returns the source from a byte up to the token that was taken last.
    pub(super) fn text_from(&self, start: usize) -> &'s str {
        self.source.get(start..self.end()).unwrap_or("")
    }

    pub(super) fn advance(&mut self) {
        self.at = (self.at + 1).min(self.tokens.len().saturating_sub(1));
    }

    pub(super) fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Kind::Op(found) if *found == op)
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Kind::Name(found) if found.eq_ignore_ascii_case(word))
    }

    pub(super) fn take_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn expect_op(&mut self, op: &str) -> Result<()> {
        if self.take_op(op) { Ok(()) } else { Err(self.unexpected()) }
    }

    pub(super) fn skip_newlines(&mut self) {
        while *self.peek() == Kind::Newline {
            self.advance();
        }
    }

    /// Takes line ends if one of these words follows them, which then continues the statement.
    pub(super) fn skip_newlines_before(&mut self, words: &[&str]) {
        let mark = self.at;
        self.skip_newlines();
        if !words.iter().any(|word| self.is_word(word)) {
            self.at = mark;
        }
    }

    pub(super) fn name(&mut self) -> Result<String> {
        if let Kind::Name(name) = self.peek()
            && !is_reserved(name)
        {
            let name = name.clone();
            self.advance();
            return Ok(name);
        }
        Err(self.unexpected())
    }

    /// Returns the error for the token that comes next.
    pub(super) fn unexpected(&self) -> SyntaxError {
        let token = self.tokens.get(self.at).map_or("", |token| {
            let text = self.source.get(token.start..token.end).unwrap_or("");
            if token.kind == Kind::Newline { "" } else { text }
        });
        SyntaxError { line: self.line(), token: token.chars().take(80).collect(), before: None }
    }

    /// Runs a part of the parser one level deeper.
    pub(super) fn deeper<T>(&mut self, part: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= self.limit {
            return Err(self.unexpected());
        }
        self.depth += 1;
        let result = part(self);
        self.depth -= 1;
        result
    }

    // ----- statements

    fn statements(&mut self) -> Result<Vec<Statement>> {
        let mut statements = Vec::new();
        loop {
            while *self.peek() == Kind::Newline || self.is_op(";") {
                self.advance();
            }
            if *self.peek() == Kind::End || self.is_op("}") {
                return Ok(statements);
            }
            let statement = self.statement()?;
            let ended = matches!(self.peek(), Kind::Newline | Kind::End | Kind::Op(";" | "}"));
            // A block may be followed by anything.
            if !ended && !self.text_from(self.end().saturating_sub(1)).ends_with('}') {
                let mut error = self.unexpected();
                if let StatementKind::Expression(Expr::Name { name, line }) = statement.kind {
                    error.before = Some((line, name));
                }
                return Err(error);
            }
            statements.push(statement);
        }
    }

    fn statement(&mut self) -> Result<Statement> {
        let start = self.start();
        let kind = self.deeper(Self::statement_kind)?;
        Ok(Statement { kind, text: self.text_from(start).to_owned() })
    }

    fn statement_kind(&mut self) -> Result<StatementKind> {
        if self.is_word("def") && matches!(self.peek_at(1), Kind::Name(_)) {
            let (name, _, source) = self.def()?;
            return Ok(StatementKind::Define { name, source: source.into() });
        }
        if self.take_word("if") {
            return self.if_statement();
        }
        if self.take_word("for") {
            self.expect_op("(")?;
            let name = self.name()?;
            if !self.take_word("in") {
                return Err(self.unexpected());
            }
            let values = self.expr()?;
            self.expect_op(")")?;
            return Ok(StatementKind::For { name, values, body: self.block()? });
        }
        if self.take_word("try") {
            let body = self.block()?;
            self.skip_newlines();
            if !self.take_word("catch") {
                return Err(self.unexpected());
            }
            self.expect_op("(")?;
            let name = self.name()?;
            self.expect_op(")")?;
            return Ok(StatementKind::Try { body, name, handler: self.block()? });
        }
        if self.take_word("return") {
            let ends = matches!(self.peek(), Kind::Newline | Kind::End | Kind::Op(";" | "}"));
            let value = if ends { None } else { Some(self.expr()?) };
            return Ok(StatementKind::Return(value));
        }
        if self.take_word("throw") {
            return Ok(StatementKind::Throw(self.expr()?));
        }
        if let Some(kind) = self.word_statement()? {
            return Ok(kind);
        }
        self.assignment()
    }

    /// Reads `share t as name`, `undef all` and `delete from t where c`, which are calls in
    /// disguise; the last is `deleteRows(t, select * from t where c)`.
    fn word_statement(&mut self) -> Result<Option<StatementKind>> {
        let call = |name: &str, line, args: Vec<Expr>| {
            let callee = Box::new(Expr::Name { name: name.to_owned(), line });
            let args = args
                .into_iter()
                .map(|value| super::ast::Arg { value: Some(value), ..Default::default() })
                .collect();
            StatementKind::Expression(Expr::Call { callee, args })
        };
        let line = self.line();
        let operand = matches!(self.peek_at(1), Kind::Name(_));
        if self.is_word("share") && operand {
            self.advance();
            let table = self.expr()?;
            if !self.take_word("as") {
                return Err(self.unexpected());
            }
            let name = Expr::Literal(crate::value::Value::string(self.alias()?));
            return Ok(Some(call("share", line, vec![table, name])));
        }
        if self.is_word("delete") && operand {
            self.advance();
            let rows = self.rows_to_delete()?;
            let Expr::Select(select) = &rows else { return Err(self.unexpected()) };
            let from = select.from.clone();
            return Ok(Some(call("deleteRows", line, vec![from, rows])));
        }
        if self.is_word("undef") && operand {
            self.advance();
            let name = self.name()?;
            let name = Expr::Literal(crate::value::Value::string(name));
            return Ok(Some(call("undef", line, vec![name])));
        }
        Ok(None)
    }

    fn assignment(&mut self) -> Result<StatementKind> {
        let target = self.expr()?;
        let operator = match self.peek() {
            Kind::Op("=") => None,
            Kind::Op("+=") => Some(Binary::Add),
            Kind::Op("-=") => Some(Binary::Subtract),
            _ => return Ok(StatementKind::Expression(target)),
        };
        let error = self.unexpected();
        self.advance();
        self.skip_newlines();
        match (target, operator) {
            (Expr::Name { name, .. }, None) => {
                Ok(StatementKind::Assign { name, value: self.expr()? })
            }
            (Expr::Name { name, .. }, Some(operator)) => {
                Ok(StatementKind::AddAssign { name, operator, value: self.expr()? })
            }
            (Expr::Index { target, index }, None) => match *target {
                Expr::Name { name, .. } => {
                    Ok(StatementKind::AssignAt { name, index: *index, value: self.expr()? })
                }
                _ => Err(error),
            },
            _ => Err(error),
        }
    }

    fn if_statement(&mut self) -> Result<StatementKind> {
        self.expect_op("(")?;
        let condition = self.expr()?;
        self.expect_op(")")?;
        let then = self.block()?;
        self.skip_newlines_before(&["else"]);
        let otherwise = if self.take_word("else") { self.block()? } else { Vec::new() };
        Ok(StatementKind::If { condition, then, otherwise })
    }

    /// Reads `{ statements }` or one statement.
    pub(super) fn block(&mut self) -> Result<Vec<Statement>> {
        self.skip_newlines();
        if !self.take_op("{") {
            return self.statement().map(|statement| vec![statement]);
        }
        let sql = std::mem::replace(&mut self.sql, false);
        let statements = self.deeper(Self::statements)?;
        self.expect_op("}")?;
        self.sql = sql;
        Ok(statements)
    }

    // ----- functions

    /// Reads `def [name](parameters){…}`; returns the name, the definition and its text.
    pub(super) fn def(&mut self) -> Result<(String, Definition, &'s str)> {
        let start = self.start();
        self.advance();
        let name = if self.is_op("(") { String::new() } else { self.name()? };
        self.expect_op("(")?;
        let mut parameters = Vec::new();
        while !self.take_op(")") {
            if self.is_word("mutable") && matches!(self.peek_at(1), Kind::Name(_)) {
                self.advance();
            }
            let parameter = self.name()?;
            let default = if self.take_op("=") { Some(self.expr()?) } else { None };
            parameters.push((parameter, default));
            if !self.is_op(")") {
                self.expect_op(",")?;
            }
        }
        self.skip_newlines();
        let body = if self.take_op(":") { self.returned()? } else { self.block()? };
        Ok((name, Definition { parameters, body }, self.text_from(start)))
    }

    /// Reads `a -> …` or `(a, b) -> …` if one stands here.
    pub(super) fn lambda(&mut self) -> Result<Option<(Definition, &'s str)>> {
        let Some((parameters, length)) = self.lambda_head() else { return Ok(None) };
        let start = self.start();
        self.at += length;
        let parameters = parameters.into_iter().map(|name| (name, None)).collect();
        let body = if self.is_op("{") { self.block()? } else { self.returned()? };
        Ok(Some((Definition { parameters, body }, self.text_from(start))))
    }

    /// Reads an expression as the body of a function that returns it.
    fn returned(&mut self) -> Result<Vec<Statement>> {
        let start = self.start();
        let value = self.expr()?;
        let text = self.text_from(start).to_owned();
        Ok(vec![Statement { kind: StatementKind::Return(Some(value)), text }])
    }

    /// Returns a lambda's parameters and the number of tokens up to behind the arrow.
    fn lambda_head(&self) -> Option<(Vec<String>, usize)> {
        let mut parameters = Vec::new();
        if let Kind::Name(name) = self.peek() {
            let arrow = *self.peek_at(1) == Kind::Op("->") && !is_reserved(name);
            return arrow.then(|| (vec![name.clone()], 2));
        }
        if !self.is_op("(") {
            return None;
        }
        let mut ahead = 1;
        while let Kind::Name(name) = self.peek_at(ahead) {
            parameters.push(name.clone());
            ahead += 1;
            if *self.peek_at(ahead) != Kind::Op(",") {
                break;
            }
            ahead += 1;
        }
        let closed = *self.peek_at(ahead) == Kind::Op(")");
        (closed && *self.peek_at(ahead + 1) == Kind::Op("->")).then_some((parameters, ahead + 2))
    }
}

pub(super) fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|word| name.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(source: &str) -> SyntaxError {
        script(source, 64).unwrap_err()
    }

    #[test]
    fn statements_end_at_lines_and_semicolons() {
        let count = |source| script(source, 64).unwrap().len();
        assert_eq!(count("a=1; b=2\nc = a +\n b;\n\n"), 3);
        assert_eq!(
            count("def f(a, mutable b, c=3){ return a }\nif(a){ b } else { c }\nf(1,\n2)"),
            3
        );
        assert_eq!(count("try{ throw 'x' }catch(ex){ ex }\nfor(i in 1..3){ print(i) }"), 2);
        assert_eq!(count("select *\nfrom t\nwhere a=1, b=2\norder by a desc\nx"), 2);
        assert_eq!(count("x -> x+1; (a, b) -> a; def(x){ x }"), 3);
        assert_eq!(count("share t as st; undef all; d[`a] = 1; n += 1"), 4);
    }

    #[test]
    fn errors_name_line_and_token() {
        let at = |source| {
            let error = error(source);
            (error.line, error.token)
        };
        assert_eq!(at("1 +\n)"), (2, ")".to_owned()));
        assert_eq!(at("a = 1\nselect a b"), (2, "b".to_owned()));
        assert_eq!(at("f(1"), (1, String::new()));
        assert_eq!(error("foo bar").before, Some((1, "foo".to_owned())));
        assert_eq!(at("select * from t context by a"), (1, "context".to_owned()));
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_crash() {
        for open in ["(", "[", "f(", "-", "def(){", "x -> ", "if(a) ", "select a from "] {
            assert!(script(&open.repeat(100_000), 64).is_err(), "{open}");
        }
    }

    #[test]
    fn definitions_are_read_from_their_own_text() {
        for source in
            ["def f(a, b){ return a }", "def(a, b){ a }", "(a, b) -> a", "def f(a,b): a+b"]
        {
            let definition = definition(source, 64).unwrap();
            assert_eq!(definition.parameters.len(), 2, "{source}");
            assert_eq!(definition.body.len(), 1, "{source}");
        }
        assert!(definition("1 + 1", 64).is_err());
    }
}
