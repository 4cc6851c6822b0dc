//! How long an answer asks to wait: `Retry-After`, and the rate-limit headers of the standard's drafts and of vendors.

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_domain::time::Timestamp;

use crate::delay::{self, Unit};

/// How long an answer of any status asks to wait by its `Retry-After`: seconds or an HTTP date (RFC 9110, 10.2.3), and the other forms
/// that are in use. 31 days at most; none when its form is not known. A date is compared to the clock that wrote it, that of the
/// answer's `Date`.
pub fn asked_pause(headers: &BTreeMap<String, String>, now: Timestamp) -> Option<Duration> {
    delay::parse(headers.get("retry-after")?, Unit::Seconds, server_now(headers, now))
}

/// Until when an answer of this status asks to wait: by `Retry-After` or, when a limit is used up, by the headers that say
/// when it is whole again.
pub fn wait_until(status: u16, headers: &BTreeMap<String, String>, now: Timestamp) -> Option<Timestamp> {
    if !matches!(status, 408 | 409 | 425 | 429 | 500..=599) {
        return None;
    }
    let server_now = server_now(headers, now);
    let asked = asked_pause(headers, now).or_else(|| vendors_retry_after(headers, server_now));
    let wait = asked.or_else(|| {
        // Only a 429 is about a limit in any case.
        let limits = limits(headers, server_now);
        let about_limits =
            status == 429 || matches!(status, 503 | 529) && limits.iter().any(Limit::is_used_up);
        if about_limits { reset(&limits) } else { None }
    })?;
    Some(now + wait)
}

/// A date is compared to the clock that wrote it.
fn server_now(headers: &BTreeMap<String, String>, now: Timestamp) -> Timestamp {
    let date = headers.get("date").and_then(|date| httpdate::parse_http_date(date).ok());
    date.and_then(|date| date.duration_since(std::time::SystemTime::UNIX_EPOCH).ok())
        .map_or(now, |since_epoch| Timestamp::from_millis(0) + since_epoch)
}

/// The limits that an answer of any status tells of.
pub(crate) fn limits_of(headers: &BTreeMap<String, String>, now: Timestamp) -> Vec<Limit> {
    limits(headers, server_now(headers, now))
}

/// `Retry-After-Ms`, `X-Rate-Limit-Retry-After-Seconds` and the like.
fn vendors_retry_after(headers: &BTreeMap<String, String>, server_now: Timestamp) -> Option<Duration> {
    headers.iter().filter(|(name, _)| name.contains("retry-after") && *name != "retry-after").find_map(
        |(name, value)| {
            let unit = if counts_milliseconds(name) { Unit::Milliseconds } else { Unit::Seconds };
            delay::parse(value, unit, server_now)
        },
    )
}

fn counts_milliseconds(name: &str) -> bool {
    name.split('-').any(|word| matches!(word, "ms" | "millis" | "milliseconds"))
}

/// What is known of one of an API's limits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limit {
    /// What is left of it.
    pub left: Option<f64>,
    /// In what time it is whole again.
    pub reset: Option<Duration>,
    /// What it is when it is whole.
    pub quota: Option<f64>,
    /// It does not count calls but what they take of something: one can want more than is left.
    pub weighed: bool,
}

impl Limit {
    fn is_used_up(&self) -> bool {
        self.left == Some(0.0)
    }
}

/// When a call passes all limits again. A limit of calls of which something is left has refused none: that was another one,
/// of which nothing is said. Of what calls are weighed by, less can be left than this one wanted.
fn reset(limits: &[Limit]) -> Option<Duration> {
    let used_up = || limits.iter().filter(|limit| limit.is_used_up());
    if let Some(last) = used_up().filter_map(|limit| limit.reset).max() {
        return Some(last);
    }
    let unknown = limits.iter().filter(|limit| limit.left.is_none());
    if let Some(first) = unknown.filter_map(|limit| limit.reset).min() {
        return Some(first);
    }
    if used_up().next().is_some() {
        return None;
    }
    let scarcest = limits
        .iter()
        .filter(|limit| limit.weighed && limit.reset.is_some())
        .min_by(|a, b| a.left.unwrap_or(0.0).total_cmp(&b.left.unwrap_or(0.0)));
    scarcest.and_then(|limit| limit.reset)
}

fn limits(headers: &BTreeMap<String, String>, server_now: Timestamp) -> Vec<Limit> {
    let mut limits = headers.get("ratelimit").map(|value| policies(value, server_now)).unwrap_or_default();
    limits.extend(by_header(headers, server_now).into_values());
    limits
}

