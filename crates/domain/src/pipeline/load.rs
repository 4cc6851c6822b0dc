//! From the YAML's text to a pipeline that is ready to run, or to every error that was found in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_saphyr::Spanned;
use uuid::Uuid;

use super::call::{self, Here, Read};
use super::catalog::Catalog;
use super::check::Source;
use super::columns;
use super::dedupe;
use super::definition::{CanaryDefinition, Definition, DispatchDefinition, RetryDefinition};
use super::dependency;
use super::error::DefinitionError;
use super::model::Dependency;
use super::model::{Dispatch, Pipeline, Retry, SourceSpan};
use super::names::Names;
use super::rates::{self, PerText};
use super::responses;
use super::scalars::Span;
use super::step::{ResultTemplate, Step};
use super::vars::Unset;
use super::yaml::{self, Collected};
use crate::csv::Schema;
use crate::ledger::Canary;

/// Versions are UUIDs of definitions' texts under this namespace.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f2a_8d31_5c47_4e0b_9a76_1d3e_84b2_c905);

/// Attempts of a row at most: its story is kept with it.
const MOST_ATTEMPTS: u32 = 1000;

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
        Self::load_with(file, text, vars, Unset::Refused)
    }

    /// Reads a definition, with or without a value for each of its variables. Without one it cannot make its calls, and
    /// everything else about it is known.
    ///
    /// # Errors
    /// As [`Pipeline::load`].
    pub fn load_with(
        file: &str,
        text: &str,
        vars: &(dyn Fn(&str) -> Option<String> + '_),
        unset: Unset,
    ) -> Result<Self, Vec<DefinitionError>> {
        let (pipeline, errors) = read(file, text, vars, unset)?;
        pipeline.filter(|_| errors.is_empty()).ok_or(errors)
    }

    /// Reads a definition again that was accepted before. What only newer programs find fault with does not keep the
    /// rows that were uploaded under it from running.
    ///
    /// # Errors
    /// When it cannot run here: a variable of the environment is missing, for example.
    pub fn load_accepted(
        file: &str,
        text: &str,
        vars: &(dyn Fn(&str) -> Option<String> + '_),
        unset: Unset,
    ) -> Result<Self, Vec<DefinitionError>> {
        let (pipeline, errors) = read(file, text, vars, unset)?;
        pipeline.ok_or(errors)
    }
}

/// What can be made of a definition, if nothing of it is broken, and every error that was found.
fn read(
    file: &str,
    text: &str,
    vars: &(dyn Fn(&str) -> Option<String> + '_),
    unset: Unset,
) -> Result<(Option<Pipeline>, Vec<DefinitionError>), Vec<DefinitionError>> {
    let mut source = Source::new(file, text, vars, unset);
    let Some(pipeline) = read_damaged(file, text, &mut source) else { return Err(source.into_errors()) };
    let whole = !source.is_broken;
    Ok((Some(pipeline).filter(|_| whole), source.into_errors()))
}

/// What can be made of a definition at all; the errors are in `source`.
fn read_damaged(file: &str, text: &str, source: &mut Source<'_>) -> Option<Pipeline> {
    let definition = match yaml::read::<Definition>(file, text, "`name`, `csv` and `steps`") {
        Ok(definition) => definition,
        Err(first) => {
            let Collected { value, errors, damaged } = yaml::collect(file, text, first);
            source.is_damaged_at(errors, damaged);
            value?
        }
    };
    Some(build(definition, file, text, source))
}

/// Checks files together, in this order: each with its name and its text, or why it has none. A file whose pipeline has
/// the name of an earlier one's has an error of its own for it.
pub fn check_files(
    files: &[(String, Result<String, DefinitionError>)],
    vars: &(dyn Fn(&str) -> Option<String> + '_),
    unset: Unset,
) -> Vec<(String, Vec<DefinitionError>)> {
    let mut catalog = Catalog::default();
    let mut checked = Vec::new();
    for (file, text) in files {
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                checked.push((file.clone(), vec![error.clone()]));
                continue;
            }
        };
        let mut source = Source::new(file, text, vars, unset);
        let pipeline = read_damaged(file, text, &mut source);
        let nameless = source.is_damaged("name");
        if let Some(mut pipeline) = pipeline.filter(|_| !nameless) {
            if source.is_broken {
                // Limits that could not be read contradict nobody's.
                pipeline.dependencies.clear();
            }
            catalog.add(pipeline, &mut source.errors);
        }
        checked.push((file.clone(), source.into_errors()));
    }
    checked
}

fn build(definition: Definition, file: &str, text: &str, source: &mut Source<'_>) -> Pipeline {
    let name_line = definition.name.referenced.line();
    source.check_name("pipeline", &definition.name.value, name_line);
    let mut route_line = name_line;
    if let Some(route) = &definition.route {
        route_line = route.referenced.line();
        source.check_route(&route.value, route_line);
    }
    let schema = columns::schema(&definition.csv, source);
    let max_upload_bytes = columns::max_bytes(&definition.csv, source);
    let (mut open_addresses, mut pers) = (Vec::new(), Vec::new());
    let lines =
        definition.dependencies.iter().map(|(name, dependency)| (name.clone(), dependency.referenced.line()));
    let dependency_lines: BTreeMap<String, u64> = lines.collect();
    let mut dependencies = Vec::new();
    for (name, dependency) in &definition.dependencies {
        let (line, dependency) = (dependency.referenced.line(), &dependency.value);
        dependencies.extend(dependency::dependency(
            name,
            dependency,
            line,
            &mut open_addresses,
            &mut pers,
            source,
        ));
    }
    let mut names = Names::new(schema.columns.iter().map(|column| column.name.clone()).collect());
    names.leave_open(source.is_damaged("csv"), source.is_damaged("steps"));
    let mut read = Read::default();
    let dedupe = dedupe::dedupe(definition.dedupe.as_ref(), &names, &mut read, source);
    let steps = steps(&definition, &mut dependencies, &pers, &mut names, &mut read, source);
    let result = result(&definition, &schema, &names, &mut read, source);
    Pipeline {
        place: SourceSpan { file: file.into(), name_line, route_line, dependency_lines },
        retry: retry(&definition.retry, source),
        dispatch: dispatch(&definition.dispatch, source),
        canary: definition.canary.map(|canary| checked(canary, source)),
        dedupe,
        name: definition.name.value,
        route: definition.route.map(|route| route.value),
        max_upload_bytes,
        schema: Arc::new(schema),
        dependencies,
        open_addresses,
        secret_values: std::mem::take(&mut source.secrets),
        steps,
        result,
        context_keys: read.context,
        source: text.into(),
        version: Uuid::new_v5(&NAMESPACE, text.as_bytes()),
    }
}

/// The steps, in order: each sees the outputs of those before it. Dependencies' limits by value are made with the names of the
/// step that calls them.
fn steps(
    definition: &Definition,
    dependencies: &mut [Dependency],
    pers: &[PerText],
    names: &mut Names,
    read: &mut Read,
    source: &mut Source<'_>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for step in &definition.steps {
        let line = step.referenced.line();
        if names.has_step(&step.value.name) {
            source.error(line, format!("two steps are named `{}`; rename one of them", step.value.name));
        }
        names.keyed = step.value.request.is_keyed();
        steps.extend(call::step(&step.value, line, definition, dependencies, names, read, source));
        names.keyed = false;
        let called =
            dependencies.iter_mut().find(|dependency| dependency.name == step.value.dependency.value);
        called.into_iter().for_each(|called| rates::compile(pers, called, names, read, source));
        names.add_step(&step.value.name, step.value.outputs());
    }
    for dependency in definition.dependencies.values() {
        if let Some(responses) = &dependency.value.responses {
            responses::of_dependency(responses, names, source);
        }
    }
    let uncalled =
        dependencies.iter_mut().filter(|dependency| dependency.more.iter().any(|rate| rate.per.is_none()));
    uncalled.for_each(|dependency| rates::compile(pers, dependency, names, read, source));
    steps
}

