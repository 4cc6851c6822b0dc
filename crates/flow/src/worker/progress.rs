//! A row's progress through its steps, and what its earlier calls mean for the next one.

use std::time::Duration;

use penstock_domain::limit::Past;
use penstock_domain::outcome::code;
use penstock_domain::pipeline::Retry;
use penstock_domain::retry;
use penstock_domain::row::{AttemptRecord, Receipt, RowError, Throttled};
use penstock_domain::time::Timestamp;
use penstock_store::calls::RecordedCall;
use penstock_store::duplicates::CompletedKey;
use penstock_store::work::{ClaimedRow, Expiry};
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::worker::bulk::Together;
use crate::worker::bulk::gather::Coming;

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
    /// The series of throttled answers that the row is in.
    series: Option<Series>,
    /// Since when the row waits for the answer to another row's call, and at which step.
    pub(super) awaits: Option<(String, Timestamp)>,
    /// What the row's last failure of this run was.
    last: Option<RowError>,
    /// When the row's first attempt of this run began, moved by the time for which answers have held the batch since.
    pub(super) first_claimed_at: Timestamp,
    /// When this worker began with the row.
    pub(super) began: Option<Instant>,
    /// The outputs of finished steps.
    pub(super) outputs: Map<String, Value>,
    /// Whether the row's present step waits for its result, so that workers bring the row back.
    pub(super) polling: bool,
    /// Receipts of the steps that were finished since the claim.
    pub(super) receipts: Vec<Receipt>,
    /// The row's key, which is recorded when it completes.
    pub(super) key: Option<Box<CompletedKey>>,
    /// How many processes died while they held the row.
    pub(super) crashes: u16,
    /// The bulk call that it was recorded for.
    pub(super) call: Option<RecordedCall>,
    /// Its part in the end of its bulk call.
    pub(super) together: Option<Together>,
    /// How long the last call took, and at which step it was made.
    pub(super) called: Option<(String, Duration)>,
    /// Others may wait for it.
    pub(super) coming: Option<Coming>,
    /// The dependencies to which it came at steps that it may leave out, and whether it called them: each counts once a row.
    pub(super) uses: Vec<(usize, bool)>,
}

/// An unbroken series of throttled answers of a step.
struct Series {
    step: String,
    answers: Throttled,
    /// See [`RowError::series_clock`].
    clock: Timestamp,
}

