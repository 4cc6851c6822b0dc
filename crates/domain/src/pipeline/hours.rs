//! `hours`: when a dependency may be called.
#![allow(missing_docs, reason = "private to the loader")]

use chrono_tz::Tz;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::check::Source;
use crate::limit::Hours;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

const DAY: u64 = 86_400;

/// `dependencies.<name>.hours`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoursDefinition {
    pub days: Option<DaysDefinition>,
    pub from: Option<String>,
    pub to: Option<String>,
    pub timezone: Option<String>,
}

/// A text such as `mon-fri`, or a list of such texts.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum DaysDefinition {
    One(String),
    List(Vec<String>),
}

pub fn hours(name: &str, definition: &Spanned<HoursDefinition>, source: &mut Source<'_>) -> Hours {
    let line = definition.referenced.line();
    let written = &definition.value;
    let mut wrong = |message: String| source.error(line, format!("dependency `{name}`: hours: {message}"));
    let mut zone = Tz::UTC;
    if let Some(text) = &written.timezone {
        match text.parse() {
            Ok(known) => zone = known,
            Err(_) => wrong(format!("`{text}` is not a time zone; use a name such as UTC or Europe/Berlin")),
        }
    }
    let mut days = [written.days.is_none(); 7];
    let texts: Vec<&str> = match &written.days {
        None => Vec::new(),
        Some(DaysDefinition::One(text)) => text.split(',').collect(),
        Some(DaysDefinition::List(list)) => list.iter().flat_map(|text| text.split(',')).collect(),
    };
    for text in texts {
        match span(text) {
            Some((first, last)) => {
                (0..=(last + 7 - first) % 7).for_each(|step| days[(first + step) % 7] = true)
            }
            None => wrong(format!(
                "`{}` is not a day; use mon, tue, wed, thu, fri, sat, sun, or mon-fri",
                text.trim()
            )),
        }
    }
    let mut time = |text: &Option<String>, default: u64| match text.as_deref().map(time_of_day) {
        None => default,
        Some(Some(seconds)) => seconds,
        Some(None) => {
            wrong(format!(
                "`{}` is no time of a day; use 08:00 or 24:00",
                text.as_deref().unwrap_or_default()
            ));
            default
        }
    };
    let (from, to) = (time(&written.from, 0), time(&written.to, DAY));
    if from == to {
        wrong("from and to are the same; leave both out for the whole day".into());
    }
    Hours { days, from, to, zone }
}

/// The first and the last day of `mon-fri` or `sat`.
fn span(text: &str) -> Option<(usize, usize)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((day(first)?, day(last)?))
}

fn day(text: &str) -> Option<usize> {
    let text = text.trim().to_ascii_lowercase();
    let whole = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    DAYS.iter().position(|day| *day == text).or_else(|| whole.iter().position(|day| *day == text))
}

fn time_of_day(text: &str) -> Option<u64> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let number =
        |text: &str| (!text.is_empty() && text.len() <= 2).then(|| text.parse::<u64>().ok()).flatten();
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let seconds = hours * 3600 + minutes * 60;
    (minutes < 60 && seconds <= DAY).then_some(seconds)
}
