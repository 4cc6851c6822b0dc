//! The ledger of a batch: its state and counters, and every way in which they move.
//!
//! Both SQL services lock the batch, read its ledger, let one of these methods decide, and write the result with
//! `WHERE revision = <the one read>`, in the same transaction as the rows. So the rules stand here once, no
//! engine can differ, and a model checker can walk the very code that runs (promises 4 and 5).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::batch::{BatchStatus, Counts, Outcome};
use crate::ids::RowNumber;
use crate::row::RowStatus;
use crate::time::Timestamp;

/// The least time between two `batch.progress` callbacks of a batch.
pub const PROGRESS_EVERY: Duration = Duration::from_secs(30);

/// The trial that a batch has to pass before all of it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Canary {
    /// How many rows run first.
    pub rows: u32,
    /// The highest share of failed rows, in hundredths of a percent.
    pub max_failure_bp: u16,
    /// After the trial the same ceiling holds once so many rows are terminal; none: no ceiling afterwards.
    pub stop_after: Option<u32>,
}

/// What a callback tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Event {
    /// The batch exists.
    #[serde(rename = "batch.created")]
    Created,
    /// Another percent is done.
    #[serde(rename = "batch.progress")]
    Progress,
    /// The first row of this run failed.
    #[serde(rename = "batch.row_failed_first")]
    RowFailedFirst,
    /// The canary (or the ceiling) held the batch.
    #[serde(rename = "batch.held")]
    Held,
    /// A dependency of this run fails, its circuit breaker is open: rows wait.
    #[serde(rename = "batch.delayed")]
    Delayed,
    /// This run ended and no row failed.
    #[serde(rename = "batch.succeeded")]
    Succeeded,
    /// This run ended by being cancelled.
    #[serde(rename = "batch.cancelled")]
    Cancelled,
    /// This run ended.
    #[serde(rename = "batch.finished")]
    Finished,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Created,
        Self::Progress,
        Self::RowFailedFirst,
        Self::Held,
        Self::Delayed,
        Self::Succeeded,
        Self::Cancelled,
        Self::Finished,
    ];

    /// The event's type on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "batch.created",
            Self::Progress => "batch.progress",
            Self::RowFailedFirst => "batch.row_failed_first",
            Self::Held => "batch.held",
            Self::Delayed => "batch.delayed",
            Self::Succeeded => "batch.succeeded",
            Self::Cancelled => "batch.cancelled",
            Self::Finished => "batch.finished",
        }
    }
}

/// State, flags, counters and cursors of one batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Ledger {
    /// Where the batch stands.
    pub status: BatchStatus,
    /// How it went, once it has ended.
    pub outcome: Option<Outcome>,
    /// Whether rows go on after one has failed.
    pub allow_failures: bool,
    /// Whether a person stopped the release of rows.
    pub paused: bool,
    /// Whether the canary stopped it.
    pub held: bool,
    /// The trial still to be passed, or the ceiling that stays.
    pub canary: Option<Canary>,
    /// Whether the trial was passed (or waved through by `resume`).
    pub canary_passed: bool,
    /// The counters.
    pub counts: Counts,
    /// Which run of the batch this is, from 1.
    pub run: u32,
    /// Whether every row is in SQL and the total is final.
    pub extracted: bool,
    /// The first number that was never released: rows from here to `release_end` have no state of their own.
    pub next_number: RowNumber,
    /// One past the last number that may be released.
    pub release_end: RowNumber,
    /// The run in which `batch.row_failed_first` was last said.
    pub failure_said_run: u32,
    /// The percentage last said by `batch.progress`, or reached when a retry took rows back.
    pub progress_said: u8,
    /// When it was said.
    pub progress_said_at: Option<Timestamp>,
    /// When a worker first took the batch up.
    pub started_at: Option<Timestamp>,
    /// When this run ended.
    pub finished_at: Option<Timestamp>,
    /// When somebody cancelled it.
    pub cancelled_at: Option<Timestamp>,
    /// Counts every change; the id of a server-sent event, and the guard of every write.
    pub revision: i64,
}

/// How many rows of one batch a settlement ended, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Completed.
    pub completed: u32,
    /// Failed.
    pub failed: u32,
    /// Back to pending.
    pub requeued: u32,
}

impl Tally {
    /// All of them.
    pub fn rows(self) -> u32 {
        self.completed + self.failed + self.requeued
    }
}

