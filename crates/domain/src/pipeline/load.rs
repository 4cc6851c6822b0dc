//! From the YAML's text to a pipeline that is ready to run, or to every error that was found in it.

use std::sync::Arc;
use std::time::Duration;

use regex::Regex;
use url::Url;
use uuid::Uuid;

use super::check::{Names, Source};
use super::definition::{
    BreakerDefinition, ConcurrencyDefinition, Definition, DependencyDefinition, RetryDefinition,
    StepDefinition,
};
use super::model::{Breaker, Concurrency, Dependency, Dispatch, Pipeline, Rate, Retry};
use super::step::{ResultTemplate, Step};
use super::template::{JsonTemplate, Template};
use crate::csv::{Column, Limits, Schema};
use crate::ledger::Canary;

/// Versions are UUIDs of definitions' texts under this namespace.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f2a_8d31_5c47_4e0b_9a76_1d3e_84b2_c905);

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// Rows of a batch at the most, whatever a definition says: numbers have 31 bits.
const MOST_ROWS: u64 = 2_000_000_000;

/// An error in a definition, with its place and the mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct DefinitionError {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// What is wrong, and the mend.
    pub message: String,
}

impl Pipeline {
    /// Reads a definition. `vars` looks variables of the environment up for `${NAME}`; `$${` stands for `${`.
    ///
    /// # Errors
    /// Every error that was found; one, when the YAML itself cannot be read.
    pub fn load(
        file: &str,
        text: &str,
        vars: &(dyn Fn(&str) -> Option<String> + '_),
    ) -> Result<Self, Vec<DefinitionError>> {
        let mut source = Source::new(file, text, vars);
        let definition: Definition = serde_saphyr::from_str(text).map_err(|error| {
            let line = error.location().map_or(1, |location| location.line());
            vec![DefinitionError { file: file.to_owned(), line, message: plain(&error) }]
        })?;
        let pipeline = build(definition, text, &mut source);
        match pipeline {
            Some(pipeline) if source.errors.is_empty() => Ok(pipeline),
            _ => Err(source.into_errors()),
        }
    }
}

/// The parser's sentence without its drawing of the place.
pub(crate) fn plain(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

fn build(definition: Definition, text: &str, source: &mut Source<'_>) -> Option<Pipeline> {
    let name_line = definition.name.referenced.line();
    source.check_name("pipeline", &definition.name.value, name_line);
    if let Some(route) = &definition.route {
        source.check_route(&route.value, route.referenced.line());
    }
    let schema = schema(&definition, source);
    let mut dependencies = Vec::new();
    for (name, dependency) in &definition.dependencies {
        source.check_name("dependency", name, dependency.referenced.line());
        dependencies.extend(self::dependency(name, &dependency.value, dependency.referenced.line(), source));
    }
    let mut names = Names::new(schema.columns.iter().map(|column| column.name.clone()).collect());
    let mut steps = Vec::new();
    for step in &definition.steps {
        let line = step.referenced.line();
        source.check_name("step", &step.value.name, line);
        if names.has_step(&step.value.name) {
            source.error(line, format!("two steps are named `{}`; rename one of them", step.value.name));
        }
        steps.extend(self::step(&step.value, line, &definition, &dependencies, &names, source));
        names.add_step(&step.value.name, step.value.output.keys().cloned().collect());
    }
    let mut fields = Vec::new();
    for (name, value) in &definition.result {
        if name.starts_with('_') {
            source.error(
                value.referenced.line(),
                format!("result `{name}`: names that begin with `_` are Penstock's own"),
            );
        }
        fields.extend(
            json(&value.value, value.referenced.line(), &names, false, source).map(|t| (name.clone(), t)),
        );
    }
    let retry = retry(&definition.retry, name_line, source);
    if definition.dispatch.rows_per_owner == Some(0) {
        source.error(
            source.line_of("rows_per_owner", 1),
            "dispatch.rows_per_owner is 0, so no row would ever run".into(),
        );
    }
    Some(Pipeline {
        name: definition.name.value,
        route: definition.route.map(|route| route.value),
        max_upload_bytes: definition.csv.max_bytes.unwrap_or(DEFAULT_MAX_BYTES),
        schema: Arc::new(schema),
        dependencies,
        steps,
        result: ResultTemplate { fields },
        retry,
        dispatch: Dispatch {
            rows_per_owner: definition.dispatch.rows_per_owner,
            spread: definition.dispatch.spread.map(|spread| spread.0),
        },
        canary: definition.canary.map(Canary::from),
        source: text.into(),
        version: Uuid::new_v5(&NAMESPACE, text.as_bytes()),
    })
}

fn schema(definition: &Definition, source: &mut Source<'_>) -> Schema {
    let defaults = Limits::default();
    let csv = &definition.csv;
    let mut columns: Vec<Column> = Vec::new();
    if csv.columns.is_empty() {
        source.error(source.line_of("columns", 1), "csv.columns is empty; name at least one column".into());
    }
    for column in &csv.columns {
        let line = column.referenced.line();
        let column = &column.value;
        if column.name.is_empty() || column.name.starts_with('_') {
            source.error(
                line,
                format!("column `{}`: a name has a character and does not begin with `_`", column.name),
            );
        }
        if columns.iter().any(|other| other.name == column.name) {
            source.error(line, format!("the column `{}` stands twice; remove one of them", column.name));
        }
        if column.min_length.zip(column.max_length).is_some_and(|(least, most)| least > most) {
            source.error(line, format!("column `{}`: min_length is above max_length", column.name));
        }
        let pattern = column.pattern.as_ref().and_then(|pattern| match Regex::new(pattern) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                let reason = error.to_string();
                let reason = reason.lines().last().unwrap_or_default().trim().to_owned();
                source.error(line, format!("column `{}`: the pattern cannot be read: {reason}", column.name));
                None
            }
        });
        columns.push(Column {
            name: column.name.clone(),
            required: column.required,
            format: column.format,
            pattern,
            min_length: column.min_length,
            max_length: column.max_length,
            one_of: column.one_of.clone(),
        });
    }
    let limits = Limits {
        max_field_chars: csv.max_field_chars.unwrap_or(defaults.max_field_chars),
        max_record_bytes: csv.max_record_bytes.unwrap_or(defaults.max_record_bytes),
        max_rows: csv.max_rows.unwrap_or(defaults.max_rows),
    };
    if limits.max_rows == 0 || limits.max_rows > MOST_ROWS {
        source.error(source.line_of("max_rows", 1), format!("csv.max_rows is between 1 and {MOST_ROWS}"));
    }
    Schema { columns, ordered: csv.ordered, limits }
}

