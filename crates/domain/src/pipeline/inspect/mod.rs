//! What a template reads and calls, by its syntax tree: whatever can never be right is found before there are rows.
//!
//! An expression has a [`Shape`] as far as it is known: the row, the steps, one step, the context, text, or somebody's
//! JSON. Names are followed through `set`, `with` and `for`, brackets and `attr(…)`; what depends on data has the shape
//! [`Shape::Any`] and is never a fault. All branches are looked at; what is read *for certain* is what no branch guards.
#![allow(missing_docs, reason = "private to the loader")]

mod expression;
mod shape;

use std::collections::{BTreeSet, HashMap};

use minijinja::Environment;
use minijinja::machinery::ast::{self, Expr, Stmt};
use minijinja::machinery::{Span, parse, parse_expr};
use minijinja::syntax::SyntaxConfig;

use self::shape::Shape;
use super::names::{Names, Reads};

/// Something that can never be right, and the line within the template.
pub struct Fault {
    pub line: u64,
    pub message: String,
    /// Whether it depends on values, which a variable of the environment may change.
    pub by_value: bool,
}

/// What a template reads.
#[derive(Default)]
pub struct Reading {
    pub faults: Vec<Fault>,
    /// Its variables: `row`, `body`, …
    pub roots: BTreeSet<String>,
    /// Keys of the context without which it fails for certain.
    pub context: BTreeSet<String>,
    /// Its text, with an `x` for each expression.
    pub skeleton: String,
}

/// Looks through a text with expressions in it. What does not parse reads nothing: compiling it says why.
pub fn text(source: &str, names: &Names, answer: bool, environment: &Environment<'_>) -> Reading {
    let Ok(tree) = parse(source, "template", SyntaxConfig::default()) else { return Reading::default() };
    let mut walk = Walk::new(source, names, answer, environment);
    walk.statement(&tree);
    walk.reading
}

/// Looks through a single expression.
pub fn expression(source: &str, names: &Names, answer: bool, environment: &Environment<'_>) -> Reading {
    let Ok(tree) = parse_expr(source) else { return Reading::default() };
    let mut walk = Walk::new(source, names, answer, environment);
    walk.needed(&tree);
    walk.reading
}

struct Walk<'a> {
    source: &'a str,
    names: &'a Names,
    answer: bool,
    environment: &'a Environment<'a>,
    scopes: Vec<HashMap<String, Shape>>,
    /// Whether what is looked at is evaluated for every row.
    certain: bool,
    reading: Reading,
}

impl<'a> Walk<'a> {
    fn new(source: &'a str, names: &'a Names, answer: bool, environment: &'a Environment<'a>) -> Self {
        Self {
            source,
            names,
            answer,
            environment,
            scopes: vec![HashMap::new()],
            certain: true,
            reading: Reading::default(),
        }
    }

    fn fault(&mut self, span: Span, message: String) {
        self.reading.faults.push(Fault { line: u64::from(span.start_line).max(1), message, by_value: false });
    }

    /// A fault of the values that something is given.
    fn misuse(&mut self, span: Span, message: String) {
        let line = u64::from(span.start_line).max(1);
        self.reading.faults.push(Fault { line, message, by_value: true });
    }

