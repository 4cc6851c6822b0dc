//! Expressions: what they are made of, and what they use.

use minijinja::Environment;
use minijinja::machinery::Span;
use minijinja::machinery::ast::{self, BinOpKind, CallArg, CallType, Expr};

use super::Walk;
use super::shape::Shape;
use crate::pipeline::engine;
use crate::pipeline::names::{Names, nearest};
use crate::pipeline::probe::{self, Given, What};

/// Filters that are applied to a thing rather than to its value, and give what it is not.
const DEFAULTS: [&str; 2] = ["default", "d"];

impl Walk<'_> {
    pub(super) fn expr(&mut self, expr: &Expr<'_>, needed: bool) -> Shape {
        match expr {
            Expr::Const(_) => Shape::Data,
            Expr::Var(var) => self.variable(var.id, var.span()),
            Expr::UnaryOp(op) => {
                self.needed(&op.expr);
                Shape::Data
            }
            Expr::BinOp(op) if matches!(op.op, BinOpKind::ScAnd | BinOpKind::ScOr) => {
                let (left, right) = (self.needed(&op.left), self.maybe(&op.right));
                left.or(right)
            }
            Expr::BinOp(op) => {
                self.needed(&op.left);
                self.needed(&op.right);
                Shape::Data
            }
            Expr::Compare(compare) => self.comparison(compare),
            Expr::IfExpr(choice) => {
                self.needed(&choice.test_expr);
                let yes = self.maybe(&choice.true_expr);
                let no = choice.false_expr.as_ref().map_or(yes, |no| self.maybe(no));
                yes.or(no)
            }
            Expr::Filter(filter) => self.filter(filter, filter.span(), needed),
            Expr::Test(test) => {
                let given = self.given(Some(&test.expr), &test.args);
                self.used(What::Test, test.name, test.span(), given, Some(&test.expr));
                Shape::Data
            }
            Expr::GetAttr(get) => {
                let of = self.needed(&get.expr);
                self.member(of, get.name, get.span(), needed)
            }
            Expr::GetItem(get) => self.item(get, get.span(), needed),
            Expr::Slice(slice) => {
                let of = self.needed(&slice.expr);
                for end in [&slice.start, &slice.stop, &slice.step].into_iter().flatten() {
                    self.value(end);
                }
                if of == Shape::Text { Shape::Text } else { of.member() }
            }
            Expr::Call(call) => self.call(call, call.span()),
            Expr::List(list) => self.all(&list.items),
            Expr::Tuple(tuple) => self.all(&tuple.items),
            Expr::Map(map) => {
                self.all(&map.keys);
                self.all(&map.values)
            }
        }
    }

    fn comparison(&mut self, compare: &ast::Compare<'_>) -> Shape {
        self.needed(&compare.expr);
        // The first comparison is made in any case; a later one when those before it hold.
        for (place, operand) in compare.ops.iter().enumerate() {
            if place == 0 {
                self.needed(&operand.expr)
            } else {
                self.maybe(&operand.expr)
            };
        }
        Shape::Data
    }

    /// `of[key]`.
    fn item(&mut self, get: &ast::GetItem<'_>, span: Span, needed: bool) -> Shape {
        let of = self.needed(&get.expr);
        match constant(&get.subscript_expr) {
            Some(key) if key.as_str().is_some() => {
                self.member(of, key.as_str().unwrap_or_default(), span, needed)
            }
            Some(key)
                if matches!(
                    of,
                    Shape::Row | Shape::Steps | Shape::Step(_) | Shape::Owner | Shape::Batch | Shape::Item
                ) =>
            {
                let whole = self.written(span, &get.expr);
                self.fault(
                    span,
                    format!("`{whole}` has names and no places: `{whole}[{key}]` is never there"),
                );
                Shape::Any
            }
            Some(_) => of.member(),
            None => {
                self.value(&get.subscript_expr);
                of.member()
            }
        }
    }

    /// Data, when it is made of nothing else.
    fn all(&mut self, items: &[Expr<'_>]) -> Shape {
        let shapes: Vec<Shape> = items.iter().map(|item| self.value(item)).collect();
        let data = shapes.iter().all(|shape| matches!(shape, Shape::Text | Shape::Data));
        if data { Shape::Data } else { Shape::Any }
    }

    fn variable(&mut self, name: &str, span: Span) -> Shape {
        if let Some(shape) = self.lookup(name) {
            if !self.is_local(name) {
                self.reading.roots.insert(name.to_owned());
            }
            return shape;
        }
        if self.environment.globals().any(|(global, _)| global == name) {
            return Shape::Any;
        }
        self.fault(span, self.names.no_variable(name, self.answer));
        Shape::Any
    }

    fn member(&mut self, of: Shape, name: &str, span: Span, needed: bool) -> Shape {
        let known = match of {
            Shape::Row => self.names.column(name).map(|()| Shape::Text),
            Shape::Steps => self.names.step(name).map(Shape::Step),
            Shape::Step(step) => self.names.output(step, name).map(|()| Shape::Data),
            Shape::Context => {
                if needed && self.certain {
                    self.reading.context.insert(name.to_owned());
                }
                Ok(Shape::Data)
            }
            Shape::Owner => Names::of_owner(name).map(|()| Shape::Data),
            Shape::Batch => Names::of_batch(name).map(|()| Shape::Data),
            Shape::Item => Names::of_item(name).map(|()| Shape::Data),
            Shape::Text => Err(format!("a value of the row is text, and has no `{name}`")),
            Shape::Data => Ok(Shape::Data),
            Shape::Loop | Shape::Any => Ok(Shape::Any),
        };
        known.unwrap_or_else(|message| {
            self.fault(span, message);
            Shape::Any
        })
    }

    fn filter(&mut self, filter: &ast::Filter<'_>, span: Span, needed: bool) -> Shape {
        let given = self.given(filter.expr.as_ref(), &filter.args);
        let first = filter.args.iter().find_map(|arg| match arg {
            CallArg::Pos(expr) => constant(expr),
            _ => None,
        });
        let names_of = |place: usize| {
            filter.args.get(place).and_then(|arg| match arg {
                CallArg::Pos(expr) => constant(expr).and_then(|name| name.as_str().map(str::to_owned)),
                _ => None,
            })
        };
        // Filters that are told another filter's or test's name.
        let named = match filter.name {
            "map" => names_of(0).map(|name| (What::Filter, name)),
            "select" | "reject" => names_of(0).map(|name| (What::Test, name)),
            "selectattr" | "rejectattr" => names_of(1).map(|name| (What::Test, name)),
            _ => None,
        };
        if let Some((what, name)) = named
            && let Err(message) = probe::exists(self.environment, what, &name)
        {
            self.fault(span, message);
            self.optional(filter.expr.as_ref());
            return Shape::Any;
        }
        let of = self.used(What::Filter, filter.name, span, given, filter.expr.as_ref());
        match (filter.name, first) {
            ("attr", Some(name)) if name.as_str().is_some() => {
                self.member(of, name.as_str().unwrap_or_default(), span, needed)
            }
            _ if DEFAULTS.contains(&filter.name) && of != Shape::Text => Shape::Any,
            _ if matches!(of, Shape::Text | Shape::Data) => Shape::Data,
            _ => Shape::Any,
        }
    }

    /// A filter or test that is applied to something: whether there is one, and whether it can be used so.
    fn used(
        &mut self,
        what: What,
        name: &str,
        span: Span,
        given: Option<Given<'_>>,
        applied_to: Option<&Expr<'_>>,
    ) -> Shape {
        if let Err(message) = probe::exists(self.environment, what, name) {
            self.fault(span, message);
            return self.optional(applied_to);
        }
        let Some(given) = given else { return self.optional(applied_to) };
        if let Some(message) = probe::misuse(self.environment, what, name, &given) {
            self.misuse(span, message);
        }
        match applied_to {
            Some(expr) if probe::needs_value(self.environment, what, name, &given) => self.needed(expr),
            other => self.optional(other),
        }
    }

    fn optional(&mut self, expr: Option<&Expr<'_>>) -> Shape {
        expr.map_or(Shape::Data, |expr| self.value(expr))
    }

    /// What is given to a filter, test or function, as far as it is known; none when its number is not. The arguments
    /// are looked through; what a filter or test is applied to is not.
    fn given<'e>(&mut self, applied_to: Option<&Expr<'_>>, args: &'e [CallArg<'_>]) -> Option<Given<'e>> {
        let mut given = Given { values: vec![applied_to.and_then(constant)], named: Vec::new() };
        let mut counted = true;
        for arg in args {
            match arg {
                CallArg::Pos(expr) => {
                    self.value(expr);
                    given.values.push(constant(expr));
                }
                CallArg::Kwarg(name, expr) => {
                    self.value(expr);
                    given.named.push((name, constant(expr)));
                }
                CallArg::PosSplat(expr) | CallArg::KwargSplat(expr) => {
                    self.value(expr);
                    counted = false;
                }
            }
        }
        counted.then_some(given)
    }

    pub(super) fn call(&mut self, call: &ast::Call<'_>, span: Span) -> Shape {
        let given = self.given(None, &call.args);
        match call.identify_call() {
            CallType::Function(name) if self.is_local(name) => Shape::Any,
            CallType::Function(name) => {
                if name == "now" {
                    self.reading.roots.insert(engine::NOW.to_owned());
                }
                if self.lookup(name).is_some() {
                    self.fault(span, format!("`{name}` is a value, and cannot be called"));
                } else if let Err(message) = probe::exists(self.environment, What::Function, name) {
                    self.fault(span, message);
                } else if let Some(mut given) = given {
                    given.values.remove(0);
                    if let Some(message) = probe::misuse(self.environment, What::Function, name, &given) {
                        self.misuse(span, message);
                    }
                }
                Shape::Any
            }
            CallType::Method(of, name) => {
                match self.needed(of) {
                    Shape::Any => {}
                    // Without an argument the engine would divide by their number.
                    Shape::Loop if name == "changed" || (name == "cycle" && !call.args.is_empty()) => {}
                    Shape::Loop => self
                        .fault(span, "`loop` has the methods `changed(value)` and `cycle(one, two)`".into()),
                    _ => {
                        let whole = self.written(span, of);
                        self.fault(span, no_method(&whole, name, self.environment));
                    }
                }
                Shape::Any
            }
            CallType::Object(of) => {
                self.needed(of);
                Shape::Any
            }
        }
    }

    /// An expression as the definition writes it.
    fn written(&self, whole: Span, expr: &Expr<'_>) -> String {
        // A postfix expression's own span begins after its operand.
        let (start, end) = (start_of(expr), expr.span().end_offset as usize);
        let end = end.max(start).min(whole.end_offset as usize);
        self.source.get(start..end).unwrap_or("the value").trim().to_owned()
    }
}

