//! Reads one value that says how long to wait, or until when: the forms that APIs use in `Retry-After` and in their
//! rate-limit headers. A form that is not known is ignored: no wait is better than a wrong one.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, NaiveDateTime};
use penstock_domain::time::Timestamp;

/// No wait is longer than this. A dependency that asks for more is asked again after it.
pub const LONGEST: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// What a plain number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds, as the header's definition has it.
    Seconds,
    /// Milliseconds, as the header's name says.
    Milliseconds,
    /// Seconds by custom: what would be more than [`LONGEST`] in seconds is milliseconds.
    Unstated,
}

/// Numbers from here on are seconds since the Unix epoch (2001 and later), as far as they count seconds.
const EPOCH_SECONDS: f64 = 1e9;
/// Numbers from here on are milliseconds since the Unix epoch (1973 and later).
const EPOCH_MILLISECONDS: f64 = 1e11;
/// Numbers from here on are neither.
const TOO_LARGE: f64 = 1e14;

/// The wait that a value asks for, at most [`LONGEST`]; zero for a moment that has passed; none when its form is not known.
/// `server_now` is the time by the clock of whoever wrote it.
pub fn parse(value: &str, unit: Unit, server_now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let wait = plain_number(value)
        .and_then(|number| from_number(number, unit, server_now))
        .or_else(|| units(value))
        .or_else(|| Some(date(value)?.since(server_now)))?;
    Some(wait.min(LONGEST))
}

/// Digits, perhaps with a fraction: no sign, no exponent.
pub fn plain_number(value: &str) -> Option<f64> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (digits(whole) && digits(fraction)).then(|| value.parse().ok())?
}

fn from_number(number: f64, unit: Unit, server_now: Timestamp) -> Option<Duration> {
    let until = |since_epoch: Duration| (Timestamp::from_millis(0) + since_epoch).since(server_now);
    Some(match unit {
        _ if number >= TOO_LARGE => return None,
        _ if number >= EPOCH_MILLISECONDS => until(rounded_up(number)),
        Unit::Milliseconds => rounded_up(number),
        _ if number >= EPOCH_SECONDS => until(rounded_up(number * 1000.0)),
        Unit::Unstated if number > LONGEST.as_secs_f64() => rounded_up(number),
        Unit::Seconds | Unit::Unstated => rounded_up(number * 1000.0),
    })
}

/// A duration as Go writes it: `6m0s`, `1h2m3.5s`, `350ms`.
fn units(value: &str) -> Option<Duration> {
    let mut rest = value;
    let mut milliseconds = 0.0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let factor = match unit {
            "d" => 86_400_000.0,
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            "s" => 1000.0,
            "ms" => 1.0,
            "us" | "µs" | "μs" => 1e-3,
            "ns" => 1e-6,
            _ => return None,
        };
        milliseconds += plain_number(number)? * factor;
        rest = next;
    }
    (!value.is_empty() && milliseconds < TOO_LARGE).then(|| rounded_up(milliseconds))
}

/// Rounded up: a call must not come a moment too soon.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 1e17, and not negative")]
fn rounded_up(milliseconds: f64) -> Duration {
    // What decimal fractions lose in binary is no millisecond more.
    Duration::from_millis((milliseconds - 1e-4).max(0.0).ceil() as u64)
}

/// A date as HTTP (RFC 9110, 5.6.7), as mail (RFC 5322, with any offset) or as ISO 8601 writes it. Without a time zone it is
/// UTC, as in HTTP.
fn date(value: &str) -> Option<Timestamp> {
    if let Ok(at) = httpdate::parse_http_date(value) {
        let since_epoch = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        return Some(Timestamp::from_millis(0) + since_epoch);
    }
    let universal = ["UTC", "GMT", "UT", "Z"].iter().find_map(|zone| value.strip_suffix(zone));
    if let Some(local) = universal {
        return mail_date(&format!("{} +0000", local.trim_end())).or_else(|| iso_local(local.trim_end()));
    }
    mail_date(value).or_else(|| iso_with_offset(value)).or_else(|| iso_local(value))
}

fn mail_date(value: &str) -> Option<Timestamp> {
    // The day of the week says nothing more, and some have it wrong.
    let value = value.split_once(',').map_or(value, |(_, date)| date);
    Some(DateTime::parse_from_rfc2822(value.trim()).ok()?.to_utc().into())
}

