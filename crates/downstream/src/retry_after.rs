//! How long an answer asks to wait.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use penstock_domain::time::Timestamp;

/// No answer holds a dependency up for longer.
const LONGEST: Duration = Duration::from_secs(3600);

/// `Retry-After`: seconds or an HTTP date (RFC 9110, 10.2.3). `longest` at the most; none when it cannot be read.
pub fn retry_after(value: &str, now: Timestamp, longest: Duration) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(longest));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    let at = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let at = Timestamp::from_millis(i64::try_from(at.as_millis()).ok()?);
    Some(at.since(now).min(longest))
}

/// Until when an answer of this status asks to wait, by `Retry-After` or, when it says that nothing is left, by the
/// RateLimit headers (draft-ietf-httpapi-ratelimit-headers, and the older `X-RateLimit-*`).
pub fn wait_until(status: u16, headers: &BTreeMap<String, String>, now: Timestamp) -> Option<Timestamp> {
    if !matches!(status, 429 | 503) {
        return None;
    }
    if let Some(pause) = headers.get("retry-after").and_then(|value| retry_after(value, now, LONGEST)) {
        return Some(now + pause);
    }
    // A 503 is about the limit only when the headers say that nothing of it is left.
    if status != 429 && !nothing_left(headers) {
        return None;
    }
    let reset = limits(headers)
        .and_then(|limits| limits.reset())
        .or_else(|| number(headers.get("ratelimit-reset")))
        .or_else(|| number(headers.get("x-ratelimit-reset")));
    let seconds = reset?;
    // Some servers give the moment instead of the seconds until it.
    let now_seconds = u64::try_from(now.seconds()).unwrap_or(0);
    let pause = if seconds > 1_000_000_000 { seconds.saturating_sub(now_seconds) } else { seconds };
    Some(now + Duration::from_secs(pause).min(LONGEST))
}

fn nothing_left(headers: &BTreeMap<String, String>) -> bool {
    let told = limits(headers).filter(Limits::tells_what_is_left);
    told.map(|limits| limits.used_up().next().is_some()).unwrap_or_else(|| {
        number(headers.get("ratelimit-remaining")).or_else(|| number(headers.get("x-ratelimit-remaining")))
            == Some(0)
    })
}

fn number(value: Option<&String>) -> Option<u64> {
    value?.trim().parse().ok()
}

/// What `RateLimit` says: of each policy, what is left and in how many seconds it is whole again.
struct Limits(Vec<Limit>);

#[derive(Clone, Copy)]
struct Limit {
    left: Option<u64>,
    reset: Option<u64>,
}

fn limits(headers: &BTreeMap<String, String>) -> Option<Limits> {
    headers.get("ratelimit").map(|value| Limits::of(value))
}

impl Limits {
    /// A list of policies, `"hour";r=900;t=3000, "second";r=0;t=1`; or, as older drafts had it, the one that is closest to
    /// its end: `limit=100, remaining=0, reset=30`.
    fn of(value: &str) -> Self {
        let limit =
            |item: &str, left, reset| Limit { left: parameter(item, left), reset: parameter(item, reset) };
        let mut limits: Vec<Limit> =
            split(value, ',').into_iter().map(|item| limit(item, "r", "t")).collect();
        limits.retain(|limit| limit.left.is_some() || limit.reset.is_some());
        if limits.is_empty() {
            limits.push(limit(value, "remaining", "reset"));
        }
        Self(limits)
    }

    fn tells_what_is_left(&self) -> bool {
        self.0.iter().any(|limit| limit.left.is_some())
    }

    fn used_up(&self) -> impl Iterator<Item = &Limit> {
        self.0.iter().filter(|limit| limit.left == Some(0))
    }

    /// When a call passes all policies again. A policy of which something is left holds nothing up, unless there is no
    /// other that could have refused the call.
    fn reset(&self) -> Option<u64> {
        if self.used_up().next().is_some() {
            self.used_up().filter_map(|limit| limit.reset).max()
        } else {
            self.0.iter().find_map(|limit| limit.reset)
        }
    }
}