/// `RateLimit` (draft-ietf-httpapi-ratelimit-headers): a list of policies, `"hour";r=900;t=3000, "second";r=0;t=1`; or, as older
/// drafts had it, the one that is closest to its end: `limit=100, remaining=0, reset=30`.
fn policies(value: &str, server_now: Timestamp) -> Vec<Limit> {
    let limit = |item: &str, left, reset| Limit {
        left: parameter(item, left).and_then(delay::plain_number),
        reset: parameter(item, reset).and_then(|value| delay::parse(value, Unit::Unstated, server_now)),
        quota: parameter(item, "limit").and_then(delay::plain_number),
        weighed: is_weighed(item),
    };
    let mut limits: Vec<Limit> = split(value, ',').into_iter().map(|item| limit(item, "r", "t")).collect();
    limits.retain(|limit| limit.left.is_some() || limit.reset.is_some());
    if limits.is_empty() {
        limits.push(limit(value, "remaining", "reset"));
    }
    limits
}

/// A parameter of a structured field (RFC 9651).
fn parameter<'a>(item: &'a str, name: &str) -> Option<&'a str> {
    split(item, ';').into_iter().flat_map(|part| split(part, ',')).find_map(|part| {
        let (key, value) = part.split_once('=')?;
        (key.trim() == name).then_some(value.trim())
    })
}

/// Splits outside of quoted strings: a policy's name may be any.
fn split(value: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    value
        .split(|c: char| {
            let plain = !std::mem::take(&mut escaped);
            match c {
                '"' if plain => quoted = !quoted,
                '\\' if plain && quoted => escaped = true,
                _ => {}
            }
            c == separator && !quoted
        })
        .collect()
}

/// Whether a limit's name says that it counts no calls.
fn is_weighed(name: &str) -> bool {
    const WEIGHTS: [&str; 6] = ["token", "point", "cost", "unit", "credit", "byte"];
    name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| {
        WEIGHTS.iter().any(|weight| word.strip_suffix('s').unwrap_or(word).eq_ignore_ascii_case(weight))
    })
}

