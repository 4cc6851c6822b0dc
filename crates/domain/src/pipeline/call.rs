//! `steps`: from the definition to calls that are ready to be made.
#![allow(missing_docs, reason = "private to the loader")]

use std::collections::BTreeSet;

use super::auth::Auth;
use super::check::Source;
use super::definition::{Definition, Method, StepDefinition};
use super::dependency::check_header;
use super::error::ErrorCode;
use super::inspect::Reading;
use super::model::Dependency;
use super::names::{Names, hint};
use super::step::Step;
use super::template::{self, JsonTemplate, Template};

/// What was read of the templates so far.
#[derive(Default)]
pub struct Read {
    /// Keys of the context without which a row fails for certain.
    pub context: BTreeSet<String>,
}

/// Where a template stands, and what it may read there.
#[derive(Clone, Copy)]
pub struct Here<'a> {
    pub names: &'a Names,
    /// Whether it is a step's `output`.
    pub answer: bool,
    pub line: u64,
}

pub fn step(
    step: &StepDefinition,
    line: u64,
    definition: &Definition,
    dependencies: &[Dependency],
    names: &Names,
    read: &mut Read,
    source: &mut Source<'_>,
) -> Option<Step> {
    source.check_name("step", &step.name, line);
    let place = dependencies.iter().position(|dependency| dependency.name == step.dependency.value);
    if !definition.dependencies.contains_key(&step.dependency.value) && !source.is_damaged("dependencies") {
        let known: Vec<&str> = definition.dependencies.keys().map(String::as_str).collect();
        let hint = hint(&step.dependency.value, &known);
        let message =
            format!("step `{}`: there is no dependency `{}`{hint}", step.name, step.dependency.value);
        source.broken(step.dependency.referenced, message);
    }
    let cost = step.cost.as_ref().map_or(1, |cost| cost.value);
    check_cost(step, line, place.map(|place| &dependencies[place]), source);
    let request = &step.request;
    let here = |line| Here { names, answer: false, line };
    let path = path(step, here(request.path.referenced.line()), read, source);
    let query = query(step, names, read, source);
    let headers = headers(step, names, read, source);
    check_auth(step, place.and_then(|place| dependencies[place].auth.as_ref()), source);
    let json = match &request.json {
        Some(body) => Some(json(&source.json(body), here(body.referenced.line()), read, source)?.0),
        None => None,
    };
    let (output, reads_body) = output(step, names, read, source);
    Some(Step {
        name: step.name.clone(),
        dependency: place?,
        cost,
        path_template: request.path.value.clone(),
        keyed: request.idempotency_key,
        reads_body,
        idempotent: request.idempotent,
        method: request.method,
        path: path?,
        query,
        headers,
        json,
        output,
    })
}

