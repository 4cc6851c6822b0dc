//! What people ask of a batch: cancel, pause, resume, retry; and the two repairs, sweep and reconcile.

use super::{Event, Ledger};
use crate::batch::{BatchStatus, Counts};
use crate::time::Timestamp;

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

impl Ledger {
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

    /// Lets a paused or held batch go on; one that its canary holds is waved through it.
    ///
    /// # Errors
    /// When the run has ended or is being cancelled.
    pub fn resume(&mut self) -> Result<(), Refusal> {
        self.refuse_unless_running()?;
        if self.paused || self.held {
            self.paused = false;
            if self.held && self.hold.is_none() {
                self.canary_passed = true;
                self.canary = None;
            }
            self.release_hold();
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
}