/// Which terminal rows a retry takes up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RetryScope {
    /// The failed ones.
    pub failed: bool,
    /// The cancelled ones.
    pub cancelled: bool,
}

/// Why a command does not fit the batch's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The batch has ended.
    #[error("the batch has ended already")]
    Ended,
    /// The batch is being cancelled and some rows still run.
    #[error("the batch is being cancelled; wait until its last rows have ended")]
    Cancelling,
    /// Not all rows are in SQL yet.
    #[error("the batch is not extracted yet")]
    NotExtracted,
    /// It has not ended, and what is asked for changes what its rows run under.
    #[error("the batch has not ended; its definition can only be changed when no row of it runs")]
    Runs,
    /// Somebody changed it since the caller looked.
    #[error("the batch was changed meanwhile; try again")]
    Changed,
    /// Its rows can no longer be read.
    #[error("the batch was erased; its rows can no longer be read")]
    Erased,
}

/// More rows would leave a state than are in it: the rows and the ledger contradict each other, and nothing may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rows} rows cannot leave `{state}`, which has {has}")]
pub struct Overdrawn {
    /// The counter.
    pub state: &'static str,
    /// What it counts.
    pub has: u32,
    /// What was to leave.
    pub rows: u32,
}

fn draw(state: &'static str, from: &mut u32, rows: u32) -> Result<(), Overdrawn> {
    *from = from.checked_sub(rows).ok_or(Overdrawn { state, has: *from, rows })?;
    Ok(())
}

impl Ledger {
    /// The ledger of a new batch. `rows` is what the upload counted; none when nobody has read the file yet.
    pub fn new(rows: Option<u32>, allow_failures: bool, canary: Option<Canary>) -> Self {
        let total = rows.unwrap_or(0);
        Self {
            status: BatchStatus::Pending,
            outcome: None,
            allow_failures,
            paused: false,
            held: false,
            canary,
            canary_passed: canary.is_none(),
            counts: Counts { total, pending: total, ..Counts::default() },
            run: 1,
            extracted: false,
            next_number: 1,
            release_end: 1,
            failure_said_run: 0,
            progress_said: 0,
            progress_said_at: None,
            started_at: None,
            finished_at: None,
            cancelled_at: None,
            revision: 1,
        }
    }

    /// Whether this run has ended.
    pub fn is_finished(&self) -> bool {
        self.status.is_terminal()
    }

    /// Percent done, floored; see [`Counts::progress`]. Never falls within a run, also when a retry takes failed rows
    /// back while others still run.
    pub fn progress(&self) -> u8 {
        let now = self.counts.progress(self.is_finished());
        if self.is_finished() { now } else { now.max(self.progress_said) }
    }

    /// Whether queued rows may be claimed.
    pub fn claimable(&self) -> bool {
        self.status == BatchStatus::Queued && !self.paused && !self.held && self.cancelled_at.is_none()
    }

    /// How many rows that were never released may be released now: all, or what is left of the canary.
    pub fn fresh(&self) -> u32 {
        if !self.claimable() {
            return 0;
        }
        let end = match self.canary {
            Some(canary) if !self.canary_passed => self.release_end.min(canary.rows.saturating_add(1)),
            _ => self.release_end,
        };
        end.saturating_sub(self.next_number)
    }

    /// How many pending rows have a state of their own: they were released before and came back.
    pub fn returned(&self) -> u32 {
        if self.cancelled_at.is_some() || !self.extracted {
            return 0;
        }
        self.counts.pending.saturating_sub(self.release_end.saturating_sub(self.next_number))
    }

    /// The state of row `number`, given what its own record says (none: it was never released).
    pub fn status_of(&self, number: RowNumber, recorded: Option<RowStatus>) -> RowStatus {
        match recorded {
            None if self.cancelled_at.is_some() => RowStatus::Cancelled,
            None if self.extracted && number >= self.release_end => RowStatus::Cancelled,
            None => RowStatus::Pending,
            Some(RowStatus::Pending | RowStatus::Queued) if self.cancelled_at.is_some() => {
                RowStatus::Cancelled
            }
            Some(status) => status,
        }
    }

    fn touch(&mut self) {
        self.revision += 1;
        debug_assert!(self.counts.add_up(), "{:?}", self.counts);
    }

