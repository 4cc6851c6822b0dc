//! Filters and tests that look at numbers: the engine's own ones know no exact numbers, and would round large ones.

use bigdecimal::RoundingMode;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, State, Value, filters, tests};
use serde::Serialize as _;

use super::error::refused;
use super::number::{self, Arithmetic, Number, as_exact};
use super::operators::{add, compare, contains, equal, holds_exact, unified};
use super::text::step_into;
use super::value::to_json;

/// What a byte of JSON costs: a fourth of what a step does.
const BYTES_A_STEP: u64 = 4;

/// Puts them in the place of the engine's.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_filter("abs", abs);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("round", round);
    environment.add_filter("sum", sum);
    environment.add_filter("min", |state: &State<'_, '_>, value: Value, kwargs: Kwargs| {
        best(state, value, kwargs, filters::min)
    });
    environment.add_filter("max", |state: &State<'_, '_>, value: Value, kwargs: Kwargs| {
        best(state, value, kwargs, filters::max)
    });
    environment.add_filter("sort", |state: &State<'_, '_>, value: Value, kwargs: Kwargs| {
        ordered(state, value, kwargs, filters::sort)
    });
    environment.add_filter("unique", |state: &State<'_, '_>, value: Value, kwargs: Kwargs| {
        ordered(state, value, kwargs, filters::unique)
    });
    environment.add_filter("dictsort", |value: &Value, kwargs: Kwargs| {
        if holds_exact(value) {
            filters::dictsort(&unified(value), kwargs)
        } else {
            filters::dictsort(value, kwargs)
        }
    });
    environment.add_filter("groupby", |value: Value, attribute: Option<&str>, kwargs: Kwargs| {
        filters::groupby(if holds_exact(&value) { unified(&value) } else { value }, attribute, kwargs)
    });
    environment.add_filter("format", super::format::format);
    environment.add_filter("tojson", tojson);
    install_tests(environment);
}

fn install_tests(environment: &mut Environment<'static>) {
    environment.add_test("number", |value: &Value| tests::is_number(value) || as_exact(value).is_some());
    for name in ["integer", "int"] {
        environment.add_test(name, |value: &Value| {
            value.is_integer() || as_exact(value).is_some_and(number::Exact::is_integer)
        });
    }
    environment.add_test("float", |value: &Value| {
        tests::is_float(value) || as_exact(value).is_some_and(|exact| !exact.is_integer())
    });
    environment.add_test("even", |value: &Value| Ok::<_, Error>(even(value)? == Some(true)));
    environment.add_test("odd", |value: &Value| Ok::<_, Error>(even(value)? == Some(false)));
    environment.add_test("divisibleby", divisible);
    for name in ["eq", "equalto", "=="] {
        environment.add_test(name, equal);
    }
    for name in ["ne", "!="] {
        environment.add_test(name, |a: &Value, b: &Value| equal(a, b).map(|equal| !equal));
    }
    for name in ["lt", "lessthan", "<"] {
        environment.add_test(name, |a: &Value, b: &Value| compare(a, b).map(std::cmp::Ordering::is_lt));
    }
    for name in ["le", "<="] {
        environment.add_test(name, |a: &Value, b: &Value| compare(a, b).map(std::cmp::Ordering::is_le));
    }
    for name in ["gt", "greaterthan", ">"] {
        environment.add_test(name, |a: &Value, b: &Value| compare(a, b).map(std::cmp::Ordering::is_gt));
    }
    for name in ["ge", ">="] {
        environment.add_test(name, |a: &Value, b: &Value| compare(a, b).map(std::cmp::Ordering::is_ge));
    }
    environment.add_test("in", |state: &State<'_, '_>, item: &Value, container: &Value| {
        contains(state, container, item)
    });
}

/// The number that a filter is applied to.
fn number_of(value: &Value) -> Result<Number, Error> {
    Number::of(value)?.ok_or_else(|| refused("this is not a number"))
}

fn abs(value: Value) -> Result<Value, Error> {
    if value.kind() == ValueKind::Bool {
        return filters::abs(value);
    }
    number_of(&value)?.abs().into_value()
}

/// A default by place or by name, as the engine's `int` and `float` take it.
fn default_of(default: Option<Value>, kwargs: &Kwargs) -> Result<Option<Value>, Error> {
    match default {
        Some(default) => Ok(Some(default)),
        None => kwargs.get("default"),
    }
}

/// A whole number: digits after a point are cut off. The text may have any length.
fn int(
    state: &State<'_, '_>,
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let other_base = match base {
        Some(base) => Some(base),
        None => kwargs.get::<Option<u32>>("base")?,
    };
    if value.is_undefined() || value.is_none() || other_base.is_some_and(|base| base != 10) {
        return filters::int(state, value, default, base, kwargs);
    }
    let default = default_of(default, &kwargs)?;
    kwargs.assert_all_used()?;
    let number = match value.as_str() {
        Some(text) => Number::parse(text).ok_or_else(|| refused("this is not a number")),
        None => number_of(value),
    };
    let whole = number.and_then(Number::truncated).and_then(Number::into_value);
    whole.or_else(|error| default.ok_or(error))
}

/// A number with a point: as it is written, where it has one.
fn float(
    state: &State<'_, '_>,
    value: &Value,
    default: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    if value.is_undefined() || value.is_none() {
        return filters::float(state, value, default, kwargs);
    }
    let default = default_of(default, &kwargs)?;
    kwargs.assert_all_used()?;
    if as_exact(value).is_some_and(|exact| !exact.is_integer()) {
        return Ok(value.clone());
    }
    let number = match value.as_str() {
        Some(text) => Number::parse(text).ok_or_else(|| refused("this is not a number")),
        None => number_of(value),
    };
    let written = number.and_then(|number| match number {
        Number::Decimal(decimal) if decimal.fractional_digit_count() > 0 => {
            Number::Decimal(decimal).into_value()
        }
        number => number.into_float_value(),
    });
    written.or_else(|error| default.ok_or(error))
}

