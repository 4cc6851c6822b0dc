//! `cost`: how much of its dependency's limits a call takes.
#![allow(missing_docs, reason = "private to the loader but for what the step exports")]

use minijinja::Value;
use serde_json::Value as Json;
use serde_saphyr::Spanned;

use super::call::{self, Here, Read};
use super::check::Source;
use super::definition::StepDefinition;
use super::model::Dependency;
use super::names::{Names, hint};
use super::template::JsonTemplate;
use super::values::{ResponseView, RowContext, Scope};
use super::written::Written;

/// What calls of a step take, where that is not one number for all of them.
#[derive(Debug, Default)]
pub struct Costs {
    /// Of limits without a name.
    unnamed: Option<JsonTemplate>,
    named: Vec<NamedCost>,
    /// Whether the answer's body says what a call has taken.
    pub(super) reads_body: bool,
}

#[derive(Debug)]
struct NamedCost {
    name: String,
    estimate: JsonTemplate,
    actual: Option<JsonTemplate>,
}

/// What a call takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallCost {
    /// Of limits without a name.
    pub unnamed: u32,
    /// Of limits with a name.
    pub named: Vec<(String, u32)>,
}

impl Costs {
    /// Whether all calls take the same, of limits without a name only.
    pub fn are_fixed(&self) -> bool {
        self.unnamed.is_none() && self.named.is_empty()
    }

    /// Whether a call takes something of the limit with that name.
    pub fn are_of(&self, name: &str) -> bool {
        self.named.iter().any(|cost| cost.name == name)
    }

    /// Whether the answer says what a call has taken of it.
    pub fn are_corrected_of(&self, name: &str) -> bool {
        self.named.iter().any(|cost| cost.name == name && cost.actual.is_some())
    }

    /// Whether the answer says what a call has taken.
    pub fn are_corrected(&self) -> bool {
        self.named.iter().any(|cost| cost.actual.is_some())
    }

    /// What a call for a row takes; `fixed` is the step's own number, `key` the idempotency key of a keyed step.
    ///
    /// # Errors
    /// Which cost cannot be made, and why.
    pub(super) fn of(
        &self,
        fixed: u32,
        row: &RowContext<'_>,
        key: Option<&str>,
    ) -> Result<CallCost, CostError> {
        let values = Scope::of(row).with_key(key).into_value();
        let unnamed = match &self.unnamed {
            Some(template) => number("cost", template, &values)?,
            None => fixed,
        };
        let named = self.named.iter().map(|cost| {
            let place = format!("cost.{}", cost.name);
            Ok((cost.name.clone(), number(&place, &cost.estimate, &values)?))
        });
        Ok(CallCost { unnamed, named: named.collect::<Result<_, _>>()? })
    }

    /// What a call has taken, by its answer: of the limits of which the answer says it.
    pub(super) fn actual(
        &self,
        row: &RowContext<'_>,
        key: Option<&str>,
        answer: ResponseView<'_>,
    ) -> Vec<(String, u32)> {
        let corrected = self.named.iter().filter_map(|cost| Some((cost, cost.actual.as_ref()?)));
        let values = Scope::of(row).with_key(key).with_answer(answer, self.reads_body).into_value();
        corrected
            .filter_map(|(cost, actual)| Some((cost.name.clone(), number("", actual, &values).ok()?)))
            .collect()
    }
}

/// A cost that cannot be made.
#[derive(Debug)]
pub(super) enum CostError {
    /// Its template cannot be applied.
    Template(String, minijinja::Error),
    /// What it makes is not a number of 0 or more.
    NoNumber(String),
}

fn number(place: &str, template: &JsonTemplate, values: &Value) -> Result<u32, CostError> {
    let value = template.render(values).map_err(|error| CostError::Template(place.to_owned(), error))?;
    whole(&value).ok_or_else(|| CostError::NoNumber(place.to_owned()))
}

/// A number from 0 on, or a text that is one; rounded up.
fn whole(value: &Json) -> Option<u32> {
    let number = match value {
        Json::Number(number) => number.to_string().parse::<f64>().ok()?,
        Json::String(text) => text.trim().parse::<f64>().ok()?,
        _ => return None,
    };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked before")]
    (number.is_finite() && number >= 0.0).then(|| number.ceil().min(f64::from(u32::MAX)) as u32)
}

