//! What a row's own past at a step says about its next call.
//!
//! A limiter learns from each call how the dependency is. A row that the API refuses or fails every time would teach it
//! the same thing again and again, although it only speaks for itself. So each row counts once: what it shows the second
//! time is about the row, as long as other rows' calls go well. And where a single call decides for everybody (a probe
//! of the breaker, the first call after a pause), rows with a clean past go first.

/// How a row's previous call of the same step ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Past {
    /// Nothing speaks against the row: there was no call before, or it went well.
    #[default]
    Clean,
    /// It failed.
    Failed,
    /// It was throttled.
    Throttled,
    /// It was throttled repeatedly while other rows' calls went through: the refusals are about this row only.
    ThrottledAlone,
}

impl Past {
    /// Whether the row has to let rows with a clean past go first.
    pub const fn is_suspect(self) -> bool {
        !matches!(self, Self::Clean)
    }
}

/// Rows with a clean past ask within this time, if there are any: the others wait for them that long.
pub const COURTESY_US: f64 = 2_000_000.0;

/// How long the others wait when a row with a clean past has asked: where there is one, there are more.
pub const BEHIND_OTHERS_US: f64 = 5_000_000.0;
