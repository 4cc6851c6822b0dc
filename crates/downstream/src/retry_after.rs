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
    let reset = headers
        .get("ratelimit")
        .and_then(|value| parameter(value, "t").or_else(|| parameter(value, "reset")))
        .or_else(|| headers.get("ratelimit-reset").cloned())
        .or_else(|| headers.get("x-ratelimit-reset").cloned())?;
    let seconds = reset.trim().parse::<u64>().ok()?;
    // Some servers give the moment instead of the seconds until it.
    let now_seconds = u64::try_from(now.seconds()).unwrap_or(0);
    let pause = if seconds > 1_000_000_000 { seconds.saturating_sub(now_seconds) } else { seconds };
    Some(now + Duration::from_secs(pause).min(LONGEST))
}

fn nothing_left(headers: &BTreeMap<String, String>) -> bool {
    let remaining = headers
        .get("ratelimit")
        .and_then(|value| parameter(value, "r").or_else(|| parameter(value, "remaining")))
        .or_else(|| headers.get("ratelimit-remaining").cloned())
        .or_else(|| headers.get("x-ratelimit-remaining").cloned());
    remaining.is_some_and(|remaining| remaining.trim() == "0")
}

/// A parameter of a structured field: `"default";r=0;t=30` or `limit=100, remaining=0, reset=30`.
fn parameter(value: &str, name: &str) -> Option<String> {
    value.split([';', ',']).find_map(|part| {
        let (key, value) = part.trim().split_once('=')?;
        (key == name).then(|| value.trim().to_owned())
    })
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
            (vec![("ratelimit-reset", "5")], Some(5)),
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
        assert_eq!(until(503, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "3")]), Some(3));
        assert_eq!(until(200, &[("retry-after", "3")]), None);
    }
}