fn dependency(
    name: &str,
    definition: &DependencyDefinition,
    line: u64,
    source: &mut Source<'_>,
) -> Option<Dependency> {
    let base_url = source.fill(&definition.base_url, line)?;
    let base_url = match Url::parse(&base_url) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
        _ => {
            let at = source.line_of(&definition.base_url, line);
            source.error(at, format!("dependency `{name}`: base_url is not an absolute http or https URL"));
            None
        }
    };
    let mut headers = Vec::new();
    for (header, value) in &definition.headers {
        let value = source.fill(value, line)?;
        if value.contains(['\r', '\n', '\0'])
            || !header.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            source.error(
                source.line_of(header, line),
                format!("dependency `{name}`: `{header}` is no header that can be sent"),
            );
        }
        headers.push((header.clone(), value));
    }
    let rate = definition.rate.as_ref().map(|rate| Rate {
        limit: rate.limit,
        period: rate.period.0,
        burst: rate.burst.unwrap_or(1),
        per_owner: rate.per_owner,
    });
    if let Some(rate) = &rate
        && (rate.limit == 0 || rate.period.is_zero() || rate.burst == 0)
    {
        let at = source.line_of("rate", line);
        source.error(at, format!("dependency `{name}`: a rate's limit, period and burst are above 0"));
    }
    let concurrency = definition.concurrency.as_ref().map(|concurrency| match concurrency {
        ConcurrencyDefinition::Calls(limit) => Concurrency { limit: *limit, per_owner: false },
        ConcurrencyDefinition::PerOwner(long) => Concurrency { limit: long.limit, per_owner: long.per_owner },
    });
    if concurrency.is_some_and(|concurrency| concurrency.limit == 0) {
        let at = source.line_of("concurrency", line);
        source.error(at, format!("dependency `{name}`: concurrency is above 0"));
    }
    let timeout = definition.timeout.map_or(DEFAULT_TIMEOUT, |timeout| timeout.0);
    if timeout.is_zero() {
        source.error(source.line_of("timeout", line), format!("dependency `{name}`: timeout is above 0"));
    }
    Some(Dependency {
        name: name.to_owned(),
        base_url: base_url?,
        headers,
        rate,
        concurrency,
        timeout,
        breaker: breaker(&definition.breaker),
    })
}

fn breaker(definition: &BreakerDefinition) -> Breaker {
    let defaults = Breaker::default();
    Breaker {
        failure_bp: definition.failure_share.map_or(defaults.failure_bp, |share| share.0),
        min_calls: definition.min_calls.unwrap_or(defaults.min_calls).max(1),
        window: definition.window.map_or(defaults.window, |window| window.0),
        open_for: definition.open_for.map_or(defaults.open_for, |open| open.0),
        probes: definition.probes.unwrap_or(defaults.probes).max(1),
    }
}