    /// A worker has read an unseen file and knows how many rows it has.
    pub fn counted(&mut self, rows: u32) {
        self.counts = Counts { total: rows, ..Counts::default() };
        if self.cancelled_at.is_some() {
            self.counts.cancelled = rows;
        } else {
            self.counts.pending = rows;
        }
        self.touch();
    }

    /// A worker holds the extraction lease.
    pub fn extraction_started(&mut self, now: Timestamp) {
        self.status = BatchStatus::Processing;
        self.started_at.get_or_insert(now);
        self.touch();
    }

    /// A chunk held rows that could not be stored: they are failed from the start.
    pub fn extraction_rejected(&mut self, rows: u32, now: Timestamp) -> Vec<Event> {
        let from =
            if self.cancelled_at.is_some() { &mut self.counts.cancelled } else { &mut self.counts.pending };
        let rows = rows.min(*from);
        *from -= rows;
        self.counts.failed += rows;
        let mut events = Vec::new();
        self.note_failures(rows, now, &mut events);
        self.touch();
        events
    }

    /// Every row is in SQL: the total is final, and rows may run.
    pub fn extraction_finished(&mut self, rows: u32, now: Timestamp) -> Vec<Event> {
        let open =
            if self.cancelled_at.is_some() { &mut self.counts.cancelled } else { &mut self.counts.pending };
        *open = (*open + rows).saturating_sub(self.counts.total);
        self.counts.total = rows;
        self.extracted = true;
        self.release_end = rows + 1;
        self.status = BatchStatus::Queued;
        let mut events = Vec::new();
        self.finish_if_done(now, &mut events);
        self.touch();
        events
    }

    /// The file cannot be extracted. Rows that were counted will never run.
    pub fn extraction_failed(&mut self, now: Timestamp) -> Vec<Event> {
        self.counts.cancelled += self.counts.pending;
        self.counts.pending = 0;
        self.status = BatchStatus::Failed;
        self.outcome = Some(Outcome::Failure);
        self.finished_at = Some(now);
        self.touch();
        vec![Event::Finished]
    }

    /// The batch was erased before all of its rows were in SQL: nothing of it will ever run.
    pub fn extraction_abandoned(&mut self, now: Timestamp) -> Vec<Event> {
        self.counts.cancelled += self.counts.pending;
        self.counts.pending = 0;
        self.cancelled_at.get_or_insert(now);
        self.status = BatchStatus::Cancelled;
        self.outcome = Some(Outcome::Failure);
        self.finished_at = Some(now);
        self.touch();
        vec![Event::Cancelled, Event::Finished]
    }

    /// A person takes up a failed extraction again from its checkpoint. A batch that was cancelled stays cancelled.
    pub fn extraction_revived(&mut self) {
        if self.cancelled_at.is_none() {
            self.counts.pending += self.counts.cancelled;
            self.counts.cancelled = 0;
        }
        self.status = BatchStatus::Pending;
        self.outcome = None;
        self.finished_at = None;
        self.run += 1;
        self.touch();
    }

    /// The dispatcher hands rows to the queue: `fresh` ones from the cursor, which moves over `skipped` more that
    /// were terminal already, and `returned` ones.
    ///
    /// # Errors
    /// When so many are not pending.
    pub fn release(&mut self, fresh: u32, skipped: u32, returned: u32) -> Result<(), Overdrawn> {
        draw("pending", &mut self.counts.pending, fresh + returned)?;
        self.next_number += fresh + skipped;
        self.counts.queued += fresh + returned;
        self.touch();
        Ok(())
    }

    /// Queued rows that no worker will take go back: the queue was lost, the batch was paused, a worker drains.
    ///
    /// # Errors
    /// When so many are not queued; so it is when the batch was cancelled meanwhile.
    pub fn unqueue(&mut self, rows: u32) -> Result<(), Overdrawn> {
        draw("queued", &mut self.counts.queued, rows)?;
        self.counts.pending += rows;
        self.touch();
        Ok(())
    }

    /// A worker claimed queued rows.
    ///
    /// # Errors
    /// When so many are not queued; so it is when the batch was cancelled meanwhile.
    pub fn claim(&mut self, rows: u32) -> Result<(), Overdrawn> {
        draw("queued", &mut self.counts.queued, rows)?;
        self.counts.processing += rows;
        self.touch();
        Ok(())
    }

