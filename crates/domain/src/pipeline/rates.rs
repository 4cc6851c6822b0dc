//! `dependencies.<name>.rate`: one limit, or a list of limits that hold together.
#![allow(missing_docs, reason = "private to the loader")]

use std::time::Duration;

use chrono_tz::Tz;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use uuid::Uuid;

use super::call::{self, Here, Read};
use super::check::Source;
use super::model::Dependency;
use super::names::Names;
use super::rate::{Per, Rate, Window};
use super::scalars::Span;
use crate::limit::calendar::is_period;

/// Times are kept in milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);

/// Limits of one dependency at most: each call has to pass all of them.
const MOST: usize = 16;

/// One limit, or several.
#[derive(Debug)]
pub enum RatesDefinition {
    One(Box<RateDefinition>),
    List(Vec<Spanned<RateDefinition>>),
}

/// One limit.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateDefinition {
    pub name: Option<String>,
    pub limit: u32,
    pub period: Span,
    pub burst: Option<u32>,
    #[serde(default)]
    pub window: WindowName,
    pub timezone: Option<String>,
    pub spread: Option<bool>,
    #[serde(default)]
    pub per_owner: bool,
    pub per: Option<String>,
}

/// `window`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindowName {
    #[default]
    Bucket,
    Sliding,
    Calendar,
}