/// A step's cost: its number, and what is not one number.
pub fn cost(
    step: &StepDefinition,
    line: u64,
    dependency: Option<&Dependency>,
    names: &Names,
    read: &mut Read,
    source: &mut Source<'_>,
) -> (u32, Costs) {
    let Some(written) = &step.cost else {
        check_number(step, 1, line, dependency, source);
        return (1, Costs::default());
    };
    let at = written.referenced.line();
    let here = Here { names, answer: false, line: at };
    let mut costs = Costs::default();
    match &written.value {
        Written::Map(fields) => {
            check_number(step, 1, at, dependency, source);
            for (name, value) in fields {
                costs.named.extend(named(
                    step,
                    name,
                    value,
                    dependency,
                    here,
                    read,
                    source,
                    &mut costs.reads_body,
                ));
            }
        }
        _ => match source.json(written) {
            value if is_whole(&value) => {
                let number = whole(&value).unwrap_or(1);
                if number == 0 {
                    source.error(at, format!("step `{}`: cost is 1 or more", step.name));
                }
                check_number(step, number, at, dependency, source);
                return (number, costs);
            }
            Json::String(text) if text.contains("{{") || text.contains("{%") => {
                costs.unnamed = call::text(&text, here, read, source).map(JsonTemplate::Template);
            }
            _ => wrong(step, "cost", at, source),
        },
    }
    (1, costs)
}

fn is_whole(value: &Json) -> bool {
    value.as_u64().is_some_and(|number| number <= u64::from(u32::MAX))
}

fn wrong(step: &StepDefinition, place: &str, line: u64, source: &mut Source<'_>) {
    let message = "a number such as 2 belongs here, a template, or `{ NAME: { estimate: …, actual: … } }`";
    source.error(line, format!("step `{}`: {place}: {message}", step.name));
}

#[allow(clippy::too_many_arguments, reason = "what the loader has with it")]
fn named(
    step: &StepDefinition,
    name: &str,
    value: &Spanned<Written>,
    dependency: Option<&Dependency>,
    here: Here<'_>,
    read: &mut Read,
    source: &mut Source<'_>,
    reads_body: &mut bool,
) -> Option<NamedCost> {
    let line = value.referenced.line();
    let here = Here { line, ..here };
    if let Some(dependency) = dependency {
        let known: Vec<&str> = dependency.more.iter().filter_map(|rate| rate.name.as_deref()).collect();
        if !known.contains(&name) {
            let message = format!("no rate of `{}` is named `{name}`{}", dependency.name, hint(name, &known));
            source.error(line, format!("step `{}`: cost: {message}", step.name));
        }
    }
    let (estimate, actual) = match &value.value {
        Written::Map(parts) => {
            let part = |key: &str| parts.iter().find(|(name, _)| name == key).map(|(_, part)| part);
            if let Some((unknown, _)) = parts.iter().find(|(key, _)| key != "estimate" && key != "actual") {
                let hint = hint(unknown, &["estimate", "actual"]);
                source
                    .error(line, format!("step `{}`: cost.{name}: unknown key `{unknown}`{hint}", step.name));
            }
            (part("estimate"), part("actual"))
        }
        _ => (Some(value), None),
    };
    let Some(estimate) = estimate else {
        source.error(
            line,
            format!("step `{}`: cost.{name}: the key `estimate` is missing here; add it", step.name),
        );
        return None;
    };
    let actual = actual.and_then(|written| {
        let here = Here { answer: true, line: written.referenced.line(), ..here };
        let (template, reads) = call::json(&source.json(written), here, read, source)?;
        *reads_body |= reads;
        Some(template)
    });
    let estimate = source.json(estimate);
    let is_number = is_whole(&estimate)
        || estimate.as_str().is_some_and(|text| text.contains("{{") || text.contains("{%"));
    if !is_number {
        wrong(step, &format!("cost.{name}"), line, source);
        return None;
    }
    let (estimate, _) = call::json(&estimate, here, read, source)?;
    Some(NamedCost { name: name.to_owned(), estimate, actual })
}

fn check_number(
    step: &StepDefinition,
    cost: u32,
    line: u64,
    dependency: Option<&Dependency>,
    source: &mut Source<'_>,
) {
    let Some(dependency) = dependency else { return };
    let Some(rate) = dependency.unnamed_rates().find(|rate| cost > rate.most()) else { return };
    let what = if rate.is_bucket() { "burst" } else { "limit" };
    source.error(
        line,
        format!(
            "step `{}`: cost {cost} is above the {what} of `{}`, which is {}, so no call could ever be made; set rate.{what} to {cost} or more",
            step.name, dependency.name, rate.most()
        ),
    );
}