fn iso_with_offset(value: &str) -> Option<Timestamp> {
    let forms = [
        "%Y-%m-%dT%H:%M:%S%.f%#z",
        "%Y-%m-%d %H:%M:%S%.f%#z",
        "%Y-%m-%d %H:%M:%S%.f %#z",
        "%Y-%m-%dT%H:%M%#z",
    ];
    let parsed = forms.iter().find_map(|form| DateTime::parse_from_str(value, form).ok())?;
    Some(parsed.to_utc().into())
}

fn iso_local(value: &str) -> Option<Timestamp> {
    let forms = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M"];
    let parsed = forms.iter().find_map(|form| NaiveDateTime::parse_from_str(value, form).ok())?;
    Some(parsed.and_utc().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2027-01-15T08:00:00Z
    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    #[test]
    fn every_known_form_is_read_and_no_other() {
        let table = [
            ("3", Some(3_000)),
            (" 3 ", Some(3_000)),
            ("0", Some(0)),
            ("2.0", Some(2_000)),
            ("0.35", Some(350)),
            ("0.0001", Some(1)),
            ("86400", Some(86_400_000)),
            ("2678400", Some(2_678_400_000)),
            ("9999999", Some(2_678_400_000)),
            ("1800000007", Some(7_000)),
            ("1800000007.25", Some(7_250)),
            ("1800000007250", Some(7_250)),
            ("1799999990", Some(0)),
            ("6m0s", Some(360_000)),
            ("1h2m3.5s", Some(3_723_500)),
            ("350ms", Some(350)),
            ("12us", Some(1)),
            ("1d2h", Some(93_600_000)),
            ("120s", Some(120_000)),
            ("Fri, 15 Jan 2027 08:00:07 GMT", Some(7_000)),
            ("Friday, 15-Jan-27 08:00:07 GMT", Some(7_000)),
            ("Fri Jan 15 08:00:07 2027", Some(7_000)),
            ("Fri, 15 Jan 2027 10:00:07 +0200", Some(7_000)),
            ("Fri, 15 Jan 2027 03:00:07 -0500", Some(7_000)),
            ("Fri, 15 Jan 2027 08:00:07 UTC", Some(7_000)),
            ("Fri, 15 Jan 2027 08:00:07 Z", Some(7_000)),
            ("15 Jan 2027 08:00:07 +0000", Some(7_000)),
            ("Mon, 15 Jan 2027 08:00:07 GMT", Some(7_000)),
            ("Fri, 15 Jan 2027 07:59:00 GMT", Some(0)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("2027-01-15T08:00:07Z", Some(7_000)),
            ("2027-01-15T08:00:07.5Z", Some(7_500)),
            ("2027-01-15T10:00:07+02:00", Some(7_000)),
            ("2027-01-15T10:00:07+0200", Some(7_000)),
            ("2027-01-15 08:00:07 UTC", Some(7_000)),
            ("2027-01-15 08:00:07 +0000", Some(7_000)),
            ("2027-01-15T08:01Z", Some(60_000)),
            ("2027-01-15T08:00:07.123456", Some(7_123)),
            ("2099-01-01T00:00:00Z", Some(2_678_400_000)),
            ("", None),
            ("soon", None),
            ("-5", None),
            ("+5", None),
            ("1e3", None),
            ("inf", None),
            (".5", None),
            ("5.", None),
            ("1,000", None),
            ("12, 13", None),
            ("5 minutes", None),
            ("5x", None),
            ("s", None),
            ("1800000007250000000", None),
            ("2027-13-15T08:00:07Z", None),
            ("32 Jan 2027 08:00:07 GMT", None),
        ];
        for (value, milliseconds) in table {
            let read = parse(value, Unit::Seconds, NOW).map(|wait| wait.as_millis());
            assert_eq!(read, milliseconds, "{value:?}");
        }
    }

    #[test]
    fn a_number_is_what_its_header_says() {
        let read = |value, unit| parse(value, unit, NOW).map(|wait| wait.as_millis());
        assert_eq!(read("350", Unit::Milliseconds), Some(350));
        assert_eq!(read("3600000", Unit::Milliseconds), Some(3_600_000));
        assert_eq!(read("1800000007250", Unit::Milliseconds), Some(7_250));
        assert_eq!(read("86400", Unit::Unstated), Some(86_400_000));
        assert_eq!(read("3600000", Unit::Unstated), Some(3_600_000), "41 days are no pause, an hour is");
        assert_eq!(read("1800000007", Unit::Unstated), Some(7_000));
    }
}
