//! How often a dependency may be called.

use std::time::Duration;

use chrono_tz::Tz;

use super::template::Template;

/// Calls in a period, and how many of them may come at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Rate {
    /// Tells it apart from the other limits of its dependency, whatever their order and their numbers.
    pub id: String,
    /// The name of the costs that count; none: each call counts.
    pub name: Option<String>,
    /// Calls in a period.
    pub limit: u32,
    /// The period.
    pub period: Duration,
    /// Calls at once after a quiet time.
    pub burst: u32,
    /// What a period is.
    pub window: Window,
    /// Whether each owner has a rate of its own.
    pub per_owner: bool,
    /// The value of which each has a rate of its own.
    pub per: Option<Per>,
}

/// What a period is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// In any time t at most burst + limit / period · t.
    Bucket,
    /// In any period at most the limit.
    Sliding,
    /// In each period of the calendar at most the limit.
    Calendar {
        /// The time zone whose calendar it is.
        zone: Tz,
        /// Whether calls are spread over a period evenly.
        spread: bool,
    },
}

/// A value of a row that a limit is for.
#[derive(Clone, Debug)]
pub struct Per {
    /// As the definition writes it.
    pub text: String,
    /// What makes the value.
    pub template: Template,
}

impl PartialEq for Per {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Rate {
    /// A bucket for all calls.
    pub fn bucket(limit: u32, period: Duration, burst: u32) -> Self {
        let (window, per_owner) = (Window::Bucket, false);
        Self { id: String::new(), name: None, limit, period, burst, window, per_owner, per: None }
    }

    /// Calls in a second, in the long run.
    pub fn per_second(&self) -> f64 {
        let calls = match self.window {
            Window::Bucket | Window::Calendar { .. } => self.limit,
            Window::Sliding => self.limit.saturating_sub(self.burst).max(1),
        };
        f64::from(calls) / self.period.as_secs_f64()
    }

    /// The most that one call can take.
    pub const fn most(&self) -> u32 {
        if self.is_bucket() { self.burst } else { self.limit }
    }

    /// Whether its calls have their moments, and not only a number in a period.
    pub const fn is_bucket(&self) -> bool {
        !matches!(self.window, Window::Calendar { .. })
    }

    /// Whether all calls are counted by it, or all of an owner's.
    pub const fn paces_all(&self) -> bool {
        self.name.is_none() && self.per.is_none()
    }
}