impl<'de> Deserialize<'de> for RatesDefinition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = RatesDefinition;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a limit such as `{ limit: 50, period: 1s, burst: 10 }`, or a list of limits,")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let one = RateDefinition::deserialize(MapAccessDeserializer::new(map))?;
                Ok(RatesDefinition::One(Box::new(one)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut limits = Vec::new();
                while let Some(limit) = list.next_element()? {
                    limits.push(limit);
                }
                Ok(RatesDefinition::List(limits))
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

/// A template that stands in a limit.
pub struct PerText {
    /// The dependency's name.
    dependency: String,
    /// The limit's place among its further limits.
    place: usize,
    text: String,
    line: u64,
}

/// A dependency's limits: the one that paces all calls, and the others.
#[derive(Default)]
pub struct Rates {
    pub rate: Option<Rate>,
    pub more: Vec<Rate>,
}

pub fn rates(
    name: &str,
    definition: &Spanned<RatesDefinition>,
    pers: &mut Vec<PerText>,
    source: &mut Source<'_>,
) -> Rates {
    let at = definition.referenced.line();
    let written: Vec<(u64, &RateDefinition)> = match &definition.value {
        RatesDefinition::One(one) => vec![(at, one)],
        RatesDefinition::List(list) => {
            list.iter().map(|limit| (limit.referenced.line(), &limit.value)).collect()
        }
    };
    if written.is_empty() || written.len() > MOST {
        source.error(at, format!("dependency `{name}`: a list of rates has 1 to {MOST} limits"));
    }
    let mut limits: Vec<(Rate, Option<PerText>)> = Vec::new();
    for (line, definition) in written {
        let rate = rate(name, definition, line, source);
        if let Some(named) = &rate.name
            && limits.iter().any(|(other, _)| other.name.as_ref() == Some(named))
        {
            source.error(
                line,
                format!("dependency `{name}`: two rates are named `{named}`; rename one of them"),
            );
        }
        let per = definition.per.as_ref().map(|text| PerText {
            dependency: name.to_owned(),
            place: 0,
            text: text.clone(),
            line,
        });
        limits.push((rate, per));
    }
    // The limit of all calls paces them; where there is none, the limit of all of an owner's calls.
    let paces = |per_owner: bool| {
        limits.iter().position(|(rate, per)| {
            rate.per_owner == per_owner && rate.name.is_none() && per.is_none() && rate.is_bucket()
        })
    };
    let mut rates = Rates::default();
    let first = paces(false).or_else(|| paces(true));
    for (index, (rate, per)) in limits.into_iter().enumerate() {
        if Some(index) == first {
            rates.rate = Some(rate);
            continue;
        }
        let id = id(&rate, per.as_ref(), &rates.more);
        pers.extend(per.map(|per| PerText { place: rates.more.len(), ..per }));
        rates.more.push(Rate { id, ..rate });
    }
    rates
}

/// Names a limit by what it is, and not by how much it allows: a limit that is raised goes on where it was.
fn id(rate: &Rate, per: Option<&PerText>, others: &[Rate]) -> String {
    let per = per.map(|per| per.text.as_str());
    let what = format!("{:?}", (&rate.name, rate.period, window(rate.window), rate.per_owner, per));
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, what.as_bytes()).simple().to_string();
    let same = others.iter().filter(|other| other.id.starts_with(&id[..16])).count();
    if same == 0 { id[..16].to_owned() } else { format!("{}-{same}", &id[..16]) }
}

/// A window without what may change while its count goes on.
fn window(window: Window) -> String {
    match window {
        Window::Calendar { zone, .. } => format!("Calendar {zone}"),
        other => format!("{other:?}"),
    }
}

fn rate(name: &str, rate: &RateDefinition, line: u64, source: &mut Source<'_>) -> Rate {
    let mut wrong = |message: &str| source.error(line, format!("dependency `{name}`: {message}"));
    let burst = rate.burst.unwrap_or(1);
    if rate.limit == 0 || burst == 0 {
        wrong("a rate's limit and burst are above 0; without `rate` there is none");
    }
    if rate.period.0 < SHORTEST {
        wrong("a rate's period is 1ms or more");
    }
    let mut zone = Tz::UTC;
    if let Some(name) = &rate.timezone {
        match name.parse() {
            Ok(known) => zone = known,
            Err(_) => wrong(&format!("`{name}` is not a time zone; use a name such as UTC or Europe/Berlin")),
        }
    }
    let window = match rate.window {
        WindowName::Bucket => Window::Bucket,
        WindowName::Sliding => Window::Sliding,
        WindowName::Calendar => Window::Calendar { zone, spread: rate.spread.unwrap_or_default() },
    };
    if rate.window == WindowName::Calendar {
        if rate.burst.is_some() {
            wrong(
                "a rate by the calendar has no burst: its calls are made as other limits let, or evenly with `spread: true`",
            );
        }
        if !is_period(rate.period.0) {
            wrong(
                "a period of the calendar is 1m, 1h, 1d or 7d, or a multiple that divides an hour or a day, such as 15m or 6h",
            );
        }
    } else if rate.timezone.is_some() || rate.spread.is_some() {
        wrong("`timezone` and `spread` are a calendar's; add `window: calendar`, or remove them");
    }
    if window == Window::Sliding && burst >= rate.limit && rate.limit > 1 {
        wrong(
            "a sliding rate's burst is below its limit: the bucket fills again with limit - burst in a period",
        );
    }
    if let Some(named) = &rate.name {
        source.check_name("rate", named, line);
    }
    Rate {
        id: String::new(),
        name: rate.name.clone(),
        limit: rate.limit,
        period: rate.period.0,
        burst,
        window,
        per_owner: rate.per_owner,
        per: None,
    }
}

/// Compiles the values of a dependency's limits as a step that calls it can read them.
pub fn compile(
    pers: &[PerText],
    dependency: &mut Dependency,
    names: &Names,
    read: &mut Read,
    source: &mut Source<'_>,
) {
    for per in pers.iter().filter(|per| per.dependency == dependency.name) {
        let here = Here { names, answer: false, line: per.line };
        call::check_braces(&format!("dependency `{}`: per", dependency.name), &per.text, per.line, source);
        let Some(template) = call::text(&per.text, here, read, source) else { continue };
        if let Some(rate) = dependency.more.get_mut(per.place) {
            rate.per = Some(Per { text: per.text.clone(), template });
        }
    }
}