/// Limits with a header for each of their properties: `X-RateLimit-Remaining` and `-Reset`, `RateLimit-Reset`,
/// `X-Rate-Limit-Reset-After`, `X-RateLimit-Reset-Tokens`, `Vendor-RateLimit-Requests-Reset`. Headers whose names differ in
/// nothing else are about one limit.
fn by_header(headers: &BTreeMap<String, String>, server_now: Timestamp) -> BTreeMap<String, Limit> {
    let mut limits: BTreeMap<String, Limit> = BTreeMap::new();
    for (name, value) in headers {
        let words = name.replace("rate-limit", "ratelimit");
        if !words.split('-').any(|word| word == "ratelimit") {
            continue;
        }
        let has = |wanted: &[&str]| words.split('-').any(|word| wanted.contains(&word));
        // A value may have parameters: `0;w=60`.
        let value = value.split(';').next().unwrap_or_default();
        let scope = || {
            const PROPERTY: [&str; 11] = [
                "x",
                "limit",
                "remaining",
                "remain",
                "reset",
                "after",
                "at",
                "ms",
                "millis",
                "milliseconds",
                "seconds",
            ];
            let own: Vec<&str> = words.split('-').filter(|word| !PROPERTY.contains(word)).collect();
            own.join("-")
        };
        if is_weighed(&words) {
            limits.entry(scope()).or_default().weighed = true;
        }
        if has(&["limit"]) {
            let quota = value.split(',').next().unwrap_or_default();
            limits.entry(scope()).or_default().quota = delay::plain_number(quota.trim());
        } else if has(&["remaining", "remain"]) {
            limits.entry(scope()).or_default().left = delay::plain_number(value.trim());
        } else if has(&["reset"]) {
            let unit = if counts_milliseconds(&words) { Unit::Milliseconds } else { Unit::Unstated };
            let limit = limits.entry(scope()).or_default();
            limit.reset = limit.reset.max(delay::parse(value, unit, server_now));
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2027-01-15T08:00:00Z
    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const DAY: u64 = 86_400_000;

    /// Milliseconds from now.
    fn until(status: u16, headers: &[(&str, &str)]) -> Option<u64> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        wait_until(status, &headers, NOW).map(|at| u64::try_from(at.since(NOW).as_millis()).unwrap())
    }

    #[test]
    fn retry_after_is_read_in_every_form_and_holds_as_long_as_it_asks() {
        for (headers, wait) in [
            (vec![("retry-after", "3")], Some(3_000)),
            (vec![("retry-after", "2.0")], Some(2_000)),
            (vec![("retry-after", "0.35")], Some(350)),
            (vec![("retry-after", "86400")], Some(DAY)),
            (vec![("retry-after", "99999999")], Some(31 * DAY)),
            (vec![("retry-after", "Fri, 15 Jan 2027 08:00:07 GMT")], Some(7_000)),
            (vec![("retry-after", "Fri, 15 Jan 2027 10:00:07 +0200")], Some(7_000)),
            (vec![("retry-after", "Fri, 15 Jan 2027 08:00:07 UTC")], Some(7_000)),
            (vec![("retry-after", "Fri, 15 Jan 2027 07:00:00 GMT")], Some(0)),
            (vec![("retry-after", "soon")], None),
            (vec![("retry-after", "soon"), ("x-ratelimit-reset", "4")], Some(4_000)),
            (vec![("retry-after-ms", "350")], Some(350)),
            (vec![("x-ms-retry-after-ms", "1200")], Some(1_200)),
            (vec![("x-rate-limit-retry-after-seconds", "9")], Some(9_000)),
            (vec![("retry-after", "1"), ("retry-after-ms", "350")], Some(1_000)),
            (vec![], None),
        ] {
            assert_eq!(until(429, &headers), wait, "{headers:?}");
        }
    }

    #[test]
    fn a_date_is_compared_to_the_clock_that_wrote_it() {
        // The server's clock is an hour ahead of ours.
        let date = ("date", "Fri, 15 Jan 2027 09:00:00 GMT");
        assert_eq!(until(429, &[date, ("retry-after", "Fri, 15 Jan 2027 09:00:05 GMT")]), Some(5_000));
        assert_eq!(until(429, &[date, ("x-ratelimit-reset", "1800003605")]), Some(5_000));
        assert_eq!(until(429, &[date, ("retry-after", "5")]), Some(5_000));
        let asked = [date, ("retry-after", "Fri, 15 Jan 2027 09:00:05 GMT")];
        let asked = asked.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(asked_pause(&asked, NOW), Some(Duration::from_secs(5)), "of whatever status");
        assert_eq!(until(429, &[("date", "now"), ("x-ratelimit-reset", "1800000005")]), Some(5_000));
    }

    #[test]
    fn resets_are_read_in_every_form() {
        for (name, value, wait) in [
            ("ratelimit-reset", "5", Some(5_000)),
            ("x-ratelimit-reset", "5.5", Some(5_500)),
            ("x-ratelimit-reset", "1800000012", Some(12_000)),
            ("x-ratelimit-reset", "1800000012.5", Some(12_500)),
            ("x-ratelimit-reset", "1800000012500", Some(12_500)),
            ("x-ratelimit-reset", "2027-01-15T08:00:12Z", Some(12_000)),
            ("x-ratelimit-reset", "2027-01-15T08:01Z", Some(60_000)),
            ("x-ratelimit-reset", "Fri, 15 Jan 2027 08:00:12 GMT", Some(12_000)),
            ("x-ratelimit-reset", "6m0s", Some(360_000)),
            ("x-ratelimit-reset", "7200", Some(7_200_000)),
            ("x-ratelimit-reset", "1799999000", Some(0)),
            ("x-ratelimit-reset", "tomorrow", None),
            ("x-ratelimit-reset", "-1", None),
            ("x-rate-limit-reset", "1800000012", Some(12_000)),
            ("x-rate-limit-reset", "8", Some(8_000)),
            ("x-ratelimit-reset-after", "1.234", Some(1_234)),
            ("x-rate-limit-reset-after", "3", Some(3_000)),
            ("x-ratelimit-reset-ms", "1500", Some(1_500)),
            ("x-ratelimit-reset-requests", "1s", Some(1_000)),
            ("x-ratelimit-reset-tokens", "6m0s", Some(360_000)),
            ("x-ratelimit-requests-reset", "1800000012500", Some(12_500)),
            ("anthropic-ratelimit-input-tokens-reset", "2027-01-15T08:00:03Z", Some(3_000)),
            ("x-contentful-ratelimit-reset", "1", Some(1_000)),
            ("x-ratelimit-limit", "100", None),
            ("x-reset", "5", None),
        ] {
            assert_eq!(until(429, &[(name, value)]), wait, "{name}: {value}");
        }
    }

    #[test]
    fn of_several_limits_the_one_that_is_used_up_counts() {
        for (headers, seconds) in [
            (vec![("ratelimit", "\"default\";r=0;t=30")], Some(30)),
            (vec![("ratelimit", "limit=100, remaining=0, reset=9")], Some(9)),
            (vec![("ratelimit", "\"hour\";r=900;t=3000, \"second\";r=0;t=1")], Some(1)),
            (vec![("ratelimit", "\"second\";r=0;t=1, \"hour\";r=900;t=3000")], Some(1)),
            (vec![("ratelimit", "\"second\";r=0;t=1, \"minute\";r=0;t=40,\"day\";r=5;t=80000")], Some(40)),
            (vec![("ratelimit", "\"hour\";r=900;t=3000, \"second\";r=0")], None),
            (vec![("ratelimit", "\"hour\";r=900;t=3000, \"second\";r=0"), ("ratelimit-reset", "2")], Some(2)),
            (vec![("ratelimit", "\"default\";r=7;t=3")], None),
            (vec![("ratelimit", "\"tokens\";r=7;t=3")], Some(3)),
            (vec![("x-ratelimit-remaining", "5"), ("x-ratelimit-reset", "3600")], None),
            (vec![("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "3600")], Some(3600)),
            (vec![("ratelimit", "limit=100, remaining=5, reset=9")], None),
            (vec![("ratelimit", "\"default\";t=4")], Some(4)),
            (vec![("ratelimit", "\"a;r=0;t=9, \\\"b\";r=1;t=5, second;r=0;t=2")], Some(2)),
            (vec![("ratelimit", "\"second\";r=0;t=soon")], None),
            (
                vec![("ratelimit-limit", "100"), ("ratelimit-remaining", "0"), ("ratelimit-reset", "6")],
                Some(6),
            ),
            (vec![("ratelimit-limit", "100, 100;w=60"), ("ratelimit-reset", "8")], Some(8)),
            (vec![("ratelimit-remaining", "0;w=60"), ("ratelimit-reset", "6;w=60")], Some(6)),
            (
                vec![
                    ("x-ratelimit-remaining-requests", "4999"),
                    ("x-ratelimit-reset-requests", "8h"),
                    ("x-ratelimit-remaining-tokens", "0"),
                    ("x-ratelimit-reset-tokens", "6m0s"),
                ],
                Some(360),
            ),
            // Neither is at its end, but this call wanted more than one of them has.
            (
                vec![
                    ("x-ratelimit-remaining-requests", "4999"),
                    ("x-ratelimit-reset-requests", "8h"),
                    ("x-ratelimit-remaining-tokens", "12"),
                    ("x-ratelimit-reset-tokens", "2s"),
                ],
                Some(2),
            ),
            (vec![("x-ratelimit-reset-day", "80000"), ("x-ratelimit-reset-minute", "20")], Some(20)),
            (vec![("x-ratelimit-remain", "0"), ("x-ratelimit-reset", "1800000300")], Some(300)),
            (vec![("x-ratelimit-reset", "1800000005"), ("x-ratelimit-reset-after", "5.0")], Some(5)),
        ] {
            assert_eq!(until(429, &headers), seconds.map(|s: u64| s * 1000), "{headers:?}");
        }
    }

    #[test]
    fn other_statuses_ask_to_wait_as_well() {
        for status in [408, 409, 425, 429, 500, 502, 503, 504, 529, 599] {
            assert_eq!(until(status, &[("retry-after", "3")]), Some(3_000), "{status}");
        }
        for status in [200, 202, 301, 400, 403, 404, 422] {
            assert_eq!(until(status, &[("retry-after", "3")]), None, "{status}");
        }
        let used_up = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "3")];
        for (status, wait) in
            [(429, Some(3_000)), (503, Some(3_000)), (529, Some(3_000)), (500, None), (502, None)]
        {
            assert_eq!(until(status, &used_up), wait, "{status}");
        }
        assert_eq!(until(503, &[("ratelimit-reset", "3")]), None);
        assert_eq!(until(503, &[("ratelimit", "\"default\";r=7;t=3")]), None);
        assert_eq!(until(503, &[("ratelimit", "\"default\";r=0;t=3")]), Some(3_000));
        let two = "\"hour\";r=900;t=3000, \"second\";r=0;t=1";
        assert_eq!(until(503, &[("ratelimit", two)]), Some(1_000));
        assert_eq!(until(503, &[("ratelimit", "\"hour\";r=900;t=3000, \"second\";r=3;t=1")]), None);
        assert_eq!(until(503, &[("ratelimit", "limit=100, remaining=0, reset=9")]), Some(9_000));
        assert_eq!(until(503, &[("ratelimit", "limit=100, remaining=2, reset=9")]), None);
    }
}
