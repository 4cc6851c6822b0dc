//! A batch's states, its counters, and when it is finished.

use serde::{Deserialize, Serialize};

use crate::row::UnknownName;

/// Where a batch stands. The numbers are what SQL stores; they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(i16)]
pub enum BatchStatus {
    /// Its file is stored.
    Pending = 0,
    /// A worker extracts it.
    Processing = 1,
    /// All rows are in SQL; they run.
    Queued = 2,
    /// Every row is terminal.
    Completed = 3,
    /// A person (or its first failed row) ended it, and nothing of it runs any more.
    Cancelled = 4,
    /// Its file cannot be extracted.
    Failed = 5,
}

impl BatchStatus {
    /// All of them, in the order of a batch's life.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Processing, Self::Queued, Self::Completed, Self::Cancelled, Self::Failed];

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
            Self::Processing => "processing",
            Self::Queued => "queued",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    /// Whether the batch has ended (a retry can still revive it).
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Failed)
    }
}

impl std::str::FromStr for BatchStatus {
    type Err = UnknownName;
    fn from_str(s: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|status| status.name() == s).ok_or_else(|| UnknownName(s.to_owned()))
    }
}

/// How a finished batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(i16)]
pub enum Outcome {
    /// Every row completed.
    Success = 0,
    /// Some rows completed.
    PartialSuccess = 1,
    /// No row completed, or the batch was to stop at the first failure and did.
    Failure = 2,
}

impl Outcome {
    /// The number that SQL stores.
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// The outcome of a stored number.
    pub fn from_code(code: i16) -> Option<Self> {
        [Self::Success, Self::PartialSuccess, Self::Failure].into_iter().find(|o| o.code() == code)
    }

    /// The name clients see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::PartialSuccess => "partial_success",
            Self::Failure => "failure",
        }
    }
}

impl std::str::FromStr for Outcome {
    type Err = UnknownName;

    fn from_str(s: &str) -> Result<Self, UnknownName> {
        [Self::Success, Self::PartialSuccess, Self::Failure]
            .into_iter()
            .find(|outcome| outcome.name() == s)
            .ok_or_else(|| UnknownName(s.to_owned()))
    }
}

/// How many rows of a batch stand where. `total` is the sum of the others at every read (promise 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Counts {
    /// All rows.
    pub total: u32,
    /// Waiting for the dispatcher.
    pub pending: u32,
    /// Handed to the queue.
    pub queued: u32,
    /// Claimed by a worker.
    pub processing: u32,
    /// Done.
    pub completed: u32,
    /// Ended with an error.
    pub failed: u32,
    /// Never run.
    pub cancelled: u32,
}

impl Counts {
    /// Whether the counters add up.
    pub fn add_up(&self) -> bool {
        let parts = [self.pending, self.queued, self.processing, self.completed, self.failed, self.cancelled];
        parts.iter().map(|part| u64::from(*part)).sum::<u64>() == u64::from(self.total)
    }

    /// Rows that are not terminal.
    pub fn unfinished(&self) -> u32 {
        self.pending + self.queued + self.processing
    }

    /// Percent of rows that are terminal, floored; 100 for `finished` batches and for nothing else.
    pub fn progress(&self, finished: bool) -> u8 {
        if finished {
            return 100;
        }
        if self.total == 0 {
            return 0;
        }
        let done = u64::from(self.total - self.unfinished().min(self.total));
        u8::try_from((done * 100 / u64::from(self.total)).min(99)).unwrap_or(99)
    }

    /// How a batch with these counters went, once it is finished.
    pub fn outcome(&self, allow_failures: bool) -> Outcome {
        if self.failed == 0 && self.cancelled == 0 {
            Outcome::Success
        } else if self.completed == 0 || (self.failed > 0 && !allow_failures) {
            Outcome::Failure
        } else {
            Outcome::PartialSuccess
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_floored_and_100_means_finished() {
        let counts = Counts { total: 1000, completed: 999, processing: 1, ..Counts::default() };
        assert_eq!(counts.progress(false), 99);
        let done = Counts { total: 1000, completed: 1000, ..Counts::default() };
        assert_eq!(done.progress(false), 99, "all rows are terminal, but nobody has won the finish yet");
        assert_eq!(done.progress(true), 100);
        assert_eq!(Counts::default().progress(false), 0);
    }

    #[test]
    fn outcome_follows_the_counters() {
        let counts = |completed, failed, cancelled| Counts {
            total: completed + failed + cancelled,
            completed,
            failed,
            cancelled,
            ..Counts::default()
        };
        assert_eq!(counts(3, 0, 0).outcome(true), Outcome::Success);
        assert_eq!(counts(2, 1, 0).outcome(true), Outcome::PartialSuccess);
        assert_eq!(counts(0, 3, 0).outcome(true), Outcome::Failure);
        assert_eq!(counts(2, 1, 5).outcome(false), Outcome::Failure);
        assert_eq!(counts(2, 0, 5).outcome(true), Outcome::PartialSuccess);
        assert_eq!(counts(0, 0, 5).outcome(true), Outcome::Failure);
    }
}
