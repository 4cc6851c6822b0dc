//! Templates: minijinja with strict undefined, compiled once. A value that is one expression keeps its JSON type.

use std::sync::{Arc, LazyLock};

use minijinja::machinery::parse_expr;
use minijinja::value::ValueKind;
use minijinja::{Environment, ErrorKind, Expression, UndefinedBehavior, Value};

use super::inspect::{self, Reading};
use super::names::Names;
use super::vars::Filled;

/// What a single rendering may cost: far above any sensible template, far below a spin.
const FUEL: u64 = 50_000;

/// Expressions are compiled against this environment; it has no templates of its own.
static PLAIN: LazyLock<Environment<'static>> = LazyLock::new(environment);

pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // Errors say which expression is undefined, or cannot be computed. They also hold values, and are never shown whole.
    environment.set_debug(true);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(|out, state, value| {
        if holds_undefined(value) {
            return Err(ErrorKind::UndefinedError.into());
        }
        minijinja::escape_formatter(out, state, value)
    });
    environment
}

/// Whether a list or map of the template's own making holds what is not there: written out it would be null, or the word
/// `undefined`.
fn holds_undefined(value: &Value) -> bool {
    let missing = |item: &Value| item.is_undefined() || holds_undefined(item);
    match value.kind() {
        ValueKind::Seq => value.try_iter().is_ok_and(|mut items| items.any(|item| missing(&item))),
        ValueKind::Map => value
            .try_iter()
            .is_ok_and(|mut keys| keys.any(|key| value.get_item(&key).is_ok_and(|item| missing(&item)))),
        _ => false,
    }
}

/// An environment in which every expression is encoded as one path segment (RFC 3986, 3.3).
fn path_environment() -> Environment<'static> {
    let mut environment = environment();
    environment.set_formatter(|out, _state, value| {
        if value.is_undefined() || holds_undefined(value) {
            return Err(minijinja::Error::from(ErrorKind::UndefinedError));
        }
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        out.write_str(&encode_segment(&text)).map_err(minijinja::Error::from)
    });
    environment
}

/// Percent-encodes all but unreserved characters. Dots are encoded where a segment is nothing but dots, so that no
/// value can climb.
pub fn encode_segment(value: &str) -> String {
    let dots = value.bytes().all(|byte| byte == b'.');
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || (byte == b'.' && !dots) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A piece of text with expressions in it.
#[derive(Clone, Debug)]
pub enum Template {
    /// No expression at all.
    Text(String),
    /// One expression and nothing else: its value, whatever its type.
    Expression(Arc<(String, Expression<'static, 'static>)>),
    /// Text around expressions: a string.
    Mixed(Arc<Environment<'static>>),
}

const NAME: &str = "template";

impl Template {
    /// Stands for a template of which a variable has no value.
    pub(super) fn empty() -> Self {
        Self::Text(String::new())
    }

    /// Compiles a value; in a path every expression is one segment's part, and there is no other type than text.
    ///
    /// # Errors
    /// When it is no template.
    pub(super) fn compile(filled: Filled, path: bool) -> Result<Self, minijinja::Error> {
        let text = match filled {
            Filled::Plain(text) => return Ok(Self::Text(text)),
            Filled::Template(text) => text,
        };
        if let Some(expression) = single_expression(&text).filter(|_| !path) {
            let compiled = PLAIN.compile_expression_owned(expression.to_owned())?;
            return Ok(Self::Expression(Arc::new((expression.to_owned(), compiled))));
        }
        let mut environment = if path { path_environment() } else { environment() };
        environment.add_template_owned(NAME, text)?;
        Ok(Self::Mixed(Arc::new(environment)))
    }

    /// Its value.
    ///
    /// # Errors
    /// When it reads something that is not there.
    pub fn render(&self, context: &Value) -> Result<serde_json::Value, minijinja::Error> {
        match self {
            Self::Text(text) => Ok(serde_json::Value::String(text.clone())),
            Self::Expression(expression) => {
                let (text, expression) = expression.as_ref();
                let value = expression.eval(context.clone())?;
                // Only an expression that makes a list or a map can put into it what is not there.
                let makes = text.contains(['[', '{', '(']);
                if value.is_undefined() || (makes && holds_undefined(&value)) {
                    let what = format!("`{text}` is undefined");
                    return Err(minijinja::Error::new(ErrorKind::UndefinedError, what));
                }
                serde_json::to_value(&value)
                    .map_err(|_| minijinja::Error::new(ErrorKind::BadSerialization, "not a JSON value"))
            }
            Self::Mixed(environment) => {
                environment.get_template(NAME)?.render(context.clone()).map(serde_json::Value::String)
            }
        }
    }

    /// Its value as text.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_text(&self, context: &Value) -> Result<String, minijinja::Error> {
        Ok(match self.render(context)? {
            serde_json::Value::String(text) => text,
            serde_json::Value::Null => String::new(),
            other => other.to_string(),
        })
    }
}

/// What a template reads, and what of it can never be right.
pub(super) fn read(filled: &Filled, path: bool, names: &Names, answer: bool) -> Reading {
    match filled {
        Filled::Plain(text) => Reading { skeleton: text.clone(), ..Reading::default() },
        Filled::Template(text) => match single_expression(text).filter(|_| !path) {
            Some(expression) => inspect::expression(expression, names, answer, &PLAIN),
            None => inspect::text(text, names, answer, &PLAIN),
        },
    }
}

/// What stands between `{{` and `}}` when nothing stands around them.
fn single_expression(text: &str) -> Option<&str> {
    let inside = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
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

    /// Its value.
    ///
    /// # Errors
    /// When a template reads something that is not there.
    pub fn render(&self, context: &Value) -> Result<serde_json::Value, minijinja::Error> {
        Ok(match self {
            Self::Template(template) => template.render(context)?,
            Self::Constant(value) => value.clone(),
            Self::Array(items) => serde_json::Value::Array(
                items.iter().map(|item| item.render(context)).collect::<Result<_, _>>()?,
            ),
            Self::Object(fields) => serde_json::Value::Object(
                fields
                    .iter()
                    .map(|(name, field)| Ok((name.clone(), field.render(context)?)))
                    .collect::<Result<_, minijinja::Error>>()?,
            ),
        })
    }
}
