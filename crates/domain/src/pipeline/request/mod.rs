//! A step's request of a row: what of the definition becomes bytes, before anybody looks at the network.
//!
//! `load` reads the keys of `request`, `target` says where it leads, `key` which idempotency key it carries, `body` what it sends.
//! A request is rendered once for each attempt, and its body is written once: whoever signs a request signs the very bytes that
//! are sent.

mod body;
mod form;
mod key;
pub(super) mod load;
pub(in crate::pipeline) mod look;
mod multipart;
mod target;

pub use body::Body;
pub use target::Target;

use minijinja::Value;

pub(super) use body::BodyTemplate;
pub(super) use key::{KeyPlace, KeyTemplate};
pub(super) use target::TargetTemplate;

use super::definition::Method;
use super::step::{RenderError, is_header_value};
use super::template::Template;

/// A request, ready to be sent.
#[derive(Clone, Debug)]
pub struct RenderedRequest {
    /// The method.
    pub method: Method,
    /// Where it goes.
    pub target: Target,
    /// Query pairs, not yet encoded; they follow those of the target.
    pub query: Vec<(String, String)>,
    /// Headers besides the dependency's own.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Option<Body>,
}

/// A request's templates.
#[derive(Debug)]
pub(super) struct RequestTemplate {
    pub method: Method,
    pub target: TargetTemplate,
    pub query: Vec<(String, Template)>,
    pub headers: Vec<(String, Template)>,
    pub body: Option<BodyTemplate>,
    pub content_type: Option<Template>,
    pub key: Option<KeyTemplate>,
}

impl RequestTemplate {
    /// The request of a row. `values` are what its templates read, `key` its idempotency key, of a keyed step. `entries` are those of
    /// the rows of a bulk call, empty for other calls.
    ///
    /// # Errors
    /// When a template reads something that is not there, or makes what cannot stand in a URL or a header.
    pub fn render(
        &self,
        step: &str,
        values: &Value,
        key: Option<&str>,
        entries: &[Vec<serde_json::Value>],
    ) -> Result<RenderedRequest, RenderError> {
        let target = self.target.render(step, values)?;
        let mut query = self.query(step, values)?;
        let mut headers = self.headers(step, values)?;
        let key = self.key.as_ref().zip(key);
        let field = key.and_then(|(template, key)| template.in_body(key));
        let mut body = match &self.body {
            Some(template) if entries.is_empty() => template.render(step, values, field)?,
            Some(template) => template.with_entries(entries).render(step, values, field)?,
            None => None,
        };
        if let (Some(template), Some(body)) = (&self.content_type, &mut body)
            && let Some(wanted) = text_unless_omitted(step, "content_type", template, values)?
        {
            if !is_header_value(&wanted) {
                return Err(RenderError::header(step, "content_type"));
            }
            body.replace_content_type(wanted);
        }
        match key.map(|(template, key)| (&template.place, key)) {
            Some((KeyPlace::Header(name), key)) => headers.push((name.clone(), key.to_owned())),
            Some((KeyPlace::Query(name), key)) => query.push((name.clone(), key.to_owned())),
            Some((KeyPlace::Body(_), _)) | None => {}
        }
        Ok(RenderedRequest { method: self.method, target, query, headers, body })
    }

    /// The pairs of the query that are not left out.
    fn query(&self, step: &str, values: &Value) -> Result<Vec<(String, String)>, RenderError> {
        let pair = |(name, template): &(String, Template)| {
            let value = text_unless_omitted(step, "query", template, values).transpose()?;
            Some(value.map(|value| (name.clone(), value)))
        };
        self.query.iter().filter_map(pair).collect()
    }

    /// The headers that are not left out.
    fn headers(&self, step: &str, values: &Value) -> Result<Vec<(String, String)>, RenderError> {
        let header = |(name, template): &(String, Template)| {
            let value = text_unless_omitted(step, "headers", template, values).transpose()?;
            let checked = value.and_then(|value| {
                is_header_value(&value).then_some(value).ok_or_else(|| RenderError::header(step, name))
            });
            Some(checked.map(|value| (name.clone(), value)))
        };
        self.headers.iter().filter_map(header).collect()
    }

    /// The request of a look at a result: a GET with this request's headers, without its body and its key. With a target of its own it
    /// has no query.
    ///
    /// # Errors
    /// As [`RequestTemplate::render`].
    pub fn render_look(
        &self,
        step: &str,
        values: &Value,
        target: Option<Target>,
    ) -> Result<RenderedRequest, RenderError> {
        let (target, query) = match target {
            Some(target) => (target, Vec::new()),
            None => (self.target.render(step, values)?, self.query(step, values)?),
        };
        let mut headers = self.headers(step, values)?;
        headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
        Ok(RenderedRequest { method: Method::Get, target, query, headers, body: None })
    }
}

/// A template's text; none when it is `omit`.
fn text_unless_omitted(
    step: &str,
    place: &str,
    template: &Template,
    values: &Value,
) -> Result<Option<String>, RenderError> {
    let rendered = template.render_unless_omitted(values);
    let rendered = rendered.map_err(|error| RenderError::new(step, place, &error))?;
    Ok(rendered.map(super::template::text_of))
}