fn query(
    step: &StepDefinition,
    names: &Names,
    read: &mut Read,
    source: &mut Source<'_>,
) -> Vec<(String, Template)> {
    let mut query = Vec::new();
    for (name, value) in &step.request.query {
        let written = match source.json(value) {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        let compiled =
            text(&written, Here { names, answer: false, line: value.referenced.line() }, read, source);
        query.extend(compiled.map(|template| (name.clone(), template)));
    }
    query
}

fn headers(
    step: &StepDefinition,
    names: &Names,
    read: &mut Read,
    source: &mut Source<'_>,
) -> Vec<(String, Template)> {
    let mut headers = Vec::new();
    for (name, value) in &step.request.headers {
        let at = value.referenced.line();
        check_header(&format!("step `{}`", step.name), name, at, source);
        if step.request.idempotency_key && name.eq_ignore_ascii_case("idempotency-key") {
            let message = "`idempotency_key: true` sends this header; remove one of the two";
            source.error(at, format!("step `{}`: {message}", step.name));
        }
        headers.extend(
            text(&value.value, Here { names, answer: false, line: at }, read, source)
                .map(|template| (name.clone(), template)),
        );
    }
    headers
}

/// What a dependency's `auth` sends is not the step's to send.
fn check_auth(step: &StepDefinition, auth: Option<&Auth>, source: &mut Source<'_>) {
    let Some(auth) = auth else { return };
    let (whose, dependency) = (&step.name, &step.dependency.value);
    for (name, value) in &step.request.headers {
        if auth.headers().iter().any(|own| name.eq_ignore_ascii_case(own)) {
            let message = format!(
                "step `{whose}`: the `auth` of `{dependency}` sends the header `{name}`; remove one of the two"
            );
            source.error(value.referenced.line(), message);
        }
    }
    for (name, value) in &step.request.query {
        if auth.query() == Some(name) {
            let message = format!(
                "step `{whose}`: the `auth` of `{dependency}` sends `{name}` in the query; remove one of the two"
            );
            source.error(value.referenced.line(), message);
        }
    }
}

/// The templates of a step's output, and whether any of them reads the answer's body.
fn output(
    step: &StepDefinition,
    names: &Names,
    read: &mut Read,
    source: &mut Source<'_>,
) -> (Vec<(String, JsonTemplate)>, bool) {
    let mut output = Vec::new();
    let mut reads_body = false;
    for (name, value) in &step.output {
        let at = Here { names, answer: true, line: value.referenced.line() };
        if let Some((template, reads)) = json(&source.json(value), at, read, source) {
            if reads && step.request.method == Method::Head {
                let message = "an answer to HEAD has no body; use GET, or read `headers`";
                source.error(at.line, format!("step `{}`: {message}", step.name));
            }
            reads_body |= reads;
            output.push((name.clone(), template));
        }
    }
    (output, reads_body)
}

fn check_cost(step: &StepDefinition, line: u64, dependency: Option<&Dependency>, source: &mut Source<'_>) {
    let cost = step.cost.as_ref().map_or(1, |cost| cost.value);
    let at = step.cost.as_ref().map_or(line, |cost| cost.referenced.line());
    if cost == 0 {
        source.error(at, format!("step `{}`: cost is 1 or more", step.name));
    }
    if let Some(dependency) = dependency
        && let Some(rate) = dependency.rate.as_ref().filter(|rate| cost > rate.burst)
    {
        source.error(
            at,
            format!(
                "step `{}`: cost {cost} is above the burst of `{}`, which is {}, so no call could ever be made; set rate.burst to {cost} or more",
                step.name, dependency.name, rate.burst
            ),
        );
    }
}

fn path(step: &StepDefinition, here: Here<'_>, read: &mut Read, source: &mut Source<'_>) -> Option<Template> {
    let written = &step.request.path.value;
    let (template, reading) = compiled(written, true, here, read, source)?;
    let skeleton = reading.skeleton;
    let mut wrong = |message: &str| source.error(here.line, format!("step `{}`: {message}", step.name));
    if !written.starts_with('/') {
        wrong("path begins with `/`");
    }
    if skeleton.contains(['?', '#']) {
        wrong(
            "`?` and `#` would be encoded as parts of the path; write `query: { key: value }` for what follows `?`",
        );
    }
    if skeleton.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
        wrong("a path has no white space, control characters or backslashes; encode them, such as %20");
    }
    let dots =
        |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    if skeleton.split('/').any(dots) {
        wrong("`.` and `..` in a path would lead elsewhere; write the path itself");
    }
    Some(template)
}

fn text(written: &str, here: Here<'_>, read: &mut Read, source: &mut Source<'_>) -> Option<Template> {
    compiled(written, false, here, read, source).map(|(template, _)| template)
}

/// A JSON value with templates for its strings, and whether any of them reads an answer's body.
pub fn json(
    value: &serde_json::Value,
    here: Here<'_>,
    read: &mut Read,
    source: &mut Source<'_>,
) -> Option<(JsonTemplate, bool)> {
    let mut reads_body = false;
    let mut each = |written: &str| {
        let (template, reading) = compiled(written, false, here, read, source).ok_or(())?;
        reads_body |= reading.roots.contains("body");
        Ok::<_, ()>(template)
    };
    let template = JsonTemplate::compile(value, &mut each).ok()?;
    Some((template, reads_body))
}

fn compiled(
    written: &str,
    path: bool,
    here: Here<'_>,
    read: &mut Read,
    source: &mut Source<'_>,
) -> Option<(Template, Reading)> {
    let at = source.line_of(written, here.line);
    source.take_left_open();
    let filled = source.fill_template(written, at, path)?;
    let mut reading = template::read(&filled, path, here.names, here.answer);
    if source.take_left_open() {
        // What it reads is known. What it makes is not, and nobody asks it to.
        for fault in reading.faults.iter().filter(|fault| !fault.by_value) {
            let line = source.line_in(written, at, fault.line);
            source.error_of(ErrorCode::InvalidTemplate, line, fault.message.clone());
        }
        read.context.append(&mut reading.context);
        return Some((Template::empty(), reading));
    }
    for fault in std::mem::take(&mut reading.faults) {
        source.error_of(ErrorCode::InvalidTemplate, source.line_in(written, at, fault.line), fault.message);
    }
    read.context.append(&mut reading.context);
    match Template::compile(filled, path) {
        Ok(template) => Some((template, reading)),
        Err(error) => {
            let line = source.line_in(written, at, error.line().map_or(1, |line| line as u64));
            let detail = error.detail().unwrap_or("its syntax is off");
            source.is_broken = true;
            source.error_of(ErrorCode::InvalidTemplate, line, format!("a template cannot be read: {detail}"));
            None
        }
    }
}