fn step(
    step: &StepDefinition,
    line: u64,
    definition: &Definition,
    dependencies: &[Dependency],
    names: &Names,
    source: &mut Source<'_>,
) -> Option<Step> {
    let dependency = dependencies.iter().position(|dependency| dependency.name == step.dependency);
    if dependency.is_none() && !definition.dependencies.contains_key(&step.dependency) {
        let known: Vec<&str> = definition.dependencies.keys().map(String::as_str).collect();
        let at = source.line_of(&format!("dependency: {}", step.dependency), line);
        source.error(
            at,
            format!(
                "step `{}`: there is no dependency `{}`{}",
                step.name,
                step.dependency,
                super::check::mend(&step.dependency, &known)
            ),
        );
    }
    let cost = step.cost.unwrap_or(1);
    let burst = dependency.and_then(|index| dependencies[index].rate.as_ref()).map(|rate| rate.burst);
    if cost == 0 || burst.is_some_and(|burst| cost > burst) {
        let at = source.line_of("cost", line);
        source.error(at, format!("step `{}`: cost is between 1 and the dependency's burst", step.name));
    }
    let request = &step.request;
    let path_line = request.path.referenced.line();
    if !request.path.value.starts_with('/') {
        source.error(path_line, format!("step `{}`: path begins with `/`", step.name));
    }
    let path = text(&request.path.value, path_line, names, true, source);
    let mut query = Vec::new();
    for (name, value) in &request.query {
        let value_line = value.referenced.line();
        let written = match &value.value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        query.extend(
            text(&written, value_line, names, false, source).map(|template| (name.clone(), template)),
        );
    }
    let mut headers = Vec::new();
    for (name, value) in &request.headers {
        let value_line = value.referenced.line();
        headers.extend(
            text(&value.value, value_line, names, false, source).map(|template| (name.clone(), template)),
        );
    }
    let body =
        request.json.as_ref().map(|body| json(&body.value, body.referenced.line(), names, false, source));
    let mut output = Vec::new();
    for (name, value) in &step.output {
        output.extend(
            json(&value.value, value.referenced.line(), names, true, source).map(|t| (name.clone(), t)),
        );
    }
    let body = match body {
        Some(None) => return None,
        Some(some) => some,
        None => None,
    };
    Some(Step {
        name: step.name.clone(),
        dependency: dependency?,
        cost,
        keyed: request.idempotency_key,
        reads_body: output.iter().any(|(_, template)| template.reads("body")),
        idempotent: request.idempotent,
        method: request.method,
        path: path?,
        query,
        headers,
        json: body,
        output,
    })
}

fn text(written: &str, line: u64, names: &Names, path: bool, source: &mut Source<'_>) -> Option<Template> {
    let at = source.line_of(written, line);
    let filled = source.fill(written, at)?;
    let compiled = if path { Template::path(&filled) } else { Template::value(&filled) };
    finish(compiled, at, names, false, source)
}

fn json(
    value: &serde_json::Value,
    line: u64,
    names: &Names,
    answer: bool,
    source: &mut Source<'_>,
) -> Option<JsonTemplate> {
    let mut each = |written: &str| {
        let at = source.line_of(written, line);
        let filled = source.fill(written, at).ok_or(())?;
        finish(Template::value(&filled), at, names, answer, source).ok_or(())
    };
    JsonTemplate::compile(value, &mut each).ok()
}

fn finish(
    compiled: Result<Template, minijinja::Error>,
    line: u64,
    names: &Names,
    answer: bool,
    source: &mut Source<'_>,
) -> Option<Template> {
    match compiled {
        Ok(template) => {
            for variable in template.variables() {
                if let Err(message) = names.check(&variable, answer) {
                    source.error(line, message);
                }
            }
            Some(template)
        }
        Err(error) => {
            source.error(
                line,
                format!("a template cannot be read: {}", error.detail().unwrap_or("its syntax is off")),
            );
            None
        }
    }
}

fn retry(definition: &RetryDefinition, line: u64, source: &mut Source<'_>) -> Retry {
    let backoff = &definition.backoff;
    let retry = Retry {
        attempts: definition.attempts.unwrap_or(5),
        initial: backoff.initial.map_or(Duration::from_secs(1), |initial| initial.0),
        factor: backoff.factor.unwrap_or(2.0),
        max: backoff.max.map_or(Duration::from_secs(300), |max| max.0),
        jitter: backoff.jitter.unwrap_or(true),
        deadline: definition.deadline.map(|deadline| deadline.0),
    };
    if retry.attempts == 0 {
        source.error(
            source.line_of("attempts", line),
            "retry.attempts is 1 or more; 1 means that nothing is retried".into(),
        );
    }
    if !(1.0..=100.0).contains(&retry.factor) {
        source.error(source.line_of("factor", line), "retry.backoff.factor is between 1 and 100".into());
    }
    if retry.max < retry.initial {
        source.error(source.line_of("backoff", line), "retry.backoff.max is not below its initial".into());
    }
    retry
}
