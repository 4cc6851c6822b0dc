//! How the templates of `responses` run: what is not there is undefined and false, and what cannot be computed is not there.
//!
//! An API's answers have many forms, and a condition is about one of them. With strict templates each would have to guard
//! against all others.

use std::fmt::Write as _;
use std::sync::LazyLock;

use minijinja::{Environment, Error, UndefinedBehavior, Value};

use crate::pipeline::engine::{is_omit, text_of, to_json};
use crate::pipeline::template::{self, Template};

/// Stands in a text where an expression was undefined. No value keeps it: control characters are taken out of texts.
const MISSING: char = '\u{1}';

static LENIENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = template::environment();
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_formatter(|out, _, value| {
        if value.is_undefined() || is_omit(value) {
            return out.write_char(MISSING).map_err(Error::from);
        }
        out.write_str(&text_of(value)?).map_err(Error::from)
    });
    environment
});

/// Where they run, for those who look templates through.
pub fn environment() -> &'static Environment<'static> {
    &LENIENT
}

/// Whether a condition holds.
pub fn is_true(template: &Template, values: &Value) -> bool {
    match template {
        Template::Expression(program) => {
            program.value(&LENIENT, values.clone()).is_ok_and(|value| value.is_true())
        }
        other => text(other, values).is_some_and(|text| {
            !["", "false", "0", "none", "null"].contains(&text.trim().to_ascii_lowercase().as_str())
        }),
    }
}

/// The number that a template makes; none when it makes none.
pub fn number(template: &Template, values: &Value) -> Option<f64> {
    text(template, values)?.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

/// The text that a template makes; none when it makes nothing, or when all of what it reads is not there.
pub fn text(template: &Template, values: &Value) -> Option<String> {
    let text = match template {
        Template::Text(text) => return Some(text.clone()),
        Template::Expression(program) => {
            let value = program.value(&LENIENT, values.clone()).ok()?;
            text_of(&value).ok()?.into_owned()
        }
        Template::Mixed(program) | Template::Path(program) | Template::Xml(program) => {
            let text = program.render(&LENIENT, values.clone()).ok()?;
            // The words around what is not there say nothing by themselves.
            let is_blank = || program.render(&LENIENT, Value::UNDEFINED).is_ok_and(|blank| blank == text);
            if text.contains(MISSING) && is_blank() {
                return None;
            }
            text.replace(MISSING, "")
        }
    };
    Some(text).filter(|text| !text.trim().is_empty())
}

/// The JSON value that a template makes; none when it makes none, or reads what is not there.
pub fn json(template: &Template, values: &Value) -> Option<serde_json::Value> {
    match template {
        Template::Expression(program) => {
            let value = program.value(&LENIENT, values.clone()).ok()?;
            to_json(&value).ok().filter(|_| !value.is_undefined() && !is_omit(&value))
        }
        other => text(other, values).map(serde_json::Value::String),
    }
}