    fn statements(&mut self, nodes: &[Stmt<'_>]) {
        nodes.iter().for_each(|node| self.statement(node));
    }

    /// Statements that not every row comes to.
    fn perhaps(&mut self, nodes: &[Stmt<'_>]) {
        let certain = std::mem::replace(&mut self.certain, false);
        self.statements(nodes);
        self.certain = certain;
    }

    fn scoped(&mut self, body: impl FnOnce(&mut Self)) {
        self.scopes.push(HashMap::new());
        body(self);
        self.scopes.pop();
    }

    fn statement(&mut self, node: &Stmt<'_>) {
        match node {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitExpr(emit) => {
                self.reading.skeleton.push('x');
                self.needed(&emit.expr);
            }
            Stmt::EmitRaw(raw) => self.reading.skeleton.push_str(raw.raw),
            Stmt::ForLoop(each) => self.each(each),
            Stmt::IfCond(cond) => {
                self.needed(&cond.expr);
                self.perhaps(&cond.true_body);
                self.perhaps(&cond.false_body);
            }
            Stmt::WithBlock(with) => self.scoped(|walk| {
                for (target, value) in &with.assignments {
                    let shape = walk.value(value);
                    walk.assign(target, shape);
                }
                walk.statements(&with.body);
            }),
            Stmt::Set(set) => {
                let shape = self.value(&set.expr);
                self.assign(&set.target, shape);
            }
            Stmt::SetBlock(set) => {
                self.statements(&set.body);
                if let Some(filter) = &set.filter {
                    self.value(filter);
                }
                self.assign(&set.target, Shape::Data);
            }
            Stmt::AutoEscape(escape) => {
                self.value(&escape.enabled);
                self.statements(&escape.body);
            }
            Stmt::FilterBlock(block) => {
                self.statements(&block.body);
                self.value(&block.filter);
            }
            Stmt::Do(call) => {
                self.call(&call.call, call.call.span());
            }
        }
    }

    fn each(&mut self, each: &ast::ForLoop<'_>) {
        let items = match self.needed(&each.iter) {
            Shape::Text | Shape::Data => Shape::Data,
            _ => Shape::Any,
        };
        let certain = std::mem::replace(&mut self.certain, false);
        self.scoped(|walk| {
            walk.bind("loop", Shape::Loop);
            walk.assign(&each.target, items);
            if let Some(filter) = &each.filter_expr {
                walk.value(filter);
            }
            walk.statements(&each.body);
        });
        self.scoped(|walk| walk.statements(&each.else_body));
        self.certain = certain;
    }

    fn bind(&mut self, name: &str, shape: Shape) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name.to_owned(), shape);
        }
    }

    fn assign(&mut self, target: &Expr<'_>, shape: Shape) {
        match target {
            Expr::Var(var) => {
                // After a branch a name may be what it was, or what the branch made it.
                let shape = match self.lookup(var.id) {
                    Some(before) if !self.certain && before != shape => Shape::Any,
                    _ => shape,
                };
                self.bind(var.id, shape);
            }
            Expr::List(list) => list.items.iter().for_each(|item| self.assign(item, shape.member())),
            Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.assign(item, shape.member())),
            other => {
                self.value(other);
            }
        }
    }

    /// What a name is here; none when it is not known.
    fn lookup(&self, name: &str) -> Option<Shape> {
        if let Some(shape) = self.scopes.iter().rev().find_map(|scope| scope.get(name)) {
            return Some(*shape);
        }
        let of_row = matches!(self.names.reads, Reads::Row | Reads::Item);
        match name {
            "row" if of_row => Some(Shape::Row),
            "steps" if of_row => Some(Shape::Steps),
            "row_number" if of_row => Some(Shape::Data),
            "item" if self.names.reads == Reads::Item => Some(Shape::Item),
            "whole" if self.names.reads == Reads::Item && self.answer => Some(Shape::Data),
            "result" if self.names.reads == Reads::Result => Some(Shape::Data),
            "context" => Some(Shape::Context),
            "owner" => Some(Shape::Owner),
            "batch" => Some(Shape::Batch),
            "idempotency_key" if self.names.keyed => Some(Shape::Text),
            "body" | "status" | "headers" if self.answer => Some(Shape::Data),
            _ => None,
        }
    }

    fn is_local(&self, name: &str) -> bool {
        self.scopes.iter().any(|scope| scope.contains_key(name))
    }

    /// An expression whose value may be missing.
    fn value(&mut self, expr: &Expr<'_>) -> Shape {
        self.expr(expr, false)
    }

    /// An expression without whose value the template fails.
    fn needed(&mut self, expr: &Expr<'_>) -> Shape {
        self.expr(expr, true)
    }

    /// An expression that not every row comes to.
    fn maybe(&mut self, expr: &Expr<'_>) -> Shape {
        let certain = std::mem::replace(&mut self.certain, false);
        let shape = self.value(expr);
        self.certain = certain;
        shape
    }
}