fn result(
    definition: &Definition,
    schema: &Schema,
    names: &Names,
    read: &mut Read,
    source: &mut Source<'_>,
) -> ResultTemplate {
    let mut fields = Vec::new();
    for (name, value) in &definition.result {
        let line = value.referenced.line();
        check_result(name, line, schema, source);
        let here = Here { names, answer: false, line };
        let value = source.json(value);
        call::check_value(&format!("result `{name}`"), &value, line, source);
        let field = call::json(&value, here, read, source);
        fields.extend(field.map(|(template, _)| (name.clone(), template)));
    }
    ResultTemplate { fields }
}

/// `results.csv` has the file's columns, ours and the result's beside each other.
fn check_result(name: &str, line: u64, schema: &Schema, source: &mut Source<'_>) {
    if name.is_empty() || name.starts_with('_') {
        source
            .error(line, format!("result `{name}`: names that begin with `_` are Penstock's own; rename it"));
    } else if schema.columns.iter().any(|column| column.name == name) {
        source.error(line, format!("result `{name}` is a column of the file as well, and results.csv would have two of that name; rename it"));
    }
}

fn dispatch(definition: &DispatchDefinition, source: &mut Source<'_>) -> Dispatch {
    if let Some(rows) = definition.rows_per_owner.as_ref().filter(|rows| rows.value == 0) {
        source.error(rows.referenced.line(), "dispatch.rows_per_owner is 0, so no row would ever run".into());
    }
    if let Some(rows) = definition.rows_polling_per_owner.as_ref().filter(|rows| rows.value == 0) {
        let message = "dispatch.rows_polling_per_owner is 0, so no row that waits for a result would run";
        source.error(rows.referenced, message.into());
    }
    Dispatch {
        rows_polling_per_owner: definition.rows_polling_per_owner.as_ref().map(|rows| rows.value),
        rows_per_owner: definition.rows_per_owner.as_ref().map(|rows| rows.value),
        spread: definition.spread.map(|spread| spread.0),
    }
}