/// A whole number among the parameters of a structured field (RFC 9651).
fn parameter(item: &str, name: &str) -> Option<u64> {
    split(item, ';').into_iter().flat_map(|part| split(part, ',')).find_map(|part| {
        let (key, value) = part.split_once('=')?;
        (key.trim() == name).then(|| value.trim().parse().ok())?
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn until(status: u16, headers: &[(&str, &str)]) -> Option<u128> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        wait_until(status, &headers, NOW).map(|at| at.since(NOW).as_secs().into())
    }

    #[test]
    fn every_way_to_say_it() {
        let date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_007));
        for (headers, seconds) in [
            (vec![("retry-after", "3")], Some(3)),
            (vec![("retry-after", date.as_str())], Some(7)),
            (vec![("retry-after", "999999")], Some(3600)),
            (vec![("ratelimit", "\"default\";r=0;t=30")], Some(30)),
            (vec![("ratelimit", "limit=100, remaining=0, reset=9")], Some(9)),
            // Of several policies those hold up of which nothing is left.
            (vec![("ratelimit", "\"hour\";r=900;t=3000, \"second\";r=0;t=1")], Some(1)),
            (vec![("ratelimit", "\"second\";r=0;t=1, \"hour\";r=900;t=3000")], Some(1)),
            (vec![("ratelimit", "\"second\";r=0;t=1, \"minute\";r=0;t=40,\"day\";r=5;t=80000")], Some(40)),
            (vec![("ratelimit", "\"hour\";r=900;t=3000, \"second\";r=0")], None),
            (vec![("ratelimit", "\"hour\";r=900;t=3000, \"second\";r=0"), ("ratelimit-reset", "2")], Some(2)),
            (vec![("ratelimit", "\"default\";r=7;t=3")], Some(3)),
            (vec![("ratelimit", "\"default\";t=4")], Some(4)),
            (vec![("ratelimit", "\"a;r=0;t=9, \\\"b\";r=1;t=5, second;r=0;t=2")], Some(2)),
            (vec![("ratelimit", "\"second\";r=0;t=soon")], None),
            (vec![("ratelimit-reset", "5")], Some(5)),
            (
                vec![("ratelimit-limit", "100"), ("ratelimit-remaining", "0"), ("ratelimit-reset", "6")],
                Some(6),
            ),
            (vec![("ratelimit-limit", "100, 100;w=60"), ("ratelimit-reset", "8")], Some(8)),
            (vec![("x-ratelimit-reset", "1800000012")], Some(12)),
            (vec![("retry-after", "soon")], None),
            (vec![], None),
        ] {
            assert_eq!(until(429, &headers), seconds, "{headers:?}");
        }
        assert_eq!(until(503, &[("retry-after", "3")]), Some(3));
        assert_eq!(until(503, &[("ratelimit-reset", "3")]), None);
        assert_eq!(until(503, &[("ratelimit", "\"default\";r=7;t=3")]), None);
        assert_eq!(until(503, &[("ratelimit", "\"default\";r=0;t=3")]), Some(3));
        let two = "\"hour\";r=900;t=3000, \"second\";r=0;t=1";
        assert_eq!(until(503, &[("ratelimit", two)]), Some(1));
        assert_eq!(until(503, &[("ratelimit", "\"hour\";r=900;t=3000, \"second\";r=3;t=1")]), None);
        assert_eq!(until(503, &[("ratelimit", "limit=100, remaining=0, reset=9")]), Some(9));
        assert_eq!(until(503, &[("ratelimit", "limit=100, remaining=2, reset=9")]), None);
        assert_eq!(until(503, &[("ratelimit-remaining", "0"), ("ratelimit-reset", "3")]), Some(3));
        assert_eq!(until(503, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "3")]), Some(3));
        assert_eq!(until(200, &[("retry-after", "3")]), None);
    }
}
