//! Which result of a bulk call's answer is which row's.

use std::collections::{BTreeMap, HashMap};

use minijinja::Value;
use serde_json::Value as Json;

use super::{Bulk, Entry, Errors, Match, Pair};
use crate::pipeline::responses::lenient;
use crate::pipeline::template::{JsonTemplate, Template, text_of};
use crate::pipeline::values::{ResponseView, Scope};

/// What an answer has for one row.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemResult {
    /// Its own result.
    Found(ItemAnswer),
    /// Its entry in the list of errors.
    Rejected(ItemAnswer),
    /// The complete answer, which all rows share.
    Whole,
    /// Nothing, or nothing that can be read.
    Missing,
}

/// A result that is an answer of its own, as far as the definition says so.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemAnswer {
    /// Its status; none: that of the call's answer.
    pub status: Option<u16>,
    /// Its headers, names in lower case; none: those of the call's answer.
    pub headers: Option<BTreeMap<String, String>>,
    /// Its body, or the result itself.
    pub body: Json,
}

/// `bulk.response`: where a result has its own status, headers and body.
#[derive(Debug)]
pub(super) struct ItemResponse {
    pub status: Option<JsonTemplate>,
    pub headers: Option<Template>,
    pub body: Option<Template>,
}

impl ItemResponse {
    /// The answer that a result is; none when its status cannot be read.
    fn of(&self, result: Json, scope: &Scope) -> Option<ItemAnswer> {
        let values = scope.clone().with_result(&result).into_value();
        let status = match &self.status {
            Some(JsonTemplate::Template(status)) => Some(number(&lenient::json(status, &values)?)?),
            Some(JsonTemplate::Constant(status)) => Some(number(status)?),
            Some(_) => return None,
            None => None,
        };
        let headers = self.headers.as_ref().map(|headers| texts(lenient::json(headers, &values)));
        let body = match &self.body {
            Some(body) => lenient::json(body, &values).unwrap_or(Json::Null),
            None => result,
        };
        Some(ItemAnswer { status, headers, body })
    }
}

/// A status, as a number or a text that begins with one (`404`, `"404 Not Found"`).
fn number(json: &Json) -> Option<u16> {
    let text = text_of(json.clone());
    let status = text.split_whitespace().next()?.parse().ok()?;
    (100..=599).contains(&status).then_some(status)
}

/// Headers, as an object or as a list of pairs of `name` and `value`.
fn texts(headers: Option<Json>) -> BTreeMap<String, String> {
    let pair = |name: &str, value: Json| (name.to_ascii_lowercase(), text_of(value));
    match headers {
        Some(Json::Object(fields)) => fields.into_iter().map(|(name, value)| pair(&name, value)).collect(),
        Some(Json::Array(items)) => items
            .into_iter()
            .filter_map(|item| Some(pair(item["name"].as_str()?, item["value"].clone())))
            .collect(),
        _ => BTreeMap::new(),
    }
}

impl Bulk {
    /// Whether the answer has one of the lists that are read.
    pub(super) fn has_lists(&self, scope: &Scope, answer: ResponseView<'_>) -> bool {
        let values = scope.clone().into_value();
        let results = match &self.results {
            Some(results) => results.of(&values).is_some(),
            None => answer.body.is_array(),
        };
        results || self.errors.as_ref().is_some_and(|errors| errors.results.of(&values).is_some())
    }

    /// See [`Step::distribute`](super::super::Step::distribute).
    pub(super) fn distribute(
        &self,
        scope: &Scope,
        entries: &[Entry],
        answer: ResponseView<'_>,
    ) -> Option<Vec<ItemResult>> {
        let errors = self.errors.as_ref().and_then(|errors| errors.of(scope, entries));
        let mut found = match &self.matching {
            Match::Whole => vec![ItemResult::Whole; entries.len()],
            matching => {
                let results = match &self.results {
                    Some(results) => results.of(&scope.clone().into_value()),
                    None => answer.body.as_array().cloned(),
                };
                if results.is_none() && errors.is_none() {
                    return None;
                }
                self.matched(matching, results.unwrap_or_default(), scope, entries)
            }
        };
        for (result, error) in found.iter_mut().zip(errors.into_iter().flatten()) {
            if let Some(error) = error {
                *result = ItemResult::Rejected(error);
            }
        }
        Some(found)
    }

    fn matched(
        &self,
        matching: &Match,
        results: Vec<Json>,
        scope: &Scope,
        entries: &[Entry],
    ) -> Vec<ItemResult> {
        let places: Vec<Option<usize>> = match matching {
            Match::Pair(pair) => {
                let names: Vec<_> = entries.iter().map(|entry| entry.result.as_deref()).collect();
                pair.places(&results, &names, scope)
            }
            _ => (0..entries.len()).map(|place| Some(place).filter(|place| *place < results.len())).collect(),
        };
        let result = |place: Option<usize>| {
            let result = results.get(place?)?.clone();
            match &self.response {
                Some(response) => response.of(result, scope),
                None => Some(ItemAnswer { body: result, ..ItemAnswer::default() }),
            }
        };
        places.into_iter().map(|place| result(place).map_or(ItemResult::Missing, ItemResult::Found)).collect()
    }
}

impl Errors {
    /// The rows' entries in the list; none when the answer has no such list.
    pub(super) fn of(&self, scope: &Scope, entries: &[Entry]) -> Option<Vec<Option<ItemAnswer>>> {
        let results = self.results.of(&scope.clone().into_value())?;
        let names: Vec<_> = entries.iter().map(|entry| entry.error.as_deref()).collect();
        let places = self.pair.places(&results, &names, scope);
        let answer = |place: Option<usize>| {
            Some(ItemAnswer { body: results.get(place?)?.clone(), ..ItemAnswer::default() })
        };
        Some(places.into_iter().map(answer).collect())
    }
}

impl Pair {
    /// For each row the place of its result. Of rows with one name each takes a result of its own, as long as there are some; then they
    /// share the last one.
    fn places(&self, results: &[Json], rows: &[Option<&str>], scope: &Scope) -> Vec<Option<usize>> {
        let mut named: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, result) in results.iter().enumerate() {
            let values = scope.clone().with_result(result).into_value();
            for name in names(&self.result, &values) {
                let places = named.entry(name).or_default();
                if places.last() != Some(&place) {
                    places.push(place);
                }
            }
        }
        let mut taken: HashMap<&str, usize> = HashMap::new();
        let mut chosen = Vec::with_capacity(rows.len());
        for name in rows.iter().copied() {
            let places = name.and_then(|name| Some((name, named.get(name)?)));
            chosen.push(places.and_then(|(name, places)| {
                let turn = taken.entry(name).or_default();
                let place = places.get(*turn).or(places.last()).copied();
                *turn += 1;
                place
            }));
        }
        chosen
    }
}

/// What a result is called: by the members of a list each, by anything else once.
fn names(template: &Template, values: &Value) -> Vec<String> {
    match lenient::json(template, values) {
        None | Some(Json::Null) => Vec::new(),
        Some(Json::Array(items)) => items.into_iter().filter(|item| !item.is_null()).map(text_of).collect(),
        Some(other) => vec![text_of(other)],
    }
}
