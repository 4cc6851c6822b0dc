//! A step: the request it makes of a row, and what it reads from the answer.

use std::error::Error as _;
use std::time::Duration;

use minijinja::Value;
use serde_json::Map;

use super::answer::AnswerFormat;
use super::bulk::Bulk;
use super::cache::Cache;
use super::condition::Condition;
use super::cost::{CallCost, CostError, Costs};
use super::engine::{self, Refusal};
use super::model::Dependency;
use super::poll::Poll;
use super::rate::Rate;
use super::request::{RenderedRequest, RequestTemplate};
use super::responses::{Answer, ApiError, Responses};
use super::template::JsonTemplate;
use super::values::{ResponseView, RowContext, Scope};
use crate::outcome::{self, Repetition};
use crate::ruling::Ruling;

/// A template that read something that is not there. Names the place, never a value.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct RenderError {
    place: String,
    reason: String,
}

impl RenderError {
    pub(super) fn new(step: &str, place: impl std::fmt::Display, error: &minijinja::Error) -> Self {
        let place = if step.is_empty() { place.to_string() } else { format!("step `{step}`, {place}") };
        Self { place, reason: reason(error) }
    }

    /// A value that cannot stand where it is made for; `why` names no value.
    pub(super) fn because(step: &str, place: impl std::fmt::Display, why: &str) -> Self {
        Self { place: format!("step `{step}`, {place}"), reason: why.to_owned() }
    }

    /// A header's value that no header may have.
    pub(super) fn header(step: &str, name: &str) -> Self {
        let why = "its value has a line break or another control character, which no header may have";
        Self::because(step, format!("header `{name}`"), why)
    }
}

/// What is missing, or cannot be computed, as the definition writes it. The engine's own sentences may hold values.
fn reason(error: &minijinja::Error) -> String {
    if engine::is_omitted(error) {
        return engine::Omitted.to_string();
    }
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
    /// How much of the dependency's rate a call takes, where that is one number for all calls; else 1.
    pub cost: u32,
    /// What calls take where that is not one number.
    pub costs: Costs,
    /// The request's path or URL as the definition writes it: it holds no row's values and no variable's.
    pub path_template: String,
    /// How long a call may take, where the step says so itself.
    pub timeout: Option<Duration>,
    /// What an answer's body is read as.
    pub answer: AnswerFormat,
    /// Whether calls carry an `Idempotency-Key`.
    pub keyed: bool,
    /// Whether its `output` reads anything of an answer's body.
    pub reads_body: bool,
    /// What its answers mean, where the definition says so.
    pub responses: Responses,
    /// How it waits for its result, if its answer is none.
    pub poll: Option<Poll>,
    /// How its answers are kept for other rows, if they are.
    pub cache: Option<Cache>,
    /// How it sends many rows in one call, if it does.
    pub bulk: Option<Bulk>,
    pub(super) idempotent: Option<bool>,
    pub(super) condition: Option<Condition>,
    pub(super) request: RequestTemplate,
    pub(super) output: Vec<(String, JsonTemplate)>,
}

impl Step {
    /// Whether a row may leave it out or find its answer, and then calls nothing.
    pub fn may_call_nothing(&self) -> bool {
        self.condition.is_some() || self.cache.is_some()
    }

    /// What it is to make a call of it again whose outcome is unknown: a key lets the other side see that it is the
    /// same; without one, what the definition says counts, and then what the method says.
    pub fn repetition(&self) -> Repetition {
        match self.idempotent {
            _ if self.keyed => Repetition::Harmless,
            Some(true) => Repetition::Harmless,
            Some(false) => Repetition::Harmful,
            None if self.request.method.is_idempotent() => Repetition::Harmless,
            None => Repetition::Unsaid,
        }
    }

    /// The outputs of the step for a row for which it is not called; none when it is to be called.
    ///
    /// # Errors
    /// When a template reads something that is not there.
    pub fn skipped(
        &self,
        row: &RowContext<'_>,
    ) -> Result<Option<Map<String, serde_json::Value>>, RenderError> {
        let Some(condition) = &self.condition else { return Ok(None) };
        let key = self.key(row)?;
        condition.skipped(&self.name, &Scope::of(row).with_key(key.as_deref()).into_value())
    }

    /// The request for a row.
    ///
    /// # Errors
    /// When a template reads something that is not there, or a header would hold a line break.
    pub fn request(&self, row: &RowContext<'_>) -> Result<RenderedRequest, RenderError> {
        if self.bulk.is_some() {
            return self.bulk_request(row, &[self.entry(row)?]);
        }
        let key = self.key(row)?;
        let values = Scope::of(row).with_key(key.as_deref()).into_value();
        self.request.render(&self.name, &values, key.as_deref(), &[])
    }

