//! Templates: minijinja with strict undefined, compiled once. A value that is one expression keeps its JSON type.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use minijinja::machinery::parse_expr;
use minijinja::value::ValueKind;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::engine::{self, Program, holds_undefined};
use super::inspect::{self, Reading};
use super::names::Names;
use super::vars::Filled;

/// What a single rendering may cost: far above any sensible template, far below a spin.
const FUEL: u64 = 50_000;

/// Where all templates run but those of paths.
static PLAIN: LazyLock<Environment<'static>> = LazyLock::new(environment);

/// Where every expression is encoded as one path segment (RFC 3986, 3.3).
static PATH: LazyLock<Environment<'static>> = LazyLock::new(path_environment);

pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    engine::install(&mut environment);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // Errors say which expression is undefined, or cannot be computed. They also hold values, and are never shown whole.
    environment.set_debug(true);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(|out, state, value| {
        if holds_undefined(value) {
            return Err(ErrorKind::UndefinedError.into());
        }
        if engine::is_omit(value) {
            return Err(engine::omitted());
        }
        // A missing value is the engine's error.
        if value.is_undefined() || value.as_str().is_some() {
            return minijinja::escape_formatter(out, state, value);
        }
        out.write_str(&engine::text_of(value)?).map_err(minijinja::Error::from)
    });
    environment
}

fn path_environment() -> Environment<'static> {
    let mut environment = environment();
    environment.set_formatter(|out, _state, value| {
        if value.is_undefined() || holds_undefined(value) {
            return Err(minijinja::Error::from(ErrorKind::UndefinedError));
        }
        if engine::is_omit(value) {
            return Err(engine::omitted());
        }
        let text = engine::path_text(value)?;
        out.write_char(MADE)
            .and_then(|()| write!(out, "{}", utf8_percent_encode(&text, &RESERVED)))
            .map_err(minijinja::Error::from)
    });
    environment
}

/// Where every expression is escaped (XML 1.0, 2.4 and 3.3.3).
static XML: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = environment();
    environment.set_formatter(|out, _state, value| {
        if value.is_undefined() || holds_undefined(value) {
            return Err(minijinja::Error::from(ErrorKind::UndefinedError));
        }
        if engine::is_omit(value) {
            return Err(engine::omitted());
        }
        out.write_str(&engine::xml_text(value)?).map_err(minijinja::Error::from)
    });
    environment
});

/// Stands before what an expression made in a rendered path. No text of a path holds it, and no encoded value does.
const MADE: char = '\0';

/// All but unreserved characters (RFC 3986, 2.3).
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A rendered path as it can be sent. A segment that values have made must not be empty, `.` or `..`: every reader of URLs takes
/// these for another path, percent-encoded dots too (RFC 3986, 5.2.4; WHATWG URL, "double-dot path segment").
///
/// # Errors
/// A sentence that says which kind of segment it is.
pub(super) fn checked_path(rendered: &str) -> Result<String, &'static str> {
    for segment in rendered.split('/').filter(|segment| segment.contains(MADE)) {
        match segment.replace(MADE, "").to_ascii_lowercase().replace("%2e", ".").as_str() {
            "" => {
                return Err(
                    "a value is empty and would leave a segment of the path empty, which is another path",
                );
            }
            "." | ".." => {
                return Err("a value makes a segment of the path `.` or `..`, which is another path");
            }
            _ => {}
        }
    }
    Ok(rendered.replace(MADE, ""))
}

/// A piece of text with expressions in it.
#[derive(Clone, Debug)]
pub enum Template {
    /// No expression at all.
    Text(String),
    /// One expression and nothing else: its value, whatever its type.
    Expression(Arc<Program>),
    /// Text around expressions: a string.
    Mixed(Arc<Program>),
    /// A path: every expression is one segment's part ([`checked_path`]).
    Path(Arc<Program>),
    /// XML: every expression is text or an attribute's value.
    Xml(Arc<Program>),
}

/// What a template makes, which decides how its expressions are written out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text, or a value. The line break at the end of a YAML block is none of its own.
    Plain,
    /// The same of several lines: the last line break counts.
    Lines,
    /// Text: blanks around an expression count as well.
    Exact,
    /// A path: every expression is encoded as one segment's part.
    Path,
    /// XML: every expression is escaped.
    Xml,
}

impl Template {
    /// Stands for a template of which a variable has no value.
    pub(super) fn empty() -> Self {
        Self::Text(String::new())
    }

