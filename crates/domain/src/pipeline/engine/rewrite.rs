//! Puts functions in the place of operators, before an expression is compiled: the engine's own arithmetic and comparisons
//! know floating-point numbers only. Everything else of a template stays as it is, its places in the text included.

use std::cell::OnceCell;
use std::str::FromStr as _;

use minijinja::machinery::{Span, ast};
use minijinja::{Error, ErrorKind, Value};

use super::number::{self, Number};
use super::operators::{CHAIN, INDEX, NEGATE};
use super::text::CONCAT;

/// Rewrites what was parsed of one source.
pub(super) struct Rewrite<'a> {
    /// Where the spans of constants point.
    source: &'a str,
    /// The first number that cannot be kept as it is written.
    refused: OnceCell<String>,
}

impl<'a> Rewrite<'a> {
    /// Of this source.
    pub fn of(source: &'a str) -> Self {
        Self { source, refused: OnceCell::new() }
    }

    /// Ends the rewriting.
    ///
    /// # Errors
    /// When a number begins with a zero: who writes `007` means a text, and `7` would go out.
    pub fn finish(self) -> Result<(), Error> {
        let Some(written) = self.refused.into_inner() else { return Ok(()) };
        let why = format!(
            "the number `{written}` begins with a zero; quote it if it is a text, or take the zero out"
        );
        Err(Error::new(ErrorKind::SyntaxError, why))
    }

