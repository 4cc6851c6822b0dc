//! What goes wrong, and how often.

use serde::{Deserialize, Serialize};

/// How a 429 says how long to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// `Retry-After` in whole seconds.
    #[default]
    Seconds,
    /// Not at all.
    Nothing,
}

/// Shares between 0 and 1 of calls that go wrong, and delays. The first share that strikes decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Faults {
    /// Milliseconds before each answer.
    pub latency_ms: u64,
    /// Up to so many more, at random.
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
}