    /// Compiles a value; in a path and in XML there is no other type than text.
    ///
    /// # Errors
    /// When it is no template.
    pub(super) fn compile(filled: Filled, kind: Kind) -> Result<Self, minijinja::Error> {
        let text = match filled {
            Filled::Plain(text) => return Ok(Self::Text(text)),
            Filled::Template(text) => text,
        };
        match kind {
            Kind::Path => return Program::line(&text).map(|program| Self::Path(Arc::new(program))),
            Kind::Xml => return Program::template(&text).map(|program| Self::Xml(Arc::new(program))),
            Kind::Plain | Kind::Lines | Kind::Exact => {}
        }
        match single_expression(&text, kind) {
            Some(expression) => {
                Program::expression(expression).map(|program| Self::Expression(Arc::new(program)))
            }
            None if kind == Kind::Plain => Program::line(&text).map(|program| Self::Mixed(Arc::new(program))),
            None => Program::template(&text).map(|program| Self::Mixed(Arc::new(program))),
        }
    }

    /// Its value; none when it is `omit`, or a text that holds one.
    ///
    /// # Errors
    /// As [`Template::render`], but for `omit`.
    pub fn render_unless_omitted(
        &self,
        context: &Value,
    ) -> Result<Option<serde_json::Value>, minijinja::Error> {
        unless_omitted(self.render(context))
    }

    /// Its value.
    ///
    /// # Errors
    /// When it reads something that is not there, or is `omit`.
    pub fn render(&self, context: &Value) -> Result<serde_json::Value, minijinja::Error> {
        match self {
            Self::Text(text) => Ok(serde_json::Value::String(text.clone())),
            Self::Expression(program) => {
                let text = program.text();
                let value = program.value(&PLAIN, context.clone())?;
                // Only an expression that makes a list or a map can put into it what is not there.
                let makes = text.contains(['[', '{', '(']);
                if value.is_undefined() || (makes && holds_undefined(&value)) {
                    let what = format!("`{text}` is undefined");
                    return Err(minijinja::Error::new(ErrorKind::UndefinedError, what));
                }
                if engine::is_omit(&value) {
                    return Err(engine::omitted());
                }
                engine::to_json(&value)
            }
            Self::Mixed(program) => program.render(&PLAIN, context.clone()).map(serde_json::Value::String),
            Self::Path(program) => program.render(&PATH, context.clone()).map(serde_json::Value::String),
            Self::Xml(program) => program.render(&XML, context.clone()).map(serde_json::Value::String),
        }
    }

    /// Its value as text.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_text(&self, context: &Value) -> Result<String, minijinja::Error> {
        Ok(text_of(self.render(context)?))
    }

    /// Whether its value counts as true.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub(super) fn render_truth(&self, context: &Value) -> Result<bool, minijinja::Error> {
        if let Self::Expression(program) = self {
            let value = program.value(&PLAIN, context.clone())?;
            if !value.is_undefined() && !engine::is_omit(&value) {
                return engine::is_true(&value);
            }
        }
        let value = self.render(context)?;
        Ok(!matches!(value, serde_json::Value::Null | serde_json::Value::Bool(false)))
    }

    /// Its bytes: those of its text, or what `base64decode` made of it; none when it is `omit`.
    ///
    /// # Errors
    /// As [`Template::render`], but for `omit`.
    pub(super) fn render_bytes(&self, context: &Value) -> Result<Option<Vec<u8>>, minijinja::Error> {
        if let Self::Expression(program) = self {
            let value = program.value(&PLAIN, context.clone())?;
            if value.kind() == ValueKind::Bytes {
                return Ok(value.as_bytes().map(<[u8]>::to_vec));
            }
        }
        Ok(unless_omitted(self.render_text(context))?.map(String::into_bytes))
    }
}

