//! The idempotency key of a keyed step (draft-ietf-httpapi-idempotency-key-header): the same for every attempt of a row.

use minijinja::Value;

use crate::pipeline::step::{RenderError, is_header_value};
use crate::pipeline::template::Template;

/// The header that `idempotency_key: true` sends.
pub(in crate::pipeline) const HEADER: &str = "Idempotency-Key";

/// Where a key is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::pipeline) enum KeyPlace {
    /// In this header.
    Header(String),
    /// As this pair of the query.
    Query(String),
    /// As this field of a JSON object or a form.
    Body(String),
}

/// A step's idempotency key.
#[derive(Debug)]
pub(in crate::pipeline) struct KeyTemplate {
    pub place: KeyPlace,
    /// What it is; without one Penstock's own.
    pub value: Option<Template>,
}

impl KeyTemplate {
    /// The key of a row: `own` unless the definition has another one.
    ///
    /// # Errors
    /// When its template reads what is not there, or makes no key: an empty one would be every row's.
    pub fn render(
        &self,
        step: &str,
        values: &Value,
        own: impl FnOnce() -> String,
    ) -> Result<String, RenderError> {
        let Some(template) = &self.value else { return Ok(own()) };
        let key = template.render_text(values);
        let key = key.map_err(|error| RenderError::new(step, "idempotency_key", &error))?;
        if key.trim().is_empty() {
            let why = "it is empty, and would be the key of every such row";
            return Err(RenderError::because(step, "idempotency_key", why));
        }
        if matches!(self.place, KeyPlace::Header(_)) && !is_header_value(&key) {
            return Err(RenderError::header(step, "idempotency_key"));
        }
        Ok(key)
    }

    /// The body's field that holds it, of a key that is sent there.
    pub fn in_body<'a>(&'a self, key: &'a str) -> Option<(&'a str, &'a str)> {
        match &self.place {
            KeyPlace::Body(name) => Some((name, key)),
            KeyPlace::Header(_) | KeyPlace::Query(_) => None,
        }
    }
}