fn checked(canary: Spanned<CanaryDefinition>, source: &mut Source<'_>) -> Canary {
    let line = canary.referenced.line();
    let canary = canary.value;
    if canary.rows == 0 {
        source
            .error(line, "canary.rows is 0, so no row would ever run; take `canary` out for no trial".into());
    }
    if canary.stop_after == Some(0) {
        source.error(
            line,
            "canary.stop_after is above 0; without it the share holds the first rows only".into(),
        );
    }
    canary.into()
}

fn retry(definition: &RetryDefinition, source: &mut Source<'_>) -> Retry {
    let backoff = &definition.backoff;
    let usual = Retry::default();
    let span = |span: &Option<Spanned<Span>>, usual| span.as_ref().map_or(usual, |span| span.value.0);
    let retry = Retry {
        attempts: definition.attempts.as_ref().map_or(usual.attempts, |attempts| attempts.value),
        initial: span(&backoff.initial, usual.initial),
        factor: backoff.factor.as_ref().map_or(usual.factor, |factor| factor.value),
        max: span(&backoff.max, usual.max),
        jitter: backoff.jitter.unwrap_or(usual.jitter),
        deadline: definition.deadline.as_ref().map(|deadline| deadline.value.0),
        throttled_for: span(&definition.throttled_for, usual.throttled_for),
    };
    if let Some(attempts) = &definition.attempts {
        let line = attempts.referenced.line();
        if retry.attempts == 0 {
            source.error(line, "retry.attempts is 1 or more; 1 means that nothing is retried".into());
        } else if retry.attempts > MOST_ATTEMPTS {
            source.error(line, format!("retry.attempts is at most {MOST_ATTEMPTS}"));
        }
    }
    if let Some(factor) = backoff.factor.as_ref().filter(|factor| !(1.0..=100.0).contains(&factor.value)) {
        source.error(factor.referenced.line(), "retry.backoff.factor is between 1 and 100".into());
    }
    if let Some(pause) =
        backoff.max.as_ref().or(backoff.initial.as_ref()).filter(|_| retry.max < retry.initial)
    {
        source.error(
            pause.referenced.line(),
            format!("retry.backoff.max ({:?}) is below its initial ({:?})", retry.max, retry.initial),
        );
    }
    if let Some(deadline) = definition.deadline.as_ref().filter(|deadline| deadline.value.0.is_zero()) {
        source.error(
            deadline.referenced.line(),
            "retry.deadline is 0, so every row would fail; take it out for none".into(),
        );
    }
    if let Some(time) = definition.throttled_for.as_ref().filter(|time| time.value.0.is_zero()) {
        source.error(
            time.referenced.line(),
            "retry.throttled_for is 0, so a row would fail at its first 429; give it a time, or take it out for 1d"
                .into(),
        );
    }
    retry
}
