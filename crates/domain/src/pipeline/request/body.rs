//! A request's body: its templates, and the bytes that are sent.

use std::borrow::Cow;

use minijinja::Value;

use super::{form, multipart};
use crate::pipeline::step::RenderError;
use crate::pipeline::template::{JsonTemplate, Template};

/// A body: exactly the bytes that are sent, and what they are.
#[derive(Clone, PartialEq, Eq)]
pub struct Body {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The value of `Content-Type`, unless the step or the dependency sends that header itself.
    pub content_type: String,
}

impl Body {
    /// JSON (RFC 8259), with every digit of its numbers.
    pub fn json(value: &serde_json::Value) -> Self {
        Self { bytes: value.to_string().into_bytes(), content_type: "application/json".to_owned() }
    }

    /// Replaces what the kind of body implies. The boundary of a multipart body stays with it (RFC 2046, 5.1.1).
    pub(super) fn replace_content_type(&mut self, wanted: String) {
        let boundary = self.content_type.split_once("; boundary=").map(|(_, boundary)| boundary.to_owned());
        self.content_type = match boundary {
            Some(boundary) => format!("{wanted}; boundary={boundary}"),
            None => wanted,
        };
    }
}

impl std::fmt::Debug for Body {
    /// Without the bytes, which hold a row's values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body")
            .field("content_type", &self.content_type)
            .field("length", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// What a body is made of.
#[derive(Clone, Debug)]
pub(in crate::pipeline) enum BodyTemplate {
    /// `json`.
    Json(JsonTemplate),
    /// `form`.
    Form(JsonTemplate),
    /// `text`.
    Text(Template),
    /// `xml`, whose expressions are escaped.
    Xml(Template),
    /// `multipart`.
    Multipart(multipart::MultipartTemplate),
}

impl BodyTemplate {
    /// The same template with the entries of a bulk call's rows.
    pub fn with_entries(&self, entries: &[Vec<serde_json::Value>]) -> Cow<'_, Self> {
        match self {
            Self::Json(template) => Cow::Owned(Self::Json(template.with_entries(entries))),
            Self::Form(template) => Cow::Owned(Self::Form(template.with_entries(entries))),
            Self::Text(_) | Self::Xml(_) | Self::Multipart(_) => Cow::Borrowed(self),
        }
    }

    /// The body for a row, with the `field` of an idempotency key; none when it is `omit`.
    ///
    /// # Errors
    /// When a template reads something that is not there, or makes what cannot stand in such a body.
    pub fn render(
        &self,
        step: &str,
        values: &Value,
        field: Option<(&str, &str)>,
    ) -> Result<Option<Body>, RenderError> {
        match self {
            Self::Json(template) => {
                let json = template.render_unless_omitted(values);
                let Some(mut json) = json.map_err(|error| RenderError::new(step, "json", &error))? else {
                    return Ok(None);
                };
                if let Some((name, key)) = field {
                    let serde_json::Value::Object(fields) = &mut json else {
                        let why = "the body is no object, so the idempotency key has no place in it";
                        return Err(RenderError::because(step, "json", why));
                    };
                    fields.insert(name.to_owned(), key.into());
                }
                Ok(Some(Body::json(&json)))
            }
            Self::Form(template) => form::render(step, template, values, field).map(Some),
            Self::Text(template) => text(step, "text", template, values, "text/plain; charset=utf-8"),
            Self::Xml(template) => text(step, "xml", template, values, "application/xml; charset=utf-8"),
            Self::Multipart(template) => template.render(step, values, field).map(Some),
        }
    }
}

fn text(
    step: &str,
    place: &str,
    template: &Template,
    values: &Value,
    content_type: &str,
) -> Result<Option<Body>, RenderError> {
    let bytes = template.render_bytes(values).map_err(|error| RenderError::new(step, place, &error))?;
    Ok(bytes.map(|bytes| Body { bytes, content_type: content_type.to_owned() }))
}
