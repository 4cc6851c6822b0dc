//! `bulk`: many rows in one call.
//!
//! `definition` is the YAML, `load` makes it ready. Each row makes an [`Entry`], the entries of a call make its request
//! ([`Step::bulk_request`]), and [`matching`] gives each row its own result of the answer. Which rows go together, and when, is the
//! worker's to decide; which calls follow one that was refused as a whole says [`Search`].

pub mod definition;
pub(super) mod load;
mod matching;
mod search;

use std::time::Duration;

use serde_json::Value as Json;

use super::request::RenderedRequest;
use super::responses::lenient;
use super::step::{RenderError, Step};
use super::template::{JsonTemplate, Template};
use super::values::{ResponseView, RowContext, Scope};
use crate::outcome::Repetition;

use matching::ItemResponse;
pub use matching::{ItemAnswer, ItemResult};
pub use search::{Refusal, Search};

/// How a step sends many rows in one call.
#[derive(Debug)]
pub struct Bulk {
    /// Rows of a call at most.
    pub max_rows: usize,
    /// How long a call's first row waits for company.
    pub max_wait: Duration,
    /// What each row adds to the body, by the index of [`JsonTemplate::Each`].
    entries: Vec<JsonTemplate>,
    /// Where the answer has its results; none: it is a list itself.
    results: Option<List>,
    matching: Match,
    errors: Option<Errors>,
    response: Option<ItemResponse>,
    /// Whether a template of the step reads `whole`.
    pub reads_whole: bool,
}

/// How results are told apart.
#[derive(Debug)]
enum Match {
    /// The result at a row's place is its own.
    Order,
    /// All rows share the answer.
    Whole,
    /// By what both sides are called.
    Pair(Pair),
}

/// What a result and its row have in common.
#[derive(Debug)]
struct Pair {
    result: Template,
    row: Template,
}

/// A second list of results, of failures.
#[derive(Debug)]
struct Errors {
    results: List,
    pair: Pair,
}

/// What a row adds to a call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// By the index of the place where it stands.
    values: Vec<Json>,
    /// What its result is called.
    result: Option<String>,
    /// What its entry in the list of errors is called.
    error: Option<String>,
}

impl Step {
    /// How many rows a call of the step carries at most.
    pub fn rows_per_call(&self) -> usize {
        self.bulk.as_ref().map_or(1, |bulk| bulk.max_rows)
    }

    /// What a row adds to a bulk call; nothing where the step makes none.
    ///
    /// # Errors
    /// When a template reads something that is not there, or the entry is `omit`.
    pub fn entry(&self, row: &RowContext<'_>) -> Result<Entry, RenderError> {
        let Some(bulk) = &self.bulk else { return Ok(Entry::default()) };
        let key = self.key(row)?;
        let values = Scope::of(row).with_key(key.as_deref()).into_value();
        let entries = bulk.entries.iter().map(|entry| entry.render(&values));
        let entries = entries.collect::<Result<_, _>>();
        let name = |template: &Template, place: &str| {
            template.render_text(&values).map_err(|error| RenderError::new(&self.name, place, &error))
        };
        let result = match &bulk.matching {
            Match::Pair(pair) => Some(name(&pair.row, "bulk.match.row")?),
            Match::Order | Match::Whole => None,
        };
        let error = bulk.errors.as_ref().map(|errors| name(&errors.pair.row, "bulk.errors.match.row"));
        Ok(Entry {
            values: entries.map_err(|error| RenderError::new(&self.name, "each", &error))?,
            result,
            error: error.transpose()?,
        })
    }

    /// The request of a bulk call with these entries. `call` is any of its rows: what is each row's own stands in the entries.
    ///
    /// # Errors
    /// As [`Step::request`].
    pub fn bulk_request(
        &self,
        call: &RowContext<'_>,
        entries: &[Entry],
    ) -> Result<RenderedRequest, RenderError> {
        let places = self.bulk.as_ref().map_or(0, |bulk| bulk.entries.len());
        let list =
            |place: usize| entries.iter().filter_map(|entry| entry.values.get(place).cloned()).collect();
        let lists: Vec<Vec<Json>> = (0..places).map(list).collect();
        let key = self.key(call)?;
        let values = Scope::of(call).with_key(key.as_deref()).into_value();
        self.request.render(&self.name, &values, key.as_deref(), &lists)
    }

    /// What of a bulk call's answer is each row's, in the order of the entries; none: the answer does not have the list of results,
    /// so that it speaks for all rows. `call` is any of the rows.
    pub fn distribute(
        &self,
        call: &RowContext<'_>,
        entries: &[Entry],
        answer: ResponseView<'_>,
    ) -> Option<Vec<ItemResult>> {
        self.bulk.as_ref()?.distribute(&self.call_scope(call, answer), entries, answer)
    }

    /// The rows that an answer's list of errors names, each with its entry, in the order of the entries.
    pub fn named_errors(
        &self,
        call: &RowContext<'_>,
        entries: &[Entry],
        answer: ResponseView<'_>,
    ) -> Vec<Option<ItemAnswer>> {
        let found = self.bulk.as_ref().and_then(|bulk| bulk.errors.as_ref());
        let found = found.and_then(|errors| errors.of(&self.call_scope(call, answer), entries));
        found.unwrap_or_else(|| vec![None; entries.len()])
    }

    /// Whether an answer says something about each row, and so is not judged as a whole.
    pub(super) fn is_distributed(&self, call: &RowContext<'_>, answer: ResponseView<'_>) -> bool {
        let Some(bulk) = &self.bulk else { return false };
        let is_success = matches!(answer.status, 200..=299);
        is_success
            && !matches!(bulk.matching, Match::Whole)
            && bulk.has_lists(&self.call_scope(call, answer), answer)
    }

    fn call_scope(&self, call: &RowContext<'_>, answer: ResponseView<'_>) -> Scope {
        Scope::of(call).with_answer(answer, true)
    }

    /// What it is to send a row again whose own result in a call's answer is an error. A call's key is that of all of its rows, and
    /// is no use to a single one of them.
    pub fn item_repetition(&self) -> Repetition {
        match (self.keyed, self.idempotent) {
            (true, Some(true)) => Repetition::Harmless,
            (true, _) => Repetition::Harmful,
            (false, _) => self.repetition(),
        }
    }
}

/// Where a list stands in an answer.
#[derive(Debug)]
struct List {
    template: Template,
    /// Whether one that is no list is a list of that one: XML has no lists, only elements that are repeated.
    of_xml: bool,
}

impl List {
    /// The list; none when the answer has none there.
    fn of(&self, values: &minijinja::Value) -> Option<Vec<Json>> {
        match lenient::json(&self.template, values)? {
            Json::Array(items) => Some(items),
            Json::Null => None,
            Json::String(text) if self.of_xml && text.trim().is_empty() => Some(Vec::new()),
            one => self.of_xml.then(|| vec![one]),
        }
    }
}

#[cfg(test)]
mod tests;
