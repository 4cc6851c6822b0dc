//! What comes beside a file: in a form, in the query, or in a JSON body.

use penstock_domain::json::{self, JsonError};
use penstock_domain::ledger::Canary;
use penstock_domain::pipeline::CanaryDefinition;
use penstock_flow::callbacks::address::check_address;
use penstock_flow::intake::upload::UploadFields;
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::body;
use crate::problem::Problem;
use crate::state::ApiState;

/// Characters of a batch's name.
pub(crate) const NAME_CHARS: usize = 200;

/// Labels of a batch.
pub(crate) const LABELS: usize = 16;

/// Characters of a label.
const LABEL_CHARS: usize = 64;

/// The highest priority.
const MOST_PRIORITY: i16 = 9;

/// Fields of a form besides the file.
pub const NAMES: [&str; 7] =
    ["name", "labels", "context", "allow_failures", "callback_url", "priority", "canary"];

/// Fields as they come.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFields {
    /// Which upload becomes a batch; only in JSON, where no file comes along.
    pub upload_id: Option<Uuid>,
    name: Option<String>,
    labels: Option<Value>,
    context: Option<Value>,
    allow_failures: Option<Value>,
    callback_url: Option<String>,
    priority: Option<Value>,
    canary: Option<Value>,
}

impl RawFields {
    /// A browser sends every field of a form: one that is left empty is not given.
    fn without_empty(self) -> Self {
        let text = |value: Option<String>| value.filter(|value| !value.is_empty());
        let any = |value: Option<Value>| value.filter(|value| value != "");
        Self {
            upload_id: self.upload_id,
            name: text(self.name),
            labels: any(self.labels),
            context: any(self.context),
            allow_failures: any(self.allow_failures),
            callback_url: text(self.callback_url),
            priority: any(self.priority),
            canary: any(self.canary),
        }
    }

    /// What the values take in memory that are sent as JSON in a text.
    ///
    /// # Errors
    /// 413 when that is too much.
    pub fn weight(&self) -> Result<usize, Problem> {
        let weight = |name: &str, sent: &Option<Value>| match sent {
            Some(Value::String(text)) => body::light(text.as_bytes(), name),
            _ => Ok(0),
        };
        Ok(weight("`context`", &self.context)? + weight("`canary`", &self.canary)?)
    }

    /// The fields as the use case takes them.
    ///
    /// # Errors
    /// 422 when a value is not what its field takes.
    pub fn checked(self, state: &ApiState) -> Result<UploadFields, Problem> {
        let raw = self.without_empty();
        Ok(UploadFields {
            name: raw.name.map(name).transpose()?,
            labels: raw.labels.map(labels).transpose()?.unwrap_or_default(),
            context: raw.context.map(context).transpose()?,
            allow_failures: raw.allow_failures.map(allow_failures).transpose()?,
            callback_url: raw.callback_url.map(|url| callback_url(url, state)).transpose()?,
            priority: raw.priority.map(priority).transpose()?,
            canary: raw.canary.map(canary).transpose()?,
        })
    }
}

fn bad(detail: &str) -> Problem {
    Problem::unprocessable("bad_field", detail)
}

fn name(name: String) -> Result<String, Problem> {
    if name.chars().count() > NAME_CHARS {
        return Err(bad("`name` has at most 200 characters"));
    }
    if name.chars().any(char::is_control) {
        return Err(bad("`name` holds a control character"));
    }
    Ok(name)
}

/// Labels: a list, or a text in which commas separate them.
fn labels(sent: Value) -> Result<Vec<String>, Problem> {
    let list = match sent {
        Value::String(text) => Some(read_labels(&text)),
        Value::Array(list) => {
            list.into_iter().map(|label| label.as_str().map(|label| label.trim().to_owned())).collect()
        }
        _ => None,
    };
    let list = list.ok_or_else(|| bad("`labels` is a list of texts, or a text with commas between them"))?;
    let mut labels: Vec<String> = Vec::new();
    for label in list {
        if label.is_empty() || label.chars().count() > LABEL_CHARS {
            return Err(bad("a label has 1 to 64 characters"));
        }
        if label.chars().any(|c| c.is_control() || c == ',') {
            return Err(bad("a label holds a comma or a control character"));
        }
        if !labels.contains(&label) {
            labels.push(label);
        }
    }
    if labels.len() > LABELS { Err(bad("a batch has at most 16 labels")) } else { Ok(labels) }
}

/// Labels in a text, with commas between them.
pub(crate) fn read_labels(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|label| !label.is_empty()).map(str::to_owned).collect()
}

