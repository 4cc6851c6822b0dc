//! What an API says is left of its limits, on any answer: read before it refuses anything.
//!
//! `RateLimit` and `RateLimit-Policy` of the standard's drafts, `X-RateLimit-Remaining` with `-Reset` and `-Limit` and their like.
//! The forms of values are those of [`crate::retry_after`].

use std::collections::BTreeMap;
use std::time::Duration;

use penstock_domain::time::Timestamp;

use crate::delay;
use crate::retry_after::{Limit, limits_of};

/// What is left of the scarcest of an API's limits of calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Calls that are left.
    pub left: f64,
    /// In what time the limit is whole again; above 0.
    pub reset: Duration,
    /// Calls of the whole limit, where that is known.
    pub quota: Option<f64>,
}

/// The budget that an answer tells of; none when it tells of none that counts calls, or not when it ends. Of several that `matters`
/// takes the one of which least is left.
pub fn read(
    headers: &BTreeMap<String, String>,
    now: Timestamp,
    matters: impl Fn(&Budget) -> bool,
) -> Option<Budget> {
    if !headers.keys().any(|name| name.contains("ratelimit") || name.contains("rate-limit")) {
        return None;
    }
    let policy = headers.get("ratelimit-policy").and_then(|policy| quota(policy));
    let budget = |limit: Limit| {
        let left = limit.left.filter(|_| !limit.weighed)?;
        let reset = limit.reset.filter(|reset| !reset.is_zero())?;
        Some(Budget { left, reset, quota: limit.quota.or(policy) })
    };
    limits_of(headers, now)
        .into_iter()
        .filter_map(budget)
        .filter(matters)
        .min_by(|a, b| a.left.total_cmp(&b.left).then(b.reset.cmp(&a.reset)))
}

/// The quota of the only policy: of several nobody says which one the answer is about.
fn quota(policy: &str) -> Option<f64> {
    if policy.contains(',') {
        return None;
    }
    let quota = policy.split(';').find_map(|part| part.trim().strip_prefix("q="));
    quota.or_else(|| policy.split(';').next()).and_then(|quota| delay::plain_number(quota.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2027-01-15T08:00:00Z
    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    #[test]
    fn every_dialect_tells_what_is_left() {
        let some = |left: f64, millis: u64, quota: Option<f64>| {
            Some(Budget { left, reset: Duration::from_millis(millis), quota })
        };
        for (headers, budget) in [
            (vec![("ratelimit", "\"default\";r=50;t=30")], some(50.0, 30_000, None)),
            (
                vec![("ratelimit", "\"default\";r=50;t=30"), ("ratelimit-policy", "\"default\";q=100;w=60")],
                some(50.0, 30_000, Some(100.0)),
            ),
            (vec![("ratelimit", "\"hour\";r=900;t=3000, \"second\";r=2;t=1")], some(2.0, 1_000, None)),
            (vec![("ratelimit", "limit=100, remaining=7, reset=9")], some(7.0, 9_000, Some(100.0))),
            (
                vec![
                    ("ratelimit-limit", "100, 100;w=60"),
                    ("ratelimit-remaining", "5"),
                    ("ratelimit-reset", "6"),
                ],
                some(5.0, 6_000, Some(100.0)),
            ),
            (
                vec![
                    ("ratelimit-remaining", "5"),
                    ("ratelimit-reset", "6"),
                    ("ratelimit-policy", "100;w=60"),
                ],
                some(5.0, 6_000, Some(100.0)),
            ),
            (
                vec![
                    ("x-ratelimit-limit", "60"),
                    ("x-ratelimit-remaining", "59"),
                    ("x-ratelimit-reset", "1800000012"),
                ],
                some(59.0, 12_000, Some(60.0)),
            ),
            (
                vec![("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1800000012500")],
                some(0.0, 12_500, None),
            ),
            (vec![("x-ratelimit-remaining", "3"), ("x-ratelimit-reset", "0.5")], some(3.0, 500, None)),
            (vec![("x-ratelimit-remaining", "3"), ("x-ratelimit-reset-ms", "1500")], some(3.0, 1_500, None)),
            (
                vec![("x-ratelimit-remaining", "3"), ("x-ratelimit-reset", "Fri, 15 Jan 2027 08:00:12 GMT")],
                some(3.0, 12_000, None),
            ),
            (vec![("x-rate-limit-remaining", "3"), ("x-rate-limit-reset", "8")], some(3.0, 8_000, None)),
            (
                vec![
                    ("x-ratelimit-limit-requests", "5000"),
                    ("x-ratelimit-remaining-requests", "4999"),
                    ("x-ratelimit-reset-requests", "6m0s"),
                    ("x-ratelimit-remaining-tokens", "0"),
                    ("x-ratelimit-reset-tokens", "1s"),
                ],
                some(4999.0, 360_000, Some(5000.0)),
            ),
            // Nothing that can be kept to.
            (vec![("x-ratelimit-remaining", "3")], None),
            (vec![("x-ratelimit-remaining", "3"), ("x-ratelimit-reset", "1799999000")], None),
            (vec![("x-ratelimit-remaining", "some"), ("x-ratelimit-reset", "5")], None),
            (vec![("x-ratelimit-remaining", "-1"), ("x-ratelimit-reset", "5")], None),
            (vec![("x-ratelimit-remaining", "3"), ("x-ratelimit-reset", "tomorrow")], None),
            (vec![("x-remaining", "3"), ("x-reset", "5")], None),
            (vec![("retry-after", "5")], None),
        ] {
            let map = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(read(&map, NOW, |_| true), budget, "{headers:?}");
        }
    }
}
