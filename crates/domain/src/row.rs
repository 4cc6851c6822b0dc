//! A row's states, and what becomes of it.

use serde::{Deserialize, Serialize};

use crate::ids::RowNumber;

/// Where a row stands. The numbers are what SQL stores; they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(i16)]
pub enum RowStatus {
    /// Waits for the dispatcher.
    Pending = 0,
    /// Handed to the queue.
    Queued = 1,
    /// Claimed by a worker, under a lease.
    Processing = 2,
    /// Every step done.
    Completed = 3,
    /// Ended with an error.
    Failed = 4,
    /// Never run, because its batch was cancelled.
    Cancelled = 5,
}

impl RowStatus {
    /// All of them, in the order of a row's life.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Queued, Self::Processing, Self::Completed, Self::Failed, Self::Cancelled];

    /// The number that SQL stores.
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// The state of a stored number.
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.code() == code)
    }

    /// The name clients see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Queued => "queued",
            Self::Processing => "processing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more happens to such a row unless a person asks for it.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

impl std::str::FromStr for RowStatus {
    type Err = UnknownName;
    fn from_str(s: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|status| status.name() == s).ok_or_else(|| UnknownName(s.to_owned()))
    }
}

/// A word that names no state.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not one of the states")]
pub struct UnknownName(pub String);

/// A row ends when this many workers died while they held it. From the first death on it runs alone, so that the second one is
/// its own, and the third one no accident.
pub const MOST_CRASHES: u16 = 3;

/// One try at one step, as it is kept with a failed row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// When the try ended.
    pub at: crate::time::Timestamp,
    /// The step, by name; none when the row never reached one.
    pub step: Option<String>,
    /// What came of it (see [`crate::outcome`]).
    pub code: String,
    /// The API's own code, where its answer had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_code: Option<String>,
    /// The answer's HTTP status, when there was an answer.
    pub http_status: Option<u16>,
    /// It tried whether a dependency is well again whose breaker had opened, and cost no attempt.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
    /// How long the call took, in milliseconds; none when none was made, and for a call for many rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// The step's request was answered before, and this try looked for its result.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub look: bool,
}

/// What a failed row keeps for its owner. Sealed as a whole; `code`, `step` and `http_status` also stand in
/// clear beside it, so that failures can be counted without a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowError {
    /// What went wrong: the API's own code, or one from the closed list of [`crate::outcome`].
    pub code: String,
    /// The step that failed, by name.
    pub step: Option<String>,
    /// The answer's HTTP status, when there was an answer.
    pub http_status: Option<u16>,
    /// A sentence for the client.
    pub message: String,
    /// The answer's body, shortened, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<serde_json::Value>,
    /// The last request and answer of the step that failed; only kept of a row that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<Box<crate::exchange::Exchange>>,
    /// Each try, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<AttemptRecord>,
    /// The unbroken series of throttled answers that the row is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<Throttled>,
    /// When the row's run began, as it was known when that series began. The beginning moves by the time for which an answer holds
    /// the batch: by how much it has moved since, the series lasts longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series_clock: Option<crate::time::Timestamp>,
    /// How many of `attempts` are of earlier runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier_attempts: Option<u32>,
    /// Since when the row waits for the answer to another row's call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaits_since: Option<crate::time::Timestamp>,
    /// The step's request was answered, and its result was waited for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub look: bool,
}

/// An unbroken series of throttled answers to one row at one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttled {
    /// When the first of them came.
    pub since: crate::time::Timestamp,
    /// How many there were.
    pub times: u32,
    /// Whether calls of other rows went through meanwhile, so that the answers are about this row only.
    pub alone: bool,
}

/// The sealed output of a finished step: what a retry needs to go on after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The step's place in the pipeline, from 0.
    pub step: u16,
    /// Its output, sealed.
    pub sealed: Vec<u8>,
}

/// A row's own number range in a batch, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowRange {
    /// First number.
    pub first: RowNumber,
    /// Last number.
    pub last: RowNumber,
}
