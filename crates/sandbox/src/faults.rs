//! What goes wrong, and how often.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix_web::http::header::HttpDate;
use serde::{Deserialize, Serialize};

/// How a 429 says how long to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// `Retry-After` in whole seconds.
    #[default]
    Seconds,
    /// `Retry-After` as an HTTP date (RFC 9110, 10.2.3).
    Date,
    /// `RateLimit`, without a `Retry-After` (draft-ietf-httpapi-ratelimit-headers).
    RateLimit,
    /// The older `X-RateLimit-Remaining` and `X-RateLimit-Reset`, a Unix time.
    Reset,
    /// Not at all.
    Nothing,
}

impl Wait {
    /// The headers that say so of this many whole seconds.
    pub fn headers(self, seconds: u64) -> Vec<(&'static str, String)> {
        let then = SystemTime::now() + Duration::from_secs(seconds);
        match self {
            Self::Seconds => vec![("retry-after", seconds.to_string())],
            // A date is cut to whole seconds: one more, so that it is never too early.
            Self::Date => vec![("retry-after", HttpDate::from(then + Duration::from_secs(1)).to_string())],
            Self::RateLimit => vec![("ratelimit", format!("\"default\";r=0;t={seconds}"))],
            Self::Reset => {
                let reset = then.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() + 1);
                vec![("x-ratelimit-remaining", "0".to_owned()), ("x-ratelimit-reset", reset.to_string())]
            }
            Self::Nothing => Vec::new(),
        }
    }
}

/// Shares between 0 and 1 of calls that go wrong, and delays. The first share that strikes decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Faults {
    /// Milliseconds before each answer.
    pub latency_ms: u64,
    /// Up to this many more, at random.
    pub jitter_ms: u64,
    /// Answers 500, without an effect.
    pub error: f64,
    /// Has its effect, then breaks the connection off.
    pub drop_after: f64,
    /// Breaks the connection off without an effect.
    pub drop_before: f64,
    /// Answers 200 with something that is not JSON, without an effect.
    pub garbage: f64,
    /// Answers 429 although no limit was passed.
    pub throttle: f64,
    /// Hangs for `hang_ms`, without an effect, then answers 500.
    pub hang: f64,
    /// How long a hang lasts.
    pub hang_ms: u64,
    /// How a 429 says how long to wait.
    pub wait: Wait,
    /// How many seconds a person asks to wait who is always refused, see [`crate::server`].
    pub wait_seconds: u64,
}
