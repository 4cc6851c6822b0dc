//! `steps`: from the definition to calls that are ready to be made.
#![allow(missing_docs, reason = "private to the loader")]

use std::collections::BTreeSet;
use std::time::Duration;

use serde_saphyr::Spanned;

use super::answer::{self, AnswerFormat};
use super::auth::Auth;
use super::bulk;
use super::cache;
use super::check::Source;
use super::condition;
use super::cost;
use super::definition::{Definition, Method, StepDefinition};
use super::error::ErrorCode;
use super::inspect::Reading;
use super::model::Dependency;
use super::names::{Names, Reads, hint};
use super::poll::{self, Poll};
use super::request;
use super::responses;
use super::step::Step;
use super::template::{self, JsonTemplate, Kind, Template};
use super::written::Written;

/// A call of a step's own timeout takes at most this long.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(600);

/// Times are kept in milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);

/// What was read of the templates so far.
#[derive(Default)]
pub struct Read {
    /// Keys of the context without which a row fails for certain.
    pub context: BTreeSet<String>,
    /// What each row of a bulk call adds to its body.
    pub entries: Vec<JsonTemplate>,
    /// Whether a template reads the complete answer of a bulk call.
    pub whole: bool,
}

/// What the templates of a step may read, which depends on whether a call carries many rows.
struct StepNames {
    /// Before the call, and about the row only.
    row: Names,
    /// In the request.
    call: Names,
    /// Of the answer, for each row.
    answer: Names,
}

impl StepNames {
    fn of(step: &StepDefinition, names: &Names) -> Self {
        if step.bulk.is_none() {
            return Self { row: names.clone(), call: names.clone(), answer: names.clone() };
        }
        let row = names.unkeyed();
        Self { row, call: names.reading(Reads::Call), answer: names.reading(Reads::Item) }
    }
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
    let place = called(step, definition, dependencies, source);
    let names = &StepNames::of(step, names);
    let (cost, costs) =
        cost::cost(step, line, place.map(|place| &dependencies[place]), &names.row, read, source);
    let condition = condition::condition(step, &names.row, read, source);
    // What a step reads that not every row comes to is not needed for certain.
    let mut perhaps = Read::default();
    let read = if condition.is_some() { &mut perhaps } else { read };
    let request = request::load::request(step, line, &names.call, read, source);
    let entries = std::mem::take(&mut read.entries);
    read.whole = false;
    check_auth(step, place.and_then(|place| dependencies[place].auth.as_ref()), source);
    let (output, reads_body) = output(step, &names.answer, read, source);
    let dependency = definition.dependencies.get(&step.dependency.value);
    let shared = dependency.and_then(|dependency| dependency.value.responses.as_ref());
    let responses = responses::of_step(step.responses.as_ref(), shared, &names.answer, source);
    let cache = cache::cache(step, place.map(|place| &dependencies[place]), &names.row, read, source);
    let poll = step.poll.as_ref().and_then(|definition| {
        let line = definition.referenced.line();
        poll::poll(step, &definition.value, line, &names.call, read, source)
    });
    let mut bulk = bulk::load::bulk(step, entries, &names.call, read, source);
    if let Some(bulk) = &mut bulk {
        bulk.reads_whole = read.whole || responses.reads_whole();
    }
    Some(Step {
        name: step.name.clone(),
        dependency: place?,
        cost,
        path_template: written_target(step),
        timeout: timeout(step, source),
        answer: answer(step, source),
        condition,
        keyed: step.request.is_keyed(),
        responses,
        reads_body: reads_body
            || bulk.is_some()
            || costs.reads_body
            || poll.as_ref().is_some_and(Poll::reads_body),
        costs,
        poll,
        cache,
        bulk,
        idempotent: step.request.idempotent,
        request: request?,
        output,
    })
}

/// The place of the dependency that a step calls.
fn called(
    step: &StepDefinition,
    definition: &Definition,
    dependencies: &[Dependency],
    source: &mut Source<'_>,
) -> Option<usize> {
    let place = dependencies.iter().position(|dependency| dependency.name == step.dependency.value);
    if !definition.dependencies.contains_key(&step.dependency.value) && !source.is_damaged("dependencies") {
        let known: Vec<&str> = definition.dependencies.keys().map(String::as_str).collect();
        let hint = hint(&step.dependency.value, &known);
        let message =
            format!("step `{}`: there is no dependency `{}`{hint}", step.name, step.dependency.value);
        source.broken(step.dependency.referenced, message);
    }
    place
}

/// A call's own timeout.
fn timeout(step: &StepDefinition, source: &mut Source<'_>) -> Option<Duration> {
    let timeout = step.timeout.as_ref()?;
    if !(SHORTEST..=LONGEST_TIMEOUT).contains(&timeout.value.0) {
        let line = timeout.referenced.line();
        source.error(line, format!("step `{}`: timeout is between 1ms and 10m", step.name));
    }
    Some(timeout.value.0)
}

/// What an answer's body is read as.
fn answer(step: &StepDefinition, source: &mut Source<'_>) -> AnswerFormat {
    let Some(response) = &step.response else { return AnswerFormat::default() };
    let mut format = AnswerFormat { kind: response.kind, ..AnswerFormat::default() };
    if let Some(bytes) = &response.max_bytes {
        match usize::try_from(bytes.value) {
            Ok(wanted @ 1..=answer::MOST_BYTES) => format.max_bytes = wanted,
            _ => {
                let most = answer::MOST_BYTES;
                let message = format!("step `{}`: response.max_bytes is between 1 and {most}", step.name);
                source.error(bytes.referenced.line(), message);
            }
        }
    }
    format
}