    /// A statement, and all in it.
    pub fn statement(&self, statement: &ast::Stmt<'a>) -> ast::Stmt<'a> {
        use ast::Stmt;
        match statement {
            Stmt::Template(s) => {
                Stmt::Template(at(s.span(), ast::Template { children: self.body(&s.children) }))
            }
            Stmt::EmitExpr(s) => {
                Stmt::EmitExpr(at(s.span(), ast::EmitExpr { expr: self.expression(&s.expr) }))
            }
            Stmt::EmitRaw(s) => Stmt::EmitRaw(at(s.span(), ast::EmitRaw { raw: s.raw })),
            Stmt::ForLoop(s) => Stmt::ForLoop(at(s.span(), self.for_loop(s))),
            Stmt::IfCond(s) => Stmt::IfCond(at(
                s.span(),
                ast::IfCond {
                    expr: self.expression(&s.expr),
                    true_body: self.body(&s.true_body),
                    false_body: self.body(&s.false_body),
                },
            )),
            Stmt::WithBlock(s) => {
                let pair = |(to, value): &(ast::Expr<'a>, ast::Expr<'a>)| {
                    (self.expression(to), self.expression(value))
                };
                let assignments = s.assignments.iter().map(pair).collect();
                Stmt::WithBlock(at(s.span(), ast::WithBlock { assignments, body: self.body(&s.body) }))
            }
            Stmt::Set(s) => Stmt::Set(at(
                s.span(),
                ast::Set { target: self.expression(&s.target), expr: self.expression(&s.expr) },
            )),
            Stmt::SetBlock(s) => Stmt::SetBlock(at(
                s.span(),
                ast::SetBlock {
                    target: self.expression(&s.target),
                    filter: self.optional(s.filter.as_ref()),
                    body: self.body(&s.body),
                },
            )),
            Stmt::AutoEscape(s) => Stmt::AutoEscape(at(
                s.span(),
                ast::AutoEscape { enabled: self.expression(&s.enabled), body: self.body(&s.body) },
            )),
            Stmt::FilterBlock(s) => Stmt::FilterBlock(at(
                s.span(),
                ast::FilterBlock {
                    filter: self.expression(&s.filter),
                    filter_span: s.filter_span,
                    body: self.body(&s.body),
                },
            )),
            Stmt::Do(s) => Stmt::Do(at(s.span(), ast::Do { call: self.call(&s.call) })),
        }
    }

    fn for_loop(&self, s: &ast::ForLoop<'a>) -> ast::ForLoop<'a> {
        ast::ForLoop {
            target: self.expression(&s.target),
            iter: self.expression(&s.iter),
            filter_expr: self.optional(s.filter_expr.as_ref()),
            recursive: s.recursive,
            body: self.body(&s.body),
            else_body: self.body(&s.else_body),
        }
    }

    fn body(&self, body: &[ast::Stmt<'a>]) -> Vec<ast::Stmt<'a>> {
        body.iter().map(|statement| self.statement(statement)).collect()
    }

    /// An expression, and all in it.
    pub fn expression(&self, expr: &ast::Expr<'a>) -> ast::Expr<'a> {
        use ast::Expr;
        match expr {
            Expr::Var(e) => Expr::Var(at(e.span(), ast::Var { id: e.id })),
            Expr::Const(e) => constant(self.constant(&e.value, e.span()), e.span()),
            Expr::Slice(e) => Expr::Slice(at(
                e.span(),
                ast::Slice {
                    expr: self.expression(&e.expr),
                    start: e.start.as_ref().map(|expr| self.index(expr)),
                    stop: e.stop.as_ref().map(|expr| self.index(expr)),
                    step: e.step.as_ref().map(|expr| self.index(expr)),
                },
            )),
            Expr::UnaryOp(e) => match e.op {
                ast::UnaryOpKind::Not => not(self.expression(&e.expr), e.span()),
                ast::UnaryOpKind::Neg => negative(self.expression(&e.expr), e.span()),
            },
            Expr::BinOp(e) => self.operation(e),
            Expr::Compare(e) => self.comparison(e),
            Expr::IfExpr(e) => Expr::IfExpr(at(
                e.span(),
                ast::IfExpr {
                    test_expr: self.expression(&e.test_expr),
                    true_expr: self.expression(&e.true_expr),
                    false_expr: self.optional(e.false_expr.as_ref()),
                },
            )),
            Expr::Filter(e) => Expr::Filter(at(
                e.span(),
                ast::Filter {
                    name: e.name,
                    expr: self.optional(e.expr.as_ref()),
                    args: self.arguments(&e.args),
                },
            )),
            Expr::Test(e) => Expr::Test(at(
                e.span(),
                ast::Test { name: e.name, expr: self.expression(&e.expr), args: self.arguments(&e.args) },
            )),
            Expr::GetAttr(e) => {
                Expr::GetAttr(at(e.span(), ast::GetAttr { expr: self.expression(&e.expr), name: e.name }))
            }
            Expr::GetItem(e) => Expr::GetItem(at(
                e.span(),
                ast::GetItem {
                    expr: self.expression(&e.expr),
                    subscript_expr: self.index(&e.subscript_expr),
                },
            )),
            Expr::Call(e) => Expr::Call(self.call(e)),
            Expr::List(e) => Expr::List(at(e.span(), ast::List { items: self.all(&e.items) })),
            Expr::Tuple(e) => Expr::Tuple(at(e.span(), ast::Tuple { items: self.all(&e.items) })),
            Expr::Map(e) => {
                Expr::Map(at(e.span(), ast::Map { keys: self.all(&e.keys), values: self.all(&e.values) }))
            }
        }
    }

    fn optional(&self, expr: Option<&ast::Expr<'a>>) -> Option<ast::Expr<'a>> {
        expr.map(|expr| self.expression(expr))
    }

    fn all(&self, exprs: &[ast::Expr<'a>]) -> Vec<ast::Expr<'a>> {
        exprs.iter().map(|expr| self.expression(expr)).collect()
    }

    fn call(&self, call: &ast::Spanned<ast::Call<'a>>) -> ast::Spanned<ast::Call<'a>> {
        at(call.span(), ast::Call { expr: self.expression(&call.expr), args: self.arguments(&call.args) })
    }

    fn arguments(&self, args: &[ast::CallArg<'a>]) -> Vec<ast::CallArg<'a>> {
        use ast::CallArg;
        args.iter()
            .map(|arg| match arg {
                CallArg::Pos(expr) => CallArg::Pos(self.expression(expr)),
                CallArg::Kwarg(name, expr) => CallArg::Kwarg(name, self.expression(expr)),
                CallArg::PosSplat(expr) => CallArg::PosSplat(self.expression(expr)),
                CallArg::KwargSplat(expr) => CallArg::KwargSplat(self.expression(expr)),
            })
            .collect()
    }

    fn operation(&self, operation: &ast::Spanned<ast::BinOp<'a>>) -> ast::Expr<'a> {
        use ast::BinOpKind;
        let (left, right) = (self.expression(&operation.left), self.expression(&operation.right));
        let name = match operation.op {
            BinOpKind::Eq => "==",
            BinOpKind::Ne => "!=",
            BinOpKind::Lt => "<",
            BinOpKind::Lte => "<=",
            BinOpKind::Gt => ">",
            BinOpKind::Gte => ">=",
            BinOpKind::In => "in",
            BinOpKind::Add => "+",
            BinOpKind::Sub => "-",
            BinOpKind::Mul => "*",
            BinOpKind::Div => "/",
            BinOpKind::FloorDiv => "//",
            BinOpKind::Rem => "%",
            BinOpKind::Pow => "**",
            BinOpKind::Concat => CONCAT,
            // Nothing is computed.
            op @ (BinOpKind::ScAnd | BinOpKind::ScOr) => {
                return ast::Expr::BinOp(at(operation.span(), ast::BinOp { op, left, right }));
            }
        };
        let compares = ["==", "!=", "<", "<=", ">", ">=", "in"].contains(&name);
        let span =
            if compares { from_to(operation.left.span(), operation.right.span()) } else { operation.span() };
        function(name, vec![left, right], span)
    }

    /// `a < b`, or a chain of them. All values of a chain are there before the first is compared.
    fn comparison(&self, comparison: &ast::Spanned<ast::Compare<'a>>) -> ast::Expr<'a> {
        let last = comparison.ops.last().map_or_else(|| comparison.span(), |op| op.expr.span());
        let span = from_to(comparison.expr.span(), last);
        let first = self.expression(&comparison.expr);
        if let [only] = comparison.ops.as_slice() {
            return function(comparing(only.op), vec![first, self.expression(&only.expr)], span);
        }
        let mut values = vec![first];
        for op in &comparison.ops {
            values.push(constant(Value::from(comparing(op.op)), span));
            values.push(self.expression(&op.expr));
        }
        function(CHAIN, values, span)
    }

    /// A number with a point or an exponent keeps the digits that are written.
    fn constant(&self, value: &Value, span: Span) -> Value {
        if !value.is_number() {
            return value.clone();
        }
        let written = self.source.get(span.start_offset as usize..span.end_offset as usize);
        let text = written.unwrap_or_default().replace('_', "");
        if text.strip_prefix('0').is_some_and(|rest| rest.starts_with(|next: char| next.is_ascii_digit())) {
            self.refused.get_or_init(|| written.unwrap_or_default().to_owned());
        }
        if value.is_integer() {
            return value.clone();
        }
        if serde_json::Number::from_str(&text).is_ok() {
            return number::exact(&text);
        }
        // No digit after its point.
        match Number::parse(&text).map(Number::into_value) {
            Some(Ok(exact)) => exact,
            _ => value.clone(),
        }
    }

    /// What is between brackets: a whole number is a place, also when it is written `1.0`.
    fn index(&self, expr: &ast::Expr<'a>) -> ast::Expr<'a> {
        match self.expression(expr) {
            ast::Expr::Const(written) => constant(number::index(&written.value), written.span()),
            other => {
                let span = other.span();
                function(INDEX, vec![other], span)
            }
        }
    }
}

/// From the beginning of one expression to the end of another: the parser's own span of a comparison has no beginning.
const fn from_to(first: Span, last: Span) -> Span {
    Span { end_line: last.end_line, end_col: last.end_col, end_offset: last.end_offset, ..first }
}

fn at<T>(span: Span, node: T) -> ast::Spanned<T> {
    ast::Spanned::new(node, span)
}

fn constant<'a>(value: Value, span: Span) -> ast::Expr<'a> {
    ast::Expr::Const(at(span, ast::Const { value }))
}

fn not(expr: ast::Expr<'_>, span: Span) -> ast::Expr<'_> {
    ast::Expr::UnaryOp(at(span, ast::UnaryOp { op: ast::UnaryOpKind::Not, expr }))
}

/// A negative constant is one.
fn negative(expr: ast::Expr<'_>, span: Span) -> ast::Expr<'_> {
    if let ast::Expr::Const(written) = &expr
        && let Some(exact) = number::as_exact(&written.value)
    {
        let text = exact.text();
        let negated = text.strip_prefix('-').map_or_else(|| format!("-{text}"), str::to_owned);
        return constant(number::exact(&negated), span);
    }
    if let ast::Expr::Const(written) = &expr
        && written.value.is_number()
        && let Ok(Some(number)) = Number::of(&written.value)
        && let Ok(value) = number.negated().into_value()
    {
        return constant(value, span);
    }
    function(NEGATE, vec![expr], span)
}

fn function<'a>(name: &'static str, values: Vec<ast::Expr<'a>>, span: Span) -> ast::Expr<'a> {
    let expr = ast::Expr::Var(at(span, ast::Var { id: name }));
    let args = values.into_iter().map(ast::CallArg::Pos).collect();
    ast::Expr::Call(at(span, ast::Call { expr, args }))
}

const fn comparing(op: ast::CompareOpKind) -> &'static str {
    use ast::CompareOpKind;
    match op {
        CompareOpKind::Eq => "==",
        CompareOpKind::Ne => "!=",
        CompareOpKind::Lt => "<",
        CompareOpKind::Lte => "<=",
        CompareOpKind::Gt => ">",
        CompareOpKind::Gte => ">=",
        CompareOpKind::In => "in",
        CompareOpKind::NotIn => "not in",
    }
}
