//! Values in text: a text as it is, null as nothing, a number as it is written, all else as JSON.

use std::borrow::Cow;
use std::sync::LazyLock;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, State, Value, filters};

use super::error::refused;
use super::number::as_exact;
use super::operators::defined;
use super::value::to_json;

/// The operator between two texts, as a function.
pub(super) const CONCAT: &str = "~";

/// What a byte of text costs: a fourth of what a step does.
const BYTES_A_STEP: u64 = 4;

/// Filters of the engine that take a text: another value is made one first.
const TEXT_FILTERS: [&str; 10] =
    ["capitalize", "escape", "indent", "lower", "replace", "split", "string", "title", "trim", "upper"];

/// Puts them in the place of the engine's.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_function(CONCAT, concat);
    environment.add_filter("join", join);
    for name in TEXT_FILTERS {
        environment.add_filter(name, move |state: &State<'_, '_>, value: &Value, args: Rest<Value>| {
            text_filter(state, name, value, &args)
        });
    }
}

/// A value as it stands in text.
///
/// # Errors
/// When it is nothing that JSON has.
pub fn text_of(value: &Value) -> Result<Cow<'_, str>, Error> {
    if let Some(text) = value.as_str() {
        return Ok(Cow::Borrowed(text));
    }
    if let Some(exact) = as_exact(value) {
        return Ok(Cow::Borrowed(exact.text()));
    }
    Ok(match value.kind() {
        ValueKind::None | ValueKind::Undefined => Cow::Borrowed(""),
        _ => Cow::Owned(to_json(value)?.to_string()),
    })
}

/// The same; what has to be written costs fuel.
pub(super) fn charged<'v>(state: &State<'_, '_>, value: &'v Value) -> Result<Cow<'v, str>, Error> {
    let text = text_of(value)?;
    state.consume_fuel(text.len() as u64 / BYTES_A_STEP)?;
    Ok(text)
}

fn concat(state: &State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    defined(state, a)?;
    defined(state, b)?;
    let (a, b) = (charged(state, a)?, charged(state, b)?);
    Ok(Value::from(format!("{a}{b}")))
}

fn text_filter(
    state: &State<'_, '_>,
    name: &'static str,
    value: &Value,
    args: &Rest<Value>,
) -> Result<Value, Error> {
    defined(state, value)?;
    let first = Value::from(charged(state, value)?.as_ref());
    let mut given = vec![first];
    for arg in args.iter() {
        defined(state, arg)?;
        let texts = name == "replace" && matches!(arg.kind(), ValueKind::None | ValueKind::Bool);
        given.push(if texts { Value::from(text_of(arg)?.as_ref()) } else { arg.clone() });
    }
    if name == "string" && given.len() == 1 {
        return Ok(given.remove(0));
    }
    let made = plain_state(|plain| plain.apply_filter(name, &given));
    // Without its place, which is in no template.
    let made = made.map_err(|error| match error.detail() {
        Some(detail) => Error::new(error.kind(), detail.to_owned()),
        None => Error::from(error.kind()),
    })?;
    state.consume_fuel(made.as_str().map_or(0, str::len) as u64 / BYTES_A_STEP)?;
    // Only hashes are marked as safe.
    Ok(if made.is_safe() { Value::from(made.as_str().unwrap_or_default()) } else { made })
}

/// The items of a list, one after the other.
fn join(
    state: &mut State<'_, '_>,
    values: &Value,
    joiner: Option<Value>,
    attribute: Option<&str>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    defined(state, values)?;
    let joiner = match joiner {
        Some(joiner) => joiner,
        None => kwargs.get::<Option<Value>>("d")?.unwrap_or_default(),
    };
    let attribute = match attribute {
        Some(attribute) => Some(attribute),
        None => kwargs.get::<Option<&str>>("attribute")?,
    };
    kwargs.assert_all_used()?;
    let joiner = text_of(&joiner)?;
    let items = filters::list(state, values.clone())?;
    let mut text = String::new();
    for (place, item) in items.try_iter()?.enumerate() {
        let item = match attribute {
            Some(path) => path.split('.').try_fold(item, step_into)?,
            None => item,
        };
        defined(state, &item)?;
        if place > 0 {
            text.push_str(&joiner);
        }
        text.push_str(&charged(state, &item)?);
        state.consume_fuel(1 + joiner.len() as u64 / BYTES_A_STEP)?;
    }
    Ok(Value::from(text))
}

/// A value as a part of a path's segment.
///
/// # Errors
/// When it is null, which is another path than the one that was meant.
pub fn path_text(value: &Value) -> Result<Cow<'_, str>, Error> {
    if value.is_none() {
        return Err(refused(NULL_IN_PATH));
    }
    text_of(value)
}

/// A value as text of an element or of an attribute, in quotes of either kind. White space that a reader of an attribute would
/// change is written as a reference.
///
/// # Errors
/// When it holds a character that no XML can have (XML 1.0, 2.2).
pub fn xml_text(value: &Value) -> Result<String, Error> {
    let text = text_of(value)?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' => out.push_str("&#9;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => return Err(refused(NOT_IN_XML)),
            c => out.push(c),
        }
    }
    Ok(out)
}

/// Why a character is refused in XML.
const NOT_IN_XML: &str = "a value holds a control character, which XML cannot have";

/// Why null is refused in a path.
const NULL_IN_PATH: &str =
    "a value is null and would leave a segment of the path incomplete, which is another path";

/// What a part of a dotted path names: a field, or a place in a list.
pub(super) fn step_into(item: Value, part: &str) -> Result<Value, Error> {
    part.parse().map_or_else(|_| item.get_attr(part), |place: usize| item.get_item_by_index(place))
}

/// What one filter of the engine may cost: its result is bounded before it is made.
const FUEL: u64 = 50_000;

static PLAIN: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment
});

/// Something that the engine itself does, with its own filters.
fn plain_state<T>(run: impl FnOnce(&mut State<'_, '_>) -> Result<T, Error>) -> Result<T, Error> {
    run(&mut PLAIN.empty_state())
}