/// Where the request goes, as the definition writes it.
fn written_target(step: &StepDefinition) -> String {
    let written = step.request.path.as_ref().or(step.request.url.as_ref());
    written.map(|written| written.value.clone()).unwrap_or_default()
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
        let value = source.json(value);
        check_value(&format!("step `{}`: output `{name}`", step.name), &value, at.line, source);
        if let Some((template, reads)) = json(&value, at, read, source) {
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

/// Names of values with which expressions begin.
const ROOTS: [&str; 8] = ["row", "context", "steps", "body", "headers", "owner", "item", "result"];

/// Refuses `row.id` where only `{{ row.id }}` makes sense: without braces it is that text.
pub fn check_braces(whose: &str, written: &str, line: u64, source: &mut Source<'_>) {
    let is_path = written.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    if is_path && written.split_once('.').is_some_and(|(root, _)| ROOTS.contains(&root)) {
        source
            .error(line, format!("{whose}: `{written}` is a text as it stands; write `{{{{ {written} }}}}`"));
    }
}

/// The same of a value that may be of another type.
pub fn check_value(whose: &str, value: &serde_json::Value, line: u64, source: &mut Source<'_>) {
    if let Some(written) = value.as_str() {
        check_braces(whose, written, line, source);
    }
}

pub fn text(written: &str, here: Here<'_>, read: &mut Read, source: &mut Source<'_>) -> Option<Template> {
    compiled(written, Kind::Plain, here, read, source).map(|(template, _)| template)
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
        let (template, reading) = compiled(written, Kind::Lines, here, read, source).ok_or(())?;
        reads_body |= reading.roots.contains("body");
        Ok::<_, ()>(template)
    };
    let template = JsonTemplate::compile(value, &mut each).ok()?;
    Some((template, reads_body))
}

/// A value of the definition with templates for its strings, whose keys stay in the order in which they are written.
pub fn json_ordered(
    written: &Spanned<Written>,
    here: Here<'_>,
    read: &mut Read,
    source: &mut Source<'_>,
) -> Option<JsonTemplate> {
    // What the whole may not be is found once.
    source.json(written);
    ordered(written, here, read, source)
}

fn ordered(
    written: &Spanned<Written>,
    here: Here<'_>,
    read: &mut Read,
    source: &mut Source<'_>,
) -> Option<JsonTemplate> {
    let here = Here { line: written.referenced.line(), ..here };
    match &written.value {
        Written::Map(fields) if bulk::load::is_each(fields) => each(&fields[0].1, here, read, source),
        Written::List(items) => items
            .iter()
            .map(|item| ordered(item, here, read, source))
            .collect::<Option<_>>()
            .map(JsonTemplate::Array),
        Written::Map(fields) => fields
            .iter()
            .map(|(name, field)| Some((name.clone(), ordered(field, here, read, source)?)))
            .collect::<Option<_>>()
            .map(JsonTemplate::Object),
        Written::Scalar(_) | Written::Number(_) => {
            let value = source.json(written);
            json(&value, here, read, source).map(|(template, _)| template)
        }
    }
}

/// A list with one entry for each row of a bulk call.
fn each(
    entry: &Spanned<Written>,
    here: Here<'_>,
    read: &mut Read,
    source: &mut Source<'_>,
) -> Option<JsonTemplate> {
    // A `bulk` that could not be read is an error of its own.
    let unread = here.names.reads == Reads::Row && source.is_damaged("steps");
    if here.names.reads != Reads::Call && !unread {
        let message = match here.names.reads {
            Reads::Item => "`each` stands within `each`; an entry is one row's",
            _ => "`each` is for a step with `bulk`, whose calls carry many rows",
        };
        source.error(here.line, message.to_owned());
    }
    let names = here.names.reading(Reads::Item);
    let here = Here { names: &names, line: entry.referenced.line(), ..here };
    let entry = ordered(entry, here, read, source)?;
    read.entries.push(entry);
    Some(JsonTemplate::Each(read.entries.len() - 1))
}

/// Whether `each` stands anywhere in a value.
pub fn has_each(written: &Spanned<Written>) -> bool {
    match &written.value {
        Written::Map(fields) => {
            bulk::load::is_each(fields) || fields.iter().any(|(_, field)| has_each(field))
        }
        Written::List(items) => items.iter().any(has_each),
        Written::Scalar(_) | Written::Number(_) => false,
    }
}

/// A template, and what it reads.
pub fn compiled(
    written: &str,
    kind: Kind,
    here: Here<'_>,
    read: &mut Read,
    source: &mut Source<'_>,
) -> Option<(Template, Reading)> {
    let at = source.line_of(written, here.line);
    source.take_left_open();
    // In XML a variable's value is escaped as every value is, so it must not become a part of the text.
    let has_variable = kind == Kind::Xml && written.contains("${");
    let as_template = has_variable.then(|| format!("{{{{ '' }}}}{written}"));
    let filled = source.fill_template(as_template.as_deref().unwrap_or(written), at, kind == Kind::Path)?;
    let mut reading = template::read(&filled, kind, here.names, here.answer);
    if source.take_left_open() {
        // What it reads is known. What it makes is not, and nobody asks it to.
        for fault in reading.faults.iter().filter(|fault| !fault.by_value) {
            let line = source.line_in(written, at, fault.line);
            source.error_of(ErrorCode::InvalidTemplate, line, fault.message.clone());
        }
        read.context.append(&mut reading.context);
        read.whole |= reading.roots.contains("whole");
        return Some((Template::empty(), reading));
    }
    for fault in std::mem::take(&mut reading.faults) {
        source.error_of(ErrorCode::InvalidTemplate, source.line_in(written, at, fault.line), fault.message);
    }
    read.context.append(&mut reading.context);
    read.whole |= reading.roots.contains("whole");
    match Template::compile(filled, kind) {
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