    /// Claimed rows are settled, or their leases ran out (`requeued`).
    ///
    /// # Errors
    /// When so many are not claimed.
    pub fn settle(&mut self, tally: Tally, now: Timestamp) -> Result<Vec<Event>, Overdrawn> {
        let mut events = Vec::new();
        draw("processing", &mut self.counts.processing, tally.rows())?;
        self.counts.completed += tally.completed;
        self.counts.failed += tally.failed;
        if self.cancelled_at.is_some() {
            self.counts.cancelled += tally.requeued;
        } else {
            self.counts.pending += tally.requeued;
        }
        self.note_failures(tally.failed, now, &mut events);
        self.judge_canary(&mut events);
        self.finish_if_done(now, &mut events);
        if !self.is_finished() {
            self.note_progress(now, &mut events);
        }
        self.touch();
        Ok(events)
    }

    /// Rows not yet started count as cancelled from now on.
    ///
    /// # Errors
    /// [`Refusal::Ended`] when the run has ended otherwise. Cancelling twice is no error and changes nothing.
    pub fn cancel(&mut self, now: Timestamp) -> Result<Vec<Event>, Refusal> {
        if self.is_finished() && self.status != BatchStatus::Cancelled {
            return Err(Refusal::Ended);
        }
        let mut events = Vec::new();
        if self.cancelled_at.is_none() {
            self.cancel_rest(now);
            self.finish_if_done(now, &mut events);
            self.touch();
        }
        Ok(events)
    }

    /// Stops the release of rows; rows in flight go on.
    ///
    /// # Errors
    /// When the run has ended or is being cancelled.
    pub fn pause(&mut self) -> Result<(), Refusal> {
        self.refuse_unless_running()?;
        if !self.paused {
            self.paused = true;
            self.touch();
        }
        Ok(())
    }

    /// Lets a paused or held batch go on; a held one is waved through its canary.
    ///
    /// # Errors
    /// When the run has ended or is being cancelled.
    pub fn resume(&mut self) -> Result<(), Refusal> {
        self.refuse_unless_running()?;
        if self.paused || self.held {
            self.paused = false;
            if self.held {
                self.held = false;
                self.canary_passed = true;
                self.canary = None;
            }
            self.touch();
        }
        Ok(())
    }

    /// Whether a retry may be asked for.
    ///
    /// # Errors
    /// Before the batch is extracted, and while it is being cancelled.
    pub fn check_retry(&self) -> Result<(), Refusal> {
        if !self.extracted {
            return Err(Refusal::NotExtracted);
        }
        if self.cancelled_at.is_some() && !self.is_finished() {
            return Err(Refusal::Cancelling);
        }
        Ok(())
    }

    /// Puts `failed` rows back to pending and, when `scope` takes them in, all cancelled ones. A finished batch
    /// starts its next run. With no row to take up nothing changes.
    ///
    /// Returns how many rows go back.
    pub fn retry(&mut self, scope: RetryScope, failed: u32) -> u32 {
        let cancelled = if scope.cancelled { self.counts.cancelled } else { 0 };
        let rows = failed + cancelled;
        if rows == 0 {
            return 0;
        }
        self.progress_said = self.progress();
        self.counts.failed -= failed;
        self.counts.cancelled -= cancelled;
        self.counts.pending += rows;
        if scope.cancelled {
            self.release_end = self.counts.total + 1;
        } else if self.counts.cancelled > 0 {
            self.release_end = self.next_number;
        }
        if self.is_finished() {
            self.run += 1;
            self.progress_said = 0;
            self.progress_said_at = None;
        }
        // A trial that has had its rows is judged when one of them ends. If that was never to be (it was cancelled
        // meanwhile), nobody would judge it any more; who retries the batch knows how it went.
        if self.canary.is_some_and(|canary| self.counts.completed + self.counts.failed >= canary.rows) {
            self.canary_passed = true;
        }
        self.status = BatchStatus::Queued;
        self.outcome = None;
        self.finished_at = None;
        self.cancelled_at = None;
        self.touch();
        rows
    }

    /// Ends a run whose last row has ended while nobody looked (promise 5).
    pub fn sweep_finish(&mut self, now: Timestamp) -> Vec<Event> {
        let mut events = Vec::new();
        self.finish_if_done(now, &mut events);
        if !events.is_empty() {
            self.touch();
        }
        events
    }