/// Half of the last place goes to the even neighbour, as everywhere in the engine; but decimal halves are halves.
fn round(value: Value, precision: Option<i32>, method: Option<&str>, kwargs: Kwargs) -> Result<Value, Error> {
    if as_exact(&value).is_none() && (value.kind() != ValueKind::Number || value.is_integer()) {
        return filters::round(value, precision, method, kwargs);
    }
    let places = match precision {
        Some(places) => places,
        None => kwargs.get::<Option<i32>>("precision")?.unwrap_or(0),
    };
    let method = match method {
        Some(method) => method,
        None => kwargs.get::<Option<&str>>("method")?.unwrap_or("common"),
    };
    kwargs.assert_all_used()?;
    let mode = match method {
        "common" => RoundingMode::HalfEven,
        "ceil" => RoundingMode::Ceiling,
        "floor" => RoundingMode::Floor,
        _ => return Err(refused("method must be common, ceil or floor")),
    };
    let whole = as_exact(&value).is_some_and(number::Exact::is_integer);
    let rounded = number_of(&value)?.rounded(places, mode)?;
    if whole { rounded.into_value() } else { rounded.into_float_value() }
}

fn sum(
    state: &State<'_, '_>,
    values: Value,
    attribute: Option<&str>,
    start: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let attribute = match attribute {
        Some(attribute) => Some(attribute),
        None => kwargs.get::<Option<&str>>("attribute")?,
    };
    let start = match start {
        Some(start) => start,
        None => kwargs.get::<Option<Value>>("start")?.unwrap_or_else(|| Value::from(0)),
    };
    kwargs.assert_all_used()?;
    let items = filters::list(state, values)?;
    let mut sum = start;
    for item in items.try_iter()? {
        let item = match attribute {
            Some(path) => path.split('.').try_fold(item, step_into).unwrap_or_default(),
            None => item,
        };
        if item.is_undefined() {
            continue;
        }
        state.consume_fuel(1)?;
        if Number::of(&sum)?.is_some() {
            number_of(&item)?;
        }
        sum = add(state, &sum, &item)?;
    }
    Ok(sum)
}

type Ordering = fn(&State<'_, '_>, Value, Kwargs) -> Result<Value, Error>;

/// Has the engine put items in order by what they mean, and returns the items themselves.
fn ordered(state: &State<'_, '_>, value: Value, kwargs: Kwargs, order: Ordering) -> Result<Value, Error> {
    if !holds_exact(&value) {
        return order(state, value, kwargs);
    }
    let pairs: Value = value.try_iter()?.map(|item| Value::from(vec![unified(&item), item])).collect();
    let ordered = order(state, pairs, beside(&kwargs)?)?;
    ordered.try_iter()?.map(|pair| pair.get_item_by_index(1)).collect()
}

fn best(state: &State<'_, '_>, value: Value, kwargs: Kwargs, order: Ordering) -> Result<Value, Error> {
    if !holds_exact(&value) {
        return order(state, value, kwargs);
    }
    let pairs: Value = value.try_iter()?.map(|item| Value::from(vec![unified(&item), item])).collect();
    order(state, pairs, beside(&kwargs)?)?.get_item_by_index(1)
}

/// The same arguments, for pairs of which the first is what is compared.
fn beside(kwargs: &Kwargs) -> Result<Kwargs, Error> {
    let mut attribute = "0".to_owned();
    if let Some(written) = kwargs.get::<Option<&str>>("attribute")? {
        let paths = written.split(',').map(|path| format!("0.{}", path.trim()));
        attribute = paths.collect::<Vec<_>>().join(",");
    }
    let others = kwargs.args().filter(|name| *name != "attribute");
    let others = others.map(|name| Ok((name.to_owned(), kwargs.get::<Value>(name)?)));
    let mut all = others.collect::<Result<Vec<(String, Value)>, Error>>()?;
    all.push(("attribute".to_owned(), Value::from(attribute)));
    Ok(all.into_iter().collect())
}

fn even(value: &Value) -> Result<Option<bool>, Error> {
    match value.kind() {
        ValueKind::Bool => Ok(Some(!value.is_true())),
        _ => Ok(Number::of(value)?.and_then(|number| number.is_even())),
    }
}

fn divisible(value: &Value, by: &Value) -> Result<bool, Error> {
    match (Number::of(value)?, Number::of(by)?) {
        (Some(value), Some(by)) => Ok(!Arithmetic::Remainder.of(&value, &by)?.is_true()),
        _ => Ok(false),
    }
}

/// JSON as text, with a space after its separators; `<`, `>`, `&` and `'` are escaped.
fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    indent: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => kwargs.get("indent")?,
    };
    let indent = match indent {
        None => None,
        Some(value) => match bool::try_from(value.clone()) {
            Ok(truth) => truth.then_some(2),
            Err(_) => Some(usize::try_from(value)?),
        },
    };
    kwargs.assert_all_used()?;
    let json = to_json(value)?;
    let mut out = Vec::new();
    let written = match indent {
        Some(width) => {
            let indent = vec![b' '; width];
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&indent);
            json.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
        }
        None => json.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)),
    };
    written.map_err(|_| refused("cannot serialize to JSON"))?;
    state.consume_fuel(out.len() as u64 / BYTES_A_STEP)?;
    let text = String::from_utf8(out).map_err(|_| refused("cannot serialize to JSON"))?;
    let text =
        text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026").replace('\'', "\\u0027");
    Ok(Value::from(text))
}

/// `[1, 2]`, `{"a": 1}`.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}
