//! From `bulk` as it is written to what gathers rows and reads their results.

use std::time::Duration;

use serde_saphyr::Spanned;

use super::definition::{BulkDefinition, ItemResponseDefinition, MatchDefinition, PairDefinition};
use super::matching::ItemResponse;
use super::{Bulk, Errors, List, Match, Pair};
use crate::pipeline::AnswerKind;
use crate::pipeline::call::{Here, Read, text};
use crate::pipeline::check::Source;
use crate::pipeline::definition::{KeyDefinition, StepDefinition};
use crate::pipeline::names::{Names, Reads};
use crate::pipeline::responses::lenient;
use crate::pipeline::scalars::Span;
use crate::pipeline::template::{self, JsonTemplate, Kind, Template};
use crate::pipeline::vars::Filled;
use crate::pipeline::written::Written;

/// Rows of a call at least and at most.
const ROWS: std::ops::RangeInclusive<u64> = 2..=1000;

/// The longest time that a row waits for company.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long it waits unless the definition says so.
const WAIT: Duration = Duration::from_millis(200);

/// What a definition's `bulk` is read with.
struct Loader<'a, 's, 't> {
    step: &'a StepDefinition,
    names: &'a Names,
    read: &'a mut Read,
    source: &'s mut Source<'t>,
    reads_whole: bool,
}

/// A step's `bulk`. `entries` are those of its body.
pub fn bulk(
    step: &StepDefinition,
    entries: Vec<JsonTemplate>,
    names: &Names,
    read: &mut Read,
    source: &mut Source<'_>,
) -> Option<Bulk> {
    let written = step.bulk.as_ref()?;
    let (definition, line) = (&written.value, written.referenced.line());
    let mut loader = Loader { step, names, read, source, reads_whole: false };
    loader.check(definition, entries.is_empty(), line);
    let of_xml = step.response.as_ref().is_some_and(|response| response.kind == AnswerKind::Xml);
    let results =
        definition.results.as_ref().and_then(|results| loader.of_answer("results", results, Reads::Call));
    let results = results.map(|template| List { template, of_xml });
    let matching = match &definition.matching.value {
        MatchDefinition::Order => Some(Match::Order),
        MatchDefinition::Whole => Some(Match::Whole),
        MatchDefinition::Pair(pair) => loader.pair("match", pair).map(Match::Pair),
    };
    let errors = definition.errors.as_ref().and_then(|errors| {
        let template = loader.of_answer("errors.results", &errors.value.results, Reads::Call)?;
        let results = List { template, of_xml };
        Some(Errors { results, pair: loader.pair("errors.match", &errors.value.matching.value)? })
    });
    let response = definition.response.as_ref().map(|response| loader.response(&response.value));
    let wait = definition.max_wait.as_ref().map_or(WAIT, |wait| wait.value.0);
    Some(Bulk {
        max_rows: usize::try_from(definition.max_rows.value).unwrap_or(usize::MAX),
        max_wait: wait,
        entries,
        results,
        matching: matching?,
        errors,
        response,
        reads_whole: loader.reads_whole,
    })
}

