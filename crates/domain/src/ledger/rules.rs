//! Rules that follow a transition: the first failure, the canary, progress, the end of the run.

use std::time::Duration;

use super::{Event, Ledger};
use crate::batch::BatchStatus;
use crate::time::Timestamp;

/// The least time between two `batch.progress` callbacks of a batch.
pub const PROGRESS_EVERY: Duration = Duration::from_secs(30);

impl Ledger {
    pub(super) fn cancel_rest(&mut self, now: Timestamp) {
        self.cancelled_at = Some(now);
        self.counts.cancelled += self.counts.pending + self.counts.queued;
        self.counts.pending = 0;
        self.counts.queued = 0;
        self.paused = false;
        self.release_hold();
    }

    pub(super) fn note_failures(&mut self, failed: u32, now: Timestamp, events: &mut Vec<Event>) {
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

    pub(super) fn judge_canary(&mut self, events: &mut Vec<Event>) {
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

    pub(super) fn note_progress(&mut self, now: Timestamp, events: &mut Vec<Event>) {
        let progress = self.progress();
        let since = self.progress_said_at.or(self.started_at).unwrap_or(now);
        if progress > self.progress_said && now.since(since) >= PROGRESS_EVERY {
            self.progress_said = progress;
            self.progress_said_at = Some(now);
            events.push(Event::Progress);
        }
    }

    pub(super) fn finish_if_done(&mut self, now: Timestamp, events: &mut Vec<Event>) {
        if self.status != BatchStatus::Queued || !self.extracted || self.counts.unfinished() > 0 {
            return;
        }
        self.outcome = Some(self.counts.outcome(self.allow_failures));
        self.finished_at = Some(now);
        self.paused = false;
        self.release_hold();
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
