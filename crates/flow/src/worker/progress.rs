//! A row's progress through its steps, and what its earlier calls mean for the next one.

use std::time::Duration;

use penstock_domain::limit::Past;
use penstock_domain::outcome::code;
use penstock_domain::pipeline::Retry;
use penstock_domain::retry;
use penstock_domain::row::{AttemptRecord, Receipt, RowError, Throttled};
use penstock_domain::time::Timestamp;
use penstock_store::work::{ClaimedRow, Expiry};
use serde_json::{Map, Value};
use tokio::time::Instant;

/// A row's progress through its steps.
#[derive(Default)]
pub(super) struct Progress {
    /// Attempts that failed.
    pub(super) attempts: u16,
    /// All earlier failures, those of earlier runs of the batch first.
    pub(super) history: Vec<AttemptRecord>,
    /// A worker died while it held the row, at this step or before it. It joins the history as soon as the row's next
    /// failure does: that one ends the database's count of crashes.
    crash: Option<AttemptRecord>,
    /// Where the failures of this run begin in them.
    this_run: usize,
    /// The series of throttled answers that the row is in, and the step that gives them.
    series: Option<(String, Throttled)>,
    /// What the row's last failure of this run was.
    last: Option<RowError>,
    /// When the row's first attempt of this run began.
    first_claimed_at: Timestamp,
    /// When this worker began with the row.
    pub(super) began: Option<Instant>,
    /// The outputs of finished steps.
    pub(super) outputs: Map<String, Value>,
    /// Whether the row's present step waits for its result, so that workers bring the row back.
    pub(super) polling: bool,
    /// Receipts of the steps that were finished since the claim.
    pub(super) receipts: Vec<Receipt>,
}

impl Progress {
    /// A row that was claimed a moment ago.
    pub(super) fn new(claimed: &ClaimedRow, now: Timestamp) -> Self {
        Self {
            attempts: claimed.attempts,
            first_claimed_at: claimed.first_claimed_at.unwrap_or(now),
            began: Some(Instant::now()),
            ..Self::default()
        }
    }

    /// What is stored of the row was opened.
    pub(super) fn opened(
        &mut self,
        claimed: &ClaimedRow,
        outputs: Map<String, Value>,
        error: Option<RowError>,
    ) {
        self.outputs = outputs;
        let Some(mut error) = error else { return };
        self.history = std::mem::take(&mut error.attempts);
        // Failures of an earlier run do not count for this one.
        self.this_run = self.history.len();
        if let Some(first) = claimed.first_claimed_at {
            self.this_run = self.history.partition_point(|attempt| attempt.at < first);
            self.series = error.step.clone().zip(error.throttled);
            self.last = Some(error);
        }
    }

    /// A worker died while it held the row, and the first step without a receipt is this one: it may have called it.
    pub(super) fn crashed_at(&mut self, step: &str, now: Timestamp) {
        let (step, code) = (Some(step.to_owned()), code::WORKER_CRASHED.to_owned());
        self.crash =
            Some(AttemptRecord { at: now, step, code, api_code: None, http_status: None, probe: false });
    }

    /// One more failure.
    pub(super) fn push(&mut self, failure: AttemptRecord) {
        // After a probe the crash still counts in the database.
        if !failure.probe {
            self.history.extend(self.crash.take());
        }
        self.history.push(failure);
    }

    /// Whether an earlier call of the step had no answer: with its key it may still be running.
    pub(super) fn had_no_answer(&self, step: &str) -> bool {
        let unanswered = [code::TIMEOUT, code::CONNECTION_LOST, code::WORKER_CRASHED];
        self.history.iter().chain(&self.crash).any(|attempt| {
            attempt.step.as_deref() == Some(step) && unanswered.contains(&attempt.code.as_str())
        })
    }

    /// What the row's last failure at a step was.
    pub(super) fn last(&self, step: &str) -> Option<&RowError> {
        self.last.as_ref().filter(|error| error.step.as_deref() == Some(step))
    }

    /// Failures of this run, oldest first.
    pub(super) fn failures(&self) -> &[AttemptRecord] {
        &self.history[self.this_run.min(self.history.len())..]
    }

    /// The unbroken series of throttled answers of a step.
    pub(super) fn series(&self, step: &str) -> Option<Throttled> {
        self.series.as_ref().filter(|(of, _)| of == step).map(|(_, series)| *series)
    }

    /// What the row's earlier calls of a step mean for the next one.
    pub(super) fn past(&self, step: &str) -> Past {
        retry::past(self.series(step), self.failures(), step)
    }

    /// A step answered that it is called too often. Returns the series.
    pub(super) fn throttled(&mut self, step: &str, at: Timestamp, alone: bool) -> Throttled {
        let series = retry::throttled(self.series(step), at, alone);
        self.series = Some((step.to_owned(), series));
        series
    }

    /// A call was answered otherwise: the series ends.
    pub(super) fn not_throttled(&mut self) {
        self.series = None;
    }

    /// Whether the row has waited for that long while the dependency refused everything, so that it ends without a
    /// permit.
    pub(super) fn is_given_up(&self, retry: &Retry, refused_for: Duration, now: Timestamp) -> bool {
        refused_for.min(now.since(self.first_claimed_at)) >= retry.throttled_for
    }

    /// When the row's time is over if it is not done at the step by then, and as what it fails.
    pub(super) fn expiry(&self, retry: &Retry, step: &str) -> Option<Expiry> {
        let deadline = retry
            .deadline
            .map(|deadline| Expiry { at: self.first_claimed_at + deadline, code: code::DEADLINE_EXCEEDED });
        let throttled = self
            .series(step)
            .map(|series| Expiry { at: series.since + retry.throttled_for, code: code::THROTTLED });
        deadline.into_iter().chain(throttled).min_by_key(|expiry| expiry.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: &str, probe: bool) -> AttemptRecord {
        let (at, step, code) = (Timestamp::from_millis(7), Some("s".to_owned()), code.to_owned());
        AttemptRecord { at, step, code, api_code: None, http_status: None, probe }
    }

    #[test]
    fn a_crash_is_an_attempt_without_an_answer_and_is_recorded_with_the_next_failure() {
        let mut progress = Progress::default();
        progress.crashed_at("s", Timestamp::from_millis(5));
        assert!(progress.had_no_answer("s") && !progress.had_no_answer("t"));
        assert_eq!(progress.past("s"), Past::Clean, "no answer of the API's was bad");
        progress.push(failure("http_500", true));
        progress.push(failure("http_422", false));
        progress.push(failure("http_422", false));
        let codes: Vec<&str> = progress.history.iter().map(|attempt| attempt.code.as_str()).collect();
        assert_eq!(codes, ["http_500", "worker_crashed", "http_422", "http_422"]);
        assert!(progress.had_no_answer("s"));
    }
}