impl Progress {
    /// A row that was claimed a moment ago.
    pub(super) fn new(claimed: &ClaimedRow, now: Timestamp) -> Self {
        Self {
            attempts: claimed.attempts,
            first_claimed_at: claimed.first_claimed_at.unwrap_or(now),
            began: Some(Instant::now()),
            crashes: claimed.crashes,
            call: claimed.call,
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
        if let Some(error) = error {
            self.continued(claimed.first_claimed_at, error);
        }
    }

    /// What an earlier attempt left; `first_claimed_at` is none when this is a new run.
    fn continued(&mut self, first_claimed_at: Option<Timestamp>, mut error: RowError) {
        self.history = std::mem::take(&mut error.attempts);
        // Failures of an earlier run do not count for this one.
        self.this_run = self.history.len();
        if let Some(first) = first_claimed_at {
            let earlier = error.earlier_attempts.and_then(|earlier| usize::try_from(earlier).ok());
            self.this_run =
                earlier.unwrap_or_else(|| self.history.partition_point(|attempt| attempt.at < first));
            let clock = error.series_clock.unwrap_or(first);
            let series = error.step.clone().zip(error.throttled);
            self.series = series.map(|(step, answers)| Series { step, answers, clock });
            self.awaits = error.step.clone().zip(error.awaits_since);
            self.last = Some(error);
        }
    }

    /// A worker died while it held the row, and the first step without a receipt is this one: it may have called it.
    pub(super) fn crashed_at(&mut self, step: &str, now: Timestamp) {
        let (step, code) = (Some(step.to_owned()), code::WORKER_CRASHED.to_owned());
        let (api_code, http_status, took_ms) = (None, None, None);
        self.crash = Some(AttemptRecord {
            at: now,
            step,
            code,
            api_code,
            http_status,
            probe: false,
            took_ms,
            look: false,
        });
    }

    /// How long the last call of the step took, in milliseconds: asked for once a call.
    pub(super) fn took(&mut self, step: &str) -> Option<u64> {
        let (_, took) = self.called.take().filter(|(name, _)| name == step)?;
        u64::try_from(took.as_millis()).ok()
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

    /// The row's time counts from then: the rows of a call have theirs together.
    pub(super) fn began_at(&mut self, first_claimed_at: Timestamp) {
        self.first_claimed_at = first_claimed_at;
    }

    /// Failures of this run, oldest first.
    pub(super) fn failures(&self) -> &[AttemptRecord] {
        &self.history[self.this_run.min(self.history.len())..]
    }

    /// The unbroken series of throttled answers of a step.
    pub(super) fn series(&self, step: &str) -> Option<Throttled> {
        self.series_of(step).map(|series| series.answers)
    }

    /// See [`RowError::series_clock`].
    pub(super) fn series_clock(&self, step: &str) -> Option<Timestamp> {
        self.series_of(step).map(|series| series.clock)
    }

    fn series_of(&self, step: &str) -> Option<&Series> {
        self.series.as_ref().filter(|series| series.step == step)
    }

    /// See [`RowError::earlier_attempts`].
    pub(super) fn earlier_attempts(&self) -> Option<u32> {
        u32::try_from(self.this_run.min(self.history.len())).ok()
    }

    /// Since when the row waits for the answer to another row's call of the step.
    pub(super) fn awaits_since(&self, step: &str) -> Option<Timestamp> {
        self.awaits.as_ref().filter(|(of, _)| of == step).map(|(_, since)| *since)
    }

    /// What the row's earlier calls of a step mean for the next one.
    pub(super) fn past(&self, step: &str) -> Past {
        retry::past(self.series(step), self.failures(), step)
    }

    /// A step answered that it is called too often. Returns the series.
    pub(super) fn throttled(&mut self, step: &str, at: Timestamp, alone: bool) -> Throttled {
        let answers = retry::throttled(self.series(step), at, alone);
        let clock = self.series_clock(step).unwrap_or(self.first_claimed_at);
        self.series = Some(Series { step: step.to_owned(), answers, clock });
        answers
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
        let throttled = self.series_of(step).map(|series| {
            let held_for = self.first_claimed_at.since(series.clock);
            Expiry { at: series.answers.since + retry.throttled_for + held_for, code: code::THROTTLED }
        });
        deadline.into_iter().chain(throttled).min_by_key(|expiry| expiry.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: &str, probe: bool) -> AttemptRecord {
        let (at, step, code) = (Timestamp::from_millis(7), Some("s".to_owned()), code.to_owned());
        AttemptRecord { at, step, code, api_code: None, http_status: None, probe, took_ms: None, look: false }
    }

    /// A batch was held for an hour: by that much the beginning of its rows' runs was moved.
    #[test]
    fn the_time_for_which_a_batch_was_held_counts_in_nothing() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        let retry = Retry { throttled_for: Duration::from_secs(600), ..Retry::default() };
        let mut progress = Progress { first_claimed_at: at(1000), ..Progress::default() };
        progress.history.push(failure("http_500", false));
        progress.this_run = 1;
        progress.push(AttemptRecord { at: at(1010), ..failure("http_503", false) });
        progress.throttled("s", at(1020), false);
        assert_eq!(progress.expiry(&retry, "s").map(|expiry| expiry.at), Some(at(1620)));
        let sealed = RowError {
            code: code::THROTTLED.to_owned(),
            step: Some("s".to_owned()),
            http_status: None,
            message: String::new(),
            detail: None,
            sent: None,
            throttled: progress.series("s"),
            series_clock: progress.series_clock("s"),
            earlier_attempts: progress.earlier_attempts(),
            attempts: progress.history.clone(),
            awaits_since: None,
            look: false,
        };
        let later = at(1000) + Duration::from_secs(3600);
        let mut again = Progress { first_claimed_at: later, ..Progress::default() };
        again.continued(Some(later), sealed);
        assert_eq!(again.expiry(&retry, "s").map(|expiry| expiry.at), Some(at(1620 + 3600)));
        assert_eq!(again.failures().len(), 1, "an attempt of this run stays one");
        let series = again.throttled("s", later, false);
        assert_eq!((series.since, series.times), (at(1020), 2), "the series is shown as it was");
        assert_eq!(again.expiry(&retry, "s").map(|expiry| expiry.at), Some(at(1620 + 3600)));
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