fn context(sent: Value) -> Result<Value, Problem> {
    let context = match sent {
        Value::String(text) => match json::read(text.as_bytes()) {
            Ok(context) => context,
            Err(JsonError::Invalid(_)) => Value::Null,
            Err(error) => return Err(bad(&format!("`context`: {error}"))),
        },
        other => other,
    };
    if context.is_object() { Ok(context) } else { Err(bad("`context` is not a JSON object")) }
}

fn allow_failures(sent: Value) -> Result<bool, Problem> {
    let allow = match sent {
        Value::Bool(allow) => Some(allow),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    };
    allow.ok_or_else(|| bad("`allow_failures` is true or false"))
}

fn callback_url(url: String, state: &ApiState) -> Result<String, Problem> {
    let bad = |why: &str| Problem::unprocessable("bad_callback_url", format!("`callback_url`: {why}"));
    // A parser of URLs would leave line breaks out without a word.
    if url.chars().any(char::is_control) {
        return Err(bad("it holds a control character"));
    }
    check_address(&url, state.allow_private_callbacks).map_err(|error| bad(&error.to_string()))?;
    Ok(url)
}

fn priority(sent: Value) -> Result<i16, Problem> {
    let number = match sent {
        Value::String(text) => text.parse().ok(),
        other => other.as_i64().and_then(|number| i16::try_from(number).ok()),
    };
    number
        .filter(|number| (0..=MOST_PRIORITY).contains(number))
        .ok_or_else(|| bad("`priority` is a whole number from 0 to 9"))
}

fn canary(sent: Value) -> Result<Canary, Problem> {
    let sent = match sent {
        Value::String(text) => json::read(text.as_bytes()).unwrap_or_default(),
        other => other,
    };
    serde_json::from_value::<CanaryDefinition>(sent)
        .ok()
        .filter(|canary| canary.rows > 0)
        .map(Canary::from)
        .ok_or_else(|| bad("`canary` is an object such as {\"rows\": 20, \"max_failure\": \"10 %\"}"))
}

/// A form with a file.
#[allow(dead_code, reason = "it describes what is read as a stream")]
#[derive(ToSchema)]
pub struct UploadForm {
    /// The CSV.
    #[schema(content_media_type = "application/octet-stream", format = Binary)]
    file: String,
    /// What the client calls it, at most 200 characters.
    name: Option<String>,
    /// What the client marks it with, commas between them: at most 16 labels of 64 characters.
    labels: Option<String>,
    /// A JSON object that templates read.
    context: Option<String>,
    /// `false`: the first failed row cancels the rest.
    allow_failures: Option<bool>,
    /// Where callbacks go.
    callback_url: Option<String>,
    /// 0 to 9: higher goes first among the owner's batches.
    #[schema(minimum = 0, maximum = 9)]
    priority: Option<i16>,
    /// The trial, in JSON, as a pipeline has it.
    canary: Option<String>,
}

/// The same beside a body of text/csv. A form and JSON carry them as fields, and take no query.
#[allow(dead_code, reason = "RawFields reads it")]
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UploadQuery {
    /// With text/csv: what the client calls it, at most 200 characters.
    name: Option<String>,
    /// With text/csv: labels, commas between them; at most 16 of 64 characters.
    labels: Option<String>,
    /// With text/csv: a JSON object that templates read.
    context: Option<String>,
    /// With text/csv: `false`, and the first failed row cancels the rest.
    allow_failures: Option<bool>,
    /// With text/csv: where callbacks go.
    callback_url: Option<String>,
    /// With text/csv: 0 to 9, higher goes first among the owner's batches.
    #[param(minimum = 0, maximum = 9)]
    priority: Option<i16>,
    /// With text/csv: the trial, in JSON, as a pipeline has it.
    canary: Option<String>,
}

/// What was uploaded before.
#[allow(dead_code, reason = "RawFields reads it")]
#[derive(ToSchema)]
pub struct UploadedBefore {
    /// Of `POST /v2/uploads`.
    upload_id: Uuid,
    /// As in a form.
    name: Option<String>,
    /// As in a form, or a list.
    #[schema(value_type = Option<Vec<String>>, max_items = 16)]
    labels: Option<Value>,
    /// As in a form, an object.
    #[schema(value_type = Option<Object>)]
    context: Option<Value>,
    /// As in a form.
    allow_failures: Option<bool>,
    /// As in a form.
    callback_url: Option<String>,
    /// As in a form.
    #[schema(minimum = 0, maximum = 9)]
    priority: Option<i16>,
    /// As in a form, an object.
    #[schema(value_type = Option<Object>)]
    canary: Option<Value>,
}