    /// The idempotency key of a row's calls: the same for each attempt. A bulk call has one of its own.
    pub(super) fn key(&self, row: &RowContext<'_>) -> Result<Option<String>, RenderError> {
        let Some(template) = &self.request.key else { return Ok(None) };
        if let Some(key) = row.values.call.as_ref().and_then(|call| call.key.clone()) {
            return Ok(Some(key));
        }
        let about = &row.values.about;
        let (batch, number) = about.key_identity();
        let own = || outcome::idempotency_key(batch, number, &self.name);
        if template.value.is_none() {
            return Ok(Some(own()));
        }
        template.render(&self.name, &Scope::of(row).for_key(about).into_value(), own).map(Some)
    }

    /// What the definition says about an answer; none: nothing, so the table of [`crate::outcome`] counts.
    pub fn ruling(&self, row: &RowContext<'_>, response: ResponseView<'_>) -> Option<Ruling> {
        // Each row of a bulk call is judged by its own result.
        if self.is_distributed(row, response) {
            return None;
        }
        self.item_ruling(row, response)
    }

    /// What the definition says about a row's own result in the answer of a bulk call; the same as [`Step::ruling`] for other calls.
    pub fn item_ruling(&self, row: &RowContext<'_>, response: ResponseView<'_>) -> Option<Ruling> {
        let key = || self.key(row).ok().flatten();
        self.responses.ruling(&Answer::new(row, response, self.responses.conditions_read_body(), &key))
    }

    /// The API's own code and words about an answer that is no success.
    pub fn api_error(&self, row: &RowContext<'_>, response: ResponseView<'_>) -> ApiError {
        let key = || self.key(row).ok().flatten();
        self.responses.error(&Answer::new(row, response, self.responses.error_reads_body(), &key))
    }

    /// What a call for a row takes of its dependency's limits.
    ///
    /// # Errors
    /// When a template reads something that is not there, or makes no number.
    pub fn call_cost(&self, row: &RowContext<'_>) -> Result<CallCost, RenderError> {
        if self.costs.are_fixed() {
            return Ok(CallCost { unnamed: self.cost, named: Vec::new() });
        }
        let key = self.key(row)?;
        self.costs.of(self.cost, row, key.as_deref()).map_err(|error| match error {
            CostError::Template(place, error) => RenderError::new(&self.name, place, &error),
            CostError::NoNumber(place) => {
                RenderError::because(&self.name, place, "what it makes is not a number of 0 or more")
            }
        })
    }

    /// What a call has taken of limits with a name, as far as its answer says it.
    pub fn actual_costs(&self, row: &RowContext<'_>, answer: ResponseView<'_>) -> Vec<(String, u32)> {
        if !self.costs.are_corrected() {
            return Vec::new();
        }
        let key = self.key(row).ok().flatten();
        self.costs.actual(row, key.as_deref(), answer)
    }

    /// The values of its dependency's limits that are each value's own, for each of [`Dependency::more`] in its order.
    ///
    /// # Errors
    /// When a template reads something that is not there.
    pub fn limit_values(
        &self,
        dependency: &Dependency,
        row: &RowContext<'_>,
    ) -> Result<Vec<Option<String>>, RenderError> {
        if dependency.more.iter().all(|rate| rate.per.is_none()) {
            return Ok(Vec::new());
        }
        let values = Scope::of(row).into_value();
        let value = |rate: &Rate| {
            let template = rate.per.as_ref().map(|per| per.template.render_text(&values));
            template.transpose().map_err(|error| RenderError::new(&self.name, "rate.per", &error))
        };
        dependency.more.iter().map(value).collect()
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
        let key = self.key(row)?;
        let values =
            Scope::of(row).with_key(key.as_deref()).with_answer(response, self.reads_body).into_value();
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
        render_fields(&self.fields, &Scope::of(row).into_value(), |key| format!("result `{key}`"), "")
    }
}

pub(super) fn render_fields(
    fields: &[(String, JsonTemplate)],
    values: &Value,
    place: impl Fn(&str) -> String,
    step: &str,
) -> Result<Map<String, serde_json::Value>, RenderError> {
    let mut rendered = Map::new();
    for (name, template) in fields {
        let value = template.render_unless_omitted(values);
        let value = value.map_err(|error| RenderError::new(step, place(name), &error))?;
        rendered.extend(value.map(|value| (name.clone(), value)));
    }
    Ok(rendered)
}
