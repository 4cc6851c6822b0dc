//! Templates: minijinja with strict undefined, compiled once. A value that is one expression keeps its JSON type.

use std::sync::{Arc, LazyLock};

use minijinja::{Environment, Expression, UndefinedBehavior, Value};

/// What a single rendering may cost: far above any sensible template, far below a spin.
const FUEL: u64 = 50_000;

/// Expressions are compiled against this environment; it has no templates of its own.
static PLAIN: LazyLock<Environment<'static>> = LazyLock::new(environment);

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment
}

/// An environment in which every expression is encoded as one path segment (RFC 3986, 3.3).
fn path_environment() -> Environment<'static> {
    let mut environment = environment();
    environment.set_formatter(|out, _state, value| {
        if value.is_undefined() {
            return Err(minijinja::Error::from(minijinja::ErrorKind::UndefinedError));
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
    Expression(Arc<Expression<'static, 'static>>),
    /// Text around expressions: a string.
    Mixed(Arc<Environment<'static>>),
}

const NAME: &str = "template";

impl Template {
    /// Compiles a value.
    ///
    /// # Errors
    /// When it is no template.
    pub fn value(text: &str) -> Result<Self, minijinja::Error> {
        if let Some(expression) = single_expression(text) {
            return Ok(Self::Expression(Arc::new(PLAIN.compile_expression_owned(expression.to_owned())?)));
        }
        Self::mixed(text, environment)
    }

    /// Compiles a path, in which every expression is one segment's part.
    ///
    /// # Errors
    /// When it is no template.
    pub fn path(text: &str) -> Result<Self, minijinja::Error> {
        Self::mixed(text, path_environment)
    }

    fn mixed(text: &str, environment: fn() -> Environment<'static>) -> Result<Self, minijinja::Error> {
        if !text.contains('{') {
            return Ok(Self::Text(text.to_owned()));
        }
        let mut environment = environment();
        environment.add_template_owned(NAME, text.to_owned())?;
        Ok(Self::Mixed(Arc::new(environment)))
    }

    /// The variables that it reads, with their dots: `row.email`.
    pub fn variables(&self) -> Vec<String> {
        let mut variables: Vec<String> = match self {
            Self::Text(_) => Vec::new(),
            Self::Expression(expression) => expression.undeclared_variables(true).into_iter().collect(),
            Self::Mixed(environment) => environment
                .get_template(NAME)
                .map(|template| template.undeclared_variables(true).into_iter().collect())
                .unwrap_or_default(),
        };
        variables.sort();
        variables
    }

    /// Whether it reads anything of a variable.
    pub fn reads(&self, name: &str) -> bool {
        self.variables().iter().any(|variable| variable.split('.').next() == Some(name))
    }

    /// Its value.
    ///
    /// # Errors
    /// When it reads something that is not there.
    pub fn render(&self, context: &Value) -> Result<serde_json::Value, minijinja::Error> {
        match self {
            Self::Text(text) => Ok(serde_json::Value::String(text.clone())),
            Self::Expression(expression) => {
                let value = expression.eval(context.clone())?;
                if value.is_undefined() {
                    return Err(minijinja::ErrorKind::UndefinedError.into());
                }
                serde_json::to_value(&value).map_err(|_| {
                    minijinja::Error::new(minijinja::ErrorKind::BadSerialization, "not a JSON value")
                })
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

/// What stands between `{{` and `}}` when nothing stands around them.
fn single_expression(text: &str) -> Option<&str> {
    let inside = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    let plain = !inside.contains("{{") && !inside.contains("}}") && !inside.contains("{%");
    // `{{-` and `-}}` trim white space around them; a minus apart from the braces is the expression's own.
    let inside = inside.strip_prefix('-').unwrap_or(inside);
    let inside = inside.strip_suffix('-').unwrap_or(inside);
    plain.then(|| inside.trim())
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

    /// Whether it reads anything of a variable.
    pub fn reads(&self, name: &str) -> bool {
        match self {
            Self::Template(template) => template.reads(name),
            Self::Constant(_) => false,
            Self::Array(items) => items.iter().any(|item| item.reads(name)),
            Self::Object(fields) => fields.iter().any(|(_, field)| field.reads(name)),
        }
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