impl Loader<'_, '_, '_> {
    fn wrong(&mut self, line: u64, message: &str) {
        self.source.error(line, format!("step `{}`: {message}", self.step.name));
    }

    /// What no template says.
    fn check(&mut self, definition: &BulkDefinition, without_entries: bool, line: u64) {
        if !ROWS.contains(&definition.max_rows.value) {
            self.wrong(definition.max_rows.referenced.line(), "bulk.max_rows is between 2 and 1000");
        }
        let too_long = |wait: &&Spanned<Span>| wait.value.0 > LONGEST_WAIT;
        if let Some(wait) = definition.max_wait.as_ref().filter(too_long) {
            self.wrong(wait.referenced.line(), "bulk.max_wait is at most 5s");
        }
        if without_entries {
            let message = "`bulk` sends an entry for each row; write where they stand in `json` or `form`, such as \
                           `json: { inputs: { each: { id: \"{{ row.id }}\" } } }`";
            self.wrong(line, message);
        }
        let is_whole = matches!(definition.matching.value, MatchDefinition::Whole);
        for (key, at) in [
            ("results", definition.results.as_ref().map(|results| results.referenced.line())),
            ("response", definition.response.as_ref().map(|response| response.referenced.line())),
        ] {
            if let Some(at) = at.filter(|_| is_whole) {
                self.wrong(
                    at,
                    &format!("with `match: whole` all rows share the answer; remove `bulk.{key}`"),
                );
            }
        }
        if let Some(key) = &self.step.request.idempotency_key
            && let KeyDefinition::Place { value: Some(value), .. } = &key.value
        {
            let message =
                "the key of a bulk call belongs to all of its rows, and is Penstock's own; remove `value`";
            self.wrong(value.referenced.line(), message);
        }
    }

    fn pair(&mut self, place: &str, pair: &PairDefinition) -> Option<Pair> {
        let result = self.of_answer(&format!("{place}.result"), &pair.result, Reads::Result);
        let names = self.names.reading(Reads::Item).unkeyed();
        let here = Here { names: &names, answer: false, line: pair.row.referenced.line() };
        let row = text(&pair.row.value, here, self.read, self.source);
        if matches!(row, Some(Template::Text(_))) && !pair.row.value.contains("${") {
            let message = format!("bulk.{place}.row is the same for each row; write what tells rows apart");
            self.wrong(pair.row.referenced.line(), &message);
        }
        Some(Pair { result: result?, row: row? })
    }

    fn response(&mut self, definition: &ItemResponseDefinition) -> ItemResponse {
        let status = definition.status.as_ref().and_then(|status| match self.source.json(status) {
            serde_json::Value::String(text) => {
                self.template("response.status", &text, status, Reads::Result).map(JsonTemplate::Template)
            }
            number @ serde_json::Value::Number(_) => Some(JsonTemplate::Constant(number)),
            _ => {
                self.wrong(
                    status.referenced.line(),
                    "bulk.response.status is a template, such as `{{ result.status }}`",
                );
                None
            }
        });
        let mut part = |name: &str, written: &Option<Spanned<String>>| {
            self.of_answer(&format!("response.{name}"), written.as_ref()?, Reads::Result)
        };
        ItemResponse {
            status,
            headers: part("headers", &definition.headers),
            body: part("body", &definition.body),
        }
    }

    fn of_answer(&mut self, place: &str, written: &Spanned<String>, reads: Reads) -> Option<Template> {
        self.template(place, &written.value, written, reads)
    }

    /// A template that reads an answer, in which what is not there is no error.
    fn template<T>(&mut self, place: &str, text: &str, at: &Spanned<T>, reads: Reads) -> Option<Template> {
        let from = self.source.line_of(text, at.referenced.line());
        self.source.take_left_open();
        let filled = self.source.fill_template(text, from, false)?;
        if !matches!(filled, Filled::Template(_)) {
            self.wrong(
                from,
                &format!("bulk.{place}: `{text}` reads nothing of the answer; write `{{{{ … }}}}`"),
            );
        }
        let names = self.names.reading(reads).unkeyed();
        let reading = template::read_in(&filled, &names, lenient::environment());
        if self.source.take_left_open() {
            return Some(Template::empty());
        }
        for fault in reading.faults {
            let line = self.source.line_in(text, from, fault.line);
            self.source.error(line, fault.message);
        }
        match Template::compile(filled, Kind::Plain) {
            Ok(template) => Some(template),
            Err(error) => {
                let line = self.source.line_in(text, from, error.line().map_or(1, |line| line as u64));
                let detail = error.detail().unwrap_or("its syntax is off");
                self.source.broken(line, format!("a template cannot be read: {detail}"));
                None
            }
        }
    }
}

/// Whether a map of a body stands for a list with one entry for each row: it has the key `each` and no other.
pub fn is_each(fields: &[(String, Spanned<Written>)]) -> bool {
    matches!(fields, [(name, _)] if name == "each")
}
