//! A step: the request it makes of a row, and what it reads from the answer.

use std::collections::BTreeMap;
use std::error::Error as _;

use minijinja::Value;
use serde_json::Map;

use super::definition::Method;
use super::engine::{self, Refusal};
use super::request::{Body, RenderedRequest};
use super::template::{JsonTemplate, Template, checked_path};
use crate::outcome::Repetition;

/// What of a row stays the same at all its steps, as templates read it: made once for each row.
#[derive(Debug)]
pub struct RowValues {
    row: Value,
    context: Value,
}

impl RowValues {
    /// Of the row's values by column, and of what came with the upload.
    pub fn new(row: &BTreeMap<String, String>, context: &serde_json::Value) -> Self {
        Self { row: engine::from_texts(row), context: engine::from_json(context) }
    }
}

/// What templates may read.
#[derive(Clone, Copy)]
pub struct RowContext<'a> {
    /// The row's values and the upload's context.
    pub values: &'a RowValues,
    /// Outputs of earlier steps by name.
    pub steps: &'a Map<String, serde_json::Value>,
}

/// An answer, as `output` reads it.
#[derive(Clone, Copy)]
pub struct ResponseView<'a> {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: &'a BTreeMap<String, String>,
    /// Its body, as JSON.
    pub body: &'a serde_json::Value,
}

/// A template that read something that is not there. Names the place, never a value.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct RenderError {
    place: String,
    reason: String,
}

impl RenderError {
    fn new(step: &str, place: impl std::fmt::Display, error: &minijinja::Error) -> Self {
        let place = if step.is_empty() { place.to_string() } else { format!("step `{step}`, {place}") };
        Self { place, reason: reason(error) }
    }
}

/// What is missing, or cannot be computed, as the definition writes it. The engine's own sentences may hold values.
fn reason(error: &minijinja::Error) -> String {
    if let Some(name) = error.detail().and_then(undefined) {
        return format!("`{name}` is not there");
    }
    match error.kind() {
        minijinja::ErrorKind::OutOfFuel => return "the template takes too long".into(),
        minijinja::ErrorKind::UndefinedError => return "a value that it reads is not there".into(),
        _ => {}
    }
    let refusal = error.source().and_then(|source| source.downcast_ref::<Refusal>());
    let why = refusal.map_or_else(String::new, |refusal| format!(": {refusal}"));
    match error.range().and_then(|range| error.template_source()?.get(range)) {
        Some(expression) => format!("`{}` cannot be applied to what it is given{why}", expression.trim()),
        None => format!("the template cannot be applied to this row{why}"),
    }
}

/// The expression of which the engine says that it is undefined.
fn undefined(detail: &str) -> Option<&str> {
    let (before, _) = detail.rsplit_once("` is undefined")?;
    before.rsplit_once('`').map(|(_, name)| name)
}

/// Whether a header can have that name (RFC 9110, 5.1).
pub(super) fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether a header can have that value.
pub(super) fn is_header_value(value: &str) -> bool {
    value.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7F))
}

/// One call of a pipeline.
#[derive(Debug)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// The dependency's place in the pipeline.
    pub dependency: usize,
    /// How much of the dependency's rate a call takes.
    pub cost: u32,
    /// The request's path as the definition writes it: it holds no row's values and no variable's.
    pub path_template: String,
    /// Whether calls carry an `Idempotency-Key`.
    pub keyed: bool,
    /// Whether it reads anything of an answer's body.
    pub reads_body: bool,
    pub(super) idempotent: Option<bool>,
    pub(super) method: Method,
    pub(super) path: Template,
    pub(super) query: Vec<(String, Template)>,
    pub(super) headers: Vec<(String, Template)>,
    pub(super) json: Option<JsonTemplate>,
    pub(super) output: Vec<(String, JsonTemplate)>,
}

