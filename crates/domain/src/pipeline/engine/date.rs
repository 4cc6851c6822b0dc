//! The filter `date`: a time in another form.

use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use minijinja::{Environment, Error, State, Value};

use super::error::refused;
use super::operators::defined;
use super::text::charged;

/// How a time is written unless a format is given (RFC 3339).
const FORMAT: &str = "%Y-%m-%dT%H:%M:%SZ";

/// Forms of a time without an offset: it is in UTC.
const LOCAL: [&str; 4] = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];

/// Adds the filter.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_filter("date", date);
}

/// A time in UTC, in a format of `strftime`. It is given as seconds since 1970, as a number or its digits, or as an ISO date or time.
fn date(state: &State<'_, '_>, value: &Value, format: Option<&str>) -> Result<Value, Error> {
    defined(state, value)?;
    let format = format.unwrap_or(FORMAT);
    let text = charged(state, value)?;
    let time =
        time_of(text.trim()).ok_or_else(|| refused("it is neither seconds since 1970 nor an ISO date"))?;
    let items: Vec<Item<'_>> = StrftimeItems::new(format).collect();
    if items.contains(&Item::Error) {
        return Err(refused("the format is none of `strftime`"));
    }
    state.consume_fuel(format.len() as u64)?;
    let mut out = String::new();
    std::fmt::Write::write_fmt(&mut out, format_args!("{}", time.format_with_items(items.iter())))
        .map_err(|_| refused("the time cannot be written in this format"))?;
    Ok(Value::from(out))
}

fn time_of(text: &str) -> Option<DateTime<Utc>> {
    if let Some(seconds) = seconds(text) {
        return seconds;
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    if let Ok(time) = DateTime::parse_from_rfc2822(text) {
        return Some(time.to_utc());
    }
    if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return day.and_hms_opt(0, 0, 0).map(|time| time.and_utc());
    }
    LOCAL.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok()).map(|time| time.and_utc())
}

/// Seconds since 1970, perhaps with a fraction; none when it is not a number, and no time when it is out of range.
fn seconds(text: &str) -> Option<Option<DateTime<Utc>>> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if digits.is_empty() || !all_digits(digits) || !all_digits(fraction) {
        return None;
    }
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let (Ok(seconds), Ok(nanos)) = (whole.parse::<i64>(), nanos.parse::<i64>()) else { return Some(None) };
    let nanos = if whole.starts_with('-') { -nanos } else { nanos };
    let time = DateTime::from_timestamp(seconds, 0);
    Some(time.and_then(|time| time.checked_add_signed(chrono::TimeDelta::nanoseconds(nanos))))
}