/// Where an expression begins in its source.
fn start_of(expr: &Expr<'_>) -> usize {
    let own = expr.span().start_offset as usize;
    match expr {
        Expr::GetAttr(get) => start_of(&get.expr).min(own),
        Expr::GetItem(get) => start_of(&get.expr).min(own),
        Expr::Slice(slice) => start_of(&slice.expr).min(own),
        Expr::Call(call) => start_of(&call.expr).min(own),
        Expr::Filter(filter) => filter.expr.as_ref().map_or(own, |of| start_of(of).min(own)),
        Expr::Test(test) => start_of(&test.expr).min(own),
        _ => own,
    }
}

fn no_method(whole: &str, name: &str, environment: &Environment<'_>) -> String {
    let hint = if name == "get" {
        format!("write `{whole}.key | default('')`")
    } else if probe::exists(environment, What::Filter, name).is_ok() {
        format!("write `{whole} | {name}`")
    } else {
        let filters = ["upper", "lower", "trim", "replace", "split", "items", "length"];
        let filter = nearest(name, &filters).unwrap_or("upper");
        format!("use a filter, such as `{whole} | {filter}`")
    };
    format!("values have no methods, and `{whole}` no `{name}()`; {hint}")
}

fn constant(expr: &Expr<'_>) -> Option<minijinja::Value> {
    match expr {
        Expr::Call(_) | Expr::Filter(_) | Expr::Test(_) => None,
        other => other.as_const(),
    }
}