impl Step {
    /// What it is to make a call of it again whose outcome is unknown: a key lets the other side see that it is the
    /// same; without one, what the definition says counts, and then what the method says.
    pub fn repetition(&self) -> Repetition {
        match self.idempotent {
            _ if self.keyed => Repetition::Harmless,
            Some(true) => Repetition::Harmless,
            Some(false) => Repetition::Harmful,
            None if self.method.is_idempotent() => Repetition::Harmless,
            None => Repetition::Unsaid,
        }
    }

    /// The request for a row.
    ///
    /// # Errors
    /// When a template reads something that is not there, or a header would hold a line break.
    pub fn request(&self, row: &RowContext<'_>) -> Result<RenderedRequest, RenderError> {
        let values = values(row, None);
        let text = |place: &str, template: &Template| {
            template.render_text(&values).map_err(|error| RenderError::new(&self.name, place, &error))
        };
        let path = checked_path(&text("path", &self.path)?).map_err(|reason| RenderError {
            place: format!("step `{}`, path", self.name),
            reason: reason.into(),
        })?;
        let mut query = Vec::with_capacity(self.query.len());
        for (name, template) in &self.query {
            query.push((name.clone(), text("query", template)?));
        }
        let mut headers = Vec::with_capacity(self.headers.len());
        for (name, template) in &self.headers {
            let value = text("headers", template)?;
            if !is_header_value(&value) {
                return Err(RenderError {
                    place: format!("step `{}`, header `{name}`", self.name),
                    reason:
                        "its value has a line break or another control character, which no header may have"
                            .into(),
                });
            }
            headers.push((name.clone(), value));
        }
        let body = match &self.json {
            Some(template) => {
                let json =
                    template.render(&values).map_err(|error| RenderError::new(&self.name, "json", &error))?;
                Some(Body::json(&json))
            }
            None => None,
        };
        Ok(RenderedRequest { method: self.method, path, query, headers, body })
    }

    /// What is kept of an answer.
    ///
    /// # Errors
    /// When the answer lacks something that is asked of it.
    pub fn output(
        &self,
        row: &RowContext<'_>,
        response: ResponseView<'_>,
    ) -> Result<Map<String, serde_json::Value>, RenderError> {
        if self.output.is_empty() {
            return Ok(Map::new());
        }
        let values = values(row, Some((response, self.reads_body)));
        render_fields(&self.output, &values, |key| format!("output `{key}`"), &self.name)
    }
}

/// What of a row's answers is kept.
#[derive(Debug, Default)]
pub struct ResultTemplate {
    pub(super) fields: Vec<(String, JsonTemplate)>,
}

impl ResultTemplate {
    /// The names of its fields.
    pub fn columns(&self) -> Vec<&str> {
        self.fields.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// A row's result.
    ///
    /// # Errors
    /// When a template reads something that is not there.
    pub fn render(&self, row: &RowContext<'_>) -> Result<Map<String, serde_json::Value>, RenderError> {
        if self.fields.is_empty() {
            return Ok(Map::new());
        }
        render_fields(&self.fields, &values(row, None), |key| format!("result `{key}`"), "")
    }
}

fn render_fields(
    fields: &[(String, JsonTemplate)],
    values: &Value,
    place: impl Fn(&str) -> String,
    step: &str,
) -> Result<Map<String, serde_json::Value>, RenderError> {
    let mut rendered = Map::new();
    for (name, template) in fields {
        let value = template.render(values).map_err(|error| RenderError::new(step, place(name), &error))?;
        rendered.insert(name.clone(), value);
    }
    Ok(rendered)
}

/// The values that templates read, of an answer its body only where it is read: it may be long.
fn values(row: &RowContext<'_>, response: Option<(ResponseView<'_>, bool)>) -> Value {
    let mut values: BTreeMap<&str, Value> = BTreeMap::new();
    values.insert("row", row.values.row.clone());
    values.insert("context", row.values.context.clone());
    values.insert("steps", engine::from_fields(row.steps));
    if let Some((response, reads_body)) = response {
        values.insert("status", Value::from(response.status));
        values.insert("headers", engine::from_texts(response.headers));
        if reads_body {
            values.insert("body", engine::from_json(response.body));
        }
    }
    Value::from(values)
}
