//! `multipart`: `multipart/form-data` (RFC 7578).

use minijinja::Value;
use serde_json::Value as Json;
use uuid::Uuid;

use super::{Body, text_unless_omitted};
use crate::pipeline::step::{RenderError, is_header_value};
use crate::pipeline::template::{JsonTemplate, Template};

/// Boundaries are UUIDs of what they stand between under this namespace: the same parts make the same bytes.
const NAMESPACE: Uuid = Uuid::from_u128(0x2d53_91c4_7f0e_4a6b_8e1d_60b3_ca45_f702);

/// The parts of a body, in the order of the definition.
#[derive(Clone, Debug)]
pub(in crate::pipeline) struct MultipartTemplate {
    pub parts: Vec<(String, PartTemplate)>,
}

/// A part.
#[derive(Clone, Debug)]
pub(in crate::pipeline) enum PartTemplate {
    /// A value, or a list of them, of which each is a part.
    Field(JsonTemplate),
    /// A file.
    File {
        /// What it holds.
        content: Template,
        /// Its name; without one the part's.
        filename: Option<Template>,
        /// Its content type; without one `application/octet-stream`.
        kind: Option<Template>,
    },
}

/// A part, ready to be sent.
struct Part {
    head: String,
    content: Vec<u8>,
}

impl MultipartTemplate {
    /// The body for a row. Null and `omit` are left out.
    ///
    /// # Errors
    /// When a template reads something that is not there, or a type cannot stand in a header.
    pub fn render(
        &self,
        step: &str,
        values: &Value,
        field: Option<(&str, &str)>,
    ) -> Result<Body, RenderError> {
        let mut parts = Vec::with_capacity(self.parts.len());
        for (name, template) in &self.parts {
            let place = format!("multipart `{name}`");
            match template {
                PartTemplate::Field(template) => {
                    let value = template.render_unless_omitted(values);
                    let value = value.map_err(|error| RenderError::new(step, &place, &error))?;
                    value.into_iter().for_each(|value| fields(name, value, &mut parts));
                }
                PartTemplate::File { content, filename, kind } => {
                    let bytes = content.render_bytes(values);
                    let bytes = bytes.map_err(|error| RenderError::new(step, &place, &error))?;
                    let Some(bytes) = bytes else { continue };
                    let text = |template: &Option<Template>| match template {
                        Some(template) => text_unless_omitted(step, &place, template, values),
                        None => Ok(None),
                    };
                    let filename = text(filename)?.unwrap_or_else(|| name.clone());
                    let kind = text(kind)?.unwrap_or_else(|| "application/octet-stream".to_owned());
                    if kind.trim().is_empty() || !is_header_value(&kind) {
                        return Err(RenderError::because(step, &place, "its type is no content type"));
                    }
                    parts.push(file(name, &filename, &kind, bytes));
                }
            }
        }
        parts.extend(field.map(|(name, key)| plain(name, key)));
        Ok(written(&parts))
    }
}

fn fields(name: &str, value: Json, parts: &mut Vec<Part>) {
    match value {
        Json::Null => {}
        Json::Array(items) => items.into_iter().for_each(|item| fields(name, item, parts)),
        Json::String(text) => parts.push(plain(name, &text)),
        // An object is one part that holds JSON, as APIs with JSON beside a file want it.
        object @ Json::Object(_) => {
            let head = format!("{}\r\nContent-Type: application/json", disposition(name));
            parts.push(Part { head, content: object.to_string().into_bytes() });
        }
        other => parts.push(plain(name, &other.to_string())),
    }
}

fn disposition(name: &str) -> String {
    format!("Content-Disposition: form-data; name=\"{}\"", escaped(name))
}

fn plain(name: &str, text: &str) -> Part {
    Part { head: disposition(name), content: text.as_bytes().to_vec() }
}

fn file(name: &str, filename: &str, kind: &str, content: Vec<u8>) -> Part {
    let filename = escaped(filename);
    Part { head: format!("{}; filename=\"{filename}\"\r\nContent-Type: {kind}", disposition(name)), content }
}

/// A name between quotes: UTF-8 as it is, and what would end the quotes or the line encoded as browsers do (WHATWG HTML,
/// "multipart/form-data encoding algorithm"; RFC 7578, 2).
fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '"' => out.push_str("%22"),
            '\r' => out.push_str("%0D"),
            '\n' => out.push_str("%0A"),
            '\0' => out.push_str("%00"),
            c => out.push(c),
        }
    }
    out
}

/// The bytes, with a boundary that no part holds (RFC 2046, 5.1.1).
fn written(parts: &[Part]) -> Body {
    let mut all = Vec::new();
    for part in parts {
        all.extend_from_slice(part.head.as_bytes());
        all.extend_from_slice(&part.content);
    }
    let mut boundary = Uuid::new_v5(&NAMESPACE, &all).simple().to_string();
    while contains(&all, boundary.as_bytes()) {
        boundary = Uuid::new_v5(&NAMESPACE, boundary.as_bytes()).simple().to_string();
    }
    let mut bytes = Vec::with_capacity(all.len() + (parts.len() + 1) * (boundary.len() + 12));
    for Part { head, content } in parts {
        bytes.extend_from_slice(format!("--{boundary}\r\n{head}\r\n\r\n").as_bytes());
        bytes.extend_from_slice(content);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    Body { bytes, content_type: format!("multipart/form-data; boundary={boundary}") }
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(all, part).is_some()
}
