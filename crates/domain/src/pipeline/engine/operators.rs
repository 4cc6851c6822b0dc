//! The operators of expressions, as functions that `rewrite` puts in their place: the engine's own ones would round.

use std::cmp::Ordering;
use std::sync::LazyLock;

use minijinja::value::{Rest, StringInput, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Expression, State, UndefinedBehavior, Value};

use super::error::refused;
use super::number::{self, Arithmetic, Number, as_exact};

/// What stands between two values.
#[derive(Clone, Copy)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
    Arithmetic(Arithmetic),
}

/// Each operator and the name of its function, which no template can write.
const NAMED: [(&str, Operator); 15] = [
    ("+", Operator::Arithmetic(Arithmetic::Add)),
    ("-", Operator::Arithmetic(Arithmetic::Subtract)),
    ("*", Operator::Arithmetic(Arithmetic::Multiply)),
    ("/", Operator::Arithmetic(Arithmetic::Divide)),
    ("//", Operator::Arithmetic(Arithmetic::DivideFloor)),
    ("%", Operator::Arithmetic(Arithmetic::Remainder)),
    ("**", Operator::Arithmetic(Arithmetic::Power)),
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<", Operator::Less),
    ("<=", Operator::LessOrEqual),
    (">", Operator::Greater),
    (">=", Operator::GreaterOrEqual),
    ("in", Operator::In),
    ("not in", Operator::NotIn),
];

/// The minus before a value.
pub(super) const NEGATE: &str = "-a";

/// A chain of comparisons: a value, an operator's name, a value, …
pub(super) const CHAIN: &str = "a < b < c";

/// What stands in the brackets after a list.
pub(super) const INDEX: &str = "[]";

/// What the engine makes of texts and lists.
struct Own {
    name: &'static str,
    expression: Expression<'static, 'static>,
}

/// What a single one may cost.
const FUEL: u64 = 50_000;

static PLAIN: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment
});

static OWN: LazyLock<Vec<Own>> = LazyLock::new(|| {
    let all =
        [("+", "a + b"), ("-", "a - b"), ("*", "a * b"), ("/", "a / b"), ("//", "a // b"), ("%", "a % b")];
    let rest = [("**", "a ** b"), ("in", "a in b"), (NEGATE, "-a")];
    all.into_iter()
        .chain(rest)
        .filter_map(|(name, text)| Some(Own { name, expression: PLAIN.compile_expression(text).ok()? }))
        .collect()
});

/// Adds the functions.
pub(super) fn install(environment: &mut Environment<'static>) {
    for (name, operator) in NAMED {
        let apply = move |state: &State<'_, '_>, a: &Value, b: &Value| binary(state, operator, a, b);
        environment.add_function(name, apply);
    }
    environment.add_function(NEGATE, negate);
    environment.add_function(CHAIN, chain);
    environment.add_function(INDEX, number::index);
    environment.add_function("range", range);
}

/// What an operator makes of two values.
fn binary(state: &State<'_, '_>, operator: Operator, a: &Value, b: &Value) -> Result<Value, Error> {
    if let Some(value) = of_undefined(state, operator, a, b) {
        return Ok(value);
    }
    defined(state, a)?;
    defined(state, b)?;
    Ok(Value::from(match operator {
        Operator::Equal => equal(a, b)?,
        Operator::NotEqual => !equal(a, b)?,
        Operator::Less => compare(a, b)?.is_lt(),
        Operator::LessOrEqual => compare(a, b)?.is_le(),
        Operator::Greater => compare(a, b)?.is_gt(),
        Operator::GreaterOrEqual => compare(a, b)?.is_ge(),
        Operator::In => contains(state, b, a)?,
        Operator::NotIn => !contains(state, b, a)?,
        Operator::Arithmetic(operator) => return arithmetic(state, operator, a, b),
    }))
}

/// Where what is not there is no error: it equals nothing else, is in nothing, and nothing can be computed of it.
fn of_undefined(state: &State<'_, '_>, operator: Operator, a: &Value, b: &Value) -> Option<Value> {
    let lenient = state.undefined_behavior() == UndefinedBehavior::Chainable;
    if !lenient || !(a.is_undefined() || b.is_undefined()) {
        return None;
    }
    let both = a.is_undefined() && b.is_undefined();
    Some(match operator {
        Operator::Equal => Value::from(both),
        Operator::NotEqual => Value::from(!both),
        Operator::NotIn => Value::from(true),
        Operator::Less
        | Operator::LessOrEqual
        | Operator::Greater
        | Operator::GreaterOrEqual
        | Operator::In => Value::from(false),
        Operator::Arithmetic(_) => Value::UNDEFINED,
    })
}

fn arithmetic(state: &State<'_, '_>, operator: Arithmetic, a: &Value, b: &Value) -> Result<Value, Error> {
    if a.is_integer()
        && b.is_integer()
        && let (Ok(a), Ok(b)) = (i128::try_from(a.clone()), i128::try_from(b.clone()))
        && let Some(result) = operator.of_integers(a, b)
    {
        return Ok(i64::try_from(result).map_or_else(|_| Value::from(result), Value::from));
    }
    match (Number::of(a)?, Number::of(b)?) {
        (Some(a), Some(b)) => operator.of(&a, &b),
        _ => own(state, name_of(operator), a, b),
    }
}

fn name_of(arithmetic: Arithmetic) -> &'static str {
    let same = |operator: Operator| matches!(operator, Operator::Arithmetic(one) if one == arithmetic);
    NAMED.iter().find(|(_, operator)| same(*operator)).map_or("", |(name, _)| name)
}

