//! A token bucket: it holds as many tokens as it gains in a minute.

use std::time::Duration;

/// How long an empty bucket takes to fill.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// A bucket, at a time since the process began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    tokens: f64,
    at: Duration,
    quota: u32,
}

impl TokenBucket {
    /// A full one. `quota` is not 0.
    pub fn full(quota: u32, now: Duration) -> Self {
        Self { tokens: f64::from(quota), at: now, quota }
    }

    /// Adds what it has gained.
    pub fn refill(&mut self, now: Duration) {
        let gained = now.saturating_sub(self.at).as_secs_f64() * self.per_second();
        self.tokens = (self.tokens + gained).min(f64::from(self.quota));
        self.at = now;
    }

    /// Takes a token; false when there is none.
    pub fn take(&mut self) -> bool {
        let has = self.has_token();
        if has {
            self.tokens -= 1.0;
        }
        has
    }

    /// Puts a token back.
    pub fn refund(&mut self) {
        self.tokens = (self.tokens + 1.0).min(f64::from(self.quota));
    }

    pub fn has_token(&self) -> bool {
        self.tokens >= 1.0
    }

    pub fn is_full(&self) -> bool {
        self.tokens >= f64::from(self.quota)
    }

    pub fn quota(&self) -> u32 {
        self.quota
    }

    /// Whole tokens.
    pub fn remaining(&self) -> u32 {
        self.tokens as u32
    }

    /// Seconds until it has one more, rounded up.
    pub fn seconds_to_next(&self) -> u32 {
        let missing = self.tokens.floor() + 1.0 - self.tokens;
        (missing / self.per_second()).ceil().max(1.0) as u32
    }

    fn per_second(&self) -> f64 {
        f64::from(self.quota) / WINDOW.as_secs_f64()
    }
}