/// A JSON value as it stands in text.
pub(super) fn text_of(value: serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text,
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// What was rendered; none of what is left out.
fn unless_omitted<T>(rendered: Result<T, minijinja::Error>) -> Result<Option<T>, minijinja::Error> {
    match rendered {
        Err(error) if engine::is_omitted(&error) => Ok(None),
        rendered => rendered.map(Some),
    }
}

/// What a template reads, and what of it can never be right.
pub(super) fn read(filled: &Filled, kind: Kind, names: &Names, answer: bool) -> Reading {
    read_with(filled, kind, names, answer, &PLAIN)
}

/// The same of a template that reads an answer and runs in another environment.
pub(super) fn read_in(filled: &Filled, names: &Names, environment: &Environment<'_>) -> Reading {
    read_with(filled, Kind::Plain, names, true, environment)
}

fn read_with(filled: &Filled, kind: Kind, names: &Names, answer: bool, run_in: &Environment<'_>) -> Reading {
    match filled {
        Filled::Plain(text) => Reading { skeleton: text.clone(), ..Reading::default() },
        Filled::Template(text) => match single_expression(text, kind) {
            Some(expression) => inspect::expression(expression, names, answer, run_in),
            None => inspect::text(text, names, answer, run_in),
        },
    }
}

/// What stands between `{{` and `}}` when nothing stands around them.
fn single_expression(text: &str, kind: Kind) -> Option<&str> {
    let text = match kind {
        Kind::Plain | Kind::Lines => text.trim(),
        Kind::Exact => text,
        Kind::Path | Kind::Xml => return None,
    };
    let inside = text.strip_prefix("{{")?.strip_suffix("}}")?;
    // `{{-` and `-}}` trim white space around them; a minus apart from the braces is the expression's own.
    let inside = inside.strip_prefix('-').unwrap_or(inside);
    let inside = inside.strip_suffix('-').unwrap_or(inside);
    let plain = !inside.contains("{{") && !inside.contains("}}") && !inside.contains("{%");
    // Braces may be a string's or a map's own.
    (plain || parse_expr(inside).is_ok()).then(|| inside.trim())
}

/// A JSON value with templates for its strings.
#[derive(Clone, Debug)]
pub enum JsonTemplate {
    /// A string.
    Template(Template),
    /// A number, a boolean or null.
    Constant(serde_json::Value),
    /// An array.
    Array(Vec<JsonTemplate>),
    /// An object.
    Object(Vec<(String, JsonTemplate)>),
    /// A list with one entry for each row of a bulk call: the entries with this index.
    Each(usize),
}

impl JsonTemplate {
    /// Compiles every string in a value; `each` sees them first.
    ///
    /// # Errors
    /// What `each` or the first string that is no template says.
    pub fn compile<E>(
        value: &serde_json::Value,
        each: &mut dyn FnMut(&str) -> Result<Template, E>,
    ) -> Result<Self, E> {
        Ok(match value {
            serde_json::Value::String(text) => Self::Template(each(text)?),
            serde_json::Value::Array(items) => {
                Self::Array(items.iter().map(|item| Self::compile(item, each)).collect::<Result<_, E>>()?)
            }
            serde_json::Value::Object(fields) => Self::Object(
                fields
                    .iter()
                    .map(|(name, field)| Ok((name.clone(), Self::compile(field, each)?)))
                    .collect::<Result<_, E>>()?,
            ),
            constant => Self::Constant(constant.clone()),
        })
    }

    /// The same template with the entries of a call's rows, by [`JsonTemplate::Each`].
    #[must_use]
    pub fn with_entries(&self, entries: &[Vec<serde_json::Value>]) -> Self {
        match self {
            Self::Each(index) => {
                let list = entries.get(*index).cloned().unwrap_or_default();
                Self::Constant(serde_json::Value::Array(list))
            }
            Self::Array(items) => Self::Array(items.iter().map(|item| item.with_entries(entries)).collect()),
            Self::Object(fields) => Self::Object(
                fields.iter().map(|(name, field)| (name.clone(), field.with_entries(entries))).collect(),
            ),
            Self::Template(_) | Self::Constant(_) => self.clone(),
        }
    }

    /// Its value, without the items and fields that are `omit`.
    ///
    /// # Errors
    /// When a template reads something that is not there, or the whole is `omit`.
    pub fn render(&self, context: &Value) -> Result<serde_json::Value, minijinja::Error> {
        Ok(match self {
            Self::Template(template) => template.render(context)?,
            Self::Constant(value) => value.clone(),
            // A call's body is rendered with its entries in place.
            Self::Each(_) => serde_json::Value::Array(Vec::new()),
            Self::Array(items) => serde_json::Value::Array(
                items
                    .iter()
                    .filter_map(|item| item.render_unless_omitted(context).transpose())
                    .collect::<Result<_, _>>()?,
            ),
            Self::Object(fields) => {
                let mut object = serde_json::Map::new();
                for (name, field) in fields {
                    if let Some(value) = field.render_unless_omitted(context)? {
                        object.insert(name.clone(), value);
                    }
                }
                serde_json::Value::Object(object)
            }
        })
    }

    /// The same; none when the whole is `omit`.
    ///
    /// # Errors
    /// When a template reads something that is not there.
    pub fn render_unless_omitted(
        &self,
        context: &Value,
    ) -> Result<Option<serde_json::Value>, minijinja::Error> {
        unless_omitted(self.render(context))
    }
}
