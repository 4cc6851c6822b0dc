//! `form`: `application/x-www-form-urlencoded` (WHATWG URL, 5).

use minijinja::Value;
use serde_json::Value as Json;
use url::form_urlencoded::Serializer;

use super::Body;
use crate::pipeline::step::RenderError;
use crate::pipeline::template::{JsonTemplate, text_of};

/// The form for a row: keys in the order of the definition, those of maps as `a[b]`, the name of a list once for each item.
/// Null and `omit` are left out.
///
/// # Errors
/// When a template reads something that is not there, or the whole is no map.
pub(super) fn render(
    step: &str,
    template: &JsonTemplate,
    values: &Value,
    field: Option<(&str, &str)>,
) -> Result<Body, RenderError> {
    let mut pairs = Vec::new();
    match template {
        JsonTemplate::Object(fields) => {
            for (name, template) in fields {
                collect(name, template, values, &mut pairs)
                    .map_err(|error| RenderError::new(step, format!("form `{name}`"), &error))?;
            }
        }
        whole => match whole.render_unless_omitted(values) {
            Ok(Some(Json::Object(fields))) => {
                fields.into_iter().for_each(|(name, value)| flatten(&name, value, &mut pairs));
            }
            Ok(None | Some(Json::Null)) => {}
            Ok(Some(_)) => {
                return Err(RenderError::because(step, "form", "it is no map of names and values"));
            }
            Err(error) => return Err(RenderError::new(step, "form", &error)),
        },
    }
    let mut form = Serializer::new(String::new());
    form.extend_pairs(&pairs);
    form.extend_pairs(field);
    let content_type = "application/x-www-form-urlencoded".to_owned();
    Ok(Body { bytes: form.finish().into_bytes(), content_type })
}

/// The pairs of a part of the form, in the order of the definition.
fn collect(
    name: &str,
    template: &JsonTemplate,
    values: &Value,
    pairs: &mut Vec<(String, String)>,
) -> Result<(), minijinja::Error> {
    match template {
        JsonTemplate::Object(fields) => {
            for (key, field) in fields {
                collect(&format!("{name}[{key}]"), field, values, pairs)?;
            }
        }
        JsonTemplate::Array(items) => {
            let mut place = 0;
            for item in items {
                match item {
                    JsonTemplate::Object(_) | JsonTemplate::Array(_) => {
                        collect(&format!("{name}[{place}]"), item, values, pairs)?;
                        place += 1;
                    }
                    _ => {
                        if let Some(value) = item.render_unless_omitted(values)? {
                            item_of(name, &mut place, value, pairs);
                        }
                    }
                }
            }
        }
        _ => {
            if let Some(value) = template.render_unless_omitted(values)? {
                flatten(name, value, pairs);
            }
        }
    }
    Ok(())
}

/// The pairs of a value.
pub(super) fn flatten(name: &str, value: Json, pairs: &mut Vec<(String, String)>) {
    match value {
        Json::Null => {}
        Json::Object(fields) => {
            for (key, field) in fields {
                flatten(&format!("{name}[{key}]"), field, pairs);
            }
        }
        Json::Array(items) => {
            let mut place = 0;
            items.into_iter().for_each(|item| item_of(name, &mut place, item, pairs));
        }
        value => pairs.push((name.to_owned(), text_of(value))),
    }
}

/// An item of a list: its name is repeated, unless it has parts of its own, which only a number keeps together.
fn item_of(name: &str, place: &mut usize, item: Json, pairs: &mut Vec<(String, String)>) {
    if item.is_object() || item.is_array() {
        flatten(&format!("{name}[{place}]"), item, pairs);
        *place += 1;
    } else {
        flatten(name, item, pairs);
    }
}
