//! The tree of a script.

use std::sync::Arc;

use super::Operator;
use crate::value::Value;

/// A statement and the text it was written as, which run-time errors quote.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statement {
    pub(super) kind: StatementKind,
    pub(super) text: String,
}

/// What a statement does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum StatementKind {
    /// `expr`
    Expression(Expr),
    /// `name = expr`
    Assign { name: String, value: Expr },
    /// `name += expr`
    AddAssign { name: String, operator: Binary, value: Expr },
    /// `name[index] = expr`
    AssignAt { name: String, index: Expr, value: Expr },
    /// `def name(…){…}`
    Define { name: String, source: Arc<str> },
    /// `if(c){…} else {…}`
    If { condition: Expr, then: Vec<Statement>, otherwise: Vec<Statement> },
    /// `for(x in xs){…}`
    For { name: String, values: Expr, body: Vec<Statement> },
    /// `try{…} catch(ex){…}`
    Try { body: Vec<Statement>, name: String, handler: Vec<Statement> },
    /// `return expr`
    Return(Option<Expr>),
    /// `throw expr`
    Throw(Expr),
}

/// A function's parameters and statements.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Definition {
    pub(super) parameters: Vec<(String, Option<Expr>)>,
    pub(super) body: Vec<Statement>,
}

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    /// A constant.
    Literal(Value),
    /// A variable, column, constant or function.
    Name { name: String, line: usize },
    /// `*` as the argument of `count`.
    Star,
    /// `[a, b]`
    List(Vec<Self>),
    /// `(a, b)`
    Tuple(Vec<Self>),
    /// `-a`, `not a`
    Unary(Unary, Box<Self>),
    /// `a + b`
    Binary(Binary, Box<Self>, Box<Self>),
    /// `f(a,,b)`
    Call { callee: Box<Self>, args: Vec<Arg> },
    /// `f{a,,b}`
    Partial { callee: Box<Self>, args: Vec<Arg> },
    /// `x.f(a)`
    Method { target: Box<Self>, name: String, line: usize, args: Vec<Arg> },
    /// `x.member`
    Member { target: Box<Self>, name: String },
    /// `x[i]`
    Index { target: Box<Self>, index: Box<Self> },
    /// `x -> …` and `def(x){…}`
    Function { name: String, source: Arc<str> },
    /// `select … from …`
    Select(Box<Select>),
}

/// An argument of a call.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Arg {
    /// Nothing for `f(a,,b)`.
    pub(super) value: Option<Expr>,
    /// `value as alias`, in `table(…)`.
    pub(super) alias: Option<String>,
    /// `name = value`.
    pub(super) name: Option<String>,
}

/// An operator of one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unary {
    Negate,
    Not,
}

/// An operator of two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    Ratio,
    Modulo,
    Compare(Operator),
    And,
    Or,
    In,
    Like,
    Between,
    Range,
    Pair,
}

/// A `select` or `exec`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Select {
    /// `exec`: a vector or a scalar instead of a table, where there is one column.
    pub(super) exec: bool,
    pub(super) distinct: bool,
    /// `top n` or `limit n`.
    pub(super) limit: Option<Expr>,
    /// Empty for `*`.
    pub(super) columns: Vec<(Expr, Option<String>)>,
    pub(super) from: Expr,
    pub(super) conditions: Vec<Expr>,
    pub(super) groups: Vec<(Expr, Option<String>)>,
    /// Expression and whether descending.
    pub(super) order: Vec<(Expr, bool)>,
}