/// The sum of two values, for `sum`.
///
/// # Errors
/// When there is none.
pub(super) fn add(state: &State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    arithmetic(state, Arithmetic::Add, a, b)
}

fn negate(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    defined(state, value)?;
    match Number::of(value)? {
        Some(number) if value.kind() != ValueKind::Bool => number.negated().into_value(),
        _ => own(state, NEGATE, value, value),
    }
}

/// `a < b < c`: whether all of it is true.
fn chain(state: &State<'_, '_>, first: &Value, rest: Rest<Value>) -> Result<Value, Error> {
    let mut left = first;
    for pair in rest.chunks_exact(2) {
        let named = NAMED.iter().find(|(name, _)| pair[0].as_str() == Some(name));
        let (_, operator) = named.ok_or_else(|| Error::from(ErrorKind::InvalidOperation))?;
        if !binary(state, *operator, left, &pair[1])?.is_true() {
            return Ok(Value::from(false));
        }
        left = &pair[1];
    }
    Ok(Value::from(true))
}

/// What the engine itself makes of them, which are not both numbers.
fn own(state: &State<'_, '_>, name: &str, a: &Value, b: &Value) -> Result<Value, Error> {
    let unsupported = || Error::new(ErrorKind::InvalidOperation, "the operator does not take these values");
    let own = OWN.iter().find(|own| own.name == name).ok_or_else(unsupported)?;
    let result = own.expression.eval(minijinja::context! { a, b });
    // Its place in the template is told by who called, not by the expression here.
    let result =
        result.map_err(|error| Error::new(error.kind(), error.detail().unwrap_or_default().to_owned()))?;
    // What was made costs this template what it would have cost in it; the caller charges for a text by itself.
    state.consume_fuel(result.len().filter(|_| result.as_str().is_none()).unwrap_or(0) as u64 / 2)?;
    Ok(result)
}

/// Whether two values are the same; numbers by what they mean.
///
/// # Errors
/// When one is a number that is too large to be compared.
pub(super) fn equal(a: &Value, b: &Value) -> Result<bool, Error> {
    if let Some(order) = compare_numbers(a, b)? {
        return Ok(order.is_eq());
    }
    Ok(if holds_exact(a) || holds_exact(b) { unified(a) == unified(b) } else { a == b })
}

/// Which one is larger.
///
/// # Errors
/// As [`equal`], and when they are of two kinds: no order of these is right.
pub(super) fn compare(a: &Value, b: &Value) -> Result<Ordering, Error> {
    if let Some(order) = compare_numbers(a, b)? {
        return Ok(order);
    }
    let list = |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
    let comparable = (a.as_str().is_some() && b.as_str().is_some()) || (list(a) && list(b));
    if !comparable {
        return Err(refused(
            "a number is larger or smaller than a number only, and a text than a text; `float` or `int` makes a number of a text",
        ));
    }
    Ok(if holds_exact(a) || holds_exact(b) { unified(a).cmp(&unified(b)) } else { a.cmp(b) })
}

/// The engine's own, for whole numbers however they are written.
fn range(lower: &Value, upper: Option<&Value>, step: Option<&Value>) -> Result<Value, Error> {
    let whole = |value: &Value| isize::try_from(number::index(value));
    minijinja::functions::range(whole(lower)?, upper.map(whole).transpose()?, step.map(whole).transpose()?)
}

/// Numbers of the engine's own are compared by it; none when one is not a number.
fn compare_numbers(a: &Value, b: &Value) -> Result<Option<Ordering>, Error> {
    let number = |value: &Value| value.is_number() || as_exact(value).is_some();
    if !(number(a) || a.kind() == ValueKind::Bool) || !(number(b) || b.kind() == ValueKind::Bool) {
        return Ok(None);
    }
    if a.is_integer() && b.is_integer() {
        return Ok(Some(a.cmp(b)));
    }
    Ok(match (Number::of(a)?, Number::of(b)?) {
        (Some(a), Some(b)) => Some(a.compare(&b)),
        _ => None,
    })
}

/// Whether a list has an item, a map a key, or a text another one.
///
/// # Errors
/// When it is nothing that holds anything.
pub(super) fn contains(state: &State<'_, '_>, container: &Value, item: &Value) -> Result<bool, Error> {
    let exact = holds_exact(container) || holds_exact(item);
    if !exact || !matches!(container.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return own(state, "in", item, container).map(|found| found.is_true());
    }
    for other in container.try_iter()? {
        state.consume_fuel(1)?;
        if equal(&other, item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is not there is an error that names it.
pub(super) fn defined(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.is_undefined() { StringInput::new(state, value).map(drop) } else { Ok(()) }
}

/// Whether there is an exact number in a value.
pub(super) fn holds_exact(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter().is_ok_and(|mut items| items.any(|item| holds_exact(&item)))
        }
        ValueKind::Map => value
            .try_iter()
            .is_ok_and(|mut keys| keys.any(|key| value.get_item(&key).is_ok_and(|item| holds_exact(&item)))),
        _ => as_exact(value).is_some(),
    }
}

/// The same with every number as an exact one: the engine compares values of one type by what the type says.
pub(super) fn unified(value: &Value) -> Value {
    match value.kind() {
        ValueKind::Number => number::exact(&value.to_string()),
        ValueKind::Seq | ValueKind::Iterable => match value.try_iter() {
            Ok(items) => items.map(|item| unified(&item)).collect(),
            Err(_) => value.clone(),
        },
        ValueKind::Map => match value.try_iter() {
            Ok(keys) => Value::from_pairs(keys.map(|key| {
                let item = value.get_item(&key).unwrap_or_default();
                (key, unified(&item))
            })),
            Err(_) => value.clone(),
        },
        _ => value.clone(),
    }
}
