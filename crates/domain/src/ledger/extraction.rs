//! Transitions of a batch while its rows are written to SQL.

use super::{Event, Ledger};
use crate::batch::{BatchStatus, Counts, Outcome};
use crate::time::Timestamp;

impl Ledger {
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
}