    /// Puts counters right that differ from the rows (`penstock reconcile`).
    pub fn correct(&mut self, counts: Counts, now: Timestamp) -> Vec<Event> {
        self.counts = counts;
        let mut events = Vec::new();
        self.finish_if_done(now, &mut events);
        self.touch();
        events
    }

    fn refuse_unless_running(&self) -> Result<(), Refusal> {
        if self.is_finished() {
            Err(Refusal::Ended)
        } else if self.cancelled_at.is_some() {
            Err(Refusal::Cancelling)
        } else {
            Ok(())
        }
    }

    fn cancel_rest(&mut self, now: Timestamp) {
        self.cancelled_at = Some(now);
        self.counts.cancelled += self.counts.pending + self.counts.queued;
        self.counts.pending = 0;
        self.counts.queued = 0;
        self.paused = false;
        self.held = false;
    }

    fn note_failures(&mut self, failed: u32, now: Timestamp, events: &mut Vec<Event>) {
        if failed == 0 {
            return;
        }
        if self.failure_said_run < self.run {
            self.failure_said_run = self.run;
            events.push(Event::RowFailedFirst);
        }
        if !self.allow_failures && self.cancelled_at.is_none() {
            self.cancel_rest(now);
        }
    }

    fn judge_canary(&mut self, events: &mut Vec<Event>) {
        let Some(canary) = self.canary else { return };
        if self.held || self.cancelled_at.is_some() {
            return;
        }
        let ended = self.counts.completed + self.counts.failed;
        let too_many =
            u64::from(self.counts.failed) * 10_000 > u64::from(canary.max_failure_bp) * u64::from(ended);
        let due = if self.canary_passed {
            canary.stop_after.is_some_and(|after| ended >= after)
        } else {
            ended >= canary.rows.min(self.counts.total)
        };
        if due && too_many && self.counts.unfinished() > 0 {
            self.held = true;
            events.push(Event::Held);
        } else if due {
            self.canary_passed = true;
        }
    }

    fn note_progress(&mut self, now: Timestamp, events: &mut Vec<Event>) {
        let progress = self.progress();
        let since = self.progress_said_at.or(self.started_at).unwrap_or(now);
        if progress > self.progress_said && now.since(since) >= PROGRESS_EVERY {
            self.progress_said = progress;
            self.progress_said_at = Some(now);
            events.push(Event::Progress);
        }
    }

    fn finish_if_done(&mut self, now: Timestamp, events: &mut Vec<Event>) {
        if self.status != BatchStatus::Queued || !self.extracted || self.counts.unfinished() > 0 {
            return;
        }
        self.outcome = Some(self.counts.outcome(self.allow_failures));
        self.finished_at = Some(now);
        self.paused = false;
        self.held = false;
        if self.cancelled_at.is_some() {
            self.status = BatchStatus::Cancelled;
            events.push(Event::Cancelled);
        } else {
            self.status = BatchStatus::Completed;
            if self.counts.failed == 0 {
                events.push(Event::Succeeded);
            }
        }
        events.push(Event::Finished);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn running(rows: u32) -> Ledger {
        let mut ledger = Ledger::new(Some(rows), true, None);
        ledger.extraction_started(NOW);
        ledger.extraction_finished(rows, NOW);
        ledger
    }

    #[test]
    fn a_batch_runs_to_its_end() {
        let mut ledger = running(3);
        assert_eq!(ledger.fresh(), 3);
        ledger.release(3, 0, 0).unwrap();
        ledger.claim(3).unwrap();
        assert!(ledger.settle(Tally { completed: 2, ..Tally::default() }, NOW).unwrap().is_empty());
        let events = ledger.settle(Tally { failed: 1, ..Tally::default() }, NOW).unwrap();
        assert_eq!(events, [Event::RowFailedFirst, Event::Finished]);
        assert_eq!((ledger.status, ledger.outcome), (BatchStatus::Completed, Some(Outcome::PartialSuccess)));
        assert_eq!(ledger.progress(), 100);
    }

    #[test]
    fn cancel_counts_what_has_not_started_and_ends_with_the_last_row_in_flight() {
        let mut ledger = running(10);
        ledger.release(4, 0, 0).unwrap();
        ledger.claim(2).unwrap();
        assert!(ledger.cancel(NOW).unwrap().is_empty());
        assert_eq!((ledger.counts.cancelled, ledger.counts.processing), (8, 2));
        assert_eq!(ledger.status, BatchStatus::Queued, "two rows still run");
        let events = ledger.settle(Tally { completed: 1, requeued: 1, ..Tally::default() }, NOW).unwrap();
        assert_eq!(events, [Event::Cancelled, Event::Finished]);
        assert_eq!(ledger.counts.cancelled, 9);
        let before = ledger.clone();
        assert_eq!(ledger.cancel(NOW), Ok(Vec::new()), "what is cancelled already is cancelled");
        assert_eq!(ledger, before);
    }

    #[test]
    fn what_ran_to_its_end_is_not_cancelled() {
        let mut ledger = running(1);
        ledger.release(1, 0, 0).unwrap();
        ledger.claim(1).unwrap();
        ledger.settle(Tally { completed: 1, ..Tally::default() }, NOW).unwrap();
        assert_eq!(ledger.cancel(NOW), Err(Refusal::Ended));
    }

    #[test]
    fn the_first_failure_cancels_the_rest_when_failures_are_not_allowed() {
        let mut ledger = running(10);
        ledger.allow_failures = false;
        ledger.release(5, 0, 0).unwrap();
        ledger.claim(1).unwrap();
        let events = ledger.settle(Tally { failed: 1, ..Tally::default() }, NOW).unwrap();
        assert_eq!(events, [Event::RowFailedFirst, Event::Cancelled, Event::Finished]);
        assert_eq!((ledger.status, ledger.outcome), (BatchStatus::Cancelled, Some(Outcome::Failure)));
        assert_eq!(ledger.counts.cancelled, 9);
    }

    #[test]
    fn retry_of_a_cancelled_batch_takes_up_what_is_asked_for() {
        let mut ledger = running(10);
        ledger.release(2, 0, 0).unwrap();
        ledger.claim(2).unwrap();
        ledger.settle(Tally { completed: 1, failed: 1, ..Tally::default() }, NOW).unwrap();
        ledger.cancel(NOW).unwrap();
        let mut only_failed = ledger.clone();
        assert_eq!(only_failed.retry(RetryScope { failed: true, cancelled: false }, 1), 1);
        assert_eq!((only_failed.fresh(), only_failed.returned()), (0, 1));
        assert_eq!(only_failed.status_of(9, None), RowStatus::Cancelled);
        assert_eq!(ledger.retry(RetryScope { failed: true, cancelled: true }, 1), 9);
        assert_eq!((ledger.fresh(), ledger.returned(), ledger.run), (8, 1, 2));
    }

    #[test]
    fn a_retry_that_finds_nothing_changes_nothing() {
        let mut ledger = running(1);
        ledger.release(1, 0, 0).unwrap();
        ledger.claim(1).unwrap();
        ledger.settle(Tally { completed: 1, ..Tally::default() }, NOW).unwrap();
        let before = ledger.clone();
        assert_eq!(ledger.retry(RetryScope { failed: true, cancelled: true }, 0), 0);
        assert_eq!(ledger, before);
    }

    #[test]
    fn a_canary_holds_and_is_waved_through() {
        let canary = Canary { rows: 2, max_failure_bp: 1000, stop_after: None };
        let mut ledger = Ledger::new(Some(10), true, Some(canary));
        ledger.extraction_started(NOW);
        ledger.extraction_finished(10, NOW);
        assert_eq!(ledger.fresh(), 2);
        ledger.release(2, 0, 0).unwrap();
        ledger.claim(2).unwrap();
        let events = ledger.settle(Tally { completed: 1, failed: 1, ..Tally::default() }, NOW).unwrap();
        assert_eq!(events, [Event::RowFailedFirst, Event::Held]);
        assert_eq!(ledger.fresh(), 0);
        ledger.resume().unwrap();
        assert_eq!(ledger.fresh(), 8);
    }

    #[test]
    fn a_batch_cancelled_before_it_was_extracted_ends_when_its_lines_can_be_answered() {
        let mut ledger = Ledger::new(Some(5), true, None);
        ledger.extraction_started(NOW);
        assert!(ledger.cancel(NOW).unwrap().is_empty());
        assert_eq!(ledger.extraction_finished(5, NOW), [Event::Cancelled, Event::Finished]);
        assert_eq!(ledger.counts.cancelled, 5);
    }
}
